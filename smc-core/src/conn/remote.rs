//! A connection whose peer speaks SMC-R: deciding, and the calls of one that is on it.
//!
//! ```text
//! NATIVE ──connect()──> DECIDING ──┬──> REMOTE    on SMC-R: every call goes to the library
//! accept() ──> OFFERED ──> ┘       ├──> NATIVE    TCP, by agreement or because the peer does not speak it
//!                                  ├──> FOREIGN   another process has it
//!                                  └──> LOST      the handshake broke off
//! ```
//!
//! *Offered*: the connection was accepted with the SMC option, and the peer waits for the handshake. It begins with the first call of a
//! process that uses the connection, by that process's engine, so that it may be a child's; or, after a second, by the engine of the process
//! that accepted it. Whoever comes first takes [`EndState::claim`](crate::shared::EndState::claim).
//!
//! *Deciding*: the handshake is under way. The connection is neither readable nor writable, and data calls wait.
//!
//! *Foreign*: this process cannot use it, as after a fork of a process that had the connection on SMC-R. Data calls fail with ECONNABORTED.

use core::sync::atomic::{fence, Ordering};

use super::wait::{May, Patience, Sleep};
use super::{bells, Conn, ATTACHED, DECIDING, FOREIGN, LOST, NATIVE, OFFERED, REMOTE};
use crate::epoll;
use crate::link::Bell;
use crate::reason::{Detail, Reason, Why};
use crate::registry::Mode;
use crate::remote::{self, abi, told};
use crate::sys::{fd, sock, Errno};

/// Whether it is known what carries a connection.
#[derive(Clone, Copy)]
pub enum Decision {
    Decided,
    /// Sleep, and ask again.
    Wait(Sleep),
    Fail(Errno),
}

/// A result of the library's: a number, or an errno below 0.
pub(super) fn result(value: isize) -> Result<usize, Errno> {
    usize::try_from(value).map_err(|_| Errno(-value as i32))
}

impl Conn {
    /// Not, or not any more, served by the socket itself or by shared memory.
    #[inline]
    pub fn is_far(&self) -> bool {
        self.phase.load(Ordering::SeqCst) > ATTACHED
    }

    /// See the module: offered or deciding.
    #[inline]
    pub fn is_undecided(&self) -> bool {
        matches!(self.phase.load(Ordering::SeqCst), OFFERED | DECIDING)
    }

    /// Its handshake has not begun.
    pub fn is_offered(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == OFFERED
    }

    fn number(&self) -> u64 {
        self.far.load(Ordering::Relaxed)
    }

    /// Uses the library on this connection.
    pub(super) fn far<T>(&self, otherwise: T, act: impl FnOnce(&abi::Table, u64) -> T) -> T {
        remote::with(otherwise, |table| act(table, self.number()))
    }

    /// The peer is capable of SMC-R; `connecting`: or may be, when the connection is established. A handshake begins, or waits for
    /// somebody to use the connection.
    pub(super) fn begin_far(&self, fd: i32, connecting: bool) {
        self.far.store(0, Ordering::Relaxed);
        self.shut.store(0, Ordering::Relaxed);
        let flags = match (self.is_active(), connecting) {
            (true, true) => abi::CONNECTING,
            (true, false) => 0,
            (false, _) => abi::SERVER | abi::OFFERED,
        };
        let phase = if self.is_active() { DECIDING } else { OFFERED };
        match self.start_far(fd, flags) {
            Ok(()) => self.phase.store(phase, Ordering::SeqCst),
            Err(e) => self.cannot(fd, e),
        }
    }

    /// This end has called connect() on a socket that asked for the SMC option. `connecting`: the call goes on in the background.
    pub fn connects_far(&self, fd: i32, connecting: bool) {
        if self.phase.load(Ordering::SeqCst) == NATIVE {
            self.begin_far(fd, connecting);
            if self.registrations.load(Ordering::Acquire) != 0 && self.is_far() {
                epoll::connection_attached(self, fd);
            }
        }
    }

    fn start_far(&self, fd: i32, flags: u32) -> Result<(), Errno> {
        let decline = self.pinned().map(|why| why.reason.code());
        let start = abi::Start {
            fd,
            flags: flags | if decline.is_some() { abi::DECLINE } else { 0 },
            decline: decline.unwrap_or(0),
            claim: if self.is_active() { core::ptr::null() } else { self.end().claim.as_ptr() },
        };
        let mut begun = abi::Begun::default();
        // SAFETY: both are valid for the call, and `end` stays mapped.
        let done = remote::with(-libc::EAGAIN, |table| unsafe { (table.begin)(&start, &mut begun) });
        result(done as isize)?;
        self.set_far(begun.number, begun.data, begun.room);
        Ok(())
    }

    fn set_far(&self, number: u64, data: i32, room: i32) {
        self.slot_end.store(0, Ordering::Relaxed);
        self.bells[bells::DATA].store(data, Ordering::Relaxed);
        self.bells[bells::SPACE].store(room, Ordering::Relaxed);
        self.end_bell_kept().store(-1, Ordering::Relaxed);
        self.hup_bell_kept().store(-1, Ordering::Relaxed);
        self.far.store(number, Ordering::Relaxed);
    }

    /// A connection whose handshake the library has begun before the program accepted it.
    pub(super) fn adopt_far(&self, number: u64, data: i32, room: i32) {
        self.shut.store(0, Ordering::Relaxed);
        self.set_far(number, data, room);
        self.phase.store(DECIDING, Ordering::SeqCst);
    }

    /// A handshake is due that cannot be had: the peer waits for it, so that the connection is of no use.
    #[cold]
    fn cannot(&self, fd: i32, e: Errno) {
        log::error!("fd {fd}: no SMC-R handshake ({e}); connection ended");
        self.lose(fd, Errno(libc::ECONNABORTED));
    }

    /// The connection ends: what is in the TCP stream is not the program's.
    fn lose(&self, fd: i32, e: Errno) {
        self.pin(Why::new(Detail::FarLost));
        self.save_error(e);
        let _ = sock::shutdown(fd, libc::SHUT_RDWR);
        self.phase.store(LOST, Ordering::SeqCst);
    }

    /// A call is made that uses the connection: an offered handshake begins. Sees whether it is over; true: it is, or there was none.
    pub fn settle(&self, fd: i32) -> bool {
        if !self.is_undecided() {
            return true;
        }
        let Ok(held) = self.end().rx.lock.lock() else { return false };
        if self.phase.load(Ordering::SeqCst) == OFFERED {
            self.touch(fd);
        }
        let mut over = None;
        if self.phase.load(Ordering::SeqCst) == DECIDING {
            let mut said = abi::Outcome::default();
            // SAFETY: a valid place for the result.
            let done = self.far(-libc::EAGAIN, |table, number| unsafe { (table.outcome)(number, &mut said) });
            if done == -libc::EAGAIN || (done == 0 && said.state == abi::UNDER_WAY) {
                return false;
            }
            self.decided(fd, said);
            over = (self.phase.load(Ordering::SeqCst) == NATIVE).then(|| self.number());
        }
        drop(held);
        if let Some(number) = over {
            epoll::connection_returned(self);
            // After that nobody waits for its doorbells.
            remote::tell(number, told::closes);
        }
        true
    }

    /// Another process has the connection.
    fn is_elsewhere(&self) {
        self.entry().set_status(Mode::Tcp, Why::new(Detail::SharedProcess));
        self.phase.store(FOREIGN, Ordering::SeqCst);
    }

    /// With the receiving lock: an offered handshake begins now.
    fn touch(&self, fd: i32) {
        let mut number = self.number();
        if number != 0 && self.is_pinned() {
            // Something has come up that only TCP serves: it begins anew, as one that ends there.
            remote::tell(number, told::leaves);
            number = 0;
        }
        if number != 0 {
            remote::tell(number, told::starts);
            self.phase.store(DECIDING, Ordering::SeqCst);
            return;
        }
        match self.start_far(fd, abi::SERVER) {
            Ok(()) => self.phase.store(DECIDING, Ordering::SeqCst),
            Err(Errno(libc::EBUSY)) => self.is_elsewhere(),
            Err(e) => self.cannot(fd, e),
        }
    }

    fn decided(&self, fd: i32, said: abi::Outcome) {
        let shut = self.shut.swap(0, Ordering::Relaxed);
        match said.state {
            abi::SMC => {
                let role = if self.is_active() { "client" } else { "server" };
                self.entry().set_far(self.is_active(), &said.device, said.port);
                self.entry().set_status(Mode::Smcr, Why::NONE);
                log::debug!("fd {fd}: on SMC-R, {role}");
                self.phase.store(REMOTE, Ordering::SeqCst);
                if shut & SHUT_TX != 0 {
                    remote::tell(self.number(), told::shuts_down);
                }
                return;
            }
            abi::ELSEWHERE => return self.is_elsewhere(),
            abi::TCP => {
                self.pin(Why::from(Reason::from_code(said.code).unwrap_or(Reason::Interr)));
                if said.peer_code != 0 {
                    self.peer_reason(said.peer_code);
                }
            }
            abi::PLAIN => {
                if sock::is_established(fd) {
                    self.pin(Why::new(Detail::PeerRemote));
                }
            }
            _ => {
                log::info!("fd {fd}: SMC-R handshake failed: errno {}", said.code);
                return self.lose(fd, Errno(said.code as i32));
            }
        }
        self.phase.store(NATIVE, Ordering::SeqCst);
        if shut != 0 {
            let how = [libc::SHUT_WR, libc::SHUT_RD, libc::SHUT_RDWR][(shut as usize - 1).min(2)];
            let _ = sock::shutdown(fd, how);
        }
    }

    /// Whether a call may go on. `timeout`: the option with the time it may take.
    pub fn decide(&self, fd: i32, flags: i32, timeout: i32, patience: &mut Patience) -> Decision {
        if self.settle(fd) {
            return Decision::Decided;
        }
        if remote::is_inside() || self.end().rx.lock.is_mine() {
            return Decision::Fail(Errno(libc::EAGAIN));
        }
        match patience.ask(fd, flags, timeout) {
            May::Wait { remaining_ns } => {
                let bell = self.wakes_me(Bell::Space);
                Decision::Wait(Sleep::new((-1, 0), bell, remaining_ns, None))
            }
            May::NotAtAll => Decision::Fail(Errno(libc::EAGAIN)),
            May::Fail(e) => Decision::Fail(e),
        }
    }

    // --- ends ---

    /// shutdown(2). False: it is TCP's.
    pub fn shut_far(&self, fd: i32, how: i32) -> bool {
        let marks = match how {
            libc::SHUT_RD => SHUT_RX,
            libc::SHUT_WR => SHUT_TX,
            _ => SHUT_RX | SHUT_TX,
        };
        if !self.settle(fd) {
            // What has been shut down before the decision is shut down after it.
            self.shut.fetch_or(marks, Ordering::Relaxed);
        } else if !self.is_far() {
            return false;
        } else if marks & SHUT_TX != 0 {
            remote::tell(self.number(), told::shuts_down);
        }
        if marks & SHUT_RX != 0 {
            self.set_fin_seen();
            fence(Ordering::SeqCst);
            let bell = self.end_bell_kept().load(Ordering::SeqCst);
            if bell >= 0 {
                fd::ring(bell);
            }
        }
        // Whoever sleeps looks again.
        self.ring_own(Bell::Data);
        self.ring_own(Bell::Space);
        true
    }

    /// The last descriptor of this process is about to be closed, and nobody is inside any more.
    pub(super) fn close_far(&self, phase: u32) {
        let number = self.far.swap(0, Ordering::Relaxed);
        if number == 0 || phase == FOREIGN {
            return;
        }
        let cancel = phase == OFFERED && !self.end().held_alone();
        remote::tell(number, if cancel { told::leaves } else { told::closes });
    }

    /// In a forked child: what the parent has, this process has not.
    pub(super) fn far_forked(&self) {
        match self.phase.load(Ordering::SeqCst) {
            // Here, or there: whoever uses it first.
            OFFERED => self.far.store(0, Ordering::Relaxed),
            DECIDING | REMOTE => self.is_elsewhere(),
            _ => {}
        }
    }
}

/// In [`Conn::shut`].
const SHUT_TX: u32 = 1;
const SHUT_RX: u32 = 2;
