//! Signals, SA_RESTART, timeouts and cancellation in blocked calls.

use smc_tests::pair::{wait_for, End, Order, Pair};
use smc_tests::sys::{self, FdSet, SIGNALS};
use std::sync::atomic::Ordering;
use std::thread;

crate::tests! {
    warm a_signal_interrupts_recv;
    warm a_restarting_handler_does_not_interrupt_recv;
    warm of_two_handlers_the_one_that_does_not_restart_interrupts;
    warm with_a_receive_timeout_a_restarting_handler_interrupts;
    warm a_signal_interrupts_waitall_with_what_came;
    warm a_signal_interrupts_a_send_that_waits_for_room;
    warm a_restarting_handler_does_not_interrupt_send;
    warm a_signal_in_mid_send_returns_what_was_sent;
    warm poll_is_interrupted_whatever_the_handler;
    warm epoll_wait_is_interrupted_whatever_the_handler;
    warm select_is_interrupted_whatever_the_handler;
    warm a_masked_signal_interrupts_only_by_the_mask_of_the_call;
    warm a_thread_can_be_cancelled_in_recv;
    fresh a_thread_can_be_cancelled_before_the_connection_moves;
}

/// Runs `call` in a thread, and in this one `signals` once that one sleeps, with its id; what `call` returned.
fn while_blocked<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
    signals: impl FnOnce(i32),
) -> T {
    let (tell, tid) = std::sync::mpsc::channel();
    let blocked = thread::spawn(move || {
        tell.send(sys::gettid()).expect("the test is there");
        call()
    });
    let tid = tid.recv().expect("a thread");
    sys::wait_until_asleep(tid);
    signals(tid);
    blocked.join().expect("the blocked thread")
}

/// Sends a signal to a sleeping thread and waits until its handler has run.
fn signal(tid: i32, signal: i32) {
    sys::wait_until_asleep(tid);
    let before = SIGNALS.load(Ordering::SeqCst);
    sys::signal_thread(tid, signal);
    while SIGNALS.load(Ordering::SeqCst) == before {
        thread::yield_now();
    }
}

fn a_signal_interrupts_recv(pair: &mut Pair) {
    sys::handle_signal(libc::SIGUSR1, 0);
    for _ in 0..10 {
        let mut near = pair.near;
        let result = while_blocked(move || near.recv_once(10, 0), |tid| signal(tid, libc::SIGUSR1));
        assert_eq!(result, Err(libc::EINTR));
        let fd = pair.near.fd;
        let result = while_blocked(move || sys::read(fd, &mut [0; 10]), |tid| signal(tid, libc::SIGUSR1));
        assert_eq!(result, Err(libc::EINTR));
    }
    pair.exchange_pieces(100, 10);
}

fn a_restarting_handler_does_not_interrupt_recv(pair: &mut Pair) {
    sys::handle_signal(libc::SIGUSR1, libc::SA_RESTART);
    for _ in 0..5 {
        let mut near = pair.near;
        let far = &pair.far;
        let received = while_blocked(
            move || near.recv_once(10, 0).map(|n| (n, near)),
            |tid| {
                for _ in 0..5 {
                    signal(tid, libc::SIGUSR1);
                }
                sys::wait_until_asleep(tid);
                far.must(Order::Send(10));
            },
        );
        let (n, near) = received.expect("recv is restarted");
        assert_eq!(n, 10);
        pair.near = near;
    }
}

fn of_two_handlers_the_one_that_does_not_restart_interrupts(pair: &mut Pair) {
    sys::handle_signal(libc::SIGUSR1, libc::SA_RESTART);
    sys::handle_signal(libc::SIGUSR2, 0);
    let mut near = pair.near;
    let result = while_blocked(
        move || near.recv_once(10, 0),
        |tid| {
            for _ in 0..3 {
                signal(tid, libc::SIGUSR1);
            }
            signal(tid, libc::SIGUSR2);
        },
    );
    assert_eq!(result, Err(libc::EINTR));
}

fn timeout(fd: i32, name: i32, seconds: i64) {
    let timeout = libc::timeval { tv_sec: seconds, tv_usec: 0 };
    sys::setsockopt(fd, libc::SOL_SOCKET, name, timeout).expect("a timeout");
}

fn with_a_receive_timeout_a_restarting_handler_interrupts(pair: &mut Pair) {
    sys::handle_signal(libc::SIGUSR1, libc::SA_RESTART);
    timeout(pair.near.fd, libc::SO_RCVTIMEO, 50);
    let mut near = pair.near;
    let result = while_blocked(move || near.recv_once(10, 0), |tid| signal(tid, libc::SIGUSR1));
    assert_eq!(result, Err(libc::EINTR));
}

fn a_signal_interrupts_waitall_with_what_came(pair: &mut Pair) {
    sys::handle_signal(libc::SIGUSR1, libc::SA_RESTART);
    pair.far.must(Order::Send(10));
    assert_eq!(wait_for(pair.near.fd, libc::POLLIN, -1), Ok(libc::POLLIN));
    let mut near = pair.near;
    let result =
        while_blocked(move || near.recv_once(100, libc::MSG_WAITALL), |tid| signal(tid, libc::SIGUSR1));
    assert_eq!(result, Ok(10));
}

/// As `while_blocked` for a `send` of `n` bytes; the near end goes on from what it returned.
fn blocked_send(pair: &mut Pair, n: usize, signals: impl FnOnce(i32)) -> sys::Count {
    let mut near: End = pair.near;
    let (result, near) = while_blocked(
        move || {
            let result = near.send_once(n, 0);
            (result, near)
        },
        signals,
    );
    pair.near = near;
    result
}

fn a_signal_interrupts_a_send_that_waits_for_room(pair: &mut Pair) {
    sys::handle_signal(libc::SIGUSR1, 0);
    let n = pair.fill();
    let result = blocked_send(pair, 1, |tid| signal(tid, libc::SIGUSR1));
    assert_eq!(result, Err(libc::EINTR));
    pair.far.must(Order::Recv(n));
    pair.exchange_pieces(100, 10);
}

fn a_restarting_handler_does_not_interrupt_send(pair: &mut Pair) {
    sys::handle_signal(libc::SIGUSR1, libc::SA_RESTART);
    let n = pair.fill();
    let mut near = pair.near;
    let far = &pair.far;
    let (result, near) = while_blocked(
        move || {
            let result = near.send_once(1, 0);
            (result, near)
        },
        |tid| {
            for _ in 0..3 {
                signal(tid, libc::SIGUSR1);
            }
            far.must(Order::Recv(n));
        },
    );
    assert_eq!(result, Ok(1));
    pair.near = near;
    pair.far.must(Order::Recv(1));
    pair.exchange_pieces(100, 10);
}

fn a_signal_in_mid_send_returns_what_was_sent(pair: &mut Pair) {
    sys::handle_signal(libc::SIGUSR1, libc::SA_RESTART);
    let sent = blocked_send(pair, 64 << 20, |tid| signal(tid, libc::SIGUSR1)).expect("part of it fits");
    assert!((1..64 << 20).contains(&sent), "{sent}");
    pair.far.must(Order::Recv(sent));
    pair.exchange_pieces(100, 10);
}

fn poll_is_interrupted_whatever_the_handler(pair: &mut Pair) {
    let fd = pair.near.fd;
    for flags in [0, libc::SA_RESTART] {
        sys::handle_signal(libc::SIGUSR1, flags);
        let result = while_blocked(move || wait_for(fd, libc::POLLIN, -1), |tid| signal(tid, libc::SIGUSR1));
        assert_eq!(result, Err(libc::EINTR));
    }
}

fn epoll_wait_is_interrupted_whatever_the_handler(pair: &mut Pair) {
    let epfd = sys::epoll_create();
    sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, pair.near.fd, libc::EPOLLIN as u32, 0).expect("ADD");
    for flags in [0, libc::SA_RESTART] {
        sys::handle_signal(libc::SIGUSR1, flags);
        let result = while_blocked(move || sys::epoll_wait(epfd, 1, -1), |tid| signal(tid, libc::SIGUSR1));
        assert_eq!(result, Err(libc::EINTR));
    }
}

fn select_is_interrupted_whatever_the_handler(pair: &mut Pair) {
    let fd = pair.near.fd;
    for flags in [0, libc::SA_RESTART] {
        sys::handle_signal(libc::SIGUSR1, flags);
        let call = move || {
            let (mut read, mut write) = (FdSet::default(), FdSet::default());
            read.insert(fd);
            sys::select(fd + 1, &mut read, &mut write, -1)
        };
        assert_eq!(while_blocked(call, |tid| signal(tid, libc::SIGUSR1)), Err(libc::EINTR));
    }
}

fn a_masked_signal_interrupts_only_by_the_mask_of_the_call(pair: &mut Pair) {
    sys::handle_signal(libc::SIGUSR1, 0);
    let fd = pair.near.fd;
    let blocked = sys::block_signal(libc::SIGUSR1);
    sys::signal_thread(sys::gettid(), libc::SIGUSR1);
    assert_eq!(wait_for(fd, libc::POLLIN, 20), Ok(0));
    let mut entry = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
    assert_eq!(sys::ppoll(&mut entry, 20, Some(&blocked)), Ok(0));
    assert_eq!(SIGNALS.load(Ordering::SeqCst), 0);
    assert_eq!(sys::ppoll(&mut entry, -1, Some(&sys::no_signals())), Err(libc::EINTR));
    assert_eq!(SIGNALS.load(Ordering::SeqCst), 1);
}

fn a_thread_can_be_cancelled_in_recv(pair: &mut Pair) {
    for _ in 0..10 {
        assert!(sys::cancel_blocked_recv(pair.near.fd), "the thread was not cancelled");
        // Nothing that the cancelled call held is held still.
        pair.exchange_pieces(100, 5);
    }
}

/// The cancelled read never returns: readers that come after it must not wait for that.
fn a_thread_can_be_cancelled_before_the_connection_moves(pair: &mut Pair) {
    assert!(sys::cancel_blocked_recv(pair.near.fd), "the thread was not cancelled");
    pair.exchange_pieces(100, 200);
}
