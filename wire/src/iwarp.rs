//! iWARP: what CLC messages and the connection manager carry where a queue pair cannot be brought up from CLC data alone.
//!
//! An iWARP queue pair is a TCP connection of the adapter's, made through rdma_cm: the server listens on a port, and the client
//! connects to it. Neither RFC 7609 nor Linux has words for this. What is said here is this software's own, in fields for vendors, which
//! Linux sends as zeros and does not look at:
//!
//! | where | bytes | |
//! |---|---|---|
//! | PROPOSAL, vendor OUI and options (8) | 02 53 4D 49 57 01 00 00 | the client's port is iWARP. 02 53 4D is a locally administered OUI; then "IW" and a version |
//! | ACCEPT at first contact, vendor options (4) | 49 57 PP PP | the server's is too, and listens on TCP port PPPP (big-endian) |
//!
//! So each end knows before it begins whether the other one is of its kind, and declines with NOSMCDEV if it is not. A queue pair has no packet
//! sequence number and no path MTU on iWARP; these fields of CLC mean nothing then.
//!
//! The client's request to connect carries a [`Greeting`] as private data, by which a listener knows what it is for, and a
//! listener of another program knows that it is not for it.

use crate::clc::{Answer, Chosen, Proposal};
use crate::{PeerId, U24};

/// In the vendor's fields of a PROPOSAL.
pub const OFFER: [u8; 8] = [0x02, b'S', b'M', b'I', b'W', 1, 0, 0];
/// First of the vendor's options of an ACCEPT.
const MARK: [u8; 2] = *b"IW";

/// Whether the client can connect queue pairs through rdma_cm only.
pub fn is_offered(proposal: &Proposal) -> bool {
    proposal.vendor == OFFER
}

/// The vendor's options of an ACCEPT, with the port on which the server listens.
pub fn vendor(port: Option<u16>) -> [u8; 4] {
    let Some(port) = port else { return [0; 4] };
    let [high, low] = port.to_be_bytes();
    [MARK[0], MARK[1], high, low]
}

/// The port in an ACCEPT. `None`: the server's device is none with iWARP, or it is not first contact.
pub fn port(accept: &Answer) -> Option<u16> {
    let Chosen::V2 { first_contact: Some(first), .. } = &accept.chosen else { return None };
    let [i, w, high, low] = first.vendor;
    Some(u16::from_be_bytes([high, low])).filter(|port| [i, w] == MARK && *port != 0)
}

/// The private data of a client's request to connect: which queue pairs are to be joined.
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 4 | "SMCR" in ASCII |
/// | 4 | 1 | version, 1 |
/// | 5 | 3 | zero, not looked at |
/// | 8 | 8 | peer id of the client |
/// | 16 | 3 | number of the client's queue pair, as in its CONFIRM |
/// | 19 | 3 | number of the server's, as in its ACCEPT |
/// | 22 | 2 | zero, not looked at |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting {
    pub peer_id: PeerId,
    pub client: U24,
    pub server: U24,
}

impl Greeting {
    pub const LENGTH: usize = 24;
    const BEGIN: [u8; 5] = *b"SMCR\x01";

    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..5].copy_from_slice(&Self::BEGIN);
        bytes[8..16].copy_from_slice(&self.peer_id.0);
        bytes[16..19].copy_from_slice(&self.client.get().to_be_bytes()[1..]);
        bytes[19..22].copy_from_slice(&self.server.get().to_be_bytes()[1..]);
        bytes
    }

    /// From private data, behind which an adapter may have put something. `None`: it is no greeting.
    pub fn decode(bytes: &[u8]) -> Option<Greeting> {
        let bytes: &[u8; Self::LENGTH] = bytes.get(..Self::LENGTH)?.try_into().ok()?;
        let number =
            |at: usize| U24::truncated(u32::from_be_bytes([0, bytes[at], bytes[at + 1], bytes[at + 2]]));
        let mut peer_id = [0; 8];
        peer_id.copy_from_slice(&bytes[8..16]);
        bytes.starts_with(&Self::BEGIN).then(|| Greeting {
            peer_id: PeerId(peer_id),
            client: number(16),
            server: number(19),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: Greeting = Greeting {
        peer_id: PeerId([1, 2, 3, 4, 5, 6, 7, 8]),
        client: U24::truncated(0x010203),
        server: U24::truncated(0xa0b0c0),
    };

    #[test]
    fn a_greeting_has_its_fields_where_the_table_says() {
        let bytes = b"SMCR\x01\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x03\xa0\xb0\xc0\0\0";
        assert_eq!(&GREETING.encode(), bytes);
        assert_eq!(Greeting::decode(bytes), Some(GREETING));
    }

    #[test]
    fn reserved_bytes_and_what_comes_behind_are_not_looked_at() {
        let mut bytes = GREETING.encode().to_vec();
        bytes[5..8].fill(0xff);
        bytes[22..].fill(0xff);
        bytes.extend([7; 100]);
        assert_eq!(Greeting::decode(&bytes), Some(GREETING));
    }

    #[test]
    fn what_is_cut_short_or_begins_otherwise_is_no_greeting() {
        let bytes = GREETING.encode();
        for length in 0..bytes.len() {
            assert_eq!(Greeting::decode(&bytes[..length]), None, "{length}");
        }
        for at in 0..5 {
            let mut other = bytes;
            other[at] ^= 1;
            assert_eq!(Greeting::decode(&other), None, "{at}");
        }
    }

    #[test]
    fn without_a_port_the_options_are_those_of_linux() {
        assert_eq!(vendor(None), [0; 4]);
        assert_eq!(vendor(Some(65500)), [0x49, 0x57, 0xff, 0xdc]);
    }
}
