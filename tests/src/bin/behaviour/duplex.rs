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

/// What each end sends in small calls.
const TOTAL: usize = 24 << 20;
/// Large calls of each end. The connection moves between two of them, as a rule before the fifteenth.
const CALLS: usize = 80;

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

/// Sends and receives so much at the same time, in calls of these sizes.
fn both_ways(end: End, total: usize, send: usize, receive: usize) {
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut end = end;
            (0..total / send).for_each(|_| end.send(send));
            end.send(total % send);
        });
        let mut end = end;
        (0..total / receive).for_each(|_| end.recv(receive));
        end.recv(total % receive);
    });
}

fn blocked_readers_and_writers_move() {
    with_both_ends(|end| both_ways(end, TOTAL, 3000, 8000));
}

fn writers_of_large_pieces_move() {
    with_both_ends(|end| both_ways(end, CALLS << 20, 1 << 20, 1 << 16));
}

/// As an event loop for each direction: no call waits but poll.
fn polling_readers_and_writers_move() {
    with_both_ends(|end| {
        sys::set_nonblocking(end.fd, true);
        both_ways(end, TOTAL, 100_000, 100_000);
    });
}

/// One end asks, with a thread that is always in recv, and the other answers: the next question goes out when the answer to
/// the last one has come.
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
            let (answered, answers) = std::sync::mpsc::channel();
            scope.spawn(move || {
                let mut end = end;
                for _ in 0..TIMES {
                    end.recv(PIECE);
                    answered.send(()).expect("the other thread");
                }
            });
            let mut end = end;
            for _ in 0..TIMES {
                end.send(PIECE);
                answers.recv().expect("the other thread");
            }
        });
    };
    let me = std::process::id();
    with_both_ends(|end| if std::process::id() == me { ask(end) } else { answer(end.fd) });
}
