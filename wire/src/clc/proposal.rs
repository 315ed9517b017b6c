//! PROPOSAL (RFC 7609 A.2, and SMC Version 2).
//!
//! | area | size | there if |
//! |---|---|---|
//! | start | 40 | always |
//! | ISM and v2 pointer | 40 | version 2; version 1 with SMC-D |
//! | IP prefixes | 8 + 17 n | v1 type is not "neither" |
//! | v2 extension | 40 + 32 e | v2 type is not "neither" |
//! | SMC-Dv2 extension | 48 + 10 g | v2 type has SMC-D |
//! | trailer | 4 | always |
//!
//! Start:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 7 | 1 | bits 3-2 v2 type, bits 1-0 v1 type: 0 SMC-R, 1 SMC-D, 2 neither, 3 both |
//! | 8 | 8 | client's peer id; Linux: 0 unless the v1 type has SMC-R, as the next two |
//! | 16 | 16 | GID for v1 |
//! | 32 | 6 | MAC |
//! | 38 | 2 | distance from 40 to the IP prefixes: 0 or 40 |
//!
//! ISM and v2 pointer:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 40 | 8 | ISM GID |
//! | 48 | 2 | ISM CHID |
//! | 50 | 2 | distance from 52 to the v2 extension; 0: none |
//! | 52 | 8 | vendor OUI (3) and options (5) |
//! | 60 | 20 | reserved |
//!
//! IP prefixes: 0 the client's IPv4 subnet (4), 4 its prefix length (1), 5 reserved (2), 7 n (1), then n times an IPv6 prefix (16) and
//! its length (1).
//!
//! v2 extension:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | number e of EIDs, 0 to 8 |
//! | 1 | 1 | number g of ISM entries, 0 to 8 |
//! | 2 | 1 | reserved |
//! | 3 | 1 | bits 7-4 release; bit 0: a system EID is there |
//! | 4 | 2 | reserved |
//! | 6 | 2 | distance from 8 to the SMC-Dv2 extension; 0: none |
//! | 8 | 16 | RoCEv2 GID |
//! | 24 | 1 | connections per link group, 16 to 255 |
//! | 25 | 1 | links per link group, 1 or 2 |
//! | 26 | 2 | feature mask |
//! | 28 | 12 | reserved |
//! | 40 | 32 e | EIDs |
//!
//! SMC-Dv2 extension: 0 system EID (32), 32 reserved (16), 48 g times a GID (8) and a CHID (2).

use super::{Header, Kind, Malformed, Version, HEADER, TRAILER};
use crate::bytes::{Bounded, Reader, Short, Writer};
use crate::option::SMCR;
use crate::{Eid, Gid, Mac, PeerId};
use core::ops::RangeInclusive;

/// From version 1 without prefixes to version 2 with eight of everything.
pub(super) const LENGTHS: RangeInclusive<u16> = 52..=652;

const START: usize = 40;
const POINTERS: usize = 40;
/// Where the distance to the v2 extension is counted from.
const V2_BASE: usize = 52;
/// Linux takes no greater distance: eight IPv6 prefixes lie between.
const V2_DISTANCE_MAX: u16 = 172;
/// Where, in the v2 extension, the distance to the SMC-Dv2 extension is counted from.
const ISM_BASE: usize = 8;
/// Of EIDs, prefixes and ISM entries.
const MAX_ENTRIES: u8 = 8;

/// What is offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Technology {
    R = 0,
    D = 1,
    Both = 3,
}

impl Technology {
    fn from_bits(bits: u8) -> Option<Technology> {
        match bits & 3 {
            0 => Some(Technology::R),
            1 => Some(Technology::D),
            2 => None,
            _ => Some(Technology::Both),
        }
    }

    fn bits(offered: Option<Technology>) -> u8 {
        offered.map_or(2, |technology| technology as u8)
    }

    /// Whether SMC-R is offered.
    pub fn has_r(self) -> bool {
        self != Technology::D
    }

    /// Whether SMC-D is offered.
    pub fn has_d(self) -> bool {
        self != Technology::R
    }
}

/// A prefix of the client's interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv6Prefix {
    pub prefix: [u8; 16],
    pub length: u8,
}

/// The v1 offer: which IP subnets the client is in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct V1Offer {
    pub technology: Technology,
    /// The IPv4 subnet, host bits cleared; zero for an IPv6 connection.
    pub ipv4_subnet: [u8; 4],
    pub ipv4_length: u8,
    pub ipv6: Bounded<Ipv6Prefix, 8>,
}

/// An ISM device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IsmEntry {
    pub gid: u64,
    pub chid: u16,
}

/// The SMC-Dv2 extension.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct V2Ism {
    pub system_eid: Eid,
    pub entries: Bounded<IsmEntry, 8>,
}

/// The v2 offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct V2Offer {
    /// SMC-R is offered; without it `ism` is there.
    pub smc_r: bool,
    /// Most wanted first.
    pub eids: Bounded<Eid, 8>,
    /// Four bits; 1 is v2.1.
    pub release: u8,
    /// The client has a system EID.
    pub has_system_eid: bool,
    /// The client's RoCEv2 GID.
    pub gid: Gid,
    /// Connections per link group; release 1.
    pub max_connections: u8,
    /// Links per link group; release 1.
    pub max_links: u8,
    pub features: u16,
    /// There if SMC-D is offered.
    pub ism: Option<V2Ism>,
}

impl V2Offer {
    fn technology(&self) -> Technology {
        match (self.smc_r, &self.ism) {
            (true, Some(_)) => Technology::Both,
            (false, Some(_)) => Technology::D,
            // An offer of nothing is no offer.
            (_, None) => Technology::R,
        }
    }

    fn length(&self) -> usize {
        40 + 32 * self.eids.len() + self.ism.as_ref().map_or(0, |ism| 48 + 10 * ism.entries.len())
    }
}

/// What is offered, by the version of the message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Offers {
    V1(V1Offer),
    V2 { v1: Option<V1Offer>, v2: Option<V2Offer> },
}

/// A PROPOSAL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    pub peer_id: PeerId,
    /// The GID for v1; the one for v2 is in the [`V2Offer`].
    pub gid: Gid,
    pub mac: Mac,
    /// The ISM device of SMC-D v1, else zero.
    pub ism: IsmEntry,
    /// OUI (3) and options (5) of a vendor; version 2.
    pub vendor: [u8; 8],
    pub offers: Offers,
}

impl Proposal {
    /// A proposal of SMC-Rv2, release 1, on one link, and of nothing else. `mac` and `gid` are those of the RDMA port.
    pub fn smc_r_v2(peer_id: PeerId, mac: Mac, gid: Gid, eids: Bounded<Eid, 8>) -> Proposal {
        let v2 = V2Offer {
            smc_r: true,
            eids,
            release: 1,
            has_system_eid: false,
            gid,
            max_connections: 255,
            max_links: 1,
            features: 0,
            ism: None,
        };
        let offers = Offers::V2 { v1: None, v2: Some(v2) };
        Proposal { peer_id, gid: Gid::default(), mac, ism: IsmEntry::NONE, vendor: [0; 8], offers }
    }

    /// The version of the message.
    pub fn version(&self) -> Version {
        match self.offers {
            Offers::V1(_) => Version::V1,
            Offers::V2 { .. } => Version::V2,
        }
    }

    /// The v1 offer.
    pub fn v1(&self) -> Option<&V1Offer> {
        match &self.offers {
            Offers::V1(v1) => Some(v1),
            Offers::V2 { v1, .. } => v1.as_ref(),
        }
    }

    /// The v2 offer.
    pub fn v2(&self) -> Option<&V2Offer> {
        match &self.offers {
            Offers::V1(_) => None,
            Offers::V2 { v2, .. } => v2.as_ref(),
        }
    }

    /// Linux's checks, in its order; then nothing is read from outside the message.
    pub(super) fn decode(header: Header, bytes: &[u8]) -> Result<Proposal, Malformed> {
        let short = header.malformed_length();
        let body = &bytes[..bytes.len() - TRAILER];
        let mut fields = Reader::at(body, HEADER).map_err(&short)?;
        let mut start = || -> Result<_, Short> {
            Ok((PeerId(fields.array()?), Gid(fields.array()?), Mac(fields.array()?), fields.u16()?))
        };
        let (peer_id, gid, mac, prefix_distance) = start().map_err(&short)?;
        if prefix_distance > POINTERS as u16 {
            return Err(Malformed::Offset(prefix_distance));
        }
        let prefixes_at = START + usize::from(prefix_distance);
        // Looked at even where no prefixes are: byte 47 of a version 2 message must not be above 8.
        let prefix_count = *bytes.get(prefixes_at + 7).ok_or(Malformed::Length(header.length))?;
        if prefix_count > MAX_ENTRIES {
            return Err(Malformed::Count(prefix_count));
        }
        let prefixes_length = 8 + 17 * usize::from(prefix_count);
        let v1_technology = Technology::from_bits(header.flags);
        let read_v1 = |technology| V1Offer::read(technology, body, prefixes_at).map_err(&short);

        if header.version == Version::V1 {
            let length = prefixes_at + prefixes_length + TRAILER;
            let (Some(technology), true) = (v1_technology, usize::from(header.length) == length) else {
                return Err(Malformed::Length(header.length));
            };
            let has_ism = technology.has_d() && usize::from(prefix_distance) == POINTERS;
            let ism = if has_ism { IsmEntry::read(body, START).map_err(&short)? } else { IsmEntry::NONE };
            let offers = Offers::V1(read_v1(technology)?);
            return Ok(Proposal { peer_id, gid, mac, ism, vendor: [0; 8], offers });
        }

        let mut pointers = Reader::at(body, START + 10).map_err(&short)?;
        let (v2_distance, vendor) =
            pointers.u16().and_then(|d| Ok((d, pointers.array()?))).map_err(&short)?;
        let v2 = Technology::from_bits(header.flags >> 2)
            .map(|technology| match v2_distance {
                1..=V2_DISTANCE_MAX => {
                    V2Offer::read(technology, header, body, V2_BASE + usize::from(v2_distance))
                }
                _ => Err(Malformed::Offset(v2_distance)),
            })
            .transpose()?;
        let length = START
            + POINTERS
            + v1_technology.map_or(0, |_| prefixes_length)
            + v2.as_ref().map_or(0, V2Offer::length)
            + TRAILER;
        if usize::from(header.length) != length {
            return Err(Malformed::Length(header.length));
        }
        let ism = IsmEntry::read(body, START).map_err(&short)?;
        let v1 = v1_technology.map(read_v1).transpose()?;
        Ok(Proposal { peer_id, gid, mac, ism, vendor, offers: Offers::V2 { v1, v2 } })
    }

    /// The bytes of the message. The ISM device is left out of a version 1 message without SMC-D, the vendor's fields out of any
    /// version 1 message.
    pub fn encode(&self) -> Vec<u8> {
        let (v1, v2) = (self.v1(), self.v2());
        let has_pointers = match &self.offers {
            Offers::V1(v1) => v1.technology.has_d(),
            Offers::V2 { .. } => true,
        };
        let pointers = if has_pointers { POINTERS } else { 0 };
        let prefixes = v1.map_or(0, |v1| 8 + 17 * v1.ipv6.len());
        let length = START + pointers + prefixes + v2.map_or(0, V2Offer::length) + TRAILER;
        let flags = match &self.offers {
            Offers::V1(v1) => v1.technology as u8,
            Offers::V2 { v1, v2 } => {
                let v2 = v2.as_ref().map(V2Offer::technology);
                Technology::bits(v2) << 2 | Technology::bits(v1.as_ref().map(|v1| v1.technology))
            }
        };
        let mut writer = Header::writer(Kind::Proposal, length, self.version(), flags);
        writer.bytes(&self.peer_id.0).bytes(&self.gid.0).bytes(&self.mac.0);
        writer.u16(match v1 {
            Some(_) => pointers as u16,
            None if self.ism.gid & 0xff <= u64::from(MAX_ENTRIES) => 0,
            // The byte that receivers take for the number of prefixes shall be a reserved one, and not of the ISM GID.
            None => 20,
        });
        if has_pointers {
            let distance = v2.map_or(0, |_| START + POINTERS - V2_BASE + prefixes);
            let (distance, vendor) =
                if self.version() == Version::V2 { (distance, self.vendor) } else { (0, [0; 8]) };
            self.ism.write(&mut writer);
            writer.u16(distance as u16).bytes(&vendor).zeros(20);
        }
        if let Some(v1) = v1 {
            v1.write(&mut writer);
        }
        if let Some(v2) = v2 {
            v2.write(&mut writer);
        }
        writer.bytes(&SMCR);
        writer.finish()
    }
}

impl IsmEntry {
    /// What stands where SMC-D is not offered.
    pub const NONE: IsmEntry = IsmEntry { gid: 0, chid: 0 };

    fn read(body: &[u8], at: usize) -> Result<IsmEntry, Short> {
        let mut fields = Reader::at(body, at)?;
        Ok(IsmEntry { gid: fields.u64()?, chid: fields.u16()? })
    }

    fn write(&self, writer: &mut Writer) {
        writer.u64(self.gid).u16(self.chid);
    }
}

impl V1Offer {
    fn read(technology: Technology, body: &[u8], at: usize) -> Result<V1Offer, Short> {
        let mut fields = Reader::at(body, at)?;
        let (ipv4_subnet, ipv4_length) = (fields.array()?, fields.u8()?);
        fields.skip(2)?;
        let ipv6 = (0..fields.u8()?)
            .map(|_| Ok(Ipv6Prefix { prefix: fields.array()?, length: fields.u8()? }))
            .collect::<Result<Vec<_>, Short>>()?;
        Ok(V1Offer { technology, ipv4_subnet, ipv4_length, ipv6: ipv6.try_into().map_err(|_| Short)? })
    }

    fn write(&self, writer: &mut Writer) {
        writer.bytes(&self.ipv4_subnet).u8(self.ipv4_length).zeros(2).u8(self.ipv6.count());
        for entry in self.ipv6.iter() {
            writer.bytes(&entry.prefix).u8(entry.length);
        }
    }
}

impl V2Offer {
    fn read(technology: Technology, header: Header, body: &[u8], at: usize) -> Result<V2Offer, Malformed> {
        let short = header.malformed_length();
        let mut fields = Reader::at(body, at).map_err(&short)?;
        let mut fixed = || -> Result<_, Short> {
            let (eids, entries) = (fields.u8()?, fields.u8()?);
            fields.skip(1)?;
            let release = fields.u8()?;
            fields.skip(2)?;
            let ism_distance = fields.u16()?;
            let gid = Gid(fields.array()?);
            let limits = (fields.u8()?, fields.u8()?);
            let features = fields.u16()?;
            fields.skip(12)?;
            Ok((eids, entries, release, ism_distance, gid, limits, features))
        };
        let (eid_count, entry_count, release, ism_distance, gid, limits, features) =
            fixed().map_err(&short)?;
        if eid_count > MAX_ENTRIES {
            return Err(Malformed::Count(eid_count));
        }
        let eids = (0..eid_count).map(|_| fields.array().map(Eid)).collect::<Result<Vec<_>, Short>>();
        let ism = match technology.has_d() {
            true if entry_count > MAX_ENTRIES => return Err(Malformed::Count(entry_count)),
            true => Some(
                V2Ism::read(entry_count, body, at + ISM_BASE + usize::from(ism_distance))
                    .map_err(|Short| Malformed::Offset(ism_distance))?,
            ),
            false => None,
        };
        Ok(V2Offer {
            smc_r: technology.has_r(),
            eids: eids.map_err(&short)?.try_into().map_err(|_| Malformed::Count(eid_count))?,
            release: release >> 4,
            has_system_eid: release & 1 != 0,
            gid,
            max_connections: limits.0,
            max_links: limits.1,
            features,
            ism,
        })
    }

    fn write(&self, writer: &mut Writer) {
        let ism_distance = if self.ism.is_some() { 32 + 32 * self.eids.len() } else { 0 };
        writer.u8(self.eids.count()).u8(self.ism.as_ref().map_or(0, |ism| ism.entries.count())).zeros(1);
        writer.u8(self.release << 4 | u8::from(self.has_system_eid)).zeros(2).u16(ism_distance as u16);
        writer.bytes(&self.gid.0).u8(self.max_connections).u8(self.max_links).u16(self.features).zeros(12);
        for eid in self.eids.iter() {
            writer.bytes(&eid.0);
        }
        if let Some(ism) = &self.ism {
            writer.bytes(&ism.system_eid.0).zeros(16);
            for entry in ism.entries.iter() {
                entry.write(writer);
            }
        }
    }
}

impl V2Ism {
    fn read(count: u8, body: &[u8], at: usize) -> Result<V2Ism, Short> {
        let mut fields = Reader::at(body, at)?;
        let system_eid = Eid(fields.array()?);
        fields.skip(16)?;
        let entries = (0..count)
            .map(|_| Ok(IsmEntry { gid: fields.u64()?, chid: fields.u16()? }))
            .collect::<Result<Vec<_>, Short>>()?;
        Ok(V2Ism { system_eid, entries: entries.try_into().map_err(|_| Short)? })
    }
}
