//! The workloads of the benchmark: a server, a client, and what needs one process only. It knows nothing of smc: the
//! same program runs over TCP, over a Unix socket, and with the preload library.
//!
//! A server prints where it listens (a port, or the path given) and, when its clients are done, its account. A client
//! prints its account. See [`smc_benches::Account`].

mod address;
mod connections;
mod events;
mod local;
mod meter;
mod round_trip;
mod stream;

use address::Address;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answers what a client of the same settings asks.
    Server {
        #[command(flatten)]
        work: Work,
        /// Listen here in place of a free port of 127.0.0.1.
        #[arg(long)]
        unix: Option<PathBuf>,
    },
    /// Asks, and measures.
    Client {
        #[command(flatten)]
        work: Work,
        #[arg(long, required_unless_present = "port")]
        unix: Option<PathBuf>,
        #[arg(long)]
        port: Option<u16>,
    },
    /// Both ends of a connection in one thread: messages are sent, and then received, so that nobody ever waits.
    Loop {
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Ask epoll_wait before each receive.
        #[arg(long)]
        epoll: bool,
        #[arg(long)]
        count: u64,
    },
    /// Calls on descriptors that are no sockets.
    Foreign {
        #[arg(value_enum)]
        what: local::Foreign,
        #[arg(long, default_value_t = 100)]
        ms: u64,
    },
    /// Keeps one CPU busy until killed.
    Hog { cpu: usize },
}

/// What is to be done; both ends get the same.
#[derive(Args, Clone)]
pub struct Work {
    #[arg(long, value_enum)]
    pub work: Kind,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64)]
    pub size: usize,
    /// Threads of the client, each with connections of its own.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Connections of a thread that has epoll.
    #[arg(long, default_value_t = 1)]
    pub each: usize,
    /// Connections that fall silent after a few exchanges.
    #[arg(long, default_value_t = 0)]
    pub idle: usize,
    /// Microseconds from one request to the next; 0: the next follows the answer.
    #[arg(long, default_value_t = 0)]
    pub interval_us: u64,
    /// Leave Nagle's algorithm on.
    #[arg(long)]
    pub nagle: bool,
    /// Bytes of memory through which a stream's buffers move, at both ends; 0: the same buffer each time.
    #[arg(long, default_value_t = 0)]
    pub span: usize,
    /// Milliseconds before the measured time.
    #[arg(long, default_value_t = 30)]
    pub warmup_ms: u64,
    /// The measured time, in milliseconds.
    #[arg(long, default_value_t = 100)]
    pub ms: u64,
    /// Messages of a thread, all in all, in place of a time.
    #[arg(long)]
    pub count: Option<u64>,
}

impl Work {
    pub fn warmup(&self) -> Duration {
        Duration::from_millis(self.warmup_ms)
    }

    pub fn measured(&self) -> Duration {
        Duration::from_millis(self.ms)
    }

    /// Connections that the server is to see come and go.
    pub fn connections(&self) -> usize {
        self.threads * self.each + self.idle
    }
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Round trips, with blocking calls.
    RoundTrip,
    /// Round trips, with epoll at both ends.
    Events,
    /// Round trips with memcached: GET of a value that is there; the server is not ours.
    Memcached,
    /// The server sends as fast as it can.
    Stream,
    /// One connection after the other, a round trip on each.
    Connect,
}

fn main() -> std::io::Result<()> {
    match Arguments::parse().command {
        Command::Server { work, unix } => {
            let listener = address::Listener::new(unix.as_deref())?;
            println!("{}", listener.address());
            let account = match work.work {
                Kind::RoundTrip => round_trip::serve(&listener, &work)?,
                Kind::Events | Kind::Memcached => events::serve(&listener, &work)?,
                Kind::Stream => stream::serve(&listener, &work)?,
                Kind::Connect => connections::serve(&listener, &work)?,
            };
            account.print();
        }
        Command::Client { work, unix, port } => {
            let address = match unix {
                Some(path) => Address::Unix(path),
                None => Address::Port(port.expect("clap demands one of the two")),
            };
            let account = match work.work {
                Kind::RoundTrip => round_trip::ask(&address, &work)?,
                Kind::Events | Kind::Memcached => events::ask(&address, &work)?,
                Kind::Stream => stream::receive(&address, &work)?,
                Kind::Connect => connections::connect(&address, &work)?,
            };
            account.print();
        }
        Command::Loop { size, epoll, count } => local::both_ends(size, epoll, count)?,
        Command::Foreign { what, ms } => local::foreign(what, Duration::from_millis(ms))?.print(),
        Command::Hog { cpu } => local::hog(cpu),
    }
    Ok(())
}
