//! What a workload is, and how one is measured: in rounds, in each of which every side has one run.

use crate::distance::{self, Class};
use crate::process::{Bench, Carried, Place, Side};
use crate::table;
use anyhow::{Context, Result};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Whether the connections are to move to shared memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Ring,
    /// They are too short to.
    Tcp,
    /// They are short; some may.
    Either,
    /// There are none.
    NoConnections,
}

/// Ratios to TCP: what is aimed at, and below what something is wrong. For same, near and far.
pub type Targets = [(f64, f64); 3];

pub struct Workload {
    pub name: String,
    /// What it does, in a few words.
    pub about: &'static str,
    pub unit: &'static str,
    pub sides: &'static [Side],
    pub places: &'static [Place],
    pub expect: Expect,
    pub targets: Option<Targets>,
    /// With a process on each CPU that does nothing but use it.
    pub hogs: bool,
    /// With thousands of connections.
    pub many_descriptors: bool,
    /// Short and unsteady: this many rounds in place of one.
    pub rounds: usize,
    pub start: Start,
}

pub type Start = Box<dyn Fn(&Bench, Side, Place) -> Result<Box<dyn Session>>>;

/// A workload on one side, with its servers running.
pub trait Session {
    fn run(&mut self, bench: &Bench) -> Result<Sample>;
}

/// One run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    /// More is better.
    pub rate: f64,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    /// Processor time of a message at both ends, in microseconds.
    pub cpu_us: Option<f64>,
    /// How often one of the ends went to sleep, for each message.
    pub sleeps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carried: Option<Carried>,
    /// On the sockmap side: messages that the program redirected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirected: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// `None`: the CPUs' distance changed while it ran, and it counts for nothing.
    pub class: Option<Class>,
    pub distance_ns: Option<f64>,
    /// How much of the CPUs' time others took.
    pub others: Option<f64>,
    pub samples: Vec<(Side, Sample)>,
}

/// All rounds of a workload in one place.
pub struct Measured<'a> {
    pub workload: &'a Workload,
    pub rounds: Vec<Round>,
}

impl Workload {
    pub fn new(name: impl Into<String>, about: &'static str, unit: &'static str, start: Start) -> Workload {
        Workload {
            name: name.into(),
            about,
            unit,
            sides: &[Side::Tcp, Side::Smc],
            places: &[Place::Same, Place::Apart],
            expect: Expect::Ring,
            targets: None,
            hogs: false,
            many_descriptors: false,
            rounds: 1,
            start,
        }
    }

    /// Compared with a Unix socket and a sockmap as well.
    pub fn all_sides(mut self) -> Workload {
        self.sides = &[Side::Tcp, Side::Smc, Side::Unix, Side::Sockmap];
        self
    }

    pub fn sides(mut self, sides: &'static [Side]) -> Workload {
        self.sides = sides;
        self
    }

    pub fn places(mut self, places: &'static [Place]) -> Workload {
        self.places = places;
        self
    }

    pub fn targets(mut self, same: (f64, f64), near: (f64, f64), far: (f64, f64)) -> Workload {
        self.targets = Some([same, near, far]);
        self
    }

    pub fn with_hogs(mut self) -> Workload {
        self.hogs = true;
        self
    }

    /// One target wherever the ends are.
    pub fn target(self, target: f64, wrong: f64) -> Workload {
        self.targets((target, wrong), (target, wrong), (target, wrong))
    }

    pub fn expect(mut self, expect: Expect) -> Workload {
        self.expect = expect;
        self
    }

    pub fn rounds(mut self, factor: usize) -> Workload {
        self.rounds = factor;
        self
    }

    pub fn measure(&self, bench: &Bench, place: Place, rounds: usize) -> Result<Measured<'_>> {
        bench.reporting.set(true);
        bench.many_descriptors.set(self.many_descriptors);
        let _hogs = if self.hogs { crate::own::hogs(bench)? } else { Vec::new() };
        let mut sessions = Vec::new();
        for side in self.sides {
            if *side == Side::Sockmap && bench.sockmap.is_none() {
                continue;
            }
            let session =
                (self.start)(bench, *side, place).with_context(|| format!("{} {side:?}", self.name))?;
            sessions.push((*side, session));
        }
        // Short connections run without a report, and tell in a run of its own how they are carried.
        let mut carried = None;
        if self.expect != Expect::Ring {
            for (_, session) in sessions.iter_mut().filter(|(side, _)| *side == Side::Smc) {
                carried = session.run(bench)?.carried;
            }
            bench.reporting.set(false);
        }
        let mut measured = Measured { workload: self, rounds: Vec::new() };
        for number in 0..rounds * self.rounds {
            // Each side is first, second, ... equally often.
            let mut order: Vec<usize> = (0..sessions.len()).collect();
            order.rotate_left(number % sessions.len());
            if number / sessions.len() % 2 == 1 {
                order.reverse();
            }
            wait_for_quiet(bench, self.hogs);
            let before = (place != Place::Same).then(distance::measure);
            let load = Load::start(bench);
            let mut samples = Vec::new();
            for index in order {
                let (side, session) = &mut sessions[index];
                let sample = self.run(bench, *side, session.as_mut());
                let mut sample = sample.with_context(|| format!("{} {side:?}", self.name))?;
                if *side == Side::Smc && sample.carried.is_none() {
                    sample.carried.clone_from(&carried);
                }
                samples.push((*side, sample));
            }
            let others = load.others(bench);
            let after = before.map(|_| distance::measure());
            measured.rounds.push(Round {
                class: class(before, after),
                distance_ns: before.zip(after).map(|(before, after)| (before + after) / 2.0),
                others,
                samples,
            });
        }
        Ok(measured)
    }

    fn run(&self, bench: &Bench, side: Side, session: &mut dyn Session) -> Result<Sample> {
        let redirected = || bench.sockmap.as_ref().map(|map| map.redirected()).transpose();
        let before = redirected()?;
        let mut sample = session.run(bench)?;
        if side == Side::Sockmap {
            sample.redirected = before.zip(redirected()?).map(|(before, after)| after - before);
        }
        Ok(sample)
    }
}

/// Until others leave the CPUs alone, as long as there is patience left.
fn wait_for_quiet(bench: &Bench, hogs: bool) {
    // Beside hogs there is no idle time to be seen.
    while !hogs && !bench.patience.get().is_zero() {
        let load = Load::start(bench);
        let start = Instant::now();
        // Several ticks of the kernel's clock, in which idle time is counted.
        std::thread::sleep(Duration::from_millis(100));
        if load.others(bench).is_none_or(|others| others <= table::BUSY) {
            return;
        }
        bench.patience.set(bench.patience.get().saturating_sub(start.elapsed()));
    }
}

fn class(before: Option<f64>, after: Option<f64>) -> Option<Class> {
    match (before.map(distance::class), after.map(distance::class)) {
        (None, _) => Some(Class::Same),
        (before, after) if before == after => before,
        _ => None,
    }
}

/// What the machine did in a span of time, to tell how much of it was not ours.
struct Load {
    start: Instant,
    idle_us: Option<f64>,
    ours_us: Option<f64>,
}

/// Time that all CPUs have spent with nothing to do, in microseconds.
fn idle_us() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<f64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|n| n.parse().ok()).collect();
    // idle and iowait, in ticks of 10 ms
    Some((fields.get(3)? + fields.get(4)?) * 1e4)
}

impl Load {
    fn start(bench: &Bench) -> Load {
        let ours_us = bench.group.as_ref().and_then(|group| group.cpu_us());
        Load { start: Instant::now(), idle_us: idle_us(), ours_us }
    }

    /// The share of the CPUs' time that went to others, steal included.
    fn others(&self, bench: &Bench) -> Option<f64> {
        let now = Load::start(bench);
        let cpus = std::thread::available_parallelism().ok()?.get() as f64;
        let total = (now.start - self.start).as_secs_f64() * 1e6 * cpus;
        let used = total - (now.idle_us? - self.idle_us?) - (now.ours_us? - self.ours_us?);
        Some((used / total).clamp(0.0, 1.0))
    }
}

impl Measured<'_> {
    /// The classes in which there is a round.
    pub fn rows(&self) -> Vec<table::Row> {
        let mut classes: Vec<Class> = self.rounds.iter().filter_map(|round| round.class).collect();
        classes.sort();
        classes.dedup();
        classes.into_iter().map(|class| table::Row::new(self, class)).collect()
    }
}
