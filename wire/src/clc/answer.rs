//! ACCEPT and CONFIRM for SMC-R (RFC 7609 A.2, and SMC Version 2). They have the same fields, seen from either side.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 7 | 1 | bit 3 first contact; bits 1-0 path: 0 SMC-R, 1 SMC-D |
//! | 8 | 8 | sender's peer id |
//! | 16 | 16 | GID of the sender's RDMA port |
//! | 32 | 6 | MAC of that port |
//! | 38 | 3 | queue pair number |
//! | 41 | 4 | rkey of the RMB |
//! | 45 | 1 | index of the RMBE in the RMB, from 1 |
//! | 46 | 4 | alert token: the sender's id of this connection, not 0 |
//! | 50 | 1 | bits 7-4 size code of the RMBE; bits 3-0 MTU code of the queue pair |
//! | 51 | 1 | reserved |
//! | 52 | 8 | address of the RMB, for RDMA WRITEs |
//! | 60 | 1 | reserved |
//! | 61 | 3 | first packet sequence number that the sender will send |
//! | **64** | | v1: the trailer, total 68 |
//! | 64 | 32 | EID agreed on |
//! | 96 | 8 | reserved |
//! | **104** | | v2, later contact: the trailer, total 108 |
//! | 104 | 1 | bit 7: no gateway lies between the two RDMA ports ("direct") |
//! | 105 | 1 | bits 7-4 operating system; bits 3-0 release |
//! | 106 | 2 | reserved |
//! | 108 | 32 | host name, padded with blanks |
//! | 140 | 1 | connections per link group (release 1, else 0) |
//! | 141 | 1 | links per link group (release 1, else 0) |
//! | 142 | 2 | feature mask |
//! | 144 | 4 | vendor options |
//! | 148 | 8 | reserved |
//! | **156** | | ACCEPT, v2, first contact: the trailer, total 160 |
//! | 156 | 1 | number k of GIDs |
//! | 157 | 3 | reserved |
//! | 160 | 16 k | GIDs of the client |
//! | **160 + 16 k** | | CONFIRM, v2, first contact: the trailer |
//!
//! A v2 message may be longer than that; what follows is not looked at.

use super::{Clc, Header, Kind, Malformed, Version, TRAILER};
use crate::bytes::{Bounded, Reader, Short};
use crate::option::SMCR;
use crate::{Eid, Gid, Mac, MtuCode, PeerId, Rmb, SizeCode, U24};

/// As many GIDs as the count of a CONFIRM can say.
pub const MAX_GIDS: usize = 255;

const FIRST_CONTACT: u8 = 0x08;
const PATH: u8 = 0x03;
const SMC_R: u8 = 0;
const SMC_D: u8 = 1;
const DIRECT: u8 = 0x80;

const V1_LENGTH: usize = 68;
const LATER_LENGTH: usize = 108;
const ACCEPT_LENGTH: usize = 160;
const CONFIRM_LENGTH: usize = 164;

/// The sender's end of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkEnd {
    pub peer_id: PeerId,
    pub gid: Gid,
    pub mac: Mac,
    /// The number of the queue pair.
    pub qpn: U24,
    /// The first packet sequence number it sends.
    pub psn: U24,
    pub mtu: MtuCode,
}

/// The sender's receive buffer for this connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rmbe {
    pub rmb: Rmb,
    /// Which element of the RMB, from 1; they all have the same size.
    pub index: u8,
    pub size: SizeCode,
    /// The sender's id of this connection, by which CDC messages to it are addressed; unique in the link group, not 0.
    pub token: u32,
}

impl Rmbe {
    /// The address at which the ring begins, for the rkey in [`rmb`](Rmbe::rmb). `None`: no such address, or index 0.
    pub fn address(&self) -> Option<u64> {
        let offset = u64::from(self.size.bytes()) * u64::from(self.index.checked_sub(1)?);
        let start = self.rmb.address.checked_add(offset)?;
        start.checked_add(u64::from(self.size.bytes()))?;
        Some(start)
    }
}

/// The first contact extension of v2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FirstContact {
    /// No gateway lies between the two RDMA ports.
    pub direct: bool,
    /// Four bits: 1 z/OS, 2 Linux, 3 AIX.
    pub operating_system: u8,
    /// Four bits. 1 is v2.1; with 0 the two limits are 255 and 2, and their fields 0.
    pub release: u8,
    /// ASCII, padded with blanks.
    pub host_name: [u8; 32],
    /// Connections per link group.
    pub max_connections: u8,
    /// Links per link group.
    pub max_links: u8,
    pub features: u16,
    pub vendor: [u8; 4],
    /// In a CONFIRM only.
    pub gids: Bounded<Gid, MAX_GIDS>,
}

impl FirstContact {
    /// `name` as the message has it: the first 32 bytes, or padded with blanks.
    pub fn padded_name(name: &[u8]) -> [u8; 32] {
        let mut field = [b' '; 32];
        let length = name.len().min(32);
        field[..length].copy_from_slice(&name[..length]);
        field
    }
}

/// The version and what depends on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Chosen {
    V1 {
        first_contact: bool,
    },
    V2 {
        /// The EID that both have.
        eid: Eid,
        /// `None`: a later contact, on a link group that exists.
        first_contact: Option<FirstContact>,
    },
}

/// An ACCEPT or a CONFIRM for SMC-R.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub link: LinkEnd,
    pub rmbe: Rmbe,
    pub chosen: Chosen,
}

impl Answer {
    /// The version of the message.
    pub fn version(&self) -> Version {
        match self.chosen {
            Chosen::V1 { .. } => Version::V1,
            Chosen::V2 { .. } => Version::V2,
        }
    }

    /// Whether it makes a new link group.
    pub fn is_first_contact(&self) -> bool {
        match &self.chosen {
            Chosen::V1 { first_contact } => *first_contact,
            Chosen::V2 { first_contact, .. } => first_contact.is_some(),
        }
    }

    pub(super) fn decode(header: Header, bytes: &[u8]) -> Result<Clc, Malformed> {
        let length = usize::from(header.length);
        let refused = Err(Malformed::Length(header.length));
        match (header.flags & PATH, header.version) {
            (SMC_D, version) => {
                let enough = if version == Version::V1 { length == 48 } else { length >= 78 };
                return if enough { Ok(Clc::SmcD { kind: header.kind, version }) } else { refused };
            }
            (SMC_R, Version::V1) if length != V1_LENGTH => return refused,
            (SMC_R, Version::V2) if length < LATER_LENGTH => return refused,
            (SMC_R, _) => {}
            (path, _) => return Err(Malformed::Path(path)),
        }
        let answer = Answer::read(header, bytes).map_err(header.malformed_length())?;
        Ok(if header.kind == Kind::Accept { Clc::Accept(answer) } else { Clc::Confirm(answer) })
    }

    fn read(header: Header, bytes: &[u8]) -> Result<Answer, Short> {
        // The trailer is nobody's field.
        let body = bytes.get(..bytes.len() - TRAILER).ok_or(Short)?;
        let mut fields = Reader::at(body, super::HEADER)?;
        let (peer_id, gid, mac) = (PeerId(fields.array()?), Gid(fields.array()?), Mac(fields.array()?));
        let qpn = U24::from_bytes(fields.array()?);
        let (rkey, index, token, codes) = (fields.u32()?, fields.u8()?, fields.u32()?, fields.u8()?);
        fields.skip(1)?;
        let address = fields.u64()?;
        fields.skip(1)?;
        let psn = U24::from_bytes(fields.array()?);
        let first_contact = header.flags & FIRST_CONTACT != 0;
        let chosen = match header.version {
            Version::V1 => Chosen::V1 { first_contact },
            Version::V2 => {
                let eid = Eid(fields.array()?);
                fields.skip(8)?;
                let with_gids = header.kind == Kind::Confirm;
                let first_contact =
                    first_contact.then(|| FirstContact::read(&mut fields, with_gids)).transpose()?;
                Chosen::V2 { eid, first_contact }
            }
        };
        Ok(Answer {
            link: LinkEnd { peer_id, gid, mac, qpn, psn, mtu: MtuCode::truncated(codes) },
            rmbe: Rmbe { rmb: Rmb { rkey, address }, index, size: SizeCode::truncated(codes >> 4), token },
            chosen,
        })
    }

    /// The bytes of the message, `kind` being ACCEPT or CONFIRM. The GIDs of an ACCEPT are left out.
    pub fn encode(&self, kind: Kind) -> Vec<u8> {
        let length = match &self.chosen {
            Chosen::V1 { .. } => V1_LENGTH,
            Chosen::V2 { first_contact: None, .. } => LATER_LENGTH,
            Chosen::V2 { first_contact: Some(first), .. } if kind == Kind::Confirm => {
                CONFIRM_LENGTH + 16 * first.gids.len()
            }
            Chosen::V2 { .. } => ACCEPT_LENGTH,
        };
        let flags = SMC_R | if self.is_first_contact() { FIRST_CONTACT } else { 0 };
        let mut writer = Header::writer(kind, length, self.version(), flags);
        let LinkEnd { peer_id, gid, mac, qpn, psn, mtu } = self.link;
        let Rmbe { rmb, index, size, token } = self.rmbe;
        writer.bytes(&peer_id.0).bytes(&gid.0).bytes(&mac.0).bytes(&qpn.to_bytes());
        writer.u32(rmb.rkey).u8(index).u32(token).u8(size.code() << 4 | mtu.code());
        writer.zeros(1).u64(rmb.address).zeros(1).bytes(&psn.to_bytes());
        if let Chosen::V2 { eid, first_contact } = &self.chosen {
            writer.bytes(&eid.0).zeros(8);
            if let Some(first) = first_contact {
                first.write(&mut writer, kind == Kind::Confirm);
            }
        }
        writer.bytes(&SMCR);
        writer.finish()
    }
}

impl FirstContact {
    fn read(fields: &mut Reader<'_>, with_gids: bool) -> Result<FirstContact, Short> {
        let direct = fields.u8()? & DIRECT != 0;
        let system_and_release = fields.u8()?;
        fields.skip(2)?;
        let host_name = fields.array()?;
        let (max_connections, max_links, features) = (fields.u8()?, fields.u8()?, fields.u16()?);
        let vendor = fields.array()?;
        fields.skip(8)?;
        let mut gids = Vec::new();
        if with_gids {
            let count = fields.u8()?;
            fields.skip(3)?;
            for _ in 0..count {
                gids.push(Gid(fields.array()?));
            }
        }
        Ok(FirstContact {
            direct,
            operating_system: system_and_release >> 4,
            release: system_and_release & 15,
            host_name,
            max_connections,
            max_links,
            features,
            vendor,
            gids: gids.try_into().map_err(|_| Short)?,
        })
    }

    fn write(&self, writer: &mut crate::bytes::Writer, with_gids: bool) {
        writer
            .u8(if self.direct { DIRECT } else { 0 })
            .u8(self.operating_system << 4 | self.release & 15)
            .zeros(2);
        writer.bytes(&self.host_name).u8(self.max_connections).u8(self.max_links).u16(self.features);
        writer.bytes(&self.vendor).zeros(8);
        if with_gids {
            writer.u8(self.gids.count()).zeros(3);
            for gid in self.gids.iter() {
                writer.bytes(&gid.0);
            }
        }
    }
}
