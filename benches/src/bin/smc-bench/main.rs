//! Compares workloads over TCP, with the preload library, over a Unix socket and with a sockmap: in alternating runs, each
//! measured against TCP in the same round, and told apart by where the host has put the CPUs. See `ci/bench.sh`.

mod cgroup;
mod counts;
mod distance;
mod idle;
mod own;
mod process;
mod programs;
mod sockmap;
mod table;
mod workload;

use anyhow::{bail, Context, Result};
use clap::Parser;
use process::Bench;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Workloads over TCP and over SMC, as ratios.
#[derive(Parser)]
struct Arguments {
    /// What to measure: names, or beginnings of names; everything if none is given.
    workloads: Vec<String>,
    /// Fewer and shorter rounds.
    #[arg(long)]
    quick: bool,
    /// Rounds of each workload.
    #[arg(long)]
    rounds: Option<usize>,
    /// Milliseconds of a run.
    #[arg(long)]
    ms: Option<u64>,
    /// Seconds to wait, all in all, for a machine that others use to be quiet.
    #[arg(long, default_value_t = 0)]
    patience: u64,
    /// Print the names of the workloads.
    #[arg(long)]
    list: bool,
    /// Write the results, with all rounds, to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The library.
    #[arg(long, env = "SMC_PRELOAD")]
    preload: Option<PathBuf>,
}

#[derive(Serialize)]
struct Results<'a> {
    machine: Machine,
    rows: &'a [table::Row],
    rounds: Vec<Rounds<'a>>,
    counts: &'a [counts::Count],
    idle: &'a [idle::Idle],
}

#[derive(Serialize)]
struct Rounds<'a> {
    workload: &'a str,
    rounds: &'a [workload::Round],
}

#[derive(Serialize)]
struct Machine {
    kernel: String,
    processor: String,
    cpus: usize,
}

impl Machine {
    fn this() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo");
        let processor = processor.lines().find(|line| line.starts_with("model name"));
        let processor = processor.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown");
        Machine {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: processor.to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
        }
    }
}

fn main() -> ExitCode {
    match compare() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> Result<()> {
    let arguments = Arguments::parse();
    let mut workloads = own::all();
    workloads.extend(programs::all());
    if arguments.list {
        workloads.iter().for_each(|workload| println!("{:18} {}", workload.name, workload.about));
        println!("{:18} connections that do nothing: memory and processor time", idle::NAME);
        counts::names().for_each(|name| println!("{name:18} system calls and instructions of a message"));
        return Ok(());
    }
    let wanted = |name: &str| {
        arguments.workloads.is_empty()
            || arguments.workloads.iter().any(|start| name.starts_with(start.as_str()))
    };
    let names = workloads.iter().map(|workload| workload.name.clone());
    let names: Vec<String> = names.chain(counts::names().chain([idle::NAME]).map(str::to_owned)).collect();
    if let Some(name) =
        arguments.workloads.iter().find(|start| !names.iter().any(|name| name.starts_with(start.as_str())))
    {
        bail!("no workload is called {name}; --list shows them");
    }
    workloads.retain(|workload| wanted(&workload.name));
    let preload = arguments.preload.context("--preload or SMC_PRELOAD must name the library")?;
    let preload = preload.canonicalize().with_context(|| format!("{}", preload.display()))?;
    let work = tempfile::tempdir().context("a temporary folder")?;
    let mut bench = Bench {
        preload,
        load: std::env::current_exe()?.with_file_name("smc-load"),
        work: work.path().to_owned(),
        group: None,
        sockmap: None,
        idle: if arguments.quick { 1000 } else { 10_000 },
        patience: Duration::from_secs(arguments.patience).into(),
        reporting: true.into(),
        many_descriptors: false.into(),
        ms: arguments.ms.unwrap_or(if arguments.quick { 60 } else { 200 }),
    };
    match cgroup::Group::enter() {
        Ok(group) => bench.group = Some(group),
        Err(e) => {
            eprintln!("bench: no control group, so neither sockmap nor a look at what others do: {e:#}")
        }
    }
    if let Some(group) = &bench.group {
        match sockmap::Sockmap::attach(&group.sockmap()) {
            Ok(map) => bench.sockmap = Some(map),
            Err(e) => eprintln!("bench: no sockmap: {e:#}"),
        }
    }
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 3 } else { 9 });
    let (mut measured, mut failed) = (Vec::new(), Vec::new());
    for workload in &workloads {
        for place in workload.places {
            let start = Instant::now();
            match workload.measure(&bench, *place, rounds) {
                Ok(rounds) => measured.push(rounds),
                Err(e) => failed.push(format!("{}: {e:#}", workload.name)),
            }
            eprintln!("bench: {} ({place:?}), {:.1} s", workload.name, start.elapsed().as_secs_f64());
        }
    }
    let mut counted = Vec::new();
    for name in counts::names().filter(|name| wanted(name)) {
        match counts::count(&bench, name) {
            Ok(counts) => counted.extend(counts),
            Err(e) => failed.push(format!("{name}: {e:#}")),
        }
    }
    let mut idle = Vec::new();
    if wanted(idle::NAME) {
        match idle::measure(&bench) {
            Ok(measured) => idle = measured,
            Err(e) => failed.push(format!("{}: {e:#}", idle::NAME)),
        }
    }
    let rows: Vec<table::Row> = measured.iter().flat_map(|measured| measured.rows()).collect();
    if !rows.is_empty() {
        println!("{}", table::markdown(&rows));
    }
    if !counted.is_empty() {
        println!("{}", counts::markdown(&counted));
    }
    if !idle.is_empty() {
        println!("{}", idle::markdown(&idle));
    }
    if let Some(path) = &arguments.json {
        let rounds =
            measured.iter().map(|m| Rounds { workload: &m.workload.name, rounds: &m.rounds }).collect();
        let results =
            Results { machine: Machine::this(), rows: &rows, rounds, counts: &counted, idle: &idle };
        std::fs::write(path, serde_json::to_string_pretty(&results)?)
            .with_context(|| format!("{}", path.display()))?;
    }
    if !failed.is_empty() {
        bail!("could not be measured: {}", failed.join("; "));
    }
    Ok(())
}
