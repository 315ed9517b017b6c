//! Sockets that come to be, listen, connect and are accepted. Called after the real call; `errno` is kept by the hook.

use crate::fd_table::{self, Entry};
use crate::guard;
use libc::{c_int, sockaddr, socklen_t};
use smc_core::conn::Conn;
use smc_core::sys::sock;
use smc_core::{listener, reason};

/// `fd` is a new AF_INET or AF_INET6 TCP socket.
pub unsafe extern "C" fn socket_created(fd: c_int) {
    fd_table::set(fd, Entry::Tcp);
}

/// listen(2) on `fd` has succeeded. The entry is None for sockets that came from elsewhere: any family then.
pub unsafe extern "C" fn listening(fd: c_int, entry: Entry) {
    let tcp = match entry {
        Entry::Tcp => true,
        Entry::Listener => return,
        Entry::None => sock::is_tcp(fd),
        Entry::Conn(conn) => {
            forget(fd, conn);
            true
        }
        _ => false,
    };
    if tcp {
        fd_table::set(fd, Entry::Listener);
        guard::protect((), || listener::opened(fd));
    }
}

/// accept(2) on `listener` has returned `fd`. The entry is None for listeners that came from elsewhere: any family
/// then.
pub unsafe extern "C" fn accepted(listener: c_int, entry: Entry, fd: c_int) {
    match entry {
        Entry::Listener => {}
        Entry::None if sock::is_tcp(listener) => {
            fd_table::set(listener, Entry::Listener);
            guard::protect((), || listener::opened(listener));
        }
        Entry::None => {
            fd_table::set(listener, Entry::NotTcp);
            return;
        }
        _ => return,
    }
    follow(fd, false);
}

/// Puts a new connection into the table.
pub(super) extern "C" fn follow(fd: c_int, active: bool) {
    if let Some(conn) = guard::protect(None, || Conn::open(fd, active)) {
        fd_table::set(fd, Entry::Conn(conn));
    }
}

/// The socket is no connection any more, but stays open.
fn forget(fd: c_int, conn: &'static Conn) {
    fd_table::replace_if(fd, Entry::Conn(conn), Entry::Tcp);
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
        Entry::Listener if dissolves => {
            fd_table::set(fd, Entry::Tcp);
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
    if let (Entry::Tcp, true, false) = (entry, begun, dissolved) {
        follow(fd, true);
    }
}

/// Keeps the connection on TCP, or brings it back there as far as this end can.
pub(super) extern "C" fn pin(conn: &'static Conn, detail: reason::Detail) {
    guard::protect((), || conn.pin(reason::Why::new(detail)));
}
