//! Every system call the engine makes, without libc in between (see [`raw`] for why).
//!
//! Functions here are safe unless they take raw memory; they return `Result<_, Errno>` and never touch `errno`.

#[macro_use]
pub mod raw;

pub mod diag;
pub mod fd;
pub mod sock;

use core::sync::atomic::AtomicU32;

/// A Linux error number (positive).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "errno {}", self.0)
    }
}

pub type Result<T> = core::result::Result<T, Errno>;

pub fn gettid() -> u32 {
    // SAFETY: takes no arguments.
    unsafe { sys!(SYS_gettid) }.unwrap_or(0) as u32
}

/// Lets others run on this CPU.
pub fn sched_yield() {
    // SAFETY: takes no arguments.
    let _ = unsafe { sys!(SYS_sched_yield) };
}

pub fn getpid() -> u32 {
    // SAFETY: takes no arguments.
    unsafe { sys!(SYS_getpid) }.unwrap_or(0) as u32
}

pub fn geteuid() -> u32 {
    // SAFETY: takes no arguments.
    unsafe { sys!(SYS_geteuid) }.unwrap_or(0) as u32
}

/// Whether each uid of the host has a number in this user namespace, as in the first one: then no uid is hidden behind
/// the overflow uid. False where /proc does not tell.
pub fn every_uid_is_mapped() -> bool {
    let mut map = [0u8; 64];
    fd::read_file(c"/proc/self/uid_map", &mut map).is_ok_and(maps_every_uid)
}

/// Whether a `uid_map` (user_namespaces(7)) is the one line "0 N 4294967295".
fn maps_every_uid(map: &[u8]) -> bool {
    let mut words = map.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let (inside, _, count) = (words.next(), words.next(), words.next());
    inside == Some(b"0") && count == Some(b"4294967295")
}

/// Whether a process or thread with this id exists (also one that we may not signal; a zombie counts).
pub fn task_exists(id: u32) -> bool {
    // SAFETY: signal 0 only asks.
    let asked = unsafe { sys!(SYS_kill, id, 0) };
    asked != Err(Errno(libc::ESRCH))
}

/// Sleeps while `*word == expected`, at most `timeout_ns`; wakes early for any reason.
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout_ns: i64) {
    let ts = libc::timespec { tv_sec: timeout_ns / 1_000_000_000, tv_nsec: timeout_ns % 1_000_000_000 };
    // SAFETY: the word and the timespec outlive the call. Not FUTEX_PRIVATE: the word may be shared.
    let _ = unsafe { sys!(SYS_futex, word as *const AtomicU32, libc::FUTEX_WAIT, expected, &ts as *const _) };
}

pub fn futex_wake(word: &AtomicU32, count: i32) {
    // SAFETY: the word outlives the call.
    let _ = unsafe { sys!(SYS_futex, word as *const AtomicU32, libc::FUTEX_WAKE, count) };
}

/// CLOCK_MONOTONIC in nanoseconds. Through libc, which reads the vDSO without a system call; not interposed.
pub fn now_ns() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// CLOCK_MONOTONIC as of the last timer tick, some milliseconds ago at most; costs a few nanoseconds.
#[inline]
pub fn coarse_ns() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// The CPU the caller runs on.
#[inline]
pub fn cpu() -> u32 {
    // SAFETY: takes no arguments; reads rseq or the vDSO, never interposed.
    unsafe { libc::sched_getcpu() as u32 }
}

/// Fills `buf` with random bytes from the kernel.
pub fn random(buf: &mut [u8]) -> Result<()> {
    // SAFETY: the buffer is ours for the call.
    unsafe { sys!(SYS_getrandom, buf.as_mut_ptr(), buf.len(), 0) }.map(|_| ())
}

/// The soft limit of `resource` (RLIMIT_*).
pub fn soft_limit(resource: u32) -> u64 {
    let mut lim = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid place for the result.
    match unsafe { sys!(SYS_prlimit64, 0, resource, 0, &mut lim as *mut _) } {
        Ok(_) => lim.rlim_cur,
        Err(_) => u64::MAX,
    }
}

/// Maps `len` bytes; `fd` is -1 for anonymous memory.
pub fn map(len: usize, flags: i32, fd: i32) -> Result<*mut u8> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    unsafe { sys!(SYS_mmap, 0, len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) }.map(|p| p as *mut u8)
}

/// `ppoll` without a signal mask and without being a cancellation point; `timeout_ns` of 0 only looks.
pub fn poll(fds: &mut [libc::pollfd], timeout_ns: i64) -> Result<usize> {
    let mut ts = libc::timespec { tv_sec: timeout_ns / 1_000_000_000, tv_nsec: timeout_ns % 1_000_000_000 };
    // SAFETY: the array and the timespec outlive the call; no signal mask.
    unsafe { sys!(SYS_ppoll, fds.as_mut_ptr(), fds.len(), &mut ts as *mut _, 0, 8) }
}

#[cfg(test)]
mod tests {
    use super::maps_every_uid;

    #[test]
    fn only_the_whole_range_maps_every_uid() {
        assert!(maps_every_uid(b"         0          0 4294967295\n"));
        assert!(!maps_every_uid(b"         0     100000      65536\n"));
        assert!(!maps_every_uid(b"      1000       1000          1\n         0     100000 4294967295\n"));
        assert!(!maps_every_uid(b""));
    }
}
