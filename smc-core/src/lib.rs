//! What a socket does: the engine of smc.

// First: its `sys!` macro is used all over.
#[macro_use]
pub mod sys;

pub mod capability;
pub mod config;
pub mod conn;
#[cfg(test)]
mod counting;
pub mod epoll;
pub mod host;
pub mod link;
pub mod listener;
pub mod lock;
pub mod options;
pub mod policy;
pub mod process;
pub mod reason;
pub mod registry;
pub mod remote;
pub mod report;
pub mod ring;
pub mod shared;
pub mod slab;
pub mod sync;
