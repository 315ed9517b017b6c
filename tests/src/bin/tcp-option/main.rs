//! The SMC option on TCP's handshake, as a process without privilege asks for it, and as it looks on the wire. Needs root
//! to begin with, and `smcctl tcp-option on` for its cgroup; the traffic stays in a network namespace of its own.
//!
//! `tcp-option [cookies|kernel]`: what works on any kernel; with SYN cookies; against the kernel's AF_SMC.
//!
//! `tcp-option echoing-peer COMMAND...`: runs a program, as root, where each port of 10.77.0.2 is served by a peer that sends back
//! all options of a SYN, and then all bytes.

mod checks;
mod echoing;
mod kernel;
mod packets;

use std::io;
use std::process::{Command, ExitCode};

use packets::Interface;

type Outcome = Result<(), String>;

/// What the checks work with: made by root, used without privilege.
pub struct Setting {
    /// Sees what goes over loopback.
    loopback: Interface,
    /// The far end of a cable, on which [`FAR`] would be.
    far: Interface,
}

/// An address that no machine has; [`Setting::far`] gets what is sent to it.
pub const FAR: &str = "10.77.0.2";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("echoing-peer", command)) = args.split_first().map(|(first, rest)| (&**first, rest)) {
        let result = set_up(false).and_then(|setting| echoing::serve_while(&setting, command));
        if let Err(e) = &result {
            println!("tcp-option: {e}");
        }
        return if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let (checks, cookies) = match args.first().map(String::as_str) {
        None => (checks::ALL, false),
        Some("cookies") => (checks::WITH_COOKIES, true),
        Some("kernel") => (kernel::ALL, false),
        Some(_) => {
            eprintln!("usage: tcp-option [cookies|kernel|echoing-peer COMMAND...]");
            return ExitCode::from(2);
        }
    };
    let setting = match set_up(cookies).and_then(|s| drop_privilege().map(|()| s)) {
        Ok(setting) => setting,
        Err(e) => {
            eprintln!("tcp-option: cannot begin: {e}");
            return ExitCode::FAILURE;
        }
    };
    let mut failed = 0;
    for (name, check) in checks {
        match check(&setting) {
            Ok(()) => println!("ok      {name}"),
            Err(e) => {
                failed += 1;
                println!("FAILED  {name}: {e}");
            }
        }
    }
    println!("tcp-option: {} passed, {failed} failed", checks.len() - failed);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn set_up(cookies: bool) -> Result<Setting, String> {
    // SAFETY: takes flags only. The process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(format!("a network namespace: {}", io::Error::last_os_error()));
    }
    for command in [
        "link set lo up",
        "link add near type veth peer name far",
        "address add 10.77.0.1/24 dev near",
        "link set near up",
        "link set far up",
        &format!("neighbour add {FAR} lladdr 02:00:00:00:00:02 dev near"),
    ] {
        let status = Command::new("ip").args(command.split(' ')).status().map_err(|e| format!("ip: {e}"))?;
        if !status.success() {
            return Err(format!("ip {command}: {status}"));
        }
    }
    if cookies {
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2")
            .map_err(|e| format!("tcp_syncookies: {e}"))?;
    }
    Ok(Setting { loopback: Interface::open("lo")?, far: Interface::open("far")? })
}

/// For good, as nobody.
fn drop_privilege() -> Outcome {
    const NOBODY: u32 = 65534;
    // SAFETY: integers only, and an empty list.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(NOBODY, NOBODY, NOBODY) == 0
            && libc::setresuid(NOBODY, NOBODY, NOBODY) == 0
    };
    if !done {
        return Err(format!("to become nobody: {}", io::Error::last_os_error()));
    }
    let status = std::fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
    if !status.lines().any(|l| l.starts_with("CapEff:") && l.ends_with("0000000000000000")) {
        return Err("capabilities are left".into());
    }
    Ok(())
}
