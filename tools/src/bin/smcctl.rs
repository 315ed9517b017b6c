//! `smcctl`: sets up a host for SMC.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use smc_tools::tcp_option;

/// Set up this host for SMC.
#[derive(Parser)]
#[command(name = "smcctl", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The option in TCP's handshake by which hosts tell each other that they speak SMC-R
    ///
    /// BPF programs write and read it. Once root has turned it on, every program in the cgroup that runs under smc_run uses
    /// it; others are not touched. It stays on until it is turned off or the host boots. Needs Linux 5.10.
    TcpOption {
        #[command(subcommand)]
        command: TcpOption,
    },
}

#[derive(Subcommand)]
enum TcpOption {
    /// Load the programs and attach them
    On {
        /// A cgroup of the v2 hierarchy, by its path; by default the root: all processes
        #[arg(long)]
        cgroup: Option<PathBuf>,
        #[command(flatten)]
        pins: Pins,
    },
    /// Remove them
    Off {
        #[command(flatten)]
        pins: Pins,
    },
    /// Say whether they are attached; exits with 3 if they are not
    Status {
        #[command(flatten)]
        pins: Pins,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct Pins {
    /// Directory of a BPF file system that holds the programs
    #[arg(long, value_name = "DIR", default_value = tcp_option::PINS)]
    pins: PathBuf,
}

/// What `systemctl status` exits with for something that does not run.
const NOT_ON: u8 = 3;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(options.command) {
        Ok((text, code)) => match writeln!(io::stdout(), "{text}") {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => fail(&e),
            _ => code,
        },
        Err(e) => fail(&e),
    }
}

fn fail(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("smcctl: {why}");
    ExitCode::FAILURE
}

fn run(command: Command) -> Result<(String, ExitCode), tcp_option::Error> {
    match command {
        Command::TcpOption { command } => match command {
            TcpOption::On { cgroup, pins } => {
                tcp_option::on(cgroup.as_deref(), &pins.pins).map(|said| (said, ExitCode::SUCCESS))
            }
            TcpOption::Off { pins } => tcp_option::off(&pins.pins).map(|said| (said, ExitCode::SUCCESS)),
            TcpOption::Status { pins, json } => {
                let status = tcp_option::status(&pins.pins)?;
                let code =
                    if status.on || status.available { ExitCode::SUCCESS } else { ExitCode::from(NOT_ON) };
                Ok((describe(&status, json), code))
            }
        },
    }
}

fn describe(status: &tcp_option::Status, json: bool) -> String {
    if json {
        return serde_json::to_string(status).expect("a struct of plain values");
    }
    let attached = match (status.on, &status.cgroup) {
        (true, Some(cgroup)) => format!("on for {}", cgroup.display()),
        (true, None) => "on for a cgroup not seen here".into(),
        (false, _) if status.pinned.is_empty() && status.available => "on (only root can see where)".into(),
        (false, _) if status.pinned.is_empty() => "off".into(),
        (false, _) => format!("off: only {} left", status.pinned.join(", ")),
    };
    let here = if status.available { "available" } else { "not available" };
    format!("{attached}\n{here} to this process")
}
