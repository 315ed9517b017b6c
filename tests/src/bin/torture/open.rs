//! Opening connections and knowing which is which.

use crate::board::Board;
use crate::options::{Options, Role};
use crate::stream::{Plan, Reader, Style, Writer};
use smc_tests::net::Family;
use smc_tests::random::Random;
use smc_tests::sys::{self, Errno};
use std::os::fd::RawFd;
use std::sync::Arc;

/// One end of a connection.
pub struct Connection {
    pub fd: RawFd,
    /// A duplicate of `fd`, or `fd` itself: written to instead.
    pub alias: RawFd,
    pub reader: Reader,
    pub writer: Writer,
    /// `connect` has not succeeded yet.
    pub connecting: bool,
}

impl Connection {
    pub fn done(&self) -> bool {
        self.reader.done() && self.writer.done()
    }

    pub fn close(&mut self) -> Result<(), String> {
        if self.alias != self.fd {
            sys::close(self.alias).map_err(|e| format!("close of a duplicate: {}", sys::errno_name(e)))?;
        }
        sys::close(self.fd).map_err(|e| format!("close: {}", sys::errno_name(e)))?;
        self.writer.closed();
        Ok(())
    }
}

/// Opens and accepts the connections of one run, all in the same thread or each role in its own.
pub struct Opener {
    pub options: Options,
    pub board: Arc<Board>,
    pub random: Random,
}

impl Opener {
    pub fn new(options: &Options, board: Arc<Board>, salt: u64) -> Opener {
        Opener { options: options.clone(), board, random: Random::new(options.seed ^ salt) }
    }

    fn connection(&mut self, fd: RawFd, id: u32, role: Role, nonblocking: bool) -> Connection {
        let plan = Plan::new(self.options.seed, id, self.options.bytes);
        let style = Style { max_size: self.options.max_size, nonblocking };
        let (out, back) = if role == Role::Client { (0, 1) } else { (1, 0) };
        let alias = if self.random.one_in(4) { sys::dup(fd).expect("dup") } else { fd };
        Connection {
            fd,
            alias,
            reader: Reader::new(self.options.seed, &plan, back, style, self.board.clone()),
            writer: Writer::new(self.options.seed, &plan, out, style, self.board.clone()),
            connecting: false,
        }
    }

    fn set_nonblocking(&mut self, fd: RawFd) {
        if self.random.one_in(2) {
            sys::ioctl_int(fd, libc::FIONBIO, 1).expect("FIONBIO");
        } else {
            sys::set_nonblocking(fd, true);
        }
    }

    /// Opens connection `id` to `port`. A non-blocking one may be connecting still.
    pub fn connect(&mut self, id: u32, port: u16, nonblocking: bool) -> Result<Connection, String> {
        let families = Family::ALL;
        let family = self.options.family.unwrap_or(families[Random::new(u64::from(id)).below(4) as usize]);
        let failed = |what: &str, e: Errno| format!("connection {id}: {what} failed: {}", sys::errno_name(e));
        let at_once = nonblocking && self.random.one_in(2);
        let flags = if at_once { libc::SOCK_NONBLOCK } else { 0 };
        let fd = family.client_socket(flags).map_err(|e| failed("socket", e))?;
        let mut result = sys::connect(fd, &family.target(port));
        while result == Err(libc::EINTR) {
            // The connection goes on being made; what connect says then is how far it is.
            let mut fds = [libc::pollfd { fd, events: libc::POLLOUT, revents: 0 }];
            if sys::poll(&mut fds, -1) == Ok(1) {
                result = match sys::socket_error(fd) {
                    0 => Ok(()),
                    errno => Err(errno),
                };
            }
        }
        let connecting = match result {
            Ok(()) => false,
            Err(libc::EINPROGRESS) if at_once => true,
            Err(errno) => return Err(failed("connect", errno)),
        };
        let local = sys::getsockname(fd).map_err(|e| failed("getsockname", e))?;
        self.board.announce(&local, id);
        if nonblocking && !at_once {
            self.set_nonblocking(fd);
        }
        let mut connection = self.connection(fd, id, Role::Client, nonblocking);
        connection.connecting = connecting;
        Ok(connection)
    }

    /// Takes the next connection off the listener's queue; `None` when there is none.
    pub fn accept(&mut self, listener: RawFd, nonblocking: bool) -> Result<Option<Connection>, String> {
        let at_once = nonblocking && self.random.one_in(2);
        let accepted = match (at_once, self.random.one_in(2)) {
            (true, _) => sys::accept4(listener, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC),
            (false, true) => sys::accept4(listener, 0),
            (false, false) => sys::accept(listener),
        };
        let fd = match accepted {
            Ok(fd) => fd,
            Err(libc::EAGAIN | libc::EINTR) => return Ok(None),
            Err(errno) => return Err(format!("accept failed: {}", sys::errno_name(errno))),
        };
        if nonblocking && !at_once {
            self.set_nonblocking(fd);
        }
        let peer = sys::getpeername(fd).map_err(|e| format!("getpeername: {}", sys::errno_name(e)))?;
        let id = self.board.claim(&peer);
        Ok(Some(self.connection(fd, id, Role::Server, nonblocking)))
    }
}
