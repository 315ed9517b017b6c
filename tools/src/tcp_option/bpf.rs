//! The calls of bpf(2) that aya does not offer for programs of cgroups: to attach by a link, to pin that, and to ask a
//! pinned one where it is attached. Layouts: include/uapi/linux/bpf.h, `union bpf_attr` and `struct bpf_link_info`.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;

/// `enum bpf_attach_type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum AttachType {
    SockOps = 3,
    GetSockopt = 21,
    SetSockopt = 22,
}

/// # Safety
/// `attr` must be what the kernel expects for `command`.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: promised by the caller; the kernel reads and writes `size` bytes at most.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(r as libc::c_int)
}

/// Attaches a loaded program to a cgroup, beside those of others. It stays attached as long as the link returned or a
/// pin of it lives. Linux 5.7.
pub fn attach(program: BorrowedFd, cgroup: BorrowedFd, kind: AttachType) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct LinkCreate {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut attr = LinkCreate {
        program: program.as_raw_fd() as u32,
        target: cgroup.as_raw_fd() as u32,
        attach_type: kind as u32,
        flags: 0,
    };
    // SAFETY: the attributes of BPF_LINK_CREATE; the result is a new descriptor.
    unsafe { bpf(BPF_LINK_CREATE, &mut attr).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    file_flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Pins a link to a path in a BPF file system.
pub fn pin(link: BorrowedFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Object { path: path.as_ptr() as u64, fd: link.as_raw_fd() as u32, file_flags: 0 };
    // SAFETY: the attributes of BPF_OBJ_PIN, with a string that outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(|_| ())
}

/// Opens what is pinned at a path.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Object { path: path.as_ptr() as u64, fd: 0, file_flags: 0 };
    // SAFETY: the attributes of BPF_OBJ_GET, with a string that outlives the call; the result is a new descriptor.
    unsafe { bpf(BPF_OBJ_GET, &mut attr).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// The cgroup to which a link attaches its program: its id, which is the inode number of its directory. 0 when that
/// cgroup is gone, and the link with it.
pub fn cgroup_of(link: BorrowedFd) -> io::Result<u64> {
    #[repr(C)]
    struct InfoByFd {
        fd: u32,
        length: u32,
        info: u64,
    }
    /// For a link of type cgroup.
    #[repr(C)]
    #[derive(Default)]
    struct LinkInfo {
        kind: u32,
        id: u32,
        program: u32,
        _pad: u32,
        cgroup: u64,
        attach_type: u32,
        _pad_end: u32,
    }
    const BPF_LINK_TYPE_CGROUP: u32 = 3;
    let mut info = LinkInfo::default();
    let mut attr = InfoByFd {
        fd: link.as_raw_fd() as u32,
        length: size_of::<LinkInfo>() as u32,
        info: &mut info as *mut LinkInfo as u64,
    };
    // SAFETY: the attributes of BPF_OBJ_GET_INFO_BY_FD; the kernel writes `length` bytes of plain numbers at most.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    if info.kind != BPF_LINK_TYPE_CGROUP {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a link to a cgroup"));
    }
    Ok(info.cgroup)
}
