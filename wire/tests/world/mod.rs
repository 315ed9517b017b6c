//! Two hosts with a client's and a server's engine, TCP connections between them and RDMA links, all made of queues. A number picks what
//! happens next, so that each order that the real ones could take is a number.
//!
//! Host 0 connects, host 1 listens.

use smc_wire::clc::{Clc, Framer, LinkEnd, Proposal, Rmbe};
use smc_wire::conn::{Connection, Span, Violation};
use smc_wire::group::{self, Incoming, LinkGroup, Role};
use smc_wire::handshake::{
    Action, Client, Contact, Established, Failure, Fallback, Host as Name, Local, Outcome, Prepared, Server,
    ServerConfig,
};
use smc_wire::llc::Llc;
use smc_wire::{cdc, Diagnosis, Eid, Gid, Mac, MtuCode, PeerId, Rmb, SizeCode, Time, U24};
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;

const NAME: Name = Name { name: [b' '; 32], features: 0 };

/// A message on a link.
enum Op {
    Write { rkey: u32, address: u64, bytes: Vec<u8> },
    Send(Vec<u8>),
}

enum Phase {
    Client(Client),
    Server(Server),
    Active,
    Tcp(Fallback),
    Failed(Failure),
}

/// One end of a TCP connection.
pub struct Socket {
    phase: Phase,
    framer: Framer,
    /// The link that the connection is or will be on.
    link: Option<usize>,
    token: u32,
    pub smc: Option<Connection>,
    peer: Option<Rmbe>,
    /// CDCs that came before the handshake was over.
    early: Vec<cdc::Cdc>,
    /// How far the program has sent and received.
    pub sent: u64,
    pub received: u64,
    /// What the program has still to send before it shuts its sending down, if it does.
    pub unsent: u64,
    pub closing: bool,
    closed: bool,
}

#[derive(Default)]
struct Host {
    /// By the number of the link.
    groups: BTreeMap<usize, LinkGroup<usize>>,
    /// The RMBs, by rkey.
    memory: BTreeMap<u32, Vec<u8>>,
    dead: bool,
}

pub struct World {
    pub now: Time,
    hosts: [Host; 2],
    /// By connection.
    pub sockets: [Vec<Socket>; 2],
    tcp: Vec<[VecDeque<u8>; 2]>,
    links: Vec<[VecDeque<Op>; 2]>,
    /// Why groups ended, by host.
    pub ended: [Vec<group::Ended>; 2],
    /// Refuses the next PREPARE of a host.
    pub refuse: [Option<Diagnosis>; 2],
    /// How many CDCs came before the handshake of their connection was over.
    pub early: u64,
    random: u64,
}

fn peer_id(host: usize) -> PeerId {
    PeerId([host as u8 + 1; 8])
}

fn gid(host: usize) -> Gid {
    Gid::from_ipv4(Ipv4Addr::new(192, 0, 2, host as u8 + 1))
}

fn eid() -> Eid {
    Eid::new("WORLD").unwrap()
}

fn byte(connection: usize, end: usize, position: u64) -> u8 {
    ((position + connection as u64 * 31 + end as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8
}

impl World {
    pub fn new(seed: u64) -> World {
        World {
            now: Time::ZERO,
            hosts: Default::default(),
            sockets: Default::default(),
            tcp: Vec::new(),
            links: Vec::new(),
            ended: Default::default(),
            refuse: [None; 2],
            early: 0,
            random: seed | 1,
        }
    }

    /// A number below `n`.
    pub fn pick(&mut self, n: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % n
    }

    /// A program connects to the other, and each sends so many bytes; returns the number of the connection.
    pub fn connect(&mut self, unsent: [u64; 2]) -> usize {
        let connection = self.tcp.len();
        self.tcp.push(Default::default());
        let eids = vec![eid()].try_into().unwrap();
        let proposal = Proposal::smc_r_v2(peer_id(0), Mac([1; 6]), gid(0), eids);
        let client = Phase::Client(Client::new(self.now, proposal, NAME));
        let (peer_id, eids) = (peer_id(1), vec![eid()]);
        let config = ServerConfig { peer_id, eids, max_connections: 16, max_links: 1, host: NAME };
        let server = Phase::Server(Server::new(self.now, config));
        for (host, phase) in [(0, client), (1, server)] {
            self.sockets[host].push(Socket {
                phase,
                framer: Framer::default(),
                link: None,
                token: 0,
                smc: None,
                peer: None,
                early: Vec::new(),
                sent: 0,
                received: 0,
                unsent: unsent[host],
                closing: false,
                closed: false,
            });
            self.act(host, connection);
        }
        connection
    }

    /// How many groups a host has.
    pub fn groups(&self, host: usize) -> usize {
        self.hosts[host].groups.len()
    }

    /// How a handshake ended, if not well.
    pub fn outcome(&self, host: usize, connection: usize) -> Option<Result<Fallback, Failure>> {
        match self.sockets[host][connection].phase {
            Phase::Tcp(fallback) => Some(Ok(fallback)),
            Phase::Failed(failure) => Some(Err(failure)),
            _ => None,
        }
    }

    /// The host is gone, and what it had sent.
    pub fn kill(&mut self, host: usize) {
        self.hosts[host].dead = true;
        self.links.iter_mut().for_each(|link| link[host].clear());
        self.tcp.iter_mut().for_each(|tcp| tcp[host].clear());
    }

    /// What is under way on a TCP connection is lost.
    pub fn kill_tcp(&mut self, connection: usize) {
        self.tcp[connection] = Default::default();
    }

    /// What has not been taken by `host` of a TCP stream.
    pub fn left_in_tcp(&self, host: usize, connection: usize) -> Vec<u8> {
        self.tcp[connection][1 - host].iter().copied().collect()
    }

    /// The host has no groups any more, and tells nobody.
    pub fn forget_groups(&mut self, host: usize) {
        self.hosts[host].groups.clear();
    }

    /// Bytes that are no part of any conversation come over TCP to `host`.
    pub fn inject(&mut self, host: usize, connection: usize, bytes: &[u8]) {
        self.tcp[connection][1 - host].extend(bytes);
    }

    /// Something makes `host` doubt that its peer is there.
    pub fn suspect(&mut self, host: usize, link: usize) {
        let now = self.now;
        if let Some(group) = self.hosts[host].groups.get_mut(&link) {
            group.test(now);
            self.act_group(host, link);
        }
    }

    /// A SEND that is no part of any conversation comes over a link to `host`.
    pub fn inject_send(&mut self, host: usize, link: usize, bytes: &[u8]) {
        self.links[link][1 - host].push_back(Op::Send(bytes.to_vec()));
    }

    /// Anything that can happen without time passing happens, in any order, until nothing can.
    pub fn settle(&mut self) {
        let mut idle = 0;
        while idle < 4 * (1 + self.tcp.len() + self.links.len()) {
            let (connections, links) = (self.tcp.len(), self.links.len());
            let host = self.pick(2);
            let what = self.pick(2 * connections + 2 * links);
            let happened = if what < connections {
                self.deliver_tcp(host, what)
            } else if what < 2 * connections {
                self.run_program(host, what - connections)
            } else {
                self.deliver((what - 2 * connections) / 2, host)
            };
            idle = if happened { 0 } else { idle + 1 };
        }
        // Chance may have left something out.
        let all_quiet = (0..self.tcp.len())
            .all(|c| (0..2).all(|h| !self.deliver_tcp(h, c) && !self.run_program(h, c)))
            && (0..self.links.len()).all(|l| (0..2).all(|h| !self.deliver(l, h)));
        if !all_quiet {
            self.settle();
        }
    }

    /// Time passes to the next deadline of any host; `false` if there is none.
    pub fn wait(&mut self) -> bool {
        let alive = |host: &usize| !self.hosts[*host].dead;
        let groups =
            (0..2).filter(alive).flat_map(|h| self.hosts[h].groups.values().filter_map(LinkGroup::deadline));
        let handshakes = (0..2).filter(alive).flat_map(|h| {
            self.sockets[h].iter().filter_map(|socket| match &socket.phase {
                Phase::Client(client) => client.deadline(),
                Phase::Server(server) => server.deadline(),
                _ => None,
            })
        });
        let Some(next) = groups.chain(handshakes).min() else { return false };
        self.now = self.now.max(next);
        let now = self.now;
        for host in (0..2).filter(|host| !self.hosts[*host].dead).collect::<Vec<_>>() {
            for connection in 0..self.tcp.len() {
                match &mut self.sockets[host][connection].phase {
                    Phase::Client(client) => client.timeout(now),
                    Phase::Server(server) => server.timeout(now),
                    _ => {}
                }
                self.act(host, connection);
            }
            for link in 0..self.links.len() {
                if let Some(group) = self.hosts[host].groups.get_mut(&link) {
                    group.timeout(now);
                    self.act_group(host, link);
                }
            }
        }
        true
    }

    /// Some bytes of a TCP stream reach `host`.
    fn deliver_tcp(&mut self, host: usize, connection: usize) -> bool {
        let amount = 1 + self.pick(200);
        let queue = &mut self.tcp[connection][1 - host];
        let socket = &mut self.sockets[host][connection];
        let handshaking = matches!(socket.phase, Phase::Client(_) | Phase::Server(_));
        if self.hosts[host].dead || queue.is_empty() || !handshaking {
            return false;
        }
        let amount = amount.min(socket.framer.wanted()).min(queue.len());
        let bytes: Vec<_> = queue.drain(..amount).collect();
        match (socket.framer.feed(&mut &bytes[..]), &mut socket.phase) {
            (Ok(None), _) => {}
            (Ok(Some(message)), Phase::Client(client)) => client.received(message),
            (Ok(Some(message)), Phase::Server(server)) => server.received(message),
            (Err(why), Phase::Client(client)) => client.malformed(why),
            (Err(why), Phase::Server(server)) => server.malformed(why),
            _ => unreachable!(),
        }
        self.act(host, connection);
        true
    }

    /// The first message on a link reaches `host`.
    fn deliver(&mut self, link: usize, host: usize) -> bool {
        let Some(op) = self.links[link][1 - host].pop_front() else { return false };
        if self.hosts[host].dead {
            return true;
        }
        match op {
            Op::Write { rkey, address, bytes } => {
                let offset = usize::try_from(address - (u64::from(rkey) << 32)).unwrap();
                let memory = self.hosts[host].memory.get_mut(&rkey).expect("a write to an RMB that is there");
                memory[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
            Op::Send(bytes) => self.received(link, host, &bytes),
        }
        true
    }

    fn received(&mut self, link: usize, host: usize, bytes: &[u8]) {
        let now = self.now;
        let Some(group) = self.hosts[host].groups.get_mut(&link) else {
            // The first contact is under way.
            for connection in 0..self.tcp.len() {
                let socket = &mut self.sockets[host][connection];
                if socket.link == Some(link) {
                    match (&mut socket.phase, Llc::decode(bytes)) {
                        (Phase::Client(client), Ok(Some(message))) => client.received_llc(&message),
                        (Phase::Client(client), Err(_)) => client.link_failed(),
                        (Phase::Server(server), Ok(Some(message))) => server.received_llc(&message),
                        (Phase::Server(server), Err(_)) => server.link_failed(),
                        _ => {}
                    }
                    self.act(host, connection);
                }
            }
            return;
        };
        if let Incoming::Cdc(cdc) = group.receive(now, bytes) {
            let Some(&connection) = group.connection(cdc.token) else { return };
            if self.sockets[host][connection].smc.is_some() {
                self.received_cdc(host, connection, &cdc);
            } else {
                self.early += 1;
                self.sockets[host][connection].early.push(cdc);
            }
        }
        self.act_group(host, link);
    }

    fn received_cdc(&mut self, host: usize, connection: usize, cdc: &cdc::Cdc) {
        let smc = self.sockets[host][connection].smc.as_mut().unwrap();
        let result: Result<_, Violation> = smc.receive(cdc);
        result.unwrap();
        if smc.update_is_due() {
            self.send_cdc(host, connection);
        }
        self.leave_if_over(host, connection);
    }

    fn send_cdc(&mut self, host: usize, connection: usize) {
        let socket = &mut self.sockets[host][connection];
        let cdc = socket.smc.as_mut().unwrap().cdc();
        self.links[socket.link.unwrap()][host].push_back(Op::Send(cdc.encode().to_vec()));
    }

    /// The program sends, reads, or closes. Whether something moved.
    fn run_program(&mut self, host: usize, connection: usize) -> bool {
        let wanted = 1 + self.pick(50_000) as u64;
        let socket = &mut self.sockets[host][connection];
        let Some(smc) = socket.smc.as_mut().filter(|_| !self.hosts[host].dead) else { return false };
        if socket.closed {
            return false;
        }
        // Read.
        let spans = smc.readable(wanted);
        let ring = &self.hosts[host].memory[&rkey(host, connection)];
        for Span { offset, length } in spans.0 {
            for &got in &ring[offset as usize..(offset + length) as usize] {
                assert_eq!(got, byte(connection, 1 - host, socket.received));
                socket.received += 1;
            }
        }
        smc.consume(spans.length());
        let mut must_send = spans.length() > 0 && smc.update_is_due();
        // Send.
        let planned = smc.plan(socket.unsent);
        let peer = socket.peer.unwrap();
        for Span { offset, length } in planned.0.into_iter().filter(|span| span.length > 0) {
            let bytes = (0..u64::from(length)).map(|i| byte(connection, host, socket.sent + i)).collect();
            let address = peer.address().unwrap() + u64::from(offset);
            self.links[socket.link.unwrap()][host].push_back(Op::Write {
                rkey: peer.rmb.rkey,
                address,
                bytes,
            });
            socket.sent += u64::from(length);
            socket.unsent -= u64::from(length);
        }
        smc.wrote(planned.length());
        must_send |= planned.length() > 0 || smc.must_tell_blocked();
        let moved = spans.length() > 0 || planned.length() > 0;
        // Shut down when everything is sent, close when the peer has done so too.
        let at_end = smc.close_state().may_receive() == Ok(false) && smc.unread() == 0;
        let before = *smc.close_state();
        if socket.unsent == 0 && at_end {
            socket.closed = true;
            must_send |= smc.close();
        } else if socket.unsent == 0 && socket.closing {
            must_send |= smc.shutdown_write();
        }
        let ending = *smc.close_state() != before;
        if must_send {
            self.send_cdc(host, connection);
        }
        self.leave_if_over(host, connection);
        moved || ending
    }

    fn leave_if_over(&mut self, host: usize, connection: usize) {
        let socket = &self.sockets[host][connection];
        let over = socket.smc.as_ref().is_some_and(|smc| smc.close_state().is_over());
        if let Some(link) = socket.link.filter(|_| over && socket.closed) {
            if let Some(group) = self.hosts[host].groups.get_mut(&link) {
                if group.remove(self.now, socket.token).is_some() {
                    group.delete_rkey(self.now, rkey(host, connection));
                    self.hosts[host].memory.remove(&rkey(host, connection));
                }
                self.act_group(host, link);
            }
        }
    }

    fn act_group(&mut self, host: usize, link: usize) {
        while let Some(action) = self.hosts[host].groups.get_mut(&link).and_then(LinkGroup::poll_action) {
            match action {
                group::Action::Send(bytes) => self.links[link][host].push_back(Op::Send(bytes)),
                group::Action::RkeyConfirmed(..) | group::Action::RkeyDeleted(_) => {}
                group::Action::Ended(why) => {
                    let group = self.hosts[host].groups.remove(&link).unwrap();
                    for (_, connection) in group.connections() {
                        if let Some(smc) = &mut self.sockets[host][*connection].smc {
                            smc.link_lost();
                        }
                    }
                    self.ended[host].push(why);
                    return;
                }
            }
        }
    }

    fn act(&mut self, host: usize, connection: usize) {
        loop {
            let socket = &mut self.sockets[host][connection];
            let action = match &mut socket.phase {
                Phase::Client(client) => client.poll_action(),
                Phase::Server(server) => server.poll_action(),
                _ => None,
            };
            match action {
                None => return,
                Some(Action::SendClc(bytes)) => {
                    assert!(Clc::decode(&bytes).is_ok());
                    self.tcp[connection][host].extend(bytes);
                }
                Some(Action::SendLlc(bytes)) => {
                    self.links[socket.link.unwrap()][host].push_back(Op::Send(bytes))
                }
                Some(Action::PrepareClient(accept)) => {
                    let later = self.hosts[0]
                        .groups
                        .iter()
                        .find(|(_, group)| group.is_named_by(&accept))
                        .map(|(l, _)| *l);
                    // The server's queue pair is number 101 + 2 * link.
                    let first = accept.is_first_contact().then(|| (accept.link.qpn.get() as usize - 101) / 2);
                    let local = match self.refuse[0].take() {
                        Some(diagnosis) => Err(diagnosis),
                        None => first
                            .or(later)
                            .map(|link| self.prepare(0, connection, link))
                            .ok_or(Diagnosis::SYNCERR),
                    };
                    let Phase::Client(client) = &mut self.sockets[0][connection].phase else {
                        unreachable!()
                    };
                    client.prepared(self.now, local);
                }
                Some(Action::PrepareServer(wish)) => {
                    let later =
                        self.hosts[1].groups.iter().find(|(_, group)| group.serves(&wish)).map(|(l, _)| *l);
                    let contact = match later {
                        Some(_) => Contact::Later,
                        None => Contact::First { direct: true, user_id: [0; 4], iwarp: None },
                    };
                    let prepared = match self.refuse[1].take() {
                        Some(diagnosis) => Err(diagnosis),
                        None => {
                            let link = later.unwrap_or_else(|| {
                                self.links.push(Default::default());
                                self.links.len() - 1
                            });
                            Ok(Prepared { local: self.prepare(1, connection, link), contact })
                        }
                    };
                    let Phase::Server(server) = &mut self.sockets[1][connection].phase else {
                        unreachable!()
                    };
                    server.prepared(self.now, prepared);
                }
                Some(Action::Connect(_)) => match &mut socket.phase {
                    Phase::Client(client) => client.connected(Ok(())),
                    Phase::Server(server) => server.connected(self.now, Ok(())),
                    _ => unreachable!(),
                },
                Some(Action::Done(Outcome::Active(established))) => {
                    self.established(host, connection, &established)
                }
                Some(Action::Done(Outcome::Fallback(fallback))) => {
                    self.sockets[host][connection].phase = Phase::Tcp(fallback)
                }
                Some(Action::Done(Outcome::Failed(failure))) => {
                    self.sockets[host][connection].phase = Phase::Failed(failure)
                }
            }
        }
    }

    /// A queue pair and an RMB for a connection.
    fn prepare(&mut self, host: usize, connection: usize, link: usize) -> Local {
        let key = rkey(host, connection);
        let existing = self.hosts[host].groups.get_mut(&link);
        let token =
            existing.map_or(group::FIRST_TOKEN, |group| group.add(connection).expect("the server saw room"));
        let socket = &mut self.sockets[host][connection];
        (socket.link, socket.token) = (Some(link), token);
        let size = SizeCode::truncated((connection % 3) as u8);
        self.hosts[host].memory.insert(key, vec![0; size.bytes() as usize]);
        let qpn = U24::truncated(100 + 2 * link as u32 + host as u32);
        let (peer_id, gid, mac) = (peer_id(host), gid(host), Mac([host as u8 + 1; 6]));
        Local {
            link: LinkEnd { peer_id, gid, mac, qpn, psn: U24::truncated(0), mtu: MtuCode::truncated(3) },
            rmbe: Rmbe { rmb: Rmb { rkey: key, address: u64::from(key) << 32 }, index: 1, size, token },
        }
    }

    fn established(&mut self, host: usize, connection: usize, established: &Established) {
        let link = self.sockets[host][connection].link.unwrap();
        if let Some(new) = &established.first_contact {
            let role = if host == 0 { Role::Client } else { Role::Server };
            let mut group = LinkGroup::new(self.now, role, new, established.peer.link.qpn);
            assert_eq!(group.add(connection), Some(established.local.rmbe.token));
            self.hosts[host].groups.insert(link, group);
        }
        let socket = &mut self.sockets[host][connection];
        socket.phase = Phase::Active;
        socket.peer = Some(established.peer.rmbe);
        socket.smc = Some(Connection::new(&established.peer.rmbe, &established.local.rmbe));
        for cdc in std::mem::take(&mut socket.early) {
            self.received_cdc(host, connection, &cdc);
        }
    }
}

/// The rkey of a connection's RMB.
fn rkey(host: usize, connection: usize) -> u32 {
    1000 + 2 * connection as u32 + host as u32
}
