//! What the hooks do to descriptors that are managed: the seam between libc's calls and the engine.
//!
//! The functions are `extern "C"` for what it says about unwinding: none of them panics into a hook, and a cancelled
//! thread may pass through those that make blocking calls (see [`crate::guard`]). They set `errno` themselves when they
//! fail; where the hook says that it keeps `errno`, they need not. They are called with [`crate::life::may_act`] true,
//! that is, never in a vfork child and never when inert.
#![allow(improper_ctypes_definitions)] // Nobody calls them from C.
#![allow(clippy::missing_safety_doc)] // Each has the contract of the libc function it stands for.
#![allow(clippy::undocumented_unsafe_blocks)] // The program's arguments, passed on unchanged.

pub mod epoll;
pub mod fd;
pub mod kernel;
pub mod life;
pub mod open;
pub mod options;
pub mod relay;
pub mod signals;
pub mod stdio;
pub mod stream;
pub mod wait;
