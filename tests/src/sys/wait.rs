//! Calls that wait for descriptors.

use super::*;

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
