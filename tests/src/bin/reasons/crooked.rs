//! Peers that break the rules: the driver itself is the far end, as a native program.

use crate::peer::{attach_accepting, held, random_process, Peer};
use crate::{find, Expected, Near, Scene, Stage};
use smc_core::link::message::{Decline, Hello};
use smc_core::reason::Detail;
use smc_core::sys::sock;
use smc_tests::net::Family;
use smc_tests::sys;
use std::io::BufRead;
use std::process::ExitCode;
use std::time::{Duration, Instant};

type Test = fn(&Scene) -> Result<(), String>;

pub const TESTS: &[(&str, Test)] = &[
    ("RendezvousGarbled", |scene| greeting(scene, Detail::RendezvousGarbled, |_| b"nonsense".to_vec())),
    ("RendezvousVersion", |scene| {
        greeting(scene, Detail::RendezvousVersion, |mut hello| {
            // The version follows the four bytes of the kind.
            hello[4] ^= 0xff;
            hello
        })?;
        // A refusal has one too.
        greeting(scene, Detail::RendezvousVersion, |_| {
            let (decline, len) = Decline { held: held(-1), reason: 0x0301_0001 }.encode();
            let mut decline = decline[..len].to_vec();
            decline[4] ^= 0xff;
            decline
        })
    }),
    ("RingGarbled", |scene| ring(scene, 0)),
    ("RingGarbled, after good bytes", |scene| ring(scene, 5)),
];

pub fn covers(detail: Detail) -> bool {
    TESTS.iter().any(|(name, _)| *name == format!("{detail:?}"))
}

fn stage(scene: &Scene) -> Result<Stage, String> {
    Ok(Stage { port: 0, near: scene.start("echo", "connects", &[])?.into() })
}

/// Judges what the near end, which has the address `local`, says: while the connection is there, and in the report.
fn judge(scene: &Scene, near: Near, own: Detail, local: String, peer: String) -> Result<(), String> {
    let expected = Expected { own, peer: Some(0) };
    let pid = near.pid();
    let listed = |records: &[serde_json::Value]| {
        find(records, (&local, &peer), Some(pid)).and_then(|record| expected.judge(record))
    };
    listed(&scene.sockets()?).map_err(|why| format!("smcss: {why}"))?;
    near.end()?;
    listed(&scene.reported()?).map_err(|why| format!("SMC_REPORT: {why}"))
}

fn names(peer: &Peer) -> (String, String) {
    let text = |port| format!("127.0.0.1:{port}");
    (text(peer.remote.port), text(peer.local.port))
}

/// Greets in the wrong way; the connection goes on over TCP.
fn greeting(scene: &Scene, own: Detail, change: fn(Vec<u8>) -> Vec<u8>) -> Result<(), String> {
    let stage = stage(scene)?;
    let mut peer = Peer::accept(&stage)?;
    let rendezvous = peer.call()?;
    let hello = Hello { process: random_process(), held: held(peer.fd()), rcvbuf: 4096, sndbuf: 4096 };
    let (bytes, len) = hello.encode();
    sock::send_with_fds(rendezvous.raw(), &change(bytes[..len].to_vec()), &[])
        .map_err(|e| format!("{e:?}"))?;
    (0..100).try_for_each(|_| peer.exchange())?;
    let (local, remote) = names(&peer);
    judge(scene, stage.near.into_inner(), own, local, remote)
}

/// Attaches as it should, and then says that there are more bytes in the ring than it holds; before that, that there are
/// `good` ones, which the near end reads.
fn ring(scene: &Scene, good: u64) -> Result<(), String> {
    let stage = stage(scene)?;
    let mut attached = attach_accepting(&stage)?;
    let view = attached.memory.view;
    view.mine().set_attached();
    let _ = view.tx().announce(1, attached.peer.sent + 3);
    attached.peer.poke(b"abc");
    if good > 0 {
        let _ = view.tx().publish_tail(good);
        attached.memory.ring_bells();
        let patience = Instant::now() + Duration::from_millis(crate::LIMIT_MS as u64);
        while !matches!(view.tx().consumer_head(good, view.tx_size()), Ok(head) if head == good) {
            if Instant::now() > patience {
                return Err("nobody reads good bytes".to_owned());
            }
            std::thread::yield_now();
        }
    }
    let _ = view.tx().publish_tail(good + view.tx_size() + 1);
    attached.memory.ring_bells();
    // The end of the connection.
    let mut open = [libc::pollfd { fd: attached.peer.fd(), events: libc::POLLRDHUP, revents: 0 }];
    if sys::poll(&mut open, crate::LIMIT_MS) == Ok(0) {
        return Err("the connection goes on".to_owned());
    }
    let (local, remote) = names(&attached.peer);
    judge(scene, stage.near.into_inner(), Detail::RingGarbled, local, remote)
}

/// The near end: connects to the port it is told, sends back what it gets, and keeps the connection to the end of its
/// input.
pub fn echo() -> ExitCode {
    let mut lines = std::io::stdin().lock().lines();
    let port = lines.next().expect("a port").expect("a port").parse().expect("a port");
    let fd = Family::V4.client_socket(0).expect("socket");
    sys::connect(fd, &Family::V4.target(port)).expect("connect");
    std::thread::spawn(move || {
        let mut buf = [0; 4096];
        while let Ok(n @ 1..) = sys::recv(fd, &mut buf, 0) {
            if sys::send(fd, &buf[..n], libc::MSG_NOSIGNAL) != Ok(n) {
                break;
            }
        }
    });
    lines.for_each(drop);
    let _ = sys::close(fd);
    ExitCode::SUCCESS
}
