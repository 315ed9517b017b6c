//! Where things lie in the shared memory of a connection, and the copying in and out.
//!
//! A *slot* serves one connection: a page of control words, then the bytes of the ring from end 0 (the connecting
//! end) to end 1, then those of the other direction.

use core::sync::atomic::{AtomicU32, Ordering};

use super::{Broken, Direction};

/// Bytes of control words at the start of a slot.
pub const CONTROL: usize = 4096;
/// Limits of a ring's size, in bytes; sizes are powers of two.
pub const MIN_RING: u64 = 4096;
pub const MAX_RING: u64 = 64 << 20;

/// At the next send.
const GO_BACK: u32 = 1;
/// Now, with the unread bytes.
const RECALL: u32 = 2;
/// The peer is about to do so.
const ACCEPTED: u32 = 3;

/// What one end tells the other about itself.
#[repr(C, align(64))]
#[derive(Default)]
pub struct EndLine {
    /// The end has mapped the slot and verified its peer: the peer may switch to the ring.
    attached: AtomicU32,
    /// No read that knows nothing of the ring is under way: the peer may return to TCP before its announcements
    /// are reached.
    no_blind_reads: AtomicU32,
    /// The end will send no more: the last holder has closed the socket, or shut down its sending side.
    closed: AtomicU32,
    /// The end does not use the slot any more.
    released: AtomicU32,
    /// What the end asks of its peer: see the `GO_BACK` constants.
    go_back: AtomicU32,
    /// Why it asks: the number of a [`crate::reason::Reason`], 0 if it has not said. For display.
    reason: AtomicU32,
}

impl EndLine {
    pub fn set_attached(&self) {
        self.attached.store(1, Ordering::SeqCst);
    }
    pub fn attached(&self) -> bool {
        self.attached.load(Ordering::SeqCst) == 1
    }
    pub fn set_no_blind_reads(&self) {
        self.no_blind_reads.store(1, Ordering::SeqCst);
    }
    pub fn no_blind_reads(&self) -> bool {
        self.no_blind_reads.load(Ordering::SeqCst) == 1
    }
    pub fn set_closed(&self) {
        self.closed.store(1, Ordering::SeqCst);
    }
    #[inline]
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed) != 0
    }
    pub fn set_released(&self) {
        self.released.store(1, Ordering::SeqCst);
    }
    pub fn released(&self) -> bool {
        self.released.load(Ordering::SeqCst) == 1
    }
    /// Says why the end is about to ask for TCP. The first reason stays.
    pub fn set_reason(&self, code: u32) {
        let _ = self.reason.compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst);
    }
    pub fn reason(&self) -> u32 {
        self.reason.load(Ordering::SeqCst)
    }
    /// Asks the peer to return to TCP for good at its next send.
    pub fn set_go_back(&self) {
        let _ = self.go_back.compare_exchange(0, GO_BACK, Ordering::SeqCst, Ordering::SeqCst);
    }
    #[inline]
    pub fn go_back(&self) -> bool {
        self.go_back.load(Ordering::Relaxed) != 0
    }
    /// Asks the peer to return to TCP for good, now, together with what this end has not read from the ring. This end
    /// takes nothing from the ring as long as the request stands.
    pub fn set_recall(&self) {
        self.go_back.store(RECALL, Ordering::SeqCst);
    }
    /// Withdraws the request; false: too late.
    pub fn withdraw_recall(&self) -> bool {
        self.go_back.compare_exchange(RECALL, GO_BACK, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
    /// Undertakes to do what the end asks for.
    pub fn accept_recall(&self) -> bool {
        self.go_back.compare_exchange(RECALL, ACCEPTED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
    /// The end recalls what it has not read, and nobody has undertaken it yet.
    #[inline]
    pub fn recalls(&self) -> bool {
        self.go_back.load(Ordering::Relaxed) == RECALL
    }
    /// This end must not take from the ring.
    #[inline]
    pub fn is_recalling(&self) -> bool {
        self.go_back.load(Ordering::Relaxed) >= RECALL
    }
    fn reset(&self) {
        for word in
            [&self.attached, &self.no_blind_reads, &self.closed, &self.released, &self.go_back, &self.reason]
        {
            word.store(0, Ordering::SeqCst);
        }
    }
}

/// The control page of a slot. All-zero memory is a fresh one.
#[repr(C)]
#[derive(Default)]
pub struct Control {
    /// `directions[i]`: end `i` produces.
    pub directions: [Direction; 2],
    pub ends: [EndLine; 2],
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<Control>() <= CONTROL);

/// One connection's place in shared memory, seen from one end. Copyable: it is a view, not an owner; segments are
/// never unmapped (see [`crate::link`]).
#[derive(Clone, Copy)]
pub struct SlotView {
    base: *mut u8,
    /// Bytes of the ring that end `i` produces into.
    sizes: [u64; 2],
    end: usize,
}

// SAFETY: the memory is shared between processes anyway: control words are atomics, and the bytes of a ring are
// copied by whoever holds the direction's lock.
unsafe impl Send for SlotView {}
// SAFETY: as above.
unsafe impl Sync for SlotView {}

/// Bytes a slot takes for rings of these sizes.
pub fn slot_len(sizes: [u64; 2]) -> usize {
    CONTROL + sizes[0] as usize + sizes[1] as usize
}

/// Whether a ring may have this size.
pub fn size_ok(size: u64) -> bool {
    size.is_power_of_two() && (MIN_RING..=MAX_RING).contains(&size)
}

impl SlotView {
    /// # Safety
    /// `base` must be page aligned and point at [`slot_len`] mapped bytes that stay mapped for ever; `sizes` must be
    /// [`size_ok`], `end` 0 or 1.
    pub unsafe fn new(base: *mut u8, sizes: [u64; 2], end: usize) -> SlotView {
        SlotView { base, sizes, end }
    }

    pub fn base(&self) -> *mut u8 {
        self.base
    }

    pub fn sizes(&self) -> [u64; 2] {
        self.sizes
    }

    #[inline]
    fn control(&self) -> &Control {
        // SAFETY: promised at construction; Control is made of atomics only, so a peer writing at the same time is
        // no data race.
        unsafe { &*(self.base as *const Control) }
    }

    /// Makes the slot fresh for a new connection. Only while no end is attached.
    pub fn reset(&self) {
        // SAFETY: promised at construction; nobody else looks at the page now (a peer that does only harms itself).
        unsafe { core::ptr::write_bytes(self.base, 0, core::mem::size_of::<Control>()) };
        self.control().ends.iter().for_each(EndLine::reset);
    }

    /// The direction this end produces.
    #[inline]
    pub fn tx(&self) -> &Direction {
        &self.control().directions[self.end]
    }

    /// The direction this end consumes.
    #[inline]
    pub fn rx(&self) -> &Direction {
        &self.control().directions[1 - self.end]
    }

    #[inline]
    pub fn tx_size(&self) -> u64 {
        self.sizes[self.end]
    }

    #[inline]
    pub fn rx_size(&self) -> u64 {
        self.sizes[1 - self.end]
    }

    #[inline]
    pub fn mine(&self) -> &EndLine {
        &self.control().ends[self.end]
    }

    #[inline]
    pub fn peers(&self) -> &EndLine {
        &self.control().ends[1 - self.end]
    }

    fn ring(&self, producer: usize) -> *mut u8 {
        let offset = CONTROL + if producer == 0 { 0 } else { self.sizes[0] as usize };
        // SAFETY: within the slot, as promised at construction.
        unsafe { self.base.add(offset) }
    }

    /// The one or two pieces of a ring that hold `len` bytes from cursor `at`.
    #[inline]
    fn pieces(ring: *mut u8, size: u64, at: u64, len: usize) -> [(*mut u8, usize); 2] {
        let start = (at & (size - 1)) as usize;
        let first = len.min(size as usize - start);
        // SAFETY: start < size, so it lies within the ring.
        [(unsafe { ring.add(start) }, first), (ring, len - first)]
    }

    /// Where `len` bytes from cursor `tail` are to be produced. `len` must not exceed the ring's size.
    #[inline]
    pub fn tx_pieces(&self, tail: u64, len: usize) -> Result<[(*mut u8, usize); 2], Broken> {
        let size = self.tx_size();
        if len as u64 > size {
            return Err(Broken);
        }
        Ok(Self::pieces(self.ring(self.end), size, tail.wrapping_sub(self.tx().base()), len))
    }

    /// Where `len` bytes from cursor `head` lie, which [`Direction::view`] has shown. `len` must not exceed the ring's size.
    #[inline]
    pub fn rx_pieces(&self, head: u64, len: usize) -> Result<[(*mut u8, usize); 2], Broken> {
        let size = self.rx_size();
        if len as u64 > size {
            return Err(Broken);
        }
        Ok(Self::pieces(self.ring(1 - self.end), size, head.wrapping_sub(self.rx().base()), len))
    }
}
