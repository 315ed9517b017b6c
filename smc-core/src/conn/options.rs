//! Options that act on the ring as they do on TCP: SO_RCVLOWAT, TCP_CORK with MSG_MORE, and SO_ERROR.
//!
//! All of it is off the usual path: a sender looks at [`TxState::cork`], a reader at [`crate::shared::RxState::lowat`] or at a mark of the
//! sender's, and comes here only if there is something to do.
//!
//! # Low-water mark
//! TCP keeps the mark too, so that waiting on a stretch of TCP needs nothing of ours. In the ring, bytes are counted here.
//! While the end of a stretch of ring and the beginning of one of TCP are both waiting, only their sum tells; the kernel
//! wakes nobody for it, so waits look again from time to time ([`Conn::rx_limit`]).
//!
//! A read that sleeps in the kernel since before the connection moved, with a mark above 1, would not be woken by the last
//! bytes on TCP: with a mark, a connection moves when no such read is under way.
//!
//! # Bytes held back
//! A corked sender writes to the ring without publishing. The bytes leave when it uncorks, sends without MSG_MORE, has
//! written a record's worth, shuts down or closes; and else after 200 ms, as on TCP. No thread of the sender's keeps that
//! time: the sender says until when the bytes are held, and a reader that finds nothing else takes them from then on.

use core::sync::atomic::Ordering;

use super::tx::TxOp;
use super::Conn;
use crate::shared::TxState;
use crate::sys::{self, sock, Errno};

/// For how long bytes are held back at most: the kernel's least retransmission timeout (TCP_RTO_MIN).
const HOLD_MS: u32 = 200;
/// More than this is not held back: what one segment takes on the loopback interface (MTU 65536), roughly.
const RECORD: u64 = 64 << 10;
/// How often a wait looks again for what the kernel wakes nobody for.
const LOOK_NS: u64 = 1_000_000;

/// In [`TxState::cork`]: the program has set TCP_CORK.
pub(super) const CORKED: u32 = 1;
/// In [`TxState::cork`]: bytes from [`TxState::held_from`] on are held back.
const HOLDS: u32 = 2;

/// CLOCK_MONOTONIC in milliseconds, wrapping, never 0.
fn now_ms() -> u32 {
    ((sys::now_ns() / 1_000_000) as u32).max(1)
}

impl Conn {
    /// Takes over what the program has set before the connection could be followed in detail.
    pub(crate) fn learn_options(&self, fd: i32) {
        self.low_water_changed(fd);
        self.cork_changed(sock::int_option(fd, libc::IPPROTO_TCP, libc::TCP_CORK).unwrap_or(0) != 0);
    }

    // --- SO_RCVLOWAT ---

    /// SO_RCVLOWAT may have changed.
    pub fn low_water_changed(&self, fd: i32) {
        let mark = sock::int_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT).unwrap_or(1);
        self.end().rx.lowat.store(mark.max(1) as u32, Ordering::SeqCst);
    }

    /// Bytes that make the connection readable.
    #[inline]
    pub(super) fn low_water(&self) -> u64 {
        self.end().rx.lowat.load(Ordering::Relaxed) as u64
    }

    /// Whether bytes in the ring, alone or together with some on TCP, reach the low-water mark. What TCP has alone, the
    /// kernel tells.
    #[cold]
    pub(super) fn ring_reaches_low_water(&self) -> bool {
        let rx = &self.end().rx;
        let view = self.view();
        let epoch = rx.epoch.load(Ordering::Relaxed);
        match view.rx().view(rx.head.load(Ordering::Relaxed), epoch, view.rx_size()) {
            Ok(seen) if seen.next.is_some() => self.readable_now(self.listed_fd()) >= self.low_water(),
            Ok(seen) => epoch & 1 == 1 && seen.bytes >= self.low_water(),
            Err(_) => true,
        }
    }

    /// Bytes that a read could get now, from both media.
    pub fn readable_now(&self, fd: i32) -> u64 {
        self.readable_bytes(sock::queued(fd).unwrap_or(0))
    }

    /// Whether bytes of the ring wait together with bytes of TCP behind them.
    fn rx_is_mixed(&self) -> bool {
        let rx = &self.end().rx;
        let view = self.view();
        let epoch = rx.epoch.load(Ordering::Relaxed);
        view.rx().view(rx.head.load(Ordering::Relaxed), epoch, view.rx_size()).is_ok_and(|v| v.next.is_some())
    }

    /// For how long a wait for bytes may sleep before it must look again, nanoseconds.
    #[inline]
    pub fn rx_limit(&self) -> Option<u64> {
        if !self.is_attached() {
            return None;
        }
        let held = self.rx_withheld();
        if self.low_water() > 1 && self.rx_is_mixed() {
            return Some(LOOK_NS);
        }
        held
    }

    /// Whether bytes of the ring are to be read before the kernel's next.
    pub fn ring_is_ahead(&self) -> bool {
        let rx = &self.end().rx;
        let view = self.view();
        let (epoch, head) = (rx.epoch.load(Ordering::Relaxed), rx.head.load(Ordering::Relaxed));
        match view.rx().view(head, epoch, view.rx_size()) {
            Ok(seen) if epoch & 1 == 1 => seen.bytes > 0 && seen.next != Some(head),
            _ => false,
        }
    }

    // --- TCP_CORK, MSG_MORE ---

    /// TCP has accepted TCP_CORK. Uncorking lets go what is held back. Servers do it twice for each answer, so that the
    /// kernel is not asked.
    pub fn cork_changed(&self, corked: bool) {
        let cork = &self.end().tx.cork;
        if corked {
            cork.fetch_or(CORKED, Ordering::SeqCst);
        } else {
            cork.fetch_and(!CORKED, Ordering::SeqCst);
            self.let_go();
        }
    }

    /// TCP_NODELAY was set: switching it on lets go what is held back, corked or not.
    pub fn no_delay_changed(&self, fd: i32) {
        let holds = self.end().tx.cork.load(Ordering::SeqCst) & HOLDS != 0;
        if holds && sock::int_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY) == Ok(1) {
            self.let_go();
        }
    }

    /// Publishes what is held back.
    pub(super) fn let_go(&self) {
        let tx = &self.end().tx;
        if tx.cork.load(Ordering::SeqCst) & HOLDS == 0 {
            return;
        }
        let Ok(held) = tx.lock.lock() else { return };
        let wake = self.is_attached() && self.tx_let_go(tx);
        drop(held);
        if wake {
            self.ring_peer();
        }
    }

    /// The same with the sending lock held. True: the peer's doorbell must be rung.
    #[must_use]
    pub(super) fn tx_let_go(&self, tx: &TxState) -> bool {
        if tx.cork.load(Ordering::Relaxed) & HOLDS == 0 {
            return false;
        }
        tx.cork.fetch_and(!HOLDS, Ordering::Relaxed);
        let view = self.view();
        view.tx().end_hold();
        view.tx().publish_tail(tx.tail.load(Ordering::Relaxed))
    }

    /// Whether what this call sends may be held back.
    pub(super) fn tx_may_hold(&self, tx: &TxState, op: &TxOp) -> bool {
        op.flags & libc::MSG_MORE != 0 || tx.cork.load(Ordering::Relaxed) & CORKED != 0
    }

    /// Publishes the `n` bytes of `op` before `tail`, or holds them back. With the sending lock held; returns as
    /// [`Conn::tx_let_go`].
    #[cold]
    #[must_use]
    pub(super) fn tx_hold(&self, tx: &TxState, tail: u64, n: usize, op: &TxOp) -> bool {
        let view = self.view();
        let dir = view.tx();
        let holds = tx.cork.load(Ordering::Relaxed) & HOLDS != 0;
        if !holds {
            tx.held_from.store(tail - n as u64, Ordering::Relaxed);
        }
        let amount = tail - tx.held_from.load(Ordering::Relaxed);
        let until = tx.held_until.load(Ordering::Relaxed);
        let now = now_ms();
        let goes = !self.tx_may_hold(tx, op)
            || op.source.remaining() > 0
            || amount >= RECORD.min(view.tx_size() / 2)
            || (holds && remaining_ms(until, now) == 0);
        if goes {
            if holds {
                return self.tx_let_go(tx);
            }
            return dir.publish_tail(tail);
        }
        if holds {
            dir.hold_more(tail);
            return false;
        }
        let until = now.wrapping_add(HOLD_MS).max(1);
        tx.held_until.store(until, Ordering::Relaxed);
        tx.cork.fetch_or(HOLDS, Ordering::Relaxed);
        dir.hold(tail, until)
    }

    /// Bytes held back.
    pub(super) fn tx_withheld(&self) -> u64 {
        let tx = &self.end().tx;
        let holds = tx.cork.load(Ordering::Relaxed) & HOLDS != 0;
        if !holds || remaining_ms(tx.held_until.load(Ordering::Relaxed), now_ms()) == 0 {
            return 0;
        }
        tx.tail.load(Ordering::Relaxed).saturating_sub(tx.held_from.load(Ordering::Relaxed))
    }

    /// Bytes that the peer holds back: nanoseconds until they may be taken; 0: they are there now. `None`: it holds back
    /// none.
    #[inline]
    pub(super) fn rx_withheld(&self) -> Option<u64> {
        match self.view().rx().held_until() {
            0 => None,
            until => self.rx_withheld_until(until),
        }
    }

    #[cold]
    fn rx_withheld_until(&self, until: u32) -> Option<u64> {
        match remaining_ms(until, now_ms()) {
            0 => self.rx_take_withheld().then_some(0),
            ms => Some(ms as u64 * 1_000_000),
        }
    }

    /// Takes what the peer holds back, whatever the time: it is gone. False: there is nothing.
    pub(super) fn rx_take_withheld(&self) -> bool {
        let view = self.view();
        view.rx().held_until() != 0 && view.rx().take_held(view.rx_size())
    }

    // --- SO_ERROR ---

    /// The error that the engine took from the kernel and has not told yet, 0 for none: for SO_ERROR, which clears it.
    pub fn take_error(&self) -> i32 {
        self.take_saved_error().map_or(0, |Errno(e)| e)
    }
}

/// Milliseconds from `now` to `until`. 0 also for what no honest sender says, or one whose clock is another (a time
/// namespace).
fn remaining_ms(until: u32, now: u32) -> u32 {
    match until.wrapping_sub(now) {
        ms @ 1..=HOLD_MS => ms,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_the_limit_are_over() {
        assert_eq!(remaining_ms(1000, 900), 100);
        assert_eq!(remaining_ms(1000, 1000), 0);
        assert_eq!(remaining_ms(1000, 1001), 0);
        assert_eq!(remaining_ms(10_000, 1), 0, "too far ahead");
        assert_eq!(remaining_ms(50, u32::MAX - 49), 100, "around the end of the counter");
    }
}
