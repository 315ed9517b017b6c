//! A link group, and the buffers of its connections.

use crate::buffers::Buffers;
use crate::conn::Conn;
use crate::link::Link;
use smc_core::sys::Result;
use smc_wire::group::LinkGroup;
use smc_wire::{SizeCode, Time};
use std::collections::HashMap;
use std::sync::Arc;

/// How long a group that has ended waits for its last messages to go.
pub const LAST_WORDS: Time = Time::from_secs(1);

/// Buffers that are kept for connections to come. Others are given back, after the peer has been told.
const SPARE: usize = 16;

/// A link group. Its connections are known by what they are.
pub struct Group {
    pub link: Arc<Link>,
    pub wire: LinkGroup<Arc<Conn>>,
    /// The peer knows them.
    spare: Vec<Buffers>,
    /// By rkey: the peer is being told that they go.
    leaving: HashMap<u32, Buffers>,
    /// By rkey: the peer is being told of them, for the handshake with this number.
    pub confirming: HashMap<u32, u64>,
    /// It has ended, and goes at that time.
    pub gone_at: Option<Time>,
}

impl Group {
    pub fn new(link: Arc<Link>, wire: LinkGroup<Arc<Conn>>) -> Group {
        Group {
            link,
            wire,
            spare: Vec::new(),
            leaving: HashMap::new(),
            confirming: HashMap::new(),
            gone_at: None,
        }
    }

    /// Buffers for one more connection, and whether the peer knows them.
    pub fn take_buffers(&mut self, size: SizeCode) -> Result<(Buffers, bool)> {
        match self.spare.pop() {
            Some(buffers) => Ok((buffers, true)),
            None => Ok((Buffers::new(&self.link, size)?, false)),
        }
    }

    /// Takes back buffers that nobody writes to any more.
    pub fn give_back(&mut self, now: Time, buffers: Buffers) {
        if self.spare.len() < SPARE {
            // What the peer has written is no business of the next connection.
            buffers.rmb.clear();
            self.spare.push(buffers);
        } else {
            self.retire(now, buffers);
        }
    }

    /// Gives buffers up: the peer may still write to them until it has answered.
    pub fn retire(&mut self, now: Time, buffers: Buffers) {
        let rkey = buffers.name().rkey;
        self.leaving.insert(rkey, buffers);
        self.wire.delete_rkey(now, rkey);
    }

    /// The peer has forgotten this one, or has been given the time to.
    pub fn forgotten(&mut self, rkey: u32) {
        self.leaving.remove(&rkey);
    }
}
