//! A relay: a process of ours that goes on with a connection for somebody who knows nothing of the ring.
//!
//! Unread bytes of the ring can go back to TCP only with the peer's help ([`Conn::recall`]). Where the peer does not help
//! (it has shut down its sending side, or makes no call), the descriptor is exchanged for one end of a new TCP connection
//! over the loopback interface, and a forked process with the other end carries the bytes between the two, in the ring
//! and over TCP, until both directions have ended. Nothing is lost, and options of TCP work; what differs are the addresses
//! that getsockname and getpeername tell.
//!
//! The process makes raw system calls only, and none of malloc: it is the copy of a process with threads. It is nobody's
//! child (the one between is waited for here), so no program gets a SIGCHLD for it.

use crate::fd_table::{self, Entry};
use crate::{guard, life};
use libc::{c_int, pollfd};
use smc_core::conn::io::{Buffers, Source};
use smc_core::conn::rx::RxOp;
use smc_core::conn::tx::TxOp;
use smc_core::conn::wait::Step;
use smc_core::conn::watch::{Watch, LOOK_NS};
use smc_core::conn::{Conn, Way};
use smc_core::link::Bell;
use smc_core::process;
use smc_core::ring::asked;
use smc_core::sys::{self, sock, Errno, Result};

/// Bytes under way in one direction within the relay.
const ROOM: usize = 64 << 10;
/// For signals that a program may get while nothing of ours must be interrupted: all of them.
const ALL_SIGNALS: u64 = u64::MAX;

/// Puts a relay between `conn`, which this end has pinned to TCP, and the descriptors that stand for it. In a vfork
/// child, between it and `fd` alone: the others are the parent's. False if that was not possible; nothing has changed then.
pub extern "C" fn between(conn: &'static Conn, fd: c_int) -> bool {
    guard::protect(false, || start(conn, fd).is_ok())
}

fn start(conn: &'static Conn, fd: c_int) -> Result<()> {
    let (inner, outer) = pair(fd)?;
    let started = nonblocking_as(fd, outer).and_then(|()| fork_relay(conn, fd, inner));
    sys::fd::close(inner);
    if started.is_ok() {
        exchange(conn, fd, outer);
        log::info!("fd {fd}: the peer did not bring the stream back to TCP: a process relays it");
    }
    sys::fd::close(outer);
    started
}

/// Two ends of one stream: TCP over loopback, of the connection's family if possible; else a pair of Unix sockets.
fn pair(fd: c_int) -> Result<(c_int, c_int)> {
    let v6 = sock::local(fd).is_ok_and(|local| local.v4().is_none());
    if v6 {
        if let Ok(pair) = sock::loopback_pair(true) {
            return Ok(pair);
        }
    }
    sock::loopback_pair(false).or_else(|_| sock::unix_pair())
}

fn nonblocking_as(fd: c_int, other: c_int) -> Result<()> {
    // SAFETY: integer arguments only.
    unsafe {
        let flags = smc_core::sys!(SYS_fcntl, fd, libc::F_GETFL)?;
        smc_core::sys!(SYS_fcntl, other, libc::F_SETFL, flags & libc::O_NONBLOCK as usize)?;
    }
    Ok(())
}

/// Exchanges the descriptors of the connection for duplicates of `outer`.
fn exchange(conn: &'static Conn, fd: c_int, outer: c_int) {
    if life::in_vfork_child() {
        put(outer, fd);
        return;
    }
    let mut next = 0;
    while let Some(number) = descriptor(conn, next) {
        next = number as u32 + 1;
        unsafe { super::fd::closing(number, Entry::Conn(conn)) };
        put(outer, number);
        fd_table::set(number, Entry::NotTcp);
    }
}

/// The first number from `from` on that stands for the connection.
fn descriptor(conn: &'static Conn, from: u32) -> Option<c_int> {
    let mut found = None;
    fd_table::for_each(from, u32::MAX, |number, entry| {
        if entry.same(Entry::Conn(conn)) {
            found = Some(number);
        }
        found.is_none()
    });
    found
}

fn put(outer: c_int, number: c_int) {
    let closes = sys::fd::close_on_exec(number) == Ok(true);
    // SAFETY: integer arguments only.
    let _ = unsafe { smc_core::sys!(SYS_dup3, outer, number, if closes { libc::O_CLOEXEC } else { 0 }) };
}

/// Makes the process, by way of one that exits at once: a child without an exit signal, which a plain wait does not see.
fn fork_relay(conn: &'static Conn, fd: c_int, inner: c_int) -> Result<()> {
    let mask = block_signals(ALL_SIGNALS);
    process::before_relay(conn);
    let made = match clone() {
        Ok(0) => {
            let made = clone();
            if made == Ok(0) {
                guard::protect((), || be_relay(conn, fd, inner));
            }
            exit(made.is_err() as c_int);
        }
        Ok(between) => exited(between),
        Err(e) => Err(e),
    };
    if made.is_err() {
        process::no_relay(conn);
    }
    block_signals(mask);
    made
}

/// fork(2) without an exit signal, without libc's and the program's handlers.
fn clone() -> Result<usize> {
    // SAFETY: a copy of the process, which goes on here on a copy of the stack.
    unsafe { smc_core::sys!(SYS_clone, 0, 0, 0, 0, 0) }
}

fn exited(pid: usize) -> Result<()> {
    let mut status = 0;
    // SAFETY: the kernel writes to `status`.
    unsafe { smc_core::sys!(SYS_wait4, pid, &mut status as *mut c_int, libc::__WALL, 0) }?;
    if status == 0 {
        Ok(())
    } else {
        Err(Errno(libc::EAGAIN))
    }
}

fn exit(status: c_int) -> ! {
    loop {
        // SAFETY: does not return.
        let _ = unsafe { smc_core::sys!(SYS_exit_group, status) };
    }
}

/// Sets the signal mask of the thread; returns the old one.
fn block_signals(mask: u64) -> u64 {
    let mut old = 0u64;
    // SAFETY: the kernel's signal set is 8 bytes.
    let _ = unsafe {
        smc_core::sys!(SYS_rt_sigprocmask, libc::SIG_SETMASK, &mask as *const u64, &mut old as *mut u64, 8)
    };
    old
}

fn be_relay(conn: &'static Conn, fd: c_int, inner: c_int) {
    log::set_max_level(log::LevelFilter::Off);
    // A hang-up of the terminal is not for us: the program decides when the connection ends.
    // SAFETY: no arguments.
    let _ = unsafe { smc_core::sys!(SYS_setsid) };
    close_all_but(conn, fd, inner);
    process::in_relay(conn);
    let room = Watch::take().filter(|room| room.add(conn.doorbell(Bell::Space)).is_ok());
    let mut relay = Relay { conn, fd, inner, room, down: Flow::new(), up: Flow::new() };
    if relay.run().is_err() {
        // As a reset of the connection would look.
        let _ = sock::reset_at_close(inner);
    }
    conn.close(fd);
    process::relay_ends();
}

/// The process must not keep open what the program means to close: pipes, listening sockets, its log.
fn close_all_but(conn: &'static Conn, fd: c_int, inner: c_int) {
    let [mine, peers] = conn.doorbells();
    let mut kept = [fd, inner, mine, peers];
    kept.sort_unstable();
    let mut from = 0u32;
    for number in kept.map(|n| n as u32).into_iter().chain([u32::MAX]) {
        if from < number {
            // SAFETY: closes descriptors that nothing in this process uses.
            let _ = unsafe { smc_core::sys!(SYS_close_range, from, number - 1, 0) };
        }
        from = number.saturating_add(1);
    }
}

/// One direction: bytes taken from one side and not yet given to the other.
struct Flow {
    room: *mut u8,
    from: usize,
    to: usize,
    /// The side they come from has no more.
    ended: bool,
    /// The other side knows.
    told: bool,
}

impl Flow {
    fn new() -> Flow {
        let room = sys::map(ROOM, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        Flow { room: room.unwrap_or(core::ptr::null_mut()), from: 0, to: 0, ended: false, told: false }
    }

    fn is_empty(&self) -> bool {
        self.from == self.to
    }

    fn took(&mut self, n: usize) {
        (self.from, self.to, self.ended) = (0, n, n == 0);
    }

    /// The bytes to give.
    fn iovec(&self) -> libc::iovec {
        // SAFETY: within the mapping.
        libc::iovec { iov_base: unsafe { self.room.add(self.from) }.cast(), iov_len: self.to - self.from }
    }

    fn whole(&self) -> libc::iovec {
        libc::iovec { iov_base: self.room.cast(), iov_len: ROOM }
    }
}

struct Relay {
    conn: &'static Conn,
    fd: c_int,
    inner: c_int,
    /// Tells of space for the peer.
    room: Option<Watch>,
    /// From the peer to the program.
    down: Flow,
    /// From the program to the peer.
    up: Flow,
}

const QUIETLY: c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
const NOT_NOW: Errno = Errno(libc::EAGAIN);

/// `Ok(None)` where there is nothing to do now.
fn now(result: Result<usize>) -> Result<Option<usize>> {
    match result {
        Err(NOT_NOW | Errno(libc::EINTR)) => Ok(None),
        other => other.map(Some),
    }
}

impl Relay {
    /// Until both directions have ended; an error ends both.
    fn run(&mut self) -> Result<()> {
        if self.down.room.is_null() || self.up.room.is_null() {
            return Err(Errno(libc::ENOMEM));
        }
        loop {
            let mut moved = false;
            if self.down.is_empty() && !self.down.ended {
                if let Some(n) = now(self.take_from_peer())? {
                    self.down.took(n);
                    moved = true;
                }
            }
            if !self.down.is_empty() {
                if let Some(n) = now(self.give_to_program())? {
                    self.down.from += n;
                    moved = true;
                }
            }
            if self.up.is_empty() && !self.up.ended {
                if let Some(n) = now(self.take_from_program())? {
                    self.up.took(n);
                    moved = true;
                }
            }
            if !self.up.is_empty() {
                if let Some(n) = now(self.give_to_peer())? {
                    self.up.from += n;
                    moved = true;
                }
            }
            self.tell_ends();
            if self.down.told && self.up.told {
                return Ok(());
            }
            if !moved {
                self.sleep()?;
            }
        }
    }

    fn tell_ends(&mut self) {
        if self.down.ended && self.down.is_empty() && !self.down.told {
            self.down.told = true;
            let _ = sock::shutdown(self.inner, libc::SHUT_WR);
        }
        if self.up.ended && self.up.is_empty() && !self.up.told {
            self.up.told = true;
            self.conn.note_shutdown_tx(self.fd);
            let _ = sock::shutdown(self.fd, libc::SHUT_WR);
        }
    }

    fn take_from_peer(&self) -> Result<usize> {
        let iov = self.down.whole();
        // SAFETY: the mapping outlives the call.
        let buffers = unsafe { Buffers::new(&iov, 1) };
        let mut op = RxOp::new(buffers, libc::MSG_DONTWAIT);
        finish(self.conn.rx_step(self.conn.generation(), self.fd, &mut op))
    }

    fn give_to_peer(&self) -> Result<usize> {
        let iov = self.up.iovec();
        // SAFETY: as above.
        let buffers = unsafe { Buffers::new(&iov, 1) };
        let mut op = TxOp::new(Source::Buffers(buffers), QUIETLY);
        match self.conn.tx_step(self.conn.generation(), self.fd, &mut op) {
            Step::Native => {
                let n = send(self.fd, &iov)?;
                self.conn.count(Way::Tx, n as u64);
                Ok(n)
            }
            step => finish(step),
        }
    }

    fn take_from_program(&self) -> Result<usize> {
        let iov = self.up.whole();
        // SAFETY: the kernel writes into the mapping.
        unsafe { smc_core::sys!(SYS_recvfrom, self.inner, iov.iov_base, iov.iov_len, QUIETLY, 0, 0) }
    }

    fn give_to_program(&self) -> Result<usize> {
        send(self.inner, &self.down.iovec())
    }

    /// Until one of the four things that [`Relay::run`] does can be done.
    fn sleep(&mut self) -> Result<()> {
        let conn = self.conn;
        let mut wanted = 0;
        if self.down.is_empty() && !self.down.ended {
            wanted |= libc::POLLIN;
        }
        if !self.up.is_empty() {
            wanted |= libc::POLLOUT;
        }
        let reset = wanted & libc::POLLIN != 0 && conn.quiet_bell(Bell::Data);
        // After the reset, which the watch takes for a ring.
        if let Some(room) = self.room {
            room.clear();
        }
        conn.want(wanted);
        asked();
        let ring = conn.ring_state();
        if conn.combine(wanted, ring, 0) != 0 {
            if reset {
                conn.ring_own(Bell::Data);
            }
            return Ok(());
        }
        let mut inner = if self.down.is_empty() { 0 } else { libc::POLLOUT };
        if self.up.is_empty() && !self.up.ended {
            inner |= libc::POLLIN;
        }
        let watch = |fd: c_int, events| pollfd { fd: if events != 0 { fd } else { -1 }, events, revents: 0 };
        let bell = |bell, event| watch(bell, if wanted & event != 0 { libc::POLLIN } else { 0 });
        let mut fds = [
            watch(self.fd, conn.kernel_events(wanted, ring)),
            bell(conn.doorbell(Bell::Data), libc::POLLIN),
            bell(self.room.map_or(-1, |room| room.fd()), libc::POLLOUT),
            // With nothing to do there, only for a reset.
            pollfd { fd: self.inner, events: inner, revents: 0 },
        ];
        let full = if wanted & libc::POLLOUT != 0 { conn.tx_full_limit() } else { None };
        let later = if wanted & libc::POLLIN != 0 { conn.rx_limit() } else { None };
        let blind = (self.room.is_none() && wanted & libc::POLLOUT != 0).then_some(LOOK_NS);
        let limit = [full, later, blind].into_iter().flatten().min();
        match sys::poll(&mut fds, limit.map_or(i64::MAX, |ns| ns as i64)) {
            Ok(_) | Err(Errno(libc::EINTR)) => {}
            Err(e) => return Err(e),
        }
        conn.after_sleep(Bell::Data, fds[1].revents & libc::POLLIN != 0);
        if fds[3].revents & libc::POLLERR != 0 {
            return Err(Errno(libc::ECONNRESET));
        }
        Ok(())
    }
}

fn send(fd: c_int, iov: &libc::iovec) -> Result<usize> {
    // SAFETY: the kernel reads from the mapping.
    unsafe { smc_core::sys!(SYS_sendto, fd, iov.iov_base, iov.iov_len, QUIETLY, 0, 0) }
}

fn finish(step: Step) -> Result<usize> {
    match step {
        Step::Done(n) => Ok(n),
        Step::Fail(e) => Err(e),
        Step::Native | Step::Sleep(_) => Err(NOT_NOW),
    }
}
