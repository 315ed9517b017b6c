//! The calling thread's `errno`.
//!
//! A hook leaves it alone unless the call fails: programs do look at it after calls that succeeded, and our own
//! work between may have failed at something.

use libc::c_int;

/// The calling thread's `errno`.
#[inline(always)]
pub fn get() -> c_int {
    // SAFETY: libc returns the address of a live thread-local.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's `errno`.
#[inline(always)]
pub fn set(value: c_int) {
    // SAFETY: as in `get`.
    unsafe { *libc::__errno_location() = value }
}

/// Turns what the kernel left in the result register into libc's convention: -1 and `errno`, or the value.
#[inline(always)]
pub fn from_kernel(ret: isize) -> isize {
    if (-4095..0).contains(&ret) {
        set(-ret as c_int);
        -1
    } else {
        ret
    }
}
