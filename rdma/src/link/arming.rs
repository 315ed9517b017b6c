//! Whether the next completion wakes the engine's thread, and whether anybody relies on that.
//!
//! The completion queue is left unarmed for as long as somebody looks at it anyway. That no wake-up is lost, whatever runs when:
//!
//! 1. A thread that is about to sleep marks its connection (*wanted*) and counts itself here, both under the connection's lock, and then
//!    looks at `armed`. Whoever acts on a message does it under the same lock: it either comes before the mark, and the thread finds that
//!    it need not sleep, or after it, and rings. So what is left to show is that somebody acts on every message that completes.
//! 2. `armed` changes under the intake's lock only. It becomes true after the device has been asked for a wake-up and before the queue is
//!    looked at once more. So who reads true knows: what completes after the request wakes the engine's thread, and what completed before
//!    it is found by that look, of a thread that is about it (what is too much for the look, it leaves to the engine's thread with a command).
//! 3. Who reads false arms the queue himself, under the lock.
//! 4. Between the wake-up and the moment in which the engine's thread makes `armed` false, somebody may read true from before. The
//!    engine's thread first makes it false, then looks at the queue, then reads `sleepers`, and leaves the queue unarmed if there are none.
//!    The other one first counts himself and then reads `armed`. A fence (sequentially consistent) stands between the two accesses of either,
//!    so that not both can miss each other: either the thread sees false and arms, or the engine's thread sees a sleeper and arms.
//!
//! The module `tests` has this as a model for loom (`ci/loom.sh`).

use smc_core::sync::{fence, AtomicU32, Ordering};

/// See the [module](self).
pub(super) struct Arming {
    /// 1 or 0. Changed under the intake's lock.
    armed: AtomicU32,
    /// Doorbells that somebody may be asleep on.
    sleepers: AtomicU32,
}

impl Arming {
    /// As queues are made: armed.
    pub fn new() -> Arming {
        Arming { armed: AtomicU32::new(1), sleepers: AtomicU32::new(0) }
    }

    /// For who does not sleep.
    pub fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Acquire) != 0
    }

    /// For who is about to sleep, after [`Arming::sleep`].
    pub fn can_be_relied_on(&self) -> bool {
        fence(Ordering::SeqCst);
        self.is_armed()
    }

    /// The engine's thread has been woken. With the intake's lock, before the look at the queue.
    pub fn fired(&self) {
        self.armed.store(0, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// The device has been asked for a wake-up. With the intake's lock, before the look at the queue.
    pub fn asked(&self) {
        self.armed.store(1, Ordering::Release);
    }

    /// `count` more doorbells are wanted. With the lock of the connection that they belong to, so that nobody counts one down before.
    pub fn sleep(&self, count: u32) {
        if count > 0 {
            self.sleepers.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// They are not any more. With the same lock.
    pub fn wake(&self, count: u32) {
        if count > 0 {
            self.sleepers.fetch_sub(count, Ordering::Relaxed);
        }
    }

    /// Whether the queue may not be left unarmed. After [`Arming::fired`], or where the queue was found unarmed and a sleeper arms it himself.
    pub fn somebody_sleeps(&self) -> bool {
        self.sleepers.load(Ordering::Relaxed) != 0
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::Arming;
    use loom::sync::atomic::{AtomicBool, Ordering};
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    /// A link with one connection, as far as arming goes.
    struct Model {
        arming: Arming,
        /// The device: messages that have completed, and whether the next one wakes the engine's thread; and whether it has.
        device: Mutex<(u32, bool)>,
        woken: AtomicBool,
        intake: Mutex<()>,
        /// The connection: messages that were acted on, and whether somebody wants the doorbell, which has not been rung.
        connection: Mutex<(u32, bool)>,
    }

    impl Model {
        fn completes(&self) {
            let mut device = self.device.lock().unwrap();
            device.0 += 1;
            if std::mem::replace(&mut device.1, false) {
                self.woken.store(true, Ordering::SeqCst);
            }
        }

        /// With the intake's lock.
        fn take_in(&self) {
            let taken = std::mem::take(&mut self.device.lock().unwrap().0);
            if taken > 0 {
                let mut connection = self.connection.lock().unwrap();
                connection.0 += taken;
                if std::mem::replace(&mut connection.1, false) {
                    self.arming.wake(1);
                }
            }
        }

        /// With the intake's lock.
        fn arm(&self) {
            if !self.arming.is_armed() {
                self.device.lock().unwrap().1 = true;
                self.arming.asked();
                self.take_in();
            }
        }

        /// The engine's thread, which leaves the queue unarmed whenever it may.
        fn engine(&self) {
            if self.woken.swap(false, Ordering::SeqCst) {
                let _intake = self.intake.lock().unwrap();
                self.arming.fired();
                self.take_in();
                if self.arming.somebody_sleeps() {
                    self.arm();
                }
            }
        }

        /// A thread that waits for the message `number`.
        fn sleeper(&self, number: u32) {
            let mut connection = self.connection.lock().unwrap();
            if connection.0 < number {
                connection.1 = true;
                self.arming.sleep(1);
                drop(connection);
                if !self.arming.can_be_relied_on() {
                    let _intake = self.intake.lock().unwrap();
                    self.arm();
                }
            }
        }
    }

    /// The engine's thread is woken, finds `before` messages and goes to rest, while one more comes and somebody goes to sleep for it.
    fn whoever_goes_to_sleep_is_woken(before: u32) {
        loom::model(move || {
            let model = Arc::new(Model {
                arming: Arming::new(),
                device: Mutex::new((before, false)),
                woken: AtomicBool::new(true),
                intake: Mutex::new(()),
                connection: Mutex::new((0, false)),
            });
            let sleeper = move |model: &Model| model.sleeper(before + 1);
            let acts: [Box<dyn Fn(&Model) + Send>; 3] =
                [Box::new(Model::engine), Box::new(Model::completes), Box::new(sleeper)];
            let threads = acts.map(|act| {
                let model = Arc::clone(&model);
                thread::spawn(move || act(&model))
            });
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            // What the engine's thread was woken for meanwhile.
            model.engine();
            let (_, wanted) = *model.connection.lock().unwrap();
            assert!(!wanted, "asleep, and nobody comes");
        });
    }

    #[test]
    fn whoever_goes_to_sleep_while_messages_are_taken_is_woken() {
        whoever_goes_to_sleep_is_woken(1);
    }

    #[test]
    fn whoever_goes_to_sleep_while_nothing_has_come_is_woken() {
        whoever_goes_to_sleep_is_woken(0);
    }
}
