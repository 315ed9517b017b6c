//! Data on a connection.
//!
//! While the connection is native, each function makes the very call that the program made, between
//! [`Conn::native_begin`] and [`Conn::native_end`]. Once it is attached, the call becomes an [`RxOp`] or a [`TxOp`], whose
//! steps run in the engine, behind [`guard`]; only the sleeping between steps happens here, in frames that may be
//! unwound by cancellation.
//!
//! Here is what all of them share; the calls themselves are in [`receive`], [`mod@send`] and [`copy`].

use super::signals;
use crate::{errno, guard, real};
use core::mem::size_of;
use core::ptr::null_mut;
use libc::{c_int, iovec, mmsghdr, pollfd, timespec};
use smc_core::conn::io::{Buffers, Source};
use smc_core::conn::remote::Decision;
use smc_core::conn::rx::RxOp;
use smc_core::conn::tx::TxOp;
use smc_core::conn::wait::{Patience, Sleep, Step};
use smc_core::conn::{Conn, Way};
use smc_core::link::Bell;
use smc_core::reason::{Detail, Why};
use smc_core::sys::Errno;

/// IOV_MAX of Linux.
const MAX_IOV: usize = 1024;
/// preadv2 flags that make sense on a stream.
const RWF_HIPRI: c_int = 1;
const RWF_NOWAIT: c_int = 8;
/// How long a call that only TCP can serve waits for the peer to let the stream go back.
const RETURN_TRIES: u32 = 1000;
const RETURN_PAUSE_NS: i64 = 1_000_000;

/// See [`Conn::native_begin`].
pub(super) extern "C" fn native(conn: &'static Conn, way: Way, generation: u32, fd: c_int) -> bool {
    if conn.is_moved() {
        return false;
    }
    let saved = errno::get();
    let native = guard::protect(true, || conn.native_begin(way, generation, fd));
    errno::set(saved);
    native
}

pub(super) extern "C" fn native_done(conn: &'static Conn, way: Way, generation: u32, n: isize) {
    let saved = errno::get();
    guard::protect((), || conn.native_end(way, generation, n));
    errno::set(saved);
}

/// As [`native`], of a connection that is not: waits until it is known what carries it. -1 for an error. A cancellation point.
unsafe extern "C" fn native_after_all(
    conn: &'static Conn,
    way: Way,
    generation: u32,
    fd: c_int,
    flags: c_int,
) -> c_int {
    let timeout = if way == Way::Rx { libc::SO_RCVTIMEO } else { libc::SO_SNDTIMEO };
    let mut patience = Patience::default();
    loop {
        match decide(conn, fd, flags, timeout, &mut patience) {
            Decision::Decided => return native(conn, way, generation, fd) as c_int,
            Decision::Fail(e) => return fail(e.0) as c_int,
            Decision::Wait(s) => {
                if unsafe { sleep(conn, &s, false) } == Slept::Interrupted {
                    return fail(libc::EINTR) as c_int;
                }
            }
        }
    }
}

extern "C" fn decide(
    conn: &'static Conn,
    fd: c_int,
    flags: c_int,
    timeout: c_int,
    patience: &mut Patience,
) -> Decision {
    guard::protect(Decision::Fail(Errno(libc::EIO)), || conn.decide(fd, flags, timeout, patience))
}

/// Makes `$call` on the TCP socket if the connection is native, and returns from the function with its result.
macro_rules! if_native {
    ($conn:expr, $way:expr, $fd:expr, $call:expr) => {
        if_native!($conn, $way, $fd, $call, 0)
    };
    // With the flags of a receive: what is only peeked at does not count.
    ($conn:expr, $way:expr, $fd:expr, $call:expr, $flags:expr) => {
        let generation = $conn.generation();
        let holds = $flags & libc::MSG_WAITALL != 0;
        if holds {
            $conn.hold();
        }
        let mut native = native($conn, $way, generation, $fd);
        if !native && $conn.is_undecided() {
            native = match unsafe { native_after_all($conn, $way, generation, $fd, $flags) } {
                ..=-1 => {
                    if holds {
                        $conn.release(generation);
                    }
                    return -1;
                }
                said => said != 0,
            };
        }
        let n = if native { $call } else { 0 };
        if holds {
            $conn.release(generation);
        }
        if native {
            native_done($conn, $way, generation, if $flags & libc::MSG_PEEK != 0 { 0 } else { n });
            return n;
        }
    };
}

/// How a sleep ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Slept {
    GoOn,
    Interrupted,
}

/// Sleeps as the engine asked. A cancellation point.
///
/// A call that has `moved` bytes already is interrupted by every handler, as is one on a socket with a timeout
/// (signal(7)).
pub(super) unsafe extern "C" fn sleep(conn: &'static Conn, sleep: &Sleep, moved: bool) -> Slept {
    let interruptible = moved || sleep.has_timeout;
    let watch = match interruptible {
        true => signals::Watch { mask: 0, signals: -1 },
        false => signals::watch(),
    };
    let mut fds =
        [sleep.fds[0], sleep.fds[1], pollfd { fd: watch.signals, events: libc::POLLIN, revents: 0 }];
    let limit =
        timespec { tv_sec: sleep.timeout_ns / 1_000_000_000, tv_nsec: sleep.timeout_ns % 1_000_000_000 };
    let limit = if sleep.timeout_ns < 0 { core::ptr::null() } else { &limit as *const timespec };
    let saved = errno::get();
    // The kernel's mask is the first word of libc's.
    let mut mask = [0u64; size_of::<libc::sigset_t>() / 8];
    mask[0] = watch.mask;
    let mask = if watch.signals < 0 { core::ptr::null() } else { mask.as_ptr().cast::<libc::sigset_t>() };
    let ret = unsafe { real::ppoll(fds.as_mut_ptr(), 3, limit, mask) };
    let interrupted = ret < 0 && errno::get() == libc::EINTR;
    woke(conn, sleep.bell);
    errno::set(saved);
    signals::unwatch(watch);
    if interrupted {
        let goes_on = watch.signals < 0 && !interruptible && signals::restarts();
        return if goes_on { Slept::GoOn } else { Slept::Interrupted };
    }
    if ret > 0 {
        note_bell(conn, sleep.bell, fds[1].revents & libc::POLLIN != 0);
    }
    Slept::GoOn
}

extern "C" fn woke(conn: &'static Conn, bell: Bell) {
    if bell == Bell::Data {
        conn.rx_wait_ends();
    }
}

extern "C" fn note_bell(conn: &'static Conn, bell: Bell, rung: bool) {
    conn.after_sleep(bell, rung);
}

extern "C" fn rx_step(conn: &'static Conn, generation: u32, fd: c_int, op: &mut RxOp) -> Step {
    guard::protect(Step::Fail(Errno(libc::EIO)), || conn.rx_step(generation, fd, op))
}

extern "C" fn tx_step(conn: &'static Conn, generation: u32, fd: c_int, op: &mut TxOp) -> Step {
    guard::protect(Step::Fail(Errno(libc::EIO)), || conn.tx_step(generation, fd, op))
}

extern "C" fn tx_given_up(op: &mut TxOp) {
    guard::protect((), || op.give_up());
}

#[inline(always)]
fn fail(error: c_int) -> isize {
    errno::set(error);
    -1
}

/// Bytes that a read could get now.
pub(super) extern "C" fn readable(conn: &'static Conn, fd: c_int) -> u32 {
    guard::protect(0, || conn.readable_now(fd).min(c_int::MAX as u64) as u32)
}

/// Receives into `iov`. A cancellation point.
unsafe extern "C" fn receive_into(
    conn: &'static Conn,
    fd: c_int,
    iov: *const iovec,
    count: usize,
    flags: c_int,
) -> isize {
    if count > MAX_IOV {
        return fail(libc::EINVAL);
    }
    let generation = conn.generation();
    let mut op = unsafe { new_rx(iov, count, flags) };
    loop {
        match rx_step(conn, generation, fd, &mut op) {
            Step::Done(n) => return n as isize,
            Step::Fail(e) => return fail(e.0),
            Step::Native => return fail(libc::EIO),
            Step::Sleep(s) => {
                if unsafe { sleep(conn, &s, op.done > 0) } == Slept::Interrupted {
                    return if op.done > 0 { op.done as isize } else { fail(libc::EINTR) };
                }
            }
        }
    }
}

unsafe extern "C" fn new_rx(iov: *const iovec, count: usize, flags: c_int) -> RxOp {
    RxOp::new(unsafe { Buffers::new(iov, count) }, flags)
}

unsafe extern "C" fn new_tx(iov: *const iovec, count: usize, flags: c_int) -> TxOp {
    TxOp::new(Source::Buffers(unsafe { Buffers::new(iov, count) }), flags)
}

/// What a send came to.
enum Sent {
    Done(isize),
    /// The kernel is to make the call: it fails, and may raise SIGPIPE.
    Native,
}

/// Sends `op`. A cancellation point.
unsafe extern "C" fn transmit(conn: &'static Conn, fd: c_int, op: &mut TxOp) -> Sent {
    let generation = conn.generation();
    loop {
        match tx_step(conn, generation, fd, op) {
            Step::Done(n) => return Sent::Done(n as isize),
            Step::Fail(e) => return Sent::Done(fail(e.0)),
            Step::Native => return Sent::Native,
            Step::Sleep(s) => {
                if unsafe { sleep(conn, &s, op.done > 0) } == Slept::Interrupted {
                    tx_given_up(op);
                    return Sent::Done(if op.done > 0 { op.done as isize } else { fail(libc::EINTR) });
                }
            }
        }
    }
}

/// Brings the sending direction back to TCP for a call that only TCP can serve. False: the peer did not let it in
/// time. A cancellation point.
unsafe extern "C" fn to_tcp(conn: &'static Conn, detail: Detail) -> bool {
    let generation = conn.generation();
    let mut tries = 0;
    while !to_tcp_once(conn, generation, detail) {
        tries += 1;
        if tries > RETURN_TRIES {
            return false;
        }
        let pause = timespec { tv_sec: 0, tv_nsec: RETURN_PAUSE_NS };
        unsafe { real::ppoll(null_mut(), 0, &pause, core::ptr::null()) };
    }
    true
}

extern "C" fn to_tcp_once(conn: &'static Conn, generation: u32, detail: Detail) -> bool {
    guard::protect(false, || conn.tx_to_tcp(generation, Why::new(detail)))
}

extern "C" fn count(conn: &'static Conn, way: Way, n: isize) {
    if n > 0 {
        conn.count(way, n as u64);
    }
}

/// Makes `$call`, which only TCP can serve, after bringing the stream there.
macro_rules! over_tcp {
    ($conn:expr, $detail:expr, $call:expr) => {{
        if $conn.is_far() {
            return fail(libc::EOPNOTSUPP) as _;
        }
        if !unsafe { to_tcp($conn, $detail) } {
            return fail(libc::EAGAIN) as _;
        }
        let n = unsafe { $call };
        count($conn, Way::Tx, n as isize);
        n
    }};
}

mod copy;
mod receive;
mod send;

pub use copy::{sendfile, splice};
pub use receive::{preadv2, read, readv, recv, recvfrom, recvmmsg, recvmsg};
pub use send::{pwritev2, send, sendmmsg, sendmsg, sendto, write, writev};

/// The MSG_ flags that preadv2's or pwritev2's stand for, or -1.
fn message_flags(flags: c_int) -> c_int {
    if flags & !(RWF_HIPRI | RWF_NOWAIT) != 0 {
        return -1;
    }
    if flags & RWF_NOWAIT != 0 {
        libc::MSG_DONTWAIT
    } else {
        0
    }
}

/// Bytes in the first `n` messages.
unsafe extern "C" fn sum(msgs: *const mmsghdr, n: c_int) -> isize {
    let mut bytes = 0;
    for i in 0..n.max(0) {
        bytes += unsafe { (*msgs.add(i as usize)).msg_len } as isize;
    }
    bytes
}

pub unsafe extern "C" fn shutdown(conn: &'static Conn, fd: c_int, how: c_int) -> c_int {
    if conn.is_far() && (0..=2).contains(&how) && shut_far(conn, fd, how) {
        return 0;
    }
    if how == libc::SHUT_WR || how == libc::SHUT_RDWR {
        // First the mark, then the FIN: whoever sees the FIN has seen all bytes.
        shut_tx(conn, fd);
    }
    unsafe { real::shutdown(fd, how) }
}

extern "C" fn shut_far(conn: &'static Conn, fd: c_int, how: c_int) -> bool {
    let saved = errno::get();
    let done = guard::protect(true, || conn.shut_far(fd, how));
    errno::set(saved);
    done
}

extern "C" fn shut_tx(conn: &'static Conn, fd: c_int) {
    guard::protect((), || conn.note_shutdown_tx(fd));
}
