//! What processes publish about their sockets, and how tools read it.
//!
//! Every process that manages sockets has one file `PID-STARTTIME-PIDNS.smc` in a run directory ([`RunDirs`]), mapped
//! shared. A socket has an [`Entry`] in it, which the engine updates with plain stores: publishing costs no system
//! call per connection. Addresses are not stored: readers find them through the descriptor's inode in the kernel's
//! own tables, so that a listing cannot say anything about a socket that the process does not have.
//!
//! Publishing never costs the program anything but the listing: with no usable directory the same entries live
//! in private memory.
//!
//! | file | content |
//! |---|---|
//! | `schema` | the layout of the file, `Entry` |
//! | `rundir` | which directories may be used |
//! | `writer` | the process's side: allocation-free, lock-free, raw system calls only |
//! | `kernel` | the kernel's tables of TCP sockets, for the reader |
//! | `reader` | the tools' side: believes nothing it reads |
//! | `record` | the line a user sees, from either side |

mod calls;
mod kernel;
pub mod reader;
pub mod record;
mod rundir;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

pub use record::{Ends, SocketRecord};
pub use rundir::{RunDirs, RUN_DIR_ENV};
pub use schema::{Entry, Kind, Mode, Snapshot};
pub use writer::Writer;

/// The registry of this process.
pub static REGISTRY: Writer = Writer::new();

/// Tells [`REGISTRY`] what the environment says about run directories (`SMC_RUN_DIR`, `XDG_RUNTIME_DIR`); `var` is the
/// environment. To be called once, before the first socket; without it only `/run/smc` and `/tmp/smc-UID` are tried.
/// Allocates.
pub fn configure<V: AsRef<std::ffi::OsStr>>(var: impl Fn(&str) -> Option<V>) {
    REGISTRY.set_dirs(Box::leak(Box::new(RunDirs::from_vars(var, calls::effective_uid()))));
}
