//! The tools' side of the registry: finds the files of all processes the user may see, and turns their entries into
//! [`SocketRecord`]s with the help of /proc.
//!
//! A file is what its owner wants it to be. So each is read, not mapped; sizes, numbers and names are checked; and a
//! file is believed only if it belongs to root or to the user of the process it speaks of. What it can then lie about
//! is that user's own byte counts: addresses, states and owners come from the kernel, through the descriptor.
//!
//! Sockets come and go meanwhile. The order of looks makes the listing sound: entries, their descriptors, the kernel's
//! tables, and then the entries and descriptors again; only what is the same both times is listed.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::calls;
use super::kernel::{net_of, Row, Tables};
use super::record::{state_name, KernelSide, SocketRecord};
use super::rundir::{self, RUN_DIR_ENV, SHARED_DIR, TMP_PREFIX, XDG_ENV};
use super::schema::{HeaderSnapshot, Snapshot, CAPACITY, ENTRY_SIZE};
use super::writer::{parse_file_name, parse_stat};

/// Where registry files are looked for.
pub struct Search {
    dirs: Vec<PathBuf>,
    /// Whether the user named the only directory, so that trouble with it is worth an error.
    named: bool,
}

impl Search {
    /// Only this directory.
    pub fn in_dir(dir: &Path) -> Search {
        Search { dirs: vec![dir.to_owned()], named: true }
    }

    /// The directory that `SMC_RUN_DIR` names, otherwise every user's.
    ///
    /// # Errors
    /// `InvalidInput` if `SMC_RUN_DIR` is not an absolute path.
    pub fn from_env() -> io::Result<Search> {
        if let Some(dir) = std::env::var_os(RUN_DIR_ENV).filter(|d| !d.is_empty()) {
            if !Path::new(&dir).is_absolute() {
                let text = format!("{RUN_DIR_ENV} must be an absolute path, it is {dir:?}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            return Ok(Search::in_dir(Path::new(&dir)));
        }
        let mut dirs = vec![PathBuf::from(SHARED_DIR)];
        if let Some(xdg) = std::env::var_os(XDG_ENV) {
            dirs.push(Path::new(&xdg).join("smc"));
        }
        dirs.extend(
            names_in(Path::new("/run/user")).map(|user| Path::new("/run/user").join(user).join("smc")),
        );
        if let (Some(parent), Some(prefix)) =
            (Path::new(TMP_PREFIX).parent(), Path::new(TMP_PREFIX).file_name())
        {
            let ours = |name: &std::ffi::OsString| name.as_bytes().starts_with(prefix.as_bytes());
            dirs.extend(names_in(parent).filter(ours).map(|name| parent.join(name)));
        }
        Ok(Search { dirs, named: false })
    }

    /// All managed sockets that the user may see, ordered by pid and descriptor. Files of dead processes are removed on
    /// the way where the user may do that.
    ///
    /// # Errors
    /// The directory that the user named exists but cannot be read, or /proc cannot.
    pub fn sockets(&self) -> io::Result<Vec<SocketRecord>> {
        let pid_ns = fs::metadata("/proc/self/ns/pid")
            .map_err(|e| io::Error::new(e.kind(), format!("cannot read /proc: {e}")))?
            .ino();
        let mut files = Vec::new();
        let mut seen = HashSet::new();
        for dir in &self.dirs {
            match read_dir(dir, pid_ns, &mut seen, &mut files) {
                Err(e) if self.named && e.kind() != io::ErrorKind::NotFound => {
                    return Err(io::Error::new(e.kind(), format!("cannot read {}: {e}", dir.display())));
                }
                _ => {}
            }
        }
        // A process has two files if exec changed what it can write to; the newer one is right.
        files.sort_by_key(|f| (f.header.pid, std::cmp::Reverse(f.header.created_ms)));
        let mut taken = HashSet::new();
        let mut found = Vec::new();
        for file in &files {
            for (index, entry) in file.entries() {
                if let Some(inode) = file.inode(&entry) {
                    if taken.insert((file.header.pid, entry.fd)) {
                        found.push(Found { file, index, entry, inode });
                    }
                }
            }
        }
        let mut tables = Tables::new();
        let mut records: Vec<_> = found.iter().filter_map(|f| f.record(&mut tables)).collect();
        records.sort_by_key(|r| (r.pid, r.fd));
        Ok(records)
    }
}

/// A live process's file that passed all checks.
struct RegistryFile {
    file: File,
    header: HeaderSnapshot,
    comm: String,
    /// Name of the process's network namespace, or of the process if that may not be known.
    net: String,
}

impl RegistryFile {
    /// Copies of the entries in use.
    fn entries(&self) -> Vec<(usize, Snapshot)> {
        let mut bytes = vec![0u8; self.header.used.min(CAPACITY) * ENTRY_SIZE];
        let read = read_up_to(&self.file, &mut bytes, ENTRY_SIZE as u64);
        bytes[..read]
            .chunks_exact(ENTRY_SIZE)
            .enumerate()
            .filter_map(|(index, chunk)| Some((index, Snapshot::decode(chunk.try_into().ok()?))))
            .filter(|(_, entry)| entry.is_live() && entry.kind().is_some() && entry.mode().is_some())
            .collect()
    }

    fn entry(&self, index: usize) -> Option<Snapshot> {
        let mut bytes = [0u8; ENTRY_SIZE];
        self.file.read_exact_at(&mut bytes, ((index + 1) * ENTRY_SIZE) as u64).ok()?;
        Some(Snapshot::decode(&bytes))
    }

    /// The inode of the socket that the entry speaks of, if the process still has it.
    fn inode(&self, entry: &Snapshot) -> Option<u64> {
        let link = fs::read_link(format!("/proc/{}/fd/{}", self.header.pid, u32::try_from(entry.fd).ok()?));
        match link {
            Ok(target) => {
                let inode = parse_socket_link(target.as_os_str())?;
                // Another inode: closed where the shim did not see it, and the number was reused.
                (entry.inode == 0 || entry.inode == inode).then_some(inode)
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Some(entry.inode).filter(|&i| i != 0),
            Err(_) => None,
        }
    }
}

/// An entry whose socket exists.
struct Found<'a> {
    file: &'a RegistryFile,
    index: usize,
    entry: Snapshot,
    inode: u64,
}

impl Found<'_> {
    fn record(&self, tables: &mut Tables) -> Option<SocketRecord> {
        let pid = self.file.header.pid;
        let row = tables.row(&self.file.net, pid, self.inode);
        let now = self.file.entry(self.index)?;
        if !now.same_socket(&self.entry) || self.file.inode(&now)? != self.inode {
            return None;
        }
        let side = match row {
            Some(Row { uid, state, ends, interface }) => {
                KernelSide { uid, inode: self.inode, ends, state: state_name(state), interface }
            }
            // Sockets that are neither connected nor listening are in no table.
            None => KernelSide { uid: process_uid(pid), inode: self.inode, ..KernelSide::CLOSED },
        };
        Some(SocketRecord::build(pid, self.file.comm.clone(), now.fd, &now, &side))
    }
}

/// Adds the directory's files of live processes to `files`. `seen` holds the directories already done, by device and
/// inode: the same one may have several names.
fn read_dir(
    path: &Path,
    pid_ns: u64,
    seen: &mut HashSet<(u64, u64)>,
    files: &mut Vec<RegistryFile>,
) -> io::Result<()> {
    let dir = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)?;
    let meta = dir.metadata()?;
    if !seen.insert((meta.dev(), meta.ino())) {
        return Ok(());
    }
    let uid = calls::effective_uid();
    let may_remove = rundir::is_safe(meta.uid(), meta.mode(), uid);
    // The directory that was opened, whatever its name leads to by now.
    let opened = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    for name in names_in(&opened) {
        let Some((pid, start_ticks, ns)) = parse_file_name(name.as_bytes()) else { continue };
        // Another pid namespace's numbers mean nothing here, not even that the process is gone.
        if ns != pid_ns {
            continue;
        }
        let path = opened.join(&name);
        match start_of(pid) {
            Ok(start) if start == start_ticks => files.extend(open_file(&path, pid, start_ticks, pid_ns)),
            // The process is gone; in the first case another one has its number.
            Ok(_) => remove_stale(&path, may_remove, uid),
            Err(e) if e.kind() == io::ErrorKind::NotFound => remove_stale(&path, may_remove, uid),
            Err(_) => {}
        }
    }
    Ok(())
}

fn open_file(path: &Path, pid: i32, start_ticks: u64, pid_ns: u64) -> Option<RegistryFile> {
    // Nonblocking: opening a FIFO must not wait for a writer.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file() || !may_speak_for(meta.uid(), pid) {
        return None;
    }
    let mut bytes = [0u8; ENTRY_SIZE];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let header = HeaderSnapshot::decode(&bytes)?;
    if (header.pid, header.start_ticks, header.pid_ns) != (pid, start_ticks, pid_ns) {
        return None;
    }
    let comm = fs::read(format!("/proc/{pid}/comm"))
        .unwrap_or_else(|_| header.comm.split(|&b| b == 0).next().unwrap_or_default().to_owned());
    let net = net_of(&pid.to_string()).unwrap_or_else(|| format!("pid {pid}"));
    Some(RegistryFile { file, header, comm: printable(&comm), net })
}

/// Whether a file of user `owner` may say something about process `pid`.
fn may_speak_for(owner: u32, pid: i32) -> bool {
    owner == 0 || process_uids(pid).is_some_and(|uids| uids.contains(&owner))
}

/// Real, effective, saved and file system uid.
fn process_uids(pid: i32) -> Option<Vec<u32>> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    // Bytes: the name in the first line may be anything, though newlines in it are escaped.
    let line = status.split(|&b| b == b'\n').find_map(|l| l.strip_prefix(b"Uid:"))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().map(|n| n.parse().ok()).collect()
}

fn process_uid(pid: i32) -> u32 {
    process_uids(pid).and_then(|uids| uids.get(1).copied()).unwrap_or(u32::MAX)
}

/// The start time of a live process, `NotFound` if there is none with this pid.
fn start_of(pid: i32) -> io::Result<u64> {
    let stat = match fs::read(format!("/proc/{pid}/stat")) {
        // It ended between open and read.
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Err(io::ErrorKind::NotFound.into()),
        other => other?,
    };
    parse_stat(&stat).map(|(_, _, start)| start).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn remove_stale(path: &Path, may_remove: bool, uid: u32) {
    let ours = |meta: fs::Metadata| uid == 0 || meta.uid() == uid;
    if may_remove && fs::symlink_metadata(path).is_ok_and(ours) {
        let _ = fs::remove_file(path);
    }
}

fn parse_socket_link(target: &OsStr) -> Option<u64> {
    let digits = target.as_bytes().strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn read_up_to(file: &File, buf: &mut [u8], offset: u64) -> usize {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    done
}

fn names_in(dir: &Path) -> impl Iterator<Item = std::ffi::OsString> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name())
}

/// A process's name for a terminal: it is whatever the process likes.
fn printable(name: &[u8]) -> String {
    let name = name.strip_suffix(b"\n").unwrap_or(name);
    String::from_utf8_lossy(name).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
