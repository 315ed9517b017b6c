//! Any message survives the way to bytes and back; any bytes are survived.

mod fixture;

use proptest::prelude::*;
use proptest::{array, collection, option, sample};
use smc_wire::cdc::{Cdc, ProducerFlags, StateFlags};
use smc_wire::clc::{
    Answer, Chosen, Clc, Decline, FirstContact, Framer, Ipv6Prefix, IsmEntry, Kind, LinkEnd, Offers,
    Proposal, Rmbe, Technology, V1Offer, V2Ism, V2Offer, Version,
};
use smc_wire::conn::Cursor;
use smc_wire::llc::{
    self, AddLink, AddLinkContinuation, AddLinkRkeys, Body, ConfirmLink, ConfirmRkey,
    ConfirmRkeyContinuation, DeleteLink, DeleteReason, DeleteRkey, FurtherRkey, LinkRkey, Llc,
    RequestAddLink, RkeyReply, RkeyTriples,
};
use smc_wire::{Bounded, Diagnosis, Eid, Gid, Mac, MtuCode, PeerId, Rmb, SizeCode, U24};

fn bounded<T: std::fmt::Debug, const N: usize>(
    entry: impl Strategy<Value = T>,
    most: usize,
) -> impl Strategy<Value = Bounded<T, N>> {
    collection::vec(entry, 0..=most).prop_map(|entries| entries.try_into().unwrap())
}

fn gid() -> impl Strategy<Value = Gid> {
    any::<[u8; 16]>().prop_map(Gid)
}

fn mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 6]>().prop_map(Mac)
}

fn eid() -> impl Strategy<Value = Eid> {
    any::<[u8; 32]>().prop_map(Eid)
}

fn peer_id() -> impl Strategy<Value = PeerId> {
    any::<[u8; 8]>().prop_map(PeerId)
}

fn u24() -> impl Strategy<Value = U24> {
    any::<u32>().prop_map(U24::truncated)
}

fn mtu() -> impl Strategy<Value = MtuCode> {
    (0..16u8).prop_map(MtuCode::truncated)
}

fn rmb() -> impl Strategy<Value = Rmb> {
    any::<(u32, u64)>().prop_map(|(rkey, address)| Rmb { rkey, address })
}

fn ism_entry() -> impl Strategy<Value = IsmEntry> {
    any::<(u64, u16)>().prop_map(|(gid, chid)| IsmEntry { gid, chid })
}

fn v1_offer() -> impl Strategy<Value = V1Offer> {
    let technology = sample::select(vec![Technology::R, Technology::D, Technology::Both]);
    let prefix = any::<([u8; 16], u8)>().prop_map(|(prefix, length)| Ipv6Prefix { prefix, length });
    (technology, any::<([u8; 4], u8)>(), bounded(prefix, 8)).prop_map(
        |(technology, (ipv4_subnet, ipv4_length), ipv6)| V1Offer {
            technology,
            ipv4_subnet,
            ipv4_length,
            ipv6,
        },
    )
}

fn v2_offer() -> impl Strategy<Value = V2Offer> {
    let ism =
        (eid(), bounded(ism_entry(), 8)).prop_map(|(system_eid, entries)| V2Ism { system_eid, entries });
    let limits = any::<(u8, u8, u16)>();
    (any::<bool>(), bounded(eid(), 8), 0..16u8, any::<bool>(), gid(), limits, option::of(ism)).prop_map(
        |(smc_r, eids, release, has_system_eid, gid, (max_connections, max_links, features), ism)| V2Offer {
            smc_r: smc_r || ism.is_none(),
            eids,
            release,
            has_system_eid,
            gid,
            max_connections,
            max_links,
            features,
            ism,
        },
    )
}

fn proposal() -> impl Strategy<Value = Proposal> {
    let offers = prop_oneof![
        v1_offer().prop_map(Offers::V1),
        (option::of(v1_offer()), option::of(v2_offer())).prop_map(|(v1, v2)| Offers::V2 { v1, v2 }),
    ];
    (peer_id(), gid(), mac(), ism_entry(), any::<[u8; 8]>(), offers).prop_map(
        |(peer_id, gid, mac, mut ism, mut vendor, offers)| {
            match &offers {
                Offers::V1(v1) => {
                    vendor = [0; 8];
                    if !v1.technology.has_d() {
                        ism = IsmEntry::NONE;
                    }
                }
                Offers::V2 { .. } => {}
            }
            Proposal { peer_id, gid, mac, ism, vendor, offers }
        },
    )
}

fn answer(kind: Kind) -> impl Strategy<Value = Clc> {
    let link = (peer_id(), gid(), mac(), u24(), u24(), mtu())
        .prop_map(|(peer_id, gid, mac, qpn, psn, mtu)| LinkEnd { peer_id, gid, mac, qpn, psn, mtu });
    let rmbe = (rmb(), any::<u8>(), 0..16u8, any::<u32>()).prop_map(|(rmb, index, size, token)| Rmbe {
        rmb,
        index,
        size: SizeCode::truncated(size),
        token,
    });
    let gids = bounded(gid(), if kind == Kind::Confirm { 255 } else { 0 });
    let names = (any::<bool>(), 0..16u8, 0..16u8, any::<[u8; 32]>());
    let first = (names, any::<(u8, u8, u16, [u8; 4])>(), gids).prop_map(
        |((direct, operating_system, release, host_name), limits, gids)| FirstContact {
            direct,
            operating_system,
            release,
            host_name,
            max_connections: limits.0,
            max_links: limits.1,
            features: limits.2,
            vendor: limits.3,
            gids,
        },
    );
    let chosen = prop_oneof![
        any::<bool>().prop_map(|first_contact| Chosen::V1 { first_contact }),
        (eid(), option::of(first)).prop_map(|(eid, first_contact)| Chosen::V2 { eid, first_contact }),
    ];
    (link, rmbe, chosen).prop_map(move |(link, rmbe, chosen)| {
        let answer = Answer { link, rmbe, chosen };
        if kind == Kind::Accept {
            Clc::Accept(answer)
        } else {
            Clc::Confirm(answer)
        }
    })
}

fn decline() -> impl Strategy<Value = Decline> {
    (any::<bool>(), peer_id(), any::<u32>(), any::<bool>(), 0..16u8, any::<[u32; 4]>()).prop_map(
        |(v2, peer_id, code, out_of_sync, operating_system, more)| Decline {
            version: if v2 { Version::V2 } else { Version::V1 },
            peer_id,
            diagnosis: Diagnosis(code),
            out_of_sync,
            operating_system,
            more: if v2 { more } else { [0; 4] },
        },
    )
}

fn clc() -> impl Strategy<Value = Clc> {
    prop_oneof![
        proposal().prop_map(Clc::Proposal),
        answer(Kind::Accept),
        answer(Kind::Confirm),
        decline().prop_map(Clc::Decline),
    ]
}

fn further() -> impl Strategy<Value = FurtherRkey> {
    (any::<u8>(), rmb()).prop_map(|(link, rmb)| FurtherRkey { link, rmb })
}

fn reply() -> impl Strategy<Value = RkeyReply> {
    any::<(bool, bool)>().prop_map(|(negative, retry)| RkeyReply { negative, retry })
}

fn link_rkey() -> impl Strategy<Value = LinkRkey> {
    any::<(u32, u32, u64)>().prop_map(|(rkey, new_rkey, new_address)| LinkRkey {
        rkey,
        new_rkey,
        new_address,
    })
}

/// A body and whether it is one of version 1 or 2 only. Lists are leaked: there are few cases.
fn body() -> impl Strategy<Value = (Body<'static>, Option<llc::Version>)> {
    let confirm_link = (0..4u8, mac(), gid(), u24(), any::<(u8, [u8; 4], u8, u8)>()).prop_map(
        |(no_eye_catcher, mac, gid, qpn, (link, user_id, max_links, max_connections))| {
            Body::ConfirmLink(ConfirmLink {
                no_eye_catcher,
                mac,
                gid,
                qpn,
                link,
                user_id,
                max_links,
                max_connections,
            })
        },
    );
    let triples = collection::vec(any::<[u8; 16]>(), 0..=507)
        .prop_map(|triples| RkeyTriples::new(triples.concat().leak()).expect("as many as fit"));
    let rkeys = (any::<bool>(), gid(), triples).prop_map(|(direct, target, rkeys)| AddLinkRkeys {
        direct,
        target,
        rkeys,
    });
    let add_link = |rejected: BoxedStrategy<Option<u8>>,
                    rkeys: BoxedStrategy<Option<AddLinkRkeys<'static>>>| {
        (rejected, mac(), gid(), u24(), any::<u8>(), mtu(), u24(), rkeys).prop_map(
            |(rejected, mac, gid, qpn, link, mtu, psn, rkeys)| {
                Body::AddLink(AddLink { rejected, mac, gid, qpn, link, mtu, psn, rkeys })
            },
        )
    };
    let add_link_v1 = add_link(option::of(0..16u8).boxed(), Just(None).boxed());
    let add_link_v2 = add_link(option::of(Just(0)).boxed(), option::of(rkeys).boxed());
    let continuation = (any::<u8>(), any::<u8>(), array::uniform2(link_rkey()))
        .prop_map(|(link, left, rkeys)| Body::AddLinkContinuation(AddLinkContinuation { link, left, rkeys }));
    let delete_link = any::<(bool, bool, u8, u32)>().prop_map(|(all, orderly, link, reason)| {
        Body::DeleteLink(DeleteLink { all, orderly, link, reason: DeleteReason(reason) })
    });
    let request_add_link = collection::vec(any::<[u8; 16]>(), 0..=255).prop_map(|gids| {
        Body::RequestAddLink(RequestAddLink::new(gids.concat().leak()).expect("as many as fit"))
    });
    let confirm_rkey = (reply(), any::<u8>(), rmb(), array::uniform2(further())).prop_map(
        |(reply, further, rmb, entries)| Body::ConfirmRkey(ConfirmRkey { reply, further, rmb, entries }),
    );
    let rkey_continuation =
        (reply(), any::<u8>(), array::uniform3(further())).prop_map(|(reply, left, entries)| {
            Body::ConfirmRkeyContinuation(ConfirmRkeyContinuation { reply, left, entries })
        });
    let delete_rkey =
        (any::<bool>(), 0..9u8, any::<(u8, [u32; 8])>()).prop_map(|(negative, count, (failed, rkeys))| {
            Body::DeleteRkey(DeleteRkey { negative, count, failed, rkeys })
        });
    let (v1, v2) = (Some(llc::Version::V1), Some(llc::Version::V2));
    prop_oneof![
        (confirm_link, Just(None)),
        (add_link_v1, Just(v1)),
        (add_link_v2, Just(v2)),
        (continuation, Just(v1)),
        (delete_link, Just(None)),
        (request_add_link, Just(v2)),
        (confirm_rkey, Just(None)),
        (rkey_continuation, Just(v1)),
        (any::<[u8; 16]>().prop_map(Body::TestLink), Just(None)),
        (delete_rkey, Just(None)),
    ]
}

fn cursor() -> impl Strategy<Value = Cursor> {
    any::<(u16, u32)>().prop_map(|(wrap, count)| Cursor { wrap, count })
}

/// A valid message with some bytes changed: more of them come far than of random bytes.
fn damaged(valid: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = collection::vec((any::<sample::Index>(), any::<u8>()), 0..4);
    (valid, changes, option::weighted(0.3, any::<sample::Index>())).prop_map(|(mut bytes, changes, end)| {
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(end) = end {
            bytes.truncate(end.index(bytes.len()));
        }
        bytes
    })
}

proptest! {
    // A failure prints what it takes to repeat it; no file is written.
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn clc_messages_come_back_as_they_were(message in clc()) {
        let bytes = message.encode().unwrap();
        prop_assert_eq!(usize::from(u16::from_be_bytes([bytes[5], bytes[6]])), bytes.len());
        prop_assert_eq!(Clc::decode(&bytes), Ok(message.clone()));
        let mut input = &bytes[..];
        prop_assert_eq!(Framer::default().feed(&mut input), Ok(Some(message)));
    }

    #[test]
    fn llc_messages_come_back_as_they_were((body, only) in body(), v2: bool, response: bool) {
        let version = only.unwrap_or(if v2 { llc::Version::V2 } else { llc::Version::V1 });
        let message = Llc { version, response, body };
        let bytes = message.encode();
        prop_assert!(bytes.len() == 44 || version == llc::Version::V2 && (44..=8192).contains(&bytes.len()));
        prop_assert_eq!(Llc::decode(&bytes), Ok(Some(message)));
    }

    #[test]
    fn cdc_messages_come_back_as_they_were(
        sequence: u16, token: u32, producer in cursor(), consumer in cursor(), flags: (u8, u8),
    ) {
        let (producer_flags, state_flags) = (ProducerFlags(flags.0), StateFlags(flags.1));
        let message = Cdc { sequence, token, producer, consumer, producer_flags, state_flags };
        prop_assert_eq!(Cdc::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn a_damaged_clc_message_is_refused_or_says_the_same_when_sent_on(bytes in damaged(clc().prop_map(|m| m.encode().unwrap()))) {
        if let Ok(message) = Clc::decode(&bytes) {
            if let Some(canonical) = message.encode() {
                prop_assert_eq!(Clc::decode(&canonical), Ok(message));
            }
        }
        let mut framer = Framer::default();
        let mut input = &bytes[..];
        loop {
            match framer.feed(&mut input) {
                Ok(Some(_)) => {}
                Ok(None) => {
                    prop_assert!(input.is_empty() && framer.wanted() > 0);
                    break;
                }
                Err(_) => break,
            }
        }
    }

    #[test]
    fn a_damaged_llc_message_is_refused_or_says_the_same_when_sent_on(bytes in damaged(body().prop_map(|(body, only)| {
        Llc::request(only.unwrap_or(llc::Version::V2), body).encode()
    }))) {
        if let Ok(Some(message)) = Llc::decode(&bytes) {
            let canonical = message.encode();
            prop_assert_eq!(Llc::decode(&canonical), Ok(Some(message)));
        }
    }
}
