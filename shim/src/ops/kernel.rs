//! SMC_BACKEND=kernel: what would be a TCP socket is made as an AF_SMC socket of the kernel's (net/smc), which speaks
//! SMC or falls back to TCP on its own. Such a socket is not managed: every call on it is the program's own. Only what
//! a program can see of the family is put right.
//!
//! Where the kernel has no AF_SMC, or a rule is against it, it is a TCP socket that stays one, with the reason.

use crate::errno;
use crate::fd_table::{self, Entry};
use crate::{guard, real};
use core::sync::atomic::{AtomicU8, Ordering};
use libc::{c_int, c_void, socklen_t};
use smc_core::config;
use smc_core::conn;
use smc_core::policy::{self, Action};
use smc_core::reason::{Detail, Why};
use smc_core::sys::sock;

/// include/linux/socket.h; libc has no name for it.
const AF_SMC: c_int = 43;
/// The protocols of AF_SMC (include/uapi/linux/smc.h does not have them, net/smc/smc.h does): by the addresses.
const SMCPROTO_SMC: c_int = 0;
const SMCPROTO_SMC6: c_int = 1;

/// Bits of [`STATE`].
const ON: u8 = 1;
/// The kernel refuses SMCPROTO_SMC, or SMCPROTO_SMC6. Remembered, for each attempt may start a modprobe.
const REFUSED: [u8; 2] = [2, 4];
/// No new AF_SMC sockets: a filter of system calls may end the program for one.
const STOPPED: u8 = 8;

static STATE: AtomicU8 = AtomicU8::new(0);

/// Whether SMC_BACKEND is kernel.
#[inline(always)]
pub fn is_on() -> bool {
    STATE.load(Ordering::Relaxed) & ON != 0
}

/// In the constructor.
pub fn start() {
    STATE.store(ON, Ordering::Relaxed);
    // Of this process's own there will be none; what it inherits stays what it is.
    conn::stop_moving(Why::new(Detail::BornOnTcp));
}

/// The process is about to filter its system calls.
pub fn stop() {
    STATE.fetch_or(STOPPED, Ordering::Relaxed);
}

/// socket(2) of a TCP socket, while [`is_on`].
pub unsafe extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    let saved = errno::get();
    let smc = if domain == libc::AF_INET6 { SMCPROTO_SMC6 } else { SMCPROTO_SMC };
    let mut detail = objection(smc);
    if detail.is_none() {
        let fd = unsafe { real::socket(AF_SMC, kind, smc) };
        if fd >= 0 {
            size_buffers(fd);
            known(fd, Entry::NotTcp);
            errno::set(saved);
            return fd;
        }
        match errno::get() {
            // TCP would fail too.
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EINVAL => return fd,
            error => refused(smc, error),
        }
        detail = Some(Detail::NoKernelSmc);
    }
    let fd = unsafe { real::socket(domain, kind, protocol) };
    if fd >= 0 {
        known(fd, Entry::Tcp(detail));
        errno::set(saved);
    }
    fd
}

/// Why no AF_SMC socket is to be asked for.
extern "C" fn objection(smc: c_int) -> Option<Detail> {
    let state = STATE.load(Ordering::Relaxed);
    if state & STOPPED != 0 {
        return Some(Detail::Seccomp);
    }
    let by_rule = guard::protect(None, || match policy::without_addresses() {
        Some(Action::Include) => None,
        Some(Action::Exclude) => Some(Detail::Excluded),
        None => Some(Detail::RuleNeedsAddress),
    });
    by_rule.or((state & REFUSED[smc as usize] != 0).then_some(Detail::NoKernelSmc))
}

#[cold]
extern "C" fn refused(smc: c_int, error: c_int) {
    if STATE.fetch_or(REFUSED[smc as usize], Ordering::Relaxed) & REFUSED[smc as usize] != 0 {
        return;
    }
    guard::protect((), || {
        let addresses = if smc == SMCPROTO_SMC6 { "IPv6" } else { "IPv4" };
        let why = std::io::Error::from_raw_os_error(error);
        log::warn!(
            "no AF_SMC sockets for {addresses} ({why}): they are TCP; {}",
            Detail::NoKernelSmc.advice()
        );
    });
}

/// A descriptor that the table may have something else for.
extern "C" fn known(fd: c_int, entry: Entry) {
    if !fd_table::get(fd).is_none() {
        unsafe { super::fd::stale(fd) };
    }
    fd_table::set(fd, entry);
}

/// SMC_RCVBUF and SMC_SNDBUF, where they are set to something. The kernel rounds, and has limits of its own.
extern "C" fn size_buffers(fd: c_int) {
    guard::protect((), || {
        let config = config::get();
        for (name, size) in [(libc::SO_RCVBUF, config.rcvbuf), (libc::SO_SNDBUF, config.sndbuf)] {
            if size != config::DEFAULT_RING {
                // The default of the kernel is as good an answer.
                let _ = sock::set_int_option(fd, libc::SOL_SOCKET, name, size as i32);
            }
        }
    });
}

/// getsockopt(2), while [`is_on`]: of an AF_SMC socket the family and protocol that it stands in for. Asked of the kernel
/// each time, for a descriptor may have come by exec or from another process; one that has fallen back says so itself.
pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    let ret = unsafe { real::getsockopt(fd, level, name, value, len) };
    let concerns = level == libc::SOL_SOCKET && (name == libc::SO_DOMAIN || name == libc::SO_PROTOCOL);
    if ret == 0 && concerns {
        if let Some(answer) = stood_in_for(fd, name) {
            let bytes = answer.to_ne_bytes();
            // As much as the kernel has written.
            let count = (unsafe { *len } as usize).min(bytes.len());
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), value.cast(), count) };
        }
    }
    ret
}

/// What a TCP socket would say in the place of the AF_SMC socket `fd`; `None` if it is none.
extern "C" fn stood_in_for(fd: c_int, name: c_int) -> Option<c_int> {
    let ask = |name| sock::int_option(fd, libc::SOL_SOCKET, name);
    guard::protect(None, || match (ask(libc::SO_DOMAIN), ask(libc::SO_PROTOCOL)) {
        (Ok(AF_SMC), _) if name == libc::SO_PROTOCOL => Some(libc::IPPROTO_TCP),
        (Ok(AF_SMC), Ok(SMCPROTO_SMC6)) => Some(libc::AF_INET6),
        (Ok(AF_SMC), _) => Some(libc::AF_INET),
        _ => None,
    })
}
