//! Listening sockets whose SYN-ACKs promise SMC: a peer that has got one gives up after six seconds without an answer, whether or not the
//! program accepts (Linux's CLC_WAIT_TIME).
//!
//! As long as the program is prompt, it alone accepts. A connection that has waited for [`PROMPT`], with no accept in between, is taken by
//! the engine: its handshake begins, and it stands in a queue for the program's next accept.

use super::pending::Pending;
use parking_lot::Mutex;
use smc_core::sys;
use smc_core::sys::fd::{self, OwnFd};
use smc_core::sys::{Errno, Result};
use smc_wire::Time;
use std::collections::VecDeque;
use std::sync::Arc;

/// How long a program may leave a connection alone.
pub const PROMPT: Time = Time::from_secs(1);
/// As many are taken for one listener at most.
const MAX_TAKEN: usize = 128;

/// A connection that waits for the program's next accept.
pub struct Taken {
    pub socket: OwnFd,
    /// Its handshake, if the peer asked for SMC.
    pub pending: Option<Arc<Pending>>,
}

/// A listening socket.
pub struct Listener {
    pub number: u64,
    /// Readable while there are connections in the queue.
    pub bell: OwnFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Accepts so far, and those that are under way.
    accepts: u64,
    inside: u32,
    /// The program may be accepting where nobody sees it.
    paused: bool,
    /// `None`: the program has closed its own, and may be about to bind another socket to the address.
    socket: Option<OwnFd>,
    queue: VecDeque<Taken>,
}

impl Listener {
    pub fn new(number: u64, fd: i32) -> Result<Arc<Listener>> {
        let (socket, bell) = (OwnFd::duplicate(fd)?, fd::eventfd()?);
        let state = State { socket: Some(socket), ..State::default() };
        Ok(Arc::new(Listener { number, bell, state: Mutex::new(state) }))
    }

    /// The program is about to accept. `None`: from the kernel's queue, and [`Listener::accept_ends`] follows.
    pub fn accept_begins(&self) -> Option<Taken> {
        let mut state = self.state.lock();
        state.accepts += 1;
        state.paused = false;
        let taken = state.queue.pop_front();
        if taken.is_none() {
            state.inside += 1;
        }
        if state.queue.is_empty() {
            fd::drain(self.bell.raw());
        }
        taken
    }

    pub fn accept_ends(&self) {
        let mut state = self.state.lock();
        state.inside = state.inside.saturating_sub(1);
    }

    /// See [`State::paused`].
    pub fn watch(&self, on: bool) {
        self.state.lock().paused = !on;
    }

    /// Closes the socket, takes no more, and gives back what was taken.
    pub fn close(&self) -> Vec<Taken> {
        let mut state = self.state.lock();
        state.socket = None;
        state.queue.drain(..).collect()
    }

    /// Does something with the socket, unless it is closed.
    pub fn with_socket(&self, act: impl FnOnce(i32)) {
        if let Some(socket) = &self.state.lock().socket {
            act(socket.raw());
        }
    }

    /// For a comparison later.
    pub fn accepts(&self) -> u64 {
        self.state.lock().accepts
    }

    /// Takes what waits, if nobody has accepted since there were `accepts`. `begin` makes something of each socket. The lock is held
    /// meanwhile: an accept of the program comes before it or after it.
    pub fn take(&self, accepts: u64, mut begin: impl FnMut(OwnFd) -> Option<Taken>) {
        let mut state = self.state.lock();
        let Some(fd) = state.socket.as_ref().map(OwnFd::raw) else { return };
        if state.accepts != accepts || state.inside > 0 || state.paused {
            return;
        }
        while state.queue.len() < MAX_TAKEN && fd::may_open(4) {
            let Ok(socket) = accept(fd) else { return };
            if let Some(taken) = begin(socket) {
                state.queue.push_back(taken);
                fd::ring(self.bell.raw());
            }
        }
    }
}

/// accept(2) that does not wait, whatever the program has made of the socket. For an instant the socket is non-blocking; an accept of
/// another process that fails for it is repeated there.
fn accept(fd: i32) -> Result<OwnFd> {
    let blocks = !fd::nonblocking(fd)?;
    // SAFETY: integer arguments only, here and below.
    let flags = unsafe { sys!(SYS_fcntl, fd, libc::F_GETFL) }? as i32;
    if blocks {
        // SAFETY: as above.
        unsafe { sys!(SYS_fcntl, fd, libc::F_SETFL, flags | libc::O_NONBLOCK) }?;
    }
    let accepted = loop {
        // SAFETY: no address is asked for.
        match unsafe { sys!(SYS_accept4, fd, 0, 0, libc::SOCK_CLOEXEC) } {
            Err(Errno(libc::EINTR | libc::ECONNABORTED)) => {}
            accepted => break accepted,
        }
    };
    if blocks {
        // SAFETY: as above.
        let _ = unsafe { sys!(SYS_fcntl, fd, libc::F_SETFL, flags) };
    }
    OwnFd::adopt(accepted? as i32)
}
