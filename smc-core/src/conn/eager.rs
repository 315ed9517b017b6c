//! When a connection is worth the attempt to move it.
//!
//! The rendezvous costs more than connecting and closing do. `SMC_UPGRADE_AFTER` says how busy a connection must have been;
//! below the default of 32 KiB, many connections may have gone to that expense and ended before they had anything of it. A process that
//! sees this happen again and again waits as long as by default, until connections last again.
//!
//! Connections made and connections accepted are counted apart: a proxy's clients may come for one request each while
//! its connections to the servers behind it stay.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::config;

/// Connections that ended too soon, less those that paid: from here on it is not tried at once.
const TOO_MANY: u32 = 16;
const MOST: u32 = 32;
/// What one connection that paid makes up for.
const WORTH: u32 = 8;
/// Bytes over rings for which moving was worth it.
const PAYS: u64 = 1 << 10;

/// What connections of one kind came to. Races only blur it.
struct History(AtomicU32);

static HISTORY: [History; 2] = [History(AtomicU32::new(0)), History(AtomicU32::new(0))];

/// Weighted bytes after which a new connection is to be moved.
pub fn upgrade_after(active: bool) -> u64 {
    HISTORY[active as usize].upgrade_after(config::get().upgrade_after)
}

/// A connection ends that was not kept on TCP by anything, after `weight` weighted bytes on TCP and `ring` bytes over rings.
pub fn connection_ends(active: bool, weight: u64, ring: u64) {
    if config::get().upgrade_after < config::DEFAULT_UPGRADE_AFTER {
        HISTORY[active as usize].connection_ends(weight, ring);
    }
}

impl History {
    fn upgrade_after(&self, set: u64) -> u64 {
        match self.0.load(Ordering::Relaxed) {
            TOO_MANY.. => set.max(config::DEFAULT_UPGRADE_AFTER),
            _ => set,
        }
    }

    fn connection_ends(&self, weight: u64, ring: u64) {
        let before = self.0.load(Ordering::Relaxed);
        let after = match ring {
            PAYS.. => before.saturating_sub(WORTH),
            // Whoever was there so long would have met a peer.
            _ if weight > config::DEFAULT_UPGRADE_AFTER => before,
            _ => (before + 1).min(MOST),
        };
        if after != before {
            self.0.store(after, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(ends: &[(u64, u64)]) -> u64 {
        let history = History(AtomicU32::new(0));
        ends.iter().for_each(|(weight, ring)| history.connection_ends(*weight, *ring));
        history.upgrade_after(0)
    }

    const SHORT: (u64, u64) = (4096, 64);
    const LONG: (u64, u64) = (4096, 1 << 20);

    #[test]
    fn short_connections_are_left_alone_after_a_while() {
        assert_eq!(after(&[SHORT; 15]), 0);
        assert_eq!(after(&[SHORT; 16]), config::DEFAULT_UPGRADE_AFTER);
    }

    #[test]
    fn connections_that_last_bring_it_back() {
        assert_ne!(after(&[&[SHORT; 1000][..], &[LONG; 2]].concat()), 0);
        assert_eq!(after(&[&[SHORT; 1000][..], &[LONG; 3]].concat()), 0);
    }

    #[test]
    fn a_long_one_now_and_then_does_not() {
        let mixed = [&[SHORT; 19][..], &[LONG]].concat().repeat(10);
        assert_ne!(after(&[&mixed[..], &[SHORT; 19]].concat()), 0);
    }

    #[test]
    fn busy_connections_that_met_nobody_say_nothing() {
        assert_eq!(after(&[(1 << 20, 0); 100]), 0);
    }

    #[test]
    fn never_below_what_was_set() {
        let history = History(AtomicU32::new(MOST));
        assert_eq!(history.upgrade_after(1 << 30), 1 << 30);
    }
}
