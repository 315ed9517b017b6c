//! Socket options that act on the bytes of a connection.

use smc_tests::net::Family;
use smc_tests::pair::{wait_for, End, Order, Pair};
use smc_tests::sys::{self, FdSet, SIGNALS};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

crate::tests! {
    warm a_read_waits_for_the_low_water_mark;
    warm a_read_of_less_than_the_mark_waits_for_its_own_length;
    warm a_read_that_may_not_wait_returns_less_than_the_mark;
    warm the_end_comes_below_the_mark_too;
    warm poll_and_select_wait_for_the_low_water_mark;
    warm epoll_waits_for_the_low_water_mark;
    warm epoll_edges_come_at_the_low_water_mark;
    warm a_lower_mark_makes_waiting_bytes_readable;
    fresh a_mark_set_before_the_connection_is_busy_stays;
    alone a_mark_set_on_a_listener_is_inherited;
    warm a_cork_holds_bytes_until_it_is_drawn;
    warm msg_more_holds_bytes_until_a_send_without_it;
    warm setting_nodelay_lets_corked_bytes_go;
    warm corked_bytes_leave_by_themselves;
    warm corked_bytes_leave_by_themselves_for_poll_and_select;
    warm corked_bytes_leave_by_themselves_for_epoll;
    warm a_cork_does_not_hold_full_records;
    warm a_shutdown_lets_corked_bytes_go;
    warm a_close_lets_corked_bytes_go;
    fresh a_cork_set_before_the_connection_is_busy_stays;
    warm a_cork_that_is_never_drawn_loses_nothing;
    warm so_error_tells_a_reset_once;
    alone small_buffers_limit_what_is_under_way;
    warm a_close_with_a_linger_time_waits_for_the_data;
    warm keepalive_ends_a_connection_whose_peer_is_gone;
    warm urgent_data_is_read_beside_the_stream;
    warm urgent_data_can_be_read_inline;
    warm urgent_data_raises_sigurg;
    warm urgent_data_is_an_event_of_epoll_and_select;
    warm siocoutq_counts_what_has_not_reached_the_peer;
    alone a_deferring_listener_accepts_with_the_first_bytes;
    alone a_connection_opened_with_fast_open_carries_its_bytes stays;
    fresh zerocopy_completions_arrive stays;
    warm zerocopy_set_on_a_busy_connection_is_served;
    warm zerocopy_receive_sends_the_program_to_recv;
    warm a_peek_offset_set_on_a_busy_connection_is_served;
}

fn set(fd: i32, level: i32, name: i32, value: i32) {
    sys::setsockopt(fd, level, name, value).unwrap_or_else(|e| panic!("{name}: {}", sys::errno_name(e)));
}

fn mark(fd: i32, bytes: i32) {
    set(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes);
    assert_eq!(sys::getsockopt_int(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT), Ok(bytes));
}

fn queued(fd: i32) -> usize {
    sys::ioctl_int(fd, libc::FIONREAD, 0).expect("FIONREAD") as usize
}

/// Lets the far end send, and waits until all of it is here.
fn arrived(pair: &Pair, n: usize) {
    let before = queued(pair.near.fd);
    pair.far.must(Order::Send(n));
    while queued(pair.near.fd) < before + n {
        thread::yield_now();
    }
}

/// Runs `call` in a thread and `meanwhile` once that one sleeps.
fn while_blocked<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
    meanwhile: impl FnOnce(),
) -> T {
    let (tell, tid) = std::sync::mpsc::channel();
    let blocked = thread::spawn(move || {
        tell.send(sys::gettid()).expect("the test is there");
        call()
    });
    sys::wait_until_asleep(tid.recv().expect("a thread"));
    meanwhile();
    blocked.join().expect("the blocked thread")
}

fn recv_in_thread(pair: &mut Pair, n: usize, meanwhile: impl FnOnce(&Pair)) -> usize {
    let mut near = pair.near;
    let got = while_blocked(move || near.recv_once(n, 0), || meanwhile(pair)).expect("recv");
    pair.near.skip(got);
    got
}

// SO_RCVLOWAT

fn a_read_waits_for_the_low_water_mark(pair: &mut Pair) {
    mark(pair.near.fd, 1000);
    for _ in 0..5 {
        arrived(pair, 400);
        // The kernel wakes the reader when so much is there once more.
        let got = recv_in_thread(pair, 2000, |pair| {
            pair.far.must(Order::Send(1000));
        });
        assert!((1000..=1400).contains(&got), "{got}");
        pair.near.recv(1400 - got);
    }
    mark(pair.near.fd, 1);
    pair.exchange();
}

fn a_read_of_less_than_the_mark_waits_for_its_own_length(pair: &mut Pair) {
    mark(pair.near.fd, 1000);
    arrived(pair, 100);
    assert_eq!(pair.near.recv_once(50, 0), Ok(50));
    assert_eq!(
        recv_in_thread(pair, 100, |pair| {
            pair.far.must(Order::Send(1000));
        }),
        100
    );
    pair.near.recv(950);
}

fn a_read_that_may_not_wait_returns_less_than_the_mark(pair: &mut Pair) {
    mark(pair.near.fd, 1000);
    arrived(pair, 400);
    assert_eq!(pair.near.recv_once(2000, libc::MSG_DONTWAIT), Ok(400));
    assert_eq!(pair.near.recv_once(2000, libc::MSG_DONTWAIT), Err(libc::EAGAIN));
    let timeout = libc::timeval { tv_sec: 0, tv_usec: 30_000 };
    sys::setsockopt(pair.near.fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, timeout).expect("SO_RCVTIMEO");
    arrived(pair, 300);
    assert_eq!(pair.near.recv_once(2000, 0), Ok(300), "what came before the time was over");
}

fn the_end_comes_below_the_mark_too(pair: &mut Pair) {
    mark(pair.near.fd, 1000);
    pair.far.must(Order::Send(400));
    let ended = recv_in_thread(pair, 2000, |pair| {
        pair.far.must(Order::Shutdown(libc::SHUT_WR));
    });
    assert_eq!(ended, 400);
    assert_eq!(wait_for(pair.near.fd, libc::POLLIN, -1), Ok(libc::POLLIN));
    assert_eq!(pair.near.recv_once(10, 0), Ok(0));
}

fn selects(fd: i32, timeout_ms: i32) -> bool {
    let mut read = FdSet::default();
    read.insert(fd);
    sys::select(fd + 1, &mut read, &mut FdSet::default(), timeout_ms).expect("select");
    read.contains(fd)
}

fn poll_and_select_wait_for_the_low_water_mark(pair: &mut Pair) {
    let fd = pair.near.fd;
    mark(fd, 1000);
    arrived(pair, 999);
    assert_eq!(wait_for(fd, libc::POLLIN, 0), Ok(0));
    assert!(!selects(fd, 0));
    let seen = while_blocked(
        move || wait_for(fd, libc::POLLIN, -1),
        || {
            pair.far.must(Order::Send(1));
        },
    );
    assert_eq!(seen, Ok(libc::POLLIN));
    assert!(selects(fd, 0));
    pair.near.recv(1);
    assert!(!selects(fd, 0));
    assert!(while_blocked(
        move || selects(fd, -1),
        || {
            pair.far.must(Order::Send(1));
        }
    ));
    pair.near.recv(1000);
}

fn epoll_of(fd: i32, events: i32) -> i32 {
    let epfd = sys::epoll_create();
    sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, fd, events as u32, 7).expect("EPOLL_CTL_ADD");
    epfd
}

const IN: u32 = libc::EPOLLIN as u32;

fn epoll_waits_for_the_low_water_mark(pair: &mut Pair) {
    mark(pair.near.fd, 1000);
    let epfd = epoll_of(pair.near.fd, libc::EPOLLIN);
    for _ in 0..3 {
        arrived(pair, 999);
        assert_eq!(sys::epoll_wait(epfd, 4, 0), Ok(vec![]));
        let more = || {
            pair.far.must(Order::Send(1));
        };
        assert_eq!(while_blocked(move || sys::epoll_wait(epfd, 4, -1), more), Ok(vec![(IN, 7)]));
        assert_eq!(sys::epoll_wait(epfd, 4, -1), Ok(vec![(IN, 7)]));
        pair.near.recv(1000);
        assert_eq!(sys::epoll_wait(epfd, 4, 0), Ok(vec![]));
    }
}

fn epoll_edges_come_at_the_low_water_mark(pair: &mut Pair) {
    mark(pair.near.fd, 1000);
    let epfd = epoll_of(pair.near.fd, libc::EPOLLIN | libc::EPOLLET);
    for _ in 0..3 {
        arrived(pair, 400);
        assert_eq!(sys::epoll_wait(epfd, 4, 0), Ok(vec![]));
        arrived(pair, 600);
        assert_eq!(sys::epoll_wait(epfd, 4, -1), Ok(vec![(IN, 7)]));
        pair.near.recv(1000);
    }
}

fn a_lower_mark_makes_waiting_bytes_readable(pair: &mut Pair) {
    mark(pair.near.fd, 1000);
    arrived(pair, 400);
    assert_eq!(wait_for(pair.near.fd, libc::POLLIN, 0), Ok(0));
    mark(pair.near.fd, 400);
    assert_eq!(wait_for(pair.near.fd, libc::POLLIN, -1), Ok(libc::POLLIN));
    pair.near.recv(400);
}

fn a_mark_set_before_the_connection_is_busy_stays(pair: &mut Pair) {
    mark(pair.near.fd, 1000);
    pair.exchange();
    arrived(pair, 999);
    assert_eq!(wait_for(pair.near.fd, libc::POLLIN, 0), Ok(0));
    let got = recv_in_thread(pair, 3000, |pair| {
        pair.far.must(Order::Send(1000));
    });
    assert!((1000..=1999).contains(&got), "{got}");
}

/// A connection within this process whose listener and connecting socket were prepared, and that has been busy.
fn prepared(listener_option: impl Fn(i32), client_option: impl Fn(i32)) -> (End, End) {
    let (listener, port) = Family::V4.listener(0).expect("listen");
    listener_option(listener);
    let near = Family::V4.client_socket(0).expect("socket");
    client_option(near);
    sys::connect(near, &Family::V4.target(port)).expect("connect");
    let far = sys::accept4(listener, libc::SOCK_CLOEXEC).expect("accept");
    sys::close(listener).expect("close");
    let (mut near, mut far) = (End::near(near), End::far(far));
    exchange(&mut near, &mut far);
    (near, far)
}

fn exchange(near: &mut End, far: &mut End) {
    for _ in 0..64 {
        near.send(1024);
        far.recv(1024);
        far.send(1024);
        near.recv(1024);
    }
}

fn a_mark_set_on_a_listener_is_inherited() {
    let (mut near, mut far) = prepared(|fd| mark(fd, 1000), |_| ());
    near.send(999);
    while queued(far.fd) < 999 {
        thread::yield_now();
    }
    assert_eq!(wait_for(far.fd, libc::POLLIN, 0), Ok(0));
    near.send(1);
    assert_eq!(wait_for(far.fd, libc::POLLIN, -1), Ok(libc::POLLIN));
    far.recv(1000);
}

// TCP_CORK, MSG_MORE, TCP_NODELAY

const CORK: fn(bool) -> Order = |on| Order::Set(libc::IPPROTO_TCP, libc::TCP_CORK, on as i32);

/// The far end does `hold`, which sends ten bytes that are to be held back, and then `release`, which sends `more`: the ten
/// are not here before the second and all are here after it, within the time after which they would leave by
/// themselves. A machine that was too slow to tell is asked again.
fn held_until(pair: &mut Pair, hold: &[Order], release: &[Order], more: usize) {
    const BY_ITSELF: Duration = Duration::from_millis(180);
    for _ in 0..30 {
        let begun = Instant::now();
        hold.iter().for_each(|order| {
            pair.far.must(*order);
        });
        let early = queued(pair.near.fd);
        let looked = begun.elapsed();
        release.iter().for_each(|order| {
            pair.far.must(*order);
        });
        while queued(pair.near.fd) < 10 + more {
            thread::yield_now();
        }
        let released = begun.elapsed();
        pair.near.recv(10 + more);
        pair.far.must(CORK(false));
        if looked < BY_ITSELF {
            assert_eq!(early, 0, "bytes were not held back");
        }
        if released < BY_ITSELF {
            return;
        }
    }
    panic!("bytes held back were not let go");
}

fn a_cork_holds_bytes_until_it_is_drawn(pair: &mut Pair) {
    held_until(pair, &[CORK(true), Order::Send(4), Order::Send(6)], &[CORK(false)], 0);
    held_until(pair, &[CORK(true), Order::Send(10)], &[CORK(false)], 0);
    pair.exchange();
}

fn msg_more_holds_bytes_until_a_send_without_it(pair: &mut Pair) {
    const MORE: i32 = libc::MSG_MORE;
    held_until(pair, &[Order::SendWith(10, MORE)], &[Order::Send(5)], 5);
    held_until(pair, &[Order::SendWith(3, MORE), Order::SendWith(7, MORE)], &[Order::Send(1)], 1);
    pair.exchange();
}

fn setting_nodelay_lets_corked_bytes_go(pair: &mut Pair) {
    let no_delay = |on| Order::Set(libc::IPPROTO_TCP, libc::TCP_NODELAY, on);
    pair.far.must(no_delay(0));
    held_until(pair, &[CORK(true), Order::Send(10)], &[no_delay(1)], 0);
}

fn corked_bytes_leave_by_themselves(pair: &mut Pair) {
    for _ in 0..2 {
        let begun = Instant::now();
        pair.far.must(CORK(true));
        pair.far.must(Order::Send(10));
        assert_eq!(pair.near.recv_once(100, 0), Ok(10));
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(100), "after {took:?}");
        pair.far.must(CORK(false));
    }
    // A reader that sleeps when they are held back.
    let got = recv_in_thread(pair, 100, |pair| {
        pair.far.must(CORK(true));
        pair.far.must(Order::Send(10));
    });
    assert_eq!(got, 10);
    pair.far.must(CORK(false));
    pair.exchange();
}

fn corked_bytes_leave_by_themselves_for_poll_and_select(pair: &mut Pair) {
    let fd = pair.near.fd;
    pair.far.must(CORK(true));
    pair.far.must(Order::Send(10));
    assert_eq!(wait_for(fd, libc::POLLIN, -1), Ok(libc::POLLIN));
    pair.near.recv(10);
    let seen = while_blocked(
        move || wait_for(fd, libc::POLLIN, -1),
        || {
            pair.far.must(Order::Send(10));
        },
    );
    assert_eq!(seen, Ok(libc::POLLIN));
    pair.near.recv(10);
    assert!(while_blocked(
        move || selects(fd, -1),
        || {
            pair.far.must(Order::Send(10));
        }
    ));
    pair.near.recv(10);
}

fn corked_bytes_leave_by_themselves_for_epoll(pair: &mut Pair) {
    for kind in [0, libc::EPOLLET] {
        let epfd = epoll_of(pair.near.fd, libc::EPOLLIN | kind);
        pair.far.must(CORK(true));
        pair.far.must(Order::Send(10));
        assert_eq!(sys::epoll_wait(epfd, 4, -1), Ok(vec![(IN, 7)]));
        pair.near.recv(10);
        let send = || {
            pair.far.must(Order::Send(10));
        };
        assert_eq!(while_blocked(move || sys::epoll_wait(epfd, 4, -1), send), Ok(vec![(IN, 7)]));
        pair.near.recv(10);
        sys::close(epfd).expect("close");
    }
}

fn a_cork_does_not_hold_full_records(pair: &mut Pair) {
    for _ in 0..30 {
        let begun = Instant::now();
        pair.far.must(CORK(true));
        let far = pair.far.start(Order::Send(200_000));
        pair.near.recv(100_000);
        let took = begun.elapsed();
        pair.near.recv(100_000);
        far.finish().expect("send");
        pair.far.must(CORK(false));
        if took < Duration::from_millis(180) {
            return;
        }
    }
    panic!("full records were held back");
}

fn a_shutdown_lets_corked_bytes_go(pair: &mut Pair) {
    held_until(pair, &[CORK(true), Order::Send(10)], &[CORK(false)], 0);
    pair.far.must(CORK(true));
    pair.far.must(Order::Send(10));
    pair.far.must(Order::Shutdown(libc::SHUT_WR));
    assert_eq!(pair.near.recv_to_end(), Ok(10));
}

fn a_close_lets_corked_bytes_go(pair: &mut Pair) {
    pair.far.must(CORK(true));
    pair.far.must(Order::Send(10));
    pair.far.must(Order::SendWith(10, libc::MSG_MORE));
    pair.far.must(Order::Close);
    assert_eq!(pair.near.recv_to_end(), Ok(20));
}

fn a_cork_set_before_the_connection_is_busy_stays(pair: &mut Pair) {
    // Each answer waits for the cork's time: few of them, but large enough to count.
    set(pair.near.fd, libc::IPPROTO_TCP, libc::TCP_CORK, 1);
    pair.far.must(Order::Set(libc::IPPROTO_TCP, libc::TCP_CORK, 1));
    pair.exchange_pieces(70_000, 4);
    assert_eq!(sys::getsockopt_int(pair.near.fd, libc::IPPROTO_TCP, libc::TCP_CORK), Ok(1));
    held_until(pair, &[CORK(true), Order::Send(10)], &[CORK(false)], 0);
}

fn a_cork_that_is_never_drawn_loses_nothing(pair: &mut Pair) {
    pair.far.must(CORK(true));
    let far = pair.far.start(Order::Send(3_000_000));
    pair.near.recv(3_000_000);
    far.finish().expect("send");
    for n in [1, 1000, 65_535, 65_536, 65_537] {
        pair.far.must(Order::Send(n));
        pair.near.recv(n);
    }
    pair.far.must(Order::Close);
    assert_eq!(pair.near.recv_to_end(), Ok(0));
}

// SO_ERROR, buffers, SO_LINGER, SO_KEEPALIVE

fn so_error_tells_a_reset_once(pair: &mut Pair) {
    arrived(pair, 100);
    pair.far.must(Order::Reset);
    let seen = wait_for(pair.near.fd, 0, -1).expect("poll");
    assert_eq!(seen & (libc::POLLERR | libc::POLLHUP), libc::POLLERR | libc::POLLHUP, "{seen:#x}");
    assert_eq!(sys::socket_error(pair.near.fd), libc::ECONNRESET);
    assert_eq!(sys::socket_error(pair.near.fd), 0);
    assert_eq!(pair.near.recv_once(1000, 0), Ok(100));
    assert_eq!(pair.near.recv_once(10, 0), Ok(0));
}

fn small_buffers_limit_what_is_under_way() {
    const ASKED: i32 = 20_000;
    let socket = libc::SOL_SOCKET;
    let (mut near, mut far) =
        prepared(|fd| set(fd, socket, libc::SO_RCVBUF, ASKED), |fd| set(fd, socket, libc::SO_SNDBUF, ASKED));
    assert_eq!(sys::getsockopt_int(near.fd, socket, libc::SO_SNDBUF), Ok(2 * ASKED));
    assert_eq!(sys::getsockopt_int(far.fd, socket, libc::SO_RCVBUF), Ok(2 * ASKED));
    let small = near.fill();
    far.recv(small);
    assert!(small < 200_000, "{small} bytes under way");
    exchange(&mut near, &mut far);
    // Afterwards they are read back as TCP does, too.
    set(near.fd, socket, libc::SO_SNDBUF, 50_000);
    assert_eq!(sys::getsockopt_int(near.fd, socket, libc::SO_SNDBUF), Ok(100_000));
    exchange(&mut near, &mut far);
}

fn a_close_with_a_linger_time_waits_for_the_data(pair: &mut Pair) {
    let filled = pair.fill();
    let linger = libc::linger { l_onoff: 1, l_linger: 60 };
    sys::setsockopt(pair.near.fd, libc::SOL_SOCKET, libc::SO_LINGER, linger).expect("SO_LINGER");
    let fd = pair.near.fd;
    let drain = || assert_eq!(pair.far.must(Order::RecvToEnd), filled);
    assert_eq!(while_blocked(move || sys::close(fd), drain), Ok(()));
}

fn keepalive_ends_a_connection_whose_peer_is_gone(pair: &mut Pair) {
    pair.far.must(Order::Deaf);
    set(pair.near.fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    for name in [libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL, libc::TCP_KEEPCNT] {
        set(pair.near.fd, libc::IPPROTO_TCP, name, 1);
    }
    assert_eq!(pair.near.recv_once(10, 0), Err(libc::ETIMEDOUT));
    assert_eq!(pair.near.recv_once(10, 0), Ok(0));
}

// Urgent data

const SIOCATMARK: libc::c_ulong = 0x8905;

fn at_mark(fd: i32) -> bool {
    sys::ioctl_int(fd, SIOCATMARK, 7).expect("SIOCATMARK") != 0
}

/// A hundred bytes, an urgent one, fifty bytes: all here.
fn urgent(pair: &Pair) {
    pair.far.must(Order::Send(100));
    assert_eq!(pair.far.must(Order::SendWith(1, libc::MSG_OOB)), 1);
    pair.far.must(Order::Send(50));
    // The urgent byte counts in some kernels' answer only until it is reached.
    while queued(pair.near.fd) < 100 || wait_for(pair.near.fd, libc::POLLPRI, 0) != Ok(libc::POLLPRI) {
        thread::yield_now();
    }
}

fn urgent_data_is_read_beside_the_stream(pair: &mut Pair) {
    for _ in 0..3 {
        let fd = pair.near.fd;
        urgent(pair);
        assert!(!at_mark(fd));
        assert_eq!(pair.near.recv_once(60, 0), Ok(60));
        assert!(!at_mark(fd));
        assert_eq!(pair.near.recv_once(1000, 0), Ok(40), "a read stops at the mark");
        assert!(at_mark(fd));
        assert_eq!(pair.near.recv_once(10, libc::MSG_OOB), Ok(1));
        assert_eq!(sys::recv(fd, &mut [0; 10], libc::MSG_OOB), Err(libc::EINVAL), "it is read once");
        pair.near.recv(50);
        assert!(!at_mark(fd));
    }
    pair.exchange();
}

fn urgent_data_can_be_read_inline(pair: &mut Pair) {
    let fd = pair.near.fd;
    set(fd, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1);
    for _ in 0..3 {
        urgent(pair);
        assert_eq!(sys::recv(fd, &mut [0; 10], libc::MSG_OOB), Err(libc::EINVAL));
        assert_eq!(pair.near.recv_once(1000, 0), Ok(100), "a read stops at the mark");
        assert!(at_mark(fd));
        pair.near.recv(51);
        assert!(!at_mark(fd));
    }
    pair.exchange();
}

fn urgent_data_raises_sigurg(pair: &mut Pair) {
    sys::handle_signal(libc::SIGURG, libc::SA_RESTART);
    sys::fcntl(pair.near.fd, libc::F_SETOWN, sys::getpid()).expect("F_SETOWN");
    pair.far.must(Order::Send(10));
    assert_eq!(SIGNALS.load(Ordering::SeqCst), 0);
    pair.far.must(Order::SendWith(1, libc::MSG_OOB));
    while SIGNALS.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    pair.near.recv(10);
    assert_eq!(pair.near.recv_once(1, libc::MSG_OOB), Ok(1));
}

fn urgent_data_is_an_event_of_epoll_and_select(pair: &mut Pair) {
    let fd = pair.near.fd;
    let epfd = epoll_of(fd, libc::EPOLLPRI);
    assert_eq!(sys::epoll_wait(epfd, 4, 0), Ok(vec![]));
    let send = || {
        pair.far.must(Order::SendWith(1, libc::MSG_OOB));
    };
    let seen = while_blocked(move || sys::epoll_wait(epfd, 4, -1), send);
    assert_eq!(seen, Ok(vec![(libc::EPOLLPRI as u32, 7)]));
    assert!(sys::select_exceptional(fd));
    assert_eq!(pair.near.recv_once(1, libc::MSG_OOB), Ok(1));
}

fn siocoutq_counts_what_has_not_reached_the_peer(pair: &mut Pair) {
    let fd = pair.near.fd;
    let unsent = || sys::ioctl_int(fd, libc::TIOCOUTQ, 0).expect("SIOCOUTQ");
    pair.near.send(1000);
    // The peer does not read; the bytes reach it all the same.
    while unsent() != 0 {
        thread::yield_now();
    }
    pair.far.must(Order::Recv(1000));
    let held = (0..30).any(|_| {
        let begun = Instant::now();
        assert_eq!(pair.near.send_once(10, libc::MSG_MORE), Ok(10));
        let seen = unsent();
        let in_time = begun.elapsed() < Duration::from_millis(150);
        pair.near.send(1);
        pair.far.must(Order::Recv(11));
        if in_time {
            assert_eq!(seen, 10, "bytes held back have not reached the peer");
        }
        in_time
    });
    assert!(held, "too slow to tell");
    let filled = pair.fill();
    assert!(unsent() > 0);
    pair.far.must(Order::Recv(filled));
}

// Before there is a connection, and what only TCP serves

fn a_deferring_listener_accepts_with_the_first_bytes() {
    let (listener, port) = Family::V4.listener(libc::SOCK_NONBLOCK).expect("listen");
    set(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 30);
    let near = Family::V4.client_socket(0).expect("socket");
    sys::connect(near, &Family::V4.target(port)).expect("connect");
    assert_eq!(sys::accept4(listener, libc::SOCK_CLOEXEC), Err(libc::EAGAIN));
    let mut near = End::near(near);
    near.send(10);
    wait_for(listener, libc::POLLIN, -1).expect("poll");
    let mut far = End::far(sys::accept4(listener, libc::SOCK_CLOEXEC).expect("accept"));
    assert_eq!(far.recv_once(100, libc::MSG_DONTWAIT), Ok(10));
    exchange(&mut near, &mut far);
}

fn a_connection_opened_with_fast_open_carries_its_bytes() {
    let (listener, port) = Family::V4.listener(0).expect("listen");
    let near = Family::V4.client_socket(0).expect("socket");
    let mut near = End::near(near);
    let first = near.take(10);
    assert_eq!(sys::send_to(near.fd, &first, libc::MSG_FASTOPEN, &Family::V4.target(port)), Ok(10));
    let mut far = End::far(sys::accept4(listener, libc::SOCK_CLOEXEC).expect("accept"));
    far.recv(10);
    exchange(&mut near, &mut far);
    let again = sys::send_to(near.fd, b"x", libc::MSG_FASTOPEN, &Family::V4.target(port));
    assert_eq!(again, Err(libc::EISCONN));
    exchange(&mut near, &mut far);
}

/// Sends with MSG_ZEROCOPY until the kernel says on the error queue that it is done with the memory.
fn zerocopy_send(pair: &mut Pair) {
    let bytes = pair.near.take(20_000);
    assert_eq!(sys::send(pair.near.fd, &bytes, libc::MSG_ZEROCOPY), Ok(20_000));
    pair.far.must(Order::Recv(20_000));
    assert_eq!(wait_for(pair.near.fd, 0, -1), Ok(libc::POLLERR));
    let notice = sys::recvmsg(pair.near.fd, &mut [], libc::MSG_ERRQUEUE).expect("MSG_ERRQUEUE");
    assert!(notice.control_length > 0, "a notice comes as a control message");
    assert_eq!(wait_for(pair.near.fd, 0, 0), Ok(0));
}

fn zerocopy_completions_arrive(pair: &mut Pair) {
    set(pair.near.fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1);
    pair.exchange();
    zerocopy_send(pair);
}

fn zerocopy_set_on_a_busy_connection_is_served(pair: &mut Pair) {
    // Without the option it is an ordinary send.
    assert_eq!(pair.near.send_once(100, libc::MSG_ZEROCOPY), Ok(100));
    pair.far.must(Order::Recv(100));
    assert_eq!(wait_for(pair.near.fd, 0, 0), Ok(0));
    set(pair.near.fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1);
    pair.exchange();
    zerocopy_send(pair);
}

fn zerocopy_receive_sends_the_program_to_recv(pair: &mut Pair) {
    const TCP_ZEROCOPY_RECEIVE: i32 = 35;
    let fd = pair.near.fd;
    let hint = || {
        // address, length, recv_skip_hint, inq and more (struct tcp_zerocopy_receive); no memory is given to map.
        let mut value = [0u8; 64];
        assert_eq!(sys::getsockopt_bytes(fd, libc::IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &mut value), Ok(64));
        assert_eq!(value[8..12], [0; 4], "nothing is mapped");
        u32::from_ne_bytes([value[12], value[13], value[14], value[15]])
    };
    assert_eq!(hint(), 0);
    arrived(pair, 100);
    assert_eq!(hint(), 100);
    pair.near.recv(100);
    assert_eq!(hint(), 0);
    pair.exchange();
}

fn a_peek_offset_set_on_a_busy_connection_is_served(pair: &mut Pair) {
    const SO_PEEK_OFF: i32 = 42;
    set(pair.near.fd, libc::SOL_SOCKET, SO_PEEK_OFF, 30);
    arrived(pair, 100);
    let mut peeked = [0; 100];
    assert_eq!(sys::recv(pair.near.fd, &mut peeked, libc::MSG_PEEK), Ok(70));
    let mut whole = [0; 100];
    assert_eq!(sys::recv(pair.near.fd, &mut whole, libc::MSG_WAITALL), Ok(100));
    pair.near.accept(&whole);
    assert_eq!(whole[30..], peeked[..70]);
    pair.exchange();
}
