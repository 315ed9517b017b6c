//! Where registry files live, and which directories are safe to use.

use core::ffi::CStr;
use core::fmt::{self, Write};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::calls;

/// Environment variable that names the only directory to use.
pub const RUN_DIR_ENV: &str = "SMC_RUN_DIR";

/// Environment variable that names the user's own runtime directory.
pub(super) const XDG_ENV: &str = "XDG_RUNTIME_DIR";

/// Shared by all users; made by root, or by whoever installs the software.
pub(super) const SHARED_DIR: &str = "/run/smc";
/// Prefix of the per-user directories of last resort; the uid follows.
pub(super) const TMP_PREFIX: &str = "/tmp/smc-";

const DIRS_MAX: usize = 3;

/// The candidates for the run directory, best first.
pub struct RunDirs {
    dirs: [Text; DIRS_MAX],
    count: usize,
}

impl RunDirs {
    /// The candidates of a user. Environment values that are not absolute paths, or longer than 200 bytes, are
    /// ignored. Allocates nothing.
    ///
    /// With `run_dir` (`SMC_RUN_DIR`) only that; otherwise `/run/smc`, `smc` below `xdg_runtime_dir`
    /// (`XDG_RUNTIME_DIR`), `/tmp/smc-UID`.
    pub fn new(run_dir: Option<&[u8]>, xdg_runtime_dir: Option<&[u8]>, uid: u32) -> RunDirs {
        let mut dirs = RunDirs { dirs: [Text::EMPTY; DIRS_MAX], count: 0 };
        if let Some(only) = run_dir.filter(|d| is_sound_path(d)) {
            dirs.add(only, format_args!(""));
            return dirs;
        }
        dirs.add(SHARED_DIR.as_bytes(), format_args!(""));
        if let Some(xdg) = xdg_runtime_dir.filter(|d| is_sound_path(d)) {
            dirs.add(xdg, format_args!("/smc"));
        }
        dirs.add(TMP_PREFIX.as_bytes(), format_args!("{uid}"));
        dirs
    }

    /// [`RunDirs::new`] with the values of `SMC_RUN_DIR` and `XDG_RUNTIME_DIR` in the environment `var`.
    pub fn from_vars<V: AsRef<OsStr>>(var: impl Fn(&str) -> Option<V>, uid: u32) -> RunDirs {
        let (run_dir, xdg) = (var(RUN_DIR_ENV), var(XDG_ENV));
        let bytes = |v: &Option<V>| v.as_ref().map(|v| v.as_ref().as_bytes().to_vec());
        RunDirs::new(bytes(&run_dir).as_deref(), bytes(&xdg).as_deref(), uid)
    }

    fn add(&mut self, start: &[u8], rest: fmt::Arguments<'_>) {
        let text = &mut self.dirs[self.count];
        text.push(start);
        let _ = text.write_fmt(rest);
        self.count += 1;
    }

    /// The candidate paths in order.
    pub fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.dirs[..self.count].iter().map(Text::as_c_str)
    }
}

/// Opens a candidate directory for use by `uid`, making it where it is missing; `None` if it cannot be used or is not
/// safe to use.
///
/// Safe means: a directory, not a symbolic link, where nobody else can remove or replace our files: it belongs to
/// us or to root, and others cannot write to it unless it is sticky.
pub(super) fn open_run_dir(path: &CStr, uid: u32) -> Option<calls::Fd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let dir = match calls::open_at(libc::AT_FDCWD, path, flags, 0) {
        Ok(dir) => dir,
        Err(e) if e.0 == libc::ENOENT => make_run_dir(path, uid)?,
        Err(_) => return None,
    };
    let st = calls::fstat(dir.raw()).ok()?;
    is_safe(st.st_uid, st.st_mode, uid).then_some(dir)
}

/// Whether a directory with this owner and mode is safe for a user (see [`open_run_dir`]).
pub(super) fn is_safe(owner: u32, mode: u32, uid: u32) -> bool {
    let others_write = mode & 0o022 != 0;
    let sticky = mode & libc::S_ISVTX != 0;
    mode & libc::S_IFMT == libc::S_IFDIR && (owner == uid || owner == 0) && (!others_write || sticky)
}

fn make_run_dir(path: &CStr, uid: u32) -> Option<calls::Fd> {
    let shared = path.to_bytes() == SHARED_DIR.as_bytes();
    if shared && uid != 0 {
        return None;
    }
    match calls::mkdir(path, 0o700) {
        Ok(()) => {}
        // Somebody was faster.
        Err(e) if e.0 == libc::EEXIST => {}
        Err(_) => return None,
    }
    let dir = calls::open_at(libc::AT_FDCWD, path, libc::O_RDONLY | libc::O_DIRECTORY, 0).ok()?;
    if shared {
        // For all users, as /tmp. Not by mkdir: the umask would take the bits away.
        calls::fchmod(dir.raw(), 0o1777).ok()?;
    }
    Some(dir)
}

fn is_sound_path(path: &[u8]) -> bool {
    path.first() == Some(&b'/') && path.len() <= 200 && !path.contains(&0)
}

/// A C string of limited length on the stack. What does not fit is cut off; callers stay below the limit.
#[derive(Clone, Copy)]
pub(super) struct Text {
    bytes: [u8; 256],
    len: usize,
}

impl Text {
    pub const EMPTY: Text = Text { bytes: [0; 256], len: 0 };

    pub fn format(args: fmt::Arguments<'_>) -> Text {
        let mut text = Text::EMPTY;
        let _ = text.write_fmt(args);
        text
    }

    pub fn push(&mut self, more: &[u8]) {
        // The last byte stays zero.
        let n = more.len().min(self.bytes.len() - 1 - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&more[..n]);
        self.len += n;
    }

    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.push(s.as_bytes());
        Ok(())
    }
}
