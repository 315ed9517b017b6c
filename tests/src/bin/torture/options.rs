//! The command line.

use smc_tests::net::Family;
use smc_tests::random::Random;

pub const USAGE: &str = "usage: torture [OPTION]...
Sends position-coded bytes both ways over many TCP connections and checks every one of them.
  --seed N           what is random comes from N (default: the clock)
  --connections N    connections in all (default 24)
  --concurrency N    open at the same time (default 8)
  --bytes N          at most N bytes for each direction of a connection, k and m understood (default 4m)
  --wait MODE        both ends wait by: blocking poll ppoll select pselect epoll-lt epoll-et epoll-oneshot
                     epoll-exclusive random (default)
  --client-wait MODE the same for the connecting end alone
  --layout LAYOUT    processes (default), threads (both ends in one process), one-thread (not with blocking)
  --family FAMILY    4, 6, mapped, mapped-both, mixed (default)
  --signals          interrupt the calls with SIGALRM every few milliseconds
  --max-size N       the largest single call, k and m understood (default 1m)
  --runs N           repeat with seeds N, N+1, ... (default 1)
  --stall SECONDS    fail when nothing moves for so long (default 60)";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Blocking,
    Poll,
    Ppoll,
    Select,
    Pselect,
    EpollLevel,
    EpollEdge,
    EpollOneshot,
    EpollExclusive,
}

const WAITS: [(&str, Wait); 9] = [
    ("poll", Wait::Poll),
    ("ppoll", Wait::Ppoll),
    ("select", Wait::Select),
    ("pselect", Wait::Pselect),
    ("epoll-lt", Wait::EpollLevel),
    ("epoll-et", Wait::EpollEdge),
    ("epoll-oneshot", Wait::EpollOneshot),
    ("epoll-exclusive", Wait::EpollExclusive),
    ("blocking", Wait::Blocking),
];

impl Wait {
    pub fn name(self) -> &'static str {
        WAITS.iter().find(|(_, w)| *w == self).map_or("", |(name, _)| name)
    }

    /// The events of one wait are the whole truth until the next; the opposite is an edge, to be remembered.
    pub fn is_level(self) -> bool {
        !matches!(self, Wait::EpollEdge | Wait::EpollExclusive)
    }

    pub fn is_epoll(self) -> bool {
        matches!(self, Wait::EpollLevel | Wait::EpollEdge | Wait::EpollOneshot | Wait::EpollExclusive)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Processes,
    Threads,
    OneThread,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub connections: u32,
    pub concurrency: u32,
    pub bytes: u64,
    pub server_wait: Wait,
    pub client_wait: Wait,
    pub layout: Layout,
    /// `None`: every connection its own.
    pub family: Option<Family>,
    pub signals: bool,
    pub max_size: usize,
    pub runs: u64,
    pub stall_seconds: u64,
    /// What this process does: nothing (it starts the others), or one part of the test.
    pub role: Option<Role>,
    /// For a role: the memory it shares with the process that started it.
    pub board: i32,
    /// For the client: where the server listens.
    pub port: u16,
    /// As given, to start the roles and to tell how to repeat a run.
    pub given: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
    Both,
}

fn number(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    digits.parse::<u64>().map(|n| n * factor).map_err(|_| format!("not a number: {text}"))
}

/// `None` is "random".
fn wait(text: &str) -> Result<Option<Wait>, String> {
    if text == "random" {
        return Ok(None);
    }
    let known = WAITS.iter().find(|(name, _)| *name == text);
    known.map(|(_, wait)| Some(*wait)).ok_or_else(|| format!("unknown wait mode: {text}"))
}

impl Options {
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Options, String> {
        let clock = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64 / 1000);
        let mut options = Options {
            seed: clock,
            connections: 24,
            concurrency: 8,
            bytes: 4 << 20,
            server_wait: Wait::Poll,
            client_wait: Wait::Poll,
            layout: Layout::Processes,
            family: None,
            signals: false,
            max_size: 1 << 20,
            runs: 1,
            stall_seconds: 60,
            role: None,
            board: -1,
            port: 0,
            given: Vec::new(),
        };
        let (mut server_wait, mut client_wait) = (None, None);
        let mut args = args;
        while let Some(arg) = args.next() {
            if arg == "--help" || arg == "-h" {
                return Err(String::new());
            }
            if arg == "--signals" {
                options.signals = true;
                options.given.push(arg);
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
            match arg.as_str() {
                "--seed" => options.seed = number(&value)?,
                "--runs" => options.runs = number(&value)?,
                "--board" => options.board = number(&value)? as i32,
                "--port" => options.port = number(&value)? as u16,
                "--role" => {
                    options.role = Some(match value.as_str() {
                        "server" => Role::Server,
                        "client" => Role::Client,
                        "both" => Role::Both,
                        _ => return Err(format!("unknown role: {value}")),
                    });
                }
                "--connections" => options.connections = number(&value)?.clamp(1, 10_000) as u32,
                "--concurrency" => options.concurrency = number(&value)?.clamp(1, 1000) as u32,
                "--bytes" => options.bytes = number(&value)?,
                "--wait" => server_wait = wait(&value)?,
                "--client-wait" => client_wait = wait(&value)?,
                "--max-size" => options.max_size = number(&value)?.clamp(1, 1 << 30) as usize,
                "--stall" => options.stall_seconds = number(&value)?.max(1),
                "--layout" => {
                    options.layout = match value.as_str() {
                        "processes" => Layout::Processes,
                        "threads" => Layout::Threads,
                        "one-thread" => Layout::OneThread,
                        _ => return Err(format!("unknown layout: {value}")),
                    }
                }
                "--family" => {
                    options.family = match value.as_str() {
                        "4" => Some(Family::V4),
                        "6" => Some(Family::V6),
                        "mapped" => Some(Family::MappedAccept),
                        "mapped-both" => Some(Family::MappedBoth),
                        "mixed" => None,
                        _ => return Err(format!("unknown family: {value}")),
                    }
                }
                _ => return Err(format!("unknown option: {arg}")),
            }
            if !matches!(arg.as_str(), "--seed" | "--runs" | "--board" | "--port" | "--role") {
                options.given.extend([arg, value]);
            }
        }
        options.choose_waits(server_wait, client_wait);
        if options.layout == Layout::OneThread
            && [options.server_wait, options.client_wait].contains(&Wait::Blocking)
        {
            return Err("one thread cannot block at both ends".to_owned());
        }
        Ok(options)
    }

    fn choose_waits(&mut self, server: Option<Wait>, client: Option<Wait>) {
        let mut random = Random::new(self.seed);
        // Blocking is the last: one thread cannot use it.
        let choices = WAITS.len() as u64 - u64::from(self.layout == Layout::OneThread);
        let any_server = WAITS[random.below(choices) as usize].1;
        let any_client = WAITS[random.below(choices) as usize].1;
        self.server_wait = server.unwrap_or(any_server);
        self.client_wait = client.or(server).unwrap_or(any_client);
        if self.layout == Layout::OneThread {
            self.client_wait = self.server_wait;
        }
    }
}
