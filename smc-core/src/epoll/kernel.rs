//! The epoll system calls the engine itself makes.

use crate::sys;
use crate::sys::fd::OwnFd;
use crate::sys::Errno;

const EDGE: u32 = libc::EPOLLET as u32;
/// What is watched of a TCP socket in an inner epoll.
pub const SOCKET_EVENTS: u32 =
    (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLPRI) as u32 | EDGE;
/// What is watched of a doorbell. Edge-triggered, so that it never needs to be reset.
pub const BELL_EVENTS: u32 = libc::EPOLLIN as u32 | EDGE;
/// For who must see each ring of a doorbell that others may reset: an eventfd can be written to at any time, so that the event is
/// not dropped. A reset is an event too.
pub const WHATEVER_RESETS: u32 = libc::EPOLLOUT as u32;
/// In the data of an inner epoll's entry: it is a socket, not a doorbell.
pub const SOCKET: u64 = 1 << 63;

pub fn create() -> Result<OwnFd, Errno> {
    // SAFETY: integer argument only.
    let fd = unsafe { sys!(SYS_epoll_create1, libc::EPOLL_CLOEXEC) }?;
    OwnFd::adopt(fd as i32)
}

fn ctl(epfd: i32, op: i32, fd: i32, events: u32, data: u64) -> Result<(), Errno> {
    let event = libc::epoll_event { events, u64: data };
    // SAFETY: the event outlives the call.
    unsafe { sys!(SYS_epoll_ctl, epfd, op, fd, &event as *const _) }.map(|_| ())
}

/// Adds an entry, or replaces the one that is there.
pub fn add(epfd: i32, fd: i32, events: u32, data: u64) -> Result<(), Errno> {
    match ctl(epfd, libc::EPOLL_CTL_ADD, fd, events, data) {
        Err(Errno(libc::EEXIST)) => change(epfd, fd, events, data),
        result => result,
    }
}

/// Adds an entry. False: there is one already.
pub fn add_new(epfd: i32, fd: i32, events: u32, data: u64) -> Result<bool, Errno> {
    match ctl(epfd, libc::EPOLL_CTL_ADD, fd, events, data) {
        Err(Errno(libc::EEXIST)) => Ok(false),
        result => result.map(|()| true),
    }
}

/// Replaces an entry.
pub fn change(epfd: i32, fd: i32, events: u32, data: u64) -> Result<(), Errno> {
    ctl(epfd, libc::EPOLL_CTL_MOD, fd, events, data)
}

/// Removes an entry. False: it is not there.
pub fn remove(epfd: i32, fd: i32) -> bool {
    // SAFETY: the event is ignored.
    unsafe { sys!(SYS_epoll_ctl, epfd, libc::EPOLL_CTL_DEL, fd, 0) }.is_ok()
}

/// Removes an entry; one that is not there does not matter.
pub fn delete(epfd: i32, fd: i32) {
    remove(epfd, fd);
}

/// Takes all events that are ready: events and data of each.
pub fn harvest(epfd: i32, mut each: impl FnMut(u32, u64)) {
    const BATCH: usize = 32;
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
    loop {
        // SAFETY: the kernel writes at most BATCH events; no signal mask.
        let n = unsafe { sys!(SYS_epoll_pwait, epfd, events.as_mut_ptr(), BATCH, 0, 0, 8) }.unwrap_or(0);
        events[..n].iter().for_each(|e| each(e.events, e.u64));
        if n < BATCH {
            return;
        }
    }
}

/// Whether the entry of `fd` in `epfd` is a one-shot one that has fired. The kernel tells the events that an entry
/// waits for only in /proc; a fired one-shot entry waits for none.
pub fn is_disabled(epfd: i32, fd: i32) -> bool {
    use core::fmt::Write;
    let mut path = String::new();
    let _ = write!(path, "/proc/self/fdinfo/{epfd}\0");
    // SAFETY: the path ends with a NUL.
    let Ok(file) =
        (unsafe { sys!(SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) })
    else {
        return false;
    };
    let file = file as i32;
    let mut text = Vec::new();
    let mut part = [0u8; 4096];
    // SAFETY: the kernel writes at most the length given.
    while let Ok(n @ 1..) = unsafe { sys!(SYS_read, file, part.as_mut_ptr(), part.len()) } {
        text.extend_from_slice(&part[..n]);
    }
    sys::fd::close(file);
    entry_events(&String::from_utf8_lossy(&text), fd).is_some_and(waits_for_nothing)
}

fn waits_for_nothing(events: u32) -> bool {
    const FLAGS: u32 = (libc::EPOLLET | libc::EPOLLONESHOT | libc::EPOLLWAKEUP | libc::EPOLLEXCLUSIVE) as u32;
    events & !FLAGS == 0
}

/// The `events:` value of the line for `fd` (proc_pid_fdinfo(5)).
fn entry_events(fdinfo: &str, fd: i32) -> Option<u32> {
    fdinfo.lines().filter(|l| l.starts_with("tfd:")).find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (tfd, label, events) = (words.next()?, words.next()?, words.next()?);
        if tfd.parse() != Ok(fd) || label != "events:" {
            return None;
        }
        u32::from_str_radix(events, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fired_one_shot_entry_is_recognised() {
        let bell = sys::fd::eventfd().unwrap();
        let epfd = create().unwrap();
        add(epfd.raw(), bell.raw(), (libc::EPOLLIN | libc::EPOLLONESHOT) as u32, 7).unwrap();
        assert!(!is_disabled(epfd.raw(), bell.raw()));
        sys::fd::ring(bell.raw());
        let mut seen = 0;
        harvest(epfd.raw(), |_, data| seen = data);
        assert_eq!(seen, 7);
        assert!(is_disabled(epfd.raw(), bell.raw()));
    }
}
