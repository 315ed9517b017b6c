//! Whether this process has seen every byte that went over TCP.
//!
//! A stream can change its medium only at a byte that both ends agree on, so each end must know how many went over TCP in
//! either direction. Its own counts may miss some (a program that makes system calls itself), and the kernel has counts of
//! its own to compare with. But a call that is under way has moved bytes for the kernel which are counted here only when it
//! has returned; on a connection that is busy in both directions there always is one.
//!
//! So the rendezvous takes two counts for right that differ while such calls are under way, and leaves that direction
//! *unverified*. It stays on TCP until the last of these calls is over: no further one begins once the connection is
//! attached. Then both counts stand still, for whoever holds the direction's lock, and are compared once more. The sender
//! does that before it leaves TCP ([`Conn::tx_verified`]). The receiver does it before it lets the peer leave TCP
//! ([`Conn::verify_rx`]), since it could not go back then to what it should have counted; and so even if its count was right, as
//! long as a read is under way: one whose thread was cancelled never ends, and later readers would wait for it. If the counts
//! differ still, the connection stays on TCP.

use core::sync::atomic::Ordering;

use super::{Conn, Way};
use crate::reason::{Detail, Why};
use crate::shared::{RxState, TxState};
use crate::sys::{sock, Errno};

/// Which counts were equal to the kernel's. The others are yet to be verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counts {
    pub written: bool,
    pub read: bool,
}

impl Conn {
    /// Compares the counts with the kernel's while calls may be under way. The error says why the connection cannot be
    /// moved.
    pub(crate) fn compare_counts(&self, fd: i32) -> Result<Counts, Detail> {
        Ok(Counts { written: self.compare(Way::Tx, fd)?, read: self.compare(Way::Rx, fd)? })
    }

    fn compare(&self, way: Way, fd: i32) -> Result<bool, Detail> {
        let counted = self.counted(way);
        let kernels = match self.kernels_count(way, fd) {
            Ok(n) => n,
            Err(Errno(libc::EAGAIN)) => return Ok(false),
            Err(_) => return Err(half_closed(fd).unwrap_or(Detail::BehindShim)),
        };
        if kernels == counted {
            return Ok(true);
        }
        // The call that the kernel is ahead by may have ended between the questions.
        let under_way = self.native_calls(way) > 0 || self.counted(way) != counted;
        if under_way && kernels > counted {
            return Ok(false);
        }
        log::debug!("fd {fd}: {kernels} bytes {way:?} over TCP, of which {counted} were seen");
        Err(Detail::BehindShim)
    }

    fn counted(&self, way: Way) -> u64 {
        match way {
            Way::Rx => self.end().rx.tcp.load(Ordering::SeqCst),
            Way::Tx => self.end().tx.tcp.load(Ordering::SeqCst),
        }
    }

    fn kernels_count(&self, way: Way, fd: i32) -> Result<u64, Errno> {
        match way {
            Way::Rx => sock::tcp_read(fd),
            Way::Tx => sock::tcp_written(fd, self.is_active()),
        }
    }

    /// Whether the count is right, for a caller that holds the direction's lock, with no call under way that knows nothing
    /// of the ring. If it is wrong, the connection stays on TCP; if it cannot be told now, neither.
    fn verify(&self, way: Way, fd: i32) -> bool {
        // The calls of another process are not known here.
        if self.attached_here.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let equal = self.kernels_count(way, fd).map(|n| n == self.counted(way));
        if equal == Ok(false) {
            self.pin(Why::new(Detail::BehindShim));
        }
        equal == Ok(true)
    }

    /// With the sending lock held and no native write under way: whether the direction may leave TCP as far as its count
    /// goes.
    #[inline]
    pub(super) fn tx_verified(&self, tx: &TxState, fd: i32) -> bool {
        if tx.unverified.load(Ordering::Relaxed) != 0 && self.verify(Way::Tx, fd) {
            tx.unverified.store(0, Ordering::Relaxed);
        }
        tx.unverified.load(Ordering::Relaxed) == 0
    }

    /// Lets the peer leave TCP if it is time for that, and has not been done.
    pub(super) fn verify_rx(&self) {
        let generation = self.generation();
        let rx = &self.end().rx;
        if rx.unverified.load(Ordering::SeqCst) == 0 {
            return;
        }
        // A signal handler that interrupted a read leaves it to that.
        let Ok(_held) = rx.lock.lock() else { return };
        if self.generation() == generation && self.is_attached() {
            self.verify_rx_locked(rx, self.listed_fd());
        }
    }

    /// [`Conn::verify_rx`] with the receiving lock held.
    #[inline]
    pub(super) fn verify_rx_locked(&self, rx: &RxState, fd: i32) {
        // After the mark has been set, whoever ends the last of these calls, or whoever set it, gets here.
        if rx.unverified.load(Ordering::SeqCst) != 0
            && self.native_calls(Way::Rx) == 0
            && !self.is_pinned()
            && self.verify(Way::Rx, fd)
        {
            rx.unverified.store(0, Ordering::Relaxed);
            self.view().mine().set_attached();
        }
    }
}

/// Which end has shut down, if one has.
pub(crate) fn half_closed(fd: i32) -> Option<Detail> {
    match sock::fins(fd) {
        Ok(fins) if fins.own => Some(Detail::ShutDown),
        Ok(fins) if fins.peers => Some(Detail::PeerShutDown),
        _ => None,
    }
}
