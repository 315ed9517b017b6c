//! The kernel's tables of TCP sockets, by inode.
//!
//! For the reader's own network namespace they come from sock_diag, which leaves out the connections in TIME_WAIT (often
//! most of them, and never anybody's) and knows the bound interface; for others, and where the kernel lacks
//! sock_diag, from /proc/PID/net.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::calls;
use super::record::Ends;

/// What the kernel says of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    pub uid: u32,
    /// As in the kernel's enum: 1 is TCP_ESTABLISHED.
    pub state: u8,
    pub ends: Ends,
    /// Index of the interface the socket is bound to, 0 for none or unknown.
    pub interface: u32,
}

/// The tables, read when first asked for and at most twice per network namespace.
pub struct Tables {
    own_net: Option<String>,
    by_net: HashMap<String, Table>,
}

struct Table {
    rows: HashMap<u64, Row>,
    reread: bool,
}

impl Tables {
    pub fn new() -> Tables {
        Tables { own_net: net_of("self"), by_net: HashMap::new() }
    }

    /// The row of the socket `inode` in the namespace `net`, where process `pid` is.
    pub fn row(&mut self, net: &str, pid: i32, inode: u64) -> Option<Row> {
        let own = self.own_net.as_deref() == Some(net);
        let read = || if own { read_diag() } else { None }.unwrap_or_else(|| read_proc(pid));
        let table =
            self.by_net.entry(net.to_owned()).or_insert_with(|| Table { rows: read(), reread: false });
        if !table.rows.contains_key(&inode) && !table.reread {
            // The kernel's iteration can miss a row when its neighbours change.
            table.reread = true;
            table.rows.extend(read());
        }
        table.rows.get(&inode).copied()
    }
}

/// The name of a process's network namespace, if the user may know it. `process` is a pid or `self`.
pub fn net_of(process: &str) -> Option<String> {
    let link = fs::read_link(format!("/proc/{process}/ns/net")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

// struct nlmsghdr (linux/netlink.h): length, type 2, flags 2, sequence, port id.
const NLMSG_HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
// struct inet_diag_req_v2 (linux/inet_diag.h): family 1, protocol 1, extensions 1, 1, states 4, socket id 48.
const REQUEST: usize = NLMSG_HEADER + 56;
// struct inet_diag_msg: see `parse_diag`.
const MESSAGE: usize = 72;

/// All states but SYN_RECV, TIME_WAIT and NEW_SYN_RECV, which have no descriptor.
const STATES: u32 = 0xfff & !(1 << 3 | 1 << 6 | 1 << 12);

/// The sockets of this network namespace; `None` if the kernel does not say.
fn read_diag() -> Option<HashMap<u64, Row>> {
    let mut rows = HashMap::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        dump(family as u8, &mut rows)?;
    }
    Some(rows)
}

fn dump(family: u8, rows: &mut HashMap<u64, Row>) -> Option<()> {
    let socket = calls::diag_socket().ok()?;
    let mut request = [0u8; REQUEST];
    request[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request[16] = family;
    request[17] = libc::IPPROTO_TCP as u8;
    request[20..24].copy_from_slice(&STATES.to_ne_bytes());
    calls::send(socket.raw(), &request).ok()?;
    let mut buf = vec![0u8; 64 << 10];
    loop {
        let len = match calls::read(socket.raw(), &mut buf) {
            Err(e) if e.0 == libc::EINTR => continue,
            other => other.ok()?,
        };
        let mut rest = &buf[..len];
        while rest.len() >= NLMSG_HEADER {
            let length = u32_at(rest, 0) as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            if length < NLMSG_HEADER || length > rest.len() {
                return None;
            }
            match kind {
                NLMSG_DONE => return Some(()),
                NLMSG_ERROR => return None,
                SOCK_DIAG_BY_FAMILY => rows.extend(parse_diag(&rest[NLMSG_HEADER..length])),
                _ => {}
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        if len == 0 {
            return None;
        }
    }
}

/// Family 1, state 1, 2 unused here, ports 2 and 2 (network order), addresses 16 and 16, interface 4, cookie 8, expiry 4,
/// queues 4 and 4, uid 4, inode 4.
fn parse_diag(m: &[u8]) -> Option<(u64, Row)> {
    if m.len() < MESSAGE {
        return None;
    }
    let end = |port: usize, ip: usize| {
        let port = u16::from_be_bytes([m[port], m[port + 1]]);
        let mut octets = [0u8; 16];
        octets.copy_from_slice(&m[ip..ip + 16]);
        let ip = if i32::from(m[0]) == libc::AF_INET {
            IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
        } else {
            IpAddr::from(octets)
        };
        SocketAddr::new(ip, port)
    };
    row(u64::from(u32_at(m, 68)), u32_at(m, 64), m[1], end(4, 8), end(6, 24), u32_at(m, 40))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn row(
    inode: u64,
    uid: u32,
    state: u8,
    local: SocketAddr,
    peer: SocketAddr,
    interface: u32,
) -> Option<(u64, Row)> {
    let ends = Ends { local: Some(local), peer: Some(peer).filter(|p| p.port() != 0) };
    (inode != 0).then_some((inode, Row { uid, state, ends, interface }))
}

fn read_proc(pid: i32) -> HashMap<u64, Row> {
    let mut rows = HashMap::new();
    for name in ["tcp", "tcp6"] {
        if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/net/{name}")) {
            rows.extend(text.lines().skip(1).filter_map(parse_line));
        }
    }
    rows
}

/// A line of /proc/net/tcp: number, local, remote, state, queues, timer, retransmits, uid, timeout, inode, ...
fn parse_line(line: &str) -> Option<(u64, Row)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = parse_end(fields.next()?)?;
    let peer = parse_end(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let mut fields = fields.skip(3);
    let uid = fields.next()?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    row(inode, uid, state, local, peer, 0)
}

/// `0100007F:1F90`: the address as words in the host's byte order, the port as a number.
fn parse_end(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut octets = [0u8; 16];
            for (n, four) in octets.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(n * 8)?);
            }
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[test]
    fn both_sources_say_the_same_of_every_kind_of_socket() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let v6 = TcpStream::connect(("::1", port)).unwrap();
        let v4 = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (a, _) = listener.accept().unwrap();
        let (b, _) = listener.accept().unwrap();
        b.shutdown(std::net::Shutdown::Write).unwrap();
        // The end of the stream has arrived; whether it was acknowledged may change meanwhile.
        assert_eq!((&v4).read(&mut [0]).unwrap(), 0);
        let comparable = |row: Row| Row { state: if row.state == 5 { 4 } else { row.state }, ..row };
        let diag = read_diag().expect("this kernel has sock_diag");
        let proc = read_proc(std::process::id() as i32);
        for fd in [listener.as_raw_fd(), v6.as_raw_fd(), v4.as_raw_fd(), a.as_raw_fd(), b.as_raw_fd()] {
            let inode = calls::fstat(fd).unwrap().st_ino;
            assert_eq!(comparable(diag[&inode]), comparable(proc[&inode]));
            assert_eq!(diag[&inode].ends, Ends::of_fd(fd));
        }
    }

    #[test]
    fn odd_lines_and_messages_are_no_rows() {
        let line = "1: 0100007F:1F90 0200007F:0050 01 00000000:00000000 00:00000000 00000000 1000 0 4711 1 x";
        let (inode, parsed) = parse_line(line).unwrap();
        assert_eq!((inode, parsed.uid, parsed.state), (4711, 1000, 1));
        assert_eq!(parsed.ends.local, "127.0.0.1:8080".parse().ok());
        for odd in [
            "",
            "1:",
            "1: 0100007F 0200007F:0050 01 0:0 0:0 0 1000 0 4711",
            "1: 0100007F:1F90 0200007F:0050 zz 0:0 0:0 0 1000 0 4711",
            "1: 0100007é:1F90 0200007F:0050 01 0:0 0:0 0 1000 0 4711",
            "1: 0100007F:1F90 0200007F:0050 01 0:0 0:0 0 1000",
            "1: 0100007F:1F90 0200007F:0050 06 0:0 0:0 0 0 0 0",
        ] {
            assert!(parse_line(odd).is_none(), "{odd:?}");
        }
        for len in 0..MESSAGE {
            assert!(parse_diag(&[1; MESSAGE][..len]).is_none());
        }
        assert!(parse_diag(&[1; MESSAGE]).is_some());
    }
}
