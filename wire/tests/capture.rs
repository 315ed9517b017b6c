//! What two kernels said to each other is understood, and would be said in the same bytes.

mod fixture;

use fixture::{capture, captured_clc, End, Event};
use smc_wire::cdc::Cdc;
use smc_wire::clc::{Chosen, Clc, FirstContact, Framer};
use smc_wire::llc::{Body, Llc, Version};
use smc_wire::{option, Eid, Gid, MtuCode, PeerId};
use std::net::Ipv4Addr;

#[test]
fn every_message_decodes_and_encodes_to_its_own_bytes() {
    let mut counts = [0; 4];
    for frame in capture() {
        let number = frame.number;
        match frame.event {
            Event::Option(bytes) => {
                assert_eq!(bytes, option::OPTION);
                assert!(option::is_in(&[&[1, 1], bytes.as_slice()].concat()));
                counts[0] += 1;
            }
            Event::Clc(bytes) => {
                let message = Clc::decode(&bytes).unwrap_or_else(|e| panic!("frame {number}: {e}"));
                assert_eq!(message.encode().as_ref(), Some(&bytes), "frame {number}");
                counts[1] += 1;
            }
            Event::Llc(bytes) => {
                let message = Llc::decode(&bytes).unwrap_or_else(|e| panic!("frame {number}: {e}"));
                assert_eq!(message.unwrap().encode(), bytes, "frame {number}");
                counts[2] += 1;
            }
            Event::Cdc(bytes) => {
                let message = Cdc::decode(&bytes).unwrap_or_else(|e| panic!("frame {number}: {e}"));
                assert_eq!(message.encode().as_slice(), bytes, "frame {number}");
                counts[3] += 1;
            }
            Event::Write { .. } | Event::Fin => {}
        }
    }
    assert_eq!(counts, [2, 3, 4, 104]);
}

#[test]
fn the_clc_messages_say_what_the_hosts_were() {
    let eid = Eid::new("SMCLAB").unwrap();
    let (client, server) = (Ipv4Addr::new(10, 9, 0, 2), Ipv4Addr::new(10, 9, 0, 1));
    let Clc::Proposal(proposal) = captured_clc(0) else { panic!() };
    let offer = proposal.v2().unwrap();
    assert_eq!((proposal.peer_id, proposal.v1()), (PeerId::default(), None));
    assert!(offer.smc_r && offer.ism.is_none() && !offer.has_system_eid);
    assert_eq!((&offer.eids[..], offer.gid), (&[eid][..], Gid::from_ipv4(client)));
    assert_eq!((offer.release, offer.max_connections, offer.max_links, offer.features), (1, 255, 2, 1));

    let Clc::Accept(accept) = captured_clc(1) else { panic!() };
    let Clc::Confirm(confirm) = captured_clc(2) else { panic!() };
    for (answer, address, gids) in [(accept, server, vec![]), (confirm, client, vec![Gid::from_ipv4(client)])]
    {
        assert_eq!(answer.link.gid, Gid::from_ipv4(address));
        assert_eq!((answer.link.qpn.get(), answer.link.mtu), (0x11, MtuCode::truncated(3)));
        assert_eq!((answer.rmbe.index, answer.rmbe.token, answer.rmbe.size.bytes()), (1, 1, 65536));
        let Chosen::V2 { eid: agreed, first_contact: Some(first) } = answer.chosen else { panic!() };
        assert_eq!(agreed, eid);
        assert_eq!((first.direct, first.operating_system, first.release), (true, 2, 1));
        assert_eq!((first.max_connections, first.max_links, first.features), (255, 2, 1));
        assert_eq!((first.host_name, &first.gids[..]), (FirstContact::padded_name(b"virtme-ng"), &gids[..]));
    }
}

#[test]
fn the_server_wanted_a_second_link_and_was_refused() {
    let messages: Vec<_> = capture()
        .into_iter()
        .filter_map(|frame| match frame.event {
            Event::Llc(bytes) => Some((frame.sender, bytes)),
            _ => None,
        })
        .collect();
    let decoded: Vec<_> =
        messages.iter().map(|(end, bytes)| (*end, Llc::decode(bytes).unwrap().unwrap())).collect();
    assert!(decoded.iter().all(|(_, message)| message.version == Version::V2));
    let [confirm, confirmed, add, added] = &decoded[..] else { panic!("{decoded:?}") };
    assert!(matches!(confirm, (End::Server, Llc { response: false, body: Body::ConfirmLink(_), .. })));
    assert!(matches!(confirmed, (End::Client, Llc { response: true, body: Body::ConfirmLink(_), .. })));
    let (End::Server, Llc { response: false, body: Body::AddLink(add), .. }) = add else { panic!("{add:?}") };
    let triples = add.rkeys.unwrap().rkeys;
    let rmbs: Vec<_> =
        triples.iter().map(|triple| (triple.rkey, triple.new_rkey, triple.new_address)).collect();
    assert_eq!(rmbs, [(0x35b, 0x56b, 0xff1d_e9d4_c5e4_0000)]);
    let (End::Client, Llc { response: true, body: Body::AddLink(added), .. }) = added else {
        panic!("{added:?}")
    };
    assert!(added.rejected.is_some() && added.rkeys.is_none());
}

#[test]
fn the_framer_takes_each_message_in_pieces_of_any_size_and_nothing_behind_it() {
    for frame in capture() {
        let Event::Clc(bytes) = frame.event else { continue };
        let stream = [&bytes[..], b"GET / HTTP/1.1\r\n"].concat();
        for piece in [1, 2, 7, 8, 9, 1000] {
            let (mut framer, mut at) = (Framer::default(), 0);
            let message = loop {
                let end = (at + piece.min(framer.wanted())).min(stream.len());
                let mut input = &stream[at..end];
                at = end;
                if let Some(message) = framer.feed(&mut input).unwrap() {
                    break message;
                }
                assert!(framer.is_midway() && framer.wanted() > 0);
            };
            assert_eq!(at, bytes.len(), "pieces of {piece}");
            assert_eq!(message.encode().unwrap(), bytes);
        }
        // With everything at once it leaves the rest.
        let mut input = &stream[..];
        assert!(Framer::default().feed(&mut input).unwrap().is_some());
        assert_eq!(input, b"GET / HTTP/1.1\r\n");
    }
}

#[test]
fn no_message_of_the_capture_decodes_when_its_end_is_missing() {
    for frame in capture() {
        match frame.event {
            Event::Clc(bytes) => {
                for end in 0..bytes.len() {
                    assert!(Clc::decode(&bytes[..end]).is_err(), "frame {}, {end} bytes", frame.number);
                }
            }
            Event::Llc(bytes) => {
                for end in (0..bytes.len()).filter(|end| *end != 44) {
                    assert!(Llc::decode(&bytes[..end]).is_err(), "frame {}, {end} bytes", frame.number);
                }
            }
            Event::Cdc(bytes) => {
                for end in 0..26 {
                    assert!(Cdc::decode(&bytes[..end]).is_err(), "frame {}, {end} bytes", frame.number);
                }
            }
            Event::Option(_) | Event::Write { .. } | Event::Fin => {}
        }
    }
}
