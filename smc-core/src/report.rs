//! SMC_REPORT: one line of JSON for each connection, appended when it closes or its process exits.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::conn::Conn;
use crate::registry::SocketRecord;
use crate::{config, sys};

static STOPPED: AtomicBool = AtomicBool::new(false);

/// This process writes no lines: it must not use malloc.
pub(crate) fn stop() {
    STOPPED.store(true, Ordering::Relaxed);
}

/// This process must not use malloc, nor give back what the process it was copied from took.
pub(crate) fn is_stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// Writes the line, if asked for.
pub(crate) fn connection_closes(conn: &Conn, fd: i32) {
    if STOPPED.load(Ordering::Relaxed) {
        return;
    }
    let Some(path) = &config::get().report else { return };
    append(path, &conn.record(fd));
}

#[cold]
fn append(path: &std::ffi::CStr, record: &SocketRecord) {
    let mut line = record.to_json_line();
    if !line.ends_with('\n') {
        line.push('\n');
    }
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
    // SAFETY: the path is a C string; the line outlives the calls. One write to a file opened for appending keeps
    // lines of several processes apart. RLIMIT_FSIZE: a signal there would be the program's; see `sys::fd`.
    unsafe {
        if (line.len() as u64) > sys::soft_limit(libc::RLIMIT_FSIZE) {
            return;
        }
        if let Ok(fd) = sys!(SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o644) {
            let _ = sys!(SYS_write, fd, line.as_ptr(), line.len());
            sys::fd::close(fd as i32);
        }
    }
}
