//! What needs one process: calls to be counted, calls on descriptors that are no sockets, a CPU kept busy.

use crate::address::{Address, Listener};
use crate::meter::Usage;
use crate::round_trip::{receive_all, send_all};
use nix::fcntl::{open, OFlag};
use nix::sched::{sched_setaffinity, CpuSet};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::stat::Mode;
use nix::unistd::{pipe, read, write, Pid};
use smc_benches::Account;
use std::io;
use std::time::{Duration, Instant};

/// `count` messages from one end of a connection to the other, in one thread. What an instruction or system call counter
/// says of it does not depend on how two threads happen to meet.
pub fn both_ends(size: usize, epoll: bool, count: u64) -> io::Result<()> {
    let listener = Listener::new(None)?;
    let Address::Port(port) = listener.address() else { unreachable!("no path was given") };
    let client = Address::Port(port).connect(false)?;
    let server = listener.accept(false)?;
    let poller = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    poller.add(&server, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
    let message = vec![b'm'; size];
    let mut answer = vec![0; size];
    let mut events = [EpollEvent::empty(); 8];
    for _ in 0..count {
        send_all(&client, &message)?;
        if epoll {
            assert_eq!(poller.wait(&mut events, EpollTimeout::NONE), Ok(1));
        }
        assert!(receive_all(&server, &mut answer)?, "the stream ended");
    }
    Ok(())
}

#[derive(clap::ValueEnum, Clone, Copy)]
pub enum Foreign {
    /// A byte written to a pipe and read from it.
    Pipe,
    /// 64 bytes read from /dev/zero, which does next to nothing.
    Zero,
    /// /dev/null opened and closed.
    OpenClose,
}

/// How often a second.
pub fn foreign(what: Foreign, measured: Duration) -> io::Result<Account> {
    let (read_end, write_end) = pipe()?;
    let zero = open("/dev/zero", OFlag::O_RDONLY, Mode::empty())?;
    let mut bytes = [0; 64];
    let mut once = || -> nix::Result<()> {
        match what {
            Foreign::Pipe => {
                write(&write_end, b"f")?;
                read(&read_end, &mut bytes[..1])?;
            }
            Foreign::Zero => {
                read(&zero, &mut bytes)?;
            }
            Foreign::OpenClose => drop(open("/dev/null", OFlag::O_RDONLY, Mode::empty())?),
        }
        Ok(())
    };
    let usage = Usage::now();
    let start = Instant::now();
    let mut calls = 0;
    loop {
        for _ in 0..100 {
            once()?;
        }
        calls += 100;
        let elapsed = start.elapsed();
        if elapsed >= measured {
            return Ok(Account { rate: calls as f64 / elapsed.as_secs_f64(), ..usage.account(calls) });
        }
    }
}

/// Until killed.
pub fn hog(cpu: usize) -> ! {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).expect("a CPU's number");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("sched_setaffinity");
    println!("busy");
    loop {
        std::hint::black_box(0);
    }
}
