//! A handshake under way: the bytes of its TCP connection, and what has been made for it.

use crate::conn::Conn;
use crate::engine::iwarp;
use crate::engine::pending::{Pending, Side, Start};
use crate::link::Link;
use crate::port::Port;
use crate::sys;
use smc_core::sys::fd::OwnFd;
use smc_core::sys::Errno;
use smc_wire::clc::{Clc, Framer};
use smc_wire::handshake::{Action, Client, Contact, Local, Prepared, Server, Wish};
use smc_wire::llc::Llc;
use smc_wire::{Diagnosis, PeerId, Time};
use std::sync::Arc;

/// The state machine of either side.
pub enum Machine {
    Client(Client),
    Server(Server),
}

/// What was made for the connection.
pub struct Made {
    pub conn: Arc<Conn>,
    /// First contact: the link that will be a group's.
    pub new_link: bool,
}

/// A handshake.
pub struct Handshake {
    pub socket: OwnFd,
    pub side: Side,
    pub pending: Arc<Pending>,
    /// It is to end on TCP, with this code.
    pub decline: Option<Diagnosis>,
    pub port: Option<Arc<Port>>,
    pub machine: Machine,
    framer: Framer,
    /// Server: what is wished, as long as another first contact of the same client is under way.
    pub deferred: Option<Wish>,
    /// Server: what was wished.
    pub wish: Option<Wish>,
    pub made: Option<Made>,
    /// iWARP server: the client is to have connected its queue pair by then.
    pub connect_by: Option<Time>,
    /// iWARP client: the first message is sent again then.
    pub repeat_at: Option<Time>,
}

impl Handshake {
    pub fn new(start: Start, port: Option<Arc<Port>>, machine: Machine) -> Handshake {
        let Start { socket, side, decline, pending, .. } = start;
        Handshake {
            socket,
            side,
            decline,
            pending,
            port,
            machine,
            framer: Framer::default(),
            deferred: None,
            wish: None,
            made: None,
            connect_by: None,
            repeat_at: None,
        }
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        match &mut self.machine {
            Machine::Client(client) => client.poll_action(),
            Machine::Server(server) => server.poll_action(),
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        let deadline = match &self.machine {
            Machine::Client(client) => client.deadline(),
            Machine::Server(server) => server.deadline(),
        };
        [deadline, self.connect_by, self.repeat_at].into_iter().flatten().min()
    }

    pub fn timeout(&mut self, now: Time) {
        if self.repeat_at.is_some_and(|at| at <= now) {
            self.repeat_at = self.new_link().map(|link| {
                log::debug!("link {}: the first message is repeated", link.id);
                link.send_llc(iwarp::first_message());
                now + iwarp::FIRST_MESSAGE_REPEAT
            });
        }
        if self.connect_by.is_some_and(|by| by <= now) {
            log::info!("descriptor {}: the peer has not connected its queue pair", self.socket.raw());
            return self.connected(now, Err(Diagnosis::ERR_RDYLNK));
        }
        match &mut self.machine {
            Machine::Client(client) => client.timeout(now),
            Machine::Server(server) => server.timeout(now),
        }
    }

    /// This side is ready with what it was asked to prepare.
    pub fn prepared(&mut self, now: Time, result: Result<(Local, Contact), Diagnosis>) {
        match &mut self.machine {
            Machine::Client(client) => client.prepared(now, result.map(|(local, _)| local)),
            Machine::Server(server) => {
                server.prepared(now, result.map(|(local, contact)| Prepared { local, contact }));
            }
        }
    }

    pub fn connected(&mut self, now: Time, result: Result<(), Diagnosis>) {
        self.connect_by = None;
        match &mut self.machine {
            Machine::Client(client) => client.connected(result),
            Machine::Server(server) => server.connected(now, result),
        }
    }

    pub fn received_llc(&mut self, message: &Llc<'_>) {
        match &mut self.machine {
            Machine::Client(client) => client.received_llc(message),
            Machine::Server(server) => server.received_llc(message),
        }
    }

    pub fn link_failed(&mut self) {
        match &mut self.machine {
            Machine::Client(client) => client.link_failed(),
            Machine::Server(server) => server.link_failed(),
        }
    }

    /// TCP has ended.
    pub fn closed(&mut self) {
        match &mut self.machine {
            Machine::Client(client) => client.closed(),
            Machine::Server(server) => server.closed(),
        }
    }

    fn received(&mut self, message: Clc) {
        match &mut self.machine {
            Machine::Client(client) => client.received(message),
            Machine::Server(server) => server.received(message),
        }
    }

    /// The link that was made for it, at first contact.
    pub fn new_link(&self) -> Option<&Arc<Link>> {
        self.made.as_ref().filter(|made| made.new_link).map(|made| made.conn.link())
    }

    /// This side's end of the connection, when it has been made.
    pub fn local(&self, peer_id: PeerId) -> Option<Local> {
        let conn = &self.made.as_ref()?.conn;
        Some(Local { link: conn.link().end(peer_id), rmbe: conn.rmbe()? })
    }

    /// Reads one message at most, and nothing behind it.
    pub fn read(&mut self) {
        loop {
            let mut buffer = [0; 1024];
            let wanted = self.framer.wanted().min(buffer.len());
            let read = match sys::receive(self.socket.raw(), &mut buffer[..wanted]) {
                Ok(0) => return self.closed(),
                Ok(read) => read,
                Err(Errno(libc::EAGAIN | libc::EINTR)) => return,
                Err(_) => return self.closed(),
            };
            match self.framer.feed(&mut &buffer[..read]) {
                Ok(None) => {}
                Ok(Some(message)) => return self.received(message),
                Err(why) => {
                    log::info!("descriptor {}: {why}", self.socket.raw());
                    return match &mut self.machine {
                        Machine::Client(client) => client.malformed(why),
                        Machine::Server(server) => server.malformed(why),
                    };
                }
            }
        }
    }

    /// Sends a message. One that does not fit into the socket's buffer, in which there is nothing else, ends the handshake.
    pub fn send(&mut self, bytes: &[u8]) {
        if sys::send(self.socket.raw(), bytes) != Ok(bytes.len()) {
            self.closed();
        }
    }
}
