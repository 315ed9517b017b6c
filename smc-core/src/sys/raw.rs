//! The system call instruction itself.
//!
//! smc-core is linked into a library that exports `close`, `read`, `syscall` and the like, so every call through
//! libc from here would come back into our own hooks. These do not. They take no lock, allocate nothing, leave
//! `errno` alone and may be called from anywhere: before constructors, in signal handlers, in vfork children.

use super::Errno;

/// Issues system call `nr` with six arguments and returns what the kernel left in the result register:
/// a value in `-4095..0` is a negated errno.
///
/// # Safety
/// The arguments must be what the kernel expects for `nr`; pointers among them must be valid for that call.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub unsafe fn syscall6(nr: usize, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
    let ret: isize;
    // SAFETY: the x86-64 Linux convention: number and result in rax, rcx and r11 clobbered.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") nr as isize => ret,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    ret
}

/// See the x86-64 version.
///
/// # Safety
/// The arguments must be what the kernel expects for `nr`; pointers among them must be valid for that call.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub unsafe fn syscall6(nr: usize, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
    let ret: isize;
    // SAFETY: the AArch64 Linux convention: number in x8, arguments from x0, result in x0.
    unsafe {
        core::arch::asm!(
            "svc #0",
            in("x8") nr,
            inlateout("x0") a as isize => ret,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack)
        );
    }
    ret
}

/// [`syscall6`] with the result taken apart.
///
/// # Safety
/// As for [`syscall6`].
#[inline(always)]
pub unsafe fn call(nr: libc::c_long, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: passed on to our caller.
    let r = unsafe { syscall6(nr as usize, args[0], args[1], args[2], args[3], args[4], args[5]) };
    if (-4095..0).contains(&r) {
        Err(Errno(-r as i32))
    } else {
        Ok(r as usize)
    }
}

/// `sys!(SYS_close, fd)`: [`call`] with each argument cast to a register, missing ones zero.
#[macro_export]
macro_rules! sys {
    ($nr:ident $(, $a:expr)* $(,)?) => {
        $crate::sys::raw::call(libc::$nr, $crate::sys::raw::pad([$($a as usize),*]))
    };
}

/// The arguments with zeros after them.
#[inline(always)]
pub fn pad<const N: usize>(args: [usize; N]) -> [usize; 6] {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&args);
    all
}
