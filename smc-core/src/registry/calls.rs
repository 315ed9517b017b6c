//! The few system calls the writer needs, in safe form. See [`crate::sys::raw`] for why not libc's.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use crate::sys::Errno;

/// A descriptor that is closed when dropped.
pub struct Fd(i32);

impl Fd {
    pub fn raw(&self) -> i32 {
        self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: closes a descriptor that this value alone owns.
        let _ = unsafe { sys!(SYS_close, self.0) };
    }
}

/// openat(2) with O_CLOEXEC | O_NOFOLLOW added to `flags`.
pub fn open_at(dir: i32, path: &CStr, flags: i32, mode: u32) -> Result<Fd, Errno> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: `path` is a C string.
    unsafe { sys!(SYS_openat, dir, path.as_ptr(), flags, mode) }.map(|fd| Fd(fd as i32))
}

pub fn mkdir(path: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: `path` is a C string.
    unsafe { sys!(SYS_mkdirat, libc::AT_FDCWD, path.as_ptr(), mode) }.map(drop)
}

pub fn fchmod(fd: i32, mode: u32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    unsafe { sys!(SYS_fchmod, fd, mode) }.map(drop)
}

pub fn unlink_at(dir: i32, name: &CStr) -> Result<(), Errno> {
    // SAFETY: `name` is a C string.
    unsafe { sys!(SYS_unlinkat, dir, name.as_ptr(), 0) }.map(drop)
}

pub fn truncate(fd: i32, size: usize) -> Result<(), Errno> {
    // SAFETY: no pointers.
    unsafe { sys!(SYS_ftruncate, fd, size) }.map(drop)
}

/// pwrite(2) at offset 0; `false` unless everything was written.
pub fn write_start(fd: i32, bytes: &[u8]) -> bool {
    // SAFETY: the kernel reads `bytes` only.
    let written = unsafe { sys!(SYS_pwrite64, fd, bytes.as_ptr(), bytes.len(), 0) };
    written == Ok(bytes.len())
}

/// A netlink socket of the sock_diag family.
pub fn diag_socket() -> Result<Fd, Errno> {
    let (family, kind) = (libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC);
    // SAFETY: no pointers.
    unsafe { sys!(SYS_socket, family, kind, libc::NETLINK_SOCK_DIAG) }.map(|fd| Fd(fd as i32))
}

/// send(2) without flags.
pub fn send(fd: i32, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel reads `bytes` only.
    unsafe { sys!(SYS_sendto, fd, bytes.as_ptr(), bytes.len(), 0, 0, 0) }
}

/// One read(2) into `buf`.
pub fn read(fd: i32, buf: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `buf.len()` bytes to `buf`.
    unsafe { sys!(SYS_read, fd, buf.as_mut_ptr(), buf.len()) }
}

/// getdents64(2): raw directory entries.
pub fn dir_entries(fd: i32, buf: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `buf.len()` bytes to `buf`.
    unsafe { sys!(SYS_getdents64, fd, buf.as_mut_ptr(), buf.len()) }
}

pub fn fstat(fd: i32) -> Result<libc::stat, Errno> {
    let mut st = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills in `st`, whose layout on 64-bit Linux is the kernel's, if the call succeeds.
    unsafe {
        sys!(SYS_fstat, fd, st.as_mut_ptr())?;
        Ok(st.assume_init())
    }
}

/// stat(2), following symbolic links.
pub fn stat(path: &CStr) -> Result<libc::stat, Errno> {
    let mut st = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: as in `fstat`; `path` is a C string.
    unsafe {
        sys!(SYS_newfstatat, libc::AT_FDCWD, path.as_ptr(), st.as_mut_ptr(), 0)?;
        Ok(st.assume_init())
    }
}

pub fn pid() -> i32 {
    // SAFETY: no arguments.
    unsafe { sys!(SYS_getpid, 0) }.unwrap_or(0) as i32
}

pub fn effective_uid() -> u32 {
    // SAFETY: no arguments.
    unsafe { sys!(SYS_geteuid, 0) }.unwrap_or(0) as u32
}

pub fn sched_yield() {
    // SAFETY: no arguments.
    let _ = unsafe { sys!(SYS_sched_yield, 0) };
}

/// The soft RLIMIT_FSIZE of this process in bytes.
pub fn file_size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: pid 0 is this process; the kernel writes `limit`, whose layout is that of rlimit64.
    let done = unsafe { sys!(SYS_prlimit64, 0, libc::RLIMIT_FSIZE, 0, &mut limit as *mut libc::rlimit) };
    done.map_or(0, |_| limit.rlim_cur)
}

/// Milliseconds since the epoch, some milliseconds coarse.
pub fn now_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable. libc's function, unlike the others here: it is answered by the vDSO without a system
    // call, is async-signal-safe and is not one that the preload library exports.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &mut now) };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Maps `len` bytes of `fd` shared, read-write.
pub fn map_file(fd: i32, len: usize) -> Result<*mut u8, Errno> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice takes nothing from anybody.
    unsafe { sys!(SYS_mmap, 0, len, prot, libc::MAP_SHARED, fd, 0) }.map(|p| p as *mut u8)
}

/// Maps `len` bytes of zeroes that are private to this process.
pub fn map_private(len: usize) -> Result<*mut u8, Errno> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: as in `map_file`.
    unsafe { sys!(SYS_mmap, 0, len, prot, flags, -1i32, 0) }.map(|p| p as *mut u8)
}

/// Moves the mapping of `len` bytes at `from` to `to`, where it replaces what is mapped.
///
/// # Safety
/// The caller owns both mappings; nothing refers to `from`, and what refers to `to` does not mind what it finds there.
pub unsafe fn move_mapping(from: *mut u8, to: *mut u8, len: usize) -> Result<(), Errno> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: passed on to our caller.
    unsafe { sys!(SYS_mremap, from, len, len, flags, to) }.map(drop)
}

/// Unmaps `len` bytes at `at`.
///
/// # Safety
/// The caller owns the mapping, and nothing refers to it.
pub unsafe fn unmap(at: *mut u8, len: usize) {
    // SAFETY: passed on to our caller.
    let _ = unsafe { sys!(SYS_munmap, at, len) };
}

/// Makes the kernel write 16 bytes at `at`. Unlike a store, this fails instead of raising SIGBUS where the
/// file system has no room for the page.
///
/// # Safety
/// `at` points to 16 bytes of a mapping that may be overwritten.
pub unsafe fn kernel_can_write(at: *mut u64) -> bool {
    // SAFETY: passed on to our caller.
    unsafe { sys!(SYS_clock_gettime, libc::CLOCK_MONOTONIC, at) }.is_ok()
}
