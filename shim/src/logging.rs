//! The log, for those who ask for it: `SMC_LOG=LEVEL`, `SMC_LOG=LEVEL:FILE` or `SMC_LOG=LEVEL:stderr`.
//!
//! Levels are those of the `log` crate (`off`, `error`, `warn`, `info`, `debug`, `trace`). Without FILE the log goes to
//! `/tmp/smc-UID-PID.log`, PID being that of the process that loaded the library; its children by fork go on in the
//! same file. Lines are appended by single writes, so that several processes may share a file. Without SMC_LOG there is
//! no logger, and nothing is ever written to stdout; to stderr only if asked.
//!
//! The file's descriptor is one of the shim's own: above the numbers that programs expect to get, closed by exec, and
//! compared with the file's identity before each write, since programs close what they did not open.

use crate::fd_table::{self, Entry};
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use smc_core::config::Settings;
use smc_core::sys;
use std::io::{self, Write};

/// The descriptor of the log file, or -1.
static FILE: AtomicI32 = AtomicI32::new(-1);

/// The thread that writes a line, or that has stopped writing for a fork.
static WRITER: AtomicI32 = AtomicI32::new(0);

/// It stopped for a fork. (It did not in a signal handler that interrupted a line and forks.)
static STOPPED: AtomicBool = AtomicBool::new(false);

/// The level of the logger, and what writes for it.
struct Logger(env_logger::Logger);

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.0.matches(record) || !acquire() {
            return;
        }
        self.0.log(record);
        WRITER.store(0, Ordering::Release);
    }

    fn flush(&self) {}
}

/// Takes the right to write. False in a signal handler that interrupted a line: that line is lost, not the program.
fn acquire() -> bool {
    let tid = crate::life::gettid();
    loop {
        match WRITER.compare_exchange_weak(0, tid, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(owner) if owner == tid => return false,
            // SAFETY: no arguments.
            Err(_) => drop(unsafe { sys!(SYS_sched_yield) }),
        }
    }
}

/// Keeps other threads from being inside the logger while the process is copied.
pub fn fork_prepare() {
    if log::max_level() != log::LevelFilter::Off {
        STOPPED.store(acquire(), Ordering::Relaxed);
    }
}

/// The other side of [`fork_prepare`], in the parent, and in the child, where no other thread writes.
pub fn fork_done(in_child: bool) {
    if STOPPED.swap(false, Ordering::Relaxed) || in_child {
        WRITER.store(0, Ordering::Release);
    }
}

/// Sets the logger up if SMC_LOG, in the environment or else in the file, asks for one. A setting that cannot be
/// followed means no log.
pub fn start(settings: &Settings) {
    let of_file = || settings.of_file("SMC_LOG").map(|setting| setting.value.clone().into());
    let Some(setting) = std::env::var_os("SMC_LOG").or_else(of_file) else { return };
    let Some(setting) = setting.to_str() else { return };
    let (level, target) = match setting.split_once(':') {
        Some((level, target)) => (level, Some(target)),
        None => (setting, None),
    };
    let Ok(level) = level.parse::<log::LevelFilter>() else { return };
    if level == log::LevelFilter::Off {
        return;
    }
    let sink: Box<dyn Write + Send> = match target {
        Some("stderr") => Box::new(Sink { fd: 2, identity: None }),
        Some(path) => match Sink::open(path.as_bytes(), false) {
            Some(sink) => Box::new(sink),
            None => return,
        },
        None => {
            // SAFETY: no arguments, no failure.
            let ids = unsafe { (sys!(SYS_getuid), sys!(SYS_getpid)) };
            let (Ok(uid), Ok(pid)) = ids else { return };
            match Sink::open(format!("/tmp/smc-{uid}-{pid}.log").as_bytes(), true) {
                Some(sink) => Box::new(sink),
                None => return,
            }
        }
    };
    let logger = env_logger::Builder::new()
        .filter_level(level)
        .target(env_logger::Target::Pipe(sink))
        .format(|line, record| {
            let (pid, tid) = (std::process::id(), crate::life::gettid());
            let at = monotonic_micros();
            let (seconds, micros) = (at / 1_000_000, at % 1_000_000);
            writeln!(
                line,
                "{seconds}.{micros:06} {pid}/{tid} {:5} {}: {}",
                record.level(),
                record.target(),
                record.args()
            )
        })
        .build();
    if log::set_boxed_logger(Box::new(Logger(logger))).is_ok() {
        log::set_max_level(level);
    }
}

/// Moves the log file off the number `fd`, if it has that, so that the program can have it.
pub extern "C" fn relocate(fd: i32) {
    if FILE.load(Ordering::Relaxed) != fd {
        return;
    }
    // SAFETY: the descriptor is our own.
    let new =
        unsafe { sys!(SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, own_fd_floor()) }.map_or(-1, |new| new as i32);
    if new >= 0 {
        fd_table::set(new, Entry::Internal);
    }
    FILE.store(new, Ordering::Relaxed);
    fd_table::replace_if(fd, Entry::Internal, Entry::None);
}

/// Microseconds of CLOCK_MONOTONIC, which processes of one host have in common.
fn monotonic_micros() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into `now`.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// Where the lines go.
struct Sink {
    fd: i32,
    /// Device and inode of the file that `fd` was opened on. None for stderr, which is the program's.
    identity: Option<(u64, u64)>,
}

impl Sink {
    /// Opens `path` for appending. With `own`, in a directory others can write to: only a plain file of our own is
    /// taken, never a link.
    fn open(path: &[u8], own: bool) -> Option<Sink> {
        let path = std::ffi::CString::new(path).ok()?;
        let guarded = if own { libc::O_NOFOLLOW | libc::O_NONBLOCK } else { 0 };
        let flags =
            libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC | libc::O_NOCTTY | guarded;
        // SAFETY: the path is a C string; fds are our own.
        let (low, fd) = unsafe {
            let low = sys!(SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o600).ok()? as i32;
            (low, sys!(SYS_fcntl, low, libc::F_DUPFD_CLOEXEC, own_fd_floor()).ok())
        };
        // SAFETY: opened above and seen by nobody else.
        let _ = unsafe { sys!(SYS_close, low) };
        let sink = Sink { fd: fd? as i32, identity: None };
        let stat = sink.stat()?;
        // SAFETY: no arguments, no failure.
        let uid = unsafe { sys!(SYS_geteuid) }.ok()? as u32;
        let plain = stat.st_mode & libc::S_IFMT == libc::S_IFREG && stat.st_uid == uid && stat.st_nlink == 1;
        if own && !plain {
            // SAFETY: as above.
            let _ = unsafe { sys!(SYS_close, sink.fd) };
            return None;
        }
        fd_table::set(sink.fd, Entry::Internal);
        FILE.store(sink.fd, Ordering::Relaxed);
        Some(Sink { identity: Some((stat.st_dev, stat.st_ino)), ..sink })
    }

    fn stat(&self) -> Option<libc::stat> {
        // SAFETY: all zero is a valid `stat`; the kernel's layout is libc's on both architectures.
        unsafe {
            let mut stat: libc::stat = core::mem::zeroed();
            sys!(SYS_fstat, self.fd, &mut stat as *mut libc::stat).ok()?;
            Some(stat)
        }
    }
}

/// The lowest number for descriptors of our own: out of the way of the program's, within its limit.
fn own_fd_floor() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes into `limit`.
    let _ = unsafe { sys!(SYS_prlimit64, 0, libc::RLIMIT_NOFILE, 0, &mut limit as *mut libc::rlimit) };
    (limit.rlim_cur / 2).clamp(3, 512)
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(identity) = self.identity {
            self.fd = FILE.load(Ordering::Relaxed);
            match self.stat() {
                Some(stat) if (stat.st_dev, stat.st_ino) == identity => {}
                _ => return Ok(line.len()),
            }
        }
        // SAFETY: the slice is readable for its length. A line that cannot be written is lost.
        let _ = unsafe { sys!(SYS_write, self.fd, line.as_ptr(), line.len()) };
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
