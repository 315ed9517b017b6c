//! What the processes on *one* end of a connection share: the state of both directions and who holds the socket.
//!
//! It lies in memory that only this process and its forked children map, so a peer cannot touch it: cursors and
//! locks are authoritative here, and what the peer can write (see [`crate::ring`]) is only ever compared with them.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicU8, Ordering};

use crate::lock::Lock;
use crate::slab::{Slab, Slot};
use crate::sys;

/// Processes that can be told apart on one end; beyond that the connection stays where it is.
const MAX_HOLDERS: usize = 6;

/// The sending direction of this end. Fields are written with `lock` held, unless they say otherwise.
#[repr(C, align(128))]
#[derive(Default)]
pub struct TxState {
    pub lock: Lock,
    /// Switches done so far: even while bytes go to TCP, odd while they go to the ring.
    pub epoch: AtomicU32,
    /// Bytes written to the ring since it exists.
    pub tail: AtomicU64,
    /// The peer's head as last seen; space is computed from it before the shared line is looked at again.
    pub head_seen: AtomicU64,
    /// The value of `tail` from which on it is worth a look whether the ring can begin anew.
    pub rebase_at: AtomicU64,
    /// When this direction last wrote, or tried to, to the ring, by the coarse clock. At each new tick the peer's head is looked
    /// at, and who does nothing for one may lose the buffer to another connection.
    pub tick: AtomicU64,
    /// The buffer lent to this direction, plus one; 0: none. Given by the holder of the links' lock, taken away with this one
    /// held as well (see [`crate::link::lending`]).
    pub buffer: AtomicU32,
    /// The buffer that the peer was told of, plus one.
    pub placed: AtomicU32,
    /// Calls since the last switch back to TCP, and how many must pass before the next move.
    pub calls: AtomicU32,
    pub patience: AtomicU32,
    /// Whether bytes are to be held back, and are; 0 unless the program uses TCP_CORK or MSG_MORE. TCP_CORK's bit is also
    /// written without the lock. See `conn::options`.
    pub cork: AtomicU32,
    /// There are bytes to be sent over TCP, from `debt` on.
    pub owes: AtomicU8,
    /// `tcp` has not been found equal to the kernel's count since calls were last under way that knew nothing of the ring:
    /// until it has, the direction stays on TCP. See `conn::counts`.
    pub unverified: AtomicU8,
    /// Since when the ring is full and stands still (CLOCK_MONOTONIC, nanoseconds); 0 while it takes bytes.
    pub full_since: AtomicU64,
    /// The peer's head at that time.
    pub full_head: AtomicU64,
    /// Switches announced to the peer: `epoch`, or one more while bytes are still owed to TCP before the switch.
    pub announced: AtomicU32,
    /// Writes during which the peer's head stood still.
    pub stalled: AtomicU32,
    /// Where the announced switch to the ring happens: a value of `tcp`.
    pub switch_at: AtomicU64,
    /// Bytes written to TCP since connect. Also added to without the lock while the connection is native.
    pub tcp: AtomicU64,
    /// Bytes of the ring from here to `tail` are to be sent over TCP: the peer recalled them. Equal to `tail`: none.
    /// Only looked at when `owes` is not 0.
    pub debt: AtomicU64,
    /// Where the bytes held back begin, and until when (milliseconds) they are.
    pub held_from: AtomicU64,
    pub held_until: AtomicU32,
    /// Counts the times a writer was told that there is no space (edge-triggered EPOLLOUT).
    pub starved: AtomicU32,
}

/// The receiving direction of this end. Fields are written with `lock` held, unless they say otherwise.
#[repr(C, align(64))]
#[derive(Default)]
pub struct RxState {
    pub lock: Lock,
    pub epoch: AtomicU32,
    /// Bytes taken from the ring since it exists.
    pub head: AtomicU64,
    /// Bytes read from TCP since connect. Also added to without the lock while the connection is native.
    pub tcp: AtomicU64,
    /// As in [`TxState`]: the peer's direction is not let off TCP.
    pub unverified: AtomicU32,
    /// SO_RCVLOWAT, bytes; at most 1: none in force. Written without the lock.
    pub lowat: AtomicU32,
}

/// See the module.
#[repr(C, align(128))]
#[derive(Default)]
pub struct EndState {
    pub tx: TxState,
    pub rx: RxState,
    /// What follows is read much and hardly ever written.
    link: AtomicU32,
    used: AtomicU32,
    holders: [AtomicU32; MAX_HOLDERS],
    /// More processes than `holders` can name have had the socket.
    crowded: AtomicU32,
    /// The process has forked while it held the socket.
    forked: AtomicU32,
    /// Forks begun whose child has not entered itself yet.
    forking: AtomicU32,
    /// The process whose engine has, or had, the SMC-R handshake; 0: none yet.
    pub claim: AtomicU32,
    /// The connection stays on TCP for good, in every process (packed Why; 0: it may move).
    pub pinned: AtomicU64,
}

// Every connection has one, moved or not: the two directions are apart, and nothing is left over.
const _: () = assert!(core::mem::size_of::<EndState>() == 256);

impl Slot for EndState {
    fn link(&self) -> &AtomicU32 {
        &self.link
    }
}

static ENDS: Slab<EndState> = Slab::new(libc::MAP_SHARED);

/// An end's state and its place in the slab of the process that made it.
pub type Allocated = (u32, &'static EndState);

/// State for a new connection held by this process alone.
pub fn alloc() -> Option<Allocated> {
    let (index, end) = ENDS.alloc(|e| e.used.load(Ordering::Relaxed) != 0 && e.abandoned())?;
    end.reset();
    Some((index, end))
}

/// The fork handlers take this lock.
pub fn raw_lock() -> &'static Lock {
    ENDS.raw_lock()
}

/// In a forked child: the parent's memory stays mapped for the connections inherited, new ones get memory of the
/// child's own.
pub fn after_fork_in_child() {
    ENDS.abandon();
}

impl EndState {
    fn reset(&self) {
        let (tx, rx) = (&self.tx, &self.rx);
        let words =
            [&self.crowded, &self.forked, &self.forking, &self.claim, &rx.epoch, &rx.unverified, &rx.lowat];
        let of_tx = [&tx.epoch, &tx.announced, &tx.buffer, &tx.placed, &tx.calls, &tx.patience, &tx.cork];
        let more = [&tx.stalled, &tx.held_until, &tx.starved];
        for word in words.into_iter().chain(of_tx).chain(more) {
            word.store(0, Ordering::Relaxed);
        }
        for flag in [&tx.owes, &tx.unverified] {
            flag.store(0, Ordering::Relaxed);
        }
        let cursors = [&tx.tail, &tx.head_seen, &tx.rebase_at, &tx.tick, &tx.full_since, &tx.full_head];
        let counts = [&tx.switch_at, &tx.tcp, &tx.debt, &tx.held_from, &rx.head, &rx.tcp, &self.pinned];
        for word in cursors.into_iter().chain(counts) {
            word.store(0, Ordering::Relaxed);
        }
        tx.lock.reset();
        rx.lock.reset();
        self.holders.iter().for_each(|h| h.store(0, Ordering::Relaxed));
        self.holders[0].store(crate::process::pid(), Ordering::Relaxed);
        self.used.store(1, Ordering::Release);
    }

    /// Another process has, or had, the socket too.
    pub fn was_forked(&self) -> bool {
        self.forked.load(Ordering::Relaxed) != 0
    }

    /// Before a fork, in the parent.
    pub fn fork_begins(&self) {
        self.forked.store(1, Ordering::Relaxed);
        self.forking.fetch_add(1, Ordering::SeqCst);
    }

    /// After a fork that made no child. A connection that was opened since it began was not told of it.
    pub fn fork_failed(&self) {
        let _ = self.forking.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    }

    /// After a fork, in the child.
    pub fn fork_done_in_child(&self) {
        let me = crate::process::pid();
        let free = |h: &&AtomicU32| h.compare_exchange(0, me, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        if self.holders.iter().find(free).is_none() {
            self.crowded.store(1, Ordering::SeqCst);
        }
        self.forking.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether this process is the only one that holds the socket, as far as forks go. Processes that died without
    /// a word are noticed here.
    pub fn held_alone(&self) -> bool {
        if self.crowded.load(Ordering::SeqCst) != 0 || self.forking.load(Ordering::SeqCst) != 0 {
            return false;
        }
        let me = crate::process::pid();
        let mut alone = true;
        for holder in &self.holders {
            let pid = holder.load(Ordering::SeqCst);
            if pid != 0 && pid != me {
                if sys::task_exists(pid) {
                    alone = false;
                } else {
                    let _ = holder.compare_exchange(pid, 0, Ordering::SeqCst, Ordering::Relaxed);
                }
            }
        }
        alone
    }

    /// This process closed its last descriptor of the socket. `own`: the index, if this process made the state.
    /// Returns whether nobody is known to hold the socket any more.
    pub fn let_go(&'static self, own: Option<u32>) -> bool {
        let me = crate::process::pid();
        let last = self.held_alone();
        for holder in &self.holders {
            let _ = holder.compare_exchange(me, 0, Ordering::SeqCst, Ordering::Relaxed);
        }
        if let (true, Some(index)) = (last, own) {
            if self.retire() {
                ENDS.free(index);
            }
        }
        last
    }

    /// Every process that held the end is gone.
    fn abandoned(&self) -> bool {
        let me = crate::process::pid();
        let mine = |h: &AtomicU32| h.load(Ordering::Relaxed) == me;
        if self.holders.iter().any(mine) || !self.held_alone() {
            return false;
        }
        self.retire()
    }

    /// Marks the state as free; only one caller succeeds.
    fn retire(&self) -> bool {
        self.used.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}
