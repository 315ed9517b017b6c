//! System calls and instructions of a message. They do not depend on the machine's mood, and can be compared from one
//! version to the next.

use crate::process::{Bench, End, Place, Running, Side};
use anyhow::{bail, Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};

/// Of a message of 64 bytes, sent and received.
#[derive(Serialize)]
pub struct Count {
    pub workload: &'static str,
    pub side: Side,
    /// By name, both ends together.
    pub system_calls: BTreeMap<String, f64>,
    /// In user space, both ends together; without those in the kernel.
    pub instructions: Option<f64>,
}

/// Both ends in one thread, which never waits.
const LOOPS: [(&str, &[&str]); 2] = [("loop-64", &["loop"]), ("loop-64-epoll", &["loop", "--epoll"])];
/// Two processes on one CPU, which sleep in turn.
const ASLEEP: [(&str, &str); 2] = [("asleep-64", "--work=round-trip"), ("asleep-64-epoll", "--work=events")];
/// The difference between two lengths is what a message costs, without start and end.
const MESSAGES: [u64; 2] = [4000, 8000];

pub fn names() -> impl Iterator<Item = &'static str> {
    LOOPS.iter().map(|(name, _)| *name).chain(ASLEEP.iter().map(|(name, _)| *name))
}

pub fn count(bench: &Bench, name: &str) -> Result<Vec<Count>> {
    // A report would only add to them.
    bench.reporting.set(false);
    let one = |side: Side| -> Result<Count> {
        if let Some((workload, arguments)) = LOOPS.iter().find(|(loops, _)| *loops == name) {
            let system_calls =
                both(MESSAGES.map(|count| traced_loop(bench, side, arguments, count)), MESSAGES)?;
            let [short, long] = MESSAGES.map(|count| instructions(bench, side, arguments, count));
            let instructions = Some((long? - short?) / (MESSAGES[1] - MESSAGES[0]) as f64);
            return Ok(Count { workload, side, system_calls, instructions });
        }
        let (workload, work) =
            ASLEEP.iter().find(|(asleep, _)| *asleep == name).context("no such workload")?;
        let system_calls = both(MESSAGES.map(|count| traced_pair(bench, side, work, count)), MESSAGES)?;
        Ok(Count { workload, side, system_calls, instructions: None })
    };
    Ok(vec![one(Side::Tcp)?, one(Side::Smc)?])
}

type Calls = BTreeMap<String, u64>;

/// The calls of a message, from runs of two lengths.
fn both(calls: [Result<Calls>; 2], messages: [u64; 2]) -> Result<BTreeMap<String, f64>> {
    let [short, long] = calls;
    let (short, long) = (short?, long?);
    let more = messages[1] - messages[0];
    let each = |(name, calls): (&String, &u64)| {
        let each = (*calls as f64 - short.get(name).copied().unwrap_or(0) as f64) / more as f64;
        (each >= 0.005).then(|| (name.clone(), each))
    };
    Ok(long.iter().filter_map(each).collect())
}

/// `command` under strace, which writes its table to the file `table`.
fn strace(bench: &Bench, side: Side, end: End, table: &str) -> Command {
    let mut strace = bench.command("strace", Side::Tcp, Place::Same, end);
    strace.args(["-f", "-c", "-o"]).arg(bench.work.join(table));
    if side == Side::Smc {
        // Not for strace itself.
        strace.arg("-E").arg(format!("LD_PRELOAD={}", bench.preload.display()));
    }
    strace.arg(&bench.load);
    strace
}

fn traced_loop(bench: &Bench, side: Side, arguments: &[&str], count: u64) -> Result<Calls> {
    let mut command = strace(bench, side, End::Client, "calls");
    bench.run({
        command.args(arguments).args(["--count", &count.to_string()]);
        command
    })?;
    table(bench, "calls")
}

/// The calls of both ends.
fn traced_pair(bench: &Bench, side: Side, work: &str, count: u64) -> Result<Calls> {
    let mut server = strace(bench, side, End::Server, "server-calls");
    server.args(["server", work]);
    let mut server = Running::start(server)?;
    let port = server.line()?;
    let mut client = strace(bench, side, End::Client, "client-calls");
    client.args(["client", work, "--port", &port, &format!("--count={count}")]);
    bench.run(client)?;
    server.line()?;
    server.wait()?;
    let mut calls = table(bench, "client-calls")?;
    for (name, count) in table(bench, "server-calls")? {
        *calls.entry(name).or_default() += count;
    }
    Ok(calls)
}

/// What strace -c wrote: % time, seconds, usecs/call, calls, errors (or nothing), name.
fn table(bench: &Bench, file: &str) -> Result<Calls> {
    let text = std::fs::read_to_string(bench.work.join(file))?;
    let calls = parse(&text);
    if calls.is_empty() {
        bail!("strace wrote no table: {text}");
    }
    Ok(calls)
}

fn parse(text: &str) -> Calls {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let name = *fields.last()?;
        let counted = matches!(fields.len(), 5 | 6) && name != "total";
        Some((name.to_owned(), fields.get(3)?.parse().ok().filter(|_| counted)?))
    };
    text.lines().filter_map(row).collect()
}

fn instructions(bench: &Bench, side: Side, arguments: &[&str], count: u64) -> Result<f64> {
    let mut command = bench.command("valgrind", side, Place::Same, End::Client);
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(&bench.load).args(arguments).args(["--count", &count.to_string()]);
    let output = command.stderr(Stdio::piped()).output().context("valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|line| line.split_once("Collected : "));
    let (_, number) = line.with_context(|| format!("valgrind counted nothing: {text}"))?;
    Ok(number.trim().parse()?)
}

/// The table, in Markdown.
pub fn markdown(counts: &[Count]) -> String {
    let mut text = String::from(
        "| 64 B, there or back | side | system calls | which | instructions, user |\n|---|---|---|---|---|\n",
    );
    for count in counts {
        let which: Vec<String> =
            count.system_calls.iter().map(|(name, each)| format!("{name} {each:.2}")).collect();
        // Not sum(), whose zero is negative.
        let all = count.system_calls.values().fold(0.0, |all, each| all + each);
        let instructions = count.instructions.map(|n| format!("{n:.0}")).unwrap_or_default();
        text += &format!(
            "| {} | {:?} | {all:.2} | {} | {instructions} |\n",
            count.workload,
            count.side,
            which.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_strace_is_read_with_and_without_errors() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n\
                    ------ ----------- ----------- --------- --------- ----------------\n \
                    60.00    0.000600           6       100           sendto\n \
                    40.00    0.000400           4        90         7 recvfrom\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                    100.00    0.001000           5       190         7 total\n";
        let expected = [("recvfrom".to_owned(), 90), ("sendto".to_owned(), 100)];
        assert_eq!(parse(text), Calls::from(expected));
    }

    #[test]
    fn what_start_and_end_cost_does_not_count() {
        let calls = |sends, opens| Ok(Calls::from([("send".to_owned(), sends), ("open".to_owned(), opens)]));
        let each = both([calls(110, 7), calls(210, 7)], [100, 200]).unwrap();
        assert_eq!(each, BTreeMap::from([("send".to_owned(), 1.0)]));
    }
}
