//! What a group answers, what it asks, and when it ends; in virtual time.

use super::*;
use crate::clc::{Answer, Chosen, LinkEnd, Rmbe};
use crate::handshake::Terms;
use crate::llc::{AddLinkRkeys, DeleteRkey, FurtherRkey, RkeyTriples};
use crate::{Eid, Gid, Mac, MtuCode, PeerId, SizeCode};
use std::net::Ipv4Addr;

const START: Time = Time::from_secs(1000);
const SECOND: Time = Time::from_secs(1);

fn key() -> GroupKey {
    GroupKey { peer_id: PeerId([7; 8]), gid: Gid::from_ipv4(Ipv4Addr::new(192, 0, 2, 7)) }
}

fn group(role: Role) -> LinkGroup<&'static str> {
    let confirmed = ConfirmLink {
        no_eye_catcher: 3,
        mac: Mac([2; 6]),
        gid: Gid([3; 16]),
        qpn: U24::truncated(18),
        link: 1,
        user_id: [0, 0, 1, 1],
        max_links: 1,
        max_connections: 16,
    };
    let terms = Terms { release: 1, max_connections: 16, max_links: 1, direct: true };
    let new = NewGroup { key: key(), terms, peer_host: [b' '; 32], confirmed };
    LinkGroup::new(START, role, &new, U24::truncated(17))
}

fn request(body: Body<'_>) -> Vec<u8> {
    Llc::request(Version::V2, body).encode()
}

fn response(body: Body<'_>) -> Vec<u8> {
    Llc::response(Version::V2, body).encode()
}

fn actions<C>(group: &mut LinkGroup<C>) -> Vec<Action> {
    std::iter::from_fn(|| group.poll_action()).collect()
}

/// What a group does when a message comes.
fn upon<C>(group: &mut LinkGroup<C>, now: Time, message: &[u8]) -> Vec<Action> {
    assert_eq!(group.receive(now, message), Incoming::Llc);
    actions(group)
}

fn rmb(n: u32) -> Rmb {
    Rmb { rkey: n, address: u64::from(n) << 32 }
}

fn delete_link(all: bool, orderly: bool, link: u8, reason: DeleteReason) -> Body<'static> {
    Body::DeleteLink(DeleteLink { all, orderly, link, reason })
}

#[test]
fn requests_are_answered_at_once() {
    let further = [FurtherRkey { link: 2, rmb: rmb(9) }, FurtherRkey::default()];
    let confirm_rkey = ConfirmRkey { further: 1, entries: further, ..ConfirmRkey::single(rmb(5)) };
    let answered = DeleteRkey { negative: false, count: 1, failed: 0, rkeys: [0; 8] };
    let denied = ConfirmRkey { reply: RkeyReply { negative: true, retry: true }, ..confirm_rkey };
    let triples = [6; 48];
    let rkeys =
        Some(AddLinkRkeys { direct: true, target: Gid([9; 16]), rkeys: RkeyTriples::new(&triples).unwrap() });
    let add_link = AddLink {
        rejected: None,
        mac: Mac([4; 6]),
        gid: Gid([4; 16]),
        qpn: U24::truncated(4),
        link: 2,
        mtu: MtuCode::truncated(3),
        psn: U24::truncated(5),
        rkeys,
    };
    let gids = [5; 32];
    for role in [Role::Client, Role::Server] {
        for (asked, answer) in [
            (Body::TestLink([7; 16]), Body::TestLink([7; 16])),
            (Body::ConfirmRkey(confirm_rkey), Body::ConfirmRkey(confirm_rkey)),
            // The bits of a refusal mean nothing in a request.
            (Body::ConfirmRkey(denied), Body::ConfirmRkey(confirm_rkey)),
            (Body::AddLink(add_link), Body::AddLink(AddLink { rejected: Some(0), rkeys: None, ..add_link })),
            (Body::DeleteRkey(DeleteRkey::single(5)), Body::DeleteRkey(answered)),
            (
                Body::RequestAddLink(RequestAddLink::new(&gids).unwrap()),
                Body::RequestAddLink(RequestAddLink::EMPTY),
            ),
            (
                delete_link(false, true, 2, DeleteReason::OPERATOR),
                delete_link(false, true, 2, DeleteReason::UNKNOWN_LINK),
            ),
        ] {
            let mut group = group(role);
            assert_eq!(
                upon(&mut group, START, &request(asked)),
                [Action::Send(response(answer))],
                "{asked:?}"
            );
            assert!(!group.has_ended());
        }
    }
}

#[test]
fn a_client_repeats_its_confirm_link_and_a_server_does_not_answer_one() {
    let mut client = group(Role::Client);
    let other_side = Body::ConfirmLink(ConfirmLink { mac: Mac::default(), ..client.confirmed });
    let own = Body::ConfirmLink(client.confirmed);
    assert_eq!(upon(&mut client, START, &request(other_side)), [Action::Send(response(own))]);
    assert_eq!(upon(&mut group(Role::Server), START, &request(other_side)), []);
}

#[test]
fn unknown_messages_and_unasked_responses_are_ignored() {
    let mut group = group(Role::Client);
    for mut message in [request(Body::TestLink([0; 16])), response(Body::TestLink([0; 16]))] {
        for kind in [0x00, 0x07, 0x23, 0x2f, 0x37, 0x90] {
            message[0] = kind;
            assert_eq!(upon(&mut group, START, &message), [], "{kind:#x}");
        }
    }
    for unasked in [
        Body::TestLink([0; 16]),
        Body::ConfirmRkey(ConfirmRkey::single(rmb(1))),
        Body::DeleteRkey(DeleteRkey::single(1)),
        delete_link(false, false, 1, DeleteReason::NONE),
    ] {
        assert_eq!(upon(&mut group, START, &response(unasked)), [], "{unasked:?}");
    }
}

#[test]
fn malformed_messages_end_the_group_as_a_protocol_violation() {
    let all = delete_link(true, false, 0, DeleteReason::PROTOCOL_VIOLATION);
    let expected = [Action::Send(request(all)), Action::Ended(Ended::ProtocolViolation)];
    let mut nine_rkeys = request(Body::DeleteRkey(DeleteRkey::single(1)));
    nine_rkeys[4] = 9;
    for message in [&[][..], &[0x27; 43], &nine_rkeys, &[0xfe], &[0xfe; 44]] {
        let mut group = group(Role::Server);
        assert_eq!(upon(&mut group, START, message), expected, "{message:x?}");
        assert!(group.has_ended() && group.deadline().is_none());
        assert_eq!(upon(&mut group, START, &request(Body::TestLink([0; 16]))), [], "nothing follows");
    }
}

#[test]
fn a_peer_that_deletes_all_gets_it_back() {
    for (role, orderly) in [(Role::Client, false), (Role::Server, true)] {
        let mut group = group(role);
        let asked = delete_link(true, true, 0, DeleteReason::PROGRAM);
        let answer = delete_link(true, orderly, 0, DeleteReason::PROGRAM);
        let expected = [Action::Send(request(answer)), Action::Ended(Ended::ByPeer(DeleteReason::PROGRAM))];
        assert_eq!(upon(&mut group, START, &request(asked)), expected);
        assert_eq!(upon(&mut group, START, &request(asked)), [], "and not for ever");
    }
}

#[test]
fn deleting_the_only_link_ends_the_group() {
    let asked = delete_link(false, true, 1, DeleteReason::LOST_PATH);
    let ended = Action::Ended(Ended::ByPeer(DeleteReason::LOST_PATH));
    let mut client = group(Role::Client);
    let answer = delete_link(false, true, 1, DeleteReason::NONE);
    assert_eq!(upon(&mut client, START, &request(asked)), [Action::Send(response(answer)), ended.clone()]);
    // From a client it is a wish: the server asks for it in turn.
    let mut server = group(Role::Server);
    assert_eq!(upon(&mut server, START, &request(asked)), [Action::Send(request(asked))]);
    assert!(!server.is_usable() && !server.has_ended());
    assert_eq!(upon(&mut server, START, &request(asked)), [], "once");
    assert_eq!(upon(&mut server, START, &response(answer)), std::slice::from_ref(&ended));
    // Or the client does not answer.
    let mut server = group(Role::Server);
    upon(&mut server, START, &request(asked));
    assert_eq!(server.deadline(), Some(START + RESPONSE_WAIT));
    server.timeout(START + RESPONSE_WAIT);
    assert_eq!(actions(&mut server), [ended]);
}

#[test]
fn a_silent_peer_is_tested_after_30_s_and_given_up_2_s_later() {
    let test = Action::Send(request(Body::TestLink([0; 16])));
    let mut group = group(Role::Client);
    group.add("a connection");
    // Anything that comes counts, CDC as well.
    let cdc = crate::cdc::Cdc {
        sequence: 1,
        token: 1,
        producer: Default::default(),
        consumer: Default::default(),
        producer_flags: Default::default(),
        state_flags: Default::default(),
    };
    assert_eq!(group.receive(START + 10 * SECOND, &cdc.encode()), Incoming::Cdc(cdc));
    assert_eq!(group.deadline(), Some(START + 40 * SECOND));
    group.timeout(START + 39 * SECOND);
    assert_eq!(actions(&mut group), []);
    group.timeout(START + 40 * SECOND);
    assert_eq!(actions(&mut group), std::slice::from_ref(&test));
    assert_eq!(group.deadline(), Some(START + 42 * SECOND));
    assert_eq!(upon(&mut group, START + 41 * SECOND, &response(Body::TestLink([0; 16]))), []);
    assert_eq!(group.deadline(), Some(START + 71 * SECOND));
    group.timeout(START + 71 * SECOND);
    assert_eq!(actions(&mut group), [test]);
    group.timeout(START + 73 * SECOND);
    assert_eq!(actions(&mut group), [Action::Ended(Ended::PeerSilent)]);
}

#[test]
fn a_suspected_peer_is_tested_at_once_and_given_up_2_s_later_however_often_it_is_suspected() {
    let test = Action::Send(request(Body::TestLink([0; 16])));
    let mut group = group(Role::Client);
    group.add("a connection");
    group.test(START + 5 * SECOND);
    assert_eq!(actions(&mut group), std::slice::from_ref(&test));
    assert_eq!(group.deadline(), Some(START + 7 * SECOND));
    // One is under way, and its time runs.
    group.test(START + 6 * SECOND);
    assert_eq!((actions(&mut group), group.deadline()), (vec![], Some(START + 7 * SECOND)));
    // Anything that comes is a sign of life, and the next suspicion begins anew.
    assert_eq!(
        upon(&mut group, START + 6 * SECOND, &request(Body::TestLink([1; 16]))),
        [Action::Send(response(Body::TestLink([1; 16])))]
    );
    assert_eq!(group.deadline(), Some(START + 36 * SECOND));
    group.timeout(START + 7 * SECOND);
    assert_eq!(actions(&mut group), []);
    group.test(START + 8 * SECOND);
    assert_eq!(actions(&mut group), [test]);
    group.timeout(START + 9 * SECOND);
    assert_eq!((actions(&mut group), group.has_ended()), (vec![], false));
    group.timeout(START + 10 * SECOND);
    assert_eq!(actions(&mut group), [Action::Ended(Ended::PeerSilent)]);
}

#[test]
fn a_group_that_ends_is_not_tested() {
    // Waiting for the response to DELETE LINK.
    let mut server = group(Role::Server);
    let wish = delete_link(false, true, 1, DeleteReason::OPERATOR);
    upon(&mut server, START, &request(wish));
    server.test(START + SECOND);
    assert_eq!((actions(&mut server), server.deadline()), (vec![], Some(START + 2 * SECOND)));
    server.timeout(START + 2 * SECOND);
    assert_eq!(actions(&mut server), [Action::Ended(Ended::ByPeer(DeleteReason::OPERATOR))]);
    server.test(START + 3 * SECOND);
    assert_eq!((actions(&mut server), server.deadline()), (vec![], None));
}

#[test]
fn what_was_heard_counts_as_a_sign_of_life_unless_it_came_before_the_question() {
    let mut group = group(Role::Client);
    group.add("a connection");
    group.heard(START + 4 * SECOND);
    assert_eq!(group.deadline(), Some(START + 34 * SECOND));
    group.test(START + 5 * SECOND);
    actions(&mut group);
    // Told of late.
    group.heard(START + 4 * SECOND + SECOND / 2);
    assert_eq!(group.deadline(), Some(START + 7 * SECOND));
    group.heard(START + 6 * SECOND);
    assert_eq!(group.deadline(), Some(START + 36 * SECOND));
    group.timeout(START + 7 * SECOND);
    assert_eq!((actions(&mut group), group.has_ended()), (vec![], false));
}

#[test]
fn a_link_that_fails_while_it_is_tested_ends_the_group_once() {
    let mut group = group(Role::Client);
    group.add("a connection");
    group.test(START);
    group.link_failed();
    let wanted = [Action::Send(request(Body::TestLink([0; 16]))), Action::Ended(Ended::LinkFailed)];
    assert_eq!(actions(&mut group), wanted);
    group.timeout(START + 2 * SECOND);
    assert_eq!(actions(&mut group), []);
}

#[test]
fn a_group_without_connections_ends_after_ten_minutes_the_servers_first() {
    for (role, seconds) in [(Role::Server, 600), (Role::Client, 610)] {
        let mut group = group(role);
        let token = group.add("a connection").unwrap();
        let mut now = START + 5000 * SECOND;
        // The peer is well all the time.
        let alive = response(Body::TestLink([0; 16]));
        upon(&mut group, now, &alive);
        group.timeout(now);
        assert_eq!(actions(&mut group), [], "it is in use");
        assert_eq!(group.remove(now, token), Some("a connection"));
        assert_eq!(group.remove(now + SECOND, token), None);
        let end = now + seconds * SECOND;
        while now < end {
            group.timeout(now);
            let sent = actions(&mut group);
            assert!(
                sent.iter().all(|action| *action == Action::Send(request(Body::TestLink([0; 16])))),
                "{sent:?}"
            );
            upon(&mut group, now, &alive);
            now = group.deadline().unwrap();
        }
        assert_eq!(now, end);
        group.timeout(now);
        let all = delete_link(true, true, 0, DeleteReason::PROGRAM);
        assert_eq!(actions(&mut group), [Action::Send(request(all)), Action::Ended(Ended::Idle)]);
    }
}

#[test]
fn one_rkey_request_of_a_type_is_under_way_at_a_time() {
    let mut group = group(Role::Client);
    let confirm = |n| Action::Send(request(Body::ConfirmRkey(ConfirmRkey::single(rmb(n)))));
    let delete = |n| Action::Send(request(Body::DeleteRkey(DeleteRkey::single(n))));
    group.confirm_rkey(START, rmb(1));
    group.confirm_rkey(START, rmb(2));
    group.confirm_rkey(START, rmb(3));
    group.delete_rkey(START, 4);
    group.delete_rkey(START, 5);
    assert_eq!(actions(&mut group), [confirm(1), delete(4)]);
    let answer = response(Body::ConfirmRkey(ConfirmRkey::single(rmb(1))));
    assert_eq!(upon(&mut group, START, &answer), [Action::RkeyConfirmed(rmb(1), true), confirm(2)]);
    let refused = RkeyReply { negative: true, retry: false };
    let answer = response(Body::ConfirmRkey(ConfirmRkey { reply: refused, ..ConfirmRkey::single(rmb(2)) }));
    assert_eq!(upon(&mut group, START + SECOND, &answer), [Action::RkeyConfirmed(rmb(2), false), confirm(3)]);
    // Nobody answers the others.
    assert_eq!(group.deadline(), Some(START + 2 * SECOND));
    group.timeout(START + 2 * SECOND);
    assert_eq!(actions(&mut group), [Action::RkeyDeleted(4), delete(5)]);
    group.timeout(START + 3 * SECOND);
    assert_eq!(actions(&mut group), [Action::RkeyConfirmed(rmb(3), false)]);
    group.timeout(START + 4 * SECOND);
    assert_eq!(actions(&mut group), [Action::RkeyDeleted(5)]);
}

#[test]
fn a_peer_is_told_of_255_rmbs_at_most() {
    let mut group = group(Role::Client);
    for n in 0..255 {
        assert!(group.announce(rmb(n)));
    }
    assert!(group.announce(rmb(7)), "known already");
    assert!(!group.announce(rmb(255)));
    assert!(
        !group.announce(Rmb { rkey: 7, address: 1 }),
        "the same rkey with another address takes room too"
    );
    group.delete_rkey(START, 7);
    actions(&mut group);
    assert!(!group.announce(rmb(255)), "not before it has answered");
    upon(&mut group, START, &response(Body::DeleteRkey(DeleteRkey::single(0))));
    assert!(group.announce(rmb(255)));
    assert!(!group.announce(rmb(256)));
}

#[test]
fn tokens_are_unique_not_zero_and_limited() {
    let mut group = group(Role::Server);
    group.last_token = u32::MAX - 5;
    let tokens: Vec<_> = (0..16).map(|_| group.add("one").unwrap()).collect();
    assert_eq!((tokens[0], tokens[4], tokens[5], tokens[15]), (u32::MAX - 4, u32::MAX, 1, 11));
    assert_eq!(group.add("one more"), None);
    assert!(!group.is_usable());
    assert_eq!((group.connection(1), group.connection(0), group.connection(12)), (Some(&"one"), None, None));
    assert_eq!(group.remove(START, 1), Some("one"));
    // The next token that is not in use.
    group.last_token = u32::MAX - 6;
    group.connections.insert(u32::MAX - 5, "another");
    group.remove(START, 2);
    assert_eq!(group.add("one more"), Some(1));
    // It is the server that counts.
    let mut client = self::group(Role::Client);
    assert_eq!(client.add("one"), Some(FIRST_TOKEN));
    assert!((1..30).all(|_| client.add("one more").is_some()));
}

#[test]
fn a_group_that_is_told_to_end_says_so_and_takes_nobody() {
    let mut group = group(Role::Client);
    group.terminate(DeleteReason::PROGRAM);
    let all = delete_link(true, false, 0, DeleteReason::PROGRAM);
    assert_eq!(actions(&mut group), [Action::Send(request(all)), Action::Ended(Ended::Terminated)]);
    group.terminate(DeleteReason::PROGRAM);
    group.link_failed();
    group.confirm_rkey(START, rmb(1));
    group.timeout(START + 1000 * SECOND);
    assert_eq!((actions(&mut group), group.add("late")), (vec![], None));
}

#[test]
fn groups_are_found_by_what_the_kernel_finds_them_by() {
    let terms = Terms { release: 1, max_connections: 16, max_links: 1, direct: true };
    let wish = Wish { key: key(), mac: Mac::default(), eid: Eid::new("A").unwrap(), terms, iwarp: false };
    let server = group(Role::Server);
    assert!(server.serves(&wish) && !group(Role::Client).serves(&wish));
    let elsewhere = Gid::from_ipv4(Ipv4Addr::new(192, 0, 2, 8));
    assert!(!server.serves(&Wish { key: GroupKey { gid: elsewhere, ..key() }, ..wish }));
    assert!(!server.serves(&Wish { key: GroupKey { peer_id: PeerId([8; 8]), ..key() }, ..wish }));

    let GroupKey { peer_id, gid } = key();
    let (qpn, psn, mtu) = (U24::truncated(17), U24::truncated(1), MtuCode::truncated(3));
    let accept = Answer {
        link: LinkEnd { peer_id, gid, mac: Mac::default(), qpn, psn, mtu },
        rmbe: Rmbe { rmb: rmb(1), index: 1, size: SizeCode::truncated(0), token: 1 },
        chosen: Chosen::V2 { eid: Eid::new("A").unwrap(), first_contact: None },
    };
    let mut client = group(Role::Client);
    assert!(client.is_named_by(&accept) && !group(Role::Server).is_named_by(&accept));
    for change in [
        LinkEnd { peer_id: PeerId([8; 8]), ..accept.link },
        LinkEnd { gid: Gid([8; 16]), ..accept.link },
        LinkEnd { qpn: U24::truncated(16), ..accept.link },
    ] {
        assert!(!client.is_named_by(&Answer { link: change, ..accept.clone() }));
    }
    client.terminate(DeleteReason::PROGRAM);
    assert!(!client.is_named_by(&accept));
}
