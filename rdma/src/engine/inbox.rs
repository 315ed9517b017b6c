//! What the program's threads have to tell the engine's.

use crate::engine::listener::Listener;
use crate::engine::pending::{Pending, Start};
use crate::sys::Process;
use parking_lot::Mutex;
use smc_core::sys::fd::{self, OwnFd};
use smc_core::sys::Result;
use smc_wire::Time;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Something for the engine's thread to do.
pub enum Command {
    /// A handshake is to begin, now or later.
    Start(Box<Start>),
    /// One that was to begin later is to begin now.
    Begin(Arc<Pending>),
    /// One that was to begin later may not be wanted any more.
    Cancelled,
    /// A listening socket is to be watched, or not any more.
    Listen(Arc<Listener>),
    Unlisten(Arc<Listener>),
    /// The program has closed this connection.
    Closed(u64),
    /// Both sides are through with this connection.
    Over(u64),
    /// Messages have come on this link that are the engine's to act on.
    Messages(u64),
    /// A work request on this link was refused, or has failed.
    LinkFailed(u64),
    /// iWARP: the queue pair of this link was not connected.
    NotConnected(u64),
    /// Close everything, and end at that time at the latest.
    Finish(Time),
}

/// Commands, and a doorbell for the thread that takes them. It outlives the thread: after an exec that failed there is another one.
pub struct Inbox {
    /// Whose thread it is.
    pub process: Process,
    bell: OwnFd,
    commands: Mutex<Vec<Command>>,
    /// The last number given to a link, a connection or a handshake.
    last: AtomicU64,
}

impl Inbox {
    pub fn new() -> Result<Inbox> {
        Ok(Inbox {
            process: Process::new()?,
            bell: fd::eventfd()?,
            commands: Mutex::new(Vec::new()),
            last: AtomicU64::new(0),
        })
    }

    /// A number that nothing else has or had: commands name things by number, also such as an earlier thread has left behind.
    pub fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Readable when there are commands.
    pub fn fd(&self) -> i32 {
        self.bell.raw()
    }

    pub fn send(&self, command: Command) {
        let mut commands = self.commands.lock();
        commands.push(command);
        // Not for each: who put in the first has rung, or is about to.
        let first = commands.len() == 1;
        drop(commands);
        if first {
            fd::ring(self.fd());
        }
    }

    /// Takes all commands.
    pub fn take(&self) -> Vec<Command> {
        fd::drain(self.fd());
        std::mem::take(&mut *self.commands.lock())
    }
}
