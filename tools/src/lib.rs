//! What the command-line tools have in common.

pub mod explain;
pub mod kernel;
pub mod reasons;
pub mod reset;
pub mod settings;
pub mod smcr;
pub mod table;
pub mod tcp_option;
