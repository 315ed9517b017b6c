//! `smcctl tcp-option`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::{off, on, status, Error, Status, PINS};

#[derive(Subcommand)]
pub enum Command {
    /// The option in TCP's handshake by which hosts tell each other that they speak SMC-R
    ///
    /// BPF programs write and read it. Once root has turned it on, programs in the cgroup can ask for it on a
    /// connection without privilege; other connections are not touched. It stays on until it is turned off or the host
    /// boots. Needs Linux 5.10.
    #[command(subcommand)]
    TcpOption(Action),
}

#[derive(Subcommand)]
pub enum Action {
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
pub struct Pins {
    /// Directory of a BPF file system that holds the programs
    #[arg(long, value_name = "DIR", default_value = PINS)]
    pins: PathBuf,
}

/// What `systemctl status` exits with for something that does not run.
const NOT_ON: u8 = 3;

impl Command {
    /// What to print, and what to exit with.
    pub fn run(self) -> (String, ExitCode) {
        let Command::TcpOption(action) = self;
        match action.run() {
            Ok((mut text, code)) => {
                text.push('\n');
                (text, code)
            }
            Err(e) => {
                eprintln!("smcctl: {e}");
                (String::new(), ExitCode::FAILURE)
            }
        }
    }
}

impl Action {
    fn run(self) -> Result<(String, ExitCode), Error> {
        match self {
            Action::On { cgroup, pins } => Ok((on(cgroup.as_deref(), &pins.pins)?, ExitCode::SUCCESS)),
            Action::Off { pins } => Ok((off(&pins.pins)?, ExitCode::SUCCESS)),
            Action::Status { pins, json } => {
                let status = status(&pins.pins)?;
                let code =
                    if status.on || status.available { ExitCode::SUCCESS } else { ExitCode::from(NOT_ON) };
                Ok((describe(&status, json), code))
            }
        }
    }
}

fn describe(status: &Status, json: bool) -> String {
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
