//! Programs started, replaced and ended; signal handlers and filters installed.

use super::{entry, keeping_errno};
use crate::fd_table::Entry;
use crate::{life, ops, real};
use libc::{
    c_char, c_int, pid_t, posix_spawn_file_actions_t, posix_spawnattr_t, sigaction as Sigaction,
    sighandler_t, termios, winsize,
};

/// This process's image is about to be replaced, if the call succeeds.
#[inline(always)]
pub(super) fn before_exec() {
    if life::may_act() {
        keeping_errno(|| ops::life::before_exec());
    }
}

#[inline(always)]
fn before_spawn() {
    if life::may_act() {
        keeping_errno(|| ops::life::before_spawn());
    }
}

/// The process is about to end without running exit handlers.
#[inline(always)]
pub(super) fn exiting() {
    if life::may_act() {
        ops::life::exiting();
    }
}

/// The process is about to restrict its own system calls.
#[inline(always)]
pub(super) fn filtering() {
    if life::may_act() {
        keeping_errno(|| ops::life::seccomp());
    }
}

/// The atfork handlers are not told when no child came of it. (In a child that fails later they have not run.)
#[inline(always)]
fn forked(result: c_int) {
    if result < 0 && life::fork_returned() && life::may_act() {
        keeping_errno(|| ops::life::fork_failed());
    }
}

/// The atfork handlers do the rest.
pub unsafe extern "C" fn fork() -> pid_t {
    life::fork_returned();
    let pid = unsafe { real::fork() };
    forked(pid);
    pid
}

/// It forks inside libc.
pub unsafe extern "C" fn daemon(stay: c_int, keep: c_int) -> c_int {
    life::fork_returned();
    let result = unsafe { real::daemon(stay, keep) };
    forked(result);
    result
}

/// It forks inside libc, after it has made a terminal, which may fail.
pub unsafe extern "C" fn forkpty(
    terminal: *mut c_int,
    name: *mut c_char,
    settings: *const termios,
    size: *const winsize,
) -> pid_t {
    life::fork_returned();
    let pid = unsafe { real::forkpty(terminal, name, settings, size) };
    forked(pid);
    pid
}

pub unsafe extern "C" fn posix_spawn(
    pid: *mut pid_t,
    path: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attr: *const posix_spawnattr_t,
    argv: *const *mut c_char,
    envp: *const *mut c_char,
) -> c_int {
    before_spawn();
    unsafe { real::posix_spawn(pid, path, actions, attr, argv, envp) }
}

pub unsafe extern "C" fn posix_spawnp(
    pid: *mut pid_t,
    file: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attr: *const posix_spawnattr_t,
    argv: *const *mut c_char,
    envp: *const *mut c_char,
) -> c_int {
    before_spawn();
    unsafe { real::posix_spawnp(pid, file, actions, attr, argv, envp) }
}

/// posix_spawn's child works inside libc; here is where it is said what it will do.
pub unsafe extern "C" fn spawn_adddup2(
    actions: *mut posix_spawn_file_actions_t,
    old: c_int,
    new: c_int,
) -> c_int {
    if let Entry::Conn(_) = entry(old) {
        keeping_errno(|| unsafe { ops::fd::passed(old) });
    }
    unsafe { real::posix_spawn_file_actions_adddup2(actions, old, new) }
}

pub unsafe extern "C" fn execve(
    path: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> c_int {
    before_exec();
    unsafe { real::execve(path, argv, envp) }
}

pub unsafe extern "C" fn execv(path: *const c_char, argv: *const *const c_char) -> c_int {
    before_exec();
    unsafe { real::execv(path, argv) }
}

pub unsafe extern "C" fn execvp(file: *const c_char, argv: *const *const c_char) -> c_int {
    before_exec();
    unsafe { real::execvp(file, argv) }
}

pub unsafe extern "C" fn execvpe(
    file: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> c_int {
    before_exec();
    unsafe { real::execvpe(file, argv, envp) }
}

pub unsafe extern "C" fn execveat(
    dir: c_int,
    path: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    flags: c_int,
) -> c_int {
    before_exec();
    unsafe { real::execveat(dir, path, argv, envp, flags) }
}

pub unsafe extern "C" fn fexecve(fd: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int {
    before_exec();
    unsafe { real::fexecve(fd, argv, envp) }
}

/// `_exit` and `_Exit`.
pub unsafe extern "C" fn exit(status: c_int) {
    exiting();
    unsafe { real::_exit(status) }
}

pub unsafe extern "C" fn prctl(option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int {
    if option == libc::PR_SET_SECCOMP {
        filtering();
    }
    unsafe { real::prctl(option, a, b, c, d) }
}

/// Which handlers restart calls decides how the engine waits; nothing is changed.
pub unsafe extern "C" fn sigaction(signum: c_int, action: *const Sigaction, old: *mut Sigaction) -> c_int {
    let ret = unsafe { real::sigaction(signum, action, old) };
    if ret == 0 && !action.is_null() && life::may_act() {
        keeping_errno(|| ops::signals::installed(signum));
    }
    ret
}

pub unsafe extern "C" fn signal(signum: c_int, handler: sighandler_t) -> sighandler_t {
    let ret = unsafe { real::signal(signum, handler) };
    if ret != libc::SIG_ERR && life::may_act() {
        keeping_errno(|| ops::signals::installed(signum));
    }
    ret
}
