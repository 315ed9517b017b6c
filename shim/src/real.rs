//! The next definition of each interposed symbol, and what to do while there is none.
//!
//! The slots are filled once, in the constructor, before anything is managed. Until then, and for symbols that this
//! libc does not have, a call takes the "early" way that `symbols.rs` names for it: the raw system call where there
//! is one with the same meaning, a look-up at that moment for the functions that only libc has. Allocators issue
//! system calls from inside malloc's initialisation, before any constructor, so the first kind must not resolve,
//! allocate or lock.

use crate::errno;
use core::ffi::{c_char, c_int, c_uint, c_void, CStr};
use libc::{epoll_event, fd_set, mode_t, nfds_t, pollfd, sigset_t, timespec, timeval};
use smc_core::sys::raw::syscall6;

pub use crate::symbols::real::*;

/// Whether the constructor takes the absence of a symbol for a reason to stay inert.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    Required,
    Optional,
}

/// Fills every slot.
///
/// # Errors
/// The name of the first required symbol that no library after this one defines: we are not where LD_PRELOAD puts
/// us, and nobody's calls come here.
pub fn resolve() -> Result<(), &'static str> {
    for symbol in crate::symbols::TABLE {
        let next = match symbol.presence {
            // SAFETY: the name ends with a NUL.
            Presence::Required => unsafe { redhook::ld_preload::dlsym_next(symbol.name) as *mut c_void },
            Presence::Optional => look_up(symbol.name),
        };
        if next.is_null() && symbol.presence == Presence::Required {
            return Err(symbol.name);
        }
        symbol.slot.store(next, core::sync::atomic::Ordering::Release);
    }
    Ok(())
}

/// The next definition of `name` (which ends with a NUL), or null.
///
/// May allocate and takes the loader's lock.
#[cold]
#[inline(never)]
#[allow(improper_ctypes_definitions)] // "C" says that nothing unwinds out of here.
pub extern "C" fn look_up(name: &'static str) -> *mut c_void {
    debug_assert!(CStr::from_bytes_with_nul(name.as_bytes()).is_ok());
    // SAFETY: every name in `symbols.rs` is made with a NUL at its end.
    unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr().cast::<c_char>()) }
}

/// What a function returns to say that it failed.
pub trait Failure {
    const FAILURE: Self;
}

impl Failure for c_int {
    const FAILURE: Self = -1;
}

impl Failure for isize {
    const FAILURE: Self = -1;
}

impl Failure for i64 {
    const FAILURE: Self = -1;
}

/// `sighandler_t`: SIG_ERR.
impl Failure for usize {
    const FAILURE: Self = libc::SIG_ERR;
}

impl Failure for () {
    const FAILURE: Self = ();
}

impl<T> Failure for *mut T {
    const FAILURE: Self = core::ptr::null_mut();
}

/// The failure value of `T`, with `errno` ENOSYS.
pub fn missing<T: Failure>() -> T {
    errno::set(libc::ENOSYS);
    T::FAILURE
}

/// A raw system call with libc's error convention.
///
/// # Safety
/// The arguments must be what the kernel expects for `nr`.
pub unsafe fn system_call(nr: libc::c_long, args: [usize; 6]) -> isize {
    // SAFETY: passed on to our caller.
    let ret = unsafe { syscall6(nr as usize, args[0], args[1], args[2], args[3], args[4], args[5]) };
    errno::from_kernel(ret)
}

/// [`system_call`] with up to six arguments of any register-sized type.
macro_rules! kernel {
    ($nr:ident $(, $arg:expr)* $(,)?) => {{
        #[allow(unused_mut)]
        let mut args = [0usize; 6];
        let mut _n = 0;
        $( args[_n] = $arg as usize; _n += 1; )*
        $crate::real::system_call(libc::$nr, args)
    }};
}
pub(crate) use kernel;

/// Early forms whose system call differs from the function, or exists on one architecture only.
///
/// # Safety
/// Each has the contract of the libc function of its name.
#[allow(clippy::missing_safety_doc)]
pub mod early {
    use super::*;

    /// The kernel's signal set, in bytes; libc's `sigset_t` is larger.
    const SIGSET_SIZE: usize = 8;

    pub unsafe fn open(path: *const c_char, flags: c_int, mode: usize) -> c_int {
        // SAFETY: open(2) is openat(2) relative to the working directory.
        unsafe { kernel!(SYS_openat, libc::AT_FDCWD, path, flags, mode) as c_int }
    }

    pub unsafe fn creat(path: *const c_char, mode: mode_t) -> c_int {
        // SAFETY: creat(2) is open(2) with these flags.
        unsafe { open(path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode as usize) }
    }

    pub unsafe fn dup2(old: c_int, new: c_int) -> c_int {
        // SAFETY: plain numbers. dup3 refuses equal numbers where dup2 only checks that the fd is open.
        unsafe {
            if old == new {
                return if kernel!(SYS_fcntl, old, libc::F_GETFD) < 0 { -1 } else { new };
            }
            kernel!(SYS_dup3, old, new, 0) as c_int
        }
    }

    pub unsafe fn pipe(fds: *mut c_int) -> c_int {
        // SAFETY: passed on.
        unsafe { kernel!(SYS_pipe2, fds, 0) as c_int }
    }

    pub unsafe fn eventfd(value: c_uint, flags: c_int) -> c_int {
        // SAFETY: plain numbers.
        unsafe { kernel!(SYS_eventfd2, value, flags) as c_int }
    }

    pub unsafe fn signalfd(fd: c_int, mask: *const sigset_t, flags: c_int) -> c_int {
        // SAFETY: the kernel reads the first 8 bytes of the set.
        unsafe { kernel!(SYS_signalfd4, fd, mask, SIGSET_SIZE, flags) as c_int }
    }

    pub unsafe fn inotify_init() -> c_int {
        // SAFETY: no arguments of substance.
        unsafe { kernel!(SYS_inotify_init1, 0) as c_int }
    }

    pub unsafe fn epoll_create(size: c_int) -> c_int {
        if size <= 0 {
            errno::set(libc::EINVAL);
            return -1;
        }
        // SAFETY: plain numbers.
        unsafe { kernel!(SYS_epoll_create1, 0) as c_int }
    }

    pub unsafe fn epoll_wait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int) -> c_int {
        // SAFETY: without a mask epoll_pwait is epoll_wait.
        unsafe { epoll_pwait(epfd, events, max, timeout, core::ptr::null()) }
    }

    pub unsafe fn epoll_pwait(
        epfd: c_int,
        events: *mut epoll_event,
        max: c_int,
        timeout: c_int,
        mask: *const sigset_t,
    ) -> c_int {
        // SAFETY: passed on.
        unsafe { kernel!(SYS_epoll_pwait, epfd, events, max, timeout, mask, SIGSET_SIZE) as c_int }
    }

    pub unsafe fn epoll_pwait2(
        epfd: c_int,
        events: *mut epoll_event,
        max: c_int,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        // SAFETY: passed on.
        unsafe { kernel!(SYS_epoll_pwait2, epfd, events, max, timeout, mask, SIGSET_SIZE) as c_int }
    }

    pub unsafe fn poll(fds: *mut pollfd, nfds: nfds_t, timeout: c_int) -> c_int {
        let limit = timespec {
            tv_sec: (timeout / 1000) as libc::time_t,
            tv_nsec: ((timeout % 1000) * 1_000_000) as libc::c_long,
        };
        let limit = if timeout < 0 { core::ptr::null() } else { &limit as *const timespec };
        // SAFETY: passed on; the time outlives the call.
        unsafe { ppoll(fds, nfds, limit, core::ptr::null()) }
    }

    pub unsafe fn ppoll(
        fds: *mut pollfd,
        nfds: nfds_t,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        // The kernel writes the time left; POSIX has the argument const.
        // SAFETY: the caller's pointers; a copy is written to.
        unsafe {
            let mut copy = if timeout.is_null() { core::mem::zeroed() } else { *timeout };
            let limit = if timeout.is_null() { core::ptr::null_mut() } else { &mut copy as *mut timespec };
            kernel!(SYS_ppoll, fds, nfds, limit, mask, SIGSET_SIZE) as c_int
        }
    }

    pub unsafe fn select(
        nfds: c_int,
        read: *mut fd_set,
        write: *mut fd_set,
        except: *mut fd_set,
        timeout: *mut timeval,
    ) -> c_int {
        // SAFETY: the caller's pointers; Linux writes the time left into `timeout`.
        unsafe {
            if timeout.is_null() {
                return kernel!(SYS_pselect6, nfds, read, write, except, 0, 0) as c_int;
            }
            let mut limit = timespec {
                tv_sec: (*timeout).tv_sec + (*timeout).tv_usec / 1_000_000,
                tv_nsec: (*timeout).tv_usec % 1_000_000 * 1000,
            };
            let ret = kernel!(SYS_pselect6, nfds, read, write, except, &mut limit as *mut timespec, 0);
            (*timeout).tv_sec = limit.tv_sec;
            (*timeout).tv_usec = limit.tv_nsec / 1000;
            ret as c_int
        }
    }

    pub unsafe fn pselect(
        nfds: c_int,
        read: *mut fd_set,
        write: *mut fd_set,
        except: *mut fd_set,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        // The sixth argument of pselect6 points at the mask's address and its size.
        let sigmask = [mask as usize, SIGSET_SIZE];
        // SAFETY: as in `ppoll`.
        unsafe {
            let mut copy = if timeout.is_null() { core::mem::zeroed() } else { *timeout };
            let limit = if timeout.is_null() { core::ptr::null_mut() } else { &mut copy as *mut timespec };
            kernel!(SYS_pselect6, nfds, read, write, except, limit, sigmask.as_ptr()) as c_int
        }
    }

    pub unsafe fn recv(fd: c_int, buf: *mut c_void, len: usize, flags: c_int) -> isize {
        // SAFETY: passed on.
        unsafe { kernel!(SYS_recvfrom, fd, buf, len, flags, 0, 0) }
    }

    pub unsafe fn send(fd: c_int, buf: *const c_void, len: usize, flags: c_int) -> isize {
        // SAFETY: passed on.
        unsafe { kernel!(SYS_sendto, fd, buf, len, flags, 0, 0) }
    }

    pub unsafe fn preadv2(
        fd: c_int,
        iov: *const libc::iovec,
        count: c_int,
        offset: i64,
        flags: c_int,
    ) -> isize {
        // The kernel takes the offset as two halves; on 64 bits the first holds all of it.
        // SAFETY: passed on.
        unsafe { kernel!(SYS_preadv2, fd, iov, count, offset, 0, flags) }
    }

    pub unsafe fn pwritev2(
        fd: c_int,
        iov: *const libc::iovec,
        count: c_int,
        offset: i64,
        flags: c_int,
    ) -> isize {
        // SAFETY: as in `preadv2`.
        unsafe { kernel!(SYS_pwritev2, fd, iov, count, offset, 0, flags) }
    }

    pub unsafe fn _exit(status: c_int) {
        // SAFETY: does not return.
        unsafe { kernel!(SYS_exit_group, status) };
    }

    pub unsafe fn syscall(
        nr: libc::c_long,
        a: usize,
        b: usize,
        c: usize,
        d: usize,
        e: usize,
        f: usize,
    ) -> libc::c_long {
        // SAFETY: passed on.
        unsafe { super::system_call(nr, [a, b, c, d, e, f]) as libc::c_long }
    }
}
