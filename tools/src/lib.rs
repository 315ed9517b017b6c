//! What the command-line tools have in common.

pub mod kernel;
pub mod reasons;
pub mod table;
pub mod tcp_option;
