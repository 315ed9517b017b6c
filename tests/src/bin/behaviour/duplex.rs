//! Connections on which a thread of each end is inside a call at any moment: one receives while the other sends. They are
//! busy, so they are to be on a ring, and no byte may be lost, repeated or out of place when they get there.

use smc_tests::net::Family;
use smc_tests::pair::{wait_for, End};
use smc_tests::sys::{self, fork_child, wait_child};
use std::os::fd::RawFd;
use std::thread;

crate::tests! {
    alone blocked_readers_and_writers_move;
    alone writers_of_large_pieces_move;
    alone polling_readers_and_writers_move;
    alone a_reader_asleep_while_its_end_sends_moves;
}

/// Each end sends so much.
const TOTAL: usize = 24 << 20;

/// A connection between this process and a child of it; `body` is what each does with its end.
fn with_both_ends(body: impl Fn(End)) {
    let (listener, port) = Family::V4.listener(0).expect("listen");
    let child = fork_child(|| {
        let fd = Family::V4.client_socket(0).expect("socket");
        sys::connect(fd, &Family::V4.target(port)).expect("connect");
        body(End::far(fd));
        sys::close(fd).expect("close");
    });
    let fd = sys::accept4(listener, libc::SOCK_CLOEXEC).expect("accept");
    body(End::near(fd));
    assert_eq!(wait_child(child), 0);
    sys::close(fd).expect("close");
}

/// Sends and receives everything at the same time, in calls of these sizes.
fn both_ways(end: End, send: usize, receive: usize) {
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut end = end;
            (0..TOTAL / send).for_each(|_| end.send(send));
            end.send(TOTAL % send);
        });
        let mut end = end;
        (0..TOTAL / receive).for_each(|_| end.recv(receive));
        end.recv(TOTAL % receive);
    });
}

fn blocked_readers_and_writers_move() {
    with_both_ends(|end| both_ways(end, 3000, 8000));
}

fn writers_of_large_pieces_move() {
    with_both_ends(|end| both_ways(end, 1 << 20, 1 << 16));
}

/// As an event loop for each direction: no call waits but poll.
fn polling_readers_and_writers_move() {
    with_both_ends(|end| {
        sys::set_nonblocking(end.fd, true);
        both_ways(end, 100_000, 100_000);
    });
}

/// One end asks, with a thread that is always in recv, and the other answers.
fn a_reader_asleep_while_its_end_sends_moves() {
    const PIECE: usize = 1000;
    const TIMES: usize = 2000;
    let answer = |fd: RawFd| {
        let mut far = End::far(fd);
        for _ in 0..TIMES {
            far.recv(PIECE);
            wait_for(fd, libc::POLLOUT, -1).expect("poll");
            far.send(PIECE);
        }
    };
    let ask = |end: End| {
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut end = end;
                (0..TIMES).for_each(|_| end.recv(PIECE));
            });
            let mut end = end;
            (0..TIMES).for_each(|_| end.send(PIECE));
        });
    };
    let me = std::process::id();
    with_both_ends(|end| if std::process::id() == me { ask(end) } else { answer(end.fd) });
}
