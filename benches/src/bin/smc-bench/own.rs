//! The workloads of the load program.

use crate::process::{Bench, Carried, End, Place, Running, Side};
use crate::workload::{Expect, Sample, Session, Workload};
use anyhow::{ensure, Context, Result};
use smc_benches::{median, Account};
use std::process::Command;
use std::time::Instant;

const BOTH: &[Place] = &[Place::Free];

pub fn all() -> Vec<Workload> {
    let round_trip = |name: &'static str, about, arguments| {
        own(name, about, "round trips/s", arguments).targets((2.2, 1.5), (20.0, 10.0), (20.0, 10.0))
    };
    let stream = |name: &'static str, about, arguments| own(name, about, "messages/s", arguments);
    let short = |name: &'static str, about, arguments| own(name, about, "connections/s", arguments).rounds(3);
    vec![
        round_trip("rr-64", "64 B there and back, blocking calls", &["--work=round-trip", "--size=64"])
            .all_sides(),
        round_trip("rr-1k", "1 KiB there and back, blocking calls", &["--work=round-trip", "--size=1024"]),
        round_trip("rr-64-epoll", "64 B there and back, epoll", &["--work=events", "--size=64"]).all_sides(),
        round_trip("rr-1k-epoll", "1 KiB there and back, epoll", &["--work=events", "--size=1024"]),
        paced(),
        own(
            "rr-64-8",
            "8 pairs of threads at once, 64 B, blocking calls",
            "round trips/s",
            &["--work=round-trip", "--size=64", "--threads=8"],
        )
        .target(1.5, 1.0)
        .all_sides()
        .places(BOTH),
        stream("stream-64", "64 B each, TCP_NODELAY", &["--work=stream", "--size=64"])
            .targets((8.0, 4.0), (25.0, 8.0), (25.0, 8.0))
            .all_sides(),
        stream("stream-64-nagle", "64 B each, Nagle's algorithm", &["--work=stream", "--size=64", "--nagle"])
            .target(4.0, 1.5),
        stream("stream-1k", "1 KiB each, TCP_NODELAY", &["--work=stream", "--size=1024"])
            .target(10.0, 5.0)
            .all_sides(),
        stream("stream-64k", "64 KiB each, the same buffer", &["--work=stream", "--size=65536"])
            .target(3.0, 2.0)
            .all_sides(),
        stream(
            "stream-64k-cold",
            "64 KiB each, through 64 MiB of buffers",
            &["--work=stream", "--size=65536", "--span=67108864"],
        )
        .target(1.8, 1.3)
        .all_sides(),
        short("short", "connect, one exchange of 64 B, close", &["--work=connect", "--size=64"])
            .expect(Expect::Tcp)
            .all_sides()
            .target(0.99, 0.97),
        upgrading_short(),
        crowded("hogs-rr-64", "rr-64 with a CPU hog on each CPU", &["--work=round-trip", "--size=64"]),
        crowded("hogs-stream-64", "stream-64 with hogs", &["--work=stream", "--size=64"]),
        crowded("hogs-stream-64k", "stream-64k with hogs", &["--work=stream", "--size=65536"]),
        crowded("hogs-short", "short with hogs", &["--work=connect", "--size=64"]).expect(Expect::Tcp),
        own("busy-10", "10 busy connections, epoll", "round trips/s", &["--work=events", "--each=10"])
            .places(&[Place::Apart]),
        beside_idle(),
        foreign("pipe", "write and read of a pipe, 1 byte"),
        foreign("zero", "read of /dev/zero, 64 bytes"),
        foreign("open-close", "open and close of /dev/null"),
        process_start(),
    ]
}

fn own(
    name: &'static str,
    about: &'static str,
    unit: &'static str,
    arguments: &'static [&'static str],
) -> Workload {
    with_environment(name, about, unit, arguments, &[])
}

fn with_environment(
    name: &'static str,
    about: &'static str,
    unit: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [&'static str],
) -> Workload {
    let start = move |_: &Bench, side, place| {
        Ok(Box::new(Pair { environment, ..Pair::new(side, place, arguments) }) as Box<dyn Session>)
    };
    Workload::new(name, about, unit, Box::new(start))
}

/// At a fixed rate it is the latency that counts.
fn paced() -> Workload {
    let start = |_: &Bench, side, place| {
        let arguments = &["--work=round-trip", "--size=64", "--interval-us=100"];
        Ok(Box::new(Pair { by_latency: true, ..Pair::new(side, place, arguments) }) as Box<dyn Session>)
    };
    let about = "64 B, one request each 100 us; 1/median latency";
    Workload::new("rr-64-100us", about, "1/s", Box::new(start)).target(2.0, 1.0).all_sides()
}

fn upgrading_short() -> Workload {
    let arguments = &["--work=connect", "--size=64"];
    let environment = &["SMC_UPGRADE_AFTER=0"];
    with_environment(
        "short-at-once",
        "the same with SMC_UPGRADE_AFTER=0",
        "connections/s",
        arguments,
        environment,
    )
    .expect(Expect::Either)
    .target(1.0, 0.95)
    .rounds(3)
}

fn crowded(name: &'static str, about: &'static str, arguments: &'static [&'static str]) -> Workload {
    let start = move |_: &Bench, side, place| {
        Ok(Box::new(Pair { longer: 4, ..Pair::new(side, place, arguments) }) as Box<dyn Session>)
    };
    Workload::new(name, about, "messages/s", Box::new(start)).target(1.0, 0.97).with_hogs()
}

/// Few of these rounds: most of their time goes into making the connections.
fn beside_idle() -> Workload {
    let start = |_: &Bench, side, place| {
        let arguments = &["--work=events", "--each=10"];
        let mut pair = Pair::new(side, place, arguments);
        pair.beside_idle = true;
        Ok(Box::new(pair) as Box<dyn Session>)
    };
    let about = "the same beside 10,000 idle ones (1,000 with --quick)";
    let mut workload = Workload::new("busy-10-idle", about, "round trips/s", Box::new(start));
    workload.many_descriptors = true;
    workload.places(&[Place::Apart])
}

/// Two processes of the load program, both started for each run.
struct Pair {
    side: Side,
    place: Place,
    arguments: &'static [&'static str],
    /// NAME=VALUE, for both ends on the SMC side.
    environment: &'static [&'static str],
    /// Compare the median latency, not the rate.
    by_latency: bool,
    /// With others on the CPUs, more than a slice of the scheduler's must be seen.
    longer: u64,
    beside_idle: bool,
}

impl Pair {
    fn new(side: Side, place: Place, arguments: &'static [&'static str]) -> Pair {
        Pair { side, place, arguments, environment: &[], by_latency: false, longer: 1, beside_idle: false }
    }

    fn command(&self, bench: &Bench, role: &str, end: End) -> Command {
        let mut command = bench.command(&bench.load, self.side, self.place, end);
        command.arg(role).args(self.arguments).arg(format!("--ms={}", bench.ms * self.longer));
        command.arg(format!("--warmup-ms={}", (bench.ms / 2).max(30) * self.longer));
        if self.beside_idle {
            command.arg(format!("--idle={}", bench.idle));
        }
        if self.side == Side::Smc {
            command.envs(self.environment.iter().filter_map(|setting| setting.split_once('=')));
        }
        command
    }
}

impl Session for Pair {
    fn run(&mut self, bench: &Bench) -> Result<Sample> {
        let mut server = self.command(bench, "server", End::Server);
        let path = bench.work.join("load.sock");
        let _ = std::fs::remove_file(&path);
        if self.side == Side::Unix {
            server.arg("--unix").arg(&path);
        }
        let mut server = Running::start(server)?;
        let address = server.line().context("the server's address")?;
        let mut client = self.command(bench, "client", End::Client);
        client.arg(if self.side == Side::Unix { "--unix" } else { "--port" }).arg(address);
        let (output, carried) = bench.run(client)?;
        let client: Account = last_line(&output)?;
        let served: Account = last_line(&server.line()?)?;
        server.wait()?;
        let messages = client.messages as f64;
        Ok(Sample {
            rate: match client.p50_us {
                Some(p50) if self.by_latency => 1e6 / p50,
                _ => client.rate,
            },
            p50_us: client.p50_us,
            p99_us: client.p99_us,
            cpu_us: Some((client.cpu_us + served.cpu_us) / messages),
            sleeps: Some((client.sleeps + served.sleeps) as f64 / messages),
            carried,
            redirected: None,
        })
    }
}

pub fn last_line(output: &str) -> Result<Account> {
    let line = output.lines().last().context("the load program printed nothing")?;
    serde_json::from_str(line).with_context(|| line.to_owned())
}

/// A process on each CPU that does nothing but use it.
pub fn hogs(bench: &Bench) -> Result<Vec<Running>> {
    let hog = |cpu: &usize| {
        let mut command = bench.command(&bench.load, Side::Tcp, Place::Free, End::Server);
        command.args(["hog", &cpu.to_string()]);
        let mut hog = Running::start(command)?;
        hog.line()?;
        Ok(hog)
    };
    crate::distance::CPUS.iter().map(hog).collect()
}

/// One process, no connection.
fn foreign(what: &'static str, about: &'static str) -> Workload {
    struct Foreign {
        side: Side,
        what: &'static str,
    }
    impl Session for Foreign {
        fn run(&mut self, bench: &Bench) -> Result<Sample> {
            let mut command = bench.command(&bench.load, self.side, Place::Same, End::Client);
            command.args(["foreign", self.what, &format!("--ms={}", bench.ms / 2)]);
            let account = last_line(&bench.run(command)?.0)?;
            let cpu_us = Some(account.cpu_us / account.messages as f64);
            Ok(Sample { rate: account.rate, cpu_us, carried: None::<Carried>, ..Sample::default() })
        }
    }
    let start = move |_: &Bench, side, _| Ok(Box::new(Foreign { side, what }) as Box<dyn Session>);
    Workload::new(format!("foreign-{what}"), about, "calls/s", Box::new(start))
        .expect(Expect::NoConnections)
        .places(&[Place::Same])
        .target(0.98, 0.95)
        .rounds(3)
}

/// /bin/true, from fork to its end.
fn process_start() -> Workload {
    const STARTS: usize = 20;
    struct ProcessStart(Side);
    impl Session for ProcessStart {
        fn run(&mut self, bench: &Bench) -> Result<Sample> {
            let mut command = bench.command("/bin/true", self.0, Place::Same, End::Server);
            let mut times = Vec::new();
            for _ in 0..STARTS {
                let start = Instant::now();
                let status = command.status()?;
                times.push(start.elapsed().as_secs_f64());
                ensure!(status.success(), "/bin/true ended with {status}");
            }
            Ok(Sample { rate: 1.0 / median(&times), ..Sample::default() })
        }
    }
    let start = |_: &Bench, side, _| Ok(Box::new(ProcessStart(side)) as Box<dyn Session>);
    Workload::new("start", "/bin/true from fork to exit, 1/median", "1/s", Box::new(start))
        .expect(Expect::NoConnections)
        .places(&[Place::Same])
}
