//! What the command-line tools have in common.

pub mod explain;
pub mod reasons;
pub mod settings;
pub mod table;
