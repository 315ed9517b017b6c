//! Readiness of an attached connection, as poll reports it.
//!
//! What the ring says is combined with what the kernel says of the TCP socket: the kernel alone knows of FIN, RST,
//! errors, and of the directions that are on TCP. Its socket is always writable and hardly ever readable while the
//! bytes take the ring, so its answers count only where they speak of the medium in use.

use core::sync::atomic::Ordering;

use super::Conn;
use crate::link::Bell;
use crate::ring::asked;
use crate::sys::fd;

const IN: i16 = libc::POLLIN | libc::POLLRDNORM;
const OUT: i16 = libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND;
const ENDS: i16 = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR;

/// What the ring alone says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingState {
    /// Bytes wait in the ring, so that nothing the kernel says about the sender's end counts yet.
    pub readable: bool,
    /// The sending direction is in the ring.
    pub tx_on_ring: bool,
    /// The sending direction is in the ring and a write would do something.
    pub writable: bool,
}

impl Conn {
    /// Looks at the cursors; no lock, no system call.
    #[inline]
    pub fn ring_state(&self) -> RingState {
        if !self.is_attached() {
            return RingState { readable: false, tx_on_ring: true, writable: false };
        }
        let view = self.view();
        let end = self.end();
        if view.peers().recalls() || end.tx.owes.load(Ordering::Relaxed) != 0 {
            self.serve_recall(self.listed_fd());
        }
        let readable = self.ring_readable() || (self.rx_withheld() == Some(0) && self.ring_readable());
        let tx_on_ring = end.tx.epoch.load(Ordering::Relaxed) & 1 == 1;
        RingState { readable, tx_on_ring, writable: tx_on_ring && self.tx_writable(self.generation()) }
    }

    #[inline]
    fn ring_readable(&self) -> bool {
        if self.low_water() > 1 {
            return self.ring_reaches_low_water();
        }
        let view = self.view();
        let rx = &self.end().rx;
        let epoch = rx.epoch.load(Ordering::Relaxed);
        let head = rx.head.load(Ordering::Relaxed);
        match view.rx().view(head, epoch, view.rx_size()) {
            // Up to the announced switch only.
            Ok(seen) if epoch & 1 == 1 => seen.bytes > 0 && seen.next != Some(head),
            Ok(seen) => seen.bytes > 0 && seen.next == Some(rx.tcp.load(Ordering::Relaxed)),
            Err(_) => true,
        }
    }

    /// What to ask the kernel about the TCP socket when the program asks for `wanted`.
    pub fn kernel_events(&self, wanted: i16, ring: RingState) -> i16 {
        let mut ask = wanted & (libc::POLLPRI | libc::POLLRDBAND | libc::POLLRDHUP);
        if wanted & IN != 0 {
            ask |= libc::POLLIN | libc::POLLRDHUP;
        }
        if wanted & OUT != 0 {
            // On the ring the peer's FIN makes the sender go back to TCP, where it can write.
            ask |= if !ring.tx_on_ring {
                libc::POLLOUT
            } else if self.fin_seen() {
                0
            } else {
                libc::POLLRDHUP
            };
        }
        ask
    }

    /// The answer to the program: `ring` as of now, `kernel` as poll answered to [`Conn::kernel_events`].
    pub fn combine(&self, wanted: i16, ring: RingState, kernel: i16) -> i16 {
        if !self.is_attached() {
            return self.far_ready(wanted);
        }
        if kernel & libc::POLLRDHUP != 0 {
            self.set_fin_seen();
        }
        // As on TCP, the sender's end is told together with the bytes before it, which are visible by now.
        let mut out = kernel & (libc::POLLHUP | libc::POLLERR) | kernel & wanted & libc::POLLRDHUP;
        if kernel & ENDS != 0 {
            if self.has_saved_error() {
                // Taken from the kernel, not yet told.
                out |= libc::POLLERR;
            }
            if self.ring_state().readable {
                out |= wanted & IN;
            }
            if ring.tx_on_ring && (self.fin_seen() || kernel & (libc::POLLERR | libc::POLLHUP) != 0) {
                out |= wanted & OUT;
            }
        }
        if ring.readable || kernel & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) != 0 {
            out |= wanted & IN;
        }
        if ring.writable || (!ring.tx_on_ring && kernel & libc::POLLOUT != 0) {
            out |= wanted & OUT;
        }
        out | kernel & wanted & (libc::POLLPRI | libc::POLLRDBAND) | kernel & libc::POLLNVAL
    }

    /// Asks for doorbells for `wanted`. The caller must issue [`crate::ring::asked`] and look at
    /// [`Conn::ring_state`] once more before it sleeps.
    pub fn want(&self, wanted: i16) {
        if !self.is_attached() {
            self.want_far(wanted);
            return;
        }
        let view = self.view();
        if wanted & IN != 0 {
            view.rx().want_data();
        }
        if wanted & OUT != 0 && self.end().tx.epoch.load(Ordering::Relaxed) & 1 == 1 {
            view.tx().want_space();
            self.tx_note_full();
        }
    }

    /// The same for epoll: also for what is an edge only, and for ends that nothing but an edge tells of.
    pub(crate) fn want_news(&self, wanted: i16) {
        if self.is_attached() {
            self.want(wanted);
        } else {
            self.want_news_far(wanted);
        }
    }

    /// Watches the ring for `wanted` for as long as it may pay off.
    pub fn spin_for(&self, wanted: i16) -> bool {
        if !self.is_attached() {
            return self.watch_far(wanted);
        }
        if wanted & IN != 0 {
            let generation = self.generation();
            self.rx.spin.wait(self.peer_cpu(), || self.rx_news(generation))
        } else {
            false
        }
    }

    /// Watches until `done` says true (returned), for as long as that may pay off on this connection.
    pub(crate) fn watch(&self, mut done: impl FnMut() -> bool) -> bool {
        if self.is_attached() {
            return self.rx.spin.wait(self.peer_cpu(), done);
        }
        self.is_far()
            && self.rx.spin.wait_far(Conn::far_limit_ns(), || {
                self.attend_far();
                done()
            })
    }

    /// After a sleep on a doorbell, which found it rung (`rung`).
    ///
    /// The doorbell stays rung until the next one who goes to sleep on it resets it ([`Conn::quiet_bell`]): others may
    /// be asleep on it too.
    pub fn after_sleep(&self, bell: Bell, rung: bool) {
        // Through a `Watch` nobody sees what state the doorbell is in.
        if rung && (bell == Bell::Data || !self.is_attached()) {
            self.bells_rung[bell as usize].store(1, Ordering::Relaxed);
        }
    }

    /// Before a sleep: resets the doorbell if it was found rung. True: it was, so whoever then finds that there is no
    /// reason to sleep must ring it again ([`Conn::ring_own`]), for those who slept through the reset.
    pub fn quiet_bell(&self, bell: Bell) -> bool {
        if bell == Bell::Space && self.is_attached() {
            return false;
        }
        let mark = &self.bells_rung[bell as usize];
        let rung = mark.load(Ordering::Relaxed) != 0 && mark.swap(0, Ordering::Relaxed) != 0;
        if rung {
            fd::drain(self.doorbell(bell));
        }
        rung
    }

    pub fn ring_own(&self, bell: Bell) {
        fd::ring(self.doorbell(bell));
    }

    /// The connection is registered with one epoll only, and not shared with another process.
    pub(crate) fn has_one_registration(&self) -> bool {
        crate::epoll::registration::only_one(self) && !self.was_forked()
    }

    /// A thread is about to sleep on data. Before it asks for a doorbell.
    pub fn rx_wait_begins(&self) {
        self.rx.waiters.fetch_add(1, Ordering::SeqCst);
    }

    /// A thread that was cancelled never gets here; then [`Conn::waive_data`] does nothing any more.
    pub fn rx_wait_ends(&self) {
        let _ = self.rx.waiters.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    }

    /// A wait in epoll is over: the peer need not ring, unless somebody else waits.
    pub(crate) fn waive_data(&self) {
        if !self.is_attached()
            || self.rx.waiters.load(Ordering::Relaxed) != 0
            || !self.view().rx().waive_data()
        {
            return;
        }
        asked();
        if self.rx.waiters.load(Ordering::SeqCst) != 0 {
            // Who began to wait meanwhile may have asked before the request was taken back.
            self.view().rx().want_data();
            asked();
            if self.rx_news(self.generation()) {
                self.ring_own(Bell::Data);
            }
        }
    }

    /// Bytes that a read could get now (FIONREAD), given what the kernel's queue holds.
    pub fn readable_bytes(&self, kernel: u64) -> u64 {
        if !self.is_attached() {
            return self.far_counts().unread;
        }
        let view = self.view();
        let rx = &self.end().rx;
        let epoch = rx.epoch.load(Ordering::Relaxed);
        let tcp = rx.tcp.load(Ordering::Relaxed);
        match view.rx().view(rx.head.load(Ordering::Relaxed), epoch, view.rx_size()) {
            // Bytes of TCP are still to come before those in the ring.
            Ok(v) if epoch & 1 == 0 && v.next.is_some_and(|next| next.wrapping_sub(tcp) > kernel) => kernel,
            // Both media hold bytes when the sender has switched and the reader has not got there.
            Ok(v) => v.bytes + kernel,
            Err(_) => 0,
        }
    }

    /// Bytes sent that have not reached the peer (SIOCOUTQ), given what the kernel's queue holds. The ring is the peer's receive
    /// buffer: what lies there has reached it, unless it is held back.
    pub fn unsent_bytes(&self, kernel: u64) -> u64 {
        if !self.is_attached() {
            return self.far_counts().unsent;
        }
        kernel + self.tx_withheld()
    }

    /// Bytes ever produced for this end, as far as they are visible in the ring (edge-triggered EPOLLIN).
    pub(crate) fn produced(&self) -> u64 {
        if !self.is_attached() {
            return self.far_counts().news + u64::from(self.fin_seen());
        }
        let view = self.view();
        let rx = &self.end().rx;
        let head = rx.head.load(Ordering::Relaxed);
        let epoch = rx.epoch.load(Ordering::Relaxed);
        head + view.rx().view(head, epoch, view.rx_size()).map_or(0, |v| v.bytes)
    }

    /// How often a writer of this end was told to wait (edge-triggered EPOLLOUT).
    pub(crate) fn starved(&self) -> u32 {
        self.end().tx.starved.load(Ordering::Relaxed)
    }

    /// Where the peer last ran when it sent.
    pub(crate) fn peer_cpu(&self) -> Option<u32> {
        if !self.is_attached() {
            return None;
        }
        self.view().rx().producer_cpu()
    }
}
