//! Calls on descriptors of any kind.

use super::*;

pub fn close(fd: RawFd) -> Result<(), Errno> {
    status(c!(close(fd))).map(drop)
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

/// A memfd of huge pages with `len` bytes, sealed as the library's segments are; no page is there yet.
pub fn sealed_huge_memfd(len: i64) -> Result<RawFd, Errno> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_HUGETLB;
    let fd = status(c!(memfd_create(c"smc-test".as_ptr().cast(), flags)))?;
    status(c!(ftruncate(fd, len)))?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    fcntl(fd, libc::F_ADD_SEALS, seals)?;
    Ok(fd)
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
