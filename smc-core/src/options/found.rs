//! Options that only TCP serves, found on a descriptor that nobody was seen to set them on: it came from another program,
//! or they were set by a raw system call. MD5 keys and a fast-open key cannot be read back.

use super::{Level, Row};
use crate::sys::sock;

/// Options of a connection, by level and number, with the least value that switches them on.
const OF_CONNECTION: &[(Level, i32, i32)] = &[
    (Level::Tcp, libc::TCP_FASTOPEN_CONNECT, 1),
    (Level::Tcp, libc::TCP_FASTOPEN_NO_COOKIE, 1),
    (Level::Tcp, libc::TCP_REPAIR, 1),
    (Level::Socket, libc::SO_ZEROCOPY, 1),
    (Level::Socket, super::SO_PEEK_OFF, 0),
];

/// Those of a listener that make TCP connections behave differently. What accepted sockets inherit is found on them.
const OF_LISTENER: &[(Level, i32, i32)] =
    &[(Level::Tcp, libc::TCP_FASTOPEN, 1), (Level::Tcp, libc::TCP_FASTOPEN_NO_COOKIE, 1)];

/// The first option found on a connection, other than TCP_ULP.
pub fn on_connection(fd: i32) -> Option<&'static Row> {
    first_of(OF_CONNECTION, fd)
}

pub fn on_listener(fd: i32) -> Option<&'static Row> {
    first_of(OF_LISTENER, fd)
}

fn first_of(list: &[(Level, i32, i32)], fd: i32) -> Option<&'static Row> {
    let set = |(level, number, least): &&(Level, i32, i32)| {
        sock::int_option(fd, level.number(), *number).is_ok_and(|value| value >= *least)
    };
    list.iter().find(set).map(|(level, number, _)| super::find(level.number(), *number))
}

/// Whether an upper layer (kernel TLS) sits on the socket.
pub fn has_ulp(fd: i32) -> bool {
    let mut name = [0u8; 16];
    let mut len = name.len() as u32;
    // SAFETY: the kernel writes at most `len` bytes.
    let got = unsafe {
        sys!(SYS_getsockopt, fd, libc::IPPROTO_TCP, super::TCP_ULP, name.as_mut_ptr(), &mut len as *mut u32)
    };
    got.is_ok() && len > 0 && name[0] != 0
}
