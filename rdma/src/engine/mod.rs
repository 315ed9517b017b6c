//! The engine: one thread that runs handshakes, answers LLC and takes completions, whatever the program does meanwhile.
//!
//! It starts with the first handshake. It sleeps in epoll over the completion channels of its links, a doorbell for commands, and TCP
//! sockets (of handshakes, and for the end of peers), until the next timer: it does nothing while nothing happens.
//!
//! Only this thread touches handshakes and link groups. What connections share with the program's threads is in [`crate::conn`] and
//! [`crate::link`].

mod group;
mod handshake;
pub(crate) mod inbox;
mod iwarp;
pub(crate) mod listener;
mod pending;
mod prepare;
mod runner;

pub use pending::{claim, Claim, Connection, Outcome, Pending, Side, When};

use inbox::{Command, Inbox};
use listener::Listener;
use parking_lot::Mutex;
use pending::Start;
use runner::Runner;
use smc_core::sys::fd::OwnFd;
use smc_core::sys::{self, Errno, Result};
use smc_wire::{Diagnosis, Eid, SizeCode, Time};
use std::sync::Arc;
use std::thread::JoinHandle;

/// How the engine is to work.
#[derive(Clone, Debug)]
pub struct Config {
    /// The enterprise ids that this host has; one must be the peer's too. At most 8 are proposed.
    pub eids: Vec<Eid>,
    /// Of the two rings of each connection.
    pub buffer: SizeCode,
    /// Use this RDMA device only.
    pub device: Option<String>,
    /// TCP ports on one of which an iWARP device is to listen.
    pub ports: std::ops::RangeInclusive<u16>,
}

/// A process's SMC-R engine. See the [module](self).
pub struct Engine {
    config: Config,
    inbox: Arc<Inbox>,
    /// The process it belongs to: a forked child has not got its thread.
    pid: u32,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The time by which the engine goes.
pub(crate) fn now() -> Time {
    Time::from_nanos(sys::now_ns())
}

impl Engine {
    /// An engine that has not started.
    pub fn new(config: Config) -> Result<Engine> {
        Ok(Engine { config, inbox: Arc::new(Inbox::new()?), pid: sys::getpid(), thread: Mutex::new(None) })
    }

    /// Begins the handshake on a TCP connection that this process has opened, and whose peer is capable of SMC. Until it is over
    /// nobody else reads or writes; the descriptor may be closed, the engine has its own.
    pub fn connect(&self, fd: i32) -> Result<Arc<Pending>> {
        self.start(fd, Side::Client, When::Now, None, None)
    }

    /// The same on one that it has accepted.
    pub fn accept(&self, fd: i32) -> Result<Arc<Pending>> {
        self.start(fd, Side::Server, When::Now, None, None)
    }

    /// A handshake that was to begin later begins now.
    pub fn begin(&self, pending: &Arc<Pending>) {
        self.inbox.send(Command::Begin(Arc::clone(pending)));
    }

    /// The program has closed a connection before its handshake was over. It is run to its end, and then the connection closed; with
    /// `cancel`, one that has not begun never does: another process goes on with the connection.
    pub fn abandon(&self, pending: &Arc<Pending>, cancel: bool) {
        pending.abandon(cancel);
        self.inbox.send(if cancel { Command::Cancelled } else { Command::Begin(Arc::clone(pending)) });
    }

    /// See [`When`]. With `decline` it ends on TCP with that code. `claim`: who of several processes runs it.
    pub fn start(
        &self,
        fd: i32,
        side: Side,
        when: When,
        decline: Option<Diagnosis>,
        claim: Option<Claim>,
    ) -> Result<Arc<Pending>> {
        self.run()?;
        let pending = Pending::new(claim)?;
        let socket = OwnFd::duplicate(fd)?;
        let start = Start { socket, side, when, decline, pending: Arc::clone(&pending) };
        self.inbox.send(Command::Start(Box::new(start)));
        Ok(pending)
    }

    /// Watches a listening socket: see [`listener`].
    pub(crate) fn listen(&self, listener: &Arc<Listener>) -> Result<()> {
        self.run()?;
        self.inbox.send(Command::Listen(Arc::clone(listener)));
        Ok(())
    }

    /// The end of that.
    pub(crate) fn unlisten(&self, listener: &Arc<Listener>) {
        self.inbox.send(Command::Unlisten(Arc::clone(listener)));
    }

    /// Starts the thread if it does not run.
    fn run(&self) -> Result<()> {
        if sys::getpid() != self.pid {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let mut thread = self.thread.lock();
        if thread.as_ref().is_none_or(|thread| thread.is_finished()) {
            let runner = Runner::new(self.config.clone(), Arc::clone(&self.inbox))?;
            // The new thread has the mask of this one from its first instruction on: signals are the program's.
            let mask = crate::sys::block_signals();
            let spawned = std::thread::Builder::new().name("smc-rdma".into()).spawn(move || runner.run());
            crate::sys::restore_signals(mask);
            *thread = Some(spawned.map_err(|e| Errno(e.raw_os_error().unwrap_or(libc::EAGAIN)))?);
        }
        Ok(())
    }

    /// Closes all connections, waits until their peers have closed them too, at most for `patience`, and ends all link groups. After
    /// this the engine can start again.
    pub fn finish(&self, patience: Time) {
        if sys::getpid() != self.pid {
            return;
        }
        if let Some(thread) = self.thread.lock().take() {
            self.inbox.send(Command::Finish(now() + patience));
            let _ = thread.join();
        }
    }
}
