//! What handshakes want done: link groups found or made, buffers, queue pairs brought up; and what becomes of them in the end.

use super::group::Group;
use super::handshake::{Handshake, Made};
use super::now;
use super::pending::{Connection, Outcome, Side};
use super::runner::{key, Runner, Use, LINK};
use crate::buffers::Buffers;
use crate::conn::Conn;
use crate::link::Link;
use crate::port::Transport;
use smc_core::sys::fd::OwnFd;
use smc_core::sys::{sock, Errno};
use smc_wire::clc::Answer;
use smc_wire::group::{LinkGroup, Role, FIRST_TOKEN};
use smc_wire::handshake::{self, Action, Contact, Established, Local, Wish};
use smc_wire::llc::DeleteReason;
use smc_wire::{iwarp, Diagnosis};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

/// What is ready; `None`: it will be, or not, when the peer has answered.
type Prepared = Result<Option<(Local, Contact)>, Diagnosis>;

/// Whatever this host lacks: memory that may be locked, descriptors.
fn no_memory(error: Errno) -> Diagnosis {
    log::info!("no queue pair or buffers for a connection: {error}");
    Diagnosis::MEM
}

impl Runner {
    /// Does something with a handshake, and then what it wants done.
    pub fn with_handshake(&mut self, number: u64, act: impl FnOnce(&mut Handshake, &mut Runner)) {
        let Some(mut handshake) = self.handshakes.remove(&number) else { return };
        act(&mut handshake, self);
        match self.perform(number, &mut handshake) {
            None => drop(self.handshakes.insert(number, handshake)),
            Some(outcome) => self.ended(handshake, outcome),
        }
    }

    fn perform(&mut self, number: u64, handshake: &mut Handshake) -> Option<handshake::Outcome> {
        while let Some(action) = handshake.poll_action() {
            log::debug!("handshake {number}: {}", title(&action));
            match action {
                Action::SendClc(message) => handshake.send(&message),
                Action::SendLlc(message) => {
                    if let Some(link) = handshake.new_link() {
                        link.send_llc(message);
                    }
                }
                Action::PrepareClient(accept) => {
                    let prepared = self.prepare_client(number, handshake, &accept);
                    tell(handshake, prepared);
                }
                Action::PrepareServer(wish) => self.serve(number, handshake, wish),
                Action::Connect(answer) => {
                    if let Some(connected) = self.connect(handshake, &answer).transpose() {
                        handshake.connected(now(), connected);
                    }
                }
                Action::Done(outcome) => return Some(outcome),
            }
        }
        None
    }

    fn serve(&mut self, number: u64, handshake: &mut Handshake, wish: Wish) {
        // Its later connections are to share the link group that is being made.
        let forming = |other: &Handshake| {
            handshake.decline.is_none()
                && other.new_link().is_some()
                && other.wish.is_some_and(|other| other.key == wish.key)
        };
        if self.handshakes.values().any(forming) {
            handshake.deferred = Some(wish);
            return;
        }
        handshake.wish = Some(wish);
        let prepared = match handshake.decline {
            Some(diagnosis) => Err(diagnosis),
            None => self.prepare_server(number, handshake, &wish),
        };
        tell(handshake, prepared);
    }

    fn prepare_client(&mut self, number: u64, handshake: &mut Handshake, accept: &Answer) -> Prepared {
        if accept.is_first_contact() {
            let port = handshake.port.as_ref().map(|port| port.transport);
            let manager = iwarp::port(accept);
            // Each kind of device has its own way to connect, and no other.
            if (port == Some(Transport::Iwarp)) != manager.is_some() {
                return Err(Diagnosis::NOSMCDEV);
            }
            let (local, link) = self.first_contact(number, handshake)?;
            if let Some(port) = manager {
                let address = peer_address(handshake).ok_or(Diagnosis::NOSMCRDEV)?;
                self.manager_connects(&link, SocketAddrV4::new(address, port), &accept.link)?;
            } else if let Err(error) = link.ready_to_receive(&accept.link, accept.link.gid) {
                log::info!("link {}: the queue pair cannot receive: {error}", link.id);
                return Err(Diagnosis::ERR_RDYLNK);
            }
            let direct = link.port.is_direct(accept.link.gid);
            return Ok(Some((local, Contact::First { direct, user_id: user_id(&link), iwarp: None })));
        }
        let named = |group: &Group| group.wire.is_named_by(accept);
        let id = self.groups.iter().find(|(_, g)| named(g)).map(|(id, _)| *id).ok_or(Diagnosis::SYNCERR)?;
        match self.later_contact(number, handshake, id) {
            Some(prepared) => prepared,
            None => Err(Diagnosis::ERR_RTOK),
        }
    }

    fn prepare_server(&mut self, number: u64, handshake: &mut Handshake, wish: &Wish) -> Prepared {
        let serves = |group: &Group| group.wire.serves(wish);
        let ids: Vec<u64> = self.groups.iter().filter(|(_, g)| serves(g)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(prepared) = self.later_contact(number, handshake, id) {
                return prepared;
            }
        }
        let is_iwarp = handshake.port.as_ref().is_some_and(|port| port.transport == Transport::Iwarp);
        if is_iwarp != wish.iwarp {
            return Err(Diagnosis::NOSMCDEV);
        }
        let (local, link) = self.first_contact(number, handshake)?;
        let iwarp = if is_iwarp { Some(self.manager_listens(&link)?) } else { None };
        let direct = link.port.is_direct(wish.key.gid);
        Ok(Some((local, Contact::First { direct, user_id: user_id(&link), iwarp })))
    }

    /// A link and a connection on it, for a new link group.
    fn first_contact(
        &mut self,
        number: u64,
        handshake: &mut Handshake,
    ) -> Result<(Local, Arc<Link>), Diagnosis> {
        let port = handshake.port.as_ref().ok_or(Diagnosis::NOSMCDEV)?;
        let (link_id, conn_id) = (self.number(), self.number());
        let link = Link::new(link_id, port, &self.inbox).map_err(no_memory)?;
        let buffers = Buffers::new(&link, self.config.buffer).map_err(no_memory)?;
        let local = Local { link: link.end(self.peer_id()), rmbe: buffers.rmbe(FIRST_TOKEN) };
        let conn = Conn::new(conn_id, &link, &self.inbox, buffers, &handshake.pending.bells);
        conn.set_token(FIRST_TOKEN);
        self.epoll.add(link.fd(), libc::EPOLLIN as u32, key(LINK, link_id)).map_err(no_memory)?;
        self.links.insert(link_id, (Arc::clone(&link), Use::Forming(number)));
        handshake.made = Some(Made { conn, new_link: true });
        Ok((local, link))
    }

    /// One more connection on a link group. `None`: it has no room for one.
    fn later_contact(&mut self, number: u64, handshake: &mut Handshake, id: u64) -> Option<Prepared> {
        let (conn_id, peer_id) = (self.number(), self.peer_id());
        let group = self.groups.get_mut(&id)?;
        let (buffers, known) = match group.take_buffers(self.config.buffer) {
            Ok(taken) => taken,
            Err(error) => return Some(Err(no_memory(error))),
        };
        let name = buffers.name();
        if !group.wire.announce(name) {
            return None;
        }
        let conn = Conn::new(conn_id, &group.link, &self.inbox, buffers, &handshake.pending.bells);
        let token = group.wire.add(Arc::clone(&conn))?;
        conn.set_token(token);
        group.link.route(token, &conn);
        handshake.made = Some(Made { conn, new_link: false });
        if known {
            return Some(Ok(handshake.local(peer_id).map(|local| (local, Contact::Later))));
        }
        group.confirming.insert(name.rkey, number);
        group.wire.confirm_rkey(now(), name);
        self.drive_group(id);
        Some(Ok(None))
    }

    /// The peer has answered CONFIRM RKEY for this handshake, or it has not.
    pub fn rkey_confirmed(&mut self, handshake: &mut Handshake, confirmed: bool) {
        let local = handshake.local(self.peer_id()).filter(|_| confirmed);
        let prepared = local.map(|local| (local, Contact::Later)).ok_or(Diagnosis::ERR_REGBUF);
        handshake.prepared(now(), prepared);
    }

    /// Has the queue pair brought up. `None`: the connection manager does it, and the handshake hears of it later.
    fn connect(&mut self, handshake: &mut Handshake, answer: &Answer) -> Result<Option<()>, Diagnosis> {
        let link = handshake.new_link().map(Arc::clone).ok_or(Diagnosis::INTERR)?;
        match (link.port.transport, handshake.side) {
            (Transport::Roce, _) => bring_up(handshake, &link, answer).map(Some),
            // It is connected, else there were no CONFIRM LINK.
            (Transport::Iwarp, Side::Client) => Ok(Some(())),
            (Transport::Iwarp, Side::Server) => {
                self.manager_accepts(handshake, &link, &answer.link).map(|()| None)
            }
        }
    }

    /// A handshake is over.
    fn ended(&mut self, handshake: Handshake, outcome: handshake::Outcome) {
        self.epoll.remove(handshake.socket.raw());
        let forming = handshake.new_link().and(handshake.wish).map(|wish| wish.key);
        let Handshake { socket, side, pending, made, .. } = handshake;
        let mut socket = Some(socket);
        let unreachable = forming.and(no_link(&outcome));
        let outcome = match (outcome, made) {
            (handshake::Outcome::Active(established), Some(made)) => {
                Outcome::Smc(self.establish(socket.take(), side, &made, &established))
            }
            (handshake::Outcome::Active(_), None) => {
                // Nothing becomes active without having been prepared.
                Outcome::Failed(handshake::Failure::Closed)
            }
            (handshake::Outcome::Fallback(fallback), made) => {
                if let Some(made) = made {
                    self.discard(&made, fallback.out_of_sync);
                }
                Outcome::Tcp(fallback)
            }
            (handshake::Outcome::Failed(failure), made) => {
                if let Some(made) = made {
                    self.discard(&made, false);
                }
                Outcome::Failed(failure)
            }
        };
        // If the connection is TCP, its end is the program's to say.
        drop(socket);
        pending.finish(outcome);
        self.manager_rests();
        if forming.is_some() {
            let same = |h: &Handshake| h.deferred.is_some_and(|wish| Some(wish.key) == forming);
            let deferred = self.handshakes.iter().filter(|(_, h)| same(h)).map(|(number, _)| *number);
            for number in deferred.collect::<Vec<_>>() {
                self.with_handshake(number, |handshake, runner| {
                    if let Some(wish) = handshake.deferred.take() {
                        // One after the other they would find it out, and the peer does not wait for that.
                        handshake.decline = handshake.decline.or(unreachable);
                        runner.serve(number, handshake, wish);
                    }
                });
            }
        }
    }

    fn establish(
        &mut self,
        socket: Option<OwnFd>,
        side: Side,
        made: &Made,
        established: &Established,
    ) -> Connection {
        let conn = &made.conn;
        let link = conn.link();
        if let Some(new) = &established.first_contact {
            let role = match side {
                Side::Client => Role::Client,
                Side::Server => Role::Server,
            };
            let mut wire = LinkGroup::new(now(), role, new, established.peer.link.qpn);
            wire.announce(established.local.rmbe.rmb);
            let token = wire.add(Arc::clone(conn));
            debug_assert_eq!(token, Some(FIRST_TOKEN));
            link.route(FIRST_TOKEN, conn);
            self.groups.insert(link.id, Group::new(Arc::clone(link), wire));
            if let Some((_, used)) = self.links.get_mut(&link.id) {
                *used = Use::Group;
            }
        }
        conn.establish(&established.peer.rmbe);
        self.watch(conn, socket);
        if self.groups.get(&link.id).is_none_or(|group| group.wire.has_ended()) {
            conn.link_lost();
        }
        Connection(Arc::clone(conn))
    }

    fn discard(&mut self, made: &Made, out_of_sync: bool) {
        let id = made.conn.link().id;
        if made.new_link {
            return self.drop_link(id);
        }
        if let Some(group) = self.groups.get_mut(&id) {
            group.wire.remove(now(), made.conn.token());
            group.link.forget(made.conn.token());
            if let Some(buffers) = made.conn.abandon() {
                group.retire(now(), buffers);
            }
            if out_of_sync {
                group.wire.terminate(DeleteReason::NONE);
            }
        }
        self.drive_group(id);
    }
}

/// The code, if a first contact ended on TCP because nothing came through between the two queue pairs.
fn no_link(outcome: &handshake::Outcome) -> Option<Diagnosis> {
    let handshake::Outcome::Fallback(fallback) = outcome else { return None };
    let codes = [Some(fallback.diagnosis), fallback.peer];
    codes.into_iter().flatten().find(|code| matches!(*code, Diagnosis::ERR_RDYLNK | Diagnosis::TIMEOUT_CL))
}

/// Four bytes that name a link, for display at the peer.
fn user_id(link: &Link) -> [u8; 4] {
    (link.id as u32).to_be_bytes()
}

/// For the log.
fn title(action: &Action) -> &'static str {
    match action {
        Action::SendClc(_) => "send CLC",
        Action::SendLlc(_) => "send LLC",
        Action::PrepareClient(accept) if accept.is_first_contact() => "first contact",
        Action::PrepareClient(_) => "later contact",
        Action::PrepareServer(_) => "prepare",
        Action::Connect(_) => "connect",
        Action::Done(handshake::Outcome::Active(_)) => "active",
        Action::Done(handshake::Outcome::Fallback(_)) => "TCP",
        Action::Done(handshake::Outcome::Failed(_)) => "failed",
    }
}

fn tell(handshake: &mut Handshake, prepared: Prepared) {
    match prepared {
        Ok(None) => {}
        Ok(Some(ready)) => handshake.prepared(now(), Ok(ready)),
        Err(diagnosis) => handshake.prepared(now(), Err(diagnosis)),
    }
}

/// Where the other end of its TCP connection is.
fn peer_address(handshake: &Handshake) -> Option<Ipv4Addr> {
    sock::peer(handshake.socket.raw()).ok()?.v4().map(Ipv4Addr::from)
}

/// Brings a RoCE queue pair up.
fn bring_up(handshake: &Handshake, link: &Link, answer: &Answer) -> Result<(), Diagnosis> {
    let brought_up = match (handshake.side, handshake.wish) {
        // It receives since the ACCEPT.
        (Side::Client, _) => link.ready_to_send(),
        (Side::Server, Some(wish)) => {
            link.ready_to_receive(&answer.link, wish.key.gid).and_then(|()| link.ready_to_send())
        }
        (Side::Server, None) => return Err(Diagnosis::INTERR),
    };
    brought_up.map_err(|error| {
        log::info!("link {}: the queue pair did not come up: {error}", link.id);
        Diagnosis::ERR_RDYLNK
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use smc_wire::handshake::Fallback;

    #[test]
    fn only_a_link_that_does_not_come_up_tells_of_the_next_one() {
        let fallback = |diagnosis, peer| {
            no_link(&handshake::Outcome::Fallback(Fallback { diagnosis, peer, out_of_sync: false }))
        };
        assert_eq!(fallback(Diagnosis::ERR_RDYLNK, None), Some(Diagnosis::ERR_RDYLNK));
        assert_eq!(fallback(Diagnosis::PEERDECL, Some(Diagnosis::TIMEOUT_CL)), Some(Diagnosis::TIMEOUT_CL));
        assert_eq!(fallback(Diagnosis::MEM, None), None);
        assert_eq!(fallback(Diagnosis::PEERDECL, Some(Diagnosis::MEM)), None);
        assert_eq!(no_link(&handshake::Outcome::Failed(handshake::Failure::Closed)), None);
    }
}
