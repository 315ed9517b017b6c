//! How a connection ends: the close states of Linux (RFC 7609 section 4.8; the names and numbers are those of smc_diag).
//!
//! Three flags of CDC messages matter, and once sent they are in every later one:
//!
//! - *sending done*: shutdown for writing. The peer sees the end of the stream behind the producer cursor.
//! - *closed*: closed, with all received data read. The peer sees the same, and its sends fail.
//! - *abort*: closed with data unread, or something went wrong. The peer gets ECONNRESET at once.
//!
//! Each side must at last send closed or abort: a kernel peer keeps its socket and its RMB until that comes, however long.
//! When both have been sent and received nobody writes into the RMBs any more, and they may be used again.
//!
//! | state | shutdown | close | receives done | receives closed | receives abort |
//! |---|---|---|---|---|---|
//! | Active | done; PeerCloseWait1 | final; PeerCloseWait1 | AppCloseWait1 | AppCloseWait1 | ProcessAbort |
//! | AppCloseWait1 | done; AppCloseWait2 | final; Closed if the peer has closed, else PeerFinCloseWait | - | stays | ProcessAbort |
//! | AppCloseWait2 | - | as AppCloseWait1 | - | stays | Closed |
//! | PeerCloseWait1 | - | final, if not yet; stays | PeerCloseWait2 | Closed, or AppFinCloseWait if only done was sent | Closed, or ProcessAbort if only done was sent |
//! | PeerCloseWait2 | - | as PeerCloseWait1 | - | as PeerCloseWait1 | as PeerCloseWait1 |
//! | PeerFinCloseWait | - | - | - | Closed | Closed |
//! | AppFinCloseWait | - | final, if not yet; Closed | - | - | ProcessAbort |
//! | ProcessAbort | - | abort; Closed | - | - | - |
//! | PeerAbortWait | - | - | - | Closed | Closed |
//!
//! "Final" is closed, or abort if data is unread.

use crate::cdc::StateFlags;

/// The state of a connection, with the number that the kernel's tools know it by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    Active = 1,
    /// Both sides are through.
    Closed = 7,
    /// This side has sent done or its final flag.
    PeerCloseWait1 = 20,
    /// And the peer has sent done.
    PeerCloseWait2 = 21,
    /// The peer has sent done or closed.
    AppCloseWait1 = 22,
    /// And this side has sent done.
    AppCloseWait2 = 23,
    /// The peer has closed; this side has sent done and still has to close.
    AppFinCloseWait = 24,
    /// The peer was the first to be done, this side has closed, the peer still has to.
    PeerFinCloseWait = 25,
    /// This side gave up; the peer has not acknowledged it.
    PeerAbortWait = 26,
    /// The peer has aborted; the program has not closed yet.
    ProcessAbort = 27,
}

/// Why nothing can be sent, or received.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ended {
    /// This side has shut its sending down, or the connection was aborted: EPIPE.
    Pipe,
    /// The peer does not read any more: ECONNRESET.
    Reset,
    /// The link group is gone: ECONNABORTED.
    LinkLost,
}

/// The closing of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Close {
    state: State,
    /// What goes into every CDC.
    sent: StateFlags,
    /// What the peer has sent, ever.
    received: StateFlags,
    link_lost: bool,
}

impl Default for Close {
    fn default() -> Close {
        Close {
            state: State::Active,
            sent: StateFlags::default(),
            received: StateFlags::default(),
            link_lost: false,
        }
    }
}

impl Close {
    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// The flags for every CDC.
    pub fn sent(&self) -> StateFlags {
        self.sent
    }

    /// Whether this side has sent its final flag: nothing may be written to the peer any more.
    pub fn has_sent_final(&self) -> bool {
        self.sent.has(StateFlags::FINAL)
    }

    /// Whether nobody will write into either RMB any more.
    pub fn is_over(&self) -> bool {
        self.link_lost || self.has_sent_final() && self.received.has(StateFlags::FINAL)
    }

    /// Whether bytes that the program has handed over should be waited for before `shutdown_write` or `close`.
    pub fn must_drain(&self) -> bool {
        self.may_send().is_ok()
    }

    /// Whether the program may send.
    pub fn may_send(&self) -> Result<(), Ended> {
        if self.link_lost {
            Err(Ended::LinkLost)
        } else if self.received.has(StateFlags::ABORT) || self.sent != StateFlags::default() {
            Err(Ended::Pipe)
        } else if self.received.has(StateFlags::CLOSED) {
            Err(Ended::Reset)
        } else {
            Ok(())
        }
    }

    /// Whether more bytes may come than are in the ring: `Ok(false)` is the end of the stream. An error comes at once, whatever is in
    /// the ring.
    pub fn may_receive(&self) -> Result<bool, Ended> {
        if self.link_lost {
            Err(Ended::LinkLost)
        } else if self.received.has(StateFlags::ABORT) || self.sent.has(StateFlags::ABORT) {
            Err(Ended::Reset)
        } else {
            Ok(!self.received.has(StateFlags::SENDING_DONE | StateFlags::CLOSED))
        }
    }

    /// The program has shut its sending down. Whether a CDC has to be sent for it.
    pub fn shutdown_write(&mut self) -> bool {
        self.state = match self.state {
            State::Active => State::PeerCloseWait1,
            State::AppCloseWait1 => State::AppCloseWait2,
            _ => return false,
        };
        self.sent = self.sent | StateFlags::SENDING_DONE;
        true
    }

    /// The program has closed the connection, with data `unread` or not. Whether a CDC has to be sent for it.
    pub fn close(&mut self, unread: bool) -> bool {
        let flag = if unread { StateFlags::ABORT } else { StateFlags::CLOSED };
        let peer_is_through = self.received.has(StateFlags::FINAL);
        let (next, flag) = match self.state {
            State::Active => (State::PeerCloseWait1, flag),
            State::AppCloseWait1 | State::AppCloseWait2 if peer_is_through => (State::Closed, flag),
            State::AppCloseWait1 | State::AppCloseWait2 => (State::PeerFinCloseWait, flag),
            State::PeerCloseWait1 | State::PeerCloseWait2 => (self.state, flag),
            State::AppFinCloseWait => (State::Closed, flag),
            // The peer aborted before this side had sent its final flag: it waits for one.
            State::ProcessAbort | State::Closed => (State::Closed, StateFlags::ABORT),
            State::PeerFinCloseWait | State::PeerAbortWait => return false,
        };
        self.state = next;
        self.send_final(flag)
    }

    /// This side gives the connection up: the peer broke the rules, or the process ends. Whether a CDC has to be sent for it.
    pub fn abort(&mut self) -> bool {
        if self.is_over() {
            return false;
        }
        self.state = if self.received.has(StateFlags::FINAL) { State::Closed } else { State::PeerAbortWait };
        self.send_final(StateFlags::ABORT)
    }

    /// The link group is gone.
    pub fn link_lost(&mut self) {
        self.link_lost |= !self.is_over();
        self.state = State::Closed;
    }

    fn send_final(&mut self, flag: StateFlags) -> bool {
        let due = !self.has_sent_final() && !self.link_lost;
        if due {
            self.sent = self.sent | flag;
        }
        due
    }

    /// The state flags of a CDC have come. Returns those that are new.
    pub fn receive(&mut self, flags: StateFlags) -> StateFlags {
        let new = StateFlags(flags.0 & !self.received.0);
        self.received = self.received | flags;
        if new.has(StateFlags::ABORT) {
            self.received_abort();
        } else if new.has(StateFlags::CLOSED) {
            self.received_closed();
        } else if new.has(StateFlags::SENDING_DONE) {
            self.received_done();
        }
        new
    }

    fn received_done(&mut self) {
        self.state = match self.state {
            State::Active => State::AppCloseWait1,
            State::PeerCloseWait1 => State::PeerCloseWait2,
            other => other,
        }
    }

    fn received_closed(&mut self) {
        self.state = match self.state {
            State::Active => State::AppCloseWait1,
            State::PeerCloseWait1 | State::PeerCloseWait2 if self.has_sent_final() => State::Closed,
            State::PeerCloseWait1 | State::PeerCloseWait2 => State::AppFinCloseWait,
            State::PeerFinCloseWait | State::PeerAbortWait => State::Closed,
            other => other,
        }
    }

    fn received_abort(&mut self) {
        self.state = match self.state {
            State::Active | State::AppCloseWait1 | State::AppFinCloseWait => State::ProcessAbort,
            State::AppCloseWait2 => State::Closed,
            State::PeerCloseWait1 | State::PeerCloseWait2 if self.has_sent_final() => State::Closed,
            State::PeerCloseWait1 | State::PeerCloseWait2 => State::ProcessAbort,
            State::PeerFinCloseWait | State::PeerAbortWait => State::Closed,
            other => other,
        }
    }
}
