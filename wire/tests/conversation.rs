//! The captured conversation once more, with this crate at either end: given what the one kernel received, it says what that
//! kernel said, byte for byte.

mod fixture;

use fixture::{capture, captured_clc, End, Event, Frame};
use smc_wire::cdc::{Cdc, ProducerFlags, StateFlags};
use smc_wire::clc::{Answer, Clc, Offers, Proposal};
use smc_wire::conn::{Connection, Cursor, State};
use smc_wire::group::{self, Incoming, LinkGroup, Role};
use smc_wire::handshake::{
    Action, Client, Contact, Established, Host, Local, Outcome, Prepared, Server, ServerConfig,
};
use smc_wire::llc::Llc;
use smc_wire::{Eid, Gid, Mac, PeerId, Time};
use std::net::Ipv4Addr;

const NOW: Time = Time::ZERO;

fn host() -> Host {
    Host { name: smc_wire::clc::FirstContact::padded_name(b"virtme-ng"), features: 1 }
}

fn eid() -> Eid {
    Eid::new("SMCLAB").unwrap()
}

/// The end that `answer` describes.
fn local(answer: &Answer) -> Local {
    Local { link: answer.link, rmbe: answer.rmbe }
}

fn accept() -> Answer {
    match captured_clc(1) {
        Clc::Accept(accept) => accept,
        other => panic!("{other:?}"),
    }
}

fn confirm() -> Answer {
    match captured_clc(2) {
        Clc::Confirm(confirm) => confirm,
        other => panic!("{other:?}"),
    }
}

/// The bytes of CLC or LLC messages, in their order.
fn messages() -> Vec<Vec<u8>> {
    let bytes = |frame: Frame| match frame.event {
        Event::Clc(bytes) | Event::Llc(bytes) => Some(bytes),
        _ => None,
    };
    capture().into_iter().filter_map(bytes).collect()
}

fn llc(bytes: &[u8]) -> Llc<'_> {
    Llc::decode(bytes).unwrap().unwrap()
}

/// The client's handshake.
fn client() -> Box<Established> {
    let [proposal, accept_bytes, confirm_bytes, confirm_link, confirmed, ..] = &messages()[..] else {
        panic!()
    };
    let gid = Gid::from_ipv4(Ipv4Addr::new(10, 9, 0, 2));
    let mut wanted =
        Proposal::smc_r_v2(PeerId::default(), Mac::default(), gid, vec![eid()].try_into().unwrap());
    let Offers::V2 { v2: Some(v2), .. } = &mut wanted.offers else { panic!() };
    (v2.max_links, v2.features) = (2, 1);

    let mut client = Client::new(NOW, wanted, host());
    assert_eq!(client.poll_action(), Some(Action::SendClc(proposal.clone())));
    client.received(Clc::decode(accept_bytes).unwrap());
    assert_eq!(client.poll_action(), Some(Action::PrepareClient(Box::new(accept()))));
    client.prepared(NOW, Ok(local(&confirm())));
    assert_eq!(client.poll_action(), Some(Action::SendClc(confirm_bytes.clone())));
    client.received_llc(&llc(confirm_link));
    assert_eq!(client.poll_action(), Some(Action::Connect(Box::new(accept()))));
    client.connected(Ok(()));
    assert_eq!(client.poll_action(), Some(Action::SendLlc(confirmed.clone())));
    let Some(Action::Done(Outcome::Active(established))) = client.poll_action() else { panic!() };
    established
}

/// The server's handshake.
fn server() -> Box<Established> {
    let [proposal, accept_bytes, confirm_bytes, confirm_link, confirmed, ..] = &messages()[..] else {
        panic!()
    };
    let config = ServerConfig {
        peer_id: accept().link.peer_id,
        eids: vec![Eid::new("OTHER").unwrap(), eid()],
        max_connections: 255,
        max_links: 2,
        host: host(),
    };
    let mut server = Server::new(NOW, config);
    server.received(Clc::decode(proposal).unwrap());
    let Some(Action::PrepareServer(wish)) = server.poll_action() else { panic!() };
    assert_eq!((wish.eid, wish.key.peer_id, wish.key.gid), (eid(), PeerId::default(), confirm().link.gid));
    let contact = Contact::First { direct: true, user_id: [0, 0, 1, 1], iwarp: None };
    server.prepared(NOW, Ok(Prepared { local: local(&accept()), contact }));
    assert_eq!(server.poll_action(), Some(Action::SendClc(accept_bytes.clone())));
    server.received(Clc::decode(confirm_bytes).unwrap());
    assert_eq!(server.poll_action(), Some(Action::Connect(Box::new(confirm()))));
    server.connected(NOW, Ok(()));
    assert_eq!(server.poll_action(), Some(Action::SendLlc(confirm_link.clone())));
    server.received_llc(&llc(confirmed));
    let Some(Action::Done(Outcome::Active(established))) = server.poll_action() else { panic!() };
    established
}

#[test]
fn the_handshake_as_the_client_and_as_the_server() {
    let (client, server) = (client(), server());
    assert_eq!((client.local, client.peer), (server.peer, server.local));
    let (new, other) = (client.first_contact.unwrap(), server.first_contact.unwrap());
    assert_eq!((new.terms, new.terms.max_links), (other.terms, 2));
}

#[test]
fn the_second_link_is_refused_in_the_kernels_bytes() {
    let established = client();
    let [.., add_link, rejection] = &messages()[..] else { panic!() };
    let new = established.first_contact.unwrap();
    let mut group = LinkGroup::<()>::new(NOW, Role::Client, &new, established.peer.link.qpn);
    assert!(group.add(()).is_some());
    assert_eq!(group.receive(NOW, add_link), Incoming::Llc);
    assert_eq!(group.poll_action(), Some(group::Action::Send(rejection.clone())));
    assert_eq!(group.poll_action(), None);
}

/// One end's connection, and the ring it writes to.
struct Side {
    connection: Connection,
    peer: Local,
    /// Written since the last CDC: offset in the ring, length.
    written: Vec<(u64, u32)>,
    /// CDCs sent for the consumer cursor alone.
    updates: u32,
}

impl Side {
    fn new(established: &Established) -> Side {
        let connection = Connection::new(&established.peer.rmbe, &established.local.rmbe);
        Side { connection, peer: established.peer, written: Vec::new(), updates: 0 }
    }

    /// Does what the kernel must have done before it sent `cdc`, and sends one.
    fn send(&mut self, frame: u32, cdc: &Cdc) -> Cdc {
        self.connection.consume(read_since(&self.connection, cdc));
        let is_update = self.written.is_empty() && cdc.state_flags == StateFlags::default();
        if is_update {
            assert!(self.connection.update_is_due(), "frame {frame}: the kernel tells what this would not");
            self.updates += 1;
        }
        if !self.written.is_empty() {
            let length: u32 = self.written.iter().map(|(_, length)| length).sum();
            // A kernel without room writes what fits, not always all at once.
            let blocked = cdc.producer_flags.has(ProducerFlags::WRITE_BLOCKED);
            let spans = self.connection.plan(if blocked { u64::MAX } else { length.into() });
            assert!(length <= spans.length(), "frame {frame}: more than there is room for");
            let first = length.min(spans.0[0].length);
            let mut planned = vec![(u64::from(spans.0[0].offset), first), (0, length - first)];
            planned.retain(|(_, length)| *length > 0);
            assert_eq!(planned, self.written, "frame {frame}");
            self.connection.wrote(length);
            self.written.clear();
        }
        if cdc.state_flags.has(StateFlags::SENDING_DONE) {
            assert!(self.connection.shutdown_write());
        }
        self.connection.cdc()
    }
}

/// How many bytes were read until the consumer cursor was where `cdc` has it, in a ring of 64 KiB.
fn read_since(connection: &Connection, cdc: &Cdc) -> u32 {
    let linear = |cursor: Cursor| u32::from(cursor.wrap) * 65536 + cursor.count;
    let before = { *connection }.cdc().consumer;
    linear(cdc.consumer) - linear(before)
}

#[test]
fn the_data_both_ways() {
    let (mut client, mut server) = (Side::new(&client()), Side::new(&server()));
    for Frame { number, sender, event } in capture() {
        let (side, other) = match sender {
            End::Client => (&mut client, &mut server),
            End::Server => (&mut server, &mut client),
        };
        match event {
            Event::Write { address, rkey, length } => {
                assert_eq!(rkey, side.peer.rmbe.rmb.rkey);
                let offset = address - side.peer.rmbe.address().unwrap();
                side.written.push((offset, length));
            }
            Event::Cdc(bytes) => {
                let cdc = side.send(number, &Cdc::decode(&bytes).unwrap());
                assert_eq!(cdc.encode().as_slice(), bytes, "frame {number}");
                other.connection.receive(&cdc).unwrap_or_else(|why| panic!("frame {number}: {why}"));
            }
            _ => {}
        }
    }
    assert!(client.updates > 0 && server.updates > 0);
    assert_eq!(client.connection.close_state().state(), State::PeerCloseWait1);
    assert_eq!(server.connection.close_state().state(), State::AppCloseWait1);
    assert_eq!(server.connection.close_state().may_receive(), Ok(false));
}
