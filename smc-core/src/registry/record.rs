//! One managed socket as the user sees it: the fields of `smcss --json` and of `SMC_REPORT` lines.

use core::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

use super::calls;
use super::schema::{Entry, Kind, Mode, Snapshot};
use crate::reason::{Reason, Why};

/// A managed socket. Serialised in this order, with these names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SocketRecord {
    pub pid: i32,
    /// The process's command name.
    pub comm: String,
    pub fd: i32,
    /// The socket's owner.
    pub uid: u32,
    pub inode: u64,
    /// A state of smc-tools' smcss: INIT, LISTEN, ACTIVE, PEERCLW1, APPLCLW1, APPLCLW2 or CLOSED.
    pub state: &'static str,
    /// `ip:port` or `[ip6]:port`, empty if unknown.
    pub local: String,
    /// As `local`; empty for listeners.
    pub peer: String,
    /// `SMCD`, `SMCR` or `TCP`.
    pub mode: &'static str,
    /// This end's reason code, as `0x03010001`; `0x00000000` on SMC.
    pub reason: String,
    /// The peer's, likewise; `0x00000000` if it gave none.
    pub peer_reason: String,
    /// One sentence about `reason`.
    pub reason_text: String,
    /// On SMC-R: `CLNT` or `SERV`, and RDMA device and port as `rxe0/1`; else empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub role: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// When the process began to manage the socket: milliseconds since the epoch.
    pub since: u64,
    /// Bytes of the program's stream, by path and direction.
    pub tcp_rx_bytes: u64,
    pub tcp_tx_bytes: u64,
    pub ring_rx_bytes: u64,
    pub ring_tx_bytes: u64,
    /// Changes of path, both directions together.
    pub switches: u32,
    /// Index of the interface the socket is bound to, 0 for none or unknown. For the table only.
    #[serde(skip)]
    pub interface: u32,
}

/// The two addresses of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    pub local: Option<SocketAddr>,
    /// `None` if not connected.
    pub peer: Option<SocketAddr>,
}

/// What the kernel knows about a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct KernelSide {
    pub uid: u32,
    pub inode: u64,
    pub ends: Ends,
    pub state: &'static str,
    pub interface: u32,
}

impl KernelSide {
    /// A socket that has no addresses; owner and inode are for the caller to fill in.
    pub const CLOSED: KernelSide = KernelSide {
        uid: 0,
        inode: 0,
        ends: Ends { local: None, peer: None },
        state: "CLOSED",
        interface: 0,
    };
}

impl SocketRecord {
    /// The record of a socket of this process, from its entry. `known` are addresses the caller recorded earlier: a
    /// reset connection has lost them. Allocates; uses raw system calls only.
    pub fn of_own(entry: &Entry, fd: i32, known: Option<Ends>) -> SocketRecord {
        let snapshot = entry.snapshot();
        let now = Ends::of_fd(fd);
        let ends = Ends {
            local: known.and_then(|k| k.local).or(now.local),
            peer: known.and_then(|k| k.peer).or(now.peer),
        };
        let st = calls::fstat(fd).ok();
        let side = KernelSide {
            uid: st.map_or_else(calls::effective_uid, |st| st.st_uid),
            inode: st.map_or(snapshot.inode, |st| st.st_ino),
            ends,
            state: tcp_state(fd).map_or("CLOSED", state_name),
            interface: 0,
        };
        SocketRecord::build(calls::pid(), own_comm(), fd, &snapshot, &side)
    }

    pub(super) fn build(pid: i32, comm: String, fd: i32, s: &Snapshot, side: &KernelSide) -> SocketRecord {
        let mode = s.mode().unwrap_or_default();
        let on_smc = mode != Mode::Tcp;
        let (client, device) = s.far().filter(|_| mode == Mode::Smcr).unwrap_or_default();
        let code = if on_smc { 0 } else { s.reason_code() };
        SocketRecord {
            pid,
            comm,
            fd,
            uid: side.uid,
            inode: side.inode,
            state: side.state,
            local: side.ends.local.map_or_else(String::new, |a| address(&a)),
            peer: side.ends.peer.map_or_else(String::new, |a| address(&a)),
            mode: mode.name(),
            reason: code_text(code),
            peer_reason: code_text(if on_smc { 0 } else { s.peer_reason }),
            reason_text: reason_text(s, on_smc).to_owned(),
            role: match device.is_empty() {
                true => "",
                false if client => "CLNT",
                false => "SERV",
            },
            device,
            since: s.since_ms,
            tcp_rx_bytes: s.tcp_rx,
            tcp_tx_bytes: s.tcp_tx,
            ring_rx_bytes: s.ring_rx,
            ring_tx_bytes: s.ring_tx,
            switches: s.switches,
            interface: side.interface,
        }
    }

    /// One line of JSON with its newline.
    pub fn to_json_line(&self) -> String {
        // Strings and integers always serialise.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

impl Ends {
    /// What getsockname and getpeername say; raw system calls only.
    pub fn of_fd(fd: i32) -> Ends {
        // SAFETY: the closures pass on a buffer and its length as these calls want them.
        unsafe {
            Ends {
                local: name_by(|a, l| sys!(SYS_getsockname, fd, a, l).is_ok()),
                peer: name_by(|a, l| sys!(SYS_getpeername, fd, a, l).is_ok()),
            }
        }
    }
}

/// `ip:port` or `[ip6]:port`, without scope.
pub(super) fn address(a: &SocketAddr) -> String {
    match a.ip() {
        IpAddr::V4(ip) => format!("{ip}:{}", a.port()),
        IpAddr::V6(ip) => format!("[{ip}]:{}", a.port()),
    }
}

/// The state column for a TCP state of the kernel (`TCP_ESTABLISHED` and so on, 1 to 12).
pub(super) fn state_name(tcp: u8) -> &'static str {
    match tcp {
        1 => "ACTIVE",
        // SYN_SENT, SYN_RECV, NEW_SYN_RECV
        2 | 3 | 12 => "INIT",
        // FIN_WAIT1, FIN_WAIT2: nothing more goes to the peer
        4 | 5 => "PEERCLW1",
        // CLOSE_WAIT: nothing more comes from the peer
        8 => "APPLCLW1",
        // TIME_WAIT, LAST_ACK, CLOSING: neither
        6 | 9 | 11 => "APPLCLW2",
        10 => "LISTEN",
        _ => "CLOSED",
    }
}

fn code_text(code: u32) -> String {
    format!("0x{code:08x}")
}

fn reason_text(s: &Snapshot, on_smc: bool) -> &'static str {
    if on_smc {
        return "uses SMC";
    }
    match s.why() {
        Some(Why::NONE) if s.kind() == Some(Kind::Listener) => "listening",
        Some(why) => why.sentence(),
        None => {
            Reason::from_code(s.reason_code()).map_or("reason not known to this version", Reason::sentence)
        }
    }
}

fn own_comm() -> String {
    let mut name = [0u8; 16];
    let path = c"/proc/self/comm";
    let n = calls::open_at(libc::AT_FDCWD, path, libc::O_RDONLY, 0)
        .and_then(|fd| calls::read(fd.raw(), &mut name))
        .unwrap_or(0);
    String::from_utf8_lossy(&name[..n]).trim_end_matches('\n').to_owned()
}

/// The TCP state of a socket, first byte of TCP_INFO.
fn tcp_state(fd: i32) -> Option<u8> {
    let mut state = 0u8;
    let mut len = 1u32;
    // SAFETY: the kernel writes at most `len` bytes.
    let done = unsafe {
        sys!(
            SYS_getsockopt,
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            &mut state as *mut u8,
            &mut len as *mut u32
        )
    };
    done.ok().map(|_| state)
}

fn name_by(call: impl FnOnce(*mut libc::sockaddr_in6, *mut u32) -> bool) -> Option<SocketAddr> {
    let mut name = MaybeUninit::<libc::sockaddr_in6>::zeroed();
    let mut len = core::mem::size_of::<libc::sockaddr_in6>() as u32;
    if !call(name.as_mut_ptr(), &mut len) {
        return None;
    }
    // SAFETY: zeroed at first and then written by the kernel: integers throughout.
    let v6 = unsafe { name.assume_init() };
    match i32::from(v6.sin6_family) {
        libc::AF_INET => {
            // SAFETY: `sockaddr_in` is smaller and of the same alignment, and integers throughout.
            let v4 = unsafe { &*name.as_ptr().cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::from((ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::from((ip, u16::from_be(v6.sin6_port))))
        }
        _ => None,
    }
}
