//! The line that no panic crosses, and that no cancellation crosses in the other direction.
//!
//! Two facts shape every hook. A panic that leaves an `extern "C"` function aborts the program; and a thread that is
//! cancelled in a blocking call unwinds through our frames, where a landing pad that the compiler did not foresee
//! for that call ends the program too ("Rust cannot catch foreign exceptions", or no message at all). So:
//!
//! - A frame from which a cancellable call is made (the real `recv`, `poll`, `close`, ...) has no landing pads: all it
//!   calls is `extern "C"`, nothing in it needs dropping, and it cannot panic.
//! - What can panic runs under [`protect`], in a frame of its own, and makes no cancellable call in there.
//!
//! The first needs link-time optimisation (`lto = "fat"`): to a compiler that sees one crate at a time every function of another
//! one may panic, and each call gets a landing pad. `ci/exports.sh` checks it for every exported function: none of them may have an exception table.

use core::sync::atomic::{AtomicU64, Ordering};
use smc_core::conn;
use smc_core::reason::{Detail, Why};
use std::panic::{catch_unwind, AssertUnwindSafe};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many panics were caught so far in this process.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Runs `body`; if it panics, counts and logs that, keeps on TCP what is there (0x09990000), and returns `default`.
///
/// Makes no cancellable call itself, and `body` must make none. Never inlined: the exception table is to stay in this
/// frame.
#[inline(never)]
#[allow(improper_ctypes_definitions)] // "C" says that nothing unwinds out of here; nobody calls it from C.
pub extern "C" fn protect<T: Copy, F: FnOnce() -> T>(default: T, body: F) -> T {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(payload) => {
            // Dropping a payload runs foreign code that may panic in turn.
            core::mem::forget(payload);
            PANICS.fetch_add(1, Ordering::Relaxed);
            // Nobody knows what the engine is worth now: what is on TCP stays there. (Doubt about this too is no reason
            // to end the program.)
            let stop = || conn::stop_moving(Why::new(Detail::Panicked));
            if let Err(payload) = catch_unwind(stop) {
                core::mem::forget(payload);
            }
            default
        }
    }
}

/// Sends panics to the log instead of stderr.
pub fn silence() {
    std::panic::set_hook(Box::new(|info| match info.location() {
        Some(at) => log::error!("internal error at {}:{}", at.file(), at.line()),
        None => log::error!("internal error"),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_the_default_and_is_counted() {
        let before = panics();
        assert_eq!(protect(-1, || 7), 7);
        assert_eq!(panics(), before);
        assert_eq!(protect(-1, || if before < u64::MAX { panic!("on purpose") } else { 0 }), -1);
        assert_eq!(panics(), before + 1);
        assert_eq!(conn::stopped(), Some(Why::new(Detail::Panicked)));
    }
}
