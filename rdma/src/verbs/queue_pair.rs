//! Reliable connected queue pairs: bring-up from what CLC messages say, and work requests.

use super::{check, last_error, CompletionQueue, MemoryRegion, ProtectionDomain};
use rdma_sys::{
    ibv_access_flags, ibv_create_qp, ibv_destroy_qp, ibv_modify_qp, ibv_post_recv, ibv_post_send, ibv_qp,
    ibv_qp_attr, ibv_qp_attr_mask as Mask, ibv_qp_cap, ibv_qp_init_attr, ibv_qp_state, ibv_qp_type,
    ibv_recv_wr, ibv_send_flags, ibv_send_wr, ibv_sge, ibv_wr_opcode,
};
use smc_core::sys::Result;
use smc_wire::{Gid, MtuCode, U24};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// Bytes of a message that may go into the work request itself, where the device can do that.
const INLINE: u32 = 44;
/// An RDMA write takes its bytes from as many places: a ring's end and its beginning.
const PIECES: usize = 2;
/// RDMA writes before one message: up to the end of the peer's ring, and from its beginning.
const WRITES: usize = 2;

// What Linux gives its queue pairs.
/// rxe takes it for "without limit".
const RETRIES: u8 = 7;
/// Without limit.
const RNR_RETRIES: u8 = 7;
/// Code of 0.06 ms.
const RNR_TIMER: u8 = 5;
/// One gateway or more may lie between.
const HOP_LIMIT: u8 = 64;

/// The number of completed writes, where those complete by themselves.
pub const WRITE_DONE: u64 = u64::MAX;

/// A queue pair.
pub struct QueuePair {
    raw: NonNull<ibv_qp>,
    /// Messages go into the work requests.
    inline: bool,
    /// Writes complete by themselves.
    signal_writes: bool,
    _domain: Arc<ProtectionDomain>,
    _queue: Arc<CompletionQueue>,
}

// SAFETY: libibverbs allows all threads to use a queue pair.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

/// The port and the source of a queue pair's packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// From 1.
    pub port: u8,
    /// In the port's GID table.
    pub gid_index: u8,
    /// How long an acknowledgement is waited for: 4.096 us shifted left by this.
    pub timeout: u8,
}

/// The other end of a queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemoteEnd {
    pub gid: Gid,
    pub qpn: U24,
    /// The first packet sequence number it sends.
    pub psn: U24,
    /// Of the path; one that means something.
    pub mtu: MtuCode,
}

/// Bytes in registered memory.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    pub region: &'a MemoryRegion,
    pub offset: usize,
    /// In bytes; may be 0.
    pub length: usize,
}

/// An RDMA write: the pieces, one after the other, go to contiguous memory of the peer.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    pub pieces: [Option<Piece<'a>>; PIECES],
    pub address: u64,
    pub rkey: u32,
}

/// Attributes for `ibv_modify_qp`.
fn attributes(state: ibv_qp_state::Type) -> ibv_qp_attr {
    // SAFETY: all zeros are valid: numbers, and a GID of zeros.
    let mut attributes: ibv_qp_attr = unsafe { MaybeUninit::zeroed().assume_init() };
    attributes.qp_state = state;
    attributes
}

fn mask(parts: &[Mask]) -> u32 {
    parts.iter().fold(0, |all, part| all | part.0)
}

impl QueuePair {
    /// A queue pair in state RESET, for `sends` and `receives` work requests under way. Completions of both come to the queue; of sends
    /// only those of messages, and with `signal_writes` those of writes as [`WRITE_DONE`].
    pub fn new(
        domain: &Arc<ProtectionDomain>,
        queue: &Arc<CompletionQueue>,
        sends: u32,
        receives: u32,
        signal_writes: bool,
    ) -> Result<QueuePair> {
        let create = |inline: u32| {
            let mut init = ibv_qp_init_attr {
                qp_context: ptr::null_mut(),
                send_cq: queue.raw(),
                recv_cq: queue.raw(),
                srq: ptr::null_mut(),
                cap: ibv_qp_cap {
                    max_send_wr: sends,
                    max_recv_wr: receives,
                    max_send_sge: PIECES as u32,
                    max_recv_sge: 1,
                    max_inline_data: inline,
                },
                qp_type: ibv_qp_type::IBV_QPT_RC,
                sq_sig_all: 0,
            };
            // SAFETY: domain and queue are valid, and the attributes are read and written.
            let raw = unsafe { ibv_create_qp(domain.raw(), &mut init) };
            (NonNull::new(raw), init.cap.max_inline_data)
        };
        let (raw, granted) = match create(INLINE) {
            (None, _) => create(0),
            created => created,
        };
        Ok(QueuePair {
            raw: raw.ok_or_else(last_error)?,
            inline: granted >= INLINE,
            signal_writes,
            _domain: Arc::clone(domain),
            _queue: Arc::clone(queue),
        })
    }

    pub fn number(&self) -> U24 {
        U24::truncated(self.raw_number())
    }

    pub(super) fn raw_number(&self) -> u32 {
        // SAFETY: the queue pair is valid.
        unsafe { (*self.raw.as_ptr()).qp_num }
    }

    pub(super) fn raw(&self) -> *mut ibv_qp {
        self.raw.as_ptr()
    }

    fn modify(&self, mut attributes: ibv_qp_attr, parts: &[Mask]) -> Result<()> {
        // SAFETY: the queue pair is valid, and the attributes named in the mask are set.
        check(unsafe { ibv_modify_qp(self.raw.as_ptr(), &mut attributes, mask(parts) as i32) })
    }

    /// RESET to INIT.
    pub fn init(&self, path: Path) -> Result<()> {
        let mut to = attributes(ibv_qp_state::IBV_QPS_INIT);
        to.pkey_index = 0;
        to.port_num = path.port;
        to.qp_access_flags =
            ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0 | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;
        self.modify(
            to,
            &[Mask::IBV_QP_STATE, Mask::IBV_QP_PKEY_INDEX, Mask::IBV_QP_PORT, Mask::IBV_QP_ACCESS_FLAGS],
        )
    }

    /// RESET to INIT, for one that the connection manager will connect.
    pub fn init_for_manager(&self) -> Result<()> {
        let mut to = attributes(ibv_qp_state::IBV_QPS_INIT);
        to.qp_access_flags =
            ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0 | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;
        self.modify(to, &[Mask::IBV_QP_STATE, Mask::IBV_QP_ACCESS_FLAGS])
    }

    /// INIT to ready to receive.
    pub fn ready_to_receive(&self, path: Path, remote: &RemoteEnd) -> Result<()> {
        let mut to = attributes(ibv_qp_state::IBV_QPS_RTR);
        to.path_mtu = u32::from(remote.mtu.code()) as _;
        to.dest_qp_num = remote.qpn.get();
        to.rq_psn = remote.psn.get();
        to.max_dest_rd_atomic = 1;
        to.min_rnr_timer = RNR_TIMER;
        to.ah_attr.is_global = 1;
        to.ah_attr.port_num = path.port;
        to.ah_attr.grh.dgid.raw = remote.gid.0;
        to.ah_attr.grh.sgid_index = path.gid_index;
        to.ah_attr.grh.hop_limit = HOP_LIMIT;
        self.modify(
            to,
            &[
                Mask::IBV_QP_STATE,
                Mask::IBV_QP_AV,
                Mask::IBV_QP_PATH_MTU,
                Mask::IBV_QP_DEST_QPN,
                Mask::IBV_QP_RQ_PSN,
                Mask::IBV_QP_MAX_DEST_RD_ATOMIC,
                Mask::IBV_QP_MIN_RNR_TIMER,
            ],
        )
    }

    /// Ready to receive to ready to send; `psn` is the first packet sequence number it sends.
    pub fn ready_to_send(&self, path: Path, psn: U24) -> Result<()> {
        let mut to = attributes(ibv_qp_state::IBV_QPS_RTS);
        to.timeout = path.timeout;
        to.retry_cnt = RETRIES;
        to.rnr_retry = RNR_RETRIES;
        to.sq_psn = psn.get();
        to.max_rd_atomic = 1;
        self.modify(
            to,
            &[
                Mask::IBV_QP_STATE,
                Mask::IBV_QP_TIMEOUT,
                Mask::IBV_QP_RETRY_CNT,
                Mask::IBV_QP_RNR_RETRY,
                Mask::IBV_QP_SQ_PSN,
                Mask::IBV_QP_MAX_QP_RD_ATOMIC,
            ],
        )
    }

    /// Any state to ERR: nothing is sent or received any more, and what was posted completes with an error.
    pub fn fail(&self) {
        let _ = self.modify(attributes(ibv_qp_state::IBV_QPS_ERR), &[Mask::IBV_QP_STATE]);
    }

    /// Posts a receive for one message.
    pub fn receive(&self, id: u64, into: Piece<'_>) -> Result<()> {
        let mut element = scatter(&into);
        let mut request = ibv_recv_wr { wr_id: id, next: ptr::null_mut(), sg_list: &mut element, num_sge: 1 };
        let mut bad = ptr::null_mut();
        // SAFETY: the request is read before the call returns; the region holds its memory, and who made the queue pair keeps the
        // region for as long.
        check(unsafe { ibv_post_recv(self.raw.as_ptr(), &mut request, &mut bad) })
    }

    /// Posts RDMA writes and behind them a message, which completes with `id`. The regions must be kept until then; so must
    /// the bytes.
    pub fn send(&self, id: u64, writes: &[Write<'_>], message: Piece<'_>) -> Result<()> {
        assert!(writes.len() <= WRITES, "more writes than a ring has ends");
        let mut elements = [ibv_sge { addr: 0, length: 0, lkey: 0 }; PIECES * WRITES + 1];
        let mut requests = [const { MaybeUninit::<ibv_send_wr>::zeroed() }; WRITES + 1];
        let mut used = 0;
        for (index, write) in writes.iter().enumerate() {
            let first = used;
            for piece in write.pieces.iter().flatten().filter(|piece| piece.length > 0) {
                elements[used] = scatter(piece);
                used += 1;
            }
            // SAFETY: all zeros are valid: numbers, null pointers, and unions of them.
            let request = unsafe { requests[index].assume_init_mut() };
            request.sg_list = &raw mut elements[first];
            request.num_sge = (used - first) as i32;
            request.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE;
            if self.signal_writes {
                request.wr_id = WRITE_DONE;
                request.send_flags = ibv_send_flags::IBV_SEND_SIGNALED.0;
            }
            request.wr.rdma.remote_addr = write.address;
            request.wr.rdma.rkey = write.rkey;
        }
        elements[used] = scatter(&message);
        // SAFETY: as above.
        let request = unsafe { requests[writes.len()].assume_init_mut() };
        request.wr_id = id;
        request.sg_list = &raw mut elements[used];
        request.num_sge = 1;
        request.opcode = ibv_wr_opcode::IBV_WR_SEND;
        request.send_flags = ibv_send_flags::IBV_SEND_SIGNALED.0 | ibv_send_flags::IBV_SEND_SOLICITED.0;
        if self.inline && message.length <= INLINE as usize {
            request.send_flags |= ibv_send_flags::IBV_SEND_INLINE.0;
        }
        for index in (0..writes.len()).rev() {
            let next = requests[index + 1].as_mut_ptr();
            // SAFETY: as above.
            unsafe { requests[index].assume_init_mut() }.next = next;
        }
        let mut bad = ptr::null_mut();
        // SAFETY: requests and elements are read before the call returns; the regions hold their memory, and who made the queue
        // pair keeps the regions until the completion.
        check(unsafe { ibv_post_send(self.raw.as_ptr(), requests[0].as_mut_ptr(), &mut bad) })
    }
}

fn scatter(piece: &Piece<'_>) -> ibv_sge {
    ibv_sge {
        addr: piece.region.address(piece.offset, piece.length),
        length: piece.length as u32,
        lkey: piece.region.local_key(),
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: nothing uses it any more.
        unsafe { ibv_destroy_qp(self.raw.as_ptr()) };
    }
}
