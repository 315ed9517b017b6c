//! Starting the two ends of a workload: natively, with the preload library, or with a sockmap; on which CPU; and what
//! they leave behind.

use crate::cgroup::Group;
use crate::distance::CPUS;
use crate::sockmap::Sockmap;
use anyhow::{bail, Context as _, Result};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use serde::Serialize;
use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// TCP over the loopback interface.
    Tcp,
    /// The same with the preload library.
    Smc,
    /// A Unix socket.
    Unix,
    /// TCP whose ends an eBPF program joins.
    Sockmap,
}

/// Where the two ends run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Both on the first CPU.
    Same,
    /// The server on the second CPU, the client on the first.
    Apart,
    /// Wherever the kernel puts their threads.
    Free,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Server,
    Client,
}

/// Descriptors that a process may have open for thousands of connections, each with its doorbells.
const DESCRIPTORS: u64 = 1 << 18;
/// No run takes longer; who does is stuck.
const LONGEST_RUN_SECONDS: u32 = 120;

pub struct Bench {
    pub preload: PathBuf,
    pub load: PathBuf,
    pub work: PathBuf,
    pub group: Option<Group>,
    pub sockmap: Option<Sockmap>,
    /// Whether the library is asked for its report. It costs a write for each connection, which short ones feel.
    pub reporting: Cell<bool>,
    /// How long to wait yet, all in all, for others to leave the CPUs alone.
    pub patience: Cell<Duration>,
    /// Idle connections beside the busy ones, where there are any.
    pub idle: usize,
    /// Raise RLIMIT_NOFILE for what is started, as far as it goes.
    pub many_descriptors: Cell<bool>,
    /// Milliseconds of one run.
    pub ms: u64,
}

impl Bench {
    /// `program` as one end of a workload. The report of the library, on that side, goes to [`Bench::report`].
    pub fn command(
        &self,
        program: impl AsRef<std::ffi::OsStr>,
        side: Side,
        place: Place,
        end: End,
    ) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stderr(Stdio::inherit());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SMC_") || name == "LD_PRELOAD" {
                command.env_remove(name);
            }
        }
        if side == Side::Smc {
            command.env("LD_PRELOAD", &self.preload);
            if end == End::Client && self.reporting.get() {
                command.env("SMC_REPORT", self.report());
            }
        }
        let cpu = match (place, end) {
            (Place::Free, _) => None,
            (Place::Apart, End::Server) => Some(CPUS[1]),
            _ => Some(CPUS[0]),
        };
        let group = (side == Side::Sockmap).then(|| self.group.as_ref().map(Group::sockmap)).flatten();
        self.prepare(&mut command, cpu, group.as_deref(), end);
        command
    }

    /// Puts a command on a CPU and into a control group.
    pub fn prepare(&self, command: &mut Command, cpu: Option<usize>, group: Option<&Path>, end: End) {
        let group = group.map(|group| {
            let procs = group.join("cgroup.procs");
            OpenOptions::new().write(true).open(&procs).unwrap_or_else(|e| panic!("{}: {e}", procs.display()))
        });
        let many_descriptors = self.many_descriptors.get();
        let before_exec = move || {
            if let Some(mut group) = group.as_ref() {
                group.write_all(b"0")?;
            }
            if many_descriptors {
                let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
                let raised = setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS);
                raised.or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, most, most))?;
            }
            if let Some(cpu) = cpu {
                crate::distance::run_on(cpu)?;
            }
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::SIGKILL)?;
            if end == End::Client {
                nix::unistd::alarm::set(LONGEST_RUN_SECONDS);
            }
            Ok(())
        };
        // SAFETY: it makes system calls only, and allocates nothing.
        unsafe { command.pre_exec(before_exec) };
    }

    /// Where the library tells what a client's connections carried.
    pub fn report(&self) -> PathBuf {
        self.work.join("report")
    }

    /// Runs a client to its end; what it printed, and on the SMC side what the library says of it.
    pub fn run(&self, mut command: Command) -> Result<(String, Option<Carried>)> {
        let _ = std::fs::remove_file(self.report());
        let output = command.stdout(Stdio::piped()).output().with_context(|| format!("{command:?}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{command:?}: {}: {}", output.status, text);
        }
        Ok((text, self.carried()?))
    }

    pub fn carried(&self) -> Result<Option<Carried>> {
        match std::fs::read_to_string(self.report()) {
            Ok(report) => Carried::read(&report).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

/// What SMC_REPORT says of the connections of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Carried {
    pub connections: usize,
    pub ring_bytes: u64,
    pub tcp_bytes: u64,
    /// Why a connection carried nothing on a ring; the last one's reason.
    pub reason: Option<String>,
}

impl Carried {
    fn read(report: &str) -> Result<Carried> {
        let mut all = Carried::default();
        for line in report.lines() {
            let line: serde_json::Value = serde_json::from_str(line)?;
            let bytes =
                |name: &str| line[name].as_u64().with_context(|| format!("{name} is missing in the report"));
            let ring = bytes("ring_rx_bytes")? + bytes("ring_tx_bytes")?;
            let tcp = bytes("tcp_rx_bytes")? + bytes("tcp_tx_bytes")?;
            // A listening socket, or a connection that came to nothing.
            if ring + tcp == 0 {
                continue;
            }
            all.connections += 1;
            all.ring_bytes += ring;
            all.tcp_bytes += tcp;
            if ring == 0 {
                all.reason = line["reason_text"].as_str().map(str::to_owned);
            }
        }
        Ok(all)
    }

    pub fn ring_share(&self) -> f64 {
        self.ring_bytes as f64 / (self.ring_bytes + self.tcp_bytes).max(1) as f64
    }
}

/// A process that is ended when this is dropped.
pub struct Running {
    child: Child,
    output: Option<ChildStdout>,
    stop: nix::sys::signal::Signal,
}

impl Running {
    pub fn start(mut command: Command) -> Result<Running> {
        let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("{command:?}"))?;
        let output = child.stdout.take();
        Ok(Running { child, output, stop: nix::sys::signal::SIGTERM })
    }

    /// The signal that ends it, SIGTERM otherwise.
    pub fn stopped_by(mut self, signal: nix::sys::signal::Signal) -> Running {
        self.stop = signal;
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its output.
    pub fn line(&mut self) -> Result<String> {
        let output = self.output.as_mut().context("its output was read to the end")?;
        let mut line = Vec::new();
        let mut byte = [0];
        // Byte by byte: nothing beyond the line may be taken.
        while output.read(&mut byte)? == 1 {
            if byte[0] == b'\n' {
                return Ok(String::from_utf8(line)?);
            }
            line.push(byte[0]);
        }
        bail!("process {} ended early: {}", self.pid(), self.child.wait()?)
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its standard input, if it was piped.
    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    pub fn wait(&mut self) -> Result<()> {
        let status = self.child.wait()?;
        if !status.success() {
            bail!("process {} ended with {status}", self.pid());
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.alive() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid() as i32), self.stop);
        }
        let _ = self.child.wait();
    }
}
