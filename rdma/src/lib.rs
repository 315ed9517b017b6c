//! SMC-R over verbs: what [`smc_wire`] says is done here, with queue pairs and registered memory.
//!
//! ```text
//! program's threads ── Connection ──> conn     rings, under one lock; sends directly
//!                                       │
//!                                     link     a queue pair, and what is under way on it
//!                                       │
//! engine's thread ── handshakes, link groups, completions, timers
//!                                       │
//!                                     verbs    libibverbs
//! ```
//!
//! [`Engine`] makes a TCP connection one on SMC-R, both ends of which have the SMC option in their handshake
//! ([`smc_core::capability`]). Which RDMA port it uses, [`port`] finds out. `docs/smc-r.md` has the whole.
//!
//! The preload library loads this as `libsmc_rdma.so` where there is an RDMA device.

mod buffers;
pub mod conn;
mod engine;
pub mod interface;
mod link;
pub mod port;
mod sys;
pub mod verbs;

pub use engine::{Config, Connection, Engine, Outcome, Pending, Side, When};
