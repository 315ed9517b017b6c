//! libsmc_preload.so: which libc symbols, which descriptors, which process.
//!
//! What this library promises to the program it is loaded into:
//! - A call on a descriptor that is not managed goes to the next definition of the same symbol with the same
//!   arguments, after two loads. It takes no lock, allocates nothing, leaves `errno` alone, and may be made from signal
//!   handlers, vfork children, allocators and before constructors.
//! - `errno` changes when a call fails, and not otherwise.
//! - Nothing is written to stdout or stderr unless SMC_LOG says so; nothing unwinds into the program; the process is
//!   never ended from here.
//! - Blocking calls stay cancellation points (see [`guard`]).
//! - What does not work becomes plain TCP.
//!
//! A call runs through `symbols` (the export), `abi` (who handles it), then `real` (the next definition) or `ops` (the
//! engine). `fd_table` says which; `life` knows what forks, execs and exits do to all this.

// The test program exports none of it, and so does not use all of it.
#![cfg_attr(test, allow(dead_code))]

pub mod abi;
pub mod errno;
pub mod fd_table;
pub mod guard;
pub mod life;
pub mod logging;
pub mod ops;
pub mod real;
pub mod remote;
pub mod symbols;
