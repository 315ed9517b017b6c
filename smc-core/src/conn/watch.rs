//! What a thread sleeps on that waits for space.
//!
//! An end has one doorbell, for data and for space. Who waits for data sleeps until it is readable, and resets it before the next
//! sleep. Who waits for space cannot do the same: each would take rings that were meant for the other. So it sleeps on an epoll
//! instance out of a pool, in which the doorbell is registered edge-triggered and for EPOLLOUT too: an eventfd always has that, so
//! that no ring is missed, whoever resets the doorbell meanwhile (and a reset wakes too, for nothing).
//!
//! The pool takes no lock and no memory: it may be used in signal handlers, and after any kind of fork.

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::epoll::kernel;
use crate::lock;
use crate::sys::fd::{self, OwnFd};
use crate::sys::{self, Result};

/// Threads that can wait for space at once; others look again every millisecond.
const PLACES: usize = 256;
/// A thread that has so many has left others without giving them back (siglongjmp).
const MOST: usize = 4;
/// Instances beyond these places are closed after use.
const KEPT: usize = 16;
/// How often who has nothing to sleep on looks again.
pub const LOOK_NS: u64 = 1_000_000;

struct Place {
    /// The thread that has it, 0 for none.
    owner: AtomicU32,
    /// -1: not made yet.
    epfd: AtomicI32,
}

static POOL: [Place; PLACES] =
    [const { Place { owner: AtomicU32::new(0), epfd: AtomicI32::new(-1) } }; PLACES];

/// An epoll instance out of the pool. Not given back when dropped, since cancellation may unwind through its owner, which must not
/// drop anything: those of threads that are gone are used again.
#[derive(Clone, Copy)]
pub struct Watch {
    place: usize,
    owner: u32,
}

impl Watch {
    /// `None`: there is none to be had.
    pub fn take() -> Option<Watch> {
        let owner = lock::tid();
        let take = |from: u32, place: &Place| {
            place.owner.compare_exchange(from, owner, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let owned = |p: &&Place| p.owner.load(Ordering::Relaxed) == owner;
        let too_many = POOL.iter().filter(owned).count() >= MOST;
        let mut place = if too_many { None } else { POOL.iter().position(|p| take(0, p)) };
        if place.is_none() {
            place = POOL.iter().position(|p| {
                let last = p.owner.load(Ordering::Relaxed);
                (too_many && last == owner) || (last != 0 && !sys::task_exists(last) && take(last, p))
            });
            // Doorbells may have been left in it.
            place.into_iter().for_each(|at| POOL[at].close());
        }
        let watch = Watch { place: place?, owner };
        if watch.fd() < 0 && watch.make().is_err() {
            watch.give_back(true);
            return None;
        }
        Some(watch)
    }

    fn make(&self) -> Result<()> {
        if !fd::may_open(1) {
            return Err(sys::Errno(libc::EMFILE));
        }
        POOL[self.place].epfd.store(kernel::create()?.into_raw(), Ordering::Relaxed);
        Ok(())
    }

    /// The descriptor: readable when a doorbell was rung since [`Watch::clear`]. -1 in a child that was forked above the owner's
    /// sleep.
    pub fn fd(&self) -> i32 {
        let place = &POOL[self.place];
        match place.owner.load(Ordering::Relaxed) == self.owner {
            true => place.epfd.load(Ordering::Relaxed),
            false => -1,
        }
    }

    /// Begins to watch a doorbell, which counts as rung until [`Watch::clear`]. False: it is watched already.
    pub fn add(&self, bell: i32) -> Result<bool> {
        kernel::add_new(self.fd(), bell, kernel::BELL_EVENTS | kernel::WHATEVER_RESETS, 0)
    }

    /// False: it is not there, perhaps because its number has changed.
    pub fn remove(&self, bell: i32) -> bool {
        kernel::remove(self.fd(), bell)
    }

    /// Forgets what was rung so far. Before the look that decides whether to sleep.
    pub fn clear(&self) {
        kernel::harvest(self.fd(), |_, _| ());
    }

    /// `empty`: all that was added has been removed.
    pub fn give_back(self, empty: bool) {
        let place = &POOL[self.place];
        if place.owner.load(Ordering::Relaxed) == self.owner {
            if !empty || self.place >= KEPT {
                place.close();
            }
            place.owner.store(0, Ordering::Release);
        }
    }
}

impl Place {
    fn close(&self) {
        let epfd = self.epfd.swap(-1, Ordering::Relaxed);
        if epfd >= 0 {
            drop(OwnFd::from_raw(epfd));
        }
    }
}

/// Moves the instance with this number elsewhere, because the program wants the number. Returns whether it is one of these.
pub fn relocate(number: i32) -> bool {
    POOL.iter().filter(|p| p.epfd.load(Ordering::Relaxed) == number).any(|place| {
        let epfd = OwnFd::from_raw(number);
        let moved = epfd.relocate().is_ok();
        place.epfd.store(epfd.into_raw(), Ordering::Relaxed);
        moved
    })
}

/// In a forked child: the instances are the parent's.
pub fn after_fork_in_child() {
    for place in &POOL {
        place.close();
        place.owner.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(watch: &Watch) -> bool {
        let mut look = [libc::pollfd { fd: watch.fd(), events: libc::POLLIN, revents: 0 }];
        sys::poll(&mut look, 0) == Ok(1)
    }

    #[test]
    fn a_ring_is_seen_though_another_resets_the_doorbell() {
        let bell = fd::eventfd().unwrap();
        let watch = Watch::take().unwrap();
        assert_eq!(watch.add(bell.raw()), Ok(true));
        watch.clear();
        assert!(!rung(&watch));
        for already_rung in [false, true] {
            if already_rung {
                fd::ring(bell.raw());
                watch.clear();
                assert!(!rung(&watch));
            }
            fd::ring(bell.raw());
            fd::drain(bell.raw());
            assert!(rung(&watch));
            watch.clear();
            assert!(!rung(&watch));
        }
        // A second time is no harm.
        assert_eq!(watch.add(bell.raw()), Ok(false));
        assert!(watch.remove(bell.raw()));
        assert!(!watch.remove(bell.raw()));
        fd::ring(bell.raw());
        assert!(!rung(&watch));
        watch.give_back(true);
    }

    #[test]
    fn what_was_left_in_one_does_not_wake_the_next() {
        let bell = fd::eventfd().unwrap();
        let first = Watch::take().unwrap();
        assert_eq!(first.add(bell.raw()), Ok(true));
        first.give_back(false);
        let next: Vec<Watch> = (0..MOST).filter_map(|_| Watch::take()).collect();
        next.iter().for_each(Watch::clear);
        fd::ring(bell.raw());
        assert!(!next.iter().any(rung));
        next.into_iter().for_each(|watch| watch.give_back(true));
    }

    #[test]
    fn what_a_thread_left_behind_is_used_again() {
        let leave = || {
            // More than a thread may have: it gets its own again.
            let left: Vec<Watch> = (0..MOST + 2).map(|_| Watch::take().unwrap()).collect();
            assert_eq!(left[MOST].place, left[MOST + 1].place);
            assert!(left[MOST].fd() >= 0);
        };
        (0..PLACES / MOST + 1).for_each(|_| std::thread::spawn(leave).join().unwrap());
        // Other tests may have some at the moment.
        let watch = Watch::take().expect("one of those");
        watch.give_back(true);
    }
}
