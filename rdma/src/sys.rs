//! System calls that smc-core does not have, made directly: the program's own functions may be hooked.

use smc_core::sys;
use smc_core::sys::fd::OwnFd;
use smc_core::sys::{Errno, Result};
use std::ffi::CStr;
use std::net::Ipv4Addr;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// An epoll instance. Descriptors are known by a key of the caller's.
pub struct Epoll(OwnFd);

/// Something happened to the descriptor with this key.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub key: u64,
}

impl Epoll {
    pub fn new() -> Result<Epoll> {
        // SAFETY: integer arguments only.
        let fd = unsafe { sys!(SYS_epoll_create1, libc::EPOLL_CLOEXEC) }?;
        OwnFd::adopt(fd as i32).map(Epoll)
    }

    pub fn add(&self, fd: i32, flags: u32, key: u64) -> Result<()> {
        let event = libc::epoll_event { events: flags, u64: key };
        // SAFETY: the event is read before the call returns.
        unsafe { sys!(SYS_epoll_ctl, self.0.raw(), libc::EPOLL_CTL_ADD, fd, &event as *const _) }.map(drop)
    }

    pub fn remove(&self, fd: i32) {
        let event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: the event is not looked at.
        let _ = unsafe { sys!(SYS_epoll_ctl, self.0.raw(), libc::EPOLL_CTL_DEL, fd, &event as *const _) };
    }

    /// Sleeps until something happens, at most for `timeout_ms` (-1: without limit). An interruption counts as nothing.
    pub fn wait(&self, into: &mut Vec<Event>, timeout_ms: i32) -> Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: the array has room for as many as are asked for; no signal mask.
        let waited = unsafe {
            sys!(SYS_epoll_pwait, self.0.raw(), events.as_mut_ptr(), events.len(), timeout_ms, 0, 8)
        };
        into.clear();
        match waited {
            Ok(count) => {
                into.extend(events[..count].iter().map(|e| Event { key: e.u64 }));
                Ok(())
            }
            Err(Errno(libc::EINTR)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Reads from a socket without waiting.
pub fn receive(fd: i32, into: &mut [u8]) -> Result<usize> {
    // SAFETY: the buffer has that length.
    unsafe { sys!(SYS_recvfrom, fd, into.as_mut_ptr(), into.len(), libc::MSG_DONTWAIT, 0, 0) }
}

/// Writes to a socket without waiting and without SIGPIPE.
pub fn send(fd: i32, bytes: &[u8]) -> Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the buffer has that length.
    unsafe { sys!(SYS_sendto, fd, bytes.as_ptr(), bytes.len(), flags, 0, 0) }
}

/// Blocks all signals in the calling thread: handlers are to run in the program's threads. Returns the mask before.
pub fn block_signals() -> u64 {
    let (all, mut before) = (u64::MAX, 0u64);
    // SAFETY: eight bytes are the size of the kernel's signal set.
    let _ =
        unsafe { sys!(SYS_rt_sigprocmask, libc::SIG_BLOCK, &all as *const u64, &mut before as *mut u64, 8) };
    before
}

/// Undoes [`block_signals`].
pub fn restore_signals(mask: u64) {
    // SAFETY: as above.
    let _ = unsafe { sys!(SYS_rt_sigprocmask, libc::SIG_SETMASK, &mask as *const u64, 0, 8) };
}

/// What the kernel tells of devices that come and go (uevents).
pub struct DeviceNews(OwnFd);

impl DeviceNews {
    pub fn new() -> Result<DeviceNews> {
        /// The kernel's own; udev sends to another one.
        const GROUP: u32 = 1;
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: integer arguments only.
        let fd = unsafe { sys!(SYS_socket, libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT) }?;
        let news = DeviceNews(OwnFd::adopt(fd as i32)?);
        let address = netlink(GROUP);
        // SAFETY: the address is read before the call returns.
        unsafe { sys!(SYS_bind, news.fd(), &address as *const _, size_of_val(&address)) }?;
        Ok(news)
    }

    /// Readable when there is news.
    pub fn fd(&self) -> i32 {
        self.0.raw()
    }

    /// The next verbs device that is being removed, by the name of its file in /dev/infiniband, without waiting.
    pub fn next_removed(&self) -> Option<String> {
        loop {
            let (mut text, mut from) = ([0u8; 4096], netlink(0));
            let mut length = size_of_val(&from) as u32;
            // SAFETY: buffer, address and length are valid places of their sizes.
            let read = unsafe {
                sys!(
                    SYS_recvfrom,
                    self.fd(),
                    text.as_mut_ptr(),
                    text.len(),
                    libc::MSG_DONTWAIT,
                    &mut from as *mut _,
                    &mut length as *mut u32
                )
            };
            match read {
                // Others can send too.
                Ok(read) if from.nl_pid == 0 => {
                    if let Some(name) = removed(&text[..read]) {
                        return Some(name.to_owned());
                    }
                }
                Ok(_) | Err(Errno(libc::EINTR | libc::ENOBUFS)) => {}
                Err(_) => return None,
            }
        }
    }
}

fn netlink(groups: u32) -> libc::sockaddr_nl {
    // SAFETY: all zeros are valid: numbers.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = groups;
    address
}

/// The verbs device whose removal a uevent tells of: "remove@/devices/.../infiniband_verbs/uverbs0", and words that end in NUL.
fn removed(text: &[u8]) -> Option<&str> {
    let first = text.split(|byte| *byte == 0).next()?;
    let path = std::str::from_utf8(first).ok()?.strip_prefix("remove@")?;
    let (folder, name) = path.rsplit_once('/')?;
    folder.ends_with("/infiniband_verbs").then_some(name)
}

/// A process, as opposed to the children that it forks: a word in a page that the kernel wipes in them (MADV_WIPEONFORK), so that asking costs
/// no system call.
pub struct Process(NonNull<AtomicU32>);

// SAFETY: an atomic word.
unsafe impl Send for Process {}
// SAFETY: as above.
unsafe impl Sync for Process {}

impl Process {
    const PAGE: usize = 4096;

    /// This one.
    pub fn new() -> Result<Process> {
        let page = sys::map(Self::PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        let page = NonNull::new(page.cast()).ok_or(Errno(libc::ENOMEM))?;
        let process = Process(page);
        // SAFETY: advice on a page of our own.
        unsafe { sys!(SYS_madvise, page.as_ptr(), Self::PAGE, libc::MADV_WIPEONFORK) }?;
        process.word().store(1, Ordering::Relaxed);
        Ok(process)
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: mapped, zeroed and aligned, until it is dropped.
        unsafe { self.0.as_ref() }
    }

    /// Whether the caller is in it. A child that shares its memory (vfork) is.
    #[inline]
    pub fn is_this(&self) -> bool {
        self.word().load(Ordering::Relaxed) != 0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody looks at it any more.
        let _ = unsafe { sys!(SYS_munmap, self.0.as_ptr(), Self::PAGE) };
    }
}

/// A network interface's IPv4 address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    pub name: String,
    pub address: Ipv4Addr,
    pub mask: Ipv4Addr,
}

impl Interface {
    /// Whether `other` is in its subnet.
    pub fn reaches(&self, other: Ipv4Addr) -> bool {
        let net = |address: Ipv4Addr| u32::from(address) & u32::from(self.mask);
        net(self.address) == net(other)
    }
}

/// The IPv4 addresses of this host.
pub fn interfaces() -> Vec<Interface> {
    let mut list = ptr::null_mut();
    // SAFETY: the list is freed below.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: entries are valid until the list is freed; addresses may be null, and have the type their family says.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        let ipv4 = |address: *const libc::sockaddr| {
            // SAFETY: as above.
            unsafe {
                let family = address.as_ref()?.sa_family;
                (i32::from(family) == libc::AF_INET).then(|| {
                    Ipv4Addr::from(u32::from_be((*address.cast::<libc::sockaddr_in>()).sin_addr.s_addr))
                })
            }
        };
        if let (Some(address), Some(mask)) = (ipv4(entry.ifa_addr), ipv4(entry.ifa_netmask)) {
            // SAFETY: names end in NUL.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy().into_owned();
            found.push(Interface { name, address, mask });
        }
    }
    // SAFETY: it came from getifaddrs.
    unsafe { libc::freeifaddrs(list) };
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verbs_device_that_goes_is_told_from_all_other_news() {
        let news: [&[u8]; 5] = [
            b"remove@/devices/virtual/infiniband_verbs/uverbs0\0ACTION=remove\0",
            b"add@/devices/virtual/infiniband_verbs/uverbs0\0ACTION=add\0",
            b"remove@/devices/virtual/infiniband/rxe0\0ACTION=remove\0",
            b"libudev\0\xfe\xed",
            b"",
        ];
        assert_eq!(news.map(removed), [Some("uverbs0"), None, None, None, None]);
    }

    #[test]
    fn there_is_no_news_without_any() {
        let news = DeviceNews::new().expect("netlink");
        assert_eq!(news.next_removed(), None);
    }

    #[test]
    fn a_forked_child_is_another_process() {
        let process = Process::new().expect("page");
        assert!(process.is_this());
        // SAFETY: the child looks at a word and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends this process.
            unsafe { libc::_exit(i32::from(process.is_this())) };
        }
        let mut status = -1;
        // SAFETY: a valid place for the status.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        assert!(process.is_this());
    }
}
