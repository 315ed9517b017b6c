//! From a connection that is native to one that is attached, or pinned to TCP, and what of that is shown.

use core::sync::atomic::Ordering;

use super::{all, Cold, Conn, Counts, Way, ATTACHED, CONNS, NATIVE};
use crate::link::rendezvous::{self, Rendezvous};
use crate::link::TakenSlot;
use crate::reason::{Detail, Why};
use crate::registry::{Ends, Mode};
use crate::ring::layout::Area;
use crate::{config, epoll, lock};

impl Conn {
    /// Takes a step of the rendezvous. Keeps errno, never blocks.
    #[cold]
    pub(super) fn advance(&self, generation: u32, fd: i32) {
        let Some(mut cold) = self.cold.try_lock() else { return };
        self.advancer.store(lock::tid(), Ordering::Relaxed);
        // Closed, and perhaps another connection by now: whoever closes waits for the lock.
        if self.generation() == generation && self.phase.load(Ordering::SeqCst) == NATIVE {
            self.advance_locked(fd, &mut cold);
        }
        self.advancer.store(0, Ordering::Relaxed);
    }

    fn advance_locked(&self, fd: i32, cold: &mut Cold) {
        if self.is_held() {
            self.step_again(1);
            return;
        }
        let refusal = match self.end().pinned.load(Ordering::Relaxed) {
            0 => None,
            packed => Some(Why::unpack(packed).unwrap_or(Why::NONE)),
        };
        if refusal.is_some_and(|why| !why.detail.is_told()) {
            self.stop_stepping(cold);
            return;
        }
        if !self.end().held_alone() {
            if refusal.is_none() {
                self.entry().set_why(Why::new(Detail::SharedProcess));
            }
            self.step_again(8);
            return;
        }
        match rendezvous::step(self, fd, cold, refusal) {
            rendezvous::Step::Again { calls, why } => {
                if refusal.is_none() {
                    self.entry().set_why(self.more_telling(why));
                }
                self.step_again(calls);
            }
            rendezvous::Step::Attached => {}
            rendezvous::Step::Never(_) if refusal.is_some() => self.stop_stepping(cold),
            rendezvous::Step::Never(why) => {
                cold.rendezvous = Rendezvous::default();
                self.pin(self.more_telling(why));
                // The peer is to know, where that is of use to anybody.
                self.step_again(1);
            }
        }
    }

    /// That nobody comes any more says less than what was found when somebody came.
    fn more_telling(&self, why: Why) -> Why {
        let before = self.entry().why();
        match (before.detail, why.detail) {
            (Detail::PeerUidUnverified | Detail::PeerShutDown | Detail::ShutDown, Detail::NoRendezvous) => {
                before
            }
            _ => why,
        }
    }

    fn stop_stepping(&self, cold: &mut Cold) {
        rendezvous::withdraw(core::mem::take(&mut cold.rendezvous));
        self.next_step.store(u64::MAX, Ordering::Relaxed);
    }

    /// The next step is due after `calls` more calls.
    fn step_again(&self, calls: u64) {
        let due = self.calls.load(Ordering::Relaxed).saturating_add(calls);
        self.next_step.store(due, Ordering::Relaxed);
    }

    /// This end called connect().
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) != 0
    }

    /// Puts the connection on shared memory. `counts`: as the rendezvous found them.
    pub(crate) fn attach(&self, fd: i32, cold: &mut Cold, slot: TakenSlot, counts: Counts) {
        let view = slot.view;
        self.control.store(view.control_words(), Ordering::Relaxed);
        self.area.store(view.area() as *const Area as *mut Area, Ordering::Relaxed);
        self.slot_end.store(if self.is_active() { 0 } else { 1 }, Ordering::Relaxed);
        self.set_doorbells(slot.bells);
        if let Some(conn) = CONNS.get(self.index()) {
            crate::link::lending::settle(&slot, conn);
        }
        cold.rendezvous = Rendezvous::Done(slot);
        cold.ends = config::get().report.as_ref().map(|_| Box::new(Ends::of_fd(fd)));
        self.attached_here.store(1, Ordering::Relaxed);
        let tx_open = !counts.written || self.native_calls(Way::Tx) > 0;
        self.end().tx.unverified.store(tx_open as u8, Ordering::Relaxed);
        self.phase.store(ATTACHED, Ordering::SeqCst);
        if self.is_held() {
            self.pin(Why::new(Detail::CallUnsupported));
            return;
        }
        if !self.end().held_alone() {
            // A fork is under way whose child may not know: it goes on over TCP, and so must everybody.
            self.pin(Why::new(Detail::SharedProcess));
            return;
        }
        self.note_blind_reads();
        self.entry().set_why(Why::new(Detail::NoData));
        epoll::connection_attached(self, fd);
        log::debug!("fd {fd}: attached");
        // Last: from here on the peer may leave TCP.
        // Not yet while a read is under way that knows nothing of the ring. One whose thread was cancelled is never over: then
        // the peer stays on TCP, where this end's readers would wait for that one for ever.
        if counts.read && self.native_calls(Way::Rx) == 0 {
            view.mine().set_attached();
        } else {
            self.end().rx.unverified.store(1, Ordering::SeqCst);
            self.verify_rx();
        }
    }

    /// Keeps the connection on TCP for good, or brings it back there. The first reason stays.
    pub fn pin(&self, why: Why) {
        let first =
            self.end().pinned.compare_exchange(0, why.pack(), Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if first {
            self.entry().set_why(why);
            log::debug!("fd {}: stays on TCP: {why}", self.listed_fd());
        }
        if self.is_attached() {
            self.view().mine().set_reason(why.reason.code());
            self.view().mine().set_go_back();
            self.ring_peer();
        }
    }

    pub fn is_pinned(&self) -> bool {
        self.end().pinned.load(Ordering::Relaxed) != 0
    }

    /// Why the connection is on TCP for good, if it is.
    pub fn pinned(&self) -> Option<Why> {
        Why::unpack(self.end().pinned.load(Ordering::Relaxed)).filter(|why| *why != Why::NONE)
    }

    pub(crate) fn was_forked(&self) -> bool {
        self.end().was_forked()
    }

    /// As far as forks go, no other process holds the socket.
    pub fn is_held_alone(&self) -> bool {
        self.end().held_alone()
    }

    /// If the other end of the connection is in this process too, lets it do what this end asks of it.
    pub fn serve_local_peer(&self) {
        let mine = self.cold.try_lock().and_then(|cold| cold.slot());
        let Some(mine) = mine else { return };
        for other in all().filter(|c| c.is_attached() && !core::ptr::eq(*c, self)) {
            let theirs = other.cold.try_lock().and_then(|cold| cold.slot());
            if theirs.is_some_and(|t| t.is_other_end_of(&mine)) {
                other.serve_recall(other.listed_fd());
            }
        }
    }

    /// What the tools see: on the ring as soon as one direction is, until it is broken.
    pub(crate) fn show_mode(&self) {
        let end = self.end();
        let on_ring = (end.tx.epoch.load(Ordering::Relaxed) | end.rx.epoch.load(Ordering::Relaxed)) & 1 != 0;
        let entry = self.entry();
        entry.add_switch();
        if on_ring && end.pinned.load(Ordering::Relaxed) != Why::new(Detail::RingGarbled).pack() {
            entry.set_status(Mode::Smcd, Why::NONE);
        } else {
            let why = match Why::unpack(end.pinned.load(Ordering::Relaxed)) {
                Some(why) if why != Why::NONE => why,
                _ if self.view().peers().go_back() => Why::new(Detail::PeerReturned),
                _ if self.fin_seen() || self.view().peers().closed() => Why::new(Detail::PeerShutDown),
                _ => Why::new(Detail::Overflow),
            };
            entry.set_status(Mode::Tcp, why);
        }
        self.note_peer_reason();
    }

    /// Shows what the peer has said about staying on TCP.
    pub(crate) fn note_peer_reason(&self) {
        let view = self.view();
        if view.peers().go_back() {
            self.peer_reason(view.peers().reason());
        }
    }

    /// The peer stays on TCP, or wants it back, with this code.
    pub(crate) fn peer_reason(&self, code: u32) {
        if self.entry().peer_reason() != code {
            self.entry().set_peer_reason(code);
            log::debug!("fd {}: the peer stays on TCP: 0x{code:08x}", self.listed_fd());
        }
    }

    /// The peer wants TCP before anything has moved.
    #[cold]
    pub(crate) fn note_refusal(&self) {
        if self.view().peers().go_back() && !self.is_pinned() && self.entry().mode() == Mode::Tcp {
            self.entry().set_why(Why::new(Detail::PeerReturned));
            self.note_peer_reason();
        }
    }
}
