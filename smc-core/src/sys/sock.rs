//! Sockets: addresses, what TCP knows of a connection, and messages with descriptors over Unix sockets.

use core::mem::{size_of, zeroed};

use super::fd::{self, OwnFd};
use super::{Errno, Result};

/// An IPv4 or IPv6 endpoint; IPv4 is kept v4-mapped, so that both ends of a connection between an AF_INET and a
/// dual-stack AF_INET6 socket write it the same way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Endpoint {
    /// Network byte order.
    pub ip: [u8; 16],
    /// Host byte order.
    pub port: u16,
}

impl Endpoint {
    /// The IPv4 address in network byte order, if it is a v4-mapped one.
    pub fn v4(&self) -> Option<[u8; 4]> {
        let (prefix, v4) = self.ip.split_at(12);
        (prefix == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]).then(|| [v4[0], v4[1], v4[2], v4[3]])
    }

    pub fn is_loopback(&self) -> bool {
        match self.v4() {
            Some(v4) => v4[0] == 127,
            None => self.ip == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        }
    }

    fn from_sockaddr(sa: &libc::sockaddr_storage) -> Option<Endpoint> {
        match sa.ss_family as i32 {
            libc::AF_INET => {
                // SAFETY: the family says that the storage holds a sockaddr_in.
                let sin = unsafe { &*(sa as *const _ as *const libc::sockaddr_in) };
                let v4 = sin.sin_addr.s_addr.to_ne_bytes();
                let mut ip = [0u8; 16];
                ip[10] = 0xff;
                ip[11] = 0xff;
                ip[12..].copy_from_slice(&v4);
                Some(Endpoint { ip, port: u16::from_be(sin.sin_port) })
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that the storage holds a sockaddr_in6.
                let sin6 = unsafe { &*(sa as *const _ as *const libc::sockaddr_in6) };
                Some(Endpoint { ip: sin6.sin6_addr.s6_addr, port: u16::from_be(sin6.sin6_port) })
            }
            _ => None,
        }
    }
}

fn name_of(fd: i32, peer: bool) -> Result<Endpoint> {
    // SAFETY: all-zero is a valid sockaddr_storage; the kernel writes at most `len` bytes.
    unsafe {
        let mut sa: libc::sockaddr_storage = zeroed();
        let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let (sap, lenp) = (&mut sa as *mut _, &mut len as *mut _);
        if peer {
            sys!(SYS_getpeername, fd, sap, lenp)?;
        } else {
            sys!(SYS_getsockname, fd, sap, lenp)?;
        }
        Endpoint::from_sockaddr(&sa).ok_or(Errno(libc::EAFNOSUPPORT))
    }
}

pub fn local(fd: i32) -> Result<Endpoint> {
    name_of(fd, false)
}

pub fn peer(fd: i32) -> Result<Endpoint> {
    name_of(fd, true)
}

/// `getsockopt` of a plain-old-data value.
///
/// # Safety
/// Any bit pattern must be a valid `T`.
unsafe fn option<T>(fd: i32, level: i32, name: i32) -> Result<T> {
    // SAFETY: promised by the caller for zeros; the kernel writes at most `len` bytes.
    unsafe {
        let mut v: T = zeroed();
        let mut len = size_of::<T>() as libc::socklen_t;
        sys!(SYS_getsockopt, fd, level, name, &mut v as *mut _, &mut len as *mut _)?;
        Ok(v)
    }
}

/// An `int` option.
pub fn int_option(fd: i32, level: i32, name: i32) -> Result<i32> {
    // SAFETY: any bit pattern is an i32.
    unsafe { option(fd, level, name) }
}

/// SO_RCVTIMEO or SO_SNDTIMEO in nanoseconds; `None` when no timeout is set.
pub fn timeout(fd: i32, name: i32) -> Result<Option<u64>> {
    // SAFETY: any bit pattern is a timeval.
    let tv: libc::timeval = unsafe { option(fd, libc::SOL_SOCKET, name) }?;
    let ns = tv.tv_sec as u64 * 1_000_000_000 + tv.tv_usec as u64 * 1000;
    Ok((ns != 0).then_some(ns))
}

/// TCP_NODELAY for a moment, on a socket whose program has not set it.
pub struct NoDelay(Option<i32>);

impl NoDelay {
    pub fn on(fd: i32) -> NoDelay {
        let was_off = int_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY) == Ok(0);
        NoDelay(
            (was_off && set_int_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1).is_ok()).then_some(fd),
        )
    }
}

impl Drop for NoDelay {
    fn drop(&mut self) {
        if let Some(fd) = self.0 {
            let _ = set_int_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 0);
        }
    }
}

/// Sets an `int` option.
pub fn set_int_option(fd: i32, level: i32, name: i32, value: i32) -> Result<()> {
    // SAFETY: the value outlives the call.
    unsafe { sys!(SYS_setsockopt, fd, level, name, &value as *const i32, size_of::<i32>()) }.map(|_| ())
}

/// shutdown(2).
pub fn shutdown(fd: i32, how: i32) -> Result<()> {
    // SAFETY: integer arguments only.
    unsafe { sys!(SYS_shutdown, fd, how) }.map(|_| ())
}

/// Makes the kernel reset the connection when its last descriptor is closed (SO_LINGER with no time).
pub fn reset_at_close(fd: i32) -> Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let len = size_of::<libc::linger>();
    // SAFETY: the value outlives the call.
    unsafe { sys!(SYS_setsockopt, fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger as *const _, len) }
        .map(|_| ())
}

/// The two ends of a new TCP connection over the loopback interface, with TCP_NODELAY and FD_CLOEXEC.
pub fn loopback_pair(v6: bool) -> Result<(i32, i32)> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: integer arguments only.
    let socket =
        || unsafe { sys!(SYS_socket, family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) }.map(|fd| fd as i32);
    let listener = socket()?;
    let pair = socket().and_then(|client| {
        connected_to(listener, client, v6)
            .map(|accepted| (accepted, client))
            .inspect_err(|_| fd::close(client))
    });
    fd::close(listener);
    pair
}

/// Connects `client` to the fresh `listener`; the accepted socket.
fn connected_to(listener: i32, client: i32, v6: bool) -> Result<i32> {
    // SAFETY: all-zero is a valid address of either family; only the part of its family is read and written.
    unsafe {
        let mut address: libc::sockaddr_in6 = zeroed();
        let mut len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        if v6 {
            address.sin6_family = libc::AF_INET6 as _;
            address.sin6_addr.s6_addr[15] = 1;
        } else {
            let v4 = &mut *(&raw mut address).cast::<libc::sockaddr_in>();
            v4.sin_family = libc::AF_INET as _;
            v4.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
            len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
        sys!(SYS_bind, listener, &address as *const _, len)?;
        sys!(SYS_listen, listener, 4)?;
        sys!(SYS_getsockname, listener, &mut address as *mut _, &mut len as *mut _)?;
        sys!(SYS_connect, client, &address as *const _, len)?;
    }
    let us = local(client)?;
    // Somebody else may have been quicker.
    for _ in 0..4 {
        // SAFETY: null addresses. A connection is waiting, at the latest the one made above.
        let accepted = unsafe { sys!(SYS_accept4, listener, 0, 0, libc::SOCK_CLOEXEC) }? as i32;
        if peer(accepted) == Ok(us) {
            for fd in [accepted, client] {
                let _ = set_int_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
            }
            return Ok(accepted);
        }
        fd::close(accepted);
    }
    Err(Errno(libc::ECONNABORTED))
}

/// Two Unix stream sockets, connected, with FD_CLOEXEC.
pub fn unix_pair() -> Result<(i32, i32)> {
    let mut fds = [0i32; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: two descriptors are written.
    unsafe { sys!(SYS_socketpair, libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }?;
    Ok((fds[0], fds[1]))
}

/// The identity of the process at the other end of a Unix socket, as it was at its connect or listen.
pub fn peer_credentials(fd: i32) -> Result<libc::ucred> {
    // SAFETY: any bit pattern is a ucred.
    unsafe { option(fd, libc::SOL_SOCKET, libc::SO_PEERCRED) }
}

/// Whether `fd` is a TCP stream socket over IPv4 or IPv6.
pub fn is_tcp(fd: i32) -> bool {
    int_option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL) == Ok(libc::IPPROTO_TCP)
        && int_option(fd, libc::SOL_SOCKET, libc::SO_TYPE) == Ok(libc::SOCK_STREAM)
}

/// The layout of `struct tcp_info` as far as it is read here (include/uapi/linux/tcp.h; append-only).
#[repr(C)]
struct TcpInfo {
    state: u8,
    _head: [u8; 7],
    _words: [u32; 24],
    _rates: [u64; 2],
    bytes_acked: u64,
    bytes_received: u64,
}

/// Which ends of a connection have sent a FIN, as the kernel of one of them has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fins {
    pub own: bool,
    pub peers: bool,
}

impl TcpInfo {
    /// `None`: there is no connection (yet, or any more). The numbers are the kernel's (include/net/tcp_states.h).
    fn fins(&self) -> Option<Fins> {
        const ESTABLISHED: u8 = 1;
        const FIN_WAIT1: u8 = 4;
        const FIN_WAIT2: u8 = 5;
        const TIME_WAIT: u8 = 6;
        const CLOSE_WAIT: u8 = 8;
        const LAST_ACK: u8 = 9;
        const CLOSING: u8 = 11;
        let (own, peers) = match self.state {
            ESTABLISHED => (false, false),
            FIN_WAIT1 | FIN_WAIT2 => (true, false),
            CLOSE_WAIT => (false, true),
            LAST_ACK | CLOSING | TIME_WAIT => (true, true),
            _ => return None,
        };
        Some(Fins { own, peers })
    }
}

/// Which ends have shut down; ENOTCONN without a connection.
pub fn fins(fd: i32) -> Result<Fins> {
    tcp_info(fd)?.fins().ok_or(Errno(libc::ENOTCONN))
}

/// How often a count is asked for that does not stand still.
const COUNT_TRIES: usize = 16;

/// Bytes of the stream that were written to a TCP socket, whichever process did it. `active`: this end called connect(),
/// whose SYN the kernel counts as one byte acked. What is being written meanwhile is counted in part. ENOTCONN: this end
/// has shut down, or there is no connection; EAGAIN: acknowledgements came all the time.
pub fn tcp_written(fd: i32, active: bool) -> Result<u64> {
    for _ in 0..COUNT_TRIES {
        let before = tcp_info(fd)?;
        let queued = ioctl_int(fd, libc::TIOCOUTQ)?;
        let after = tcp_info(fd)?;
        if after.fins().is_none_or(|fins| fins.own) {
            return Err(Errno(libc::ENOTCONN));
        }
        // What is acknowledged between the questions would be counted twice or not at all.
        if before.bytes_acked == after.bytes_acked {
            return Ok((after.bytes_acked + queued).wrapping_sub(active as u64));
        }
    }
    Err(Errno(libc::EAGAIN))
}

/// Bytes of the stream that were read from a TCP socket, as [`tcp_written`]. ENOTCONN: the peer has shut down, or there is
/// no connection; EAGAIN: bytes came all the time.
pub fn tcp_read(fd: i32) -> Result<u64> {
    for _ in 0..COUNT_TRIES {
        let before = tcp_info(fd)?;
        let queued = queued(fd)?;
        let after = tcp_info(fd)?;
        // A FIN would count as a byte.
        if after.fins().is_none_or(|fins| fins.peers) {
            return Err(Errno(libc::ENOTCONN));
        }
        if before.bytes_received == after.bytes_received {
            return Ok(after.bytes_received.wrapping_sub(queued));
        }
    }
    Err(Errno(libc::EAGAIN))
}

fn tcp_info(fd: i32) -> Result<TcpInfo> {
    // SAFETY: any bit pattern is a TcpInfo.
    unsafe { option(fd, libc::IPPROTO_TCP, libc::TCP_INFO) }
}

/// Whether a TCP socket has, or had, a connection: established, or closed by the peer only.
pub fn is_established(fd: i32) -> bool {
    const TCP_ESTABLISHED: u8 = 1;
    const TCP_CLOSE_WAIT: u8 = 8;
    tcp_info(fd).is_ok_and(|info| matches!(info.state, TCP_ESTABLISHED | TCP_CLOSE_WAIT))
}

/// Bytes in the receive queue of a socket (SIOCINQ).
pub fn queued(fd: i32) -> Result<u64> {
    ioctl_int(fd, libc::FIONREAD)
}

/// Whether the next byte to be read from the kernel's queue follows urgent data (SIOCATMARK).
pub fn at_mark(fd: i32) -> bool {
    /// include/uapi/asm-generic/sockios.h; libc has no name for it.
    const SIOCATMARK: libc::c_ulong = 0x8905;
    ioctl_int(fd, SIOCATMARK) == Ok(1)
}

/// Sends what TCP holds back, corked or not: setting TCP_NODELAY does (tcp(7)).
pub fn push(fd: i32) {
    let was = int_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY);
    let _ = set_int_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    if was == Ok(0) {
        let _ = set_int_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 0);
    }
}

fn ioctl_int(fd: i32, request: libc::c_ulong) -> Result<u64> {
    let mut v = 0i32;
    // SAFETY: these requests write one int.
    unsafe { sys!(SYS_ioctl, fd, request, &mut v as *mut i32) }?;
    Ok(v as u64)
}

fn unix_name(name: &[u8]) -> (libc::sockaddr_un, usize) {
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut sun: libc::sockaddr_un = unsafe { zeroed() };
    sun.sun_family = libc::AF_UNIX as u16;
    // The first byte stays 0: the name lives in the abstract namespace, which belongs to the network namespace.
    for (to, from) in sun.sun_path.iter_mut().skip(1).zip(name) {
        *to = *from as libc::c_char;
    }
    (sun, core::mem::offset_of!(libc::sockaddr_un, sun_path) + 1 + name.len())
}

const UNIX_TYPE: i32 = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;

fn unix_socket() -> Result<OwnFd> {
    // SAFETY: integer arguments only.
    let fd = unsafe { sys!(SYS_socket, libc::AF_UNIX, UNIX_TYPE, 0) }?;
    OwnFd::adopt(fd as i32)
}

/// A non-blocking listener under an abstract name.
pub fn unix_listen(name: &[u8]) -> Result<OwnFd> {
    let fd = unix_socket()?;
    let (sun, len) = unix_name(name);
    // SAFETY: the address outlives the call.
    unsafe {
        sys!(SYS_bind, fd.raw(), &sun as *const _, len)?;
        sys!(SYS_listen, fd.raw(), 1)?;
    }
    Ok(fd)
}

/// Connects to an abstract name; never blocks.
pub fn unix_connect(name: &[u8]) -> Result<OwnFd> {
    let fd = unix_socket()?;
    let (sun, len) = unix_name(name);
    // SAFETY: the address outlives the call.
    unsafe { sys!(SYS_connect, fd.raw(), &sun as *const _, len) }?;
    Ok(fd)
}

/// Takes a waiting connection of [`unix_listen`]; EAGAIN if there is none.
pub fn unix_accept(listener: i32) -> Result<OwnFd> {
    // SAFETY: null addresses are allowed.
    let fd = unsafe { sys!(SYS_accept4, listener, 0, 0, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) }?;
    OwnFd::adopt(fd as i32)
}

/// Most descriptors that one rendezvous message carries.
pub const MAX_FDS: usize = 3;
const CMSG_SPACE: usize = 64;

#[repr(C, align(8))]
struct ControlBuffer([u8; CMSG_SPACE]);

/// Sends `bytes` as one message with `fds` attached; never blocks, never raises SIGPIPE.
pub fn send_with_fds(sock: i32, bytes: &[u8], fds: &[i32]) -> Result<()> {
    let mut control = ControlBuffer([0; CMSG_SPACE]);
    let mut iov = libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() };
    // SAFETY: all-zero is a valid msghdr; the control buffer is aligned and large enough for MAX_FDS descriptors,
    // which is checked; everything outlives the call.
    unsafe {
        let mut msg: libc::msghdr = zeroed();
        msg.msg_iov = &mut iov;
        msg.msg_iovlen = 1;
        if !fds.is_empty() {
            if fds.len() > MAX_FDS {
                return Err(Errno(libc::EINVAL));
            }
            let len = core::mem::size_of_val(fds) as u32;
            msg.msg_control = control.0.as_mut_ptr() as *mut _;
            msg.msg_controllen = libc::CMSG_SPACE(len) as _;
            let c = libc::CMSG_FIRSTHDR(&msg);
            (*c).cmsg_level = libc::SOL_SOCKET;
            (*c).cmsg_type = libc::SCM_RIGHTS;
            (*c).cmsg_len = libc::CMSG_LEN(len) as _;
            core::ptr::copy_nonoverlapping(fds.as_ptr() as *const u8, libc::CMSG_DATA(c), len as usize);
        }
        sys!(SYS_sendmsg, sock, &msg as *const _, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)?;
    }
    Ok(())
}

/// Receives one message; descriptors that came along are put into `fds`. Returns the bytes and the count of
/// descriptors. More than [`MAX_FDS`] or a truncated message is EBADMSG, and all of its descriptors are closed.
pub fn receive_with_fds(sock: i32, bytes: &mut [u8], fds: &mut [Option<OwnFd>; MAX_FDS]) -> Result<usize> {
    let mut control = ControlBuffer([0; CMSG_SPACE]);
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr() as *mut _, iov_len: bytes.len() };
    let (mut bad, mut full) = (false, false);
    // SAFETY: all-zero is a valid msghdr; the kernel stays within the buffers given; the control messages are
    // walked with the CMSG macros' own checks, and their data read unaligned.
    let n = unsafe {
        let mut msg: libc::msghdr = zeroed();
        msg.msg_iov = &mut iov;
        msg.msg_iovlen = 1;
        msg.msg_control = control.0.as_mut_ptr() as *mut _;
        msg.msg_controllen = CMSG_SPACE as _;
        let n = sys!(SYS_recvmsg, sock, &mut msg as *mut _, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)?;
        bad |= msg.msg_flags & libc::MSG_TRUNC != 0;
        let cut = msg.msg_flags & libc::MSG_CTRUNC != 0;
        let mut slot = 0;
        let mut c = libc::CMSG_FIRSTHDR(&msg);
        while !c.is_null() {
            if (*c).cmsg_level == libc::SOL_SOCKET && (*c).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*c).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<i32>();
                for i in 0..count {
                    let fd = (libc::CMSG_DATA(c) as *const i32).add(i).read_unaligned();
                    match fds.get_mut(slot) {
                        Some(place) => {
                            *place = OwnFd::adopt(fd).ok();
                            full |= place.is_none();
                        }
                        None => {
                            bad = true;
                            super::fd::close(fd);
                        }
                    }
                    slot += 1;
                }
            }
            c = libc::CMSG_NXTHDR(&msg, c);
        }
        // There was room for more than came: the kernel had no numbers for them. Otherwise too many were sent.
        full |= cut && slot < MAX_FDS;
        bad |= cut && !full;
        n
    };
    if bad || full {
        fds.iter_mut().for_each(|f| *f = None);
        return Err(Errno(if bad { libc::EBADMSG } else { libc::EMFILE }));
    }
    Ok(n)
}
