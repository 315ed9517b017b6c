//! The close states one by one.

use super::close::{Close, Ended, State};
use crate::cdc::StateFlags;
use proptest::prelude::*;
use proptest::{collection, sample};

/// What can happen to [`Close`].
#[derive(Clone, Copy, Debug)]
enum Event {
    Shutdown,
    Close,
    CloseUnread,
    Done,
    Closed,
    Abort,
}

use Event::{Abort, CloseUnread, Done, Shutdown};

/// Lets it happen; returns which flag has to be sent newly.
fn happen(close: &mut Close, event: Event) -> StateFlags {
    let before = close.sent();
    let mut receive = |flag| {
        close.receive(flag);
        false
    };
    let must_send = match event {
        Done => receive(StateFlags::SENDING_DONE),
        Event::Closed => receive(StateFlags::CLOSED),
        Abort => receive(StateFlags::ABORT),
        Shutdown => close.shutdown_write(),
        Event::Close => close.close(false),
        CloseUnread => close.close(true),
    };
    let new = StateFlags(close.sent().0 & !before.0);
    assert_eq!(must_send, new != StateFlags::default(), "{event:?}");
    new
}

#[test]
fn the_close_states_follow_the_matrix() {
    use State::*;
    const NO: StateFlags = StateFlags(0);
    const DONE: StateFlags = StateFlags::SENDING_DONE;
    const CLOSED: StateFlags = StateFlags::CLOSED;
    const ABORTED: StateFlags = StateFlags::ABORT;
    type Row<'a> = (&'a [Event], State, [(State, StateFlags); 6]);
    // How the state was reached; what follows on shutdown, close, close with unread data, done, closed, abort.
    #[rustfmt::skip]
    let rows: &[Row<'_>] = &[
        (&[], Active, [(PeerCloseWait1, DONE), (PeerCloseWait1, CLOSED), (PeerCloseWait1, ABORTED),
            (AppCloseWait1, NO), (AppCloseWait1, NO), (ProcessAbort, NO)]),
        (&[Done], AppCloseWait1, [(AppCloseWait2, DONE), (PeerFinCloseWait, CLOSED), (PeerFinCloseWait, ABORTED),
            (AppCloseWait1, NO), (AppCloseWait1, NO), (ProcessAbort, NO)]),
        (&[Event::Closed], AppCloseWait1, [(AppCloseWait2, DONE), (Closed, CLOSED), (Closed, ABORTED),
            (AppCloseWait1, NO), (AppCloseWait1, NO), (ProcessAbort, NO)]),
        (&[Done, Shutdown], AppCloseWait2, [(AppCloseWait2, NO), (PeerFinCloseWait, CLOSED), (PeerFinCloseWait, ABORTED),
            (AppCloseWait2, NO), (AppCloseWait2, NO), (Closed, NO)]),
        (&[Done, Shutdown, Event::Closed], AppCloseWait2, [(AppCloseWait2, NO), (Closed, CLOSED), (Closed, ABORTED),
            (AppCloseWait2, NO), (AppCloseWait2, NO), (Closed, NO)]),
        (&[Shutdown], PeerCloseWait1, [(PeerCloseWait1, NO), (PeerCloseWait1, CLOSED), (PeerCloseWait1, ABORTED),
            (PeerCloseWait2, NO), (AppFinCloseWait, NO), (ProcessAbort, NO)]),
        (&[Event::Close], PeerCloseWait1, [(PeerCloseWait1, NO), (PeerCloseWait1, NO), (PeerCloseWait1, NO),
            (PeerCloseWait2, NO), (Closed, NO), (Closed, NO)]),
        (&[Shutdown, Done], PeerCloseWait2, [(PeerCloseWait2, NO), (PeerCloseWait2, CLOSED), (PeerCloseWait2, ABORTED),
            (PeerCloseWait2, NO), (AppFinCloseWait, NO), (ProcessAbort, NO)]),
        (&[Event::Close, Done], PeerCloseWait2, [(PeerCloseWait2, NO), (PeerCloseWait2, NO), (PeerCloseWait2, NO),
            (PeerCloseWait2, NO), (Closed, NO), (Closed, NO)]),
        (&[Done, Event::Close], PeerFinCloseWait, [(PeerFinCloseWait, NO), (PeerFinCloseWait, NO), (PeerFinCloseWait, NO),
            (PeerFinCloseWait, NO), (Closed, NO), (Closed, NO)]),
        (&[Shutdown, Event::Closed], AppFinCloseWait, [(AppFinCloseWait, NO), (Closed, CLOSED), (Closed, ABORTED),
            (AppFinCloseWait, NO), (AppFinCloseWait, NO), (ProcessAbort, NO)]),
        (&[Abort], ProcessAbort, [(ProcessAbort, NO), (Closed, ABORTED), (Closed, ABORTED),
            (ProcessAbort, NO), (ProcessAbort, NO), (ProcessAbort, NO)]),
        // The peer is gone, and yet waits for the final flag.
        (&[Done, Shutdown, Abort], Closed, [(Closed, NO), (Closed, ABORTED), (Closed, ABORTED),
            (Closed, NO), (Closed, NO), (Closed, NO)]),
        (&[Event::Close, Event::Closed], Closed, [(Closed, NO); 6]),
    ];
    for (path, state, expected) in rows {
        let mut reached = Close::default();
        for event in *path {
            happen(&mut reached, *event);
        }
        assert_eq!(reached.state(), *state, "{path:?}");
        let events = [Shutdown, Event::Close, CloseUnread, Done, Event::Closed, Abort];
        for (event, expected) in events.into_iter().zip(expected) {
            let mut close = reached;
            let sent = happen(&mut close, event);
            assert_eq!((close.state(), sent), *expected, "{path:?}, then {event:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// However two programs close: both connections are over, and neither end has kept its final flag to itself.
    #[test]
    fn both_ends_of_a_connection_come_to_an_end(
        events in collection::vec((0..2usize, sample::select(vec![Shutdown, Event::Close, CloseUnread])), 0..6),
    ) {
        let mut ends = [Close::default(); 2];
        for (end, event) in events {
            if happen(&mut ends[end], event) != StateFlags::default() {
                let sent = ends[end].sent();
                ends[1 - end].receive(sent);
            }
        }
        for end in [0, 1, 0] {
            ends[end].close(false);
            let sent = ends[end].sent();
            ends[1 - end].receive(sent);
        }
        for end in ends {
            prop_assert!(end.is_over() && end.has_sent_final());
            prop_assert_eq!(end.state(), State::Closed);
        }
    }
}

#[test]
fn giving_up_waits_for_the_peers_final_flag_and_a_lost_link_for_nothing() {
    let mut close = Close::default();
    assert!(close.abort() && !close.abort());
    assert_eq!((close.state(), close.is_over()), (State::PeerAbortWait, false));
    assert_eq!(close.may_receive(), Err(Ended::Reset));
    close.receive(StateFlags::ABORT);
    assert_eq!((close.state(), close.is_over()), (State::Closed, true));

    let mut close = Close::default();
    close.link_lost();
    assert_eq!((close.state(), close.is_over()), (State::Closed, true));
    assert_eq!((close.may_send(), close.may_receive()), (Err(Ended::LinkLost), Err(Ended::LinkLost)));
    assert!(!close.close(false) && !close.abort(), "there is nobody to tell");
    assert_eq!(close.state(), State::Closed);

    // What was over before is not lost with the link.
    let mut close = Close::default();
    close.close(false);
    close.receive(StateFlags::CLOSED);
    close.link_lost();
    assert_eq!(close.may_receive(), Ok(false));
}
