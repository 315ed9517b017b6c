//! Socket options of Conn, Tcp and Listener: what the table in [`smc_core::options`] says of each.
//!
//! The call always reaches the TCP socket with the program's own arguments; TCP's answer is the program's. Before it, a
//! connection that has moved may have to go back; after it, the engine is told what TCP has accepted.

use super::life::back_to_tcp;
use super::open::pin;
use super::stream;
use crate::fd_table::{self, Entry};
use crate::{errno, guard, real};
use libc::{c_int, c_void, socklen_t};
use smc_core::conn::{Conn, Way};
use smc_core::listener;
use smc_core::options::{self, After, Before, Class, Row};
use smc_core::reason::Detail;
use smc_core::sys::{diag, fd as descriptor, sock, Errno};

/// The longest option value that is looked at: `struct tcp_md5sig` needs 132 bytes.
const LONGEST: usize = 256;

/// The bytes of an option's value. Looked at only after TCP has read them, or where it would read them as well.
unsafe fn bytes<'a>(value: *const c_void, len: socklen_t) -> &'a [u8] {
    if value.is_null() {
        return &[];
    }
    unsafe { core::slice::from_raw_parts(value.cast(), (len as usize).min(LONGEST)) }
}

fn fail(error: c_int) -> c_int {
    errno::set(error);
    -1
}

pub unsafe extern "C" fn setsockopt(
    fd: c_int,
    entry: Entry,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    let row = options::find(level, name);
    let pass = || unsafe { real::setsockopt(fd, level, name, value, len) };
    match (entry, row.class) {
        (Entry::Conn(conn), Class::N) => unsafe { set_on_connection(conn, fd, row, value, len, pass) },
        (Entry::Conn(conn), _) => {
            let ret = pass();
            if ret == 0 && row.after == After::Apply {
                applied(conn, fd, level, name);
            }
            ret
        }
        (Entry::Listener(_), Class::N) => match row.on_listener() {
            Err(error) => fail(error),
            Ok(before) => unsafe { set_on_socket(fd, row, before, value, len, pass) },
        },
        (_, Class::N) => unsafe { set_on_socket(fd, row, row.before, value, len, pass) },
        _ => pass(),
    }
}

/// An N option of a socket that is not connected.
unsafe fn set_on_socket(
    fd: c_int,
    row: &Row,
    before: Before,
    value: *const c_void,
    len: socklen_t,
    pass: impl Fn() -> c_int,
) -> c_int {
    let ret = pass();
    let (Before::StaysTcp(when), Some(detail)) = (before, row.detail) else { return ret };
    let accepted = ret == 0;
    // A value that TCP has not accepted may be no memory at all.
    let value = if accepted { unsafe { bytes(value, len) } } else { &[] };
    if when.applies(value, accepted) {
        let saved = errno::get();
        stays_on_tcp(fd, detail);
        errno::set(saved);
    }
    ret
}

/// Notes it for every descriptor of the socket.
extern "C" fn stays_on_tcp(fd: c_int, detail: Detail) {
    guard::protect((), || {
        let identity = |fd| descriptor::stat(fd).map(|st| (st.st_dev, st.st_ino));
        let socket = identity(fd);
        fd_table::for_each(0, u32::MAX, |other, entry| {
            let same = || other == fd || (socket.is_ok() && identity(other) == socket);
            match entry {
                Entry::Tcp(None) if same() => {
                    fd_table::replace_if(other, entry, Entry::Tcp(Some(detail)));
                }
                Entry::Listener(None) if same() => {
                    fd_table::replace_if(other, entry, Entry::Listener(Some(detail)));
                    listener::stays_on_tcp(other, detail);
                }
                _ => {}
            }
            true
        });
    });
}

/// An N option of a connection.
unsafe fn set_on_connection(
    conn: &'static Conn,
    fd: c_int,
    row: &Row,
    value: *const c_void,
    len: socklen_t,
    pass: impl Fn() -> c_int,
) -> c_int {
    let Some(detail) = row.detail else { return pass() };
    let generation = conn.generation();
    // It must not move while TCP takes the option.
    conn.hold();
    let ret = match conn.is_attached() {
        true => unsafe { set_on_moved(conn, fd, row, detail, value, len, pass) },
        false => unsafe { set_on_native(conn, fd, row, detail, value, len, pass) },
    };
    let saved = errno::get();
    conn.release(generation);
    errno::set(saved);
    ret
}

unsafe fn set_on_native(
    conn: &'static Conn,
    fd: c_int,
    row: &Row,
    detail: Detail,
    value: *const c_void,
    len: socklen_t,
    pass: impl Fn() -> c_int,
) -> c_int {
    let may_move = !conn.is_pinned();
    if let (Err(error), true) = (row.on_listener(), may_move) {
        if is_connected_here(conn, fd) {
            return fail(error);
        }
    }
    let ret = pass();
    let saved = errno::get();
    if let (Before::StaysTcp(when), true) = (row.before, may_move) {
        let accepted = ret == 0;
        let value = if accepted { unsafe { bytes(value, len) } } else { &[] };
        if when.applies(value, accepted) {
            pin(conn, detail);
        }
    }
    errno::set(saved);
    ret
}

/// Whether the socket is connected to one on this host, so that the connection may move. One to another host never will;
/// it is kept on TCP from now on.
extern "C" fn is_connected_here(conn: &'static Conn, fd: c_int) -> bool {
    guard::protect(true, || match (sock::local(fd), sock::peer(fd)) {
        (Ok(local), Ok(peer)) => {
            let remote = diag::tcp_owner(&peer, &local).err() == Some(Errno(libc::ENOENT));
            if remote {
                conn.pin(Detail::PeerRemote.into());
            }
            !remote
        }
        _ => false,
    })
}

unsafe fn set_on_moved(
    conn: &'static Conn,
    fd: c_int,
    row: &Row,
    detail: Detail,
    value: *const c_void,
    len: socklen_t,
    pass: impl Fn() -> c_int,
) -> c_int {
    match row.after {
        After::Fails(error) => fail(error),
        After::Returns(when) if when.applies(unsafe { bytes(value, len) }, true) => {
            match unsafe { back_to_tcp(conn, fd, detail) } {
                true => pass(),
                false => fail(libc::EOPNOTSUPP),
            }
        }
        After::TcpDecides => {
            let ret = pass();
            if ret == 0 {
                pin(conn, detail);
            }
            ret
        }
        _ => pass(),
    }
}

/// TCP has accepted an option that the engine acts on as well.
extern "C" fn applied(conn: &'static Conn, fd: c_int, level: c_int, name: c_int) {
    let saved = errno::get();
    guard::protect((), || match (level, name) {
        (libc::SOL_SOCKET, libc::SO_RCVLOWAT) => conn.low_water_changed(fd),
        (libc::IPPROTO_TCP, libc::TCP_CORK) => conn.cork_changed(fd),
        (libc::IPPROTO_TCP, libc::TCP_NODELAY) => conn.no_delay_changed(fd),
        // Timeouts are read when a call first has to wait.
        _ => {}
    });
    errno::set(saved);
}

pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    entry: Entry,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    match (entry, level, name) {
        (Entry::Conn(conn), libc::IPPROTO_TCP, options::TCP_ZEROCOPY_RECEIVE) => unsafe {
            zerocopy_receive(conn, fd, value, len)
        },
        (Entry::Conn(conn), libc::SOL_SOCKET, libc::SO_ERROR) => unsafe { error(conn, fd, value, len) },
        _ => unsafe { real::getsockopt(fd, level, name, value, len) },
    }
}

/// SO_ERROR: TCP's error, else the one that the engine took from TCP and has not told yet.
unsafe fn error(conn: &'static Conn, fd: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int {
    let ret = unsafe { real::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, value, len) };
    if ret == 0 && conn.is_attached() && unsafe { *len as usize } >= size_of::<c_int>() {
        let place = value.cast::<c_int>();
        if unsafe { place.read_unaligned() } == 0 {
            unsafe { place.write_unaligned(conn.take_error()) };
        }
    }
    ret
}

/// `struct tcp_zerocopy_receive` (include/uapi/linux/tcp.h) as far as it is used here; programs may pass less.
#[repr(C)]
#[derive(Clone, Copy)]
struct ZerocopyReceive {
    address: u64,
    /// In: bytes to map. Out: bytes mapped.
    length: u32,
    /// Out: bytes to be read by recv.
    recv_skip_hint: u32,
    inq: u32,
    err: i32,
    copybuf_address: u64,
    /// In: room for bytes to be copied. Out: bytes copied.
    copybuf_len: i32,
}

const ZEROCOPY_LEN: usize = core::mem::offset_of!(ZerocopyReceive, copybuf_len) + size_of::<i32>();
const ZEROCOPY_LEAST: usize = core::mem::offset_of!(ZerocopyReceive, inq);

/// TCP_ZEROCOPY_RECEIVE takes bytes out of the kernel's queue. On a connection that has moved, nothing can be mapped: the
/// answer says how much there is for recv.
unsafe fn zerocopy_receive(conn: &'static Conn, fd: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int {
    let pass =
        || unsafe { real::getsockopt(fd, libc::IPPROTO_TCP, options::TCP_ZEROCOPY_RECEIVE, value, len) };
    if value.is_null() || len.is_null() || (unsafe { *len } as usize) < ZEROCOPY_LEAST {
        return pass();
    }
    let generation = conn.generation();
    if stream::native(conn, Way::Rx, generation, fd) {
        let ret = pass();
        let taken = if ret == 0 { unsafe { taken(value, *len as usize) } } else { 0 };
        stream::native_done(conn, Way::Rx, generation, taken);
        return ret;
    }
    let readable = stream::readable(conn, fd);
    let given = unsafe { *len as usize }.min(ZEROCOPY_LEN);
    unsafe {
        let mut answer: ZerocopyReceive = core::mem::zeroed();
        core::ptr::copy_nonoverlapping(value.cast::<u8>(), (&raw mut answer).cast(), given);
        answer = ZerocopyReceive {
            length: 0,
            recv_skip_hint: readable,
            inq: readable,
            err: 0,
            copybuf_len: 0,
            ..answer
        };
        core::ptr::copy_nonoverlapping((&raw const answer).cast::<u8>(), value.cast(), given);
    }
    0
}

/// Bytes of the stream that a successful call has taken.
unsafe fn taken(value: *const c_void, len: usize) -> isize {
    unsafe {
        let mut answer: ZerocopyReceive = core::mem::zeroed();
        core::ptr::copy_nonoverlapping(value.cast::<u8>(), (&raw mut answer).cast(), len.min(ZEROCOPY_LEN));
        answer.length as isize + answer.copybuf_len.max(0) as isize
    }
}
