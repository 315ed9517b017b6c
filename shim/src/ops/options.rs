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
use smc_core::options::{self, After, Before, Class, Row, When};
use smc_core::reason::Detail;
use smc_core::sys::{diag, fd as descriptor, sock, Errno};

/// The longest option value that is looked at: `struct tcp_md5sig` needs 132 bytes.
const LONGEST: usize = 256;

fn fail(error: c_int) -> c_int {
    errno::set(error);
    -1
}

/// A call, as the program made it.
#[derive(Clone, Copy)]
struct Call {
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
}

impl Call {
    #[inline(always)]
    unsafe fn pass(self) -> c_int {
        unsafe { real::setsockopt(self.fd, self.level, self.name, self.value, self.len) }
    }
}

extern "C" fn row_of(level: c_int, name: c_int) -> &'static Row {
    options::find(level, name)
}

/// See [`Row::on_listener`]; 0 where it does not fail.
extern "C" fn error_on_listener(row: &'static Row) -> c_int {
    row.on_listener().err().unwrap_or(0)
}

/// See [`When::applies`]. The value is looked at only if TCP has read it (`accepted`), or would read it as well.
unsafe extern "C" fn applies(when: When, call: &Call, accepted: bool) -> bool {
    let len = if accepted && !call.value.is_null() { (call.len as usize).min(LONGEST) } else { 0 };
    let value = match len {
        0 => &[],
        len => unsafe { core::slice::from_raw_parts(call.value.cast::<u8>(), len) },
    };
    when.applies(value, accepted)
}

pub unsafe extern "C" fn setsockopt(
    fd: c_int,
    entry: Entry,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    let row = row_of(level, name);
    let call = Call { fd, level, name, value, len };
    match (entry, row.class) {
        (Entry::Conn(conn), Class::N) => unsafe { set_on_connection(conn, row, call) },
        (Entry::Conn(conn), _) => {
            let ret = unsafe { call.pass() };
            if ret == 0 && row.after == After::Apply {
                unsafe { applied(conn, &call) };
            }
            ret
        }
        (Entry::Listener(_), Class::N) => match error_on_listener(row) {
            0 => unsafe { set_on_socket(row, call) },
            error => fail(error),
        },
        (_, Class::N) => unsafe { set_on_socket(row, call) },
        _ => unsafe { call.pass() },
    }
}

/// An N option of a socket that is not connected.
unsafe extern "C" fn set_on_socket(row: &'static Row, call: Call) -> c_int {
    let ret = unsafe { call.pass() };
    if let (Before::StaysTcp(when), Some(detail)) = (row.before, row.detail) {
        let saved = errno::get();
        if unsafe { applies(when, &call, ret == 0) } {
            stays_on_tcp(call.fd, detail);
        }
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
unsafe extern "C" fn set_on_connection(conn: &'static Conn, row: &'static Row, call: Call) -> c_int {
    let Some(detail) = row.detail else { return unsafe { call.pass() } };
    if conn.is_far() && !may_still_decline(conn, call.fd) {
        // The option would act on a TCP connection that carries nothing: encrypt what is not sent there, for one.
        let harmless = matches!(row.before, Before::StaysTcp(when) if !unsafe { applies(when, &call, true) });
        return if harmless { unsafe { call.pass() } } else { fail(libc::EOPNOTSUPP) };
    }
    let generation = conn.generation();
    // It must not move while TCP takes the option.
    conn.hold();
    let ret = match conn.is_attached() {
        true => unsafe { set_on_moved(conn, row, detail, call) },
        false => unsafe { set_on_native(conn, row, detail, call) },
    };
    conn.release(generation);
    ret
}

/// Whether a connection that was accepted with the SMC option can still be kept on TCP, or is there after all.
extern "C" fn may_still_decline(conn: &'static Conn, fd: c_int) -> bool {
    guard::protect(false, || conn.is_offered() || (conn.settle(fd) && !conn.is_far()))
}

unsafe extern "C" fn set_on_native(
    conn: &'static Conn,
    row: &'static Row,
    detail: Detail,
    call: Call,
) -> c_int {
    let may_move = !conn.is_pinned();
    let error = error_on_listener(row);
    if error != 0 && may_move && is_connected_here(conn, call.fd) {
        return fail(error);
    }
    let ret = unsafe { call.pass() };
    if let (Before::StaysTcp(when), true) = (row.before, may_move) {
        let saved = errno::get();
        if unsafe { applies(when, &call, ret == 0) } {
            pin(conn, detail);
        }
        errno::set(saved);
    }
    ret
}

/// Whether the socket is connected to one on this host, so that the connection may move. One to another host never will;
/// it is kept on TCP from now on.
extern "C" fn is_connected_here(conn: &'static Conn, fd: c_int) -> bool {
    guard::protect(true, || match (sock::local(fd), sock::peer(fd)) {
        (Ok(local), Ok(peer)) => {
            let remote = diag::tcp_owner(&peer, &local).err() == Some(Errno(libc::ENOENT));
            if remote {
                conn.pin(smc_core::remote::why_not(fd, &peer).into());
            }
            !remote
        }
        _ => false,
    })
}

unsafe extern "C" fn set_on_moved(
    conn: &'static Conn,
    row: &'static Row,
    detail: Detail,
    call: Call,
) -> c_int {
    if let After::Fails(error) = row.after {
        return fail(error);
    }
    if let After::Returns(when) = row.after {
        let returned = unsafe { !applies(when, &call, true) || back_to_tcp(conn, call.fd, detail) };
        if !returned {
            return fail(libc::EOPNOTSUPP);
        }
    }
    let ret = unsafe { call.pass() };
    if ret == 0 && row.after == After::TcpDecides {
        pin(conn, detail);
    }
    ret
}

/// TCP has accepted an option that the engine acts on as well.
unsafe extern "C" fn applied(conn: &'static Conn, call: &Call) {
    let saved = errno::get();
    guard::protect((), || match (call.level, call.name) {
        (libc::SOL_SOCKET, libc::SO_RCVLOWAT) => conn.low_water_changed(call.fd),
        (libc::IPPROTO_TCP, libc::TCP_CORK)
            if !call.value.is_null() && call.len as usize >= size_of::<c_int>() =>
        {
            // SAFETY: TCP has read an int there.
            conn.cork_changed(unsafe { call.value.cast::<c_int>().read_unaligned() } != 0)
        }
        (libc::IPPROTO_TCP, libc::TCP_NODELAY) => conn.no_delay_changed(call.fd),
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
    if ret == 0 && unsafe { *len as usize } >= size_of::<c_int>() {
        let place = value.cast::<c_int>();
        if conn.is_far() {
            // How TCP has ended means nothing there.
            unsafe { place.write_unaligned(far_error(conn, fd)) };
        } else if unsafe { place.read_unaligned() } == 0 {
            unsafe { place.write_unaligned(conn.take_error()) };
        }
    }
    ret
}

extern "C" fn far_error(conn: &'static Conn, fd: c_int) -> c_int {
    guard::protect(0, || {
        conn.settle(fd);
        conn.far_error()
    })
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
