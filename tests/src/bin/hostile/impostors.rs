//! Processes that do not own the other end of the connection: they learn nothing and get no memory, and the true peer
//! is not kept from it for good.

use crate::peer::{held, name, random_process, Peer, EXCHANGES};
use crate::{Stage, Test};
use smc_core::link::message::{Hello, Offer, MAX_LEN};
use smc_core::sys::fd::OwnFd;
use smc_core::sys::sock;
use smc_tests::random::Random;
use smc_tests::sys;

pub const TESTS: &[(&str, Test)] =
    &[("another user calls", another_user_calls), ("another user's name", another_users_name)];

const OTHER_USER: u32 = 12345;

fn may_change_user() -> bool {
    // SAFETY: takes nothing, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        println!("hostile: not root: no test of other users");
    }
    root
}

/// Runs `body` as another user in a process of its own; it is to return before the caller goes on. Its result: what
/// it got of the victim, in bytes.
fn as_another_user(body: impl FnOnce() -> usize) -> Result<(), String> {
    let child = sys::fork_child(|| {
        // SAFETY: integer arguments only.
        assert_eq!(unsafe { libc::setgid(OTHER_USER) | libc::setuid(OTHER_USER) }, 0, "setuid");
        std::process::exit(if body() == 0 { 0 } else { 7 });
    });
    match sys::wait_child(child) {
        0 => Ok(()),
        7 => Err("the victim told another user something".to_owned()),
        status => Err(format!("the impostor ended with {status}")),
    }
}

fn received(stream: &OwnFd) -> usize {
    sock::receive_with_fds(stream.raw(), &mut [0; MAX_LEN], &mut Default::default()).unwrap_or(0)
}

/// Greets at the victim's name, with the true peer's own words.
fn another_user_calls(stage: &Stage, _random: &mut Random, _rounds: usize) -> Result<(), String> {
    if !may_change_user() {
        return Ok(());
    }
    stage.keeps.set(16);
    stage.with_peer(|_| {
        let mut peer = Peer::accept(stage)?;
        let hello = Hello { process: random_process(), held: held(peer.fd()), rcvbuf: 4096, sndbuf: 4096 };
        let (bytes, len) = hello.encode();
        let true_name = name(&peer.remote, &peer.local);
        as_another_user(|| {
            let impostor = peer
                .exchange_until("the victim does not listen", || sock::unix_connect(&true_name).ok())
                .expect("the victim listens");
            sock::send_with_fds(impostor.raw(), &bytes[..len], &[]).expect("a greeting");
            (0..50).try_for_each(|_| peer.exchange()).expect("right bytes");
            received(&impostor)
        })?;
        // The other process has exchanged bytes that this one does not know of: only the memory of it differs.
        peer.sent = 1 << 20;
        let rendezvous = peer.call()?;
        sock::send_with_fds(rendezvous.raw(), &bytes[..len], &[])
            .map_err(|e| format!("the greeting: {e:?}"))?;
        let mut buf = [0; MAX_LEN];
        let mut fds = Default::default();
        let n = peer.exchange_until("no offer for the true peer", || {
            sock::receive_with_fds(rendezvous.raw(), &mut buf, &mut fds).ok().filter(|n| *n > 0)
        })?;
        Offer::decode(&buf[..n]).map(drop).map_err(|e| format!("the offer: {e:?}"))
    })
}

/// Sits on the name that the victim goes to.
fn another_users_name(stage: &Stage, _random: &mut Random, _rounds: usize) -> Result<(), String> {
    if !may_change_user() {
        return Ok(());
    }
    stage.with_peer(|_| {
        let ((waits, ready), (done, finish)) = (sys::pipe(0), sys::pipe(0));
        let (mut peer, squatter) = Peer::connect(stage, |local, remote| {
            sys::fork_child(|| {
                // SAFETY: integer arguments only.
                assert_eq!(unsafe { libc::setgid(OTHER_USER) | libc::setuid(OTHER_USER) }, 0, "setuid");
                let listener = sock::unix_listen(&name(local, remote)).expect("the name");
                assert_eq!(sys::write(ready, b"x"), Ok(1));
                assert_eq!(sys::read(done, &mut [0]), Ok(1));
                let mut visitors = 0;
                while let Ok(stream) = sock::unix_accept(listener.raw()) {
                    visitors += 1;
                    assert_eq!(received(&stream), 0, "the victim told another user something");
                }
                assert!(visitors > 0, "the victim did not come");
            })
        });
        assert_eq!(sys::read(waits, &mut [0]), Ok(1));
        let exchanged = (0..EXCHANGES).try_for_each(|_| peer.exchange());
        assert_eq!(sys::write(finish, b"x"), Ok(1));
        match sys::wait_child(squatter) {
            0 => exchanged,
            status => Err(format!("the squatter ended with {status}")),
        }
    })
}
