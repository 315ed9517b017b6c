//! The calls that receive.

use super::super::open::pin;
use super::{fail, message_flags, native, native_after_all, native_done, receive_into, sum, MAX_IOV};
use crate::real;
use libc::{
    c_int, c_uint, c_void, iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t, timespec,
};
use smc_core::conn::{Conn, Way};
use smc_core::reason::Detail;

pub unsafe extern "C" fn read(conn: &'static Conn, fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t {
    if_native!(conn, Way::Rx, fd, unsafe { real::read(fd, buf, len) });
    unsafe { receive_into(conn, fd, &iovec { iov_base: buf, iov_len: len }, 1, 0) }
}

pub unsafe extern "C" fn readv(conn: &'static Conn, fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    if_native!(conn, Way::Rx, fd, unsafe { real::readv(fd, iov, count) });
    unsafe { receive_into(conn, fd, iov, count as usize, 0) }
}

pub unsafe extern "C" fn preadv2(
    conn: &'static Conn,
    fd: c_int,
    iov: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    if offset != -1 {
        // ESPIPE, from the kernel.
        return unsafe { real::preadv2(fd, iov, count, offset, flags) };
    }
    if_native!(conn, Way::Rx, fd, unsafe { real::preadv2(fd, iov, count, offset, flags) });
    match message_flags(flags) {
        -1 => fail(libc::EOPNOTSUPP),
        flags => unsafe { receive_into(conn, fd, iov, count as usize, flags) },
    }
}

/// Flags that ask for something other than the bytes of the stream.
const ASIDE: c_int = libc::MSG_OOB | libc::MSG_ERRQUEUE;

/// A receive of what travels beside the stream, which the kernel serves. Urgent data counts for the kernel as bytes of the
/// stream and for a reader not, so that a connection that uses it stays on TCP.
extern "C" fn aside(conn: &'static Conn, flags: c_int) {
    if flags & libc::MSG_OOB != 0 && !conn.is_moved() {
        pin(conn, Detail::UrgentData);
    }
}

pub unsafe extern "C" fn recv(
    conn: &'static Conn,
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    if flags & ASIDE != 0 {
        aside(conn, flags);
        return unsafe { real::recv(fd, buf, len, flags) };
    }
    if_native!(conn, Way::Rx, fd, unsafe { real::recv(fd, buf, len, flags) }, flags);
    unsafe { receive_into(conn, fd, &iovec { iov_base: buf, iov_len: len }, 1, flags) }
}

pub unsafe extern "C" fn recvfrom(
    conn: &'static Conn,
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    if flags & ASIDE != 0 {
        aside(conn, flags);
        return unsafe { real::recvfrom(fd, buf, len, flags, addr, addr_len) };
    }
    if_native!(conn, Way::Rx, fd, unsafe { real::recvfrom(fd, buf, len, flags, addr, addr_len) }, flags);
    let n = unsafe { receive_into(conn, fd, &iovec { iov_base: buf, iov_len: len }, 1, flags) };
    if n >= 0 && !addr.is_null() && !addr_len.is_null() {
        // TCP gives no address here.
        unsafe { *addr_len = 0 };
    }
    n
}

pub unsafe extern "C" fn recvmsg(conn: &'static Conn, fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t {
    if flags & ASIDE != 0 || msg.is_null() {
        aside(conn, flags);
        return unsafe { real::recvmsg(fd, msg, flags) };
    }
    if_native!(conn, Way::Rx, fd, unsafe { real::recvmsg(fd, msg, flags) }, flags);
    unsafe { receive_message(conn, fd, msg, flags) }
}

unsafe extern "C" fn receive_message(
    conn: &'static Conn,
    fd: c_int,
    msg: *mut msghdr,
    flags: c_int,
) -> isize {
    let count = unsafe { (*msg).msg_iovlen };
    if count > MAX_IOV {
        return fail(libc::EMSGSIZE);
    }
    let n = unsafe { receive_into(conn, fd, (*msg).msg_iov, count, flags) };
    if n >= 0 {
        unsafe {
            if !(*msg).msg_name.is_null() {
                (*msg).msg_namelen = 0;
            }
            (*msg).msg_controllen = 0;
            (*msg).msg_flags = 0;
        }
    }
    n
}

pub unsafe extern "C" fn recvmmsg(
    conn: &'static Conn,
    fd: c_int,
    msgs: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    if flags & ASIDE != 0 {
        aside(conn, flags);
        return unsafe { real::recvmmsg(fd, msgs, count, flags, timeout) };
    }
    let generation = conn.generation();
    conn.hold();
    let mut native = native(conn, Way::Rx, generation, fd);
    if !native && conn.is_undecided() {
        native = match unsafe { native_after_all(conn, Way::Rx, generation, fd, flags) } {
            ..=-1 => {
                conn.release(generation);
                return -1;
            }
            said => said != 0,
        };
    }
    let n = if native { unsafe { real::recvmmsg(fd, msgs, count, flags, timeout) } } else { 0 };
    conn.release(generation);
    if native {
        native_done(
            conn,
            Way::Rx,
            generation,
            if flags & libc::MSG_PEEK != 0 { 0 } else { unsafe { sum(msgs, n) } },
        );
        return n;
    }
    let deadline = match unsafe { timeout.as_ref() } {
        Some(t) => smc_core::sys::now_ns().wrapping_add((t.tv_sec as u64) * 1_000_000_000 + t.tv_nsec as u64),
        None => u64::MAX,
    };
    let mut flags = flags;
    let mut done = 0;
    while done < count.min(MAX_IOV as c_uint) {
        let message = unsafe { &mut *msgs.add(done as usize) };
        let n = unsafe { receive_message(conn, fd, &mut message.msg_hdr, flags & !libc::MSG_WAITFORONE) };
        if n < 0 {
            return if done > 0 { done as c_int } else { -1 };
        }
        message.msg_len = n as c_uint;
        done += 1;
        if flags & libc::MSG_WAITFORONE != 0 {
            flags |= libc::MSG_DONTWAIT;
        }
        if smc_core::sys::now_ns() >= deadline {
            break;
        }
    }
    done as c_int
}
