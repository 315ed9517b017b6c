//! The engine's thread.

mod links;

use super::group::{Group, LAST_WORDS};
use super::handshake::{Handshake, Machine};
use super::inbox::{Command, Inbox};
use super::iwarp::Manager;
use super::listener::{Listener, Taken, PROMPT};
use super::pending::{Pending, Side, Start, When};
use super::{now, Config, Outcome};
use crate::conn::Conn;
use crate::link::Link;
use crate::port::{Port, Transport};
use crate::sys::{self, DeviceNews, Epoll, Event};
use smc_core::capability::{self, Peer};
use smc_core::sys::fd::OwnFd;
use smc_core::sys::{sock, Result};
use smc_wire::clc::{Decline, FirstContact, Proposal, Version};
use smc_wire::handshake::{Client, Failure, Fallback, Host, Server, ServerConfig};
use smc_wire::llc::DeleteReason;
use smc_wire::{iwarp, Bounded, Diagnosis, PeerId, Time};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A peer whose TCP connection has ended and which has not said by CDC that it has, for as long, may be dead: it is tested.
const SUSPICION: Time = Time::from_millis(500);

/// What a descriptor in epoll is for, in the upper bits of its key; the lower ones are the number of the thing.
const KIND_SHIFT: u32 = 56;
const INBOX: u64 = 0;
const HANDSHAKE: u64 = 1;
pub(super) const LINK: u64 = 2;
const CONNECTION: u64 = 3;
const DEVICE: u64 = 4;
const CONNECTING: u64 = 5;
const LISTENER: u64 = 6;
pub(super) const MANAGER: u64 = 7;
const DEVICES: u64 = 8;

pub(super) fn key(kind: u64, number: u64) -> u64 {
    kind << KIND_SHIFT | number
}

/// What uses a link.
#[derive(Clone, Copy)]
pub(super) enum Use {
    /// A first contact, the handshake with this number.
    Forming(u64),
    /// The group with the link's number.
    Group,
}

/// A connection after its handshake.
struct Watched {
    conn: Arc<Conn>,
    /// Its TCP socket, until the program has closed the connection.
    socket: Option<OwnFd>,
}

/// All there is. See the [module of the engine](super).
pub(super) struct Runner {
    pub config: Config,
    pub inbox: Arc<Inbox>,
    pub epoll: Epoll,
    /// Of this process; known when the first port is.
    peer_id: Option<PeerId>,
    pub host: Host,
    ports: HashMap<Ipv4Addr, Arc<Port>>,
    /// `None`: not to be had, and a device that is removed while it is in use stays until this process ends.
    news: Option<DeviceNews>,
    /// By their own numbers.
    listeners: HashMap<u64, Arc<Listener>>,
    /// Those with a connection in their queue: since when, and how many accepts there had been then.
    queued: Vec<(Time, u64, u64)>,
    /// TCP connections that are not established yet.
    connecting: HashMap<u64, Start>,
    /// Handshakes that begin when the program has waited for it long enough.
    offers: Vec<(Time, Start)>,
    pub handshakes: HashMap<u64, Handshake>,
    pub links: HashMap<u64, (Arc<Link>, Use)>,
    pub groups: HashMap<u64, Group>,
    /// iWARP.
    pub manager: Manager,
    connections: HashMap<u64, Watched>,
    /// Connections whose TCP has ended, and when to look at them.
    suspects: Vec<(Time, u64)>,
    /// Links whose completions wake nobody, or on which there is more to take; and when to look at them.
    unarmed: Vec<(Time, u64)>,
    finishing: Option<Time>,
}

impl Runner {
    pub fn new(config: Config, inbox: Arc<Inbox>) -> Result<Runner> {
        let epoll = Epoll::new()?;
        epoll.add(inbox.fd(), libc::EPOLLIN as u32, key(INBOX, 0))?;
        let news = DeviceNews::new().ok();
        let news = news.filter(|news| epoll.add(news.fd(), libc::EPOLLIN as u32, key(DEVICES, 0)).is_ok());
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Ok(Runner {
            config,
            inbox,
            epoll,
            peer_id: None,
            host: Host { name: FirstContact::padded_name(name.trim().as_bytes()), features: 0 },
            ports: HashMap::new(),
            news,
            listeners: HashMap::new(),
            queued: Vec::new(),
            connecting: HashMap::new(),
            offers: Vec::new(),
            handshakes: HashMap::new(),
            links: HashMap::new(),
            groups: HashMap::new(),
            manager: Manager::default(),
            connections: HashMap::new(),
            suspects: Vec::new(),
            unarmed: Vec::new(),
            finishing: None,
        })
    }

    /// A number that nothing else has, in this thread or one before it.
    pub fn number(&self) -> u64 {
        self.inbox.number()
    }

    pub fn run(mut self) {
        let mut events = Vec::new();
        loop {
            if self.epoll.wait(&mut events, self.sleep()).is_err() {
                log::warn!("epoll failed; SMC-R ends");
                return;
            }
            for event in &events {
                self.handle(event);
            }
            self.timers();
            if self.is_finished() {
                return;
            }
        }
    }

    /// How long nothing is to be done, in milliseconds.
    fn sleep(&self) -> i32 {
        let handshakes = self.handshakes.values().filter_map(Handshake::deadline);
        let groups = self.groups.values().filter_map(|group| group.gone_at.or(group.wire.deadline()));
        let suspects = self.suspects.iter().map(|(at, _)| *at);
        let offers = self.offers.iter().map(|(at, _)| *at);
        let queued = self.queued.iter().map(|(at, ..)| *at);
        let unarmed = self.unarmed.iter().map(|(at, _)| *at);
        let others = suspects.chain(offers).chain(queued).chain(unarmed).chain(self.finishing);
        match handshakes.chain(groups).chain(others).min() {
            None => -1,
            // Rounded up: not to wake too early.
            Some(at) => at.saturating_sub(now()).as_micros().div_ceil(1000).min(i32::MAX as u128) as i32,
        }
    }

    fn handle(&mut self, event: &Event) {
        let number = event.key & ((1 << KIND_SHIFT) - 1);
        match event.key >> KIND_SHIFT {
            INBOX => {
                for command in self.inbox.take() {
                    self.command(command);
                }
            }
            HANDSHAKE => self.with_handshake(number, |handshake, _| handshake.read()),
            LINK => self.take(number, true),
            CONNECTION => {
                self.suspects.push((now() + SUSPICION, number));
            }
            DEVICE => self.device_event(number),
            CONNECTING => self.connected(number),
            MANAGER => self.manager_events(),
            DEVICES => self.devices_removed(),
            LISTENER => {
                if let Some(listener) = self.listeners.get(&number) {
                    self.queued.push((now() + PROMPT, number, listener.accepts()));
                }
            }
            _ => {}
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Start(start) => self.accept_start(*start),
            Command::Begin(pending) => self.begin(&pending),
            // Closed with the offer: another process has the connection.
            Command::Cancelled => self.offers.retain(|(_, start)| start.pending.is_wanted()),
            Command::Listen(listener) => {
                self.arm(&listener);
                self.listeners.insert(listener.number, listener);
            }
            Command::Unlisten(listener) => {
                self.listeners.remove(&listener.number);
                self.queued.retain(|(_, number, _)| *number != listener.number);
            }
            Command::Closed(id) => {
                if let Some(socket) = self.connections.get_mut(&id).and_then(|watched| watched.socket.take())
                {
                    self.epoll.remove(socket.raw());
                }
                self.sweep(id);
            }
            Command::Over(id) => self.sweep(id),
            Command::Messages(id) => self.take(id, false),
            Command::LinkFailed(id) => self.link_failed(id),
            Command::NotConnected(id) => self.manager_gives_up(id),
            Command::Finish(at) => {
                self.finishing = Some(at);
                for watched in self.connections.values() {
                    watched.conn.close();
                }
            }
        }
    }

    // Handshakes.

    fn accept_start(&mut self, start: Start) {
        match start.when {
            When::Now => self.start(start),
            When::Later(at) => self.offers.push((at, start)),
            When::Connected => {
                let number = self.number();
                let events = (libc::EPOLLOUT | libc::EPOLLONESHOT) as u32;
                match self.epoll.add(start.socket.raw(), events, key(CONNECTING, number)) {
                    Ok(()) => drop(self.connecting.insert(number, start)),
                    Err(_) => finish_plain(start),
                }
            }
        }
    }

    /// A TCP connection is established, or it has failed.
    fn connected(&mut self, number: u64) {
        let Some(start) = self.connecting.remove(&number) else { return };
        let fd = start.socket.raw();
        self.epoll.remove(fd);
        if sock::is_established(fd) && capability::peer(fd) == Ok(Peer::Capable) {
            self.start(start);
        } else {
            finish_plain(start);
        }
    }

    /// A handshake that was to begin later begins now.
    fn begin(&mut self, pending: &Arc<Pending>) {
        if let Some(place) = self.offers.iter().position(|(_, start)| Arc::ptr_eq(&start.pending, pending)) {
            let (_, start) = self.offers.swap_remove(place);
            self.begin_offer(start);
        }
    }

    fn begin_offer(&mut self, start: Start) {
        if start.pending.is_due() {
            self.start(start);
        } else {
            let Start { socket, pending, .. } = start;
            drop(socket);
            pending.finish(Outcome::Elsewhere);
        }
    }

    /// Asks to hear once of a connection in the queue.
    fn arm(&self, listener: &Listener) {
        let events = (libc::EPOLLIN | libc::EPOLLONESHOT) as u32;
        listener.with_socket(|fd| {
            self.epoll.remove(fd);
            let _ = self.epoll.add(fd, events, key(LISTENER, listener.number));
        });
    }

    /// A connection may have waited for the program long enough.
    fn take_connection(&mut self, number: u64, accepts: u64) {
        let Some(listener) = self.listeners.get(&number).map(Arc::clone) else { return };
        let mut starts = Vec::new();
        listener.take(accepts, |socket| {
            let mut pending = None;
            if capability::peer(socket.raw()) == Ok(Peer::Capable) {
                let made = Pending::new(None).ok()?;
                let own = OwnFd::duplicate(socket.raw()).ok()?;
                pending = Some(Arc::clone(&made));
                starts.push(Start {
                    socket: own,
                    side: Side::Server,
                    when: When::Now,
                    decline: None,
                    pending: made,
                });
            }
            Some(Taken { socket, pending })
        });
        starts.into_iter().for_each(|start| self.start(start));
        self.arm(&listener);
    }

    fn start(&mut self, start: Start) {
        let (fd, side) = (start.socket.raw(), start.side);
        let port = self.port(fd);
        let peer_id = self.peer_id.unwrap_or_default();
        let machine = match (side, &port) {
            (Side::Client, Some(port)) if start.decline.is_none() => {
                let eids = self.config.eids.iter().copied().take(8).collect::<Vec<_>>();
                let eids = Bounded::try_from(eids).unwrap_or_default();
                let mut proposal = Proposal::smc_r_v2(peer_id, port.mac, port.gid, eids);
                if port.transport == Transport::Iwarp {
                    proposal.vendor = iwarp::OFFER;
                }
                Machine::Client(Client::new(now(), proposal, self.host))
            }
            (Side::Client, _) => {
                // The option was offered, so the server waits for CLC.
                let diagnosis = start.decline.unwrap_or(Diagnosis::NOSMCDEV);
                let decline = Decline::new(Version::V2, peer_id, diagnosis);
                let _ = sys::send(fd, &decline.encode());
                let Start { socket, pending, .. } = start;
                drop(socket);
                return pending.finish(Outcome::Tcp(Fallback { diagnosis, peer: None, out_of_sync: false }));
            }
            (Side::Server, _) => {
                let config = ServerConfig {
                    peer_id,
                    eids: self.config.eids.clone(),
                    max_connections: 255,
                    max_links: 1,
                    host: self.host,
                };
                Machine::Server(Server::new(now(), config))
            }
        };
        let number = self.number();
        let mut handshake = Handshake::new(start, port, machine);
        if self.epoll.add(fd, libc::EPOLLIN as u32, key(HANDSHAKE, number)).is_err() {
            handshake.closed();
        }
        self.handshakes.insert(number, handshake);
        self.with_handshake(number, |_, _| {});
    }

    /// The port for a TCP connection.
    fn port(&mut self, fd: i32) -> Option<Arc<Port>> {
        let local = smc_core::sys::sock::local(fd).ok()?;
        let address = Ipv4Addr::from(local.v4()?);
        if let Some(port) = self.ports.get(&address).filter(|port| port.is_usable()) {
            return Some(Arc::clone(port));
        }
        let port = Arc::new(Port::find(address, self.config.device.as_deref())?);
        let number = u64::from(u32::from(address));
        // Gone with the port's last user; epoll forgets the descriptor then.
        let _ = self.epoll.add(port.context.async_fd(), libc::EPOLLIN as u32, key(DEVICE, number));
        self.ports.insert(address, Arc::clone(&port));
        if self.peer_id.is_none() {
            let mut id = [0; 8];
            smc_core::sys::random(&mut id[..2]).ok()?;
            id[2..].copy_from_slice(&port.mac.0);
            self.peer_id = Some(PeerId(id));
        }
        Some(port)
    }

    pub fn peer_id(&self) -> PeerId {
        self.peer_id.unwrap_or_default()
    }

    // Connections.

    /// A handshake has ended in this connection.
    pub fn watch(&mut self, conn: &Arc<Conn>, socket: Option<OwnFd>) {
        let flags = libc::EPOLLRDHUP | libc::EPOLLET;
        if let Some(socket) = &socket {
            let _ = self.epoll.add(socket.raw(), flags as u32, key(CONNECTION, conn.id));
        }
        self.connections.insert(conn.id, Watched { conn: Arc::clone(conn), socket });
    }

    /// Forgets a connection if both sides are through with it.
    fn sweep(&mut self, id: u64) {
        let Some(conn) = self.connections.get(&id).map(|watched| Arc::clone(&watched.conn)) else { return };
        let Some((token, buffers)) = conn.finish() else { return };
        self.connections.remove(&id);
        let link = conn.link().id;
        if let Some(group) = self.groups.get_mut(&link) {
            group.wire.remove(now(), token);
            group.link.forget(token);
            if let Some(buffers) = buffers.filter(|_| !group.wire.has_ended()) {
                group.give_back(now(), buffers);
            }
        }
        self.drive_group(link);
    }

    /// TCP has ended for some time, and the peer has not said that it has: is it there at all?
    fn test(&mut self, id: u64) {
        let Some(watched) = self.connections.get(&id) else { return };
        if watched.conn.peer_has_ended() {
            return;
        }
        let link = watched.conn.link().id;
        if let Some(group) = self.groups.get_mut(&link) {
            group.wire.test(now());
        }
        self.drive_group(link);
    }

    // Time.

    fn timers(&mut self) {
        let at = now();
        while let Some(place) = self.offers.iter().position(|(when, _)| *when <= at) {
            let (_, start) = self.offers.swap_remove(place);
            self.begin_offer(start);
        }
        while let Some(place) = self.queued.iter().position(|(when, ..)| *when <= at) {
            let (_, number, accepts) = self.queued.swap_remove(place);
            self.take_connection(number, accepts);
        }
        let handshakes = self.handshakes.iter().filter(|(_, h)| h.deadline().is_some_and(|d| d <= at));
        for number in handshakes.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.with_handshake(number, |handshake, _| handshake.timeout(at));
        }
        let unarmed: Vec<u64> =
            self.unarmed.iter().filter(|(when, _)| *when <= at).map(|(_, id)| *id).collect();
        self.unarmed.retain(|(when, _)| *when > at);
        for id in unarmed {
            self.take(id, false);
        }
        for group in self.groups.values_mut() {
            if let Some(heard) = group.link.heard() {
                group.wire.heard(heard);
            }
        }
        let groups = self.groups.iter().filter(|(_, g)| g.wire.deadline().is_some_and(|d| d <= at));
        for id in groups.map(|(id, _)| *id).collect::<Vec<_>>() {
            if let Some(group) = self.groups.get_mut(&id) {
                group.wire.timeout(at);
            }
            self.drive_group(id);
        }
        let due: Vec<u64> = self.suspects.iter().filter(|(when, _)| *when <= at).map(|(_, id)| *id).collect();
        self.suspects.retain(|(when, _)| *when > at);
        for id in due {
            self.test(id);
        }
        let gone =
            self.groups.iter().filter(|(_, g)| g.gone_at.is_some_and(|d| d <= at || g.link.is_quiet()));
        for id in gone.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.groups.remove(&id);
            self.drop_link(id);
        }
    }

    /// After [`Command::Finish`]: whether the thread may end.
    fn is_finished(&mut self) -> bool {
        let Some(at) = self.finishing else { return false };
        let late = at <= now();
        // Nobody waits for these.
        self.offers.clear();
        self.connecting.clear();
        self.listeners.clear();
        self.queued.clear();
        let busy = !self.handshakes.is_empty() || !self.connections.is_empty();
        if busy && !late {
            return false;
        }
        if late {
            for watched in self.connections.values().filter(|watched| !watched.conn.has_said_all()) {
                watched.conn.abort();
            }
        }
        let ids: Vec<u64> = self.groups.keys().copied().collect();
        for id in &ids {
            if let Some(group) = self.groups.get_mut(id) {
                group.wire.terminate(DeleteReason::PROGRAM);
            }
            self.drive_group(*id);
        }
        // Until their last messages have gone.
        self.finishing = Some(at.max(now() + LAST_WORDS));
        self.timers();
        self.groups.is_empty()
    }
}

/// No handshake is due.
fn finish_plain(start: Start) {
    let Start { socket, pending, .. } = start;
    drop(socket);
    pending.finish(Outcome::Plain);
}

/// The end of the thread, orderly or not: nobody waits for it in vain.
impl Drop for Runner {
    fn drop(&mut self) {
        for watched in self.connections.values() {
            watched.conn.link_lost();
        }
        for handshake in self.handshakes.values() {
            handshake.pending.finish(Outcome::Failed(Failure::Closed));
        }
        self.connecting.drain().for_each(|(_, start)| finish_plain(start));
        self.offers.drain(..).for_each(|(_, start)| start.pending.finish(Outcome::Failed(Failure::Closed)));
        for (link, _) in self.links.values() {
            link.fail();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smc_wire::SizeCode;

    #[test]
    fn a_second_thread_gives_other_numbers_than_the_first() {
        let inbox = Arc::new(Inbox::new().expect("eventfd"));
        let config =
            Config { eids: Vec::new(), buffer: SizeCode::fitting(1 << 16), device: None, ports: 1..=1 };
        let numbers = || {
            let runner = Runner::new(config.clone(), Arc::clone(&inbox)).expect("epoll");
            [runner.number(), runner.number()]
        };
        let (first, second) = (numbers(), numbers());
        assert!(first.iter().all(|number| !second.contains(number)), "{first:?} {second:?}");
    }
}
