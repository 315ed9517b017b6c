//! `poll` and `select` and their relatives.

use smc_tests::pair::{wait_for, Arrangement, Order, Pair};
use smc_tests::sys::{self, FdSet};
use std::thread;
use std::time::{Duration, Instant};

crate::tests! {
    warm poll_reports_data_until_it_is_read;
    warm poll_reports_room_until_the_connection_is_full;
    warm poll_without_events_returns_after_its_timeout;
    warm poll_answers_each_entry_for_itself;
    warm data_wakes_a_blocked_poll;
    warm the_end_wakes_a_blocked_poll;
    warm a_reset_wakes_a_blocked_poll;
    warm a_pipe_wakes_a_poll_that_waits_for_both;
    warm ppoll_with_a_null_timeout_waits;
    warm the_end_is_rdhup_and_readable_and_both_ends_are_hup;
    warm select_reports_data_and_room;
    warm data_wakes_a_blocked_select;
    warm select_clears_what_is_not_ready;
    alone select_of_two_connections_reports_the_ready_one;
}

fn now(fd: i32, events: i16) -> i16 {
    wait_for(fd, events, 0).expect("poll")
}

fn poll_reports_data_until_it_is_read(pair: &mut Pair) {
    let fd = pair.near.fd;
    assert_eq!(now(fd, libc::POLLIN), 0);
    pair.far.must(Order::Send(100));
    assert_eq!(wait_for(fd, libc::POLLIN, -1), Ok(libc::POLLIN));
    assert_eq!(now(fd, libc::POLLIN | libc::POLLRDNORM), libc::POLLIN | libc::POLLRDNORM);
    pair.near.recv(99);
    assert_eq!(now(fd, libc::POLLIN), libc::POLLIN);
    pair.near.recv(1);
    assert_eq!(now(fd, libc::POLLIN | libc::POLLRDHUP | libc::POLLPRI), 0);
}

fn poll_reports_room_until_the_connection_is_full(pair: &mut Pair) {
    let fd = pair.near.fd;
    for _ in 0..3 {
        assert_eq!(now(fd, libc::POLLOUT | libc::POLLIN), libc::POLLOUT);
        let n = pair.fill();
        assert_eq!(now(fd, libc::POLLOUT), 0);
        pair.far.must(Order::Recv(n));
        assert_eq!(wait_for(fd, libc::POLLOUT, -1), Ok(libc::POLLOUT));
    }
}

fn poll_without_events_returns_after_its_timeout(pair: &mut Pair) {
    let start = Instant::now();
    assert_eq!(wait_for(pair.near.fd, libc::POLLIN, 60), Ok(0));
    assert!(start.elapsed() >= Duration::from_millis(60), "after {:?}", start.elapsed());
}

fn poll_answers_each_entry_for_itself(pair: &mut Pair) {
    pair.far.must(Order::Send(1));
    assert_eq!(wait_for(pair.near.fd, libc::POLLIN, -1), Ok(libc::POLLIN));
    let entry = |fd, events| libc::pollfd { fd, events, revents: -1 };
    let fd = pair.near.fd;
    let mut fds = [
        entry(fd, libc::POLLIN),
        entry(-1, libc::POLLIN),
        entry(fd, libc::POLLOUT),
        entry(fd, 0),
        entry(1000, 0),
    ];
    assert_eq!(sys::poll(&mut fds, -1), Ok(3));
    assert_eq!(fds.map(|f| f.revents), [libc::POLLIN, 0, libc::POLLOUT, 0, libc::POLLNVAL]);
    assert_eq!(sys::poll_chk(&mut fds, -1), Ok(3));
    assert_eq!(sys::poll_alias(&mut fds, 0), Ok(3));
}

/// Runs `waker` once another thread sleeps in `poll` on the near end; the events that `poll` returned.
fn while_polling<T>(pair: &Pair, events: i16, waker: impl FnOnce() -> T) -> i16 {
    let fd = pair.near.fd;
    let (tell, tid) = std::sync::mpsc::channel();
    let blocked = thread::spawn(move || {
        tell.send(sys::gettid()).expect("the test is there");
        wait_for(fd, events, -1).expect("poll")
    });
    sys::wait_until_asleep(tid.recv().expect("a thread"));
    waker();
    blocked.join().expect("the blocked thread")
}

fn data_wakes_a_blocked_poll(pair: &mut Pair) {
    for _ in 0..20 {
        let woken = while_polling(pair, libc::POLLIN, || pair.far.must(Order::Send(3)));
        assert_eq!(woken, libc::POLLIN);
        pair.near.recv(3);
    }
}

fn the_end_wakes_a_blocked_poll(pair: &mut Pair) {
    let woken = while_polling(pair, libc::POLLIN, || pair.far.must(Order::Close));
    assert_eq!(woken, libc::POLLIN);
}

fn a_reset_wakes_a_blocked_poll(pair: &mut Pair) {
    let woken = while_polling(pair, libc::POLLIN, || pair.far.must(Order::Reset));
    assert_eq!(woken, libc::POLLIN | libc::POLLERR | libc::POLLHUP);
    assert_eq!(sys::socket_error(pair.near.fd), libc::ECONNRESET);
    assert_eq!(sys::socket_error(pair.near.fd), 0);
}

fn a_pipe_wakes_a_poll_that_waits_for_both(pair: &mut Pair) {
    let (from, into) = sys::pipe(0);
    let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    for _ in 0..10 {
        let mut fds = [entry(pair.near.fd), entry(from)];
        assert_eq!(sys::write(into, b"x"), Ok(1));
        assert_eq!(sys::poll(&mut fds, -1), Ok(1));
        assert_eq!(fds.map(|f| f.revents), [0, libc::POLLIN]);
        pair.far.must(Order::Send(1));
        assert_eq!(wait_for(pair.near.fd, libc::POLLIN, -1), Ok(libc::POLLIN));
        assert_eq!(sys::poll(&mut fds, -1), Ok(2));
        assert_eq!(sys::read(from, &mut [0; 8]), Ok(1));
        assert_eq!(sys::poll(&mut fds, -1), Ok(1));
        assert_eq!(fds.map(|f| f.revents), [libc::POLLIN, 0]);
        pair.near.recv(1);
    }
}

fn ppoll_with_a_null_timeout_waits(pair: &mut Pair) {
    let mask = sys::no_signals();
    let entry = libc::pollfd { fd: pair.near.fd, events: libc::POLLIN, revents: 0 };
    let far = pair.far.start(Order::Send(5));
    assert_eq!(sys::ppoll(&mut [entry], -1, Some(&mask)), Ok(1));
    far.finish().expect("send");
    pair.near.recv(5);
    assert_eq!(sys::ppoll(&mut [entry], 20, Some(&mask)), Ok(0));
}

fn the_end_is_rdhup_and_readable_and_both_ends_are_hup(pair: &mut Pair) {
    let fd = pair.near.fd;
    let all = libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP;
    pair.far.must(Order::Send(10));
    pair.far.must(Order::Shutdown(libc::SHUT_WR));
    assert_eq!(wait_for(fd, libc::POLLIN, -1), Ok(libc::POLLIN));
    pair.near.recv(10);
    assert_eq!(wait_for(fd, libc::POLLRDHUP, -1), Ok(libc::POLLRDHUP));
    assert_eq!(now(fd, all), all);
    sys::shutdown(fd, libc::SHUT_WR).expect("shutdown");
    assert_eq!(now(fd, all), all | libc::POLLHUP);
}

fn select(fd: i32, timeout_ms: i32) -> (usize, bool, bool) {
    let (mut read, mut write) = (FdSet::default(), FdSet::default());
    read.insert(fd);
    write.insert(fd);
    let n = sys::select(fd + 1, &mut read, &mut write, timeout_ms).expect("select");
    (n, read.contains(fd), write.contains(fd))
}

fn select_reports_data_and_room(pair: &mut Pair) {
    let fd = pair.near.fd;
    assert_eq!(select(fd, -1), (1, false, true));
    let n = pair.fill();
    assert_eq!(select(fd, 0), (0, false, false));
    pair.far.must(Order::Send(10));
    assert_eq!(select(fd, -1), (1, true, false));
    pair.far.must(Order::Recv(n));
    assert_eq!(wait_for(fd, libc::POLLOUT, -1), Ok(libc::POLLOUT));
    assert_eq!(select(fd, 1000), (2, true, true));
    pair.near.recv(10);
    assert_eq!(select(fd, 1000), (1, false, true));
    pair.far.must(Order::Close);
    assert_eq!(wait_for(fd, libc::POLLIN, -1), Ok(libc::POLLIN));
    assert_eq!(select(fd, -1), (2, true, true));
}

fn data_wakes_a_blocked_select(pair: &mut Pair) {
    let fd = pair.near.fd;
    for round in 0..10 {
        let (tell, tid) = std::sync::mpsc::channel();
        let blocked = thread::spawn(move || {
            let (mut read, mut write) = (FdSet::default(), FdSet::default());
            read.insert(fd);
            tell.send(sys::gettid()).expect("the test is there");
            let n = match round % 2 {
                0 => sys::select(fd + 1, &mut read, &mut write, -1),
                _ => sys::pselect(fd + 1, &mut read, &mut write, -1, Some(&sys::no_signals())),
            };
            (n, read.contains(fd))
        });
        sys::wait_until_asleep(tid.recv().expect("a thread"));
        pair.far.must(Order::Send(10));
        assert_eq!(blocked.join().expect("the blocked thread"), (Ok(1), true));
        pair.near.recv(10);
    }
}

fn select_clears_what_is_not_ready(pair: &mut Pair) {
    let fd = pair.near.fd;
    let (mut read, mut write) = (FdSet::default(), FdSet::default());
    read.insert(fd);
    let start = Instant::now();
    assert_eq!(sys::select(fd + 1, &mut read, &mut write, 60), Ok(0));
    assert!(start.elapsed() >= Duration::from_millis(60), "after {:?}", start.elapsed());
    assert!(!read.contains(fd));
}

fn select_of_two_connections_reports_the_ready_one() {
    let [mut one, mut other] = [0, 1].map(|_| Pair::warm(Arrangement::SameProcess));
    let nfds = one.near.fd.max(other.near.fd) + 1;
    for (ready, idle) in [(0, 1), (1, 0), (0, 1)] {
        let fds = [one.near.fd, other.near.fd];
        let pair = if ready == 0 { &mut one } else { &mut other };
        pair.far.must(Order::Send(1));
        let (mut read, mut write) = (FdSet::default(), FdSet::default());
        fds.iter().for_each(|fd| read.insert(*fd));
        assert_eq!(sys::select(nfds, &mut read, &mut write, -1), Ok(1));
        assert!(read.contains(fds[ready]) && !read.contains(fds[idle]));
        pair.near.recv(1);
    }
}
