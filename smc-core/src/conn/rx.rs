//! Receiving on an attached connection.
//!
//! The direction's lock is held while bytes are moved and never while waiting. Under it, the reader's epoch says where
//! the next byte is: in the kernel's queue (even) or in the ring (odd), each up to the position where the sender
//! announced the next epoch.

use core::sync::atomic::Ordering;

use super::io::Buffers;
use super::tx::writable_space;
use super::wait::{May, Patience, Sleep, Step};
use super::{Conn, Way};
use crate::link::Bell;
use crate::lock::Held;
use crate::ring::{asked, Broken, View};
use crate::shared::RxState;
use crate::sys::{self, sock, Errno};

/// A receive call.
pub struct RxOp {
    pub buffers: Buffers,
    /// MSG_PEEK, MSG_WAITALL, MSG_TRUNC and MSG_DONTWAIT count.
    pub flags: i32,
    /// Bytes delivered so far.
    pub done: usize,
    /// Bytes without which the call waits, if it may: all with MSG_WAITALL, else SO_RCVLOWAT. 0: not looked up yet.
    target: usize,
    /// The buffers as they were at the first byte peeked.
    whole: Buffers,
    /// A peek that waits for all its bytes: what it found last.
    peeked: usize,
    /// The kernel is asked for the sender's end before the ring counts as empty. Not at first: asking costs more
    /// than a short spin, and a sleep asks as well.
    ask_kernel: bool,
    pub(super) patience: Patience,
}

impl RxOp {
    pub fn new(buffers: Buffers, flags: i32) -> RxOp {
        RxOp {
            buffers,
            flags,
            done: 0,
            target: 0,
            whole: buffers,
            peeked: 0,
            ask_kernel: false,
            patience: Patience::default(),
        }
    }

    /// A peek that waits for more than it has found begins anew: another reader may take bytes meanwhile.
    pub(super) fn peek_again(&mut self) {
        (self.peeked, self.done, self.buffers) = (self.done, 0, self.whole);
    }

    /// Bytes delivered, or found by the last peek.
    pub(super) fn seen(&self) -> usize {
        self.done.max(self.peeked)
    }
}

/// How often a reader that must let another finish looks again.
pub(super) const BUSY_CHECK_NS: u64 = 1_000_000;

/// What one attempt under the lock found.
enum Found {
    /// The call is complete.
    Complete,
    /// Nothing (more) to deliver now.
    Nothing,
    /// The ring is empty; the kernel has not been asked.
    RingEmpty,
    /// Somebody else is at it, for a moment: a read that knows nothing of the ring is still to take the last bytes
    /// from TCP, or the peer to send over TCP what this end recalled from the ring.
    Busy,
    Error(Errno),
    /// Not the connection the caller meant.
    Gone,
}

impl Conn {
    /// Takes the call as far as it goes without waiting.
    pub fn rx_step(&'static self, generation: u32, fd: i32, op: &mut RxOp) -> Step {
        if !self.is_attached() {
            return self.far_rx_step(generation, fd, op);
        }
        if op.target == 0 {
            op.target = self.rx_target(op);
        }
        loop {
            let owing = self.serve_recall(fd);
            // One that stands could not be served.
            let recalled = self.view().peers().recalls();
            let found = match self.end().rx.lock.lock() {
                Ok(held) => self.rx_try(held, generation, fd, op),
                Err(_) => Found::Error(Errno(libc::EAGAIN)),
            };
            let busy = matches!(found, Found::Busy);
            let unasked = matches!(found, Found::RingEmpty);
            let satisfied = op.done >= op.target;
            let mut limit_ns = match found {
                Found::Complete => return Step::Done(op.done),
                Found::Nothing | Found::RingEmpty | Found::Busy if satisfied => return Step::Done(op.done),
                Found::Gone if op.done == 0 => return Step::Fail(Errno(libc::EBADF)),
                Found::Error(e) if op.done == 0 => return Step::Fail(e),
                Found::Error(e) => {
                    // For the next call.
                    self.save_error(e);
                    return Step::Done(op.done);
                }
                Found::Gone => return Step::Done(op.done),
                Found::Nothing if self.rx_withheld() == Some(0) => continue,
                Found::Nothing => None,
                Found::RingEmpty => {
                    op.ask_kernel = true;
                    if op.flags & libc::MSG_DONTWAIT != 0 || !self.waits() {
                        continue;
                    }
                    if self.rx.spin.wait(self.view().rx().producer_cpu(), || self.rx_news(generation)) {
                        self.rx
                            .gather
                            .look_away(self.end().tx.tail.load(Ordering::Relaxed), || self.ring_bytes());
                        continue;
                    }
                    // The sleep watches the socket: it ends at once if the kernel has anything to tell.
                    None
                }
                Found::Busy => Some(BUSY_CHECK_NS),
            };
            let remaining_ns = match op.patience.ask(fd, op.flags, libc::SO_RCVTIMEO) {
                May::Wait { remaining_ns } => remaining_ns,
                May::NotAtAll => {
                    self.set_waits(false);
                    if unasked {
                        continue;
                    }
                    op.done = op.seen();
                    return if op.done > 0 { Step::Done(op.done) } else { Step::Fail(Errno(libc::EAGAIN)) };
                }
                May::Fail(e) => return Step::Fail(e),
            };
            self.set_waits(true);
            if owing {
                limit_ns = Some(BUSY_CHECK_NS);
            }
            let reset = self.quiet_bell(Bell::Data);
            self.rx_wait_begins();
            self.view().rx().want_data();
            asked();
            let limit = self.rx_limit();
            if (!busy && (self.rx_news(generation) || limit == Some(0)))
                || (!recalled && self.view().peers().recalls())
            {
                self.rx_wait_ends();
                if reset {
                    self.ring_own(Bell::Data);
                }
                continue;
            }
            let limit_ns = limit_ns.into_iter().chain(limit).min();
            // What is readable now is not for this reader while it lets another go first.
            let watched = if busy { (-1, 0) } else { (fd, libc::POLLIN | libc::POLLRDHUP) };
            return Step::Sleep(Sleep::new(watched, self.wakes_me(Bell::Data), remaining_ns, limit_ns));
        }
    }

    pub(super) fn rx_target(&self, op: &RxOp) -> usize {
        if op.flags & libc::MSG_WAITALL != 0 {
            return usize::MAX;
        }
        let whole = op.buffers.remaining() as u64;
        self.low_water().min(whole).max(1) as usize
    }

    /// Bytes in the ring for this end. Without the lock: may be wrong for a moment.
    fn ring_bytes(&self) -> u64 {
        let rx = &self.end().rx;
        let view = self.view();
        let seen =
            view.rx().view(rx.head.load(Ordering::Relaxed), rx.epoch.load(Ordering::Relaxed), view.rx_size());
        seen.map_or(0, |seen| seen.bytes)
    }

    /// Whether the ring has something that a reader has not seen. Without the lock: may be wrong for a moment.
    #[inline]
    pub(crate) fn rx_news(&self, generation: u32) -> bool {
        let rx = &self.end().rx;
        let epoch = rx.epoch.load(Ordering::Relaxed);
        let view = self.view();
        if self.generation() != generation {
            return true;
        }
        match view.rx().view(rx.head.load(Ordering::Relaxed), epoch, view.rx_size()) {
            Ok(v) if epoch & 1 == 1 => v.bytes > 0 || v.next.is_some(),
            // On TCP, with bytes still to come before the switch: the kernel says when they are there.
            Ok(v) => v.next == Some(rx.tcp.load(Ordering::Relaxed)),
            Err(Broken) => true,
        }
    }

    fn rx_try(&self, held: Held, generation: u32, fd: i32, op: &mut RxOp) -> Found {
        if self.generation() != generation || !self.is_attached() {
            return Found::Gone;
        }
        let rx = &self.end().rx;
        let mut wake = false;
        let peeks = op.flags & libc::MSG_PEEK != 0;
        let peeks_all = peeks && op.flags & libc::MSG_WAITALL != 0;
        if peeks_all {
            self.look_for_fin(fd);
        }
        let fin_seen = self.fin_seen();
        let found = loop {
            if op.buffers.remaining() == 0 {
                break Found::Complete;
            }
            let epoch = rx.epoch.load(Ordering::Relaxed);
            let head = rx.head.load(Ordering::Relaxed);
            let view = self.view();
            let on_tcp = epoch & 1 == 0;
            if on_tcp {
                view.rx().begin_tcp_read();
            }
            let moved = match view.rx().view(head, epoch, view.rx_size()) {
                Ok(seen) if on_tcp => self.rx_tcp(rx, seen, fd, op),
                Ok(seen) => self.rx_ring(rx, head, seen, fd, op, &mut wake),
                Err(Broken) => Moved::Stop(Found::Error(self.broken(fd))),
            };
            if on_tcp {
                view.rx().end_tcp_read();
            }
            match moved {
                Moved::Some if peeks => {
                    self.peek_on(rx, fd, op);
                    if peeks_all && !fin_seen && op.buffers.remaining() > 0 {
                        // Nothing tells that there are more bytes than were seen already.
                        op.peek_again();
                        break Found::Busy;
                    }
                    break Found::Complete;
                }
                // A read that returns less than asked for says that there is no more: edge-triggered programs count
                // on it (epoll(7)). So an end of a segment must not show.
                Moved::Some if op.done >= op.target && !self.rx_news(generation) => {
                    break Found::Complete;
                }
                Moved::Some | Moved::Again => {}
                Moved::Next => self.rx_reach(rx, epoch + 1),
                Moved::Stop(found) => break found,
            }
        };
        drop(held);
        if wake {
            self.ring_peer();
        }
        found
    }

    /// A peek has seen bytes of the segment that the reader is in: goes on in those behind it, as far as they are here.
    /// Programs wait in a loop until a peek shows a whole header.
    fn peek_on(&self, rx: &RxState, fd: i32, op: &mut RxOp) {
        if op.buffers.remaining() > 0 {
            self.view().rx().begin_tcp_read();
            self.peek_segments(rx, fd, op);
            self.view().rx().end_tcp_read();
        }
    }

    fn peek_segments(&self, rx: &RxState, fd: i32, op: &mut RxOp) {
        let view = self.view();
        let mut epoch = rx.epoch.load(Ordering::Relaxed);
        // The next byte not yet peeked, in each medium.
        let mut ring = rx.head.load(Ordering::Relaxed);
        let mut tcp = rx.tcp.load(Ordering::SeqCst);
        let mut from_tcp = None;
        if epoch & 1 == 1 {
            ring += op.done as u64;
        } else {
            tcp += op.done as u64;
            from_tcp = Some(op.whole.first(op.done));
        }
        let flags = op.flags & (libc::MSG_PEEK | libc::MSG_TRUNC);
        while op.buffers.remaining() > 0 {
            let at = if epoch & 1 == 1 { ring } else { tcp };
            match view.rx().view(ring, epoch, view.rx_size()) {
                Ok(seen) if seen.next == Some(at) => epoch = epoch.wrapping_add(1),
                _ => return,
            }
            let Ok(seen) = view.rx().view(ring, epoch, view.rx_size()) else { return };
            let limit = |at: u64| seen.next.map_or(u64::MAX, |next| next.wrapping_sub(at));
            if epoch & 1 == 1 {
                let n = seen.bytes.min(limit(ring)).min(op.buffers.remaining() as u64) as usize;
                let Ok(pieces) = view.rx_pieces(ring, n) else { return };
                op.buffers.copy_from(pieces, flags & libc::MSG_TRUNC != 0);
                op.done += n;
                ring += n as u64;
            } else {
                let max = limit(tcp).min(usize::MAX as u64) as usize;
                let before = op.buffers;
                let n = match from_tcp {
                    None => op.buffers.transfer(fd, flags, max, true),
                    Some(already) => op.buffers.peek_behind(already, fd, flags, max),
                };
                let Ok(n) = n else { return };
                op.done += n;
                tcp += n as u64;
                from_tcp = from_tcp.or(Some(before.first(n)));
            }
        }
    }

    /// The reader goes on in epoch `epoch`.
    fn rx_reach(&self, rx: &RxState, epoch: u32) {
        rx.epoch.store(epoch, Ordering::Relaxed);
        self.view().rx().reach(epoch);
        self.show_mode();
    }

    /// Delivers from the ring.
    #[inline]
    fn rx_ring(&self, rx: &RxState, head: u64, seen: View, fd: i32, op: &mut RxOp, wake: &mut bool) -> Moved {
        let view = self.view();
        if view.mine().is_recalling() && seen.next != Some(head) {
            if seen.bytes == 0 {
                return self.rx_ring_empty(rx, head, fd, op);
            }
            // The peer is to send over TCP what lies in the ring; one that is gone without doing so does not.
            self.look_for_fin(fd);
            if !self.fin_seen() || !view.mine().withdraw_recall() {
                return Moved::Stop(Found::Busy);
            }
        }
        let mut available = seen.bytes;
        if let Some(next) = seen.next {
            let until_next = next.wrapping_sub(head);
            if until_next == 0 {
                return Moved::Next;
            }
            if until_next > view.rx_size() {
                return Moved::Stop(Found::Error(self.broken(fd)));
            }
            available = available.min(until_next);
            if available == 0 {
                // Announced after the bytes before it were published: they must be there at a second look.
                match view.rx().view(head, rx.epoch.load(Ordering::Relaxed), view.rx_size()) {
                    Ok(v) if v.bytes > 0 => return Moved::Again,
                    _ => return Moved::Stop(Found::Error(self.broken(fd))),
                }
            }
        }
        if available == 0 {
            return self.rx_ring_empty(rx, head, fd, op);
        }
        let n = (op.buffers.remaining() as u64).min(available) as usize;
        let Ok(pieces) = view.rx_pieces(head, n) else { return Moved::Stop(Found::Error(self.broken(fd))) };
        op.buffers.copy_from(pieces, op.flags & libc::MSG_TRUNC != 0);
        op.done += n;
        if op.flags & libc::MSG_PEEK == 0 {
            let head = head + n as u64;
            rx.head.store(head, Ordering::Relaxed);
            let enough = self.enough_space(seen.bytes - n as u64, view.rx_size());
            *wake |= view.rx().publish_head(head, enough);
            view.rx().set_consumer_cpu(sys::cpu());
            self.entry().add_ring_rx(n as u64);
        }
        Moved::Some
    }

    /// Whether a producer that waits for space should hear of `used` bytes being left: not for every byte, else a
    /// full ring would cost a wake-up for each read.
    #[inline]
    fn enough_space(&self, used: u64, size: u64) -> bool {
        used <= size - writable_space(size)
    }

    /// The ring is empty: the kernel knows whether the sender is gone.
    fn rx_ring_empty(&self, rx: &RxState, head: u64, fd: i32, op: &mut RxOp) -> Moved {
        if op.done >= op.target {
            return Moved::Stop(Found::Complete);
        }
        if !op.ask_kernel {
            return Moved::Stop(Found::RingEmpty);
        }
        if let Some(e) = self.take_saved_error() {
            return Moved::Stop(Found::Error(e));
        }
        let mut byte = 0u8;
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        // SAFETY: one byte is written to `byte`.
        let peeked = unsafe { sys!(SYS_recvfrom, fd, &mut byte as *mut u8, 1, flags, 0, 0) };
        let view = self.view();
        let epoch = rx.epoch.load(Ordering::Relaxed);
        match peeked {
            Err(Errno(libc::EAGAIN)) => Moved::Stop(Found::Nothing),
            Err(e) if self.rx_take_withheld() => {
                self.set_fin_seen();
                self.save_error(e);
                Moved::Again
            }
            Err(e) => match view.rx().view(head, epoch, view.rx_size()) {
                // What was sent before the reset is delivered before it; the kernel reports the error only once.
                Ok(v) if v.bytes > 0 || v.next.is_some() => {
                    self.set_fin_seen();
                    self.save_error(e);
                    Moved::Again
                }
                _ => Moved::Stop(Found::Error(e)),
            },
            Ok(0) if self.rx_take_withheld() => Moved::Again,
            Ok(0) => {
                self.set_fin_seen();
                // The FIN was sent after the last byte was produced.
                match view.rx().view(head, epoch, view.rx_size()) {
                    Ok(v) if v.bytes > 0 || v.next.is_some() => Moved::Again,
                    _ => Moved::Stop(Found::Complete),
                }
            }
            Ok(_) => match view.rx().view(head, epoch, view.rx_size()) {
                Ok(v) if v.bytes > 0 || v.next.is_some() => Moved::Again,
                // Nobody announced these: a writer that the peer's library did not see. They are part of the stream.
                Ok(_) => {
                    log::warn!("fd {fd}: bytes on TCP that were not announced");
                    self.rx_kernel(rx, usize::MAX, fd, op)
                }
                Err(Broken) => Moved::Stop(Found::Error(self.broken(fd))),
            },
        }
    }

    /// Delivers from the kernel, up to the announced switch.
    fn rx_tcp(&self, rx: &RxState, seen: View, fd: i32, op: &mut RxOp) -> Moved {
        self.note_blind_reads();
        self.verify_rx_locked(rx, fd);
        let mut limit = usize::MAX;
        if let Some(next) = seen.next {
            if self.native_calls(Way::Rx) > 0 {
                // An older read without limit is under way; the bytes before the switch are for it.
                return Moved::Stop(Found::Busy);
            }
            let until_next = next.wrapping_sub(rx.tcp.load(Ordering::SeqCst));
            if until_next == 0 {
                return Moved::Next;
            }
            if until_next > i64::MAX as u64 {
                return Moved::Stop(Found::Error(self.broken(fd)));
            }
            limit = until_next as usize;
        }
        self.rx_kernel(rx, limit, fd, op)
    }

    fn rx_kernel(&self, rx: &RxState, limit: usize, fd: i32, op: &mut RxOp) -> Moved {
        if op.done == 0 {
            if let Some(e) = self.take_saved_error() {
                return Moved::Stop(Found::Error(e));
            }
        } else if sock::at_mark(fd) {
            // A read stops before what follows urgent data (tcp(7)); the kernel does not know that this one has bytes.
            return Moved::Stop(Found::Complete);
        }
        let flags = op.flags & (libc::MSG_PEEK | libc::MSG_TRUNC);
        match op.buffers.transfer(fd, flags, limit, true) {
            Ok(0) => {
                // With a switch announced but its bytes not all here, the sender died in between: TCP's end is
                // the end. Without one, look once more: the announcement precedes the FIN.
                self.set_fin_seen();
                let view = self.view();
                let (head, epoch) = (rx.head.load(Ordering::Relaxed), rx.epoch.load(Ordering::Relaxed));
                match view.rx().view(head, epoch, view.rx_size()) {
                    Ok(v) if v.next == Some(rx.tcp.load(Ordering::SeqCst)) && epoch & 1 == 0 => Moved::Again,
                    _ => Moved::Stop(Found::Complete),
                }
            }
            Ok(n) => {
                op.done += n;
                if flags & libc::MSG_PEEK == 0 {
                    self.count_tcp(Way::Rx, n as u64);
                }
                Moved::Some
            }
            Err(Errno(libc::EAGAIN)) => {
                // Announcements come before the bytes they speak of: one may have come since the look.
                let view = self.view();
                let (head, epoch) = (rx.head.load(Ordering::Relaxed), rx.epoch.load(Ordering::Relaxed));
                match view.rx().view(head, epoch, view.rx_size()) {
                    Ok(v) if epoch & 1 == 0 && v.next == Some(rx.tcp.load(Ordering::SeqCst)) => Moved::Again,
                    _ => Moved::Stop(Found::Nothing),
                }
            }
            Err(Errno(libc::EINTR)) => Moved::Again,
            Err(e) if op.done > 0 => {
                self.save_error(e);
                Moved::Stop(Found::Complete)
            }
            Err(e) => Moved::Stop(Found::Error(e)),
        }
    }
}

enum Moved {
    /// Bytes were delivered.
    Some,
    /// Look again.
    Again,
    /// The announced position is reached.
    Next,
    Stop(Found),
}
