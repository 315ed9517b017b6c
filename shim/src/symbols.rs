//! Every interposed symbol, declared once.
//!
//! A declaration makes the export, the slot for the next definition, `real::NAME` to call it, and the entry in the
//! lists that the constructor and `ci/exports.sh` go by. The kinds:
//!
//! - `required` / `optional` NAME(args) -> ret = hook, early form: whether libc must have it, and what `real::NAME`
//!   does while the slot is empty: `raw(SYS_x)` the system call with the same arguments, `early(f)` a function of
//!   `real::early`, `lazy` a look-up on the spot.
//! - `alias`: another name of a function above; goes to the same hook and to the next definition of the main name.
//! - `trampoline`: exported from assembly (`abi/trampoline.rs`), because the hook must not have a frame of its own.
//! - `redhook`: exported by redhook's `hook!`, where that is sound (`abi/redhooked.rs`).
//!
//! One line, one symbol: `ci/exports.sh` reads this file.

use crate::abi::{epoll, fd, open, poll, process, rw, socket, stdio, syscall as raw_syscall};
use crate::real::Presence;
use core::sync::atomic::AtomicPtr;
use libc::{
    c_char, c_int, c_long, c_uint, c_void, epoll_event, fd_set, iovec, mmsghdr, mode_t, msghdr, nfds_t,
    off64_t, off_t, pid_t, pollfd, posix_spawn_file_actions_t, posix_spawnattr_t, sigaction as Sigaction,
    sighandler_t, sigset_t, size_t, sockaddr, socklen_t, ssize_t, termios, timespec, timeval, winsize, FILE,
};

/// A symbol whose next definition is called by `real::NAME`.
pub struct Symbol {
    /// With a NUL at its end.
    pub name: &'static str,
    pub presence: Presence,
    pub slot: &'static AtomicPtr<c_void>,
}

macro_rules! early_form {
    (raw($nr:ident); $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty) => {
        // SAFETY: the declaration says that the system call takes these very arguments.
        unsafe { crate::real::kernel!($nr $(, $arg)*) as $ret }
    };
    (early($early:ident); $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty) => {
        // SAFETY: the same contract as the function's.
        unsafe { crate::real::early::$early($($arg),*) }
    };
    (lazy; $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty) => {{
        let next = crate::real::look_up(concat!(stringify!($name), "\0"));
        if next.is_null() {
            return crate::real::missing();
        }
        // SAFETY: the declaration gives the symbol's signature.
        unsafe { core::mem::transmute::<*mut c_void, unsafe extern "C" fn($($ty),*) -> $ret>(next)($($arg),*) }
    }};
}

macro_rules! symbols {
    (
        next { $( $presence:ident $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty = $hook:path, $early:ident $(($early_arg:ident))?; )* }
        aliases { $( alias $alias:ident($($alias_arg:ident: $alias_ty:ty),* $(,)?) -> $alias_ret:ty = $alias_hook:path; )* }
        trampolines { $( trampoline $trampoline:ident; )* }
        redhooks { $( redhook $redhook:ident; )* }
    ) => {
        /// The exported functions.
        #[allow(clippy::missing_safety_doc, non_snake_case)]
        pub mod export {
            use super::*;
            $(
                #[cfg_attr(not(test), no_mangle)]
                pub unsafe extern "C" fn $name($($arg: $ty),*) -> $ret {
                    // SAFETY: the caller keeps the contract of the libc function of this name.
                    unsafe { $hook($($arg),*) }
                }
            )*
            $(
                #[cfg_attr(not(test), no_mangle)]
                pub unsafe extern "C" fn $alias($($alias_arg: $alias_ty),*) -> $alias_ret {
                    // SAFETY: the caller keeps the contract of the libc function of this name.
                    unsafe { $alias_hook($($alias_arg),*) }
                }
            )*
        }

        /// The next definition of each symbol.
        #[allow(non_upper_case_globals)]
        mod slot {
            use super::*;
            $( pub static $name: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut()); )*
            $( pub static $trampoline: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut()); )*
        }

        /// Calls of the next definition. Each has the contract of the libc function of its name.
        ///
        /// Inlined, and without anything that could unwind in Rust's sense, so that the frame it becomes part of has
        /// no landing pads: a cancelled thread unwinds through it.
        #[allow(clippy::missing_safety_doc)]
        pub mod real {
            use super::*;
            $(
                #[inline(always)]
                pub unsafe fn $name($($arg: $ty),*) -> $ret {
                    #[cold]
                    #[inline(never)]
                    unsafe extern "C" fn without_next($($arg: $ty),*) -> $ret {
                        early_form!($early $(($early_arg))?; $name($($arg: $ty),*) -> $ret)
                    }
                    let next = slot::$name.load(core::sync::atomic::Ordering::Relaxed);
                    if next.is_null() {
                        // SAFETY: passed on to our caller.
                        return unsafe { without_next($($arg),*) };
                    }
                    // SAFETY: the declaration gives the symbol's signature; the rest is our caller's.
                    unsafe { core::mem::transmute::<*mut c_void, unsafe extern "C" fn($($ty),*) -> $ret>(next)($($arg),*) }
                }
            )*
            $(
                /// The address of the next definition; looked up on the spot before the constructor has run.
                #[inline(always)]
                pub fn $trampoline() -> *const c_void {
                    let next = slot::$trampoline.load(core::sync::atomic::Ordering::Relaxed);
                    if next.is_null() { crate::real::look_up(concat!(stringify!($trampoline), "\0")) } else { next }
                }
            )*
        }

        /// Every symbol with a slot.
        pub static TABLE: &[Symbol] = &[
            $( Symbol { name: concat!(stringify!($name), "\0"), presence: presence!($presence), slot: &slot::$name }, )*
            $( Symbol { name: concat!(stringify!($trampoline), "\0"), presence: Presence::Optional, slot: &slot::$trampoline }, )*
        ];

    };
}

macro_rules! presence {
    (required) => {
        Presence::Required
    };
    (optional) => {
        Presence::Optional
    };
}

#[rustfmt::skip]
symbols! {
    next {
        // Creation, connection, acceptance.
        required socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int = socket::socket, raw(SYS_socket);
        required accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = socket::accept, raw(SYS_accept);
        required accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int = socket::accept4, raw(SYS_accept4);
        required connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int = socket::connect, raw(SYS_connect);
        required bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int = socket::bind, raw(SYS_bind);
        required shutdown(fd: c_int, how: c_int) -> c_int = socket::shutdown, raw(SYS_shutdown);
        required getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int = socket::getsockopt, raw(SYS_getsockopt);
        required setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int = socket::setsockopt, raw(SYS_setsockopt);
        required socketpair(domain: c_int, kind: c_int, protocol: c_int, fds: *mut c_int) -> c_int = open::socketpair, raw(SYS_socketpair);

        // Data.
        required read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t = rw::read, raw(SYS_read);
        required readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t = rw::readv, raw(SYS_readv);
        required recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t = rw::recv, early(recv);
        required recvfrom(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int, addr: *mut sockaddr, addr_len: *mut socklen_t) -> ssize_t = rw::recvfrom, raw(SYS_recvfrom);
        required recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t = rw::recvmsg, raw(SYS_recvmsg);
        required recvmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int = rw::recvmmsg, raw(SYS_recvmmsg);
        required write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t = rw::write, raw(SYS_write);
        required writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t = rw::writev, raw(SYS_writev);
        required send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t = rw::send, early(send);
        required sendto(fd: c_int, buf: *const c_void, len: size_t, flags: c_int, addr: *const sockaddr, addr_len: socklen_t) -> ssize_t = rw::sendto, raw(SYS_sendto);
        required sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t = rw::sendmsg, raw(SYS_sendmsg);
        required sendmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int = rw::sendmmsg, raw(SYS_sendmmsg);
        required sendfile(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t = rw::sendfile, raw(SYS_sendfile);
        required splice(input: c_int, input_offset: *mut off64_t, out: c_int, out_offset: *mut off64_t, len: size_t, flags: c_uint) -> ssize_t = rw::splice, raw(SYS_splice);
        optional preadv2(fd: c_int, iov: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t = rw::preadv2, early(preadv2);
        optional pwritev2(fd: c_int, iov: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t = rw::pwritev2, early(pwritev2);
        optional __read_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t) -> ssize_t = rw::read_chk, lazy;
        optional __recv_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t, flags: c_int) -> ssize_t = rw::recv_chk, lazy;
        optional __recvfrom_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t, flags: c_int, addr: *mut sockaddr, addr_len: *mut socklen_t) -> ssize_t = rw::recvfrom_chk, lazy;

        // Descriptors.
        required close(fd: c_int) -> c_int = fd::close, raw(SYS_close);
        required dup(fd: c_int) -> c_int = fd::dup, raw(SYS_dup);
        required dup2(old: c_int, new: c_int) -> c_int = fd::dup2, early(dup2);
        required dup3(old: c_int, new: c_int, flags: c_int) -> c_int = fd::dup3, raw(SYS_dup3);
        required fcntl(fd: c_int, cmd: c_int, arg: usize) -> c_int = fd::fcntl, raw(SYS_fcntl);
        required ioctl(fd: c_int, request: usize, arg: usize) -> c_int = fd::ioctl, raw(SYS_ioctl);
        optional close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int = fd::close_range, raw(SYS_close_range);
        optional closefrom(first: c_int) -> () = fd::closefrom, lazy;

        // Waiting.
        required poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int = poll::poll, early(poll);
        required ppoll(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int = poll::ppoll, early(ppoll);
        required select(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *mut timeval) -> c_int = poll::select, early(select);
        required pselect(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *const timespec, mask: *const sigset_t) -> c_int = poll::pselect, early(pselect);
        optional __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, size: size_t) -> c_int = poll::poll_chk, lazy;
        optional __ppoll_chk(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t, size: size_t) -> c_int = poll::ppoll_chk, lazy;
        required epoll_create(size: c_int) -> c_int = epoll::epoll_create, early(epoll_create);
        required epoll_create1(flags: c_int) -> c_int = epoll::epoll_create1, raw(SYS_epoll_create1);
        required epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int = epoll::epoll_ctl, raw(SYS_epoll_ctl);
        required epoll_wait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int) -> c_int = epoll::epoll_wait, early(epoll_wait);
        required epoll_pwait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int, mask: *const sigset_t) -> c_int = epoll::epoll_pwait, early(epoll_pwait);
        optional epoll_pwait2(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: *const timespec, mask: *const sigset_t) -> c_int = epoll::epoll_pwait2, early(epoll_pwait2);

        // Calls that return a descriptor of another kind, whose number may have been one of ours.
        required open(path: *const c_char, flags: c_int, mode: usize) -> c_int = open::open, early(open);
        required openat(dir: c_int, path: *const c_char, flags: c_int, mode: usize) -> c_int = open::openat, raw(SYS_openat);
        required creat(path: *const c_char, mode: mode_t) -> c_int = open::creat, early(creat);
        required pipe(fds: *mut c_int) -> c_int = open::pipe, early(pipe);
        required pipe2(fds: *mut c_int, flags: c_int) -> c_int = open::pipe2, raw(SYS_pipe2);
        required eventfd(value: c_uint, flags: c_int) -> c_int = open::eventfd, early(eventfd);
        required signalfd(fd: c_int, mask: *const sigset_t, flags: c_int) -> c_int = open::signalfd, early(signalfd);
        required timerfd_create(clock: c_int, flags: c_int) -> c_int = open::timerfd_create, raw(SYS_timerfd_create);
        required inotify_init() -> c_int = open::inotify_init, early(inotify_init);
        required inotify_init1(flags: c_int) -> c_int = open::inotify_init1, raw(SYS_inotify_init1);
        optional memfd_create(name: *const c_char, flags: c_uint) -> c_int = open::memfd_create, raw(SYS_memfd_create);

        // Standard I/O on a descriptor: it reads and writes where we do not see it.
        required fdopen(fd: c_int, mode: *const c_char) -> *mut FILE = stdio::fdopen, lazy;
        required fclose(file: *mut FILE) -> c_int = stdio::fclose, lazy;
        required freopen(path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE = stdio::freopen, lazy;
        required vdprintf(fd: c_int, format: *const c_char, args: *mut c_void) -> c_int = stdio::vdprintf, lazy;
        optional __vdprintf_chk(fd: c_int, flag: c_int, format: *const c_char, args: *mut c_void) -> c_int = stdio::vdprintf_chk, lazy;

        // Processes and signals.
        required fork() -> pid_t = process::fork, lazy;
        required daemon(stay: c_int, keep: c_int) -> c_int = process::daemon, lazy;
        optional forkpty(terminal: *mut c_int, name: *mut c_char, settings: *const termios, size: *const winsize) -> pid_t = process::forkpty, lazy;
        required posix_spawn(pid: *mut pid_t, path: *const c_char, actions: *const posix_spawn_file_actions_t, attr: *const posix_spawnattr_t, argv: *const *mut c_char, envp: *const *mut c_char) -> c_int = process::posix_spawn, lazy;
        required posix_spawnp(pid: *mut pid_t, file: *const c_char, actions: *const posix_spawn_file_actions_t, attr: *const posix_spawnattr_t, argv: *const *mut c_char, envp: *const *mut c_char) -> c_int = process::posix_spawnp, lazy;
        required posix_spawn_file_actions_adddup2(actions: *mut posix_spawn_file_actions_t, old: c_int, new: c_int) -> c_int = process::spawn_adddup2, lazy;
        required execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int = process::execve, raw(SYS_execve);
        required execv(path: *const c_char, argv: *const *const c_char) -> c_int = process::execv, lazy;
        required execvp(file: *const c_char, argv: *const *const c_char) -> c_int = process::execvp, lazy;
        required execvpe(file: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int = process::execvpe, lazy;
        optional execveat(dir: c_int, path: *const c_char, argv: *const *const c_char, envp: *const *const c_char, flags: c_int) -> c_int = process::execveat, raw(SYS_execveat);
        required fexecve(fd: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int = process::fexecve, lazy;
        required _exit(status: c_int) -> () = process::exit, early(_exit);
        required prctl(option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int = process::prctl, raw(SYS_prctl);
        required sigaction(signum: c_int, action: *const Sigaction, old: *mut Sigaction) -> c_int = process::sigaction, lazy;
        required signal(signum: c_int, handler: sighandler_t) -> sighandler_t = process::signal, lazy;
        required syscall(nr: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long = raw_syscall::syscall, early(syscall);
    }
    aliases {
        alias __connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int = socket::connect;
        alias __read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t = rw::read;
        alias __recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t = rw::recv;
        alias __write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t = rw::write;
        alias __send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t = rw::send;
        alias __sendmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int = rw::sendmmsg;
        alias preadv64v2(fd: c_int, iov: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t = rw::preadv2;
        alias pwritev64v2(fd: c_int, iov: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t = rw::pwritev2;
        alias sendfile64(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t = rw::sendfile;
        alias __close(fd: c_int) -> c_int = fd::close;
        alias __dup2(old: c_int, new: c_int) -> c_int = fd::dup2;
        alias __fcntl(fd: c_int, cmd: c_int, arg: usize) -> c_int = fd::fcntl;
        alias fcntl64(fd: c_int, cmd: c_int, arg: usize) -> c_int = fd::fcntl;
        alias __poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int = poll::poll;
        alias __select(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *mut timeval) -> c_int = poll::select;
        alias open64(path: *const c_char, flags: c_int, mode: usize) -> c_int = open::open;
        alias openat64(dir: c_int, path: *const c_char, flags: c_int, mode: usize) -> c_int = open::openat;
        alias creat64(path: *const c_char, mode: mode_t) -> c_int = open::creat;
        alias freopen64(path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE = stdio::freopen;
        alias _Exit(status: c_int) -> () = process::exit;
    }
    trampolines {
        trampoline dprintf;
        trampoline __dprintf_chk;
        trampoline vfork;
        trampoline __vfork;
    }
    redhooks {
        redhook listen;
    }
}
