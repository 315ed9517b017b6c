//! Garbage in the shared memory of a connection that attached properly.

use crate::peer::{attach_accepting, attach_connecting, Attached};
use crate::{Stage, Test};
use smc_core::sys::fd;
use smc_tests::random::Random;
use smc_tests::sys;
use std::sync::atomic::Ordering::Relaxed;

pub const TESTS: &[(&str, Test)] = &[
    ("random control words", |s, r, n| rounds(s, r, n, random_words)),
    ("likely values in control words", |s, r, n| rounds(s, r, n, likely_values)),
    ("random control pages", |s, r, n| rounds(s, r, n, random_page)),
    ("one word flipping", |s, r, n| rounds(s, r, n, flipping)),
    ("good conduct, then one impossible value", |s, r, n| rounds(s, r, n, sudden)),
    ("random memory", |s, r, n| rounds(s, r, n, random_memory)),
    ("flags of both ends", |s, r, n| rounds(s, r, n, flags)),
    ("doorbells that block", |s, r, n| rounds(s, r, n, doorbells)),
];

type Attack = fn(&mut Attached, &mut Random);

fn rounds(stage: &Stage, random: &mut Random, rounds: usize, attack: Attack) -> Result<(), String> {
    // What died with the last peer is freed when the next one comes.
    stage.keeps.set(16);
    for round in 0..rounds {
        let seed = random.word();
        stage
            .with_peer(|pause| {
                let random = &mut Random::new(seed);
                let mut attached = match random.one_in(2) {
                    true => attach_connecting(stage, [4096 << random.below(3), 4096 << random.below(3)])?,
                    false => attach_accepting(stage)?,
                };
                attached.memory.view.mine().set_attached();
                if random.one_in(2) {
                    // Let the victim's direction move to the ring first.
                    attached.peer.poke(b"some bytes");
                    attached.peer.poke(b"and some more");
                }
                for _ in 0..random.size(300) {
                    attack(&mut attached, random);
                    attached.memory.ring_bells();
                    let mut bytes = [0; 2000];
                    let n = random.size(bytes.len());
                    bytes[0] = 1;
                    if !attached.peer.poke(&bytes[..n]) || !attached.peer.drain() {
                        break;
                    }
                }
                // Then the peer stands still, whatever its words say now.
                if random.one_in(4) {
                    pause()?;
                }
                Ok(())
            })
            .map_err(|why| format!("round {round}: {why}"))?;
    }
    Ok(())
}

/// A control word.
fn place(random: &mut Random) -> usize {
    const WORDS: u64 = (smc_core::ring::layout::CONTROL / 8) as u64;
    random.below(WORDS) as usize
}

fn random_words(a: &mut Attached, random: &mut Random) {
    for _ in 0..random.size(16) {
        a.memory.control()[place(random)].store(random.word(), Relaxed);
    }
}

fn likely_values(a: &mut Attached, random: &mut Random) {
    let size = a.memory.view.rx_size();
    for _ in 0..random.size(8) {
        let value = match random.below(12) {
            0 => u64::MAX,
            1 => 1 << 63,
            2 => 1 << 31,
            3 => u64::from(u32::MAX),
            4 => size,
            5 => size + 1,
            6 => a.peer.sent,
            7 => a.peer.sent.wrapping_add(random.below(100)).wrapping_sub(50),
            n => n - 8,
        };
        if random.one_in(2) {
            a.memory.control_halves()[place(random) * 2 + random.below(2) as usize]
                .store(value as u32, Relaxed);
        } else {
            a.memory.control()[place(random)].store(value, Relaxed);
        }
    }
}

fn random_page(a: &mut Attached, random: &mut Random) {
    a.memory.control().iter().for_each(|word| word.store(random.word(), Relaxed));
}

fn flipping(a: &mut Attached, random: &mut Random) {
    let word = &a.memory.control()[place(random)];
    let values = [word.load(Relaxed), if random.one_in(2) { random.word() } else { random.below(4) }];
    a.peer.poke(b"0123456789");
    for i in 0..2000 {
        word.store(values[i % 2], Relaxed);
        if i % 500 == 0 {
            a.memory.ring_bells();
        }
    }
}

fn sudden(a: &mut Attached, random: &mut Random) {
    let view = &a.memory.view;
    let tx = view.tx();
    let size = view.tx_size();
    // A correct switch to the ring with bytes in it, most of the time.
    let tail = random.below(size + 1);
    if !random.one_in(4) {
        let at = a.peer.sent + 3;
        let _ = tx.announce(1, at);
        a.peer.poke(b"abc");
        let _ = tx.publish_tail(tail);
        a.memory.ring_bells();
    }
    let view = &a.memory.view;
    match random.below(6) {
        0 => drop(view.tx().publish_tail(tail + size + 1 + random.below(4))),
        1 => drop(view.tx().publish_tail(tail.wrapping_sub(random.below(4)))),
        2 => drop(view.tx().announce(2 + random.below(4) as u32, random.word())),
        3 => drop(view.tx().announce(2, tail.wrapping_add(random.below(3)).wrapping_sub(1))),
        4 => drop(view.rx().publish_head(random.word(), true)),
        _ => view.rx().reach(random.below(8) as u32),
    }
}

fn random_memory(a: &mut Attached, random: &mut Random) {
    a.memory.words().iter().for_each(|word| word.store(random.word(), Relaxed));
}

fn flags(a: &mut Attached, random: &mut Random) {
    for end in [a.memory.view.mine(), a.memory.view.peers()] {
        match random.below(8) {
            0 => end.set_closed(),
            1 => end.set_released(),
            2 => end.set_go_back(),
            3 | 4 => end.set_recall(),
            5 => drop(end.withdraw_recall()),
            6 => drop(end.accept_recall()),
            _ => end.set_no_blind_reads(),
        }
    }
}

/// The peer shares the doorbells' open file descriptions, so it can make them block and fill or empty them.
fn doorbells(a: &mut Attached, random: &mut Random) {
    for bell in &a.memory.bells {
        if let Ok(flags) = sys::fcntl(bell.raw(), libc::F_GETFL, 0) {
            let _ = sys::fcntl(bell.raw(), libc::F_SETFL, flags & !libc::O_NONBLOCK);
        }
        if random.one_in(2) {
            let full = u64::MAX - 1;
            let mut room = [libc::pollfd { fd: bell.raw(), events: libc::POLLIN, revents: 0 }];
            if sys::poll(&mut room, 0) == Ok(0) {
                let _ = sys::write(bell.raw(), &full.to_ne_bytes());
            }
        } else {
            let mut rung = [libc::pollfd { fd: bell.raw(), events: libc::POLLIN, revents: 0 }];
            if sys::poll(&mut rung, 0) == Ok(1) {
                fd::drain(bell.raw());
            }
        }
    }
    // Marks that make the victim ring and reset them.
    let view = &a.memory.view;
    view.rx().want_data();
    view.tx().want_space();
}
