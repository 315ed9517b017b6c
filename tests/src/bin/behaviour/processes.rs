//! Connections and processes: fork, exec, descriptors handed on, and sudden death.

use smc_tests::net::Family;
use smc_tests::pair::{End, Order, Pair};
use smc_tests::random::Random;
use smc_tests::sys::{self, fork_child, wait_child, SharedCounter};
use std::os::fd::RawFd;
use std::process::Command;
use std::sync::atomic::Ordering;

crate::tests! {
    warm a_child_and_its_parent_take_turns_on_a_busy_connection;
    fresh a_child_forked_early_and_its_parent_take_turns;
    warm a_child_reads_while_its_parent_writes;
    warm a_child_that_exits_ends_nothing;
    warm a_parent_that_closes_leaves_the_connection_to_its_child;
    alone a_child_serves_what_its_parent_accepted;
    alone a_child_connects_anew_and_drops_what_it_inherited;
    alone a_server_of_the_user_nobody_is_known;
    alone a_tree_of_children_uses_one_connection;
    warm programs_can_be_started_beside_a_connection;
    warm a_passed_descriptor_goes_on_in_another_process;
    fresh a_passed_new_descriptor_goes_on_in_another_process stays;
    fresh another_program_inherits_a_new_connection stays;
    warm another_program_inherits_a_busy_connection;
    warm another_program_inherits_unread_bytes;
    alone what_a_killed_sender_has_sent_arrives;
    alone a_killed_receiver_ends_the_senders_waiting;
    alone a_killed_echo_server_is_noticed;
}

/// Waits for a byte on a pipe.
pub fn await_turn(from: RawFd) {
    assert_eq!(sys::read(from, &mut [0]), Ok(1), "the other process is gone");
}

pub fn give_turn(into: RawFd) {
    assert_eq!(sys::write(into, b"x"), Ok(1));
}

/// Parent and child in turn send and receive on the near end, with what the other has done counted.
fn take_turns(pair: &mut Pair) {
    let ((child_waits, to_child), (parent_waits, to_parent)) = (sys::pipe(0), sys::pipe(0));
    const TURNS: usize = 20;
    let mut near = pair.near;
    let child = fork_child(|| {
        for turn in 0..TURNS {
            await_turn(child_waits);
            // What the parent has done meanwhile: its exchanges of this turn, and the child's own of the last.
            near.take(300 + 40_000);
            near.skip(300 + 200);
            near.send(700 + turn);
            give_turn(to_parent);
            await_turn(child_waits);
            near.recv(900);
            give_turn(to_parent);
        }
    });
    for turn in 0..TURNS {
        pair.near.send(300);
        pair.far.must(Order::Echo(300, 1));
        pair.near.recv(300);
        pair.near.send(40_000);
        pair.far.must(Order::Recv(40_000));
        pair.far.must(Order::Send(200));
        pair.near.recv(200);
        give_turn(to_child);
        await_turn(parent_waits);
        pair.near.take(700 + turn);
        pair.far.must(Order::Recv(700 + turn));
        pair.far.must(Order::Send(900));
        give_turn(to_child);
        await_turn(parent_waits);
        pair.near.skip(900);
    }
    assert_eq!(wait_child(child), 0);
    pair.exchange();
}

fn a_child_and_its_parent_take_turns_on_a_busy_connection(pair: &mut Pair) {
    take_turns(pair);
}

fn a_child_forked_early_and_its_parent_take_turns(pair: &mut Pair) {
    take_turns(pair);
    pair.far.must(Order::Close);
    assert_eq!(pair.near.recv_to_end(), Ok(0));
}

fn a_child_reads_while_its_parent_writes(pair: &mut Pair) {
    const SIZE: usize = 8 << 20;
    let mut near = pair.near;
    if pair.far.process().is_none() {
        // The far end is in this process: the child would hold both ends. One direction at a time then.
        let child = fork_child(|| near.recv(1000));
        pair.far.must(Order::Send(1000));
        assert_eq!(wait_child(child), 0);
        pair.near.skip(1000);
        pair.exchange();
        return;
    }
    let child = fork_child(|| near.recv(SIZE));
    let far = pair.far.start(Order::Echo(SIZE / 64, 64));
    pair.near.send(SIZE);
    far.finish().expect("echo");
    assert_eq!(wait_child(child), 0);
    pair.near.skip(SIZE);
    pair.exchange();
}

fn a_child_that_exits_ends_nothing(pair: &mut Pair) {
    for _ in 0..5 {
        let child = fork_child(|| {});
        assert_eq!(wait_child(child), 0);
        let fd = pair.near.fd;
        let child = fork_child(|| sys::close(fd).expect("close"));
        assert_eq!(wait_child(child), 0);
        let child = fork_child(|| sys::kill(sys::getpid(), libc::SIGKILL).expect("kill"));
        assert_eq!(wait_child(child), -libc::SIGKILL);
        pair.exchange_pieces(100, 5);
    }
}

fn a_parent_that_closes_leaves_the_connection_to_its_child(pair: &mut Pair) {
    let (waits, go) = sys::pipe(0);
    let mut near = pair.near;
    let child = fork_child(|| {
        await_turn(waits);
        for _ in 0..20 {
            near.send(1000);
            near.recv(1000);
        }
        near.send(5000);
    });
    pair.close();
    give_turn(go);
    let echo = Order::Echo(1000, 20);
    assert_eq!(pair.far.must(echo), 20_000);
    assert_eq!(pair.far.must(Order::RecvToEnd), 5000);
    assert_eq!(wait_child(child), 0);
}

fn a_child_serves_what_its_parent_accepted() {
    let (listener, port) = Family::V4.listener(0).expect("listen");
    let client = fork_child(|| {
        for _ in 0..10 {
            let fd = Family::V4.client_socket(0).expect("socket");
            sys::connect(fd, &Family::V4.target(port)).expect("connect");
            let mut near = End::near(fd);
            for _ in 0..100 {
                near.send(1000);
                near.recv(1000);
            }
            sys::shutdown(fd, libc::SHUT_WR).expect("shutdown");
            assert_eq!(near.recv_to_end(), Ok(3));
            sys::close(fd).expect("close");
        }
    });
    for _ in 0..10 {
        let fd = sys::accept(listener).expect("accept");
        let child = fork_child(|| {
            sys::close(listener).expect("close");
            let mut far = End::far(fd);
            for _ in 0..100 {
                far.recv(1000);
                far.send(1000);
            }
            assert_eq!(far.recv_to_end(), Ok(0));
            far.send(3);
        });
        sys::close(fd).expect("close");
        assert_eq!(wait_child(child), 0);
    }
    assert_eq!(wait_child(client), 0);
}

/// What the child drops has in the memory that its parent shares with the server the place that its own first connection
/// has in the child's.
fn a_child_connects_anew_and_drops_what_it_inherited() {
    const ROUNDS: usize = 200;
    let (listener, port) = Family::V4.listener(0).expect("listen");
    let server = fork_child(|| {
        let accept = || End::far(sys::accept(listener).expect("accept"));
        let serve = |far: &mut End| {
            for _ in 0..ROUNDS {
                far.recv(1000);
                far.send(1000);
            }
        };
        let mut parents = accept();
        serve(&mut parents);
        let mut first = accept();
        serve(&mut first);
        let mut second = accept();
        for _ in 0..ROUNDS {
            // Sent last: there are bytes of both under way.
            first.recv(3000);
            second.recv(3000);
            first.send(10);
            second.send(10);
        }
        assert_eq!(parents.recv_to_end(), Ok(0));
    });
    let connect = || {
        let fd = Family::V4.client_socket(0).expect("socket");
        sys::connect(fd, &Family::V4.target(port)).expect("connect");
        (fd, End::near(fd))
    };
    let ask = |near: &mut End| {
        for _ in 0..ROUNDS {
            near.send(1000);
            near.recv(1000);
        }
    };
    let (inherited, mut near) = connect();
    ask(&mut near);
    let (turn, to_child) = sys::pipe(0);
    let child = fork_child(|| {
        let (_, mut first) = connect();
        ask(&mut first);
        await_turn(turn);
        sys::close(inherited).expect("close");
        let (_, mut second) = connect();
        for _ in 0..ROUNDS {
            second.send(3000);
            first.send(3000);
            first.recv(10);
            second.recv(10);
        }
    });
    sys::close(inherited).expect("close");
    give_turn(to_child);
    assert_eq!(wait_child(child), 0);
    assert_eq!(wait_child(server), 0);
}

/// Its number is also the one that stands for users who have none.
fn a_server_of_the_user_nobody_is_known() {
    const NOBODY: libc::uid_t = 65534;
    let (listener, port) = Family::V4.listener(0).expect("listen");
    let server = fork_child(|| {
        // Without the right to do so it serves as the user it is.
        let _ = sys::set_user(NOBODY);
        let mut far = End::far(sys::accept(listener).expect("accept"));
        for _ in 0..200 {
            far.recv(1000);
            far.send(1000);
        }
    });
    let fd = Family::V4.client_socket(0).expect("socket");
    sys::connect(fd, &Family::V4.target(port)).expect("connect");
    let mut near = End::near(fd);
    for _ in 0..200 {
        near.send(1000);
        near.recv(1000);
    }
    assert_eq!(near.recv_to_end(), Ok(0));
    assert_eq!(wait_child(server), 0);
}

fn a_tree_of_children_uses_one_connection() {
    let mut pair = Pair::warm(smc_tests::pair::Arrangement::FarConnects);
    let far = pair.far.start(Order::Echo(100, 4));
    let mut near = pair.near;
    // Child, grandchild, child again, then the parent.
    let child = fork_child(|| {
        near.send(100);
        near.recv(100);
        let mut inner = near;
        let grandchild = fork_child(|| {
            inner.send(100);
            inner.recv(100);
        });
        assert_eq!(wait_child(grandchild), 0);
        near.take(100);
        near.skip(100);
        near.send(100);
        near.recv(100);
    });
    assert_eq!(wait_child(child), 0);
    pair.near.take(300);
    pair.near.skip(300);
    pair.near.send(100);
    pair.near.recv(100);
    far.finish().expect("echo");
    pair.exchange();
}

fn programs_can_be_started_beside_a_connection(pair: &mut Pair) {
    // Both inherited and not.
    for flags in [0, libc::FD_CLOEXEC, 0] {
        sys::fcntl(pair.near.fd, libc::F_SETFD, flags).expect("F_SETFD");
        let status = Command::new("/bin/true").status().expect("/bin/true");
        assert!(status.success(), "{status}");
        let output =
            Command::new("/bin/sh").args(["-c", "echo out; exec cat /dev/null"]).output().expect("/bin/sh");
        assert_eq!(output.stdout, b"out\n");
        pair.exchange();
    }
    assert_eq!(sys::system("exit 3"), 3);
    pair.exchange();
}

/// Hands the near end to another process by SCM_RIGHTS, which goes on with it.
fn hand_over(pair: &mut Pair, unread: usize) {
    let (ours, theirs) = sys::socketpair();
    let mut near = pair.near;
    let inherited = near.fd;
    let child = fork_child(|| {
        // What is received is all it has: not the inherited number.
        sys::close(inherited).expect("close");
        near.fd = sys::receive_descriptor(theirs);
        near.recv(unread);
        for _ in 0..20 {
            near.send(1000);
            near.recv(1000);
        }
        near.send(2000);
        sys::close(near.fd).expect("close");
    });
    pair.far.must(Order::Send(unread));
    sys::send_descriptor(ours, pair.near.fd);
    pair.close();
    assert_eq!(pair.far.must(Order::Echo(1000, 20)), 20_000);
    assert_eq!(pair.far.must(Order::RecvToEnd), 2000);
    assert_eq!(wait_child(child), 0);
}

fn a_passed_descriptor_goes_on_in_another_process(pair: &mut Pair) {
    hand_over(pair, 5000);
}

fn a_passed_new_descriptor_goes_on_in_another_process(pair: &mut Pair) {
    hand_over(pair, 0);
}

/// Lets `/bin/cat` send back what comes on the near end, on which `unread` bytes wait already.
fn cat_on(pair: &mut Pair, unread: usize) {
    pair.far.must(Order::Send(unread));
    let fd = pair.near.fd;
    let child = fork_child(|| {
        assert_eq!(sys::dup2(fd, 0), Ok(0));
        assert_eq!(sys::dup2(fd, 1), Ok(1));
        sys::close(fd).expect("close");
        let errno = sys::exec("/bin/cat");
        panic!("exec: {}", sys::errno_name(errno));
    });
    pair.close();
    let far = match &pair.far {
        smc_tests::pair::Far::Local(far) => far.lock().expect("the far end").fd,
        // What cat sends back is the far end's own stream, which it does not expect: only the count is looked at.
        smc_tests::pair::Far::Remote { .. } => -1,
    };
    if far >= 0 {
        let text = vec![b't'; 30_000];
        assert_eq!(sys::send(far, &text, 0), Ok(30_000));
        sys::shutdown(far, libc::SHUT_WR).expect("shutdown");
        let mut back = Vec::new();
        let mut buf = [0; 4096];
        loop {
            match sys::recv(far, &mut buf, 0).expect("recv") {
                0 => break,
                n => back.extend_from_slice(&buf[..n]),
            }
        }
        assert_eq!(back.len(), unread + 30_000);
        assert_eq!(back[unread..], text);
    } else {
        pair.far.must(Order::Send(30_000));
        pair.far.must(Order::Shutdown(libc::SHUT_WR));
        assert_eq!(pair.far.must(Order::DrainToEnd), unread + 30_000);
    }
    assert_eq!(wait_child(child), 0);
}

fn another_program_inherits_a_new_connection(pair: &mut Pair) {
    cat_on(pair, 0);
}

fn another_program_inherits_a_busy_connection(pair: &mut Pair) {
    cat_on(pair, 0);
}

fn another_program_inherits_unread_bytes(pair: &mut Pair) {
    cat_on(pair, 3000);
}

const ROUNDS: u64 = 60;

/// A connection between this process and a child that runs `body` on its end until it is killed. The child connects
/// in every second round and accepts in the others.
fn with_victim(round: u64, body: impl FnOnce(RawFd)) -> (RawFd, i32) {
    let family = Family::ALL[round as usize / 2 % 4];
    let (listener, port) = family.listener(0).expect("listen");
    let connect = || {
        let fd = family.client_socket(0).expect("socket");
        sys::connect(fd, &family.target(port)).expect("connect");
        fd
    };
    let accept = || sys::accept4(listener, libc::SOCK_CLOEXEC).expect("accept");
    let child_connects = round % 2 == 0;
    let child = fork_child(|| body(if child_connects { connect() } else { accept() }));
    let near = if child_connects { accept() } else { connect() };
    sys::close(listener).expect("close");
    (near, child)
}

/// Lets the victim work until it has moved a number of bytes that differs from round to round.
fn kill_at_random(random: &mut Random, progress: &SharedCounter, child: i32) {
    let limit = random.size(4 << 20) as u64;
    while progress.get().load(Ordering::Acquire) < limit {
        std::thread::yield_now();
    }
    // Not only at the boundaries of calls.
    for _ in 0..random.below(2000) {
        std::hint::spin_loop();
    }
    sys::kill(child, libc::SIGKILL).expect("kill");
}

fn what_a_killed_sender_has_sent_arrives() {
    let mut random = Random::new(1);
    for round in 0..ROUNDS {
        let progress = SharedCounter::new();
        let piece = random.size(100_000);
        let (near, child) = with_victim(round, |fd| {
            let mut far = End::far(fd);
            loop {
                far.send(piece);
                progress.get().fetch_add(piece as u64, Ordering::Release);
            }
        });
        let mut near = End::near(near);
        let reader = std::thread::spawn(move || near.recv_to_end());
        kill_at_random(&mut random, &progress, child);
        assert_eq!(wait_child(child), -libc::SIGKILL);
        let sent = progress.get().load(Ordering::Acquire) as usize;
        let received = reader.join().expect("the reader").expect("the kernel delivers what was sent");
        assert!((sent..=sent + piece).contains(&received), "round {round}: {sent} sent, {received} received");
        sys::close(near.fd).expect("close");
    }
}

fn a_killed_receiver_ends_the_senders_waiting() {
    let mut random = Random::new(2);
    for round in 0..ROUNDS {
        let progress = SharedCounter::new();
        let (near, child) = with_victim(round, |fd| {
            let mut far = End::far(fd);
            loop {
                let n = far.recv_once(10_000, 0).expect("recv");
                progress.get().fetch_add(n as u64, Ordering::Release);
            }
        });
        let mut near = End::near(near);
        let writer = std::thread::spawn(move || loop {
            if let Err(errno) = near.send_once(30_000, libc::MSG_NOSIGNAL) {
                return errno;
            }
        });
        kill_at_random(&mut random, &progress, child);
        assert_eq!(wait_child(child), -libc::SIGKILL);
        let errno = writer.join().expect("the writer");
        assert!([libc::EPIPE, libc::ECONNRESET].contains(&errno), "{}", sys::errno_name(errno));
        sys::close(near.fd).expect("close");
    }
}

fn a_killed_echo_server_is_noticed() {
    let mut random = Random::new(3);
    for round in 0..ROUNDS {
        let progress = SharedCounter::new();
        let (near, child) = with_victim(round, |fd| {
            let mut far = End::far(fd);
            loop {
                far.recv(100);
                far.send(100);
                progress.get().fetch_add(2000, Ordering::Release);
            }
        });
        let mut near = End::near(near);
        let client = std::thread::spawn(move || loop {
            near.send_once(100, libc::MSG_NOSIGNAL)?;
            let mut left = 100;
            while left > 0 {
                match near.recv_once(left, 0) {
                    Ok(0) => return Ok(()),
                    Ok(n) => left -= n,
                    Err(errno) => return Err(errno),
                }
            }
        });
        kill_at_random(&mut random, &progress, child);
        assert_eq!(wait_child(child), -libc::SIGKILL);
        let end = client.join().expect("the client");
        assert!([Ok(()), Err(libc::EPIPE), Err(libc::ECONNRESET)].contains(&end), "{end:?}");
        sys::close(near.fd).expect("close");
    }
}
