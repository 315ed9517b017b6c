//! What a program sees of sockets that it makes as TCP sockets, whatever they are: family, type, protocol, state, names.
//!
//!     socket-view listen ADDRESS READY-FILE   accepts one connection; makes the file when it listens
//!     socket-view connect ADDRESS             the other end
//!
//! With `--smc` behind them, the kernel must say (asked past the library) that all of the sockets are AF_SMC sockets, and
//! without, that none is.

use smc_tests::sys::{self, Address};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::process::ExitCode;

/// include/linux/socket.h
const AF_SMC: i32 = 43;

type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (words, smc) = match words.split_last() {
        Some((&"--smc", rest)) => (rest, true),
        _ => (&words[..], false),
    };
    let result = match words {
        ["listen", address, ready] => listen(address, ready, smc),
        ["connect", address] => connect(address, smc),
        _ => Err("usage: socket-view listen ADDRESS READY-FILE [--smc] | connect ADDRESS [--smc]".into()),
    };
    match result {
        Ok(()) => {
            println!("socket-view: all as of TCP");
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("socket-view: {why}");
            ExitCode::FAILURE
        }
    }
}

fn call<T>(what: &str, result: Result<T, i32>) -> Result<T, String> {
    result.map_err(|errno| format!("{what}: {}", sys::errno_name(errno)))
}

fn target(address: &str) -> Result<Address, String> {
    address.parse::<SocketAddr>().map(Address::new).map_err(|e| format!("{address}: {e}"))
}

fn listen(address: &str, ready: &str, smc: bool) -> Outcome {
    for (family, flags) in [(libc::AF_INET, 0), (libc::AF_INET6, libc::SOCK_NONBLOCK)] {
        let fd = call("socket", sys::socket(family, flags))?;
        seen("a new socket", fd, family, smc)?;
        call("close", sys::close(fd))?;
    }
    let listener = call("socket", sys::socket(libc::AF_INET, libc::SOCK_CLOEXEC))?;
    call("bind", sys::bind(listener, &target(address)?))?;
    call("listen", sys::listen(listener, 5))?;
    seen("the listener", listener, libc::AF_INET, smc)?;
    equal("SO_ACCEPTCONN", sys::getsockopt_int(listener, libc::SOL_SOCKET, libc::SO_ACCEPTCONN), Ok(1))?;
    std::fs::write(ready, "").map_err(|e| format!("{ready}: {e}"))?;
    let fd = call("accept", sys::accept4(listener, libc::SOCK_CLOEXEC))?;
    established("the accepted socket", fd, smc)?;
    // A descriptor of which the library has seen nothing but this.
    let copy = call("dup", sys::dup(fd))?;
    seen("its duplicate", copy, libc::AF_INET, smc)
}

fn connect(address: &str, smc: bool) -> Outcome {
    let fd = call("socket", sys::socket(libc::AF_INET, libc::SOCK_CLOEXEC))?;
    call("connect", sys::connect(fd, &target(address)?))?;
    established("the connected socket", fd, smc)
}

/// A byte goes over the connection and back before it is looked at, and after.
fn established(what: &str, fd: RawFd, smc: bool) -> Outcome {
    call("send", sys::send(fd, b"?", 0))?;
    equal("recv", sys::recv(fd, &mut [0], 0), Ok(1))?;
    seen(what, fd, libc::AF_INET, smc)?;
    let names = (sys::getsockname(fd), sys::getpeername(fd));
    match names {
        (Ok(own), Ok(peer)) if own.port() != 0 && peer.port() != 0 => Ok(()),
        _ => Err(format!("{what}: getsockname or getpeername failed")),
    }
}

fn seen(what: &str, fd: RawFd, family: i32, smc: bool) -> Outcome {
    let named = |error| format!("{what}: {error}");
    for (name, number, value) in [
        ("SO_DOMAIN", libc::SO_DOMAIN, family),
        ("SO_TYPE", libc::SO_TYPE, libc::SOCK_STREAM),
        ("SO_PROTOCOL", libc::SO_PROTOCOL, libc::IPPROTO_TCP),
        ("SO_ERROR", libc::SO_ERROR, 0),
    ] {
        equal(name, sys::getsockopt_int(fd, libc::SOL_SOCKET, number), Ok(value)).map_err(named)?;
        // By syscall(2) as well, and as much of it as there is room for.
        let mut two = [0xffu8; 4];
        let mut len: libc::socklen_t = 2;
        // SAFETY: two bytes at `two`, and their count.
        let ret = unsafe {
            libc::syscall(libc::SYS_getsockopt, fd, libc::SOL_SOCKET, number, two.as_mut_ptr(), &mut len)
        };
        let [a, b, ..] = value.to_ne_bytes();
        equal(name, (ret, len, two), (0, 2, [a, b, 0xff, 0xff])).map_err(named)?;
    }
    let no_delay = (libc::IPPROTO_TCP, libc::TCP_NODELAY);
    call("TCP_NODELAY", sys::setsockopt(fd, no_delay.0, no_delay.1, 1i32)).map_err(named)?;
    equal("TCP_NODELAY", sys::getsockopt_int(fd, no_delay.0, no_delay.1), Ok(1)).map_err(named)?;
    let own = smc_core::sys::sock::int_option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN).map_err(|e| e.0);
    match (own, smc) {
        (Ok(AF_SMC), true) => Ok(()),
        (Ok(domain), false) if domain == family => Ok(()),
        _ => Err(format!("{what}: the kernel's family is {own:?}")),
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, is: T, should: T) -> Outcome {
    match is == should {
        true => Ok(()),
        false => Err(format!("{what} is {is:?}, not {should:?}")),
    }
}
