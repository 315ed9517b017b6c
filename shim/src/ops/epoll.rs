//! epoll instances that have to do with connections: see [`smc_core::epoll`] for how it works.

use crate::fd_table::{self, Entry};
use crate::{errno, guard, real};
use core::ptr::null;
use libc::{c_int, epoll_event, sigset_t, timespec};
use smc_core::conn::Conn;
use smc_core::epoll::{Ctl, EpollSet};
use smc_core::{listener, remote, sys};

/// epoll_create has returned `epfd`. `errno` is kept by the hook.
pub unsafe extern "C" fn created(epfd: c_int) {
    adopt(epfd);
}

extern "C" fn adopt(epfd: c_int) -> Option<&'static EpollSet> {
    let set = guard::protect(None, || EpollSet::open(epfd))?;
    fd_table::set(epfd, Entry::Epoll(set));
    Some(set)
}

/// epoll_ctl(2) where the instance is an Epoll, or the target a Conn or Tcp, or both.
pub unsafe extern "C" fn ctl(
    epfd: c_int,
    set: Entry,
    op: c_int,
    fd: c_int,
    target: Entry,
    event: *mut epoll_event,
) -> c_int {
    let conn = match target {
        Entry::Conn(conn) => conn,
        Entry::Tcp(detail) if op == libc::EPOLL_CTL_ADD => {
            // It will be connected later; its registration must be known then.
            super::open::follow(fd, true, detail);
            match fd_table::get(fd) {
                Entry::Conn(conn) => conn,
                _ => return unsafe { real::epoll_ctl(epfd, op, fd, event) },
            }
        }
        Entry::Epoll(nested) => {
            let ret = unsafe { real::epoll_ctl(epfd, op, fd, event) };
            if ret == 0 && op == libc::EPOLL_CTL_ADD {
                watched(nested);
            }
            return ret;
        }
        Entry::Listener(_) if remote::is_loaded() => {
            let ret = unsafe { real::epoll_ctl(epfd, op, fd, event) };
            let bell = listener_bell(fd);
            if ret == 0 && bell >= 0 {
                // Readable while connections wait that were accepted on the program's behalf: for it, the listener is.
                let saved = errno::get();
                unsafe { real::epoll_ctl(epfd, op, bell, event) };
                errno::set(saved);
            }
            return ret;
        }
        _ => return unsafe { real::epoll_ctl(epfd, op, fd, event) },
    };
    let set = match set {
        Entry::Epoll(set) => set,
        // An instance that came from elsewhere.
        _ => match adopt(epfd) {
            Some(set) => set,
            None => return unsafe { real::epoll_ctl(epfd, op, fd, event) },
        },
    };
    let wanted = if event.is_null() { None } else { Some(unsafe { event.read_unaligned() }) };
    match before(set, op, fd, conn, wanted) {
        Ctl::Done => 0,
        Ctl::Fail(e) => {
            errno::set(e.0);
            -1
        }
        Ctl::Native => {
            let ret = unsafe { real::epoll_ctl(epfd, op, fd, event) };
            if ret == 0 {
                after(set, op, fd, conn, wanted);
            }
            ret
        }
    }
}

/// The doorbell of a listener that promises SMC, or -1.
pub(super) extern "C" fn listener_bell(fd: c_int) -> c_int {
    let saved = errno::get();
    let bell = guard::protect(-1, || listener::touched(fd));
    errno::set(saved);
    bell
}

extern "C" fn before(
    set: &'static EpollSet,
    op: c_int,
    fd: c_int,
    conn: &'static Conn,
    event: Option<epoll_event>,
) -> Ctl {
    guard::protect(Ctl::Native, || set.ctl(op, fd, conn, event))
}

extern "C" fn after(
    set: &'static EpollSet,
    op: c_int,
    fd: c_int,
    conn: &'static Conn,
    event: Option<epoll_event>,
) {
    let saved = errno::get();
    guard::protect((), || set.note_ctl(op, fd, conn, event));
    errno::set(saved);
}

/// The instance is watched through its descriptor.
pub(super) extern "C" fn watched(set: &'static EpollSet) {
    guard::protect((), || set.watched_from_outside());
}

// Each runs the engine in a frame of its own; see `guard`.

extern "C" fn collect(set: &'static EpollSet, events: *mut epoll_event, max: c_int) -> c_int {
    guard::protect(0, || {
        // SAFETY: the program's array of `max` events.
        let events = unsafe { core::slice::from_raw_parts_mut(events, max as usize) };
        set.collect(events) as c_int
    })
}

extern "C" fn absorb(set: &'static EpollSet, events: *mut epoll_event, n: c_int) -> c_int {
    guard::protect(n, || {
        // SAFETY: the kernel has filled in `n` events of the program's array.
        let events = unsafe { core::slice::from_raw_parts_mut(events, n as usize) };
        set.absorb(events, n as usize) as c_int
    })
}

extern "C" fn settle(set: &'static EpollSet) {
    guard::protect((), || set.settle());
}

extern "C" fn spin(set: &'static EpollSet) -> bool {
    guard::protect(false, || set.spin())
}

/// Nanoseconds, or `u64::MAX`.
extern "C" fn arm(set: &'static EpollSet) -> u64 {
    set.sleep_begins();
    guard::protect(u64::MAX, || set.arm().unwrap_or(u64::MAX))
}

extern "C" fn leave(set: &'static EpollSet) {
    guard::protect((), || set.leave());
}

/// The real wait, for at most `left` nanoseconds (`u64::MAX`: for ever). A cancellation point.
unsafe extern "C" fn kernel_wait(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    left: u64,
    mask: *const sigset_t,
) -> c_int {
    const MS: u64 = 1_000_000;
    // Rounded up: a wait that ends early would be repeated with nothing left.
    let ms = if left == u64::MAX { -1 } else { left.div_ceil(MS).min(c_int::MAX as u64) as c_int };
    match mask.is_null() {
        true => unsafe { real::epoll_wait(epfd, events, max, ms) },
        false => unsafe { real::epoll_pwait(epfd, events, max, ms, mask) },
    }
}

/// The wait all three calls share. `left`: nanoseconds, `u64::MAX` for ever.
unsafe extern "C" fn wait_for(
    set: &'static EpollSet,
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    left: u64,
    mask: *const sigset_t,
) -> c_int {
    if max <= 0 || events.is_null() {
        return unsafe { kernel_wait(epfd, events, max, left, mask) };
    }
    let deadline = if left == 0 || left == u64::MAX { left } else { sys::now_ns().saturating_add(left) };
    let mut left = left;
    let saved = errno::get();
    loop {
        settle(set);
        let plain = set.is_plain();
        let mut limit = u64::MAX;
        if !plain {
            let n = unsafe { ready_now(set, epfd, events, max, mask) };
            if n > 0 {
                return n;
            }
            if left != 0 && spin(set) {
                continue;
            }
            limit = arm(set);
            let n = collect(set, events, max);
            if n > 0 {
                set.sleep_ends();
                leave(set);
                return n;
            }
        } else {
            set.sleep_begins();
            if !set.is_plain() {
                // The first connection has been moved in by another thread, which did not see this one sleep.
                set.sleep_ends();
                continue;
            }
        }
        let mut n = unsafe { kernel_wait(epfd, events, max, left.min(limit), mask) };
        set.sleep_ends();
        if n < 0 {
            return n;
        }
        if !plain || !set.is_plain() {
            if n > 0 {
                n = absorb(set, events, n);
            }
            settle(set);
            if n < max {
                n += collect(set, unsafe { events.add(n as usize) }, max - n);
            }
            leave(set);
        }
        if n > 0 || left == 0 {
            errno::set(saved);
            return n;
        }
        if deadline != u64::MAX {
            left = deadline.saturating_sub(sys::now_ns());
            if left == 0 {
                // What came in the meantime is for the next call: time is up, as it would be in the kernel.
                errno::set(saved);
                return 0;
            }
        }
    }
}

/// The events that are ready in memory; now and then the kernel's before them, so that they do not starve.
unsafe extern "C" fn ready_now(
    set: &'static EpollSet,
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    mask: *const sigset_t,
) -> c_int {
    let mut n = 0;
    if set.kernel_is_due() {
        let saved = errno::get();
        let mut got = unsafe { kernel_wait(epfd, events, max, 0, mask) };
        if got > 0 {
            n = absorb(set, events, got);
        }
        if n == 0 && got == max {
            // Our own entry took the only place.
            got = unsafe { kernel_wait(epfd, events, max, 0, mask) };
            if got > 0 {
                n = absorb(set, events, got);
            }
        }
        errno::set(saved);
    }
    if n < max {
        n += collect(set, unsafe { events.add(n as usize) }, max - n);
    }
    if n > 0 {
        leave(set);
    }
    n
}

pub unsafe extern "C" fn wait(
    set: &'static EpollSet,
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: c_int,
) -> c_int {
    unsafe { wait_for(set, epfd, events, max, from_ms(timeout), null()) }
}

pub unsafe extern "C" fn pwait(
    set: &'static EpollSet,
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: c_int,
    mask: *const sigset_t,
) -> c_int {
    unsafe { wait_for(set, epfd, events, max, from_ms(timeout), mask) }
}

pub unsafe extern "C" fn pwait2(
    set: &'static EpollSet,
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    let left = match unsafe { timeout.as_ref() } {
        None => u64::MAX,
        Some(t) if t.tv_sec >= 0 && (0..1_000_000_000).contains(&t.tv_nsec) => {
            (t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64)
        }
        // EINVAL, from the kernel.
        Some(_) => return unsafe { real::epoll_pwait2(epfd, events, max, timeout, mask) },
    };
    unsafe { wait_for(set, epfd, events, max, left, mask) }
}

fn from_ms(timeout: c_int) -> u64 {
    match timeout {
        ..=-1 => u64::MAX,
        ms => ms as u64 * 1_000_000,
    }
}
