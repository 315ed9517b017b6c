//! Sockets that come to be, listen, connect and are accepted. Called after the real call; `errno` is kept by the hook.

use crate::fd_table::{self, Entry};
use crate::{errno, guard, real};
use libc::{c_int, sockaddr, socklen_t};
use smc_core::capability::{self, Peer};
use smc_core::conn::remote::Decision;
use smc_core::conn::wait::Patience;
use smc_core::conn::{Conn, Far};
use smc_core::reason::{Detail, Reason, Why};
use smc_core::remote::abi;
use smc_core::sys::{sock, Errno};
use smc_core::{listener, options, remote};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `fd` is a new AF_INET or AF_INET6 TCP socket.
pub unsafe extern "C" fn socket_created(fd: c_int) {
    fd_table::set(fd, Entry::Tcp(None));
}

/// listen(2) on `fd` is about to be called: what it accepts may go over SMC-R. `errno` is kept by the hook.
pub unsafe extern "C" fn about_to_listen(fd: c_int, entry: Entry) {
    // One that has a reason to stay on TCP need not promise anything.
    if let Entry::Tcp(None) = entry {
        crate::remote::ask(fd, None);
    }
}

/// listen(2) on `fd` has succeeded. The entry is None for sockets that came from elsewhere: any family then.
pub unsafe extern "C" fn listening(fd: c_int, entry: Entry) {
    match entry {
        Entry::Tcp(detail) => listens(fd, detail),
        Entry::None if sock::is_tcp(fd) => listens(fd, found_on(fd)),
        Entry::Conn(conn) => {
            forget(fd, conn);
            listens(fd, detail_of(conn));
        }
        _ => {}
    }
}

/// `fd` goes into the table as a listener; what it accepts stays on TCP if there is a detail.
fn listens(fd: c_int, detail: Option<Detail>) {
    fd_table::set(fd, Entry::Listener(detail));
    guard::protect((), || {
        let offers = remote::is_loaded() && capability::wanted(fd) == Ok(true);
        listener::opened(fd, detail, offers);
    });
}

/// Why the connections of a listener that came from elsewhere are to stay on TCP.
fn found_on(fd: c_int) -> Option<Detail> {
    guard::protect(None, || options::found::on_listener(fd)).map(|_| Detail::OptionFound)
}

/// The option that keeps a socket on TCP which is no connection any more.
fn detail_of(conn: &'static Conn) -> Option<Detail> {
    conn.pinned().map(|why| why.detail).filter(|detail| detail.reason() == Reason::OptUnsupp)
}

/// accept(2) on `listener` has returned `fd`. The entry is None for listeners that came from elsewhere: any family
/// then.
pub unsafe extern "C" fn accepted(listener: c_int, entry: Entry, fd: c_int) {
    let detail = match entry {
        Entry::Listener(detail) => detail,
        Entry::None if sock::is_tcp(listener) => {
            let detail = found_on(listener);
            listens(listener, detail);
            detail
        }
        Entry::None => {
            fd_table::set(listener, Entry::NotTcp);
            return;
        }
        _ => return,
    };
    follow_as(fd, false, detail, if waits_for_handshake(fd) { Far::Capable } else { Far::No });
}

/// accept4(2) on a listener that promises SMC (`flags` negative: accept(2)). A cancellation point.
pub unsafe extern "C" fn accept(
    listener: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
) -> c_int {
    loop {
        let number = match accept_begins(listener) {
            listener::Accept::Taken(taken) => {
                let fd = unsafe { give(listener, &taken, addr, len, flags.max(0)) };
                if fd >= 0 {
                    return fd;
                }
                continue;
            }
            listener::Accept::Kernel(number) => number,
        };
        let fd = match flags {
            ..=-1 => unsafe { real::accept(listener, addr, len) },
            flags => unsafe { real::accept4(listener, addr, len, flags) },
        };
        let error = errno::get();
        if number != 0 {
            accept_ends(number);
        }
        // The library's own accept, in another process, may have made the socket non-blocking for an instant.
        if fd < 0 && error == libc::EAGAIN && number != 0 && would_wait(listener) {
            continue;
        }
        if fd >= 0 {
            unsafe {
                replaced(fd);
                accepted(listener, fd_table::get(listener), fd);
            }
        }
        errno::set(error);
        return fd;
    }
}

/// What the table has for a new descriptor is about one that was closed unseen.
unsafe extern "C" fn replaced(fd: c_int) {
    if !fd_table::get(fd).is_none() {
        unsafe { super::fd::stale(fd) };
    }
}

extern "C" fn accept_begins(fd: c_int) -> listener::Accept {
    guard::protect(listener::Accept::Kernel(0), || listener::accept_begins(fd))
}

extern "C" fn accept_ends(number: u64) {
    guard::protect((), || listener::accept_ends(number));
}

/// Whether an accept on the socket waits without limit.
extern "C" fn would_wait(fd: c_int) -> bool {
    smc_core::sys::fd::nonblocking(fd) == Ok(false) && sock::timeout(fd, libc::SO_RCVTIMEO) == Ok(None)
}

/// Makes a connection that the library has accepted the program's. Negative: it is gone already.
unsafe extern "C" fn give(
    listener: c_int,
    taken: &abi::Taken,
    addr: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
) -> c_int {
    let named = addr.is_null() || unsafe { libc::getpeername(taken.fd, addr, len) } == 0;
    let fd = if named { duplicate(taken.fd, flags) } else { -1 };
    if fd >= 0 {
        unsafe { replaced(fd) };
        let detail = match fd_table::get(listener) {
            Entry::Listener(detail) => detail,
            _ => None,
        };
        let far = match taken.begun.number {
            0 => Far::No,
            number => Far::Begun { number, data: taken.begun.data, room: taken.begun.room },
        };
        follow_as(fd, false, detail, far);
    }
    guard::protect((), || listener::given(taken.fd));
    fd
}

/// The lowest free number, as accept4(2) with these flags would give.
extern "C" fn duplicate(fd: c_int, flags: c_int) -> c_int {
    let command = if flags & libc::SOCK_CLOEXEC != 0 { libc::F_DUPFD_CLOEXEC } else { libc::F_DUPFD };
    // SAFETY: integer arguments only.
    let Ok(new) = (unsafe { smc_core::sys!(SYS_fcntl, fd, command, 0) }) else { return -1 };
    if flags & libc::SOCK_NONBLOCK != 0 {
        // SAFETY: as above; nothing else is set on a socket just accepted.
        let _ = unsafe { smc_core::sys!(SYS_fcntl, new, libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK) };
    }
    new as c_int
}

/// Whether the peer of an established connection has sent the SMC option that this end asked for.
extern "C" fn waits_for_handshake(fd: c_int) -> bool {
    remote::is_loaded() && guard::protect(false, || capability::peer(fd) == Ok(Peer::Capable))
}

/// Puts a new connection into the table. With a detail, it stays on TCP.
pub(super) extern "C" fn follow(fd: c_int, active: bool, detail: Option<Detail>) {
    follow_as(fd, active, detail, Far::No);
}

extern "C" fn follow_as(fd: c_int, active: bool, detail: Option<Detail>, far: Far) {
    let why = detail.map(Why::new);
    if let Some(conn) = guard::protect(None, || Conn::open(fd, active, why, far)) {
        fd_table::set(fd, Entry::Conn(conn));
    }
}

/// The socket is no connection any more, but stays open.
fn forget(fd: c_int, conn: &'static Conn) {
    fd_table::replace_if(fd, Entry::Conn(conn), Entry::Tcp(detail_of(conn)));
    guard::protect((), || conn.close(fd));
}

/// The address that a program has passed, if it is one of the Internet's.
unsafe fn address(addr: *const sockaddr, len: socklen_t) -> Option<SocketAddr> {
    if addr.is_null() || (len as usize) < core::mem::size_of::<libc::sockaddr_in>() {
        return None;
    }
    match c_int::from(unsafe { (*addr).sa_family }) {
        libc::AF_INET => {
            let v4 = unsafe { addr.cast::<libc::sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        // RFC 2133's form, without a scope, is accepted as well.
        libc::AF_INET6 if len >= 24 => {
            let ip: [u8; 16] = unsafe { addr.cast::<u8>().add(8).cast::<[u8; 16]>().read_unaligned() };
            Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)), 0))
        }
        _ => None,
    }
}

/// connect(2) on `fd` (Tcp, Listener or Conn) is about to be called. Returns whether the SYN will have the SMC option.
pub unsafe extern "C" fn connecting(fd: c_int, entry: Entry, addr: *const sockaddr, len: socklen_t) -> bool {
    // AF_UNSPEC dissolves the connection; the socket can then be connected anew.
    let dissolves = len as usize >= core::mem::size_of::<libc::sa_family_t>()
        && !addr.is_null()
        && c_int::from(unsafe { (*addr).sa_family }) == libc::AF_UNSPEC;
    match entry {
        Entry::Conn(conn) if dissolves => forget(fd, conn),
        Entry::Listener(detail) if dissolves => {
            fd_table::set(fd, Entry::Tcp(detail));
            guard::protect((), || listener::closed(fd));
        }
        // A reason that was found before is told by a handshake that declines; one that is known now needs none.
        Entry::Tcp(None) => {
            return unsafe { address(addr, len) }.is_some_and(|peer| crate::remote::ask(fd, Some(peer)))
        }
        // In an epoll instance already, before it is connected.
        Entry::Conn(conn) if !conn.is_pinned() && !conn.is_moved() => {
            return unsafe { address(addr, len) }.is_some_and(|peer| crate::remote::ask(fd, Some(peer)))
        }
        _ => {}
    }
    false
}

/// connect(2) on a connection whose SMC-R handshake is not over. A cancellation point.
pub unsafe extern "C" fn connect_again(
    conn: &'static Conn,
    fd: c_int,
    addr: *const sockaddr,
    len: socklen_t,
) -> c_int {
    match unsafe { wait_for_decision(conn, fd) } {
        0 => unsafe { real::connect(fd, addr, len) },
        libc::EINPROGRESS => {
            errno::set(libc::EALREADY);
            -1
        }
        error => {
            errno::set(error);
            -1
        }
    }
}

/// Waits until it is known what carries a connection, as a connect that blocks does. Returns 0, or an error. A cancellation point.
pub(super) unsafe extern "C" fn wait_for_decision(conn: &'static Conn, fd: c_int) -> c_int {
    let mut patience = Patience::default();
    loop {
        match decide(conn, fd, &mut patience) {
            Decision::Decided => return take_error(conn),
            Decision::Fail(Errno(libc::EAGAIN)) => return libc::EINPROGRESS,
            Decision::Fail(Errno(error)) => return error,
            Decision::Wait(sleep) => {
                if unsafe { super::stream::sleep(conn, &sleep, false) } == super::stream::Slept::Interrupted {
                    return libc::EINTR;
                }
            }
        }
    }
}

extern "C" fn decide(conn: &'static Conn, fd: c_int, patience: &mut Patience) -> Decision {
    guard::protect(Decision::Fail(Errno(libc::EIO)), || conn.decide(fd, 0, libc::SO_SNDTIMEO, patience))
}

/// The error of a handshake that broke off.
extern "C" fn take_error(conn: &'static Conn) -> c_int {
    guard::protect(0, || conn.connect_error())
}

/// connect(2) has returned `ret`, with `error` as `errno` if that is -1, 0 otherwise; the SYN had the SMC option if that was `asked`.
/// Returns the error with which the call is to fail, or 0 for what connect(2) said. A cancellation point.
pub unsafe extern "C" fn connected(
    fd: c_int,
    entry: Entry,
    addr: *const sockaddr,
    _len: socklen_t,
    ret: c_int,
    error: c_int,
    asked: bool,
) -> c_int {
    // An interrupted connect goes on in the kernel, as one on a non-blocking socket does.
    let begun = ret == 0 || error == libc::EINPROGRESS || error == libc::EINTR;
    let dissolved = !addr.is_null() && c_int::from(unsafe { (*addr).sa_family }) == libc::AF_UNSPEC;
    if !begun || dissolved {
        return 0;
    }
    let far = match asked {
        true if ret != 0 => Far::Connecting,
        true if waits_for_handshake(fd) => Far::Capable,
        _ => Far::No,
    };
    match entry {
        Entry::Tcp(detail) => follow_as(fd, true, detail, far),
        Entry::Conn(conn) if far != Far::No => connects(conn, fd, far == Far::Connecting),
        _ => {}
    }
    match (far, fd_table::get(fd)) {
        (Far::Capable, Entry::Conn(conn)) => unsafe { wait_for_decision(conn, fd) },
        _ => 0,
    }
}

extern "C" fn connects(conn: &'static Conn, fd: c_int, connecting: bool) {
    guard::protect((), || conn.connects_far(fd, connecting));
}

/// A send with MSG_FASTOPEN on `fd` (Tcp) has returned `n`, with `error` as `errno` if that is -1: where it connected the
/// socket, the connection stays on TCP.
pub unsafe extern "C" fn fast_opened(fd: c_int, entry: Entry, n: isize, error: c_int) {
    if let (Entry::Tcp(_), true) = (entry, n >= 0 || error == libc::EINPROGRESS) {
        follow(fd, true, Some(Detail::FastOpen));
    }
}

/// Keeps the connection on TCP, or brings it back there as far as this end can.
pub(super) extern "C" fn pin(conn: &'static Conn, detail: Detail) {
    guard::protect((), || conn.pin(Why::new(detail)));
}
