//! Whole hosts against each other: handshakes, groups, data and ends of many connections at once, in any order.

mod world;

use proptest::prelude::*;
use smc_wire::clc::{Decline, Malformed, Version};
use smc_wire::conn::{Ended, State};
use smc_wire::handshake::Failure;
use smc_wire::llc::{self, Body, DeleteReason, Llc};
use smc_wire::{group, Diagnosis, PeerId, Time};
use world::World;

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Up to forty connections, opened, used and closed in any order: all their bytes arrive, all of them end, and in time the groups do.
    #[test]
    fn all_connections_come_through_and_leave_nothing_behind(
        seed: u64,
        amounts in prop::collection::vec([0..200_000u64, 0..200_000u64], 1..40),
        together: bool,
    ) {
        let mut world = World::new(seed);
        for (connection, unsent) in amounts.iter().enumerate() {
            world.connect(*unsent);
            if !together {
                world.settle();
            }
            // Every other connection lasts.
            if connection % 2 == 0 {
                let end = world.pick(2);
                world.sockets[end][connection].closing = true;
            }
        }
        world.settle();
        for (connection, unsent) in amounts.iter().enumerate() {
            let last = world.pick(2);
            world.sockets[last][connection].closing = true;
            for end in [0, 1] {
                prop_assert_eq!(world.outcome(end, connection), None);
                let socket = &world.sockets[end][connection];
                prop_assert!(socket.smc.is_some());
                prop_assert_eq!(socket.sent, unsent[end]);
            }
        }
        // At most 16 connections a group; all of those that began before the first was confirmed made their own.
        prop_assert!(world.groups(0) == world.groups(1));
        prop_assert!(together || world.groups(0) <= amounts.len().div_ceil(16));
        world.settle();
        for connection in 0..amounts.len() {
            for end in [0, 1] {
                let smc = world.sockets[end][connection].smc.as_ref().unwrap();
                prop_assert_eq!(smc.close_state().state(), State::Closed);
            }
        }
        let before = world.groups(1);
        while world.wait() {
            world.settle();
        }
        prop_assert!(world.now >= group::SERVER_IDLE && world.now < group::CLIENT_IDLE);
        prop_assert_eq!(&world.ended[1], &vec![group::Ended::Idle; before]);
        prop_assert_eq!(&world.ended[0], &vec![group::Ended::ByPeer(DeleteReason::PROGRAM); before]);
    }
}

/// A world in which two connections were made, one after the other.
fn two_connections() -> World {
    let mut world = World::new(1);
    for _ in 0..2 {
        world.connect([100_000, 1]);
        world.settle();
    }
    assert_eq!((world.groups(0), world.groups(1)), (1, 1));
    world
}

#[test]
fn data_may_overtake_the_confirm_of_its_connection() {
    let mut early = 0;
    for seed in 0..100 {
        let mut world = World::new(seed);
        for _ in 0..4 {
            world.connect([1000, 1000]);
        }
        world.settle();
        let later = world.connect([1000, 1000]);
        world.settle();
        early += world.early;
        for socket in [&world.sockets[0][later], &world.sockets[1][later]] {
            assert_eq!((socket.sent, socket.received), (1000, 1000));
        }
    }
    assert!(early > 0, "it never did");
}

#[test]
fn the_other_side_of_a_dead_host_learns_of_it_in_32_seconds() {
    for victim in [0, 1] {
        let mut world = two_connections();
        world.kill(victim);
        let survivor = 1 - victim;
        while world.ended[survivor].is_empty() {
            assert!(world.wait());
            world.settle();
        }
        assert_eq!(
            (world.now, &world.ended[survivor][..]),
            (Time::from_secs(32), &[group::Ended::PeerSilent][..])
        );
        for socket in &world.sockets[survivor] {
            let close = socket.smc.as_ref().unwrap().close_state();
            assert_eq!((close.may_send(), close.may_receive()), (Err(Ended::LinkLost), Err(Ended::LinkLost)));
        }
    }
}

#[test]
fn a_suspicion_ends_the_group_of_a_dead_peer_in_2_seconds_and_no_other() {
    for suspects in [0, 1] {
        let mut world = two_connections();
        world.suspect(suspects, 0);
        world.settle();
        // The answer has come: it is 30 s to the next TEST LINK, of either side.
        assert!(world.wait());
        assert_eq!((world.now, world.groups(0), world.groups(1)), (Time::from_secs(30), 1, 1));
        world.settle();
        // Of these no answer comes.
        world.kill(1 - suspects);
        world.suspect(suspects, 0);
        world.settle();
        while world.ended[suspects].is_empty() {
            assert!(world.wait());
            world.settle();
        }
        assert_eq!(
            (world.now, &world.ended[suspects][..]),
            (Time::from_secs(32), &[group::Ended::PeerSilent][..])
        );
    }
}

#[test]
fn either_side_can_decline_and_the_other_knows_why() {
    for refusing in [0, 1] {
        let mut world = World::new(2);
        world.refuse[refusing] = Some(Diagnosis::MEM);
        let connection = world.connect([1, 1]);
        world.settle();
        let here = world.outcome(refusing, connection).unwrap().unwrap();
        let there = world.outcome(1 - refusing, connection).unwrap().unwrap();
        assert_eq!((here.diagnosis, here.peer), (Diagnosis::MEM, None));
        assert_eq!((there.diagnosis, there.peer), (Diagnosis::PEERDECL, Some(Diagnosis::MEM)));
        // And the next connection is none the worse for it.
        let connection = world.connect([1, 1]);
        world.settle();
        assert_eq!(world.outcome(0, connection), None);
        assert_eq!(world.sockets[1][connection].received, 1);
    }
}

#[test]
fn a_client_that_has_lost_its_group_declines_out_of_sync() {
    let mut world = two_connections();
    world.forget_groups(0);
    let connection = world.connect([1, 1]);
    world.settle();
    let here = world.outcome(0, connection).unwrap().unwrap();
    let there = world.outcome(1, connection).unwrap().unwrap();
    assert_eq!(here.diagnosis, Diagnosis::SYNCERR);
    assert_eq!((there.peer, there.out_of_sync), (Some(Diagnosis::SYNCERR), true));
}

#[test]
fn garbage_instead_of_clc_ends_that_connection_and_no_other() {
    let mut world = two_connections();
    let connection = world.connect([1, 1]);
    world.kill_tcp(connection);
    world.inject(1, connection, b"GET / HTTP/1.1\r\n\r\n");
    world.settle();
    assert_eq!(world.outcome(1, connection), Some(Err(Failure::Malformed(Malformed::EyeCatcher))));
    // The client hears nothing.
    while world.outcome(0, connection).is_none() {
        assert!(world.wait());
        world.settle();
    }
    assert_eq!((world.outcome(0, connection), world.now), (Some(Err(Failure::TimedOut)), Time::from_secs(6)));
    assert_eq!((world.groups(0), world.groups(1)), (1, 1));
}

#[test]
fn a_decline_behind_which_data_follows_leaves_the_data() {
    let mut world = World::new(3);
    let connection = world.connect([1, 1]);
    world.kill_tcp(connection);
    let decline = Decline::new(Version::V1, PeerId::default(), Diagnosis::NOSMCDEV).encode();
    world.inject(1, connection, &[&decline[..], b"hello"].concat());
    world.settle();
    assert_eq!(world.outcome(1, connection).unwrap().unwrap().peer, Some(Diagnosis::NOSMCDEV));
    assert_eq!(world.left_in_tcp(1, connection), b"hello");
}

#[test]
fn a_malformed_message_on_the_link_resets_it_at_both_ends() {
    for victim in [0, 1] {
        let mut world = two_connections();
        world.inject_send(victim, 0, &[0xfe; 44]);
        world.settle();
        assert_eq!(world.ended[victim], [group::Ended::ProtocolViolation]);
        assert_eq!(world.ended[1 - victim], [group::Ended::ByPeer(DeleteReason::PROTOCOL_VIOLATION)]);
        // An unknown type does not.
        let mut world = two_connections();
        let mut unknown = Llc::request(llc::Version::V2, Body::TestLink([0; 16])).encode();
        unknown[0] = 0x2d;
        world.inject_send(victim, 0, &unknown);
        world.settle();
        assert!(world.ended.iter().all(Vec::is_empty));
    }
}
