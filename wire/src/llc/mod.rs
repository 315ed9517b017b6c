//! LLC messages (RFC 7609 A.3, and SMC Version 2): between the two ends of a link, by RDMA SEND.
//!
//! | offset | size | v1 | v2 |
//! |---|---|---|---|
//! | 0 | 1 | type, 0x01 to 0x09 | the same, plus 0x20 |
//! | 1 | 1 | length, 44 | length, low byte |
//! | 2 | 1 | bits 3-0: reason of a rejected ADD LINK | length, high byte |
//! | 3 | 1 | flags | flags |
//! | 4 | 40 | the type's own | the type's own, or more |
//!
//! The messages of a link group have the group's version. All are 44 bytes long, except ADD LINK and REQUEST ADD LINK in v2.
//!
//! Two fields of v2 are little-endian: the length, and the number of rkeys of ADD LINK. Linux writes and reads both in the order of its
//! host, which is little-endian wherever it has been seen, and of the length tests only that it is 44 or more. The byte count of the
//! receive completion tells the true one.
//!
//! Flags: 0x80 response (all types); the rest as the types say. A response is the request with the flag, and with what the
//! type changes.
//!
//! | type | name | from | answered |
//! |---|---|---|---|
//! | 1 | CONFIRM LINK | server | yes |
//! | 2 | ADD LINK | server, v1 client | yes |
//! | 3 | ADD LINK CONTINUATION, v1 | server | yes |
//! | 4 | DELETE LINK | both | if for one link |
//! | 5 | REQUEST ADD LINK, v2 | client | yes |
//! | 6 | CONFIRM RKEY | both | yes |
//! | 7 | TEST LINK | both | yes |
//! | 8 | CONFIRM RKEY CONTINUATION, v1 | both | yes |
//! | 9 | DELETE RKEY | both | yes |

mod link;
mod rkey;

use crate::bytes::{Reader, Short, Writer};
use core::fmt;

pub use link::{
    AddLink, AddLinkContinuation, AddLinkRkeys, ConfirmLink, DeleteLink, DeleteReason, LinkRkey,
    RequestAddLink, RkeyTriples,
};
pub use rkey::{ConfirmRkey, ConfirmRkeyContinuation, DeleteRkey, FurtherRkey, RkeyReply};

/// The length of nearly all messages, in bytes, and the least of any.
pub const LENGTH: usize = 44;
/// The greatest length there is, in v2.
pub const MAX_LENGTH: usize = 8192;

const RESPONSE: u8 = 0x80;
const V2: u8 = 0x20;

/// Which form the messages of a link group have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Version {
    V1,
    V2,
}

/// What is wrong with bytes that should be an LLC message. The link is reset: DELETE LINK with
/// [`DeleteReason::PROTOCOL_VIOLATION`], and no more use of the queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Malformed {
    /// Less than 44 bytes arrived, or less than its counts ask for.
    Short,
    /// The length field is below 44, or, in v1, not 44.
    Length(u16),
    /// More entries than there is room for.
    Count(u16),
}

impl From<Short> for Malformed {
    fn from(_: Short) -> Malformed {
        Malformed::Short
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Short => f.write_str("LLC message shorter than its contents"),
            Malformed::Length(length) => write!(f, "LLC message with a length of {length}"),
            Malformed::Count(count) => write!(f, "LLC message with a count of {count}"),
        }
    }
}

impl std::error::Error for Malformed {}

/// The body of a message. Lists of any length are borrowed from the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    ConfirmLink(ConfirmLink),
    AddLink(AddLink<'a>),
    AddLinkContinuation(AddLinkContinuation),
    DeleteLink(DeleteLink),
    RequestAddLink(RequestAddLink<'a>),
    ConfirmRkey(ConfirmRkey),
    ConfirmRkeyContinuation(ConfirmRkeyContinuation),
    /// TEST LINK: 16 bytes of the requester's choice, at offset 4. The response returns them.
    TestLink([u8; 16]),
    DeleteRkey(DeleteRkey),
}

/// An LLC message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Llc<'a> {
    pub version: Version,
    pub response: bool,
    pub body: Body<'a>,
}

impl<'a> Llc<'a> {
    /// A request.
    pub fn request(version: Version, body: Body<'a>) -> Llc<'a> {
        Llc { version, response: false, body }
    }

    /// A response.
    pub fn response(version: Version, body: Body<'a>) -> Llc<'a> {
        Llc { version, response: true, body }
    }

    /// Reads a message; `bytes` is what the receive completion says has arrived, its first byte not [`cdc::TYPE`].
    /// `None`: a type or version that is not known; it is ignored, as Linux does.
    ///
    /// [`cdc::TYPE`]: crate::cdc::TYPE
    pub fn decode(bytes: &'a [u8]) -> Result<Option<Llc<'a>>, Malformed> {
        let (header, rest) = bytes.split_first_chunk::<4>().ok_or(Malformed::Short)?;
        if bytes.len() < LENGTH {
            return Err(Malformed::Short);
        }
        let [kind, low, high, flags] = *header;
        let version = match kind >> 4 {
            0 => Version::V1,
            2 => Version::V2,
            _ => return Ok(None),
        };
        let length = match version {
            Version::V1 => u16::from(low),
            Version::V2 => u16::from_le_bytes([low, high]),
        };
        let valid = match version {
            Version::V1 => usize::from(length) == LENGTH,
            Version::V2 => usize::from(length) >= LENGTH,
        };
        if !valid {
            return Err(Malformed::Length(length));
        }
        let mut fields = Reader::new(rest);
        let fields = &mut fields;
        let body = match (kind & 15, version) {
            (1, _) => Body::ConfirmLink(ConfirmLink::read(fields, flags)?),
            (2, _) => {
                let (reason, extension) = match version {
                    Version::V1 => (high & 15, &[][..]),
                    Version::V2 => (0, &bytes[LENGTH..]),
                };
                Body::AddLink(AddLink::read(
                    fields,
                    flags,
                    reason,
                    Some(extension).filter(|e| !e.is_empty()),
                )?)
            }
            (3, Version::V1) => Body::AddLinkContinuation(AddLinkContinuation::read(fields)?),
            (4, _) => Body::DeleteLink(DeleteLink::read(fields, flags)?),
            (5, Version::V2) => Body::RequestAddLink(RequestAddLink::read(fields)?),
            (6, _) => Body::ConfirmRkey(ConfirmRkey::read(fields, flags)?),
            (7, _) => Body::TestLink(fields.array()?),
            (8, Version::V1) => Body::ConfirmRkeyContinuation(ConfirmRkeyContinuation::read(fields, flags)?),
            (9, _) => Body::DeleteRkey(DeleteRkey::read(fields, flags)?),
            _ => return Ok(None),
        };
        Ok(Some(Llc { version, response: flags & RESPONSE != 0, body }))
    }

    /// The bytes of the message: 44, or more for ADD LINK with rkeys and REQUEST ADD LINK. What the version does not have (its types 3,
    /// 5 and 8, or a rejection's reason in v2) is written all the same, or left out; a receiver ignores it.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, flags, reason) = match &self.body {
            Body::ConfirmLink(body) => (1, body.flags(), 0),
            Body::AddLink(body) => (2, body.flags(), body.rejected.unwrap_or(0)),
            Body::AddLinkContinuation(_) => (3, 0, 0),
            Body::DeleteLink(body) => (4, body.flags(), 0),
            Body::RequestAddLink(_) => (5, 0, 0),
            Body::ConfirmRkey(body) => (6, body.reply.flags(), 0),
            Body::TestLink(_) => (7, 0, 0),
            Body::ConfirmRkeyContinuation(body) => (8, body.reply.flags(), 0),
            Body::DeleteRkey(body) => (9, body.flags(), 0),
        };
        let mut writer = Writer::new(LENGTH);
        match &self.body {
            Body::ConfirmLink(body) => body.write(&mut writer),
            Body::AddLink(body) => body.write(&mut writer),
            Body::AddLinkContinuation(body) => body.write(&mut writer),
            Body::DeleteLink(body) => body.write(&mut writer),
            Body::RequestAddLink(body) => body.write(&mut writer),
            Body::ConfirmRkey(body) => body.write(&mut writer),
            Body::ConfirmRkeyContinuation(body) => body.write(&mut writer),
            Body::TestLink(data) => drop(writer.bytes(data)),
            Body::DeleteRkey(body) => body.write(&mut writer),
        }
        let mut bytes = vec![0; 4];
        bytes.append(&mut writer.finish());
        bytes.resize(bytes.len().max(LENGTH), 0);
        let [low, high] = (bytes.len() as u16).to_le_bytes();
        let (kind, third) = match self.version {
            Version::V1 => (kind, reason & 15),
            Version::V2 => (kind | V2, high),
        };
        let response = if self.response { RESPONSE } else { 0 };
        bytes[..4].copy_from_slice(&[kind, low, third, flags | response]);
        bytes
    }
}
