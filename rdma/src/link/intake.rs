//! Taking what has completed on a link.
//!
//! Any thread may: one of the program that waits for bytes takes them itself ([`Link::attend`]), so that the engine's thread need not be
//! woken first. What is not a CDC message of a known connection is left to the engine's thread ([`Link::take`]), and so is everything that
//! comes after it until that has been done, so that messages are acted on in their order.
//!
//! The completion queue is *armed* when the next completion wakes the engine's thread. It is left unarmed for a while if a thread of the
//! program attends to the link and nobody sleeps: each exchange would wake the engine's thread in vain. Always: whoever says that it sleeps
//! ([`Link::sleep`]) and then [relies](Link::rely) on being woken finds it armed, or what has come is acted on ([`super::arming`] shows why); and
//! the engine's thread looks at an unarmed link every [`LOOK_AGAIN`].
//!
//! Locks: that of the intake before a connection's.

use super::arming::Arming;
use super::{Link, Slot, IS_RECEIVE, RECEIVE};
use crate::conn::Conn;
use crate::engine::inbox::Command;
use crate::verbs::{Completed, Completion, WRITE_DONE};
use parking_lot::{Mutex, MutexGuard};
use smc_core::sys::{self, Result};
use smc_wire::cdc::{self, Cdc};
use smc_wire::Time;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

/// How often the engine's thread looks at a link that is not armed.
const LOOK_AGAIN: Time = Time::from_millis(1);

/// Batches of completions (32 each) that a thread takes at most before it leaves the rest to the next look. A peer that sends faster than they are
/// acted on keeps no thread longer than that: not one of the program's, which asks again for itself alone (one batch), and not the
/// engine's, which has other links.
const BATCHES: usize = 8;
/// Messages that may wait for the engine's thread. With as many nothing more is taken: the peer's wait in the device.
const MAX_LEFT: usize = 256;

/// Of a link: what is taken from it, and by whom.
pub(super) struct Intake {
    inner: Mutex<Inner>,
    /// Connections by this side's tokens.
    routes: Mutex<HashMap<u32, Arc<Conn>>>,
    /// Changed under the lock of `inner`.
    arming: Arming,
    /// How often a thread of the program has attended.
    attended: AtomicU32,
    /// When the last CDC came that the engine's thread has not seen, in nanoseconds.
    heard: AtomicU64,
}

#[derive(Default)]
struct Inner {
    /// For the engine's thread, in their order.
    left: VecDeque<Vec<u8>>,
    failed: bool,
    /// [`Intake::attended`] when the engine's thread last looked.
    seen: u32,
}

impl Default for Intake {
    fn default() -> Intake {
        Intake {
            inner: Mutex::default(),
            routes: Mutex::default(),
            arming: Arming::new(),
            attended: AtomicU32::new(0),
            heard: AtomicU64::new(0),
        }
    }
}

/// The engine's thread has the intake: nobody else takes anything meanwhile.
pub struct Taking<'a> {
    link: &'a Link,
    inner: MutexGuard<'a, Inner>,
    /// More may have completed than was taken.
    more: bool,
}

impl Link {
    /// CDC messages with this token are for that connection, until [`Link::forget`].
    pub fn route(&self, token: u32, conn: &Arc<Conn>) {
        self.intake.routes.lock().insert(token, Arc::clone(conn));
    }

    /// The opposite of [`Link::route`].
    pub fn forget(&self, token: u32) {
        let gone = self.intake.routes.lock().remove(&token);
        drop(gone);
    }

    /// [`Link::forget`] for all.
    pub fn forget_all(&self) {
        let gone = std::mem::take(&mut *self.intake.routes.lock());
        drop(gone);
    }

    /// For a thread of the program: acts on what has completed, one batch at most, unless another thread is about it. What is left the next
    /// look finds, this thread's or the engine's: if the queue is armed, its thread has been woken.
    pub fn attend(&self) {
        self.intake.attended.fetch_add(1, Ordering::Relaxed);
        if let Some(mut inner) = self.intake.inner.try_lock() {
            self.take_in(&mut inner, 1);
        }
    }

    /// Nobody is woken by completions; somebody who asks should look himself.
    pub fn is_unarmed(&self) -> bool {
        !self.intake.arming.is_armed()
    }

    /// `count` more doorbells are wanted. To be called with the lock of the connection that they belong to.
    pub fn sleep(&self, count: u32) {
        self.intake.arming.sleep(count);
    }

    /// They are not any more. To be called with the same lock.
    pub fn wake(&self, count: u32) {
        self.intake.arming.wake(count);
    }

    /// A thread is about to sleep on a doorbell, whether it was the first to want it or not. To be called without a connection's lock, after
    /// [`Link::sleep`].
    pub fn rely(&self) {
        if !self.intake.arming.can_be_relied_on() {
            let mut inner = self.intake.inner.lock();
            self.arm(&mut inner);
        }
    }

    /// When the last CDC came that was not for the engine's thread.
    pub fn heard(&self) -> Option<Time> {
        match self.intake.heard.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Time::from_nanos(at)),
        }
    }

    /// For the engine's thread. `woken`: by the completion queue, which is not armed any more.
    pub fn take(&self, woken: bool) -> Taking<'_> {
        let mut inner = self.intake.inner.lock();
        if woken {
            self.intake.arming.fired();
            if self.queue.acknowledge().is_err() {
                self.broken(&mut inner);
            }
        }
        let more = self.take_in(&mut inner, BATCHES);
        Taking { link: self, inner, more }
    }

    /// From here on the next completion wakes the engine's thread; what has completed until then is acted on, here or by the engine's thread.
    fn arm(&self, inner: &mut Inner) {
        if self.is_unarmed() {
            if self.queue.arm().is_err() {
                self.broken(inner);
            }
            self.intake.arming.asked();
            if self.take_in(inner, BATCHES) {
                self.inbox.send(Command::Messages(self.id));
            }
        }
    }

    fn broken(&self, inner: &mut Inner) {
        if !std::mem::replace(&mut inner.failed, true) {
            self.inbox.send(Command::LinkFailed(self.id));
        }
    }

    /// Takes some batches. `true`: there may be more.
    fn take_in(&self, inner: &mut Inner, batches: usize) -> bool {
        let more = self.take_batches(inner, batches);
        while let Some(conn) = self.next_waiting() {
            conn.slot_is_free();
        }
        more
    }

    fn take_batches(&self, inner: &mut Inner, batches: usize) -> bool {
        let mut completions = Vec::new();
        for _ in 0..batches {
            if inner.failed {
                return false;
            }
            if inner.left.len() >= MAX_LEFT {
                return true;
            }
            completions.clear();
            let taken = self.queue.take(&mut completions);
            if taken.and_then(|()| completions.iter().try_for_each(|c| self.completed(inner, c))).is_err() {
                self.broken(inner);
                return false;
            }
            if completions.is_empty() {
                return false;
            }
        }
        true
    }

    fn completed(&self, inner: &mut Inner, completion: &Completion) -> Result<()> {
        let length = match completion.result {
            Completed::Ok(length) => (length as usize).min(RECEIVE),
            Completed::Failed(status) => {
                log::info!("link {}: a work request failed with status {status}", self.id);
                return Err(sys::Errno(libc::EIO));
            }
        };
        if completion.id == WRITE_DONE {
            return Ok(());
        }
        if completion.id & IS_RECEIVE == 0 {
            if let Slot::Cdc { conn, sent } = self.free(completion.id as usize) {
                conn.sent(sent);
            }
            return Ok(());
        }
        let index = (completion.id & !IS_RECEIVE) as usize;
        let mut bytes = vec![0; length];
        self.receives.read(index * RECEIVE, &mut bytes);
        self.repost(index)?;
        match self.addressee(&bytes).filter(|_| inner.left.is_empty()) {
            Some((conn, cdc)) => {
                self.intake.heard.store(sys::now_ns(), Ordering::Relaxed);
                conn.received(&cdc);
            }
            None => {
                inner.left.push_back(bytes);
                if inner.left.len() == 1 {
                    self.inbox.send(Command::Messages(self.id));
                }
            }
        }
        Ok(())
    }

    fn addressee(&self, bytes: &[u8]) -> Option<(Arc<Conn>, Cdc)> {
        if bytes.first() != Some(&cdc::TYPE) {
            return None;
        }
        let cdc = Cdc::decode(bytes).ok()?;
        let conn = self.intake.routes.lock().get(&cdc.token).map(Arc::clone)?;
        Some((conn, cdc))
    }
}

impl Taking<'_> {
    /// The next message that is the engine's to act on.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        self.inner.left.pop_front()
    }

    pub fn is_empty(&self) -> bool {
        self.inner.left.is_empty()
    }

    /// When there is no message left: arms the completion queue, after which there may be more messages, or leaves it. The time after which
    /// the link is to be looked at again, if it was left, or if there is more to take.
    pub fn rest(&mut self) -> Option<Time> {
        let intake = &self.link.intake;
        if std::mem::take(&mut self.more) && !self.inner.failed {
            return Some(Time::ZERO);
        }
        if !self.link.is_unarmed() {
            return None;
        }
        let attended = intake.attended.load(Ordering::Relaxed);
        let was_attended = std::mem::replace(&mut self.inner.seen, attended) != attended;
        if was_attended && !intake.arming.somebody_sleeps() && !self.inner.failed {
            return Some(LOOK_AGAIN);
        }
        self.link.arm(&mut self.inner);
        None
    }
}
