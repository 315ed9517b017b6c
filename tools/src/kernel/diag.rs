//! The kernel's SMC sockets, read through smc_diag: socket monitoring (sock_diag) of family 43. Layouts:
//! include/uapi/linux/smc_diag.h. All numbers in host byte order except ports and addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use serde::Serialize;

use super::holder::{self, Holder};
use super::netlink::{self, Kind};
use super::{text, Attributes};

const AF_SMC: u8 = 43;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SMC_DIAG_CONNINFO: u16 = 1;
const SMC_DIAG_LGRINFO: u16 = 2;
const SMC_DIAG_DMBINFO: u16 = 4;
const SMC_DIAG_FALLBACK: u16 = 5;

/// One socket of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Socket {
    /// As smcss names it.
    pub state: &'static str,
    pub mode: Mode,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// Index of the interface it is bound to, 0 for none.
    pub interface: u32,
    pub uid: u32,
    pub inode: u64,
    /// As far as it was looked for, and may be seen.
    pub holder: Option<Holder>,
    /// Why it is on TCP, where it is.
    pub fallback: Option<Fallback>,
    /// With [`Mode::Smcr`].
    pub link: Option<Link>,
    /// With [`Mode::Smcd`].
    pub dmb: Option<Dmb>,
    /// While it belongs to a link group.
    pub buffers: Option<Buffers>,
}

/// What carries the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    Smcr,
    Tcp,
    Smcd,
    /// A number that this version does not know.
    Unknown,
}

impl Mode {
    /// As smcss prints it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Smcr => "SMCR",
            Mode::Tcp => "TCP",
            Mode::Smcd => "SMCD",
            Mode::Unknown => "?",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Fallback {
    /// This end's reason code.
    pub reason: u32,
    /// What the peer declined with, or 0.
    pub peer_diagnosis: u32,
}

/// The link a connection uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    pub id: u8,
    pub device: String,
    pub port: u8,
    /// GIDs as the kernel writes them: eight groups of four hexadecimal digits.
    pub gid: String,
    pub peer_gid: String,
    /// `CLNT` or `SERV`: who began the link group.
    pub role: &'static str,
}

/// Where the two ends of an SMC-D connection have their buffers. Numbers of the ISM devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Dmb {
    pub link_id: u32,
    pub gid: u64,
    pub token: u64,
    pub peer_gid: u64,
    pub peer_token: u64,
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Buffers {
    pub send: u32,
    pub rmbe: u32,
    pub peer_rmbe: u32,
}

/// All SMC sockets of this network namespace.
pub fn sockets() -> io::Result<Vec<Socket>> {
    let mut body = vec![0; 52];
    body[0] = AF_SMC;
    body[3] = [SMC_DIAG_CONNINFO, SMC_DIAG_LGRINFO, SMC_DIAG_DMBINFO, SMC_DIAG_FALLBACK]
        .iter()
        .fold(0, |mask, n| mask | 1 << (n - 1));
    let answers =
        netlink::request(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, Kind::Dump, body).map_err(|e| {
            match e.raw_os_error() {
                Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL) => io::Error::new(
                    io::ErrorKind::NotFound,
                    "this kernel cannot list SMC sockets: its module smc_diag is not there or not loaded",
                ),
                _ => e,
            }
        })?;
    Ok(answers.iter().filter_map(|body| socket(body)).collect())
}

/// Says of each socket whose it is.
pub fn find_holders(sockets: &mut [Socket]) {
    if sockets.is_empty() {
        return;
    }
    let mut holders = holder::all();
    sockets.iter_mut().for_each(|s| s.holder = holders.remove(&s.inode));
}

/// `None`: shorter than every kernel's.
fn socket(body: &[u8]) -> Option<Socket> {
    const FIXED: usize = 64;
    let fixed = body.get(..FIXED)?;
    let attributes = Attributes(&body[FIXED..]);
    let mode = match fixed[2] {
        0 => Mode::Smcr,
        1 => Mode::Tcp,
        2 => Mode::Smcd,
        _ => Mode::Unknown,
    };
    let fallback = attributes
        .find(SMC_DIAG_FALLBACK)
        .and_then(|a| Some(Fallback { reason: number(a, 0)?, peer_diagnosis: number(a, 4)? }));
    Some(Socket {
        state: state(fixed[1]),
        mode,
        local: address(&fixed[8..24], [fixed[4], fixed[5]]),
        peer: address(&fixed[24..40], [fixed[6], fixed[7]]),
        interface: number(fixed, 40)?,
        uid: number(fixed, 52)?,
        inode: wide(fixed, 56)?,
        holder: None,
        fallback: fallback.filter(|_| mode == Mode::Tcp),
        link: attributes.find(SMC_DIAG_LGRINFO).filter(|_| mode == Mode::Smcr).and_then(link),
        dmb: attributes.find(SMC_DIAG_DMBINFO).filter(|_| mode == Mode::Smcd).and_then(dmb),
        buffers: attributes.find(SMC_DIAG_CONNINFO).and_then(|a| {
            Some(Buffers { send: number(a, 4)?, rmbe: number(a, 8)?, peer_rmbe: number(a, 12)? })
        }),
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn wide(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// IPv4 stands in the first four of the sixteen bytes, or behind the prefix of a mapped address.
fn address(ip: &[u8], port: [u8; 2]) -> SocketAddr {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(ip);
    let ip = if bytes[4..] == [0; 12] {
        IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    } else {
        Ipv6Addr::from(bytes).to_canonical()
    };
    SocketAddr::new(ip, u16::from_be_bytes(port))
}

fn link(info: &[u8]) -> Option<Link> {
    Some(Link {
        id: *info.first()?,
        device: text(info.get(1..65)?),
        port: *info.get(65)?,
        gid: text(info.get(66..106)?),
        peer_gid: text(info.get(106..146)?),
        role: if *info.get(146)? == 0 { "CLNT" } else { "SERV" },
    })
}

/// struct smcd_diag_dmbinfo: four bytes of padding behind the link's number.
fn dmb(info: &[u8]) -> Option<Dmb> {
    Some(Dmb {
        link_id: number(info, 0)?,
        peer_gid: wide(info, 8)?,
        gid: wide(info, 16)?,
        token: wide(info, 24)?,
        peer_token: wide(info, 32)?,
    })
}

/// The states of include/net/smc's `enum smc_state`, with the names smcss gives them.
fn state(number: u8) -> &'static str {
    match number {
        1 => "ACTIVE",
        2 => "INIT",
        7 => "CLOSED",
        10 => "LISTEN",
        20 => "PEERCLW1",
        21 => "PEERCLW2",
        22 => "APPLCLW1",
        23 => "APPLCLW2",
        24 => "APPLFINW",
        25 => "PEERFINW",
        26 => "PEERABRT",
        27 => "PROCABRT",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
        out.extend(((value.len() + 4) as u16).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }

    fn answer(mode: u8) -> Vec<u8> {
        let mut body = vec![0; 64];
        body[..3].copy_from_slice(&[AF_SMC, 1, mode]);
        body[4..8].copy_from_slice(&[0x1b, 0x58, 0x80, 0x01]);
        body[8..12].copy_from_slice(&[10, 9, 0, 1]);
        body[24..28].copy_from_slice(&[10, 9, 0, 2]);
        body[52..56].copy_from_slice(&1000u32.to_ne_bytes());
        body[56..64].copy_from_slice(&77u64.to_ne_bytes());
        body
    }

    #[test]
    fn an_rdma_connection_is_read_with_its_link() {
        let mut body = answer(0);
        let mut connection = vec![0; 76];
        connection[4..8].copy_from_slice(&65536u32.to_ne_bytes());
        attribute(&mut body, SMC_DIAG_CONNINFO, &connection);
        let mut link = vec![0; 147];
        link[0] = 1;
        link[1..5].copy_from_slice(b"rxe0");
        link[65] = 1;
        link[66..70].copy_from_slice(b"fe80");
        link[146] = 1;
        attribute(&mut body, SMC_DIAG_LGRINFO, &link);
        attribute(&mut body, SMC_DIAG_FALLBACK, &[0; 8]);
        let socket = socket(&body).unwrap();
        assert_eq!((socket.state, socket.mode), ("ACTIVE", Mode::Smcr));
        assert_eq!(socket.local, "10.9.0.1:7000".parse().unwrap());
        assert_eq!(socket.peer, "10.9.0.2:32769".parse().unwrap());
        assert_eq!((socket.uid, socket.inode, socket.fallback), (1000, 77, None));
        let link = socket.link.unwrap();
        assert_eq!(
            (link.id, &*link.device, link.port, &*link.gid, link.role),
            (1, "rxe0", 1, "fe80", "SERV")
        );
        assert_eq!(socket.buffers.unwrap().send, 65536);
    }

    #[test]
    fn a_kernels_sockets_are_read() {
        let all: Vec<_> =
            super::super::testdata::recorded("diag").iter().map(|a| socket(a).unwrap()).collect();
        let states: Vec<_> = all.iter().map(|s| (s.state, s.mode, s.local.to_string())).collect();
        let local = "10.9.0.1:7000".to_owned();
        assert_eq!(states, [("ACTIVE", Mode::Smcr, local.clone()), ("LISTEN", Mode::Smcr, local)]);
        let link = all[0].link.as_ref().unwrap();
        assert_eq!((link.id, &*link.device, link.port, link.role), (1, "rxe0", 1, "SERV"));
        assert_eq!(link.peer_gid, "0000:0000:0000:0000:0000:ffff:0a09:0002");
        assert_eq!(all[0].buffers, Some(Buffers { send: 65536, rmbe: 65536, peer_rmbe: 65536 }));
        assert_eq!((all[0].inode, all[1].peer.port(), &all[1].link), (460, 0, &None));
    }

    #[test]
    fn a_connection_on_tcp_is_read_with_its_reason() {
        let mut body = answer(1);
        let mut codes = 0x0303_0000u32.to_ne_bytes().to_vec();
        codes.extend(0x0301_0000u32.to_ne_bytes());
        attribute(&mut body, SMC_DIAG_FALLBACK, &codes);
        let socket = socket(&body).unwrap();
        assert_eq!(socket.fallback, Some(Fallback { reason: 0x0303_0000, peer_diagnosis: 0x0301_0000 }));
        assert_eq!((socket.link, socket.buffers), (None, None));
    }

    #[test]
    fn an_ism_connection_is_read_with_its_buffers() {
        let mut body = answer(2);
        let mut info = 7u64.to_ne_bytes().to_vec();
        [1u64, 2, 3, 4].iter().for_each(|n| info.extend(n.to_ne_bytes()));
        attribute(&mut body, SMC_DIAG_DMBINFO, &info);
        let dmb = Dmb { link_id: 7, peer_gid: 1, gid: 2, token: 3, peer_token: 4 };
        assert_eq!(socket(&body).unwrap().dmb, Some(dmb));
        assert_eq!(socket(&body[..body.len() - 4]).unwrap().dmb, None);
    }

    #[test]
    fn whatever_is_cut_off_is_left_out() {
        let mut body = answer(0);
        attribute(&mut body, SMC_DIAG_LGRINFO, &[0; 100]);
        attribute(&mut body, SMC_DIAG_CONNINFO, &[0; 5]);
        assert!(socket(&body[..63]).is_none());
        for end in 64..=body.len() {
            let socket = socket(&body[..end]).unwrap();
            assert_eq!((socket.link, socket.buffers), (None, None));
        }
    }

    #[test]
    fn addresses_of_both_families_are_told_apart() {
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
        assert_eq!(address(&mapped, [0, 80]), "127.0.0.1:80".parse().unwrap());
        let mut v6 = [0; 16];
        v6[0] = 0xfe;
        v6[1] = 0x80;
        v6[15] = 1;
        assert_eq!(address(&v6, [0, 80]), "[fe80::1]:80".parse().unwrap());
    }
}
