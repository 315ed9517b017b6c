//! `smcctl check` and `smcctl explain`: what the settings are worth, and what they mean for a connection.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use smc_core::config::file::CONFIG_ENV;
use smc_core::config::Settings;
use smc_core::policy::{endpoint, Program, Subject};
use smc_core::sys::sock::Endpoint;

use crate::explain::explain;

#[derive(Subcommand)]
pub enum Command {
    /// Say what is wrong with the settings
    ///
    /// Without FILE: those that a program started from here would get, from the environment and from the file that
    /// SMC_CONFIG names (/etc/smc/smc.conf without it). With FILE: that file alone. Exits with 1 if something is wrong.
    Check {
        file: Option<PathBuf>,

        /// Say nothing when all is well
        #[arg(short, long)]
        quiet: bool,
    },
    /// Say what would be decided for a connection, and by which rule
    ///
    /// With the settings that a program started from here would get. Nothing is connected and nothing is changed. Exits
    /// with 1 if it depends on something that was not given.
    #[command(after_long_help = RULES)]
    Explain {
        /// Name of the program, or its path
        #[arg(short, long)]
        program: Option<String>,

        /// User the program runs as, by number [default: the user who asks]
        #[arg(short, long)]
        uid: Option<u32>,

        /// The program's own address: ADDRESS:PORT, IPv6 in brackets
        #[arg(short, long, value_parser = endpoint)]
        local: Option<Endpoint>,

        /// The address of the other end
        #[arg(short = 'r', long, value_parser = endpoint)]
        peer: Option<Endpoint>,

        /// This file in place of the one in use
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

const RULES: &str = "\
RULES
  Lines of the configuration file, and SMC_POLICY with ';' between them. The first that holds decides; where
  none does, the connection may use SMC. docs/configuration.md describes them.
    exclude program=redis-server,redis-cli
    include uid=1000 peer=10.0.0.0/8
    exclude local=:80 peer=[fd00::/8]:1024-65535

EXAMPLE
  smcctl explain --program redis-server --local 10.0.0.1:6379 --peer 10.0.0.2:40000";

impl Command {
    /// The text to print, its lines ended, and the exit status.
    pub fn run(self) -> (String, ExitCode) {
        let (text, good) = match self {
            Command::Check { file, quiet } => check(file, quiet),
            Command::Explain { program, uid, local, peer, config } => {
                let program = program.as_deref().map(Program::named);
                let uid = Some(uid.unwrap_or_else(smc_core::sys::geteuid));
                explain(&in_force(config), &Subject { program: program.as_ref(), uid, local, peer })
            }
        };
        (text, if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The settings of a program started with this environment, with another file if one is given.
fn in_force(file: Option<PathBuf>) -> Settings {
    Settings::load(|name| match &file {
        Some(file) if name == CONFIG_ENV => Some(file.clone().into_os_string()),
        _ => std::env::var_os(name),
    })
}

fn alone(file: PathBuf) -> Settings {
    Settings::load(|name| (name == CONFIG_ENV).then(|| OsString::from(&file)))
}

fn check(file: Option<PathBuf>, quiet: bool) -> (String, bool) {
    let settings = file.map_or_else(|| in_force(None), alone);
    if settings.complaints.is_empty() {
        let place = settings.path.as_deref().unwrap_or("no configuration file");
        let rules = settings.rules.len();
        let text = format!("{place}: nothing wrong, {rules} {}\n", if rules == 1 { "rule" } else { "rules" });
        return (if quiet { String::new() } else { text }, true);
    }
    let mut text: String = settings.complaints.iter().map(|complaint| format!("{complaint}\n")).collect();
    if settings.are_broken() && !quiet {
        text.push_str("programs stay on TCP (0x03010001) until this is mended\n");
    }
    (text, false)
}
