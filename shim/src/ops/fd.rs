//! Closing, duplicating, controlling managed descriptors.

use super::open::pin;
use crate::fd_table::{self, Entry};
use crate::{errno, guard, real};
use libc::{c_int, c_ulong};
use smc_core::conn::watch;
use smc_core::conn::Conn;
use smc_core::epoll::EpollSet;
use smc_core::reason::Detail;
use smc_core::{link, listener};

/// `fd` is about to be closed: forget it. Makes no cancellable call, and no call that fails.
pub unsafe extern "C" fn closing(fd: c_int, entry: Entry) {
    if fd_table::replace_if(fd, entry, Entry::None) {
        release(fd, entry);
    }
}

/// What stood behind `fd` loses that descriptor. -1: the number is somebody else's already.
extern "C" fn release(fd: c_int, entry: Entry) {
    match entry {
        Entry::Conn(conn) => guard::protect((), || {
            if fd >= 0 && conn.listed_fd() == fd {
                if let Some(other) = other_descriptor(entry) {
                    conn.list_as(other);
                }
            }
            conn.close(fd);
        }),
        Entry::Epoll(set) => guard::protect((), || set.close(other_descriptor(entry))),
        Entry::Listener(_) => guard::protect((), || listener::closed(fd)),
        _ => {}
    }
}

/// Another descriptor of the same object.
fn other_descriptor(entry: Entry) -> Option<c_int> {
    let mut found = None;
    if has_aliases(entry) {
        fd_table::for_each(0, u32::MAX, |fd, other| {
            if other.same(entry) {
                found = Some(fd as c_int);
            }
            found.is_none()
        });
    }
    found
}

fn has_aliases(entry: Entry) -> bool {
    match entry {
        Entry::Conn(conn) => conn.aliases() > 1,
        Entry::Epoll(set) => set.aliases() > 1,
        _ => false,
    }
}

/// close(2). The entry goes first: the number may be another thread's as soon as it is closed.
pub unsafe extern "C" fn close(fd: c_int, entry: Entry) -> c_int {
    unsafe {
        closing(fd, entry);
        real::close(fd)
    }
}

/// A call has returned `fd` as a new descriptor though the table has an entry for it. `errno` is kept by the hook.
pub unsafe extern "C" fn stale(fd: c_int) {
    release(-1, fd_table::take(fd));
}

/// `new` is a fresh duplicate of `old`. `errno` is kept by the hook.
pub unsafe extern "C" fn dup(old: c_int, entry: Entry, new: c_int) {
    match entry {
        Entry::Conn(conn) => duplicated_conn(conn, new),
        Entry::Epoll(set) => duplicated_set(set),
        Entry::Listener(_) => duplicated_listener(old),
        Entry::Internal => return,
        _ => {}
    }
    fd_table::set(new, entry);
}

extern "C" fn duplicated_conn(conn: &'static Conn, new: c_int) {
    conn.add_alias();
    if new <= 2 {
        pin(conn, Detail::StdFd);
    }
}

extern "C" fn duplicated_listener(old: c_int) {
    guard::protect((), || listener::duplicated(old));
}

extern "C" fn duplicated_set(set: &'static EpollSet) {
    set.add_alias();
}

/// dup2(2) if `flags` is negative, dup3(2) otherwise, where at least one of the two numbers has an entry and they
/// differ. If it fails, nothing has changed: `new` is still open.
pub unsafe extern "C" fn dup_onto(
    old: c_int,
    source: Entry,
    new: c_int,
    target: Entry,
    flags: c_int,
) -> c_int {
    if !target.is_none() && unsafe { real::fcntl(old, libc::F_GETFD, 0) } >= 0 {
        // It will be closed. As with close, the entry goes first.
        unsafe { closing(new, target) };
    }
    let ret = match flags {
        0.. => unsafe { real::dup3(old, new, flags) },
        _ => unsafe { real::dup2(old, new) },
    };
    if ret >= 0 && !source.is_none() {
        let saved = errno::get();
        unsafe { dup(old, source, new) };
        errno::set(saved);
    }
    ret
}

/// The program wants the number of `fd`, one of our own: move it elsewhere. `errno` is kept by the hook.
pub unsafe extern "C" fn relocate(fd: c_int) {
    if !guard::protect(false, || link::relocate(fd) || watch::relocate(fd)) {
        crate::logging::relocate(fd);
    }
}

/// fcntl(2) other than F_DUPFD and F_DUPFD_CLOEXEC.
pub unsafe extern "C" fn fcntl(fd: c_int, entry: Entry, cmd: c_int, arg: usize) -> c_int {
    if let (Entry::Conn(conn), libc::F_SETFL) = (entry, cmd) {
        if arg as c_int & libc::O_ASYNC != 0 {
            // SIGIO comes from the kernel, for what the kernel sees.
            pin(conn, Detail::CallUnsupported);
        }
    }
    unsafe { real::fcntl(fd, cmd, arg) }
}

/// ioctl(2) on a Conn, Tcp or Listener.
pub unsafe extern "C" fn ioctl(fd: c_int, entry: Entry, request: usize, arg: usize) -> c_int {
    let ret = unsafe { real::ioctl(fd, request, arg) };
    let Entry::Conn(conn) = entry else { return ret };
    let request = request as u32 as c_ulong;
    if request == SIOCATMARK && ret == 0 && conn.is_attached() && ring_is_ahead(conn) {
        // What the kernel says is true of its own queue, behind the bytes in the ring.
        unsafe { *(arg as *mut c_int) = 0 };
    }
    if ret == 0 && arg != 0 && conn.is_moved() && (request == libc::FIONREAD || request == libc::TIOCOUTQ) {
        let place = arg as *mut c_int;
        unsafe { *place = queued(conn, request == libc::FIONREAD, *place) };
    }
    if request == libc::FIOASYNC && ret == 0 {
        pin(conn, Detail::CallUnsupported);
    }
    ret
}

/// include/uapi/asm-generic/sockios.h; libc has no name for it.
const SIOCATMARK: c_ulong = 0x8905;

extern "C" fn ring_is_ahead(conn: &'static Conn) -> bool {
    guard::protect(false, || conn.ring_is_ahead())
}

/// The answer to FIONREAD (`readable`) or SIOCOUTQ, given the kernel's.
extern "C" fn queued(conn: &'static Conn, readable: bool, kernel: c_int) -> c_int {
    let kernel = kernel.max(0) as u64;
    let bytes = guard::protect(kernel, || match readable {
        true => conn.readable_bytes(kernel),
        false => conn.unsent_bytes(kernel),
    });
    bytes.min(c_int::MAX as u64) as c_int
}

/// Another process is about to get `fd` by SCM_RIGHTS. `errno` is kept by the hook.
pub unsafe extern "C" fn passed(fd: c_int) {
    match fd_table::get(fd) {
        Entry::Conn(conn) => unsafe { super::life::hand_over(conn, fd, Detail::FdPassed) },
        Entry::Listener(_) => duplicated_listener(fd),
        _ => {}
    }
}
