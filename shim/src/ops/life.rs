//! What the engine does when the process is copied, replaced or ended.

use crate::fd_table::{self, Entry};
use crate::{errno, guard, real};
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicBool, Ordering};
use libc::{c_int, timespec};
use smc_core::config::{self, Backend, Settings};
use smc_core::conn::{self, Conn};
use smc_core::reason::{Detail, Why};
use smc_core::sys::fd;
use smc_core::{host, policy, process, registry};

/// Something happened in this process after which no connection is moved any more.
static NO_MORE: AtomicBool = AtomicBool::new(false);

fn mark_internal(fd: i32, on: bool) {
    let (from, to) = if on { (Entry::None, Entry::Internal) } else { (Entry::Internal, Entry::None) };
    if on {
        // A stale entry of a descriptor closed unseen must not stay.
        fd_table::set(fd, to);
    } else {
        fd_table::replace_if(fd, from, to);
    }
}

/// At the end of the constructor, when the shim is active.
pub fn start(settings: Settings) {
    guard::protect((), || {
        host::set_mark_internal(mark_internal);
        for complaint in &settings.complaints {
            log::error!("{complaint}");
        }
        if settings.are_broken() {
            stop(Detail::SettingsBroken);
        } else if settings.config.backend == Backend::Kernel {
            super::kernel::start();
        }
        config::install(settings.config);
        policy::install(settings.rules);
        registry::configure(|name| std::env::var_os(name));
        // At exit() by way of libc, besides `_exit` and `exit_group`, which are hooked.
        // SAFETY: a function of this library, which is never unloaded.
        unsafe { libc::atexit(at_exit) };
    });
}

extern "C" fn at_exit() {
    exiting();
}

/// Before fork, in the parent: take every lock that the child must find free.
pub extern "C" fn fork_prepare() {
    guard::protect((), process::prepare);
}

/// After fork, in the parent.
pub extern "C" fn fork_parent() {
    guard::protect((), process::parent);
}

/// After [`fork_parent`], if there is no child.
pub extern "C" fn fork_failed() {
    guard::protect((), process::fork_failed);
}

/// After fork, in the child, which has one thread: the one that called [`fork_prepare`].
pub extern "C" fn fork_child() {
    guard::protect((), process::child);
}

/// In a child of `_Fork` or a raw clone, at its first managed call: [`fork_prepare`] was not called, and locks may be
/// held by threads that are not there.
pub extern "C" fn child_unannounced() {
    guard::protect((), process::child_unannounced);
}

/// How long a hand-over waits for the peer to begin to send what it has left in the ring, and to come to an end of it.
const BEGIN_TRIES: u32 = 200;
const PATIENCE_TRIES: u32 = 10_000;
const PAUSE_NS: i64 = 1_000_000;

/// Makes the descriptor usable for somebody who knows nothing of us: both directions go back to TCP, with nothing lost,
/// and stay there. With a peer that does not help, another process relays.
pub unsafe extern "C" fn hand_over(conn: &'static Conn, fd: c_int, detail: Detail) {
    let saved = errno::get();
    if conn.is_far() {
        // One that is not decided yet declines.
        super::open::pin(conn, detail);
        unsafe { super::open::wait_for_decision(conn, fd) };
        if conn.is_far() {
            give_up_far(conn, fd);
        }
    }
    if conn.is_attached() {
        // Before anything else: a peer that merely returns does so behind what is unread.
        recall(conn, conn.generation(), detail);
    }
    super::open::pin(conn, detail);
    if conn.is_attached() && !unsafe { returned(conn, fd) } && !super::relay::between(conn, fd) {
        give_up(fd);
    }
    errno::set(saved);
}

/// As [`hand_over`], for a call that can fail instead: false if the peer does not help. The connection then goes on, and
/// returns when the peer next sends.
pub unsafe extern "C" fn back_to_tcp(conn: &'static Conn, fd: c_int, detail: Detail) -> bool {
    recall(conn, conn.generation(), detail);
    super::open::pin(conn, detail);
    unsafe { returned(conn, fd) }
}

/// Waits until both directions are on TCP. False: the peer does not help, and will not any more.
unsafe extern "C" fn returned(conn: &'static Conn, fd: c_int) -> bool {
    let generation = conn.generation();
    let mut tx = false;
    for tries in 0..PATIENCE_TRIES {
        // A peer that has closed its sending side cannot help; what it has begun it may have finished before.
        let hopeless = has_closed(conn, fd) || tries >= BEGIN_TRIES;
        tx = tx || tx_back(conn, generation);
        if tx && rx_back(conn, generation) {
            return true;
        }
        if hopeless && withdrawn(conn) {
            return false;
        }
        let pause = timespec { tv_sec: 0, tv_nsec: PAUSE_NS };
        unsafe { real::ppoll(null_mut(), 0, &pause, null()) };
    }
    false
}

extern "C" fn has_closed(conn: &'static Conn, fd: c_int) -> bool {
    guard::protect(false, || {
        conn.look_for_fin(fd);
        conn.fin_seen()
    })
}

extern "C" fn withdrawn(conn: &'static Conn) -> bool {
    guard::protect(false, || conn.withdraw_recall())
}

extern "C" fn tx_back(conn: &'static Conn, generation: u32) -> bool {
    guard::protect(false, || conn.tx_to_tcp(generation, Why::new(Detail::CallUnsupported)))
}

extern "C" fn recall(conn: &'static Conn, generation: u32, detail: Detail) {
    guard::protect((), || conn.recall(generation, Why::new(detail)));
}

extern "C" fn rx_back(conn: &'static Conn, generation: u32) -> bool {
    guard::protect(false, || {
        // Both ends may be this process's, with nobody else to answer.
        conn.serve_local_peer();
        conn.recall_done(generation)
    })
}

#[cold]
extern "C" fn give_up_far(conn: &'static Conn, fd: c_int) {
    guard::protect((), || {
        log::error!("fd {fd}: a connection on SMC-R cannot be handed to something that knows only TCP; connection ended");
        conn.shut_far(fd, libc::SHUT_RDWR);
        // SAFETY: integer arguments only.
        let _ = unsafe { smc_core::sys!(SYS_shutdown, fd, libc::SHUT_RDWR) };
    });
}

#[cold]
extern "C" fn give_up(fd: c_int) {
    guard::protect((), || {
        log::error!("fd {fd}: the peer did not bring the stream back to TCP, and no process could be made to relay it; connection ended");
        // SAFETY: integer arguments only.
        let _ = unsafe { smc_core::sys!(SYS_shutdown, fd, libc::SHUT_RDWR) };
    });
}

/// Before exec in this process. The call may fail, and the program go on.
pub extern "C" fn before_exec() {
    let mut next = 0;
    while let Some((number, conn)) = next_connection(next) {
        next = number as u32 + 1;
        if inherited_by_exec(number, conn) {
            unsafe { hand_over(conn, number, Detail::Executed) };
        }
    }
    tell_far_peers();
}

/// What is on SMC-R in this process ends with it.
extern "C" fn tell_far_peers() {
    guard::protect((), smc_core::remote::finish);
}

/// The next connection in the table from `from` on that is attached.
extern "C" fn next_connection(from: u32) -> Option<(c_int, &'static Conn)> {
    let mut found = None;
    fd_table::for_each(from, u32::MAX, |fd, entry| {
        if let Entry::Conn(conn) = entry {
            if conn.is_attached() {
                found = Some((fd as c_int, conn));
            }
        }
        found.is_none()
    });
    found
}

/// Whether the next program gets the descriptor and may use it. One that a living parent or child uses too is left to
/// them, unless it is put where programs look for one.
extern "C" fn inherited_by_exec(number: c_int, conn: &'static Conn) -> bool {
    guard::protect(false, || fd::close_on_exec(number) == Ok(false) && (number <= 2 || conn.is_held_alone()))
}

/// Before posix_spawn or vfork: a child that inherits descriptors without our seeing it exec.
pub extern "C" fn before_spawn() {}

/// Before `_exit` or `exit_group`. Must not block.
pub extern "C" fn exiting() {
    guard::protect((), process::exiting);
}

/// The process is about to filter its own system calls: from now on only those that it makes itself are safe.
pub extern "C" fn seccomp() {
    super::kernel::stop();
    stop(Detail::Seccomp);
}

/// The process is about to create an io_uring, which reads and writes where we do not look. False to refuse it
/// (ENOSYS).
pub extern "C" fn io_uring_setup() -> bool {
    stop(Detail::IoUring);
    true
}

fn stop(detail: Detail) {
    if !NO_MORE.swap(true, Ordering::Relaxed) {
        guard::protect((), || conn::stop_moving(Why::new(detail)));
    }
}
