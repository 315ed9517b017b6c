//! The calls that send.

use super::super::open::pin;
use super::{
    count, fail, message_flags, native, native_after_all, native_done, new_tx, sum, to_tcp, transmit, Sent,
    MAX_IOV,
};
use crate::{errno, real};
use libc::{c_int, c_uint, c_void, iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t};
use smc_core::conn::{Conn, Way};
use smc_core::reason::Detail;

pub unsafe extern "C" fn write(conn: &'static Conn, fd: c_int, buf: *const c_void, len: size_t) -> ssize_t {
    if_native!(conn, Way::Tx, fd, unsafe { real::write(fd, buf, len) });
    let iov = iovec { iov_base: buf as *mut c_void, iov_len: len };
    let mut op = unsafe { new_tx(&iov, 1, 0) };
    match unsafe { transmit(conn, fd, &mut op) } {
        Sent::Done(n) => n,
        Sent::Native => unsafe { real::write(fd, buf, len) },
    }
}

pub unsafe extern "C" fn writev(conn: &'static Conn, fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    if_native!(conn, Way::Tx, fd, unsafe { real::writev(fd, iov, count) });
    if count as usize > MAX_IOV {
        return fail(libc::EINVAL);
    }
    let mut op = unsafe { new_tx(iov, count as usize, 0) };
    match unsafe { transmit(conn, fd, &mut op) } {
        Sent::Done(n) => n,
        Sent::Native => unsafe { real::writev(fd, iov, count) },
    }
}

pub unsafe extern "C" fn pwritev2(
    conn: &'static Conn,
    fd: c_int,
    iov: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    if offset != -1 {
        // ESPIPE, from the kernel.
        return unsafe { real::pwritev2(fd, iov, count, offset, flags) };
    }
    if_native!(conn, Way::Tx, fd, unsafe { real::pwritev2(fd, iov, count, offset, flags) });
    if count as usize > MAX_IOV {
        return fail(libc::EINVAL);
    }
    let message_flags = message_flags(flags);
    if message_flags < 0 {
        return fail(libc::EOPNOTSUPP);
    }
    let mut op = unsafe { new_tx(iov, count as usize, message_flags) };
    match unsafe { transmit(conn, fd, &mut op) } {
        Sent::Done(n) => n,
        Sent::Native => unsafe { real::pwritev2(fd, iov, count, offset, flags) },
    }
}

/// Send flags that only TCP knows how to serve.
const TCP_ONLY: c_int = libc::MSG_OOB | libc::MSG_ZEROCOPY;
/// What those do that the sends below look at before anything else.
const SPECIAL: c_int = TCP_ONLY | libc::MSG_FASTOPEN;

fn only_tcp(flags: c_int) -> Detail {
    match flags & libc::MSG_OOB {
        0 => Detail::ZeroCopy,
        _ => Detail::UrgentData,
    }
}

/// How a send with one of the [`SPECIAL`] flags is to be made.
enum Special {
    /// By the engine if the connection has moved, with these flags.
    Usual(c_int),
    /// By the kernel, which refuses it, or connects the socket.
    FastOpen,
}

extern "C" fn special(conn: &'static Conn, flags: c_int) -> Special {
    if flags & libc::MSG_FASTOPEN != 0 {
        return Special::FastOpen;
    }
    if conn.is_far() {
        // SMC-R sends no urgent data from here, and knows no zero-copy sends.
        return Special::Usual(flags & !libc::MSG_ZEROCOPY);
    }
    if flags & libc::MSG_OOB != 0 {
        pin(conn, Detail::UrgentData);
    } else if !conn.is_pinned() {
        // Without SO_ZEROCOPY, which keeps a connection on TCP, the kernel ignores the flag.
        return Special::Usual(flags & !libc::MSG_ZEROCOPY);
    }
    Special::Usual(flags)
}

/// After a send with MSG_FASTOPEN that returned `n`: it has connected the socket, or failed.
extern "C" fn fast_open_sent(conn: &'static Conn, n: isize) {
    let error = errno::get();
    if n >= 0 || error == libc::EINPROGRESS {
        pin(conn, Detail::FastOpen);
        count(conn, Way::Tx, n);
    }
    errno::set(error);
}

/// Takes the [`SPECIAL`] flags out of `$flags`, or makes `$call` and returns from the function with its result.
macro_rules! if_special {
    ($conn:expr, $flags:ident, $call:expr) => {
        if $flags & SPECIAL != 0 {
            match special($conn, $flags) {
                Special::Usual(flags) => $flags = flags,
                Special::FastOpen => {
                    let n = unsafe { $call };
                    fast_open_sent($conn, n as isize);
                    return n;
                }
            }
        }
    };
}

pub unsafe extern "C" fn send(
    conn: &'static Conn,
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    mut flags: c_int,
) -> ssize_t {
    if_special!(conn, flags, real::send(fd, buf, len, flags));
    if_native!(conn, Way::Tx, fd, unsafe { real::send(fd, buf, len, flags) });
    if flags & TCP_ONLY != 0 {
        return over_tcp!(conn, only_tcp(flags), real::send(fd, buf, len, flags));
    }
    let iov = iovec { iov_base: buf as *mut c_void, iov_len: len };
    let mut op = unsafe { new_tx(&iov, 1, flags) };
    match unsafe { transmit(conn, fd, &mut op) } {
        Sent::Done(n) => n,
        Sent::Native => unsafe { real::send(fd, buf, len, flags) },
    }
}

pub unsafe extern "C" fn sendto(
    conn: &'static Conn,
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    mut flags: c_int,
    addr: *const sockaddr,
    addr_len: socklen_t,
) -> ssize_t {
    if_special!(conn, flags, real::sendto(fd, buf, len, flags, addr, addr_len));
    if_native!(conn, Way::Tx, fd, unsafe { real::sendto(fd, buf, len, flags, addr, addr_len) });
    // A connected TCP socket ignores the address.
    unsafe { send(conn, fd, buf, len, flags) }
}

pub unsafe extern "C" fn sendmsg(
    conn: &'static Conn,
    fd: c_int,
    msg: *const msghdr,
    mut flags: c_int,
) -> ssize_t {
    if_special!(conn, flags, real::sendmsg(fd, msg, flags));
    if_native!(conn, Way::Tx, fd, unsafe { real::sendmsg(fd, msg, flags) });
    if msg.is_null() {
        return unsafe { real::sendmsg(fd, msg, flags) };
    }
    let (iov, count, control) = unsafe { ((*msg).msg_iov, (*msg).msg_iovlen, (*msg).msg_controllen) };
    if count > MAX_IOV {
        return fail(libc::EMSGSIZE);
    }
    if flags & TCP_ONLY != 0 {
        return over_tcp!(conn, only_tcp(flags), real::sendmsg(fd, msg, flags));
    }
    if control > 0 && !conn.is_far() {
        return over_tcp!(conn, Detail::CallUnsupported, real::sendmsg(fd, msg, flags));
    }
    let mut op = unsafe { new_tx(iov, count, flags) };
    match unsafe { transmit(conn, fd, &mut op) } {
        Sent::Done(n) => n,
        Sent::Native => unsafe { real::sendmsg(fd, msg, flags) },
    }
}

pub unsafe extern "C" fn sendmmsg(
    conn: &'static Conn,
    fd: c_int,
    msgs: *mut mmsghdr,
    count: c_uint,
    mut flags: c_int,
) -> c_int {
    if_special!(conn, flags, real::sendmmsg(fd, msgs, count, flags));
    let generation = conn.generation();
    let mut native = native(conn, Way::Tx, generation, fd);
    if !native && conn.is_undecided() {
        native = match unsafe { native_after_all(conn, Way::Tx, generation, fd, flags) } {
            ..=-1 => return -1,
            said => said != 0,
        };
    }
    if native {
        let n = unsafe { real::sendmmsg(fd, msgs, count, flags) };
        native_done(conn, Way::Tx, generation, unsafe { sum(msgs, n) });
        return n;
    }
    let mut done = 0;
    while done < count.min(MAX_IOV as c_uint) {
        let message = unsafe { &mut *msgs.add(done as usize) };
        let whole = unsafe { length(&message.msg_hdr) };
        let n = unsafe { sendmsg(conn, fd, &message.msg_hdr, flags) };
        if n < 0 {
            return if done > 0 { done as c_int } else { -1 };
        }
        message.msg_len = n as c_uint;
        done += 1;
        if (n as usize) < whole {
            break;
        }
    }
    done as c_int
}

unsafe extern "C" fn length(msg: &msghdr) -> usize {
    let mut bytes = 0usize;
    for i in 0..msg.msg_iovlen.min(MAX_IOV) {
        bytes = bytes.wrapping_add(unsafe { (*msg.msg_iov.add(i)).iov_len });
    }
    bytes
}
