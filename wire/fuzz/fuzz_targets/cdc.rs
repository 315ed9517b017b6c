//! A connection whose peer sends any CDC messages, between any calls of the program. The input is read as steps: a byte that
//! says which, then 44 bytes of a message, or two bytes of an amount.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smc_wire::cdc::Cdc;
use smc_wire::clc::Rmbe;
use smc_wire::conn::{Connection, State};
use smc_wire::{Rmb, SizeCode};

fn rmbe(size: u8) -> Rmbe {
    Rmbe { rmb: Rmb::default(), index: 1, size: SizeCode::truncated(size), token: 1 }
}

fuzz_target!(|bytes: &[u8]| {
    let (peer, own) = (rmbe(0), rmbe(1));
    let mut connection = Connection::new(&peer, &own);
    let mut rest = bytes;
    while let Some((step, tail)) = rest.split_first() {
        rest = tail;
        let mut amount = || {
            let (amount, tail) = rest.split_first_chunk().unwrap_or((&[0, 0], &[]));
            rest = tail;
            u64::from(u16::from_le_bytes(*amount))
        };
        match step % 8 {
            0 => {
                let (message, tail) = rest.split_at(rest.len().min(44));
                rest = tail;
                let Ok(cdc) = Cdc::decode(message) else { continue };
                assert_eq!(Cdc::decode(&cdc.encode()), Ok(cdc));
                let (unread, room) = (connection.unread(), connection.room());
                match connection.receive(&cdc) {
                    Ok(received) => {
                        assert_eq!(connection.unread(), unread + received.bytes);
                        assert!(connection.room() >= room || received.state.0 != 0);
                    }
                    Err(_) => drop(connection.abort()),
                }
            }
            1 => {
                let spans = connection.plan(amount());
                assert!(spans.length() <= connection.room());
                assert!(spans.0.iter().all(|span| span.offset + span.length <= peer.size.bytes()));
                connection.wrote(spans.length());
            }
            2 => {
                let spans = connection.readable(amount());
                assert!(spans.0.iter().all(|span| span.offset + span.length <= own.size.bytes()));
                connection.consume(spans.length());
            }
            3 => connection.mark_urgent(amount() + 1),
            4 => drop(connection.shutdown_write()),
            5 => drop(connection.close()),
            6 => drop(connection.abort()),
            _ => {
                let cdc = connection.cdc();
                assert!(cdc.producer.count < peer.size.bytes() && cdc.consumer.count < own.size.bytes());
                assert!(!connection.update_is_due() && !connection.must_tell_blocked());
            }
        }
        assert!(connection.unread() <= own.size.bytes() && connection.room() <= peer.size.bytes());
        let close = connection.close_state();
        assert!(!close.is_over() || close.state() == State::Closed, "{:?}", close);
    }
});
