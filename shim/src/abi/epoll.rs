//! epoll. Instances are the engine's business from their creation; those that came from elsewhere, with the first
//! connection registered in them.

use super::{entry, fresh, keeping_errno};
use crate::fd_table::Entry;
use crate::{life, ops, real};
use libc::{c_int, epoll_event, sigset_t, timespec};

#[inline(always)]
pub(super) fn is_engines(epfd: c_int) -> bool {
    matches!(entry(epfd), Entry::Epoll(_))
}

/// Bookkeeping for an instance that has just been made. It is the engine's from the start: a thread may sleep on it
/// before the first connection is registered.
#[inline(always)]
pub(super) fn created(epfd: c_int) -> c_int {
    if fresh(epfd) >= 0 && life::may_act() {
        keeping_errno(|| unsafe { ops::epoll::created(epfd) });
    }
    epfd
}

pub unsafe extern "C" fn epoll_create(size: c_int) -> c_int {
    created(unsafe { real::epoll_create(size) })
}

pub unsafe extern "C" fn epoll_create1(flags: c_int) -> c_int {
    created(unsafe { real::epoll_create1(flags) })
}

/// Sockets that are not connected yet count too: some programs register first and connect then.
pub unsafe extern "C" fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
    match (entry(epfd), entry(fd)) {
        (set @ Entry::Epoll(_), target) | (set, target @ (Entry::Conn(_) | Entry::Tcp(_))) => unsafe {
            ops::epoll::ctl(epfd, set, op, fd, target, event)
        },
        (set, target @ Entry::Listener(_)) if smc_core::remote::is_loaded() => unsafe {
            ops::epoll::ctl(epfd, set, op, fd, target, event)
        },
        _ => unsafe { real::epoll_ctl(epfd, op, fd, event) },
    }
}

pub unsafe extern "C" fn epoll_wait(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: c_int,
) -> c_int {
    match entry(epfd) {
        Entry::Epoll(set) => unsafe { ops::epoll::wait(set, epfd, events, max, timeout) },
        _ => unsafe { real::epoll_wait(epfd, events, max, timeout) },
    }
}

pub unsafe extern "C" fn epoll_pwait(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: c_int,
    mask: *const sigset_t,
) -> c_int {
    match entry(epfd) {
        Entry::Epoll(set) => unsafe { ops::epoll::pwait(set, epfd, events, max, timeout, mask) },
        _ => unsafe { real::epoll_pwait(epfd, events, max, timeout, mask) },
    }
}

pub unsafe extern "C" fn epoll_pwait2(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    match entry(epfd) {
        Entry::Epoll(set) => unsafe { ops::epoll::pwait2(set, epfd, events, max, timeout, mask) },
        _ => unsafe { real::epoll_pwait2(epfd, events, max, timeout, mask) },
    }
}
