//! The eBPF alternative: a *sock_ops* program puts every TCP connection that is established in a control group into a
//! sockhash, and a *sk_msg* program redirects what is sent on one of them to the receive queue of the other end. For
//! comparison only; nothing of it is in the product.
//!
//! The two programs are some thirty instructions; written down here, they need no compiler for BPF.

use anyhow::{bail, Context, Result};
use nix::libc;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr::{addr_of, addr_of_mut};

// Commands of bpf(2), types and flags, from linux/bpf.h.
const BPF_MAP_CREATE: u64 = 0;
const BPF_MAP_LOOKUP_ELEM: u64 = 1;
const BPF_PROG_LOAD: u64 = 5;
const BPF_PROG_ATTACH: u64 = 8;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_SOCKHASH: u32 = 18;
const BPF_PROG_TYPE_SOCK_OPS: u32 = 13;
const BPF_PROG_TYPE_SK_MSG: u32 = 16;
const BPF_CGROUP_SOCK_OPS: u32 = 3;
const BPF_SK_MSG_VERDICT: u32 = 7;
const BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB: i32 = 4;
const BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB: i32 = 5;
const BPF_F_INGRESS: i32 = 1;
const SK_PASS: i32 = 1;
const CALL_MAP_LOOKUP_ELEM: i32 = 1;
const CALL_SOCK_HASH_UPDATE: i32 = 70;
const CALL_MSG_REDIRECT_HASH: i32 = 71;

/// Connections at a time.
const CONNECTIONS: u32 = 65536;

/// One instruction: `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate }
}

const fn load32(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}
const fn store32(to: u8, offset: i16, from: u8) -> Instruction {
    instruction(0x63, to, from, offset, 0)
}
const fn set(to: u8, value: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}
const fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}
const fn add(to: u8, value: i32) -> Instruction {
    instruction(0x07, to, 0, 0, value)
}
/// From network byte order, 32 bits.
const fn from_network(register: u8) -> Instruction {
    instruction(0xdc, register, 0, 0, 32)
}
const fn jump_if_equal(register: u8, value: i32, over: i16) -> Instruction {
    instruction(0x15, register, 0, over, value)
}
const fn jump_if_not_equal(register: u8, value: i32, over: i16) -> Instruction {
    instruction(0x55, register, 0, over, value)
}
/// Adds a register to the 64 bits at another one's address, atomically.
const fn atomic_add64(to: u8, from: u8) -> Instruction {
    instruction(0xdb, to, from, 0, 0)
}
const fn call(function: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, function)
}
const fn exit() -> Instruction {
    instruction(0x95, 0, 0, 0, 0)
}
/// A map's address, which takes two instructions.
const fn map(to: u8, fd: RawFd) -> [Instruction; 2] {
    const PSEUDO_MAP_FD: u8 = 1;
    [instruction(0x18, to, PSEUDO_MAP_FD, 0, fd), instruction(0, 0, 0, 0, 0)]
}

/// Puts the connection of `struct bpf_sock_ops` into the map, under (local port, remote port).
fn join(hash: RawFd) -> Vec<Instruction> {
    const OP: i16 = 0;
    const REMOTE_PORT: i16 = 64; // network byte order
    const LOCAL_PORT: i16 = 68; // host byte order
    let [map_low, map_high] = map(2, hash);
    vec![
        load32(2, 1, OP),
        jump_if_equal(2, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, 1),
        jump_if_not_equal(2, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, 11),
        load32(3, 1, LOCAL_PORT),
        store32(10, -8, 3),
        load32(3, 1, REMOTE_PORT),
        from_network(3),
        store32(10, -4, 3),
        map_low,
        map_high,
        copy(3, 10),
        add(3, -8),
        set(4, 0),
        call(CALL_SOCK_HASH_UPDATE),
        set(0, 1),
        exit(),
    ]
}

/// Redirects the message of `struct sk_msg_md` to the other end, which is (remote port, local port), and counts it.
fn redirect(hash: RawFd, count: RawFd) -> Vec<Instruction> {
    const REMOTE_PORT: i16 = 60; // network byte order
    const LOCAL_PORT: i16 = 64; // host byte order
    let ([hash_low, hash_high], [count_low, count_high]) = (map(2, hash), map(1, count));
    vec![
        load32(3, 1, REMOTE_PORT),
        from_network(3),
        store32(10, -8, 3),
        load32(3, 1, LOCAL_PORT),
        store32(10, -4, 3),
        hash_low,
        hash_high,
        copy(3, 10),
        add(3, -8),
        set(4, BPF_F_INGRESS),
        call(CALL_MSG_REDIRECT_HASH),
        // Not found: it goes over TCP.
        jump_if_not_equal(0, SK_PASS, 10),
        set(2, 0),
        store32(10, -4, 2),
        copy(2, 10),
        add(2, -4),
        count_low,
        count_high,
        call(CALL_MAP_LOOKUP_ELEM),
        jump_if_equal(0, 0, 2),
        set(1, 1),
        atomic_add64(0, 1),
        set(0, SK_PASS),
        exit(),
    ]
}

fn bpf(command: u64, attributes: &mut [u64]) -> Result<i64> {
    // SAFETY: `attributes` is as large as is said; what it points at are buffers that live across the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), std::mem::size_of_val(attributes))
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("bpf command {command}"));
    }
    Ok(result)
}

/// Two 32-bit attributes that lie side by side.
fn pair(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

fn create_map(kind: u32, key: u32, value: u32, entries: u32) -> Result<OwnedFd> {
    bpf(BPF_MAP_CREATE, &mut [pair(kind, key), pair(value, entries), 0]).map(owned)
}

fn load(kind: u32, attach: u32, program: &[Instruction]) -> Result<OwnedFd> {
    let mut log = vec![0_u8; 1 << 16];
    let license = c"GPL";
    let mut attributes = [0; 15];
    attributes[0] = pair(kind, program.len() as u32);
    attributes[1] = program.as_ptr() as u64;
    attributes[2] = license.as_ptr() as u64;
    attributes[3] = pair(1, log.len() as u32);
    attributes[4] = log.as_mut_ptr() as u64;
    // expected_attach_type, behind version, flags, a name of 16 bytes and an interface.
    attributes[8] = pair(0, attach);
    bpf(BPF_PROG_LOAD, &mut attributes).map(owned).map_err(|e| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        e.context(String::from_utf8_lossy(&log[..end]).into_owned())
    })
}

/// Works as long as it lives: the programs go with their descriptors and the control group.
pub struct Sockmap {
    count: OwnedFd,
    _hash: OwnedFd,
    _programs: [OwnedFd; 2],
}

impl Sockmap {
    /// For the processes in this control group.
    pub fn attach(group: &Path) -> Result<Sockmap> {
        if cfg!(target_endian = "big") {
            bail!("the programs are for little endian");
        }
        let hash = create_map(BPF_MAP_TYPE_SOCKHASH, 8, 4, CONNECTIONS)?;
        let count = create_map(BPF_MAP_TYPE_ARRAY, 4, 8, 1)?;
        let join = load(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, &join(hash.as_raw_fd()))?;
        let redirect = redirect(hash.as_raw_fd(), count.as_raw_fd());
        let redirect = load(BPF_PROG_TYPE_SK_MSG, BPF_SK_MSG_VERDICT, &redirect)?;
        let attach = |target: RawFd, program: &OwnedFd, kind: u32| {
            let program = program.as_raw_fd() as u32;
            bpf(BPF_PROG_ATTACH, &mut [pair(target as u32, program), pair(kind, 0)])
        };
        attach(hash.as_raw_fd(), &redirect, BPF_SK_MSG_VERDICT)?;
        let group = File::open(group)?;
        attach(group.as_raw_fd(), &join, BPF_CGROUP_SOCK_OPS)?;
        Ok(Sockmap { count, _hash: hash, _programs: [join, redirect] })
    }

    /// Messages redirected so far.
    pub fn redirected(&self) -> Result<u64> {
        let (key, mut value) = (0_u32, 0_u64);
        let attributes =
            &mut [self.count.as_raw_fd() as u64, addr_of!(key) as u64, addr_of_mut!(value) as u64, 0];
        bpf(BPF_MAP_LOOKUP_ELEM, attributes)?;
        // SAFETY: a live local; the kernel wrote to it behind the compiler's back.
        Ok(unsafe { addr_of!(value).read_volatile() })
    }
}
