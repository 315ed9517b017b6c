//! Listening sockets: they stay the kernel's altogether and are only listed for the tools.

use core::cell::UnsafeCell;

use crate::lock::Lock;
use crate::reason::{Detail, Why};
use crate::registry::{Entry, Kind, REGISTRY};

struct Listeners {
    lock: Lock,
    list: UnsafeCell<Vec<(i32, &'static Entry)>>,
}

// SAFETY: the list is only touched with the lock held.
unsafe impl Sync for Listeners {}

static LISTENERS: Listeners = Listeners { lock: Lock::new(), list: UnsafeCell::new(Vec::new()) };

fn with_list(f: impl FnOnce(&mut Vec<(i32, &'static Entry)>)) {
    if let Ok(_held) = LISTENERS.lock.lock() {
        // SAFETY: the lock is held.
        f(unsafe { &mut *LISTENERS.list.get() });
    }
}

/// The fork handlers take this lock.
pub fn raw_lock() -> &'static Lock {
    &LISTENERS.lock
}

/// `fd` listens from now on. With a detail, what it accepts stays on TCP.
pub fn opened(fd: i32, detail: Option<Detail>) {
    with_list(|list| {
        if list.iter().all(|(f, _)| *f != fd) {
            list.push((fd, REGISTRY.alloc(fd, Kind::Listener)));
        }
    });
    if let Some(detail) = detail {
        stays_on_tcp(fd, detail);
    }
}

/// What `fd` accepts from now on stays on TCP: for the tools.
pub fn stays_on_tcp(fd: i32, detail: Detail) {
    with_list(|list| {
        if let Some((_, entry)) = list.iter().find(|(f, _)| *f == fd) {
            entry.set_why(Why::new(detail));
        }
    });
}

/// `fd` does not listen any more, or is about to be closed.
pub fn closed(fd: i32) {
    with_list(|list| {
        if let Some(i) = list.iter().position(|(f, _)| *f == fd) {
            REGISTRY.free(list.swap_remove(i).1);
        }
    });
}

/// In a forked child, which lists itself anew.
pub fn after_fork_in_child() {
    LISTENERS.lock.reset();
    with_list(|list| {
        for (fd, entry) in list {
            let why = entry.why();
            *entry = REGISTRY.alloc(*fd, Kind::Listener);
            entry.set_why(why);
        }
    });
}
