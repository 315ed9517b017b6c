//! Layout of a registry file, shared by the process that writes it and the tools that read it.
//!
//! A file is a [`Header`] and then [`CAPACITY`] [`Entry`]s of [`ENTRY_SIZE`] bytes, in the host's byte order, sparse:
//! pages that no entry has used take no memory. The writing process maps it shared and only stores into it. Readers
//! never map it (the writer's owner could truncate it under them): they copy bytes with pread and decode the copy.
//!
//! Layout changes change [`VERSION`]; readers ignore files of another version.

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::*};

use crate::reason::Why;

/// First eight bytes of a registry file.
pub const MAGIC: [u8; 8] = *b"smc-reg\n";
/// Version of this layout.
pub const VERSION: u32 = 1;
/// Bytes of the header and of each entry.
pub const ENTRY_SIZE: usize = 128;
/// Entries in a file.
pub const CAPACITY: usize = 65_535;
/// Bytes of a file: the header takes the place of one entry, which makes it 8 MiB.
pub const FILE_SIZE: usize = (CAPACITY + 1) * ENTRY_SIZE;

/// What the whole file is about. Written once, with one write, before the file is mapped; only `used` changes.
#[repr(C, align(128))]
pub struct Header {
    pub(super) magic: [u8; 8],
    pub(super) version: u32,
    pub(super) entry_size: u32,
    pub(super) capacity: u32,
    pub(super) pid: i32,
    /// Start time of the process in clock ticks since boot (field 22 of /proc/PID/stat): tells it from another
    /// process that got the same pid later.
    pub(super) start_ticks: u64,
    /// Inode of the pid namespace in which `pid` means something.
    pub(super) pid_ns: u64,
    /// When the file was made, in milliseconds since the epoch.
    pub(super) created_ms: u64,
    /// Effective uid of the process when it made the file.
    pub(super) uid: u32,
    /// One more than the highest entry ever used: how far a reader has to look.
    pub(super) used: AtomicU32,
    /// The process's command name, zero padded.
    pub(super) comm: [u8; 16],
    pub(super) reserved: [u8; 56],
}

/// What a managed socket is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    /// Connected, connecting, or not yet either.
    Connection = 1,
    Listener = 2,
}

/// What carries a connection's stream now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Mode {
    #[default]
    Tcp = 0,
    /// Shared memory on one host.
    Smcd = 1,
    /// RDMA between hosts.
    Smcr = 2,
}

impl Mode {
    /// The name in the tools' output.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Tcp => "TCP",
            Mode::Smcd => "SMCD",
            Mode::Smcr => "SMCR",
        }
    }
}

/// One managed socket of the process. All methods are a few relaxed atomic operations: no system call, no lock,
/// usable in signal handlers.
///
/// Cache lines: what the receiving side changes is in the first, what the sending side changes in the second.
#[repr(C, align(128))]
pub struct Entry {
    /// Bits 1..0: [`FREE`], [`SETUP`] or [`LIVE`]; the rest counts the sockets that had this entry, so that a reader
    /// can tell that an entry changed hands between two looks.
    state: AtomicU32,
    fd: AtomicI32,
    /// [`Why::pack`] with the [`Mode`] in bits 31..24: one word, so that mode and reason always fit each other.
    status: AtomicU64,
    /// The code the peer gave, 0 if none.
    peer_reason: AtomicU32,
    /// How often either direction changed its path.
    switches: AtomicU32,
    /// When this process began to manage the socket, in milliseconds since the epoch.
    since_ms: AtomicU64,
    /// The socket's inode, 0 if nobody asked the kernel: a reader then resolves the fd.
    inode: AtomicU64,
    tcp_rx: AtomicU64,
    ring_rx: AtomicU64,
    kind: AtomicU32,
    /// On SMC-R: [`FAR_KNOWN`], [`FAR_CLIENT`], and the port of the RDMA device in bits 15..8.
    far: AtomicU32,
    tcp_tx: AtomicU64,
    ring_tx: AtomicU64,
    /// Scratch for the writer (see `Writer::page_usable`); the rest reserved.
    scratch: [AtomicU64; 4],
    /// The name of the RDMA device, padded with NUL, as its bytes lie in memory.
    device: [AtomicU64; 2],
}

/// The socket is, or was, on SMC-R.
const FAR_KNOWN: u32 = 1;
/// It is the client's end.
const FAR_CLIENT: u32 = 2;

const FREE: u32 = 0;
const SETUP: u32 = 1;
const LIVE: u32 = 2;
const STATE_BITS: u32 = 2;

const MODE_SHIFT: u32 = 24;
const MODE_MASK: u64 = 0xff << MODE_SHIFT;

const _: () = assert!(core::mem::size_of::<Header>() == ENTRY_SIZE);
const _: () = assert!(core::mem::size_of::<Entry>() == ENTRY_SIZE);

impl Entry {
    /// An unused entry.
    #[allow(clippy::declare_interior_mutable_const)] // the initial value of array elements
    pub(super) const UNUSED: Entry = {
        const ZERO: AtomicU64 = AtomicU64::new(0);
        Entry {
            state: AtomicU32::new(0),
            fd: AtomicI32::new(0),
            status: ZERO,
            peer_reason: AtomicU32::new(0),
            switches: AtomicU32::new(0),
            since_ms: ZERO,
            inode: ZERO,
            tcp_rx: ZERO,
            ring_rx: ZERO,
            kind: AtomicU32::new(0),
            far: AtomicU32::new(0),
            tcp_tx: ZERO,
            ring_tx: ZERO,
            scratch: [ZERO; 4],
            device: [ZERO; 2],
        }
    };

    /// Says which descriptor the socket has, for instance after the one it had was closed and a duplicate remains.
    pub fn set_fd(&self, fd: i32) {
        self.fd.store(fd, Relaxed);
    }

    /// The socket's descriptor.
    pub fn fd(&self) -> i32 {
        self.fd.load(Relaxed)
    }

    /// Turns the entry of a socket that began to listen, or the reverse.
    pub fn set_kind(&self, kind: Kind) {
        self.kind.store(kind as u32, Relaxed);
    }

    /// Tells the socket's inode where the caller knows it: spares readers the look-up, and lets users see sockets
    /// of processes whose descriptors they may not list.
    pub fn set_inode(&self, inode: u64) {
        self.inode.store(inode, Relaxed);
    }

    /// The stream goes over `mode` now; the reason is left alone (readers show it for TCP only).
    pub fn set_mode(&self, mode: Mode) {
        self.update_status(|s| s & !MODE_MASK | (mode as u64) << MODE_SHIFT);
    }

    /// Why the stream is not on SMC.
    pub fn set_why(&self, why: Why) {
        self.update_status(|s| s & MODE_MASK | why.pack());
    }

    /// Mode and reason in one step.
    pub fn set_status(&self, mode: Mode, why: Why) {
        self.status.store(why.pack() | (mode as u64) << MODE_SHIFT, Relaxed);
    }

    /// What carries the stream now.
    pub fn mode(&self) -> Mode {
        decode_mode(self.status.load(Relaxed)).unwrap_or_default()
    }

    /// The recorded reason, [`Why::NONE`] if none was set.
    pub fn why(&self) -> Why {
        Why::unpack(self.status.load(Relaxed) & !MODE_MASK).unwrap_or(Why::NONE)
    }

    /// What is known of a connection on SMC-R: which end it is, the RDMA device and its port.
    pub fn set_far(&self, client: bool, device: &[u8; 16], port: u32) {
        for (word, bytes) in self.device.iter().zip(device.chunks_exact(8)) {
            word.store(u64::from_ne_bytes(bytes.try_into().unwrap_or_default()), Relaxed);
        }
        let role = if client { FAR_CLIENT } else { 0 };
        self.far.store(FAR_KNOWN | role | (port & 0xff) << 8, Relaxed);
    }

    /// The reason code that the peer gave.
    pub fn set_peer_reason(&self, code: u32) {
        self.peer_reason.store(code, Relaxed);
    }

    /// The peer's code, 0 if it gave none.
    pub fn peer_reason(&self) -> u32 {
        self.peer_reason.load(Relaxed)
    }

    /// Counts `n` more bytes that the program received from TCP. Callable from several threads at once.
    #[inline]
    pub fn add_tcp_rx(&self, n: u64) {
        self.tcp_rx.fetch_add(n, Relaxed);
    }

    /// Counts `n` more bytes that the program sent over TCP. Callable from several threads at once.
    #[inline]
    pub fn add_tcp_tx(&self, n: u64) {
        self.tcp_tx.fetch_add(n, Relaxed);
    }

    /// Counts `n` more bytes that the program received from the ring. Cheaper than a locked addition because only
    /// one thread may be in here for one socket at a time: whoever holds the ring's receiving side.
    #[inline]
    pub fn add_ring_rx(&self, n: u64) {
        self.ring_rx.store(self.ring_rx.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Counts `n` more bytes that the program sent into the ring. One thread at a time, see
    /// [`Entry::add_ring_rx`]: whoever holds the ring's sending side.
    #[inline]
    pub fn add_ring_tx(&self, n: u64) {
        self.ring_tx.store(self.ring_tx.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Bytes that the program sent into the ring and received from it.
    pub fn ring_bytes(&self) -> u64 {
        self.ring_rx.load(Relaxed).saturating_add(self.ring_tx.load(Relaxed))
    }

    /// Counts one change of path of either direction.
    pub fn add_switch(&self) {
        self.switches.fetch_add(1, Relaxed);
    }

    /// What the entry says now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            state: self.state.load(Relaxed),
            fd: self.fd.load(Relaxed),
            status: self.status.load(Relaxed),
            peer_reason: self.peer_reason.load(Relaxed),
            switches: self.switches.load(Relaxed),
            since_ms: self.since_ms.load(Relaxed),
            inode: self.inode.load(Relaxed),
            tcp_rx: self.tcp_rx.load(Relaxed),
            ring_rx: self.ring_rx.load(Relaxed),
            kind: self.kind.load(Relaxed),
            tcp_tx: self.tcp_tx.load(Relaxed),
            ring_tx: self.ring_tx.load(Relaxed),
            far: self.far.load(Relaxed),
            device: [self.device[0].load(Relaxed), self.device[1].load(Relaxed)],
        }
    }

    /// Gives the entry to a new socket. The caller alone owns the entry.
    pub(super) fn begin(&self, fd: i32, kind: Kind, now_ms: u64) {
        let generation = (self.state.load(Relaxed) >> STATE_BITS).wrapping_add(1) << STATE_BITS;
        // A reader that sees any of the fields below sees this too, at the latest in its second look.
        self.state.store(generation | SETUP, Relaxed);
        core::sync::atomic::fence(Release);
        self.fd.store(fd, Relaxed);
        self.status.store(0, Relaxed);
        self.peer_reason.store(0, Relaxed);
        self.switches.store(0, Relaxed);
        self.since_ms.store(now_ms, Relaxed);
        self.inode.store(0, Relaxed);
        self.tcp_rx.store(0, Relaxed);
        self.ring_rx.store(0, Relaxed);
        self.kind.store(kind as u32, Relaxed);
        self.tcp_tx.store(0, Relaxed);
        self.ring_tx.store(0, Relaxed);
        self.far.store(0, Relaxed);
        self.state.store(generation | LIVE, Release);
    }

    /// The socket is gone. The caller alone owns the entry.
    pub(super) fn end(&self) {
        self.state.store(self.state.load(Relaxed) & !3 | FREE, Release);
    }

    /// Memory in the entry's page that readers ignore.
    pub(super) fn scratch(&self) -> *mut u64 {
        self.scratch.as_ptr() as *mut u64
    }

    fn update_status(&self, f: impl Fn(u64) -> u64) {
        let _ = self.status.fetch_update(Relaxed, Relaxed, |s| Some(f(s)));
    }
}

/// A copy of an entry. From a file it is unchecked: any field may hold anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    state: u32,
    pub fd: i32,
    status: u64,
    pub peer_reason: u32,
    pub switches: u32,
    pub since_ms: u64,
    pub inode: u64,
    pub tcp_rx: u64,
    pub ring_rx: u64,
    kind: u32,
    pub tcp_tx: u64,
    pub ring_tx: u64,
    far: u32,
    device: [u64; 2],
}

impl Snapshot {
    /// Decodes the bytes of an entry.
    pub(super) fn decode(b: &[u8; ENTRY_SIZE]) -> Snapshot {
        Snapshot {
            state: u32_at(b, 0),
            fd: u32_at(b, 4) as i32,
            status: u64_at(b, 8),
            peer_reason: u32_at(b, 16),
            switches: u32_at(b, 20),
            since_ms: u64_at(b, 24),
            inode: u64_at(b, 32),
            tcp_rx: u64_at(b, 40),
            ring_rx: u64_at(b, 48),
            kind: u32_at(b, 56),
            tcp_tx: u64_at(b, 64),
            ring_tx: u64_at(b, 72),
            far: u32_at(b, 60),
            device: [u64_at(b, 112), u64_at(b, 120)],
        }
    }

    /// Whether a socket had the entry at the time.
    pub fn is_live(&self) -> bool {
        self.state & 3 == LIVE
    }

    /// Whether `later` is about the same socket.
    pub fn same_socket(&self, later: &Snapshot) -> bool {
        self.state == later.state
    }

    /// For a connection that is or was on SMC-R: whether it is the client's end, and the RDMA device with its port, as `rxe0/1`.
    pub fn far(&self) -> Option<(bool, String)> {
        if self.far & FAR_KNOWN == 0 {
            return None;
        }
        let bytes: Vec<u8> = self.device.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let name: String = String::from_utf8_lossy(name).chars().filter(|c| c.is_ascii_graphic()).collect();
        Some((self.far & FAR_CLIENT != 0, format!("{name}/{}", self.far >> 8 & 0xff)))
    }

    /// What the socket is, `None` for a number this version does not know.
    pub fn kind(&self) -> Option<Kind> {
        match self.kind {
            1 => Some(Kind::Connection),
            2 => Some(Kind::Listener),
            _ => None,
        }
    }

    /// What carried the stream, `None` for a number this version does not know.
    pub fn mode(&self) -> Option<Mode> {
        decode_mode(self.status)
    }

    /// The reason code, which may be one this version does not know.
    pub fn reason_code(&self) -> u32 {
        (self.status >> 32) as u32
    }

    /// The reason with its detail, `None` where this version does not know one of them.
    pub fn why(&self) -> Option<Why> {
        Why::unpack(self.status & !MODE_MASK)
    }
}

/// A decoded header. Unchecked beyond magic, version and sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HeaderSnapshot {
    pub pid: i32,
    pub start_ticks: u64,
    pub pid_ns: u64,
    pub created_ms: u64,
    pub used: usize,
    pub comm: [u8; 16],
}

impl HeaderSnapshot {
    /// Decodes the bytes of a header; `None` if it is not one of this version.
    pub fn decode(b: &[u8; ENTRY_SIZE]) -> Option<HeaderSnapshot> {
        let ours = b[..8] == MAGIC
            && u32_at(b, 8) == VERSION
            && u32_at(b, 12) as usize == ENTRY_SIZE
            && u32_at(b, 16) as usize == CAPACITY;
        let used = u32_at(b, 52) as usize;
        if !ours || used > CAPACITY {
            return None;
        }
        let mut comm = [0; 16];
        comm.copy_from_slice(&b[56..72]);
        Some(HeaderSnapshot {
            pid: u32_at(b, 20) as i32,
            start_ticks: u64_at(b, 24),
            pid_ns: u64_at(b, 32),
            created_ms: u64_at(b, 40),
            used,
            comm,
        })
    }
}

fn decode_mode(status: u64) -> Option<Mode> {
    match (status & MODE_MASK) >> MODE_SHIFT {
        0 => Some(Mode::Tcp),
        1 => Some(Mode::Smcd),
        2 => Some(Mode::Smcr),
        _ => None,
    }
}

fn u32_at(b: &[u8; ENTRY_SIZE], at: usize) -> u32 {
    let mut v = [0; 4];
    v.copy_from_slice(&b[at..at + 4]);
    u32::from_ne_bytes(v)
}

fn u64_at(b: &[u8; ENTRY_SIZE], at: usize) -> u64 {
    let mut v = [0; 8];
    v.copy_from_slice(&b[at..at + 8]);
    u64::from_ne_bytes(v)
}
