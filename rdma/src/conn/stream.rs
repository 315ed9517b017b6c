//! The bytes of a connection, both ways.

use super::wants::{Now, Wants};
use super::Place;
use crate::verbs::{MemoryRegion, Piece, Write};
use smc_core::sys::{Errno, Result};
use smc_wire::cdc::{Cdc, StateFlags};
use smc_wire::clc::Rmbe;
use smc_wire::conn::{Connection, Ended, Span, State};

/// CDC messages of one connection that may be under way. What is sent meanwhile collects in the ring, so that small sends share a
/// write; and no connection takes all slots of the link.
const MAX_UNDER_WAY: u32 = 4;

/// Positions are counted in bytes since the beginning. Always:
/// `completed <= posted <= written <= completed + size of the send ring`.
pub(super) struct Stream {
    wire: Connection,
    /// The peer's RMBE, and where it begins.
    pub peer: Rmbe,
    peer_address: u64,
    /// By the program, into the send ring.
    written: u64,
    /// Given to the device.
    posted: u64,
    /// Written to the peer's memory: the send ring has room again.
    completed: u64,
    /// A CDC is due, whatever else.
    due: bool,
    under_way: u32,
    end: End,
    pub wants: Wants,
    /// Size of the send ring, in bytes.
    capacity: u64,
    pub counters: Counters,
}

/// What was counted on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Bytes the peer has written to the RMB.
    pub received: u64,
    /// Bytes written to the peer's.
    pub sent: u64,
    pub cdc_received: u64,
    pub cdc_sent: u64,
    /// RDMA writes.
    pub writes: u64,
    /// How often there was no room at the peer.
    pub blocked: u64,
}

/// What of the end the program has asked for. It is said to the peer when everything before it has been written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    None,
    ShutDown,
    ShutDownTold,
    Closed,
    ClosedTold,
}

fn errno(ended: Ended) -> Errno {
    Errno(match ended {
        Ended::Pipe => libc::EPIPE,
        Ended::Reset => libc::ECONNRESET,
        Ended::LinkLost => libc::ECONNABORTED,
    })
}

/// The part of a ring of that size that begins at `position`, in at most two pieces.
fn pieces(region: &MemoryRegion, position: u64, length: usize) -> [Option<Piece<'_>>; 2] {
    let size = region.len();
    let offset = (position % size as u64) as usize;
    let first = length.min(size - offset);
    let rest = length - first;
    [
        Some(Piece { region, offset, length: first }),
        (rest > 0).then_some(Piece { region, offset: 0, length: rest }),
    ]
}

impl Stream {
    /// `None`: the peer's RMBE has no address.
    pub fn new(peer: &Rmbe, own: &Rmbe) -> Option<Stream> {
        Some(Stream {
            wire: Connection::new(peer, own),
            peer: *peer,
            peer_address: peer.address()?,
            written: 0,
            posted: 0,
            completed: 0,
            due: false,
            under_way: 0,
            end: End::None,
            wants: Wants::default(),
            capacity: u64::from(own.size.bytes()),
            counters: Counters::default(),
        })
    }

    // For the program.

    pub fn receive(&mut self, at: &mut Place<'_>, into: &mut [u8]) -> Result<usize> {
        let more = self.wire.close_state().may_receive().map_err(errno)?;
        let mut copied = 0;
        for Span { offset, length } in self.wire.readable(into.len() as u64).0 {
            let length = length as usize;
            at.buffers.rmb.read(offset as usize, &mut into[copied..copied + length]);
            copied += length;
        }
        if copied > 0 {
            self.wire.consume(copied as u32);
            if self.wire.update_is_due() {
                self.pump(at);
            }
            return Ok(copied);
        }
        if more && !into.is_empty() {
            return Err(Errno(libc::EAGAIN));
        }
        Ok(0)
    }

    pub fn peek(&mut self, at: &mut Place<'_>, into: &mut [u8], skip: usize) -> Result<usize> {
        let more = self.wire.close_state().may_receive().map_err(errno)?;
        let (mut skip, mut copied) = (skip, 0);
        for Span { offset, length } in self.wire.readable((into.len() + skip) as u64).0 {
            let skipped = skip.min(length as usize);
            skip -= skipped;
            let length = length as usize - skipped;
            at.buffers.rmb.read(offset as usize + skipped, &mut into[copied..copied + length]);
            copied += length;
        }
        if copied == 0 && more && !into.is_empty() {
            let full = u64::from(self.wire.unread()) >= self.capacity;
            return Err(Errno(if full { libc::ENOBUFS } else { libc::EAGAIN }));
        }
        Ok(copied)
    }

    pub fn discard(&mut self, at: &mut Place<'_>, length: usize) -> Result<usize> {
        let more = self.wire.close_state().may_receive().map_err(errno)?;
        let there = self.wire.readable(length as u64).length();
        if there == 0 && more && length > 0 {
            return Err(Errno(libc::EAGAIN));
        }
        self.wire.consume(there);
        if self.wire.update_is_due() {
            self.pump(at);
        }
        Ok(there as usize)
    }

    pub fn send(&mut self, at: &mut Place<'_>, bytes: &[u8]) -> Result<usize> {
        self.may_send()?;
        let room = self.capacity - (self.written - self.completed);
        let length = (bytes.len() as u64).min(room) as usize;
        if length == 0 && !bytes.is_empty() {
            return Err(Errno(libc::EAGAIN));
        }
        let mut copied = 0;
        for piece in pieces(&at.buffers.send, self.written, length).into_iter().flatten() {
            piece.region.write(piece.offset, &bytes[copied..copied + piece.length]);
            copied += piece.length;
        }
        self.written += length as u64;
        self.pump(at);
        Ok(length)
    }

    pub fn shutdown_write(&mut self, at: &mut Place<'_>) {
        if self.end == End::None {
            self.end = End::ShutDown;
            self.pump(at);
        }
    }

    pub fn close(&mut self, at: &mut Place<'_>) {
        if !matches!(self.end, End::Closed | End::ClosedTold) {
            self.end = End::Closed;
            self.pump(at);
        }
    }

    fn may_send(&self) -> Result<()> {
        self.wire.close_state().may_send().map_err(errno)?;
        if self.end == End::None {
            Ok(())
        } else {
            Err(Errno(libc::EPIPE))
        }
    }

    pub fn is_readable(&self) -> bool {
        self.wire.unread() > 0 || self.wire.close_state().may_receive() != Ok(true)
    }

    pub fn is_writable(&self) -> bool {
        self.may_send().is_err() || self.written - self.completed < self.capacity
    }

    /// Enough to wake somebody for it.
    pub fn has_much_room(&self) -> bool {
        self.may_send().is_err() || self.written - self.completed <= self.capacity / 2
    }

    pub fn room(&self) -> usize {
        (self.capacity - (self.written - self.completed)) as usize
    }

    /// See [`super::Conn::ready`].
    pub fn ready(&self) -> i16 {
        let lost = self.error().is_some();
        let ended = self.peer_has_ended();
        let mut ready = 0;
        for (events, is_so) in [
            (libc::POLLIN | libc::POLLRDNORM, self.is_readable()),
            (libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND, self.has_much_room()),
            (libc::POLLRDHUP, ended),
            (libc::POLLERR, lost),
            (libc::POLLHUP, self.has_hung_up()),
        ] {
            if is_so {
                ready |= events;
            }
        }
        ready
    }

    /// See [`super::Conn::error`].
    pub fn error(&self) -> Option<Errno> {
        self.wire.close_state().may_receive().err().map(errno)
    }

    /// See [`super::Conn::counts`].
    pub fn counts(&self) -> (u64, u64, u64) {
        (u64::from(self.wire.unread()), self.written - self.completed, self.counters.received + self.ends())
    }

    fn ends(&self) -> u64 {
        let ends = [self.peer_has_ended(), self.has_hung_up(), self.error().is_some()];
        ends.map(u64::from).iter().sum()
    }

    /// Neither side sends any more, or the connection is lost.
    pub fn has_hung_up(&self) -> bool {
        self.error().is_some() || self.peer_has_ended() && self.end != End::None
    }

    pub fn now(&self) -> Now {
        Now {
            readable: self.is_readable(),
            much_room: self.has_much_room(),
            news: self.counters.received + self.ends(),
            ends: self.ends(),
        }
    }

    pub fn close_state(&self) -> State {
        self.wire.close_state().state()
    }

    // For the engine.

    pub fn received(&mut self, at: &mut Place<'_>, cdc: &Cdc) {
        if self.wire.close_state().may_receive() == Err(Ended::LinkLost) {
            // Another thread has been slower than the link's end.
            return;
        }
        self.counters.cdc_received += 1;
        match self.wire.receive(cdc) {
            Ok(received) => {
                self.counters.received += u64::from(received.bytes);
                self.pump(at);
            }
            Err(violation) => {
                log::info!("connection {}: {violation}; it is aborted", at.conn.id);
                self.abort(at);
            }
        }
    }

    pub fn sent(&mut self, at: &mut Place<'_>, sent: u64) {
        self.under_way = self.under_way.saturating_sub(1);
        self.completed = self.completed.max(sent);
        self.pump(at);
    }

    pub fn abort(&mut self, at: &mut Place<'_>) {
        self.due |= self.wire.abort();
        self.give_up_unsent();
        self.pump(at);
    }

    pub fn link_lost(&mut self) {
        self.wire.link_lost();
        // Nothing completes any more.
        self.under_way = 0;
        self.due = false;
        self.completed = self.posted;
        self.give_up_unsent();
    }

    pub fn peer_has_ended(&self) -> bool {
        self.wire.close_state().may_receive() != Ok(true)
    }

    pub fn has_said_all(&self) -> bool {
        let close = self.wire.close_state();
        close.is_over() || close.has_sent_final() && !self.due && self.under_way == 0
    }

    /// Nobody writes to either ring any more.
    pub fn is_over(&self) -> bool {
        self.wire.close_state().is_over() && !self.due && self.under_way == 0
    }

    fn give_up_unsent(&mut self) {
        self.written = self.posted;
    }

    /// Tells the wire what the program has asked for, when everything before it is written or cannot be any more.
    fn advance_end(&mut self) {
        if self.wire.close_state().may_send().is_err() {
            self.give_up_unsent();
        }
        if self.written != self.posted {
            return;
        }
        match self.end {
            End::ShutDown => {
                self.due |= self.wire.shutdown_write();
                self.end = End::ShutDownTold;
            }
            End::Closed => {
                self.due |= self.wire.close();
                self.end = End::ClosedTold;
            }
            End::None | End::ShutDownTold | End::ClosedTold => {}
        }
    }

    /// Sends what is due, as far as slots and the peer's ring allow.
    pub fn pump(&mut self, at: &mut Place<'_>) {
        loop {
            self.advance_end();
            let unsent = self.written - self.posted;
            let spans = self.wire.plan(unsent);
            let length = spans.length();
            let blocked = self.wire.must_tell_blocked();
            if !(length > 0 || self.due || blocked || self.wire.update_is_due()) {
                return;
            }
            if self.under_way >= MAX_UNDER_WAY {
                return;
            }
            let Some(slot) = at.conn.link.reserve(at.conn, at.queued) else { return };
            let mut writes = [const { None }; 2];
            let mut position = self.posted;
            for (write, span) in writes.iter_mut().zip(spans.0.iter().filter(|span| span.length > 0)) {
                *write = Some(Write {
                    pieces: pieces(&at.buffers.send, position, span.length as usize),
                    address: self.peer_address + u64::from(span.offset),
                    rkey: self.peer.rmb.rkey,
                });
                position += u64::from(span.length);
            }
            self.wire.wrote(length);
            self.posted = position;
            // The end may go with the last bytes.
            self.advance_end();
            let cdc = self.wire.cdc();
            self.due = false;
            self.under_way += 1;
            self.counters.cdc_sent += 1;
            self.counters.sent += u64::from(length);
            self.counters.blocked += u64::from(blocked);
            let writes: Vec<Write<'_>> = writes.into_iter().flatten().collect();
            self.counters.writes += writes.len() as u64;
            at.conn.link.send_cdc(slot, at.conn, self.posted, &writes, &cdc.encode());
            if cdc.state_flags.has(StateFlags::FINAL) {
                return;
            }
        }
    }
}
