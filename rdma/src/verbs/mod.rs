//! libibverbs, and librdmacm where it is needed, as far as SMC-R needs them: a thin safe layer over `rdma-sys`, and the only place that
//! calls them.
//!
//! An object keeps those it was made from alive, so the order of destruction is right whatever is dropped first. All of
//! them may be used by several threads: libibverbs locks its own objects.

mod completion;
mod context;
pub mod manager;
mod memory;
mod queue_pair;

pub use completion::{Completed, Completion, CompletionQueue};
pub use context::{AsyncEvent, Context, PortState, ProtectionDomain};
pub use memory::{Access, Memory, MemoryRegion};
pub use queue_pair::{Path, Piece, QueuePair, RemoteEnd, Write, WRITE_DONE};

use smc_core::sys::Errno;

/// The error of a verb that returns a null pointer or -1 and sets errno.
fn last_error() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    Errno(if code > 0 { code } else { libc::EIO })
}

/// The result of a verb that returns an error number; some drivers return it negated, or -1 with errno.
fn check(code: i32) -> Result<(), Errno> {
    match code {
        0 => Ok(()),
        -1 => Err(last_error()),
        code => Err(Errno(code.abs())),
    }
}
