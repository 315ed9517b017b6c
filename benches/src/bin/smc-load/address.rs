//! Where the ends meet: a port of 127.0.0.1, or a Unix socket.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

pub enum Address {
    Port(u16),
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Address::Port(port) => write!(f, "{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Address {
    /// A connection, with TCP_NODELAY unless `nagle`.
    pub fn connect(&self, nagle: bool) -> io::Result<OwnedFd> {
        Ok(match self {
            Address::Port(port) => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port))?;
                stream.set_nodelay(!nagle)?;
                stream.into()
            }
            Address::Unix(path) => UnixStream::connect(path)?.into(),
        })
    }
}

pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub fn new(unix: Option<&Path>) -> io::Result<Listener> {
        let listener = match unix {
            Some(path) => Listener::Unix(UnixListener::bind(path)?),
            None => Listener::Tcp(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?),
        };
        // The 128 of the standard library are too few for thousands of connections at once.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::MAXCONN)?;
        Ok(listener)
    }

    pub fn address(&self) -> Address {
        match self {
            Listener::Tcp(listener) => Address::Port(listener.local_addr().expect("it is bound").port()),
            Listener::Unix(listener) => {
                let address = listener.local_addr().expect("it is bound");
                Address::Unix(address.as_pathname().expect("bound to a path").to_owned())
            }
        }
    }

    pub fn accept(&self, nagle: bool) -> io::Result<OwnedFd> {
        Ok(match self {
            Listener::Tcp(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nodelay(!nagle)?;
                stream.into()
            }
            Listener::Unix(listener) => listener.accept()?.0.into(),
        })
    }
}

impl std::os::fd::AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }
}
