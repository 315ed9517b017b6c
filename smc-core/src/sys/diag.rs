//! sock_diag: who owns the other end of a TCP connection on this host.
//!
//! Layouts: include/uapi/linux/{netlink,sock_diag,inet_diag}.h. Only the exact lookup of one connection is used,
//! which any user may do for any socket of the network namespace.

use core::mem::size_of;

use super::sock::Endpoint;
use super::{fd, Errno, Result};

/// The socket found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// As the calling process's user namespace numbers it.
    pub uid: u32,
    /// The socket's inode; 0 when no process holds the socket any more.
    pub inode: u32,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// The number of the loopback interface in every network namespace (LOOPBACK_IFINDEX).
const LOOPBACK: u32 = 1;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;

#[repr(C)]
#[derive(Clone, Copy)]
struct NlMsg {
    len: u32,
    ty: u16,
    flags: u16,
    seq: u32,
    pid: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SockId {
    sport: [u8; 2],
    dport: [u8; 2],
    src: [u8; 16],
    dst: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

#[repr(C)]
struct Request {
    head: NlMsg,
    family: u8,
    protocol: u8,
    ext: u8,
    _pad: u8,
    states: u32,
    id: SockId,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Answer {
    family: u8,
    state: u8,
    timer: u8,
    retrans: u8,
    id: SockId,
    expires: u32,
    rqueue: u32,
    wqueue: u32,
    uid: u32,
    inode: u32,
}

/// Finds the TCP socket of this network namespace whose local address is `local` and whose peer is `peer`.
/// ENOENT: there is none, so the other end lives elsewhere (or behind address translation).
pub fn tcp_owner(local: &Endpoint, peer: &Endpoint) -> Result<Owner> {
    let mut id = SockId {
        sport: local.port.to_be_bytes(),
        dport: peer.port.to_be_bytes(),
        src: [0; 16],
        dst: [0; 16],
        // A socket bound to a device is only found with it. What stays on the host arrives by the loopback device.
        interface: LOOPBACK,
        cookie: [u32::MAX; 2],
    };
    // A v4-mapped pair is looked up as IPv4, which finds dual-stack sockets too.
    let family = match (local.v4(), peer.v4()) {
        (Some(l), Some(p)) => {
            id.src[..4].copy_from_slice(&l);
            id.dst[..4].copy_from_slice(&p);
            libc::AF_INET
        }
        _ => {
            id.src = local.ip;
            id.dst = peer.ip;
            libc::AF_INET6
        }
    };
    let request = Request {
        head: NlMsg {
            len: size_of::<Request>() as u32,
            ty: SOCK_DIAG_BY_FAMILY,
            flags: NLM_F_REQUEST,
            seq: 1,
            pid: 0,
        },
        family: family as u8,
        protocol: libc::IPPROTO_TCP as u8,
        ext: 0,
        _pad: 0,
        states: u32::MAX,
        id,
    };
    // SAFETY: integer arguments only.
    let sock = unsafe {
        sys!(SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG)
    }? as i32;
    let result = exchange(sock, &request);
    fd::close(sock);
    result
}

fn exchange(sock: i32, request: &Request) -> Result<Owner> {
    let mut buf = [0u64; 64];
    // SAFETY: the request and the buffer outlive the calls. The kernel answers netlink requests within the send, so
    // the receive does not wait; MSG_DONTWAIT makes sure.
    let n = unsafe {
        sys!(SYS_sendto, sock, request as *const _, size_of::<Request>(), 0, 0, 0)?;
        sys!(SYS_recvfrom, sock, buf.as_mut_ptr(), size_of_val(&buf), libc::MSG_DONTWAIT, 0, 0)?
    };
    if n < size_of::<NlMsg>() + size_of::<i32>() {
        return Err(Errno(libc::EBADMSG));
    }
    // SAFETY: the buffer is aligned for these structs, larger than both, and any bit pattern is valid for them.
    unsafe {
        let head = *(buf.as_ptr() as *const NlMsg);
        let body = (buf.as_ptr() as *const u8).add(size_of::<NlMsg>());
        match head.ty {
            NLMSG_ERROR => {
                let e = *(body as *const i32);
                Err(Errno(if e < 0 { -e } else { libc::EBADMSG }))
            }
            SOCK_DIAG_BY_FAMILY if n >= size_of::<NlMsg>() + size_of::<Answer>() => {
                let a = *(body as *const Answer);
                Ok(Owner { uid: a.uid, inode: a.inode })
            }
            _ => Err(Errno(libc::EBADMSG)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    fn both_ends_are_found(address: &str) {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        for (mine, other) in [(&client, &server), (&server, &client)] {
            let local = sys::sock::local(mine.as_raw_fd()).unwrap();
            let peer = sys::sock::peer(mine.as_raw_fd()).unwrap();
            let owner = tcp_owner(&peer, &local).unwrap();
            assert_eq!(owner.uid, sys::geteuid());
            assert_eq!(owner.inode as u64, fd::stat(other.as_raw_fd()).unwrap().st_ino);
        }
    }

    #[test]
    fn finds_the_other_end_over_ipv4() {
        both_ends_are_found("127.0.0.1:0");
    }

    #[test]
    fn finds_the_other_end_over_ipv6() {
        both_ends_are_found("[::1]:0");
    }

    #[test]
    fn says_enoent_where_there_is_none() {
        let e = Endpoint { ip: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1], port: 1 };
        let f = Endpoint { port: 2, ..e };
        assert_eq!(tcp_owner(&e, &f), Err(Errno(libc::ENOENT)));
    }
}
