//! A client or server (the first byte) to which anything happens in any order. The input is read as steps: a byte that says
//! which; for a message its length in two bytes, little-endian, and its bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smc_wire::clc::{Clc, LinkEnd, Proposal, Rmbe};
use smc_wire::handshake::{Action, Client, Contact, Host, Local, Prepared, Server, ServerConfig};
use smc_wire::llc::Llc;
use smc_wire::{Diagnosis, Eid, Gid, Mac, MtuCode, PeerId, Rmb, SizeCode, Time, U24};
use std::net::Ipv4Addr;

const HOST: Host = Host { name: [b' '; 32], features: 0 };

fn local() -> Local {
    let (gid, mac) = (Gid::from_ipv4(Ipv4Addr::new(10, 9, 0, 1)), Mac([2; 6]));
    let (qpn, psn, mtu) = (U24::truncated(17), U24::truncated(1), MtuCode::truncated(3));
    Local {
        link: LinkEnd { peer_id: PeerId([1; 8]), gid, mac, qpn, psn, mtu },
        rmbe: Rmbe {
            rmb: Rmb { rkey: 1, address: 1 << 32 },
            index: 1,
            size: SizeCode::truncated(2),
            token: 7,
        },
    }
}

#[derive(PartialEq, Debug)]
enum Waiting {
    Peer,
    Preparation,
    Connection,
}

enum Side {
    Client(Client),
    Server(Server),
}

macro_rules! both {
    ($side:expr, $name:ident => $call:expr) => {
        match $side {
            Side::Client($name) => $call,
            Side::Server($name) => $call,
        }
    };
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, mut rest)) = bytes.split_first() else { return };
    let eid = Eid::new("SMCLAB").unwrap();
    let mut now = Time::ZERO;
    let mut side = if first % 2 == 0 {
        let eids = vec![eid].try_into().unwrap();
        Side::Client(Client::new(
            now,
            Proposal::smc_r_v2(PeerId([1; 8]), Mac([2; 6]), local().link.gid, eids),
            HOST,
        ))
    } else {
        let (peer_id, eids) = (PeerId([1; 8]), vec![eid]);
        Side::Server(Server::new(
            now,
            ServerConfig { peer_id, eids, max_connections: 255, max_links: 2, host: HOST },
        ))
    };
    let (mut done, mut waiting) = (0, Waiting::Peer);
    loop {
        while let Some(action) = both!(&mut side, s => s.poll_action()) {
            assert_eq!(done, 0, "nothing follows the end");
            match action {
                Action::SendClc(bytes) => drop(Clc::decode(&bytes).expect("valid")),
                Action::SendLlc(bytes) => drop(Llc::decode(&bytes).expect("valid").expect("known")),
                Action::PrepareClient(_) | Action::PrepareServer(_) => waiting = Waiting::Preparation,
                Action::Connect(_) => waiting = Waiting::Connection,
                Action::Done(_) => done += 1,
            }
        }
        // A peer is never waited for without end.
        let deadline = both!(&side, s => s.deadline());
        assert_eq!(deadline.is_some(), done == 0 && waiting == Waiting::Peer);
        let Some((step, tail)) = rest.split_first() else { break };
        rest = tail;
        let mut message = || {
            let (length, tail) = rest.split_first_chunk().unwrap_or((&[0, 0], &[]));
            let (message, tail) = tail.split_at(tail.len().min(u16::from_le_bytes(*length).into()));
            rest = tail;
            message
        };
        match step % 10 {
            0 => match Clc::decode(message()) {
                Ok(message) => both!(&mut side, s => s.received(message)),
                Err(why) => both!(&mut side, s => s.malformed(why)),
            },
            1 => match Llc::decode(message()) {
                Ok(Some(message)) => both!(&mut side, s => s.received_llc(&message)),
                Ok(None) => {}
                Err(_) => both!(&mut side, s => s.link_failed()),
            },
            2..=4 => {
                let contact = Contact::First { direct: true, user_id: [0, 0, 1, 1], iwarp: None };
                let contact = if step % 10 == 2 { contact } else { Contact::Later };
                let failed = step % 10 == 4;
                match &mut side {
                    Side::Client(s) => {
                        s.prepared(now, if failed { Err(Diagnosis::SYNCERR) } else { Ok(local()) })
                    }
                    Side::Server(s) => {
                        let prepared = Prepared { local: local(), contact };
                        s.prepared(now, if failed { Err(Diagnosis::NOSMCRDEV) } else { Ok(prepared) });
                    }
                }
                if waiting == Waiting::Preparation {
                    waiting = Waiting::Peer;
                }
            }
            5 | 6 => {
                let result = if step % 10 == 5 { Ok(()) } else { Err(Diagnosis::ERR_RDYLNK) };
                match &mut side {
                    Side::Client(s) => s.connected(result),
                    Side::Server(s) => s.connected(now, result),
                }
                if waiting == Waiting::Connection {
                    waiting = Waiting::Peer;
                }
            }
            7 => {
                now = deadline.unwrap_or(now);
                both!(&mut side, s => s.timeout(now));
            }
            8 => both!(&mut side, s => s.closed()),
            _ => both!(&mut side, s => s.link_failed()),
        }
    }
});
