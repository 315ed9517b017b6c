//! What the engine asks of the library it is linked into.

use core::sync::atomic::{AtomicUsize, Ordering};

static MARK_INTERNAL: AtomicUsize = AtomicUsize::new(0);

/// Tells the engine how to say that a descriptor number is (`true`) or no longer is the engine's own, so that the
/// program cannot close or replace it. Called once, before any connection exists.
pub fn set_mark_internal(f: fn(i32, bool)) {
    MARK_INTERNAL.store(f as usize, Ordering::Release);
}

pub(crate) fn mark_internal(fd: i32, on: bool) {
    let f = MARK_INTERNAL.load(Ordering::Acquire);
    if f != 0 {
        // SAFETY: only `set_mark_internal` stores here, and it stores a function of this type.
        let f: fn(i32, bool) = unsafe { core::mem::transmute(f) };
        f(fd, on);
    }
}
