//! What the command-line tools have in common.

pub mod explain;
pub mod reasons;
pub mod table;
