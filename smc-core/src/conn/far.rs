//! Data and readiness of a connection on SMC-R. What the phases mean is in [`super::remote`].

use core::sync::atomic::{fence, AtomicI32, Ordering};

use super::io::{Dry, Source};
use super::remote::result;
use super::rx::{RxOp, BUSY_CHECK_NS};
use super::tx::TxOp;
use super::wait::{May, Sleep, Step};
use super::{bells, Conn, DECIDING, FOREIGN, LOST, OFFERED, REMOTE};
use crate::link::Bell;
use crate::remote::{self, abi};
use crate::sys::Errno;
use crate::{config, epoll, lock, sys};

const IN: i16 = libc::POLLIN | libc::POLLRDNORM;
const OUT: i16 = libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND;
/// poll reports these whether they are asked for or not.
const ALWAYS: i16 = libc::POLLERR | libc::POLLHUP;

/// Bytes of a file or pipe that are sent at once.
const PIECE: usize = 16 << 10;

impl Conn {
    /// As [`Conn::rx_step`], on SMC-R.
    pub(super) fn far_rx_step(&self, generation: u32, fd: i32, op: &mut RxOp) -> Step {
        loop {
            let target = self.rx_target(op);
            let found = match self.end().rx.lock.lock() {
                Ok(held) => {
                    let found = self.far_receive(generation, op);
                    drop(held);
                    found
                }
                // A signal handler above this thread's own call: to wait for it would be for ever, here and in `is_inside`.
                Err(lock::Reentered) if op.seen() > 0 => return Step::Done(op.seen()),
                Err(lock::Reentered) => return Step::Fail(Errno(libc::EAGAIN)),
            };
            match found {
                Ok(()) => return Step::Done(op.done),
                Err(Errno(libc::EAGAIN)) if op.done >= target => return Step::Done(op.done),
                Err(Errno(libc::EAGAIN)) if !remote::is_inside() => {}
                // For the next call, which finds it again.
                Err(_) if op.done > 0 => return Step::Done(op.done),
                Err(e) => return Step::Fail(e),
            }
            let remaining_ns = match op.patience.ask(fd, op.flags, libc::SO_RCVTIMEO) {
                May::Wait { remaining_ns } => remaining_ns,
                May::NotAtAll if op.seen() > 0 => return Step::Done(op.seen()),
                May::NotAtAll => return Step::Fail(Errno(libc::EAGAIN)),
                May::Fail(e) => return Step::Fail(e),
            };
            if op.flags & libc::MSG_PEEK != 0 && op.done > 0 {
                // Waits for all. Nothing tells that there are more bytes than were seen already.
                op.peek_again();
                return Step::Sleep(Sleep::new((-1, 0), (Bell::Data, -1), remaining_ns, Some(BUSY_CHECK_NS)));
            }
            if self.watch_far(IN) {
                continue;
            }
            if self.want_far(libc::POLLIN) == 0 {
                self.rx_wait_begins();
                return Step::Sleep(Sleep::new((-1, 0), self.wakes_me(Bell::Data), remaining_ns, None));
            }
        }
    }

    /// `Ok`: the call is complete.
    fn far_receive(&self, generation: u32, op: &mut RxOp) -> Result<(), Errno> {
        if self.phase.load(Ordering::SeqCst) == LOST {
            // As on TCP: the error once, and then the end.
            return self.take_saved_error().map_or(Ok(()), Err);
        }
        self.check_far(generation)?;
        let peeks = op.flags & libc::MSG_PEEK != 0;
        let peeks_all = peeks && op.flags & libc::MSG_WAITALL != 0;
        loop {
            let Some((into, length)) = op.buffers.piece(usize::MAX) else { return Ok(()) };
            let into = if op.flags & libc::MSG_TRUNC != 0 { core::ptr::null_mut() } else { into };
            // SAFETY: the program's buffer.
            let got = self.far(-(libc::EAGAIN as isize), |table, number| unsafe {
                match peeks {
                    true if into.is_null() => {
                        let (mut byte, mut counts) = (0, abi::Counts::default());
                        // An end or an error, or nothing: it says which.
                        let found = (table.peek)(number, &mut byte, 1, op.done);
                        if found <= 0 {
                            return found;
                        }
                        (table.counts)(number, &mut counts);
                        (counts.unread as usize).saturating_sub(op.done).min(length) as isize
                    }
                    true => (table.peek)(number, into, length, op.done),
                    false => (table.receive)(number, into, length),
                }
            });
            let n = match result(got) {
                // No more can come before some of it is read.
                Err(Errno(libc::ENOBUFS)) if peeks => return Ok(()),
                Err(Errno(libc::EAGAIN)) if peeks && op.done > 0 && !peeks_all => return Ok(()),
                Err(Errno(libc::EAGAIN)) if self.fin_seen() => return Ok(()),
                other => other?,
            };
            if n == 0 {
                return Ok(());
            }
            op.buffers.take(n);
            op.done += n;
            if !peeks {
                self.entry().add_ring_rx(n as u64);
            }
        }
    }

    fn check_far(&self, generation: u32) -> Result<(), Errno> {
        match self.phase.load(Ordering::SeqCst) {
            _ if self.generation() != generation => Err(Errno(libc::EBADF)),
            REMOTE => Ok(()),
            FOREIGN => Err(Errno(libc::ECONNABORTED)),
            LOST => Err(self.take_saved_error().unwrap_or(Errno(libc::EPIPE))),
            _ => Err(Errno(libc::EBADF)),
        }
    }

    /// As [`Conn::tx_step`], on SMC-R.
    pub(super) fn far_tx_step(&self, generation: u32, fd: i32, op: &mut TxOp) -> Step {
        loop {
            let found = match self.end().tx.lock.lock() {
                Ok(held) => {
                    let found = self.far_send(generation, op);
                    drop(held);
                    found
                }
                // As in `far_rx_step`.
                Err(lock::Reentered) if op.done > 0 => return Step::Done(op.done),
                Err(lock::Reentered) => return Step::Fail(Errno(libc::EAGAIN)),
            };
            match found {
                Ok(()) => return Step::Done(op.done),
                Err(Errno(libc::EAGAIN)) if !remote::is_inside() => {}
                Err(super::io::DRY) => match &op.source {
                    Source::Pipe { fd: pipe, wait: true, .. } if op.done == 0 => {
                        let nothing = (Bell::Space, -1);
                        return Step::Sleep(Sleep::new((*pipe, libc::POLLIN), nothing, None, None));
                    }
                    _ if op.done > 0 => return Step::Done(op.done),
                    _ => return Step::Fail(Errno(libc::EAGAIN)),
                },
                Err(_) if op.done > 0 => return Step::Done(op.done),
                Err(e) => {
                    if e == Errno(libc::EPIPE) && op.flags & libc::MSG_NOSIGNAL == 0 {
                        // SAFETY: integer arguments only. The signal is this thread's, as the kernel has it.
                        let _ = unsafe { sys!(SYS_tgkill, sys::getpid(), sys::gettid(), libc::SIGPIPE) };
                    }
                    return Step::Fail(e);
                }
            }
            let remaining_ns = match op.patience.ask(fd, op.flags, libc::SO_SNDTIMEO) {
                May::Wait { remaining_ns } => remaining_ns,
                May::NotAtAll => {
                    self.end().tx.starved.fetch_add(1, Ordering::Relaxed);
                    if self.want_far(libc::POLLOUT) != 0 {
                        self.ring_own(Bell::Space);
                    }
                    epoll::connection_starved(self);
                    return if op.done > 0 { Step::Done(op.done) } else { Step::Fail(Errno(libc::EAGAIN)) };
                }
                May::Fail(e) => return Step::Fail(e),
            };
            if self.watch_far(OUT) {
                continue;
            }
            if self.want_far(libc::POLLOUT) == 0 {
                return Step::Sleep(Sleep::new((-1, 0), self.wakes_me(Bell::Space), remaining_ns, None));
            }
        }
    }

    /// `Ok`: the call is complete.
    fn far_send(&self, generation: u32, op: &mut TxOp) -> Result<(), Errno> {
        self.check_far(generation)?;
        while op.source.remaining() > 0 {
            let n = match &mut op.source {
                Source::Buffers(buffers) => {
                    let Some((from, length)) = buffers.piece(usize::MAX) else { return Ok(()) };
                    // SAFETY: the program's buffer.
                    let n = unsafe { self.send_far(from, length) }?;
                    buffers.take(n);
                    n
                }
                source => {
                    let mut piece = [0u8; PIECE];
                    // With nothing: whether anything can be sent at all.
                    // SAFETY: no bytes.
                    unsafe { self.send_far(piece.as_ptr(), 0) }?;
                    // With the sending lock, room does not shrink: all that is read will go.
                    let again = -(libc::EAGAIN as isize);
                    let room = result(self.far(again, |table, number| (table.room)(number)))?;
                    let length = room.min(PIECE).min(source.remaining());
                    if length == 0 {
                        return Err(Errno(libc::EAGAIN));
                    }
                    let filled = source.fill([(piece.as_mut_ptr(), length), (piece.as_mut_ptr(), 0)]);
                    let filled = match filled {
                        Ok(n) => n,
                        Err(Dry::End) => return Ok(()),
                        Err(Dry::Later) => return Err(super::io::DRY),
                        Err(Dry::Error(e)) => return Err(e),
                    };
                    // SAFETY: as many bytes were put there.
                    unsafe { self.send_far(piece.as_ptr(), filled) }?
                }
            };
            op.done += n;
            self.entry().add_ring_tx(n as u64);
        }
        Ok(())
    }

    /// # Safety
    /// `from` must point at `length` bytes.
    unsafe fn send_far(&self, from: *const u8, length: usize) -> Result<usize, Errno> {
        let again = -(libc::EAGAIN as isize);
        // SAFETY: promised by the caller.
        result(self.far(again, |table, number| unsafe { (table.send)(number, from, length) }))
    }

    // --- readiness ---

    /// poll's answer.
    pub(super) fn far_ready(&self, wanted: i16) -> i16 {
        if remote::is_inside() {
            // Not known, and not to be waited for. A data call says EAGAIN.
            return wanted & (IN | OUT);
        }
        let ready = match self.phase.load(Ordering::SeqCst) {
            REMOTE => self.far(0, |table, number| (table.ready)(number)),
            FOREIGN | LOST => i32::from(IN | OUT | libc::POLLRDHUP | ALWAYS),
            _ => return 0,
        };
        let mut ready = ready.max(0) as i16;
        if self.fin_seen() {
            ready |= IN | libc::POLLRDHUP;
        }
        ready & (wanted | ALWAYS)
    }

    /// Asks for doorbells for `wanted`; returns what of it is ready already.
    pub(super) fn want_far(&self, wanted: i16) -> i32 {
        let events = i32::from(
            if wanted & IN != 0 { libc::POLLIN } else { 0 }
                | if wanted & OUT != 0 { libc::POLLOUT } else { 0 },
        );
        match self.phase.load(Ordering::SeqCst) {
            REMOTE => self.far(events, |table, number| (table.want)(number, events)).max(0),
            // The handshake's end rings both.
            OFFERED | DECIDING => 0,
            _ => events,
        }
    }

    /// Asks for the doorbells for whatever changes what epoll says of `wanted`, as edges.
    pub(super) fn want_news_far(&self, wanted: i16) {
        let news = if wanted & IN != 0 { abi::NEWS } else { abi::ENDS };
        let events = news | if wanted & OUT != 0 { i32::from(libc::POLLOUT) } else { 0 };
        if self.phase.load(Ordering::SeqCst) == REMOTE {
            self.far(0, |table, number| (table.want)(number, events));
        }
    }

    /// The doorbell for an end, for a poll that does not ask for POLLIN, and so sleeps through the others; -1: none is needed, or to be had.
    pub fn end_bell(&self, wanted: i16) -> i32 {
        let (events, kept) = match () {
            () if wanted & IN != 0 || self.phase.load(Ordering::SeqCst) != REMOTE => return -1,
            () if wanted & libc::POLLRDHUP != 0 => (libc::POLLRDHUP, self.end_bell_kept()),
            // Who waits to write is woken by the end of both.
            () if wanted & OUT != 0 => return -1,
            () => (0, self.hup_bell_kept()),
        };
        let known = kept.load(Ordering::SeqCst);
        if known >= 0 {
            return known;
        }
        let made = self.far(-1, |table, number| (table.ends)(number, events.into())).max(-1);
        kept.store(made, Ordering::SeqCst);
        // Then the caller looks; whoever shuts down marks that first and then looks here.
        fence(Ordering::SeqCst);
        made
    }

    pub(super) fn end_bell_kept(&self) -> &AtomicI32 {
        &self.bells[bells::END]
    }

    pub(super) fn hup_bell_kept(&self) -> &AtomicI32 {
        &self.bells[bells::HUP]
    }

    pub(super) fn far_limit_ns() -> u64 {
        u64::from(config::get().rdma_spin) * 1_000
    }

    /// Watches for `wanted` for as long as it may pay off. True: it is there.
    pub(crate) fn watch_far(&self, wanted: i16) -> bool {
        let spin = if wanted & IN != 0 { &self.rx.spin } else { &self.tx.spin };
        spin.wait_far(Conn::far_limit_ns(), || self.attend_far() & wanted != 0)
    }

    /// Has the library look for what has come. What is ready then.
    pub(crate) fn attend_far(&self) -> i16 {
        match self.phase.load(Ordering::SeqCst) {
            REMOTE => self.far(0, |table, number| (table.attend)(number)).max(0) as i16,
            // Whatever it is, it is no use watching for it.
            _ => IN | OUT,
        }
    }

    pub(super) fn far_counts(&self) -> abi::Counts {
        let mut counts = abi::Counts::default();
        if self.phase.load(Ordering::SeqCst) == REMOTE {
            // SAFETY: a valid place for the result.
            self.far(0, |table, number| unsafe { (table.counts)(number, &mut counts) });
        }
        counts
    }

    /// The error with which the connection has ended, as SO_ERROR tells it; 0 for none.
    pub fn far_error(&self) -> i32 {
        match self.phase.load(Ordering::SeqCst) {
            REMOTE => self.far(0, |table, number| (table.error)(number)).max(0),
            FOREIGN => libc::ECONNABORTED,
            LOST => self.take_error(),
            _ => 0,
        }
    }

    /// The error of a connect whose handshake broke off, 0 for none.
    pub fn connect_error(&self) -> i32 {
        match self.phase.load(Ordering::SeqCst) {
            LOST => self.take_error(),
            _ => 0,
        }
    }
}
