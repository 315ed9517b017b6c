//! Every option of the table, read, set and read again: on a fresh socket, on a listener, on a connection on TCP and on one
//! on the ring, each time with bytes exchanged afterwards; and set before connect and on a listener, with a connection made
//! then. The answers are those of native TCP, and whether the connection is on the ring is what the table says.
//!
//!     options PHASE...                    print the answers
//!     options --native FILE PHASE...      compare them with those printed natively; with SMC_REPORT set, check paths too
//!     options --inherit                   listeners from another program; LIBRARY in SMC_PRELOAD

mod inherit;
mod values;

use smc_core::options::{self, After, Before, Class, Level, Row};
use smc_tests::net::Family;
use smc_tests::pair::End;
use smc_tests::sys;
use std::collections::HashMap;
use std::process::ExitCode;
use values::Compared;

/// What the option is tried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Fresh,
    Listener,
    /// A connection that has carried nothing.
    Tcp,
    /// A connection that has been busy.
    Ring,
    /// The connecting socket, before it connects.
    BeforeConnect,
    /// The listener, before it accepts.
    BeforeAccept,
}

const PHASES: [(&str, Phase); 6] = [
    ("fresh", Phase::Fresh),
    ("listener", Phase::Listener),
    ("tcp", Phase::Tcp),
    ("ring", Phase::Ring),
    ("before-connect", Phase::BeforeConnect),
    ("before-accept", Phase::BeforeAccept),
];

/// What came of one option in one phase.
#[derive(Debug, PartialEq, Eq)]
struct Answers {
    first: String,
    set: String,
    second: String,
    /// What the accepted end of a connection has.
    accepted_end: String,
    /// Whether bytes flowed afterwards.
    data: bool,
}

impl Answers {
    fn line(&self) -> String {
        let Answers { first, set, second, accepted_end, data } = self;
        format!("{first} | {set} | {second} | {accepted_end} | {data}")
    }

    fn accepted(&self) -> bool {
        self.set == "OK"
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    match args.peek().map(String::as_str) {
        Some("--inherit") => return inherit::start(),
        Some("--inherited") => return inherit::go_on(args.nth(1)),
        _ => {}
    }
    let native = args.next_if(|arg| arg == "--native").and_then(|_| args.next());
    let native: Option<HashMap<String, String>> = native.map(|path| {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        text.lines().filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.into(), v.into())).collect()
    });
    let (mut passed, mut failed) = (0, 0);
    for name in args {
        let Some((_, phase)) = PHASES.iter().find(|(n, _)| *n == name) else {
            eprintln!("options: no phase {name}");
            return ExitCode::from(2);
        };
        for row in options::all() {
            for number in values::numbers(row) {
                let key = format!("{name} {} {number} {}", row.level.name(), row.name);
                let (answers, paths) = run(*phase, row, number);
                let Some(native) = &native else {
                    println!("{key}: {}", answers.line());
                    continue;
                };
                let complaint = compare(*phase, row, &answers, native.get(&key))
                    .or_else(|| paths.and_then(|paths| check_paths(*phase, row, number, &answers, &paths)));
                match complaint {
                    None => passed += 1,
                    Some(complaint) => {
                        failed += 1;
                        println!("options: {key}: {complaint}");
                    }
                }
            }
        }
    }
    if native.is_some() {
        println!("options: {passed} passed, {failed} failed");
    }
    ExitCode::from(u8::from(failed > 0))
}

fn family(row: &Row) -> Family {
    match row.level {
        Level::Ipv6 => Family::V6,
        _ => Family::V4,
    }
}

fn get(fd: i32, row: &Row, number: i32, whole: bool) -> String {
    let mut value = [0u8; 256];
    match sys::getsockopt_bytes(fd, row.level.number(), number, &mut value[..64]) {
        Ok(len) if whole => value[..len].iter().fold(format!("{len}:"), |text, b| text + &format!("{b:02x}")),
        Ok(len) => format!("{len} bytes"),
        Err(errno) => sys::errno_name(errno),
    }
}

/// Reads, sets and reads the option of `fd`.
fn ask(fd: i32, row: &Row, number: i32) -> Answers {
    let compared = values::compared(row, number);
    let first = get(fd, row, number, compared == Compared::All);
    let set = match sys::setsockopt_bytes(fd, row.level.number(), number, &values::value(row, number)) {
        Ok(()) => "OK".to_owned(),
        Err(errno) => sys::errno_name(errno),
    };
    let second = get(fd, row, number, compared != Compared::Length);
    if let (Some(undo), "OK") = (values::undo(row, number), set.as_str()) {
        sys::setsockopt_bytes(fd, row.level.number(), number, &undo).expect("the way back");
    }
    Answers { first, set, second, accepted_end: String::new(), data: false }
}

/// How the connecting end, and the accepted end, went, as their reports say.
struct Paths {
    near: serde_json::Value,
    far: serde_json::Value,
}

fn run(phase: Phase, row: &Row, number: i32) -> (Answers, Option<Paths>) {
    let family = family(row);
    let (listener, port) = family.listener(0).expect("listen");
    let near = family.client_socket(0).expect("socket");
    let mut answers = match phase {
        Phase::Fresh | Phase::BeforeConnect => Some(ask(near, row, number)),
        Phase::Listener | Phase::BeforeAccept => Some(ask(listener, row, number)),
        Phase::Tcp | Phase::Ring => None,
    };
    let mut paths = None;
    if !matches!(phase, Phase::Fresh | Phase::Listener) {
        let mut ends = connect(near, listener, &family.target(port));
        if phase == Phase::Ring {
            exchange(&mut ends);
        }
        let answers = answers.get_or_insert_with(|| ask(near, row, number));
        exchange(&mut ends);
        answers.data = true;
        let far = ends.1.fd;
        let compared = values::compared(row, number);
        // A size that it has inherited does not change any more.
        let inherits = phase == Phase::BeforeAccept && compared == Compared::LengthAtFirst;
        answers.accepted_end = get(far, row, number, inherits || compared == Compared::All);
        paths = reported(near, far);
    } else {
        sys::close(near).expect("close");
    }
    sys::close(listener).expect("close");
    (answers.expect("asked in every phase"), paths)
}

/// A connection, of which the first byte has been carried: a listener may wait for it.
fn connect(near: i32, listener: i32, target: &sys::Address) -> (End, End) {
    sys::connect(near, target).expect("connect");
    let mut near = End::near(near);
    near.send(1);
    let mut far = End::far(sys::accept4(listener, libc::SOCK_CLOEXEC).expect("accept"));
    far.recv(1);
    (near, far)
}

fn exchange((near, far): &mut (End, End)) {
    for _ in 0..16 {
        near.send(1024);
        far.recv(1024);
        far.send(1024);
        near.recv(1024);
    }
}

/// Closes both ends; what their reports say.
fn reported(near: i32, far: i32) -> Option<Paths> {
    let path = std::env::var_os("SMC_REPORT");
    if let Some(path) = &path {
        let _ = std::fs::remove_file(path);
    }
    sys::close(near).expect("close");
    sys::close(far).expect("close");
    let text = std::fs::read_to_string(path?).expect("SMC_REPORT");
    let mut lines = text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON"));
    let (near, far) = (lines.next().expect("the near end"), lines.next().expect("the far end"));
    Some(Paths { near, far })
}

/// The errno that the table says a set gets, where native TCP says something else.
fn refusal(phase: Phase, row: &Row) -> Option<i32> {
    match (phase, row.after) {
        (Phase::Ring, After::Fails(errno)) => Some(errno),
        (Phase::Listener | Phase::BeforeAccept | Phase::Tcp, _) => row.on_listener().err(),
        _ => None,
    }
}

fn compare(phase: Phase, row: &Row, answers: &Answers, native: Option<&String>) -> Option<String> {
    let Some(native) = native else { return Some("not asked natively".to_owned()) };
    if let Some(errno) = refusal(phase, row) {
        let want = sys::errno_name(errno);
        let right = answers.set == want && answers.first == answers.second;
        return (!right).then(|| format!("{}, not refused with {want}", answers.line()));
    }
    (*native != answers.line()).then(|| format!("{}, natively {native}", answers.line()))
}

/// Whether the connection went where the table says.
fn check_paths(phase: Phase, row: &Row, number: i32, answers: &Answers, paths: &Paths) -> Option<String> {
    let stays = row.class == Class::N
        && match (phase, row.before) {
            (Phase::BeforeConnect, Before::StaysTcp(options::When::Always)) => true,
            (Phase::BeforeConnect | Phase::BeforeAccept | Phase::Tcp, Before::StaysTcp(_)) => {
                answers.accepted()
            }
            (Phase::Ring, _) => match row.after {
                // Before TCP is asked.
                After::Returns(when) => when.applies(&values::value(row, number), true),
                _ => answers.accepted(),
            },
            _ => false,
        };
    // What is set on a listener concerns what it accepts.
    let (subject, other) = match phase {
        Phase::BeforeAccept => (&paths.far, &paths.near),
        _ => (&paths.near, &paths.far),
    };
    let want = match (stays, phase) {
        (true, _) => ("TCP", format!("0x{:08x}", row.code())),
        // Not busy yet.
        (false, Phase::Tcp) => ("TCP", "0x03010001".to_owned()),
        (false, _) => ("SMCD", "0x00000000".to_owned()),
    };
    let got = (subject["mode"].as_str()?, subject["reason"].as_str()?.to_owned());
    if got != want {
        return Some(format!("is {got:?}, {}; should be {want:?}", subject["reason_text"]));
    }
    let ring = |end: &serde_json::Value| end["ring_tx_bytes"].as_u64() > Some(0);
    let moved = phase == Phase::Ring || (!stays && phase != Phase::Tcp);
    (moved != (ring(subject) && ring(other))).then(|| format!("bytes over the ring: {subject} {other}"))
}
