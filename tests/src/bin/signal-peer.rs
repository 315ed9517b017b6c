//! A client whose signal handler does blocking I/O, wherever in its calls the thread is.
//!
//! `signal-peer ADDRESS ROUNDS` opens two connections to an echo server. On one the only thread sends bytes and reads them, without end; on
//! the other a handler of SIGALRM, a millisecond after it has run last. The program ends when the handler has got its byte back that
//! often. It may be turned away once, with EAGAIN (docs/limitations.md); a second time, or a wrong byte, is a failure, and so is a wait without
//! end, which whoever starts the program ends.

use std::env;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

static FD: AtomicI32 = AtomicI32::new(-1);
static ROUNDS: AtomicU32 = AtomicU32::new(0);
static REFUSED: AtomicU32 = AtomicU32::new(0);
/// The errno of another failure, or -1 for a wrong byte.
static FAILED: AtomicI32 = AtomicI32::new(0);

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// SIGALRM in a millisecond, once.
fn alarm() {
    let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let once = libc::itimerval { it_interval: none, it_value: libc::timeval { tv_sec: 0, tv_usec: 1000 } };
    // SAFETY: a valid time.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &once, ptr::null_mut()) };
}

/// One byte there and back. `false`: turned away.
fn round(fd: i32, byte: u8) -> Result<bool, i32> {
    let mut back = 0u8;
    // SAFETY: one byte each, and both calls are safe in a signal handler.
    unsafe {
        if libc::send(fd, (&raw const byte).cast(), 1, libc::MSG_NOSIGNAL) != 1 {
            return if errno() == libc::EAGAIN { Ok(false) } else { Err(errno()) };
        }
        if libc::recv(fd, (&raw mut back).cast(), 1, 0) != 1 {
            return Err(errno());
        }
    }
    if back == byte {
        Ok(true)
    } else {
        Err(-1)
    }
}

extern "C" fn handler(_: i32) {
    let before = errno();
    match round(FD.load(Ordering::Relaxed), ROUNDS.load(Ordering::Relaxed) as u8) {
        Ok(through) => {
            let count = if through { &ROUNDS } else { &REFUSED };
            count.fetch_add(1, Ordering::Relaxed);
        }
        Err(code) => FAILED.store(code, Ordering::Relaxed),
    }
    alarm();
    // SAFETY: the thread's own.
    unsafe { *libc::__errno_location() = before };
}

fn run(address: &str, rounds: u32) -> Result<u64, String> {
    let open = || TcpStream::connect(address).map_err(|e| format!("connect: {e}"));
    let (mut own, handlers) = (open()?, open()?);
    FD.store(handlers.as_raw_fd(), Ordering::Relaxed);
    // SAFETY: the handler makes calls that may be made there, and touches atomics.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as extern "C" fn(i32) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGALRM, &action, ptr::null_mut());
    }
    alarm();
    let mut exchanges = 0u64;
    while ROUNDS.load(Ordering::Relaxed) < rounds {
        let (bytes, mut back) = (exchanges.to_ne_bytes(), [0; 8]);
        own.write_all(&bytes).map_err(|e| format!("write: {e}"))?;
        own.read_exact(&mut back).map_err(|e| format!("read: {e}"))?;
        if back != bytes {
            return Err("other bytes came back".into());
        }
        if let code @ (1.. | -1) = FAILED.load(Ordering::Relaxed) {
            return Err(format!("in the handler: errno {code}"));
        }
        exchanges += 1;
    }
    // SAFETY: no handler from here on.
    unsafe { libc::signal(libc::SIGALRM, libc::SIG_IGN) };
    for stream in [&own, &handlers] {
        stream.shutdown(Shutdown::Write).map_err(|e| format!("shutdown: {e}"))?;
    }
    match REFUSED.load(Ordering::Relaxed) {
        0 | 1 => Ok(exchanges),
        count => Err(format!("turned away {count} times")),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [address, rounds] => rounds.parse().map_err(|_| "no number".into()).and_then(|n| run(address, n)),
        _ => Err("usage: signal-peer ADDRESS ROUNDS".into()),
    };
    match result {
        Ok(exchanges) => {
            let (rounds, refused) = (ROUNDS.load(Ordering::Relaxed), REFUSED.load(Ordering::Relaxed));
            println!("{rounds} rounds of the handler, {refused} turned away, {exchanges} of the thread");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("signal-peer: {why}");
            ExitCode::FAILURE
        }
    }
}
