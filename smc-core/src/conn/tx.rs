//! Sending on an attached connection.
//!
//! Mirror image of [`super::rx`]. The sender alone decides where its direction runs:
//!
//! - to the ring, when the peer is attached and has read everything so far: it announces how many bytes of TCP are
//!   still to come *before* it writes them, so that a reader asleep in the kernel in the old way is woken by them;
//! - back to TCP, when the peer asks, when the peer has closed its own sending side (then only the kernel can say
//!   whether anybody still reads), when the program needs something that only TCP has, and when the ring has been
//!   full for a while: the kernel's buffers are larger, and a program that writes much before anybody reads works as
//!   it does without us.

use core::sync::atomic::Ordering;

use super::io::{Dry, Source, DRY};
use super::wait::{May, Patience, Sleep, Step};
use super::watch::{Watch, LOOK_NS};
use super::{Conn, Way};
use crate::link::{lending, Bell};
use crate::lock::Held;
use crate::ring::{asked, Broken, MAX_LEAD};
use crate::shared::TxState;
use crate::sys::{self, sock, Errno};
use crate::{config, epoll, reason};

/// A send call.
pub struct TxOp {
    pub source: Source,
    /// MSG_DONTWAIT and MSG_NOSIGNAL count.
    pub flags: i32,
    /// Bytes taken so far.
    pub done: usize,
    pub(super) patience: Patience,
    /// On shared memory: what it sleeps on, and the doorbell that is in it.
    watch: Option<(Watch, i32)>,
}

impl TxOp {
    pub fn new(source: Source, flags: i32) -> TxOp {
        TxOp { source, flags, done: 0, patience: Patience::default(), watch: None }
    }

    /// To be called by who leaves the call after a sleep, without another step.
    pub fn give_up(&mut self) {
        if let Some((watch, bell)) = self.watch.take() {
            let removed = watch.remove(bell);
            watch.give_back(removed);
        }
    }
}

/// Bytes written to TCP after a switch to the ring is announced: enough to wake a reader.
const LAST_ON_TCP: usize = 1024;
/// Bytes after which a sender looks whether the ring is empty and can begin anew. Half a page: requests and answers then
/// keep to one page. The look is at a line that the peer has written, so not for every byte.
const REBASE_AFTER: u64 = 2048;
/// How long a full ring may stand still before the sender goes on over TCP.
const FULL_NS: u64 = 20_000_000;
/// How often a sender that cannot return to TCP yet, but must, looks again.
const MUST_RETURN_NS: u64 = 1_000_000;
/// How long a sender whose peer has closed waits for a read of the peer to end.
const GONE_NS: u64 = 1_000_000_000;
/// Calls after a return to TCP before the next move; doubles with every return.
const FIRST_PATIENCE: u32 = 64;
const MAX_PATIENCE: u32 = 1 << 20;

enum Found {
    Complete,
    /// The ring (or, second, the kernel's buffer) has no space now.
    RingFull,
    TcpFull,
    /// The pipe that feeds the call is empty.
    SourceDry,
    Error(Errno),
    /// The kernel is to see the call as it is: it raises SIGPIPE, for one.
    Native,
    Gone,
}

/// Free bytes from which a ring of `size` bytes counts as writable: a third of what is used, as TCP has it, would
/// wake writers for a few bytes.
pub(crate) fn writable_space(size: u64) -> u64 {
    size / 2
}

impl Conn {
    /// Takes the call as far as it goes without waiting.
    pub fn tx_step(&'static self, generation: u32, fd: i32, op: &mut TxOp) -> Step {
        let step = match self.is_attached() {
            true => self.near_tx_step(generation, fd, op),
            false => self.far_tx_step(generation, fd, op),
        };
        if !matches!(step, Step::Sleep(_)) {
            op.give_up();
        }
        step
    }

    #[inline]
    fn near_tx_step(&'static self, generation: u32, fd: i32, op: &mut TxOp) -> Step {
        loop {
            op.watch = op.watch.filter(|(watch, _)| watch.fd() >= 0);
            if let Some((watch, _)) = &op.watch {
                watch.clear();
            }
            let found = match self.end().tx.lock.lock() {
                Ok(held) => self.tx_try(held, generation, fd, op),
                Err(_) => Found::Error(Errno(libc::EAGAIN)),
            };
            let on_ring = match found {
                Found::Complete => return Step::Done(op.done),
                Found::Native if op.done == 0 => return Step::Native,
                Found::Gone if op.done == 0 => return Step::Fail(Errno(libc::EBADF)),
                Found::Error(e) if op.done == 0 => return Step::Fail(e),
                Found::Error(e) => {
                    if e != Errno(libc::EPIPE) {
                        // For the next call.
                        self.save_error(e);
                    }
                    return Step::Done(op.done);
                }
                Found::Gone | Found::Native => return Step::Done(op.done),
                Found::SourceDry => match &op.source {
                    Source::Pipe { fd: pipe, wait: true, .. } if op.done == 0 => {
                        return Step::Sleep(Sleep::new((*pipe, libc::POLLIN), (Bell::Space, -1), None, None));
                    }
                    _ if op.done > 0 => return Step::Done(op.done),
                    _ => return Step::Fail(Errno(libc::EAGAIN)),
                },
                Found::RingFull => true,
                Found::TcpFull => false,
            };
            let remaining_ns = match op.patience.ask(fd, op.flags, libc::SO_SNDTIMEO) {
                May::Wait { remaining_ns } => remaining_ns,
                May::NotAtAll => {
                    self.end().tx.starved.fetch_add(1, Ordering::Relaxed);
                    if on_ring {
                        self.tx_starved(generation);
                    }
                    return if op.done > 0 { Step::Done(op.done) } else { Step::Fail(Errno(libc::EAGAIN)) };
                }
                May::Fail(e) => return Step::Fail(e),
            };
            if !on_ring {
                // What the doorbell is rung for may have come before it was watched.
                if op.watch.is_none() && self.watch_space(op) {
                    continue;
                }
                return self.space_sleep(op, (fd, libc::POLLOUT), remaining_ns, None);
            }
            let view = self.view();
            if self.tx.spin.wait(view.tx().consumer_cpu(), || self.tx_writable(generation)) {
                continue;
            }
            if op.watch.is_none() {
                self.watch_space(op);
            }
            view.tx().want_space();
            asked();
            if self.tx_writable(generation) {
                continue;
            }
            // The peer's end, once seen, does not wake anybody again.
            let (events, limit) =
                if self.tx_must_return() { (0, MUST_RETURN_NS) } else { (libc::POLLRDHUP, FULL_NS) };
            // Whoever comes back from this without space goes on over TCP.
            return self.space_sleep(op, (fd, events), remaining_ns, Some(limit));
        }
    }

    /// Begins to watch the doorbell. False: there is nothing to watch it with.
    fn watch_space(&self, op: &mut TxOp) -> bool {
        let Some(watch) = Watch::take() else { return false };
        let bell = self.doorbell(Bell::Space);
        if watch.add(bell).is_err() {
            watch.give_back(true);
            return false;
        }
        watch.clear();
        op.watch = Some((watch, bell));
        true
    }

    fn space_sleep(
        &self,
        op: &TxOp,
        socket: (i32, i16),
        remaining_ns: Option<u64>,
        limit_ns: Option<u64>,
    ) -> Step {
        let (watch, limit_ns) = match &op.watch {
            Some((watch, _)) => (watch.fd(), limit_ns),
            None => (-1, Some(limit_ns.map_or(LOOK_NS, |limit| limit.min(LOOK_NS)))),
        };
        Step::Sleep(Sleep::new(socket, (Bell::Space, watch), remaining_ns, limit_ns))
    }

    /// A writer that may not wait found the ring full: it will wait in poll or epoll, if at all.
    #[cold]
    fn tx_starved(&self, generation: u32) {
        self.view().tx().want_space();
        asked();
        if self.tx_writable(generation) {
            self.ring_own(Bell::Space);
        }
        epoll::connection_starved(self);
    }

    /// Whether the ring has room worth waking a writer for, or something else that a writer must see.
    #[inline]
    pub(crate) fn tx_writable(&self, generation: u32) -> bool {
        let tx = &self.end().tx;
        let view = self.view();
        if self.generation() != generation || tx.epoch.load(Ordering::Relaxed) & 1 == 0 {
            return true;
        }
        match view.tx().space(tx.tail.load(Ordering::Relaxed), view.tx_size()) {
            Ok(space) if space >= writable_space(view.tx_size()) => true,
            Ok(_) => (self.tx_must_return() || self.tx_full_for_long()) && self.tx_can_return(tx),
            Err(Broken) => true,
        }
    }

    /// A poll is to wait for space: from now on the ring counts as full.
    pub(crate) fn tx_note_full(&self) {
        let tx = &self.end().tx;
        let view = self.view();
        let tail = tx.tail.load(Ordering::Relaxed);
        let Ok(space) = view.tx().space(tail, view.tx_size()) else { return };
        if space < writable_space(view.tx_size()) && tx.full_since.load(Ordering::Relaxed) == 0 {
            tx.full_head.store(tail.wrapping_sub(view.tx_size() - space), Ordering::Relaxed);
            tx.full_since.store(sys::now_ns(), Ordering::Relaxed);
        }
    }

    /// The ring has been full for so long, with nobody taking anything, that the sender may go on over TCP.
    pub(crate) fn tx_full_for_long(&self) -> bool {
        let tx = &self.end().tx;
        let since = tx.full_since.load(Ordering::Relaxed);
        if since == 0 {
            return false;
        }
        let view = self.view();
        let head = view.tx().consumer_head(tx.tail.load(Ordering::Relaxed), view.tx_size()).unwrap_or(0);
        let now = sys::now_ns();
        if tx.full_head.swap(head, Ordering::Relaxed) != head {
            tx.full_since.store(now, Ordering::Relaxed);
            return false;
        }
        now.saturating_sub(since) >= FULL_NS
    }

    /// The ring has been full, and stood still, for `ns`.
    fn tx_full_for(&self, ns: u64) -> bool {
        let since = self.end().tx.full_since.load(Ordering::Relaxed);
        since != 0 && sys::now_ns().saturating_sub(since) >= ns
    }

    /// How long a wait for space may sleep before it must look at [`Conn::tx_full_for_long`]; `None`: the ring is
    /// not full, or not in use.
    pub fn tx_full_limit(&self) -> Option<u64> {
        let tx = &self.end().tx;
        let full = tx.epoch.load(Ordering::Relaxed) & 1 == 1 && tx.full_since.load(Ordering::Relaxed) != 0;
        full.then_some(FULL_NS)
    }

    /// The sending direction is to leave the ring.
    #[inline]
    fn tx_must_return(&self) -> bool {
        let view = self.view();
        self.fin_seen() || view.peers().go_back() || view.peers().closed() || self.is_pinned()
    }

    fn tx_try(&self, held: Held, generation: u32, fd: i32, op: &mut TxOp) -> Found {
        if self.generation() != generation || !self.is_attached() {
            return Found::Gone;
        }
        let tx = &self.end().tx;
        tx.calls.store(tx.calls.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        let mut wake = false;
        let found = loop {
            if self.view().peers().recalls() || tx.owes.load(Ordering::Relaxed) != 0 {
                match self.tx_give_back(tx, fd, &mut wake) {
                    Ok(()) => {}
                    Err(Errno(libc::EAGAIN)) if tx.owes.load(Ordering::Relaxed) != 0 => break Found::TcpFull,
                    // Not possible yet: what is sent meanwhile is recalled with the rest.
                    Err(Errno(libc::EAGAIN)) => {}
                    Err(e) => break Found::Error(e),
                }
            }
            if op.source.remaining() == 0 {
                break Found::Complete;
            }
            let epoch = tx.epoch.load(Ordering::Relaxed);
            let moved = if epoch & 1 == 1 {
                self.tx_ring(tx, epoch, fd, op, &mut wake)
            } else {
                self.tx_tcp(tx, epoch, fd, op, &mut wake)
            };
            if let Some(found) = moved {
                break found;
            }
        };
        drop(held);
        if wake {
            self.ring_peer();
        }
        found
    }

    /// `None`: go on.
    #[inline]
    fn tx_ring(&self, tx: &TxState, epoch: u32, fd: i32, op: &mut TxOp, wake: &mut bool) -> Option<Found> {
        let view = self.view();
        let dir = view.tx();
        let size = view.tx_size();
        let tail = tx.tail.load(Ordering::Relaxed);
        if view.mine().closed() {
            // Shut down: the kernel says EPIPE.
            return Some(Found::Native);
        }
        if (self.tx_must_return() || test_switch()) && self.tx_return(tx, epoch, tail, wake) {
            return None;
        }
        let used = tail.wrapping_sub(tx.head_seen.load(Ordering::Relaxed));
        let mut space = size.wrapping_sub(used);
        let tick = sys::coarse_ns();
        let ticked = tx.tick.load(Ordering::Relaxed) != tick;
        if ticked {
            tx.tick.store(tick, Ordering::Relaxed);
        }
        if ticked || used > size || space < op.source.remaining() as u64 {
            match dir.space(tail, size) {
                Ok(s) => {
                    space = s;
                    self.tx_note_head(tx, tail.wrapping_sub(size - s), fd);
                }
                Err(Broken) => return Some(Found::Error(self.broken(fd))),
            }
        }
        if space == 0 {
            if tx.full_since.load(Ordering::Relaxed) == 0 {
                tx.full_since.store(sys::now_ns(), Ordering::Relaxed);
                tx.full_head.store(tail.wrapping_sub(size), Ordering::Relaxed);
            } else if self.tx_full_for_long() && self.tx_return(tx, epoch, tail, wake) {
                return None;
            }
            return Some(Found::RingFull);
        }
        let n = (op.source.remaining() as u64).min(space) as usize;
        if tx.full_since.load(Ordering::Relaxed) != 0
            && space < writable_space(size)
            && self.tx_full_for_long()
            && self.tx_return(tx, epoch, tail, wake)
        {
            return None;
        }
        let mut buffer = tx.buffer.load(Ordering::Relaxed);
        if buffer == 0 {
            let Some(borrowed) = lending::borrow(&view, tx) else {
                // For a child of whose making nobody knew, or a signal handler that came at the wrong time.
                return (!self.tx_return(tx, epoch, tail, wake)).then_some(Found::RingFull);
            };
            buffer = borrowed;
        }
        if buffer != tx.placed.load(Ordering::Relaxed) {
            // The ring was empty when it had no buffer, and still is.
            dir.set_place(buffer - 1, tail);
            tx.placed.store(buffer, Ordering::Relaxed);
            tx.rebase_at.store(tail + REBASE_AFTER, Ordering::Relaxed);
        } else if tail >= tx.rebase_at.load(Ordering::Relaxed) {
            if dir.space(tail, size) == Ok(size) {
                dir.set_place(buffer - 1, tail);
            }
            tx.rebase_at.store(tail + REBASE_AFTER, Ordering::Relaxed);
        }
        let Ok(pieces) = view.tx_pieces(buffer - 1, tail, n) else {
            return Some(Found::Error(self.broken(fd)));
        };
        let n = match op.source.fill(pieces) {
            Ok(n) => n,
            Err(Dry::End) => return Some(Found::Complete),
            Err(Dry::Later) => return Some(Found::SourceDry),
            Err(Dry::Error(e)) => return Some(Found::Error(e)),
        };
        op.done += n;
        if tx.full_since.load(Ordering::Relaxed) != 0 {
            tx.full_since.store(0, Ordering::Relaxed);
        }
        let tail = tail + n as u64;
        tx.tail.store(tail, Ordering::Relaxed);
        if tx.cork.load(Ordering::Relaxed) != 0 || op.flags & libc::MSG_MORE != 0 {
            *wake |= self.tx_hold(tx, tail, n, op);
        } else {
            *wake |= dir.publish_tail(tail);
        }
        dir.set_producer_cpu(sys::cpu());
        self.entry().add_ring_tx(n as u64);
        if matches!(op.source, Source::File { .. } | Source::Pipe { .. }) && op.source.remaining() > 0 {
            // The next bytes may take a while to read.
            if core::mem::take(wake) {
                self.ring_peer();
            }
        }
        None
    }

    /// Gives up the direction's buffer, if it is empty and was not used in this tick of the coarse clock (1 to 10 ms). With the
    /// links' lock held.
    pub(crate) fn tx_lend(&self, generation: u32) -> bool {
        if self.generation() != generation || !self.is_attached() {
            return false;
        }
        let end = self.end();
        let tx = &end.tx;
        if tx.tick.load(Ordering::Relaxed) == sys::coarse_ns() {
            return false;
        }
        // A sender may hold the lock and wait for that of the links.
        let Some(_held) = tx.lock.try_lock() else { return false };
        if self.generation() != generation || !self.is_attached() {
            return false;
        }
        let view = self.view();
        let empty = view.tx().space(tx.tail.load(Ordering::Relaxed), view.tx_size()) == Ok(view.tx_size());
        if !empty || tx.owes.load(Ordering::Relaxed) != 0 || !end.held_alone() {
            return false;
        }
        tx.buffer.store(0, Ordering::Relaxed);
        true
    }

    /// Keeps the peer's head as last seen. A head that stands still while we write may belong to a peer that is
    /// gone, of which only the kernel knows: look, ever more rarely.
    fn tx_note_head(&self, tx: &TxState, head: u64, fd: i32) {
        if tx.head_seen.load(Ordering::Relaxed) != head {
            tx.head_seen.store(head, Ordering::Relaxed);
            tx.stalled.store(0, Ordering::Relaxed);
            return;
        }
        if tx.stalled.fetch_add(1, Ordering::Relaxed).wrapping_add(1).is_power_of_two() {
            self.look_for_fin(fd);
        }
    }

    /// Asks the kernel whether the peer has closed its sending side or is gone.
    pub fn look_for_fin(&self, fd: i32) {
        let mut look = [libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 }];
        if sys::poll(&mut look, 0).is_ok_and(|n| n > 0) {
            self.set_fin_seen();
        }
    }

    /// Returns to TCP before the byte of the ring at `position`, if the peer is ready for that.
    #[cold]
    pub(super) fn tx_return(&self, tx: &TxState, epoch: u32, position: u64, wake: &mut bool) -> bool {
        if !self.tx_can_return(tx) {
            return false;
        }
        *wake |= self.tx_let_go(tx);
        self.tx_announce(tx, epoch + 1, position, wake);
        tx.epoch.store(epoch + 1, Ordering::Relaxed);
        tx.full_since.store(0, Ordering::Relaxed);
        tx.calls.store(0, Ordering::Relaxed);
        let patience = tx.patience.load(Ordering::Relaxed);
        tx.patience.store((patience * 2).clamp(FIRST_PATIENCE, MAX_PATIENCE), Ordering::Relaxed);
        self.show_mode();
        true
    }

    /// Whether the peer is ready for a return to TCP.
    fn tx_can_return(&self, tx: &TxState) -> bool {
        let view = self.view();
        // A peer that says what cannot be is not waited for: it might be gone, and a writer would wait for ever. Its own
        // stream is all that can be harmed.
        let Ok(lag) = view.tx().lag(tx.announced.load(Ordering::Relaxed)) else { return true };
        // As long as a read may be under way on the peer's side that knows nothing of the ring, or not of our latest
        // switch to it, bytes sent over TCP could be taken by it for those before that switch.
        if lag >= MAX_LEAD {
            return false;
        }
        if lag == 0 || (view.peers().no_blind_reads() && !view.tx().tcp_read_under_way()) {
            return true;
        }
        // A reader that died in the middle of a read is not waited for: the kernel will answer for it.
        self.fin_seen() && self.tx_full_for(GONE_NS)
    }

    fn tx_announce(&self, tx: &TxState, epoch: u32, position: u64, wake: &mut bool) {
        tx.announced.store(epoch, Ordering::Relaxed);
        tx.switch_at.store(position, Ordering::Relaxed);
        *wake |= self.view().tx().announce(epoch, position);
    }

    /// Whether the direction may and should move to the ring now.
    fn tx_may_leave(&self, tx: &TxState, epoch: u32, fd: i32) -> bool {
        let view = self.view();
        if self.tx_must_return() {
            self.note_refusal();
            return false;
        }
        if !view.peers().attached() || view.mine().closed() {
            return false;
        }
        if self.native_calls(Way::Tx) > 0 || view.tx().lag(epoch) != Ok(0) {
            return false;
        }
        let patience = if config::get().test_switch > 0 { 0 } else { tx.patience.load(Ordering::Relaxed) };
        tx.calls.load(Ordering::Relaxed) >= patience && self.tx_verified(tx, fd)
    }

    fn tx_tcp(&self, tx: &TxState, epoch: u32, fd: i32, op: &mut TxOp, wake: &mut bool) -> Option<Found> {
        let mut limit = usize::MAX;
        let mut announced = tx.announced.load(Ordering::Relaxed);
        let written = tx.tcp.load(Ordering::SeqCst);
        if announced == epoch && matches!(op.source, Source::Buffers(_)) && self.tx_may_leave(tx, epoch, fd) {
            let last = op.source.remaining().min(LAST_ON_TCP) as u64;
            announced = epoch + 1;
            self.tx_announce(tx, announced, written + last, wake);
        }
        if announced != epoch {
            limit = tx.switch_at.load(Ordering::Relaxed).wrapping_sub(written) as usize;
        }
        // While the other direction is in the ring no data takes our acknowledgements along, so that Nagle's algorithm
        // would hold a small write for as long as the peer delays them.
        // Switching that off would also send what the program wants held.
        let holds = self.tx_may_hold(tx, op);
        let at_once = (!holds).then(|| sock::NoDelay::on(fd));
        let sent = op.source.send(fd, op.flags & (libc::MSG_MORE | libc::MSG_EOR), limit);
        drop(at_once);
        match sent {
            Ok(0) => Some(Found::Complete),
            Ok(n) => {
                op.done += n;
                self.count_tcp(Way::Tx, n as u64);
                if announced != epoch && n == limit {
                    tx.epoch.store(announced, Ordering::Relaxed);
                    self.show_mode();
                    if holds {
                        // What comes next is in the ring, and must not wait for these.
                        sock::push(fd);
                    }
                }
                None
            }
            Err(DRY) => Some(Found::SourceDry),
            Err(Errno(libc::EAGAIN)) => Some(Found::TcpFull),
            Err(Errno(libc::EINTR)) => None,
            Err(Errno(libc::EPIPE)) if op.flags & libc::MSG_NOSIGNAL == 0 => Some(Found::Native),
            Err(e) => Some(Found::Error(e)),
        }
    }

    /// Brings the sending direction to TCP for good before a call that only the kernel can make. False: the peer is
    /// not ready for it at this moment.
    pub fn tx_to_tcp(&self, generation: u32, why: reason::Why) -> bool {
        self.pin(why);
        let tx = &self.end().tx;
        let Ok(held) = tx.lock.lock() else { return false };
        if self.generation() != generation || !self.is_attached() {
            return true;
        }
        let mut wake = false;
        let on_tcp = self.tx_leave_ring(tx, tx.tail.load(Ordering::Relaxed), &mut wake);
        drop(held);
        if wake {
            self.ring_peer();
        }
        on_tcp
    }

    /// Makes the next byte one for TCP: the bytes of the ring from `position` on have not been sent.
    pub(super) fn tx_leave_ring(&self, tx: &TxState, position: u64, wake: &mut bool) -> bool {
        let epoch = tx.epoch.load(Ordering::Relaxed);
        if epoch & 1 == 1 {
            return self.tx_return(tx, epoch, position, wake);
        }
        if tx.announced.load(Ordering::Relaxed) == epoch {
            return true;
        }
        // A switch was announced and its last bytes are still owed: announce the way back too; between the two lies
        // an empty stretch of ring.
        tx.epoch.store(epoch + 1, Ordering::Relaxed);
        let returned = self.tx_return(tx, epoch + 1, position, wake);
        if !returned {
            tx.epoch.store(epoch, Ordering::Relaxed);
        }
        returned
    }

    /// This end will not send any more (shutdown).
    pub fn note_shutdown_tx(&self, fd: i32) {
        if self.is_attached() {
            self.let_go();
            self.pay_debt(fd);
            // With the lock, no request of the peer is granted at the same time.
            let held = self.end().tx.lock.lock();
            self.view().mine().set_closed();
            drop(held);
        }
    }
}

/// In tests: leave the medium now?
fn test_switch() -> bool {
    let n = config::get().test_switch;
    n > 0 && sys::now_ns() / 64 % n as u64 == 0
}
