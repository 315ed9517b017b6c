//! Spinning before sleeping: as long as it has lately paid off.
//!
//! Waking a sleeper on another CPU costs some microseconds, more than a whole exchange between two CPUs that watch
//! memory. So a wait may watch for about as long as one wake-up costs. When watching did not help, the next waits do
//! without, ever longer, so that slow peers and crowded machines pay nothing.
//!
//! A peer on the caller's own CPU cannot do anything while the caller watches. But it may be about to run: then giving the
//! CPU away costs both sides less than falling asleep and being woken. If somebody else gets the CPU and keeps
//! it, the whole process leaves that alone for so long that it does not count: whoever sleeps is preferred when woken, who
//! gives way is not.
//!
//! A reader that keeps up with the writer of a stream takes the line with `tail` away from it for each message, and both
//! do little but wait for that line. So a reader that has watched with success lets more come before it reads
//! ([`Gather`]), as long as more does come.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::sys;

/// Longest spin, in nanoseconds.
const LIMIT_NS: u64 = 20_000;
/// Looks between two readings of the clock.
const LOOKS: u32 = 32;
/// See [`Backoff::failed`].
const MAX_BACKOFF: u32 = 8;

/// How often the CPU is given away before a sleep: the first to get it may be somebody else.
const YIELDS: u32 = 2;
/// If it takes longer than this to get the CPU back, and the peer has done nothing, somebody else had it.
const OTHERS_NS: u64 = 30_000;
/// The same if the peer has done something: less than the scheduler gives to a program that just computes (base slice,
/// 0.7 ms or more), so that this one is recognised, but enough for a peer to serve some tens of connections.
const SLOW_NS: u64 = 300_000;
/// It is not given away for so many times as long then, and twice as long each time that this happens again.
const SLOW_FACTOR: u64 = 100;
const LONGEST_NS: u64 = 10_000_000_000;

/// When this process may give the CPU away again, and how long it was not to, in nanoseconds. Races only blur it.
static NOT_BEFORE: AtomicU64 = AtomicU64::new(0);
static FOR: AtomicU64 = AtomicU64::new(0);

/// Somebody else had the CPU for `took` nanoseconds.
fn cpu_is_contested(now: u64, took: u64) {
    let last = FOR.load(Ordering::Relaxed);
    let again = now.saturating_sub(NOT_BEFORE.load(Ordering::Relaxed)) < last;
    let time = (took * SLOW_FACTOR).max(if again { last * 2 } else { 0 }).min(LONGEST_NS);
    FOR.store(time, Ordering::Relaxed);
    NOT_BEFORE.store(now + time, Ordering::Relaxed);
}

/// Counts waits to do without, after failures in a row.
#[derive(Default)]
struct Backoff {
    failures: AtomicU32,
    skip: AtomicU32,
}

impl Backoff {
    fn reset(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.skip.store(0, Ordering::Relaxed);
    }

    /// Whether this one is to be done without.
    #[inline]
    fn skips(&self) -> bool {
        let skip = self.skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Ordering::Relaxed);
        }
        skip > 0
    }

    fn paid(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// After the n-th failure in a row the next 2^n are done without, `most` being the greatest n.
    fn failed(&self, most: u32) {
        let failures = (self.failures.load(Ordering::Relaxed) + 1).min(most);
        self.failures.store(failures, Ordering::Relaxed);
        self.skip.store((1 << failures) - 1, Ordering::Relaxed);
    }
}

/// What one waiting place has learnt. Races between threads only blur it.
#[derive(Default)]
pub struct Spin {
    watching: Backoff,
    giving_way: Backoff,
}

impl Spin {
    pub fn reset(&self) {
        self.watching.reset();
        self.giving_way.reset();
    }

    /// Watches until `done` says true (returned), or it is not worth it any more. `peer_cpu`: where the other side
    /// last ran.
    pub fn wait(&self, peer_cpu: Option<u32>, done: impl FnMut() -> bool) -> bool {
        match peer_cpu {
            None => false,
            Some(cpu) if cpu == sys::cpu() => self.give_way(done),
            Some(_) => self.watch(LIMIT_NS, LOOKS, done),
        }
    }

    /// Watches for a peer on another host, at most for `limit_ns`; `done` takes longer than to look at memory.
    pub fn wait_far(&self, limit_ns: u64, done: impl FnMut() -> bool) -> bool {
        limit_ns > 0 && self.watch(limit_ns, 1, done)
    }

    /// `looks` between two readings of the clock.
    fn watch(&self, limit_ns: u64, looks: u32, mut done: impl FnMut() -> bool) -> bool {
        if self.watching.skips() {
            return false;
        }
        let start = sys::now_ns();
        loop {
            for _ in 0..looks {
                if done() {
                    self.watching.paid();
                    return true;
                }
                core::hint::spin_loop();
            }
            if sys::now_ns() - start > limit_ns {
                self.watching.failed(MAX_BACKOFF);
                return false;
            }
        }
    }

    fn give_way(&self, mut done: impl FnMut() -> bool) -> bool {
        if self.giving_way.skips() {
            return false;
        }
        let start = sys::now_ns();
        if start < NOT_BEFORE.load(Ordering::Relaxed) {
            return false;
        }
        for _ in 0..YIELDS {
            sys::sched_yield();
            let now = sys::now_ns();
            let found = done();
            if now - start > if found { SLOW_NS } else { OTHERS_NS } {
                cpu_is_contested(now, now - start);
                return found;
            }
            if found {
                self.giving_way.paid();
                return true;
            }
        }
        self.giving_way.failed(MAX_BACKOFF);
        false
    }
}

/// What a reader has learnt about letting bytes pile up. Races between threads only blur it.
#[derive(Default)]
pub struct Gather {
    /// Bytes this end had sent when it last found some: a peer that waits for answers sends no more without.
    answered: AtomicU64,
    looking_away: Backoff,
}

impl Gather {
    /// How long a reader looks away. A message costs some 50 ns if nobody disturbs its writer.
    const LOOK_AWAY_NS: u64 = 1_000;

    pub fn reset(&self) {
        self.answered.store(0, Ordering::Relaxed);
        self.looking_away.reset();
    }

    /// After a spin that found bytes. `sent`: bytes this end has sent so far, `ready`: bytes that can be read now.
    #[inline]
    pub fn look_away(&self, sent: u64, ready: impl Fn() -> u64) {
        if self.answered.load(Ordering::Relaxed) != sent {
            self.answered.store(sent, Ordering::Relaxed);
            return;
        }
        if self.looking_away.skips() {
            return;
        }
        let before = ready();
        let start = sys::now_ns();
        while sys::now_ns() - start < Self::LOOK_AWAY_NS {
            core::hint::spin_loop();
        }
        if ready() > before {
            self.looking_away.paid();
        } else {
            self.looking_away.failed(MAX_BACKOFF);
        }
    }
}
