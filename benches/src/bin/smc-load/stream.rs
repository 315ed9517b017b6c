//! One way: the server sends messages as fast as it can, the client receives, and closes when it has measured.

use crate::address::{Address, Listener};
use crate::meter::Usage;
use crate::Work;
use nix::errno::Errno;
use nix::sys::socket::{recv, send, MsgFlags};
use smc_benches::Account;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

/// The receiver takes up to this many bytes with a call, or a message if that is more.
const RECEIVE: usize = 64 * 1024;

/// Buffers of `size` bytes, one after the other through `span` bytes of memory, all of it touched.
struct Buffers {
    memory: Vec<u8>,
    size: usize,
    at: usize,
}

impl Buffers {
    fn new(size: usize, span: usize) -> Buffers {
        Buffers { memory: vec![b's'; span.max(size) / size * size], size, at: 0 }
    }

    fn next(&mut self) -> &mut [u8] {
        let start = self.at;
        self.at = if start + self.size < self.memory.len() { start + self.size } else { 0 };
        &mut self.memory[start..start + self.size]
    }
}

pub fn serve(listener: &Listener, work: &Work) -> io::Result<Account> {
    let mut buffers = Buffers::new(work.size, work.span);
    let fd = listener.accept(work.nagle)?;
    let usage = Usage::now();
    let mut messages = 0;
    loop {
        let message = buffers.next();
        let mut sent = 0;
        while sent < message.len() {
            match send(fd.as_raw_fd(), &message[sent..], MsgFlags::MSG_NOSIGNAL) {
                Ok(n) => sent += n,
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(usage.account(messages)),
                Err(errno) => return Err(errno.into()),
            }
        }
        messages += 1;
    }
}

pub fn receive(address: &Address, work: &Work) -> io::Result<Account> {
    let mut buffers = Buffers::new(work.size.max(RECEIVE), work.span);
    let fd = address.connect(work.nagle)?;
    let usage = Usage::now();
    let mut begin = Instant::now() + work.warmup();
    let (mut warm, mut before, mut bytes, mut calls) = (false, 0, 0_usize, 0_u32);
    let elapsed = loop {
        match recv(fd.as_raw_fd(), buffers.next(), MsgFlags::empty())? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => bytes += n,
        }
        // A look at the clock costs as much as a small read.
        calls = calls.wrapping_add(1);
        if calls % 16 != 0 {
            continue;
        }
        let now = Instant::now();
        if !warm && now >= begin {
            (warm, begin, before, bytes) = (true, now, bytes, 0);
        } else if warm && now - begin >= work.measured() {
            break now - begin;
        }
    };
    let messages = |bytes: usize| bytes as f64 / work.size as f64;
    Ok(Account {
        rate: messages(bytes) / elapsed.as_secs_f64(),
        ..usage.account(messages(before + bytes) as u64)
    })
}
