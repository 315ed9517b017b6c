//! The calls that move bytes between a connection and a file or a pipe.

use super::{count, fail, native, native_after_all, native_done, receive_into, to_tcp, transmit, Sent};
use crate::{errno, real};
use libc::{c_int, c_uint, c_void, iovec, off64_t, off_t, pollfd, size_t, ssize_t};
use smc_core::conn::io::Source;
use smc_core::conn::tx::TxOp;
use smc_core::conn::{Conn, Way};
use smc_core::reason::Detail;

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
        let got = unsafe { receive_into(conn, input, &iovec { iov_base: piece, iov_len: want }, 1, wait) };
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
