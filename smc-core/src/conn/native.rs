//! Calls on the TCP socket that know nothing of the ring: counted, so that it is known when the connection may move.

use core::sync::atomic::{AtomicU32, Ordering};

use super::{Conn, Way, LONG_CALL};
use crate::config;

impl Conn {
    /// Before a call that moves bytes: true if it is to be made on the TCP socket, with [`Conn::native_end`] after
    /// it; false if the connection is attached. May take a step of the rendezvous.
    #[inline]
    pub fn native_begin(&self, way: Way, generation: u32, fd: i32) -> bool {
        if self.is_moved() {
            return false;
        }
        let weight = self.weight.load(Ordering::Relaxed) + config::CALL_WEIGHT;
        self.weight.store(weight, Ordering::Relaxed);
        let calls = self.calls.load(Ordering::Relaxed) + 1;
        self.calls.store(calls, Ordering::Relaxed);
        if weight > self.upgrade_after.load(Ordering::Relaxed)
            && calls >= self.next_step.load(Ordering::Relaxed)
        {
            self.advance(generation, fd);
        }
        let line = self.native_line(way);
        line.fetch_add(1, Ordering::SeqCst);
        // The connection may have been attached by another thread since; whoever attaches looks at the counter
        // after it changed the phase.
        if self.is_moved() {
            line.fetch_sub(1, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// After a native call that returned `n`. `generation`: as it was at [`Conn::native_begin`].
    #[inline]
    pub fn native_end(&self, way: Way, generation: u32, n: isize) {
        if self.generation() != generation {
            return;
        }
        if n > 0 {
            self.count_tcp(way, n as u64);
            self.weight.fetch_add(n as u64, Ordering::Relaxed);
            if n as u64 >= LONG_CALL {
                self.calls.fetch_add(n as u64 / LONG_CALL, Ordering::Relaxed);
            }
        }
        // In the child of a fork in a signal handler that interrupted the call nothing is counted.
        let line = self.native_line(way);
        let _ = line.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        self.blind_call_ended();
    }

    fn blind_call_ended(&self) {
        if self.is_attached() {
            self.note_blind_reads();
            self.verify_rx();
        }
    }

    /// A native call begins that would not end at a switch: MSG_WAITALL waits in the kernel for bytes that would come by
    /// the ring. The connection is not moved meanwhile. Before [`Conn::native_begin`].
    pub fn hold(&self) {
        self.held.fetch_add(1, Ordering::SeqCst);
    }

    /// A call is under way during which the connection must not move. With a low-water mark, every read is one.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst) > 0
            || (self.end().rx.lowat.load(Ordering::SeqCst) > 1 && self.native_calls(Way::Rx) > 0)
    }

    /// The call has ended.
    pub fn release(&self, generation: u32) {
        if self.generation() == generation {
            let _ = self.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        }
    }

    /// A poll that knows nothing of the ring begins to wait for the connection: it counts as a blind read, since the
    /// last bytes on TCP are what wakes it.
    pub fn poll_begins(&self) {
        self.rx.native.fetch_add(1, Ordering::SeqCst);
    }

    pub fn poll_ends(&self) {
        let _ = self.rx.native.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        self.blind_call_ended();
    }

    /// Accounts for `n` bytes that went over TCP.
    pub(crate) fn count_tcp(&self, way: Way, n: u64) {
        let end = self.end();
        match way {
            Way::Rx => {
                end.rx.tcp.fetch_add(n, Ordering::Relaxed);
                self.entry().add_tcp_rx(n);
            }
            Way::Tx => {
                end.tx.tcp.fetch_add(n, Ordering::Relaxed);
                self.entry().add_tcp_tx(n);
            }
        }
    }

    /// [`Conn::count_tcp`] for calls that the shim makes itself on an attached connection.
    pub fn count(&self, way: Way, n: u64) {
        self.count_tcp(way, n);
    }

    fn native_line(&self, way: Way) -> &AtomicU32 {
        match way {
            Way::Rx => &self.rx.native,
            Way::Tx => &self.tx.native,
        }
    }

    pub(crate) fn native_calls(&self, way: Way) -> u32 {
        self.native_line(way).load(Ordering::SeqCst)
    }

    /// Tells the peer, once it is true, that no read of this end is unaware of the ring.
    pub(crate) fn note_blind_reads(&self) {
        if self.attached_here.load(Ordering::Relaxed) == 1 && self.native_calls(Way::Rx) == 0 {
            self.attached_here.store(2, Ordering::Relaxed);
            self.view().mine().set_no_blind_reads();
        }
    }
}
