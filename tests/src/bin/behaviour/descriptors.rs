//! Descriptors: duplicates, flags they share, closing one by one and by the range, numbers used again.

use smc_tests::net::Family;
use smc_tests::pair::{local_pair, Arrangement, End, Order, Pair};
use smc_tests::sys;
use std::os::fd::RawFd;

crate::tests! {
    warm duplicates_of_a_busy_connection_are_the_connection;
    fresh duplicates_made_early_are_the_connection;
    warm dup2_over_a_connection_closes_it;
    warm nonblocking_mode_is_shared_by_duplicates;
    warm a_number_used_again_is_the_new_file;
    warm a_number_freed_by_a_raw_system_call_is_the_new_file;
    warm closing_a_range_closes_the_connection;
    warm closing_every_number_closes_the_connection;
    alone after_closing_everything_new_connections_work;
    alone two_hundred_short_connections stays;
    alone many_connections_at_once;
    warm a_stream_opened_on_a_busy_connection_works;
    fresh a_stream_opened_on_a_new_connection_works stays;
    alone a_nonblocking_connect_to_an_own_listener_works;
}

/// Sends and receives through `fd`, another number of the near end.
fn exchange_through(pair: &mut Pair, fd: RawFd) {
    let original = std::mem::replace(&mut pair.near.fd, fd);
    pair.exchange_pieces(500, 8);
    pair.near.fd = original;
}

fn duplicates(fd: RawFd) -> Vec<RawFd> {
    let some = |result: Result<RawFd, i32>| result.expect("a duplicate");
    vec![
        some(sys::dup(fd)),
        some(sys::dup2(fd, 300)),
        some(sys::dup3(fd, 301, libc::O_CLOEXEC)),
        some(sys::fcntl(fd, libc::F_DUPFD, 310)),
        some(sys::fcntl(fd, libc::F_DUPFD_CLOEXEC, 310)),
        some(sys::fcntl64(fd, libc::F_DUPFD, 310)),
        some(sys::dup2(fd, fd)),
    ]
}

fn all_are_the_connection(pair: &mut Pair, mut fds: Vec<RawFd>) {
    for fd in &fds {
        exchange_through(pair, *fd);
    }
    // Sent through the one, read through the other.
    pair.far.must(Order::Send(100));
    let mut buf = [0; 100];
    assert_eq!(sys::recv(fds[0], &mut buf[..40], libc::MSG_WAITALL), Ok(40));
    assert_eq!(sys::recv(fds[1], &mut buf[40..], libc::MSG_WAITALL), Ok(60));
    pair.near.accept(&buf);
    fds.sort_unstable();
    fds.dedup();
    while let Some(fd) = fds.pop() {
        if let Some(last) = fds.last() {
            sys::close(fd).expect("close");
            exchange_through(pair, *last);
        } else {
            sys::close(fd).expect("close");
        }
    }
    assert_eq!(pair.far.must(Order::RecvToEnd), 0);
}

fn duplicates_of_a_busy_connection_are_the_connection(pair: &mut Pair) {
    let fds = duplicates(pair.near.fd);
    all_are_the_connection(pair, fds);
}

fn duplicates_made_early_are_the_connection(pair: &mut Pair) {
    let fds = duplicates(pair.near.fd);
    pair.exchange();
    all_are_the_connection(pair, fds);
}

fn dup2_over_a_connection_closes_it(pair: &mut Pair) {
    pair.near.send(1000);
    let (from, into) = sys::pipe(0);
    assert_eq!(sys::dup2(from, pair.near.fd), Ok(pair.near.fd));
    assert_eq!(pair.far.must(Order::RecvToEnd), 1000);
    assert_eq!(sys::write(into, b"pipe"), Ok(4));
    assert_eq!(sys::read(pair.near.fd, &mut [0; 10]), Ok(4));
}

fn nonblocking_mode_is_shared_by_duplicates(pair: &mut Pair) {
    let alias = sys::dup(pair.near.fd).expect("dup");
    sys::set_nonblocking(alias, true);
    assert_eq!(pair.near.recv_once(10, 0), Err(libc::EAGAIN));
    assert_eq!(sys::ioctl_int(pair.near.fd, libc::FIONBIO, 0), Ok(0));
    let far = pair.far.start(Order::Send(10));
    assert_eq!(sys::recv(alias, &mut [0; 10], libc::MSG_WAITALL), Ok(10));
    far.finish().expect("send");
    pair.near.skip(10);
    assert_eq!(sys::ioctl_int(alias, libc::FIONBIO, 1), Ok(1));
    assert_eq!(sys::read(pair.near.fd, &mut [0; 10]), Err(libc::EAGAIN));
    let n = pair.fill();
    assert_eq!(sys::write(pair.near.fd, b"x"), Err(libc::EAGAIN));
    pair.far.must(Order::Recv(n));
}

/// Leaves no free number below `fd`, so that once closed it is the next to be given out.
fn occupy_numbers_below(fd: RawFd) {
    loop {
        let taken = sys::dup(2).expect("dup");
        if taken > fd {
            sys::close(taken).expect("close");
            return;
        }
    }
}

fn the_number_is_a_pipe_now(number: RawFd) {
    let (from, into) = sys::pipe(0);
    assert_eq!(from, number, "the lowest free number");
    assert_eq!(sys::write(into, b"hello"), Ok(5));
    assert_eq!(sys::recv(number, &mut [0; 10], 0), Err(libc::ENOTSOCK));
    let mut buf = [0; 10];
    assert_eq!(sys::read(number, &mut buf), Ok(5));
    assert_eq!(&buf[..5], b"hello");
    assert_eq!(sys::ioctl_int(number, libc::FIONREAD, -1), Ok(0));
    sys::close(from).expect("close");
    sys::close(into).expect("close");
    // And a socket of another kind.
    let (one, other) = sys::socketpair();
    assert_eq!(one, number, "the lowest free number");
    assert_eq!(sys::send(other, b"unix", 0), Ok(4));
    assert_eq!(sys::recv(one, &mut buf, 0), Ok(4));
    assert_eq!(sys::recv(one, &mut buf, libc::MSG_DONTWAIT), Err(libc::EAGAIN));
}

fn a_number_used_again_is_the_new_file(pair: &mut Pair) {
    // There is something to read that nobody must read.
    pair.far.must(Order::Send(100));
    occupy_numbers_below(pair.near.fd);
    pair.close();
    the_number_is_a_pipe_now(pair.near.fd);
}

fn a_number_freed_by_a_raw_system_call_is_the_new_file(pair: &mut Pair) {
    pair.far.must(Order::Send(100));
    occupy_numbers_below(pair.near.fd);
    sys::syscall_close(pair.near.fd).expect("close");
    the_number_is_a_pipe_now(pair.near.fd);
    pair.far.must(Order::Wait(libc::POLLHUP | libc::POLLIN));
}

fn closing_a_range_closes_the_connection(pair: &mut Pair) {
    pair.near.send(1000);
    let fd = pair.near.fd as u32;
    sys::close_range(fd, fd, 0).expect("close_range");
    assert_eq!(pair.far.must(Order::RecvToEnd), 1000);
    assert_eq!(sys::send(pair.near.fd, b"x", 0), Err(libc::EBADF));
}

fn closing_every_number_closes_the_connection(pair: &mut Pair) {
    pair.near.send(1000);
    let child = sys::fork_child(|| {
        // In a child, as daemons do it; the parent keeps the connection.
        for fd in 3..1024 {
            let _ = sys::close(fd);
        }
    });
    assert_eq!(sys::wait_child(child), 0);
    pair.far.must(Order::Recv(1000));
    pair.exchange();
    let child = sys::fork_child(|| sys::closefrom(3));
    assert_eq!(sys::wait_child(child), 0);
    let child = sys::fork_child(|| sys::close_range(3, u32::MAX, 0).expect("close_range"));
    assert_eq!(sys::wait_child(child), 0);
    pair.exchange();
}

fn after_closing_everything_new_connections_work() {
    let closers: [fn(); 3] = [
        || sys::close_range(3, u32::MAX, 0).expect("close_range"),
        || sys::closefrom(3),
        || (3..1024).for_each(|fd| _ = sys::close(fd)),
    ];
    for close_all in closers {
        let mut pairs: Vec<Pair> = (0..3).map(|_| Pair::warm(Arrangement::SameProcess)).collect();
        pairs[0].far.must(Order::Send(10));
        close_all();
        assert_eq!(pairs[0].near.recv_once(1, 0), Err(libc::EBADF));
        // The first file takes the first number, as if nobody else had opened any.
        let (from, into) = sys::pipe(0);
        assert_eq!((from, into), (3, 4));
        sys::close(from).expect("close");
        sys::close(into).expect("close");
        let mut pair = Pair::warm(Arrangement::SameProcess);
        pair.far.must(Order::Close);
        assert_eq!(pair.near.recv_to_end(), Ok(0));
        close_all();
    }
}

fn two_hundred_short_connections() {
    let (listener, port) = Family::V4.listener(0).expect("listen");
    for _ in 0..200 {
        let near = Family::V4.client_socket(0).expect("socket");
        sys::connect(near, &Family::V4.target(port)).expect("connect");
        let far = sys::accept(listener).expect("accept");
        let (mut near, mut far) = (End::near(near), End::far(far));
        near.send(100);
        far.recv(100);
        far.send(2000);
        sys::close(far.fd).expect("close");
        assert_eq!(near.recv_to_end(), Ok(2000));
        sys::close(near.fd).expect("close");
    }
}

fn many_connections_at_once() {
    let mut pairs: Vec<Pair> = (0..200).map(|_| Pair::warm(Arrangement::SameProcess)).collect();
    for round in 0..5 {
        pairs.iter_mut().for_each(|pair| pair.exchange_pieces(100 + round, 3));
    }
    for pair in &mut pairs {
        pair.near.send(500);
        pair.close();
    }
    for pair in &pairs {
        assert_eq!(pair.far.must(Order::RecvToEnd), 500);
        pair.far.must(Order::Close);
    }
}

/// Lines over a `FILE *` on one descriptor and plain calls on the other.
fn lines_over(fd: RawFd, peer: RawFd) {
    let mut file = sys::File::open(fd);
    for _ in 0..50 {
        file.put("hello over there\n");
        let mut buf = [0; 17];
        assert_eq!(sys::recv(peer, &mut buf, libc::MSG_WAITALL), Ok(17));
        assert_eq!(&buf, b"hello over there\n");
        assert_eq!(sys::send(peer, b"hello back\n", 0), Ok(11));
        assert_eq!(file.line(), "hello back\n");
    }
    assert_eq!(sys::send(peer, b"the last\n", 0), Ok(9));
    sys::shutdown(peer, libc::SHUT_WR).expect("shutdown");
    assert_eq!(file.line(), "the last\n");
    assert_eq!(file.line(), "");
    file.close();
    assert_eq!(sys::recv(peer, &mut [0; 10], 0), Ok(0));
}

fn a_stream_opened_on_a_busy_connection_works(pair: &mut Pair) {
    if let smc_tests::pair::Far::Local(far) = &pair.far {
        lines_over(pair.near.fd, far.lock().expect("the far end").fd);
        return;
    }
    // With unread bytes at the time of fdopen, and the far end in its old ways.
    pair.far.must(Order::Send(5));
    let mut file = sys::File::open(pair.near.fd);
    for _ in 0..10 {
        let bytes = pair.near.take(100);
        // The pattern is no text: through the descriptor, with the stream between.
        assert_eq!(sys::write(pair.near.fd, &bytes), Ok(100));
        pair.far.must(Order::Recv(100));
        pair.far.must(Order::Send(100));
    }
    file.put("");
    pair.near.recv(1005);
    file.close();
    assert_eq!(pair.far.must(Order::RecvToEnd), 0);
}

fn a_stream_opened_on_a_new_connection_works(pair: &mut Pair) {
    let (near, far) = local_pair(Family::V6);
    lines_over(near, far);
    pair.exchange_pieces(10, 2);
}

fn a_nonblocking_connect_to_an_own_listener_works() {
    for family in Family::ALL {
        let (listener, port) = family.listener(libc::SOCK_NONBLOCK).expect("listen");
        let near = family.client_socket(libc::SOCK_NONBLOCK).expect("socket");
        let result = sys::connect(near, &family.target(port));
        assert!(result == Ok(()) || result == Err(libc::EINPROGRESS), "{result:?}");
        let writable = smc_tests::pair::wait_for(near, libc::POLLOUT, -1);
        assert_eq!(writable, Ok(libc::POLLOUT));
        assert_eq!(sys::socket_error(near), 0);
        let far = sys::accept4(listener, libc::SOCK_NONBLOCK).expect("accept");
        let (mut near, mut far) = (End::near(near), End::far(far));
        for _ in 0..200 {
            near.send(1000);
            far.recv(1000);
            far.send(1000);
            near.recv(1000);
        }
        // The first call after a connect that was in progress says that it is through.
        let _ = sys::connect(near.fd, &family.target(port));
        assert_eq!(sys::connect(near.fd, &family.target(port)), Err(libc::EISCONN));
    }
}
