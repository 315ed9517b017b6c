//! Spinning before sleeping: as long as it has lately paid off, and never against a peer on the caller's own CPU.
//!
//! Waking a sleeper on another CPU costs some microseconds, more than a whole exchange between two CPUs that watch
//! memory. So a wait may watch for about as long as one wake-up costs. When watching did not help, the next waits do
//! without, ever longer, so that slow peers and crowded machines pay nothing.

use core::sync::atomic::{AtomicU32, Ordering};

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
