//! Either end of connections over SMC-R: by the engine of smc-rdma, by the kernel's AF_SMC, or by TCP.
//!
//! `smc-r-peer listen ADDRESS` serves `--connections` of them and ends; `smc-r-peer connect ADDRESS` opens as many at once. Both ends
//! must have the same `--mode`, `--bytes` and `--size`. All bytes are position-coded. A wrong byte, an error or an end that is not
//! due is a failure, and so is a connection that is not what `--expect` says.

mod exchange;
mod transport;

use clap::{Args, Parser, Subcommand, ValueEnum};
use smc_core::capability;
use smc_core::config::DEFAULT_RDMA_PORTS;
use smc_rdma::{Config, Engine};
use smc_tests::sys::{self, Address};
use smc_wire::{Eid, SizeCode, Time};
use std::fs::File;
use std::net::SocketAddrV4;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;
use transport::Pipe;

type Outcome = Result<(), String>;

const AF_SMC: i32 = 43;
/// A peer that is silent for so long is an error, not a reason to wait.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long connections may take to close at the end.
const LAST_CLOSE: Time = Time::from_secs(10);

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Accept connections.
    Listen(Options),
    /// Open connections.
    Connect(Options),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// smc-rdma on a TCP socket.
    Ours,
    /// AF_SMC.
    Kernel,
    /// A TCP socket that does not ask for SMC.
    Tcp,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// The client's bytes come back while it sends; then it shuts down, and the server.
    Echo,
    /// Both send at once, and shut down when they have.
    Stream,
    /// The client sends all and shuts down; then the server does.
    Half,
    /// The server sends; the client reads one byte and closes, and the server must get an error.
    Abort,
    /// The server sends a byte, and both wait for the end, whatever it is: one of them is killed, by its `--command`.
    Hang,
}

#[derive(Args, Clone)]
struct Options {
    /// As in 10.9.0.1:7000.
    address: SocketAddrV4,
    #[arg(long, value_enum, default_value = "ours")]
    backend: Backend,
    #[arg(long, value_enum, default_value = "echo")]
    mode: Mode,
    #[arg(long, default_value_t = 1)]
    connections: u32,
    /// Of each direction of each connection.
    #[arg(long, default_value_t = 1000)]
    bytes: u64,
    /// Bytes per write.
    #[arg(long, default_value_t = 1000)]
    size: usize,
    /// Open one connection after the other has ended, not all at once.
    #[arg(long)]
    sequential: bool,
    /// What all connections must be: `smc`, or `tcp REASON` or `tcp REASON/PEER-REASON` with numbers as in 0x03030000. Not for AF_SMC.
    #[arg(long)]
    expect: Option<String>,
    /// The enterprise id of this host.
    #[arg(long, default_value = "SMCLAB")]
    eid: String,
    /// Of the rings, in KiB.
    #[arg(long, default_value_t = 64)]
    buffer: u32,
    /// Made when the server listens.
    #[arg(long)]
    ready: Option<String>,
    /// For the shell, run once while the first connection is open and bytes have come over it.
    #[arg(long)]
    command: Option<String>,
}

fn failed<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String + '_ {
    move |e| format!("{what}: {e}")
}

/// What the engine has to tell, with the time, on standard error.
struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("{:.3} {}", smc_core::sys::now_ns() as f64 / 1e9, record.args());
    }

    fn flush(&self) {}
}

fn main() -> ExitCode {
    if log::set_logger(&Log).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
    let Cli { role } = Cli::parse();
    let result = match role {
        Role::Listen(options) => run(options, true),
        Role::Connect(options) => run(options, false),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("smc-r-peer: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options, server: bool) -> Outcome {
    let eids = vec![Eid::new(&options.eid).ok_or("no such enterprise id")?];
    let buffer = SizeCode::fitting(options.buffer * 1024);
    let (first, last) = DEFAULT_RDMA_PORTS;
    let engine =
        Engine::new(Config { eids, buffer, device: None, ports: first..=last }).map_err(failed("engine"))?;
    let engine = Arc::new(engine);
    let result = if server { listen(&options, &engine) } else { connect(&options, &engine) };
    engine.finish(LAST_CLOSE);
    result
}

fn socket(options: &Options) -> Result<i32, String> {
    let family = if options.backend == Backend::Kernel { AF_SMC } else { libc::AF_INET };
    let fd = sys::socket(family, libc::SOCK_CLOEXEC).map_err(sys::errno_name)?;
    if options.backend == Backend::Ours {
        capability::want(fd, true).map_err(failed("asking for the TCP option"))?;
    }
    Ok(fd)
}

fn listen(options: &Options, engine: &Arc<Engine>) -> Outcome {
    let fd = socket(options)?;
    sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1i32).map_err(sys::errno_name)?;
    let address = Address::new(options.address.into());
    sys::bind(fd, &address).map_err(|e| format!("bind: {}", sys::errno_name(e)))?;
    sys::listen(fd, 128).map_err(|e| format!("listen: {}", sys::errno_name(e)))?;
    if let Some(ready) = &options.ready {
        File::create(ready).map_err(failed(ready))?;
    }
    let mut threads = Vec::new();
    for index in 0..options.connections {
        let accepted =
            sys::accept4(fd, libc::SOCK_CLOEXEC).map_err(|e| format!("accept: {}", sys::errno_name(e)))?;
        let (options, engine) = (options.clone(), Arc::clone(engine));
        threads.push(thread::spawn(move || serve(accepted, index, &options, &engine)));
    }
    join(threads)
}

fn serve(fd: i32, index: u32, options: &Options, engine: &Engine) -> Outcome {
    let pipe = Pipe::accepted(fd, options, engine)?;
    let run = Run { first: index == 0, options };
    let result = exchange::server(&pipe, &run).map_err(|e| format!("server, {index}: {e}"));
    println!("server, {index}: {pipe}");
    result
}

fn connect(options: &Options, engine: &Arc<Engine>) -> Outcome {
    let mut threads = Vec::new();
    let sequential = options.sequential;
    // Bytes flow when all are connected: on a slow machine they would keep handshakes from being answered in time.
    let all = Arc::new(Barrier::new(if sequential { 1 } else { options.connections as usize }));
    for index in 0..options.connections {
        let (options, engine, all) = (options.clone(), Arc::clone(engine), Arc::clone(&all));
        let thread = thread::spawn(move || call(index, &options, &engine, &all));
        if sequential {
            join(vec![thread])?;
        } else {
            threads.push(thread);
        }
    }
    join(threads)
}

fn call(index: u32, options: &Options, engine: &Engine, all: &Barrier) -> Outcome {
    let open = || {
        let fd = socket(options)?;
        sys::connect(fd, &Address::new(options.address.into()))
            .map_err(|e| format!("connect, {index}: {}", sys::errno_name(e)))?;
        Pipe::connected(fd, options, engine)
    };
    let pipe = open();
    all.wait();
    let pipe = pipe?;
    let run = Run { first: index == 0, options };
    let result = exchange::client(&pipe, &run).map_err(|e| format!("client, {index}: {e}"));
    println!("client, {index}: {pipe}");
    result
}

fn join(threads: Vec<thread::JoinHandle<Outcome>>) -> Outcome {
    let results: Vec<Outcome> =
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a thread panicked".into()))).collect();
    results.into_iter().collect()
}

/// One connection's part of a run.
struct Run<'a> {
    /// It runs the command.
    first: bool,
    options: &'a Options,
}

impl Run<'_> {
    /// Runs the command, if this is the connection to do it.
    fn command(&self) -> Outcome {
        let Some(command) = self.options.command.as_ref().filter(|_| self.first) else { return Ok(()) };
        let status = Command::new("sh").args(["-c", command]).status().map_err(failed("sh"))?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{command}: {status}"))
        }
    }
}
