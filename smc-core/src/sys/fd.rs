//! Descriptors of our own: where they live and how they are made.

use core::ffi::CStr;
use core::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use super::{Errno, Result};
use crate::{host, sys};

/// Descriptors of ours now open. They come out of the program's RLIMIT_NOFILE, so [`may_open`] bounds them.
static OWN: AtomicUsize = AtomicUsize::new(0);

/// Own descriptors start at half the soft limit, but the first [`FEW`] not above `FIRST_BASE`, and the others not above `HIGHEST_BASE`: the
/// kernel's table grows with the highest one, eight bytes for each number. But those of the program are numbered around them, and some
/// programs have tables for as many as they expect.
const FIRST_BASE: u64 = 2048;
const HIGHEST_BASE: u64 = 65536;
const FEW: usize = 1024;

/// A descriptor of ours: close-on-exec, numbered high, closed when dropped.
#[derive(Debug)]
pub struct OwnFd(AtomicI32);

/// Whether `n` more descriptors leave the program at least three quarters of its limit.
pub fn may_open(n: usize) -> bool {
    (OWN.load(Ordering::Relaxed) + n) as u64 <= sys::soft_limit(libc::RLIMIT_NOFILE) / 4
}

impl OwnFd {
    /// Takes over `fd` and moves it to a high number, out of the range the program counts on (the lowest free one).
    pub fn adopt(fd: i32) -> Result<OwnFd> {
        let highest = if OWN.load(Ordering::Relaxed) < FEW { FIRST_BASE } else { HIGHEST_BASE };
        let base = (sys::soft_limit(libc::RLIMIT_NOFILE) / 2).min(highest);
        // SAFETY: integer arguments only.
        let high = unsafe { sys!(SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, base) };
        close(fd);
        let high = high? as i32;
        OWN.fetch_add(1, Ordering::Relaxed);
        host::mark_internal(high, true);
        Ok(OwnFd(AtomicI32::new(high)))
    }

    /// For keeping the number elsewhere: [`OwnFd::from_raw`] takes it back.
    pub fn into_raw(self) -> i32 {
        let raw = self.raw();
        core::mem::forget(self);
        raw
    }

    /// See [`OwnFd::into_raw`].
    pub fn from_raw(raw: i32) -> OwnFd {
        OwnFd(AtomicI32::new(raw))
    }

    /// Another descriptor of what is behind `fd`.
    pub fn duplicate(fd: i32) -> Result<OwnFd> {
        // SAFETY: integer arguments only.
        let low = unsafe { sys!(SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, 3) }?;
        OwnFd::adopt(low as i32)
    }

    #[inline]
    pub fn raw(&self) -> i32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Moves the descriptor to another number, because the program wants this one.
    pub fn relocate(&self) -> Result<()> {
        let old = self.raw();
        // SAFETY: integer arguments only.
        let new = unsafe { sys!(SYS_fcntl, old, libc::F_DUPFD_CLOEXEC, old + 1) }? as i32;
        host::mark_internal(new, true);
        self.0.store(new, Ordering::Relaxed);
        host::mark_internal(old, false);
        close(old);
        Ok(())
    }
}

impl Drop for OwnFd {
    fn drop(&mut self) {
        host::mark_internal(self.raw(), false);
        close(self.raw());
        OWN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Closes a descriptor; the result does not matter for the kinds we use.
pub fn close(fd: i32) {
    // SAFETY: integer argument only.
    let _ = unsafe { sys!(SYS_close, fd) };
}

/// A doorbell: non-blocking eventfd with counter 0.
pub fn eventfd() -> Result<OwnFd> {
    // SAFETY: integer arguments only.
    let fd = unsafe { sys!(SYS_eventfd2, 0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }?;
    OwnFd::adopt(fd as i32)
}

/// The inode that all anonymous files share, as (device, inode): one of them is needed to ask.
fn anonymous_inode() -> Result<(u64, u64)> {
    static KNOWN: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
    let inode = KNOWN[1].load(Ordering::Acquire);
    if inode != 0 {
        return Ok((KNOWN[0].load(Ordering::Relaxed), inode));
    }
    let st = stat(eventfd()?.raw())?;
    KNOWN[0].store(st.st_dev, Ordering::Relaxed);
    KNOWN[1].store(st.st_ino, Ordering::Release);
    Ok((st.st_dev, st.st_ino))
}

/// Whether `fd` is an eventfd. Descriptors from a peer may be anything. Not asked from /proc, which would keep an inode and
/// its name for each descriptor asked about.
pub fn is_eventfd(fd: i32) -> bool {
    let is_anonymous = || Ok::<_, Errno>(stat(fd).map(|st| (st.st_dev, st.st_ino))? == anonymous_inode()?);
    let mut look = [libc::pollfd { fd, events: libc::POLLOUT, revents: 0 }];
    let nothing = 0u64;
    // Of these files only an eventfd takes eight zero bytes, without any effect.
    is_anonymous() == Ok(true)
        && sys::poll(&mut look, 0) == Ok(1)
        && look[0].revents == libc::POLLOUT
        // SAFETY: eight bytes are read from `nothing`.
        && unsafe { sys!(SYS_write, fd, &nothing as *const u64, 8) } == Ok(8)
}

/// Adds one to an eventfd, which wakes every sleeper on it. One that is full wakes them already. The peer may have
/// made it blocking, so it is asked first.
pub fn ring(eventfd: i32) {
    let mut look = [libc::pollfd { fd: eventfd, events: libc::POLLOUT, revents: 0 }];
    if sys::poll(&mut look, 0) == Ok(0) {
        return;
    }
    let one = 1u64;
    // SAFETY: eight bytes are read from `one`.
    let _ = unsafe { sys!(SYS_write, eventfd, &one as *const u64, 8) };
}

/// Resets an eventfd to 0.
pub fn drain(eventfd: i32) {
    let mut count = 0u64;
    let iov = libc::iovec { iov_base: (&raw mut count).cast(), iov_len: 8 };
    // The peer may have made it blocking, or emptied it just now.
    // SAFETY: eight bytes are written to `count`.
    let read = unsafe { sys!(SYS_preadv2, eventfd, &iov as *const _, 1, -1i64, -1i64, libc::RWF_NOWAIT) };
    if read == Err(Errno(libc::EOPNOTSUPP)) {
        let mut look = [libc::pollfd { fd: eventfd, events: libc::POLLIN, revents: 0 }];
        if sys::poll(&mut look, 0) == Ok(1) {
            // SAFETY: eight bytes are written to `count`.
            let _ = unsafe { sys!(SYS_read, eventfd, &mut count as *mut u64, 8) };
        }
    }
}

/// Anonymous shared memory of `len` bytes whose size nobody can change afterwards: touching it never raises SIGBUS.
/// Stays within RLIMIT_FSIZE, beyond which `ftruncate` would kill the program with SIGXFSZ.
pub fn sealed_memfd(len: usize) -> Result<OwnFd> {
    if (len as u64) > sys::soft_limit(libc::RLIMIT_FSIZE) {
        return Err(Errno(libc::EFBIG));
    }
    // SAFETY: the name is a static C string.
    let fd = unsafe { sys!(SYS_memfd_create, c"smc".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) }?;
    let fd = OwnFd::adopt(fd as i32)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: integer arguments only.
    unsafe {
        sys!(SYS_ftruncate, fd.raw(), len)?;
        sys!(SYS_fcntl, fd.raw(), libc::F_ADD_SEALS, seals)?;
    }
    Ok(fd)
}

/// The size of a memfd, provided that it is sealed as [`sealed_memfd`] seals it, and of ordinary pages: of huge ones there may be too
/// few, whatever its size, so that touching it would end the process.
pub fn sealed_size(fd: i32) -> Result<usize> {
    let want = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: integer arguments only.
    let seals = unsafe { sys!(SYS_fcntl, fd, libc::F_GET_SEALS) }? as i32;
    if seals & want != want {
        return Err(Errno(libc::EPERM));
    }
    // SAFETY: all-zero is a valid statfs; the kernel's struct is what libc's `statfs` is on these architectures.
    let kind = unsafe {
        let mut fs: libc::statfs = core::mem::zeroed();
        sys!(SYS_fstatfs, fd, &mut fs as *mut _)?;
        fs.f_type
    };
    if kind != libc::TMPFS_MAGIC {
        return Err(Errno(libc::EPERM));
    }
    stat(fd).map(|st| st.st_size as usize)
}

/// Reads a file from its beginning, as far as there is room in `into`. Takes no memory. An error: it cannot be opened.
pub fn read_file<'a>(path: &CStr, into: &'a mut [u8]) -> Result<&'a [u8]> {
    // SAFETY: the path ends with a NUL.
    let file =
        unsafe { sys!(SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) }? as i32;
    let mut len = 0;
    while len < into.len() {
        // SAFETY: the kernel writes at most the length given.
        match unsafe { sys!(SYS_read, file, into[len..].as_mut_ptr(), into.len() - len) } {
            Ok(n @ 1..) => len += n,
            _ => break,
        }
    }
    close(file);
    Ok(&into[..len])
}

pub fn stat(fd: i32) -> Result<libc::stat> {
    // SAFETY: all-zero is a valid stat; the kernel's struct is what libc's `stat` is on these architectures.
    unsafe {
        let mut st: libc::stat = core::mem::zeroed();
        sys!(SYS_fstat, fd, &mut st as *mut _)?;
        Ok(st)
    }
}

/// Whether O_NONBLOCK is set on the description behind `fd`: asked each time, since any process that shares the
/// description may change it.
pub fn nonblocking(fd: i32) -> Result<bool> {
    // SAFETY: integer arguments only.
    unsafe { sys!(SYS_fcntl, fd, libc::F_GETFL) }.map(|fl| fl as i32 & libc::O_NONBLOCK != 0)
}

/// Whether the descriptor is closed when the process executes another program.
pub fn close_on_exec(fd: i32) -> Result<bool> {
    // SAFETY: integer arguments only.
    unsafe { sys!(SYS_fcntl, fd, libc::F_GETFD) }.map(|fl| fl as i32 & libc::FD_CLOEXEC != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn eventfds_are_told_from_other_descriptors() {
        assert!(is_eventfd(eventfd().unwrap().raw()));
        let (reader, writer) = std::io::pipe().unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        // SAFETY: integer arguments only.
        let others = unsafe {
            [
                sys!(SYS_epoll_create1, 0).unwrap() as i32,
                sys!(SYS_timerfd_create, libc::CLOCK_MONOTONIC, 0).unwrap() as i32,
                sys!(SYS_inotify_init1, 0).unwrap() as i32,
            ]
        };
        let memory = sealed_memfd(4096).unwrap();
        let all = [reader.as_raw_fd(), writer.as_raw_fd(), socket.as_raw_fd(), memory.raw(), -1];
        for fd in others.into_iter().chain(all) {
            assert!(!is_eventfd(fd), "{fd}");
        }
        others.into_iter().for_each(close);
    }
}
