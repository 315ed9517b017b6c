//! One direction of a connection at one of its ends: a `Writer` or a `Reader`, which use every call there is.

use crate::board::{Board, Direction};
use smc_tests::pattern::Stream;
use smc_tests::random::Random;
use smc_tests::sys::{self, Count, Errno};
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// What both ends know of a connection without talking about it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub connection: u32,
    /// Bytes from the connecting to the accepting end, and back.
    pub totals: [u64; 2],
    /// Whether the sender of the direction shuts it down after its last byte. Otherwise it closes the connection
    /// when the other direction is through as well.
    pub shuts_down: [bool; 2],
}

impl Plan {
    pub fn new(seed: u64, connection: u32, bytes: u64) -> Plan {
        let mut random = Random::new(seed ^ (u64::from(connection) << 32) ^ 0x706c_616e);
        let mut total = || match random.below(8) {
            0 => random.below(64).min(bytes),
            1 => random.size(bytes.max(1) as usize) as u64,
            _ => bytes / 2 + random.below(bytes / 2 + 1),
        };
        let totals = [total(), total()];
        Plan { connection, totals, shuts_down: [random.one_in(2), random.one_in(2)] }
    }

    /// Whether the receiver of `direction` will see the end of the stream before it closes its own end: always,
    /// unless neither end shuts down, in which case each closes when it has all bytes.
    fn end_is_seen(&self) -> bool {
        self.shuts_down[0] || self.shuts_down[1]
    }
}

/// What a step of a reader or writer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something moved, perhaps less than there is.
    Moved,
    /// Less moved than asked for by a call for which that means: there is no more at the moment.
    MovedShort,
    /// EAGAIN.
    WouldBlock,
    /// This direction is through.
    Done,
}

/// Sizes of single calls, and how the descriptor is used.
#[derive(Clone, Copy)]
pub struct Style {
    pub max_size: usize,
    pub nonblocking: bool,
}

fn fail(stream: Stream, what: &str, errno: Errno) -> String {
    format!(
        "connection {} direction {}: {what} failed: {}",
        stream.connection,
        stream.direction,
        sys::errno_name(errno)
    )
}

/// Cuts `buf` into up to eight parts, some of them empty.
fn parts<'a>(buf: &'a [u8], random: &mut Random) -> Vec<&'a [u8]> {
    let mut rest = buf;
    let mut parts = Vec::new();
    for _ in 0..random.below(8) {
        let (part, tail) = rest.split_at(random.below(rest.len() as u64 + 1) as usize);
        parts.push(part);
        rest = tail;
    }
    parts.push(rest);
    parts
}

fn parts_mut<'a>(buf: &'a mut [u8], random: &mut Random) -> Vec<&'a mut [u8]> {
    let mut rest = buf;
    let mut parts = Vec::new();
    for _ in 0..random.below(8) {
        let (part, tail) = rest.split_at_mut(random.below(rest.len() as u64 + 1) as usize);
        parts.push(part);
        rest = tail;
    }
    parts.push(rest);
    parts
}

/// The pieces of at least one byte that a multi-message call takes; an empty message would not count as read.
fn messages(total: usize, random: &mut Random) -> Vec<usize> {
    let mut rest = total;
    let mut sizes = Vec::new();
    while rest > 0 && sizes.len() < 4 {
        let size = random.size(rest);
        sizes.push(size);
        rest -= size;
    }
    sizes
}

/// Only of calls that fill or take from one buffer in one go does a short count say that the socket is empty or
/// full: what fails to move in the others may be for want of room in a pipe, or have arrived between two messages.
fn moved(what: &str, n: usize, asked: usize) -> Step {
    let conclusive = !(what.starts_with("splice") || what == "sendfile" || what == "recvmmsg");
    if conclusive && n < asked {
        Step::MovedShort
    } else {
        Step::Moved
    }
}

pub struct Writer {
    stream: Stream,
    board: Arc<Board>,
    total: u64,
    offset: u64,
    shuts_down: bool,
    style: Style,
    random: Random,
    buf: Vec<u8>,
    /// For splice, made when first used, with the bytes that lie in it.
    pipe: Option<(RawFd, RawFd)>,
    in_pipe: usize,
    done: bool,
}

impl Writer {
    pub fn new(seed: u64, plan: &Plan, direction: u32, style: Style, board: Arc<Board>) -> Writer {
        let stream = Stream { seed, connection: plan.connection, direction };
        Writer {
            stream,
            board,
            total: plan.totals[direction as usize],
            offset: 0,
            shuts_down: plan.shuts_down[direction as usize],
            style,
            random: Random::new(seed ^ u64::from(plan.connection * 4 + direction)),
            buf: Vec::new(),
            pipe: None,
            in_pipe: 0,
            done: false,
        }
    }

    fn direction(&self) -> &Direction {
        self.board.direction(self.stream.connection, self.stream.direction)
    }

    pub fn done(&self) -> bool {
        self.done
    }

    /// One call, or the shutdown that ends the direction.
    pub fn step(&mut self, fd: RawFd) -> Result<Step, String> {
        if self.done {
            return Ok(Step::Done);
        }
        if self.offset == self.total {
            return self.finish(fd);
        }
        let size = self.random.size(self.style.max_size).min((self.total - self.offset) as usize);
        let before = self.offset;
        let (what, asked, result) = self.call(fd, size);
        match result {
            Ok(n) if n > asked => Err(format!("{what} of {asked} bytes returned {n}")),
            Ok(0) => Err(fail(self.stream, &format!("{what} of {asked} bytes returned 0 and"), 0)),
            Ok(n) => {
                self.offset = before + n as u64;
                self.direction().sent.store(self.offset, Ordering::Release);
                self.board.progress();
                if self.offset == self.total {
                    return self.finish(fd);
                }
                Ok(moved(what, n, asked))
            }
            Err(libc::EAGAIN) => Ok(Step::WouldBlock),
            Err(libc::EINTR) => Ok(Step::Moved),
            Err(errno) => Err(fail(self.stream, &format!("{what} at offset {before}"), errno)),
        }
    }

    fn finish(&mut self, fd: RawFd) -> Result<Step, String> {
        self.done = true;
        self.direction().sender_done.store(1, Ordering::Release);
        if self.shuts_down {
            sys::shutdown(fd, libc::SHUT_WR).map_err(|e| fail(self.stream, "shutdown", e))?;
            self.direction().sender_done.store(2, Ordering::Release);
        }
        self.board.progress();
        Ok(Step::Done)
    }

    /// Tells the watcher that the descriptor is closed, and releases what the writer owns.
    pub fn closed(&mut self) {
        self.direction().sender_done.store(2, Ordering::Release);
        if let Some((reader, writer)) = self.pipe.take() {
            let _ = sys::close(reader);
            let _ = sys::close(writer);
        }
    }

    /// The name of the call, how many bytes it was asked to move, and what it returned.
    fn call(&mut self, fd: RawFd, size: usize) -> (&'static str, usize, Count) {
        if self.in_pipe > 0 {
            return self.splice_from_pipe(fd);
        }
        self.buf.resize(size, 0);
        self.stream.fill(self.offset, &mut self.buf);
        let buf = &self.buf[..];
        let random = &mut self.random;
        // MSG_MORE lets the kernel hold the bytes back, so never with the last.
        let more = size as u64 != self.total - self.offset && random.one_in(16);
        let flags = if more { libc::MSG_MORE } else { 0 }
            | if random.one_in(2) { libc::MSG_NOSIGNAL } else { 0 }
            | if random.one_in(8) { libc::MSG_DONTWAIT } else { 0 };
        match random.below(13) {
            0 => ("write", size, sys::write(fd, buf)),
            1 => ("__write", size, sys::write_alias(fd, buf)),
            2 => ("writev", size, sys::writev(fd, &parts(buf, random))),
            3 => ("send", size, sys::send(fd, buf, flags)),
            4 => ("__send", size, sys::send_alias(fd, buf, flags)),
            5 => ("sendto", size, sys::sendto(fd, buf, flags)),
            6 => ("sendmsg", size, sys::sendmsg(fd, &parts(buf, random), flags)),
            7 => {
                let mut at = 0;
                let mut list = Vec::new();
                for n in messages(size, random) {
                    list.push(&buf[at..at + n]);
                    at += n;
                }
                ("sendmmsg", at, sys::sendmmsg(fd, &list, flags).map(|sent| sent.iter().sum()))
            }
            8 => ("pwritev2", size, sys::pwritev2(fd, &parts(buf, random), 0)),
            9 => ("pwritev64v2", size, sys::pwritev64v2(fd, &parts(buf, random), 0)),
            10 => ("sendfile", size, self.send_file(fd)),
            11 => {
                let result = if random.one_in(2) { sys::send(fd, buf, flags) } else { sys::write(fd, buf) };
                ("send or write", size, result)
            }
            _ => {
                let n = size.min(32 << 10);
                let (_, into) =
                    *self.pipe.get_or_insert_with(|| sys::pipe(libc::O_NONBLOCK | libc::O_CLOEXEC));
                match sys::write(into, &buf[..n]) {
                    Ok(written) => self.in_pipe = written,
                    Err(errno) => return ("write to an empty pipe", n, Err(errno)),
                }
                self.splice_from_pipe(fd)
            }
        }
    }

    /// What is in the pipe comes first: nothing else may be sent before it is gone.
    fn splice_from_pipe(&mut self, fd: RawFd) -> (&'static str, usize, Count) {
        let (from, _) = self.pipe.expect("bytes in the pipe");
        let asked = self.in_pipe;
        let flags = if self.style.nonblocking { libc::SPLICE_F_NONBLOCK } else { 0 };
        let result = sys::splice(from, fd, asked, flags);
        if let Ok(n) = result {
            self.in_pipe -= n.min(asked);
        }
        ("splice to the socket", asked, result)
    }

    /// Sends the buffer from a file. A new file each time: the kernel may hold on to its pages after the call.
    fn send_file(&mut self, fd: RawFd) -> Count {
        let file = sys::memfd();
        let start = self.random.below(10_000) as i64;
        let size = self.buf.len();
        sys::pwrite(file, &self.buf, start)?;
        let large = self.random.one_in(2);
        let call = if large { sys::sendfile64 } else { sys::sendfile };
        let result = if self.random.one_in(2) {
            let mut offset = start;
            let result = call(fd, file, Some(&mut offset), size);
            let moved = result.unwrap_or(0) as i64;
            assert_eq!(offset, start + moved, "sendfile returned {result:?} and left another offset");
            assert_eq!(
                sys::lseek(file, 0, libc::SEEK_CUR),
                Ok(0),
                "sendfile with an offset moved the file's"
            );
            result
        } else {
            sys::lseek(file, start, libc::SEEK_SET)?;
            let result = call(fd, file, None, size);
            let moved = result.unwrap_or(0) as i64;
            let position = sys::lseek(file, 0, libc::SEEK_CUR);
            assert_eq!(
                position,
                Ok(start + moved),
                "sendfile returned {result:?} and left another file position"
            );
            result
        };
        sys::close(file)?;
        result
    }
}

pub struct Reader {
    stream: Stream,
    board: Arc<Board>,
    total: u64,
    offset: u64,
    end_is_seen: bool,
    style: Style,
    random: Random,
    buf: Vec<u8>,
    pipe: Option<(RawFd, RawFd)>,
    done: bool,
}

/// What a reading call returned for: bytes to check and skip, bytes to check only, or bytes only counted.
enum Got {
    Bytes(usize),
    Peeked(usize),
    Discarded(usize),
}

impl Reader {
    pub fn new(seed: u64, plan: &Plan, direction: u32, style: Style, board: Arc<Board>) -> Reader {
        Reader {
            stream: Stream { seed, connection: plan.connection, direction },
            board,
            total: plan.totals[direction as usize],
            offset: 0,
            end_is_seen: plan.end_is_seen(),
            style,
            random: Random::new(seed ^ u64::from(plan.connection * 4 + 2 + direction)),
            buf: Vec::new(),
            pipe: None,
            done: false,
        }
    }

    fn direction(&self) -> &Direction {
        self.board.direction(self.stream.connection, self.stream.direction)
    }

    pub fn done(&self) -> bool {
        self.done
    }

    /// One call.
    pub fn step(&mut self, fd: RawFd) -> Result<Step, String> {
        if self.done {
            return Ok(Step::Done);
        }
        if self.offset == self.total && !self.end_is_seen {
            return Ok(self.finish());
        }
        let left = self.total - self.offset;
        let mut size = self.random.size(self.style.max_size);
        if !self.end_is_seen {
            // Nobody would end a MSG_WAITALL for more.
            size = size.min(left as usize);
        }
        self.buf.resize(size, 0);
        let before = self.offset;
        let (what, asked, result) = self.call(fd, size);
        let consumed = match result {
            Err(libc::EAGAIN) => return Ok(Step::WouldBlock),
            Err(libc::EINTR) => return Ok(Step::Moved),
            Err(errno) => return Err(fail(self.stream, &format!("{what} at offset {before}"), errno)),
            Ok(Got::Peeked(n)) => {
                self.check(what, n, asked)?;
                // A peek says nothing about what a read would leave.
                return Ok(Step::Moved);
            }
            Ok(Got::Bytes(n)) => {
                self.check(what, n, asked)?;
                n
            }
            Ok(Got::Discarded(n)) => n,
        };
        if consumed == 0 {
            return self.end(what, fd);
        }
        self.offset += consumed as u64;
        if self.offset > self.total {
            return Err(format!(
                "connection {} direction {}: {} bytes received of {}",
                self.stream.connection, self.stream.direction, self.offset, self.total
            ));
        }
        self.direction().received.store(self.offset, Ordering::Release);
        self.board.progress();
        if self.offset == self.total {
            self.direction().receiver_done.store(1, Ordering::Release);
            if !self.end_is_seen {
                return Ok(self.finish());
            }
        }
        Ok(moved(what, consumed, asked))
    }

    fn check(&self, what: &str, n: usize, asked: usize) -> Result<(), String> {
        if n > asked {
            return Err(format!("{what} of {asked} bytes returned {n}"));
        }
        self.stream.check(self.offset, &self.buf[..n]).map_err(|e| format!("{e}, by {what} of {asked} bytes"))
    }

    /// A call returned 0.
    fn end(&mut self, what: &str, fd: RawFd) -> Result<Step, String> {
        if self.offset != self.total || !self.end_is_seen {
            return Err(format!(
                "connection {} direction {}: end of stream by {what} at offset {} of {} ({} sent)",
                self.stream.connection,
                self.stream.direction,
                self.offset,
                self.total,
                self.direction().sent.load(Ordering::Acquire),
            ));
        }
        // The end stays the end.
        let again = sys::recv(fd, &mut [0; 8], libc::MSG_DONTWAIT);
        if again != Ok(0) {
            return Err(format!(
                "after the end of the stream, {what} returned 0 but the next recv {again:?}"
            ));
        }
        Ok(self.finish())
    }

    fn finish(&mut self) -> Step {
        self.done = true;
        self.direction().receiver_done.store(2, Ordering::Release);
        self.board.progress();
        if let Some((from, into)) = self.pipe.take() {
            let _ = sys::close(from);
            let _ = sys::close(into);
        }
        Step::Done
    }

    fn call(&mut self, fd: RawFd, size: usize) -> (&'static str, usize, Result<Got, Errno>) {
        let random = &mut self.random;
        let buf = &mut self.buf[..];
        let dontwait = if random.one_in(8) { libc::MSG_DONTWAIT } else { 0 };
        let (what, asked, result) = match random.below(18) {
            0 => ("read", size, sys::read(fd, buf)),
            1 => ("__read", size, sys::read_alias(fd, buf)),
            2 => ("__read_chk", size, sys::read_chk(fd, buf)),
            3 => ("readv", size, sys::readv(fd, &mut parts_mut(buf, random))),
            4 => ("preadv2", size, sys::preadv2(fd, &mut parts_mut(buf, random), 0)),
            5 => ("preadv64v2", size, sys::preadv64v2(fd, &mut parts_mut(buf, random), 0)),
            6 => ("recv", size, sys::recv(fd, buf, dontwait)),
            7 => ("__recv_chk", size, sys::recv_chk(fd, buf, dontwait)),
            8 => ("recvfrom", size, sys::recvfrom(fd, buf, dontwait)),
            9 => ("__recvfrom_chk", size, sys::recvfrom_chk(fd, buf, dontwait)),
            10 => ("recvmsg", size, sys::recvmsg(fd, &mut parts_mut(buf, random), dontwait).map(|r| r.bytes)),
            11 => return self.receive_messages(fd, size),
            12 => ("recv MSG_WAITALL", size, sys::recv(fd, buf, libc::MSG_WAITALL)),
            13 => {
                let result = sys::recv(fd, buf, libc::MSG_PEEK | dontwait);
                // The end of the stream is left to a call that consumes.
                return match result {
                    Ok(0) => ("recv after a peek", size, sys::recv(fd, buf, dontwait).map(Got::Bytes)),
                    other => ("recv MSG_PEEK", size, other.map(Got::Peeked)),
                };
            }
            14 if random.one_in(8) => {
                return (
                    "recv MSG_TRUNC",
                    size,
                    sys::recv(fd, buf, libc::MSG_TRUNC | dontwait).map(Got::Discarded),
                );
            }
            15 => return self.splice_to_pipe(fd, size),
            16 => {
                // What FIONREAD counts is there to be read without waiting.
                let readable = match sys::ioctl_int(fd, libc::FIONREAD, -1) {
                    Ok(n) => n as usize,
                    Err(errno) => return ("ioctl FIONREAD", size, Err(errno)),
                };
                if readable == 0 {
                    ("recv", size, sys::recv(fd, buf, dontwait))
                } else {
                    let n = sys::recv(fd, buf, libc::MSG_DONTWAIT);
                    assert_ne!(n, Err(libc::EAGAIN), "FIONREAD said {readable} bytes");
                    ("recv", size, n)
                }
            }
            _ => ("recv", size, sys::recv(fd, buf, 0)),
        };
        (what, asked, result.map(Got::Bytes))
    }

    /// Up to four messages at once.
    fn receive_messages(&mut self, fd: RawFd, size: usize) -> (&'static str, usize, Result<Got, Errno>) {
        let sizes = messages(size, &mut self.random);
        let mut rest = &mut self.buf[..];
        let mut list = Vec::new();
        for n in &sizes {
            let (part, tail) = rest.split_at_mut(*n);
            list.push(part);
            rest = tail;
        }
        let lengths = match sys::recvmmsg(fd, &mut list, libc::MSG_WAITFORONE) {
            Ok(lengths) => lengths,
            Err(errno) => return ("recvmmsg", size, Err(errno)),
        };
        // Bytes may arrive between two messages: one that is full may follow one that is not.
        let (mut from, mut to) = (0, 0);
        for (size, length) in sizes.iter().zip(&lengths) {
            self.buf.copy_within(from..from + length, to);
            from += size;
            to += length;
        }
        ("recvmmsg", size, Ok(Got::Bytes(to)))
    }

    fn splice_to_pipe(&mut self, fd: RawFd, size: usize) -> (&'static str, usize, Result<Got, Errno>) {
        let (from, into) = *self.pipe.get_or_insert_with(|| sys::pipe(libc::O_NONBLOCK | libc::O_CLOEXEC));
        let size = size.min(32 << 10);
        let flags = if self.style.nonblocking { libc::SPLICE_F_NONBLOCK } else { 0 };
        let moved = match sys::splice(fd, into, size, flags) {
            Ok(n) => n,
            Err(errno) => return ("splice from the socket", size, Err(errno)),
        };
        let mut at = 0;
        while at < moved {
            match sys::read(from, &mut self.buf[at..moved]) {
                Ok(n) if n > 0 => at += n,
                other => {
                    panic!("splice moved {moved} bytes into a pipe, which holds {at} and then {other:?}")
                }
            }
        }
        ("splice from the socket", size, Ok(Got::Bytes(moved)))
    }
}
