//! The kernel's SMC-R link groups and their links. Generic netlink family SMC_GEN_NETLINK, commands and attributes of
//! include/uapi/linux/smc.h (SMC_NLA_LGR_R_*, SMC_NLA_LINK_*), those of a later kernel included.

use std::io;

use serde::Serialize;

use super::{dump, interface_name, Attributes};

/// Its answers are each group, followed by its links.
const SMC_NETLINK_GET_LINK_SMCR: u8 = 3;
const SMC_GEN_LGR_SMCR: u16 = 2;
const SMC_GEN_LINK_SMCR: u16 = 3;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkGroup {
    pub id: u32,
    /// `SERV` or `CLNT`.
    pub role: &'static str,
    /// `NONE`, `SINGLE`, `SYM`, `ASYMP` or `ASYML`: how many links there are, and which side has but one port.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// 0: none.
    pub vlan: u8,
    pub connections: u32,
    pub pnet_id: String,
    /// Of the network namespace.
    pub net_cookie: Option<u64>,
    /// `CONT`, `VIRT` or `MIXED`: how the memory of buffers lies.
    pub buffer_type: Option<&'static str>,
    /// Bytes, of all connections.
    pub send_buffers: Option<u64>,
    pub rmbs: Option<u64>,
    /// Of version 2.
    pub v2: Option<Version2>,
    pub links: Vec<Link>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version2 {
    pub version: u8,
    pub release: u8,
    /// SMC_CLC_LINUX is 2.
    pub peer_os: u8,
    pub eid: String,
    pub peer_host: String,
    /// The peer is reached without a router.
    pub direct: bool,
    /// What was negotiated; `None` before release 1.
    pub max_connections: Option<u8>,
    pub max_links: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    pub id: u8,
    /// RDMA device and its port.
    pub device: String,
    pub port: u8,
    /// Network interface, where it is in this namespace.
    pub interface: Option<String>,
    /// GIDs as the kernel writes them: eight groups of four hexadecimal digits.
    pub gid: String,
    pub peer_gid: String,
    pub connections: u32,
    /// Link ids of CONFIRM LINK, as they are on the wire.
    pub uid: u32,
    pub peer_uid: u32,
    /// `LINK_ACTIVE` and the like.
    pub state: &'static str,
}

/// All link groups, with their links.
pub fn all() -> io::Result<Vec<LinkGroup>> {
    dump(SMC_NETLINK_GET_LINK_SMCR).map(|answers| collect(&answers))
}

/// Each link belongs to the group before it.
fn collect(answers: &[Vec<u8>]) -> Vec<LinkGroup> {
    let mut groups: Vec<LinkGroup> = Vec::new();
    for answer in answers {
        let answer = Attributes(answer);
        groups.extend(answer.nest(SMC_GEN_LGR_SMCR).and_then(group));
        let link = answer.nest(SMC_GEN_LINK_SMCR).and_then(link);
        if let Some(last) = groups.last_mut() {
            last.links.extend(link);
        }
    }
    groups
}

fn group(a: Attributes) -> Option<LinkGroup> {
    let kinds = ["NONE", "SINGLE", "SYM", "ASYMP", "ASYML"];
    let buffer_types = ["CONT", "VIRT", "MIXED"];
    Some(LinkGroup {
        id: a.u32(1)?,
        role: if a.u8(2)? == 0 { "CLNT" } else { "SERV" },
        kind: kinds.get(usize::from(a.u8(3)?)).copied().unwrap_or("UNKNOWN"),
        vlan: a.u8(5)?,
        connections: a.u32(6)?,
        pnet_id: a.string(4).unwrap_or_default().trim_end().to_owned(),
        net_cookie: a.uint(9),
        buffer_type: a.u8(11).map(|n| buffer_types.get(usize::from(n)).copied().unwrap_or("UNKNOWN")),
        send_buffers: a.uint(12),
        rmbs: a.uint(13),
        v2: a.nest(7).and_then(|common| version2(common, a.nest(8))),
        links: Vec::new(),
    })
}

/// The attributes of `common` begin with 0.
fn version2(common: Attributes, of_r: Option<Attributes>) -> Option<Version2> {
    let of_r = of_r.unwrap_or(Attributes(&[]));
    Some(Version2 {
        version: common.u8(0)?,
        release: common.u8(1)?,
        peer_os: common.u8(2)?,
        eid: common.string(3)?.trim_end().to_owned(),
        peer_host: common.string(4)?.trim_end().to_owned(),
        direct: of_r.u8(1) == Some(1),
        max_connections: of_r.u8(2),
        max_links: of_r.u8(3),
    })
}

fn link(a: Attributes) -> Option<Link> {
    let states = ["LINK_UNUSED", "LINK_INACTIVE", "LINK_ACTIVATING", "LINK_ACTIVE"];
    Some(Link {
        id: a.u8(1)?,
        device: a.string(2)?,
        port: a.u8(3)?,
        interface: interface_name(a.u32(7)?),
        gid: a.string(4)?,
        peer_gid: a.string(5)?,
        connections: a.u32(6)?,
        uid: u32::from_be(a.u32(8)?),
        peer_uid: u32::from_be(a.u32(9)?),
        state: states.get(a.u32(10)? as usize).copied().unwrap_or("UNKNOWN"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testdata::recorded;
    use super::*;

    #[test]
    fn a_kernels_link_group_is_read_with_its_link() {
        let groups = collect(&recorded("links"));
        let [group] = &groups[..] else { panic!("{groups:?}") };
        let v2 = Version2 {
            version: 2,
            release: 1,
            peer_os: 2,
            eid: "SMCLAB".into(),
            peer_host: "virtme-ng".into(),
            direct: true,
            max_connections: Some(255),
            max_links: Some(2),
        };
        let gid = "0000:0000:0000:0000:0000:ffff:0a09:000";
        let link = Link {
            id: 1,
            device: "rxe0".into(),
            port: 1,
            interface: interface_name(2),
            gid: format!("{gid}1"),
            peer_gid: format!("{gid}2"),
            connections: 1,
            uid: 0x101,
            peer_uid: 0x101,
            state: "LINK_ACTIVE",
        };
        let expected = LinkGroup {
            id: 0x100,
            role: "SERV",
            kind: "SINGLE",
            vlan: 0,
            connections: 1,
            pnet_id: "LABNET".into(),
            net_cookie: Some(1),
            buffer_type: Some("CONT"),
            send_buffers: Some(131_072),
            rmbs: Some(131_072),
            v2: Some(v2),
            links: vec![link],
        };
        assert_eq!(group, &expected);
    }

    #[test]
    fn links_go_to_the_group_before_them_and_what_is_cut_off_is_left_out() {
        let [group, link] = &recorded("links")[..] else { panic!() };
        let groups = collect(&[link.clone(), group.clone(), link.clone(), link.clone(), group.clone()]);
        assert_eq!(groups.iter().map(|g| g.links.len()).collect::<Vec<_>>(), [2, 0]);
        for end in 0..group.len() {
            assert!(collect(&[group[..end].to_vec()]).is_empty(), "{end}");
        }
        for end in 0..link.len() {
            assert!(collect(&[group.clone(), link[..end].to_vec()])[0].links.is_empty(), "{end}");
        }
    }
}
