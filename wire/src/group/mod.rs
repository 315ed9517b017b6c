//! A link group with its single link (RFC 7609 sections 2.2 and 3.5): what is said over the link besides CDC.
//!
//! [`LinkGroup`] answers the peer's requests, all within one call, as a peer gives up after two seconds:
//!
//! | request | answer |
//! |---|---|
//! | TEST LINK | the same |
//! | CONFIRM RKEY, DELETE RKEY | positive: the keys of each connection stand in its ACCEPT or CONFIRM as well |
//! | ADD LINK | rejected: there is no second path |
//! | REQUEST ADD LINK | answered, nothing done |
//! | CONFIRM LINK, again | the response once more |
//! | DELETE LINK "all" | returned; the group ends |
//! | DELETE LINK of the link | client: answered, the group ends. Server: its own request, the group ends with the response |
//! | DELETE LINK of another | answered: unknown link |
//! | unknown | ignored |
//! | malformed | DELETE LINK "all" for a protocol violation; the group ends |
//!
//! Of its own accord it sends TEST LINK when nothing has come for 30 s, and ends when 2 s later nothing has; CONFIRM RKEY and DELETE
//! RKEY as asked, one of each at a time; DELETE LINK "all" when nobody has used it for long, and when told to.
//!
//! After each call the caller does what `poll_action` says, in that order, and sets a timer to `deadline`.

mod keys;
#[cfg(test)]
mod tests;

use crate::cdc::{self, Cdc};
use crate::clc::Answer;
use crate::handshake::{GroupKey, NewGroup, Wish};
use crate::llc::{
    AddLink, Body, ConfirmLink, ConfirmRkey, DeleteLink, DeleteReason, DeleteRkey, Llc, RequestAddLink,
    RkeyReply, Version,
};
use crate::{Rmb, Time, U24};
use keys::{Announced, Flow};
use std::collections::{BTreeMap, VecDeque};

/// After so long without any message TEST LINK is sent (Linux: net.smc.smcr_testlink_time).
pub const TEST_LINK_AFTER: Time = Time::from_secs(30);
/// How long a response is waited for (Linux).
pub const RESPONSE_WAIT: Time = Time::from_secs(2);
/// How long a server keeps a group without connections (Linux).
pub const SERVER_IDLE: Time = Time::from_secs(600);
/// How long a client does. Longer, so that it is the server who ends a group: a proposal that crosses the end fails.
pub const CLIENT_IDLE: Time = Time::from_secs(610);
/// How many RMBs a kernel peer can know in one group.
pub const MAX_RMBS: usize = 255;

/// The token of the connection that makes a group: [`LinkGroup::add`] returns it first. It stands in ACCEPT or CONFIRM before there
/// is a [`LinkGroup`].
pub const FIRST_TOKEN: u32 = 1;

/// Which side of the first contact this is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    Client,
    Server,
}

/// Something the caller has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send this over the link.
    Send(Vec<u8>),
    /// The peer knows this RMB (`true`), or has refused it or not answered: then the handshake that needs it fails with
    /// [`ERR_REGBUF`](crate::Diagnosis::ERR_REGBUF).
    RkeyConfirmed(Rmb, bool),
    /// The peer has forgotten this rkey, or has not answered in time: it may be used for something else.
    RkeyDeleted(u32),
    /// The group has ended, all its connections are lost. When the sends before it are complete the queue pair goes. The last action.
    Ended(Ended),
}

/// Why a group has ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ended {
    /// Nobody used it.
    Idle,
    /// [`LinkGroup::terminate`] was called.
    Terminated,
    /// The peer wanted it.
    ByPeer(DeleteReason),
    /// The peer does not answer.
    PeerSilent,
    /// The queue pair has failed.
    LinkFailed,
    /// The peer has sent what is not LLC.
    ProtocolViolation,
}

/// What a SEND of the peer was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Incoming {
    /// A CDC message; which connection it is for, [`LinkGroup::connection`] tells by its token.
    Cdc(Cdc),
    /// An LLC message, or something malformed: it is dealt with. Or the group has ended, and nothing counts any more.
    Llc,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Active,
    /// Server: DELETE LINK was sent because the client wished it; until then its response is waited for.
    Deleting(Time, DeleteReason),
    Ended,
}

/// A link group with one link. `C` is what the caller knows its connections by.
#[derive(Debug)]
pub struct LinkGroup<C> {
    role: Role,
    key: GroupKey,
    /// Of the peer.
    qpn: U24,
    /// This side's CONFIRM LINK.
    confirmed: ConfirmLink,
    max_connections: u8,
    state: State,
    /// When the last message came.
    received: Time,
    /// A TEST LINK was sent, and nothing has come since.
    testing: Option<Time>,
    /// Since when there has been no connection.
    idle: Option<Time>,
    /// By the tokens this side assigned.
    connections: BTreeMap<u32, C>,
    last_token: u32,
    announced: Announced,
    confirming: Flow<Rmb>,
    deleting: Flow<u32>,
    actions: VecDeque<Action>,
}

impl<C> LinkGroup<C> {
    /// The group that a first contact has made at `now`; `qpn` is the peer's queue pair.
    pub fn new(now: Time, role: Role, group: &NewGroup, qpn: U24) -> LinkGroup<C> {
        LinkGroup {
            role,
            key: group.key,
            qpn,
            confirmed: group.confirmed,
            max_connections: group.terms.max_connections,
            state: State::Active,
            received: now,
            testing: None,
            idle: Some(now),
            connections: BTreeMap::new(),
            last_token: 0,
            announced: Announced::default(),
            confirming: Flow::default(),
            deleting: Flow::default(),
            actions: VecDeque::new(),
        }
    }

    // Who uses it.

    /// Server: whether what a client wishes can be served with this group. Neither the queue pair nor the server's address counts.
    pub fn serves(&self, wish: &Wish) -> bool {
        self.role == Role::Server && self.is_usable() && self.key == wish.key
    }

    /// Client: whether an ACCEPT without first contact means this group. The address connected to does not count.
    pub fn is_named_by(&self, accept: &Answer) -> bool {
        self.role == Role::Client
            && self.state == State::Active
            && self.key == GroupKey { peer_id: accept.link.peer_id, gid: accept.link.gid }
            && self.qpn == accept.link.qpn
    }

    /// Server: whether one more connection may use it.
    pub fn is_usable(&self) -> bool {
        self.state == State::Active && self.connections.len() < usize::from(self.max_connections)
    }

    /// A connection begins to use the group, from its handshake on. Returns the token for it, not 0; `None`: the group has ended, or
    /// is full. A client's is never full: the server counts, and of a connection's end it may hear earlier.
    pub fn add(&mut self, connection: C) -> Option<u32> {
        let admitted = match self.role {
            Role::Client => self.state == State::Active,
            Role::Server => self.is_usable(),
        };
        if !admitted {
            return None;
        }
        loop {
            self.last_token = self.last_token.wrapping_add(1).max(FIRST_TOKEN);
            // Few are in use.
            if let std::collections::btree_map::Entry::Vacant(entry) = self.connections.entry(self.last_token)
            {
                entry.insert(connection);
                self.idle = None;
                return Some(self.last_token);
            }
        }
    }

    /// The connection with this token. `None`: what a CDC with it says is dropped.
    pub fn connection(&self, token: u32) -> Option<&C> {
        self.connections.get(&token)
    }

    /// A connection has no more use for the group.
    pub fn remove(&mut self, now: Time, token: u32) -> Option<C> {
        let connection = self.connections.remove(&token);
        if connection.is_some() && self.connections.is_empty() {
            self.idle = Some(now);
        }
        connection
    }

    /// All that use it, with their tokens.
    pub fn connections(&self) -> impl Iterator<Item = (u32, &C)> {
        self.connections.iter().map(|(token, connection)| (*token, connection))
    }

    /// Whether the group has ended.
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    // Memory keys.

    /// An RMB is about to be named to the peer, in ACCEPT, CONFIRM or CONFIRM RKEY. `false`: the peer may have no room for one more
    /// ([`MAX_RMBS`]); delete an rkey first, or use another group.
    pub fn announce(&mut self, rmb: Rmb) -> bool {
        self.announced.add(rmb)
    }

    /// Ask the peer to make itself ready for an RMB. The answer is an action.
    pub fn confirm_rkey(&mut self, now: Time, rmb: Rmb) {
        self.confirming.push(rmb);
        self.next_requests(now);
    }

    /// Tell the peer that an RMB goes. That it has is an action.
    pub fn delete_rkey(&mut self, now: Time, rkey: u32) {
        self.deleting.push(rkey);
        self.next_requests(now);
    }

    // What happens.

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// At `at` a CDC came for a connection that it was given without [`LinkGroup::receive`]: the peer is there.
    pub fn heard(&mut self, at: Time) {
        if self.received < at && self.state != State::Ended {
            self.received = at;
            // What came before the question answers nothing.
            self.testing = self.testing.filter(|sent| *sent >= at);
        }
    }

    /// A SEND has come; `bytes` is as many as the completion says.
    pub fn receive(&mut self, now: Time, bytes: &[u8]) -> Incoming {
        if self.state == State::Ended {
            return Incoming::Llc;
        }
        self.received = now;
        self.testing = None;
        if bytes.first() == Some(&cdc::TYPE) {
            match Cdc::decode(bytes) {
                Ok(cdc) => return Incoming::Cdc(cdc),
                Err(_) => self.violated(),
            }
        } else {
            match Llc::decode(bytes) {
                Ok(Some(message)) if message.version == Version::V2 => self.received_llc(now, &message),
                Ok(_) => {}
                Err(_) => self.violated(),
            }
        }
        Incoming::Llc
    }

    /// The queue pair has failed: a work request completed with an error, or the device is gone.
    pub fn link_failed(&mut self) {
        self.end(Ended::LinkFailed);
    }

    /// End the group: the process ends, or the peer says that it is out of sync.
    pub fn terminate(&mut self, reason: DeleteReason) {
        self.delete_all(reason, false, Ended::Terminated);
    }

    /// Send TEST LINK now: something says that the peer may be gone. If it is, the group ends when the response is not there in time.
    pub fn test(&mut self, now: Time) {
        if self.state == State::Active && self.testing.is_none() {
            self.testing = Some(now);
            self.request(Body::TestLink([0; 16]));
        }
    }

    /// When to call [`LinkGroup::timeout`] if nothing else happens.
    pub fn deadline(&self) -> Option<Time> {
        let deleting = match self.state {
            State::Ended => return None,
            State::Deleting(until, _) => Some(until),
            State::Active => None,
        };
        let test = self.testing.map_or(self.received + TEST_LINK_AFTER, |sent| sent + RESPONSE_WAIT);
        let idle = self.idle.map(|since| since + self.idle_time());
        [Some(test), deleting, idle, self.confirming.deadline(), self.deleting.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// It is `now`.
    pub fn timeout(&mut self, now: Time) {
        match self.state {
            State::Ended => return,
            State::Deleting(until, reason) if until <= now => return self.end(Ended::ByPeer(reason)),
            State::Deleting(..) | State::Active => {}
        }
        if self.idle.is_some_and(|since| since + self.idle_time() <= now) {
            return self.delete_all(DeleteReason::PROGRAM, true, Ended::Idle);
        }
        match self.testing {
            Some(sent) if sent + RESPONSE_WAIT <= now => return self.end(Ended::PeerSilent),
            None if self.received + TEST_LINK_AFTER <= now => {
                self.testing = Some(now);
                self.request(Body::TestLink([0; 16]));
            }
            _ => {}
        }
        if let Some(rmb) = self.confirming.expired(now) {
            self.actions.push_back(Action::RkeyConfirmed(rmb, false));
        }
        if let Some(rkey) = self.deleting.expired(now) {
            // Without an answer the peer may still hold it.
            self.actions.push_back(Action::RkeyDeleted(rkey));
        }
        self.next_requests(now);
    }

    fn idle_time(&self) -> Time {
        match self.role {
            Role::Server => SERVER_IDLE,
            Role::Client => CLIENT_IDLE,
        }
    }

    fn received_llc(&mut self, now: Time, message: &Llc<'_>) {
        if message.response {
            return self.received_response(now, message);
        }
        match message.body {
            Body::TestLink(data) => self.respond(Body::TestLink(data)),
            Body::ConfirmRkey(body) => {
                self.respond(Body::ConfirmRkey(ConfirmRkey { reply: RkeyReply::POSITIVE, ..body }));
            }
            // In v2 the response has no rkeys.
            Body::DeleteRkey(body) => {
                let answer = DeleteRkey { negative: false, count: body.count, failed: 0, rkeys: [0; 8] };
                self.respond(Body::DeleteRkey(answer));
            }
            Body::AddLink(body) => {
                let rejected = Some(AddLink::NO_ALTERNATE_PATH);
                self.respond(Body::AddLink(AddLink { rejected, rkeys: None, ..body }));
            }
            Body::RequestAddLink(_) => self.respond(Body::RequestAddLink(RequestAddLink::EMPTY)),
            Body::ConfirmLink(_) if self.role == Role::Client => {
                self.respond(Body::ConfirmLink(self.confirmed))
            }
            Body::DeleteLink(body) => self.delete_link(now, body),
            // A server is not asked; the continuations follow on what was refused, or do not occur with one link.
            Body::ConfirmLink(_) | Body::AddLinkContinuation(_) | Body::ConfirmRkeyContinuation(_) => {}
        }
    }

    /// Responses are matched by type alone, as at the peer: there is one request of a type under way. TEST LINK has been served by
    /// anything's having come.
    fn received_response(&mut self, now: Time, message: &Llc<'_>) {
        match message.body {
            Body::ConfirmRkey(body) => {
                if let Some(rmb) = self.confirming.answered() {
                    self.actions.push_back(Action::RkeyConfirmed(rmb, !body.reply.negative));
                }
            }
            Body::DeleteRkey(_) => {
                if let Some(rkey) = self.deleting.answered() {
                    self.announced.forget(rkey);
                    self.actions.push_back(Action::RkeyDeleted(rkey));
                }
            }
            Body::DeleteLink(_) => {
                if let State::Deleting(_, reason) = self.state {
                    return self.end(Ended::ByPeer(reason));
                }
            }
            _ => {}
        }
        self.next_requests(now);
    }

    fn delete_link(&mut self, now: Time, body: DeleteLink) {
        if body.all {
            // A kernel does the same. No answer to it comes.
            let orderly = self.role == Role::Server;
            return self.delete_all(body.reason, orderly, Ended::ByPeer(body.reason));
        }
        if body.link != self.confirmed.link {
            return self.respond(Body::DeleteLink(DeleteLink { reason: DeleteReason::UNKNOWN_LINK, ..body }));
        }
        match self.role {
            Role::Client => {
                self.respond(Body::DeleteLink(DeleteLink { reason: DeleteReason::NONE, ..body }));
                self.end(Ended::ByPeer(body.reason));
            }
            // From a client it is a wish.
            Role::Server => {
                if self.state == State::Active {
                    self.state = State::Deleting(now + RESPONSE_WAIT, body.reason);
                    self.request(Body::DeleteLink(body));
                }
            }
        }
    }

    fn violated(&mut self) {
        self.delete_all(DeleteReason::PROTOCOL_VIOLATION, false, Ended::ProtocolViolation);
    }

    fn delete_all(&mut self, reason: DeleteReason, orderly: bool, why: Ended) {
        if self.state != State::Ended {
            self.request(Body::DeleteLink(DeleteLink { all: true, orderly, link: 0, reason }));
            self.end(why);
        }
    }

    fn end(&mut self, why: Ended) {
        if self.state != State::Ended {
            self.state = State::Ended;
            self.actions.push_back(Action::Ended(why));
        }
    }

    /// Sends the next CONFIRM RKEY and DELETE RKEY, where none is under way. Those that nobody can answer any more are never sent,
    /// [`Action::Ended`] stands for their answer.
    fn next_requests(&mut self, now: Time) {
        if self.state != State::Active {
            return;
        }
        if let Some(rmb) = self.confirming.next(now + RESPONSE_WAIT) {
            self.request(Body::ConfirmRkey(ConfirmRkey::single(rmb)));
        }
        if let Some(rkey) = self.deleting.next(now + RESPONSE_WAIT) {
            self.request(Body::DeleteRkey(DeleteRkey::single(rkey)));
        }
    }

    fn request(&mut self, body: Body<'_>) {
        self.actions.push_back(Action::Send(Llc::request(Version::V2, body).encode()));
    }

    fn respond(&mut self, body: Body<'_>) {
        self.actions.push_back(Action::Send(Llc::response(Version::V2, body).encode()));
    }
}
