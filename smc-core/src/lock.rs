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
/// The owner forks in a signal handler that interrupted it: see [`Lock::fork_begins`].
const FORKING: u32 = 1 << 30;
/// Thread ids are below 1 << 22.
const OWNER: u32 = !(WAITERS | FORKING);
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

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Held<'_>> {
        self.0.compare_exchange(0, tid(), Ordering::Acquire, Ordering::Relaxed).ok().map(|_| Held(self))
    }

    #[cold]
    fn lock_slow(&self, me: u32) -> Result<Held<'_>, Reentered> {
        let mut spins = 0;
        loop {
            let word = self.0.load(Ordering::Relaxed);
            let owner = word & OWNER;
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
            let word = word | WAITERS;
            sys::futex_wait(&self.0, word, OWNER_CHECK_NS);
            if self.0.load(Ordering::Relaxed) == word
                && !sys::task_exists(owner)
                && self.0.compare_exchange(word, me | WAITERS, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return Ok(Held(self));
            }
        }
    }

    /// The calling thread has the lock: it is in a signal handler above the code that took it.
    pub fn is_mine(&self) -> bool {
        self.0.load(Ordering::Relaxed) & OWNER == tid()
    }

    /// Before a fork: takes the lock until [`Lock::fork_ends`] or [`Lock::forked`]. One that is the caller's already stays with the
    /// code that took it, in both processes. Without `wait`, one that another thread has is left alone: false.
    pub fn fork_begins(&self, wait: bool) -> bool {
        let taken = if wait { self.lock() } else { self.try_lock().ok_or(Reentered) };
        match taken {
            Ok(held) => core::mem::forget(held),
            Err(Reentered) if self.is_mine() => drop(self.0.fetch_or(FORKING, Ordering::Relaxed)),
            Err(Reentered) => return false,
        }
        true
    }

    /// After a fork, in the parent.
    pub fn fork_ends(&self) {
        if !self.is_mine() {
            return;
        }
        if self.0.load(Ordering::Relaxed) & FORKING != 0 {
            self.0.fetch_and(!FORKING, Ordering::Relaxed);
        } else {
            self.release();
        }
    }

    /// After a fork, in the child, whose thread has a new id.
    pub fn forked(&self) {
        let interrupted = self.0.load(Ordering::Relaxed) & FORKING != 0;
        self.0.store(if interrupted { tid() } else { 0 }, Ordering::Release);
    }

    /// Releases the lock for a holder that has no [`Held`].
    fn release(&self) {
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
    fn a_fork_leaves_a_lock_with_the_code_it_interrupted() {
        let lock = Lock::new();
        // In the parent, then as in the child.
        for end in [Lock::fork_ends, Lock::forked] {
            let held = lock.lock().unwrap();
            assert!(lock.fork_begins(true), "the fork of a signal handler");
            end(&lock);
            assert!(lock.is_mine(), "its owner goes on");
            drop(held);
            assert!(lock.fork_begins(true));
            assert!(lock.is_mine());
            end(&lock);
            assert!(lock.try_lock().is_some());
        }
    }

    #[test]
    fn what_another_thread_has_is_left_alone_where_waiting_is_not_safe() {
        let lock = Lock::new();
        std::thread::scope(|scope| {
            let _held = lock.lock().unwrap();
            assert!(!scope.spawn(|| lock.fork_begins(false)).join().unwrap());
            scope.spawn(|| lock.fork_ends()).join().unwrap();
            assert!(lock.is_mine());
        });
    }

    #[test]
    fn a_dead_owner_is_replaced() {
        let lock = Arc::new(Lock::new());
        let l = lock.clone();
        std::thread::spawn(move || core::mem::forget(l.lock().unwrap())).join().unwrap();
        let _held = lock.lock().unwrap();
    }
}
