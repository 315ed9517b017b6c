//! Garbage in the rendezvous: whatever the owner of the other end says there, the connection goes on over TCP.

use crate::peer::{held, name, random_process, Memory, Peer, EXCHANGES};
use crate::{Stage, Test};
use smc_core::link::message::{Decline, Held, Hello, Offer, MAX_LEN};
use smc_core::link::Doorbells;
use smc_core::ring::layout::{segment_len, slots_of};
use smc_core::sys::fd;
use smc_core::sys::sock::{self, MAX_FDS};
use smc_tests::random::Random;
use smc_tests::sys;
use std::os::fd::RawFd;

pub const TESTS: &[(&str, Test)] = &[("offers", offers), ("greetings", greetings)];

/// Sends one message with any number of descriptors.
fn send(socket: RawFd, bytes: &[u8], fds: &[RawFd]) {
    let mut control = [0u64; 64];
    let mut iov = libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() };
    let len = std::mem::size_of_val(fds) as u32;
    // SAFETY: all-zero is a valid msghdr; the control buffer is aligned and holds 100 descriptors, more than any test
    // sends; everything outlives the call.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut iov;
        message.msg_iovlen = 1;
        if !fds.is_empty() {
            assert!(fds.len() <= 100);
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(len) as _;
            let c = libc::CMSG_FIRSTHDR(&message);
            (*c).cmsg_level = libc::SOL_SOCKET;
            (*c).cmsg_type = libc::SCM_RIGHTS;
            (*c).cmsg_len = libc::CMSG_LEN(len) as _;
            std::ptr::copy_nonoverlapping(fds.as_ptr().cast(), libc::CMSG_DATA(c), len as usize);
        }
        // The victim may have left already.
        libc::sendmsg(socket, &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT);
    }
}

fn encoded(offer: &Offer) -> Vec<u8> {
    let (bytes, len) = offer.encode();
    bytes[..len].to_vec()
}

/// How the offer differs from a right one.
type Change = fn(&mut Offer, &mut Vec<u8>, &mut Vec<RawFd>, &mut Random);

const OFFERS: &[(&str, Change)] = &[
    ("empty", |_, bytes, _, _| bytes.clear()),
    ("noise", |_, bytes, _, r| bytes.iter_mut().for_each(|b| *b = r.word() as u8)),
    ("one wrong byte in the head", |_, bytes, _, r| bytes[r.below(8) as usize] ^= 1 + r.below(255) as u8),
    ("cut off", |_, bytes, _, r| bytes.truncate(r.below(bytes.len() as u64) as usize)),
    ("too long", |_, bytes, _, r| bytes.resize(MAX_LEN + 1 + r.size(60_000), 0)),
    ("a greeting", |_, bytes, _, _| {
        let (hello, len) = Hello { process: [1; 16], held: held(3), rcvbuf: 4096, sndbuf: 4096 }.encode();
        *bytes = hello[..len].to_vec();
    }),
    ("a refusal with any reason", |o, bytes, fds, r| {
        let (decline, len) = Decline { held: o.held, reason: r.word() as u32 }.encode();
        *bytes = decline[..len].to_vec();
        if r.one_in(2) {
            fds.clear();
        }
    }),
    ("another's refusal", |_, bytes, fds, _| {
        let (decline, len) = Decline { held: held(0), reason: 0x0301_0001 }.encode();
        *bytes = decline[..len].to_vec();
        fds.clear();
    }),
    ("no descriptors", |_, _, fds, _| fds.clear()),
    ("too few descriptors", |_, _, fds, r| fds.truncate(1 + r.below(Doorbells::COUNT as u64) as usize)),
    ("too many descriptors", |_, _, fds, r| fds.resize(MAX_FDS + 1 + r.below(90) as usize, fds[0])),
    ("a slot that is not there", |o, bytes, _, r| {
        o.slot = 1 + r.word() as u32 / 2;
        *bytes = encoded(o);
    }),
    ("an unknown segment", |o, bytes, fds, _| {
        o.new_segment = false;
        fds.remove(0);
        *bytes = encoded(o);
    }),
    ("no doorbells", |o, bytes, fds, _| {
        o.new_doorbells = false;
        fds.truncate(1);
        *bytes = encoded(o);
    }),
    ("sizes that overflow", |o, bytes, _, _| {
        o.sizes = [1 << 63, 1 << 63];
        *bytes = encoded(o);
    }),
    ("sizes of no ring", |o, bytes, _, r| {
        o.sizes =
            [0, 1, 4095, 4097, 2048, 1 << 40, u64::MAX].map(|s| s ^ r.below(2))[..2].try_into().expect("two");
        o.sizes[r.below(2) as usize] = 4096 + r.size(4095) as u64;
        *bytes = encoded(o);
    }),
    ("larger rings than the memory", |o, bytes, _, _| {
        o.sizes = [1 << 20, 1 << 20];
        *bytes = encoded(o);
    }),
    ("unsealed memory", |o, _, fds, _| {
        fds[0] = sys::memfd();
        let len = segment_len(o.sizes, 1) as i64;
        assert_eq!(sys::pwrite(fds[0], &[0], len - 1), Ok(1));
    }),
    ("memory of huge pages, of which there are none", |o, bytes, fds, _| {
        // The first length that both a huge page and a segment can have.
        o.sizes = [8192, 8192];
        let len: usize = 2 << 20;
        assert!(slots_of(len, o.sizes, 256).is_some(), "choose other rings");
        // Where the kernel has no such pages, this is an offer whose memory is missing.
        fds[0] = sys::sealed_huge_memfd(len as i64).unwrap_or(-1);
        fds.retain(|fd| *fd >= 0);
        *bytes = encoded(o);
    }),
    ("a pipe as memory", |_, _, fds, _| fds[0] = sys::pipe(0).0),
    ("a file as memory", |_, _, fds, _| {
        use std::os::fd::IntoRawFd;
        fds[0] = std::fs::File::open("/proc/self/exe").expect("the program").into_raw_fd();
    }),
    ("an eventfd as memory", |_, _, fds, _| fds[0] = fds[1]),
    ("memory as doorbells", |_, _, fds, _| *fds = vec![fds[0]; MAX_FDS]),
    ("pipes that block as doorbells", |_, _, fds, _| {
        let (_, into) = sys::pipe(0);
        sys::set_nonblocking(into, true);
        while sys::write(into, &[0; 4096]).is_ok() {}
        sys::set_nonblocking(into, false);
        fds[1..].fill(into);
    }),
    ("a descriptor that is not the connection", |o, bytes, _, r| {
        let mut number = || [-1, 0, 1, 2, i32::MAX, i32::MIN][r.below(6) as usize];
        o.held = Held { fd: number(), proof: number() };
        *bytes = encoded(o);
    }),
];

/// To a victim that accepted the connection.
fn offers(stage: &Stage, random: &mut Random, _rounds: usize) -> Result<(), String> {
    stage.keeps.set(16);
    for (what, change) in OFFERS {
        let seed = random.word();
        stage
            .with_peer(|pause| {
                let random = &mut Random::new(seed);
                let (mut peer, listener) = Peer::connect(stage, |local, remote| {
                    sock::unix_listen(&name(local, remote)).expect("the name")
                });
                let (rendezvous, _) = peer.greeted(&listener)?;
                let memory = Memory::new([4096, 8192]);
                let mut offer = memory.offer(peer.fd());
                let (mut bytes, mut fds) = (encoded(&offer), memory.fds());
                change(&mut offer, &mut bytes, &mut fds, random);
                send(rendezvous.raw(), &bytes, &fds);
                for _ in 0..EXCHANGES {
                    peer.exchange()?;
                }
                if memory.view.peers().attached() {
                    return Err("the victim took it".to_owned());
                }
                pause()
            })
            .map_err(|why| format!("{what}: {why}"))?;
    }
    Ok(())
}

/// To a victim that made the connection. It offers memory to whoever owns the other end and greets well, with
/// any wishes; to others it does not.
fn greetings(stage: &Stage, random: &mut Random, _rounds: usize) -> Result<(), String> {
    stage.keeps.set(16);
    let (right, len) =
        Hello { process: random_process(), held: held(0), rcvbuf: 4096, sndbuf: 4096 }.encode();
    let right = &right[..len];
    let (refusal, refusal_len) = Decline { held: held(0), reason: u32::MAX }.encode();
    let refusal = &refusal[..refusal_len];
    let noise: Vec<u8> = right.iter().map(|_| random.word() as u8).collect();
    let cut = &right[..random.below(len as u64) as usize];
    let long = [right, &vec![7; random.size(60_000)]].concat();
    let bell = fd::eventfd().expect("eventfd");
    let cases: &[(&str, &[u8], &[RawFd])] = &[
        ("empty", b"", &[]),
        ("noise", &noise, &[]),
        ("cut off", cut, &[]),
        ("too long", &long, &[]),
        ("another's descriptor", right, &[]),
        ("another's refusal", refusal, &[]),
        ("with descriptors", right, &[bell.raw(); MAX_FDS]),
        ("with many descriptors", right, &[bell.raw(); 60]),
    ];
    for (what, bytes, fds) in cases {
        stage
            .with_peer(|_| {
                let mut peer = Peer::accept(stage)?;
                let rendezvous = peer.call()?;
                send(rendezvous.raw(), bytes, fds);
                for _ in 0..EXCHANGES {
                    peer.exchange()?;
                }
                let mut buf = [0; MAX_LEN];
                match sock::receive_with_fds(rendezvous.raw(), &mut buf, &mut Default::default()) {
                    Ok(n @ 1..) => Err(format!("the victim answered with {n} bytes")),
                    _ => Ok(()),
                }
            })
            .map_err(|why| format!("{what}: {why}"))?;
    }
    // Wishes beyond all bounds: whatever comes of it, the bytes are right.
    for wish in [0, 1, u64::MAX, 1 << 63] {
        stage.with_peer(|_| {
            let mut peer = Peer::accept(stage)?;
            let rendezvous = peer.call()?;
            let hello =
                Hello { process: random_process(), held: held(peer.fd()), rcvbuf: wish, sndbuf: wish };
            let (bytes, len) = hello.encode();
            send(rendezvous.raw(), &bytes[..len], &[]);
            (0..EXCHANGES).try_for_each(|_| peer.exchange())
        })?;
    }
    Ok(())
}
