//! A handshake, as the program sees it.

use crate::conn::{Conn, Info};
use parking_lot::Mutex;
use smc_core::sys::fd::{self, OwnFd};
use smc_core::sys::Result;
use smc_wire::handshake::{Failure, Fallback};
use std::sync::Arc;

/// Which side of the TCP connection this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Client,
    Server,
}

/// A handshake for the engine to begin.
pub struct Start {
    pub fd: i32,
    pub side: Side,
    pub pending: Arc<Pending>,
}

/// How a handshake has ended.
pub enum Outcome {
    /// The connection is on SMC-R.
    Smc(Connection),
    /// It is TCP: nothing of the program's bytes has been read, and the next byte of the stream is theirs.
    Tcp(Fallback),
    /// The connection is lost.
    Failed(Failure),
}

/// A handshake that is under way.
pub struct Pending {
    bell: OwnFd,
    outcome: Mutex<Option<Outcome>>,
}

impl Pending {
    pub(crate) fn new() -> Result<Arc<Pending>> {
        Ok(Arc::new(Pending { bell: fd::eventfd()?, outcome: Mutex::new(None) }))
    }

    pub(crate) fn finish(&self, outcome: Outcome) {
        *self.outcome.lock() = Some(outcome);
        fd::ring(self.bell.raw());
    }

    /// Readable when it is over.
    pub fn fd(&self) -> i32 {
        self.bell.raw()
    }

    /// The outcome, once.
    pub fn take(&self) -> Option<Outcome> {
        self.outcome.lock().take()
    }
}

/// A connection on SMC-R, from the end of its handshake until the program drops it, which closes it: what has been sent goes out in
/// the background.
///
/// No call waits. The TCP socket stays open until then, and nothing is read from it or written to it.
pub struct Connection(pub(crate) Arc<Conn>);

impl Connection {
    /// Reads what is there, 0 at the end of the stream. EAGAIN: nothing is there yet. ECONNRESET, ECONNABORTED: the connection
    /// is lost.
    pub fn receive(&self, into: &mut [u8]) -> Result<usize> {
        self.0.receive(into)
    }

    /// Takes as many of the bytes as there is room for. EAGAIN: there is none. EPIPE: shut down, or the peer has given up; ECONNRESET: the
    /// peer has closed; ECONNABORTED: the connection is lost.
    pub fn send(&self, bytes: &[u8]) -> Result<usize> {
        self.0.send(bytes)
    }

    /// No more will be sent; what has been goes out, and then the peer sees the end.
    pub fn shutdown_write(&self) -> Result<()> {
        self.0.shutdown_write()
    }

    /// A descriptor that becomes readable when there is something to read, or an end or an error. `None`: there is already. To be asked
    /// for again after each sleep.
    pub fn await_data(&self) -> Option<i32> {
        self.0.await_data()
    }

    /// The same for room to send.
    pub fn await_room(&self) -> Option<i32> {
        self.0.await_room()
    }

    /// What it looks like at the moment.
    pub fn info(&self) -> Option<Info> {
        self.0.info()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.close();
    }
}
