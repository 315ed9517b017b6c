//! The sending calls: how much they take, when they wait, and the calls that send from files and pipes.

use smc_tests::net::Family;
use smc_tests::pair::{wait_for, Arrangement, Order, Pair};
use smc_tests::sys;
use std::time::{Duration, Instant};

crate::tests! {
    warm a_blocking_send_of_a_mebibyte_needs_no_reader;
    warm a_full_connection_takes_no_more_and_loses_nothing;
    warm a_blocking_send_goes_on_when_the_peer_reads;
    warm a_send_timeout_is_eagain_after_its_time;
    warm a_send_timeout_in_mid_send_returns_what_was_sent;
    warm a_send_of_nothing_sends_nothing;
    warm writev_sends_its_parts_in_order;
    warm sendmmsg_counts_its_messages;
    warm bytes_held_back_by_msg_more_leave_with_the_next;
    warm sendfile_with_an_offset_leaves_the_file_position;
    warm sendfile_without_an_offset_moves_the_file_position;
    warm sendfile_stops_at_the_end_of_the_file;
    warm sendfile_of_a_large_file_arrives_whole;
    warm splice_from_a_pipe_arrives;
    warm splice_into_a_pipe_takes_what_is_there;
    warm splice_of_an_ended_stream_returns_nothing;
    warm all_address_families_move;
}

fn a_blocking_send_of_a_mebibyte_needs_no_reader(pair: &mut Pair) {
    pair.near.send(1 << 20);
    pair.far.must(Order::Recv(1 << 20));
    pair.exchange_pieces(100, 10);
    pair.far.must(Order::Send(1 << 20));
    pair.near.recv(1 << 20);
    pair.exchange_pieces(100, 10);
}

fn a_full_connection_takes_no_more_and_loses_nothing(pair: &mut Pair) {
    for _ in 0..3 {
        let n = pair.fill();
        assert!(n > 0);
        assert_eq!(pair.near.send_once(1, libc::MSG_DONTWAIT), Err(libc::EAGAIN));
        pair.far.must(Order::Recv(n));
        pair.exchange_pieces(100, 10);
    }
}

fn a_blocking_send_goes_on_when_the_peer_reads(pair: &mut Pair) {
    let n = pair.fill();
    let far = pair.far.start(Order::Recv(n + (8 << 20)));
    assert_eq!(pair.near.send_once(8 << 20, 0), Ok(8 << 20));
    far.finish().expect("recv");
}

fn send_timeout(fd: i32, ms: i64) {
    let timeout = libc::timeval { tv_sec: 0, tv_usec: ms * 1000 };
    sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, timeout).expect("SO_SNDTIMEO");
}

fn a_send_timeout_is_eagain_after_its_time(pair: &mut Pair) {
    let n = pair.fill();
    send_timeout(pair.near.fd, 60);
    let start = Instant::now();
    assert_eq!(pair.near.send_once(65536, 0), Err(libc::EAGAIN));
    assert!(start.elapsed() >= Duration::from_millis(60), "after {:?}", start.elapsed());
    pair.far.must(Order::Recv(n));
    pair.exchange_pieces(100, 10);
}

fn a_send_timeout_in_mid_send_returns_what_was_sent(pair: &mut Pair) {
    send_timeout(pair.near.fd, 60);
    let sent = pair.near.send_once(64 << 20, 0).expect("part of it fits");
    assert!((1..64 << 20).contains(&sent), "{sent}");
    pair.far.must(Order::Recv(sent));
    pair.exchange_pieces(100, 10);
}

fn a_send_of_nothing_sends_nothing(pair: &mut Pair) {
    assert_eq!(sys::send(pair.near.fd, &[], 0), Ok(0));
    assert_eq!(sys::write(pair.near.fd, &[]), Ok(0));
    assert_eq!(sys::writev(pair.near.fd, &[]), Ok(0));
    assert_eq!(sys::sendmsg(pair.near.fd, &[&[], &[]], 0), Ok(0));
    pair.near.send(5);
    assert_eq!(pair.far.must(Order::RecvOnce(100)), 5);
}

fn writev_sends_its_parts_in_order(pair: &mut Pair) {
    let bytes = pair.near.take(50_000);
    let parts = [&bytes[..1], &[], &bytes[1..20_000], &bytes[20_000..]];
    assert_eq!(sys::writev(pair.near.fd, &parts), Ok(50_000));
    pair.far.must(Order::Recv(50_000));
    let bytes = pair.near.take(600);
    assert_eq!(sys::pwritev2(pair.near.fd, &[&bytes[..1], &bytes[1..]], 0), Ok(600));
    pair.far.must(Order::Recv(600));
}

fn sendmmsg_counts_its_messages(pair: &mut Pair) {
    let bytes = pair.near.take(60);
    assert_eq!(
        sys::sendmmsg(pair.near.fd, &[&bytes[..10], &bytes[10..30], &bytes[30..]], 0),
        Ok(vec![10, 20, 30])
    );
    pair.far.must(Order::Recv(60));
    let n = pair.fill();
    assert_eq!(sys::sendmmsg(pair.near.fd, &[b"x", b"y"], libc::MSG_DONTWAIT), Err(libc::EAGAIN));
    pair.far.must(Order::Recv(n));
}

fn bytes_held_back_by_msg_more_leave_with_the_next(pair: &mut Pair) {
    for _ in 0..10 {
        assert_eq!(pair.near.send_once(10, libc::MSG_MORE), Ok(10));
        assert_eq!(pair.near.send_once(10, 0), Ok(10));
        pair.far.must(Order::Recv(20));
    }
}

/// A file that holds the next `n` bytes of the near end's stream behind `skip` others.
fn file(pair: &mut Pair, skip: i64, n: usize) -> i32 {
    let file = sys::memfd();
    assert_eq!(sys::pwrite(file, &pair.near.take(n), skip), Ok(n));
    file
}

fn sendfile_with_an_offset_leaves_the_file_position(pair: &mut Pair) {
    for sendfile in [sys::sendfile, sys::sendfile64] {
        let file = file(pair, 1234, 5000);
        let mut offset = 1234;
        assert_eq!(sendfile(pair.near.fd, file, Some(&mut offset), 5000), Ok(5000));
        assert_eq!(offset, 6234);
        assert_eq!(sys::lseek(file, 0, libc::SEEK_CUR), Ok(0));
        pair.far.must(Order::Recv(5000));
    }
}

fn sendfile_without_an_offset_moves_the_file_position(pair: &mut Pair) {
    for sendfile in [sys::sendfile, sys::sendfile64] {
        let file = file(pair, 1234, 5000);
        sys::lseek(file, 1234, libc::SEEK_SET).expect("lseek");
        assert_eq!(sendfile(pair.near.fd, file, None, 3000), Ok(3000));
        assert_eq!(sys::lseek(file, 0, libc::SEEK_CUR), Ok(4234));
        assert_eq!(sendfile(pair.near.fd, file, None, 2000), Ok(2000));
        pair.far.must(Order::Recv(5000));
    }
}

fn sendfile_stops_at_the_end_of_the_file(pair: &mut Pair) {
    let file = file(pair, 0, 700);
    let mut offset = 0;
    assert_eq!(sys::sendfile(pair.near.fd, file, Some(&mut offset), 5000), Ok(700));
    assert_eq!(sys::sendfile(pair.near.fd, file, Some(&mut offset), 5000), Ok(0));
    assert_eq!(offset, 700);
    pair.far.must(Order::Recv(700));
}

fn sendfile_of_a_large_file_arrives_whole(pair: &mut Pair) {
    const SIZE: usize = 10_000_001;
    let file = file(pair, 0, SIZE);
    let far = pair.far.start(Order::Recv(SIZE));
    let mut sent = 0;
    while sent < SIZE {
        sent += sys::sendfile64(pair.near.fd, file, None, SIZE).expect("sendfile");
    }
    assert_eq!(sent, SIZE);
    far.finish().expect("recv");
}

fn splice_from_a_pipe_arrives(pair: &mut Pair) {
    let (from, into) = sys::pipe(0);
    for n in [1, 1000, 65536] {
        assert_eq!(sys::write(into, &pair.near.take(n)), Ok(n));
        let mut moved = 0;
        while moved < n {
            moved += sys::splice(from, pair.near.fd, n - moved, 0).expect("splice");
        }
        pair.far.must(Order::Recv(n));
    }
    assert_eq!(sys::splice(from, pair.near.fd, 10, libc::SPLICE_F_NONBLOCK), Err(libc::EAGAIN));
    sys::close(into).expect("close");
    assert_eq!(sys::splice(from, pair.near.fd, 10, 0), Ok(0));
    pair.exchange_pieces(100, 3);
}

fn splice_into_a_pipe_takes_what_is_there(pair: &mut Pair) {
    let (from, into) = sys::pipe(0);
    for n in [1, 1000, 30_000] {
        pair.far.must(Order::Send(n));
        let mut moved = 0;
        while moved < n {
            let got = sys::splice(pair.near.fd, into, n - moved, 0).expect("splice");
            let mut buf = vec![0; got];
            assert_eq!(sys::read(from, &mut buf), Ok(got));
            pair.near.accept(&buf);
            moved += got;
        }
    }
    sys::set_nonblocking(pair.near.fd, true);
    assert_eq!(sys::splice(pair.near.fd, into, 10, libc::SPLICE_F_NONBLOCK), Err(libc::EAGAIN));
}

fn splice_of_an_ended_stream_returns_nothing(pair: &mut Pair) {
    let (_, into) = sys::pipe(0);
    pair.far.must(Order::Send(10));
    pair.far.must(Order::Close);
    assert_eq!(wait_for(pair.near.fd, libc::POLLRDHUP, -1), Ok(libc::POLLRDHUP));
    assert_eq!(sys::splice(pair.near.fd, into, 100, 0), Ok(10));
    assert_eq!(sys::splice(pair.near.fd, into, 100, 0), Ok(0));
}

fn all_address_families_move(pair: &mut Pair) {
    for family in Family::ALL {
        let arrangement: Arrangement = pair.arrangement;
        let mut other = Pair::over(arrangement, family);
        other.exchange();
        other.far.must(Order::Send(1000));
        other.far.must(Order::Close);
        assert_eq!(other.near.recv_to_end(), Ok(1000), "{family:?}");
    }
}
