//! Shared memory between this process and others, pooled.
//!
//! A *segment* is one sealed memfd with a number of slots and buffers (see [`crate::ring::layout`] and [`lending`]), made by the connecting end
//! of a pair of processes and mapped once by each; connections take slots and give them back. A new memfd for every
//! connection would cost more than half of what a TCP connection costs.
//!
//! Mapped memory stays mapped: whoever looks at a slot of a connection that is being closed reads stale words, never
//! unmapped memory. When a peer process is gone, its segments are replaced by fresh anonymous memory at the same
//! address, and the address range is used again.

pub mod lending;
pub mod message;
pub(crate) mod proof;
pub mod rendezvous;

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::config;
use crate::lock::{Held, Lock};
use crate::ring::layout::{self, Area, SlotView};
use crate::sys::fd::{self, OwnFd};
use crate::sys::sock::MAX_FDS;
use crate::sys::{self, Errno, Result};
use lending::{Buffers, Tenant};
use message::ProcessId;

/// Slots in the first, second and further segments of a pair of processes. Each segment costs page tables of its own in
/// both, and its control words and first buffers whole pages: for many connections few large ones cost less.
const SLOTS: [u32; 3] = [16, 64, 256];
const MOST_SLOTS: u32 = SLOTS[2];
/// Segments with large rings take no more address space than this for more than [`SLOTS`]`[1]` slots, in bytes.
const LARGE: usize = 256 << 20;
/// More segments than any pair should need: 16 + 64 + 254 * 256 connections.
const MAX_SEGMENTS: usize = 256;

/// What a doorbell is rung for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bell {
    /// The consumer wants data.
    Data,
    /// The producer wants space.
    Space,
}

/// The doorbells of a slot: that which is rung for end 0, and that for end 1. For whatever it waits: an eventfd takes 512 bytes.
pub struct Doorbells {
    bells: [OwnFd; Doorbells::COUNT],
}

impl Doorbells {
    pub const COUNT: usize = 2;

    fn new() -> Result<Doorbells> {
        Ok(Doorbells { bells: [fd::eventfd()?, fd::eventfd()?] })
    }

    /// The numbers: `end`'s own, and its peer's.
    pub fn seen_from(&self, end: usize) -> [i32; 2] {
        [end & 1, 1 - (end & 1)].map(|end| self.bells[end].raw())
    }

    /// In the order in which they are handed over.
    fn all(&self) -> [i32; Doorbells::COUNT] {
        [0, 1].map(|end: usize| self.bells[end].raw())
    }
}

struct Segment {
    id: u32,
    memory: Option<OwnFd>,
    base: *mut u8,
    len: usize,
    area: &'static Area,
    confirmed: bool,
    slots: Vec<SlotState>,
    buffers: Buffers,
}

#[derive(Default)]
struct SlotState {
    used: bool,
    /// The peer was attached to the slot once, so it has the doorbells (and the segment).
    confirmed: bool,
    /// Nobody at this end uses the slot any more.
    vacant: bool,
    /// The buffer that the direction produced here has, plus one; 0: none.
    buffer: u32,
    doorbells: Option<Doorbells>,
    tenant: Option<Tenant>,
}

// Every moved connection has one at each end.
const _: () = assert!(core::mem::size_of::<SlotState>() == 40);

/// What this process shares with one other.
struct Link {
    peer: ProcessId,
    /// The peer's pid as this process's namespace numbers it; 0 if it does not.
    pid: u32,
    /// True: this process made the segments and gives out their slots.
    owner: bool,
    segments: Vec<Segment>,
    /// Connections that use a slot now.
    connections: u32,
}

#[derive(Default)]
struct Links {
    me: Option<ProcessId>,
    links: Vec<Link>,
    /// Address ranges that can be used again.
    spare: Vec<(usize, usize)>,
    proof: Option<proof::Proof>,
}

struct Guarded {
    lock: Lock,
    links: UnsafeCell<Option<Links>>,
}

// SAFETY: `links` is only touched with the lock held.
unsafe impl Sync for Guarded {}

/// The links are those of the process that this one was forked from.
static INHERITED: AtomicBool = AtomicBool::new(false);

static LINKS: Guarded = Guarded { lock: Lock::new(), links: UnsafeCell::new(None) };

fn with_links<R>(f: impl FnOnce(&mut Links) -> Result<R>) -> Result<R> {
    let _held: Held = LINKS.lock.lock().map_err(|_| Errno(libc::EDEADLK))?;
    // SAFETY: the lock is held.
    let links = unsafe { &mut *LINKS.links.get() };
    if INHERITED.load(Ordering::Relaxed) {
        forget(links);
        INHERITED.store(false, Ordering::Relaxed);
    }
    f(links.get_or_insert_with(Links::default))
}

/// The fork handlers take this lock.
pub fn raw_lock() -> &'static Lock {
    &LINKS.lock
}

/// In a forked child: it is another process to its peers. Mappings stay, for the connections inherited.
pub fn after_fork_in_child() {
    INHERITED.store(true, Ordering::Relaxed);
    // Code that a fork in a signal handler interrupted comes to an end with the parent's before they are forgotten.
    let _ = with_links(|_| Ok(()));
}

fn forget(links: &mut Option<Links>) {
    if let Some(mut links) = links.take() {
        // What the parent shows does not concern the child.
        links.proof = None;
        // The other descriptors in there are copies; connections inherited still use the doorbells.
        core::mem::forget(links);
    }
}

/// How this process names itself to peers.
pub fn process_id() -> Result<ProcessId> {
    with_links(|links| {
        if let Some(me) = links.me {
            return Ok(me);
        }
        let mut me = [0; 16];
        sys::random(&mut me)?;
        links.me = Some(me);
        Ok(me)
    })
}

/// A slot taken for one connection, from this process's point of view.
#[derive(Clone, Copy)]
pub struct TakenSlot {
    pub view: SlotView,
    /// This end's doorbell, and the peer's, as they were numbered when it was taken.
    pub bells: [i32; Doorbells::COUNT],
    peer: ProcessId,
    segment: u32,
    slot: u32,
    owner: bool,
}

impl TakenSlot {
    /// Both are ends of one connection within this process.
    pub fn is_other_end_of(&self, other: &TakenSlot) -> bool {
        self.peer == other.peer
            && self.segment == other.segment
            && self.slot == other.slot
            && self.owner != other.owner
    }
}

/// What must be told to the peer about a slot taken here.
pub struct NewFds {
    /// The segment's memfd, if the peer has not seen it.
    pub segment: Option<i32>,
    /// The doorbells, likewise.
    pub doorbells: Option<[i32; Doorbells::COUNT]>,
}

/// This process has as many ends of moved connections as it may have.
pub fn is_full() -> bool {
    with_links(|links| Ok(links.is_full())).unwrap_or(false)
}

/// The error of a process that [`is_full`].
pub const FULL: Errno = Errno(libc::EUSERS);

/// Takes a free slot with rings of `sizes` in the memory shared with `peer`, making what is missing.
pub fn take_slot(peer: ProcessId, pid: u32, sizes: [u64; 2]) -> Result<(TakenSlot, message::Offer, NewFds)> {
    let process = process_id()?;
    with_links(|links| {
        if links.is_full() {
            return Err(FULL);
        }
        let index = links.find_or_make(peer, pid, true);
        let spare = &mut links.spare;
        let link = &mut links.links[index];
        let (segment_index, slot, new_segment) = link.free_slot(sizes, spare)?;
        let segment = &mut link.segments[segment_index];
        let new_doorbells = !segment.slots[slot].confirmed;
        let doorbells = match &segment.slots[slot].doorbells {
            Some(bells) => bells.all(),
            None => segment.slots[slot].doorbells.insert(Doorbells::new()?).all(),
        };
        segment.slots[slot].used = true;
        segment.slots[slot].vacant = false;
        let view = segment.area.view(slot as u32, 0);
        view.reset();
        link.connections += 1;
        let offer = message::Offer {
            process,
            held: message::Held { fd: -1, proof: -1 },
            segment: segment.id,
            slot: slot as u32,
            sizes,
            new_segment,
            new_doorbells,
        };
        let new = NewFds {
            segment: new_segment.then(|| segment.memory.as_ref().map_or(-1, OwnFd::raw)),
            doorbells: new_doorbells.then_some(doorbells),
        };
        let taken =
            TakenSlot { view, bells: doorbells, peer, segment: segment.id, slot: slot as u32, owner: true };
        Ok((taken, offer, new))
    })
}

/// Finds the slot that the process `pid` offers, mapping the segment if it came along. EPROTO: the offer makes no sense. False:
/// this process may not have so many ends, and must leave the slot.
pub fn enter_slot(
    offer: &message::Offer,
    pid: u32,
    mut fds: [Option<OwnFd>; MAX_FDS],
) -> Result<(TakenSlot, bool)> {
    const BAD: Errno = Errno(libc::EPROTO);
    if !offer.sizes.iter().all(|s| layout::size_ok(*s)) {
        return Err(BAD);
    }
    with_links(|links| {
        let fits = !links.is_full();
        let index = links.find_or_make(offer.process, pid, false);
        let spare = &mut links.spare;
        let link = &mut links.links[index];
        let mut next = 0;
        let mut next_fd = || {
            let fd = fds.get_mut(next).and_then(Option::take);
            next += 1;
            fd.ok_or(BAD)
        };
        let memory = if offer.new_segment { Some(next_fd()?) } else { None };
        // One that is known already came with an offer that was not taken up.
        if let Some(memory) = memory.filter(|_| link.segments.iter().all(|s| s.id != offer.segment)) {
            if link.segments.len() >= MAX_SEGMENTS {
                return Err(BAD);
            }
            let len = fd::sealed_size(memory.raw()).map_err(|_| BAD)?;
            let count = layout::slots_of(len, offer.sizes, MOST_SLOTS).ok_or(BAD)?;
            let base = map_segment(memory.raw(), len, spare)?;
            let segment = Segment::new(offer.segment, None, base, offer.sizes, count);
            link.segments.push(Segment { confirmed: true, ..segment });
        }
        let segment = link.segments.iter_mut().find(|s| s.id == offer.segment).ok_or(BAD)?;
        let area = segment.area;
        let sizes_match = area.sizes() == offer.sizes;
        let state = segment.slots.get_mut(offer.slot as usize).ok_or(BAD)?;
        if state.used || !sizes_match {
            return Err(BAD);
        }
        if offer.new_doorbells {
            let bells = Doorbells { bells: [next_fd()?, next_fd()?] };
            if !bells.bells.iter().all(|b| fd::is_eventfd(b.raw())) {
                return Err(BAD);
            }
            if state.doorbells.is_none() {
                state.doorbells = Some(bells);
            }
        }
        let bells = state.doorbells.as_ref().ok_or(BAD)?.seen_from(1);
        state.used = true;
        state.vacant = false;
        let view = area.view(offer.slot, 1);
        link.connections += 1;
        let taken = TakenSlot {
            view,
            bells,
            peer: offer.process,
            segment: offer.segment,
            slot: offer.slot,
            owner: false,
        };
        Ok((taken, fits))
    })
}

/// This process no longer uses the slot. `end_done`: neither does any other process on this end.
pub fn leave_slot(taken: &TakenSlot, end_done: bool) {
    let _ = with_links(|links| {
        // By its memory: a child that inherited the connection knows nothing of the link, and may have another to the same peer.
        let found = links.links.iter_mut().find_map(|link| {
            let number = link.segments.iter().position(|s| core::ptr::eq(s.area, taken.view.area()))?;
            Some((link, number))
        });
        if let Some((link, number)) = found {
            link.connections = link.connections.saturating_sub(1);
            if let Some(state) = link.segments[number].slots.get_mut(taken.slot as usize) {
                lending::vacate(state, end_done);
                if !taken.owner {
                    state.used = false;
                }
            }
        }
        // At last: who finds a slot released by both ends takes it. (From a signal handler above the lock it is not, and is lost.)
        if end_done {
            taken.view.mine().set_released();
        }
        Ok(())
    });
}

/// Moves the descriptor with number `fd` elsewhere, if it is a doorbell or the instance that shows sockets. Returns whether
/// it was.
pub fn relocate(fd: i32) -> bool {
    with_links(|links| {
        if let Some(proof) = links.proof.as_ref().filter(|proof| proof.epoll().raw() == fd) {
            // A peer that was told the old number looks elsewhere.
            return proof.epoll().relocate().map(|()| true);
        }
        for bells in links.doorbells() {
            if let Some(bell) = bells.bells.iter().find(|b| b.raw() == fd) {
                bell.relocate()?;
                crate::conn::doorbell_moved(fd, bell.raw());
                return Ok(true);
            }
        }
        Ok(false)
    })
    .unwrap_or(false)
}

impl Links {
    fn doorbells(&self) -> impl Iterator<Item = &Doorbells> {
        self.links
            .iter()
            .flat_map(|l| &l.segments)
            .flat_map(|s| &s.slots)
            .filter_map(|s| s.doorbells.as_ref())
    }

    fn is_full(&self) -> bool {
        let most = config::get().max_conns;
        most > 0 && self.links.iter().map(|l| l.connections).sum::<u32>() >= most
    }

    fn find_or_make(&mut self, peer: ProcessId, pid: u32, owner: bool) -> usize {
        if let Some(i) = self.links.iter().position(|l| l.peer == peer && l.owner == owner) {
            return i;
        }
        self.drop_dead_links();
        self.links.push(Link { peer, pid, owner, segments: Vec::new(), connections: 0 });
        self.links.len() - 1
    }

    /// Frees what was shared with processes that are gone.
    fn drop_dead_links(&mut self) {
        let spare = &mut self.spare;
        self.links.retain_mut(|link| {
            if link.connections > 0 || link.pid == 0 || sys::task_exists(link.pid) {
                return true;
            }
            for segment in link.segments.drain(..) {
                if blank(segment.base, segment.len) {
                    spare.push((segment.base as usize, segment.len));
                }
            }
            false
        });
    }
}

impl Link {
    /// A slot that neither end uses, with its segment's index and whether the segment is new.
    fn free_slot(
        &mut self,
        sizes: [u64; 2],
        spare: &mut Vec<(usize, usize)>,
    ) -> Result<(usize, usize, bool)> {
        for (i, segment) in self.segments.iter_mut().enumerate().filter(|(_, s)| s.area.sizes() == sizes) {
            for n in 0..segment.slots.len() {
                let view = segment.area.view(n as u32, 0);
                let state = &mut segment.slots[n];
                if !state.used || (view.mine().released() && view.peers().released()) {
                    // An offer that was never taken must be made again with all that belongs to it.
                    state.confirmed |= view.peers().attached();
                    segment.confirmed |= state.confirmed;
                    return Ok((i, n, !segment.confirmed));
                }
            }
        }
        if self.segments.len() >= MAX_SEGMENTS {
            return Err(Errno(libc::ENOBUFS));
        }
        let count = slots_of_segment(self.segments.len(), sizes);
        let (memory, base, count) = match make_segment(sizes, count, spare) {
            Err(_) if count > SLOTS[1] => make_segment(sizes, SLOTS[1], spare),
            made => made,
        }?;
        let id = self.segments.len() as u32;
        self.segments.push(Segment::new(id, Some(memory), base, sizes, count));
        Ok((self.segments.len() - 1, 0, true))
    }
}

impl Segment {
    /// One whose memory has been mapped at `base`.
    fn new(id: u32, memory: Option<OwnFd>, base: *mut u8, sizes: [u64; 2], slots: u32) -> Segment {
        // SAFETY: the mapping has the length for these slots and is never unmapped (module doc); sizes were checked when
        // the segment was made or entered.
        let area = Box::leak(Box::new(unsafe { Area::new(base, sizes, slots) }));
        Segment {
            id,
            memory,
            base,
            len: layout::segment_len(sizes, slots),
            area,
            confirmed: false,
            slots: (0..slots).map(|_| SlotState::default()).collect(),
            buffers: Buffers::new(slots as usize),
        }
    }
}

/// How many slots the segment made after `made` others is to have.
fn slots_of_segment(made: usize, sizes: [u64; 2]) -> u32 {
    let count = SLOTS[made.min(SLOTS.len() - 1)];
    if layout::segment_len(sizes, count) <= LARGE {
        count
    } else {
        count.min(SLOTS[1])
    }
}

/// Memory for so many slots, mapped.
fn make_segment(
    sizes: [u64; 2],
    count: u32,
    spare: &mut Vec<(usize, usize)>,
) -> Result<(OwnFd, *mut u8, u32)> {
    let len = layout::segment_len(sizes, count);
    let memory = fd::sealed_memfd(len)?;
    let base = map_segment(memory.raw(), len, spare)?;
    Ok((memory, base, count))
}

/// Maps a segment, into an address range used before if one fits.
fn map_segment(memfd: i32, len: usize, spare: &mut Vec<(usize, usize)>) -> Result<*mut u8> {
    let Some(i) = spare.iter().position(|(_, l)| *l == len) else {
        return sys::map(len, libc::MAP_SHARED | libc::MAP_NORESERVE, memfd);
    };
    let (base, _) = spare.swap_remove(i);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range is a blank one of ours.
    unsafe {
        sys!(SYS_mmap, base, len, prot, libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE, memfd, 0)
    }
    .map(|p| p as *mut u8)
}

/// Replaces a mapping by untouched anonymous memory.
fn blank(base: *mut u8, len: usize) -> bool {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: the range is a mapping of ours; stale readers find zeros.
    unsafe { sys!(SYS_mmap, base, len, prot, flags, -1i32, 0) }.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_segments_are_larger_unless_the_rings_are() {
        let slots = |size: u64| [0, 1, 2, 3].map(|made| slots_of_segment(made, [size, size]));
        assert_eq!(slots(config::DEFAULT_RING), [16, 64, 256, 256]);
        assert_eq!(slots(layout::MAX_RING), [16, 64, 64, 64]);
        for count in SLOTS {
            let len = layout::segment_len([4096, 8192], count);
            assert_eq!(
                layout::slots_of(len, [4096, 8192], MOST_SLOTS),
                Some(count),
                "the other end finds it out"
            );
        }
    }
}
