//! The receiving calls, their flags and what they report beside the bytes.

use smc_tests::pair::{Order, Pair};
use smc_tests::sys;
use std::time::{Duration, Instant};

crate::tests! {
    warm a_peek_leaves_the_bytes;
    warm a_peek_over_several_parts_leaves_the_bytes;
    warm a_peek_can_wait_for_all_its_bytes;
    warm a_peek_that_waits_ends_with_the_stream;
    warm waitall_waits_for_all_the_bytes;
    warm waitall_returns_what_came_before_the_end;
    warm waitall_with_a_timeout_returns_what_came;
    warm trunc_discards_without_copying;
    warm dontwait_does_not_wait;
    warm a_nonblocking_descriptor_does_not_wait;
    warm a_read_of_nothing_returns_at_once;
    warm fionread_counts_what_can_be_read;
    warm a_receive_timeout_is_eagain_after_its_time;
    warm recvmsg_reports_no_name_and_no_control_data;
    warm recvfrom_reports_no_address;
    warm readv_fills_its_parts_in_order;
    warm recvmmsg_counts_its_messages;
    warm the_fortified_names_read_the_same_bytes;
    warm large_reads_return_what_is_there;
    warm successful_calls_leave_errno_alone;
}

/// Bytes from the far end that have arrived as a whole.
fn arrived(pair: &Pair, n: usize) {
    pair.far.must(Order::Send(n));
    while sys::ioctl_int(pair.near.fd, libc::FIONREAD, 0).expect("FIONREAD") < n as i32 {
        std::thread::yield_now();
    }
}

fn a_peek_leaves_the_bytes(pair: &mut Pair) {
    arrived(pair, 3000);
    let mut buf = [0; 5000];
    assert_eq!(sys::recv(pair.near.fd, &mut buf[..10], libc::MSG_PEEK), Ok(10));
    pair.near.check(&buf[..10]);
    assert_eq!(sys::recv(pair.near.fd, &mut buf, libc::MSG_PEEK), Ok(3000));
    pair.near.check(&buf[..3000]);
    pair.near.recv(1000);
    assert_eq!(sys::recv(pair.near.fd, &mut buf, libc::MSG_PEEK | libc::MSG_DONTWAIT), Ok(2000));
    pair.near.check(&buf[..2000]);
    pair.near.recv(2000);
    assert_eq!(sys::recv(pair.near.fd, &mut buf, libc::MSG_PEEK | libc::MSG_DONTWAIT), Err(libc::EAGAIN));
}

fn a_peek_over_several_parts_leaves_the_bytes(pair: &mut Pair) {
    arrived(pair, 100);
    let (mut head, mut tail) = ([0; 30], [0; 200]);
    let peeked = sys::recvmsg(pair.near.fd, &mut [&mut head, &mut tail], libc::MSG_PEEK).expect("recvmsg");
    assert_eq!(peeked.bytes, 100);
    pair.near.check(&[&head[..], &tail[..70]].concat());
    pair.near.recv(100);
}

fn a_peek_can_wait_for_all_its_bytes(pair: &mut Pair) {
    arrived(pair, 10);
    let far = pair.far.start(Order::Send(20_000));
    let mut buf = vec![0; 20_010];
    assert_eq!(sys::recv(pair.near.fd, &mut buf, libc::MSG_PEEK | libc::MSG_WAITALL), Ok(20_010));
    pair.near.check(&buf);
    far.finish().expect("send");
    pair.near.recv(20_010);
}

fn a_peek_that_waits_ends_with_the_stream(pair: &mut Pair) {
    pair.far.must(Order::Send(10));
    pair.far.must(Order::Shutdown(libc::SHUT_WR));
    let mut buf = [0; 100];
    assert_eq!(sys::recv(pair.near.fd, &mut buf, libc::MSG_PEEK | libc::MSG_WAITALL), Ok(10));
    pair.near.check(&buf[..10]);
    pair.near.recv(10);
}

fn waitall_waits_for_all_the_bytes(pair: &mut Pair) {
    arrived(pair, 10);
    let far = pair.far.start(Order::Send(200_000));
    assert_eq!(pair.near.recv_once(200_010, libc::MSG_WAITALL), Ok(200_010));
    far.finish().expect("send");
}

fn waitall_returns_what_came_before_the_end(pair: &mut Pair) {
    pair.far.must(Order::Send(10));
    pair.far.must(Order::Shutdown(libc::SHUT_WR));
    assert_eq!(pair.near.recv_once(100, libc::MSG_WAITALL), Ok(10));
    assert_eq!(pair.near.recv_once(100, libc::MSG_WAITALL), Ok(0));
}

fn receive_timeout(fd: i32, ms: i64) {
    let timeout = libc::timeval { tv_sec: 0, tv_usec: ms * 1000 };
    sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, timeout).expect("SO_RCVTIMEO");
}

fn waitall_with_a_timeout_returns_what_came(pair: &mut Pair) {
    receive_timeout(pair.near.fd, 50);
    pair.far.must(Order::Send(10));
    assert_eq!(pair.near.recv_once(100, libc::MSG_WAITALL), Ok(10));
}

fn trunc_discards_without_copying(pair: &mut Pair) {
    arrived(pair, 100);
    let mut buf = [0x5a; 40];
    assert_eq!(sys::recv(pair.near.fd, &mut buf, libc::MSG_TRUNC), Ok(40));
    assert_eq!(buf, [0x5a; 40]);
    pair.near.skip(40);
    pair.near.recv(60);
}

fn dontwait_does_not_wait(pair: &mut Pair) {
    assert_eq!(pair.near.recv_once(10, libc::MSG_DONTWAIT), Err(libc::EAGAIN));
    arrived(pair, 5);
    assert_eq!(pair.near.recv_once(10, libc::MSG_DONTWAIT), Ok(5));
    assert_eq!(pair.near.recv_once(10, libc::MSG_DONTWAIT | libc::MSG_WAITALL), Err(libc::EAGAIN));
}

fn a_nonblocking_descriptor_does_not_wait(pair: &mut Pair) {
    sys::set_nonblocking(pair.near.fd, true);
    let mut buf = [0; 10];
    assert_eq!(sys::read(pair.near.fd, &mut buf), Err(libc::EAGAIN));
    assert_eq!(sys::readv(pair.near.fd, &mut [&mut buf]), Err(libc::EAGAIN));
    assert_eq!(sys::recvmsg(pair.near.fd, &mut [&mut buf], 0), Err(libc::EAGAIN));
    assert_eq!(sys::recv(pair.near.fd, &mut buf, libc::MSG_WAITALL), Err(libc::EAGAIN));
    arrived(pair, 5);
    assert_eq!(pair.near.recv_once(10, libc::MSG_WAITALL), Ok(5));
}

fn a_read_of_nothing_returns_at_once(pair: &mut Pair) {
    assert_eq!(sys::read(pair.near.fd, &mut []), Ok(0));
    assert_eq!(sys::readv(pair.near.fd, &mut []), Ok(0));
    arrived(pair, 5);
    assert_eq!(sys::read(pair.near.fd, &mut []), Ok(0));
    assert_eq!(sys::recv(pair.near.fd, &mut [], 0), Ok(0));
    pair.near.recv(5);
}

fn fionread_counts_what_can_be_read(pair: &mut Pair) {
    let count = |pair: &Pair| sys::ioctl_int(pair.near.fd, libc::FIONREAD, -1);
    assert_eq!(count(pair), Ok(0));
    arrived(pair, 5000);
    assert_eq!(count(pair), Ok(5000));
    pair.near.recv(1000);
    assert_eq!(count(pair), Ok(4000));
    pair.far.must(Order::Send(500));
    assert_eq!(pair.near.recv_once(4500, libc::MSG_WAITALL), Ok(4500));
    assert_eq!(count(pair), Ok(0));
    pair.far.must(Order::Close);
    assert_eq!(pair.near.recv_to_end(), Ok(0));
    assert_eq!(count(pair), Ok(0));
}

fn a_receive_timeout_is_eagain_after_its_time(pair: &mut Pair) {
    receive_timeout(pair.near.fd, 60);
    for _ in 0..2 {
        let start = Instant::now();
        assert_eq!(pair.near.recv_once(10, 0), Err(libc::EAGAIN));
        assert!(start.elapsed() >= Duration::from_millis(60), "after {:?}", start.elapsed());
    }
    // A timeout is no state: the next call works, and so does one without a timeout.
    pair.exchange_pieces(100, 3);
    receive_timeout(pair.near.fd, 0);
    pair.exchange_pieces(100, 3);
}

fn recvmsg_reports_no_name_and_no_control_data(pair: &mut Pair) {
    pair.far.must(Order::Send(20));
    let mut buf = [0; 20];
    let received = sys::recvmsg(pair.near.fd, &mut [&mut buf], libc::MSG_WAITALL).expect("recvmsg");
    pair.near.accept(&buf);
    assert_eq!(received, sys::Received { bytes: 20, flags: 0, name_length: 0, control_length: 0 });
}

fn recvfrom_reports_no_address(pair: &mut Pair) {
    pair.far.must(Order::Send(20));
    let mut buf = [0; 20];
    assert_eq!(sys::recvfrom_address(pair.near.fd, &mut buf, libc::MSG_WAITALL), Ok((20, 0)));
    pair.near.accept(&buf);
}

fn readv_fills_its_parts_in_order(pair: &mut Pair) {
    arrived(pair, 60);
    let (mut a, mut b, mut c) = ([0; 10], [0; 20], [0; 100]);
    assert_eq!(sys::readv(pair.near.fd, &mut [&mut a, &mut [], &mut b, &mut c]), Ok(60));
    pair.near.accept(&[&a[..], &b, &c[..30]].concat());
}

fn recvmmsg_counts_its_messages(pair: &mut Pair) {
    arrived(pair, 25);
    let mut bufs = [[0; 10]; 5];
    let mut parts: Vec<&mut [u8]> = bufs.iter_mut().map(|b| &mut b[..]).collect();
    // The fourth would have to wait.
    assert_eq!(sys::recvmmsg(pair.near.fd, &mut parts, libc::MSG_WAITFORONE), Ok(vec![10, 10, 5]));
    pair.near.accept(&bufs.concat()[..25]);
    let mut buf = [0; 10];
    assert_eq!(sys::recvmmsg(pair.near.fd, &mut [&mut buf], libc::MSG_DONTWAIT), Err(libc::EAGAIN));
}

fn the_fortified_names_read_the_same_bytes(pair: &mut Pair) {
    arrived(pair, 50);
    let mut buf = [0; 10];
    for read in [sys::read_alias, sys::read_chk] {
        assert_eq!(read(pair.near.fd, &mut buf), Ok(10));
        pair.near.accept(&buf);
    }
    for recv in [sys::recv_chk, sys::recvfrom, sys::recvfrom_chk] {
        assert_eq!(recv(pair.near.fd, &mut buf, 0), Ok(10));
        pair.near.accept(&buf);
    }
}

fn large_reads_return_what_is_there(pair: &mut Pair) {
    arrived(pair, 10_000);
    assert_eq!(pair.near.recv_once(10 << 20, 0), Ok(10_000));
}

fn successful_calls_leave_errno_alone(pair: &mut Pair) {
    for _ in 0..200 {
        // An errno that no call on this connection has a reason to set.
        assert_eq!(sys::close(-1), Err(libc::EBADF));
        pair.near.send(100);
        assert_eq!(sys::errno(), libc::EBADF, "after send");
        pair.far.must(Order::Echo(100, 1));
        assert_eq!(sys::close(-1), Err(libc::EBADF));
        assert_eq!(pair.near.recv_once(100, libc::MSG_WAITALL), Ok(100));
        assert_eq!(sys::errno(), libc::EBADF, "after recv");
    }
}
