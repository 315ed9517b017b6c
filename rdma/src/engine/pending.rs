//! A handshake, as the program sees it.

use crate::conn::{Bells, Conn, Info};
use parking_lot::Mutex;
use smc_core::sys::fd::{self, OwnFd};
use smc_core::sys::Result;
use smc_wire::handshake::{Failure, Fallback};
use smc_wire::{Diagnosis, Time};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

/// Which side of the TCP connection this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Client,
    Server,
}

/// When a handshake is to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    Now,
    /// When the TCP connection is established, if the peer is capable of SMC.
    Connected,
    /// When [`Engine::begin`](super::Engine::begin) says so, or at this time if no other process has begun it.
    Later(Time),
}

/// A handshake for the engine to run.
pub struct Start {
    pub socket: OwnFd,
    pub side: Side,
    pub when: When,
    /// It is to end on TCP, with this code.
    pub decline: Option<Diagnosis>,
    pub pending: Arc<Pending>,
}

/// How a handshake has ended.
pub enum Outcome {
    /// The connection is on SMC-R.
    Smc(Connection),
    /// It is TCP: nothing of the program's bytes has been read, and the next byte of the stream is theirs.
    Tcp(Fallback),
    /// It is TCP, and there was no handshake: the peer is not capable of SMC, or could not be reached.
    Plain,
    /// Another process has taken the handshake over.
    Elsewhere,
    /// The connection is lost.
    Failed(Failure),
}

/// Who runs the handshake of a connection that several processes hold: 0 nobody yet, else a process id. In memory that those processes
/// share and that is never unmapped.
pub type Claim = &'static AtomicU32;

/// Takes a handshake for this process. False: another one has it.
pub fn claim(claim: Claim) -> bool {
    let me = smc_core::sys::getpid();
    let taken = claim.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire);
    taken.is_ok() || taken == Err(me)
}

/// A handshake that is under way.
pub struct Pending {
    pub(crate) bells: Arc<Bells>,
    state: Mutex<State>,
}

struct State {
    outcome: Option<Outcome>,
    /// The program has closed the connection, and takes no outcome.
    abandoned: bool,
    /// It is not to be begun any more.
    cancelled: bool,
    claim: Option<Claim>,
}

impl Pending {
    pub(crate) fn new(claim: Option<Claim>) -> Result<Arc<Pending>> {
        let state = State { outcome: None, abandoned: false, cancelled: false, claim };
        Ok(Arc::new(Pending { bells: Bells::new()?, state: Mutex::new(state) }))
    }

    pub(crate) fn finish(&self, outcome: Outcome) {
        let mut state = self.state.lock();
        let unwanted = if state.abandoned { Some(outcome) } else { state.outcome.replace(outcome) };
        drop(state);
        // A connection is closed so, and may have to lock much for it.
        drop(unwanted);
        fd::ring(self.bells.data.raw());
        fd::ring(self.bells.room.raw());
    }

    /// Whether this process is to run the handshake, now that it is time.
    pub(crate) fn is_due(&self) -> bool {
        let state = self.state.lock();
        !state.cancelled && state.claim.is_none_or(claim)
    }

    pub(crate) fn is_wanted(&self) -> bool {
        !self.state.lock().cancelled
    }

    /// Nobody takes the outcome. `cancel`: a handshake that has not begun never does; after this the claim is not touched.
    pub(crate) fn abandon(&self, cancel: bool) {
        let mut state = self.state.lock();
        state.abandoned = true;
        if cancel {
            state.cancelled = true;
            state.claim = None;
        }
        let outcome = state.outcome.take();
        drop(state);
        drop(outcome);
    }

    /// Readable when it is over.
    pub fn fd(&self) -> i32 {
        self.bells.data.raw()
    }

    /// The outcome, once.
    pub fn take(&self) -> Option<Outcome> {
        self.state.lock().outcome.take()
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
