//! Each way in which a message can be wrong, and what it is called.

mod fixture;

use fixture::{captured_clc, vector};
use smc_wire::cdc::{self, Cdc};
use smc_wire::clc::{Clc, Framer, Kind, Malformed, Offers, Proposal, Technology, V1Offer, Version, KEPT};
use smc_wire::llc::{self, Llc};
use smc_wire::Bounded;

/// A vector with some of its bytes replaced.
fn changed(name: &str, changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vector(name);
    for (at, new) in changes {
        bytes[*at..*at + new.len()].copy_from_slice(new);
    }
    bytes
}

#[test]
fn clc_headers() {
    let decode = |at, new: &[u8]| Clc::decode(&changed("PROPOSAL, v2-only", &[(at, new)]));
    assert_eq!(decode(0, b"GET "), Err(Malformed::EyeCatcher));
    assert_eq!(decode(4, &[0]), Err(Malformed::Type(0)));
    assert_eq!(decode(4, &[5]), Err(Malformed::Type(5)));
    assert_eq!(decode(7, &[0x02]), Err(Malformed::Version));
    assert_eq!(decode(5, &[0, 155]), Err(Malformed::Length(155)));
    assert_eq!(decode(5, &[2, 141]), Err(Malformed::Length(653)));
    assert_eq!(decode(152, b"SMCR"), Err(Malformed::Trailer));
    // SMCD is as good, in either place, and a version above 2 is 2.
    let smc_d = [0xe2, 0xd4, 0xc3, 0xc4];
    let proposal = Clc::decode(&vector("PROPOSAL, v2-only"));
    assert_eq!(decode(0, &smc_d), proposal);
    assert_eq!(decode(152, &smc_d), proposal);
    assert_eq!(decode(7, &[0xf2]), proposal);
    // Nobody looks at the trailer of a DECLINE.
    let declined = changed("DECLINE v2, 0x03030000", &[(40, b"zzzz")]);
    assert_eq!(Clc::decode(&declined), Clc::decode(&vector("DECLINE v2, 0x03030000")));
    for (at, length, version) in [(5, [0, 28], 0x20), (5, [0, 44], 0x10)] {
        let declined = changed("DECLINE v2, 0x03030000", &[(at, &length), (7, &[version])]);
        let length = u16::from_be_bytes(length);
        assert_eq!(
            Clc::decode(&declined[..length.into()]),
            Err(Malformed::Length(length)),
            "the other version's length"
        );
    }
}

#[test]
fn proposals_are_checked_as_the_kernel_checks_them() {
    let decode = |changes: &[(usize, &[u8])]| Clc::decode(&changed("PROPOSAL, v2-only", changes));
    assert_eq!(decode(&[(38, &[0, 41])]), Err(Malformed::Offset(41)), "prefixes too far off");
    assert_eq!(decode(&[(47, &[9])]), Err(Malformed::Count(9)), "counted even where no prefixes are");
    assert_eq!(decode(&[(50, &[0, 0])]), Err(Malformed::Offset(0)), "no v2 extension, but a v2 type");
    assert_eq!(decode(&[(50, &[0, 173])]), Err(Malformed::Offset(173)));
    assert_eq!(decode(&[(50, &[0, 172])]), Err(Malformed::Length(156)), "outside of the message");
    assert_eq!(decode(&[(80, &[9])]), Err(Malformed::Count(9)), "EIDs");
    assert_eq!(decode(&[(80, &[2])]), Err(Malformed::Length(156)), "more EIDs than there are");
    assert_eq!(decode(&[(80, &[0])]), Err(Malformed::Length(156)), "fewer EIDs than there are");
    assert_eq!(decode(&[(7, &[0x2e])]), Err(Malformed::Length(156)), "an extension that neither type has");
    assert_eq!(decode(&[(7, &[0x20])]), Err(Malformed::Length(156)), "a v1 type without prefixes");
    assert_eq!(decode(&[(7, &[0x26]), (81, &[9])]), Err(Malformed::Count(9)), "ISM entries");
    assert_eq!(
        decode(&[(7, &[0x26]), (86, &[0xff, 0xff])]),
        Err(Malformed::Offset(0xffff)),
        "SMC-Dv2 extension"
    );
    // Offers of nothing are well-formed.
    let mut nothing = changed("PROPOSAL, v2-only", &[(5, &[0, 84]), (7, &[0x2a])]);
    nothing.drain(80..152);
    let Ok(Clc::Proposal(Proposal { offers, .. })) = Clc::decode(&nothing) else { panic!() };
    assert_eq!(offers, Offers::V2 { v1: None, v2: None });
}

#[test]
fn v1_proposals_have_no_slack() {
    let Clc::Proposal(proposal) = captured_clc(0) else { panic!() };
    let offer = V1Offer {
        technology: Technology::R,
        ipv4_subnet: [10, 9, 0, 0],
        ipv4_length: 24,
        ipv6: Bounded::new(),
    };
    let v1 = Clc::Proposal(Proposal { offers: Offers::V1(offer), ..proposal });
    let mut bytes = v1.encode().unwrap();
    assert_eq!((bytes.len(), bytes[7]), (52, 0x10));
    assert_eq!(Clc::decode(&bytes), Ok(v1));
    bytes[47] = 1;
    assert_eq!(Clc::decode(&bytes), Err(Malformed::Length(52)), "a prefix that is not there");
    bytes[47] = 0;
    bytes[7] = 0x12;
    assert_eq!(Clc::decode(&bytes), Err(Malformed::Length(52)), "nothing offered");
}

#[test]
fn accepts_and_confirms() {
    let accept = |changes: &[(usize, &[u8])]| Clc::decode(&changed("ACCEPT, first contact", changes));
    assert_eq!(accept(&[(7, &[0x2a])]), Err(Malformed::Path(2)));
    assert_eq!(accept(&[(7, &[0x18])]), Err(Malformed::Length(160)), "version 1 has 68");
    assert_eq!(accept(&[(7, &[0x29])]), Ok(Clc::SmcD { kind: Kind::Accept, version: Version::V2 }));
    let mut short = changed("ACCEPT, first contact", &[(5, &[0, 156])]);
    short.drain(104..108);
    assert_eq!(Clc::decode(&short), Err(Malformed::Length(156)), "a part of the extension");
    let later = changed("ACCEPT, later contact", &[(7, &[0x28])]);
    assert_eq!(Clc::decode(&later), Err(Malformed::Length(108)), "no extension");
    let gids = changed("CONFIRM, first contact, one GID", &[(156, &[2])]);
    assert_eq!(Clc::decode(&gids), Err(Malformed::Length(180)), "a GID that is not there");
    let mut d_v1 = vector("ACCEPT, first contact");
    d_v1.truncate(48);
    d_v1[44..].copy_from_slice(&[0xe2, 0xd4, 0xc3, 0xc4]);
    d_v1[5..8].copy_from_slice(&[0, 48, 0x11]);
    assert_eq!(Clc::decode(&d_v1), Ok(Clc::SmcD { kind: Kind::Accept, version: Version::V1 }));
}

#[test]
fn what_a_later_version_adds_to_an_accept_is_read_and_dropped() {
    let usual = vector("ACCEPT, first contact");
    for extra in [1, 100, KEPT - 160, KEPT - 159, 65535 - 160] {
        let mut long = usual[..156].to_vec();
        long.resize(156 + extra, 0xee);
        long.extend(&usual[156..]);
        let length = (long.len() as u16).to_be_bytes();
        long[5..7].copy_from_slice(&length);
        let stream = [&long[..], b"tail"].concat();
        let mut input = &stream[..];
        let message = Framer::default().feed(&mut input);
        assert_eq!(message, Clc::decode(&usual).map(Some), "{extra} more");
        assert_eq!(input, b"tail");
    }
}

#[test]
fn the_framer_refuses_at_the_header_what_cannot_become_a_message() {
    for (header, why) in [
        ([0xe2, 0xd4, 0xc3, 0xd9, 1, 0xff, 0xff, 0x22], Malformed::Length(0xffff)),
        ([0xe2, 0xd4, 0xc3, 0xd9, 4, 0xff, 0xff, 0x20], Malformed::Length(0xffff)),
        ([0xe2, 0xd4, 0xc3, 0xd9, 2, 0, 8, 0x20], Malformed::Length(8)),
        (*b"HTTP/1.1", Malformed::EyeCatcher),
    ] {
        assert_eq!(Framer::default().feed(&mut &header[..]), Err(why));
    }
}

#[test]
fn llc_and_cdc() {
    let decode = |changes: &[(usize, &[u8])]| {
        let bytes = changed("LLC DELETE RKEY request", changes);
        Llc::decode(&bytes).map(|message| {
            message.map(|message| {
                message.body == Llc::decode(&vector("LLC DELETE RKEY request")).unwrap().unwrap().body
            })
        })
    };
    assert_eq!(decode(&[]), Ok(Some(true)));
    assert_eq!(decode(&[(4, &[9])]), Err(llc::Malformed::Count(9)));
    assert_eq!(decode(&[(1, &[43])]), Err(llc::Malformed::Length(43)));
    assert_eq!(decode(&[(1, &[0, 1])]), Ok(Some(true)), "only 44 or more is asked for in v2");
    assert_eq!(decode(&[(0, &[0x09]), (1, &[45])]), Err(llc::Malformed::Length(45)), "in v1 it is 44");
    for kind in [0x00, 0x05, 0x0a, 0x19, 0x20, 0x23, 0x28, 0x2f, 0x36, 0xf9] {
        assert_eq!(decode(&[(0, &[kind])]), Ok(None), "{kind:#x} is not known, and ignored");
    }
    assert_eq!(Llc::decode(&[]), Err(llc::Malformed::Short));
    assert_eq!(Llc::decode(&vector("LLC TEST LINK response")[..43]), Err(llc::Malformed::Short));
    // An extension's count that says more than there is, or than a message can hold.
    let add_link = [vector("LLC ADD LINK rejection"), vec![0; 28]].concat();
    assert!(Llc::decode(&add_link).is_ok());
    for (count, why) in [(1u16, llc::Malformed::Short), (508, llc::Malformed::Count(508))] {
        let mut bytes = add_link.clone();
        bytes[70..72].copy_from_slice(&count.to_le_bytes());
        assert_eq!(Llc::decode(&bytes), Err(why));
    }

    let first = "CDC client -> server: first, 5 bytes written";
    assert_eq!(Cdc::decode(&vector(first)[..26]), Cdc::decode(&vector(first)), "the rest is reserved");
    for (at, value) in [(0, 0xfd), (1, 43), (1, 45)] {
        assert_eq!(Cdc::decode(&changed(first, &[(at, &[value])])), Err(cdc::Malformed));
    }
}
