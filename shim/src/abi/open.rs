//! Calls that return descriptors of kinds we do not manage. The number may be one that the table still has something
//! for, if it was closed where we do not look.

use super::fresh;
use crate::real;
use libc::{c_char, c_int, c_uint, mode_t, sigset_t};

/// [`fresh`] for the two descriptors of a call that succeeded.
#[inline(always)]
pub(super) unsafe fn fresh_pair(ret: c_int, fds: *const c_int) -> c_int {
    if ret == 0 {
        unsafe {
            fresh(*fds);
            fresh(*fds.add(1));
        }
    }
    ret
}

pub unsafe extern "C" fn socketpair(domain: c_int, kind: c_int, protocol: c_int, fds: *mut c_int) -> c_int {
    unsafe { fresh_pair(real::socketpair(domain, kind, protocol, fds), fds) }
}

pub unsafe extern "C" fn pipe(fds: *mut c_int) -> c_int {
    unsafe { fresh_pair(real::pipe(fds), fds) }
}

pub unsafe extern "C" fn pipe2(fds: *mut c_int, flags: c_int) -> c_int {
    unsafe { fresh_pair(real::pipe2(fds, flags), fds) }
}

/// The mode is there only with O_CREAT or O_TMPFILE; without them libc does not look at it.
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: usize) -> c_int {
    fresh(unsafe { real::open(path, flags, mode) })
}

pub unsafe extern "C" fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: usize) -> c_int {
    fresh(unsafe { real::openat(dir, path, flags, mode) })
}

pub unsafe extern "C" fn creat(path: *const c_char, mode: mode_t) -> c_int {
    fresh(unsafe { real::creat(path, mode) })
}

pub unsafe extern "C" fn eventfd(value: c_uint, flags: c_int) -> c_int {
    fresh(unsafe { real::eventfd(value, flags) })
}

/// With a descriptor given, that one is changed and returned, and what the table has for it is wrong already.
pub unsafe extern "C" fn signalfd(fd: c_int, mask: *const sigset_t, flags: c_int) -> c_int {
    fresh(unsafe { real::signalfd(fd, mask, flags) })
}

pub unsafe extern "C" fn timerfd_create(clock: c_int, flags: c_int) -> c_int {
    fresh(unsafe { real::timerfd_create(clock, flags) })
}

pub unsafe extern "C" fn inotify_init() -> c_int {
    fresh(unsafe { real::inotify_init() })
}

pub unsafe extern "C" fn inotify_init1(flags: c_int) -> c_int {
    fresh(unsafe { real::inotify_init1(flags) })
}

pub unsafe extern "C" fn memfd_create(name: *const c_char, flags: c_uint) -> c_int {
    fresh(unsafe { real::memfd_create(name, flags) })
}
