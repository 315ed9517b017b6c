//! One connection after its handshake: what CDC messages say and when they are due (RFC 7609 section 4).
//!
//! Each direction has a ring, the receiver's RMBE. The sender writes into its free part by RDMA, never across its end, and then
//! sends a CDC with the new producer cursor. The receiver reads, and now and then tells in a CDC of its own how far it is.
//!
//! A CDC has to be sent:
//! - after writes: [`Connection::wrote`] and then [`Connection::cdc`];
//! - after a read or a CDC received, if [`Connection::update_is_due`];
//! - when [`Connection::plan`] finds no room for what there is to send and the peer has not been told so
//!   ([`Connection::must_tell_blocked`]), else a kernel may read and not say so;
//! - when `shutdown_write`, `close` or `abort` says so.
//!
//! Positions are counted in bytes since the beginning, in 64 bits; on the wire they are [`Cursor`]s. The ring sizes are the ones
//! announced in ACCEPT and CONFIRM.

mod close;
#[cfg(test)]
mod closing;
mod cursor;
#[cfg(test)]
mod tests;
mod urgent;

use crate::cdc::{Cdc, ProducerFlags, StateFlags};
use crate::clc::Rmbe;
use cursor::Moved;
use urgent::{UrgentIn, UrgentOut};

pub use close::{Close, Ended, State};
pub use cursor::Cursor;

/// What less than this has been read, in bytes, is not worth a CDC of its own (Linux, with 4 KiB pages).
const UPDATE_MIN: u32 = 2304;

/// A contiguous part of a ring.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Span {
    /// From the beginning of the ring, in bytes.
    pub offset: u32,
    /// In bytes; may be 0.
    pub length: u32,
}

/// A part of a ring, in the order of the stream: the second is empty unless it goes across the end of the ring.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Spans(pub [Span; 2]);

impl Spans {
    fn new(position: u64, length: u32, size: u32) -> Spans {
        let offset = (position % u64::from(size)) as u32;
        let first = length.min(size - offset);
        Spans([Span { offset, length: first }, Span { offset: 0, length: length - first }])
    }

    /// The length of both, in bytes.
    pub fn length(&self) -> u32 {
        self.0[0].length + self.0[1].length
    }
}

/// How a peer broke the rules. The connection is aborted, and only it: a link carries others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Violation {
    /// The producer cursor lies outside of the ring, or beyond what was free.
    Producer,
    /// The consumer cursor lies outside of the ring, or beyond what was sent.
    Consumer,
    /// It has written after its final flag.
    AfterFinal,
    /// A failover has lost data.
    DataLost,
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Violation::Producer => "the peer's producer cursor is impossible",
            Violation::Consumer => "the peer's consumer cursor is impossible",
            Violation::AfterFinal => "the peer has sent data after it closed",
            Violation::DataLost => "data was lost between two links",
        })
    }
}

impl std::error::Error for Violation {}

/// What a CDC has brought.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Received {
    /// Bytes that arrived in the ring.
    pub bytes: u32,
    /// Bytes the peer has read.
    pub freed: u32,
    /// The last byte that arrived is urgent: SIGURG, POLLPRI.
    pub urgent: bool,
    /// Urgent data is on its way.
    pub urgent_pending: bool,
    /// State flags that were not set before.
    pub state: StateFlags,
}

/// One connection: cursors of both directions, urgent data, close state. Without pointers, so that it may lie in memory that
/// processes share.
///
/// Always: `acknowledged <= produced <= acknowledged + peer_size`, and
/// `announced <= consumed <= arrived <= announced + size`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The peer's token of this connection.
    token: u32,
    /// Of the peer's ring.
    peer_size: u32,
    /// Of the own ring.
    size: u32,
    produced: u64,
    /// The consumer cursor last received.
    acknowledged: u64,
    /// There was no room for all there was to send.
    blocked: bool,
    /// The last CDC said so.
    blocked_told: bool,
    arrived: u64,
    consumed: u64,
    /// The consumer cursor last sent.
    announced: u64,
    /// Of the last CDC sent; 0 before the first.
    sequence: u16,
    /// Of the last CDC received.
    peer_sequence: u16,
    /// Of the last CDC received.
    peer_flags: ProducerFlags,
    urgent_out: UrgentOut,
    urgent_in: UrgentIn,
    close: Close,
}

impl Connection {
    /// A new connection: `peer` as it stood in its ACCEPT or CONFIRM, and the own one as it stood in ours.
    pub fn new(peer: &Rmbe, own: &Rmbe) -> Connection {
        Connection {
            token: peer.token,
            peer_size: peer.size.bytes(),
            size: own.size.bytes(),
            produced: 0,
            acknowledged: 0,
            blocked: false,
            blocked_told: false,
            arrived: 0,
            consumed: 0,
            announced: 0,
            sequence: 0,
            peer_sequence: 0,
            peer_flags: ProducerFlags::default(),
            urgent_out: UrgentOut::default(),
            urgent_in: UrgentIn::default(),
            close: Close::default(),
        }
    }

    // Sending.

    /// How many bytes may be written into the peer's ring now. 0 after the final flag was sent, and while urgent data has to
    /// be read first.
    pub fn room(&self) -> u32 {
        if self.close.has_sent_final() || self.close.is_over() {
            return 0;
        }
        self.urgent_out.limit(self.produced, self.unacknowledged(), self.free())
    }

    /// Bytes in the peer's ring, as far as known.
    fn unacknowledged(&self) -> u32 {
        (self.produced - self.acknowledged) as u32
    }

    /// Free bytes in the peer's ring, as far as known.
    fn free(&self) -> u32 {
        self.peer_size - self.unacknowledged()
    }

    /// Where in the peer's ring to write the next bytes, if there are `wanted` of them: as many as there is room for.
    pub fn plan(&mut self, wanted: u64) -> Spans {
        let room = self.room();
        let waits = wanted > u64::from(room);
        // As in Linux: the ring will be full, and the peer should say when it is not.
        let fills = wanted > 0 && wanted >= u64::from(self.free());
        self.blocked = (waits || fills) && !self.close.has_sent_final();
        let length = wanted.min(u64::from(room)) as u32;
        Spans::new(self.produced, length, self.peer_size)
    }

    /// The first `bytes` of what was planned have been written.
    ///
    /// # Panics
    /// If that is more than there was room for: the caller has overwritten the peer's memory.
    pub fn wrote(&mut self, bytes: u32) {
        assert!(bytes <= self.room(), "wrote more than there is room for");
        self.produced += u64::from(bytes);
    }

    /// Whether there was no room, and the peer does not know it: then it may read and not say so.
    pub fn must_tell_blocked(&self) -> bool {
        self.blocked && !self.blocked_told
    }

    /// The last of the next `bytes` to be sent is urgent (MSG_OOB). Until the peer has read it, nothing behind it is sent.
    pub fn mark_urgent(&mut self, bytes: u64) {
        self.urgent_out.mark(self.produced + bytes);
    }

    /// The CDC to send now: all of the state. It counts as sent.
    pub fn cdc(&mut self) -> Cdc {
        self.sequence = self.sequence.wrapping_add(1);
        self.announced = self.consumed;
        self.blocked_told = self.blocked;
        self.urgent_in.told();
        Cdc {
            sequence: self.sequence,
            token: self.token,
            producer: Cursor::at(self.produced, self.peer_size),
            consumer: Cursor::at(self.consumed, self.size),
            producer_flags: ProducerFlags::WRITE_BLOCKED.when(self.blocked)
                | self.urgent_out.flags(self.produced),
            state_flags: self.close.sent(),
        }
    }

    // Receiving.

    /// A CDC for this connection has come. A second one with the same number changes nothing; an older one is ignored.
    pub fn receive(&mut self, cdc: &Cdc) -> Result<Received, Violation> {
        // Signed: the number wraps.
        let behind = self.peer_sequence.wrapping_sub(cdc.sequence) as i16;
        if cdc.producer_flags.has(ProducerFlags::FAILOVER_VALIDATION) {
            return if behind < 0 { Err(Violation::DataLost) } else { Ok(Received::default()) };
        }
        if behind > 0 {
            return Ok(Received::default());
        }
        let writable = self.size - (self.arrived - self.announced) as u32;
        let bytes = match cdc.producer.moved_from(self.arrived, writable, self.size) {
            Moved::Forward(bytes) => bytes,
            Moved::Back => 0,
            Moved::Impossible => return Err(Violation::Producer),
        };
        let freed = match cdc.consumer.moved_from(self.acknowledged, self.unacknowledged(), self.peer_size) {
            Moved::Forward(freed) => freed,
            Moved::Back => 0,
            Moved::Impossible => return Err(Violation::Consumer),
        };
        if bytes > 0 && self.close.may_receive() == Ok(false) {
            return Err(Violation::AfterFinal);
        }
        self.peer_sequence = cdc.sequence;
        self.arrived += u64::from(bytes);
        self.acknowledged += u64::from(freed);
        self.urgent_out.acknowledged(self.acknowledged == self.produced);
        let new_flags = ProducerFlags(cdc.producer_flags.0 & !self.peer_flags.0);
        self.peer_flags = cdc.producer_flags;
        let urgent = self.urgent_in.receive(cdc.producer_flags, self.arrived, self.consumed);
        Ok(Received {
            bytes,
            freed,
            urgent,
            urgent_pending: new_flags.has(ProducerFlags::URGENT_PENDING),
            state: self.close.receive(cdc.state_flags),
        })
    }

    /// How many bytes are in the ring, urgent ones included.
    pub fn unread(&self) -> u32 {
        (self.arrived - self.consumed) as u32
    }

    /// Where the next bytes are, `wanted` at most, and none beyond the urgent byte: a read stops before it, and the next one
    /// begins with it.
    pub fn readable(&self, wanted: u64) -> Spans {
        let length = u64::from(self.urgent_in.limit(self.consumed, self.unread())).min(wanted) as u32;
        Spans::new(self.consumed, length, self.size)
    }

    /// Whether the next byte to read is the urgent one (SIOCATMARK). If it is not to be read inline, the program gets it from
    /// [`Connection::urgent_offset`], and it is skipped with `consume(1)`.
    pub fn is_at_mark(&self) -> bool {
        self.urgent_in.mark() == Some(self.consumed)
    }

    /// Where in the ring the urgent byte is, while it has not been read or skipped.
    pub fn urgent_offset(&self) -> Option<u32> {
        self.urgent_in.mark().map(|mark| (mark % u64::from(self.size)) as u32)
    }

    /// The program has read `bytes`.
    ///
    /// # Panics
    /// If there were not as many.
    pub fn consume(&mut self, bytes: u32) {
        assert!(bytes <= self.unread(), "consumed more than has arrived");
        self.consumed += u64::from(bytes);
        self.urgent_in.consumed(self.consumed);
    }

    /// Whether what has been read since the last CDC calls for one of its own; asked after reads, and after a CDC has come, which may
    /// say that the sender waits. Linux's rules, and one more: a blocked sender hears
    /// when the ring is empty.
    pub fn update_is_due(&self) -> bool {
        let unannounced = (self.consumed - self.announced) as u32;
        // Nobody hears it any more, or nobody can be told.
        if unannounced == 0 || self.close.has_sent_final() || self.close.is_over() {
            return false;
        }
        let blocked = self.peer_flags.has(ProducerFlags::WRITE_BLOCKED);
        let free = self.size - (self.arrived - self.announced) as u32;
        self.peer_flags.has(ProducerFlags::UPDATE_REQUESTED)
            || self.urgent_in.must_tell()
            || unannounced > UPDATE_MIN.max(self.size / 10) && (blocked || free <= self.size / 2)
            || blocked && self.unread() == 0
    }

    // The end.

    /// The close state.
    pub fn close_state(&self) -> &Close {
        &self.close
    }

    /// The program has shut its sending down, and what it had sent is written. Whether a CDC has to be sent.
    pub fn shutdown_write(&mut self) -> bool {
        self.close.shutdown_write()
    }

    /// The program has closed the connection, and what it had sent is written or given up. Whether a CDC has to be sent: closed,
    /// or abort if data is unread.
    pub fn close(&mut self) -> bool {
        self.blocked = false;
        self.close.close(self.unread() > 0)
    }

    /// This side gives the connection up. Whether a CDC has to be sent.
    pub fn abort(&mut self) -> bool {
        self.blocked = false;
        self.close.abort()
    }

    /// The link group is gone.
    pub fn link_lost(&mut self) {
        self.close.link_lost();
    }
}
