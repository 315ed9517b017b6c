//! The hooks: `extern "C"`, thin, one for each interposed function.
//!
//! Each looks its descriptor up and goes either to the next definition with the same arguments, or to the function of
//! the same name in `ops` with the entry in front. A hook's frame has no landing pads (see [`crate::guard`]); whatever it
//! calls is inlined or `extern "C"`. The hooks have the contracts of the libc functions whose names they bear.
#![allow(clippy::missing_safety_doc)]
// A SAFETY comment for each of two hundred calls would say this every time: pointers and lengths are the program's,
// passed on unchanged to the function the program called, or to its stand-in in `ops`, which has the same contract.
#![allow(clippy::undocumented_unsafe_blocks)]

pub mod epoll;
pub mod fd;
pub mod open;
pub mod poll;
pub mod process;
#[cfg(not(test))]
pub mod redhooked;
pub mod rw;
pub mod socket;
pub mod stdio;
pub mod syscall;
#[cfg(not(test))]
mod trampoline;

use crate::fd_table::{self, Entry};
use crate::{errno, life, ops};
use core::ffi::c_int;
use smc_core::conn::Conn;

/// The entry of `fd`, or None if this call must change and believe nothing (see [`life::may_act`]).
#[inline(always)]
pub(crate) fn entry(fd: c_int) -> Entry {
    match fd_table::get(fd) {
        Entry::None => Entry::None,
        entry if life::may_act() => entry,
        _ => Entry::None,
    }
}

/// The connection behind `fd`.
#[inline(always)]
pub(crate) fn conn(fd: c_int) -> Option<&'static Conn> {
    match fd_table::get(fd) {
        Entry::Conn(conn) if life::may_act() => Some(conn),
        _ => None,
    }
}

/// A call has returned `fd` as a new descriptor: whatever the table has for the number is about one that was closed
/// where we did not see it. Returns `fd`.
#[inline(always)]
pub(crate) fn fresh(fd: c_int) -> c_int {
    if !entry(fd).is_none() {
        keeping_errno(|| unsafe { ops::fd::stale(fd) });
    }
    fd
}

/// Runs `after`, which must not unwind, and leaves `errno` as it was.
#[inline(always)]
pub(crate) fn keeping_errno<T>(after: impl FnOnce() -> T) -> T {
    let saved = errno::get();
    let value = after();
    errno::set(saved);
    value
}

/// Fails with `errno`.
#[inline(always)]
pub(crate) fn fail(error: c_int) -> c_int {
    errno::set(error);
    -1
}
