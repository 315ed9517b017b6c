//! Messages built from plain values have the bytes that were written down by hand.

mod fixture;

use fixture::{vector, vectors};
use smc_wire::cdc::{Cdc, ProducerFlags, StateFlags};
use smc_wire::clc::{Answer, Chosen, Clc, Decline, FirstContact, LinkEnd, Proposal, Rmbe, Version, LINUX};
use smc_wire::conn::Cursor;
use smc_wire::llc::{
    self, AddLink, Body, ConfirmLink, ConfirmRkey, DeleteLink, DeleteReason, DeleteRkey, Llc, RkeyReply,
};
use smc_wire::{Bounded, Diagnosis, Eid, Gid, Mac, MtuCode, PeerId, Rmb, SizeCode, U24};
use std::net::Ipv4Addr;

const CLIENT: PeerId = PeerId([0x12, 0x34, 0x52, 0x54, 0, 0xaa, 0xbb, 1]);
const SERVER: PeerId = PeerId([0x9a, 0xbc, 0x52, 0x54, 0, 0xaa, 0xbb, 2]);
const CLIENT_MAC: Mac = Mac([0x52, 0x54, 0, 0xaa, 0xbb, 1]);
const SERVER_MAC: Mac = Mac([0x52, 0x54, 0, 0xaa, 0xbb, 2]);

fn client_gid() -> Gid {
    Gid::from_ipv4(Ipv4Addr::new(192, 0, 2, 10))
}

fn server_gid() -> Gid {
    Gid::from_ipv4(Ipv4Addr::new(192, 0, 2, 20))
}

fn eid() -> Eid {
    Eid::new("SMC-TEST").unwrap()
}

fn bounded<T: std::fmt::Debug, const N: usize>(entries: Vec<T>) -> Bounded<T, N> {
    entries.try_into().unwrap()
}

fn first_contact(host: &[u8], gids: Vec<Gid>) -> FirstContact {
    FirstContact {
        direct: true,
        operating_system: LINUX,
        release: 1,
        host_name: FirstContact::padded_name(host),
        max_connections: 255,
        max_links: 1,
        features: 0,
        vendor: [0; 4],
        gids: bounded(gids),
    }
}

fn accept(first_contact: Option<FirstContact>) -> Answer {
    let (qpn, psn) = (U24::truncated(0x12), U24::truncated(0x12_3456));
    let (gid, mac) = (server_gid(), SERVER_MAC);
    Answer {
        link: LinkEnd { peer_id: SERVER, gid, mac, qpn, psn, mtu: MtuCode::truncated(3) },
        rmbe: Rmbe {
            rmb: Rmb { rkey: 0x2002, address: 0xffff_8880_1234_0000 },
            index: 1,
            size: SizeCode::truncated(2),
            token: 10,
        },
        chosen: Chosen::V2 { eid: eid(), first_contact },
    }
}

fn confirm() -> Answer {
    let (qpn, psn) = (U24::truncated(0x11), U24::truncated(0xab_cdef));
    let (gid, mac) = (client_gid(), CLIENT_MAC);
    Answer {
        link: LinkEnd { peer_id: CLIENT, gid, mac, qpn, psn, mtu: MtuCode::truncated(3) },
        rmbe: Rmbe {
            rmb: Rmb { rkey: 0x1001, address: 0x7f00_1234_0000 },
            index: 1,
            size: SizeCode::truncated(2),
            token: 1,
        },
        chosen: Chosen::V2 {
            eid: eid(),
            first_contact: Some(first_contact(b"client-host", vec![client_gid()])),
        },
    }
}

fn messages() -> Vec<(&'static str, Clc)> {
    let proposal = Proposal::smc_r_v2(CLIENT, CLIENT_MAC, client_gid(), bounded(vec![eid()]));
    vec![
        ("PROPOSAL, v2-only", Clc::Proposal(proposal)),
        ("ACCEPT, first contact", Clc::Accept(accept(Some(first_contact(b"server-host", vec![]))))),
        ("CONFIRM, first contact, one GID", Clc::Confirm(confirm())),
        ("ACCEPT, later contact", Clc::Accept(accept(None))),
        ("DECLINE v2, 0x03030000", Clc::Decline(Decline::new(Version::V2, CLIENT, Diagnosis::NOSMCDEV))),
        ("DECLINE v1, 0x03030000", Clc::Decline(Decline::new(Version::V1, CLIENT, Diagnosis::NOSMCDEV))),
        ("DECLINE v2, out of sync", Clc::Decline(Decline::new(Version::V2, CLIENT, Diagnosis::SYNCERR))),
    ]
}

fn confirm_link(mac: Mac, gid: Gid, qpn: u32) -> Body<'static> {
    Body::ConfirmLink(ConfirmLink {
        no_eye_catcher: ConfirmLink::NO_EYE_CATCHER,
        mac,
        gid,
        qpn: U24::truncated(qpn),
        link: 1,
        user_id: [0, 0, 1, 1],
        max_links: 1,
        max_connections: 255,
    })
}

fn llc_messages() -> Vec<(&'static str, Llc<'static>)> {
    let request = |body| Llc::request(llc::Version::V2, body);
    let response = |body| Llc::response(llc::Version::V2, body);
    let rkey = Body::ConfirmRkey(ConfirmRkey::single(Rmb { rkey: 0x2003, address: 0xffff_8880_1235_0000 }));
    let rejection = Body::AddLink(AddLink {
        rejected: Some(0),
        mac: Mac::default(),
        gid: Gid::default(),
        qpn: U24::default(),
        link: 0,
        mtu: MtuCode::truncated(0),
        psn: U24::default(),
        rkeys: None,
    });
    let all = DeleteLink { all: true, orderly: true, link: 0, reason: DeleteReason::PROGRAM };
    vec![
        ("LLC CONFIRM LINK request", request(confirm_link(SERVER_MAC, server_gid(), 0x12))),
        ("LLC CONFIRM LINK response", response(confirm_link(CLIENT_MAC, client_gid(), 0x11))),
        ("LLC TEST LINK response", response(Body::TestLink([0; 16]))),
        ("LLC CONFIRM RKEY request", request(rkey)),
        ("LLC CONFIRM RKEY response", response(rkey)),
        ("LLC DELETE RKEY request", request(Body::DeleteRkey(DeleteRkey::single(0x2003)))),
        (
            "LLC DELETE RKEY response",
            response(Body::DeleteRkey(DeleteRkey { count: 1, ..DeleteRkey::single(0) })),
        ),
        ("LLC ADD LINK rejection", response(rejection)),
        ("LLC DELETE LINK all, orderly, 0x00030000", request(Body::DeleteLink(all))),
    ]
}

fn cdc_messages() -> Vec<(&'static str, Cdc)> {
    let cursor = |wrap, count| Cursor { wrap, count };
    let first = Cdc {
        sequence: 1,
        token: 10,
        producer: cursor(0, 5),
        consumer: cursor(0, 0),
        producer_flags: ProducerFlags::default(),
        state_flags: StateFlags::default(),
    };
    let third = Cdc { sequence: 3, consumer: cursor(0, 5), state_flags: StateFlags::CLOSED, ..first };
    let full = Cdc {
        sequence: 9,
        producer: cursor(1, 16),
        consumer: cursor(0, 100),
        producer_flags: ProducerFlags::WRITE_BLOCKED,
        ..first
    };
    vec![
        ("CDC client -> server: first, 5 bytes written", first),
        ("CDC client -> server: third, 5 bytes written, 5 read, closed", third),
        ("CDC client -> server: ring of 65536 full, wrapped, write blocked", full),
    ]
}

#[test]
fn built_messages_have_the_bytes_of_the_vectors_and_the_vectors_decode_to_them() {
    let mut seen = Vec::new();
    for (name, message) in messages() {
        assert_eq!(message.encode().unwrap(), vector(name), "{name}");
        assert_eq!(Clc::decode(&vector(name)).as_ref(), Ok(&message), "{name}");
        seen.push(name);
    }
    for (name, message) in llc_messages() {
        assert_eq!(message.encode(), vector(name), "{name}");
        assert_eq!(Llc::decode(&vector(name)), Ok(Some(message)), "{name}");
        seen.push(name);
    }
    for (name, message) in cdc_messages() {
        assert_eq!(message.encode().as_slice(), vector(name), "{name}");
        assert_eq!(Cdc::decode(&vector(name)), Ok(message), "{name}");
        seen.push(name);
    }
    assert_eq!(seen, vectors().iter().map(|(name, _)| *name).collect::<Vec<_>>());
}

#[test]
fn v1_forms_have_their_own_lengths_and_layouts() {
    let answer = Answer { chosen: Chosen::V1 { first_contact: true }, ..accept(None) };
    let bytes = Clc::Accept(answer.clone()).encode().unwrap();
    assert_eq!((bytes.len(), bytes[7], &bytes[64..]), (68, 0x18, &[0xe2, 0xd4, 0xc3, 0xd9][..]));
    assert_eq!(bytes[8..64], vector("ACCEPT, first contact")[8..64]);
    assert_eq!(Clc::decode(&bytes), Ok(Clc::Accept(answer)));

    let add_link = AddLink {
        rejected: Some(AddLink::NO_ALTERNATE_PATH),
        mac: CLIENT_MAC,
        gid: client_gid(),
        qpn: U24::truncated(0x11),
        link: 2,
        mtu: MtuCode::truncated(3),
        psn: U24::truncated(7),
        rkeys: None,
    };
    let bytes = Llc::response(llc::Version::V1, Body::AddLink(add_link)).encode();
    assert_eq!((bytes.len(), &bytes[..4]), (44, &[0x02, 44, 1, 0xc0][..]));
    let refused = ConfirmRkey {
        reply: RkeyReply { negative: true, retry: true },
        ..ConfirmRkey::single(Rmb { rkey: 1, address: 2 })
    };
    let bytes = Llc::response(llc::Version::V1, Body::ConfirmRkey(refused)).encode();
    assert_eq!(bytes[..9], [0x06, 44, 0, 0xb0, 0, 0, 0, 0, 1]);
}
