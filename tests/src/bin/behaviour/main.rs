//! What the sockets API promises, one test for each promise. The tests pass natively, and with the preload library
//! they pass in the same way. Each test runs in a process of its own, for each place the far end can be in.
//!
//!     behaviour [--reports] [--filter TEXT]   run them all
//!     behaviour --list                        their names
//!     behaviour --run NAME ARRANGEMENT        run one in this process
//!
//! With `--reports`, SMC_REPORT is set for each test, and a test whose connection should have moved fails when no
//! byte of it went over a ring.

mod descriptors;
mod duplex;
mod endings;
mod epoll;
mod forks;
mod interruption;
mod options;
mod processes;
mod readiness;
mod receiving;
mod sending;

use smc_tests::pair::{be_peer_if_told, Arrangement, Pair};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// One test.
pub struct Test {
    name: &'static str,
    body: Body,
    /// Whether a connection of it is busy enough, and free of what forbids it, to be on a ring at some time.
    moves: bool,
}

enum Body {
    /// With a busy connection, for each arrangement.
    Warm(fn(&mut Pair)),
    /// With a connection that has carried nothing yet, for each arrangement.
    Fresh(fn(&mut Pair)),
    /// Makes its own connections.
    Alone(fn()),
}

/// Declares the tests of a module: `kind function [stays];`, where `stays` says that TCP all along is right too.
#[macro_export]
macro_rules! tests {
    ($($kind:ident $name:ident $($stays:ident)?;)*) => {
        pub const TESTS: &[$crate::Test] = &[$($crate::Test::$kind(
            concat!(module_path!(), "::", stringify!($name)),
            $name,
            !$crate::tests!(@stays $($stays)?),
        )),*];
    };
    (@stays) => { false };
    (@stays stays) => { true };
}

impl Test {
    const fn warm(name: &'static str, body: fn(&mut Pair), moves: bool) -> Test {
        Test { name, body: Body::Warm(body), moves }
    }

    const fn fresh(name: &'static str, body: fn(&mut Pair), moves: bool) -> Test {
        Test { name, body: Body::Fresh(body), moves }
    }

    const fn alone(name: &'static str, body: fn(), moves: bool) -> Test {
        Test { name, body: Body::Alone(body), moves }
    }

    fn short_name(&self) -> &'static str {
        self.name.trim_start_matches("behaviour::")
    }

    fn arrangements(&self) -> &'static [Arrangement] {
        match self.body {
            Body::Alone(_) => &[Arrangement::SameProcess],
            _ => &Arrangement::ALL,
        }
    }

    fn run(&self, arrangement: Arrangement) {
        match self.body {
            Body::Warm(body) => body(&mut Pair::warm(arrangement)),
            Body::Fresh(body) => body(&mut Pair::fresh(arrangement)),
            Body::Alone(body) => body(),
        }
    }
}

fn all_tests() -> impl Iterator<Item = &'static Test> {
    let families = [
        endings::TESTS,
        receiving::TESTS,
        sending::TESTS,
        duplex::TESTS,
        readiness::TESTS,
        epoll::TESTS,
        interruption::TESTS,
        options::TESTS,
        descriptors::TESTS,
        processes::TESTS,
        forks::TESTS,
    ];
    families.into_iter().flatten()
}

/// With SMC_TEST_SWITCH set: a switch between TCP and the ring may report an edge once more, which epoll(7) allows.
const EDGES_COUNTED: &[&str] = &[
    "epoll::a_registration_made_before_the_connection_moves_goes_on",
    "epoll::an_edge_comes_once_for_its_data",
    "epoll::new_data_makes_a_new_edge_while_old_data_is_unread",
    "epoll::registering_reports_what_is_already_there",
    "epoll::modifying_reports_what_is_already_there",
];

/// With SMC_TEST_SWITCH set: a switch lets go of bytes that are held back.
const HOLDING: &[&str] = &[
    "options::a_cork_holds_bytes_until_it_is_drawn",
    "options::msg_more_holds_bytes_until_a_send_without_it",
    "options::setting_nodelay_lets_corked_bytes_go",
    "options::corked_bytes_leave_by_themselves",
    "options::a_shutdown_lets_corked_bytes_go",
    "options::a_cork_set_before_the_connection_is_busy_stays",
    "options::siocoutq_counts_what_has_not_reached_the_peer",
];

/// A test that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    be_peer_if_told(&args);
    let mut filter = String::new();
    let mut reports = false;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match (arg.as_str(), args.clone().next()) {
            ("--list", _) => {
                all_tests().for_each(|test| println!("{}", test.short_name()));
                return ExitCode::SUCCESS;
            }
            ("--run", Some(name)) => return run_here(name, args.nth(1).map(String::as_str)),
            ("--filter", Some(text)) => {
                filter.clone_from(text);
                args.next();
            }
            ("--reports", _) => reports = true,
            _ => {
                eprintln!("usage: behaviour [--reports] [--filter TEXT] | --list | --run NAME [ARRANGEMENT]");
                return ExitCode::from(2);
            }
        }
    }
    run_all(&filter, reports)
}

fn run_here(name: &str, arrangement: Option<&str>) -> ExitCode {
    smc_tests::sys::die_with_parent();
    let arrangement = Arrangement::ALL.iter().find(|a| Some(a.name()) == arrangement);
    match all_tests().find(|test| test.short_name() == name) {
        Some(test) => {
            test.run(*arrangement.unwrap_or(&Arrangement::SameProcess));
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("behaviour: no test {name}");
            ExitCode::from(2)
        }
    }
}

/// `reports`: the tests run under the library, which must show that it moved connections.
fn run_all(filter: &str, reports: bool) -> ExitCode {
    let report = reports.then(|| PathBuf::from(format!("/tmp/smc-behaviour.{}.json", std::process::id())));
    let (mut passed, mut failed) = (0, 0);
    let switching = std::env::var_os("SMC_TEST_SWITCH").is_some();
    let counts = |test: &&Test| {
        !switching || [EDGES_COUNTED, HOLDING].iter().all(|list| !list.contains(&test.short_name()))
    };
    for test in all_tests().filter(|test| test.name.contains(filter)).filter(counts) {
        for arrangement in test.arrangements() {
            let mut result = run_apart(test, *arrangement, report.as_deref());
            if let (Ok(()), Some(report), true) = (&result, &report, test.moves) {
                if ring_bytes(report) == 0 {
                    result = Err("no byte went over a ring".to_owned());
                }
            }
            match result {
                Ok(()) => passed += 1,
                Err(why) => {
                    failed += 1;
                    println!("behaviour: {} [{}]: {why}", test.short_name(), arrangement.name());
                }
            }
        }
    }
    if let Some(report) = report {
        let _ = std::fs::remove_file(report);
    }
    println!("behaviour: {passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

/// Runs one test in a process group of its own, which is gone afterwards.
fn run_apart(test: &Test, arrangement: Arrangement, report: Option<&Path>) -> Result<(), String> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--run", test.short_name(), arrangement.name()]).process_group(0);
    command.stdin(Stdio::null()).stderr(Stdio::piped()).env("RUST_BACKTRACE", "0");
    if let Some(report) = report {
        let _ = std::fs::remove_file(report);
        command.env("SMC_REPORT", report);
    }
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let group = child.id() as i32;
    let mut errors = child.stderr.take().expect("stderr is a pipe");
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = std::io::Read::read_to_end(&mut errors, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let status = wait_with_limit(&mut child);
    let _ = smc_tests::sys::kill(-group, libc::SIGKILL);
    let _ = child.wait();
    let text = reader.join().unwrap_or_default();
    let first_lines = text.lines().filter(|line| !line.starts_with("note:")).collect::<Vec<_>>().join(" ");
    match status {
        None => Err(format!("still running after {} s {first_lines}", LIMIT.as_secs())),
        Some(status) if status.success() => Ok(()),
        Some(status) => match status.signal() {
            Some(signal) => Err(format!("ended by signal {signal} {first_lines}")),
            None => Err(first_lines),
        },
    }
}

fn wait_with_limit(child: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        // Only how soon the next test starts depends on this.
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

/// What the ends that came to report, as a killed one does not, have sent and received over rings.
fn ring_bytes(report: &Path) -> u64 {
    let text = std::fs::read_to_string(report).unwrap_or_default();
    let connections = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let bytes = |c: serde_json::Value| {
        ["ring_tx_bytes", "ring_rx_bytes"].iter().filter_map(|k| c[k].as_u64()).sum::<u64>()
    };
    connections.map(bytes).sum()
}
