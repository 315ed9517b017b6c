//! How far the two CPUs are from each other just now. A host that moves its guests' virtual CPUs about changes it within
//! seconds, and with it most results; only what was measured at one distance can be compared.

use nix::sched::{sched_setaffinity, CpuSet};
use nix::unistd::Pid;
use serde::Serialize;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// The two CPUs of runs whose ends are on different ones.
pub const CPUS: [usize; 2] = [0, 1];
/// A line that takes longer than this from one CPU to the other, in nanoseconds, is *far*. The distances seen are about
/// 95 and about 500.
const FAR_NS: f64 = 250.0;
const BATCHES: usize = 60;
const BATCH: u32 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Both ends on one CPU.
    Same,
    Near,
    Far,
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.pad(match self {
            Class::Same => "same",
            Class::Near => "near",
            Class::Far => "far",
        })
    }
}

pub fn class(distance_ns: f64) -> Class {
    if distance_ns > FAR_NS {
        Class::Far
    } else {
        Class::Near
    }
}

#[repr(align(128))]
struct Line(AtomicU32);

pub fn run_on(cpu: usize) -> nix::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)
}

/// Nanoseconds that a cache line takes from one CPU to the other: half of a round trip, the lower quartile of batches,
/// since what interrupts can only add. Takes a few milliseconds.
pub fn measure() -> f64 {
    let line = Line(AtomicU32::new(0));
    let wait_for = |value: u32| {
        while line.0.load(Ordering::Acquire) != value {
            std::hint::spin_loop();
        }
    };
    let last = BATCHES as u32 * BATCH * 2;
    let mut batches = std::thread::scope(|scope| {
        scope.spawn(|| {
            run_on(CPUS[1]).expect("sched_setaffinity");
            for turn in (1..last).step_by(2) {
                wait_for(turn);
                line.0.store(turn + 1, Ordering::Release);
            }
        });
        let measuring = scope.spawn(|| {
            run_on(CPUS[0]).expect("sched_setaffinity");
            let mut turn = 0;
            let mut batch = || {
                let start = Instant::now();
                for _ in 0..BATCH {
                    line.0.store(turn + 1, Ordering::Release);
                    wait_for(turn + 2);
                    turn += 2;
                }
                start.elapsed().as_nanos() as f64 / f64::from(BATCH) / 2.0
            };
            (0..BATCHES).map(|_| batch()).collect::<Vec<f64>>()
        });
        measuring.join().expect("the measuring thread panicked")
    });
    batches.sort_by(f64::total_cmp);
    batches[BATCHES / 4]
}
