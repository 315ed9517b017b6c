//! Connections that have moved and do nothing: the memory that a pair of ends takes, and the processor time, which must
//! be none.

use crate::cgroup::Memory;
use crate::process::{Bench, Carried, End, Place, Running, Side};
use anyhow::{bail, Context, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde::Serialize;
use std::process::Stdio;
use std::time::Duration;

pub const NAME: &str = "idle";
/// Pairs of ends, more of them in one of two runs: so many that what the kernel charges to a group in advance (256 KiB for each CPU)
/// counts little, and as have descriptors for moving under a limit of 20,000.
const PAIRS: [usize; 2] = [200, 2400];
/// How long they are watched.
const WATCHED: Duration = Duration::from_secs(1);

#[derive(Serialize)]
pub struct Idle {
    pub side: Side,
    /// Memory of a connection's two ends, the kernel's included.
    pub bytes_per_pair: f64,
    pub pairs: usize,
    /// Processor time of all of them in a second.
    pub cpu_us: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carried: Option<Carried>,
}

pub fn measure(bench: &Bench) -> Result<Vec<Idle>> {
    bench.many_descriptors.set(true);
    let one = |side| -> Result<Idle> {
        bench.reporting.set(true);
        let few = run(bench, side, PAIRS[0])?;
        let many = run(bench, side, PAIRS[1])?;
        if side == Side::Smc && many.carried.as_ref().is_none_or(|carried| carried.ring_bytes == 0) {
            bail!("the connections did not move: {:?}", many.carried);
        }
        let charged = (many.bytes - few.bytes) / (PAIRS[1] - PAIRS[0]) as f64;
        let bytes_per_pair = if side == Side::Unix { charged } else { charged + accepted_socket_bytes()? };
        Ok(Idle { side, bytes_per_pair, pairs: PAIRS[1], cpu_us: many.cpu_us, carried: many.carried })
    };
    Ok(vec![one(Side::Tcp)?, one(Side::Smc)?, one(Side::Unix)?])
}

struct Run {
    bytes: f64,
    cpu_us: f64,
    carried: Option<Carried>,
}

fn run(bench: &Bench, side: Side, pairs: usize) -> Result<Run> {
    let memory = Memory::new(&format!("{side:?}"))?;
    let path = bench.work.join("idle.sock");
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::remove_file(bench.report());
    let command = |role: &str, end| {
        let mut command = bench.command(&bench.load, side, Place::Free, end);
        bench.prepare(&mut command, None, Some(memory.path()), end);
        command.args([role, "--work=events", "--threads=0", &format!("--idle={pairs}")]);
        command
    };
    let mut server = command("server", End::Server);
    if side == Side::Unix {
        server.arg("--unix").arg(&path);
    }
    let mut server = Running::start(server)?;
    let address = server.line()?;
    let mut client = command("client", End::Client);
    client.arg(if side == Side::Unix { "--unix" } else { "--port" }).arg(address).stdin(Stdio::piped());
    let mut client = Running::start(client)?;
    client.line().context("the connections could not be made")?;
    let bytes = memory.usage()?;
    let used = || -> Result<f64> { Ok(cpu_us(server.pid())? + cpu_us(client.pid())?) };
    let before = used()?;
    std::thread::sleep(WATCHED);
    let cpu_us = used()? - before;
    client.close_input();
    client.wait()?;
    server.wait()?;
    Ok(Run { bytes, cpu_us, carried: bench.carried()? })
}

/// The accepting end's TCP socket, which the kernel makes when the SYN arrives, in the name of nobody: no group is charged.
fn accepted_socket_bytes() -> Result<f64> {
    let slabs = std::fs::read_to_string("/proc/slabinfo").context("/proc/slabinfo")?;
    let line = slabs.lines().find(|line| line.starts_with("TCP ")).context("no slab of TCP sockets")?;
    // name, active objects, objects, bytes of an object, objects of a slab, pages of a slab
    let field = |i: usize| line.split_whitespace().nth(i).and_then(|field| field.parse::<f64>().ok());
    let (objects, pages) = field(4).zip(field(5)).context("slabinfo has another form")?;
    Ok(pages * 4096.0 / objects)
}

/// Processor time of a process's threads, in microseconds.
fn cpu_us(pid: u32) -> Result<f64> {
    // One that is gone has used none in vain.
    kill(Pid::from_raw(pid as i32), None::<Signal>).context("an end is gone")?;
    let mut total = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let times = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let ns: f64 = times.split(' ').next().context("schedstat is empty")?.parse()?;
        total += ns / 1000.0;
    }
    Ok(total)
}

/// The table, in Markdown.
pub fn markdown(idle: &[Idle]) -> String {
    let mut text = String::from(
        "| idle connections | pairs | bytes a pair | to TCP | CPU in 1 s | moved |\n|---|---|---|---|---|---|\n",
    );
    let tcp = idle.first().map_or(f64::NAN, |tcp| tcp.bytes_per_pair);
    for one in idle {
        let moved = one.carried.as_ref().map(|c| format!("{:.0} % of bytes", c.ring_share() * 100.0));
        text += &format!(
            "| {:?} | {} | {:.0} | {:.2} | {:.0} us | {} |\n",
            one.side,
            one.pairs,
            one.bytes_per_pair,
            one.bytes_per_pair / tcp,
            one.cpu_us,
            moved.unwrap_or_default()
        );
    }
    text
}
