//! The process: its number, and what happens to the engine at fork.
//!
//! | event | parent | child |
//! |---|---|---|
//! | fork | `prepare` takes every lock below, in its order, so that the child's copy is consistent; `parent` releases | `child` makes the locks free, keeps every connection (its state is in memory both share), gives up rendezvous under way, lists itself anew for the tools, and is another process to its peers |
//! | vfork, posix_spawn | nothing | shares the parent's memory: the shim calls nothing here |
//! | exec | the shim brings descriptors the new program inherits back to TCP | memory is gone |
//! | exit, kill | nothing | the kernel closes the sockets, which the peers see |

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::conn::Conn;
use crate::lock::Lock;
use crate::reason::{Detail, Why};
use crate::registry::REGISTRY;
use crate::{conn, epoll, link, listener, lock, remote, report, shared, sys};

static PID: AtomicU32 = AtomicU32::new(0);

/// The calling process, without a system call except for the first time.
#[inline]
pub fn pid() -> u32 {
    match PID.load(Ordering::Relaxed) {
        0 => {
            let pid = sys::getpid();
            PID.store(pid, Ordering::Relaxed);
            pid
        }
        pid => pid,
    }
}

fn locks() -> [&'static Lock; 7] {
    [
        listener::raw_lock(),
        epoll::lists_raw_lock(),
        epoll::raw_lock(),
        link::raw_lock(),
        conn::raw_lock(),
        shared::raw_lock(),
        epoll::registrations_raw_lock(),
    ]
}

/// Other threads have locks that the fork under way could not wait for.
static UNCLEAN: AtomicBool = AtomicBool::new(false);

/// The thread that forks.
static FORKER: AtomicU32 = AtomicU32::new(0);

/// This thread is in a signal handler above code that has a lock. Who waited for a lock here could wait for a thread that waits for
/// that one.
fn has_interrupted() -> bool {
    locks().into_iter().any(Lock::is_mine)
        || epoll::set_locks().any(Lock::is_mine)
        || conn::all().any(|c| c.has_interrupted())
}

/// Before fork, in the parent. Nothing is waited for in a signal handler that interrupted the engine: what other threads are doing then
/// may be half done in the child, which therefore moves no connection. The interrupted code goes on in both.
pub fn prepare() {
    let wait = !has_interrupted();
    FORKER.store(lock::tid(), Ordering::Relaxed);
    // The links' after those of the sets: whoever has one of these may wait for a sender, which may wait for the links.
    let links = link::raw_lock();
    let others = locks().into_iter().filter(|lock| !core::ptr::eq(*lock, links));
    let mut clean = true;
    others.for_each(|lock| clean &= lock.fork_begins(wait));
    epoll::set_locks().for_each(|lock| clean &= lock.fork_begins(wait));
    let interrupted = links.is_mine();
    let links_taken = links.fork_begins(wait);
    UNCLEAN.store(!(clean && links_taken), Ordering::Relaxed);
    conn::all().for_each(|c| c.fork_begins());
    if links_taken && !interrupted {
        link::lending::before_fork();
    }
}

/// After fork, in the parent.
pub fn parent() {
    FORKER.store(0, Ordering::Relaxed);
    epoll::set_locks().for_each(Lock::fork_ends);
    locks().into_iter().for_each(Lock::fork_ends);
    listener::after_fork_in_parent();
}

/// After [`parent`], when no child was made.
pub fn fork_failed() {
    conn::all().for_each(|c| c.fork_failed());
}

/// After fork, in the child.
pub fn child() {
    let forker = FORKER.swap(0, Ordering::Relaxed);
    PID.store(0, Ordering::Relaxed);
    lock::forget_tid();
    epoll::set_locks().for_each(Lock::forked);
    locks().into_iter().for_each(Lock::forked);
    epoll::after_fork_in_child();
    REGISTRY.after_fork();
    link::after_fork_in_child();
    conn::watch::after_fork_in_child();
    shared::after_fork_in_child();
    remote::after_fork_in_child();
    conn::all().for_each(|c| c.forked(forker));
    listener::after_fork_in_child();
    if UNCLEAN.swap(false, Ordering::Relaxed) {
        conn::stop_moving(Why::new(Detail::SharedProcess));
    }
}

/// In a child that was made without the handlers above (`_Fork`, raw clone): as [`child`], as far as that is possible
/// with locks in an unknown state.
pub fn child_unannounced() {
    conn::all().for_each(|c| c.fork_begins());
    child();
    // Moving takes memory from malloc, whose lock may have been held by a thread that is not here.
    conn::stop_moving(Why::new(Detail::SharedProcess));
}

/// A process is about to be made that goes on with this end of `conn`, and does nothing else. Followed in the parent by
/// [`no_relay`] if that failed, and in the child by [`in_relay`].
pub fn before_relay(conn: &Conn) {
    conn.fork_begins();
    conn.borrow_for_child();
}

/// See [`before_relay`].
pub fn no_relay(conn: &Conn) {
    conn.fork_failed();
}

/// See [`before_relay`]. The child may be the copy of a process with threads: takes no memory from malloc. What the
/// parent knows of its other connections is forgotten.
pub fn in_relay(conn: &'static Conn) {
    PID.store(0, Ordering::Relaxed);
    lock::forget_tid();
    locks().into_iter().for_each(Lock::reset);
    // Their descriptors are closed, and the numbers will be used again.
    conn::watch::after_fork_in_child();
    REGISTRY.after_fork();
    link::after_fork_in_child();
    shared::after_fork_in_child();
    conn.forked(0);
    conn.forget_registrations();
    report::stop();
}

/// The relay is done, its connection closed.
pub fn relay_ends() {
    REGISTRY.close();
}

/// The process is about to end in an orderly way.
pub fn exiting() {
    conn::all().filter(|c| c.is_attached()).for_each(|c| c.pay_debt(c.listed_fd()));
    conn::all().for_each(|c| report::connection_closes(c, c.entry().fd()));
    REGISTRY.close();
    remote::finish();
}
