//! Standard I/O on a managed descriptor.

use crate::fd_table::Entry;
use libc::c_int;
use smc_core::reason::Detail;

/// `fd` is about to be read or written by libc, unseen. `errno` is kept by the hook.
pub unsafe extern "C" fn taint(fd: c_int, entry: Entry) {
    if let Entry::Conn(conn) = entry {
        unsafe { super::life::hand_over(conn, fd, Detail::Stdio) };
    }
}
