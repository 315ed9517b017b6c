//! What each option is set to, and which answers are different every time.

use smc_core::options::{Level, Row};

fn int(value: i32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

/// The bytes of a value that is plain data.
fn plain<T: Copy>(value: &T) -> Vec<u8> {
    // SAFETY: plain data without padding, alive for the call.
    unsafe { std::slice::from_raw_parts((value as *const T).cast::<u8>(), size_of::<T>()) }.to_vec()
}

/// A filter that keeps everything. It points at a program that lives for ever.
fn filter() -> Vec<u8> {
    #[repr(transparent)]
    struct Program(libc::sock_filter);
    // SAFETY: never written to; only the kernel reads it.
    unsafe impl Sync for Program {}
    /// BPF_RET | BPF_K: keep so many bytes.
    static KEEP: Program = Program(libc::sock_filter { code: 6, jt: 0, jf: 0, k: u32::MAX });
    let program = libc::sock_fprog { len: 1, filter: &raw const KEEP.0 as *mut _ };
    let mut bytes = vec![0; size_of::<libc::sock_fprog>()];
    let at = std::mem::offset_of!(libc::sock_fprog, filter);
    bytes[..2].copy_from_slice(&program.len.to_ne_bytes());
    bytes[at..].copy_from_slice(&(program.filter as usize).to_ne_bytes());
    bytes
}

/// `struct tcp_md5sig` with a key of four bytes for an address that nobody here has.
fn md5_key() -> Vec<u8> {
    let mut value = vec![0; 128];
    value[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    value[4..8].copy_from_slice(&[127, 0, 0, 99]);
    value.extend([0, 0]);
    value.extend(4u16.to_ne_bytes());
    value.extend(0u32.to_ne_bytes());
    value.extend([7; 80]);
    value
}

/// A value that switches the option on.
pub fn value(row: &Row, number: i32) -> Vec<u8> {
    let seconds = |s: i64| plain(&libc::timeval { tv_sec: s, tv_usec: 0 });
    match (row.level, number) {
        (Level::Socket, 7 | 8 | 32 | 33) => int(50_000),
        (Level::Socket, libc::SO_PRIORITY) => int(3),
        (Level::Socket, libc::SO_LINGER) => plain(&libc::linger { l_onoff: 1, l_linger: 5 }),
        (Level::Socket, libc::SO_RCVLOWAT) => int(1000),
        (Level::Socket, 20 | 21 | 66 | 67) => seconds(5),
        (Level::Socket, libc::SO_BINDTODEVICE) => b"lo\0".to_vec(),
        (Level::Socket, 26 | 51) => filter(),
        (Level::Socket, 50 | 52) => int(-1),
        (Level::Socket, libc::SO_MARK) => int(5),
        (Level::Socket, 37 | 65) => int(0x10),
        (Level::Socket, 42 | 49) => int(0),
        (Level::Socket, libc::SO_BUSY_POLL) => int(50),
        (Level::Socket, 47) => int(1 << 30),
        (Level::Socket, 61) => [int(libc::CLOCK_MONOTONIC), int(0)].concat(),
        (Level::Socket, 72) => int(3),
        (Level::Socket, 73) => int(4096),
        (Level::Socket, 80) => vec![0; 8],
        (Level::Tcp, libc::TCP_MAXSEG) => int(1000),
        (Level::Tcp, libc::TCP_KEEPIDLE) => int(30),
        (Level::Tcp, 5..=7) => int(3),
        (Level::Tcp, 8 | 9) => int(10),
        (Level::Tcp, libc::TCP_WINDOW_CLAMP) => int(100_000),
        (Level::Tcp, libc::TCP_CONGESTION) => b"reno".to_vec(),
        (Level::Tcp, 14 | 32) => md5_key(),
        (Level::Tcp, libc::TCP_USER_TIMEOUT) => int(30_000),
        (Level::Tcp, libc::TCP_REPAIR_OPTIONS) => vec![0; 8],
        (Level::Tcp, libc::TCP_FASTOPEN) => int(5),
        (Level::Tcp, libc::TCP_NOTSENT_LOWAT) => int(100_000),
        (Level::Tcp, 29) => vec![0; 20],
        (Level::Tcp, smc_core::options::TCP_ULP) => b"tls".to_vec(),
        (Level::Tcp, 33) => vec![9; 16],
        (Level::Tcp, 37) => int(100),
        (Level::Ip, 1) => int(0x10),
        (Level::Ip, 2) => int(60),
        (Level::Ip, 4) => vec![1, 1, 1, 0],
        (Level::Ip, 51) => 0xea60_c350u32.to_ne_bytes().to_vec(),
        (Level::Ipv6, 16) => int(60),
        (Level::Ipv6, 67) => int(0x10),
        (Level::Ipv6, 24) => int(1400),
        (Level::Ipv6, 72) => int(2),
        _ => int(1),
    }
}

/// A value with which bytes flow without delay again, where [`value`] stops them.
pub fn undo(row: &Row, number: i32) -> Option<Vec<u8>> {
    match (row.level, number) {
        (Level::Tcp, libc::TCP_CORK) => Some(int(0)),
        // TCP_REPAIR_OFF_NO_WP
        (Level::Tcp, libc::TCP_REPAIR) => Some(int(-1)),
        _ => None,
    }
}

/// Numbers to stand for a row: its own, or some that no row of the level names.
pub fn numbers(row: &Row) -> Vec<i32> {
    match row.level {
        _ if !row.numbers.is_empty() => row.numbers.to_vec(),
        Level::Socket | Level::Ip | Level::Ipv6 => vec![200, 0, -1],
        Level::Tcp => vec![200, 0],
        Level::Smc | Level::Other => vec![2],
        Level::Tls => vec![1, 2],
    }
}

/// How much of an answer can be compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    All,
    /// The value differs from socket to socket, or with what has happened to it.
    Length,
    /// Only before the option is set.
    LengthAtFirst,
}

pub fn compared(row: &Row, number: i32) -> Compared {
    match (row.level, number) {
        // Buffers that nobody has chosen grow with use.
        (Level::Socket, 7 | 8 | 32 | 33) | (Level::Tcp, libc::TCP_WINDOW_CLAMP) => Compared::LengthAtFirst,
        // SO_PEERNAME, SO_INCOMING_CPU, SO_MEMINFO, SO_INCOMING_NAPI_ID, SO_COOKIE
        (Level::Socket, 28 | 49 | 55 | 56 | 57) => Compared::Length,
        // TCP_MAXSEG follows the path; TCP_QUICKACK the traffic; the others measure.
        (Level::Tcp, 2 | 11 | 12 | 24 | 26 | 28) => Compared::Length,
        _ => Compared::All,
    }
}
