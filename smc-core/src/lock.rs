//! A lock for memory that processes share, which survives the death of its owner.
//!
//! The word holds the owner's thread id, so that a waiter can tell a slow owner from a dead one, and a thread that
//! meets its own id knows that it interrupted itself (a signal handler calling `write` on the connection that the
//! interrupted code was writing). It is never held across a sleep in the kernel or a call to foreign code.
//!
//! What the lock protects is kept valid at every instruction by the order of the stores (data, then the private
//! cursor, then the published one), so a stolen lock needs no repair.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::sys;

const WAITERS: u32 = 1 << 31;
const SPINS: u32 = 200;
/// How long a waiter sleeps before it looks whether the owner still lives.
const OWNER_CHECK_NS: i64 = 20_000_000;

thread_local! {
    static TID: Cell<u32> = const { Cell::new(0) };
}

/// The calling thread's id, asked from the kernel once for each thread.
#[inline]
pub fn tid() -> u32 {
    TID.with(|t| {
        let v = t.get();
        if v != 0 {
            return v;
        }
        let v = sys::gettid();
        t.set(v);
        v
    })
}

/// The calling thread has become the only thread of a forked child.
pub fn forget_tid() {
    TID.with(|t| t.set(0));
}

/// The owner is the calling thread itself: the caller runs in a signal handler above the owner's code.
#[derive(Debug, PartialEq, Eq)]
pub struct Reentered;

/// See the module. All-zero memory is an unlocked lock.
#[repr(transparent)]
#[derive(Default)]
pub struct Lock(AtomicU32);

/// Proof that the lock is held; releases it when dropped.
pub struct Held<'a>(&'a Lock);

impl Lock {
    pub const fn new() -> Lock {
        Lock(AtomicU32::new(0))
    }

    /// Takes the lock, waiting for a live owner and taking over from a dead one.
    #[inline]
    pub fn lock(&self) -> Result<Held<'_>, Reentered> {
        let me = tid();
        if self.0.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Ok(Held(self));
        }
        self.lock_slow(me)
    }

    /// Whether the calling thread has it, as a signal handler above who took it.
    pub fn is_mine(&self) -> bool {
        self.0.load(Ordering::Relaxed) & !WAITERS == tid()
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Held<'_>> {
        self.0.compare_exchange(0, tid(), Ordering::Acquire, Ordering::Relaxed).ok().map(|_| Held(self))
    }

    #[cold]
    fn lock_slow(&self, me: u32) -> Result<Held<'_>, Reentered> {
        let mut spins = 0;
        loop {
            let word = self.0.load(Ordering::Relaxed);
            let owner = word & !WAITERS;
            if owner == 0 {
                // Keep the waiters' mark: others may still sleep.
                if self.0.compare_exchange_weak(word, me | word, Ordering::Acquire, Ordering::Relaxed).is_ok()
                {
                    return Ok(Held(self));
                }
                continue;
            }
            if owner == me {
                return Err(Reentered);
            }
            if spins < SPINS {
                spins += 1;
                core::hint::spin_loop();
                continue;
            }
            if word & WAITERS == 0
                && self
                    .0
                    .compare_exchange(word, word | WAITERS, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            sys::futex_wait(&self.0, owner | WAITERS, OWNER_CHECK_NS);
            if self.0.load(Ordering::Relaxed) == owner | WAITERS
                && !sys::task_exists(owner)
                && self
                    .0
                    .compare_exchange(owner | WAITERS, me | WAITERS, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                return Ok(Held(self));
            }
        }
    }

    /// Releases the lock for a holder that has no [`Held`] (the fork handlers).
    pub fn release(&self) {
        if self.0.swap(0, Ordering::Release) & WAITERS != 0 {
            sys::futex_wake(&self.0, i32::MAX);
        }
    }

    /// Makes the lock free whoever holds it: for a forked child, whose copy of a process-private lock may be owned
    /// by a thread that exists in the parent only.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Release);
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn excludes_other_threads() {
        let lock = Arc::new(Lock::new());
        let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (lock, count) = (lock.clone(), count.clone());
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        let _held = lock.lock().unwrap();
                        let v = count.load(Ordering::Relaxed);
                        count.store(v + 1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for t in threads {
            t.join().unwrap();
        }
        assert_eq!(count.load(Ordering::Relaxed), 80_000);
    }

    #[test]
    fn the_owner_meeting_itself_is_told() {
        let lock = Lock::new();
        let _held = lock.lock().unwrap();
        assert!(matches!(lock.lock(), Err(Reentered)));
    }

    #[test]
    fn a_dead_owner_is_replaced() {
        let lock = Arc::new(Lock::new());
        let l = lock.clone();
        std::thread::spawn(move || core::mem::forget(l.lock().unwrap())).join().unwrap();
        let _held = lock.lock().unwrap();
    }
}
