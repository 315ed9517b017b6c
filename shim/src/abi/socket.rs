//! Creation, connection, acceptance, options.

use super::{conn, entry, fail, fresh, keeping_errno};
use crate::fd_table::Entry;
use crate::{errno, life, ops, real};
use libc::{c_int, c_void, sockaddr, socklen_t};

/// Whether socket(2) arguments ask for what SMC can stand in for. Not MPTCP, which has a protocol number of its own.
#[inline(always)]
fn is_tcp(domain: c_int, kind: c_int, protocol: c_int) -> bool {
    // The low four bits are the type; SOCK_NONBLOCK and SOCK_CLOEXEC lie above.
    (domain == libc::AF_INET || domain == libc::AF_INET6)
        && kind & 0xf == libc::SOCK_STREAM
        && (protocol == 0 || protocol == libc::IPPROTO_TCP)
}

/// Bookkeeping for a socket that socket(2) has just returned.
#[inline(always)]
pub(super) fn created(fd: c_int, domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    if fd >= 0 {
        fresh(fd);
        if is_tcp(domain, kind, protocol) && life::may_act() {
            keeping_errno(|| unsafe { ops::open::socket_created(fd) });
        }
    }
    fd
}

/// Bookkeeping for a connection that accept(2) on `listener` has just returned.
#[inline(always)]
pub(super) fn accepted(listener: c_int, fd: c_int) -> c_int {
    if fd >= 0 {
        fresh(fd);
        if life::may_act() {
            keeping_errno(|| unsafe { ops::open::accepted(listener, entry(listener), fd) });
        }
    }
    fd
}

/// Whether a socket is to be made by the kernel's SMC, if that can.
#[inline(always)]
pub(super) fn is_kernels(domain: c_int, kind: c_int, protocol: c_int) -> bool {
    ops::kernel::is_on() && is_tcp(domain, kind, protocol) && life::may_act()
}

pub unsafe extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    if is_kernels(domain, kind, protocol) {
        return unsafe { ops::kernel::socket(domain, kind, protocol) };
    }
    created(unsafe { real::socket(domain, kind, protocol) }, domain, kind, protocol)
}

pub unsafe extern "C" fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    if promises_smc(fd) {
        return unsafe { ops::open::accept(fd, addr, len, -1) };
    }
    accepted(fd, unsafe { real::accept(fd, addr, len) })
}

/// Whether connections may have been accepted on the program's behalf.
#[inline(always)]
fn promises_smc(fd: c_int) -> bool {
    smc_core::remote::is_loaded() && matches!(entry(fd), Entry::Listener(_))
}

pub unsafe extern "C" fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
    if promises_smc(fd) {
        return unsafe { ops::open::accept(fd, addr, len, flags) };
    }
    accepted(fd, unsafe { real::accept4(fd, addr, len, flags) })
}

pub unsafe extern "C" fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    let entry = entry(fd);
    if !matches!(entry, Entry::Tcp(_) | Entry::Listener(_) | Entry::Conn(_)) {
        return unsafe { real::connect(fd, addr, len) };
    }
    if let Entry::Conn(conn) = entry {
        if conn.is_undecided() {
            return unsafe { ops::open::connect_again(conn, fd, addr, len) };
        }
    }
    let asked = keeping_errno(|| unsafe { ops::open::connecting(fd, entry, addr, len) });
    let ret = unsafe { real::connect(fd, addr, len) };
    let error = errno::get();
    let code = if ret == 0 { 0 } else { error };
    let failed = unsafe { ops::open::connected(fd, entry, addr, len, ret, code, asked) };
    errno::set(error);
    if failed != 0 {
        return fail(failed);
    }
    ret
}

/// The program may bind as it likes: listeners stay the kernel's, and a bound socket connects like any other.
pub unsafe extern "C" fn bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    unsafe { real::bind(fd, addr, len) }
}

/// Before a listen(2); the socket may be one we have not seen before.
pub unsafe extern "C" fn about_to_listen(fd: c_int) {
    if life::may_act() {
        keeping_errno(|| unsafe { ops::open::about_to_listen(fd, entry(fd)) });
    }
}

/// After a listen(2) that succeeded; the socket may be one we have not seen before.
pub unsafe extern "C" fn listening(fd: c_int) {
    if life::may_act() {
        keeping_errno(|| unsafe { ops::open::listening(fd, entry(fd)) });
    }
}

pub unsafe extern "C" fn shutdown(fd: c_int, how: c_int) -> c_int {
    match conn(fd) {
        Some(conn) => unsafe { ops::stream::shutdown(conn, fd, how) },
        None => unsafe { real::shutdown(fd, how) },
    }
}

pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    match entry(fd) {
        entry @ (Entry::Conn(_) | Entry::Tcp(_) | Entry::Listener(_)) => unsafe {
            ops::options::getsockopt(fd, entry, level, name, value, len)
        },
        _ if ops::kernel::is_on() => unsafe { ops::kernel::getsockopt(fd, level, name, value, len) },
        _ => unsafe { real::getsockopt(fd, level, name, value, len) },
    }
}

pub unsafe extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    match entry(fd) {
        entry @ (Entry::Conn(_) | Entry::Tcp(_) | Entry::Listener(_)) => unsafe {
            ops::options::setsockopt(fd, entry, level, name, value, len)
        },
        _ => unsafe { real::setsockopt(fd, level, name, value, len) },
    }
}
