//! A connection that blocks, whatever carries it.

use crate::{failed, Backend, Options, PATIENCE};
use smc_core::capability::{self, Peer};
use smc_core::sys::{self as core, Errno};
use smc_rdma::{Connection, Engine, Outcome, Pending};
use smc_tests::sys;
use smc_wire::Diagnosis;
use std::fmt;
use std::sync::Arc;

/// A connection.
pub struct Pipe {
    fd: i32,
    carrier: Carrier,
}

enum Carrier {
    /// Taken out to be closed before the TCP socket is.
    Ours(Option<Connection>),
    /// A socket of any kind, with what is known of it.
    Socket(String),
}

enum Side {
    Client,
    Server,
}

impl Pipe {
    pub fn accepted(fd: i32, options: &Options, engine: &Engine) -> Result<Pipe, String> {
        Pipe::new(fd, Side::Server, options, engine)
    }

    pub fn connected(fd: i32, options: &Options, engine: &Engine) -> Result<Pipe, String> {
        Pipe::new(fd, Side::Client, options, engine)
    }

    fn new(fd: i32, side: Side, options: &Options, engine: &Engine) -> Result<Pipe, String> {
        let patience = libc::timeval { tv_sec: PATIENCE.as_secs() as i64, tv_usec: 0 };
        for name in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
            sys::setsockopt(fd, libc::SOL_SOCKET, name, patience).map_err(sys::errno_name)?;
        }
        let carrier = match options.backend {
            Backend::Kernel => Carrier::Socket("AF_SMC".into()),
            Backend::Tcp => Carrier::Socket("TCP".into()),
            Backend::Ours => ours(fd, side, engine)?,
        };
        let said = match &carrier {
            Carrier::Ours(_) => "smc",
            Carrier::Socket(what) => what,
        };
        match &options.expect {
            Some(expected) if options.backend == Backend::Ours && expected != said => {
                Err(format!("the connection is {said}, not {expected}"))
            }
            _ => Ok(Pipe { fd, carrier }),
        }
    }

    /// Reads something, 0 at the end.
    pub fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        match &self.carrier {
            Carrier::Ours(Some(connection)) => wait(|| connection.receive(into), || connection.await_data()),
            _ => sys::recv(self.fd, into, 0).map_err(Errno),
        }
    }

    /// Writes all of it.
    pub fn write(&self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let sent = match &self.carrier {
                Carrier::Ours(Some(connection)) => {
                    wait(|| connection.send(bytes), || connection.await_room())?
                }
                _ => sys::send(self.fd, bytes, libc::MSG_NOSIGNAL).map_err(Errno)?,
            };
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    pub fn shutdown_write(&self) -> Result<(), Errno> {
        match &self.carrier {
            Carrier::Ours(Some(connection)) => connection.shutdown_write(),
            _ => sys::shutdown(self.fd, libc::SHUT_WR).map_err(Errno),
        }
    }
}

fn ours(fd: i32, side: Side, engine: &Engine) -> Result<Carrier, String> {
    let peer = capability::peer(fd).map_err(failed("reading the peer's TCP option"))?;
    if peer != Peer::Capable {
        return Ok(Carrier::Socket(format!("tcp 0x{:08x}", Diagnosis::PEERNOSMC.0)));
    }
    let pending: Arc<Pending> = match side {
        Side::Client => engine.connect(fd),
        Side::Server => engine.accept(fd),
    }
    .map_err(failed("engine"))?;
    let outcome = loop {
        if let Some(outcome) = pending.take() {
            break outcome;
        }
        sleep(pending.fd()).map_err(failed("handshake"))?;
    };
    match outcome {
        Outcome::Smc(connection) => Ok(Carrier::Ours(Some(connection))),
        Outcome::Tcp(fallback) => {
            let peer = fallback.peer.map_or(String::new(), |peer| format!("/0x{:08x}", peer.0));
            Ok(Carrier::Socket(format!("tcp 0x{:08x}{peer}", fallback.diagnosis.0)))
        }
        Outcome::Plain | Outcome::Elsewhere => Err("the handshake was not run here".into()),
        Outcome::Failed(failure) => Err(format!("handshake: {failure:?}")),
    }
}

/// Repeats what would have to wait, and waits.
fn wait<T>(
    mut act: impl FnMut() -> Result<T, Errno>,
    doorbell: impl Fn() -> Option<i32>,
) -> Result<T, Errno> {
    loop {
        match act() {
            Err(Errno(libc::EAGAIN)) => {
                if let Some(fd) = doorbell() {
                    sleep(fd)?;
                }
            }
            result => return result,
        }
    }
}

fn sleep(fd: i32) -> Result<(), Errno> {
    let mut wanted = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
    match core::poll(&mut wanted, PATIENCE.as_nanos() as i64) {
        Ok(0) => Err(Errno(libc::ETIMEDOUT)),
        Ok(_) | Err(Errno(libc::EINTR)) => Ok(()),
        Err(error) => Err(error),
    }
}

impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.carrier {
            Carrier::Ours(connection) => match connection.as_ref().and_then(Connection::info) {
                Some(info) => write!(
                    f,
                    "smc on {}/{}, link {}, {:?}, {:?}",
                    info.device, info.port, info.link, info.close_state, info.counters
                ),
                None => f.write_str("smc"),
            },
            Carrier::Socket(what) => f.write_str(what),
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Carrier::Ours(connection) = &mut self.carrier {
            drop(connection.take());
        }
        let _ = sys::close(self.fd);
    }
}
