//! The messages about links: CONFIRM LINK, ADD LINK and its continuation, REQUEST ADD LINK, DELETE LINK.

use super::{Malformed, LENGTH, MAX_LENGTH};
use crate::bytes::{Reader, Short, Writer};
use crate::{Gid, Mac, MtuCode, U24};
use core::fmt;

/// CONFIRM LINK: the first message over a new link.
///
/// | offset | size | field |
/// |---|---|---|
/// | 3 | 1 | bits 1-0: the sender puts no eye catcher into its RMBEs |
/// | 4 | 6 | sender's MAC |
/// | 10 | 16 | sender's GID |
/// | 26 | 3 | sender's queue pair number |
/// | 29 | 1 | number of the link in its group, from 1; the server's choice |
/// | 30 | 4 | id of the link for display |
/// | 34 | 1 | links per link group |
/// | 35 | 1 | connections per link group (v2 release 1, else 0) |
/// | 36 | 8 | reserved |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfirmLink {
    /// Two bits, of which one must be set.
    pub no_eye_catcher: u8,
    pub mac: Mac,
    pub gid: Gid,
    pub qpn: U24,
    pub link: u8,
    pub user_id: [u8; 4],
    pub max_links: u8,
    pub max_connections: u8,
}

impl ConfirmLink {
    /// Both bits: how it is always sent.
    pub const NO_EYE_CATCHER: u8 = 0x03;

    pub(super) fn read(fields: &mut Reader<'_>, flags: u8) -> Result<ConfirmLink, Short> {
        Ok(ConfirmLink {
            no_eye_catcher: flags & Self::NO_EYE_CATCHER,
            mac: Mac(fields.array()?),
            gid: Gid(fields.array()?),
            qpn: U24::from_bytes(fields.array()?),
            link: fields.u8()?,
            user_id: fields.array()?,
            max_links: fields.u8()?,
            max_connections: fields.u8()?,
        })
    }

    pub(super) fn flags(&self) -> u8 {
        self.no_eye_catcher & Self::NO_EYE_CATCHER
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.bytes(&self.mac.0).bytes(&self.gid.0).bytes(&self.qpn.to_bytes()).u8(self.link);
        writer.bytes(&self.user_id).u8(self.max_links).u8(self.max_connections);
    }
}

/// An RMB as it is known on two links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkRkey {
    /// On the link that exists.
    pub rkey: u32,
    /// On the new link.
    pub new_rkey: u32,
    /// On the new link.
    pub new_address: u64,
}

impl LinkRkey {
    const LENGTH: usize = 16;

    fn read(fields: &mut Reader<'_>) -> Result<LinkRkey, Short> {
        Ok(LinkRkey { rkey: fields.u32()?, new_rkey: fields.u32()?, new_address: fields.u64()? })
    }

    fn write(&self, writer: &mut Writer) {
        writer.u32(self.rkey).u32(self.new_rkey).u64(self.new_address);
    }
}

/// The rkeys of a v2 ADD LINK, in the bytes they came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RkeyTriples<'a>(&'a [u8]);

impl<'a> RkeyTriples<'a> {
    /// None.
    pub const NONE: RkeyTriples<'static> = RkeyTriples(&[]);

    /// The entries in `bytes`, 16 each as the message has them; `None` if that is no whole number of them, or more than fit a
    /// message.
    pub fn new(bytes: &'a [u8]) -> Option<RkeyTriples<'a>> {
        let fits = LENGTH + AddLinkRkeys::FIXED + bytes.len() <= MAX_LENGTH;
        (fits && bytes.len() % LinkRkey::LENGTH == 0).then_some(RkeyTriples(bytes))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len() / LinkRkey::LENGTH
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = LinkRkey> + 'a {
        self.0
            .chunks_exact(LinkRkey::LENGTH)
            .filter_map(|triple| LinkRkey::read(&mut Reader::new(triple)).ok())
    }
}

/// What a v2 ADD LINK has behind its first 44 bytes.
///
/// | offset | size | field |
/// |---|---|---|
/// | 44 | 1 | bit 7: no gateway lies between |
/// | 45 | 1 | reserved |
/// | 46 | 16 | GID of the client that the new link is for |
/// | 62 | 8 | reserved |
/// | 70 | 2 | number n of rkeys, little-endian |
/// | 72 | 16 n | rkey (4), rkey on the new link (4), address on the new link (8) |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddLinkRkeys<'a> {
    pub direct: bool,
    pub target: Gid,
    pub rkeys: RkeyTriples<'a>,
}

impl<'a> AddLinkRkeys<'a> {
    const FIXED: usize = 28;

    fn read(extension: &'a [u8]) -> Result<AddLinkRkeys<'a>, Malformed> {
        let mut fields = Reader::new(extension);
        let direct = fields.u8()? & 0x80 != 0;
        fields.skip(1)?;
        let target = Gid(fields.array()?);
        fields.skip(8)?;
        let count = u16::from_le_bytes(fields.array()?);
        let length = usize::from(count) * LinkRkey::LENGTH;
        if LENGTH + Self::FIXED + length > MAX_LENGTH {
            return Err(Malformed::Count(count));
        }
        Ok(AddLinkRkeys { direct, target, rkeys: RkeyTriples(fields.slice(length)?) })
    }

    fn write(&self, writer: &mut Writer) {
        writer.u8(if self.direct { 0x80 } else { 0 }).zeros(1).bytes(&self.target.0).zeros(8);
        writer.bytes(&(self.rkeys.count() as u16).to_le_bytes()).bytes(self.rkeys.0);
    }
}

/// ADD LINK.
///
/// | offset | size | field |
/// |---|---|---|
/// | 2 | 1 | v1: bits 3-0 reason of a rejection, 1: no alternate path |
/// | 3 | 1 | bit 6: rejected |
/// | 4 | 6 | sender's MAC on the new link |
/// | 10 | 2 | reserved |
/// | 12 | 16 | sender's GID |
/// | 28 | 3 | sender's queue pair number |
/// | 31 | 1 | number of the link |
/// | 32 | 1 | bits 3-0 MTU code |
/// | 33 | 3 | first packet sequence number |
/// | 36 | 8 | reserved |
/// | 44 | | v2: [`AddLinkRkeys`] |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddLink<'a> {
    /// Of a rejection the reason: four bits, on the wire in v1 only.
    pub rejected: Option<u8>,
    pub mac: Mac,
    pub gid: Gid,
    pub qpn: U24,
    pub link: u8,
    pub mtu: MtuCode,
    pub psn: U24,
    pub rkeys: Option<AddLinkRkeys<'a>>,
}

impl<'a> AddLink<'a> {
    const REJECTED: u8 = 0x40;

    /// The reason of a rejection: there is no second path.
    pub const NO_ALTERNATE_PATH: u8 = 1;

    pub(super) fn read(
        fields: &mut Reader<'_>,
        flags: u8,
        reason: u8,
        extension: Option<&'a [u8]>,
    ) -> Result<AddLink<'a>, Malformed> {
        let mac = Mac(fields.array()?);
        fields.skip(2)?;
        let (gid, qpn, link) = (Gid(fields.array()?), U24::from_bytes(fields.array()?), fields.u8()?);
        let (mtu, psn) = (MtuCode::truncated(fields.u8()?), U24::from_bytes(fields.array()?));
        let rejected = (flags & Self::REJECTED != 0).then_some(reason);
        let rkeys = extension.map(AddLinkRkeys::read).transpose()?;
        Ok(AddLink { rejected, mac, gid, qpn, link, mtu, psn, rkeys })
    }

    pub(super) fn flags(&self) -> u8 {
        if self.rejected.is_some() {
            Self::REJECTED
        } else {
            0
        }
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.bytes(&self.mac.0).zeros(2).bytes(&self.gid.0).bytes(&self.qpn.to_bytes()).u8(self.link);
        writer.u8(self.mtu.code()).bytes(&self.psn.to_bytes()).zeros(8);
        if let Some(rkeys) = &self.rkeys {
            rkeys.write(writer);
        }
    }
}

/// ADD LINK CONTINUATION, v1: more RMBs as they are known on the two links.
///
/// | offset | size | field |
/// |---|---|---|
/// | 4 | 1 | number of the new link |
/// | 5 | 1 | how many rkeys are still to come, these included |
/// | 6 | 2 | reserved |
/// | 8 | 32 | two of rkey (4), rkey on the new link (4), address on the new link (8) |
/// | 40 | 4 | reserved |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddLinkContinuation {
    pub link: u8,
    pub left: u8,
    /// Where fewer than two are left, the rest means nothing.
    pub rkeys: [LinkRkey; 2],
}

impl AddLinkContinuation {
    pub(super) fn read(fields: &mut Reader<'_>) -> Result<AddLinkContinuation, Short> {
        let (link, left) = (fields.u8()?, fields.u8()?);
        fields.skip(2)?;
        Ok(AddLinkContinuation { link, left, rkeys: [LinkRkey::read(fields)?, LinkRkey::read(fields)?] })
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.u8(self.link).u8(self.left).zeros(2);
        self.rkeys.iter().for_each(|rkey| rkey.write(writer));
    }
}

/// REQUEST ADD LINK, v2: a client with a second port asks the server for ADD LINK.
///
/// | offset | size | field |
/// |---|---|---|
/// | 4 | 20 | reserved |
/// | 24 | 1 | number n of GIDs |
/// | 25 | 3 | reserved |
/// | 28 | 16 n | the client's GIDs |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestAddLink<'a> {
    /// 16 bytes each; at most 255.
    gids: &'a [u8],
}

impl<'a> RequestAddLink<'a> {
    /// Without GIDs: how it is answered.
    pub const EMPTY: RequestAddLink<'static> = RequestAddLink { gids: &[] };

    /// With the GIDs in `bytes`, 16 each; `None` if that is no whole number of them, or more than 255.
    pub fn new(bytes: &'a [u8]) -> Option<RequestAddLink<'a>> {
        (bytes.len() % 16 == 0 && bytes.len() <= 255 * 16).then_some(RequestAddLink { gids: bytes })
    }

    /// The client's GIDs.
    pub fn gids(&self) -> impl Iterator<Item = Gid> + 'a {
        self.gids.chunks_exact(16).filter_map(|gid| gid.try_into().map(Gid).ok())
    }

    pub(super) fn read(fields: &mut Reader<'a>) -> Result<RequestAddLink<'a>, Short> {
        fields.skip(20)?;
        let count = usize::from(fields.u8()?);
        fields.skip(3)?;
        Ok(RequestAddLink { gids: fields.slice(16 * count)? })
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.zeros(20).u8((self.gids.len() / 16) as u8).zeros(3).bytes(self.gids);
    }
}

/// Why a link is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeleteReason(pub u32);

impl DeleteReason {
    /// In a response: done.
    pub const NONE: DeleteReason = DeleteReason(0);
    pub const LOST_PATH: DeleteReason = DeleteReason(0x0001_0000);
    /// An operator asked for it.
    pub const OPERATOR: DeleteReason = DeleteReason(0x0002_0000);
    /// The program ended, or nothing used the link group for long.
    pub const PROGRAM: DeleteReason = DeleteReason(0x0003_0000);
    pub const PROTOCOL_VIOLATION: DeleteReason = DeleteReason(0x0004_0000);
    pub const ASYMMETRIC_LINK_NOT_NEEDED: DeleteReason = DeleteReason(0x0005_0000);
    /// In a response: there is no such link.
    pub const UNKNOWN_LINK: DeleteReason = DeleteReason(0x0010_0000);
    /// In a response: there is no such link group.
    pub const UNKNOWN_GROUP: DeleteReason = DeleteReason(0x0020_0000);
}

impl fmt::Debug for DeleteReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeleteReason({:#010x})", self.0)
    }
}

/// DELETE LINK.
///
/// | offset | size | field |
/// |---|---|---|
/// | 3 | 1 | bit 6: all links, that is the link group; bit 5: orderly |
/// | 4 | 1 | number of the link; 0 with "all" |
/// | 5 | 4 | reason |
/// | 9 | 35 | reserved |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeleteLink {
    pub all: bool,
    pub orderly: bool,
    pub link: u8,
    pub reason: DeleteReason,
}

impl DeleteLink {
    const ALL: u8 = 0x40;
    const ORDERLY: u8 = 0x20;

    pub(super) fn read(fields: &mut Reader<'_>, flags: u8) -> Result<DeleteLink, Short> {
        let (link, reason) = (fields.u8()?, DeleteReason(fields.u32()?));
        Ok(DeleteLink { all: flags & Self::ALL != 0, orderly: flags & Self::ORDERLY != 0, link, reason })
    }

    pub(super) fn flags(&self) -> u8 {
        (if self.all { Self::ALL } else { 0 }) | if self.orderly { Self::ORDERLY } else { 0 }
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.u8(self.link).u32(self.reason.0);
    }
}
