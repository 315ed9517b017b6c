//! A link: a queue pair, and what is under way on it.
//!
//! Every message takes a *slot* until it has completed: its bytes lie there, and the slot says which connection's RDMA writes went
//! before it. The number of slots bounds what is outstanding, so that the queue pair's send queue never overflows and the peer's
//! receives (48 in Linux) suffice. Slots are given to connections in turn; LLC messages go first, and some slots are for them
//! alone, since a peer waits for them two seconds only.
//!
//! Locks: a connection's before a link's, never the other way round. What has completed is taken under another lock: see [`intake`].

mod arming;
mod intake;

use crate::conn::Conn;
use crate::engine::inbox::{Command, Inbox};
use crate::port::{Port, Transport};
use crate::verbs::{
    Access, CompletionQueue, Memory, MemoryRegion, Piece, ProtectionDomain, QueuePair, RemoteEnd, Write,
};
use parking_lot::Mutex;
use smc_core::sys::{self, Result};
use smc_wire::clc::LinkEnd;
use smc_wire::{cdc, Gid, PeerId, U24};
use std::collections::VecDeque;
use std::sync::Arc;

use intake::Intake;

/// Messages under way.
const SLOTS: usize = 24;
/// Of those as many are left to LLC.
const LLC_SLOTS: usize = 8;
/// Bytes for a message; ours are all that long or shorter.
const SLOT: usize = 64;
/// LLC messages that may wait for a slot. A peer that asks for more, and whose device does not take the answers, has lost its link.
const MAX_LLC: usize = 256;
/// Two RDMA writes may go before each message.
const SEND_REQUESTS: u32 = 3 * SLOTS as u32;
/// Receives that are posted: a peer that finds none waits, on soft-RoCE for milliseconds.
const RECEIVES: usize = 256;
/// Bytes for a received message: ADD LINK with as many rkeys as a link group can have (72 + 16 * 255), rounded up.
const RECEIVE: usize = 4352;

/// Set in the number of a receive; else it is a slot.
const IS_RECEIVE: u64 = 1 << 32;

/// A link. See the [module](self).
pub struct Link {
    /// In this process.
    pub id: u64,
    pub port: Arc<Port>,
    // In this order they are dropped.
    pair: QueuePair,
    receives: MemoryRegion,
    messages: MemoryRegion,
    queue: Arc<CompletionQueue>,
    domain: Arc<ProtectionDomain>,
    /// The first packet sequence number it sends.
    psn: U24,
    inbox: Arc<Inbox>,
    state: Mutex<Sending>,
    intake: Intake,
}

struct Sending {
    /// It can send: the queue pair is ready, and nothing has failed.
    ready: bool,
    slots: [Slot; SLOTS],
    llc: VecDeque<Vec<u8>>,
    /// Connections that found no slot.
    waiting: VecDeque<Arc<Conn>>,
}

enum Slot {
    Free,
    /// A connection is about to use it.
    Reserved,
    Llc,
    Cdc {
        conn: Arc<Conn>,
        /// The bytes of the stream up to here have been written when it completes.
        sent: u64,
    },
}

/// A slot that was taken for a connection.
#[must_use]
pub struct Reserved(usize);

impl Link {
    /// A link on a port; its queue pair can be named to a peer, and nothing else.
    pub fn new(id: u64, port: &Arc<Port>, inbox: &Arc<Inbox>) -> Result<Arc<Link>> {
        let domain = ProtectionDomain::new(&port.context)?;
        let queue = CompletionQueue::new(&port.context, SEND_REQUESTS + RECEIVES as u32)?;
        // siw of Linux sends a write that does not complete by itself out of our memory even after a later message has completed; by
        // then the memory has other bytes.
        let signal_writes = port.transport == Transport::Iwarp;
        let pair = QueuePair::new(&domain, &queue, SEND_REQUESTS, RECEIVES as u32, signal_writes)?;
        match port.transport {
            Transport::Roce => pair.init(port.path())?,
            Transport::Iwarp => pair.init_for_manager()?,
        }
        let region = |length: usize| {
            let memory = Memory::new(length.next_multiple_of(4096))?;
            MemoryRegion::new(&domain, &memory, 0, length, Access::Local)
        };
        let mut random = [0; 4];
        sys::random(&mut random)?;
        Ok(Arc::new(Link {
            id,
            port: Arc::clone(port),
            receives: region(RECEIVES * RECEIVE)?,
            messages: region(SLOTS * SLOT)?,
            pair,
            queue,
            domain,
            psn: U24::truncated(u32::from_ne_bytes(random)),
            inbox: Arc::clone(inbox),
            state: Mutex::new(Sending {
                ready: false,
                slots: [const { Slot::Free }; SLOTS],
                llc: VecDeque::new(),
                waiting: VecDeque::new(),
            }),
            intake: Intake::default(),
        }))
    }

    /// As CLC messages name it.
    pub fn end(&self, peer_id: PeerId) -> LinkEnd {
        LinkEnd {
            peer_id,
            gid: self.port.gid,
            mac: self.port.mac,
            qpn: self.pair.number(),
            psn: self.psn,
            mtu: self.port.mtu,
        }
    }

    /// For memory that the peer is to write to.
    pub fn domain(&self) -> &Arc<ProtectionDomain> {
        &self.domain
    }

    /// Readable when completions are to be taken.
    pub fn fd(&self) -> i32 {
        self.queue.fd()
    }

    /// From here on it receives. `peer` is its end as the peer named it, `gid` where that is.
    pub fn ready_to_receive(&self, peer: &LinkEnd, gid: Gid) -> Result<()> {
        let mtu = self.port.mtu.min(peer.mtu);
        let remote = RemoteEnd { gid, qpn: peer.qpn, psn: peer.psn, mtu };
        self.pair.ready_to_receive(self.port.path(), &remote)?;
        self.post_receives()
    }

    /// Posts all receives. On iWARP that is done before the queue pair is connected, and it receives as soon as it is.
    pub fn post_receives(&self) -> Result<()> {
        (0..RECEIVES).try_for_each(|index| self.repost(index))
    }

    /// The queue pair is ready; on iWARP, connected.
    pub fn sends_from_now_on(&self) {
        self.state.lock().ready = true;
    }

    /// For the connection manager.
    pub fn pair(&self) -> &QueuePair {
        &self.pair
    }

    /// From here on it sends.
    pub fn ready_to_send(&self) -> Result<()> {
        self.pair.ready_to_send(self.port.path(), self.psn)?;
        self.sends_from_now_on();
        Ok(())
    }

    /// Gives a receive back.
    fn repost(&self, index: usize) -> Result<()> {
        let into = Piece { region: &self.receives, offset: index * RECEIVE, length: RECEIVE };
        self.pair.receive(IS_RECEIVE | index as u64, into)
    }

    /// A message has gone: its slot is free, or taken by the next LLC message.
    fn free(&self, slot: usize) -> Slot {
        let mut state = self.state.lock();
        let was = std::mem::replace(&mut state.slots[slot], Slot::Free);
        if let Some(message) = state.llc.pop_front() {
            self.post_llc(&mut state, slot, &message);
        }
        was
    }

    /// Sends an LLC message, at once or when a slot is free.
    pub fn send_llc(&self, message: Vec<u8>) {
        let mut state = self.state.lock();
        match state.free(0) {
            Some(slot) if state.ready => self.post_llc(&mut state, slot, &message),
            _ if state.llc.len() < MAX_LLC => state.llc.push_back(message),
            _ => {
                log::info!("link {}: {MAX_LLC} messages wait, and none goes", self.id);
                state.ready = false;
                state.llc.clear();
                self.inbox.send(Command::LinkFailed(self.id));
            }
        }
    }

    fn post_llc(&self, state: &mut Sending, slot: usize, message: &[u8]) {
        state.slots[slot] = Slot::Llc;
        self.post(state, slot, &[], &message[..message.len().min(SLOT)]);
    }

    /// A slot for a connection. `None`: there is none, and the connection is put in line unless it stands there (`queued`).
    pub fn reserve(&self, conn: &Arc<Conn>, queued: &mut bool) -> Option<Reserved> {
        let mut state = self.state.lock();
        if !state.ready {
            return None;
        }
        if let Some(slot) = state.free(LLC_SLOTS) {
            state.slots[slot] = Slot::Reserved;
            return Some(Reserved(slot));
        }
        if !std::mem::replace(queued, true) {
            state.waiting.push_back(Arc::clone(conn));
        }
        None
    }

    /// Sends a connection's CDC message behind its writes; `sent` is what [`Conn::sent`] is to be told.
    pub fn send_cdc(
        &self,
        Reserved(slot): Reserved,
        conn: &Arc<Conn>,
        sent: u64,
        writes: &[Write<'_>],
        message: &[u8; cdc::LENGTH],
    ) {
        let mut state = self.state.lock();
        state.slots[slot] = Slot::Cdc { conn: Arc::clone(conn), sent };
        self.post(&mut state, slot, writes, message);
    }

    fn post(&self, state: &mut Sending, slot: usize, writes: &[Write<'_>], message: &[u8]) {
        self.messages.write(slot * SLOT, message);
        let piece = Piece { region: &self.messages, offset: slot * SLOT, length: message.len() };
        if let Err(error) = self.pair.send(slot as u64, writes, piece) {
            log::info!("link {}: a work request was refused: {error}", self.id);
            state.ready = false;
            self.inbox.send(Command::LinkFailed(self.id));
        }
    }

    /// The next connection in line, if there is a slot for it. It is not in line any more.
    fn next_waiting(&self) -> Option<Arc<Conn>> {
        let mut state = self.state.lock();
        state.free(LLC_SLOTS)?;
        state.waiting.pop_front()
    }

    /// Whether nothing is under way.
    pub fn is_quiet(&self) -> bool {
        let state = self.state.lock();
        !state.ready || state.llc.is_empty() && state.slots.iter().all(|slot| matches!(slot, Slot::Free))
    }

    /// Ends it. What is under way is lost.
    pub fn fail(&self) {
        self.forget_all();
        self.pair.fail();
        let mut state = self.state.lock();
        state.ready = false;
        state.llc.clear();
        let gone = (
            std::mem::take(&mut state.waiting),
            std::mem::replace(&mut state.slots, [const { Slot::Free }; SLOTS]),
        );
        drop(state);
        // Connections hold the link: not under its lock.
        drop(gone);
    }
}

impl Sending {
    /// A free slot, if there are more than `but` of them.
    fn free(&self, but: usize) -> Option<usize> {
        let mut free = self.slots.iter().enumerate().filter(|(_, slot)| matches!(slot, Slot::Free));
        free.nth(but).map(|(index, _)| index)
    }
}
