//! Sets of addresses and ports.

use crate::sys::sock::Endpoint;

/// A network of IPv4 or IPv6 (or every address), and a range of ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressSet {
    pub(super) network: Option<Network>,
    /// First and last port.
    pub(super) ports: (u16, u16),
}

/// All addresses that share a prefix. One of IPv4 has its address v4-mapped and 96 bits more; it is for IPv4 peers of
/// IPv6 sockets too, and one of IPv6 is not for those.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Network {
    pub v4: bool,
    pub ip: [u8; 16],
    /// 0 to 128.
    pub bits: u8,
}

impl AddressSet {
    pub fn contains(&self, endpoint: &Endpoint) -> bool {
        let (first, last) = self.ports;
        (first..=last).contains(&endpoint.port)
            && match self.network {
                None => true,
                Some(n) => n.v4 == endpoint.v4().is_some() && n.covers(&endpoint.ip),
            }
    }
}

impl Network {
    fn covers(&self, ip: &[u8; 16]) -> bool {
        masked(ip, self.bits) == masked(&self.ip, self.bits)
    }

    /// The address with the bits behind the prefix cleared.
    pub fn first(&self) -> [u8; 16] {
        masked(&self.ip, self.bits).to_be_bytes()
    }
}

/// The address as a number with only its first `bits` bits left.
fn masked(ip: &[u8; 16], bits: u8) -> u128 {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    u128::from_be_bytes(*ip) & mask
}
