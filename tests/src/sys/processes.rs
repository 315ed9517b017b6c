//! Signals, threads and processes.

use super::*;

// Signals.

extern "C" fn count_signal(_signal: c_int) {
    SIGNALS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

/// How often the handler that [`handle_signal`] installs has run in this process.
pub static SIGNALS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Installs a handler for `signal` that does nothing but count; `flags` are those of sigaction (SA_RESTART).
pub fn handle_signal(signal: c_int, flags: c_int) {
    install_handler(signal, count_signal, flags);
}

/// Installs a handler for `signal`.
pub fn install_handler(signal: c_int, handler: extern "C" fn(c_int), flags: c_int) {
    // SAFETY: sigaction is plain integers and pointers, for which zero is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = flags;
    action.sa_mask = no_signals();
    status(c!(sigaction(signal, &action, ptr::null_mut()))).expect("sigaction");
}

pub fn ignore_signal(signal: c_int) {
    c!(signal(signal, libc::SIG_IGN));
}

/// Lets SIGALRM come every `interval_us` microseconds (0: no more).
pub fn interval_timer(interval_us: c_long) {
    let interval = libc::timeval { tv_sec: 0, tv_usec: interval_us };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    status(c!(setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut()))).expect("setitimer");
}

// Threads and processes.

/// Becomes another user, for good.
pub fn set_user(uid: libc::uid_t) -> Result<(), Errno> {
    status(c!(setresuid(uid, uid, uid))).map(drop)
}

/// The kernel's number of the calling thread.
pub fn gettid() -> i32 {
    c!(gettid())
}

pub fn getpid() -> i32 {
    c!(getpid())
}

/// Sends `signal` to one thread of this process.
pub fn signal_thread(tid: i32, signal: c_int) {
    assert_eq!(c!(syscall(libc::SYS_tgkill, getpid(), tid, signal)), 0, "tgkill");
}

pub fn kill(pid: i32, signal: c_int) -> Result<(), Errno> {
    status(c!(kill(pid, signal))).map(drop)
}

/// Waits until a thread of this process sleeps in the kernel.
pub fn wait_until_asleep(tid: i32) {
    loop {
        let stat =
            std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).expect("the thread is there");
        // The state follows the name, which is in parentheses and may hold anything.
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
        if state == Some('S') {
            return;
        }
        std::thread::yield_now();
    }
}

/// Has the kernel end this process with the one that started it, so that a test cut off leaves nothing behind.
pub fn die_with_parent() {
    assert_eq!(c!(prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)), 0, "prctl");
}

/// Forks; the child runs `body` and exits with 0, or 101 when it panics.
pub fn fork_child(body: impl FnOnce()) -> i32 {
    // SAFETY: the tests fork in their only thread or, as C programs do, in one that holds no lock of another; the
    // child leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        die_with_parent();
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
        // exit, not _exit: what runs at exit is part of what is tested.
        std::process::exit(if passed { 0 } else { 101 });
    }
    pid
}

/// The exit status of a child, or minus the signal that ended it.
pub fn wait_child(pid: i32) -> i32 {
    let mut status = 0;
    loop {
        let result = c!(waitpid(pid, &mut status, 0));
        if result == pid {
            break;
        }
        assert_eq!(errno(), libc::EINTR, "waitpid");
    }
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        -libc::WTERMSIG(status)
    }
}

/// Replaces the program; returns only when that fails.
pub fn exec(program: &str) -> Errno {
    let path = std::ffi::CString::new(program).expect("a path without NUL");
    let argv = [path.as_ptr(), ptr::null()];
    c!(execv(path.as_ptr(), argv.as_ptr()));
    errno()
}

/// A counter in memory that forked children share.
pub struct SharedCounter(*const std::sync::atomic::AtomicU64);

impl SharedCounter {
    #[allow(clippy::new_without_default)]
    pub fn new() -> SharedCounter {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let place = c!(mmap(ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0));
        assert_ne!(place, libc::MAP_FAILED, "mmap");
        SharedCounter(place as *const _)
    }

    pub fn get(&self) -> &'static std::sync::atomic::AtomicU64 {
        // SAFETY: the mapping is page aligned, zeroed, and stays until the process ends.
        unsafe { &*self.0 }
    }
}

/// Starts a thread that blocks in `recv` on `fd`, has it cancelled once it sleeps, and joins it. True when it ended
/// by the cancellation.
pub fn cancel_blocked_recv(fd: RawFd) -> bool {
    use std::sync::atomic::{AtomicI32, Ordering};
    // Cancellation unwinds the thread through the call, which the libc crate's declaration does not allow for.
    extern "C-unwind" {
        fn recv(fd: c_int, buf: *mut c_void, n: usize, flags: c_int) -> isize;
    }
    struct Start {
        fd: c_int,
        tid: AtomicI32,
        buf: [u8; 64],
    }
    extern "C-unwind" fn receive(start: *mut c_void) -> *mut c_void {
        let start: *mut Start = start.cast();
        // SAFETY: the creator keeps `Start` until it has joined this thread. No destructor is live in this frame.
        unsafe {
            (*start).tid.store(libc::gettid(), Ordering::Release);
            recv((*start).fd, (*start).buf.as_mut_ptr().cast(), 64, 0);
        }
        ptr::null_mut()
    }
    extern "C" {
        fn pthread_create(
            thread: *mut libc::pthread_t,
            attributes: *const libc::pthread_attr_t,
            start: extern "C-unwind" fn(*mut c_void) -> *mut c_void,
            argument: *mut c_void,
        ) -> c_int;
        fn pthread_cancel(thread: libc::pthread_t) -> c_int;
    }
    let mut start = Box::new(Start { fd, tid: AtomicI32::new(0), buf: [0; 64] });
    let place: *mut Start = &mut *start;
    let mut result = ptr::null_mut();
    // SAFETY: `start` outlives the thread, which is joined below; the declarations are those of pthread.h.
    unsafe {
        let mut thread = std::mem::zeroed();
        assert_eq!(pthread_create(&mut thread, ptr::null(), receive, place.cast()), 0, "pthread_create");
        let tid = loop {
            match (*place).tid.load(Ordering::Acquire) {
                0 => std::thread::yield_now(),
                tid => break tid,
            }
        };
        wait_until_asleep(tid);
        assert_eq!(pthread_cancel(thread), 0, "pthread_cancel");
        assert_eq!(libc::pthread_join(thread, &mut result), 0, "pthread_join");
    }
    // PTHREAD_CANCELED
    result as isize == -1
}

/// Blocks a signal in the calling thread; the set that holds it alone.
pub fn block_signal(signal: c_int) -> libc::sigset_t {
    let mut set = no_signals();
    c!(sigaddset(&mut set, signal));
    assert_eq!(c!(pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut())), 0, "pthread_sigmask");
    set
}

/// The exit status of a shell command by `system(3)`.
pub fn system(command: &str) -> i32 {
    let command = std::ffi::CString::new(command).expect("a command without NUL");
    let status = c!(system(command.as_ptr()));
    assert!(libc::WIFEXITED(status), "system: {status:#x}");
    libc::WEXITSTATUS(status)
}

/// Keeps the calling thread on one CPU, when there is that one: what is measured should not depend on where the
/// scheduler happens to put it.
pub fn run_on_cpu(cpu: usize) {
    // SAFETY: cpu_set_t is an array of integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    c!(CPU_SET(cpu, &mut set));
    // Fails where the CPU is not to be had; then the scheduler chooses.
    let _ = c!(sched_setaffinity(0, std::mem::size_of_val(&set), &set));
}
