//! The C interface of `libsmc_rdma.so`, as both sides see it.
//!
//! The library exports one function, [`SYMBOL`]: given [`VERSION`], it returns a [`Table`], or null if it does not have that version.
//! All types are C's; numbers are in host byte order; nothing unwinds out of a function. Results below 0 are negated errnos.
//! A connection is named by a number from [`Table::begin`] until [`Table::close`]; a number that is not known (any more) is EBADF.
//! All functions may be called by several threads at once, none of them waits (but `finish`), and none may be called in a signal
//! handler that has interrupted another.

use core::ffi::CStr;

/// Of this interface. Tables of other versions are not understood.
pub const VERSION: u32 = 3;
/// An [`Entry`].
pub const SYMBOL: &CStr = c"smc_rdma_entry";

/// See [`SYMBOL`].
pub type Entry = unsafe extern "C" fn(version: u32) -> *const Table;

/// What the library asks of whoever loads it.
#[repr(C)]
pub struct Host {
    /// A descriptor number is (1) or no longer is (0) the library's own.
    pub mark_internal: extern "C" fn(fd: i32, on: i32),
    /// A line for the log: level from 1 (error) to 5 (trace), UTF-8 text that is not ended by NUL.
    pub log: unsafe extern "C" fn(level: u32, text: *const u8, length: usize),
    /// Lines above this level are not wanted; 0: none.
    pub log_level: u32,
    /// Of each of the two rings of a connection, in bytes; rounded to what the protocol has (16 KiB to 512 KiB and beyond).
    pub buffer: u32,
    /// Enterprise ids, separated by commas; ASCII that is not ended by NUL.
    pub eids: *const u8,
    pub eids_length: usize,
    /// The name of the one RDMA device to be used; length 0: any.
    pub device: *const u8,
    pub device_length: usize,
    /// The first and the last of the TCP ports on one of which an iWARP device is to listen.
    pub first_port: u16,
    pub last_port: u16,
}

/// In [`Start::flags`]: this end has accepted the connection; else it has opened it.
pub const SERVER: u32 = 1;
/// The TCP connection may not be established yet: the handshake begins when it is, if the peer is capable of SMC.
pub const CONNECTING: u32 = 2;
/// The handshake begins with [`Table::start`], or after a second if no other process holds the claim then.
pub const OFFERED: u32 = 4;
/// It ends on TCP, with the code [`Start::decline`].
pub const DECLINE: u32 = 8;

/// A handshake to run.
#[repr(C)]
pub struct Start {
    /// A TCP socket. The library makes a descriptor of its own for it.
    pub fd: i32,
    pub flags: u32,
    pub decline: u32,
    /// Null, or a word in memory that is never unmapped and shared by all processes that hold the connection: the id of the process whose
    /// handshake it is, 0 before. It is not touched after [`Table::close`].
    pub claim: *const u32,
}

/// What [`Table::begin`] has made.
#[repr(C)]
#[derive(Default, Clone, Copy)]
pub struct Begun {
    pub number: u64,
    /// Eventfds, readable when something asked for by [`Table::want`] has happened, and when the handshake is over.
    pub data: i32,
    pub room: i32,
}

/// In [`Outcome::state`].
pub const UNDER_WAY: u32 = 0;
/// The connection is on SMC-R.
pub const SMC: u32 = 1;
/// It is on TCP, by agreement: CLC has been exchanged, and the next byte is the program's.
pub const TCP: u32 = 2;
/// It is on TCP, and nothing was exchanged: the peer is not capable of SMC, or was not reached.
pub const PLAIN: u32 = 3;
/// Another process has it.
pub const ELSEWHERE: u32 = 4;
/// It is lost, with the errno [`Outcome::code`].
pub const FAILED: u32 = 5;

/// How far a handshake is.
#[repr(C)]
#[derive(Default, Clone, Copy)]
pub struct Outcome {
    pub state: u32,
    /// For [`TCP`]: this side's diagnosis, and the peer's (0: none).
    pub code: u32,
    pub peer_code: u32,
    /// For [`SMC`]: the RDMA device, padded with NUL, and its port.
    pub device: [u8; 16],
    pub port: u32,
}

/// For [`Table::want`]: [`Begun::data`] is to become readable, as an edge (it is not reset), with the next byte or end, whatever is there already.
pub const NEWS: i32 = 1 << 16;
/// The same with the next end: of the peer's stream, of both, of the connection.
pub const ENDS: i32 = 1 << 17;

/// See [`Table::counts`].
#[repr(C)]
#[derive(Default, Clone, Copy)]
pub struct Counts {
    /// Bytes to be read.
    pub unread: u64,
    /// Bytes that were sent and have not reached the peer.
    pub unsent: u64,
    /// Grows with every byte that comes, and with the end of the peer's stream, of both streams, and of the connection.
    pub news: u64,
}

/// A connection that the library has taken from the queue of a listener. See [`Table::accept_begins`].
#[repr(C)]
#[derive(Default, Clone, Copy)]
pub struct Taken {
    /// The library's; to be duplicated, and given back with [`Table::taken`].
    pub fd: i32,
    /// Its handshake; number 0: it is plain TCP.
    pub begun: Begun,
}

/// What the library does.
#[repr(C)]
pub struct Table {
    pub version: u32,
    /// Once in a process, before anything else.
    pub open: unsafe extern "C" fn(host: *const Host) -> i32,
    pub begin: unsafe extern "C" fn(start: *const Start, begun: *mut Begun) -> i32,
    /// An offered handshake begins now.
    pub start: extern "C" fn(number: u64) -> i32,
    pub outcome: unsafe extern "C" fn(number: u64, outcome: *mut Outcome) -> i32,
    /// Takes bytes; 0 at the end of the stream. `into` null: they are dropped.
    pub receive: unsafe extern "C" fn(number: u64, into: *mut u8, length: usize) -> isize,
    /// Copies bytes behind the first `skip` and leaves them there. EAGAIN: there are none yet; ENOBUFS: nor will there be before some are
    /// received, for the ring is full.
    pub peek: unsafe extern "C" fn(number: u64, into: *mut u8, length: usize, skip: usize) -> isize,
    /// Takes as many bytes as there is room for.
    pub send: unsafe extern "C" fn(number: u64, from: *const u8, length: usize) -> isize,
    /// How many that would be.
    pub room: extern "C" fn(number: u64) -> isize,
    /// poll's events, all that are true now.
    pub ready: extern "C" fn(number: u64) -> i32,
    /// Asks for the eventfds for those of `events` (POLLIN, POLLOUT) that are not ready, and resets those; returns the events that are ready.
    /// [`NEWS`] and [`ENDS`] ask for more.
    pub want: extern "C" fn(number: u64, events: i32) -> i32,
    /// For who waits for POLLRDHUP (in `events`), or for POLLHUP or POLLERR, and not for POLLIN: an eventfd that is readable from the time
    /// on when that is so. It stays the library's, until [`Table::close`]. ENOTCONN: the handshake is not over.
    pub ends: extern "C" fn(number: u64, events: i32) -> i32,
    /// For a thread that is about to wait: takes what has come on the connection's link, and tells as [`Table::ready`]. May be repeated for as
    /// long as watching seems better than sleeping.
    pub attend: extern "C" fn(number: u64) -> i32,
    pub counts: unsafe extern "C" fn(number: u64, counts: *mut Counts) -> i32,
    /// The errno with which the connection has ended, 0 if it has not.
    pub error: extern "C" fn(number: u64) -> i32,
    pub shutdown_write: extern "C" fn(number: u64) -> i32,
    /// The program has closed the connection. What it has sent goes out in the background. `cancel` not 0: another process goes on with it,
    /// and a handshake that has not begun is left to that.
    pub close: extern "C" fn(number: u64, cancel: i32) -> i32,
    /// Watches a listening socket whose SYN-ACKs have the SMC option. A peer gives up six seconds after it has got one, so that connections
    /// which nobody accepts for a second are accepted by the library, for the next accept. `begun.data` is an eventfd that is readable while
    /// there are such.
    pub listen: unsafe extern "C" fn(fd: i32, begun: *mut Begun) -> i32,
    /// The program may accept elsewhere (`on` 0), or has come back to this listener (1).
    pub watch: extern "C" fn(number: u64, on: i32) -> i32,
    /// The program is about to accept. 1: it is to have this connection instead of the kernel's next. 0: [`Table::accept_ends`] is due when
    /// the kernel has answered; meanwhile the library takes nothing.
    pub accept_begins: unsafe extern "C" fn(number: u64, taken: *mut Taken) -> i32,
    pub accept_ends: extern "C" fn(number: u64) -> i32,
    /// The descriptor of what was taken has been duplicated.
    pub taken: extern "C" fn(fd: i32) -> i32,
    /// The program listens no more. Connections that it has not accepted are closed.
    pub unlisten: extern "C" fn(number: u64) -> i32,
    /// Closes all connections and waits until the peers have closed them too, for this many nanoseconds at most; ends all links.
    pub finish: extern "C" fn(patience_ns: u64) -> i32,
    /// In a forked child: forgets the parent's connections, without touching them.
    pub forked: extern "C" fn(),
}
