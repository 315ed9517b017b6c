//! Which connection's direction uses which buffer of a segment.
//!
//! A segment has as many buffers for a direction as it has slots, but memory is taken only by those that were written to.
//! So a connection borrows a buffer when it sends, and keeps it until another one that has none takes it away, which
//! it can as soon as all that was in it has been read, unless the connection has sent within the last milliseconds.
//! Connections that are idle, however many, thus share the few buffers that the busy ones need.
//!
//! The producing end lends: the table is this process's own. Which buffer a direction has stands in its [`TxState`], shared with
//! forked children, who know no links: before a fork every connection borrows one, and it is not taken away while a
//! child may use it.
//!
//! Locks: giving needs that of the links, taking away that and the direction's, which is only tried, as a sender that holds it
//! may be waiting for the former.

use core::sync::atomic::Ordering;
use std::collections::VecDeque;

use super::{with_links, Link, SlotState, TakenSlot, LINKS};
use crate::conn::Conn;
use crate::ring::layout::{Area, SlotView};
use crate::shared::TxState;
use crate::sys::Errno;

/// Slots looked at for one that can do without its buffer, before a buffer that was never used is taken.
const LOOKS: usize = 64;

/// The buffers of one segment, for the direction that this process produces.
pub(super) struct Buffers {
    /// Buffers below this number have been lent at some time.
    used: u32,
    /// The slots that have one, those first that were not looked at for the longest time. Has room for all: nothing is allocated
    /// in a send.
    holders: VecDeque<u32>,
}

/// Who uses a slot in this process.
#[derive(Clone, Copy)]
pub(super) struct Tenant {
    conn: &'static Conn,
    generation: u32,
}

impl Buffers {
    pub(super) fn new(slots: usize) -> Buffers {
        Buffers { used: 0, holders: VecDeque::with_capacity(slots) }
    }

    /// Gives a buffer to `slot` of `area`, which has none.
    fn lend(&mut self, area: &'static Area, end: usize, slots: &mut [SlotState], slot: u32) -> Option<u32> {
        let buffer = self.take_back(area, end, slots).or_else(|| self.fresh(slots.len()))?;
        slots.get_mut(slot as usize)?.buffer = buffer + 1;
        self.holders.push_back(slot);
        Some(buffer)
    }

    fn take_back(&mut self, area: &'static Area, end: usize, slots: &mut [SlotState]) -> Option<u32> {
        for _ in 0..LOOKS.min(self.holders.len()) {
            let holder = self.holders.pop_front()?;
            let buffer = slots.get_mut(holder as usize)?.give_up(&area.view(holder, end));
            if buffer.is_some() {
                return buffer;
            }
            self.holders.push_back(holder);
        }
        None
    }

    /// There are as many as slots, and each slot has one at most.
    fn fresh(&mut self, slots: usize) -> Option<u32> {
        let buffer = self.used;
        self.used += 1;
        ((buffer as usize) < slots).then_some(buffer)
    }
}

impl SlotState {
    /// The slot's buffer, if it can do without.
    fn give_up(&mut self, view: &SlotView) -> Option<u32> {
        if self.buffer == 0 {
            return None;
        }
        let can = match self.tenant {
            Some(tenant) => tenant.conn.tx_lend(tenant.generation),
            // The peer may still be reading what was sent before the close.
            None => self.vacant && (view.tx().is_drained() || view.peers().released()),
        };
        can.then(|| core::mem::take(&mut self.buffer) - 1)
    }
}

/// The connection begins to use the slot, with the buffer that the slot has, if any, and its doorbells.
pub(crate) fn settle(taken: &TakenSlot, conn: &'static Conn) {
    let settled = with_links(|links| {
        let state = links.links.iter_mut().find_map(|link| link.slot_of(&taken.view));
        let (state, _) = state.ok_or(Errno(libc::ENOENT))?;
        state.tenant = Some(Tenant { conn, generation: conn.generation() });
        conn.end().tx.buffer.store(state.buffer, Ordering::Relaxed);
        // They may have got other numbers (`link::relocate`).
        let bells = state.doorbells.as_ref().ok_or(Errno(libc::ENOENT))?;
        conn.set_doorbells(bells.seen_from(taken.view.end()));
        Ok(())
    });
    if settled.is_err() {
        conn.end().tx.buffer.store(0, Ordering::Relaxed);
    }
}

/// The connection's process, and every other one at its end (`for_good`), has left the slot.
pub(super) fn vacate(state: &mut SlotState, for_good: bool) {
    state.tenant = None;
    state.vacant = for_good;
}

/// A buffer for the sending direction `tx` of the connection that uses `view`: its number plus one, which also stands in
/// [`TxState::buffer`] then. `None`: this process does not know the slot, or is in the middle of something with the links.
pub(crate) fn borrow(view: &SlotView, tx: &TxState) -> Option<u32> {
    with_links(|links| {
        links.links.iter_mut().find_map(|link| link.borrow(view, tx)).ok_or(Errno(libc::ENOENT))
    })
    .ok()
}

/// Before a fork, with the links' lock held by the caller: afterwards every connection of this process has a buffer.
pub(crate) fn before_fork() {
    // SAFETY: the caller holds the lock.
    let links = unsafe { &mut *LINKS.links.get() };
    for link in links.iter_mut().flat_map(|links| &mut links.links) {
        for segment in 0..link.segments.len() {
            for slot in 0..link.segments[segment].slots.len() {
                let Some(tenant) = link.segments[segment].slots[slot].tenant else { continue };
                if tenant.conn.generation() == tenant.generation && tenant.conn.is_attached() {
                    link.borrow(&tenant.conn.view(), &tenant.conn.end().tx);
                }
            }
        }
    }
}

impl Link {
    /// The slot that `view` shows, if it is one of this link, and the buffers it borrows from.
    fn slot_of(&mut self, view: &SlotView) -> Option<(&mut SlotState, usize)> {
        let number = self.segments.iter().position(|segment| core::ptr::eq(segment.area, view.area()))?;
        let slot = view.number() as usize;
        self.segments[number].slots.get_mut(slot).map(|state| (state, number))
    }

    fn borrow(&mut self, view: &SlotView, tx: &TxState) -> Option<u32> {
        let (state, number) = self.slot_of(view)?;
        if state.buffer != 0 {
            // Another thread was here first, or a fork.
            tx.buffer.store(state.buffer, Ordering::Relaxed);
            return Some(state.buffer);
        }
        let segment = &mut self.segments[number];
        let buffer = segment.buffers.lend(view.area(), view.end(), &mut segment.slots, view.number())?;
        tx.buffer.store(buffer + 1, Ordering::Relaxed);
        Some(buffer + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::layout::segment_len;

    const SLOTS: u32 = 4;

    /// A segment's slots, none in use, and its memory.
    fn segment() -> (&'static Area, Vec<SlotState>, Buffers) {
        let sizes = [4096, 8192];
        let len = segment_len(sizes, SLOTS);
        let base = crate::sys::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1).unwrap();
        // SAFETY: just mapped with this length, for good.
        let area = Box::leak(Box::new(unsafe { Area::new(base, sizes, SLOTS) }));
        (area, (0..SLOTS).map(|_| SlotState::default()).collect(), Buffers::new(SLOTS as usize))
    }

    #[test]
    fn there_is_one_for_each_slot_and_no_two_get_the_same() {
        let (area, mut slots, mut buffers) = segment();
        for slot in 0..SLOTS {
            // A child may use it: it cannot be taken away.
            vacate(&mut slots[slot as usize], false);
            buffers.lend(area, 0, &mut slots, slot);
        }
        let mut lent: Vec<u32> = slots.iter().map(|slot| slot.buffer - 1).collect();
        lent.sort_unstable();
        assert_eq!(lent, [0, 1, 2, 3]);
        assert_eq!(buffers.lend(area, 0, &mut slots, 0), None);
    }

    #[test]
    fn what_the_last_connection_of_a_slot_left_is_lent_first_when_it_was_read() {
        let (area, mut slots, mut buffers) = segment();
        assert_eq!(buffers.lend(area, 1, &mut slots, 2), Some(0));
        vacate(&mut slots[2], true);
        let _ = area.view(2, 1).tx().publish_tail(10);
        assert_eq!(buffers.lend(area, 1, &mut slots, 0), Some(1), "the peer still reads buffer 0");
        assert_ne!(slots[2].buffer, 0);
        let _ = area.view(2, 0).rx().publish_head(10, false);
        assert_eq!(buffers.lend(area, 1, &mut slots, 1), Some(0));
        assert_eq!(slots[2].buffer, 0);
    }

    #[test]
    fn what_a_child_may_use_is_not_lent() {
        let (area, mut slots, mut buffers) = segment();
        assert_eq!(buffers.lend(area, 0, &mut slots, 0), Some(0));
        vacate(&mut slots[0], false);
        assert_eq!(buffers.lend(area, 0, &mut slots, 1), Some(1));
    }
}
