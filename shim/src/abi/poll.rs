//! poll and select. They go to the engine if one of their descriptors is a connection, or an epoll instance with
//! connections in it.

use crate::fd_table::{self, Entry};
use crate::{life, ops, real};
use libc::{c_int, fd_set, nfds_t, pollfd, sigset_t, size_t, timespec, timeval};

#[inline(always)]
fn concerns_engine(fd: c_int) -> bool {
    match fd_table::get(fd) {
        Entry::Conn(_) | Entry::Epoll(_) => true,
        // Connections may have been accepted on the program's behalf.
        Entry::Listener(_) => smc_core::remote::is_loaded(),
        _ => false,
    }
}

#[inline(always)]
pub(super) unsafe fn polls_engine(fds: *const pollfd, count: nfds_t) -> bool {
    if fds.is_null() {
        return false;
    }
    let mut index = 0;
    while index < count {
        if concerns_engine(unsafe { (*fds.add(index as usize)).fd }) {
            return life::may_act();
        }
        index = index.wrapping_add(1);
    }
    false
}

/// Whether one of the sets, of `count` descriptors each, has a descriptor for the engine. The sets may be longer than
/// `fd_set`: programs allocate them by the kernel's rule, whole words.
#[inline(always)]
pub(super) unsafe fn selects_engine(count: c_int, sets: [*const fd_set; 3]) -> bool {
    const BITS: c_int = usize::BITS as c_int;
    let mut base = 0;
    while base < count {
        let mut word = 0;
        for set in sets {
            if !set.is_null() {
                word |= unsafe { *set.cast::<usize>().add((base / BITS) as usize) };
            }
        }
        while word != 0 {
            let fd = base.wrapping_add(word.trailing_zeros() as c_int);
            if fd < count && concerns_engine(fd) {
                return life::may_act();
            }
            word &= word.wrapping_sub(1);
        }
        base = base.wrapping_add(BITS);
    }
    false
}

pub unsafe extern "C" fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    match unsafe { polls_engine(fds, count) } {
        true => unsafe { ops::wait::poll(fds, count, timeout) },
        false => unsafe { real::poll(fds, count, timeout) },
    }
}

pub unsafe extern "C" fn poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, size: size_t) -> c_int {
    if (size / core::mem::size_of::<pollfd>()) < count as usize {
        return unsafe { real::__poll_chk(fds, count, timeout, size) };
    }
    match unsafe { polls_engine(fds, count) } {
        true => unsafe { ops::wait::poll(fds, count, timeout) },
        false => unsafe { real::__poll_chk(fds, count, timeout, size) },
    }
}

pub unsafe extern "C" fn ppoll(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    match unsafe { polls_engine(fds, count) } {
        true => unsafe { ops::wait::ppoll(fds, count, timeout, mask) },
        false => unsafe { real::ppoll(fds, count, timeout, mask) },
    }
}

pub unsafe extern "C" fn ppoll_chk(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
    size: size_t,
) -> c_int {
    if (size / core::mem::size_of::<pollfd>()) < count as usize {
        return unsafe { real::__ppoll_chk(fds, count, timeout, mask, size) };
    }
    match unsafe { polls_engine(fds, count) } {
        true => unsafe { ops::wait::ppoll(fds, count, timeout, mask) },
        false => unsafe { real::__ppoll_chk(fds, count, timeout, mask, size) },
    }
}

pub unsafe extern "C" fn select(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    match unsafe { selects_engine(count, [read, write, except]) } {
        true => unsafe { ops::wait::select(count, read, write, except, timeout) },
        false => unsafe { real::select(count, read, write, except, timeout) },
    }
}

pub unsafe extern "C" fn pselect(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    match unsafe { selects_engine(count, [read, write, except]) } {
        true => unsafe { ops::wait::pselect(count, read, write, except, timeout, mask) },
        false => unsafe { real::pselect(count, read, write, except, timeout, mask) },
    }
}
