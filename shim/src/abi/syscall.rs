//! libc's `syscall`: Node closes sockets through it, jemalloc opens files with it before any constructor has run, and
//! futexes pass here by the million.
//!
//! A number that concerns a managed descriptor goes to the hook of the function with that meaning. All else is the raw
//! system call with six arguments: not the libc function, which would be a cancellation point where `syscall` is none.
//! Where the kernel's arguments differ from libc's (signal sets with a size, pselect6's sixth), they are translated.

use super::{conn, entry, epoll, fail, fd, fresh, open, poll, process, rw, socket};
use crate::fd_table::Entry;
use crate::ops;
use libc::{c_int, c_long, c_uint};

#[inline(always)]
unsafe fn raw(nr: c_long, args: [usize; 6]) -> c_long {
    use smc_core::sys::raw::syscall6;
    let ret = unsafe { syscall6(nr as usize, args[0], args[1], args[2], args[3], args[4], args[5]) };
    crate::errno::from_kernel(ret) as c_long
}

pub unsafe extern "C" fn syscall(
    nr: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    // The hottest by far.
    if nr == libc::SYS_futex {
        return unsafe { raw(nr, [a, b, c, d, e, f]) };
    }
    unsafe { dispatch(nr, a, b, c, d, e, f) }
}

/// The hook of the same meaning if the first argument is a connection, the raw call otherwise.
macro_rules! if_conn {
    ($raw:expr, $a:ident, $hook:expr) => {
        match conn($a as c_int) {
            Some(_) => $hook as c_long,
            None => $raw,
        }
    };
}

#[inline(never)]
unsafe extern "C" fn dispatch(
    nr: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let args = [a, b, c, d, e, f];
    macro_rules! raw {
        () => {
            raw(nr, args)
        };
    }
    // SAFETY: each arm passes the caller's arguments to the function that takes the same ones.
    unsafe {
        match nr {
            // Closing and duplicating.
            libc::SYS_close => match entry(a as c_int) {
                Entry::None => raw!(),
                Entry::Internal => fail(libc::EBADF) as c_long,
                known => {
                    ops::fd::closing(a as c_int, known);
                    raw!()
                }
            },
            libc::SYS_close_range => fd::close_range(a as c_uint, b as c_uint, c as c_int) as c_long,
            libc::SYS_dup => fd::dup(a as c_int) as c_long,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_dup2 => fd::dup2(a as c_int, b as c_int) as c_long,
            libc::SYS_dup3 => fd::dup3(a as c_int, b as c_int, c as c_int) as c_long,
            libc::SYS_fcntl => match entry(a as c_int) {
                // F_DUPFD returns a number that may be known under another meaning.
                Entry::None if b as c_int != libc::F_DUPFD && b as c_int != libc::F_DUPFD_CLOEXEC => raw!(),
                _ => fd::fcntl(a as c_int, b as c_int, c) as c_long,
            },
            libc::SYS_ioctl => match entry(a as c_int) {
                Entry::None => raw!(),
                _ => fd::ioctl(a as c_int, b, c) as c_long,
            },

            // Data.
            libc::SYS_read => if_conn!(raw!(), a, rw::read(a as c_int, b as _, c)),
            libc::SYS_write => if_conn!(raw!(), a, rw::write(a as c_int, b as _, c)),
            libc::SYS_readv => if_conn!(raw!(), a, rw::readv(a as c_int, b as _, c as c_int)),
            libc::SYS_writev => if_conn!(raw!(), a, rw::writev(a as c_int, b as _, c as c_int)),
            libc::SYS_preadv2 => {
                if_conn!(raw!(), a, rw::preadv2(a as c_int, b as _, c as c_int, d as i64, f as c_int))
            }
            libc::SYS_pwritev2 => {
                if_conn!(raw!(), a, rw::pwritev2(a as c_int, b as _, c as c_int, d as i64, f as c_int))
            }
            libc::SYS_recvfrom => {
                if_conn!(raw!(), a, rw::recvfrom(a as c_int, b as _, c, d as c_int, e as _, f as _))
            }
            libc::SYS_sendto => {
                if_conn!(
                    raw!(),
                    a,
                    rw::sendto(a as c_int, b as _, c, d as c_int, e as _, f as libc::socklen_t)
                )
            }
            // These carry descriptors, so the hooks look at every message.
            libc::SYS_recvmsg => {
                if_conn!(rw::received(raw!(), b as _), a, rw::recvmsg(a as c_int, b as _, c as c_int))
            }
            libc::SYS_sendmsg => {
                if conn(a as c_int).is_some() {
                    return rw::sendmsg(a as c_int, b as _, c as c_int) as c_long;
                }
                rw::passing(b as _);
                raw!()
            }
            libc::SYS_recvmmsg => {
                if_conn!(
                    rw::received_many(raw!(), b as _),
                    a,
                    rw::recvmmsg(a as c_int, b as _, c as c_uint, d as c_int, e as _)
                )
            }
            libc::SYS_sendmmsg => {
                if conn(a as c_int).is_some() {
                    return rw::sendmmsg(a as c_int, b as _, c as c_uint, d as c_int) as c_long;
                }
                rw::passing_many(b as _, c as c_uint);
                raw!()
            }
            libc::SYS_sendfile => if_conn!(raw!(), a, rw::sendfile(a as c_int, b as c_int, c as _, d)),
            libc::SYS_splice => match (conn(a as c_int), conn(c as c_int)) {
                (None, None) => raw!(),
                _ => rw::splice(a as c_int, b as _, c as c_int, d as _, e, f as c_uint) as c_long,
            },

            // Sockets.
            libc::SYS_socket if socket::is_kernels(a as c_int, b as c_int, c as c_int) => {
                socket::socket(a as c_int, b as c_int, c as c_int) as c_long
            }
            libc::SYS_socket => {
                socket::created(raw!() as c_int, a as c_int, b as c_int, c as c_int) as c_long
            }
            libc::SYS_accept => socket::accept(a as c_int, b as _, c as _) as c_long,
            libc::SYS_accept4 => socket::accept4(a as c_int, b as _, c as _, d as c_int) as c_long,
            libc::SYS_connect => match entry(a as c_int) {
                Entry::None => raw!(),
                _ => socket::connect(a as c_int, b as _, c as libc::socklen_t) as c_long,
            },
            libc::SYS_listen => {
                let ret = raw!();
                if ret == 0 {
                    socket::listening(a as c_int);
                }
                ret
            }
            libc::SYS_shutdown => if_conn!(raw!(), a, socket::shutdown(a as c_int, b as c_int)),
            libc::SYS_getsockopt => match entry(a as c_int) {
                Entry::None if !ops::kernel::is_on() => raw!(),
                _ => socket::getsockopt(a as c_int, b as c_int, c as c_int, d as _, e as _) as c_long,
            },
            libc::SYS_setsockopt => match entry(a as c_int) {
                Entry::None => raw!(),
                _ => socket::setsockopt(a as c_int, b as c_int, c as c_int, d as _, e as libc::socklen_t)
                    as c_long,
            },

            // Waiting.
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll if poll::polls_engine(a as _, b as libc::nfds_t) => {
                ops::wait::poll(a as _, b as libc::nfds_t, c as c_int) as c_long
            }
            // libc's ppoll does not write the time left back; through the kernel's it is written.
            libc::SYS_ppoll if poll::polls_engine(a as _, b as libc::nfds_t) => {
                ops::wait::ppoll(a as _, b as libc::nfds_t, c as _, d as _) as c_long
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_select if poll::selects_engine(a as c_int, [b as _, c as _, d as _]) => {
                ops::wait::select(a as c_int, b as _, c as _, d as _, e as _) as c_long
            }
            libc::SYS_pselect6 if poll::selects_engine(a as c_int, [b as _, c as _, d as _]) => {
                // The sixth argument points at the mask's address and its size.
                let mask = if f == 0 { core::ptr::null() } else { *(f as *const *const libc::sigset_t) };
                ops::wait::pselect(a as c_int, b as _, c as _, d as _, e as _, mask) as c_long
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_create => epoll::created(raw!() as c_int) as c_long,
            libc::SYS_epoll_create1 => epoll::created(raw!() as c_int) as c_long,
            libc::SYS_epoll_ctl => epoll::epoll_ctl(a as c_int, b as c_int, c as c_int, d as _) as c_long,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_wait if epoll::is_engines(a as c_int) => {
                epoll::epoll_wait(a as c_int, b as _, c as c_int, d as c_int) as c_long
            }
            libc::SYS_epoll_pwait if epoll::is_engines(a as c_int) => {
                epoll::epoll_pwait(a as c_int, b as _, c as c_int, d as c_int, e as _) as c_long
            }
            libc::SYS_epoll_pwait2 if epoll::is_engines(a as c_int) => {
                epoll::epoll_pwait2(a as c_int, b as _, c as c_int, d as _, e as _) as c_long
            }

            // Other calls that return descriptors.
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open
            | libc::SYS_creat
            | libc::SYS_eventfd
            | libc::SYS_signalfd
            | libc::SYS_inotify_init => fresh(raw!() as c_int) as c_long,
            libc::SYS_openat
            | libc::SYS_openat2
            | libc::SYS_eventfd2
            | libc::SYS_signalfd4
            | libc::SYS_timerfd_create
            | libc::SYS_inotify_init1
            | libc::SYS_memfd_create
            | libc::SYS_pidfd_open
            | libc::SYS_pidfd_getfd => fresh(raw!() as c_int) as c_long,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_pipe => open::fresh_pair(raw!() as c_int, a as _) as c_long,
            libc::SYS_pipe2 => open::fresh_pair(raw!() as c_int, a as _) as c_long,
            libc::SYS_socketpair => open::fresh_pair(raw!() as c_int, d as _) as c_long,

            // Processes.
            libc::SYS_execve | libc::SYS_execveat => {
                process::before_exec();
                raw!()
            }
            libc::SYS_exit_group => {
                process::exiting();
                raw!()
            }
            libc::SYS_seccomp => {
                process::filtering();
                raw!()
            }
            libc::SYS_prctl => {
                if a as c_int == libc::PR_SET_SECCOMP {
                    process::filtering();
                }
                raw!()
            }
            libc::SYS_io_uring_setup => {
                if crate::life::may_act() && !ops::life::io_uring_setup() {
                    return fail(libc::ENOSYS) as c_long;
                }
                fresh(raw!() as c_int) as c_long
            }
            _ => raw!(),
        }
    }
}
