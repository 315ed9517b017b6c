//! Completion queues, each with a channel of its own to wait on.

use super::context::set_nonblocking;
use super::{check, last_error, Context};
use rdma_sys::{
    ibv_ack_cq_events, ibv_comp_channel, ibv_cq, ibv_create_comp_channel, ibv_create_cq,
    ibv_destroy_comp_channel, ibv_destroy_cq, ibv_get_cq_event, ibv_poll_cq, ibv_req_notify_cq, ibv_wc,
    ibv_wc_status,
};
use smc_core::sys::Result;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// How many completions are taken at a time.
const BATCH: usize = 32;

/// A completion queue and its channel.
pub struct CompletionQueue {
    raw: NonNull<ibv_cq>,
    channel: NonNull<ibv_comp_channel>,
    _context: Arc<Context>,
}

// SAFETY: libibverbs allows all threads to use a completion queue.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

/// A work request that is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The number it was posted with.
    pub id: u64,
    pub result: Completed,
}

/// How a work request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completed {
    /// For a receive: the length of the message in bytes.
    Ok(u32),
    /// The status, a number of verbs. The queue pair does not work any more.
    Failed(u32),
}

impl CompletionQueue {
    /// A queue for `depth` completions.
    pub fn new(context: &Arc<Context>, depth: u32) -> Result<Arc<CompletionQueue>> {
        // SAFETY: the context is open.
        let channel = unsafe { ibv_create_comp_channel(context.raw()) };
        let channel = NonNull::new(channel).ok_or_else(last_error)?;
        // SAFETY: context and channel are valid; the queue has no context of its own.
        let raw = unsafe { ibv_create_cq(context.raw(), depth as i32, ptr::null_mut(), channel.as_ptr(), 0) };
        let Some(raw) = NonNull::new(raw) else {
            let error = last_error();
            // SAFETY: nothing uses it.
            unsafe { ibv_destroy_comp_channel(channel.as_ptr()) };
            return Err(error);
        };
        let queue = CompletionQueue { raw, channel, _context: Arc::clone(context) };
        set_nonblocking(queue.fd())?;
        queue.arm()?;
        Ok(Arc::new(queue))
    }

    pub(super) fn raw(&self) -> *mut ibv_cq {
        self.raw.as_ptr()
    }

    /// Readable when something has completed since the queue was armed.
    pub fn fd(&self) -> i32 {
        // SAFETY: the channel is valid.
        unsafe { (*self.channel.as_ptr()).fd }
    }

    /// Asks for [`CompletionQueue::fd`] to become readable with the next completion. After this all that are there must be taken: one that
    /// was there already wakes nobody.
    pub fn arm(&self) -> Result<()> {
        // SAFETY: the queue is valid.
        check(unsafe { ibv_req_notify_cq(self.raw(), 0) })
    }

    /// Takes what made [`CompletionQueue::fd`] readable.
    pub fn acknowledge(&self) -> Result<()> {
        let (mut queue, mut context) = (ptr::null_mut(), ptr::null_mut());
        let mut events = 0;
        // SAFETY: the channel is valid and does not block, and the places are written to.
        while unsafe { ibv_get_cq_event(self.channel.as_ptr(), &mut queue, &mut context) } == 0 {
            events += 1;
        }
        if events > 0 {
            // SAFETY: as many as were got; the channel has no other queue.
            unsafe { ibv_ack_cq_events(self.raw(), events) };
        }
        Ok(())
    }

    /// Takes some completions, in their order; empty: there are no more.
    pub fn take(&self, into: &mut Vec<Completion>) -> Result<()> {
        let mut batch = [const { MaybeUninit::<ibv_wc>::zeroed() }; BATCH];
        // SAFETY: room for as many as are asked for.
        let count = unsafe { ibv_poll_cq(self.raw(), BATCH as i32, batch.as_mut_ptr().cast()) };
        if count < 0 {
            return check(count);
        }
        into.extend(batch[..count as usize].iter().map(|completion| {
            // SAFETY: written to by the call, and valid when zeroed: numbers only.
            let completion = unsafe { completion.assume_init_ref() };
            let result = match completion.status {
                ibv_wc_status::IBV_WC_SUCCESS => Completed::Ok(completion.byte_len),
                status => Completed::Failed(status),
            };
            Completion { id: completion.wr_id, result }
        }));
        Ok(())
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: queue pairs hold the Arc, so nothing uses it; all events are acknowledged.
        unsafe {
            ibv_destroy_cq(self.raw());
            ibv_destroy_comp_channel(self.channel.as_ptr());
        }
    }
}
