//! Signal handlers of the program, and what an interrupted wait does about them.
//!
//! On TCP a blocked receive is restarted by the kernel after a handler that was installed with SA_RESTART, and fails
//! with EINTR after one that was not. A connection on the ring waits in ppoll, which always fails with EINTR, and the
//! kernel does not say which handler ran. So the dispositions decide:
//!
//! - all handlers restart: so does the wait; none does: EINTR. Nothing is paid for this before the wait.
//! - some do and some do not: the wait keeps those that restart from interrupting it, and watches for them with
//!   a signalfd instead. They are delivered as soon as ppoll returns. An interruption then was one of the others.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use libc::c_int;
use smc_core::sys::fd;

/// A disposition has changed since [`look`] did.
static DIRTY: AtomicBool = AtomicBool::new(true);
/// Signals (bit n-1 for signal n) with a handler that restarts, and with one that does not.
static RESTARTING: AtomicU64 = AtomicU64::new(0);
static INTERRUPTING: AtomicU64 = AtomicU64::new(0);

/// Those that no sleeping thread gets from elsewhere (SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV), and libc's own two.
const NEVER: u64 = bit(4) | bit(5) | bit(7) | bit(8) | bit(11) | bit(32) | bit(33);

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// The disposition of `signum` was changed. `errno` is kept by the hook.
pub extern "C" fn installed(_signum: c_int) {
    DIRTY.store(true, Ordering::Release);
}

/// struct kernel_sigaction.
#[repr(C)]
struct Action {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: u64,
}

/// Asks the kernel for all dispositions.
fn look() -> (u64, u64) {
    DIRTY.store(false, Ordering::Release);
    let (mut restarting, mut interrupting) = (0, 0);
    for signal in 1..=64 {
        let mut action = Action { handler: 0, flags: 0, restorer: 0, mask: 0 };
        // SAFETY: a valid place for the result; nothing is changed.
        let got = unsafe { smc_core::sys!(SYS_rt_sigaction, signal, 0, &mut action as *mut Action, 8) };
        let handled = got.is_ok() && action.handler != libc::SIG_DFL && action.handler != libc::SIG_IGN;
        if !handled || NEVER & bit(signal) != 0 {
            continue;
        }
        if action.flags & libc::SA_RESTART as usize != 0 {
            restarting |= bit(signal);
        } else {
            interrupting |= bit(signal);
        }
    }
    RESTARTING.store(restarting, Ordering::Relaxed);
    INTERRUPTING.store(interrupting, Ordering::Relaxed);
    (restarting, interrupting)
}

/// What a wait must do about signals.
#[derive(Clone, Copy)]
pub struct Watch {
    /// For ppoll: the thread's mask and the restarting signals. Used if `signals` is not -1.
    pub mask: u64,
    /// A signalfd for the restarting signals, or -1.
    pub signals: c_int,
}

/// Before a wait that must be restarted by some handlers and interrupted by others. No descriptor is made where
/// there is only one kind.
pub extern "C" fn watch() -> Watch {
    let none = Watch { mask: 0, signals: -1 };
    let (restarting, interrupting) = if DIRTY.load(Ordering::Acquire) {
        look()
    } else {
        (RESTARTING.load(Ordering::Relaxed), INTERRUPTING.load(Ordering::Relaxed))
    };
    if restarting == 0 || interrupting == 0 {
        return none;
    }
    let mut mask = 0u64;
    // SAFETY: valid places; the mask is only asked for, and the set outlives the call.
    unsafe {
        let ask = smc_core::sys!(SYS_rt_sigprocmask, libc::SIG_BLOCK, 0, &mut mask as *mut u64, 8);
        let wanted = restarting & !mask;
        if ask.is_err() || wanted == 0 {
            return none;
        }
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        match smc_core::sys!(SYS_signalfd4, -1i32, &wanted as *const u64, 8, flags) {
            Ok(signals) => Watch { mask: mask | wanted, signals: signals as c_int },
            Err(_) => none,
        }
    }
}

/// After the wait.
pub extern "C" fn unwatch(watch: Watch) {
    if watch.signals >= 0 {
        fd::close(watch.signals);
    }
}

/// A wait without [`Watch`] was interrupted: is it to go on?
pub extern "C" fn restarts() -> bool {
    let (restarting, interrupting) = look();
    interrupting == 0 || (restarting != 0 && interrupting & !restarting == 0)
}
