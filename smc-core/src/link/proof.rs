//! How a process shows another one that it holds a socket.
//!
//! It puts the socket into an epoll instance that it has for this alone, and tells the instance's number. The other one reads
//! `/proc/PID/fdinfo/NUMBER`, where the kernel lists inodes and device of what is in the instance
//! (proc_pid_fdinfo(5)). Only who holds a file can add it, an instance keeps nothing open, and what was closed is gone from
//! it. The kernel allows the look to whom it allows one at `/proc/PID/fd/N`, which would say the same, but of which procfs
//! keeps a name and an inode for each number, close to 2 KB for the two ends of a connection.
//!
//! The sockets shown last are in the instance. One that was taken out before the peer looked, or cannot be shown, is looked up
//! the other way.

use core::ffi::CStr;
use core::fmt::Write;

use super::rendezvous::{is_filtered, Text};
use super::with_links;
use crate::epoll::kernel;
use crate::sys::fd::{self, OwnFd};
use crate::sys::Errno;

/// Sockets that are shown at a time, which a peer must read through to find its own. The text for so many fits in [`TEXT`]
/// bytes.
const SHOWN: usize = 16;
const TEXT: usize = 2048;

/// The instance, and the sockets that are in it.
pub(super) struct Proof {
    epoll: OwnFd,
    shown: [i32; SHOWN],
    /// Where the next one is put.
    next: usize,
}

impl Proof {
    fn new() -> Result<Proof, Errno> {
        if !fd::may_open(1) {
            return Err(Errno(libc::EMFILE));
        }
        Ok(Proof { epoll: kernel::create()?, shown: [-1; SHOWN], next: 0 })
    }

    fn show(&mut self, fd: i32) -> Result<i32, Errno> {
        let epoll = self.epoll.raw();
        if !self.shown.contains(&fd) {
            let place = &mut self.shown[self.next];
            if *place >= 0 {
                kernel::delete(epoll, *place);
            }
            *place = fd;
            self.next = (self.next + 1) % SHOWN;
        }
        // Nobody ever waits on the instance.
        kernel::add(epoll, fd, 0, 0)?;
        Ok(epoll)
    }

    fn hide(&mut self, fd: i32) {
        if let Some(place) = self.shown.iter_mut().find(|shown| **shown == fd) {
            *place = -1;
            kernel::delete(self.epoll.raw(), fd);
        }
    }

    pub(super) fn epoll(&self) -> &OwnFd {
        &self.epoll
    }
}

/// Shows that this process holds `fd`. Returns the number to tell, -1 if that is not possible now.
pub(super) fn show(fd: i32) -> i32 {
    with_links(|links| {
        if links.proof.is_none() {
            links.proof = Some(Proof::new()?);
        }
        links.proof.as_mut().ok_or(Errno(libc::EMFILE))?.show(fd)
    })
    .unwrap_or(-1)
}

/// The peer has looked at `fd`, or this process is about to close it; -1: it was closed, unseen. (Where another process goes on
/// with the socket, it would still be shown as this one's.)
pub(crate) fn hide(fd: i32) {
    if is_filtered() {
        return;
    }
    let _ = with_links(|links| {
        if fd < 0 {
            links.proof = None;
        }
        links.proof.iter_mut().for_each(|proof| proof.hide(fd));
        Ok(())
    });
}

/// Whether process `pid` shows by its `number` that it holds the socket with this inode. False says nothing. `socket`: any
/// socket of this process's, as all of them are inodes of one device.
pub(super) fn is_shown(pid: i32, number: i32, inode: u64, socket: &OwnFd) -> bool {
    if number < 0 {
        return false;
    }
    let Ok(stat) = fd::stat(socket.raw()) else { return false };
    // As the kernel numbers it itself.
    let device = u64::from(libc::major(stat.st_dev)) << 20 | u64::from(libc::minor(stat.st_dev));
    let mut path = Text::new();
    let _ = write!(path, "/proc/{pid}/fdinfo/{number}\0");
    let mut text = [0u8; TEXT];
    let Ok(path) = CStr::from_bytes_with_nul(path.as_bytes()) else { return false };
    let Ok(text) = fd::read_file(path, &mut text) else { return false };
    let lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.filter_map(target).any(|target| target == (inode, device))
}

/// Inode and device of what a line of an epoll instance's fdinfo is about. The whole form of the line is asked for: texts that
/// a process can choose, and which other kinds of descriptors show there, have no room for it.
fn target(line: &[u8]) -> Option<(u64, u64)> {
    let mut words = core::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let mut value = |label: &str| -> Option<&str> {
        let word = words.next()?;
        match word.strip_prefix(label)? {
            "" => words.next(),
            value => Some(value),
        }
    };
    value("tfd:")?.parse::<u32>().ok()?;
    u32::from_str_radix(value("events:")?, 16).ok()?;
    u64::from_str_radix(value("data:")?, 16).ok()?;
    value("pos:")?.parse::<i64>().ok()?;
    let inode = u64::from_str_radix(value("ino:")?, 16).ok()?;
    let device = u64::from_str_radix(value("sdev:")?, 16).ok()?;
    (words.next().is_none() && line.len() > 64).then_some((inode, device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsRawFd;

    fn inode(fd: i32) -> u64 {
        fd::stat(fd).unwrap().st_ino
    }

    /// In this process.
    fn is_here(number: i32, inode: u64) -> bool {
        let any = UdpSocket::bind("127.0.0.1:0").unwrap();
        is_shown(std::process::id() as i32, number, inode, &OwnFd::duplicate(any.as_raw_fd()).unwrap())
    }

    #[test]
    fn a_socket_is_shown_until_it_is_closed() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut proof = Proof::new().unwrap();
        let number = proof.show(socket.as_raw_fd()).unwrap();
        let shown = inode(socket.as_raw_fd());
        assert!(is_here(number, shown));
        assert!(!is_here(number, inode(other.as_raw_fd())));
        assert!(!is_here(socket.as_raw_fd(), shown), "not an epoll instance");
        assert!(!is_here(-1, shown));
        proof.hide(socket.as_raw_fd());
        assert!(!is_here(number, shown));
        assert_eq!(proof.show(socket.as_raw_fd()), Ok(number));
        assert!(is_here(number, shown));
        drop(socket);
        assert!(!is_here(number, shown), "it keeps nothing open");
    }

    #[test]
    fn what_is_no_socket_shows_none() {
        let bell = fd::eventfd().unwrap();
        let mut proof = Proof::new().unwrap();
        let number = proof.show(bell.raw()).unwrap();
        assert!(!is_here(number, inode(bell.raw())));
    }

    #[test]
    fn the_last_ones_are_shown_and_all_of_them_fit() {
        let sockets: Vec<UdpSocket> =
            (0..SHOWN + 3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let mut proof = Proof::new().unwrap();
        let mut number = -1;
        for socket in &sockets {
            number = proof.show(socket.as_raw_fd()).unwrap();
        }
        let shown = |socket: &UdpSocket| is_here(number, inode(socket.as_raw_fd()));
        assert!(!sockets[..3].iter().any(shown));
        assert!(sockets[3..].iter().all(shown));
        proof.show(sockets[5].as_raw_fd()).unwrap();
        assert!(sockets[3..].iter().all(shown), "one that is shown already takes nobody's place");
    }

    #[test]
    fn only_whole_lines_of_the_right_form_count() {
        let line = b"tfd:        5 events:       18 data:                0  pos:0 ino:1a2b sdev:8\n";
        assert_eq!(target(line), Some((0x1a2b, 8)));
        for bad in [
            &b"tfd:5 events:18 data:0 pos:0 ino:1a2b sdev:8\n"[..],
            b"tfd:        5 events:       18 data:                0  pos:0 ino:1a2b\n",
            b"tfd:        5 events:       18 data:                0  pos:0 ino:1a2b sdev:8 more\n",
            b"inotify     5 events:       18 data:                0  pos:0 ino:1a2b sdev:8\n",
        ] {
            assert_eq!(target(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
