//! What happens to the shim when the process is copied, replaced or ended.
//!
//! | event | parent | child or new image |
//! |---|---|---|
//! | `fork` (also inside `daemon`, `forkpty`) | atfork prepare takes our locks, parent releases them | atfork child releases them, new pid; the table and all connections stay |
//! | a `fork` that fails | as above, then `ops::life::fork_failed` | - |
//! | `_Fork`, raw `clone` | not seen | the wiped canary tells; set right at the first managed call |
//! | `vfork` | its thread is marked; the mark goes with that thread's next managed call | runs in the parent's memory: pid differs while the canary stands. Every hook passes through and changes nothing, except that a connection it duplicates, for the program it is about to become, is handed over to TCP first |
//! | `posix_spawn`, `system`, `popen` | `ops::life::before_spawn` for the first, and a connection that its file actions duplicate is handed over to TCP; the others are not seen | as vfork, but inside libc: no hook runs |
//! | `exec*` | - | `ops::life::before_exec` in the process that calls it, unless that is a vfork child; then a new image |
//! | `_exit`, `exit_group` | - | `ops::life::exiting` |
//! | `exit` | nothing: no destructors, hooks work until the end | - |
//! | thread exit | nothing: no thread-local state with destructors | - |
//!
//! Nothing in this folder blocks, allocates or touches `errno`, except `start`.

pub mod start;

use crate::ops;
use core::cell::Cell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// Any value that a wiped page does not have.
const CANARY: u32 = 0x534d_4331;

/// A word that is [`CANARY`], in a page that the kernel wipes in forked children (MADV_WIPEONFORK). Null until the
/// shim is active, and for good if it stays inert.
static CANARY_PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(core::ptr::null_mut());

/// The process that the canary stands for.
static PID: AtomicI32 = AtomicI32::new(0);

/// Threads that have called vfork and have not been seen since. While there is one, managed calls pay for a getpid.
static VFORKING: [AtomicI32; 8] = [const { AtomicI32::new(0) }; 8];

/// How many of [`VFORKING`] are in use, and more if they did not suffice: then it never returns to zero.
static VFORKS: AtomicU32 = AtomicU32::new(0);

/// The thread between atfork prepare and parent, or zero. In a child the canary is wiped before the child handler
/// has run; this tells that from a `_Fork` child.
static FORKING: AtomicI32 = AtomicI32::new(0);

/// Signals that wait while it forks: all but those of a thread's own faults, and libc's two (32 and 33).
const DEFERRED: u64 = {
    let own = [libc::SIGILL, libc::SIGTRAP, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV, libc::SIGSYS, 32, 33];
    let (mut mask, mut i) = (u64::MAX, 0);
    while i < own.len() {
        mask &= !(1 << (own[i] - 1));
        i += 1;
    }
    mask
};

/// The signal mask of the thread in [`FORKING`], as it was.
static MASK: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The calling thread has forked, or tried to, in this process.
    static RETURNED: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread has come out of a fork, or of one that failed, since this was last asked.
pub extern "C" fn fork_returned() -> bool {
    RETURNED.replace(false)
}

fn getpid() -> i32 {
    // SAFETY: no arguments, no failure.
    unsafe { smc_core::sys::raw::syscall6(libc::SYS_getpid as usize, 0, 0, 0, 0, 0, 0) as i32 }
}

pub(crate) fn gettid() -> i32 {
    // SAFETY: no arguments, no failure.
    unsafe { smc_core::sys::raw::syscall6(libc::SYS_gettid as usize, 0, 0, 0, 0, 0, 0) as i32 }
}

/// Whether the shim may act on its tables in this call. False before the constructor has run, when inert, and in a
/// vfork child; the hook then passes through.
#[inline(always)]
pub fn may_act() -> bool {
    let canary = CANARY_PAGE.load(Ordering::Acquire);
    if canary.is_null() {
        return false;
    }
    // SAFETY: once set, the page stays mapped.
    let intact = unsafe { (*canary).load(Ordering::Relaxed) } == CANARY;
    (intact && VFORKS.load(Ordering::Relaxed) == 0) || may_act_after_look(canary)
}

#[cold]
#[inline(never)]
extern "C" fn may_act_after_look(canary: *mut AtomicU32) -> bool {
    // SAFETY: once set, the page stays mapped.
    let canary = unsafe { &*canary };
    let pid = getpid();
    if canary.load(Ordering::Relaxed) != CANARY {
        // The memory is a copy. Atfork handlers of libraries that registered before us run before ours: not yet.
        if FORKING.load(Ordering::Relaxed) != 0 {
            return false;
        }
        become_process(canary, pid);
        ops::life::child_unannounced();
        return true;
    }
    if pid != PID.load(Ordering::Relaxed) {
        return false;
    }
    // Whoever vforked and is here again: its child has exec'd or exited.
    let tid = gettid();
    for marked in &VFORKING {
        if marked.load(Ordering::Relaxed) == tid {
            marked.store(0, Ordering::Relaxed);
            VFORKS.fetch_sub(1, Ordering::Relaxed);
        }
    }
    true
}

/// Whether this is a vfork child, in its parent's memory and in the place of the thread that made it.
#[inline(always)]
pub fn in_vfork_child() -> bool {
    VFORKS.load(Ordering::Relaxed) != 0 && in_vfork_child_after_look()
}

#[cold]
#[inline(never)]
extern "C" fn in_vfork_child_after_look() -> bool {
    let canary = CANARY_PAGE.load(Ordering::Acquire);
    // SAFETY: once set, the page stays mapped.
    !canary.is_null()
        && unsafe { (*canary).load(Ordering::Relaxed) } == CANARY
        && getpid() != PID.load(Ordering::Relaxed)
}

/// Makes the canary stand for this process, which has one thread.
fn become_process(canary: &AtomicU32, pid: i32) {
    PID.store(pid, Ordering::Relaxed);
    for marked in &VFORKING {
        marked.store(0, Ordering::Relaxed);
    }
    VFORKS.store(0, Ordering::Relaxed);
    FORKING.store(0, Ordering::Relaxed);
    canary.store(CANARY, Ordering::Release);
}

/// Called on the way into vfork(), in the parent.
pub fn vforking() {
    // A vfork child that vforks in turn is told by the mark of its parent.
    if !may_act() {
        return;
    }
    ops::life::before_spawn();
    let tid = gettid();
    VFORKS.fetch_add(1, Ordering::Relaxed);
    for marked in &VFORKING {
        if marked.compare_exchange(0, tid, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return;
        }
    }
    // No room: the count stays up, and every managed call looks at the pid from now on.
}

/// Puts the canary up and registers for fork. The shim is active from here on.
///
/// # Errors
/// What did not work; the shim then stays inert.
fn activate() -> Result<(), &'static str> {
    let len = core::mem::size_of::<AtomicU32>();
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new private mapping of one page, and advice on it alone.
    let page = unsafe {
        let page = smc_core::sys!(SYS_mmap, 0, len, prot, flags, -1isize, 0).map_err(|_| "mmap")?;
        smc_core::sys!(SYS_madvise, page, len, libc::MADV_WIPEONFORK).map_err(|_| "MADV_WIPEONFORK")?;
        page as *mut AtomicU32
    };
    // SAFETY: the handlers are functions of this library, which is never unloaded.
    if unsafe { libc::pthread_atfork(Some(fork_prepare), Some(fork_parent), Some(fork_child)) } != 0 {
        return Err("pthread_atfork");
    }
    // SAFETY: the page is mapped, zeroed and aligned.
    become_process(unsafe { &*page }, getpid());
    CANARY_PAGE.store(page, Ordering::Release);
    Ok(())
}

unsafe extern "C" fn fork_prepare() {
    if !may_act() {
        return;
    }
    let tid = gettid();
    // No signal handler forks in between.
    let mask = set_mask(DEFERRED, libc::SIG_BLOCK);
    // libc lets several threads run their handlers at once; our three belong together.
    while let Err(other) = FORKING.compare_exchange_weak(0, tid, Ordering::Acquire, Ordering::Relaxed) {
        if other == tid {
            set_mask(mask, libc::SIG_SETMASK);
            return;
        }
        // SAFETY: no arguments.
        let _ = unsafe { smc_core::sys!(SYS_sched_yield) };
    }
    MASK.store(mask, Ordering::Relaxed);
    ops::life::fork_prepare();
    crate::logging::fork_prepare();
}

unsafe extern "C" fn fork_parent() {
    if FORKING.load(Ordering::Relaxed) == gettid() {
        crate::logging::fork_done(false);
        ops::life::fork_parent();
        let mask = MASK.load(Ordering::Relaxed);
        FORKING.store(0, Ordering::Release);
        RETURNED.set(true);
        set_mask(mask, libc::SIG_SETMASK);
    }
}

unsafe extern "C" fn fork_child() {
    let canary = CANARY_PAGE.load(Ordering::Acquire);
    if canary.is_null() || FORKING.load(Ordering::Relaxed) == 0 {
        return;
    }
    // SAFETY: once set, the page stays mapped.
    become_process(unsafe { &*canary }, getpid());
    crate::logging::fork_done(true);
    ops::life::fork_child();
    set_mask(MASK.load(Ordering::Relaxed), libc::SIG_SETMASK);
}

/// Changes which signals the calling thread gets. Returns which it did not get before.
fn set_mask(mask: u64, how: i32) -> u64 {
    let mut old = 0u64;
    // SAFETY: the kernel's set of signals has 8 bytes; both outlive the call.
    let _ = unsafe { smc_core::sys!(SYS_rt_sigprocmask, how, &mask as *const u64, &mut old as *mut u64, 8) };
    old
}

/// The address of the next vfork, for the trampoline to jump to.
pub extern "C" fn vfork_entry() -> *const c_void {
    vforking();
    crate::real::vfork()
}

/// As [`vfork_entry`], for the other name; libc may have only one of them.
pub extern "C" fn vfork_alias_entry() -> *const c_void {
    vforking();
    let next = crate::real::__vfork();
    if next.is_null() {
        crate::real::vfork()
    } else {
        next
    }
}
