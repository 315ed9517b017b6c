//! Hooks that must not have a frame when the real function starts.
//!
//! `dprintf` and `__dprintf_chk` are variadic: their arguments lie in registers, vector registers among them, and on the
//! caller's stack, and no Rust function can pass those on. `vfork` returns twice through the same return address, which
//! must lie where the caller put it. Each is a jump to an assembly routine that saves every argument register, calls a
//! Rust function for the address to go on to, restores, and jumps there.

use super::stdio::{dprintf_chk_entry, dprintf_entry};
use crate::life::{vfork_alias_entry, vfork_entry};
use core::arch::{asm, global_asm};

// A library's exports are what rustc knows to be `no_mangle`, and assembly symbols are not among them. So the export is
// a function that consists of one jump. It takes its arguments in the registers and stack slots that the jump leaves
// alone; `ci/exports.sh` checks that no other instruction comes first.
macro_rules! trampoline {
    ($name:ident, $target:literal) => {
        #[no_mangle]
        pub unsafe extern "C" fn $name() {
            // SAFETY: jumps out of a function without a frame; the routine behaves as the function of this name.
            unsafe {
                #[cfg(target_arch = "x86_64")]
                asm!(concat!("jmp ", $target), options(noreturn, nostack));
                #[cfg(target_arch = "aarch64")]
                asm!(concat!("b ", $target), options(noreturn, nostack));
            }
        }
    };
}

trampoline!(dprintf, "smc_dprintf");
trampoline!(__dprintf_chk, "smc_dprintf_chk");
trampoline!(vfork, "smc_vfork");
trampoline!(__vfork, "smc_vfork_alias");

// System V: integer arguments in rdi, rsi, rdx, rcx, r8, r9, the count of vector arguments in al, those in xmm0-7.
// On entry rsp is 8 below a 16-byte boundary; seven pushes and 136 bytes later it is on one.
#[cfg(target_arch = "x86_64")]
macro_rules! variadic {
    ($name:literal, $entry:path) => {
        global_asm!(
            concat!(".hidden ", $name),
            concat!(".globl ", $name),
            concat!(".type ", $name, ", @function"),
            concat!($name, ":"),
            ".cfi_startproc",
            "endbr64",
            "push rax",
            ".cfi_adjust_cfa_offset 8",
            "push rdi",
            ".cfi_adjust_cfa_offset 8",
            "push rsi",
            ".cfi_adjust_cfa_offset 8",
            "push rdx",
            ".cfi_adjust_cfa_offset 8",
            "push rcx",
            ".cfi_adjust_cfa_offset 8",
            "push r8",
            ".cfi_adjust_cfa_offset 8",
            "push r9",
            ".cfi_adjust_cfa_offset 8",
            "sub rsp, 128",
            ".cfi_adjust_cfa_offset 128",
            "movaps [rsp], xmm0",
            "movaps [rsp + 16], xmm1",
            "movaps [rsp + 32], xmm2",
            "movaps [rsp + 48], xmm3",
            "movaps [rsp + 64], xmm4",
            "movaps [rsp + 80], xmm5",
            "movaps [rsp + 96], xmm6",
            "movaps [rsp + 112], xmm7",
            "call {entry}",
            "mov r11, rax",
            "movaps xmm0, [rsp]",
            "movaps xmm1, [rsp + 16]",
            "movaps xmm2, [rsp + 32]",
            "movaps xmm3, [rsp + 48]",
            "movaps xmm4, [rsp + 64]",
            "movaps xmm5, [rsp + 80]",
            "movaps xmm6, [rsp + 96]",
            "movaps xmm7, [rsp + 112]",
            "add rsp, 128",
            ".cfi_adjust_cfa_offset -128",
            "pop r9",
            ".cfi_adjust_cfa_offset -8",
            "pop r8",
            ".cfi_adjust_cfa_offset -8",
            "pop rcx",
            ".cfi_adjust_cfa_offset -8",
            "pop rdx",
            ".cfi_adjust_cfa_offset -8",
            "pop rsi",
            ".cfi_adjust_cfa_offset -8",
            "pop rdi",
            ".cfi_adjust_cfa_offset -8",
            "pop rax",
            ".cfi_adjust_cfa_offset -8",
            "jmp r11",
            ".cfi_endproc",
            concat!(".size ", $name, ", . - ", $name),
            entry = sym $entry,
        );
    };
}

// On entry rsp is 8 below a 16-byte boundary; the parent's and the child's return both use the slot above.
#[cfg(target_arch = "x86_64")]
macro_rules! plain {
    ($name:literal, $entry:path) => {
        global_asm!(
            concat!(".hidden ", $name),
            concat!(".globl ", $name),
            concat!(".type ", $name, ", @function"),
            concat!($name, ":"),
            ".cfi_startproc",
            "endbr64",
            "sub rsp, 8",
            ".cfi_adjust_cfa_offset 8",
            "call {entry}",
            "add rsp, 8",
            ".cfi_adjust_cfa_offset -8",
            "jmp rax",
            ".cfi_endproc",
            concat!(".size ", $name, ", . - ", $name),
            entry = sym $entry,
        );
    };
}

// AAPCS64: arguments in x0-x7 and q0-q7, x8 for a returned structure, the return address in x30. x16 may be changed by
// any call, and is what an indirect tail jump uses where branch targets are checked.
#[cfg(target_arch = "aarch64")]
macro_rules! variadic {
    ($name:literal, $entry:path) => {
        global_asm!(
            concat!(".hidden ", $name),
            concat!(".globl ", $name),
            concat!(".type ", $name, ", %function"),
            concat!($name, ":"),
            ".cfi_startproc",
            "hint #34", // bti c
            "stp x29, x30, [sp, #-224]!",
            ".cfi_def_cfa_offset 224",
            ".cfi_offset x29, -224",
            ".cfi_offset x30, -216",
            "mov x29, sp",
            "stp x0, x1, [sp, #16]",
            "stp x2, x3, [sp, #32]",
            "stp x4, x5, [sp, #48]",
            "stp x6, x7, [sp, #64]",
            "str x8, [sp, #80]",
            "stp q0, q1, [sp, #96]",
            "stp q2, q3, [sp, #128]",
            "stp q4, q5, [sp, #160]",
            "stp q6, q7, [sp, #192]",
            "bl {entry}",
            "mov x16, x0",
            "ldp q0, q1, [sp, #96]",
            "ldp q2, q3, [sp, #128]",
            "ldp q4, q5, [sp, #160]",
            "ldp q6, q7, [sp, #192]",
            "ldr x8, [sp, #80]",
            "ldp x6, x7, [sp, #64]",
            "ldp x4, x5, [sp, #48]",
            "ldp x2, x3, [sp, #32]",
            "ldp x0, x1, [sp, #16]",
            "ldp x29, x30, [sp], #224",
            ".cfi_def_cfa_offset 0",
            ".cfi_restore x29",
            ".cfi_restore x30",
            "br x16",
            ".cfi_endproc",
            concat!(".size ", $name, ", . - ", $name),
            entry = sym $entry,
        );
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! plain {
    ($name:literal, $entry:path) => {
        global_asm!(
            concat!(".hidden ", $name),
            concat!(".globl ", $name),
            concat!(".type ", $name, ", %function"),
            concat!($name, ":"),
            ".cfi_startproc",
            "hint #34", // bti c
            "stp x29, x30, [sp, #-16]!",
            ".cfi_def_cfa_offset 16",
            ".cfi_offset x29, -16",
            ".cfi_offset x30, -8",
            "mov x29, sp",
            "bl {entry}",
            "mov x16, x0",
            "ldp x29, x30, [sp], #16",
            ".cfi_def_cfa_offset 0",
            ".cfi_restore x29",
            ".cfi_restore x30",
            "br x16",
            ".cfi_endproc",
            concat!(".size ", $name, ", . - ", $name),
            entry = sym $entry,
        );
    };
}

variadic!("smc_dprintf", dprintf_entry);
variadic!("smc_dprintf_chk", dprintf_chk_entry);
plain!("smc_vfork", vfork_entry);
plain!("smc_vfork_alias", vfork_alias_entry);
