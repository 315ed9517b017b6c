//! A thread's way into the library and out again, and what a signal handler may do above a thread that is inside.
//!
//! The library has ordinary locks. A handler that interrupts a thread inside must stay out, and must not wait either: the engine's thread may
//! need the lock that the thread holds. So it is turned away ([`enter`] gives `None`): a data call fails with EAGAIN, poll says that something is
//! ready, and calls that answer nothing ([`tell`]) are made when the thread leaves.
//!
//! Blocking signals costs two system calls for each visit, which is more than a message may cost, and programs whose handlers do I/O are
//! rare. So it is done from the first time on that a handler was turned away: then handlers run before a visit or after it.

use core::cell::Cell;
use core::sync::atomic::{compiler_fence, AtomicBool, Ordering};

/// Calls that are put off, of one thread. Only those of handlers before signals are blocked; further ones are lost.
const MOST: usize = 16;

/// A call that answers nothing, and its argument.
type Call = (fn(u64), u64);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static PUT_OFF: [Cell<Option<Call>>; MOST] = const { [const { Cell::new(None) }; MOST] };
    static SOME_PUT_OFF: Cell<bool> = const { Cell::new(false) };
}

/// A handler of this process has been turned away.
static TURNED_AWAY: AtomicBool = AtomicBool::new(false);

/// Not blocked: signals of the thread's own doing, for which the kernel would end the process, and the C library's own (32, 33).
const OPEN: [i32; 8] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS, 32, 33];

extern "C" {
    fn pthread_setcancelstate(state: i32, old: *mut i32) -> i32;
}
const PTHREAD_CANCEL_DISABLE: i32 = 1;

/// libibverbs makes calls in which a cancelled thread would end, with the library's locks held.
pub fn without_cancellation<T>(act: impl FnOnce() -> T) -> T {
    let mut before = 0;
    // SAFETY: a valid place for the state before.
    unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &mut before) };
    let result = act();
    // SAFETY: as above.
    unsafe { pthread_setcancelstate(before, &mut 0) };
    result
}

/// The caller is a signal handler above a thread that is inside.
#[inline]
pub fn is_inside() -> bool {
    INSIDE.get()
}

/// Runs `act` inside. `None`: see [`is_inside`].
pub fn enter<T>(act: impl FnOnce() -> T) -> Option<T> {
    if INSIDE.get() {
        TURNED_AWAY.store(true, Ordering::Relaxed);
        return None;
    }
    Some(without_cancellation(|| {
        let mask = TURNED_AWAY.load(Ordering::Relaxed).then(block);
        INSIDE.set(true);
        // A handler of this thread sees the marks in this order.
        compiler_fence(Ordering::SeqCst);
        let result = act();
        compiler_fence(Ordering::SeqCst);
        INSIDE.set(false);
        compiler_fence(Ordering::SeqCst);
        if SOME_PUT_OFF.replace(false) {
            make_calls();
        }
        if let Some(mask) = mask {
            restore(mask);
        }
        result
    }))
}

/// Makes a call inside, now or when the thread leaves.
pub fn tell(act: fn(u64), number: u64) {
    if enter(|| act(number)).is_none() {
        SOME_PUT_OFF.set(true);
        let place = |calls: &[Cell<Option<Call>>; MOST]| {
            if let Some(free) = calls.iter().find(|call| call.get().is_none()) {
                free.set(Some((act, number)));
            }
        };
        PUT_OFF.with(place);
    }
}

#[cold]
fn make_calls() {
    let calls: [Option<Call>; MOST] = PUT_OFF.with(|calls| core::array::from_fn(|i| calls[i].take()));
    for (act, number) in calls.into_iter().flatten() {
        tell(act, number);
    }
}

/// In a forked child.
pub fn after_fork_in_child() {
    INSIDE.set(false);
    SOME_PUT_OFF.set(false);
    PUT_OFF.with(|calls| calls.iter().for_each(|call| call.set(None)));
}

/// The mask before.
#[cold]
fn block() -> u64 {
    let open = OPEN.iter().fold(0u64, |set, signal| set | 1 << (signal - 1));
    let (all, mut before) = (!open, 0u64);
    // SAFETY: eight bytes are the size of the kernel's signal set.
    let _ =
        unsafe { sys!(SYS_rt_sigprocmask, libc::SIG_BLOCK, &all as *const u64, &mut before as *mut u64, 8) };
    before
}

#[cold]
fn restore(mask: u64) {
    // SAFETY: as above.
    let _ = unsafe { sys!(SYS_rt_sigprocmask, libc::SIG_SETMASK, &mask as *const u64, 0, 8) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;
    use core::sync::atomic::{AtomicU32, AtomicU64};

    static ADMITTED: AtomicU32 = AtomicU32::new(0);
    static REFUSED: AtomicU32 = AtomicU32::new(0);
    static TOLD: AtomicU64 = AtomicU64::new(0);

    fn told(number: u64) {
        TOLD.fetch_add(number, Ordering::Relaxed);
    }

    extern "C" fn handler(_: i32) {
        match enter(|| ()) {
            Some(()) => &ADMITTED,
            None => &REFUSED,
        }
        .fetch_add(1, Ordering::Relaxed);
        tell(told, 7);
    }

    fn raise() {
        // SAFETY: a signal to this thread, which has a handler.
        let _ = unsafe { sys!(SYS_tgkill, sys::getpid(), sys::gettid(), libc::SIGUSR2) };
    }

    fn counts() -> (u32, u32, u64) {
        let of = |count: &AtomicU32| count.load(Ordering::Relaxed);
        (of(&ADMITTED), of(&REFUSED), TOLD.load(Ordering::Relaxed))
    }

    #[test]
    fn a_handler_is_turned_away_once_and_then_waits_until_the_thread_has_left() {
        // SAFETY: the handler touches atomics and cells of this module only.
        unsafe { libc::signal(libc::SIGUSR2, handler as extern "C" fn(i32) as libc::sighandler_t) };
        raise();
        assert_eq!(counts(), (1, 0, 7), "outside");
        let inside = enter(|| {
            raise();
            assert!(is_inside());
            counts()
        });
        assert_eq!(inside, Some((1, 1, 7)), "turned away, and what it tells is put off");
        assert_eq!(counts(), (1, 1, 14), "told on the way out");
        let inside = enter(|| {
            raise();
            counts()
        });
        assert_eq!(inside, Some((1, 1, 14)), "the signal waits");
        assert_eq!(counts(), (2, 1, 21));
    }
}
