//! `smcctl`: checks the settings of smc, tells what they mean, and sets up a host for SMC.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use smc_tools::{settings, tcp_option};

/// Check the settings of smc, tell what they mean for a connection, and set up this host.
#[derive(Parser)]
#[command(name = "smcctl", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Settings(settings::Command),
    #[command(flatten)]
    TcpOption(tcp_option::Command),
}

fn main() -> ExitCode {
    let (text, code) = match Options::parse().command {
        Command::Settings(command) => command.run(),
        Command::TcpOption(command) => command.run(),
    };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("smcctl: cannot write: {e}");
            ExitCode::FAILURE
        }
        _ => code,
    }
}
