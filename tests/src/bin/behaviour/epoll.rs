//! `epoll` in all its modes.

use smc_tests::pair::{wait_for, Arrangement, Order, Pair};
use smc_tests::sys::{self, FdSet};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

crate::tests! {
    warm level_events_repeat_until_the_data_is_read;
    fresh a_registration_made_before_the_connection_moves_goes_on;
    warm an_edge_comes_once_for_its_data;
    warm new_data_makes_a_new_edge_while_old_data_is_unread;
    warm an_edge_comes_for_data_after_eagain;
    warm registering_reports_what_is_already_there;
    warm modifying_reports_what_is_already_there;
    warm room_makes_an_edge_after_eagain;
    warm room_is_reported_to_who_asks_for_it_later;
    warm a_oneshot_registration_is_armed_by_modifying_it;
    warm the_end_is_rdhup_after_the_data;
    warm a_reset_is_err_and_hup;
    warm data_wakes_a_blocked_epoll_wait;
    warm epoll_wait_returns_after_its_timeout;
    warm wrong_operations_fail_as_documented;
    warm a_deleted_registration_reports_nothing;
    warm a_changed_mask_and_its_data_are_reported;
    warm an_inner_epoll_set_makes_the_outer_ready;
    warm an_epoll_descriptor_can_be_polled_and_selected;
    warm a_duplicate_of_the_epoll_descriptor_reports_the_same;
    warm a_duplicate_of_the_socket_is_a_registration_of_its_own;
    warm closing_the_socket_ends_its_registration;
    warm a_pipe_and_a_connection_share_a_set;
    alone two_threads_share_a_oneshot_set;
    alone an_edge_wakes_one_of_two_threads;
    alone exclusive_waiters_are_woken;
    alone few_places_for_events_starve_nobody;
    alone a_hundred_connections_in_one_set;
}

const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;
const RDHUP: u32 = libc::EPOLLRDHUP as u32;
const ERR: u32 = libc::EPOLLERR as u32;
const HUP: u32 = libc::EPOLLHUP as u32;
const ET: u32 = libc::EPOLLET as u32;
const ONESHOT: u32 = libc::EPOLLONESHOT as u32;
const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;

/// Uses all 64 bits, as a pointer or a counter may.
const DATA: u64 = 0xfeed_f00d_8000_0001;

fn add(epfd: RawFd, fd: RawFd, events: u32) {
    sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, fd, events, DATA).expect("ADD");
}

fn modify(epfd: RawFd, fd: RawFd, events: u32) {
    sys::epoll_ctl(epfd, libc::EPOLL_CTL_MOD, fd, events, DATA).expect("MOD");
}

/// A new set with one registration.
fn set(fd: RawFd, events: u32) -> RawFd {
    let epfd = sys::epoll_create();
    add(epfd, fd, events);
    epfd
}

/// The events of the one registration within the time.
fn events(epfd: RawFd, timeout_ms: i32) -> u32 {
    let events = sys::epoll_wait(epfd, 8, timeout_ms).expect("epoll_wait");
    assert!(events.len() <= 1 && events.iter().all(|(_, data)| *data == DATA), "{events:x?}");
    events.first().map_or(0, |(mask, _)| *mask)
}

fn next(epfd: RawFd) -> u32 {
    events(epfd, -1)
}

/// What is reported without waiting.
fn now(epfd: RawFd) -> u32 {
    events(epfd, 0)
}

/// Lets the far end send, and waits until the bytes are there without asking epoll.
fn arrive(pair: &Pair, n: usize) {
    let before = sys::ioctl_int(pair.near.fd, libc::FIONREAD, 0).expect("FIONREAD");
    pair.far.must(Order::Send(n));
    while sys::ioctl_int(pair.near.fd, libc::FIONREAD, 0).expect("FIONREAD") < before + n as i32 {
        thread::yield_now();
    }
}

fn level_events_repeat_until_the_data_is_read(pair: &mut Pair) {
    let epfd = set(pair.near.fd, IN);
    assert_eq!(now(epfd), 0);
    arrive(pair, 100);
    assert_eq!(next(epfd), IN);
    assert_eq!(next(epfd), IN);
    pair.near.recv(60);
    assert_eq!(now(epfd), IN);
    pair.near.recv(40);
    assert_eq!(now(epfd), 0);
}

fn a_registration_made_before_the_connection_moves_goes_on(pair: &mut Pair) {
    let level = set(pair.near.fd, IN | RDHUP);
    let edge = set(pair.near.fd, IN | OUT | RDHUP | ET);
    assert_eq!(next(edge), OUT);
    pair.exchange();
    // The exchange has left edges behind, which the next call reports together.
    now(edge);
    assert_eq!(now(level), 0);
    for _ in 0..10 {
        arrive(pair, 10);
        assert_eq!(next(level), IN);
        assert_eq!(next(edge) & IN, IN);
        pair.near.recv(10);
        assert_eq!(now(level), 0);
        assert_eq!(now(edge), 0);
    }
    pair.far.must(Order::Close);
    assert_eq!(next(level), IN | RDHUP);
    assert_eq!(next(edge), IN | OUT | RDHUP);
}

fn an_edge_comes_once_for_its_data(pair: &mut Pair) {
    let epfd = set(pair.near.fd, IN | ET);
    for _ in 0..20 {
        assert_eq!(now(epfd), 0);
        arrive(pair, 100);
        assert_eq!(next(epfd), IN);
        assert_eq!(now(epfd), 0);
        pair.near.recv(50);
        assert_eq!(now(epfd), 0);
        pair.near.recv(50);
    }
}

fn new_data_makes_a_new_edge_while_old_data_is_unread(pair: &mut Pair) {
    let epfd = set(pair.near.fd, IN | ET);
    arrive(pair, 100);
    assert_eq!(next(epfd), IN);
    for _ in 0..20 {
        assert_eq!(now(epfd), 0);
        arrive(pair, 1);
        assert_eq!(next(epfd), IN);
    }
    pair.near.recv(120);
    assert_eq!(now(epfd), 0);
}

fn an_edge_comes_for_data_after_eagain(pair: &mut Pair) {
    let epfd = set(pair.near.fd, IN | ET);
    sys::set_nonblocking(pair.near.fd, true);
    for _ in 0..100 {
        assert_eq!(pair.near.recv_once(10, 0), Err(libc::EAGAIN));
        let far = pair.far.start(Order::Send(10));
        assert_eq!(next(epfd), IN);
        pair.near.recv(10);
        far.finish().expect("send");
        // Bytes that came in two parts made two edges.
        now(epfd);
    }
}

fn registering_reports_what_is_already_there(pair: &mut Pair) {
    arrive(pair, 10);
    for mode in [0, ET, ONESHOT, ET | ONESHOT, EXCLUSIVE, EXCLUSIVE | ET] {
        let epfd = set(pair.near.fd, IN | OUT | mode);
        assert_eq!(next(epfd), IN | OUT, "mode {mode:#x}");
        let again = if mode == 0 || mode == EXCLUSIVE { IN | OUT } else { 0 };
        assert_eq!(now(epfd), again, "mode {mode:#x}");
        sys::close(epfd).expect("close");
    }
}

fn modifying_reports_what_is_already_there(pair: &mut Pair) {
    arrive(pair, 10);
    let epfd = set(pair.near.fd, IN | ET);
    assert_eq!(next(epfd), IN);
    for _ in 0..3 {
        assert_eq!(now(epfd), 0);
        modify(epfd, pair.near.fd, IN | ET);
        assert_eq!(next(epfd), IN);
    }
    modify(epfd, pair.near.fd, 0);
    assert_eq!(now(epfd), 0);
    modify(epfd, pair.near.fd, IN | OUT);
    assert_eq!(now(epfd), IN | OUT);
}

fn room_makes_an_edge_after_eagain(pair: &mut Pair) {
    let epfd = set(pair.near.fd, OUT | ET);
    assert_eq!(next(epfd), OUT);
    for _ in 0..3 {
        let n = pair.fill();
        // Filling waits in poll and may have met room that made an edge.
        now(epfd);
        assert_eq!(pair.near.send_once(1, libc::MSG_DONTWAIT), Err(libc::EAGAIN));
        assert_eq!(now(epfd), 0);
        let far = pair.far.start(Order::Recv(n));
        assert_eq!(next(epfd), OUT);
        far.finish().expect("recv");
        assert_eq!(wait_for(pair.near.fd, libc::POLLOUT, -1), Ok(libc::POLLOUT));
    }
}

/// As event loops do it: they ask for room only while they have something to write.
fn room_is_reported_to_who_asks_for_it_later(pair: &mut Pair) {
    let epfd = set(pair.near.fd, IN);
    for mask in [IN | OUT, OUT, OUT | ET] {
        let n = pair.fill();
        modify(epfd, pair.near.fd, mask);
        assert_eq!(now(epfd), 0);
        assert_eq!(while_waiting(epfd, || pair.far.must(Order::Recv(n))), OUT);
        modify(epfd, pair.near.fd, IN);
        assert_eq!(now(epfd), 0);
    }
    arrive(pair, 10);
    assert_eq!(next(epfd), IN);
    pair.near.recv(10);
}

fn a_oneshot_registration_is_armed_by_modifying_it(pair: &mut Pair) {
    let epfd = set(pair.near.fd, IN | ONESHOT);
    arrive(pair, 10);
    assert_eq!(next(epfd), IN);
    assert_eq!(now(epfd), 0);
    arrive(pair, 10);
    assert_eq!(now(epfd), 0);
    for _ in 0..10 {
        modify(epfd, pair.near.fd, IN | ONESHOT);
        assert_eq!(next(epfd), IN);
        assert_eq!(now(epfd), 0);
    }
    pair.near.recv(20);
    modify(epfd, pair.near.fd, IN | ONESHOT);
    assert_eq!(now(epfd), 0);
    arrive(pair, 1);
    assert_eq!(next(epfd), IN);
}

fn the_end_is_rdhup_after_the_data(pair: &mut Pair) {
    let level = set(pair.near.fd, IN | RDHUP);
    let edge = set(pair.near.fd, IN | RDHUP | ET);
    pair.far.must(Order::Send(5000));
    pair.far.must(Order::Shutdown(libc::SHUT_WR));
    let mut read = 0;
    // However many events the bytes and the end come in: the data is not lost for the end, nor the end for the data.
    loop {
        let reported = next(edge);
        assert_eq!(reported & IN, IN, "{reported:#x}");
        match pair.near.recv_once(10_000, libc::MSG_DONTWAIT) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(errno) => assert_eq!(errno, libc::EAGAIN),
        }
        if reported & RDHUP != 0 {
            assert_eq!(pair.near.recv_to_end().map(|n| read += n), Ok(()));
            break;
        }
    }
    assert_eq!(read, 5000);
    assert_eq!(next(level), IN | RDHUP);
    assert_eq!(now(level), IN | RDHUP);
    sys::shutdown(pair.near.fd, libc::SHUT_WR).expect("shutdown");
    assert_eq!(next(level), IN | RDHUP | HUP);
}

fn a_reset_is_err_and_hup(pair: &mut Pair) {
    let level = set(pair.near.fd, IN | RDHUP);
    let edge = set(pair.near.fd, ET);
    pair.far.must(Order::Reset);
    assert_eq!(wait_for(pair.near.fd, 0, -1), Ok(libc::POLLERR | libc::POLLHUP));
    assert_eq!(next(level), IN | RDHUP | ERR | HUP);
    assert_eq!(next(edge), ERR | HUP);
    assert_eq!(now(edge), 0);
    assert_eq!(pair.near.recv_once(1, 0), Err(libc::ECONNRESET));
}

/// Runs `waker` once another thread sleeps in `epoll_wait`; the events that it returned.
fn while_waiting<T>(epfd: RawFd, waker: impl FnOnce() -> T) -> u32 {
    let (tell, tid) = std::sync::mpsc::channel();
    let blocked = thread::spawn(move || {
        tell.send(sys::gettid()).expect("the test is there");
        next(epfd)
    });
    sys::wait_until_asleep(tid.recv().expect("a thread"));
    waker();
    blocked.join().expect("the blocked thread")
}

fn data_wakes_a_blocked_epoll_wait(pair: &mut Pair) {
    for mode in [0, ET, EXCLUSIVE] {
        let epfd = set(pair.near.fd, IN | mode);
        for _ in 0..10 {
            assert_eq!(while_waiting(epfd, || pair.far.must(Order::Send(3))), IN, "mode {mode:#x}");
            pair.near.recv(3);
        }
        // Registered by another thread while the wait goes on.
        sys::epoll_del(epfd, pair.near.fd).expect("DEL");
        let added = while_waiting(epfd, || {
            add(epfd, pair.near.fd, IN | mode);
            pair.far.must(Order::Send(3));
        });
        assert_eq!(added, IN, "mode {mode:#x}");
        pair.near.recv(3);
        sys::close(epfd).expect("close");
    }
}

fn epoll_wait_returns_after_its_timeout(pair: &mut Pair) {
    let epfd = set(pair.near.fd, IN);
    let start = std::time::Instant::now();
    assert_eq!(events(epfd, 60), 0);
    assert!(start.elapsed().as_millis() >= 60, "after {:?}", start.elapsed());
}

fn wrong_operations_fail_as_documented(pair: &mut Pair) {
    let fd = pair.near.fd;
    let epfd = sys::epoll_create();
    let ctl = |op, fd, events| sys::epoll_ctl(epfd, op, fd, events, DATA);
    assert_eq!(ctl(libc::EPOLL_CTL_MOD, fd, IN), Err(libc::ENOENT));
    assert_eq!(ctl(libc::EPOLL_CTL_DEL, fd, IN), Err(libc::ENOENT));
    assert_eq!(ctl(libc::EPOLL_CTL_ADD, fd, IN), Ok(()));
    assert_eq!(ctl(libc::EPOLL_CTL_ADD, fd, IN), Err(libc::EEXIST));
    assert_eq!(ctl(libc::EPOLL_CTL_MOD, fd, IN | EXCLUSIVE), Err(libc::EINVAL));
    assert_eq!(ctl(libc::EPOLL_CTL_DEL, fd, 0), Ok(()));
    assert_eq!(ctl(libc::EPOLL_CTL_ADD, fd, IN | EXCLUSIVE | RDHUP), Err(libc::EINVAL));
    assert_eq!(ctl(libc::EPOLL_CTL_ADD, fd, IN | EXCLUSIVE), Ok(()));
    assert_eq!(ctl(libc::EPOLL_CTL_MOD, fd, IN), Err(libc::EINVAL));
    assert_eq!(sys::epoll_del(epfd, fd), Ok(()));
    assert_eq!(sys::epoll_del(epfd, fd), Err(libc::ENOENT));
    assert_eq!(ctl(99, fd, IN), Err(libc::EINVAL));
    assert_eq!(ctl(libc::EPOLL_CTL_ADD, 1000, IN), Err(libc::EBADF));
    assert_eq!(ctl(libc::EPOLL_CTL_ADD, epfd, IN), Err(libc::EINVAL));
    assert_eq!(sys::epoll_ctl(fd, libc::EPOLL_CTL_ADD, epfd, IN, DATA), Err(libc::EINVAL));
    assert_eq!(sys::epoll_wait(epfd, 0, 0), Err(libc::EINVAL));
    assert_eq!(sys::epoll_wait(fd, 1, 0), Err(libc::EINVAL));
}

fn a_deleted_registration_reports_nothing(pair: &mut Pair) {
    let epfd = set(pair.near.fd, IN);
    arrive(pair, 10);
    assert_eq!(now(epfd), IN);
    sys::epoll_del(epfd, pair.near.fd).expect("DEL");
    assert_eq!(now(epfd), 0);
    add(epfd, pair.near.fd, IN);
    assert_eq!(now(epfd), IN);
    pair.near.recv(10);
}

fn a_changed_mask_and_its_data_are_reported(pair: &mut Pair) {
    let epfd = set(pair.near.fd, IN);
    arrive(pair, 10);
    sys::epoll_ctl(epfd, libc::EPOLL_CTL_MOD, pair.near.fd, IN | OUT, 0).expect("MOD");
    assert_eq!(sys::epoll_wait(epfd, 8, -1), Ok(vec![(IN | OUT, 0)]));
    sys::epoll_ctl(epfd, libc::EPOLL_CTL_MOD, pair.near.fd, OUT, u64::MAX).expect("MOD");
    assert_eq!(sys::epoll_pwait(epfd, 8, -1, Some(&sys::no_signals())), Ok(vec![(OUT, u64::MAX)]));
}

fn an_inner_epoll_set_makes_the_outer_ready(pair: &mut Pair) {
    let inner = set(pair.near.fd, IN);
    let outer = set(inner, IN);
    for _ in 0..10 {
        assert_eq!(now(outer), 0);
        assert_eq!(while_waiting(outer, || pair.far.must(Order::Send(10))), IN);
        assert_eq!(next(inner), IN);
        pair.near.recv(10);
        assert_eq!(now(inner), 0);
    }
}

fn an_epoll_descriptor_can_be_polled_and_selected(pair: &mut Pair) {
    let epfd = set(pair.near.fd, IN);
    assert_eq!(wait_for(epfd, libc::POLLIN, 0), Ok(0));
    let far = pair.far.start(Order::Send(10));
    assert_eq!(wait_for(epfd, libc::POLLIN, -1), Ok(libc::POLLIN));
    far.finish().expect("send");
    let (mut read, mut write) = (FdSet::default(), FdSet::default());
    read.insert(epfd);
    assert_eq!(sys::select(epfd + 1, &mut read, &mut write, -1), Ok(1));
    pair.near.recv(10);
    assert_eq!(wait_for(epfd, libc::POLLIN, 0), Ok(0));
}

fn a_duplicate_of_the_epoll_descriptor_reports_the_same(pair: &mut Pair) {
    let epfd = set(pair.near.fd, IN);
    let duplicate = sys::dup(epfd).expect("dup");
    assert_eq!(while_waiting(duplicate, || pair.far.must(Order::Send(10))), IN);
    assert_eq!(next(epfd), IN);
    sys::close(epfd).expect("close");
    assert_eq!(next(duplicate), IN);
    pair.near.recv(10);
    modify(duplicate, pair.near.fd, OUT);
    assert_eq!(next(duplicate), OUT);
}

fn a_duplicate_of_the_socket_is_a_registration_of_its_own(pair: &mut Pair) {
    let epfd = set(pair.near.fd, IN);
    let alias = sys::dup(pair.near.fd).expect("dup");
    sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, alias, IN | OUT, 7).expect("ADD");
    arrive(pair, 10);
    let mut events = sys::epoll_wait(epfd, 8, -1).expect("epoll_wait");
    events.sort_unstable();
    assert_eq!(events, [(IN, DATA), (IN | OUT, 7)]);
    sys::epoll_del(epfd, alias).expect("DEL");
    assert_eq!(now(epfd), IN);
    pair.near.recv(10);
    assert_eq!(now(epfd), 0);
}

fn closing_the_socket_ends_its_registration(pair: &mut Pair) {
    let epfd = set(pair.near.fd, IN | OUT);
    assert_eq!(now(epfd), OUT);
    pair.close();
    assert_eq!(now(epfd), 0);
    assert_eq!(sys::epoll_del(epfd, pair.near.fd), Err(libc::EBADF));
    // The number is free for another file, which the set does not know.
    let (from, into) = sys::pipe(0);
    assert_eq!(from, pair.near.fd, "the lowest free number");
    assert_eq!(sys::write(into, b"x"), Ok(1));
    assert_eq!(now(epfd), 0);
    add(epfd, from, IN);
    assert_eq!(next(epfd), IN);
}

fn a_pipe_and_a_connection_share_a_set(pair: &mut Pair) {
    let (from, into) = sys::pipe(0);
    let epfd = set(pair.near.fd, IN);
    sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, from, IN, 5).expect("ADD");
    for _ in 0..10 {
        assert_eq!(sys::write(into, b"x"), Ok(1));
        assert_eq!(sys::epoll_wait(epfd, 8, -1), Ok(vec![(IN, 5)]));
        arrive(pair, 1);
        // Each is reported within a few calls, whatever the other does.
        let mut seen: Vec<_> =
            (0..8).flat_map(|_| sys::epoll_wait(epfd, 8, -1).expect("epoll_wait")).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [(IN, 5), (IN, DATA)]);
        assert_eq!(sys::read(from, &mut [0; 8]), Ok(1));
        assert_eq!(next(epfd), IN);
        pair.near.recv(1);
        assert_eq!(now(epfd), 0);
    }
}

/// Two threads answer 1-byte requests on `pairs` connections by way of one set; each request is answered once.
fn two_threads_share_a_oneshot_set() {
    const PAIRS: usize = 4;
    const REQUESTS: usize = 500;
    let pairs: Vec<Pair> = (0..PAIRS).map(|_| Pair::warm(Arrangement::SameProcess)).collect();
    let epfd = sys::epoll_create();
    let answered = AtomicUsize::new(0);
    let (stop, stopper) = sys::pipe(0);
    sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, stop, IN, u64::MAX).expect("ADD");
    for pair in &pairs {
        sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, pair.near.fd, IN | ONESHOT, pair.near.fd as u64)
            .expect("ADD");
    }
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| loop {
                for (_, data) in sys::epoll_wait(epfd, 2, -1).expect("epoll_wait") {
                    if data == u64::MAX {
                        return;
                    }
                    let fd = data as RawFd;
                    let mut byte = [0];
                    assert_eq!(sys::recv(fd, &mut byte, libc::MSG_DONTWAIT), Ok(1), "an event without data");
                    answered.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(sys::send(fd, &byte, 0), Ok(1));
                    sys::epoll_ctl(epfd, libc::EPOLL_CTL_MOD, fd, IN | ONESHOT, data).expect("MOD");
                }
            });
        }
        for request in 0..REQUESTS {
            for pair in &pairs {
                let smc_tests::pair::Far::Local(far) = &pair.far else {
                    unreachable!("pairs of this process")
                };
                let fd = far.lock().expect("the far end").fd;
                assert_eq!(sys::send(fd, &[request as u8], 0), Ok(1));
                if request % 2 == 0 {
                    let mut byte = [0];
                    assert_eq!(sys::recv(fd, &mut byte, 0), Ok(1));
                    assert_eq!(byte, [request as u8]);
                } else {
                    // The answer is waited for by poll, and read with the next.
                    assert_eq!(wait_for(fd, libc::POLLIN, -1), Ok(libc::POLLIN));
                    assert_eq!(sys::recv(fd, &mut [0; 2], 0), Ok(1));
                }
            }
        }
        assert_eq!(sys::write(stopper, b"x"), Ok(1));
    });
    assert_eq!(answered.load(Ordering::Relaxed), PAIRS * REQUESTS);
}

fn an_edge_wakes_one_of_two_threads() {
    let mut pair = Pair::warm(Arrangement::SameProcess);
    let epfd = set(pair.near.fd, IN | ET);
    for _ in 0..50 {
        let woken = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (tell, tids) = std::sync::mpsc::channel();
            for _ in 0..2 {
                let (tell, woken) = (tell.clone(), &woken);
                scope.spawn(move || {
                    tell.send(sys::gettid()).expect("the test is there");
                    if next(epfd) == IN {
                        woken.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..2 {
                sys::wait_until_asleep(tids.recv().expect("a thread"));
            }
            pair.far.must(Order::Send(1));
            while woken.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            // The second byte is the second edge, for the second thread, or for the first one had it waited again.
            pair.far.must(Order::Send(1));
        });
        assert_eq!(woken.load(Ordering::SeqCst), 2);
        assert_eq!(now(epfd), 0);
        pair.near.recv(2);
    }
}

fn exclusive_waiters_are_woken() {
    let mut pair = Pair::warm(Arrangement::SameProcess);
    let sets = [0, 1].map(|_| set(pair.near.fd, IN | EXCLUSIVE));
    for round in 0..20 {
        let woken = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (tell, tids) = std::sync::mpsc::channel();
            for epfd in sets {
                let (tell, woken) = (tell.clone(), &woken);
                scope.spawn(move || {
                    tell.send(sys::gettid()).expect("the test is there");
                    assert_eq!(next(epfd), IN);
                    woken.fetch_add(1, Ordering::SeqCst);
                });
            }
            for _ in 0..2 {
                sys::wait_until_asleep(tids.recv().expect("a thread"));
            }
            // At least one is woken by the first byte; the level is there for the other.
            pair.far.must(Order::Send(1));
            while woken.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            // Another byte at most is needed for the other.
            pair.far.must(Order::Send(1));
        });
        assert_eq!(woken.load(Ordering::SeqCst), 2, "round {round}");
        pair.near.recv(2);
    }
}

fn few_places_for_events_starve_nobody() {
    let mut pairs: Vec<Pair> = (0..3).map(|_| Pair::warm(Arrangement::SameProcess)).collect();
    let (from, into) = sys::pipe(0);
    assert_eq!(sys::write(into, b"x"), Ok(1));
    let epfd = sys::epoll_create();
    sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, from, IN, 3).expect("ADD");
    for (index, pair) in pairs.iter().enumerate() {
        sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, pair.near.fd, IN, index as u64).expect("ADD");
        arrive(pair, 1);
    }
    let mut seen = [0; 4];
    for _ in 0..40 {
        let events = sys::epoll_wait(epfd, 1, -1).expect("epoll_wait");
        assert_eq!(events.len(), 1);
        seen[events[0].1 as usize] += 1;
    }
    assert!(seen.iter().all(|n| *n >= 5), "reports for each: {seen:?}");
    pairs.iter_mut().for_each(|pair| pair.near.recv(1));
}

fn a_hundred_connections_in_one_set() {
    let mut pairs: Vec<Pair> = (0..100).map(|_| Pair::warm(Arrangement::SameProcess)).collect();
    let epfd = sys::epoll_create();
    for (index, pair) in pairs.iter().enumerate() {
        let mode = if index % 2 == 0 { ET } else { 0 };
        sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, pair.near.fd, IN | mode, index as u64).expect("ADD");
    }
    for round in 0..5 {
        pairs.iter().for_each(|pair| arrive(pair, 1 + round));
        let mut seen = vec![false; pairs.len()];
        while seen.iter().any(|s| !s) {
            for (mask, index) in sys::epoll_wait(epfd, 16, -1).expect("epoll_wait") {
                assert_eq!(mask, IN);
                assert!(!seen[index as usize], "a second event for connection {index}");
                seen[index as usize] = true;
                pairs[index as usize].near.recv(1 + round);
            }
        }
        assert_eq!(sys::epoll_wait(epfd, 16, 0), Ok(vec![]));
    }
}
