//! What names hosts, ports, queue pairs and memory in the messages.

use core::fmt;
use core::net::Ipv4Addr;

macro_rules! opaque {
    ($(#[$doc:meta])* $name:ident, $size:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $size]);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}(", stringify!($name))?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str(")")
            }
        }
    };
}

opaque! {
    /// A peer's id (system id): by convention a 2-byte instance number and a MAC; compared as 8 raw bytes.
    ///
    /// A server looks link groups up by the client's, so each process needs its own, and a new one after fork. Kernel
    /// clients without RoCE v1 GIDs send zero in their proposals.
    PeerId, 8
}
opaque! {
    /// The MAC of an RDMA port.
    Mac, 6
}
opaque! {
    /// The GID of an RDMA port; for RoCEv2 over IPv4 `::ffff:a.b.c.d`.
    Gid, 16
}
opaque! {
    /// An enterprise id: 32 bytes of `A-Z 0-9 . -`, padded with blanks. Compared byte by byte, the padding included.
    Eid, 32
}

impl Gid {
    /// The RoCEv2 GID of `address`.
    pub fn from_ipv4(address: Ipv4Addr) -> Gid {
        Gid(address.to_ipv6_mapped().octets())
    }

    /// The IPv4 address in a RoCEv2 GID: IPv4-mapped, or with twelve zero bytes before it; both are in use. `None` for
    /// IPv6, and for an all-zero GID.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        let [.., a, b, c, d] = self.0;
        let prefix = &self.0[..12];
        let mapped = prefix[..10] == [0; 10] && prefix[10..] == [0xff; 2];
        let address = Ipv4Addr::new(a, b, c, d);
        ((mapped || prefix == [0; 12]) && !address.is_unspecified()).then_some(address)
    }
}

impl Eid {
    /// The EID written as `name`; `None` if the kernel would refuse it: empty or longer than 32 characters, others than
    /// `A-Z 0-9 . -`, or beginning with `.` or `-`.
    pub fn new(name: &str) -> Option<Eid> {
        let name = name.as_bytes();
        let allowed = |c: &u8| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-');
        if name.len() > 32 || !name.first()?.is_ascii_alphanumeric() || !name.iter().all(allowed) {
            return None;
        }
        let mut eid = [b' '; 32];
        eid[..name.len()].copy_from_slice(name);
        Some(Eid(eid))
    }
}

/// A 24-bit number: a queue pair's number, or a packet sequence number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct U24(u32);

impl U24 {
    /// The low 24 bits of `value`.
    pub const fn truncated(value: u32) -> U24 {
        U24(value & 0xff_ffff)
    }

    /// The number, below 2^24.
    pub const fn get(self) -> u32 {
        self.0
    }

    pub(crate) fn from_bytes([a, b, c]: [u8; 3]) -> U24 {
        U24(u32::from_be_bytes([0, a, b, c]))
    }

    pub(crate) fn to_bytes(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }
}

/// The size of an RMBE as the messages have it: 16 KiB shifted left by the code, 0 to 15 (four bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SizeCode(u8);

impl SizeCode {
    /// The low four bits of `code`.
    pub const fn truncated(code: u8) -> SizeCode {
        SizeCode(code & 15)
    }

    /// The code of the smallest RMBE with at least `bytes`; the largest there is (512 MiB) for more than that.
    pub fn fitting(bytes: u32) -> SizeCode {
        (0..15).map(SizeCode).find(|code| code.bytes() >= bytes).unwrap_or(SizeCode(15))
    }

    /// The code.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The size in bytes, 16 KiB to 512 MiB.
    pub const fn bytes(self) -> u32 {
        (16 * 1024) << self.0
    }
}

/// The path MTU of a queue pair as the messages have it: 1 = 256 bytes, 2 = 512, 3 = 1024, 4 = 2048, 5 = 4096; the
/// other values of its four bits mean nothing, and with them no queue pair comes up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MtuCode(u8);

impl MtuCode {
    /// The low four bits of `code`.
    pub const fn truncated(code: u8) -> MtuCode {
        MtuCode(code & 15)
    }

    /// The code.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The MTU in bytes, of a code that means something.
    pub const fn bytes(self) -> Option<u32> {
        match self.0 {
            1..=5 => Some(128 << self.0),
            _ => None,
        }
    }
}

/// Memory that a peer may write to: the key and address of an RMB.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Rmb {
    /// The remote key of the memory region.
    pub rkey: u32,
    /// The address to write to; for the receiver of the message a mere number.
    pub address: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eids_are_checked_as_the_kernel_checks_them_and_padded_with_blanks() {
        assert_eq!(Eid::new("SMCLAB").map(|e| e.0), Some(*b"SMCLAB                          "));
        assert!(Eid::new(&"A".repeat(32)).is_some());
        for bad in ["", " ", "smclab", "A B", "-A", ".A", "A_B", "Ä", &"A".repeat(33)] {
            assert_eq!(Eid::new(bad), None, "{bad:?}");
        }
        assert!(Eid::new("0-.").is_some());
    }

    #[test]
    fn gids_of_both_ipv4_forms_are_understood_and_no_others() {
        let address = Ipv4Addr::new(192, 0, 2, 10);
        let mapped = Gid::from_ipv4(address);
        assert_eq!(mapped.0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 10]);
        assert_eq!(mapped.ipv4(), Some(address));
        let mut plain = mapped;
        plain.0[10..12].fill(0);
        assert_eq!(plain.ipv4(), Some(address));
        let mut link_local = plain;
        link_local.0[0] = 0xfe;
        assert_eq!(link_local.ipv4(), None);
        assert_eq!(Gid::default().ipv4(), None);
        plain.0[10] = 0xff;
        assert_eq!(plain.ipv4(), None);
    }

    #[test]
    fn size_and_mtu_codes() {
        assert_eq!(SizeCode::fitting(1), SizeCode(0));
        assert_eq!(SizeCode::fitting(16384), SizeCode(0));
        assert_eq!(SizeCode::fitting(16385), SizeCode(1));
        assert_eq!(SizeCode::truncated(2).bytes(), 65536);
        assert_eq!(SizeCode::fitting(u32::MAX).bytes(), 512 << 20);
        assert_eq!(
            (0..16).filter_map(|c| MtuCode(c).bytes()).collect::<Vec<_>>(),
            [256, 512, 1024, 2048, 4096]
        );
    }
}
