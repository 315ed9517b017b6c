//! kill -9 of one end of a connection at random moments, many times over in one surviving process: what was sent
//! arrives, the survivor learns of the end, its other connection goes on, and it gathers neither descriptors nor memory.
//! (What a single death looks like to a call is in `behaviour`.)
//!
//!     killing [--seed N] [--rounds N]

use smc_tests::net::Family;
use smc_tests::pair::{wait_for, End};
use smc_tests::random::Random;
use smc_tests::sys::{self, fork_child, wait_child, Errno, SharedCounter};
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::Duration;

/// What the survivor does. The victim does the opposite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Receive,
    Send,
    /// Sends and receives pieces in turn.
    Exchange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Blocking,
    Poll,
    EpollLevel,
    EpollEdge,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    work: Work,
    survivor: Waiting,
    victim: Waiting,
    victim_connects: bool,
    family: Family,
    piece: usize,
    /// Bytes moved before the kill; 0: as soon as there is a connection.
    progress: u64,
}

impl Round {
    fn choose(number: u64, random: &mut Random) -> Round {
        let waiting = [Waiting::Blocking, Waiting::Poll, Waiting::EpollLevel, Waiting::EpollEdge];
        let pick = |random: &mut Random| waiting[random.below(4) as usize];
        let work = [Work::Receive, Work::Send, Work::Exchange][number as usize % 3];
        let piece = random.size(100_000);
        // Two million exchanges of one byte would take longer than all other rounds together.
        let most = if work == Work::Exchange { (piece as u64 * 5000).min(2 << 20) } else { 2 << 20 };
        Round {
            work,
            survivor: pick(random),
            victim: pick(random),
            victim_connects: random.one_in(2),
            family: Family::ALL[random.below(4) as usize],
            piece,
            progress: if random.one_in(6) { 0 } else { random.size(most as usize) as u64 },
        }
    }
}

/// One end, with the wait for it.
struct Worker {
    end: End,
    waiting: Waiting,
    epfd: RawFd,
}

impl Worker {
    fn new(end: End, waiting: Waiting) -> Worker {
        let epfd = sys::epoll_create();
        if waiting != Waiting::Blocking {
            sys::set_nonblocking(end.fd, true);
        }
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP;
        match waiting {
            Waiting::EpollLevel => sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, end.fd, libc::EPOLLIN as u32, 1),
            Waiting::EpollEdge => {
                sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, end.fd, (events | libc::EPOLLET) as u32, 1)
            }
            _ => Ok(()),
        }
        .expect("epoll_ctl");
        Worker { end, waiting, epfd }
    }

    fn wait(&self, events: i16) {
        match self.waiting {
            Waiting::Blocking => {}
            Waiting::Poll => drop(wait_for(self.end.fd, events, -1)),
            Waiting::EpollLevel => {
                sys::epoll_ctl(self.epfd, libc::EPOLL_CTL_MOD, self.end.fd, events as u32, 1)
                    .expect("epoll_ctl");
                sys::epoll_wait(self.epfd, 1, -1).expect("epoll_wait");
            }
            Waiting::EpollEdge => drop(sys::epoll_wait(self.epfd, 1, -1).expect("epoll_wait")),
        }
    }

    /// One piece; fewer bytes at the end of the stream.
    fn receive(&mut self, n: usize) -> Result<usize, Errno> {
        let mut received = 0;
        while received < n {
            match self.end.recv_once(n - received, 0) {
                Ok(0) => break,
                Ok(more) => received += more,
                Err(libc::EAGAIN) => self.wait(libc::POLLIN),
                Err(errno) => return Err(errno),
            }
        }
        Ok(received)
    }

    /// One piece; `each` hears of every part of it that a call has taken.
    fn send(&mut self, n: usize, mut each: impl FnMut(u64)) -> Result<(), Errno> {
        let mut sent = 0;
        while sent < n {
            match self.end.send_once(n - sent, libc::MSG_NOSIGNAL) {
                Ok(more) => {
                    sent += more;
                    each(more as u64);
                }
                Err(libc::EAGAIN) => self.wait(libc::POLLOUT),
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn close(self) {
        sys::close(self.epfd).and(sys::close(self.end.fd)).expect("close");
    }
}

/// What the victim does until it is killed.
fn suffer(round: Round, fd: RawFd, progress: &AtomicU64) -> ! {
    let mut far = Worker::new(End::far(fd), round.victim);
    let count = |n| {
        progress.fetch_add(n, Ordering::Release);
    };
    loop {
        match round.work {
            Work::Receive => far.send(round.piece, count).expect("send"),
            Work::Send => count(far.receive(round.piece).expect("recv") as u64),
            Work::Exchange => {
                far.receive(round.piece).expect("recv");
                far.send(round.piece, count).expect("send");
            }
        }
    }
}

/// What the survivor does until it notices; what it received, and how it ended.
fn survive(round: Round, fd: RawFd) -> (u64, Result<(), Errno>) {
    let mut near = Worker::new(End::near(fd), round.survivor);
    let mut received = 0;
    let end = loop {
        let done = match round.work {
            Work::Receive => near.receive(round.piece),
            Work::Send => near.send(round.piece, |_| {}).map(|()| round.piece),
            Work::Exchange => near.send(round.piece, |_| {}).and_then(|()| near.receive(round.piece)),
        };
        match done {
            Ok(n) => {
                received += n as u64;
                if n < round.piece {
                    break Ok(());
                }
            }
            Err(errno) => break Err(errno),
        }
    };
    near.close();
    (received, end)
}

fn play(round: Round, random: &mut Random, counters: &[SharedCounter; 2]) {
    let [progress, opened] = counters;
    for counter in counters {
        counter.get().store(0, Ordering::Release);
    }
    let (listener, port) = round.family.listener(0).expect("listen");
    let connect = || {
        let fd = round.family.client_socket(0).expect("socket");
        sys::connect(fd, &round.family.target(port)).expect("connect");
        fd
    };
    let accept = || sys::accept4(listener, libc::SOCK_CLOEXEC).expect("accept");
    let victim = fork_child(|| {
        let fd = if round.victim_connects { connect() } else { accept() };
        opened.get().store(1, Ordering::Release);
        suffer(round, fd, progress.get());
    });
    let fd = if round.victim_connects { accept() } else { connect() };
    sys::close(listener).expect("close");
    // Not only at the boundaries of calls.
    let spins = random.below(3000);
    let survivor = std::thread::spawn(move || survive(round, fd));
    // One that nobody has accepted would be reset.
    while opened.get().load(Ordering::Acquire) == 0 || progress.get().load(Ordering::Acquire) < round.progress
    {
        std::thread::yield_now();
    }
    (0..spins).for_each(|_| std::hint::spin_loop());
    sys::kill(victim, libc::SIGKILL).expect("kill");
    assert_eq!(wait_child(victim), -libc::SIGKILL);
    let (received, end) = survivor.join().expect("the survivor");
    let sent = progress.get().load(Ordering::Acquire);
    match (round.work, end) {
        (Work::Receive, Ok(())) => assert!(received >= sent, "{received} of {sent} bytes received"),
        // A victim that has not read everything resets the connection, as the kernel has it: what it had not got
        // rid of is lost.
        (Work::Exchange, Ok(()) | Err(libc::ECONNRESET | libc::EPIPE)) => {}
        (Work::Send, Err(libc::ECONNRESET | libc::EPIPE)) => {}
        (_, end) => panic!("it ended with {:?}", end.map_err(sys::errno_name)),
    }
}

/// A process that echoes on one connection all the time.
struct Bystander {
    near: End,
    pid: i32,
}

impl Bystander {
    fn start() -> Bystander {
        let (listener, port) = Family::V4.listener(0).expect("listen");
        let pid = fork_child(|| {
            let fd = Family::V4.client_socket(0).expect("socket");
            sys::connect(fd, &Family::V4.target(port)).expect("connect");
            sys::close(listener).expect("close");
            let mut buf = [0; 3000];
            while let Ok(n @ 1..) = sys::recv(fd, &mut buf, 0) {
                let mut sent = 0;
                while sent < n {
                    sent += sys::send(fd, &buf[sent..n], 0).expect("send");
                }
            }
        });
        let near = End::near(sys::accept4(listener, libc::SOCK_CLOEXEC).expect("accept"));
        sys::close(listener).expect("close");
        Bystander { near, pid }
    }

    fn exchange(&mut self) {
        for n in [1, 500, 3000] {
            let out = self.near.take(n);
            assert_eq!(sys::send(self.near.fd, &out, 0), Ok(n));
            let mut back = vec![0; n];
            let mut received = 0;
            while received < n {
                match sys::recv(self.near.fd, &mut back[received..], 0).expect("recv") {
                    0 => panic!("the bystander's stream ended"),
                    more => received += more,
                }
            }
            assert!(out == back, "the bystander's bytes are wrong");
        }
    }

    fn end(self) {
        sys::shutdown(self.near.fd, libc::SHUT_WR).expect("shutdown");
        assert_eq!(wait_child(self.pid), 0);
        sys::close(self.near.fd).expect("close");
    }
}

/// What this process holds: descriptors, mappings, and address space in KiB.
#[derive(Clone, Copy, Debug, Default)]
struct Holdings {
    descriptors: u64,
    mappings: u64,
    kib: u64,
}

impl Holdings {
    fn now() -> Holdings {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        let status = text("/proc/self/status");
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
        let kib = size.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse().ok());
        Holdings {
            descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            mappings: text("/proc/self/maps").lines().count() as u64,
            kib: kib.unwrap_or(0),
        }
    }

    fn max(self, other: Holdings) -> Holdings {
        Holdings {
            descriptors: self.descriptors.max(other.descriptors),
            mappings: self.mappings.max(other.mappings),
            kib: self.kib.max(other.kib),
        }
    }

    /// The second half of the rounds took no more than the first, but for what one round may take: a segment and its
    /// doorbells kept until the next peer comes, and a thread's stack and arena.
    fn stays_within(self, first: Holdings) -> bool {
        self.descriptors <= first.descriptors + 8
            && self.mappings <= first.mappings + 8
            && self.kib <= first.kib + (96 << 10)
    }
}

/// Names of rendezvous that this process still has open: abstract Unix names (the first byte shown as `@`).
fn open_names() -> Vec<String> {
    let links = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let own: Vec<_> = links
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    // Num RefCount Protocol Flags Type St Inode Path
    let is_own =
        |line: &&str| line.split_whitespace().nth(6).is_some_and(|inode| own.iter().any(|o| o == inode));
    table.lines().filter(is_own).filter(|line| line.contains("@smc")).map(str::to_owned).collect()
}

/// The round under way, by number.
static ROUND: Mutex<(u64, Option<Round>)> = Mutex::new((0, None));

/// Ends the program when a round hangs: neither the victim gets on nor the round ends.
fn watch(progress: &'static AtomicU64) {
    const LIMIT: Duration = Duration::from_secs(120);
    std::thread::spawn(|| loop {
        let under_way = || (*ROUND.lock().expect("the round"), progress.load(Ordering::Acquire));
        let ((before, round), moved) = under_way();
        std::thread::sleep(LIMIT);
        let ((now, _), moved_now) = under_way();
        if (now, moved_now) == (before, moved) {
            eprintln!("killing: round {before} hangs after {moved} bytes: {round:?}");
            std::process::exit(1);
        }
    });
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (mut seed, mut rounds) = (u64::from(std::process::id()), 300);
    while let Some(arg) = args.next() {
        match (arg.as_str(), args.next().and_then(|value| value.parse().ok())) {
            ("--seed", Some(value)) => seed = value,
            ("--rounds", Some(value)) => rounds = value,
            _ => {
                eprintln!("usage: killing [--seed N] [--rounds N]");
                return ExitCode::from(2);
            }
        }
    }
    println!("killing: seed {seed}");
    let mut random = Random::new(seed);
    let counters = [SharedCounter::new(), SharedCounter::new()];
    watch(counters[0].get());
    let mut bystander = Bystander::start();
    let mut halves = [Holdings::default(); 2];
    for number in 0..rounds {
        let round = Round::choose(number, &mut random);
        *ROUND.lock().expect("the round") = (number, Some(round));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            play(round, &mut random, &counters);
            bystander.exchange();
        }));
        if result.is_err() {
            eprintln!("killing: round {number}: {round:?}");
            println!("killing: {number} passed, 1 failed");
            return ExitCode::FAILURE;
        }
        let half = &mut halves[usize::from(number >= rounds / 2)];
        *half = half.max(Holdings::now());
    }
    bystander.end();
    let stable = halves[1].stays_within(halves[0]);
    if !stable {
        eprintln!("killing: from {:?} to {:?}", halves[0], halves[1]);
    }
    // Every connection is closed.
    let names = open_names();
    if !names.is_empty() {
        eprintln!("killing: names are left: {names:?}");
    }
    let failed = u8::from(!stable) + u8::from(!names.is_empty());
    println!("killing: {rounds} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}
