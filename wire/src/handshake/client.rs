//! The client's side.

use super::{
    check_peer, Action, Actions, Established, Failure, Fallback, GroupKey, Host, Local, NewGroup, Outcome,
    Terms, CLC_WAIT, CONFIRM_LINK_REQUEST_WAIT, CROSSING_DECLINE_WAIT, MAX_LINKS, MIN_CONNECTIONS,
};
use crate::clc::{Answer, Chosen, Clc, Decline, FirstContact, Kind, Malformed, Proposal, Version, LINUX};
use crate::llc::{self, Body, ConfirmLink, Llc};
use crate::{Bounded, Diagnosis, Eid, Time};

/// The handshake as the one who connected. See the [module](super).
#[derive(Debug)]
pub struct Client {
    proposal: Proposal,
    host: Host,
    state: State,
    deadline: Option<Time>,
    /// The last action is queued.
    over: bool,
    actions: Actions,
}

/// What has come of the ACCEPT.
#[derive(Clone, Debug)]
struct Accepted {
    accept: Answer,
    eid: Eid,
    /// First contact.
    terms: Option<Terms>,
}

#[derive(Debug)]
enum State {
    AwaitAccept,
    Preparing(Accepted),
    AwaitConfirmLink(Accepted, Local),
    Connecting(Accepted, Local, ConfirmLink),
    /// No CONFIRM LINK came; the server's DECLINE may.
    AwaitDecline,
    Done,
}

impl Client {
    /// Begins at `now`: the first action sends the proposal, which offers SMC-Rv2.
    pub fn new(now: Time, proposal: Proposal, host: Host) -> Client {
        let actions = Actions::from([Action::SendClc(proposal.encode())]);
        Client {
            proposal,
            host,
            state: State::AwaitAccept,
            deadline: Some(now + CLC_WAIT),
            over: false,
            actions,
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Client::timeout`] if nothing else happens.
    pub fn deadline(&self) -> Option<Time> {
        self.deadline
    }

    /// A CLC message has come.
    pub fn received(&mut self, message: Clc) {
        match (core::mem::replace(&mut self.state, State::Done), message) {
            (State::Done, _) => {}
            (_, Clc::Decline(decline)) => self.finish(Fallback::declined(&decline)),
            (State::AwaitAccept, Clc::Accept(accept)) => {
                let version = accept.version();
                match self.check(accept) {
                    Ok(accepted) => {
                        // From here on the caller is at work, and the peer's clock runs.
                        self.deadline = None;
                        self.actions.push_back(Action::PrepareClient(Box::new(accepted.accept.clone())));
                        self.state = State::Preparing(accepted);
                    }
                    Err(diagnosis) => self.decline(version, diagnosis),
                }
            }
            (State::AwaitAccept, Clc::SmcD { kind: Kind::Accept, version }) => {
                self.decline(version, Diagnosis::MODEUNSUPP);
            }
            (_, message) => self.malformed(Malformed::Type(message.kind() as u8)),
        }
    }

    /// What has come is not CLC.
    pub fn malformed(&mut self, why: Malformed) {
        self.finish(Outcome::Failed(Failure::Malformed(why)));
    }

    /// The server has closed or reset the TCP connection.
    pub fn closed(&mut self) {
        self.finish(Outcome::Failed(Failure::Closed));
    }

    /// [`Action::PrepareClient`] is done.
    pub fn prepared(&mut self, now: Time, local: Result<Local, Diagnosis>) {
        let accepted = match core::mem::replace(&mut self.state, State::Done) {
            State::Preparing(accepted) => accepted,
            other => return self.state = other,
        };
        let mut local = match local {
            Ok(local) => local,
            Err(diagnosis) => return self.decline(accepted.accept.version(), diagnosis),
        };
        local.link.mtu = local.link.mtu.min(accepted.accept.link.mtu);
        let first_contact = match &accepted.accept.chosen {
            Chosen::V2 { first_contact: Some(first), .. } => Some(FirstContact {
                operating_system: LINUX,
                host_name: self.host.name,
                features: self.host.features,
                vendor: [0; 4],
                gids: Bounded::try_from(vec![local.link.gid]).unwrap_or_default(),
                ..first.clone()
            }),
            _ => None,
        };
        let chosen = Chosen::V2 { eid: accepted.eid, first_contact };
        let confirm = Answer { link: local.link, rmbe: local.rmbe, chosen };
        self.actions.push_back(Action::SendClc(confirm.encode(Kind::Confirm)));
        if accepted.terms.is_some() {
            self.deadline = Some(now + CONFIRM_LINK_REQUEST_WAIT);
            self.state = State::AwaitConfirmLink(accepted, local);
        } else {
            self.establish(&accepted, local, None);
        }
    }

    /// An LLC message has come over the new link. Others than the CONFIRM LINK request are not due, and ignored; a DELETE LINK says that
    /// the server has given up, and then its DECLINE comes too.
    pub fn received_llc(&mut self, message: &Llc<'_>) {
        let (accepted, local) = match core::mem::replace(&mut self.state, State::Done) {
            State::AwaitConfirmLink(accepted, local) => (accepted, local),
            other => return self.state = other,
        };
        match message.body {
            Body::ConfirmLink(request) if !message.response && message.version == llc::Version::V2 => {
                if request.no_eye_catcher == 0 {
                    return self.decline(Version::V2, Diagnosis::RMBE_EC);
                }
                self.deadline = None;
                self.actions.push_back(Action::Connect(Box::new(accepted.accept.clone())));
                self.state = State::Connecting(accepted, local, request);
            }
            _ => self.state = State::AwaitConfirmLink(accepted, local),
        }
    }

    /// [`Action::Connect`] is done.
    pub fn connected(&mut self, result: Result<(), Diagnosis>) {
        let (accepted, local, request) = match core::mem::replace(&mut self.state, State::Done) {
            State::Connecting(accepted, local, request) => (accepted, local, request),
            other => return self.state = other,
        };
        if let Err(diagnosis) = result {
            return self.decline(Version::V2, diagnosis);
        }
        let (mac, gid, qpn) = (local.link.mac, local.link.gid, local.link.qpn);
        let no_eye_catcher = ConfirmLink::NO_EYE_CATCHER;
        let response = ConfirmLink { no_eye_catcher, mac, gid, qpn, ..request };
        let message = Llc::response(llc::Version::V2, Body::ConfirmLink(response));
        self.actions.push_back(Action::SendLlc(message.encode()));
        self.establish(&accepted, local, Some(response));
    }

    /// The new link does not work: its queue pair failed, or something malformed came over it.
    pub fn link_failed(&mut self) {
        if matches!(self.state, State::AwaitConfirmLink(..) | State::Connecting(..)) {
            self.decline(Version::V2, Diagnosis::ERR_RDYLNK);
        }
    }

    /// It is `now`.
    pub fn timeout(&mut self, now: Time) {
        if self.deadline.is_none_or_later(now) {
            return;
        }
        match self.state {
            State::AwaitAccept => self.finish(Outcome::Failed(Failure::TimedOut)),
            State::AwaitConfirmLink(..) => {
                self.deadline = Some(now + CROSSING_DECLINE_WAIT);
                self.state = State::AwaitDecline;
            }
            State::AwaitDecline => self.decline(Version::V2, Diagnosis::TIMEOUT_CL),
            State::Preparing(_) | State::Connecting(..) | State::Done => self.deadline = None,
        }
    }

    /// Whether the ACCEPT fits what was proposed.
    fn check(&self, accept: Answer) -> Result<Accepted, Diagnosis> {
        let (Chosen::V2 { eid, first_contact }, Some(offer)) = (&accept.chosen, self.proposal.v2()) else {
            return Err(Diagnosis::MODEUNSUPP);
        };
        let eid = *eid;
        if !offer.eids.contains(&eid) {
            return Err(Diagnosis::NOSMCDEV);
        }
        let terms = match first_contact {
            None => None,
            Some(first) if first.release > offer.release => return Err(Diagnosis::RELEASEERR),
            Some(first) if first.release == 0 => Some(Terms::release_0(first.direct)),
            Some(first) if first.max_connections < MIN_CONNECTIONS => return Err(Diagnosis::MAXCONNERR),
            Some(first) if !(1..=MAX_LINKS).contains(&first.max_links) => return Err(Diagnosis::MAXLINKERR),
            Some(first) => Some(Terms {
                release: first.release,
                max_connections: first.max_connections,
                max_links: first.max_links,
                direct: first.direct,
            }),
        };
        check_peer(&accept, terms.is_some())?;
        Ok(Accepted { accept, eid, terms })
    }

    fn establish(&mut self, accepted: &Accepted, local: Local, confirmed: Option<ConfirmLink>) {
        let peer_host = match &accepted.accept.chosen {
            Chosen::V2 { first_contact: Some(first), .. } => first.host_name,
            _ => [b' '; 32],
        };
        let peer = Local { link: accepted.accept.link, rmbe: accepted.accept.rmbe };
        let key = GroupKey { peer_id: peer.link.peer_id, gid: peer.link.gid };
        let first_contact = accepted.terms.zip(confirmed).map(|(terms, confirmed)| NewGroup {
            key,
            terms,
            peer_host,
            confirmed,
        });
        let established = Established { local, peer, eid: accepted.eid, first_contact };
        self.finish(Outcome::Active(Box::new(established)));
    }

    fn decline(&mut self, version: Version, diagnosis: Diagnosis) {
        let message = Decline::new(version, self.proposal.peer_id, diagnosis);
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

/// Of a deadline.
pub(super) trait Deadline {
    /// Whether there is none, or it is later than `now`.
    fn is_none_or_later(&self, now: Time) -> bool;
}

impl Deadline for Option<Time> {
    fn is_none_or_later(&self, now: Time) -> bool {
        !matches!(self, Some(deadline) if *deadline <= now)
    }
}
