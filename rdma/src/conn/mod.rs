//! One connection, from its handshake until both sides are through.
//!
//! The program's threads and the engine's thread work on it, under one lock. The program puts bytes into the send ring and takes bytes out
//! of the RMB; whoever has changed something calls [`Stream::pump`], which sends what is due: RDMA writes and a CDC behind them. The engine's
//! thread calls it too, when a CDC has come or one has gone. Neither ever waits while it holds the lock.
//!
//! A thread that is about to sleep says so ([`Conn::await_data`], [`Conn::await_room`], [`Conn::want`]) and gets a doorbell to sleep on, or is
//! told that it need not. Before that it may watch for what it waits for ([`Conn::attend`]).
//!
//! A forked child has a copy of a connection. To it each call says that the connection is lost (ECONNABORTED), before any lock: the thread that
//! held it may not be there.

mod stream;
mod wants;

use crate::buffers::Buffers;
use crate::engine::inbox::{Command, Inbox};
use crate::link::Link;
use parking_lot::Mutex;
use smc_core::remote::abi;
use smc_core::sys::fd::{self, OwnFd};
use smc_core::sys::{Errno, Result};
use smc_wire::cdc::Cdc;
use smc_wire::clc::Rmbe;
use smc_wire::conn::State as CloseState;
use std::sync::Arc;
use stream::Stream;
use wants::{Ends, Which};

pub use stream::Counters;

/// CDC messages that may come between ACCEPT and CONFIRM. They are kept; a peer that sends more is not in its right mind.
const MAX_EARLY: usize = 256;

/// What the program's threads sleep on, from the beginning of the handshake on.
pub struct Bells {
    /// Rung when there is something to read, and when the handshake is over.
    pub data: OwnFd,
    /// Rung when there is room to write, and when the handshake is over.
    pub room: OwnFd,
}

impl Bells {
    pub fn new() -> Result<Arc<Bells>> {
        Ok(Arc::new(Bells { data: fd::eventfd()?, room: fd::eventfd()? }))
    }
}

/// A connection. See the [module](self).
pub struct Conn {
    /// In this process.
    pub id: u64,
    link: Arc<Link>,
    inbox: Arc<Inbox>,
    bells: Arc<Bells>,
    state: Mutex<State>,
}

struct State {
    /// By which the peer's CDC messages name it.
    token: u32,
    /// Until nobody writes to them any more.
    buffers: Option<Buffers>,
    /// After the handshake.
    stream: Option<Stream>,
    /// CDC messages that came before that.
    early: Vec<Cdc>,
    /// It stands in line for a slot of the link.
    queued: bool,
    /// The program has closed it.
    closed: bool,
    ends: Ends,
}

/// poll's events of a connection that is lost.
const LOST: i16 = libc::POLLIN
    | libc::POLLRDNORM
    | libc::POLLOUT
    | libc::POLLWRNORM
    | libc::POLLWRBAND
    | libc::POLLRDHUP
    | libc::POLLERR
    | libc::POLLHUP;

/// What a connection looks like from outside.
#[derive(Clone, Debug)]
pub struct Info {
    pub token: u32,
    pub peer_token: u32,
    pub close_state: CloseState,
    pub device: String,
    pub port: u8,
    pub link: u64,
    pub counters: Counters,
}

impl Conn {
    /// A connection whose handshake is under way.
    pub fn new(
        id: u64,
        link: &Arc<Link>,
        inbox: &Arc<Inbox>,
        buffers: Buffers,
        bells: &Arc<Bells>,
    ) -> Arc<Conn> {
        Arc::new(Conn {
            id,
            link: Arc::clone(link),
            inbox: Arc::clone(inbox),
            bells: Arc::clone(bells),
            state: Mutex::new(State {
                token: 0,
                buffers: Some(buffers),
                stream: None,
                early: Vec::new(),
                queued: false,
                closed: false,
                ends: Ends::default(),
            }),
        })
    }

    /// The link it is on.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Its link group has given it a token.
    pub fn set_token(&self, token: u32) {
        self.state.lock().token = token;
    }

    /// As CLC messages name its RMBE.
    pub fn rmbe(&self) -> Option<Rmbe> {
        let state = self.state.lock();
        state.buffers.as_ref().map(|buffers| buffers.rmbe(state.token))
    }

    /// This side's token.
    pub fn token(&self) -> u32 {
        self.state.lock().token
    }

    // For the program.

    /// Whether the queue pair is this process's.
    fn is_own(&self) -> bool {
        self.inbox.process.is_this()
    }

    /// Reads what is there, 0 at the end of the stream. EAGAIN: nothing is there yet.
    pub fn receive(self: &Arc<Self>, into: &mut [u8]) -> Result<usize> {
        self.looking(|| self.with(Errno(libc::ENOTCONN), |stream, at| stream.receive(at, into)))
    }

    /// Takes as many of the bytes as there is room for, at least one. EAGAIN: there is none.
    pub fn send(self: &Arc<Self>, bytes: &[u8]) -> Result<usize> {
        self.looking(|| self.with(Errno(libc::ENOTCONN), |stream, at| stream.send(at, bytes)))
    }

    /// No more is sent. What has been goes out first.
    pub fn shutdown_write(self: &Arc<Self>) -> Result<()> {
        self.with(Errno(libc::ENOTCONN), |stream, at| {
            stream.shutdown_write(at);
            Ok(())
        })
    }

    /// The program has no more use for it. What has been sent goes out, in the background.
    pub fn close(self: &Arc<Self>) {
        if !self.is_own() {
            return;
        }
        self.state.lock().closed = true;
        let _ = self.with(Errno(0), |stream, at| {
            stream.close(at);
            Ok(())
        });
        self.inbox.send(Command::Closed(self.id));
    }

    /// The doorbell to sleep on until there is something to read, or an end or an error. `None`: there is already.
    pub fn await_data(self: &Arc<Self>) -> Option<i32> {
        (self.ask(libc::POLLIN.into(), Stream::ready)? == 0).then(|| self.bells.data.raw())
    }

    /// The doorbell to sleep on until there is room for bytes, or sending fails. `None`: it is so already.
    pub fn await_room(self: &Arc<Self>) -> Option<i32> {
        let ready = |stream: &Stream| if stream.is_writable() { libc::POLLOUT } else { 0 };
        (self.ask(libc::POLLOUT.into(), ready)? == 0).then(|| self.bells.room.raw())
    }

    /// Copies what is there behind the next `skip` bytes and leaves it there. EAGAIN: nothing is; ENOBUFS: nor can there be before
    /// something is received.
    pub fn peek(self: &Arc<Self>, into: &mut [u8], skip: usize) -> Result<usize> {
        self.looking(|| self.with(Errno(libc::ENOTCONN), |stream, at| stream.peek(at, into, skip)))
    }

    /// Takes up to `length` bytes away unseen; else as [`Conn::receive`].
    pub fn discard(self: &Arc<Self>, length: usize) -> Result<usize> {
        self.looking(|| self.with(Errno(libc::ENOTCONN), |stream, at| stream.discard(at, length)))
    }

    /// Bytes that the next send would take.
    pub fn room(&self) -> usize {
        if !self.is_own() {
            return 0;
        }
        self.state.lock().stream.as_ref().map_or(0, Stream::room)
    }

    /// What poll(2) would say, of all that it can say.
    pub fn ready(&self) -> i16 {
        if !self.is_own() {
            return LOST;
        }
        if self.link.is_unarmed() {
            self.link.attend();
        }
        self.ready_now()
    }

    fn ready_now(&self) -> i16 {
        self.state.lock().stream.as_ref().map_or(0, Stream::ready)
    }

    /// Takes what has come on the link, for a thread that waits; then as [`Conn::ready`].
    pub fn attend(&self) -> i16 {
        if !self.is_own() {
            return LOST;
        }
        self.link.attend();
        self.ready_now()
    }

    /// Asks for the doorbells for those of `events` (POLLIN, POLLOUT) that are not ready; returns those that are. [`abi::NEWS`] and
    /// [`abi::ENDS`] ask whatever is ready.
    pub fn want(&self, events: i32) -> i16 {
        self.ask(events, Stream::ready).unwrap_or(0)
    }

    /// [`Conn::want`], with `ready` to tell what is. `None`: before the end of the handshake.
    fn ask(&self, events: i32, ready: impl Fn(&Stream) -> i16) -> Option<i16> {
        let asked = events as i16 & (libc::POLLIN | libc::POLLOUT);
        if !self.is_own() {
            return Some(LOST & asked);
        }
        let mut state = self.state.lock();
        let stream = state.stream.as_mut()?;
        let ready = ready(stream) & asked;
        let waits = ready != asked || events & (abi::NEWS | abi::ENDS) != 0;
        let now = stream.now();
        let wants = &mut stream.wants;
        let mut more = 0;
        if events & abi::NEWS != 0 {
            more += wants.news(&now);
        }
        if events & abi::ENDS != 0 {
            more += wants.ends(&now);
        }
        if asked & !ready & libc::POLLIN != 0 {
            more += wants.data();
            fd::drain(self.bells.data.raw());
        }
        if asked & !ready & libc::POLLOUT != 0 {
            more += wants.room();
            fd::drain(self.bells.room.raw());
        }
        self.link.sleep(more);
        drop(state);
        if waits {
            // If what is waited for is found so, the doorbell rings.
            self.link.rely();
        }
        Some(ready)
    }

    /// A descriptor that is readable from the time on when POLLRDHUP is so, or POLLHUP if `events` has not got that: for who waits for
    /// nothing else. The engine's thread finds an end within [`link`](crate::link)'s millisecond, if others keep it from being woken.
    ///
    /// # Errors
    /// ENOTCONN: before the end of the handshake, or in a child. No more descriptors.
    pub fn end_bell(&self, events: i32) -> Result<i32> {
        if !self.is_own() {
            return Err(Errno(libc::ENOTCONN));
        }
        let mut state = self.state.lock();
        let State { stream: Some(stream), ends, .. } = &mut *state else {
            return Err(Errno(libc::ENOTCONN));
        };
        if events & i32::from(libc::POLLRDHUP) != 0 {
            ends.get(Which::Peer, stream.peer_has_ended())
        } else {
            ends.get(Which::Both, stream.has_hung_up())
        }
    }

    /// The error with which the connection has ended, if it has.
    pub fn error(&self) -> Option<Errno> {
        if !self.is_own() {
            return Some(Errno(libc::ECONNABORTED));
        }
        self.state.lock().stream.as_ref().and_then(Stream::error)
    }

    /// Bytes to be read, bytes that have not reached the peer, and a count that grows with each byte that comes and with each end.
    pub fn counts(&self) -> (u64, u64, u64) {
        if !self.is_own() {
            return (0, 0, 0);
        }
        self.state.lock().stream.as_ref().map_or((0, 0, 0), Stream::counts)
    }

    /// For tools and tests. `None`: before the end of the handshake.
    pub fn info(&self) -> Option<Info> {
        self.is_own().then_some(())?;
        let state = self.state.lock();
        let stream = state.stream.as_ref()?;
        Some(Info {
            token: state.token,
            peer_token: stream.peer.token,
            close_state: stream.close_state(),
            device: self.link.port.device.clone(),
            port: self.link.port.number,
            link: self.link.id,
            counters: stream.counters,
        })
    }

    // For the engine.

    /// The handshake is over; `peer` is its RMBE as it named it.
    pub fn establish(self: &Arc<Self>, peer: &Rmbe) {
        let mut state = self.state.lock();
        let Some(own) = state.buffers.as_ref().map(|buffers| buffers.rmbe(state.token)) else { return };
        let Some(stream) = Stream::new(peer, &own) else { return };
        state.stream = Some(stream);
        let early = std::mem::take(&mut state.early);
        drop(state);
        early.iter().for_each(|cdc| self.received(cdc));
    }

    /// A CDC for it has come.
    pub fn received(self: &Arc<Self>, cdc: &Cdc) {
        let mut state = self.state.lock();
        if state.stream.is_none() {
            if state.early.len() < MAX_EARLY {
                state.early.push(*cdc);
            }
            return;
        }
        drop(state);
        let _ = self.with(Errno(0), |stream, at| {
            stream.received(at, cdc);
            Ok(())
        });
    }

    /// A CDC of its own has gone, and before it the bytes of the stream up to `sent`.
    pub fn sent(self: &Arc<Self>, sent: u64) {
        let _ = self.with(Errno(0), |stream, at| {
            stream.sent(at, sent);
            Ok(())
        });
    }

    /// It has come to the front of the line for a slot.
    pub fn slot_is_free(self: &Arc<Self>) {
        self.state.lock().queued = false;
        let _ = self.with(Errno(0), |stream, at| {
            stream.pump(at);
            Ok(())
        });
    }

    /// This side gives it up.
    pub fn abort(self: &Arc<Self>) {
        let _ = self.with(Errno(0), |stream, at| {
            stream.abort(at);
            Ok(())
        });
    }

    /// Its link group has ended.
    pub fn link_lost(self: &Arc<Self>) {
        let _ = self.with(Errno(0), |stream, _| {
            stream.link_lost();
            Ok(())
        });
    }

    /// Whether the peer has said that it sends no more.
    pub fn peer_has_ended(&self) -> bool {
        self.state.lock().stream.as_ref().is_none_or(Stream::peer_has_ended)
    }

    /// Whether nothing it has to say is unsaid, after the program closed it.
    pub fn has_said_all(&self) -> bool {
        self.state.lock().stream.as_ref().is_none_or(Stream::has_said_all)
    }

    /// If both sides are through and the program has closed it: its buffers, to which nobody writes any more, and its token.
    pub fn finish(&self) -> Option<(u32, Option<Buffers>)> {
        let mut state = self.state.lock();
        let over = state.closed && state.stream.as_ref().is_some_and(Stream::is_over);
        if over {
            self.link.wake(state.stream.as_mut().map_or(0, |stream| stream.wants.clear()));
        }
        over.then(|| (state.token, state.buffers.take()))
    }

    /// Its buffers, when its handshake has failed.
    pub fn abandon(&self) -> Option<Buffers> {
        self.state.lock().buffers.take()
    }

    /// Does something that may find nothing; if nobody is woken by what comes, looks for it and tries again.
    fn looking<T>(self: &Arc<Self>, mut act: impl FnMut() -> Result<T>) -> Result<T> {
        match act() {
            Err(Errno(libc::EAGAIN)) if self.link.is_unarmed() => {
                self.link.attend();
                act()
            }
            other => other,
        }
    }

    /// Does something with the stream, and then rings the doorbells that are wanted.
    fn with<T>(
        self: &Arc<Self>,
        without: Errno,
        act: impl FnOnce(&mut Stream, &mut Place<'_>) -> Result<T>,
    ) -> Result<T> {
        if !self.is_own() {
            return Err(Errno(libc::ECONNABORTED));
        }
        let mut state = self.state.lock();
        let State { stream, buffers, queued, closed, ends, .. } = &mut *state;
        let (Some(stream), Some(buffers)) = (stream, buffers) else { return Err(without) };
        let result = act(stream, &mut Place { conn: self, buffers, queued });
        if !stream.wants.is_empty() {
            let rings = stream.wants.due(&stream.now());
            self.link.wake(rings.answered);
            if rings.data {
                fd::ring(self.bells.data.raw());
            }
            if rings.room {
                fd::ring(self.bells.room.raw());
            }
        }
        ends.ring(Which::Peer, stream.peer_has_ended());
        ends.ring(Which::Both, stream.has_hung_up());
        if *closed && stream.is_over() {
            self.inbox.send(Command::Over(self.id));
        }
        result
    }
}

/// What a stream needs to send.
pub(crate) struct Place<'a> {
    conn: &'a Arc<Conn>,
    buffers: &'a Buffers,
    queued: &'a mut bool,
}
