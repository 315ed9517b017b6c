//! Data.

use super::{conn, entry, fresh, keeping_errno};
use crate::{errno, ops, real};
use libc::{
    c_int, c_long, c_uint, c_void, cmsghdr, iovec, mmsghdr, msghdr, off64_t, off_t, size_t, sockaddr,
    socklen_t, ssize_t, timespec,
};

pub unsafe extern "C" fn read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t {
    match conn(fd) {
        Some(conn) => unsafe { ops::stream::read(conn, fd, buf, len) },
        None => unsafe { real::read(fd, buf, len) },
    }
}

/// The fortified form knows the size of the buffer; where it does not suffice, libc's own ends the program.
pub unsafe extern "C" fn read_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t) -> ssize_t {
    match conn(fd) {
        Some(conn) if len <= size => unsafe { ops::stream::read(conn, fd, buf, len) },
        _ => unsafe { real::__read_chk(fd, buf, len, size) },
    }
}

pub unsafe extern "C" fn readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    match conn(fd) {
        Some(conn) => unsafe { ops::stream::readv(conn, fd, iov, count) },
        None => unsafe { real::readv(fd, iov, count) },
    }
}

pub unsafe extern "C" fn preadv2(
    fd: c_int,
    iov: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    match conn(fd) {
        Some(conn) => unsafe { ops::stream::preadv2(conn, fd, iov, count, offset, flags) },
        None => unsafe { real::preadv2(fd, iov, count, offset, flags) },
    }
}

pub unsafe extern "C" fn recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
    match conn(fd) {
        Some(conn) => unsafe { ops::stream::recv(conn, fd, buf, len, flags) },
        None => unsafe { real::recv(fd, buf, len, flags) },
    }
}

pub unsafe extern "C" fn recv_chk(
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    size: size_t,
    flags: c_int,
) -> ssize_t {
    match conn(fd) {
        Some(conn) if len <= size => unsafe { ops::stream::recv(conn, fd, buf, len, flags) },
        _ => unsafe { real::__recv_chk(fd, buf, len, size, flags) },
    }
}

pub unsafe extern "C" fn recvfrom(
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    match conn(fd) {
        Some(conn) => unsafe { ops::stream::recvfrom(conn, fd, buf, len, flags, addr, addr_len) },
        None => unsafe { real::recvfrom(fd, buf, len, flags, addr, addr_len) },
    }
}

pub unsafe extern "C" fn recvfrom_chk(
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    size: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    match conn(fd) {
        Some(conn) if len <= size => unsafe {
            ops::stream::recvfrom(conn, fd, buf, len, flags, addr, addr_len)
        },
        _ => unsafe { real::__recvfrom_chk(fd, buf, len, size, flags, addr, addr_len) },
    }
}

pub unsafe extern "C" fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t {
    if let Some(conn) = conn(fd) {
        return unsafe { ops::stream::recvmsg(conn, fd, msg, flags) };
    }
    unsafe { received(real::recvmsg(fd, msg, flags) as c_long, msg) as ssize_t }
}

pub unsafe extern "C" fn recvmmsg(
    fd: c_int,
    msgs: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    if let Some(conn) = conn(fd) {
        return unsafe { ops::stream::recvmmsg(conn, fd, msgs, count, flags, timeout) };
    }
    unsafe { received_many(real::recvmmsg(fd, msgs, count, flags, timeout) as c_long, msgs) as c_int }
}

pub unsafe extern "C" fn write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t {
    match conn(fd) {
        Some(conn) => unsafe { ops::stream::write(conn, fd, buf, len) },
        None => unsafe { real::write(fd, buf, len) },
    }
}

pub unsafe extern "C" fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    match conn(fd) {
        Some(conn) => unsafe { ops::stream::writev(conn, fd, iov, count) },
        None => unsafe { real::writev(fd, iov, count) },
    }
}

pub unsafe extern "C" fn pwritev2(
    fd: c_int,
    iov: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    match conn(fd) {
        Some(conn) => unsafe { ops::stream::pwritev2(conn, fd, iov, count, offset, flags) },
        None => unsafe { real::pwritev2(fd, iov, count, offset, flags) },
    }
}

/// After a send on what is no connection of ours: with MSG_FASTOPEN it may have become one. Returns `n`.
#[inline(always)]
fn sent(fd: c_int, flags: c_int, n: ssize_t) -> ssize_t {
    if flags & libc::MSG_FASTOPEN != 0 {
        let error = if n < 0 { errno::get() } else { 0 };
        keeping_errno(|| unsafe { ops::open::fast_opened(fd, entry(fd), n, error) });
    }
    n
}

pub unsafe extern "C" fn send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t {
    match conn(fd) {
        Some(conn) => unsafe { ops::stream::send(conn, fd, buf, len, flags) },
        None => sent(fd, flags, unsafe { real::send(fd, buf, len, flags) }),
    }
}

pub unsafe extern "C" fn sendto(
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    flags: c_int,
    addr: *const sockaddr,
    addr_len: socklen_t,
) -> ssize_t {
    match conn(fd) {
        Some(conn) => unsafe { ops::stream::sendto(conn, fd, buf, len, flags, addr, addr_len) },
        None => sent(fd, flags, unsafe { real::sendto(fd, buf, len, flags, addr, addr_len) }),
    }
}

pub unsafe extern "C" fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
    if let Some(conn) = conn(fd) {
        return unsafe { ops::stream::sendmsg(conn, fd, msg, flags) };
    }
    unsafe {
        passing(msg);
        sent(fd, flags, real::sendmsg(fd, msg, flags))
    }
}

pub unsafe extern "C" fn sendmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
    if let Some(conn) = conn(fd) {
        return unsafe { ops::stream::sendmmsg(conn, fd, msgs, count, flags) };
    }
    unsafe {
        passing_many(msgs, count);
        sent(fd, flags, real::sendmmsg(fd, msgs, count, flags) as ssize_t) as c_int
    }
}

pub unsafe extern "C" fn sendfile(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
    match conn(out) {
        Some(conn) => unsafe { ops::stream::sendfile(conn, out, input, offset, count) },
        None => unsafe { real::sendfile(out, input, offset, count) },
    }
}

pub unsafe extern "C" fn splice(
    input: c_int,
    input_offset: *mut off64_t,
    out: c_int,
    out_offset: *mut off64_t,
    len: size_t,
    flags: c_uint,
) -> ssize_t {
    match (conn(input), conn(out)) {
        (None, None) => unsafe { real::splice(input, input_offset, out, out_offset, len, flags) },
        (source, sink) => unsafe {
            ops::stream::splice(source, input, input_offset, sink, out, out_offset, len, flags)
        },
    }
}

/// Another process is about to get the descriptors in `msg`.
#[inline(always)]
pub(super) unsafe fn passing(msg: *const msghdr) {
    if msg.is_null() {
        return;
    }
    for_each_fd(unsafe { &*msg }, |fd| {
        if !entry(fd).is_none() {
            keeping_errno(|| unsafe { ops::fd::passed(fd) });
        }
    });
}

/// [`passing`] for what sendmmsg(2) is about to send.
#[inline(always)]
pub(super) unsafe fn passing_many(msgs: *const mmsghdr, count: c_uint) {
    if msgs.is_null() {
        return;
    }
    let mut index = 0;
    // The kernel takes no more than UIO_MAXIOV messages.
    while index < count.min(1024) {
        unsafe { passing(&(*msgs.add(index as usize)).msg_hdr) };
        index = index.wrapping_add(1);
    }
}

/// The descriptors in `msg` are new in this process, if `ret` says that there is a message. Returns `ret`.
#[inline(always)]
pub(super) unsafe fn received(ret: c_long, msg: *const msghdr) -> c_long {
    if ret >= 0 {
        for_each_fd(unsafe { &*msg }, |fd| {
            fresh(fd);
        });
    }
    ret
}

/// [`received`] for the `ret` messages that recvmmsg(2) has returned.
#[inline(always)]
pub(super) unsafe fn received_many(ret: c_long, msgs: *const mmsghdr) -> c_long {
    let mut index = 0;
    while index < ret {
        unsafe { received(0, &(*msgs.add(index as usize)).msg_hdr) };
        index = index.wrapping_add(1);
    }
    ret
}

/// Calls `visit` for each descriptor in the SCM_RIGHTS messages of `msg`. No more is believed of the headers than the
/// kernel believes: every length is checked against the buffer's.
#[inline(always)]
fn for_each_fd(msg: &msghdr, mut visit: impl FnMut(c_int)) {
    const HEADER: usize = core::mem::size_of::<cmsghdr>();
    const ALIGN: usize = core::mem::size_of::<usize>();

    #[allow(clippy::unnecessary_cast)] // The types of these lengths differ between libcs.
    let len = msg.msg_controllen as usize;
    if msg.msg_control.is_null() || len < HEADER {
        return;
    }
    let mut at = 0usize;
    while len.wrapping_sub(at) >= HEADER && at < len {
        let message = msg.msg_control.cast::<u8>().wrapping_add(at);
        // A program may build its buffer unaligned.
        let header = unsafe { message.cast::<cmsghdr>().read_unaligned() };
        #[allow(clippy::unnecessary_cast)]
        let size = header.cmsg_len as usize;
        if size < HEADER || size > len.wrapping_sub(at) {
            return;
        }
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            let mut offset = HEADER;
            while size.wrapping_sub(offset) >= core::mem::size_of::<c_int>() && offset < size {
                visit(unsafe { message.wrapping_add(offset).cast::<c_int>().read_unaligned() });
                offset = offset.wrapping_add(core::mem::size_of::<c_int>());
            }
        }
        at = at.wrapping_add(size.wrapping_add(ALIGN - 1) & !(ALIGN - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: c_int, kind: c_int, len: usize, data: &[c_int]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&len.to_ne_bytes());
        bytes.extend_from_slice(&level.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        data.iter().for_each(|fd| bytes.extend_from_slice(&fd.to_ne_bytes()));
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn fds(control: &mut [u8]) -> Vec<c_int> {
        // SAFETY: all zero is a valid msghdr.
        let mut msg: msghdr = unsafe { core::mem::zeroed() };
        msg.msg_control = control.as_mut_ptr().cast();
        msg.msg_controllen = control.len() as _;
        let mut seen = Vec::new();
        for_each_fd(&msg, |fd| seen.push(fd));
        seen
    }

    const RIGHTS: (c_int, c_int) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);

    #[test]
    fn rights_are_found_among_other_messages() {
        let mut control = message(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, 28, &[1, 2, 3]);
        control.extend(message(RIGHTS.0, RIGHTS.1, 28, &[7, 8, 9]));
        control.extend(message(RIGHTS.0, RIGHTS.1, 20, &[10]));
        assert_eq!(fds(&mut control), [7, 8, 9, 10]);
    }

    #[test]
    fn lengths_that_leave_the_buffer_end_the_walk() {
        for len in [0, 15, 29, 1 << 20, usize::MAX, usize::MAX - 7] {
            assert_eq!(fds(&mut message(RIGHTS.0, RIGHTS.1, len, &[7, 8])), [] as [c_int; 0], "length {len}");
        }
        assert_eq!(fds(&mut message(RIGHTS.0, RIGHTS.1, 23, &[7, 8])), [7], "half a descriptor is none");
    }
}
