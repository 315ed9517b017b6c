//! Data on a connection.
//!
//! While the connection is native, each function makes the very call that the program made, between
//! [`Conn::native_begin`] and [`Conn::native_end`]. Once it is attached, the call becomes an [`RxOp`] or a [`TxOp`], whose
//! steps run in the engine, behind [`guard`]; only the sleeping between steps happens here, in frames that may be
//! unwound by cancellation.

use super::open::pin;
use super::signals;
use crate::{errno, guard, real};
use core::mem::size_of;
use core::ptr::null_mut;
use libc::{
    c_int, c_uint, c_void, iovec, mmsghdr, msghdr, off64_t, off_t, pollfd, size_t, sockaddr, socklen_t,
    ssize_t, timespec,
};
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
unsafe extern "C" fn receive(
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

pub unsafe extern "C" fn read(conn: &'static Conn, fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t {
    if_native!(conn, Way::Rx, fd, unsafe { real::read(fd, buf, len) });
    unsafe { receive(conn, fd, &iovec { iov_base: buf, iov_len: len }, 1, 0) }
}

pub unsafe extern "C" fn readv(conn: &'static Conn, fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    if_native!(conn, Way::Rx, fd, unsafe { real::readv(fd, iov, count) });
    unsafe { receive(conn, fd, iov, count as usize, 0) }
}

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

pub unsafe extern "C" fn preadv2(
    conn: &'static Conn,
    fd: c_int,
    iov: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    if offset != -1 {
        // ESPIPE, from the kernel.
        return unsafe { real::preadv2(fd, iov, count, offset, flags) };
    }
    if_native!(conn, Way::Rx, fd, unsafe { real::preadv2(fd, iov, count, offset, flags) });
    match message_flags(flags) {
        -1 => fail(libc::EOPNOTSUPP),
        flags => unsafe { receive(conn, fd, iov, count as usize, flags) },
    }
}

/// Flags that ask for something other than the bytes of the stream.
const ASIDE: c_int = libc::MSG_OOB | libc::MSG_ERRQUEUE;

/// A receive of what travels beside the stream, which the kernel serves. Urgent data counts for the kernel as bytes of the
/// stream and for a reader not, so that a connection that uses it stays on TCP.
extern "C" fn aside(conn: &'static Conn, flags: c_int) {
    if flags & libc::MSG_OOB != 0 && !conn.is_moved() {
        pin(conn, Detail::UrgentData);
    }
}

pub unsafe extern "C" fn recv(
    conn: &'static Conn,
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    if flags & ASIDE != 0 {
        aside(conn, flags);
        return unsafe { real::recv(fd, buf, len, flags) };
    }
    if_native!(conn, Way::Rx, fd, unsafe { real::recv(fd, buf, len, flags) }, flags);
    unsafe { receive(conn, fd, &iovec { iov_base: buf, iov_len: len }, 1, flags) }
}

pub unsafe extern "C" fn recvfrom(
    conn: &'static Conn,
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    if flags & ASIDE != 0 {
        aside(conn, flags);
        return unsafe { real::recvfrom(fd, buf, len, flags, addr, addr_len) };
    }
    if_native!(conn, Way::Rx, fd, unsafe { real::recvfrom(fd, buf, len, flags, addr, addr_len) }, flags);
    let n = unsafe { receive(conn, fd, &iovec { iov_base: buf, iov_len: len }, 1, flags) };
    if n >= 0 && !addr.is_null() && !addr_len.is_null() {
        // TCP gives no address here.
        unsafe { *addr_len = 0 };
    }
    n
}

pub unsafe extern "C" fn recvmsg(conn: &'static Conn, fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t {
    if flags & ASIDE != 0 || msg.is_null() {
        aside(conn, flags);
        return unsafe { real::recvmsg(fd, msg, flags) };
    }
    if_native!(conn, Way::Rx, fd, unsafe { real::recvmsg(fd, msg, flags) }, flags);
    unsafe { receive_message(conn, fd, msg, flags) }
}

unsafe extern "C" fn receive_message(
    conn: &'static Conn,
    fd: c_int,
    msg: *mut msghdr,
    flags: c_int,
) -> isize {
    let count = unsafe { (*msg).msg_iovlen };
    if count > MAX_IOV {
        return fail(libc::EMSGSIZE);
    }
    let n = unsafe { receive(conn, fd, (*msg).msg_iov, count, flags) };
    if n >= 0 {
        unsafe {
            if !(*msg).msg_name.is_null() {
                (*msg).msg_namelen = 0;
            }
            (*msg).msg_controllen = 0;
            (*msg).msg_flags = 0;
        }
    }
    n
}

pub unsafe extern "C" fn recvmmsg(
    conn: &'static Conn,
    fd: c_int,
    msgs: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    if flags & ASIDE != 0 {
        aside(conn, flags);
        return unsafe { real::recvmmsg(fd, msgs, count, flags, timeout) };
    }
    let generation = conn.generation();
    conn.hold();
    let mut native = native(conn, Way::Rx, generation, fd);
    if !native && conn.is_undecided() {
        native = match unsafe { native_after_all(conn, Way::Rx, generation, fd, flags) } {
            ..=-1 => {
                conn.release(generation);
                return -1;
            }
            said => said != 0,
        };
    }
    let n = if native { unsafe { real::recvmmsg(fd, msgs, count, flags, timeout) } } else { 0 };
    conn.release(generation);
    if native {
        native_done(
            conn,
            Way::Rx,
            generation,
            if flags & libc::MSG_PEEK != 0 { 0 } else { unsafe { sum(msgs, n) } },
        );
        return n;
    }
    let deadline = match unsafe { timeout.as_ref() } {
        Some(t) => smc_core::sys::now_ns().wrapping_add((t.tv_sec as u64) * 1_000_000_000 + t.tv_nsec as u64),
        None => u64::MAX,
    };
    let mut flags = flags;
    let mut done = 0;
    while done < count.min(MAX_IOV as c_uint) {
        let message = unsafe { &mut *msgs.add(done as usize) };
        let n = unsafe { receive_message(conn, fd, &mut message.msg_hdr, flags & !libc::MSG_WAITFORONE) };
        if n < 0 {
            return if done > 0 { done as c_int } else { -1 };
        }
        message.msg_len = n as c_uint;
        done += 1;
        if flags & libc::MSG_WAITFORONE != 0 {
            flags |= libc::MSG_DONTWAIT;
        }
        if smc_core::sys::now_ns() >= deadline {
            break;
        }
    }
    done as c_int
}

/// Bytes in the first `n` messages.
unsafe extern "C" fn sum(msgs: *const mmsghdr, n: c_int) -> isize {
    let mut bytes = 0;
    for i in 0..n.max(0) {
        bytes += unsafe { (*msgs.add(i as usize)).msg_len } as isize;
    }
    bytes
}

pub unsafe extern "C" fn write(conn: &'static Conn, fd: c_int, buf: *const c_void, len: size_t) -> ssize_t {
    if_native!(conn, Way::Tx, fd, unsafe { real::write(fd, buf, len) });
    let iov = iovec { iov_base: buf as *mut c_void, iov_len: len };
    let mut op = unsafe { new_tx(&iov, 1, 0) };
    match unsafe { transmit(conn, fd, &mut op) } {
        Sent::Done(n) => n,
        Sent::Native => unsafe { real::write(fd, buf, len) },
    }
}

pub unsafe extern "C" fn writev(conn: &'static Conn, fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    if_native!(conn, Way::Tx, fd, unsafe { real::writev(fd, iov, count) });
    if count as usize > MAX_IOV {
        return fail(libc::EINVAL);
    }
    let mut op = unsafe { new_tx(iov, count as usize, 0) };
    match unsafe { transmit(conn, fd, &mut op) } {
        Sent::Done(n) => n,
        Sent::Native => unsafe { real::writev(fd, iov, count) },
    }
}

pub unsafe extern "C" fn pwritev2(
    conn: &'static Conn,
    fd: c_int,
    iov: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    if offset != -1 {
        // ESPIPE, from the kernel.
        return unsafe { real::pwritev2(fd, iov, count, offset, flags) };
    }
    if_native!(conn, Way::Tx, fd, unsafe { real::pwritev2(fd, iov, count, offset, flags) });
    if count as usize > MAX_IOV {
        return fail(libc::EINVAL);
    }
    let message_flags = message_flags(flags);
    if message_flags < 0 {
        return fail(libc::EOPNOTSUPP);
    }
    let mut op = unsafe { new_tx(iov, count as usize, message_flags) };
    match unsafe { transmit(conn, fd, &mut op) } {
        Sent::Done(n) => n,
        Sent::Native => unsafe { real::pwritev2(fd, iov, count, offset, flags) },
    }
}

/// Send flags that only TCP knows how to serve.
const TCP_ONLY: c_int = libc::MSG_OOB | libc::MSG_ZEROCOPY;
/// What those do that the sends below look at before anything else.
const SPECIAL: c_int = TCP_ONLY | libc::MSG_FASTOPEN;

fn only_tcp(flags: c_int) -> Detail {
    match flags & libc::MSG_OOB {
        0 => Detail::ZeroCopy,
        _ => Detail::UrgentData,
    }
}

/// How a send with one of the [`SPECIAL`] flags is to be made.
enum Special {
    /// By the engine if the connection has moved, with these flags.
    Usual(c_int),
    /// By the kernel, which refuses it, or connects the socket.
    FastOpen,
}

extern "C" fn special(conn: &'static Conn, flags: c_int) -> Special {
    if flags & libc::MSG_FASTOPEN != 0 {
        return Special::FastOpen;
    }
    if conn.is_far() {
        // SMC-R sends no urgent data from here, and knows no zero-copy sends.
        return Special::Usual(flags & !libc::MSG_ZEROCOPY);
    }
    if flags & libc::MSG_OOB != 0 {
        pin(conn, Detail::UrgentData);
    } else if !conn.is_pinned() {
        // Without SO_ZEROCOPY, which keeps a connection on TCP, the kernel ignores the flag.
        return Special::Usual(flags & !libc::MSG_ZEROCOPY);
    }
    Special::Usual(flags)
}

/// After a send with MSG_FASTOPEN that returned `n`: it has connected the socket, or failed.
extern "C" fn fast_open_sent(conn: &'static Conn, n: isize) {
    let error = errno::get();
    if n >= 0 || error == libc::EINPROGRESS {
        pin(conn, Detail::FastOpen);
        count(conn, Way::Tx, n);
    }
    errno::set(error);
}

/// Takes the [`SPECIAL`] flags out of `$flags`, or makes `$call` and returns from the function with its result.
macro_rules! if_special {
    ($conn:expr, $flags:ident, $call:expr) => {
        if $flags & SPECIAL != 0 {
            match special($conn, $flags) {
                Special::Usual(flags) => $flags = flags,
                Special::FastOpen => {
                    let n = unsafe { $call };
                    fast_open_sent($conn, n as isize);
                    return n;
                }
            }
        }
    };
}

pub unsafe extern "C" fn send(
    conn: &'static Conn,
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    mut flags: c_int,
) -> ssize_t {
    if_special!(conn, flags, real::send(fd, buf, len, flags));
    if_native!(conn, Way::Tx, fd, unsafe { real::send(fd, buf, len, flags) });
    if flags & TCP_ONLY != 0 {
        return over_tcp!(conn, only_tcp(flags), real::send(fd, buf, len, flags));
    }
    let iov = iovec { iov_base: buf as *mut c_void, iov_len: len };
    let mut op = unsafe { new_tx(&iov, 1, flags) };
    match unsafe { transmit(conn, fd, &mut op) } {
        Sent::Done(n) => n,
        Sent::Native => unsafe { real::send(fd, buf, len, flags) },
    }
}

pub unsafe extern "C" fn sendto(
    conn: &'static Conn,
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    mut flags: c_int,
    addr: *const sockaddr,
    addr_len: socklen_t,
) -> ssize_t {
    if_special!(conn, flags, real::sendto(fd, buf, len, flags, addr, addr_len));
    if_native!(conn, Way::Tx, fd, unsafe { real::sendto(fd, buf, len, flags, addr, addr_len) });
    // A connected TCP socket ignores the address.
    unsafe { send(conn, fd, buf, len, flags) }
}

pub unsafe extern "C" fn sendmsg(
    conn: &'static Conn,
    fd: c_int,
    msg: *const msghdr,
    mut flags: c_int,
) -> ssize_t {
    if_special!(conn, flags, real::sendmsg(fd, msg, flags));
    if_native!(conn, Way::Tx, fd, unsafe { real::sendmsg(fd, msg, flags) });
    if msg.is_null() {
        return unsafe { real::sendmsg(fd, msg, flags) };
    }
    let (iov, count, control) = unsafe { ((*msg).msg_iov, (*msg).msg_iovlen, (*msg).msg_controllen) };
    if count > MAX_IOV {
        return fail(libc::EMSGSIZE);
    }
    if flags & TCP_ONLY != 0 {
        return over_tcp!(conn, only_tcp(flags), real::sendmsg(fd, msg, flags));
    }
    if control > 0 && !conn.is_far() {
        return over_tcp!(conn, Detail::CallUnsupported, real::sendmsg(fd, msg, flags));
    }
    let mut op = unsafe { new_tx(iov, count, flags) };
    match unsafe { transmit(conn, fd, &mut op) } {
        Sent::Done(n) => n,
        Sent::Native => unsafe { real::sendmsg(fd, msg, flags) },
    }
}

pub unsafe extern "C" fn sendmmsg(
    conn: &'static Conn,
    fd: c_int,
    msgs: *mut mmsghdr,
    count: c_uint,
    mut flags: c_int,
) -> c_int {
    if_special!(conn, flags, real::sendmmsg(fd, msgs, count, flags));
    let generation = conn.generation();
    let mut native = native(conn, Way::Tx, generation, fd);
    if !native && conn.is_undecided() {
        native = match unsafe { native_after_all(conn, Way::Tx, generation, fd, flags) } {
            ..=-1 => return -1,
            said => said != 0,
        };
    }
    if native {
        let n = unsafe { real::sendmmsg(fd, msgs, count, flags) };
        native_done(conn, Way::Tx, generation, unsafe { sum(msgs, n) });
        return n;
    }
    let mut done = 0;
    while done < count.min(MAX_IOV as c_uint) {
        let message = unsafe { &mut *msgs.add(done as usize) };
        let whole = unsafe { length(&message.msg_hdr) };
        let n = unsafe { sendmsg(conn, fd, &message.msg_hdr, flags) };
        if n < 0 {
            return if done > 0 { done as c_int } else { -1 };
        }
        message.msg_len = n as c_uint;
        done += 1;
        if (n as usize) < whole {
            break;
        }
    }
    done as c_int
}

unsafe extern "C" fn length(msg: &msghdr) -> usize {
    let mut bytes = 0usize;
    for i in 0..msg.msg_iovlen.min(MAX_IOV) {
        bytes = bytes.wrapping_add(unsafe { (*msg.msg_iov.add(i)).iov_len });
    }
    bytes
}

/// The file type bits of `fd`, 0 if there is no such descriptor.
extern "C" fn file_type(fd: c_int) -> u32 {
    match smc_core::sys::fd::stat(fd) {
        Ok(stat) => stat.st_mode & libc::S_IFMT,
        Err(_) => 0,
    }
}

/// sendfile(2) into a connection.
pub unsafe extern "C" fn sendfile(
    conn: &'static Conn,
    out: c_int,
    input: c_int,
    offset: *mut off_t,
    count: size_t,
) -> ssize_t {
    if_native!(conn, Way::Tx, out, unsafe { real::sendfile(out, input, offset, count) });
    if file_type(input) != libc::S_IFREG {
        if conn.is_far() {
            return fail(libc::EINVAL);
        }
        return over_tcp!(conn, Detail::CallUnsupported, real::sendfile(out, input, offset, count));
    }
    let at = if offset.is_null() { None } else { Some(unsafe { *offset }) };
    if at.is_some_and(|at| at < 0) {
        return fail(libc::EINVAL);
    }
    let mut op = new_sendfile(input, at, count);
    let sent = unsafe { transmit(conn, out, &mut op) };
    if let (Source::File { offset: Some(at), .. }, false) = (&op.source, offset.is_null()) {
        unsafe { *offset = *at };
    }
    match sent {
        Sent::Done(n) => n,
        Sent::Native => unsafe { real::sendfile(out, input, offset, count) },
    }
}

extern "C" fn new_sendfile(fd: c_int, offset: Option<i64>, count: usize) -> TxOp {
    let remaining = count.min(smc_core::conn::io::MAX_CALL);
    // sendfile(2) has no flags, but raises SIGPIPE as write does.
    TxOp::new(Source::File { fd, offset, remaining }, 0)
}

/// splice(2) where the input, the output or both are connections.
#[allow(clippy::too_many_arguments)] // splice's six, and who they are.
pub unsafe extern "C" fn splice(
    source: Option<&'static Conn>,
    input: c_int,
    input_offset: *mut off64_t,
    sink: Option<&'static Conn>,
    out: c_int,
    out_offset: *mut off64_t,
    len: size_t,
    flags: c_uint,
) -> ssize_t {
    let plain = input_offset.is_null() && out_offset.is_null();
    match (source, sink) {
        (Some(conn), None) if plain && file_type(out) == libc::S_IFIFO => {
            if_native!(conn, Way::Rx, input, unsafe {
                real::splice(input, input_offset, out, out_offset, len, flags)
            });
            unsafe { splice_to_pipe(conn, input, out, len, flags) }
        }
        (None, Some(conn)) if plain && file_type(input) == libc::S_IFIFO => {
            if_native!(conn, Way::Tx, out, unsafe {
                real::splice(input, input_offset, out, out_offset, len, flags)
            });
            let mut op = new_splice(input, len, flags);
            match unsafe { transmit(conn, out, &mut op) } {
                Sent::Done(n) => n,
                Sent::Native => unsafe { real::splice(input, input_offset, out, out_offset, len, flags) },
            }
        }
        // Offsets on a socket, or no pipe on the other side: the kernel has the right error.
        _ => unsafe { real::splice(input, input_offset, out, out_offset, len, flags) },
    }
}

extern "C" fn new_splice(fd: c_int, len: usize, flags: c_uint) -> TxOp {
    let remaining = len.min(smc_core::conn::io::MAX_CALL);
    let more = if flags & libc::SPLICE_F_MORE != 0 { libc::MSG_MORE } else { 0 };
    TxOp::new(Source::Pipe { fd, remaining, wait: flags & libc::SPLICE_F_NONBLOCK == 0 }, more)
}

/// From a connection into a pipe: in pieces that a pipe that is not full takes at once. A cancellation point.
unsafe extern "C" fn splice_to_pipe(
    conn: &'static Conn,
    input: c_int,
    pipe: c_int,
    len: size_t,
    flags: c_uint,
) -> isize {
    const PIECE: usize = libc::PIPE_BUF;
    let mut piece = core::mem::MaybeUninit::<[u8; PIECE]>::uninit();
    let piece = piece.as_mut_ptr().cast::<c_void>();
    let nonblocking = flags & libc::SPLICE_F_NONBLOCK != 0;
    let mut done: isize = 0;
    while (done as usize) < len {
        let mut look = pollfd { fd: pipe, events: libc::POLLOUT, revents: 0 };
        let wait = if nonblocking || done > 0 { 0 } else { -1 };
        let ready = unsafe { real::poll(&mut look, 1, wait) };
        if ready <= 0 {
            return match (done, ready) {
                (1.., _) => done,
                (_, 0) => fail(libc::EAGAIN),
                _ => -1,
            };
        }
        if look.revents & libc::POLLOUT == 0 {
            // Nobody reads the pipe: EPIPE and SIGPIPE are for the pipe to give, before anything is taken.
            let broken = unsafe { real::write(pipe, c"".as_ptr().cast(), 1) };
            return if done > 0 { done } else { broken };
        }
        let want = PIECE.min(len - done as usize);
        let wait = if done > 0 { libc::MSG_DONTWAIT } else { 0 };
        let got = unsafe { receive(conn, input, &iovec { iov_base: piece, iov_len: want }, 1, wait) };
        if got <= 0 {
            return if done > 0 { done } else { got };
        }
        let mut put = 0;
        while put < got {
            let n = unsafe { real::write(pipe, piece.cast::<u8>().offset(put).cast(), (got - put) as usize) };
            if n < 0 && errno::get() != libc::EINTR && errno::get() != libc::EAGAIN {
                return if done > 0 { done } else { -1 };
            }
            put += n.max(0);
        }
        done += got;
    }
    done
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
