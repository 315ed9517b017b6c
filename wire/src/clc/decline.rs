//! DECLINE (RFC 7609 A.2).
//!
//! | offset | size | v1 (28 bytes) | v2 (44 bytes) |
//! |---|---|---|---|
//! | 7 | 1 | bit 3 out of sync | bit 3 out of sync |
//! | 8 | 8 | sender's peer id | sender's peer id |
//! | 16 | 4 | diagnosis | diagnosis |
//! | 20 | 1 | bits 7-4 operating system | bits 7-4 operating system |
//! | 21 | 3 | reserved | reserved |
//! | 24 | 16 | - | four more codes, four bytes each; Linux: 0 |
//!
//! Both forms may come at any time, whatever was proposed, and are never answered.

use super::{Header, Kind, Malformed, Version};
use crate::bytes::Reader;
use crate::option::SMCR;
use crate::{Diagnosis, PeerId};

/// The operating system number of Linux.
pub const LINUX: u8 = 2;

const OUT_OF_SYNC: u8 = 0x08;

/// A DECLINE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decline {
    pub version: Version,
    pub peer_id: PeerId,
    pub diagnosis: Diagnosis,
    /// The receiver shall give up the link group of this connection, with all its connections.
    pub out_of_sync: bool,
    /// Four bits: 1 z/OS, 2 Linux, 3 AIX; Linux sends 0 in version 1.
    pub operating_system: u8,
    /// Version 2 only.
    pub more: [u32; 4],
}

impl Decline {
    /// A DECLINE as Linux sends it; out of sync with [`Diagnosis::SYNCERR`] only.
    pub fn new(version: Version, peer_id: PeerId, diagnosis: Diagnosis) -> Decline {
        Decline {
            version,
            peer_id,
            diagnosis,
            out_of_sync: diagnosis == Diagnosis::SYNCERR,
            operating_system: if version == Version::V2 { LINUX } else { 0 },
            more: [0; 4],
        }
    }

    pub(super) fn decode(header: Header, bytes: &[u8]) -> Result<Decline, Malformed> {
        let short = header.malformed_length();
        let read = || {
            let mut fields = Reader::at(bytes, super::HEADER)?;
            let peer_id = PeerId(fields.array()?);
            let diagnosis = Diagnosis(fields.u32()?);
            let operating_system = fields.u8()? >> 4;
            fields.skip(3)?;
            let mut more = [0; 4];
            if header.version == Version::V2 {
                for code in &mut more {
                    *code = fields.u32()?;
                }
            }
            let out_of_sync = header.flags & OUT_OF_SYNC != 0;
            Ok(Decline { version: header.version, peer_id, diagnosis, out_of_sync, operating_system, more })
        };
        read().map_err(short)
    }

    /// The bytes of the message: 28 or 44.
    pub fn encode(&self) -> Vec<u8> {
        let length = if self.version == Version::V2 { 44 } else { 28 };
        let flags = if self.out_of_sync { OUT_OF_SYNC } else { 0 };
        let mut writer = Header::writer(Kind::Decline, length, self.version, flags);
        writer.bytes(&self.peer_id.0).u32(self.diagnosis.0).u8(self.operating_system << 4).zeros(3);
        if self.version == Version::V2 {
            for code in self.more {
                writer.u32(code);
            }
        }
        writer.bytes(&SMCR);
        writer.finish()
    }
}
