//! Round trips with epoll, level-triggered and not blocking: one thread of the server, any number of connections.

use crate::address::{Address, Listener};
use crate::meter::{Meter, Usage};
use crate::round_trip::{receive_all, send_all};
use crate::{Kind, Work};
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{recv, send, MsgFlags};
use smc_benches::Account;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

/// Events taken with one epoll_wait.
const EVENTS: usize = 64;
/// Exchanges of a connection before it falls silent: enough for it to have moved.
const BEFORE_IDLE: usize = 24;
/// A value that memcached is asked for has this size, in bytes.
const VALUE: usize = 100;

fn nonblocking(fd: &OwnedFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

fn wait(epoll: &Epoll, events: &mut [EpollEvent]) -> nix::Result<usize> {
    loop {
        match epoll.wait(events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

pub fn serve(listener: &Listener, work: &Work) -> io::Result<Account> {
    const LISTENER: u64 = u64::MAX;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut events = [EpollEvent::empty(); EVENTS];
    let mut connections: Vec<Option<OwnedFd>> = Vec::new();
    let mut message = vec![0; work.size];
    let mut usage = None;
    let (mut messages, mut ended) = (0, 0);
    while ended < work.connections() {
        let ready = wait(&epoll, &mut events)?;
        for event in &events[..ready] {
            if event.data() == LISTENER {
                let fd = listener.accept(work.nagle)?;
                usage.get_or_insert_with(Usage::now);
                nonblocking(&fd)?;
                epoll.add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, connections.len() as u64))?;
                connections.push(Some(fd));
                continue;
            }
            let connection = &mut connections[event.data() as usize];
            let Some(fd) = connection else { continue };
            // A message is small: it comes whole, and there is room for the answer.
            match recv(fd.as_raw_fd(), &mut message, MsgFlags::empty()) {
                Ok(0) | Err(Errno::ECONNRESET) => {
                    *connection = None;
                    ended += 1;
                }
                Ok(n) => {
                    assert_eq!(n, work.size, "part of a message");
                    assert_eq!(send(fd.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL), Ok(n));
                    messages += 1;
                }
                Err(Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(usage.expect("a connection came before it ended").account(messages))
}

/// What is sent, and how long the answer is.
struct Exchange {
    request: Vec<u8>,
    answer: usize,
}

impl Exchange {
    fn new(work: &Work) -> Exchange {
        if work.work == Kind::Memcached {
            let head = format!("VALUE key 0 {VALUE}\r\n");
            return Exchange {
                request: b"get key\r\n".to_vec(),
                answer: head.len() + VALUE + "\r\nEND\r\n".len(),
            };
        }
        Exchange { request: vec![b'm'; work.size], answer: work.size }
    }

    /// Once with blocking calls.
    fn make(&self, fd: &OwnedFd) -> io::Result<()> {
        send_all(fd, &self.request)?;
        match receive_all(fd, &mut vec![0; self.answer])? {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn store_value(address: &Address) -> io::Result<()> {
    let fd = address.connect(false)?;
    let value = "v".repeat(VALUE);
    send_all(&fd, format!("set key 0 0 {VALUE}\r\n{value}\r\n").as_bytes())?;
    let mut answer = [0; 8];
    receive_all(&fd, &mut answer)?;
    assert_eq!(&answer, b"STORED\r\n");
    Ok(())
}

pub fn ask(address: &Address, work: &Work) -> io::Result<Account> {
    if work.work == Kind::Memcached {
        store_value(address)?;
    }
    let exchange = Exchange::new(work);
    let connect = || -> io::Result<OwnedFd> {
        let fd = address.connect(work.nagle)?;
        // With idle connections beside them the busy ones move first: there may not be room for all.
        for _ in 0..if work.idle > 0 { BEFORE_IDLE } else { 0 } {
            exchange.make(&fd)?;
        }
        Ok(fd)
    };
    let busy: Vec<OwnedFd> = (0..work.threads * work.each).map(|_| connect()).collect::<io::Result<_>>()?;
    let _idle: Vec<OwnedFd> = (0..work.idle).map(|_| connect()).collect::<io::Result<_>>()?;
    if work.threads == 0 {
        // Idle connections only: they stay until standard input ends.
        println!("ready");
        io::copy(&mut io::stdin(), &mut io::sink())?;
        return Ok(Account::default());
    }
    let usage = Usage::now();
    let meters = std::thread::scope(|scope| -> io::Result<Vec<Meter>> {
        let mut chunks = busy.chunks(work.each);
        let first = chunks.next().expect("at least one thread");
        let threads: Vec<_> = chunks.map(|fds| scope.spawn(|| one_thread(fds, work, &exchange))).collect();
        let mut meters = vec![one_thread(first, work, &exchange)?];
        for thread in threads {
            meters.push(thread.join().expect("a thread panicked")?);
        }
        Ok(meters)
    })?;
    Ok(Meter::account(meters, work.measured(), &usage))
}

fn one_thread(fds: &[OwnedFd], work: &Work, exchange: &Exchange) -> io::Result<Meter> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut events = [EpollEvent::empty(); EVENTS];
    let mut connections = Vec::new();
    for (i, fd) in fds.iter().enumerate() {
        nonblocking(fd)?;
        epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, i as u64))?;
        connections.push((fd, 0, Instant::now()));
    }
    let mut meter = Meter::new(work);
    let mut answer = vec![0; exchange.answer];
    for (fd, _, start) in &mut connections {
        *start = Instant::now();
        send_all(fd, &exchange.request)?;
    }
    loop {
        let ready = wait(&epoll, &mut events)?;
        for event in &events[..ready] {
            let (fd, received, start) = &mut connections[event.data() as usize];
            match recv(fd.as_raw_fd(), &mut answer[*received..], MsgFlags::empty()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => *received += n,
                Err(Errno::EAGAIN) => continue,
                Err(errno) => return Err(errno.into()),
            }
            if *received == exchange.answer {
                let (now, go_on) = meter.done(*start);
                if !go_on {
                    return Ok(meter);
                }
                (*received, *start) = (0, now);
                send_all(fd, &exchange.request)?;
            }
        }
    }
}
