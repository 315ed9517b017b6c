//! The server's side.

use super::client::Deadline;
use super::{
    check_peer, Action, Actions, Established, Failure, Fallback, GroupKey, Host, Local, NewGroup, Outcome,
    Terms, Wish, CLC_WAIT, CONFIRM_LINK_REPEAT, CONFIRM_LINK_RESPONSE_WAIT, CROSSING_DECLINE_WAIT, MAX_LINKS,
    MIN_CONNECTIONS,
};
use crate::clc::{
    Answer, Chosen, Clc, Decline, FirstContact, Kind, Malformed, Offers, Proposal, Version, LINUX,
};
use crate::llc::{self, AddLink, Body, ConfirmLink, Llc};
use crate::{iwarp, Bounded, Diagnosis, Eid, MtuCode, PeerId, Time, U24};

/// The number of the first link of a link group.
const FIRST_LINK: u8 = 1;

/// What a server says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerConfig {
    pub peer_id: PeerId,
    /// Those that clients may use.
    pub eids: Vec<Eid>,
    /// Connections per link group, at least [`MIN_CONNECTIONS`].
    pub max_connections: u8,
    /// Links per link group: 1, as long as there are no others to add.
    pub max_links: u8,
    pub host: Host,
}

/// The link group that the connection goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contact {
    /// One that was made for it.
    First {
        /// No gateway lies between the ports.
        direct: bool,
        /// For display.
        user_id: [u8; 4],
        /// The port on which the server listens with rdma_cm, where its device is iWARP ([`crate::iwarp`]).
        iwarp: Option<u16>,
    },
    /// One whose first contact is finished.
    Later,
}

/// What the server prepared for a [`Wish`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prepared {
    pub local: Local,
    pub contact: Contact,
}

/// The handshake as the one who listened. See the [module](super).
///
/// From ACCEPT on CDC messages may come for the token in it, before the CONFIRM has been read: the caller keeps them until
/// [`Outcome::Active`].
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    state: State,
    deadline: Option<Time>,
    /// The last action is queued.
    over: bool,
    actions: Actions,
}

#[derive(Debug)]
enum State {
    AwaitProposal,
    Preparing(Wish),
    AwaitConfirm(Wish, Prepared),
    Connecting(Negotiated),
    AwaitConfirmLink { negotiated: Negotiated, request: ConfirmLink, give_up: Time },
    AwaitDecline,
    Done,
}

/// What is known after CONFIRM at first contact.
#[derive(Clone, Debug)]
struct Negotiated {
    wish: Wish,
    local: Local,
    peer: Local,
    peer_host: [u8; 32],
    user_id: [u8; 4],
}

impl Server {
    /// Begins at `now`, waiting for a proposal.
    pub fn new(now: Time, config: ServerConfig) -> Server {
        Server {
            config,
            state: State::AwaitProposal,
            deadline: Some(now + CLC_WAIT),
            over: false,
            actions: Actions::new(),
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Server::timeout`] if nothing else happens.
    pub fn deadline(&self) -> Option<Time> {
        self.deadline
    }

    /// A CLC message has come.
    pub fn received(&mut self, message: Clc) {
        match (core::mem::replace(&mut self.state, State::Done), message) {
            (State::Done, _) => {}
            (_, Clc::Decline(decline)) => self.finish(Fallback::declined(&decline)),
            (State::AwaitProposal, Clc::Proposal(proposal)) => match self.check(&proposal) {
                Ok(wish) => {
                    self.deadline = None;
                    self.actions.push_back(Action::PrepareServer(wish));
                    self.state = State::Preparing(wish);
                }
                Err(diagnosis) => self.decline(proposal.version(), diagnosis),
            },
            (State::AwaitConfirm(wish, prepared), Clc::Confirm(confirm)) => {
                self.confirm(wish, prepared, confirm)
            }
            (State::AwaitConfirm(..), Clc::SmcD { kind: Kind::Confirm, .. }) => {
                self.malformed(Malformed::Mismatch)
            }
            (_, message) => self.malformed(Malformed::Type(message.kind() as u8)),
        }
    }

    /// What has come is not CLC.
    pub fn malformed(&mut self, why: Malformed) {
        self.finish(Outcome::Failed(Failure::Malformed(why)));
    }

    /// The client has closed or reset the TCP connection.
    pub fn closed(&mut self) {
        self.finish(Outcome::Failed(Failure::Closed));
    }

    /// [`Action::PrepareServer`] is done; with an error the client gets it in a DECLINE.
    pub fn prepared(&mut self, now: Time, prepared: Result<Prepared, Diagnosis>) {
        let mut wish = match core::mem::replace(&mut self.state, State::Done) {
            State::Preparing(wish) => wish,
            other => return self.state = other,
        };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(diagnosis) => return self.decline(Version::V2, diagnosis),
        };
        let first_contact = match prepared.contact {
            Contact::Later => None,
            Contact::First { direct, iwarp, .. } => {
                wish.terms.direct = direct;
                let limits = match wish.terms {
                    Terms { release: 0, .. } => (0, 0),
                    Terms { max_connections, max_links, .. } => (max_connections, max_links),
                };
                Some(FirstContact {
                    direct,
                    operating_system: LINUX,
                    release: wish.terms.release,
                    host_name: self.config.host.name,
                    max_connections: limits.0,
                    max_links: limits.1,
                    features: self.config.host.features,
                    vendor: iwarp::vendor(iwarp),
                    gids: Bounded::new(),
                })
            }
        };
        let Local { link, rmbe } = prepared.local;
        let accept = Answer { link, rmbe, chosen: Chosen::V2 { eid: wish.eid, first_contact } };
        self.actions.push_back(Action::SendClc(accept.encode(Kind::Accept)));
        self.deadline = Some(now + CLC_WAIT);
        self.state = State::AwaitConfirm(wish, prepared);
    }

    /// [`Action::Connect`] is done.
    pub fn connected(&mut self, now: Time, result: Result<(), Diagnosis>) {
        let negotiated = match core::mem::replace(&mut self.state, State::Done) {
            State::Connecting(negotiated) => negotiated,
            other => return self.state = other,
        };
        if let Err(diagnosis) = result {
            return self.decline(Version::V2, diagnosis);
        }
        let Terms { release, max_connections, max_links, .. } = negotiated.wish.terms;
        let request = ConfirmLink {
            no_eye_catcher: ConfirmLink::NO_EYE_CATCHER,
            mac: negotiated.local.link.mac,
            gid: negotiated.local.link.gid,
            qpn: negotiated.local.link.qpn,
            link: FIRST_LINK,
            user_id: negotiated.user_id,
            max_links,
            max_connections: if release == 0 { 0 } else { max_connections },
        };
        self.send_confirm_link(request);
        self.deadline = Some(now + CONFIRM_LINK_REPEAT);
        let give_up = now + CONFIRM_LINK_RESPONSE_WAIT;
        self.state = State::AwaitConfirmLink { negotiated, request, give_up };
    }

    /// An LLC message has come over the new link. Others than the CONFIRM LINK response are not due, and ignored.
    pub fn received_llc(&mut self, message: &Llc<'_>) {
        let State::AwaitConfirmLink { negotiated, request, .. } = &self.state else { return };
        let Body::ConfirmLink(response) = message.body else { return };
        if !message.response || message.version != llc::Version::V2 {
            return;
        }
        if response.no_eye_catcher == 0 {
            return self.decline(Version::V2, Diagnosis::RMBE_EC);
        }
        let (negotiated, confirmed) = (negotiated.clone(), *request);
        if negotiated.wish.terms.release == 0 {
            self.spare_client_its_wait(&negotiated);
        }
        let Negotiated { local, peer, wish, peer_host, .. } = negotiated;
        let first_contact = Some(NewGroup { key: wish.key, terms: wish.terms, peer_host, confirmed });
        let established = Established { local, peer, eid: wish.eid, first_contact };
        self.finish(Outcome::Active(Box::new(established)));
    }

    /// The new link does not work: its queue pair failed, or something malformed came over it.
    pub fn link_failed(&mut self) {
        if matches!(self.state, State::Connecting(_) | State::AwaitConfirmLink { .. }) {
            self.decline(Version::V2, Diagnosis::ERR_RDYLNK);
        }
    }

    /// It is `now`.
    pub fn timeout(&mut self, now: Time) {
        if self.deadline.is_none_or_later(now) {
            return;
        }
        match self.state {
            State::AwaitProposal | State::AwaitConfirm(..) => self.finish(Outcome::Failed(Failure::TimedOut)),
            State::AwaitConfirmLink { request, give_up, .. } if now < give_up => {
                self.send_confirm_link(request);
                self.deadline = Some(give_up);
            }
            State::AwaitConfirmLink { .. } => {
                self.deadline = Some(now + CROSSING_DECLINE_WAIT);
                self.state = State::AwaitDecline;
            }
            State::AwaitDecline => self.decline(Version::V2, Diagnosis::TIMEOUT_CL),
            State::Preparing(_) | State::Connecting(_) | State::Done => self.deadline = None,
        }
    }

    /// Whether the proposal can be served.
    fn check(&self, proposal: &Proposal) -> Result<Wish, Diagnosis> {
        let offer = match &proposal.offers {
            // There are no devices for version 1 here, as if the host had none.
            Offers::V1(_) => return Err(Diagnosis::NOSMCDEV),
            Offers::V2 { v2: Some(v2), .. } if v2.smc_r => v2,
            Offers::V2 { v1: Some(v1), .. } if v1.technology.has_r() => return Err(Diagnosis::NOSMCDEV),
            Offers::V2 { .. } => return Err(Diagnosis::PEERNOSMC),
        };
        if offer.eids.is_empty() {
            return Err(Diagnosis::NOUEID);
        }
        let release = offer.release.min(1);
        if release > 0 && offer.max_connections < MIN_CONNECTIONS {
            return Err(Diagnosis::MAXCONNERR);
        }
        if release > 0 && offer.max_links == 0 {
            return Err(Diagnosis::MAXLINKERR);
        }
        let eid = offer.eids.iter().find(|eid| self.config.eids.contains(eid)).ok_or(Diagnosis::NOSMCDEV)?;
        if offer.gid.ipv4().is_none() {
            return Err(Diagnosis::NOSMCRDEV);
        }
        let terms = match release {
            0 => Terms::release_0(false),
            _ => Terms {
                release,
                max_connections: offer.max_connections.min(self.config.max_connections.max(MIN_CONNECTIONS)),
                max_links: offer.max_links.min(self.config.max_links.clamp(1, MAX_LINKS)),
                direct: false,
            },
        };
        let key = GroupKey { peer_id: proposal.peer_id, gid: offer.gid };
        Ok(Wish { key, mac: proposal.mac, eid: *eid, terms, iwarp: iwarp::is_offered(proposal) })
    }

    fn confirm(&mut self, wish: Wish, prepared: Prepared, confirm: Answer) {
        let peer = Local { link: confirm.link, rmbe: confirm.rmbe };
        match (&confirm.chosen, prepared.contact) {
            (Chosen::V2 { first_contact: None, .. }, Contact::Later) => {
                // The client is active already, and reads no DECLINE any more.
                if check_peer(&confirm, false).is_err() {
                    return self.malformed(Malformed::Mismatch);
                }
                let established =
                    Established { local: prepared.local, peer, eid: wish.eid, first_contact: None };
                self.finish(Outcome::Active(Box::new(established)));
            }
            (Chosen::V2 { first_contact: Some(first), .. }, Contact::First { user_id, .. }) => {
                if let Err(diagnosis) = check_repeated(&wish.terms, first).and(check_peer(&confirm, true)) {
                    return self.decline(Version::V2, diagnosis);
                }
                let negotiated =
                    Negotiated { wish, local: prepared.local, peer, peer_host: first.host_name, user_id };
                self.deadline = None;
                self.state = State::Connecting(negotiated);
                self.actions.push_back(Action::Connect(Box::new(confirm)));
            }
            _ => self.malformed(Malformed::Mismatch),
        }
    }

    fn send_confirm_link(&mut self, request: ConfirmLink) {
        let message = Llc::request(llc::Version::V2, Body::ConfirmLink(request));
        self.actions.push_back(Action::SendLlc(message.encode()));
    }

    /// A client of release 0 waits three seconds for an ADD LINK before its `connect` returns. One that it must refuse, for it has
    /// no valid MTU, ends the wait at once.
    fn spare_client_its_wait(&mut self, negotiated: &Negotiated) {
        let add_link = AddLink {
            rejected: None,
            mac: negotiated.local.link.mac,
            gid: negotiated.local.link.gid,
            qpn: U24::default(),
            link: FIRST_LINK + 1,
            mtu: MtuCode::truncated(0),
            psn: U24::default(),
            rkeys: None,
        };
        let message = Llc::request(llc::Version::V2, Body::AddLink(add_link));
        self.actions.push_back(Action::SendLlc(message.encode()));
    }

    fn decline(&mut self, version: Version, diagnosis: Diagnosis) {
        let message = Decline::new(version, self.config.peer_id, diagnosis);
        self.actions.push_back(Action::SendClc(message.encode()));
        self.finish(Fallback::here(diagnosis));
    }

    fn finish(&mut self, outcome: Outcome) {
        if core::mem::replace(&mut self.over, true) {
            return;
        }
        self.deadline = None;
        self.state = State::Done;
        self.actions.push_back(Action::Done(outcome));
    }
}

/// Whether the CONFIRM repeats the ACCEPT's release and limits.
fn check_repeated(terms: &Terms, confirm: &FirstContact) -> Result<(), Diagnosis> {
    if confirm.release != terms.release {
        return Err(Diagnosis::RELEASEERR);
    }
    if terms.release > 0 && confirm.max_connections != terms.max_connections {
        return Err(Diagnosis::MAXCONNERR);
    }
    if terms.release > 0 && confirm.max_links != terms.max_links {
        return Err(Diagnosis::MAXLINKERR);
    }
    Ok(())
}
