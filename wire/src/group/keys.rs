//! Which of our RMBs a peer knows, and what it is being told about them.

use super::MAX_RMBS;
use crate::{Rmb, Time};
use std::collections::{HashSet, VecDeque};

/// The RMBs that the peer may know. A kernel has room for 255 pairs of rkey and address, and frees one upon DELETE RKEY only.
#[derive(Default, Debug)]
pub(super) struct Announced(HashSet<Rmb>);

impl Announced {
    /// Whether there is room for `rmb`, or the peer knows it already.
    pub fn add(&mut self, rmb: Rmb) -> bool {
        let fits = self.0.contains(&rmb) || self.0.len() < MAX_RMBS;
        if fits {
            self.0.insert(rmb);
        }
        fits
    }

    /// The peer has answered a DELETE RKEY, for which the rkey alone counts. What a refused CONFIRM RKEY leaves behind is not known, so
    /// that nothing is taken away for it.
    pub fn forget(&mut self, rkey: u32) {
        self.0.retain(|rmb| rmb.rkey != rkey);
    }
}

/// Requests of one type: one is under way, the others wait.
#[derive(Debug)]
pub(super) struct Flow<T> {
    /// With the time at which it is given up.
    under_way: Option<(T, Time)>,
    waiting: VecDeque<T>,
}

impl<T> Default for Flow<T> {
    fn default() -> Flow<T> {
        Flow { under_way: None, waiting: VecDeque::new() }
    }
}

impl<T: Copy> Flow<T> {
    pub fn push(&mut self, request: T) {
        self.waiting.push_back(request);
    }

    /// The request to send now, if none is under way.
    pub fn next(&mut self, give_up: Time) -> Option<T> {
        if self.under_way.is_some() {
            return None;
        }
        let request = self.waiting.pop_front()?;
        self.under_way = Some((request, give_up));
        Some(request)
    }

    /// The request that a response is for.
    pub fn answered(&mut self) -> Option<T> {
        self.under_way.take().map(|(request, _)| request)
    }

    /// The request that is given up.
    pub fn expired(&mut self, now: Time) -> Option<T> {
        self.under_way.take_if(|(_, give_up)| *give_up <= now).map(|(request, _)| request)
    }

    pub fn deadline(&self) -> Option<Time> {
        self.under_way.as_ref().map(|(_, give_up)| *give_up)
    }
}
