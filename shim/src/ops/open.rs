//! Sockets that come to be, listen, connect and are accepted. Called after the real call; `errno` is kept by the hook.

use crate::fd_table::{self, Entry};
use crate::guard;
use libc::{c_int, sockaddr, socklen_t};
use smc_core::conn::Conn;
use smc_core::reason::{Detail, Reason, Why};
use smc_core::sys::sock;
use smc_core::{listener, options};

/// `fd` is a new AF_INET or AF_INET6 TCP socket.
pub unsafe extern "C" fn socket_created(fd: c_int) {
    fd_table::set(fd, Entry::Tcp(None));
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
    guard::protect((), || listener::opened(fd, detail));
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
    follow(fd, false, detail);
}

/// Puts a new connection into the table. With a detail, it stays on TCP.
pub(super) extern "C" fn follow(fd: c_int, active: bool, detail: Option<Detail>) {
    let why = detail.map(Why::new);
    if let Some(conn) = guard::protect(None, || Conn::open(fd, active, why)) {
        fd_table::set(fd, Entry::Conn(conn));
    }
}

/// The socket is no connection any more, but stays open.
fn forget(fd: c_int, conn: &'static Conn) {
    fd_table::replace_if(fd, Entry::Conn(conn), Entry::Tcp(detail_of(conn)));
    guard::protect((), || conn.close(fd));
}

/// connect(2) on `fd` (Tcp, Listener or Conn) is about to be called.
pub unsafe extern "C" fn connecting(fd: c_int, entry: Entry, addr: *const sockaddr, len: socklen_t) {
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
        _ => {}
    }
}

/// connect(2) has returned `ret`, with `error` as `errno` if that is -1, 0 otherwise.
pub unsafe extern "C" fn connected(
    fd: c_int,
    entry: Entry,
    addr: *const sockaddr,
    _len: socklen_t,
    ret: c_int,
    error: c_int,
) {
    // An interrupted connect goes on in the kernel, as one on a non-blocking socket does.
    let begun = ret == 0 || error == libc::EINPROGRESS || error == libc::EINTR;
    let dissolved = !addr.is_null() && c_int::from(unsafe { (*addr).sa_family }) == libc::AF_UNSPEC;
    if let (Entry::Tcp(detail), true, false) = (entry, begun, dissolved) {
        follow(fd, true, detail);
    }
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
