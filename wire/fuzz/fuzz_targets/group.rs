//! A link group whose peer sends anything, in any order with what this side does. The input is read as steps: the first byte is
//! the role; each further step a byte that says which; for a message its length in two bytes, little-endian, and its bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smc_wire::group::{Action, LinkGroup, Role};
use smc_wire::handshake::{GroupKey, NewGroup, Terms};
use smc_wire::llc::{ConfirmLink, DeleteReason, Llc};
use smc_wire::{Gid, Mac, PeerId, Rmb, Time, U24};

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, mut rest)) = bytes.split_first() else { return };
    let role = if first % 2 == 0 { Role::Client } else { Role::Server };
    let new = NewGroup {
        key: GroupKey { peer_id: PeerId([1; 8]), gid: Gid([2; 16]) },
        terms: Terms { release: 1, max_connections: 16, max_links: 1, direct: true },
        peer_host: [b' '; 32],
        confirmed: ConfirmLink {
            no_eye_catcher: 3,
            mac: Mac([2; 6]),
            gid: Gid([3; 16]),
            qpn: U24::truncated(18),
            link: 1,
            user_id: [0; 4],
            max_links: 1,
            max_connections: 16,
        },
    };
    let mut now = Time::ZERO;
    let mut group = LinkGroup::new(now, role, &new, U24::truncated(17));
    let (mut asked, mut answered, mut ended) = (0, 0, false);
    while let Some((step, tail)) = rest.split_first() {
        rest = tail;
        match step % 8 {
            0 | 1 => {
                let (length, tail) = rest.split_first_chunk().unwrap_or((&[0, 0], &[]));
                let (message, tail) = tail.split_at(tail.len().min(u16::from_le_bytes(*length).into()));
                rest = tail;
                group.receive(now, message);
            }
            2 => {
                asked += 1;
                group.confirm_rkey(now, Rmb { rkey: asked, address: 0 });
            }
            3 => {
                asked += 1;
                group.delete_rkey(now, asked);
            }
            4 => drop(group.add(())),
            5 => {
                let token = group.connections().map(|(token, _)| token).next();
                token.map(|token| group.remove(now, token));
            }
            6 => {
                now = group.deadline().unwrap_or(now);
                group.timeout(now);
                // Time gets on: what was due is done.
                assert!(group.deadline().is_none_or(|deadline| deadline > now));
            }
            _ if step % 64 == 7 => group.terminate(DeleteReason::PROGRAM),
            _ => {}
        }
        while let Some(action) = group.poll_action() {
            assert!(!ended, "nothing follows the end");
            match action {
                Action::Send(bytes) => drop(Llc::decode(&bytes).expect("valid").expect("known")),
                Action::RkeyConfirmed(..) | Action::RkeyDeleted(_) => answered += 1,
                Action::Ended(_) => ended = true,
            }
        }
        assert!(answered <= asked);
        assert_eq!((group.has_ended(), group.deadline().is_none()), (ended, ended));
    }
});
