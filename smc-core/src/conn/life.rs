//! Descriptors of a connection, its end, and forks.

use core::sync::atomic::Ordering;

use super::{eager, Conn, ATTACHED, CONNS, FREE};
use crate::link::proof;
use crate::link::rendezvous::{self, Rendezvous};
use crate::reason::{Detail, Why};
use crate::registry::{Kind, Mode, SocketRecord, REGISTRY};
use crate::sys::{sock, Errno};
use crate::{epoll, lock, report};

impl Conn {
    /// Another descriptor of this process stands for the connection now.
    pub fn add_alias(&self) {
        self.aliases.fetch_add(1, Ordering::Relaxed);
    }

    /// Descriptors of this process that stand for the connection.
    pub fn aliases(&self) -> u32 {
        self.aliases.load(Ordering::Relaxed)
    }

    /// The descriptor under which the tools list the connection.
    pub fn listed_fd(&self) -> i32 {
        self.entry().fd()
    }

    pub fn list_as(&self, fd: i32) {
        self.entry().set_fd(fd);
    }

    /// Descriptor `fd` is about to be closed (-1: it was, unseen). After the last one the `Conn` is free for others.
    pub fn close(&'static self, fd: i32) {
        // Steps have been taken, in some of which the descriptor is shown.
        if self.next_step.load(Ordering::Relaxed) != 0 {
            proof::hide(fd);
        }
        if self.aliases.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        report::connection_closes(self, fd);
        epoll::connection_closes(self);
        // One that an end shut down first ended too soon, too.
        if self.pinned().is_none_or(|why| matches!(why.detail, Detail::ShutDown | Detail::PeerShutDown)) {
            eager::connection_ends(
                self.is_active(),
                self.weight.load(Ordering::Relaxed),
                self.entry().ring_bytes(),
            );
        }
        let end = self.end();
        // A step of the rendezvous that another thread takes is waited for; it never blocks. One that this thread
        // interrupted (a signal handler that closes) cannot be.
        let interrupted = self.advancer.load(Ordering::Relaxed) == lock::tid();
        let mut slot = None;
        if !interrupted {
            let mut cold = self.cold.lock();
            self.advancer.store(lock::tid(), Ordering::Relaxed);
            slot = cold.slot();
            rendezvous::withdraw(core::mem::take(&mut cold.rendezvous));
            let old = core::mem::take(&mut *cold);
            if report::is_stopped() {
                core::mem::forget(old);
            }
            self.advancer.store(0, Ordering::Relaxed);
        }
        let phase = self.phase.load(Ordering::SeqCst);
        let attached = phase == ATTACHED;
        let end_index = self.end_index.load(Ordering::Relaxed).checked_sub(1);
        if attached {
            self.pay_debt(fd);
            // With both locks no call is inside; later ones meet another generation. A signal handler that closes
            // what it interrupted goes ahead without.
            let rx = end.rx.lock.lock();
            let tx = end.tx.lock.lock();
            if end.held_alone() {
                self.last_close(fd);
            }
            self.retire();
            drop((rx, tx));
        } else if phase > ATTACHED {
            let rx = end.rx.lock.lock();
            let tx = end.tx.lock.lock();
            let phase = self.phase.load(Ordering::SeqCst);
            self.close_far(phase);
            self.retire();
            drop((rx, tx));
        } else {
            self.retire();
        }
        REGISTRY.free(self.entry());
        let last = end.let_go(end_index);
        if let Some(slot) = slot {
            crate::link::leave_slot(&slot, last);
        }
        if !interrupted {
            CONNS.free(self.index());
        }
    }

    fn retire(&self) {
        self.phase.store(FREE, Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// No other process holds the socket: what TCP would do at the close must follow from the ring too. (One that the
    /// descriptor was passed to may, but then nothing is read from the ring any more.)
    fn last_close(&self, fd: i32) {
        let handed_over = self.is_pinned();
        if self.ring_state().readable && !handed_over {
            // TCP answers a close with unread data by a reset, so that the sender learns of the loss.
            let _ = sock::reset_at_close(fd);
        }
        if self.tx_let_go(&self.end().tx) {
            self.ring_peer();
        }
        self.view().mine().set_closed();
    }

    /// The peer broke the ring's rules: this connection ends, and nothing else.
    #[cold]
    pub(crate) fn broken(&self, fd: i32) -> Errno {
        log::error!("fd {fd}: the peer wrote impossible values into shared memory; connection ended");
        let why = Why::new(Detail::RingGarbled);
        let _ = self.end().pinned.compare_exchange(0, why.pack(), Ordering::SeqCst, Ordering::SeqCst);
        self.entry().set_status(Mode::Tcp, why);
        let _ = sock::shutdown(fd, libc::SHUT_RDWR);
        Errno(libc::ECONNRESET)
    }

    /// The line of this connection for SMC_REPORT.
    pub(crate) fn record(&self, fd: i32) -> SocketRecord {
        let known = self.cold.try_lock().and_then(|cold| cold.ends.as_deref().copied());
        SocketRecord::of_own(self.entry(), fd, known)
    }

    // --- fork ---

    pub(crate) fn fork_begins(&self) {
        self.end().fork_begins();
    }

    /// The child can borrow no buffer.
    pub(crate) fn borrow_for_child(&self) {
        if self.is_attached() {
            let _ = crate::link::lending::borrow(&self.view(), &self.end().tx);
        }
    }

    pub(crate) fn fork_failed(&self) {
        self.end().fork_failed();
    }

    /// In a child that has none of the epoll instances.
    pub(crate) fn forget_registrations(&self) {
        self.registrations.store(0, Ordering::Relaxed);
    }

    /// This thread is in a signal handler above a call on the connection that has one of its locks.
    pub(crate) fn has_interrupted(&self) -> bool {
        let end = self.end();
        self.advancer.load(Ordering::Relaxed) == lock::tid() || end.tx.lock.is_mine() || end.rx.lock.is_mine()
    }

    /// In the child, which has one thread: what other threads of the parent were doing is not going on here. `forker`: what this
    /// thread's id was in the parent; 0: not known.
    pub(crate) fn forked(&self, forker: u32) {
        self.end().fork_done_in_child();
        self.end_index.store(0, Ordering::Relaxed);
        self.rx.waiters.store(0, Ordering::Relaxed);
        self.held.store(0, Ordering::Relaxed);
        self.rx.native.store(0, Ordering::Relaxed);
        self.tx.native.store(0, Ordering::Relaxed);
        self.attached_here.store(0, Ordering::Relaxed);
        if forker != 0 && self.advancer.load(Ordering::Relaxed) == forker {
            // The step was interrupted, and will go on. It comes to nothing: the connection is held by two processes.
            self.advancer.store(lock::tid(), Ordering::Relaxed);
        } else {
            self.advancer.store(0, Ordering::Relaxed);
            if self.cold.is_locked() {
                // SAFETY: the holder is a thread of the parent; here is only this one.
                unsafe { self.cold.force_unlock() };
            }
        }
        if let Some(mut cold) = self.cold.try_lock() {
            // Drops the copies of descriptors only: the parent goes on with its own.
            if cold.slot().is_none() {
                cold.rendezvous = Rendezvous::default();
            }
        }
        let old = self.entry();
        let entry = REGISTRY.alloc(old.fd(), Kind::Connection);
        entry.set_status(old.mode(), old.why());
        entry.set_peer_reason(old.peer_reason());
        self.entry.store(entry as *const _ as *mut _, Ordering::Relaxed);
        self.far_forked();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::Far;
    use crate::counting;
    use crate::registry::Ends;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[test]
    fn the_end_of_a_connection_in_a_relay_uses_no_malloc() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let fd = socket.as_raw_fd();
        let mut used = [0; 2];
        for (used, in_relay) in used.iter_mut().zip([false, true]) {
            let conn = Conn::open(fd, true, None, Far::No).unwrap();
            // As SMC_REPORT has it.
            conn.cold.lock().ends = Some(Box::new(Ends::of_fd(fd)));
            if in_relay {
                report::stop();
            }
            let before = counting::uses();
            conn.close(fd);
            *used = counting::uses() - before;
        }
        assert_ne!(used[0], 0, "what is counted");
        assert_eq!(used[1], 0);
    }
}
