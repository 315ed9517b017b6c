//! The messages about memory keys: CONFIRM RKEY and its continuation, DELETE RKEY.

use super::Malformed;
use crate::bytes::{Reader, Short, Writer};
use crate::Rmb;

const NEGATIVE: u8 = 0x20;
const RETRY: u8 = 0x10;

/// How a CONFIRM RKEY was answered: the flags 0x20 and 0x10 of the response.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct RkeyReply {
    /// Refused.
    pub negative: bool,
    /// Refused for now: the same may be asked again.
    pub retry: bool,
}

impl RkeyReply {
    /// As it is in requests and in positive responses.
    pub const POSITIVE: RkeyReply = RkeyReply { negative: false, retry: false };

    fn read(flags: u8) -> RkeyReply {
        RkeyReply { negative: flags & NEGATIVE != 0, retry: flags & RETRY != 0 }
    }

    pub(super) fn flags(&self) -> u8 {
        (if self.negative { NEGATIVE } else { 0 }) | if self.retry { RETRY } else { 0 }
    }
}

/// An RMB as it is known on a further link.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FurtherRkey {
    pub link: u8,
    pub rmb: Rmb,
}

impl FurtherRkey {
    fn read(fields: &mut Reader<'_>) -> Result<FurtherRkey, Short> {
        Ok(FurtherRkey { link: fields.u8()?, rmb: Rmb { rkey: fields.u32()?, address: fields.u64()? } })
    }

    fn write(&self, writer: &mut Writer) {
        writer.u8(self.link).u32(self.rmb.rkey).u64(self.rmb.address);
    }

    fn read_all<const N: usize>(fields: &mut Reader<'_>) -> Result<[FurtherRkey; N], Short> {
        let mut entries = [FurtherRkey::default(); N];
        for entry in &mut entries {
            *entry = FurtherRkey::read(fields)?;
        }
        Ok(entries)
    }
}

/// CONFIRM RKEY: the sender is going to use this RMB.
///
/// | offset | size | field |
/// |---|---|---|
/// | 3 | 1 | bit 5 refused; bit 4 refused, try again |
/// | 4 | 1 | number of further links; 0 with a single link |
/// | 5 | 4 | rkey on the link that the message travels on |
/// | 9 | 8 | address on it |
/// | 17, 30 | 13 each | further links: number (1), rkey (4), address (8) |
/// | 43 | 1 | reserved |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfirmRkey {
    pub reply: RkeyReply,
    /// More than two: the others follow in continuations (v1).
    pub further: u8,
    pub rmb: Rmb,
    /// Where `further` is below 2, the rest means nothing.
    pub entries: [FurtherRkey; 2],
}

impl ConfirmRkey {
    /// For an RMB on a single link.
    pub fn single(rmb: Rmb) -> ConfirmRkey {
        ConfirmRkey { reply: RkeyReply::POSITIVE, further: 0, rmb, entries: Default::default() }
    }

    pub(super) fn read(fields: &mut Reader<'_>, flags: u8) -> Result<ConfirmRkey, Short> {
        Ok(ConfirmRkey {
            reply: RkeyReply::read(flags),
            further: fields.u8()?,
            rmb: Rmb { rkey: fields.u32()?, address: fields.u64()? },
            entries: FurtherRkey::read_all(fields)?,
        })
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.u8(self.further).u32(self.rmb.rkey).u64(self.rmb.address);
        self.entries.iter().for_each(|entry| entry.write(writer));
    }
}

/// CONFIRM RKEY CONTINUATION, v1; Linux never sends it.
///
/// | offset | size | field |
/// |---|---|---|
/// | 3 | 1 | as in CONFIRM RKEY |
/// | 4 | 1 | how many links are still to come, these included |
/// | 5 | 39 | three links: number (1), rkey (4), address (8) |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfirmRkeyContinuation {
    pub reply: RkeyReply,
    pub left: u8,
    /// Where fewer than three are left, the rest means nothing.
    pub entries: [FurtherRkey; 3],
}

impl ConfirmRkeyContinuation {
    pub(super) fn read(fields: &mut Reader<'_>, flags: u8) -> Result<ConfirmRkeyContinuation, Short> {
        let left = fields.u8()?;
        Ok(ConfirmRkeyContinuation {
            reply: RkeyReply::read(flags),
            left,
            entries: FurtherRkey::read_all(fields)?,
        })
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.u8(self.left);
        self.entries.iter().for_each(|entry| entry.write(writer));
    }
}

/// DELETE RKEY: the sender takes RMBs back.
///
/// | offset | size | field |
/// |---|---|---|
/// | 3 | 1 | bit 5: refused |
/// | 4 | 1 | number n of rkeys, at most 8 |
/// | 5 | 1 | response: v1 a mask of those that failed, bit 7 the first; v2 how many were unknown |
/// | 6 | 2 | reserved |
/// | 8 | 4 n | rkeys; a v2 response has zeros |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeleteRkey {
    pub negative: bool,
    pub count: u8,
    pub failed: u8,
    /// Beyond `count` they mean nothing.
    pub rkeys: [u32; 8],
}

impl DeleteRkey {
    /// For one RMB.
    pub fn single(rkey: u32) -> DeleteRkey {
        let mut rkeys = [0; 8];
        rkeys[0] = rkey;
        DeleteRkey { negative: false, count: 1, failed: 0, rkeys }
    }

    /// The rkeys meant.
    pub fn rkeys(&self) -> &[u32] {
        &self.rkeys[..usize::from(self.count).min(self.rkeys.len())]
    }

    pub(super) fn read(fields: &mut Reader<'_>, flags: u8) -> Result<DeleteRkey, Malformed> {
        let (count, failed) = (fields.u8()?, fields.u8()?);
        fields.skip(2)?;
        let mut rkeys = [0; 8];
        if usize::from(count) > rkeys.len() {
            return Err(Malformed::Count(count.into()));
        }
        for rkey in &mut rkeys {
            *rkey = fields.u32()?;
        }
        Ok(DeleteRkey { negative: flags & NEGATIVE != 0, count, failed, rkeys })
    }

    pub(super) fn flags(&self) -> u8 {
        if self.negative {
            NEGATIVE
        } else {
            0
        }
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.u8(self.count).u8(self.failed).zeros(2);
        for rkey in self.rkeys {
            writer.u32(rkey);
        }
    }
}
