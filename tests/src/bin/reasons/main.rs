//! Every way for a connection to stay on TCP, or to come back there, and what is then said about it: each cause that
//! `smc_core::reason` declares is brought about, and the codes and texts of both ends are compared in `smcss --json`,
//! in the table of `smcss -a`, in SMC_REPORT and in the log. In each case the connection's data must flow.
//!
//!     reasons [FILTER]         all causes, or those with FILTER in their names
//!     reasons --near NAME ROLE one end of one case, under the library
//!
//! The program itself runs natively; SMC_PRELOAD names the library, and smcss lies beside the program.

mod cases;
mod crooked;
#[path = "../hostile/peer.rs"]
#[allow(dead_code)] // what the hostile peer does besides
mod peer;

use cases::{Case, Far, CASES};
use serde_json::Value;
use smc_core::reason::Detail;
use smc_tests::pair::{be_peer_if_told, Arrangement};
use smc_tests::sys;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

/// What no case here brings about, and what does.
const ELSEWHERE: &[(Detail, &str)] = &[
    (Detail::Panicked, "a unit test: shim/src/guard.rs"),
    (Detail::IpsecPolicy, "with every row of the option table: ci/options.sh"),
    (Detail::FarLost, "a peer that breaks off: ci/lab/smc-r-programs.sh"),
];

/// What takes longer hangs.
const LIMIT_MS: i32 = 120_000;
/// Exit status of a case that cannot be tried on this host.
pub const NOT_HERE: i32 = 77;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    be_peer_if_told(&args);
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--near", name, role] => cases::near(name, role),
        [] => walk(""),
        [filter] if !filter.starts_with('-') => walk(filter),
        _ => {
            eprintln!("usage: reasons [FILTER]");
            ExitCode::from(2)
        }
    }
}

fn walk(filter: &str) -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    let mut judge = |name: &str, result: Result<(), String>| match result {
        Ok(()) => passed += 1,
        Err(why) => {
            failed += 1;
            println!("reasons: {name}: {why}");
        }
    };
    for case in CASES.iter().filter(|case| case.name().contains(filter)) {
        for arrangement in case.arrangements {
            let name = format!("{} [{}]", case.name(), arrangement.name());
            judge(&name, Scene::new().and_then(|scene| scene.play(case, *arrangement)));
        }
    }
    for (name, test) in crooked::TESTS.iter().filter(|(name, _)| name.contains(filter)) {
        judge(name, Scene::new().and_then(|scene| test(&scene)));
    }
    if filter.is_empty() {
        Detail::ALL.iter().for_each(|detail| judge(&format!("{detail:?}"), is_covered(*detail)));
    }
    println!("reasons: {passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

/// A cause that nothing brings about is one that nobody knows to work.
fn is_covered(detail: Detail) -> Result<(), String> {
    let by_case = CASES.iter().any(|case| case.near == detail || case.far.detail() == Some(detail));
    let elsewhere = ELSEWHERE.iter().any(|(other, _)| *other == detail) || crooked::covers(detail);
    match (by_case, elsewhere) {
        (false, false) => Err("no case brings it about".to_owned()),
        _ => Ok(()),
    }
}

/// A folder for what the library leaves behind.
pub struct Scene {
    dir: PathBuf,
}

/// What an end is to say.
pub struct Expected {
    pub own: Detail,
    /// The peer's code, 0 if it cannot know one; `None`: whatever.
    pub peer: Option<u32>,
}

impl Expected {
    fn judge(&self, found: &Value) -> Result<(), String> {
        let own = code(self.own.reason().code());
        let right = found["mode"] == "TCP"
            && found["reason"] == own.as_str()
            && found["reason_text"] == self.own.sentence()
            && self.peer.is_none_or(|peer| found["peer_reason"] == code(peer).as_str());
        match right {
            true => Ok(()),
            false => Err(format!("expected {own} ({:?}), peer {:x?}: {found}", self.own, self.peer)),
        }
    }

    /// The column of smcss.
    fn mode(found: &Value) -> String {
        let text = |key: &str| found[key].as_str().unwrap_or("").to_owned();
        match text("peer_reason").as_str() {
            "0x00000000" => format!("TCP {}", text("reason")),
            peer => format!("TCP {}/{peer}", text("reason")),
        }
    }
}

fn code(number: u32) -> String {
    format!("0x{number:08x}")
}

impl Scene {
    fn new() -> Result<Scene, String> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("smc-reasons.{}.{n}", std::process::id()));
        std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(Scene { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Starts one end of a case under the library.
    pub fn start(&self, name: &str, role: &str, settings: &[(&str, &str)]) -> Result<Near, String> {
        let preload = std::env::var_os("SMC_PRELOAD").ok_or("no library: set SMC_PRELOAD")?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["--near", name, role]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("LD_PRELOAD", preload).env("SMC_CONFIG", "").env("SMC_UPGRADE_AFTER", "0");
        command.env("SMC_RUN_DIR", self.path("run")).env("SMC_REPORT", self.path("report"));
        command.env("SMC_LOG", format!("debug:{}", self.path("log").display()));
        for (name, value) in settings {
            command.env(name, value.replace('@', &self.dir.display().to_string()));
        }
        if name == "PeerUidUnverified" {
            cases::forbid_netlink(&mut command);
        }
        let mut child = command.spawn().map_err(|e| format!("start: {e}"))?;
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Ok(Near { child, input: Some(input), output })
    }

    fn play(&self, case: &Case, arrangement: Arrangement) -> Result<(), String> {
        std::fs::create_dir(self.path("run")).map_err(|e| e.to_string())?;
        std::fs::write(self.path("broken.conf"), "exclude\nexlude\n").map_err(|e| e.to_string())?;
        let mut near = self.start(&case.name(), arrangement.name(), case.settings)?;
        let (local, peer) = match near.ends() {
            Ok(ends) => ends,
            Err(why) => return near.end().and(Err(why)).or_else(not_here),
        };
        let (here, there) = ((&*local, &*peer), (&*peer, &*local));
        let (pid, far) = (near.pid(), case.far.expected(case.near));
        let own = Expected { own: case.near, peer: Some(0) };
        let sockets = self.sockets()?;
        self.judge(&own, find(&sockets, here, Some(pid))?)?;
        if let Some(far) = &far {
            self.judge(far, find(&sockets, there, None)?).map_err(|why| format!("far end: {why}"))?;
        }
        near.end()?;
        let reported = self.reported()?;
        own.judge(find(&reported, here, Some(pid))?).map_err(|why| format!("SMC_REPORT: {why}"))?;
        if let Some(far) = &far {
            far.judge(find(&reported, there, None)?).map_err(|why| format!("SMC_REPORT, far end: {why}"))?;
        }
        self.is_logged(case)
    }

    /// In both forms of smcss.
    fn judge(&self, expected: &Expected, found: &Value) -> Result<(), String> {
        expected.judge(found).map_err(|why| format!("smcss: {why}"))?;
        self.is_in_table(found)
    }

    /// What smcss lists.
    pub fn sockets(&self) -> Result<Vec<Value>, String> {
        let all: Value =
            serde_json::from_str(&self.smcss(&["--all", "--json"])?).map_err(|e| e.to_string())?;
        all["sockets"].as_array().cloned().ok_or_else(|| format!("no sockets: {all}"))
    }

    fn smcss(&self, args: &[&str]) -> Result<String, String> {
        let here = std::env::current_exe().map_err(|e| e.to_string())?;
        let smcss = std::env::var_os("SMC_SMCSS").map_or_else(|| here.with_file_name("smcss"), PathBuf::from);
        let run = Command::new(&smcss).args(args).env("SMC_RUN_DIR", self.path("run")).output();
        let output = run.map_err(|e| format!("{}: {e}", smcss.display()))?;
        String::from_utf8(output.stdout).map_err(|e| e.to_string())
    }

    /// A line of `smcss -a` has the addresses and both codes.
    fn is_in_table(&self, socket: &Value) -> Result<(), String> {
        let table = self.smcss(&["-a", "--wide"])?;
        // There as smc-tools write it.
        let address = |end: &str| socket[end].as_str().unwrap_or("?").replace(['[', ']'], "");
        let (local, peer) = (address("local"), address("peer"));
        let mode = Expected::mode(socket);
        let is_it =
            |line: &str| line.contains(&local) && line.contains(&peer) && line.ends_with(&format!(" {mode}"));
        match table.lines().any(is_it) {
            true => Ok(()),
            false => Err(format!("smcss -a has no {local} {peer} {mode}:\n{table}")),
        }
    }

    pub fn reported(&self) -> Result<Vec<Value>, String> {
        let text = std::fs::read_to_string(self.path("report")).map_err(|e| format!("SMC_REPORT: {e}"))?;
        text.lines().map(|line| serde_json::from_str(line).map_err(|e| format!("{line}: {e}"))).collect()
    }

    /// The log tells of what keeps a connection on TCP for good, with code and text, and of the peer's code.
    fn is_logged(&self, case: &Case) -> Result<(), String> {
        let text = std::fs::read_to_string(self.path("log")).map_err(|e| format!("the log: {e}"))?;
        let mut wanted = Vec::new();
        if case.near_lasts() {
            let own = code(case.near.reason().code());
            wanted.push(format!("stays on TCP: {own} {}", case.near.sentence()));
        }
        if matches!(case.far, Far::Refused | Far::Returned) {
            wanted.push(format!("the peer stays on TCP: {}", code(case.near.reason().code())));
        }
        match wanted.into_iter().find(|line| !text.contains(line)) {
            None => Ok(()),
            Some(line) => Err(format!("the log has no '{line}':\n{text}")),
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::env::var_os("SMC_REASONS_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// The record of a socket by its addresses, and by the process where several have it.
pub fn find<'a>(records: &'a [Value], ends: (&str, &str), pid: Option<u32>) -> Result<&'a Value, String> {
    let is_its = |r: &&Value| pid.is_none_or(|pid| r["pid"] == pid);
    let by_name = |r: &&Value| r["local"] == ends.0 && r["peer"] == ends.1;
    // One that has ended, or whose process lives in another network namespace, has no addresses.
    let nameless = |r: &&Value| pid.is_some() && r["local"] == "";
    let mut found = records.iter().filter(is_its).filter(|r| by_name(r) || nameless(r));
    found.next().ok_or_else(|| format!("{} to {} is not there: {records:?}", ends.0, ends.1))
}

fn not_here(why: String) -> Result<(), String> {
    match why.strip_prefix("not here: ") {
        Some(why) => {
            println!("reasons: left out: {why}");
            Ok(())
        }
        None => Err(why),
    }
}

/// One end of a case, in a process of its own under the library.
pub struct Near {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Near {
    fn line(&mut self) -> Result<String, String> {
        let mut ready =
            [libc::pollfd { fd: self.output.get_ref().as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        let mut line = String::new();
        match sys::poll(&mut ready, LIMIT_MS) {
            Ok(0) => Err("it hangs".to_owned()),
            _ => match self.output.read_line(&mut line) {
                Ok(1..) => Ok(line.trim().to_owned()),
                _ => Err("it is gone".to_owned()),
            },
        }
    }

    /// Its two addresses, once it has done its part.
    pub fn ends(&mut self) -> Result<(String, String), String> {
        let line = self.line()?;
        match line.split_once(' ') {
            Some(("not-here", why)) => Err(format!("not here: {why}")),
            Some((local, peer)) => Ok((local.to_owned(), peer.to_owned())),
            None => Err(format!("it says {line}")),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn tell(&mut self, line: &str) -> Result<(), String> {
        let input = self.input.as_mut().ok_or("it was told to end")?;
        writeln!(input, "{line}").map_err(|e| format!("it takes no orders: {e}"))
    }

    /// Lets it close its connection and exit.
    pub fn end(mut self) -> Result<(), String> {
        self.input = None;
        // Its output ends with it.
        match self.line() {
            Err(why) if why == "it is gone" => {}
            other => return Err(format!("at its end: {other:?}")),
        }
        match self.child.wait() {
            Ok(status) if status.success() || status.code() == Some(NOT_HERE) => Ok(()),
            status => Err(format!("it ended with {status:?}")),
        }
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `peer` needs of the hostile suite's stage.
pub struct Stage {
    pub port: u16,
    near: std::cell::RefCell<Near>,
}

impl Stage {
    pub fn victim_connects(&self, port: u16) -> Result<(), String> {
        self.near.borrow_mut().tell(&port.to_string())
    }
}
