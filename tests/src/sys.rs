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

/// One libc call. Only for this file, where every pointer handed to it is that of a slice or of a value that the
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

// Writing.

pub fn write(fd: RawFd, buf: &[u8]) -> Count {
    count(c!(write(fd, buf.as_ptr().cast(), buf.len())))
}

pub fn write_alias(fd: RawFd, buf: &[u8]) -> Count {
    count(c_alias!(__write(fd, buf.as_ptr().cast(), buf.len())))
}

pub fn writev(fd: RawFd, parts: &[&[u8]]) -> Count {
    let iov = iov(parts);
    count(c!(writev(fd, iov.as_ptr(), iov.len() as c_int)))
}

/// `pwritev2` at the file position (-1), which is what a socket accepts.
pub fn pwritev2(fd: RawFd, parts: &[&[u8]], flags: c_int) -> Count {
    let iov = iov(parts);
    count(c!(pwritev2(fd, iov.as_ptr(), iov.len() as c_int, -1, flags)))
}

pub fn pwritev64v2(fd: RawFd, parts: &[&[u8]], flags: c_int) -> Count {
    let iov = iov(parts);
    count(c_alias!(pwritev64v2(fd, iov.as_ptr(), iov.len() as c_int, -1, flags)))
}

pub fn send(fd: RawFd, buf: &[u8], flags: c_int) -> Count {
    count(c!(send(fd, buf.as_ptr().cast(), buf.len(), flags)))
}

pub fn send_alias(fd: RawFd, buf: &[u8], flags: c_int) -> Count {
    count(c_alias!(__send(fd, buf.as_ptr().cast(), buf.len(), flags)))
}

pub fn sendto(fd: RawFd, buf: &[u8], flags: c_int) -> Count {
    count(c!(sendto(fd, buf.as_ptr().cast(), buf.len(), flags, ptr::null(), 0)))
}

pub fn sendmsg(fd: RawFd, parts: &[&[u8]], flags: c_int) -> Count {
    let mut iov = iov(parts);
    let header = header(&mut iov);
    count(c!(sendmsg(fd, &header, flags)))
}

/// The bytes sent of each message that `sendmmsg` counts as sent.
pub fn sendmmsg(fd: RawFd, messages: &[&[u8]], flags: c_int) -> Result<Vec<usize>, Errno> {
    let mut iovs: Vec<libc::iovec> = iov(messages);
    let mut headers: Vec<libc::mmsghdr> = iovs
        .iter_mut()
        .map(|v| libc::mmsghdr { msg_hdr: header(std::slice::from_mut(v)), msg_len: 0 })
        .collect();
    let n = status(c!(sendmmsg(fd, headers.as_mut_ptr(), headers.len() as u32, flags as _)))?;
    Ok(headers[..n as usize].iter().map(|h| h.msg_len as usize).collect())
}

/// `sendfile` from `offset`, which advances as the call says, or from the file's own position when `None`.
pub fn sendfile(out: RawFd, file: RawFd, offset: Option<&mut i64>, n: usize) -> Count {
    let offset = offset.map_or(ptr::null_mut(), |o| o as *mut i64);
    count(c!(sendfile(out, file, offset, n)))
}

pub fn sendfile64(out: RawFd, file: RawFd, offset: Option<&mut i64>, n: usize) -> Count {
    let offset = offset.map_or(ptr::null_mut(), |o| o as *mut i64);
    count(c!(sendfile64(out, file, offset, n)))
}

pub fn splice(from: RawFd, to: RawFd, n: usize, flags: u32) -> Count {
    count(c!(splice(from, ptr::null_mut(), to, ptr::null_mut(), n, flags)))
}

// Reading.

pub fn read(fd: RawFd, buf: &mut [u8]) -> Count {
    count(c!(read(fd, buf.as_mut_ptr().cast(), buf.len())))
}

pub fn read_alias(fd: RawFd, buf: &mut [u8]) -> Count {
    count(c_alias!(__read(fd, buf.as_mut_ptr().cast(), buf.len())))
}

pub fn read_chk(fd: RawFd, buf: &mut [u8]) -> Count {
    count(c_alias!(__read_chk(fd, buf.as_mut_ptr().cast(), buf.len(), buf.len())))
}

pub fn readv(fd: RawFd, parts: &mut [&mut [u8]]) -> Count {
    let iov = iov_mut(parts);
    count(c!(readv(fd, iov.as_ptr(), iov.len() as c_int)))
}

/// `preadv2` at the file position (-1), which is what a socket accepts.
pub fn preadv2(fd: RawFd, parts: &mut [&mut [u8]], flags: c_int) -> Count {
    let iov = iov_mut(parts);
    count(c!(preadv2(fd, iov.as_ptr(), iov.len() as c_int, -1, flags)))
}

pub fn preadv64v2(fd: RawFd, parts: &mut [&mut [u8]], flags: c_int) -> Count {
    let iov = iov_mut(parts);
    count(c_alias!(preadv64v2(fd, iov.as_ptr(), iov.len() as c_int, -1, flags)))
}

pub fn recv(fd: RawFd, buf: &mut [u8], flags: c_int) -> Count {
    count(c!(recv(fd, buf.as_mut_ptr().cast(), buf.len(), flags)))
}

pub fn recv_chk(fd: RawFd, buf: &mut [u8], flags: c_int) -> Count {
    count(c_alias!(__recv_chk(fd, buf.as_mut_ptr().cast(), buf.len(), buf.len(), flags)))
}

pub fn recvfrom(fd: RawFd, buf: &mut [u8], flags: c_int) -> Count {
    count(c!(recvfrom(fd, buf.as_mut_ptr().cast(), buf.len(), flags, ptr::null_mut(), ptr::null_mut())))
}

pub fn recvfrom_chk(fd: RawFd, buf: &mut [u8], flags: c_int) -> Count {
    let (addr, len) = (ptr::null_mut(), ptr::null_mut());
    count(c_alias!(__recvfrom_chk(fd, buf.as_mut_ptr().cast(), buf.len(), buf.len(), flags, addr, len)))
}

/// `recvfrom` with room for an address: the count and the address length that the call leaves.
pub fn recvfrom_address(fd: RawFd, buf: &mut [u8], flags: c_int) -> Result<(usize, u32), Errno> {
    let mut storage = [0u8; 128];
    let mut len = storage.len() as libc::socklen_t;
    let addr = storage.as_mut_ptr().cast();
    let n = count(c!(recvfrom(fd, buf.as_mut_ptr().cast(), buf.len(), flags, addr, &mut len)))?;
    Ok((n, len))
}

/// What `recvmsg` leaves in its header.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    pub bytes: usize,
    pub flags: c_int,
    pub name_length: u32,
    pub control_length: usize,
}

/// `recvmsg` with room for a name and for control data; what comes back in them is part of the result.
pub fn recvmsg(fd: RawFd, parts: &mut [&mut [u8]], flags: c_int) -> Result<Received, Errno> {
    let mut iov = iov_mut(parts);
    let mut header = header(&mut iov);
    let (mut name, mut control) = ([0u64; 16], [0u64; 16]);
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = std::mem::size_of_val(&name) as _;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = std::mem::size_of_val(&control) as _;
    header.msg_flags = -1;
    let bytes = count(c!(recvmsg(fd, &mut header, flags)))?;
    Ok(Received {
        bytes,
        flags: header.msg_flags,
        name_length: header.msg_namelen,
        control_length: header.msg_controllen,
    })
}

/// The bytes received of each message that `recvmmsg` counts.
pub fn recvmmsg(fd: RawFd, parts: &mut [&mut [u8]], flags: c_int) -> Result<Vec<usize>, Errno> {
    let mut iovs: Vec<libc::iovec> = iov_mut(parts);
    let mut headers: Vec<libc::mmsghdr> = iovs
        .iter_mut()
        .map(|v| libc::mmsghdr { msg_hdr: header(std::slice::from_mut(v)), msg_len: 0 })
        .collect();
    let n =
        status(c!(recvmmsg(fd, headers.as_mut_ptr(), headers.len() as u32, flags as _, ptr::null_mut())))?;
    Ok(headers[..n as usize].iter().map(|h| h.msg_len as usize).collect())
}

// Waiting.

pub fn poll(fds: &mut [libc::pollfd], timeout_ms: c_int) -> Count {
    count(c!(poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms)) as isize)
}

pub fn poll_alias(fds: &mut [libc::pollfd], timeout_ms: c_int) -> Count {
    count(c_alias!(__poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms)) as isize)
}

pub fn poll_chk(fds: &mut [libc::pollfd], timeout_ms: c_int) -> Count {
    let size = std::mem::size_of_val(fds);
    count(c_alias!(__poll_chk(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms, size)) as isize)
}

fn timespec(timeout_ms: c_int) -> libc::timespec {
    libc::timespec { tv_sec: (timeout_ms / 1000).into(), tv_nsec: (timeout_ms % 1000 * 1_000_000).into() }
}

/// An empty signal set.
pub fn no_signals() -> libc::sigset_t {
    // SAFETY: sigset_t is an array of integers; sigemptyset then gives it its defined empty value.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        set
    }
}

/// `ppoll`; a negative timeout is none. `mask` is the signal mask during the call.
pub fn ppoll(fds: &mut [libc::pollfd], timeout_ms: c_int, mask: Option<&libc::sigset_t>) -> Count {
    let timeout = timespec(timeout_ms.max(0));
    let timeout = if timeout_ms < 0 { ptr::null() } else { &timeout };
    let mask = mask.map_or(ptr::null(), |m| m as *const _);
    count(c!(ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout, mask)) as isize)
}

/// A set of descriptors for `select`.
#[derive(Clone, Copy)]
pub struct FdSet(libc::fd_set);

impl Default for FdSet {
    fn default() -> Self {
        // SAFETY: fd_set is an array of integers; all zero is the empty set.
        FdSet(unsafe { std::mem::zeroed() })
    }
}

impl FdSet {
    pub fn insert(&mut self, fd: RawFd) {
        assert!((0..libc::FD_SETSIZE as RawFd).contains(&fd), "fd {fd} does not fit a select set");
        c!(FD_SET(fd, &mut self.0));
    }

    pub fn contains(&self, fd: RawFd) -> bool {
        c!(FD_ISSET(fd, &self.0))
    }
}

/// `select`; a negative timeout is none.
pub fn select(nfds: c_int, read: &mut FdSet, write: &mut FdSet, timeout_ms: c_int) -> Count {
    let mut timeout = libc::timeval {
        tv_sec: (timeout_ms.max(0) / 1000).into(),
        tv_usec: (timeout_ms.max(0) % 1000 * 1000).into(),
    };
    let timeout = if timeout_ms < 0 { ptr::null_mut() } else { &mut timeout };
    count(c!(select(nfds, &mut read.0, &mut write.0, ptr::null_mut(), timeout)) as isize)
}

/// Waits in `select` until `fd` has an exceptional condition: urgent data.
pub fn select_exceptional(fd: RawFd) -> bool {
    let mut except = FdSet::default();
    except.insert(fd);
    let none = ptr::null_mut();
    count(c!(select(fd + 1, none, none, &mut except.0, ptr::null_mut())) as isize).expect("select");
    except.contains(fd)
}

/// `pselect`; a negative timeout is none.
pub fn pselect(
    nfds: c_int,
    read: &mut FdSet,
    write: &mut FdSet,
    timeout_ms: c_int,
    mask: Option<&libc::sigset_t>,
) -> Count {
    let timeout = timespec(timeout_ms.max(0));
    let timeout = if timeout_ms < 0 { ptr::null() } else { &timeout };
    let mask = mask.map_or(ptr::null(), |m| m as *const _);
    count(c!(pselect(nfds, &mut read.0, &mut write.0, ptr::null_mut(), timeout, mask)) as isize)
}

pub fn epoll_create() -> RawFd {
    status(c!(epoll_create1(libc::EPOLL_CLOEXEC))).expect("epoll_create1")
}

pub fn epoll_ctl(epfd: RawFd, op: c_int, fd: RawFd, events: u32, data: u64) -> Result<(), Errno> {
    let mut event = libc::epoll_event { events, u64: data };
    status(c!(epoll_ctl(epfd, op, fd, &mut event))).map(drop)
}

/// `epoll_ctl(EPOLL_CTL_DEL)` with a null event, as programs since 2.6.9 may do.
pub fn epoll_del(epfd: RawFd, fd: RawFd) -> Result<(), Errno> {
    status(c!(epoll_ctl(epfd, libc::EPOLL_CTL_DEL, fd, ptr::null_mut()))).map(drop)
}

/// The events as (mask, data) pairs.
pub fn epoll_wait(epfd: RawFd, max: usize, timeout_ms: c_int) -> Result<Vec<(u32, u64)>, Errno> {
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; max];
    let n = status(c!(epoll_wait(epfd, events.as_mut_ptr(), max as c_int, timeout_ms)))?;
    Ok(events[..n as usize].iter().map(|e| (e.events, e.u64)).collect())
}

pub fn epoll_pwait(
    epfd: RawFd,
    max: usize,
    timeout_ms: c_int,
    mask: Option<&libc::sigset_t>,
) -> Result<Vec<(u32, u64)>, Errno> {
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; max];
    let mask = mask.map_or(ptr::null(), |m| m as *const _);
    let n = status(c!(epoll_pwait(epfd, events.as_mut_ptr(), max as c_int, timeout_ms, mask)))?;
    Ok(events[..n as usize].iter().map(|e| (e.events, e.u64)).collect())
}

// Descriptors.

pub fn close(fd: RawFd) -> Result<(), Errno> {
    status(c!(close(fd))).map(drop)
}

/// Becomes another user, for good.
pub fn set_user(uid: libc::uid_t) -> Result<(), Errno> {
    status(c!(setresuid(uid, uid, uid))).map(drop)
}

pub fn dup(fd: RawFd) -> Result<RawFd, Errno> {
    status(c!(dup(fd)))
}

pub fn dup2(fd: RawFd, to: RawFd) -> Result<RawFd, Errno> {
    status(c!(dup2(fd, to)))
}

pub fn dup3(fd: RawFd, to: RawFd, flags: c_int) -> Result<RawFd, Errno> {
    status(c!(dup3(fd, to, flags)))
}

pub fn fcntl(fd: RawFd, command: c_int, argument: c_int) -> Result<c_int, Errno> {
    status(c!(fcntl(fd, command, argument)))
}

pub fn fcntl64(fd: RawFd, command: c_int, argument: c_int) -> Result<c_int, Errno> {
    status(c_alias!(fcntl64(fd, command, argument)))
}

/// Sets or clears O_NONBLOCK by `fcntl`.
pub fn set_nonblocking(fd: RawFd, on: bool) {
    let flags = fcntl(fd, libc::F_GETFL, 0).expect("F_GETFL");
    let flags = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    fcntl(fd, libc::F_SETFL, flags).expect("F_SETFL");
}

/// `ioctl` with a pointer to an int; the int after the call.
pub fn ioctl_int(fd: RawFd, request: libc::c_ulong, value: c_int) -> Result<c_int, Errno> {
    let mut value = value;
    status(c!(ioctl(fd, request as _, &mut value as *mut c_int)))?;
    Ok(value)
}

pub fn pipe(flags: c_int) -> (RawFd, RawFd) {
    let mut fds = [-1; 2];
    status(c!(pipe2(fds.as_mut_ptr(), flags))).expect("pipe2");
    (fds[0], fds[1])
}

pub fn socketpair() -> (RawFd, RawFd) {
    let mut fds = [-1; 2];
    status(c!(socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, fds.as_mut_ptr()))).expect("socketpair");
    (fds[0], fds[1])
}

pub fn memfd() -> RawFd {
    status(c!(memfd_create(c"smc-test".as_ptr().cast(), libc::MFD_CLOEXEC))).expect("memfd_create")
}

pub fn pwrite(fd: RawFd, buf: &[u8], at: i64) -> Count {
    count(c!(pwrite(fd, buf.as_ptr().cast(), buf.len(), at)))
}

pub fn lseek(fd: RawFd, at: i64, whence: c_int) -> Result<i64, Errno> {
    let at = c!(lseek(fd, at, whence));
    if at < 0 {
        Err(errno())
    } else {
        Ok(at)
    }
}

/// Raises the soft limit of open descriptors to `wanted` when it is below and the hard limit allows.
pub fn raise_descriptor_limit(wanted: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    status(c!(getrlimit(libc::RLIMIT_NOFILE, &mut limit))).expect("getrlimit");
    if limit.rlim_cur < wanted {
        limit.rlim_cur = wanted.min(limit.rlim_max);
        status(c!(setrlimit(libc::RLIMIT_NOFILE, &limit))).expect("setrlimit");
    }
}

// Sockets.

pub fn socket(family: c_int, flags: c_int) -> Result<RawFd, Errno> {
    status(c!(socket(family, libc::SOCK_STREAM | flags, 0)))
}

pub fn listen(fd: RawFd, backlog: c_int) -> Result<(), Errno> {
    status(c!(listen(fd, backlog))).map(drop)
}

pub fn accept(fd: RawFd) -> Result<RawFd, Errno> {
    status(c!(accept(fd, ptr::null_mut(), ptr::null_mut())))
}

pub fn accept4(fd: RawFd, flags: c_int) -> Result<RawFd, Errno> {
    status(c!(accept4(fd, ptr::null_mut(), ptr::null_mut(), flags)))
}

pub fn shutdown(fd: RawFd, how: c_int) -> Result<(), Errno> {
    status(c!(shutdown(fd, how))).map(drop)
}

/// Sets a socket option whose value is plain data (no pointers in it).
pub fn setsockopt<T: Copy>(fd: RawFd, level: c_int, name: c_int, value: T) -> Result<(), Errno> {
    let len = std::mem::size_of::<T>() as libc::socklen_t;
    status(c!(setsockopt(fd, level, name, (&value as *const T).cast(), len))).map(drop)
}

pub fn getsockopt_int(fd: RawFd, level: c_int, name: c_int) -> Result<c_int, Errno> {
    let mut value: c_int = 0;
    let mut len = std::mem::size_of::<c_int>() as libc::socklen_t;
    status(c!(getsockopt(fd, level, name, (&mut value as *mut c_int).cast(), &mut len)))?;
    Ok(value)
}

/// Sets an option to these bytes.
pub fn setsockopt_bytes(fd: RawFd, level: c_int, name: c_int, value: &[u8]) -> Result<(), Errno> {
    status(c!(setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as _))).map(drop)
}

/// Reads an option into `value`; how many bytes it has.
pub fn getsockopt_bytes(fd: RawFd, level: c_int, name: c_int, value: &mut [u8]) -> Count {
    let mut len = value.len() as libc::socklen_t;
    status(c!(getsockopt(fd, level, name, value.as_mut_ptr().cast(), &mut len)))?;
    Ok(len as usize)
}

/// Attaches a socket filter that keeps nothing of what arrives.
pub fn drop_all_segments(fd: RawFd) -> Result<(), Errno> {
    // BPF_RET | BPF_K with 0: keep no byte.
    let mut nothing = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &mut nothing };
    setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
}

/// SO_ERROR, which reading clears.
pub fn socket_error(fd: RawFd) -> Errno {
    getsockopt_int(fd, libc::SOL_SOCKET, libc::SO_ERROR).expect("SO_ERROR")
}

/// A socket address with its length, as the calls take it.
#[derive(Clone, Copy)]
pub struct Address {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl Address {
    pub fn new(address: std::net::SocketAddr) -> Self {
        // SAFETY: sockaddr_storage is plain integers, for which zero is a value.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let place = &mut storage as *mut libc::sockaddr_storage;
        let len = match address {
            std::net::SocketAddr::V4(v4) => {
                let sin = libc::sockaddr_in {
                    sin_family: libc::AF_INET as _,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is large and aligned enough for every sockaddr.
                unsafe { place.cast::<libc::sockaddr_in>().write(sin) };
                std::mem::size_of::<libc::sockaddr_in>()
            }
            std::net::SocketAddr::V6(v6) => {
                let sin6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as _,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: sockaddr_storage is large and aligned enough for every sockaddr.
                unsafe { place.cast::<libc::sockaddr_in6>().write(sin6) };
                std::mem::size_of::<libc::sockaddr_in6>()
            }
        };
        Address { storage, len: len as _ }
    }

    fn port_and_family(&self) -> (u16, c_int) {
        let place = &self.storage as *const libc::sockaddr_storage;
        // SAFETY: the port of sockaddr_in and of sockaddr_in6 lies at the same place, and the storage holds one
        // of the two.
        let port = unsafe { (*place.cast::<libc::sockaddr_in>()).sin_port };
        (u16::from_be(port), self.storage.ss_family.into())
    }

    /// True for an IPv4 address, plain or mapped into IPv6.
    pub fn is_ipv4(&self) -> bool {
        if self.port_and_family().1 == libc::AF_INET {
            return true;
        }
        let place = &self.storage as *const libc::sockaddr_storage;
        // SAFETY: the family is not AF_INET, so that the storage holds a sockaddr_in6 (these programs open
        // sockets of the two families only).
        let octets = unsafe { (*place.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr };
        std::net::Ipv6Addr::from(octets).to_ipv4_mapped().is_some()
    }

    pub fn port(&self) -> u16 {
        self.port_and_family().0
    }
}

pub fn bind(fd: RawFd, address: &Address) -> Result<(), Errno> {
    status(c!(bind(fd, (&address.storage as *const libc::sockaddr_storage).cast(), address.len))).map(drop)
}

pub fn connect(fd: RawFd, address: &Address) -> Result<(), Errno> {
    status(c!(connect(fd, (&address.storage as *const libc::sockaddr_storage).cast(), address.len))).map(drop)
}

/// `sendto` with an address.
pub fn send_to(fd: RawFd, buf: &[u8], flags: c_int, address: &Address) -> Count {
    let name = (&address.storage as *const libc::sockaddr_storage).cast();
    count(c!(sendto(fd, buf.as_ptr().cast(), buf.len(), flags, name, address.len)))
}

fn empty_address() -> Address {
    // SAFETY: sockaddr_storage is plain integers, for which zero is a value.
    let storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    Address { storage, len: std::mem::size_of::<libc::sockaddr_storage>() as _ }
}

pub fn getsockname(fd: RawFd) -> Result<Address, Errno> {
    let mut address = empty_address();
    let place = (&mut address.storage as *mut libc::sockaddr_storage).cast();
    status(c!(getsockname(fd, place, &mut address.len)))?;
    Ok(address)
}

pub fn getpeername(fd: RawFd) -> Result<Address, Errno> {
    let mut address = empty_address();
    let place = (&mut address.storage as *mut libc::sockaddr_storage).cast();
    status(c!(getpeername(fd, place, &mut address.len)))?;
    Ok(address)
}

// Signals.

extern "C" fn count_signal(_signal: c_int) {
    SIGNALS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

/// How often the handler that [`handle_signal`] installs has run in this process.
pub static SIGNALS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Installs a handler for `signal` that does nothing but count; `flags` are those of sigaction (SA_RESTART).
pub fn handle_signal(signal: c_int, flags: c_int) {
    // SAFETY: sigaction is plain integers and pointers, for which zero is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(c_int) = count_signal;
    action.sa_sigaction = handler as usize;
    action.sa_flags = flags;
    action.sa_mask = no_signals();
    status(c!(sigaction(signal, &action, ptr::null_mut()))).expect("sigaction");
}

pub fn ignore_signal(signal: c_int) {
    c!(signal(signal, libc::SIG_IGN));
}

/// Lets SIGALRM come every `interval_us` microseconds (0: no more).
pub fn interval_timer(interval_us: c_long) {
    let interval = libc::timeval { tv_sec: 0, tv_usec: interval_us };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    status(c!(setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut()))).expect("setitimer");
}

// Threads and processes.

/// The kernel's number of the calling thread.
pub fn gettid() -> i32 {
    c!(gettid())
}

pub fn getpid() -> i32 {
    c!(getpid())
}

/// Sends `signal` to one thread of this process.
pub fn signal_thread(tid: i32, signal: c_int) {
    assert_eq!(c!(syscall(libc::SYS_tgkill, getpid(), tid, signal)), 0, "tgkill");
}

pub fn kill(pid: i32, signal: c_int) -> Result<(), Errno> {
    status(c!(kill(pid, signal))).map(drop)
}

/// Waits until a thread of this process sleeps in the kernel.
pub fn wait_until_asleep(tid: i32) {
    loop {
        let stat =
            std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).expect("the thread is there");
        // The state follows the name, which is in parentheses and may hold anything.
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
        if state == Some('S') {
            return;
        }
        std::thread::yield_now();
    }
}

/// Has the kernel end this process with the one that started it, so that a test cut off leaves nothing behind.
pub fn die_with_parent() {
    assert_eq!(c!(prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)), 0, "prctl");
}

/// Forks; the child runs `body` and exits with 0, or 101 when it panics.
pub fn fork_child(body: impl FnOnce()) -> i32 {
    // SAFETY: the tests fork in their only thread or, as C programs do, in one that holds no lock of another; the
    // child leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        die_with_parent();
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
        // exit, not _exit: what runs at exit is part of what is tested.
        std::process::exit(if passed { 0 } else { 101 });
    }
    pid
}

/// The exit status of a child, or minus the signal that ended it.
pub fn wait_child(pid: i32) -> i32 {
    let mut status = 0;
    loop {
        let result = c!(waitpid(pid, &mut status, 0));
        if result == pid {
            break;
        }
        assert_eq!(errno(), libc::EINTR, "waitpid");
    }
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        -libc::WTERMSIG(status)
    }
}

/// Replaces the program; returns only when that fails.
pub fn exec(program: &str) -> Errno {
    let path = std::ffi::CString::new(program).expect("a path without NUL");
    let argv = [path.as_ptr(), ptr::null()];
    c!(execv(path.as_ptr(), argv.as_ptr()));
    errno()
}

pub fn close_range(first: u32, last: u32, flags: c_int) -> Result<(), Errno> {
    // Through the libc symbol where there is one (2.34), which the libc crate does not declare for older ones.
    extern "C" {
        fn close_range(first: u32, last: u32, flags: c_int) -> c_int;
    }
    // SAFETY: no pointers; what is closed is the caller's business.
    status(unsafe { close_range(first, last, flags) }).map(drop)
}

pub fn closefrom(first: c_int) {
    extern "C" {
        fn closefrom(first: c_int);
    }
    // SAFETY: no pointers; what is closed is the caller's business.
    unsafe { closefrom(first) }
}

/// `close` by way of `syscall`, as Node does it.
pub fn syscall_close(fd: RawFd) -> Result<(), Errno> {
    status(c!(syscall(libc::SYS_close, c_long::from(fd))) as c_int).map(drop)
}

/// Passes `fd` over a Unix socket.
pub fn send_descriptor(over: RawFd, fd: RawFd) {
    let mut byte = *b"f";
    let mut iov = [libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 }];
    let mut message = header(&mut iov);
    let mut control = [0u64; 4];
    let size = std::mem::size_of::<c_int>() as u32;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: the control buffer is aligned and larger than CMSG_SPACE of one int, so that the first header and its
    // data lie within it.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(size) as _;
        let cmsg = libc::CMSG_FIRSTHDR(&message);
        (*cmsg).cmsg_level = libc::SOL_SOCKET;
        (*cmsg).cmsg_type = libc::SCM_RIGHTS;
        (*cmsg).cmsg_len = libc::CMSG_LEN(size) as _;
        libc::CMSG_DATA(cmsg).cast::<c_int>().write_unaligned(fd);
    }
    assert_eq!(count(c!(sendmsg(over, &message, 0))), Ok(1), "sendmsg with a descriptor");
}

/// Receives a descriptor that [`send_descriptor`] passed.
pub fn receive_descriptor(over: RawFd) -> RawFd {
    let mut byte = [0u8; 1];
    let mut iov = [libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 }];
    let mut message = header(&mut iov);
    let mut control = [0u64; 4];
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = std::mem::size_of_val(&control) as _;
    assert_eq!(
        count(c!(recvmsg(over, &mut message, libc::MSG_CMSG_CLOEXEC))),
        Ok(1),
        "recvmsg with a descriptor"
    );
    // SAFETY: the kernel has filled the control buffer; a first header, when there is one, lies within it with its
    // data.
    unsafe {
        let cmsg = libc::CMSG_FIRSTHDR(&message);
        assert!(!cmsg.is_null() && (*cmsg).cmsg_type == libc::SCM_RIGHTS, "a message without a descriptor");
        libc::CMSG_DATA(cmsg).cast::<c_int>().read_unaligned()
    }
}

/// A `FILE *` over a descriptor.
pub struct File(*mut libc::FILE);

impl File {
    pub fn open(fd: RawFd) -> File {
        let file = c!(fdopen(fd, c"r+".as_ptr().cast()));
        assert!(!file.is_null(), "fdopen");
        File(file)
    }

    /// Writes and flushes a line.
    pub fn put(&mut self, line: &str) {
        let line = std::ffi::CString::new(line).expect("a line without NUL");
        assert!(c!(fputs(line.as_ptr(), self.0)) >= 0, "fputs");
        assert_eq!(c!(fflush(self.0)), 0, "fflush");
    }

    /// Reads a line; empty at the end.
    pub fn line(&mut self) -> String {
        let mut buf = [0u8; 4096];
        if c!(fgets(buf.as_mut_ptr().cast(), buf.len() as c_int, self.0)).is_null() {
            return String::new();
        }
        let end = buf.iter().position(|b| *b == 0).unwrap_or(buf.len());
        String::from_utf8_lossy(&buf[..end]).into_owned()
    }

    pub fn close(self) {
        assert_eq!(c!(fclose(self.0)), 0, "fclose");
    }
}

/// A counter in memory that forked children share.
pub struct SharedCounter(*const std::sync::atomic::AtomicU64);

impl SharedCounter {
    #[allow(clippy::new_without_default)]
    pub fn new() -> SharedCounter {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let place = c!(mmap(ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0));
        assert_ne!(place, libc::MAP_FAILED, "mmap");
        SharedCounter(place as *const _)
    }

    pub fn get(&self) -> &'static std::sync::atomic::AtomicU64 {
        // SAFETY: the mapping is page aligned, zeroed, and stays until the process ends.
        unsafe { &*self.0 }
    }
}

/// Starts a thread that blocks in `recv` on `fd`, has it cancelled once it sleeps, and joins it. True when it ended
/// by the cancellation.
pub fn cancel_blocked_recv(fd: RawFd) -> bool {
    use std::sync::atomic::{AtomicI32, Ordering};
    // Cancellation unwinds the thread through the call, which the libc crate's declaration does not allow for.
    extern "C-unwind" {
        fn recv(fd: c_int, buf: *mut c_void, n: usize, flags: c_int) -> isize;
    }
    struct Start {
        fd: c_int,
        tid: AtomicI32,
        buf: [u8; 64],
    }
    extern "C-unwind" fn receive(start: *mut c_void) -> *mut c_void {
        let start: *mut Start = start.cast();
        // SAFETY: the creator keeps `Start` until it has joined this thread. No destructor is live in this frame.
        unsafe {
            (*start).tid.store(libc::gettid(), Ordering::Release);
            recv((*start).fd, (*start).buf.as_mut_ptr().cast(), 64, 0);
        }
        ptr::null_mut()
    }
    extern "C" {
        fn pthread_create(
            thread: *mut libc::pthread_t,
            attributes: *const libc::pthread_attr_t,
            start: extern "C-unwind" fn(*mut c_void) -> *mut c_void,
            argument: *mut c_void,
        ) -> c_int;
        fn pthread_cancel(thread: libc::pthread_t) -> c_int;
    }
    let mut start = Box::new(Start { fd, tid: AtomicI32::new(0), buf: [0; 64] });
    let place: *mut Start = &mut *start;
    let mut result = ptr::null_mut();
    // SAFETY: `start` outlives the thread, which is joined below; the declarations are those of pthread.h.
    unsafe {
        let mut thread = std::mem::zeroed();
        assert_eq!(pthread_create(&mut thread, ptr::null(), receive, place.cast()), 0, "pthread_create");
        let tid = loop {
            match (*place).tid.load(Ordering::Acquire) {
                0 => std::thread::yield_now(),
                tid => break tid,
            }
        };
        wait_until_asleep(tid);
        assert_eq!(pthread_cancel(thread), 0, "pthread_cancel");
        assert_eq!(libc::pthread_join(thread, &mut result), 0, "pthread_join");
    }
    // PTHREAD_CANCELED
    result as isize == -1
}

/// Blocks a signal in the calling thread; the set that holds it alone.
pub fn block_signal(signal: c_int) -> libc::sigset_t {
    let mut set = no_signals();
    c!(sigaddset(&mut set, signal));
    assert_eq!(c!(pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut())), 0, "pthread_sigmask");
    set
}

/// The exit status of a shell command by `system(3)`.
pub fn system(command: &str) -> i32 {
    let command = std::ffi::CString::new(command).expect("a command without NUL");
    let status = c!(system(command.as_ptr()));
    assert!(libc::WIFEXITED(status), "system: {status:#x}");
    libc::WEXITSTATUS(status)
}

/// Keeps the calling thread on one CPU, when there is that one: what is measured should not depend on where the
/// scheduler happens to put it.
pub fn run_on_cpu(cpu: usize) {
    // SAFETY: cpu_set_t is an array of integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    c!(CPU_SET(cpu, &mut set));
    // Fails where the CPU is not to be had; then the scheduler chooses.
    let _ = c!(sched_setaffinity(0, std::mem::size_of_val(&set), &set));
}
