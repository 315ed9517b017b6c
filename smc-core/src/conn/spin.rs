//! Spinning before sleeping: as long as it has lately paid off, and never against a peer on the caller's own CPU.
//!
//! Waking a sleeper on another CPU costs some microseconds, more than a whole exchange between two CPUs that watch
//! memory. So a wait may watch for about as long as one wake-up costs. When watching did not help, the next waits do
//! without, ever longer, so that slow peers and crowded machines pay nothing.
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
/// After the n-th failure in a row the next 2^n waits (up to this n) do not spin.
const MAX_BACKOFF: u32 = 8;

/// What one waiting place has learnt. Races between threads only blur it.
#[derive(Default)]
pub struct Spin {
    failures: AtomicU32,
    skip: AtomicU32,
}

impl Spin {
    pub fn reset(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.skip.store(0, Ordering::Relaxed);
    }

    /// Watches until `done` says true (returned), or it is not worth it any more. `peer_cpu`: where the other side
    /// last ran.
    pub fn wait(&self, peer_cpu: Option<u32>, mut done: impl FnMut() -> bool) -> bool {
        if peer_cpu.is_none_or_own() {
            return false;
        }
        let skip = self.skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Ordering::Relaxed);
            return false;
        }
        let start = sys::now_ns();
        loop {
            for _ in 0..LOOKS {
                if done() {
                    self.failures.store(0, Ordering::Relaxed);
                    return true;
                }
                core::hint::spin_loop();
            }
            if sys::now_ns() - start > LIMIT_NS {
                let failures = (self.failures.load(Ordering::Relaxed) + 1).min(MAX_BACKOFF);
                self.failures.store(failures, Ordering::Relaxed);
                self.skip.store((1 << failures) - 1, Ordering::Relaxed);
                return false;
            }
        }
    }
}

/// What a reader has learnt about letting bytes pile up. Races between threads only blur it.
#[derive(Default)]
pub struct Gather {
    /// Bytes this end had sent when it last found some: a peer that waits for answers sends no more without.
    answered: AtomicU64,
    failures: AtomicU32,
    skip: AtomicU32,
}

impl Gather {
    /// How long a reader looks away. A message costs some 50 ns if nobody disturbs its writer.
    const LOOK_AWAY_NS: u64 = 1_000;

    pub fn reset(&self) {
        self.answered.store(0, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
        self.skip.store(0, Ordering::Relaxed);
    }

    /// After a spin that found bytes. `sent`: bytes this end has sent so far, `ready`: bytes that can be read now.
    #[inline]
    pub fn look_away(&self, sent: u64, ready: impl Fn() -> u64) {
        if self.answered.load(Ordering::Relaxed) != sent {
            self.answered.store(sent, Ordering::Relaxed);
            return;
        }
        let skip = self.skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Ordering::Relaxed);
            return;
        }
        let before = ready();
        let start = sys::now_ns();
        while sys::now_ns() - start < Self::LOOK_AWAY_NS {
            core::hint::spin_loop();
        }
        if ready() > before {
            self.failures.store(0, Ordering::Relaxed);
        } else {
            let failures = (self.failures.load(Ordering::Relaxed) + 1).min(MAX_BACKOFF);
            self.failures.store(failures, Ordering::Relaxed);
            self.skip.store((1 << failures) - 1, Ordering::Relaxed);
        }
    }
}

trait OwnCpu {
    fn is_none_or_own(&self) -> bool;
}

impl OwnCpu for Option<u32> {
    fn is_none_or_own(&self) -> bool {
        match self {
            None => true,
            Some(cpu) => *cpu == sys::cpu(),
        }
    }
}
