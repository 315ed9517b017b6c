//! Round trips with blocking calls: each connection has a thread at both ends.

use crate::address::{Address, Listener};
use crate::meter::{Meter, Usage};
use crate::Work;
use nix::errno::Errno;
use nix::sys::socket::{recv, send, MsgFlags};
use nix::sys::time::TimeSpec;
use nix::time::{clock_gettime, clock_nanosleep, ClockId, ClockNanosleepFlags};
use smc_benches::Account;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Sends all of `message`.
pub fn send_all(fd: &OwnedFd, message: &[u8]) -> nix::Result<()> {
    let mut sent = 0;
    while sent < message.len() {
        sent += send(fd.as_raw_fd(), &message[sent..], MsgFlags::MSG_NOSIGNAL)?;
    }
    Ok(())
}

/// Receives a whole message; false at the end of the stream.
pub fn receive_all(fd: &OwnedFd, message: &mut [u8]) -> nix::Result<bool> {
    let mut received = 0;
    while received < message.len() {
        match recv(fd.as_raw_fd(), &mut message[received..], MsgFlags::empty())? {
            0 => return Ok(false),
            n => received += n,
        }
    }
    Ok(true)
}

/// Sends each message back, until the client closes; the number of messages.
fn echo(fd: &OwnedFd, size: usize) -> nix::Result<u64> {
    let mut message = vec![0; size];
    let mut count = 0;
    loop {
        match receive_all(fd, &mut message) {
            Ok(true) => send_all(fd, &message)?,
            Ok(false) | Err(Errno::ECONNRESET) => return Ok(count),
            Err(errno) => return Err(errno),
        }
        count += 1;
    }
}

pub fn serve(listener: &Listener, work: &Work) -> io::Result<Account> {
    let first = listener.accept(work.nagle)?;
    let usage = Usage::now();
    let messages = std::thread::scope(|scope| -> io::Result<u64> {
        let mut threads = Vec::new();
        for _ in 1..work.connections() {
            let fd = listener.accept(work.nagle)?;
            threads.push(scope.spawn(move || echo(&fd, work.size)));
        }
        let mut messages = echo(&first, work.size)?;
        drop(first);
        for thread in threads {
            messages += thread.join().expect("a thread panicked")?;
        }
        Ok(messages)
    })?;
    Ok(usage.account(messages))
}

pub fn ask(address: &Address, work: &Work) -> io::Result<Account> {
    let connections: Vec<OwnedFd> =
        (0..work.threads).map(|_| address.connect(work.nagle)).collect::<io::Result<_>>()?;
    let usage = Usage::now();
    let meters = std::thread::scope(|scope| -> io::Result<Vec<Meter>> {
        let (first, others) = connections.split_first().expect("at least one thread");
        let threads: Vec<_> =
            others.iter().map(|fd| scope.spawn(move || one_after_the_other(fd, work))).collect();
        let mut meters = vec![one_after_the_other(first, work)?];
        for thread in threads {
            meters.push(thread.join().expect("a thread panicked")?);
        }
        Ok(meters)
    })?;
    Ok(Meter::account(meters, work.measured(), &usage))
}

fn one_after_the_other(fd: &OwnedFd, work: &Work) -> nix::Result<Meter> {
    let message = vec![b'm'; work.size];
    let mut answer = vec![0; work.size];
    let mut meter = Meter::new(work);
    let mut pace = (work.interval_us > 0).then(|| Pace::new(work.interval_us));
    let mut start = Instant::now();
    loop {
        if let Some(pace) = &mut pace {
            pace.wait();
            start = Instant::now();
        }
        send_all(fd, &message)?;
        if !receive_all(fd, &mut answer)? {
            return Err(Errno::ECONNRESET);
        }
        let (now, go_on) = meter.done(start);
        if !go_on {
            return Ok(meter);
        }
        start = now;
    }
}

/// Regular points in time, by the kernel's timer.
struct Pace {
    next: Duration,
    interval: Duration,
}

impl Pace {
    fn new(interval_us: u64) -> Pace {
        // The default of 50 us is half of the interval that is measured.
        nix::sys::prctl::set_timerslack(1).expect("PR_SET_TIMERSLACK");
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC");
        Pace { next: now.into(), interval: Duration::from_micros(interval_us) }
    }

    fn wait(&mut self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC");
        // What was missed is not made up for.
        self.next = (self.next + self.interval).max(now.into());
        let until = TimeSpec::from_duration(self.next);
        let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until);
    }
}
