//! The ring of one direction: a single-producer, single-consumer byte queue in memory that both ends map, with the
//! protocol by which a side about to sleep is woken exactly when it must be.
//!
//! # Cursors
//! `tail` counts the bytes ever produced, `head` the bytes ever consumed; the byte of cursor `c` lies at
//! `(c - base) % size` of a buffer, where `size` is a power of two. A producer that finds the ring empty may set `base` to its cursor,
//! so that a connection with little under way uses the first bytes of a buffer only: they stay in the cache, and the
//! rest costs no memory. It may also go on in another buffer: those of idle connections are lent to busy ones
//! ([`crate::link`]). Each side keeps its own cursor in memory the peer cannot reach
//! ([`crate::shared`]) and publishes a copy here. What the other side published is checked on every use:
//! `tail - head <= size`, else the peer is broken ([`Broken`]).
//!
//! # Arming
//! A consumer about to sleep sets `data_wanted`, issues a full fence, and looks at `tail` once more. A producer stores
//! `tail`, issues a full fence, and looks at `data_wanted`. Whichever fence comes first, one of the two sees the
//! other's store: the consumer finds the data, or the producer rings the doorbell. The mark is taken with a swap, so
//! one sleep costs one doorbell. `space_wanted` is the same with the roles exchanged.
//!
//! # Switching
//! The stream of a direction is a sequence of segments, alternately on TCP and in the ring. `epoch` counts the
//! switches that the producer announced: odd epochs are in the ring. `position[e % 4]` is where epoch `e` begins,
//! counted in the medium of epoch `e - 1` (TCP bytes ever written, or `tail`). The consumer tells in `reached` which
//! epoch it reads. The producer stays at most [`MAX_LEAD`] ahead, so no position is overwritten before its use.

pub mod layout;
#[cfg(test)]
mod tests;

use crate::sync::{fence, AtomicU32, AtomicU64, Ordering};
use layout::EndWords;

/// Epochs that a producer may be ahead of what the consumer has reached.
pub const MAX_LEAD: u32 = 3;

/// The other side published a value that no correct peer publishes.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Broken;

/// Written by the producer.
#[repr(C, align(64))]
#[derive(Default)]
pub struct ProducerLine {
    tail: AtomicU64,
    epoch: AtomicU32,
    /// The CPU that the producer last ran on, plus one; 0 is unknown.
    cpu: AtomicU32,
    space_wanted: AtomicU32,
    /// Until when bytes beyond `tail` are held back: CLOCK_MONOTONIC in milliseconds, wrapping; 0: there are none.
    held_until: AtomicU32,
    position: [AtomicU64; 4],
    /// See [`Place`].
    place: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<ProducerLine>() == 64);

/// Written by the consumer for each read.
#[repr(C, align(64))]
#[derive(Default)]
pub struct ConsumerLine {
    head: AtomicU64,
    reached: AtomicU32,
    /// The CPU that the consumer last ran on, plus one; 0 is unknown.
    cpu: AtomicU32,
}

/// What is hardly ever written while the ring is busy, and so stays in both caches.
#[repr(C, align(64))]
#[derive(Default)]
pub struct QuietLine {
    /// Written by the consumer when it goes to sleep.
    data_wanted: AtomicU32,
    /// A read from TCP is under way whose limit may be older than the producer's latest announcement.
    tcp_read: AtomicU32,
    /// What `tail` will be when the bytes that the producer holds back are let go.
    held: AtomicU64,
    /// What the consuming end says of itself.
    pub end: EndWords,
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<QuietLine>() == 64);

/// The control words of one direction; see the module.
#[repr(C)]
#[derive(Default)]
pub struct Direction {
    producer: ProducerLine,
    consumer: ConsumerLine,
    pub quiet: QuietLine,
}

impl Direction {
    // --- producer ---

    /// Bytes that may be produced at `tail`, given the consumer's published head.
    #[inline]
    pub fn space(&self, tail: u64, size: u64) -> Result<u64, Broken> {
        let used = tail.wrapping_sub(self.consumer.head.load(Ordering::Acquire));
        size.checked_sub(used).ok_or(Broken)
    }

    /// Makes the bytes before `tail` visible. True: the consumer sleeps and its doorbell must be rung.
    #[inline]
    #[must_use]
    pub fn publish_tail(&self, tail: u64) -> bool {
        self.producer.tail.store(tail, Ordering::Release);
        fence(Ordering::SeqCst);
        take(&self.quiet.data_wanted)
    }

    /// The byte of cursor `tail` is the first one of `buffer` from now on. Only when the consumer's head is `tail`: until it
    /// has published that, it may still be taking bytes where they were. Seen by the consumer with the next
    /// [`Direction::publish_tail`].
    pub fn set_place(&self, buffer: u32, tail: u64) {
        self.producer.place.store(u64::from(buffer) << 32 | tail & 0xffff_ffff, Ordering::Relaxed);
    }

    /// Holds the bytes between the published tail and `tail` back until `until` (milliseconds, not 0), when the consumer may
    /// take them itself. True as for [`Direction::publish_tail`]: a consumer that sleeps must hear of the time.
    #[must_use]
    pub fn hold(&self, tail: u64, until: u32) -> bool {
        self.quiet.held.store(tail, Ordering::Release);
        self.producer.held_until.store(until, Ordering::Release);
        fence(Ordering::SeqCst);
        take(&self.quiet.data_wanted)
    }

    /// More bytes join those held back.
    pub fn hold_more(&self, tail: u64) {
        self.quiet.held.store(tail, Ordering::Release);
    }

    /// Nothing is held back any more. Before [`Direction::publish_tail`].
    pub fn end_hold(&self) {
        self.producer.held_until.store(0, Ordering::Relaxed);
    }

    /// Asks for a doorbell when there is space; the caller must issue [`asked`] and look at [`Direction::space`] once
    /// more before it sleeps.
    pub fn want_space(&self) {
        self.producer.space_wanted.store(1, Ordering::Relaxed);
    }

    /// Announces that epoch `epoch` begins at `position` of the medium before it. True as for
    /// [`Direction::publish_tail`].
    #[must_use]
    pub fn announce(&self, epoch: u32, position: u64) -> bool {
        self.producer.position[(epoch % 4) as usize].store(position, Ordering::Relaxed);
        self.producer.epoch.store(epoch, Ordering::Release);
        fence(Ordering::SeqCst);
        take(&self.quiet.data_wanted)
    }

    /// How many epochs the consumer is behind `announced`.
    pub fn lag(&self, announced: u32) -> Result<u32, Broken> {
        let lag = announced.wrapping_sub(self.consumer.reached.load(Ordering::Acquire));
        if lag > MAX_LEAD {
            return Err(Broken);
        }
        Ok(lag)
    }

    /// Whether a read from TCP is under way that may not know of what was announced last. As long as one is, bytes that
    /// the producer sends over TCP after a return could be taken by it for those before the ring's.
    pub fn tcp_read_under_way(&self) -> bool {
        // The fence of the announcement precedes this load.
        self.quiet.tcp_read.load(Ordering::Acquire) != 0
    }

    /// Whether the consumer has taken all that was published, as far as the shared words say.
    pub fn is_drained(&self) -> bool {
        self.consumer.head.load(Ordering::Acquire) == self.producer.tail.load(Ordering::Relaxed)
    }

    /// The consumer's published head, checked against `tail`.
    pub fn consumer_head(&self, tail: u64, size: u64) -> Result<u64, Broken> {
        self.space(tail, size).map(|space| tail.wrapping_sub(size - space))
    }

    /// Tells where the producer runs (see [`Direction::producer_cpu`]).
    #[inline]
    pub fn set_producer_cpu(&self, cpu: u32) {
        if self.producer.cpu.load(Ordering::Relaxed) != cpu + 1 {
            self.producer.cpu.store(cpu + 1, Ordering::Relaxed);
        }
    }

    /// The CPU the consumer last ran on.
    #[inline]
    pub fn consumer_cpu(&self) -> Option<u32> {
        self.consumer.cpu.load(Ordering::Relaxed).checked_sub(1)
    }

    // --- consumer ---

    /// What the producer has published beyond `head` and `epoch`, as one consistent view: the bytes are of epoch
    /// `epoch` as long as `next` is `None`; otherwise they are of that epoch up to `next` only.
    #[inline]
    pub fn view(&self, head: u64, epoch: u32, size: u64) -> Result<View, Broken> {
        // In this order: bytes of a later epoch are published after that epoch was announced, so whoever sees the
        // bytes sees the announcement.
        let tail = self.producer.tail.load(Ordering::Acquire);
        let announced = self.producer.epoch.load(Ordering::Acquire);
        let bytes = tail.wrapping_sub(head);
        if bytes > size {
            return Err(Broken);
        }
        let lead = announced.wrapping_sub(epoch);
        if lead > MAX_LEAD {
            return Err(Broken);
        }
        let next = (lead > 0)
            .then(|| self.producer.position[(epoch.wrapping_add(1) % 4) as usize].load(Ordering::Relaxed));
        Ok(View { bytes, next })
    }

    /// Where the bytes lie: for a consumer, all that [`Direction::view`] has shown and that are not given back yet. The peer
    /// may have put any value here; the number of the buffer is yet to be checked.
    #[inline]
    pub fn place(&self) -> Place {
        let word = self.producer.place.load(Ordering::Relaxed);
        Place { buffer: (word >> 32) as u32, base: word as u32 }
    }

    /// Gives the bytes before `head` back. `enough`: there is now so much space that a waiting producer should
    /// hear of it. True: it waits, and its doorbell must be rung.
    #[inline]
    #[must_use]
    pub fn publish_head(&self, head: u64, enough: bool) -> bool {
        self.consumer.head.store(head, Ordering::Release);
        fence(Ordering::SeqCst);
        enough && take(&self.producer.space_wanted)
    }

    /// Before a read from TCP, and before the look at [`Direction::view`] that tells its limit: until
    /// [`Direction::end_tcp_read`], a producer whose announcement that look missed does not return to TCP.
    pub fn begin_tcp_read(&self) {
        self.quiet.tcp_read.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub fn end_tcp_read(&self) {
        self.quiet.tcp_read.store(0, Ordering::Release);
    }

    /// Tells that the consumer reads epoch `epoch` from now on.
    pub fn reach(&self, epoch: u32) {
        self.consumer.reached.store(epoch, Ordering::Release);
    }

    /// Until when the producer holds bytes back; 0: it holds back none.
    #[inline]
    pub fn held_until(&self) -> u32 {
        self.producer.held_until.load(Ordering::Acquire)
    }

    /// Publishes in the producer's place what it holds back. False: there is nothing. The producer's own publication, if it
    /// comes at the same time, prevails, as it covers these bytes.
    pub fn take_held(&self, size: u64) -> bool {
        let tail = self.producer.tail.load(Ordering::Acquire);
        let held = self.quiet.held.load(Ordering::Acquire);
        let more = held.wrapping_sub(tail);
        more > 0
            && more <= size
            && self.producer.tail.compare_exchange(tail, held, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Asks for a doorbell at the next [`Direction::publish_tail`] or [`Direction::announce`]; the caller must issue
    /// [`asked`] and look at [`Direction::view`] once more before it sleeps.
    pub fn want_data(&self) {
        self.quiet.data_wanted.store(1, Ordering::Relaxed);
    }

    /// The consumer is awake and needs no doorbell. Returns whether it had asked for one.
    pub fn waive_data(&self) -> bool {
        let asked = self.quiet.data_wanted.load(Ordering::Relaxed) != 0;
        if asked {
            self.quiet.data_wanted.store(0, Ordering::Relaxed);
        }
        asked
    }

    /// Tells where the consumer runs.
    #[inline]
    pub fn set_consumer_cpu(&self, cpu: u32) {
        if self.consumer.cpu.load(Ordering::Relaxed) != cpu + 1 {
            self.consumer.cpu.store(cpu + 1, Ordering::Relaxed);
        }
    }

    /// The CPU the producer last ran on.
    #[inline]
    pub fn producer_cpu(&self) -> Option<u32> {
        self.producer.cpu.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// Where the bytes of a direction lie.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Place {
    /// Number of the buffer, among those of the direction in the segment.
    pub buffer: u32,
    /// The cursor of the buffer's first byte, modulo 2^32: no buffer is that large.
    pub base: u32,
}

impl Place {
    /// The offset in a buffer of `size` bytes of the byte with cursor `at`.
    #[inline]
    pub fn offset(self, at: u64, size: u64) -> u64 {
        u64::from((at as u32).wrapping_sub(self.base)) & (size - 1)
    }
}

/// See [`Direction::view`].
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct View {
    /// Published bytes beyond the consumer's head, at most the ring's size.
    pub bytes: u64,
    /// Where the next epoch begins, once it is announced.
    pub next: Option<u64>,
}

/// The full fence between asking for doorbells, any number of them, and the second look.
#[inline]
pub fn asked() {
    fence(Ordering::SeqCst);
}

#[inline]
fn take(mark: &AtomicU32) -> bool {
    mark.load(Ordering::Relaxed) != 0 && mark.swap(0, Ordering::AcqRel) != 0
}
