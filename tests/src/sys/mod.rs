//! libc's calls with slices for pointers and `Result` for errno. Nothing is retried and nothing is hidden: each
//! function makes one call of the symbol it is named after.

use std::ffi::{c_int, c_long, c_void};
use std::os::fd::RawFd;
use std::ptr;

/// A value of errno.
pub type Errno = i32;
pub type Count = Result<usize, Errno>;

pub fn errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Names an errno as the headers do, for outcomes that people read.
pub fn errno_name(errno: Errno) -> String {
    let name = match errno {
        libc::EAGAIN => "EAGAIN",
        libc::EBADF => "EBADF",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::ECONNRESET => "ECONNRESET",
        libc::EEXIST => "EEXIST",
        libc::EINPROGRESS => "EINPROGRESS",
        libc::EINTR => "EINTR",
        libc::EINVAL => "EINVAL",
        libc::EISCONN => "EISCONN",
        libc::ENOENT => "ENOENT",
        libc::ENOTCONN => "ENOTCONN",
        libc::ENOTSOCK => "ENOTSOCK",
        libc::EPERM => "EPERM",
        libc::EPIPE => "EPIPE",
        libc::ESPIPE => "ESPIPE",
        libc::ETIMEDOUT => "ETIMEDOUT",
        _ => return format!("errno {errno}"),
    };
    name.to_owned()
}

fn count(result: isize) -> Count {
    usize::try_from(result).map_err(|_| errno())
}

fn status(result: c_int) -> Result<c_int, Errno> {
    if result < 0 {
        Err(errno())
    } else {
        Ok(result)
    }
}

/// One libc call. Only for this module, where every pointer handed to it is that of a slice or of a value that the
/// calling function borrows or owns for the whole call, and every length is that value's own.
macro_rules! c {
    ($($call:tt)*) => {{
        // SAFETY: as the macro's comment says: pointers are live for the call and lengths match them.
        unsafe { libc::$($call)* }
    }};
}

/// The names that glibc's headers substitute for the plain ones: large-file aliases, `_FORTIFY_SOURCE` checks and
/// the double-underscore exports that older objects are linked against.
mod alias {
    use super::*;
    extern "C" {
        pub fn __read(fd: c_int, buf: *mut c_void, n: usize) -> isize;
        pub fn __write(fd: c_int, buf: *const c_void, n: usize) -> isize;
        pub fn __send(fd: c_int, buf: *const c_void, n: usize, flags: c_int) -> isize;
        pub fn __read_chk(fd: c_int, buf: *mut c_void, n: usize, buflen: usize) -> isize;
        pub fn __recv_chk(fd: c_int, buf: *mut c_void, n: usize, buflen: usize, flags: c_int) -> isize;
        pub fn __recvfrom_chk(
            fd: c_int,
            buf: *mut c_void,
            n: usize,
            buflen: usize,
            flags: c_int,
            addr: *mut libc::sockaddr,
            len: *mut libc::socklen_t,
        ) -> isize;
        pub fn __poll(fds: *mut libc::pollfd, n: libc::nfds_t, timeout: c_int) -> c_int;
        pub fn __poll_chk(fds: *mut libc::pollfd, n: libc::nfds_t, timeout: c_int, len: usize) -> c_int;
        pub fn preadv64v2(fd: c_int, iov: *const libc::iovec, n: c_int, at: i64, flags: c_int) -> isize;
        pub fn pwritev64v2(fd: c_int, iov: *const libc::iovec, n: c_int, at: i64, flags: c_int) -> isize;
        pub fn fcntl64(fd: c_int, cmd: c_int, ...) -> c_int;
    }
}

/// One call of a name in [`alias`]; the same rule as `c!`.
macro_rules! c_alias {
    ($($call:tt)*) => {{
        // SAFETY: as for `c!`: pointers are live for the call and lengths match them; the declarations in
        // `alias` are glibc's.
        unsafe { alias::$($call)* }
    }};
}

fn iov(parts: &[&[u8]]) -> Vec<libc::iovec> {
    parts.iter().map(|p| libc::iovec { iov_base: p.as_ptr() as *mut c_void, iov_len: p.len() }).collect()
}

fn iov_mut(parts: &mut [&mut [u8]]) -> Vec<libc::iovec> {
    parts.iter_mut().map(|p| libc::iovec { iov_base: p.as_mut_ptr().cast(), iov_len: p.len() }).collect()
}

/// A message header without name or control data over `iov`.
fn header(iov: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: msghdr is plain integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = iov.as_mut_ptr();
    header.msg_iovlen = iov.len() as _;
    header
}

mod data;
mod descriptors;
mod processes;
mod sockets;
mod wait;

pub use data::*;
pub use descriptors::*;
pub use processes::*;
pub use sockets::*;
pub use wait::*;
