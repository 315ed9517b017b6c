//! The handshake of one connection (RFC 7609 section 3.5): CLC messages on TCP, and at first contact CONFIRM LINK over the new link.
//!
//! ```text
//! client                                server
//! CLC PROPOSAL ------------------------>  Prepare: find or make a link group, take an RMB
//!         <----------------------------- CLC ACCEPT
//! Prepare: likewise
//! CLC CONFIRM -------------------------->  later contact: active. First contact: Connect
//!         <============================= LLC CONFIRM LINK request
//! Connect
//! LLC CONFIRM LINK response ============>  active
//! active (later contact: after CONFIRM)
//! ```
//!
//! [`Client`] and [`Server`] take what happens through their methods, and what has to be done comes out of `poll_action`. After each
//! call the caller does all actions, in their order, and sets one timer to `deadline`. The last action is [`Action::Done`].
//!
//! Only the server decides whether it is a first contact. Both ends must be quick in `Prepare` and `Connect`: a kernel server
//! holds a lock over all of its host's handshakes until CONFIRM has come, and a kernel client's `connect` fails six
//! seconds after its PROPOSAL, without falling back.
//!
//! After DECLINE, in either direction, the next byte of the TCP stream is the program's. A DECLINE is never answered.

mod client;
mod server;
#[cfg(test)]
mod tests;

use crate::clc::{Answer, Decline, LinkEnd, Malformed, Rmbe};
use crate::llc::ConfirmLink;
use crate::{Diagnosis, Eid, Gid, Mac, PeerId, Time};
use std::collections::VecDeque;

pub use client::Client;
pub use server::{Contact, Prepared, Server, ServerConfig};

/// How long the next CLC message is waited for (Linux).
pub const CLC_WAIT: Time = Time::from_secs(6);
/// How long a client waits for the CONFIRM LINK request (Linux).
pub const CONFIRM_LINK_REQUEST_WAIT: Time = Time::from_secs(4);
/// How long a server waits for the CONFIRM LINK response (Linux).
pub const CONFIRM_LINK_RESPONSE_WAIT: Time = Time::from_secs(2);
/// When a server repeats its CONFIRM LINK request, once: a kernel client loses it if it comes right behind CONFIRM.
pub const CONFIRM_LINK_REPEAT: Time = Time::from_secs(1);
/// How long, after CONFIRM LINK has not come, either side waits for a DECLINE that may be on its way (Linux).
pub const CROSSING_DECLINE_WAIT: Time = Time::from_secs(1);

/// The least number of connections per link group that may be agreed on.
pub const MIN_CONNECTIONS: u8 = 16;
/// The greatest number of links per link group.
pub const MAX_LINKS: u8 = 2;

/// What a host tells about itself at first contact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Host {
    /// Padded with blanks, see [`FirstContact::padded_name`](crate::clc::FirstContact::host_name).
    pub name: [u8; 32],
    /// Feature mask; 0 unless there is a reason.
    pub features: u16,
}

/// This side's end of a connection: its queue pair and its RMBE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Local {
    pub link: LinkEnd,
    pub rmbe: Rmbe,
}

/// What was agreed on for a new link group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    pub release: u8,
    /// Connections per link group.
    pub max_connections: u8,
    /// Links per link group.
    pub max_links: u8,
    /// No gateway lies between.
    pub direct: bool,
}

impl Terms {
    /// With release 0 nothing is negotiated.
    fn release_0(direct: bool) -> Terms {
        Terms { release: 0, max_connections: 255, max_links: MAX_LINKS, direct }
    }
}

/// Something the caller has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Write this to the TCP connection.
    SendClc(Vec<u8>),
    /// Send this over the new link.
    SendLlc(Vec<u8>),
    /// Client: make ready for what the ACCEPT says, then call [`Client::prepared`].
    ///
    /// First contact: make a link group with a queue pair, bring it to RTR with the queue pair number, packet sequence number and GID
    /// in there (MTU: the lesser of both), post receives; take an RMB. If a gateway is said to lie between, look up the route.
    ///
    /// Later contact: find the link group by peer id, GID and queue pair number
    /// ([`LinkGroup::is_named_by`](crate::group::LinkGroup::is_named_by)), or fail with [`Diagnosis::SYNCERR`]; take an RMB.
    PrepareClient(Box<Answer>),
    /// Server: choose the contact, then call [`Server::prepared`].
    PrepareServer(Wish),
    /// Client: bring the queue pair to RTS, register the RMB. Server: bring the queue pair to RTR with what the CONFIRM says (the GID and
    /// MAC from the [`Wish`]), post receives, bring it to RTS, register the RMB. Then call `connected`.
    Connect(Box<Answer>),
    /// It is over.
    Done(Outcome),
}

/// What, besides the queue pair, tells a peer's link groups apart. For a server what the first contact's PROPOSAL says, for a client what
/// its ACCEPT says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GroupKey {
    /// Kernel clients without RoCE v1 GIDs propose with zero.
    pub peer_id: PeerId,
    pub gid: Gid,
}

/// What a client's PROPOSAL asks a server for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// By which the server finds a link group; the GID has an IPv4 address.
    pub key: GroupKey,
    /// Of the client's port; may be zero.
    pub mac: Mac,
    /// The first of the client's EIDs that this side has.
    pub eid: Eid,
    /// For a new link group, `direct` not yet set.
    pub terms: Terms,
    /// The client's device is iWARP ([`crate::iwarp`]).
    pub iwarp: bool,
}

/// How a handshake ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The connection is on SMC-R.
    Active(Box<Established>),
    /// The connection is TCP. The next byte of its stream is the program's. What was made for it is given back; a new link group ends.
    Fallback(Fallback),
    /// The connection is lost.
    Failed(Failure),
}

/// A connection on SMC-R.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Established {
    pub local: Local,
    /// The peer's queue pair and RMBE. `peer.link` of a server has the queue pair from the CONFIRM.
    pub peer: Local,
    pub eid: Eid,
    /// First contact: what the new link group needs.
    pub first_contact: Option<NewGroup>,
}

/// What a new link group begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewGroup {
    pub key: GroupKey,
    pub terms: Terms,
    /// The peer's host name.
    pub peer_host: [u8; 32],
    /// This side's CONFIRM LINK.
    pub confirmed: ConfirmLink,
}

/// Why it is TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fallback {
    /// The reason; [`Diagnosis::PEERDECL`] if the peer declined.
    pub diagnosis: Diagnosis,
    /// The peer's own reason.
    pub peer: Option<Diagnosis>,
    /// The peer says that the link group of this connection is out of sync: it ends, with all its connections.
    pub out_of_sync: bool,
}

impl Fallback {
    fn here(diagnosis: Diagnosis) -> Outcome {
        Outcome::Fallback(Fallback { diagnosis, peer: None, out_of_sync: false })
    }

    fn declined(decline: &Decline) -> Outcome {
        Outcome::Fallback(Fallback {
            diagnosis: Diagnosis::PEERDECL,
            peer: Some(decline.diagnosis),
            out_of_sync: decline.out_of_sync,
        })
    }
}

/// Why a connection is lost. A client's `connect` fails with it; a server closes the connection, and the program never hears of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No CLC message came in time: ETIMEDOUT.
    TimedOut,
    /// The peer closed or reset the TCP connection: ECONNRESET.
    Closed,
    /// The peer broke the rules, and what follows in the stream cannot be trusted: EPROTO.
    Malformed(Malformed),
}

/// Actions that are to be done, in their order.
type Actions = VecDeque<Action>;

/// Whether what the peer says of its queue pair and RMBE can be used; `first_contact`: its queue pair is new.
fn check_peer(peer: &Answer, first_contact: bool) -> Result<(), Diagnosis> {
    if first_contact && peer.link.mtu.bytes().is_none() {
        return Err(Diagnosis::ERR_RDYLNK);
    }
    if peer.rmbe.token == 0 || peer.rmbe.address().is_none() {
        return Err(Diagnosis::ERR_RTOK);
    }
    Ok(())
}
