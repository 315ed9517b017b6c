//! Time, processor time and latencies of one end.

use crate::Work;
use nix::sys::resource::{getrusage, UsageWho};
use smc_benches::Account;
use std::time::{Duration, Instant};

/// Processor time and voluntary switches of this process since it was made.
pub struct Usage {
    cpu_us: f64,
    sleeps: u64,
}

impl Usage {
    pub fn now() -> Usage {
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage of oneself");
        let us = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64;
        Usage {
            cpu_us: us(usage.user_time()) + us(usage.system_time()),
            sleeps: usage.voluntary_context_switches() as u64,
        }
    }

    /// The account of the end that does not measure.
    pub fn account(&self, messages: u64) -> Account {
        let now = Usage::now();
        Account {
            messages,
            cpu_us: now.cpu_us - self.cpu_us,
            sleeps: now.sleeps - self.sleeps,
            ..Account::default()
        }
    }
}

/// Counts the messages of one thread: first those of the warm-up, then those of the measured time with their latency.
pub struct Meter {
    begin: Instant,
    end: Instant,
    before: u64,
    /// Messages left, if their number is what ends the run.
    left: Option<u64>,
    latencies_ns: Vec<u32>,
}

impl Meter {
    pub fn new(work: &Work) -> Meter {
        let begin = Instant::now() + work.warmup();
        // The first touch of its pages must not fall into the measured time.
        let mut latencies_ns = vec![1; 1 << 18];
        latencies_ns.clear();
        Meter { begin, end: begin + work.measured(), before: 0, left: work.count, latencies_ns }
    }

    /// A message that was begun at `start` is done. Returns the time, and whether to go on.
    #[inline]
    pub fn done(&mut self, start: Instant) -> (Instant, bool) {
        let now = Instant::now();
        if now < self.begin {
            self.before += 1;
        } else {
            self.latencies_ns.push((now - start).as_nanos().min(u32::MAX as u128) as u32);
        }
        let go_on = match &mut self.left {
            Some(left) => {
                *left = left.saturating_sub(1);
                *left > 0
            }
            None => now < self.end,
        };
        (now, go_on)
    }

    /// The account of all threads of a client.
    pub fn account(meters: Vec<Meter>, measured: Duration, usage: &Usage) -> Account {
        let mut latencies: Vec<u32> = Vec::new();
        let mut before = 0;
        for meter in meters {
            before += meter.before;
            latencies.extend(meter.latencies_ns);
        }
        latencies.sort_unstable();
        let count = latencies.len();
        let quantile = |share: f64| {
            let index = (count as f64 * share) as usize;
            latencies.get(index.min(count.saturating_sub(1))).map(|ns| f64::from(*ns) / 1000.0)
        };
        Account {
            rate: count as f64 / measured.as_secs_f64(),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            ..usage.account(before + count as u64)
        }
    }
}
