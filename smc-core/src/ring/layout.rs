//! Where things lie in the memory that two processes share, and the copying in and out.
//!
//! A segment of n slots: the control words of each ([`Control`]), to the end of a page; n buffers for the direction from
//! end 0 (the connecting end) to end 1; n buffers for the other one. A slot serves one connection. Which buffer a
//! direction uses, its producer says ([`super::Place`]): so memory is touched for as many connections as are busy at
//! once, and an idle one costs its control words.

use core::sync::atomic::{AtomicU32, Ordering};

use super::{Broken, Direction};

/// Bytes of control words of a slot.
pub const CONTROL: usize = core::mem::size_of::<Control>();
const PAGE: usize = 4096;
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
#[repr(C)]
#[derive(Default)]
pub struct EndWords {
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

impl EndWords {
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

/// The control words of a slot. All-zero memory is a fresh one.
#[repr(C)]
#[derive(Default)]
pub struct Control {
    /// `directions[i]`: end `i` produces.
    pub directions: [Direction; 2],
}

// Slots must not share cache lines, nor pairs of them, which some CPUs fetch together.
#[cfg(not(loom))]
const _: () = assert!(CONTROL % 128 == 0);

/// A mapped segment. Never unmapped, and the memory of an `Area` is never given back, so that views may be copied freely.
pub struct Area {
    base: *mut u8,
    /// The first buffers of the directions.
    buffers: [*mut u8; 2],
    /// Bytes of a buffer of the direction that end `i` produces into.
    sizes: [u64; 2],
    slots: u32,
}

// SAFETY: as for SlotView.
unsafe impl Send for Area {}
// SAFETY: as for SlotView.
unsafe impl Sync for Area {}

impl Area {
    /// No slots at all.
    pub const NONE: &'static Area = &Area {
        base: core::ptr::null_mut(),
        buffers: [core::ptr::null_mut(); 2],
        sizes: [MIN_RING; 2],
        slots: 0,
    };

    /// # Safety
    /// `base` must be page aligned and point at [`segment_len`] mapped bytes that stay mapped for ever; `sizes` must be
    /// [`size_ok`].
    pub unsafe fn new(base: *mut u8, sizes: [u64; 2], slots: u32) -> Area {
        // SAFETY: within the segment.
        let first = unsafe { base.add(control_len(slots)) };
        // SAFETY: as above.
        let second = unsafe { first.add(slots as usize * sizes[0] as usize) };
        Area { base, buffers: [first, second], sizes, slots }
    }

    /// The slot with this number, which must be less than [`Area::slots`], seen from `end`, 0 or 1.
    pub fn view(&'static self, slot: u32, end: usize) -> SlotView {
        assert!(slot < self.slots);
        // SAFETY: within the control words, as the number was checked.
        SlotView { control: unsafe { self.base.add(slot as usize * CONTROL) }, area: self, end: end & 1 }
    }

    pub fn slots(&self) -> u32 {
        self.slots
    }

    pub fn sizes(&self) -> [u64; 2] {
        self.sizes
    }

    /// The buffer of the direction that `producer` produces into.
    #[inline]
    fn buffer(&self, producer: usize, number: u32) -> Result<*mut u8, Broken> {
        if number >= self.slots {
            return Err(Broken);
        }
        // SAFETY: the number was checked.
        Ok(unsafe { self.buffers[producer].add(number as usize * self.sizes[producer] as usize) })
    }
}

/// One connection's place in shared memory, seen from one end. Copyable: it is a view, not an owner; segments are
/// never unmapped (see [`crate::link`]).
#[derive(Clone, Copy)]
pub struct SlotView {
    control: *mut u8,
    area: &'static Area,
    end: usize,
}

// SAFETY: the memory is shared between processes anyway: control words are atomics, and the bytes of a ring are
// copied by whoever holds the direction's lock.
unsafe impl Send for SlotView {}
// SAFETY: as above.
unsafe impl Sync for SlotView {}

fn control_len(slots: u32) -> usize {
    (slots as usize * CONTROL).next_multiple_of(PAGE)
}

/// Bytes of a segment with so many slots and rings of these sizes.
pub fn segment_len(sizes: [u64; 2], slots: u32) -> usize {
    control_len(slots) + slots as usize * (sizes[0] + sizes[1]) as usize
}

/// The number of slots, `most` at most, of a segment of `len` bytes with rings of these sizes, if there is one.
pub fn slots_of(len: usize, sizes: [u64; 2], most: u32) -> Option<u32> {
    (1..=most).find(|slots| segment_len(sizes, *slots) == len)
}

/// Whether a ring may have this size.
pub fn size_ok(size: u64) -> bool {
    size.is_power_of_two() && (MIN_RING..=MAX_RING).contains(&size)
}

impl SlotView {
    /// # Safety
    /// `control` must have come from [`SlotView::control_words`] of a view of `area`; for one of another area the view may
    /// only be looked at.
    pub unsafe fn from_parts(control: *mut u8, area: &'static Area, end: usize) -> SlotView {
        SlotView { control, area, end }
    }

    pub fn control_words(&self) -> *mut u8 {
        self.control
    }

    /// The number of the slot.
    pub fn number(&self) -> u32 {
        ((self.control as usize).wrapping_sub(self.area.base as usize) / CONTROL) as u32
    }

    /// The end that this is the view of.
    pub fn end(&self) -> usize {
        self.end
    }

    pub fn area(&self) -> &'static Area {
        self.area
    }

    pub fn sizes(&self) -> [u64; 2] {
        self.area.sizes
    }

    #[inline]
    fn control(&self) -> &Control {
        // SAFETY: promised at construction; Control is made of atomics only, so a peer writing at the same time is
        // no data race.
        unsafe { &*(self.control as *const Control) }
    }

    /// Makes the slot fresh for a new connection. Only while no end is attached.
    pub fn reset(&self) {
        // SAFETY: promised at construction; nobody else looks at the page now (a peer that does only harms itself).
        unsafe { core::ptr::write_bytes(self.control, 0, CONTROL) };
        self.control().directions.iter().for_each(|direction| direction.quiet.end.reset());
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
        self.area.sizes[self.end]
    }

    #[inline]
    pub fn rx_size(&self) -> u64 {
        self.area.sizes[1 - self.end]
    }

    #[inline]
    pub fn mine(&self) -> &EndWords {
        &self.rx().quiet.end
    }

    #[inline]
    pub fn peers(&self) -> &EndWords {
        &self.tx().quiet.end
    }

    /// The one or two pieces of a buffer that hold `len` bytes from `start`.
    #[inline]
    fn pieces(buffer: *mut u8, size: u64, start: u64, len: usize) -> [(*mut u8, usize); 2] {
        let start = start as usize;
        let first = len.min(size as usize - start);
        // SAFETY: start < size, so it lies within the buffer.
        [(unsafe { buffer.add(start) }, first), (buffer, len - first)]
    }

    /// Where `len` bytes from cursor `tail` are to be produced, in `buffer`, which is this end's own knowledge. `len` must not
    /// exceed the ring's size.
    #[inline]
    pub fn tx_pieces(&self, buffer: u32, tail: u64, len: usize) -> Result<[(*mut u8, usize); 2], Broken> {
        let size = self.tx_size();
        if len as u64 > size {
            return Err(Broken);
        }
        let start = self.tx().place().offset(tail, size);
        Ok(Self::pieces(self.area.buffer(self.end, buffer)?, size, start, len))
    }

    /// Where `len` bytes from cursor `head` lie, which [`Direction::view`] has shown. `len` must not exceed the ring's size.
    #[inline]
    pub fn rx_pieces(&self, head: u64, len: usize) -> Result<[(*mut u8, usize); 2], Broken> {
        let size = self.rx_size();
        if len as u64 > size {
            return Err(Broken);
        }
        let place = self.rx().place();
        let start = place.offset(head, size);
        Ok(Self::pieces(self.area.buffer(1 - self.end, place.buffer)?, size, start, len))
    }
}
