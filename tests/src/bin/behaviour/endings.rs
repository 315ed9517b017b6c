//! How connections end: shutdown, close, reset, and what is still to be read then.

use smc_tests::net::Family;
use smc_tests::pair::{wait_for, Order, Pair};
use smc_tests::sys;
use std::sync::atomic::Ordering;
use std::thread;

crate::tests! {
    warm data_sent_before_a_shutdown_comes_before_the_end;
    warm data_sent_before_a_close_comes_before_the_end;
    warm the_end_comes_after_a_single_byte;
    fresh an_end_without_data_is_an_end stays;
    warm closing_with_unread_data_resets_the_peer;
    warm data_received_before_a_reset_can_still_be_read;
    warm closing_with_linger_zero_resets_the_peer;
    warm after_a_half_close_the_other_direction_goes_on;
    warm after_its_own_half_close_an_end_still_receives;
    warm the_second_send_after_the_peer_has_closed_fails;
    warm sending_after_an_own_shutdown_raises_sigpipe;
    warm msg_nosignal_raises_no_sigpipe;
    warm after_shutting_down_reading_the_end_is_read;
    warm shutdown_by_another_thread_wakes_a_blocked_recv;
    warm shutdown_of_writing_leaves_a_blocked_recv_alone;
    warm both_ends_may_close_at_once;
    warm much_data_is_read_after_both_ends_have_shut_down;
    alone what_is_closed_while_it_moves_keeps_no_descriptors stays;
}

fn data_sent_before_a_shutdown_comes_before_the_end(pair: &mut Pair) {
    pair.far.must(Order::Send(100_000));
    pair.far.must(Order::Shutdown(libc::SHUT_WR));
    assert_eq!(pair.near.recv_to_end(), Ok(100_000));
    assert_eq!(pair.near.recv_once(10, 0), Ok(0));
}

fn data_sent_before_a_close_comes_before_the_end(pair: &mut Pair) {
    pair.far.must(Order::Send(100_000));
    pair.far.must(Order::Close);
    assert_eq!(pair.near.recv_to_end(), Ok(100_000));
    assert_eq!(pair.near.recv_once(10, 0), Ok(0));
}

fn the_end_comes_after_a_single_byte(pair: &mut Pair) {
    pair.far.must(Order::Send(1));
    pair.far.must(Order::Close);
    assert_eq!(pair.near.recv_once(10, 0), Ok(1));
    assert_eq!(pair.near.recv_once(10, 0), Ok(0));
}

fn an_end_without_data_is_an_end(pair: &mut Pair) {
    pair.far.must(Order::Close);
    assert_eq!(pair.near.recv_to_end(), Ok(0));
}

fn closing_with_unread_data_resets_the_peer(pair: &mut Pair) {
    pair.near.send(100);
    pair.far.must(Order::Wait(libc::POLLIN));
    pair.far.must(Order::Close);
    assert_eq!(pair.near.recv_to_end(), Err(libc::ECONNRESET));
    // The error is reported once.
    assert_eq!(pair.near.recv_once(10, 0), Ok(0));
    assert_eq!(pair.near.send_once(1, libc::MSG_NOSIGNAL), Err(libc::EPIPE));
}

fn data_received_before_a_reset_can_still_be_read(pair: &mut Pair) {
    pair.far.must(Order::Send(5000));
    assert_eq!(pair.near.recv_once(1000, libc::MSG_WAITALL), Ok(1000));
    pair.near.send(100);
    pair.far.must(Order::Wait(libc::POLLIN));
    pair.far.must(Order::Close);
    let reset = wait_for(pair.near.fd, 0, -1).expect("poll");
    assert_eq!(reset & libc::POLLERR, libc::POLLERR, "{reset:#x}");
    assert_eq!(pair.near.recv_once(10_000, 0), Ok(4000));
    assert_eq!(pair.near.recv_once(10_000, 0), Err(libc::ECONNRESET));
}

fn closing_with_linger_zero_resets_the_peer(pair: &mut Pair) {
    pair.far.must(Order::Reset);
    assert_eq!(pair.near.recv_to_end(), Err(libc::ECONNRESET));
}

fn after_a_half_close_the_other_direction_goes_on(pair: &mut Pair) {
    pair.far.must(Order::Send(10));
    pair.far.must(Order::Shutdown(libc::SHUT_WR));
    assert_eq!(pair.near.recv_to_end(), Ok(10));
    for _ in 0..100 {
        pair.near.send(5000);
        pair.far.must(Order::Recv(5000));
    }
    sys::shutdown(pair.near.fd, libc::SHUT_WR).expect("shutdown");
    assert_eq!(pair.far.must(Order::RecvToEnd), 0);
}

fn after_its_own_half_close_an_end_still_receives(pair: &mut Pair) {
    pair.near.send(10);
    sys::shutdown(pair.near.fd, libc::SHUT_WR).expect("shutdown");
    assert_eq!(pair.far.must(Order::RecvToEnd), 10);
    for _ in 0..100 {
        pair.far.must(Order::Send(5000));
        pair.near.recv(5000);
    }
    pair.far.must(Order::Close);
    assert_eq!(pair.near.recv_to_end(), Ok(0));
}

fn the_second_send_after_the_peer_has_closed_fails(pair: &mut Pair) {
    pair.far.must(Order::Close);
    let closed = wait_for(pair.near.fd, libc::POLLIN | libc::POLLRDHUP, -1).expect("poll");
    assert_eq!(closed, libc::POLLIN | libc::POLLRDHUP, "{closed:#x}");
    // The first one cannot know: only the answer to it says that nobody reads.
    assert_eq!(pair.near.send_once(100, libc::MSG_NOSIGNAL), Ok(100));
    let broken = wait_for(pair.near.fd, 0, -1).expect("poll");
    assert_eq!(broken & libc::POLLHUP, libc::POLLHUP, "{broken:#x}");
    assert_eq!(pair.near.send_once(100, libc::MSG_NOSIGNAL), Err(libc::EPIPE));
}

fn sending_after_an_own_shutdown_raises_sigpipe(pair: &mut Pair) {
    sys::handle_signal(libc::SIGPIPE, 0);
    sys::shutdown(pair.near.fd, libc::SHUT_WR).expect("shutdown");
    let signals = || sys::SIGNALS.load(Ordering::Relaxed);
    assert_eq!(sys::send(pair.near.fd, b"x", 0), Err(libc::EPIPE));
    assert_eq!(signals(), 1, "after send");
    assert_eq!(sys::write(pair.near.fd, b"x"), Err(libc::EPIPE));
    assert_eq!(signals(), 2, "after write");
    assert_eq!(sys::writev(pair.near.fd, &[b"x"]), Err(libc::EPIPE));
    assert_eq!(signals(), 3, "after writev");
    assert_eq!(sys::sendmsg(pair.near.fd, &[b"x"], libc::MSG_NOSIGNAL), Err(libc::EPIPE));
    assert_eq!(signals(), 3, "after sendmsg with MSG_NOSIGNAL");
}

fn msg_nosignal_raises_no_sigpipe(pair: &mut Pair) {
    // Rust starts programs with SIGPIPE ignored, which would hide it.
    sys::handle_signal(libc::SIGPIPE, 0);
    pair.far.must(Order::Close);
    let mut result = Ok(1);
    while result.is_ok() {
        result = pair.near.send_once(1, libc::MSG_NOSIGNAL);
    }
    assert_eq!(result, Err(libc::EPIPE));
    assert_eq!(sys::SIGNALS.load(Ordering::Relaxed), 0);
    assert_eq!(pair.near.send_once(1, 0), Err(libc::EPIPE));
    assert_eq!(sys::SIGNALS.load(Ordering::Relaxed), 1);
}

fn after_shutting_down_reading_the_end_is_read(pair: &mut Pair) {
    sys::shutdown(pair.near.fd, libc::SHUT_RD).expect("shutdown");
    assert_eq!(pair.near.recv_once(10, 0), Ok(0));
    // The other direction is not concerned.
    pair.near.send(1000);
    pair.far.must(Order::Recv(1000));
}

/// Runs `waker` once another thread sleeps in `recv` on the near end; what that `recv` returned.
fn while_blocked_in_recv(pair: &Pair, waker: impl FnOnce()) -> sys::Count {
    let mut near = pair.near;
    let (tell, tid) = std::sync::mpsc::channel();
    let blocked = thread::spawn(move || {
        tell.send(sys::gettid()).expect("the test is there");
        near.recv_once(100, 0)
    });
    sys::wait_until_asleep(tid.recv().expect("a thread"));
    waker();
    blocked.join().expect("the blocked thread")
}

fn shutdown_by_another_thread_wakes_a_blocked_recv(pair: &mut Pair) {
    let fd = pair.near.fd;
    let result = while_blocked_in_recv(pair, || sys::shutdown(fd, libc::SHUT_RDWR).expect("shutdown"));
    assert_eq!(result, Ok(0));
    assert_eq!(pair.far.must(Order::RecvToEnd), 0);
}

fn shutdown_of_writing_leaves_a_blocked_recv_alone(pair: &mut Pair) {
    let fd = pair.near.fd;
    let far = &pair.far;
    let result = while_blocked_in_recv(pair, || {
        sys::shutdown(fd, libc::SHUT_WR).expect("shutdown");
        assert_eq!(far.must(Order::RecvToEnd), 0);
        far.must(Order::Send(7));
    });
    assert_eq!(result, Ok(7));
}

fn both_ends_may_close_at_once(pair: &mut Pair) {
    let closing = pair.far.start(Order::Close);
    pair.close();
    assert_eq!(closing.finish(), Ok(0));
}

fn much_data_is_read_after_both_ends_have_shut_down(pair: &mut Pair) {
    pair.near.send(60_000);
    pair.far.must(Order::Send(70_000));
    sys::shutdown(pair.near.fd, libc::SHUT_WR).expect("shutdown");
    pair.far.must(Order::Shutdown(libc::SHUT_WR));
    assert_eq!(pair.near.recv_to_end(), Ok(70_000));
    assert_eq!(pair.far.must(Order::RecvToEnd), 60_000);
}

fn what_is_closed_while_it_moves_keeps_no_descriptors() {
    let (listener, port) = Family::V4.listener(0).expect("listen");
    let exchange = || {
        let near = Family::V4.client_socket(0).expect("socket");
        sys::connect(near, &Family::V4.target(port)).expect("connect");
        let far = sys::accept(listener).expect("accept");
        // One that moves at once has been offered memory with this, of which the far end has not heard.
        assert_eq!(sys::send(near, b"x", 0), Ok(1));
        sys::close(far).and(sys::close(near)).expect("close");
    };
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    // What is made for the first one stays, for all.
    exchange();
    let before = descriptors();
    for _ in 0..20 {
        exchange();
    }
    assert_eq!(descriptors(), before);
}
