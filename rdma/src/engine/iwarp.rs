//! First contacts on iWARP: their queue pairs are connected by the connection manager (librdmacm), between ACCEPT and CONFIRM LINK.
//!
//! ```text
//! client                                     server
//!                                            listens on a port
//!         <--------------------------------- CLC ACCEPT, with the port (smc_wire::iwarp)
//! CLC CONFIRM ------------------------------>
//! rdma_connect, with a greeting ============> rdma_accept, when CONFIRM has come and fits the greeting
//! connected
//! first message (LLC TEST LINK response) ===> connected
//!         <================================== LLC CONFIRM LINK request
//! ```
//!
//! The first message is there because on iWARP the side that has connected must send first (MPA, RFC 5044 section 7.1.2), and only a
//! message tells the server's engine that it has. It is repeated until CONFIRM LINK comes: siw of Linux 6.12 does not look at what arrives right
//! behind its consent to the connection before something else comes after it.
//!
//! A server listens as long as handshakes of first contact need it: the ports are few, and all processes of the host share them.

use super::handshake::Handshake;
use super::inbox::Command;
use super::now;
use super::runner::{key, Runner, Use, MANAGER};
use crate::link::Link;
use crate::sys;
use crate::verbs::manager::{Channel, Event, Id};
use smc_core::sys::{Errno, Result};
use smc_wire::clc::LinkEnd;
use smc_wire::iwarp::Greeting;
use smc_wire::llc::{Body, Llc, Version};
use smc_wire::{Diagnosis, Time};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread;

/// How long a server waits for the client to connect. The client gives up four seconds after its CONFIRM.
pub const CONNECT_WAIT: Time = Time::from_secs(3);
/// When a client repeats its first message.
pub const FIRST_MESSAGE_REPEAT: Time = Time::from_millis(250);
/// Bytes of stack of a thread that connects.
const CONNECT_STACK: usize = 128 << 10;
/// Requests that are kept for one link until its CONFIRM says which is the client's: the latest.
const REQUESTS: usize = 4;
/// Threads that connect, at most. Behind a firewall each of them stays for minutes, with its link.
const CONNECTING: usize = 16;

/// What the connection manager has to do with this process.
#[derive(Default)]
pub struct Manager {
    channel: Option<Arc<Channel>>,
    listeners: HashMap<Ipv4Addr, Listener>,
    /// By the number of the link.
    links: HashMap<u64, State>,
    /// Attempts that nobody waits for any more; they go when they are over.
    leaving: HashMap<u64, Arc<Id>>,
    /// Held by each thread that connects.
    connecting: Arc<()>,
    /// The log has said that there is no port.
    has_complained: bool,
}

struct Listener {
    port: u16,
    _id: Id,
}

/// No answer is due to it, and nobody misses it.
pub fn first_message() -> Vec<u8> {
    Llc::response(Version::V2, Body::TestLink([0; 16])).encode()
}

/// How far a link is.
enum State {
    /// Client.
    Connecting(Arc<Id>, Greeting),
    /// Server; `wanted` is known from the CONFIRM.
    Listening {
        requests: Vec<(Id, Greeting)>,
        wanted: Option<Greeting>,
    },
    /// Server, before the first message.
    Accepted(Arc<Id>),
    Connected {
        _id: Arc<Id>,
    },
}

impl Manager {
    /// Listens at an address, if that is not done already. `None`: none of the ports is free.
    fn listen(
        &mut self,
        channel: &Arc<Channel>,
        address: Ipv4Addr,
        ports: RangeInclusive<u16>,
    ) -> Result<Option<u16>> {
        if let Some(listener) = self.listeners.get(&address) {
            return Ok(Some(listener.port));
        }
        for port in ports {
            // Requests have numbers of their own once they are accepted.
            let id = Id::new(channel, 0)?;
            match id.listen(SocketAddrV4::new(address, port)) {
                Ok(()) => {
                    log::debug!("iWARP: listening on {address}:{port}");
                    self.listeners.insert(address, Listener { port, _id: id });
                    return Ok(Some(port));
                }
                Err(Errno(libc::EADDRINUSE)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn complain(&mut self, why: &str) {
        let again = std::mem::replace(&mut self.has_complained, true);
        if !again {
            log::warn!("SMC-R over iWARP: {why}; connections stay on TCP, {}", Diagnosis::ERR_RDYLNK);
        }
    }
}

impl Runner {
    fn manager_channel(&mut self) -> Result<Arc<Channel>> {
        if let Some(channel) = &self.manager.channel {
            return Ok(Arc::clone(channel));
        }
        let channel = Channel::new()?;
        self.epoll.add(channel.fd(), libc::EPOLLIN as u32, key(MANAGER, 0))?;
        self.manager.channel = Some(Arc::clone(&channel));
        Ok(channel)
    }

    /// Server: makes ready for the client to connect, and says on which port.
    pub(super) fn manager_listens(&mut self, link: &Arc<Link>) -> std::result::Result<u16, Diagnosis> {
        let (address, ports) = (link.port.interface.address, self.config.ports.clone());
        let listening = link
            .post_receives()
            .and_then(|()| self.manager_channel())
            .and_then(|channel| self.manager.listen(&channel, address, ports.clone()));
        let why = match listening {
            Ok(Some(port)) => {
                let state = State::Listening { requests: Vec::new(), wanted: None };
                self.manager.links.insert(link.id, state);
                return Ok(port);
            }
            Ok(None) => {
                let (first, last) = (ports.start(), ports.end());
                format!("none of the ports {first}-{last} is free on {address} (SMC_RDMA_PORTS)")
            }
            Err(Errno(libc::ENOSYS)) => "librdmacm.so.1 is missing".to_owned(),
            Err(error) => format!("cannot listen on {address}: {error}"),
        };
        self.manager.complain(&why);
        Err(Diagnosis::ERR_RDYLNK)
    }

    /// Client: begins to connect.
    pub(super) fn manager_connects(
        &mut self,
        link: &Arc<Link>,
        to: SocketAddrV4,
        peer: &LinkEnd,
    ) -> std::result::Result<(), Diagnosis> {
        let own = link.end(self.peer_id());
        let greeting = Greeting { peer_id: own.peer_id, client: own.qpn, server: peer.qpn };
        let begun = link.post_receives().and_then(|()| self.manager_channel()).and_then(|channel| {
            let id = Id::new(&channel, link.id)?;
            id.resolve_address(link.port.interface.address, to)?;
            Ok(Arc::new(id))
        });
        match begun {
            Ok(id) => {
                self.manager.links.insert(link.id, State::Connecting(id, greeting));
                Ok(())
            }
            Err(Errno(libc::ENOSYS)) => {
                self.manager.complain("librdmacm.so.1 is missing");
                Err(Diagnosis::ERR_RDYLNK)
            }
            Err(error) => {
                log::info!("link {}: cannot connect to {to}: {error}", link.id);
                Err(Diagnosis::ERR_RDYLNK)
            }
        }
    }

    /// Server: the CONFIRM has come, and says whose request is to be accepted.
    pub(super) fn manager_accepts(
        &mut self,
        handshake: &mut Handshake,
        link: &Arc<Link>,
        confirm: &LinkEnd,
    ) -> std::result::Result<(), Diagnosis> {
        let own = link.end(self.peer_id());
        let Some(State::Listening { wanted, .. }) = self.manager.links.get_mut(&link.id) else {
            return Err(Diagnosis::INTERR);
        };
        *wanted = Some(Greeting { peer_id: confirm.peer_id, client: confirm.qpn, server: own.qpn });
        handshake.connect_by = Some(now() + CONNECT_WAIT);
        self.match_request(link)
    }

    /// Accepts the request that is wanted, if it is there.
    fn match_request(&mut self, link: &Arc<Link>) -> std::result::Result<(), Diagnosis> {
        let Some(State::Listening { requests, wanted: Some(wanted) }) = self.manager.links.get_mut(&link.id)
        else {
            return Ok(());
        };
        let Some(place) = requests.iter().position(|(_, greeting)| greeting == wanted) else { return Ok(()) };
        let (mut id, _) = requests.swap_remove(place);
        log::debug!("link {}: the request is accepted", link.id);
        if let Err(error) = id.accept(link.id, link.pair()) {
            log::info!("link {}: the client's connection is not to be had: {error}", link.id);
            return Err(Diagnosis::ERR_RDYLNK);
        }
        self.manager.links.insert(link.id, State::Accepted(Arc::new(id)));
        Ok(())
    }

    /// Events of the connection manager.
    pub(super) fn manager_events(&mut self) {
        let Some(channel) = self.manager.channel.as_ref().map(Arc::clone) else { return };
        while let Some((number, event)) = channel.next_event() {
            if let Event::Request(id, private) = event {
                self.requested(id, &private);
            } else if self.manager.leaving.contains_key(&number) {
                if event.ends_an_attempt() {
                    self.manager.leaving.remove(&number);
                }
            } else {
                self.manager_event(number, &event);
            }
        }
    }

    fn manager_event(&mut self, number: u64, event: &Event) {
        let Some(link) = self.links.get(&number).map(|(link, _)| Arc::clone(link)) else { return };
        let Some(state) = self.manager.links.remove(&number) else { return };
        log::debug!("link {number}: {event:?}");
        let (state, next) = match (state, event) {
            (State::Connecting(id, greeting), Event::AddressResolved) => {
                // There may be several devices for one address.
                let next = match id.device() {
                    Some(device) if device == link.port.device => id.resolve_route(),
                    _ => Err(Errno(libc::EXDEV)),
                };
                (State::Connecting(id, greeting), next)
            }
            (State::Connecting(id, greeting), Event::RouteResolved) => {
                let next = self.connect_aside(&id, &link, greeting);
                (State::Connecting(id, greeting), next)
            }
            (State::Connecting(id, _), Event::Established) => {
                link.sends_from_now_on();
                link.send_llc(first_message());
                if let Some((_, Use::Forming(handshake))) = self.links.get(&number) {
                    let again = Some(now() + FIRST_MESSAGE_REPEAT);
                    self.with_handshake(*handshake, |handshake, _| handshake.repeat_at = again);
                }
                (State::Connected { _id: id }, Ok(()))
            }
            (_, Event::Failed(kind, status)) => {
                log::info!("link {number}: not connected, event {kind} of rdma_cm with status {status}");
                return self.link_failed(number);
            }
            (_, Event::Disconnected) => {
                log::info!("link {number}: disconnected");
                return self.link_failed(number);
            }
            (state, _) => (state, Ok(())),
        };
        match next {
            // The handshake may have ended just now.
            Ok(()) if !self.links.contains_key(&number) => {}
            Ok(()) => drop(self.manager.links.insert(number, state)),
            Err(error) => {
                log::info!("link {number}: not connected: {error}");
                drop(state);
                self.link_failed(number);
            }
        }
    }

    /// A connection was not to be had.
    pub(super) fn manager_gives_up(&mut self, link: u64) {
        drop((self.manager.links.remove(&link), self.manager.leaving.remove(&link)));
        self.link_failed(link);
    }

    /// Somebody wants to be connected with a link of this process. Who has no greeting for one is refused.
    fn requested(&mut self, id: Id, private: &[u8]) {
        let Some(greeting) = Greeting::decode(private) else {
            return log::info!("iWARP: a request that has nothing to do with SMC is refused");
        };
        // Each device numbers its queue pairs by itself.
        let device = id.device();
        let listens = |id| matches!(self.manager.links.get(&id), Some(State::Listening { .. }));
        let named = |link: &Link| {
            link.pair().number() == greeting.server
                && device.as_deref() == Some(&*link.port.device)
                && listens(link.id)
        };
        let link = self.links.values().map(|(link, _)| link).find(|link| named(link)).map(Arc::clone);
        let state = link.as_ref().and_then(|link| self.manager.links.get_mut(&link.id));
        let (Some(link), Some(State::Listening { requests, wanted })) = (link, state) else {
            return log::info!("iWARP: a request for a link that is not there is refused");
        };
        log::debug!("link {}: requested", link.id);
        if wanted.is_some_and(|wanted| wanted != greeting) {
            return log::info!("link {}: a request of somebody else is refused", link.id);
        }
        // The client's comes about when its CONFIRM does: of too many the oldest are not it.
        if requests.len() == REQUESTS {
            requests.remove(0);
        }
        requests.push((id, greeting));
        if let Err(diagnosis) = self.match_request(&link) {
            self.tell_connected(link.id, Err(diagnosis));
        }
    }

    /// A message has come on a link: whether it was the first one, which says that it is connected.
    pub(super) fn manager_takes_first_message(&mut self, link: &Arc<Link>) -> bool {
        if !matches!(self.manager.links.get(&link.id), Some(State::Accepted(_))) {
            return false;
        }
        if let Some(State::Accepted(id)) = self.manager.links.remove(&link.id) {
            self.manager.links.insert(link.id, State::Connected { _id: id });
        }
        link.sends_from_now_on();
        self.tell_connected(link.id, Ok(()));
        true
    }

    /// Server: tells the handshake.
    fn tell_connected(&mut self, link: u64, result: std::result::Result<(), Diagnosis>) {
        if let Some((_, Use::Forming(number))) = self.links.get(&link) {
            self.with_handshake(*number, |handshake, _| handshake.connected(now(), result));
        }
    }

    /// A link is out of use.
    pub(super) fn manager_forgets(&mut self, link: u64) {
        if let Some(State::Connecting(id, _) | State::Accepted(id)) = self.manager.links.remove(&link) {
            // Destroyed now, it would wait for the peer.
            self.manager.leaving.insert(link, id);
        }
    }

    /// A handshake of first contact is over: listeners that no other one needs go.
    pub(super) fn manager_rests(&mut self) {
        let links = &self.links;
        let forming = |address: &Ipv4Addr| {
            links.values().any(|(link, used)| {
                matches!(used, Use::Forming(_)) && link.port.interface.address == *address
            })
        };
        self.manager.listeners.retain(|address, _| forming(address));
    }

    /// Connects in a thread of its own: where a firewall drops the packets, some devices wait here until TCP has given up, and the engine must
    /// answer its other peers within two seconds.
    fn connect_aside(&self, id: &Arc<Id>, link: &Arc<Link>, greeting: Greeting) -> Result<()> {
        let running = Arc::clone(&self.manager.connecting);
        // The manager's, and that.
        if Arc::strong_count(&running) > CONNECTING + 1 {
            return Err(Errno(libc::EAGAIN));
        }
        let (id, link, inbox) = (Arc::clone(id), Arc::clone(link), Arc::clone(&self.inbox));
        let connect = move || {
            if let Err(error) = id.connect(link.pair(), &greeting.encode()) {
                log::info!("link {}: not connected: {error}", link.id);
                inbox.send(Command::NotConnected(link.id));
            }
            drop((id, link));
            drop(running);
        };
        // As for the engine's thread: signals are the program's.
        let mask = sys::block_signals();
        let spawned =
            thread::Builder::new().name("smc-rdma-cm".into()).stack_size(CONNECT_STACK).spawn(connect);
        sys::restore_signals(mask);
        spawned.map(drop).map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EAGAIN)))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // They would wait for their peers.
        self.leaving.drain().for_each(|(_, id)| std::mem::forget(id));
        for (_, state) in self.links.drain() {
            if let State::Connecting(id, _) | State::Accepted(id) = state {
                std::mem::forget(id);
            }
        }
    }
}
