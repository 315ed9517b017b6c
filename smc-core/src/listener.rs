//! Listening sockets: they stay the kernel's, and are listed for the tools. Those whose SYN-ACKs have the SMC option are watched by
//! libsmc_rdma.so: their peers want an answer whether or not the program accepts.

use core::cell::UnsafeCell;

use crate::lock::Lock;
use crate::reason::{Detail, Why};
use crate::registry::{Entry, Kind, REGISTRY};
use crate::remote::{self, abi, told};

#[derive(Clone, Copy)]
struct Listener {
    fd: i32,
    entry: &'static Entry,
    /// The SMC option was asked for, and this descriptor is the only one.
    offers: bool,
    /// By which libsmc_rdma.so knows it, 0 if it does not; and its doorbell.
    number: u64,
    bell: i32,
}

struct Listeners {
    lock: Lock,
    list: UnsafeCell<Vec<Listener>>,
}

// SAFETY: the list is only touched with the lock held.
unsafe impl Sync for Listeners {}

static LISTENERS: Listeners = Listeners { lock: Lock::new(), list: UnsafeCell::new(Vec::new()) };

fn with_list<T>(otherwise: T, f: impl FnOnce(&mut Vec<Listener>) -> T) -> T {
    match LISTENERS.lock.lock() {
        // SAFETY: the lock is held.
        Ok(_held) => f(unsafe { &mut *LISTENERS.list.get() }),
        Err(_) => otherwise,
    }
}

/// The fork handlers take this lock.
pub fn raw_lock() -> &'static Lock {
    &LISTENERS.lock
}

/// `fd` listens from now on. With a detail, what it accepts stays on TCP. `offers`: its SYN-ACKs have the SMC option.
pub fn opened(fd: i32, detail: Option<Detail>, offers: bool) {
    with_list((), |list| {
        if list.iter().all(|l| l.fd != fd) {
            list.push(Listener {
                fd,
                entry: REGISTRY.alloc(fd, Kind::Listener),
                offers,
                number: 0,
                bell: -1,
            });
        }
    });
    if let Some(detail) = detail {
        stays_on_tcp(fd, detail);
    }
    if offers {
        touched(fd);
    }
}

/// What `fd` accepts from now on stays on TCP: for the tools.
pub fn stays_on_tcp(fd: i32, detail: Detail) {
    with_list((), |list| {
        if let Some(listener) = list.iter().find(|l| l.fd == fd) {
            listener.entry.set_why(Why::new(detail));
        }
    });
}

/// `fd` does not listen any more, or is about to be closed.
pub fn closed(fd: i32) {
    let number = with_list(0, |list| match list.iter().position(|l| l.fd == fd) {
        Some(i) => {
            let listener = list.swap_remove(i);
            REGISTRY.free(listener.entry);
            listener.number
        }
        None => 0,
    });
    unlisten(number);
}

fn unlisten(number: u64) {
    if number != 0 {
        remote::tell(number, told::unlistens);
    }
}

// --- SMC-R ---

/// The program turns to the listener (poll, epoll): it is watched from now on. Returns the doorbell that is readable while
/// connections wait in the library; -1: there is none.
pub fn touched(fd: i32) -> i32 {
    let (number, bell) = with_list((0, -1), |list| match list.iter_mut().find(|l| l.fd == fd && l.offers) {
        Some(listener) => {
            if listener.number == 0 {
                let mut begun = abi::Begun::default();
                // SAFETY: a valid place for the result.
                if remote::with(-1, |table| unsafe { (table.listen)(fd, &mut begun) }) == 0 {
                    (listener.number, listener.bell) = (begun.number, begun.data);
                }
            }
            (listener.number, listener.bell)
        }
        None => (0, -1),
    });
    if number != 0 {
        remote::tell(number, told::accepts_here);
    }
    bell
}

/// The doorbell, as [`touched`] has returned it.
pub fn doorbell(fd: i32) -> i32 {
    with_list(-1, |list| list.iter().find(|l| l.fd == fd).map_or(-1, |l| l.bell))
}

/// A second descriptor of the listener exists, here or elsewhere. Who accepts there is not seen, so that the library must not take
/// connections away.
pub fn duplicated(fd: i32) {
    let number = with_list(0, |list| match list.iter_mut().find(|l| l.fd == fd) {
        Some(listener) => {
            (listener.offers, listener.bell) = (false, -1);
            core::mem::take(&mut listener.number)
        }
        None => 0,
    });
    unlisten(number);
}

/// How an accept is to be made.
#[derive(Clone, Copy)]
pub enum Accept {
    /// By the kernel; then [`accept_ends`] with this number, unless it is 0.
    Kernel(u64),
    /// This connection is the next one. Its descriptor is to be duplicated, then [`given`].
    Taken(abi::Taken),
}

/// The program is about to accept on `fd`.
pub fn accept_begins(fd: i32) -> Accept {
    touched(fd);
    let number = with_list(0, |list| list.iter().find(|l| l.fd == fd).map_or(0, |l| l.number));
    let mut taken = abi::Taken::default();
    if number == 0 {
        return Accept::Kernel(0);
    }
    // SAFETY: a valid place for the result.
    match remote::with(-1, |table| unsafe { (table.accept_begins)(number, &mut taken) }) {
        1 => Accept::Taken(taken),
        0 => Accept::Kernel(number),
        _ => Accept::Kernel(0),
    }
}

pub fn accept_ends(number: u64) {
    remote::tell(number, told::accept_ends);
}

pub fn given(fd: i32) {
    remote::tell(fd as u64, told::taken);
}

/// After a fork, in the parent: perhaps it is the child that accepts. The parent's engine waits until the parent turns to the listener.
pub(crate) fn after_fork_in_parent() {
    if !remote::is_loaded() {
        return;
    }
    let numbers: Vec<u64> = with_list(Vec::new(), |list| list.iter().map(|l| l.number).collect());
    for number in numbers.into_iter().filter(|number| *number != 0) {
        remote::tell(number, told::accepts_elsewhere);
    }
}

/// In a forked child, which lists itself anew.
pub fn after_fork_in_child() {
    with_list((), |list| {
        for listener in list {
            let why = listener.entry.why();
            listener.entry = REGISTRY.alloc(listener.fd, Kind::Listener);
            listener.entry.set_why(why);
            (listener.number, listener.bell) = (0, -1);
        }
    });
}
