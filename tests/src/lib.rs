//! What the test programs share. The programs are ordinary users of the C library: every socket call goes through
//! the dynamic symbols of libc, so that the same binary runs natively and under the preload library.

pub mod net;
pub mod pair;
pub mod pattern;
pub mod random;
pub mod sys;
