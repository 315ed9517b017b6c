//! Closing, duplicating, controlling.

use super::{entry, fail, fresh, keeping_errno};
use crate::fd_table::{self, Entry};
use crate::{errno, life, ops, real};
use libc::{c_int, c_uint};

pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    match entry(fd) {
        Entry::None => unsafe { real::close(fd) },
        Entry::Internal => fail(libc::EBADF),
        entry => unsafe { ops::fd::close(fd, entry) },
    }
}

/// Bookkeeping for `new`, which a call has just made a duplicate of `old`.
#[inline(always)]
pub(super) fn duplicated(old: c_int, new: c_int) -> c_int {
    if new >= 0 {
        fresh(new);
        let entry = entry(old);
        if !entry.is_none() {
            keeping_errno(|| unsafe { ops::fd::dup(old, entry, new) });
        }
    }
    new
}

/// The calling process duplicates `fd`, or lets it through exec. In a vfork child that is done for the program it is
/// about to become, which may know nothing of us; the table is the parent's, and still says what the number was.
///
/// The child stands in for the parent's thread, in the parent's memory and with the same descriptors, so the engine can
/// bring the stream back to TCP from here.
#[inline(always)]
fn given_away(fd: c_int) {
    if let Entry::Conn(_) = fd_table::get(fd) {
        if life::in_vfork_child() {
            keeping_errno(|| unsafe { ops::fd::passed(fd) });
        }
    }
}

pub unsafe extern "C" fn dup(fd: c_int) -> c_int {
    given_away(fd);
    if let Entry::Internal = entry(fd) {
        return fail(libc::EBADF);
    }
    duplicated(fd, unsafe { real::dup(fd) })
}

pub unsafe extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    // -1: the flavour of dup2, which takes equal numbers.
    unsafe { duplicate_onto(old, new, -1) }
}

pub unsafe extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    unsafe { duplicate_onto(old, new, flags) }
}

/// dup2 if `flags` is negative, dup3 otherwise.
#[inline(always)]
unsafe fn duplicate_onto(old: c_int, new: c_int, flags: c_int) -> c_int {
    given_away(old);
    let source = entry(old);
    if let Entry::Internal = source {
        return fail(libc::EBADF);
    }
    if let Entry::Internal = entry(new) {
        // The number is the program's to take.
        keeping_errno(|| unsafe { ops::fd::relocate(new) });
        if let Entry::Internal = entry(new) {
            // It could not be moved. Taking its number would make us close the program's descriptor one day; this is
            // the error Linux has for a number that is not free to take just now.
            return fail(libc::EBUSY);
        }
    }
    let target = entry(new);
    if old == new || (source.is_none() && target.is_none()) {
        return match flags {
            0.. => unsafe { real::dup3(old, new, flags) },
            _ => unsafe { real::dup2(old, new) },
        };
    }
    unsafe { ops::fd::dup_onto(old, source, new, target, flags) }
}

pub unsafe extern "C" fn fcntl(fd: c_int, cmd: c_int, arg: usize) -> c_int {
    let entry = entry(fd);
    if let Entry::Internal = entry {
        return fail(libc::EBADF);
    }
    if cmd == libc::F_SETFD && arg as c_int & libc::FD_CLOEXEC == 0 {
        given_away(fd);
    }
    if cmd == libc::F_DUPFD || cmd == libc::F_DUPFD_CLOEXEC {
        given_away(fd);
        return duplicated(fd, unsafe { real::fcntl(fd, cmd, arg) });
    }
    match entry {
        Entry::None | Entry::NotTcp => unsafe { real::fcntl(fd, cmd, arg) },
        entry => unsafe { ops::fd::fcntl(fd, entry, cmd, arg) },
    }
}

pub unsafe extern "C" fn ioctl(fd: c_int, request: usize, arg: usize) -> c_int {
    match entry(fd) {
        entry @ (Entry::Conn(_) | Entry::Tcp(_) | Entry::Listener(_)) => unsafe {
            ops::fd::ioctl(fd, entry, request, arg)
        },
        _ => unsafe { real::ioctl(fd, request, arg) },
    }
}

const CLOSE_RANGE_UNSHARE: c_int = 1 << 1;
const CLOSE_RANGE_CLOEXEC: c_int = 1 << 2;

pub unsafe extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    // Marking close-on-exec closes nothing, and our own descriptors are so marked already.
    let closes = flags & !CLOSE_RANGE_UNSHARE == 0 && first <= last;
    if !closes || flags & CLOSE_RANGE_CLOEXEC != 0 || !fd_table::any(first, last) || !life::may_act() {
        return unsafe { real::close_range(first, last, flags) };
    }
    // What is forgotten here must then be closed. Where the call is missing or forbidden, the program is told before
    // anything is forgotten. No descriptor has this number.
    if unsafe { real::close_range(c_uint::MAX, c_uint::MAX, flags & !CLOSE_RANGE_UNSHARE) } != 0 {
        return -1;
    }
    unsafe { close_around_own(first, last, flags) }
}

/// close_range(2) on all but our own descriptors, managed ones forgotten first.
unsafe fn close_around_own(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    let mut from = first;
    let mut ret = 0;
    let mut next = forget_until_own(from, last);
    while let Some(own) = next {
        if own > from && unsafe { real::close_range(from, own.wrapping_sub(1), flags) } != 0 {
            ret = -1;
        }
        // An own number is below LIMIT: no overflow.
        from = own.wrapping_add(1);
        if from > last {
            return ret;
        }
        next = forget_until_own(from, last);
    }
    if unsafe { real::close_range(from, last, flags) } != 0 {
        ret = -1;
    }
    ret
}

/// Forgets the managed descriptors in `first..=last` up to the first of our own, and returns that.
extern "C" fn next_own(first: c_uint, last: c_uint, forget: bool) -> i64 {
    let mut own = -1;
    fd_table::for_each(first, last, |fd, entry| {
        if let Entry::Internal = entry {
            own = i64::from(fd);
            return false;
        }
        if forget {
            unsafe { ops::fd::closing(fd, entry) };
        }
        true
    });
    own
}

#[inline(always)]
fn forget_until_own(first: c_uint, last: c_uint) -> Option<c_uint> {
    let saved = errno::get();
    let own = next_own(first, last, true);
    errno::set(saved);
    if own < 0 {
        None
    } else {
        Some(own as c_uint)
    }
}

pub unsafe extern "C" fn closefrom(first: c_int) {
    let low = first.max(0) as c_uint;
    if !fd_table::any(low, c_uint::MAX) || !life::may_act() {
        return unsafe { real::closefrom(first) };
    }
    keeping_errno(|| unsafe {
        if real::close_range(c_uint::MAX, c_uint::MAX, 0) == 0 {
            close_around_own(low, c_uint::MAX, 0);
        } else {
            close_one_by_one(low);
        }
    });
}

/// closefrom(3) where close_range(2) is missing or forbidden: walks /proc/self/fd, as libc does.
#[cold]
#[inline(never)]
unsafe extern "C" fn close_one_by_one(low: c_uint) {
    const DIRECTORY: *const libc::c_char = c"/proc/self/fd".as_ptr();
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let dir = unsafe { real::kernel!(SYS_openat, libc::AT_FDCWD, DIRECTORY, flags, 0) } as c_int;
    if dir < 0 {
        // No /proc: what the table knows is the best there is.
        next_own(low, c_uint::MAX, true);
        return;
    }
    // 24 bytes of header, the name, padding: room for a few dozen entries at a time.
    let mut buffer = [0u64; 128];
    let size = core::mem::size_of_val(&buffer);
    loop {
        let len = unsafe { real::kernel!(SYS_getdents64, dir, buffer.as_mut_ptr(), size) };
        if len <= 0 {
            break;
        }
        let mut closed = false;
        let mut at = 0;
        while at < len {
            let record = unsafe { buffer.as_ptr().cast::<u8>().offset(at) };
            // struct linux_dirent64: length at 16, name at 19.
            let size = unsafe { record.add(16).cast::<u16>().read_unaligned() };
            let number = unsafe { number(record.add(19)) };
            if let Some(fd) = number {
                if fd as c_uint >= low && fd != dir && !matches!(fd_table::get(fd), Entry::Internal) {
                    // Not through a hook: close is a cancellation point, and closefrom is none.
                    unsafe {
                        ops::fd::closing(fd, fd_table::get(fd));
                        real::kernel!(SYS_close, fd)
                    };
                    closed = true;
                }
            }
            at = at.wrapping_add(size as isize);
        }
        if closed {
            // Closing moves what the directory lists: begin again.
            unsafe { real::kernel!(SYS_lseek, dir, 0, libc::SEEK_SET) };
        }
    }
    unsafe { real::kernel!(SYS_close, dir) };
}

/// The decimal number that the C string is, if it is one.
unsafe fn number(mut name: *const u8) -> Option<c_int> {
    let mut value: c_int = 0;
    loop {
        match unsafe { *name } {
            0 => return Some(value),
            digit @ b'0'..=b'9' => value = value.wrapping_mul(10).wrapping_add(c_int::from(digit - b'0')),
            _ => return None,
        }
        name = unsafe { name.add(1) };
    }
}
