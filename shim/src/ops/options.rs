//! Socket options of Conn, Tcp and Listener.

use super::open::pin;
use crate::fd_table::Entry;
use crate::{errno, real};
use libc::{c_int, c_void, socklen_t};
use smc_core::reason::Detail;

/// include/uapi/linux/tcp.h; libc has no names for them.
const TCP_ULP: c_int = 31;
const SO_PEEK_OFF: c_int = 42;

pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    _entry: Entry,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    unsafe { real::getsockopt(fd, level, name, value, len) }
}

pub unsafe extern "C" fn setsockopt(
    fd: c_int,
    entry: Entry,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    if let Entry::Conn(conn) = entry {
        let detail = match (level, name) {
            (libc::IPPROTO_TCP, TCP_ULP) => Detail::Ulp,
            (libc::SOL_SOCKET, libc::SO_ZEROCOPY) => Detail::ZeroCopy,
            (libc::SOL_SOCKET, SO_PEEK_OFF) => Detail::PeekOffset,
            (libc::IPPROTO_TCP, libc::TCP_MD5SIG) => Detail::Signature,
            (libc::IPPROTO_TCP, libc::TCP_REPAIR) => Detail::Repair,
            _ => return unsafe { real::setsockopt(fd, level, name, value, len) },
        };
        if conn.is_attached() && detail != Detail::ZeroCopy {
            errno::set(libc::EOPNOTSUPP);
            return -1;
        }
        pin(conn, detail);
    }
    unsafe { real::setsockopt(fd, level, name, value, len) }
}
