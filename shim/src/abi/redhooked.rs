//! The hooks that redhook's own macros make.
//!
//! `hook!` looks the next definition up at the first call, under a `Once`, and wraps the body in `catch_unwind`. That
//! rules it out for whatever can block (cancellation), take part in malloc's start (the look-up allocates and locks),
//! or be variadic; `docs/notes/redhook.md` has the experiments. listen(2) is none of these.

use libc::c_int;

redhook::hook! {
    unsafe fn listen(fd: c_int, backlog: c_int) -> c_int => observed_listen {
        unsafe {
            super::socket::about_to_listen(fd);
            let ret = redhook::real!(listen)(fd, backlog);
            if ret == 0 {
                super::socket::listening(fd);
            }
            ret
        }
    }
}

/// Looks the next definitions up now, so that no hook does: a signal handler may call listen, and must not find the
/// `Once` taken by the very call it interrupted.
pub fn resolve() {
    let _ = redhook::real!(listen);
}
