//! Standard I/O. Its reads and writes go from inside libc to the system call, where no hook sees them; only these names
//! tell that a descriptor is about to be used that way.

use super::{entry, fresh, keeping_errno};
use crate::fd_table::Entry;
use crate::{ops, real};
use libc::{c_char, c_int, c_void, FILE};

/// A descriptor is about to be read or written where we do not see it.
#[inline(always)]
pub(super) fn taint(fd: c_int) {
    match entry(fd) {
        Entry::None | Entry::NotTcp | Entry::Internal => {}
        entry => keeping_errno(|| unsafe { ops::stdio::taint(fd, entry) }),
    }
}

/// The descriptor under `file` is about to be closed by libc.
#[inline(always)]
unsafe fn closing(file: *mut FILE) {
    if file.is_null() {
        return;
    }
    keeping_errno(|| {
        let fd = unsafe { libc::fileno(file) };
        match entry(fd) {
            Entry::None | Entry::Internal => {}
            entry => unsafe { ops::fd::closing(fd, entry) },
        }
    });
}

pub unsafe extern "C" fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
    taint(fd);
    unsafe { real::fdopen(fd, mode) }
}

pub unsafe extern "C" fn fclose(file: *mut FILE) -> c_int {
    unsafe {
        closing(file);
        real::fclose(file)
    }
}

pub unsafe extern "C" fn freopen(path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE {
    unsafe { closing(file) };
    let reopened = unsafe { real::freopen(path, mode, file) };
    if !reopened.is_null() {
        keeping_errno(|| fresh(unsafe { libc::fileno(reopened) }));
    }
    reopened
}

/// `args` is a `va_list`, which both ABIs pass as a pointer.
pub unsafe extern "C" fn vdprintf(fd: c_int, format: *const c_char, args: *mut c_void) -> c_int {
    taint(fd);
    unsafe { real::vdprintf(fd, format, args) }
}

pub unsafe extern "C" fn vdprintf_chk(
    fd: c_int,
    flag: c_int,
    format: *const c_char,
    args: *mut c_void,
) -> c_int {
    taint(fd);
    unsafe { real::__vdprintf_chk(fd, flag, format, args) }
}

/// What dprintf's trampoline calls first; returns where it goes on.
pub(super) extern "C" fn dprintf_entry(fd: c_int) -> *const c_void {
    taint(fd);
    real::dprintf()
}

/// As [`dprintf_entry`], for the fortified name.
pub(super) extern "C" fn dprintf_chk_entry(fd: c_int) -> *const c_void {
    taint(fd);
    real::__dprintf_chk()
}
