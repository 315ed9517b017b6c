//! Loads, attaches and removes the BPF programs that write the SMC option into TCP's handshake (tools/bpf/).
//!
//! They are attached to a cgroup by links that are pinned in a BPF file system, so they stay when the command ends,
//! until `off` or the next boot. From then on processes in that cgroup use them without privilege
//! ([`smc_core::capability`]).

mod bpf;
mod command;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::programs::{CgroupSockopt, SockOps};
use aya::{include_bytes_aligned, Ebpf, EbpfLoader};
use serde::Serialize;
use smc_core::capability;

use bpf::AttachType;
pub use command::Command;

/// Empty when build.rs could not make it; `TCP_OPTION_MISSING` says why.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcp_option.o"));

/// Where the links are pinned unless told otherwise.
pub const PINS: &str = "/sys/fs/bpf/smc-tcp-option";

/// Where systemd mounts the BPF file system, and where it is mounted if it is not there.
const BPF_FS: &str = "/sys/fs/bpf";

/// In this order: nobody can ask for the option before the program that writes it is there.
const PROGRAMS: [(&str, AttachType); 3] = [
    ("smc_sock_ops", AttachType::SockOps),
    ("smc_getsockopt", AttachType::GetSockopt),
    ("smc_setsockopt", AttachType::SetSockopt),
];

/// A sentence for the user.
#[derive(Debug)]
pub struct Error(String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn failed<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Error {
    move |e| Error(format!("{what}: {e}"))
}

/// What is attached, as far as the caller may see it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// All programs are attached.
    pub on: bool,
    /// A socket of this process can ask for the option. The one part that a user without privilege sees.
    pub available: bool,
    /// The cgroup they are attached to. `None` also when it is not below the cgroup file system seen here.
    pub cgroup: Option<PathBuf>,
    pub pins: PathBuf,
    /// Of the programs, those that are pinned.
    pub pinned: Vec<&'static str>,
}

/// Attaches the programs to `cgroup` (default: the root of the cgroup v2 hierarchy) and pins them. Returns what there is
/// to say. With all in place already it does nothing; what an interrupted call has left is replaced.
pub fn on(cgroup: Option<&Path>, pins: &Path) -> Result<String, Error> {
    let before = status(pins)?;
    if before.on {
        let place = before.cgroup.as_deref().unwrap_or(Path::new("a cgroup not seen here")).display();
        return match cgroup {
            Some(wanted) if before.cgroup.as_deref() != fs::canonicalize(wanted).ok().as_deref() => {
                Err(Error(format!("already on for {place}: turn it off first, or use other --pins")))
            }
            _ => Ok(format!("already on for {place}")),
        };
    }
    if OBJECT.is_empty() {
        return Err(Error(format!(
            "this smcctl was built without the BPF programs: {}",
            env!("TCP_OPTION_MISSING")
        )));
    }
    kernel_is_new_enough()?;
    let path = match cgroup {
        Some(path) => fs::canonicalize(path).map_err(failed(path.display()))?,
        None => cgroup_root()?,
    };
    let directory = File::open(&path).map_err(failed(path.display()))?;
    if file_system_of(&directory)? != libc::CGROUP2_SUPER_MAGIC as u64 {
        return Err(Error(format!("{} is not a cgroup of the v2 hierarchy", path.display())));
    }
    let mut said = String::new();
    if pins.starts_with(BPF_FS) && mount_bpf_fs()? {
        said = format!("mounted a BPF file system on {BPF_FS}\n");
    }
    remove(pins)?;
    let programs = load()?;
    fs::create_dir(pins).map_err(failed(pins.display()))?;
    attach(&programs, &directory, pins).inspect_err(|_| {
        // What is attached by half is worth nothing; the first error is the one to tell.
        let _ = remove(pins);
    })?;
    Ok(format!("{said}on for {}", path.display()))
}

/// Detaches the programs. Connections keep what they have learnt; new ones are without the option.
pub fn off(pins: &Path) -> Result<String, Error> {
    match remove(pins)? {
        true => Ok("off".into()),
        false => Ok("already off".into()),
    }
}

/// What is attached now.
pub fn status(pins: &Path) -> Result<Status, Error> {
    let mut status =
        Status { on: false, available: available(), cgroup: None, pins: pins.into(), pinned: Vec::new() };
    let mut cgroups = Vec::new();
    for (name, _) in PROGRAMS {
        let path = pins.join(name);
        match bpf::open_pinned(&path) {
            Ok(link) => {
                cgroups.push(bpf::cgroup_of(link.as_fd()).map_err(failed(path.display()))?);
                status.pinned.push(name);
            }
            // EPERM: not for users without privilege, who see `available`.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ENOENT | libc::EPERM | libc::EACCES | libc::ENOSYS)
                ) => {}
            Err(e) => return Err(Error(format!("{}: {e}", path.display()))),
        }
    }
    // 0: the cgroup was removed, and what was attached to it is gone.
    status.on = cgroups.len() == PROGRAMS.len() && !cgroups.contains(&0);
    if status.on {
        status.cgroup = cgroup_root().ok().and_then(|root| cgroup_with_id(&root, cgroups[0]));
    }
    Ok(status)
}

/// Asks a socket of this process, which is what counts.
fn available() -> bool {
    // SAFETY: integers only; the descriptor is new, and nobody else's.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return false;
        }
        OwnedFd::from_raw_fd(fd)
    };
    capability::wanted(socket.as_raw_fd()).is_ok()
}

fn kernel_is_new_enough() -> Result<(), Error> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").map_err(failed("/proc/sys/kernel/osrelease"))?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0u32));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (5, 10) {
        return Err(Error(format!(
            "this kernel is {}: TCP options by BPF need Linux 5.10 or newer. Connections to other hosts stay on TCP",
            release.trim()
        )));
    }
    Ok(())
}

/// Loads the programs; nothing is attached yet.
fn load() -> Result<Ebpf, Error> {
    raise_memlock();
    let mut object = EbpfLoader::new()
        // Nothing in the programs depends on the layout of this kernel.
        .btf(None)
        // aya has no type for socket storage; the programs alone use it.
        .allow_unsupported_maps()
        .load(OBJECT)
        .map_err(|e| refused(&e))?;
    for (name, kind) in PROGRAMS {
        let program = object.program_mut(name).ok_or_else(|| Error(format!("no program {name}")))?;
        let loaded = match kind {
            AttachType::SockOps => <&mut SockOps>::try_from(program).and_then(|p| p.load()),
            _ => <&mut CgroupSockopt>::try_from(program).and_then(|p| p.load()),
        };
        loaded.map_err(|e| refused(&e))?;
    }
    Ok(object)
}

/// What the kernel said to bpf(2), with what it may mean.
fn refused(error: &dyn std::error::Error) -> Error {
    let mut text = error.to_string();
    let mut errno = None;
    let mut cause = error.source();
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        errno = errno.or(e.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error));
        cause = e.source();
    }
    // The verifier ends its listing with the complaint.
    let listing: Vec<&str> = text.lines().collect();
    let hint = match errno {
        _ if listing.len() > 1 => "its verifier refuses them; please report this",
        Some(libc::EPERM | libc::EACCES) => {
            "it takes root (CAP_BPF and CAP_NET_ADMIN) and a kernel that is not locked down"
        }
        _ => "it takes a kernel with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF",
    };
    let end = listing[listing.len().saturating_sub(8)..].join("\n");
    Error(format!("the kernel does not take the BPF programs: {hint}. {end}"))
}

/// Before Linux 5.11 maps and programs count as locked memory.
fn raise_memlock() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: reads one rlimit. Without the right to it, loading fails with a message of its own.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) };
}

fn attach(programs: &Ebpf, cgroup: &File, pins: &Path) -> Result<(), Error> {
    for (name, kind) in PROGRAMS {
        let program = programs.program(name).ok_or_else(|| Error(format!("no program {name}")))?;
        let program = program.fd().map_err(|e| refused(&e))?;
        let link = bpf::attach(program.as_fd(), cgroup.as_fd(), kind)
            .map_err(failed(format!("{name} cannot be attached")))?;
        let path = pins.join(name);
        bpf::pin(link.as_fd(), &path).map_err(failed(format!("cannot pin {}", path.display())))?;
    }
    Ok(())
}

/// Removes the pins, the one by which processes ask first. Returns whether there were any.
fn remove(pins: &Path) -> Result<bool, Error> {
    for (name, _) in PROGRAMS.iter().rev() {
        let path = pins.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error(format!("{}: {e}", path.display())));
            }
            _ => {}
        }
    }
    match fs::remove_dir(pins) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error(format!("{}: {e}", pins.display()))),
    }
}

/// Where the cgroup v2 hierarchy is mounted.
fn cgroup_root() -> Result<PathBuf, Error> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(failed("/proc/self/mounts"))?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .ok_or_else(|| {
            Error("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup".into())
        })
}

/// The cgroup with this id, which is its directory's inode number, at or below `root`.
fn cgroup_with_id(root: &Path, id: u64) -> Option<PathBuf> {
    if fs::metadata(root).ok()?.ino() == id {
        return Some(root.into());
    }
    fs::read_dir(root)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .find_map(|entry| cgroup_with_id(&entry.path(), id))
}

fn file_system_of(file: &File) -> Result<u64, Error> {
    // SAFETY: all-zero is a valid statfs, which the call fills in.
    let (done, stat) = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        (libc::fstatfs(file.as_raw_fd(), &mut stat), stat)
    };
    match done {
        0 => Ok(stat.f_type as u64),
        _ => Err(Error(io::Error::last_os_error().to_string())),
    }
}

/// Mounts a BPF file system where systemd would have, if there is none. Returns whether it did.
fn mount_bpf_fs() -> Result<bool, Error> {
    let directory = File::open(BPF_FS)
        .map_err(failed(format!("{BPF_FS}: no BPF file system in this kernel (CONFIG_BPF_SYSCALL)")))?;
    if file_system_of(&directory)? == libc::BPF_FS_MAGIC as u64 {
        return Ok(false);
    }
    // For root alone, as systemd has it.
    let mode = c"mode=700";
    // SAFETY: strings that outlive the call.
    let done = unsafe {
        libc::mount(c"bpf".as_ptr(), c"/sys/fs/bpf".as_ptr(), c"bpf".as_ptr(), 0, mode.as_ptr().cast())
    };
    match done {
        0 => Ok(true),
        _ => Err(Error(format!("cannot mount {BPF_FS}: {}", io::Error::last_os_error()))),
    }
}
