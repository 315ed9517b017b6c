//! SMC-R, by way of `libsmc_rdma.so`: its functions once somebody has loaded it, and whether a connection is to ask for it at all.
//! [`crate::conn`] has what becomes of a connection.

pub mod abi;
mod inside;

use crate::capability;
use crate::config;
use crate::reason::Detail;
use crate::sys::sock::Endpoint;
use crate::sys::{self, fd, sock, Errno};
use abi::{Host, Table};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::net::{IpAddr, SocketAddr};

static TABLE: AtomicPtr<Table> = AtomicPtr::new(core::ptr::null_mut());

pub(crate) use inside::is_inside;
use inside::without_cancellation;

/// Puts the library to use.
///
/// # Errors
/// What the library says of the settings.
pub fn install(table: &'static Table, host: &Host) -> Result<(), Errno> {
    // SAFETY: a table of the version that the caller has checked; the host is valid for the call.
    let opened = without_cancellation(|| unsafe { (table.open)(host) });
    if opened < 0 {
        return Err(Errno(-opened));
    }
    TABLE.store(core::ptr::from_ref(table).cast_mut(), Ordering::Release);
    Ok(())
}

/// Whether there is a library.
#[inline]
pub fn is_loaded() -> bool {
    !TABLE.load(Ordering::Acquire).is_null()
}

/// Uses the library; `otherwise` if there is none, or the thread has been interrupted inside of it ([`is_inside`]).
pub(crate) fn with<T>(otherwise: T, act: impl FnOnce(&'static Table) -> T) -> T {
    let Some(table) = table() else { return otherwise };
    inside::enter(|| act(table)).unwrap_or(otherwise)
}

/// Tells the library something about what has this number; if the thread has been interrupted inside of it, when it leaves.
pub(crate) fn tell(number: u64, act: fn(u64)) {
    if is_loaded() {
        inside::tell(act, number);
    }
}

/// What there is to be told.
pub(crate) mod told {
    use super::table;

    macro_rules! told {
        ($($name:ident = $function:ident($($more:expr)?);)*) => {
            $(pub(crate) fn $name(number: u64) {
                if let Some(table) = table() {
                    (table.$function)(number $(, $more)?);
                }
            })*
        };
    }
    told! {
        starts = start();
        shuts_down = shutdown_write();
        closes = close(0);
        leaves = close(1);
        unlistens = unlisten();
        accepts_elsewhere = watch(0);
        accepts_here = watch(1);
        accept_ends = accept_ends();
    }

    pub(crate) fn taken(fd: u64) {
        if let Some(table) = table() {
            (table.taken)(fd as i32);
        }
    }
}

fn table() -> Option<&'static Table> {
    // SAFETY: only `install` stores here, a table that stays.
    unsafe { TABLE.load(Ordering::Acquire).as_ref() }
}

/// At most how long the end of a process, or an exec, is held up by connections that still have something to say.
const LAST_WORDS_NS: u64 = 2_000_000_000;

/// The process is about to end, or to become another program: peers are told.
pub fn finish() {
    with((), |table| {
        (table.finish)(LAST_WORDS_NS);
    });
}

/// In a forked child.
pub(crate) fn after_fork_in_child() {
    inside::after_fork_in_child();
    with((), |table| (table.forked)());
}

/// How long an answer of [`has_device`] holds, where it is no: nanoseconds.
const LOOK_AGAIN_NS: u64 = 10_000_000_000;

/// Whether the host has an RDMA device.
pub fn has_device() -> bool {
    /// When that was last found not to be so.
    static MISSED: AtomicU64 = AtomicU64::new(0);
    let (missed, now) = (MISSED.load(Ordering::Relaxed), sys::coarse_ns());
    if missed != 0 && now.saturating_sub(missed) < LOOK_AGAIN_NS {
        return false;
    }
    let found = has_entries(c"/sys/class/infiniband");
    MISSED.store(if found { 0 } else { now }, Ordering::Relaxed);
    found
}

fn has_entries(folder: &core::ffi::CStr) -> bool {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the path ends with a NUL; the kernel writes at most the length given.
    unsafe {
        let Ok(opened) = sys!(SYS_openat, libc::AT_FDCWD, folder.as_ptr(), flags) else { return false };
        let mut entries = [0u64; 64];
        let read = sys!(SYS_getdents64, opened, entries.as_mut_ptr(), core::mem::size_of_val(&entries));
        fd::close(opened as i32);
        // `.` and `..` take 24 bytes each.
        read.is_ok_and(|length| length > 48)
    }
}

/// Why `fd`, a connection to a peer that is not on this host (or in another network namespace), is not on SMC-R.
pub fn why_not(fd: i32, peer: &Endpoint) -> Detail {
    if peer.v4().is_none() {
        return Detail::PeerRemote;
    }
    if !has_device() {
        return Detail::NoRdmaDevice;
    }
    match capability::wanted(fd) {
        Err(Errno(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => Detail::NoTcpOption,
        _ => Detail::PeerRemote,
    }
}

/// An address that may be another host's, as far as it tells itself: IPv4, also mapped into IPv6.
pub fn is_candidate(peer: SocketAddr) -> bool {
    match peer.ip().to_canonical() {
        IpAddr::V4(ip) => {
            !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
        }
        IpAddr::V6(_) => false,
    }
}

/// Whether SMC-R could serve a connection to `peer`: a candidate on another host. On this host shared memory is better.
pub fn may_serve(peer: SocketAddr) -> bool {
    let IpAddr::V4(ip) = peer.ip().to_canonical() else { return false };
    // The source address that the kernel chooses for a destination on this host is the destination.
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 9u16.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(ip).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: the address is valid for the call.
    unsafe {
        let Ok(probe) = sys!(SYS_socket, libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) else {
            return false;
        };
        let probe = probe as i32;
        let length = core::mem::size_of_val(&address);
        let routed = sys!(SYS_connect, probe, &address as *const _, length).is_ok();
        let source = sock::local(probe).ok().and_then(|local| local.v4());
        fd::close(probe);
        routed && source.is_some_and(|source| std::net::Ipv4Addr::from(source) != ip)
    }
}

/// The rings' size that the library is asked for, in bytes.
pub fn buffer() -> u32 {
    config::get().rcvbuf.min(1 << 20) as u32
}

/// Whether something was said already; for what is to be said once.
pub fn said(once: &AtomicU32) -> bool {
    once.swap(1, Ordering::Relaxed) != 0
}
