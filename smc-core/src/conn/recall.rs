//! Leaving the ring with unread bytes in it: a descriptor is about to be used by something that knows only TCP (a stdio
//! stream, another process, another program).
//!
//! The sending direction simply goes back. For the receiving one, bytes already in the ring cannot be put into the
//! kernel's queue from this side; but they are still in the ring, and the peer can send them over TCP. So this end stops
//! taking from the ring, asks ([`crate::ring::layout::EndWords::set_recall`]), and waits until the peer has announced a
//! return to TCP that begins at this end's head. The peer does so in whatever call it makes or sleeps in next. With
//! nothing unread there is nothing to wait for: the peer sees the request before or right after its next byte.

use core::sync::atomic::Ordering;

use super::{Conn, Way};
use crate::reason::Why;
use crate::ring::Broken;
use crate::shared::TxState;
use crate::sys::{self, Errno};

/// How long [`Conn::pay_debt`] waits at most.
const DEBT_NS: u64 = 10_000_000_000;

impl Conn {
    /// Asks the peer, because of `why`, for everything that this end has not read. Follow up with
    /// [`Conn::recall_done`].
    pub fn recall(&self, generation: u32, why: Why) {
        let Ok(held) = self.end().rx.lock.lock() else { return };
        if self.generation() != generation || !self.is_attached() {
            return;
        }
        self.view().mine().set_reason(why.reason.code());
        self.view().mine().set_recall();
        drop(held);
        self.ring_peer();
    }

    /// Whether all that comes from now on comes over TCP.
    pub fn recall_done(&self, generation: u32) -> bool {
        let rx = &self.end().rx;
        let Ok(_held) = rx.lock.lock() else { return false };
        if self.generation() != generation || !self.is_attached() {
            return true;
        }
        let view = self.view();
        let head = rx.head.load(Ordering::Relaxed);
        let mut epoch = rx.epoch.load(Ordering::Relaxed);
        loop {
            let Ok(seen) = view.rx().view(head, epoch, view.rx_size()) else { return true };
            match seen.next {
                // On TCP to the end.
                None if epoch & 1 == 0 => return true,
                // In the ring, but nothing is there: the peer returns before its next byte.
                None => return seen.bytes == 0,
                // Bytes of TCP are due first; what matters is what follows them.
                Some(_) if epoch & 1 == 0 => epoch += 1,
                Some(next) if next == head => {
                    if rx.epoch.load(Ordering::Relaxed) == epoch {
                        rx.epoch.store(epoch + 1, Ordering::Relaxed);
                        view.rx().reach(epoch + 1);
                        self.show_mode();
                    }
                    epoch += 1;
                }
                Some(_) => return false,
            }
        }
    }

    /// Gives up. False: the peer is just about to answer.
    pub fn withdraw_recall(&self) -> bool {
        self.view().mine().withdraw_recall()
    }

    /// Does what the peer asks for, if it asks. True: bytes are still owed to it, and TCP takes no more at the moment.
    pub(crate) fn serve_recall(&self, fd: i32) -> bool {
        let tx = &self.end().tx;
        if !self.view().peers().recalls() && tx.owes.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let Ok(held) = tx.lock.lock() else { return false };
        if !self.is_attached() {
            return false;
        }
        let mut wake = false;
        let served = self.tx_give_back(tx, fd, &mut wake);
        drop(held);
        if wake {
            self.ring_peer();
        }
        served == Err(Errno(libc::EAGAIN))
    }

    /// Before this end stops sending: what it has undertaken to send over TCP must be there first. Waits for TCP to take
    /// it, as long as a peer that reads at all may need.
    pub(crate) fn pay_debt(&self, fd: i32) {
        let tx = &self.end().tx;
        let end = sys::now_ns() + DEBT_NS;
        while tx.owes.load(Ordering::Relaxed) != 0 && self.serve_recall(fd) {
            let left = end.saturating_sub(sys::now_ns());
            let mut room = [libc::pollfd { fd, events: libc::POLLOUT, revents: 0 }];
            if left == 0 || sys::poll(&mut room, left as i64) == Ok(0) {
                return;
            }
        }
    }

    /// With the sending lock held: returns to TCP at the peer's head and sends from there. EAGAIN: not all of it, or
    /// not yet.
    pub(super) fn tx_give_back(&self, tx: &TxState, fd: i32, wake: &mut bool) -> Result<(), Errno> {
        let view = self.view();
        let tail = tx.tail.load(Ordering::Relaxed);
        if view.peers().recalls() && tx.owes.load(Ordering::Relaxed) == 0 {
            let lag = view.tx().lag(tx.announced.load(Ordering::Relaxed));
            if lag != Ok(0) && !view.peers().no_blind_reads() {
                return Err(Errno(libc::EAGAIN));
            }
            if view.mine().closed() {
                // TCP takes nothing from this end any more: the peer must find another way.
                return Ok(());
            }
            // Its head stands still from the request on.
            let head = view.tx().consumer_head(tail, view.tx_size()).map_err(|Broken| self.broken(fd))?;
            if tx.epoch.load(Ordering::Relaxed) & 1 == 0 && head != tail {
                // Already returned, behind bytes that are still unread: they cannot be put before what came since.
                return Ok(());
            }
            if !view.peers().accept_recall() {
                return Ok(());
            }
            if !self.tx_leave_ring(tx, head, wake) {
                return Err(self.broken(fd));
            }
            tx.debt.store(head, Ordering::Relaxed);
            tx.owes.store(1, Ordering::Relaxed);
        }
        let mut debt = tx.debt.load(Ordering::Relaxed);
        // What is not read yet is in a buffer.
        let buffer = tx.buffer.load(Ordering::Relaxed).wrapping_sub(1);
        while tx.owes.load(Ordering::Relaxed) != 0 && debt < tail {
            let len = (tail - debt) as usize;
            let [(at, first), _] = view.tx_pieces(buffer, debt, len).map_err(|Broken| self.broken(fd))?;
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: the piece lies in the ring, and the peer takes nothing from it any more.
            let n = unsafe { sys!(SYS_sendto, fd, at, first, flags, 0, 0) }?;
            debt += n as u64;
            tx.debt.store(debt, Ordering::Relaxed);
            self.count_tcp(Way::Tx, n as u64);
        }
        tx.owes.store(0, Ordering::Relaxed);
        Ok(())
    }
}
