//! Client and server against each other in virtual time, and each against messages that do not fit.

use super::*;
use crate::clc::{Chosen, Clc, FirstContact, Kind, Offers, Proposal, Technology, V1Offer, Version};
use crate::llc::{self, Body, Llc};
use crate::{Bounded, MtuCode, Rmb, SizeCode, U24};
use std::net::Ipv4Addr;

const START: Time = Time::from_secs(1000);
const HOST: Host = Host { name: *b"a-host                          ", features: 0 };

fn eid(name: &str) -> Eid {
    Eid::new(name).unwrap()
}

fn gid(last: u8) -> Gid {
    Gid::from_ipv4(Ipv4Addr::new(192, 0, 2, last))
}

/// The end number `n`.
fn local(n: u8) -> Local {
    let mtu = MtuCode::truncated(5 - n);
    let (peer_id, gid, mac) = (PeerId([n; 8]), gid(n), Mac([n; 6]));
    let rmb = Rmb { rkey: u32::from(n), address: u64::from(n) << 32 };
    Local {
        link: LinkEnd {
            peer_id,
            gid,
            mac,
            qpn: U24::truncated(16 + u32::from(n)),
            psn: U24::truncated(1),
            mtu,
        },
        rmbe: Rmbe { rmb, index: 1, size: SizeCode::truncated(n), token: 100 + u32::from(n) },
    }
}

fn proposal() -> Proposal {
    let eids = vec![eid("UNKNOWN"), eid("KNOWN"), eid("ALSO-KNOWN")].try_into().unwrap();
    Proposal::smc_r_v2(PeerId([1; 8]), Mac([1; 6]), gid(1), eids)
}

/// The proposal with its v2 offer changed.
fn offering(change: impl FnOnce(&mut crate::clc::V2Offer)) -> Proposal {
    let mut proposal = proposal();
    let Offers::V2 { v2: Some(v2), .. } = &mut proposal.offers else { panic!() };
    change(v2);
    proposal
}

fn config() -> ServerConfig {
    let eids = vec![eid("ALSO-KNOWN"), eid("KNOWN")];
    ServerConfig {
        peer_id: PeerId([2; 8]),
        eids,
        max_connections: 200,
        max_links: 1,
        host: Host { features: 3, ..HOST },
    }
}

fn first() -> Contact {
    Contact::First { direct: true, user_id: [0, 0, 1, 1], iwarp: None }
}

fn clc(action: Option<Action>) -> Clc {
    match action {
        Some(Action::SendClc(bytes)) => Clc::decode(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn llc_bytes(action: Option<Action>) -> Vec<u8> {
    match action {
        Some(Action::SendLlc(bytes)) => bytes,
        other => panic!("{other:?}"),
    }
}

fn llc(bytes: &[u8]) -> Llc<'_> {
    Llc::decode(bytes).unwrap().unwrap()
}

fn done(action: Option<Action>) -> Outcome {
    match action {
        Some(Action::Done(outcome)) => outcome,
        other => panic!("{other:?}"),
    }
}

/// The DECLINE that was sent, after which it is TCP for the same reason.
fn declined(mut poll: impl FnMut() -> Option<Action>) -> Decline {
    let Clc::Decline(decline) = clc(poll()) else { panic!() };
    assert_eq!(done(poll()), Fallback::here(decline.diagnosis));
    assert_eq!(poll(), None);
    decline
}

/// A client that has sent its proposal.
fn client() -> Client {
    let mut client = Client::new(START, proposal(), HOST);
    assert_eq!(clc(client.poll_action()), Clc::Proposal(proposal()));
    client
}

/// The ACCEPT that the server sends to `proposal`.
fn accept(proposal: Proposal, contact: Contact) -> (Server, Answer) {
    let mut server = Server::new(START, config());
    server.received(Clc::Proposal(proposal));
    assert!(matches!(server.poll_action(), Some(Action::PrepareServer(_))));
    server.prepared(START, Ok(Prepared { local: local(2), contact }));
    let Clc::Accept(accept) = clc(server.poll_action()) else { panic!() };
    (server, accept)
}

/// The CONFIRM that the client sends to `accept`.
fn confirm(accept: &Answer) -> (Client, Answer) {
    let mut client = client();
    client.received(Clc::Accept(accept.clone()));
    assert_eq!(client.poll_action(), Some(Action::PrepareClient(Box::new(accept.clone()))));
    client.prepared(START, Ok(local(1)));
    let Clc::Confirm(confirm) = clc(client.poll_action()) else { panic!() };
    (client, confirm)
}

/// Both after CONFIRM at first contact, the server's CONFIRM LINK sent.
fn confirmed() -> (Client, Server, Vec<u8>) {
    let (mut server, accept) = accept(proposal(), first());
    let (client, confirm) = confirm(&accept);
    server.received(Clc::Confirm(confirm.clone()));
    assert_eq!(server.poll_action(), Some(Action::Connect(Box::new(confirm))));
    server.connected(START, Ok(()));
    let request = llc_bytes(server.poll_action());
    (client, server, request)
}

#[test]
fn first_contact_makes_a_group_that_both_ends_know_alike() {
    let (mut client, mut server, request) = confirmed();
    client.received_llc(&llc(&request));
    assert!(matches!(client.poll_action(), Some(Action::Connect(_))));
    client.connected(Ok(()));
    let response = llc_bytes(client.poll_action());
    server.received_llc(&llc(&response));
    let Body::ConfirmLink(request) = llc(&request).body else { panic!() };
    let Body::ConfirmLink(response) = llc(&response).body else { panic!() };
    for (message, end) in [(request, local(2)), (response, local(1))] {
        let LinkEnd { mac, gid, qpn, .. } = end.link;
        let expected = ConfirmLink { no_eye_catcher: 3, mac, gid, qpn, ..request };
        assert_eq!(message, expected);
    }
    assert_eq!((request.link, request.max_links, request.max_connections), (1, 1, 200));

    let Outcome::Active(client) = done(client.poll_action()) else { panic!() };
    let Outcome::Active(server) = done(server.poll_action()) else { panic!() };
    assert_eq!((client.local, client.peer), (server.peer, server.local));
    assert_eq!(client.local.link.mtu, local(1).link.mtu.min(local(2).link.mtu));
    // The first of the client's that the server knows.
    assert_eq!((client.eid, server.eid), (eid("KNOWN"), eid("KNOWN")));
    let (made, other) = (client.first_contact.unwrap(), server.first_contact.unwrap());
    assert_eq!(made.terms, other.terms);
    assert_eq!(made.terms, Terms { release: 1, max_connections: 200, max_links: 1, direct: true });
    assert_eq!(made.key, GroupKey { peer_id: PeerId([2; 8]), gid: gid(2) });
    assert_eq!(other.key, GroupKey { peer_id: PeerId([1; 8]), gid: gid(1) });
    assert_eq!(
        (made.confirmed.link, made.confirmed.user_id),
        (other.confirmed.link, other.confirmed.user_id)
    );
}

#[test]
fn a_later_contact_is_active_after_confirm() {
    let (mut server, accept) = accept(proposal(), Contact::Later);
    assert!(!accept.is_first_contact());
    let (mut client, confirm) = confirm(&accept);
    server.received(Clc::Confirm(confirm));
    let Outcome::Active(client) = done(client.poll_action()) else { panic!() };
    let Outcome::Active(server) = done(server.poll_action()) else { panic!() };
    assert_eq!((client.local, client.peer), (server.peer, server.local));
    assert!(client.first_contact.is_none() && server.first_contact.is_none());
}

#[test]
fn what_each_end_says_of_itself_is_its_own() {
    let (_, accept) = accept(proposal(), first());
    let (_, confirm) = confirm(&accept);
    let Chosen::V2 { first_contact: Some(accept), .. } = accept.chosen else { panic!() };
    let Chosen::V2 { first_contact: Some(confirm), .. } = confirm.chosen else { panic!() };
    assert_eq!((accept.features, &accept.gids[..]), (3, &[][..]));
    assert_eq!((confirm.features, &confirm.gids[..]), (0, &[gid(1)][..]));
    assert!(accept.direct && confirm.direct);
}

#[test]
fn a_later_contact_has_its_mtu_already() {
    let (_, mut accept) = accept(proposal(), Contact::Later);
    accept.link.mtu = MtuCode::truncated(0);
    let (mut client, _) = confirm(&accept);
    assert!(matches!(done(client.poll_action()), Outcome::Active(_)));
}

#[test]
fn a_client_without_the_group_says_that_the_server_is_out_of_sync() {
    let (mut server, accept) = accept(proposal(), Contact::Later);
    let mut client = client();
    client.received(Clc::Accept(accept));
    client.poll_action();
    client.prepared(START, Err(Diagnosis::SYNCERR));
    let decline = declined(|| client.poll_action());
    assert!(decline.out_of_sync && decline.version == Version::V2);
    server.received(Clc::Decline(decline));
    let diagnosis = Diagnosis::PEERDECL;
    let fallback = Fallback { diagnosis, peer: Some(Diagnosis::SYNCERR), out_of_sync: true };
    assert_eq!(done(server.poll_action()), Outcome::Fallback(fallback));
}

#[test]
fn a_server_declines_what_it_cannot_serve() {
    let v1 = |technology| V1Offer { technology, ipv4_subnet: [0; 4], ipv4_length: 0, ipv6: Bounded::new() };
    let with = |offers| Proposal { offers, ..proposal() };
    for (proposal, version, diagnosis) in [
        (with(Offers::V1(v1(Technology::Both))), Version::V1, Diagnosis::NOSMCDEV),
        (with(Offers::V2 { v1: Some(v1(Technology::R)), v2: None }), Version::V2, Diagnosis::NOSMCDEV),
        (with(Offers::V2 { v1: Some(v1(Technology::D)), v2: None }), Version::V2, Diagnosis::PEERNOSMC),
        (with(Offers::V2 { v1: None, v2: None }), Version::V2, Diagnosis::PEERNOSMC),
        (offering(|v2| v2.smc_r = false), Version::V2, Diagnosis::PEERNOSMC),
        (offering(|v2| v2.eids = Bounded::new()), Version::V2, Diagnosis::NOUEID),
        (offering(|v2| v2.eids = vec![eid("UNKNOWN")].try_into().unwrap()), Version::V2, Diagnosis::NOSMCDEV),
        (offering(|v2| v2.max_connections = 15), Version::V2, Diagnosis::MAXCONNERR),
        (offering(|v2| v2.max_links = 0), Version::V2, Diagnosis::MAXLINKERR),
        (offering(|v2| v2.gid = Gid([0xfe; 16])), Version::V2, Diagnosis::NOSMCRDEV),
    ] {
        let mut server = Server::new(START, config());
        server.received(Clc::Proposal(proposal.clone()));
        let decline = declined(|| server.poll_action());
        assert_eq!((decline.version, decline.diagnosis), (version, diagnosis), "{proposal:?}");
        assert_eq!((decline.peer_id, decline.out_of_sync), (PeerId([2; 8]), false));
        assert_eq!(server.deadline(), None);
    }
    let mut server = Server::new(START, config());
    server.received(Clc::Proposal(proposal()));
    server.poll_action();
    server.prepared(START, Err(Diagnosis::MEM));
    assert_eq!(declined(|| server.poll_action()).diagnosis, Diagnosis::MEM);
}

#[test]
fn limits_are_the_lesser_of_both_and_release_0_has_none() {
    let generous = offering(|v2| (v2.max_connections, v2.max_links, v2.release) = (255, 9, 9));
    let (_, accept) = accept(generous, first());
    let Chosen::V2 { first_contact: Some(first_contact), .. } = accept.chosen else { panic!() };
    let FirstContact { release, max_connections, max_links, .. } = first_contact;
    assert_eq!((release, max_connections, max_links), (1, 200, 1));
}

#[test]
fn a_server_spares_a_client_of_release_0_the_wait_for_a_second_link() {
    let old = offering(|v2| (v2.max_connections, v2.max_links, v2.release) = (0, 0, 0));
    let (mut server, accept) = accept(old.clone(), first());
    let Chosen::V2 { first_contact: Some(first_contact), .. } = &accept.chosen else { panic!() };
    assert_eq!((first_contact.release, first_contact.max_connections, first_contact.max_links), (0, 0, 0));
    let mut client = Client::new(START, old, HOST);
    client.poll_action();
    client.received(Clc::Accept(accept));
    client.poll_action();
    client.prepared(START, Ok(local(1)));
    server.received(clc(client.poll_action()));
    server.poll_action();
    server.connected(START, Ok(()));
    let request = llc_bytes(server.poll_action());
    let Body::ConfirmLink(confirm_link) = llc(&request).body else { panic!() };
    assert_eq!((confirm_link.max_links, confirm_link.max_connections), (2, 0));
    client.received_llc(&llc(&request));
    client.poll_action();
    client.connected(Ok(()));
    server.received_llc(&llc(&llc_bytes(client.poll_action())));
    let Outcome::Active(established) = done(client.poll_action()) else { panic!() };
    let terms = established.first_contact.unwrap().terms;
    assert_eq!((terms.release, terms.max_connections, terms.max_links), (0, 255, 2));
    let add_link = llc_bytes(server.poll_action());
    let Body::AddLink(add_link) = llc(&add_link).body else { panic!() };
    assert_eq!(add_link.mtu.bytes(), None);
    assert!(matches!(done(server.poll_action()), Outcome::Active(_)));
}

/// The first contact ACCEPT with something changed.
fn changed_accept(change: impl FnOnce(&mut Answer, &mut FirstContact)) -> Clc {
    let (_, mut answer) = accept(proposal(), first());
    let Chosen::V2 { eid, first_contact: Some(mut first_contact) } = answer.chosen.clone() else { panic!() };
    change(&mut answer, &mut first_contact);
    if let Chosen::V2 { eid: changed, .. } = answer.chosen {
        let eid = if changed == eid { eid } else { changed };
        answer.chosen = Chosen::V2 { eid, first_contact: Some(first_contact) };
    }
    Clc::Accept(answer)
}

#[test]
fn a_client_declines_an_accept_that_does_not_fit_its_proposal() {
    let other = |answer: &mut Answer| answer.chosen = Chosen::V2 { eid: eid("OTHER"), first_contact: None };
    let v1 = |answer: &mut Answer| answer.chosen = Chosen::V1 { first_contact: true };
    let smc_d = |version| Clc::SmcD { kind: Kind::Accept, version };
    for (message, version, diagnosis) in [
        (smc_d(Version::V1), Version::V1, Diagnosis::MODEUNSUPP),
        (smc_d(Version::V2), Version::V2, Diagnosis::MODEUNSUPP),
        (changed_accept(|answer, _| v1(answer)), Version::V1, Diagnosis::MODEUNSUPP),
        (changed_accept(|answer, _| other(answer)), Version::V2, Diagnosis::NOSMCDEV),
        (changed_accept(|_, first| first.release = 2), Version::V2, Diagnosis::RELEASEERR),
        (changed_accept(|_, first| first.max_connections = 15), Version::V2, Diagnosis::MAXCONNERR),
        (changed_accept(|_, first| first.max_links = 0), Version::V2, Diagnosis::MAXLINKERR),
        (changed_accept(|_, first| first.max_links = 3), Version::V2, Diagnosis::MAXLINKERR),
        (
            changed_accept(|answer, _| answer.link.mtu = MtuCode::truncated(0)),
            Version::V2,
            Diagnosis::ERR_RDYLNK,
        ),
        (
            changed_accept(|answer, _| answer.link.mtu = MtuCode::truncated(6)),
            Version::V2,
            Diagnosis::ERR_RDYLNK,
        ),
        (changed_accept(|answer, _| answer.rmbe.token = 0), Version::V2, Diagnosis::ERR_RTOK),
        (changed_accept(|answer, _| answer.rmbe.index = 0), Version::V2, Diagnosis::ERR_RTOK),
        (
            changed_accept(|answer, _| answer.rmbe.rmb.address = u64::MAX - 9),
            Version::V2,
            Diagnosis::ERR_RTOK,
        ),
    ] {
        let mut client = client();
        client.received(message.clone());
        let decline = declined(|| client.poll_action());
        assert_eq!((decline.version, decline.diagnosis), (version, diagnosis), "{message:?}");
        assert_eq!(client.deadline(), None);
    }
}

#[test]
fn a_server_declines_a_confirm_that_does_not_repeat_its_accept() {
    let (_, accepted) = accept(proposal(), first());
    let (_, good) = confirm(&accepted);
    let changed = |change: &dyn Fn(&mut Answer, &mut FirstContact)| {
        let mut answer = good.clone();
        let Chosen::V2 { eid, first_contact: Some(mut first_contact) } = answer.chosen else { panic!() };
        answer.chosen = Chosen::V1 { first_contact: true };
        change(&mut answer, &mut first_contact);
        answer.chosen = Chosen::V2 { eid, first_contact: Some(first_contact) };
        answer
    };
    for (message, diagnosis) in [
        (changed(&|_, first| first.release = 0), Diagnosis::RELEASEERR),
        (changed(&|_, first| first.max_connections = 199), Diagnosis::MAXCONNERR),
        (changed(&|_, first| first.max_links = 2), Diagnosis::MAXLINKERR),
        (changed(&|answer, _| answer.link.mtu = MtuCode::truncated(0)), Diagnosis::ERR_RDYLNK),
        (changed(&|answer, _| answer.rmbe.token = 0), Diagnosis::ERR_RTOK),
    ] {
        let (mut server, _) = accept(proposal(), first());
        server.received(Clc::Confirm(message));
        let decline = declined(|| server.poll_action());
        assert_eq!((decline.version, decline.diagnosis), (Version::V2, diagnosis));
    }
    // What is not even the same kind of contact closes the connection.
    let later = Answer { chosen: Chosen::V2 { eid: eid("KNOWN"), first_contact: None }, ..good.clone() };
    let v1 = Answer { chosen: Chosen::V1 { first_contact: true }, ..good.clone() };
    let smc_d = Clc::SmcD { kind: Kind::Confirm, version: Version::V2 };
    for message in [Clc::Confirm(later), Clc::Confirm(v1), smc_d] {
        let (mut server, _) = accept(proposal(), first());
        server.received(message);
        assert_eq!(done(server.poll_action()), Outcome::Failed(Failure::Malformed(Malformed::Mismatch)));
    }
    let (mut server, _) = accept(proposal(), Contact::Later);
    server.received(Clc::Confirm(good));
    assert_eq!(done(server.poll_action()), Outcome::Failed(Failure::Malformed(Malformed::Mismatch)));
}

/// Lets time pass to each deadline in turn; returns what was done and when, in milliseconds from `START`.
fn pass(
    mut deadline: impl FnMut(Option<Time>) -> Option<Time>,
    mut poll: impl FnMut() -> Option<Action>,
) -> Vec<(u128, Action)> {
    let mut actions = Vec::new();
    let mut next = deadline(None);
    while let Some(now) = next {
        next = deadline(Some(now));
        while let Some(action) = poll() {
            actions.push(((now - START).as_millis(), action));
        }
    }
    actions
}

macro_rules! pass {
    ($side:ident) => {{
        let side = std::cell::RefCell::new($side);
        pass(
            |now| {
                let mut side = side.borrow_mut();
                // A call too early changes nothing.
                side.timeout(START);
                now.map(|now| side.timeout(now));
                side.deadline()
            },
            || side.borrow_mut().poll_action(),
        )
    }};
}

#[test]
fn a_silent_peer_ends_the_handshake_in_six_seconds() {
    let (accepted, _) = accept(proposal(), first());
    let (fresh_server, fresh_client) = (Server::new(START, config()), client());
    let timed_out = vec![(6000, Action::Done(Outcome::Failed(Failure::TimedOut)))];
    assert_eq!(pass!(fresh_server), timed_out);
    assert_eq!(pass!(fresh_client), timed_out);
    assert_eq!(pass!(accepted), timed_out);
}

#[test]
fn a_confirm_link_that_does_not_come_ends_in_a_decline() {
    let (client, server, request) = confirmed();
    let decline =
        |id| Action::SendClc(Decline::new(Version::V2, PeerId([id; 8]), Diagnosis::TIMEOUT_CL).encode());
    let over = Action::Done(Fallback::here(Diagnosis::TIMEOUT_CL));
    assert_eq!(pass!(client), [(5000, decline(1)), (5000, over.clone())]);
    // The server repeats its request once.
    assert_eq!(pass!(server), [(1000, Action::SendLlc(request)), (3000, decline(2)), (3000, over)]);
}

#[test]
fn a_decline_is_heard_at_any_time_and_never_answered() {
    let decline = Clc::Decline(Decline::new(Version::V1, PeerId::default(), Diagnosis::MEM));
    let diagnosis = Diagnosis::PEERDECL;
    let expected = Outcome::Fallback(Fallback { diagnosis, peer: Some(Diagnosis::MEM), out_of_sync: false });
    let mut first_message = Server::new(START, config());
    let (mut accepted, answer) = accept(proposal(), first());
    let (mut sent_confirm, mut sent_request, _) = confirmed();
    let (mut waiting, _) = confirm(&answer);
    waiting.timeout(waiting.deadline().unwrap());
    for server in [&mut first_message, &mut accepted, &mut sent_request] {
        server.received(decline.clone());
        assert_eq!(done(server.poll_action()), expected);
        // Then it is the program's stream, and nothing more happens.
        server.received(decline.clone());
        server.closed();
        server.link_failed();
        server.connected(START, Ok(()));
        assert_eq!((server.poll_action(), server.deadline()), (None, None));
    }
    for client in [&mut client(), &mut sent_confirm, &mut waiting] {
        client.received(decline.clone());
        assert_eq!(done(client.poll_action()), expected);
        client.received(decline.clone());
        client.closed();
        client.link_failed();
        client.prepared(START, Ok(local(1)));
        assert_eq!((client.poll_action(), client.deadline()), (None, None));
    }
}

#[test]
fn a_peer_with_eye_catchers_in_its_rmbes_is_declined() {
    let (mut client, mut server, mut request) = confirmed();
    request[3] = 0;
    client.received_llc(&llc(&request));
    assert_eq!(declined(|| client.poll_action()).diagnosis, Diagnosis::RMBE_EC);
    request[3] = 0x80;
    server.received_llc(&llc(&request));
    assert_eq!(declined(|| server.poll_action()).diagnosis, Diagnosis::RMBE_EC);
    // One of the two bits is enough.
    let (mut client, mut server, mut request) = confirmed();
    request[3] = 1;
    client.received_llc(&llc(&request));
    assert!(matches!(client.poll_action(), Some(Action::Connect(_))));
    request[3] = 0x82;
    server.received_llc(&llc(&request));
    assert!(matches!(done(server.poll_action()), Outcome::Active(_)));
}

#[test]
fn other_messages_over_the_new_link_are_not_taken_for_confirm_link() {
    let (mut client, mut server, request) = confirmed();
    let test = Llc::request(llc::Version::V2, Body::TestLink([0; 16])).encode();
    let own_request = request.clone();
    let mut v1_request = request.clone();
    v1_request[0] = 0x01;
    let mut response = request;
    response[3] |= 0x80;
    let mut v1_response = response.clone();
    v1_response[0] = 0x01;
    for message in [&test, &response, &v1_request] {
        client.received_llc(&llc(message));
        assert_eq!(client.poll_action(), None);
    }
    for message in [&test, &own_request, &v1_response] {
        server.received_llc(&llc(message));
        assert_eq!(server.poll_action(), None);
    }
    assert!(client.deadline().is_some() && server.deadline().is_some());
}

#[test]
fn a_link_that_fails_ends_in_a_decline() {
    let (mut client, mut server, request) = confirmed();
    server.link_failed();
    assert_eq!(declined(|| server.poll_action()).diagnosis, Diagnosis::ERR_RDYLNK);
    client.received_llc(&llc(&request));
    client.poll_action();
    client.connected(Err(Diagnosis::ERR_REGBUF));
    assert_eq!(declined(|| client.poll_action()).diagnosis, Diagnosis::ERR_REGBUF);
}

#[test]
fn what_is_not_due_and_what_is_not_clc_closes_the_connection() {
    let (_, answer) = accept(proposal(), first());
    let failed = |why| Outcome::Failed(Failure::Malformed(why));
    let mut server = Server::new(START, config());
    server.received(Clc::Confirm(answer.clone()));
    assert_eq!(done(server.poll_action()), failed(Malformed::Type(3)));
    let mut client = client();
    client.received(Clc::Proposal(proposal()));
    assert_eq!(done(client.poll_action()), failed(Malformed::Type(1)));
    let (mut client, _) = confirm(&answer);
    client.received(Clc::Accept(answer));
    assert_eq!(done(client.poll_action()), failed(Malformed::Type(2)));
    let mut server = Server::new(START, config());
    server.malformed(Malformed::EyeCatcher);
    assert_eq!(done(server.poll_action()), failed(Malformed::EyeCatcher));
    let mut server = Server::new(START, config());
    server.closed();
    assert_eq!(done(server.poll_action()), Outcome::Failed(Failure::Closed));
}

#[test]
fn an_iwarp_client_and_server_know_of_each_other_and_the_client_where_to_connect() {
    let plain = Proposal { vendor: [0; 8], ..proposal() };
    for (proposal, offered) in
        [(plain, false), (Proposal { vendor: crate::iwarp::OFFER, ..proposal() }, true)]
    {
        let mut server = Server::new(START, config());
        server.received(Clc::decode(&proposal.encode()).unwrap());
        let Some(Action::PrepareServer(wish)) = server.poll_action() else { panic!() };
        assert_eq!(wish.iwarp, offered);
    }
    let (_, accept) = accept(proposal(), first());
    assert_eq!(crate::iwarp::port(&accept), None);
    let Contact::First { direct, user_id, .. } = first() else { panic!() };
    for (said, found) in [(Some(65501), Some(65501)), (Some(0), None), (None, None)] {
        let (_, accept) = self::accept(proposal(), Contact::First { direct, user_id, iwarp: said });
        let Clc::Accept(accept) = Clc::decode(&accept.encode(Kind::Accept)).unwrap() else { panic!() };
        assert_eq!(crate::iwarp::port(&accept), found);
    }
    let (_, later) = self::accept(proposal(), Contact::Later);
    assert_eq!(crate::iwarp::port(&later), None);
}
