//! A hostile peer: it proves, as any peer does, that it owns the other end of a connection, and then breaks every rule
//! of the rendezvous and of the shared memory. The victim, an echo server under the preload library, must not crash,
//! hang or spin, and its connections with an honest client must carry the right bytes all the while.
//!
//!     hostile [--seed N] [--rounds N] [--preload FILE] [--filter TEXT]
//!
//! The program itself runs natively; it starts the victim and the honest client with the library.

mod attacks;
mod impostors;
mod messages;
mod peer;
mod victim;

use smc_tests::net::Family;
use smc_tests::pattern::Stream;
use smc_tests::random::Random;
use smc_tests::sys;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// What takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mut seed = u64::from(std::process::id());
    let mut rounds = 10;
    let mut filter = String::new();
    let mut preload = std::env::var("SMC_PRELOAD").unwrap_or_default();
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_default();
        match arg.as_str() {
            "--victim" => return victim::run(&value()),
            "--honest" => return honest(value().parse().expect("a port")),
            "--seed" => seed = value().parse().expect("a number"),
            "--rounds" => rounds = value().parse().expect("a number"),
            "--preload" => preload = value(),
            "--filter" => filter = value(),
            _ => {
                eprintln!("usage: hostile [--seed N] [--rounds N] [--preload FILE] [--filter TEXT]");
                return ExitCode::from(2);
            }
        }
    }
    assert!(!preload.is_empty(), "no preload library: set SMC_PRELOAD");
    println!("hostile: seed {seed}");
    let mut tests = Tests { preload, random: Random::new(seed), passed: 0, failed: 0 };
    for waiting in ["epoll", "blocking"] {
        for (name, test) in messages::TESTS.iter().chain(impostors::TESTS).chain(attacks::TESTS) {
            if !format!("{name} [{waiting}]").contains(&filter) {
                continue;
            }
            let rounds = if attacks::TESTS.iter().any(|(n, _)| n == name) { rounds } else { 1 };
            tests.run(name, waiting, rounds, *test);
        }
    }
    println!("hostile: {} passed, {} failed", tests.passed, tests.failed);
    ExitCode::from(u8::from(tests.failed > 0))
}

/// One test: one thing a peer may do to a victim. An error tells what went wrong with the victim.
pub type Test = fn(&Stage, &mut Random, usize) -> Result<(), String>;

struct Tests {
    preload: String,
    random: Random,
    passed: u32,
    failed: u32,
}

impl Tests {
    fn run(&mut self, name: &str, waiting: &str, rounds: usize, test: Test) {
        let seed = self.random.word();
        let started = Instant::now();
        let mut stage = Stage::open(&self.preload, waiting);
        let result = test(&stage, &mut Random::new(seed), rounds).and_then(|()| stage.check_at_the_end());
        match result {
            Ok(()) => self.passed += 1,
            Err(why) => {
                self.failed += 1;
                println!("hostile: {name} [{waiting}] after {:.1} s: {why}", started.elapsed().as_secs_f32());
            }
        }
    }
}

/// A child with pipes to its standard input and output, and with the library; killed at the end.
pub struct Puppet {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Puppet {
    fn start(preload: &str, args: &[&str]) -> Puppet {
        let mut command = Command::new("/proc/self/exe");
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("LD_PRELOAD", preload).env("SMC_UPGRADE_AFTER", "0").env_remove("SMC_LOG");
        // Complaints of the library about the peer are expected; those of the program are not.
        if let Ok(log) = std::env::var("SMC_HOSTILE_LOG") {
            command.env("SMC_LOG", log);
        }
        let mut child = command.spawn().expect("start");
        let input = child.stdin.take().expect("a pipe");
        let output = child.stdout.take().expect("a pipe");
        Puppet { child, input, output }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn tell(&self, line: &str) -> Result<(), String> {
        writeln!(&self.input, "{line}").map_err(|e| format!("it takes no orders: {e}"))
    }

    /// Its next 8 bytes of output.
    fn answer(&self) -> Result<u64, String> {
        let fd = self.output.as_raw_fd();
        let mut bytes = [0; 8];
        let mut ready = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
        match sys::poll(&mut ready, LIMIT.as_millis() as i32) {
            Ok(0) => Err("no answer: it hangs".to_owned()),
            _ => match sys::read(fd, &mut bytes) {
                Ok(8) => Ok(u64::from_le_bytes(bytes)),
                _ => Err("it is gone".to_owned()),
            },
        }
    }

    /// Clock ticks of processor time used so far.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default().to_owned();
        after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum()
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, |entries| entries.count())
    }
}

impl Puppet {
    /// What its descriptors are.
    fn kinds(&self) -> String {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).into_iter().flatten().flatten();
        let links = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let mut kinds: Vec<_> = links.map(|link| link.display().to_string()).collect();
        kinds.sort();
        kinds.join(" ")
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A victim and an honest client of it.
pub struct Stage {
    preload: String,
    pub victim: Puppet,
    honest: Puppet,
    pub port: u16,
    descriptors: usize,
    /// How many doorbells and segments the library may keep for processes that may come back: set by tests.
    pub keeps: std::cell::Cell<usize>,
}

impl Stage {
    fn open(preload: &str, waiting: &str) -> Stage {
        let victim = Puppet::start(preload, &["--victim", waiting]);
        let port = victim.answer().expect("the victim's port") as u16;
        let honest = Puppet::start(preload, &["--honest", &port.to_string()]);
        let stage =
            Stage { preload: preload.to_owned(), victim, honest, port, descriptors: 0, keeps: 0.into() };
        stage.honest_lap().expect("a first lap");
        Stage { descriptors: stage.victim.descriptors(), ..stage }
    }

    /// Has the honest client exchange bytes on all its connections.
    pub fn honest_lap(&self) -> Result<(), String> {
        self.honest.tell("")?;
        self.honest.answer().map(drop).map_err(|why| format!("the honest client: {why}"))
    }

    /// Has the victim connect to a port.
    pub fn victim_connects(&self, port: u16) -> Result<(), String> {
        self.victim.tell(&port.to_string()).map_err(|why| format!("the victim: {why}"))
    }

    /// The victim comes to rest: it does not go on using a processor for a peer that does nothing any more.
    pub fn rests(&self) -> Result<(), String> {
        let start = Instant::now();
        let mut before = self.victim.ticks();
        while start.elapsed() < LIMIT {
            // The window in which processor time is counted; how long it really is does not matter.
            std::thread::sleep(Duration::from_millis(200));
            let now = self.victim.ticks();
            if now - before <= 2 {
                return Ok(());
            }
            before = now;
        }
        Err("the victim spins".to_owned())
    }

    /// Lets `peer` do its worst in a process of its own, while the honest client goes on. `peer` gets a function that
    /// waits, with everything as it is, until the victim has come to rest.
    pub fn with_peer(
        &self,
        peer: impl FnOnce(&dyn Fn() -> Result<(), String>) -> Result<(), String>,
    ) -> Result<(), String> {
        let ((news, tell), (go_on, let_go)) = (sys::pipe(0), sys::pipe(0));
        let child = sys::fork_child(|| {
            sys::close(news).and(sys::close(let_go)).expect("close");
            let pause = || {
                sys::write(tell, b"p").map_err(sys::errno_name)?;
                sys::read(go_on, &mut [0]).map_err(sys::errno_name).map(drop)
            };
            if let Err(why) = peer(&pause) {
                let _ = sys::write(tell, format!("e{why}").as_bytes());
            }
        });
        sys::close(tell).and(sys::close(go_on)).expect("close");
        let result = self.attend(news, let_go);
        if result.is_err() {
            let _ = sys::kill(child, libc::SIGKILL);
        }
        let status = sys::wait_child(child);
        sys::close(news).and(sys::close(let_go)).expect("close");
        match status {
            0 => result,
            status => result.and(Err(format!("the peer ended with {status}"))),
        }
    }

    fn attend(&self, news: i32, let_go: i32) -> Result<(), String> {
        let started = Instant::now();
        let mut text = [0; 1000];
        loop {
            self.honest_lap()?;
            let mut look = [libc::pollfd { fd: news, events: libc::POLLIN, revents: 0 }];
            if sys::poll(&mut look, 0) == Ok(0) {
                if started.elapsed() > 2 * LIMIT {
                    return Err("the peer gets nowhere with the victim".to_owned());
                }
                continue;
            }
            match sys::read(news, &mut text) {
                Ok(n @ 1..) if text[0] == b'e' => {
                    return Err(String::from_utf8_lossy(&text[1..n]).into_owned())
                }
                Ok(1..) => {
                    self.rests()?;
                    sys::write(let_go, b"x").map_err(sys::errno_name)?;
                }
                _ => return Ok(()),
            }
        }
    }

    /// What died with a peer is freed when the next one comes: one does.
    fn another_comes(&self) -> Result<(), String> {
        let another = Puppet::start(&self.preload, &["--honest", &self.port.to_string()]);
        another.tell("")?;
        another.answer().map(drop).map_err(|why| format!("another honest client: {why}"))
    }

    fn check_at_the_end(&mut self) -> Result<(), String> {
        self.honest_lap()?;
        self.rests()?;
        match self.victim.child.try_wait() {
            Ok(None) => {}
            status => return Err(format!("the victim ended: {status:?}")),
        }
        let allowed = self.descriptors + self.keeps.get();
        let start = Instant::now();
        // Connections that have ended are closed soon.
        while self.victim.descriptors() > allowed {
            if start.elapsed() > LIMIT {
                return Err(format!(
                    "the victim has {} descriptors, {allowed} expected: {}",
                    self.victim.descriptors(),
                    self.victim.kinds()
                ));
            }
            self.another_comes()?;
        }
        Ok(())
    }
}

/// The honest client: at each line of input, exchanges on a few connections, checked byte by byte.
fn honest(port: u16) -> ExitCode {
    sys::die_with_parent();
    let mut random = Random::new(port.into());
    let mut connections = Vec::new();
    for connection in 0..3 {
        let fd = Family::V4.client_socket(0).expect("socket");
        sys::connect(fd, &Family::V4.target(port)).expect("connect");
        connections.push((fd, Stream { seed: 9, connection, direction: 0 }, 0u64));
    }
    let mut line = [0; 1];
    while std::io::stdin().read_exact(&mut line).is_ok() {
        for _ in 0..10 {
            for (fd, stream, at) in &mut connections {
                let mut bytes = vec![0; random.size(20_000)];
                stream.fill(*at, &mut bytes);
                let mut sent = 0;
                while sent < bytes.len() {
                    sent += sys::send(*fd, &bytes[sent..], libc::MSG_NOSIGNAL).expect("send");
                }
                let mut received = 0;
                while received < sent {
                    let n = sys::recv(*fd, &mut bytes[received..], 0).expect("recv");
                    assert_ne!(n, 0, "the stream ended");
                    received += n;
                }
                stream.check(*at, &bytes).expect("the right bytes");
                *at += sent as u64;
            }
        }
        let mut out = std::io::stdout();
        if out.write_all(&0u64.to_le_bytes()).and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}
