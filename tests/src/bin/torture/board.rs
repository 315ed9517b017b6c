//! Memory shared by the two ends and the process that watches them: what the ends agree on beside the connections,
//! so that the streams themselves need no framing, and what is printed when nothing moves any more.

use smc_tests::sys;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const PORTS: usize = 1 << 16;

/// Where one direction of a connection stands.
#[derive(Default)]
#[repr(C)]
pub struct Direction {
    /// Bytes that the sender's calls have returned for.
    pub sent: AtomicU64,
    /// Bytes that the receiver has checked.
    pub received: AtomicU64,
    /// 1: all sent; 2: and shut down or closed.
    pub sender_done: AtomicU32,
    /// 1: all received; 2: and, where one is due, the end of the stream seen.
    pub receiver_done: AtomicU32,
}

#[repr(C)]
pub struct Head {
    /// Grows with each call that moved something.
    pub progress: AtomicU64,
    /// Connection + 1 that the client opened from this port; IPv4 (mapped too) and IPv6 have port spaces of their own.
    ports: [[AtomicU32; PORTS]; 2],
}

pub struct Board {
    base: *const Head,
    connections: usize,
}

// SAFETY: the mapping stays for the life of the process and holds atomics only.
unsafe impl Send for Board {}
// SAFETY: as for Send.
unsafe impl Sync for Board {}

impl Board {
    fn size(connections: usize) -> usize {
        std::mem::size_of::<Head>() + connections * 2 * std::mem::size_of::<Direction>()
    }

    /// A fresh board of zeros and the descriptor by which other processes map it.
    pub fn create(connections: usize) -> (Board, RawFd) {
        let fd = sys::memfd();
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::ftruncate(fd, Self::size(connections) as i64) }, 0, "ftruncate");
        (Board::open(fd, connections), fd)
    }

    /// Maps the board behind `fd`, made for as many connections.
    pub fn open(fd: RawFd, connections: usize) -> Board {
        let size = Self::size(connections);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, access, libc::MAP_SHARED, fd, 0) };
        assert_ne!(base, libc::MAP_FAILED, "mmap of the board: {}", sys::errno_name(sys::errno()));
        Board { base: base.cast(), connections }
    }

    fn head(&self) -> &Head {
        // SAFETY: `open` mapped at least a Head, page aligned, for the life of the process; atomics may be shared.
        unsafe { &*self.base }
    }

    pub fn direction(&self, connection: u32, direction: u32) -> &Direction {
        let index = connection as usize * 2 + direction as usize;
        assert!(index < self.connections * 2, "connection {connection} of {}", self.connections);
        // SAFETY: the mapping holds 2 * connections Directions behind the Head, whose size is a multiple of 8.
        unsafe { &*self.base.add(1).cast::<Direction>().add(index) }
    }

    pub fn progress(&self) {
        self.head().progress.fetch_add(1, Ordering::Relaxed);
    }

    pub fn progress_so_far(&self) -> u64 {
        self.head().progress.load(Ordering::Relaxed)
    }

    fn port(&self, address: &sys::Address) -> &AtomicU32 {
        &self.head().ports[usize::from(address.is_ipv4())][usize::from(address.port())]
    }

    /// The client tells which connection has this local address.
    pub fn announce(&self, local: &sys::Address, connection: u32) {
        let before = self.port(local).swap(connection + 1, Ordering::Release);
        assert_eq!(before, 0, "port {} is in use twice", local.port());
    }

    /// The server asks which connection comes from this address. The client announces it right after its connect
    /// call, which may be after our accept.
    pub fn claim(&self, peer: &sys::Address) -> u32 {
        loop {
            match self.port(peer).swap(0, Ordering::Acquire) {
                0 => std::thread::yield_now(),
                connection => return connection - 1,
            }
        }
    }

    /// A line for each connection that is not through.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for connection in 0..self.connections as u32 {
            let lines = [0, 1].map(|direction| {
                let d = self.direction(connection, direction);
                let (sent, received) = (d.sent.load(Ordering::Relaxed), d.received.load(Ordering::Relaxed));
                let sender =
                    ["sending", "sent all", "closed"][d.sender_done.load(Ordering::Relaxed).min(2) as usize];
                let receiver = ["receiving", "received all", "saw the end"]
                    [d.receiver_done.load(Ordering::Relaxed).min(2) as usize];
                let done = sender == "closed" && receiver == "saw the end";
                (done, format!("{sent} sent, {received} received, {sender}, {receiver}"))
            });
            if !(lines[0].0 && lines[1].0) {
                text += &format!("  connection {connection}: there: {}; back: {}\n", lines[0].1, lines[1].1);
            }
        }
        text
    }
}
