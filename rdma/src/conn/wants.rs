//! What somebody waits for on a connection, and which doorbells ring when it is so.
//!
//! | asked for | rings | when |
//! |---|---|---|
//! | data | data | there is something to read, or an end |
//! | room | room | there is room, or sending fails |
//! | news | data | a byte has come since, or an end, whatever lies unread (EPOLLET) |
//! | ends | data | an end has come since, whatever is unread |
//!
//! Each is asked for once and rings once. A thread that sleeps in poll for an end alone cannot use the data doorbell, which stays rung as
//! long as there is something unread: for it there are doorbells of their own ([`Ends`]).

use smc_core::sys::fd::{self, OwnFd};
use smc_core::sys::Result;

/// How a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    pub readable: bool,
    /// Enough to wake somebody for it.
    pub much_room: bool,
    /// Grows with every byte that comes, and with every end.
    pub news: u64,
    /// Grows with every end: the peer's, both sides', that of the connection.
    pub ends: u64,
}

/// What somebody waits for. See the [module](self).
#[derive(Default)]
pub struct Wants {
    data: bool,
    room: bool,
    /// What [`Now::news`] and [`Now::ends`] were.
    news: Option<u64>,
    ends: Option<u64>,
}

/// Doorbells to ring, and how many wishes that answers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rings {
    pub data: bool,
    pub room: bool,
    pub answered: u32,
}

impl Wants {
    /// Asks; how many wishes more there are, here and below.
    pub fn data(&mut self) -> u32 {
        u32::from(!std::mem::replace(&mut self.data, true))
    }

    pub fn room(&mut self) -> u32 {
        u32::from(!std::mem::replace(&mut self.room, true))
    }

    pub fn news(&mut self, now: &Now) -> u32 {
        u32::from(self.news.replace(now.news).is_none())
    }

    pub fn ends(&mut self, now: &Now) -> u32 {
        u32::from(self.ends.replace(now.ends).is_none())
    }

    /// Nobody waits for anything.
    pub fn is_empty(&self) -> bool {
        !self.data && !self.room && self.news.is_none() && self.ends.is_none()
    }

    /// What is so now, and not asked for any more.
    pub fn due(&mut self, now: &Now) -> Rings {
        let data = self.data && now.readable;
        let room = self.room && now.much_room;
        let news = self.news.is_some_and(|then| then != now.news);
        let ends = self.ends.is_some_and(|then| then != now.ends);
        self.data &= !data;
        self.room &= !room;
        if news {
            self.news = None;
        }
        if ends {
            self.ends = None;
        }
        let answered = [data, room, news, ends].map(u32::from).iter().sum();
        Rings { data: data || news || ends, room, answered }
    }

    /// Nobody waits any more; how many wishes there were.
    pub fn clear(&mut self) -> u32 {
        let gone = std::mem::take(self);
        u32::from(gone.data)
            + u32::from(gone.room)
            + u32::from(gone.news.is_some())
            + u32::from(gone.ends.is_some())
    }
}

/// Which end somebody waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The peer sends no more (POLLRDHUP).
    Peer,
    /// Neither side does, or the connection is lost (POLLHUP).
    Both,
}

/// Doorbells for who waits for an end alone; made for the first who does. What they are for stays so: once rung, they stay it.
#[derive(Default)]
pub struct Ends([Option<(OwnFd, bool)>; 2]);

impl Ends {
    /// The doorbell for an end, which has come already if `is_so`.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn get(&mut self, which: Which, is_so: bool) -> Result<i32> {
        let bell = &mut self.0[which as usize];
        if bell.is_none() {
            *bell = Some((fd::eventfd()?, false));
        }
        self.ring(which, is_so);
        Ok(self.0[which as usize].as_ref().map_or(-1, |(bell, _)| bell.raw()))
    }

    /// Rings it, if there is one and the end has come.
    pub fn ring(&mut self, which: Which, is_so: bool) {
        if let Some((bell, rung @ false)) = &mut self.0[which as usize] {
            if is_so {
                *rung = true;
                fd::ring(bell.raw());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Now = Now { readable: false, much_room: false, news: 5, ends: 0 };
    const NOTHING: Rings = Rings { data: false, room: false, answered: 0 };

    #[test]
    fn a_wish_is_counted_once_and_answered_once() {
        let mut wants = Wants::default();
        assert!(wants.is_empty());
        assert_eq!((wants.data(), wants.data(), wants.room()), (1, 0, 1));
        assert_eq!(wants.due(&QUIET), NOTHING);
        let readable = Now { readable: true, news: 6, ..QUIET };
        assert_eq!(wants.due(&readable), Rings { data: true, room: false, answered: 1 });
        assert_eq!(wants.due(&readable), NOTHING);
        assert_eq!(wants.clear(), 1);
        assert!(wants.is_empty());
    }

    #[test]
    fn news_ring_though_something_lies_unread_and_only_if_there_are_some() {
        let unread = Now { readable: true, ..QUIET };
        let mut wants = Wants::default();
        assert_eq!(wants.news(&unread), 1);
        assert_eq!(wants.due(&unread), NOTHING);
        assert_eq!(wants.due(&Now { news: 6, ..unread }), Rings { data: true, room: false, answered: 1 });
        assert_eq!(wants.due(&Now { news: 7, ..unread }), NOTHING);
    }

    #[test]
    fn who_waits_for_an_end_is_not_woken_by_bytes() {
        let mut wants = Wants::default();
        assert_eq!(wants.ends(&QUIET), 1);
        assert_eq!(wants.due(&Now { readable: true, news: 9, ..QUIET }), NOTHING);
        let ended = Now { readable: true, news: 10, ends: 1, ..QUIET };
        assert_eq!(wants.due(&ended), Rings { data: true, room: false, answered: 1 });
        assert_eq!(wants.ends(&ended), 1);
        assert_eq!(wants.due(&ended), NOTHING);
    }

    #[test]
    fn the_doorbell_of_an_end_rings_when_it_comes_or_has_come_and_stays_so() {
        let is_rung = |fd: i32| {
            let mut look = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
            smc_core::sys::poll(&mut look, 0).expect("poll") == 1
        };
        let mut ends = Ends::default();
        // Nobody has asked for one.
        ends.ring(Which::Peer, true);
        let peer = ends.get(Which::Peer, false).expect("eventfd");
        assert!(!is_rung(peer));
        ends.ring(Which::Both, true);
        ends.ring(Which::Peer, false);
        assert!(!is_rung(peer));
        ends.ring(Which::Peer, true);
        assert!(is_rung(peer));
        assert_eq!(ends.get(Which::Peer, true), Ok(peer));
        assert!(is_rung(peer));
        let both = ends.get(Which::Both, true).expect("eventfd");
        assert!(both != peer && is_rung(both));
    }
}
