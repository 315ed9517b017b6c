//! CLC messages (RFC 7609 A.2, and SMC Version 2): on the TCP connection, before the application's bytes.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | eye catcher: "SMCR" or "SMCD" in EBCDIC; both are taken, "SMCR" is sent |
//! | 4 | 1 | type: 1 PROPOSAL, 2 ACCEPT, 3 CONFIRM, 4 DECLINE |
//! | 5 | 2 | length of the whole message |
//! | 7 | 1 | bits 7-4 version: 1, or 2 and all above; bits 3-0 depend on the type |
//! | 8 | | the type's own |
//! | length - 4 | 4 | trailer: as the eye catcher; not looked at in a DECLINE |
//!
//! The byte after a DECLINE is the application's: [`Framer`] says how many bytes may be read next, and never asks for one
//! beyond a message.
//!
//! Two things can be wrong with a message. It is [`Malformed`]: what follows in the stream cannot be trusted either, and as in
//! Linux the connection is closed without an answer. Or it is well-formed and unacceptable: then [`handshake`](crate::handshake)
//! answers with a DECLINE, and both ends go on with TCP.

mod answer;
mod decline;
mod framer;
mod proposal;

use crate::bytes::{Short, Writer};
use crate::option::SMCR;
use core::fmt;

pub use answer::{Answer, Chosen, FirstContact, LinkEnd, Rmbe, MAX_GIDS};
pub use decline::{Decline, LINUX};
pub use framer::Framer;
pub use proposal::{Ipv6Prefix, IsmEntry, Offers, Proposal, Technology, V1Offer, V2Ism, V2Offer};

/// "SMCD" in EBCDIC.
const SMCD: [u8; 4] = [0xE2, 0xD4, 0xC3, 0xC4];

/// Bytes of the header.
pub const HEADER: usize = 8;
/// Bytes of the trailer.
const TRAILER: usize = 4;
/// Of a longer message (only an ACCEPT or CONFIRM may be longer) the rest is read and dropped. It is the length of a CONFIRM with
/// as many GIDs as its count can say.
pub const KEPT: usize = 164 + 16 * MAX_GIDS;

/// The version of a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Version {
    V1 = 1,
    /// SMC Version 2; higher numbers are taken for it.
    V2 = 2,
}

/// The type of a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Proposal = 1,
    Accept = 2,
    Confirm = 3,
    Decline = 4,
}

/// Why bytes are not a CLC message. The answer to all of them is to close the connection, EPROTO for the program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Malformed {
    /// It does not begin with an eye catcher: what the peer sends is not CLC.
    EyeCatcher,
    /// Version 0.
    Version,
    /// None of the four types; or not the one due now, and no DECLINE.
    Type(u8),
    /// The length is not what the type and the counts in the message ask for.
    Length(u16),
    /// It does not end with an eye catcher.
    Trailer,
    /// An offset within the message points outside of its range.
    Offset(u16),
    /// A count of entries is above the highest allowed.
    Count(u8),
    /// An ACCEPT or CONFIRM says neither SMC-R nor SMC-D.
    Path(u8),
    /// A CONFIRM does not repeat the ACCEPT's version, technology or first contact bit.
    Mismatch,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::EyeCatcher => f.write_str("not a CLC message"),
            Malformed::Version => f.write_str("CLC version 0"),
            Malformed::Type(kind) => write!(f, "CLC message of type {kind}, which is not due"),
            Malformed::Length(length) => write!(f, "CLC message with a length of {length}"),
            Malformed::Trailer => f.write_str("CLC message without its trailer"),
            Malformed::Offset(offset) => write!(f, "CLC message with an offset of {offset}"),
            Malformed::Count(count) => write!(f, "CLC message with a count of {count}"),
            Malformed::Path(path) => write!(f, "CLC message that chose path {path}"),
            Malformed::Mismatch => f.write_str("CLC CONFIRM that does not repeat the ACCEPT"),
        }
    }
}

impl std::error::Error for Malformed {}

/// The first eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub kind: Kind,
    /// Of the whole message, in bytes; at least a header and a trailer.
    pub length: u16,
    pub version: Version,
    /// Bits 3-0 of byte 7.
    flags: u8,
}

impl Header {
    /// Reads a header. Lengths that the type never has are refused here already, so that a peer cannot make one wait for the
    /// rest of a message that will be refused anyway.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Header, Malformed> {
        let [e0, e1, e2, e3, kind, l0, l1, last] = *bytes;
        if ![SMCR, SMCD].contains(&[e0, e1, e2, e3]) {
            return Err(Malformed::EyeCatcher);
        }
        let version = match last >> 4 {
            0 => return Err(Malformed::Version),
            1 => Version::V1,
            _ => Version::V2,
        };
        let (kind, lengths) = match kind {
            1 => (Kind::Proposal, proposal::LENGTHS),
            // The shortest is an SMC-D one, which is understood so far that it can be declined.
            2 => (Kind::Accept, 48..=u16::MAX),
            3 => (Kind::Confirm, 48..=u16::MAX),
            4 if version == Version::V1 => (Kind::Decline, 28..=28),
            4 => (Kind::Decline, 44..=44),
            other => return Err(Malformed::Type(other)),
        };
        let length = u16::from_be_bytes([l0, l1]);
        if !lengths.contains(&length) {
            return Err(Malformed::Length(length));
        }
        Ok(Header { kind, length, version, flags: last & 15 })
    }

    fn writer(kind: Kind, length: usize, version: Version, flags: u8) -> Writer {
        // No message that can be built here is longer than KEPT.
        debug_assert!(length <= KEPT);
        let mut writer = Writer::new(length);
        writer.bytes(&SMCR).u8(kind as u8).u16(length as u16).u8((version as u8) << 4 | flags & 15);
        writer
    }

    fn malformed_length(&self) -> impl Fn(Short) -> Malformed {
        let length = self.length;
        move |Short| Malformed::Length(length)
    }
}

/// Any CLC message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Clc {
    Proposal(Proposal),
    Accept(Answer),
    Confirm(Answer),
    /// An ACCEPT or CONFIRM for SMC-D, of which nothing more is read: it can only be declined.
    SmcD {
        kind: Kind,
        version: Version,
    },
    Decline(Decline),
}

impl Clc {
    /// Reads a whole message: `bytes` is as long as its length field says, or [`KEPT`] if that says more.
    pub fn decode(bytes: &[u8]) -> Result<Clc, Malformed> {
        let header = bytes.first_chunk().ok_or(Malformed::Length(bytes.len() as u16))?;
        let header = Header::decode(header)?;
        let length = usize::from(header.length);
        if bytes.len() != length.min(KEPT) {
            return Err(Malformed::Length(header.length));
        }
        let message = match header.kind {
            Kind::Proposal => Proposal::decode(header, bytes).map(Clc::Proposal),
            Kind::Accept | Kind::Confirm => Answer::decode(header, bytes),
            Kind::Decline => return Decline::decode(header, bytes).map(Clc::Decline),
        }?;
        if length <= KEPT && ![SMCR, SMCD].iter().any(|trailer| bytes.ends_with(trailer)) {
            return Err(Malformed::Trailer);
        }
        Ok(message)
    }

    /// The bytes of the message; `None` for an SMC-D one, which was not kept.
    pub fn encode(&self) -> Option<Vec<u8>> {
        match self {
            Clc::Proposal(proposal) => Some(proposal.encode()),
            Clc::Accept(answer) => Some(answer.encode(Kind::Accept)),
            Clc::Confirm(answer) => Some(answer.encode(Kind::Confirm)),
            Clc::SmcD { .. } => None,
            Clc::Decline(decline) => Some(decline.encode()),
        }
    }

    /// The type of the message.
    pub fn kind(&self) -> Kind {
        match self {
            Clc::Proposal(_) => Kind::Proposal,
            Clc::Accept(_) => Kind::Accept,
            Clc::Confirm(_) => Kind::Confirm,
            Clc::SmcD { kind, .. } => *kind,
            Clc::Decline(_) => Kind::Decline,
        }
    }
}
