//! One TCP connection of this process.
//!
//! The program's descriptor is the real TCP socket. A [`Conn`] stands beside it: first it only counts what passes
//! (*native*), then, when the connection has shown to be busy, [`crate::link::rendezvous`] finds the other end and
//! the connection becomes *attached*: both ends map a slot with two rings, and from then on every call on it goes
//! through [`rx`], [`tx`] and [`ready`], whichever medium the bytes take.
//!
//! What several processes must agree on after a fork lies in [`EndState`]; a `Conn` is this process's view of it.

mod counts;
mod eager;
pub mod io;
mod options;
pub mod ready;
mod recall;
pub mod remote;
pub mod rx;
mod spin;
pub mod tx;
pub mod wait;

pub(crate) use counts::{half_closed, Counts};

use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::link::proof;
use crate::link::rendezvous::{self, Rendezvous};
use crate::link::{Bell, Doorbells, TakenSlot};
use crate::lock::{self, Lock};
use crate::reason::{Detail, Why};
use crate::registry::{Ends, Entry, Kind, Mode, SocketRecord, REGISTRY};
use crate::ring::layout::{Area, SlotView};
use crate::shared::{self, EndState};
use crate::slab::{Slab, Slot};
use crate::sys::{self, sock, Errno};
use crate::{config, epoll, policy, report};

const FREE: u32 = 0;
const NATIVE: u32 = 1;
const ATTACHED: u32 = 2;
// Beyond this: `remote`.
const OFFERED: u32 = 3;
const DECIDING: u32 = 4;
const REMOTE: u32 = 5;
const FOREIGN: u32 = 6;
const LOST: u32 = 7;

/// What belongs to one direction: the two must not share a cache line.
#[repr(align(64))]
#[derive(Default)]
pub(crate) struct OfOneWay {
    /// Calls under way that read from (write to) TCP without knowing of the ring.
    native: AtomicU32,
    /// Receiving: threads of this process that sleep, or are about to, on data of the connection, other than in epoll.
    waiters: AtomicU32,
    pub(crate) spin: spin::Spin,
    /// Receiving.
    pub(crate) gather: spin::Gather,
}

/// What only the slow path needs.
#[derive(Default)]
pub(crate) struct Cold {
    pub rendezvous: Rendezvous,
    /// The addresses, for the report: a connection that was reset has lost them.
    pub ends: Option<Box<Ends>>,
}

impl Cold {
    /// The connection's place in shared memory, once it is attached.
    fn slot(&self) -> Option<TakenSlot> {
        match self.rendezvous {
            Rendezvous::Done(slot) => Some(slot),
            _ => None,
        }
    }
}

/// Type-stable: memory of a `Conn` is reused for other connections but never unmapped. Every field may be read at
/// any time; `generation` tells whether it still belongs to the connection the reader means.
#[repr(C, align(64))]
pub struct Conn {
    link: AtomicU32,
    index: AtomicU32,
    generation: AtomicU32,
    phase: AtomicU32,
    /// This end called connect().
    active: AtomicU32,
    /// Descriptors of this process that stand for the connection.
    aliases: AtomicU32,
    end: AtomicPtr<EndState>,
    /// Index of `end` plus one if this process made it, else 0.
    end_index: AtomicU32,
    entry: AtomicPtr<Entry>,
    /// Of the slot, while attached.
    control: AtomicPtr<u8>,
    area: AtomicPtr<Area>,
    slot_end: AtomicU32,
    bells: [AtomicI32; Doorbells::COUNT],
    /// The peer has closed its sending side, or this end its receiving side.
    fin_seen: AtomicU32,
    /// An error that the kernel reported while the ring still had bytes; 0 is none.
    saved_error: AtomicU32,
    /// Native calls under way during which the connection must not move.
    held: AtomicU32,
    /// The thread that takes a step of the rendezvous, with `cold` locked.
    advancer: AtomicU32,
    /// Somebody found the doorbell rung (data, space) and nobody has reset it since.
    bells_rung: [AtomicU32; 2],
    /// The last call that found nothing could have waited: the next one may spin before it asks the kernel.
    waits: AtomicU32,
    /// This process attached the connection, so it knows of all blind reads.
    attached_here: AtomicU32,
    /// Registrations with epoll instances: index plus one of the first, see [`crate::epoll`].
    pub(crate) registrations: AtomicU32,
    /// Weighted bytes so far, and those after which the connection is to move: SMC_UPGRADE_AFTER, or more (`eager`).
    weight: AtomicU64,
    upgrade_after: AtomicU64,
    /// Calls so far, a long one counting as several ([`LONG_CALL`]), and the call at which the next step of the rendezvous is due.
    calls: AtomicU64,
    next_step: AtomicU64,
    /// By which libsmc_rdma.so names it, 0 if it does not know it; and shutdowns before the decision. See `remote`.
    far: AtomicU64,
    shut: AtomicU32,
    pub(crate) cold: Mutex<Cold>,
    pub(crate) rx: OfOneWay,
    pub(crate) tx: OfOneWay,
}

// Every connection has one, moved or not.
const _: () = assert!(core::mem::size_of::<Conn>() == 384);

impl Default for Conn {
    fn default() -> Conn {
        Conn {
            link: AtomicU32::new(0),
            index: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            phase: AtomicU32::new(FREE),
            active: AtomicU32::new(0),
            aliases: AtomicU32::new(0),
            end: AtomicPtr::new(core::ptr::null_mut()),
            end_index: AtomicU32::new(0),
            entry: AtomicPtr::new(core::ptr::null_mut()),
            control: AtomicPtr::new(core::ptr::null_mut()),
            area: AtomicPtr::new(Area::NONE as *const Area as *mut Area),
            slot_end: AtomicU32::new(0),
            bells: [const { AtomicI32::new(-1) }; Doorbells::COUNT],
            fin_seen: AtomicU32::new(0),
            saved_error: AtomicU32::new(0),
            held: AtomicU32::new(0),
            advancer: AtomicU32::new(0),
            bells_rung: Default::default(),
            waits: AtomicU32::new(0),
            attached_here: AtomicU32::new(0),
            registrations: AtomicU32::new(0),
            weight: AtomicU64::new(0),
            upgrade_after: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            next_step: AtomicU64::new(0),
            far: AtomicU64::new(0),
            shut: AtomicU32::new(0),
            cold: Mutex::new(Cold::default()),
            rx: OfOneWay::default(),
            tx: OfOneWay::default(),
        }
    }
}

impl Slot for Conn {
    fn link(&self) -> &AtomicU32 {
        &self.link
    }
}

/// Bytes of one call that take as long as several steps of the rendezvous: then it is not the number of calls that says when the
/// next step costs little.
const LONG_CALL: u64 = 64 << 10;

static CONNS: Slab<Conn> = Slab::new(libc::MAP_PRIVATE);

/// The fork handlers take this lock.
pub fn raw_lock() -> &'static Lock {
    CONNS.raw_lock()
}

/// Which direction a call moves bytes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Rx,
    Tx,
}

/// Whether the peer of a new connection speaks SMC-R.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Far {
    No,
    /// It does: it waits for the handshake.
    Capable,
    /// It will be known when the connection is established.
    Connecting,
    /// Its handshake has begun already.
    Begun {
        number: u64,
        data: i32,
        room: i32,
    },
}

/// The connections of this process, open ones only.
pub fn all() -> impl Iterator<Item = &'static Conn> {
    (0..).map_while(|i| CONNS.get(i)).filter(|c| c.is_open())
}

impl Conn {
    /// Begins to follow a connection that has just been established. `active`: by connect() of this process. With
    /// `why`, it stays on TCP. `far`: the peer waits for an SMC-R handshake, or may; see [`Far`]. `None`: out of memory; the socket simply
    /// stays unmanaged.
    pub fn open(fd: i32, active: bool, why: Option<Why>, far: Far) -> Option<&'static Conn> {
        let (end_index, end) = shared::alloc()?;
        let Some((index, conn)) = CONNS.alloc(|_| false) else {
            end.let_go(Some(end_index));
            return None;
        };
        conn.index.store(index, Ordering::Relaxed);
        conn.end.store(end as *const _ as *mut _, Ordering::Relaxed);
        conn.end_index.store(end_index + 1, Ordering::Relaxed);
        conn.active.store(active as u32, Ordering::Relaxed);
        conn.aliases.store(1, Ordering::Relaxed);
        for word in [
            &conn.fin_seen,
            &conn.saved_error,
            &conn.bells_rung[0],
            &conn.bells_rung[1],
            &conn.rx.waiters,
            &conn.tx.waiters,
            &conn.held,
            &conn.waits,
            &conn.attached_here,
            &conn.registrations,
            &conn.rx.native,
            &conn.tx.native,
        ] {
            word.store(0, Ordering::Relaxed);
        }
        conn.weight.store(0, Ordering::Relaxed);
        let upgrade_after = eager::upgrade_after(active);
        conn.upgrade_after.store(upgrade_after, Ordering::Relaxed);
        conn.calls.store(0, Ordering::Relaxed);
        conn.next_step.store(0, Ordering::Relaxed);
        for way in [&conn.rx, &conn.tx] {
            way.spin.reset();
            way.gather.reset();
        }
        if let Some(mut cold) = conn.cold.try_lock() {
            *cold = Cold::default();
        }
        let entry = REGISTRY.alloc(fd, Kind::Connection);
        entry.set_status(Mode::Tcp, Why::new(Detail::NotBusyYet));
        conn.entry.store(entry as *const _ as *mut _, Ordering::Relaxed);
        conn.phase.store(NATIVE, Ordering::Release);
        conn.far.store(0, Ordering::Relaxed);
        conn.bells.iter().for_each(|bell| bell.store(-1, Ordering::Relaxed));
        if let Some(why) = why {
            conn.pin(why);
        } else if fd <= 2 {
            conn.pin(Why::new(Detail::StdFd));
        } else if let Some(why) = stopped() {
            conn.pin(why);
        } else if policy::excludes(fd) {
            conn.pin(Why::new(Detail::Excluded));
        } else if upgrade_after == 0 && far == Far::No {
            conn.advance(conn.generation(), fd);
        }
        match far {
            Far::No => {}
            Far::Capable => conn.begin_far(fd, false),
            Far::Connecting => conn.begin_far(fd, true),
            Far::Begun { number, data, room } => conn.adopt_far(number, data, room),
        }
        Some(conn)
    }

    /// Changes whenever the memory becomes another connection.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn index(&self) -> u32 {
        self.index.load(Ordering::Relaxed)
    }

    fn is_open(&self) -> bool {
        self.phase.load(Ordering::Acquire) != FREE
    }

    /// Calls must go through the engine.
    #[inline]
    pub fn is_moved(&self) -> bool {
        self.phase.load(Ordering::SeqCst) >= ATTACHED
    }

    /// Both ends share memory.
    #[inline]
    pub fn is_attached(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == ATTACHED
    }

    #[inline]
    pub(crate) fn end(&self) -> &'static EndState {
        // SAFETY: set in `open` before anybody has the connection; slab memory is never unmapped.
        unsafe { &*self.end.load(Ordering::Relaxed) }
    }

    #[inline]
    pub(crate) fn entry(&self) -> &'static Entry {
        // SAFETY: set in `open` before anybody has the connection; entries stay mapped.
        unsafe { &*self.entry.load(Ordering::Relaxed) }
    }

    /// The connection's shared memory. Only for attached connections; for one that is being closed at the same time
    /// the view may be of another connection's memory, which is harmless to look at and must not be written to
    /// without the direction's lock and a check of the generation.
    #[inline]
    pub(crate) fn view(&self) -> SlotView {
        let end = self.slot_end.load(Ordering::Relaxed) as usize & 1;
        // SAFETY: an area is never given back.
        let area = unsafe { &*self.area.load(Ordering::Relaxed) };
        // SAFETY: `attach` stored values that belong together and segments are never unmapped.
        unsafe { SlotView::from_parts(self.control.load(Ordering::Relaxed), area, end) }
    }

    #[inline]
    fn bell(&self, tx: bool, bell: Bell) -> i32 {
        let me = self.slot_end.load(Ordering::Relaxed) as usize & 1;
        self.bells[Doorbells::index(if tx { me } else { 1 - me }, bell)].load(Ordering::Relaxed)
    }

    /// The doorbell that the peer rings for this end.
    #[inline]
    pub(crate) fn my_bell(&self, bell: Bell) -> i32 {
        self.bell(bell == Bell::Space, bell)
    }

    pub(crate) fn wakes_me(&self, bell: Bell) -> (Bell, i32) {
        (bell, self.my_bell(bell))
    }

    /// The numbers of all doorbells of the connection, both ends'.
    pub fn doorbells(&self) -> [i32; Doorbells::COUNT] {
        core::array::from_fn(|i| self.bells[i].load(Ordering::Relaxed))
    }

    /// Rings the peer's.
    #[inline]
    pub(crate) fn ring_peer(&self, bell: Bell) {
        sys::fd::ring(self.bell(bell == Bell::Data, bell));
    }

    /// Wakes the peer whatever it waits for.
    pub(crate) fn alarm_peer(&self) {
        self.ring_peer(Bell::Data);
        self.ring_peer(Bell::Space);
    }

    /// The peer has closed its sending side, as far as anybody has looked ([`Conn::look_for_fin`]).
    #[inline]
    pub fn fin_seen(&self) -> bool {
        self.fin_seen.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn set_fin_seen(&self) {
        self.fin_seen.store(1, Ordering::Relaxed);
    }

    pub(crate) fn save_error(&self, e: Errno) {
        self.saved_error.store(e.0 as u32, Ordering::Relaxed);
    }

    pub(crate) fn has_saved_error(&self) -> bool {
        self.saved_error.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn take_saved_error(&self) -> Option<Errno> {
        match self.saved_error.swap(0, Ordering::Relaxed) {
            0 => None,
            e => Some(Errno(e as i32)),
        }
    }

    #[inline]
    pub(crate) fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn set_waits(&self, waits: bool) {
        self.waits.store(waits as u32, Ordering::Relaxed);
    }

    // --- native calls ---

    /// Before a call that moves bytes: true if it is to be made on the TCP socket, with [`Conn::native_end`] after
    /// it; false if the connection is attached. May take a step of the rendezvous.
    #[inline]
    pub fn native_begin(&self, way: Way, generation: u32, fd: i32) -> bool {
        if self.is_moved() {
            return false;
        }
        let weight = self.weight.load(Ordering::Relaxed) + config::CALL_WEIGHT;
        self.weight.store(weight, Ordering::Relaxed);
        let calls = self.calls.load(Ordering::Relaxed) + 1;
        self.calls.store(calls, Ordering::Relaxed);
        if weight > self.upgrade_after.load(Ordering::Relaxed)
            && calls >= self.next_step.load(Ordering::Relaxed)
        {
            self.advance(generation, fd);
        }
        let line = self.native_line(way);
        line.fetch_add(1, Ordering::SeqCst);
        // The connection may have been attached by another thread since; whoever attaches looks at the counter
        // after it changed the phase.
        if self.is_moved() {
            line.fetch_sub(1, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// After a native call that returned `n`. `generation`: as it was at [`Conn::native_begin`].
    #[inline]
    pub fn native_end(&self, way: Way, generation: u32, n: isize) {
        if self.generation() != generation {
            return;
        }
        if n > 0 {
            self.count_tcp(way, n as u64);
            self.weight.fetch_add(n as u64, Ordering::Relaxed);
            if n as u64 >= LONG_CALL {
                self.calls.fetch_add(n as u64 / LONG_CALL, Ordering::Relaxed);
            }
        }
        self.native_line(way).fetch_sub(1, Ordering::SeqCst);
        self.blind_call_ended();
    }

    fn blind_call_ended(&self) {
        if self.is_attached() {
            self.note_blind_reads();
            self.verify_rx();
        }
    }

    /// A native call begins that would not end at a switch: MSG_WAITALL waits in the kernel for bytes that would come by
    /// the ring. The connection is not moved meanwhile. Before [`Conn::native_begin`].
    pub fn hold(&self) {
        self.held.fetch_add(1, Ordering::SeqCst);
    }

    /// A call is under way during which the connection must not move. With a low-water mark, every read is one.
    fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst) > 0
            || (self.end().rx.lowat.load(Ordering::SeqCst) > 1 && self.native_calls(Way::Rx) > 0)
    }

    /// The call has ended.
    pub fn release(&self, generation: u32) {
        if self.generation() == generation {
            let _ = self.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        }
    }

    /// A poll that knows nothing of the ring begins to wait for the connection: it counts as a blind read, since the
    /// last bytes on TCP are what wakes it.
    pub fn poll_begins(&self) {
        self.rx.native.fetch_add(1, Ordering::SeqCst);
    }

    pub fn poll_ends(&self) {
        let _ = self.rx.native.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        self.blind_call_ended();
    }

    /// Accounts for `n` bytes that went over TCP.
    pub(crate) fn count_tcp(&self, way: Way, n: u64) {
        let end = self.end();
        match way {
            Way::Rx => {
                end.rx.tcp.fetch_add(n, Ordering::Relaxed);
                self.entry().add_tcp_rx(n);
            }
            Way::Tx => {
                end.tx.tcp.fetch_add(n, Ordering::Relaxed);
                self.entry().add_tcp_tx(n);
            }
        }
    }

    /// [`Conn::count_tcp`] for calls that the shim makes itself on an attached connection.
    pub fn count(&self, way: Way, n: u64) {
        self.count_tcp(way, n);
    }

    fn native_line(&self, way: Way) -> &AtomicU32 {
        match way {
            Way::Rx => &self.rx.native,
            Way::Tx => &self.tx.native,
        }
    }

    pub(crate) fn native_calls(&self, way: Way) -> u32 {
        self.native_line(way).load(Ordering::SeqCst)
    }

    /// Tells the peer, once it is true, that no read of this end is unaware of the ring.
    pub(crate) fn note_blind_reads(&self) {
        if self.attached_here.load(Ordering::Relaxed) == 1 && self.native_calls(Way::Rx) == 0 {
            self.attached_here.store(2, Ordering::Relaxed);
            self.view().mine().set_no_blind_reads();
        }
    }

    // --- moving ---

    /// Takes a step of the rendezvous. Keeps errno, never blocks.
    #[cold]
    fn advance(&self, generation: u32, fd: i32) {
        let Some(mut cold) = self.cold.try_lock() else { return };
        self.advancer.store(lock::tid(), Ordering::Relaxed);
        // Closed, and perhaps another connection by now: whoever closes waits for the lock.
        if self.generation() == generation && self.phase.load(Ordering::SeqCst) == NATIVE {
            self.advance_locked(fd, &mut cold);
        }
        self.advancer.store(0, Ordering::Relaxed);
    }

    fn advance_locked(&self, fd: i32, cold: &mut Cold) {
        if self.is_held() {
            self.step_again(1);
            return;
        }
        let refusal = match self.end().pinned.load(Ordering::Relaxed) {
            0 => None,
            packed => Some(Why::unpack(packed).unwrap_or(Why::NONE)),
        };
        if refusal.is_some_and(|why| !why.detail.is_told()) {
            self.stop_stepping(cold);
            return;
        }
        if !self.end().held_alone() {
            if refusal.is_none() {
                self.entry().set_why(Why::new(Detail::SharedProcess));
            }
            self.step_again(8);
            return;
        }
        match rendezvous::step(self, fd, cold, refusal) {
            rendezvous::Step::Again { calls, why } => {
                if refusal.is_none() {
                    self.entry().set_why(self.more_telling(why));
                }
                self.step_again(calls);
            }
            rendezvous::Step::Attached => {}
            rendezvous::Step::Never(_) if refusal.is_some() => self.stop_stepping(cold),
            rendezvous::Step::Never(why) => {
                cold.rendezvous = Rendezvous::default();
                self.pin(self.more_telling(why));
                // The peer is to know, where that is of use to anybody.
                self.step_again(1);
            }
        }
    }

    /// That nobody comes any more says less than what was found when somebody came.
    fn more_telling(&self, why: Why) -> Why {
        let before = self.entry().why();
        match (before.detail, why.detail) {
            (Detail::PeerUidUnverified | Detail::PeerShutDown | Detail::ShutDown, Detail::NoRendezvous) => {
                before
            }
            _ => why,
        }
    }

    fn stop_stepping(&self, cold: &mut Cold) {
        cold.rendezvous = Rendezvous::default();
        self.next_step.store(u64::MAX, Ordering::Relaxed);
    }

    /// The next step is due after `calls` more calls.
    fn step_again(&self, calls: u64) {
        let due = self.calls.load(Ordering::Relaxed).saturating_add(calls);
        self.next_step.store(due, Ordering::Relaxed);
    }

    /// This end called connect().
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) != 0
    }

    /// Puts the connection on shared memory. `counts`: as the rendezvous found them.
    pub(crate) fn attach(&self, fd: i32, cold: &mut Cold, slot: TakenSlot, counts: Counts) {
        let view = slot.view;
        self.control.store(view.control_words(), Ordering::Relaxed);
        self.area.store(view.area() as *const Area as *mut Area, Ordering::Relaxed);
        self.slot_end.store(if self.is_active() { 0 } else { 1 }, Ordering::Relaxed);
        for (place, bell) in self.bells.iter().zip(&slot.doorbells.bells) {
            place.store(bell.raw(), Ordering::Relaxed);
        }
        if let Some(conn) = CONNS.get(self.index()) {
            crate::link::lending::settle(&slot, conn);
        }
        cold.rendezvous = Rendezvous::Done(slot);
        cold.ends = config::get().report.as_ref().map(|_| Box::new(Ends::of_fd(fd)));
        self.attached_here.store(1, Ordering::Relaxed);
        let tx_open = !counts.written || self.native_calls(Way::Tx) > 0;
        self.end().tx.unverified.store(tx_open as u8, Ordering::Relaxed);
        self.phase.store(ATTACHED, Ordering::SeqCst);
        if self.is_held() {
            self.pin(Why::new(Detail::CallUnsupported));
            return;
        }
        if !self.end().held_alone() {
            // A fork is under way whose child may not know: it goes on over TCP, and so must everybody.
            self.pin(Why::new(Detail::SharedProcess));
            return;
        }
        self.note_blind_reads();
        self.entry().set_why(Why::new(Detail::NoData));
        epoll::connection_attached(self, fd);
        log::debug!("fd {fd}: attached");
        // Last: from here on the peer may leave TCP.
        // Not yet while a read is under way that knows nothing of the ring. One whose thread was cancelled is never over: then
        // the peer stays on TCP, where this end's readers would wait for that one for ever.
        if counts.read && self.native_calls(Way::Rx) == 0 {
            view.mine().set_attached();
        } else {
            self.end().rx.unverified.store(1, Ordering::SeqCst);
            self.verify_rx();
        }
    }

    /// Keeps the connection on TCP for good, or brings it back there. The first reason stays.
    pub fn pin(&self, why: Why) {
        let first =
            self.end().pinned.compare_exchange(0, why.pack(), Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if first {
            self.entry().set_why(why);
            log::debug!("fd {}: stays on TCP: {why}", self.listed_fd());
        }
        if self.is_attached() {
            self.view().mine().set_reason(why.reason.code());
            self.view().mine().set_go_back();
            self.alarm_peer();
        }
    }

    pub fn is_pinned(&self) -> bool {
        self.end().pinned.load(Ordering::Relaxed) != 0
    }

    /// Why the connection is on TCP for good, if it is.
    pub fn pinned(&self) -> Option<Why> {
        Why::unpack(self.end().pinned.load(Ordering::Relaxed)).filter(|why| *why != Why::NONE)
    }

    pub(crate) fn was_forked(&self) -> bool {
        self.end().was_forked()
    }

    /// As far as forks go, no other process holds the socket.
    pub fn is_held_alone(&self) -> bool {
        self.end().held_alone()
    }

    /// If the other end of the connection is in this process too, lets it do what this end asks of it.
    pub fn serve_local_peer(&self) {
        let mine = self.cold.try_lock().and_then(|cold| cold.slot());
        let Some(mine) = mine else { return };
        for other in all().filter(|c| c.is_attached() && !core::ptr::eq(*c, self)) {
            let theirs = other.cold.try_lock().and_then(|cold| cold.slot());
            if theirs.is_some_and(|t| t.is_other_end_of(&mine)) {
                other.serve_recall(other.listed_fd());
            }
        }
    }

    /// What the tools see: on the ring as soon as one direction is.
    pub(crate) fn show_mode(&self) {
        let end = self.end();
        let on_ring = (end.tx.epoch.load(Ordering::Relaxed) | end.rx.epoch.load(Ordering::Relaxed)) & 1 != 0;
        let entry = self.entry();
        entry.add_switch();
        if on_ring {
            entry.set_status(Mode::Smcd, Why::NONE);
        } else {
            let why = match Why::unpack(end.pinned.load(Ordering::Relaxed)) {
                Some(why) if why != Why::NONE => why,
                _ if self.view().peers().go_back() => Why::new(Detail::PeerReturned),
                _ if self.fin_seen() || self.view().peers().closed() => Why::new(Detail::PeerShutDown),
                _ => Why::new(Detail::Overflow),
            };
            entry.set_status(Mode::Tcp, why);
        }
        self.note_peer_reason();
    }

    /// Shows what the peer has said about staying on TCP.
    pub(crate) fn note_peer_reason(&self) {
        let view = self.view();
        if view.peers().go_back() {
            self.peer_reason(view.peers().reason());
        }
    }

    /// The peer stays on TCP, or wants it back, with this code.
    pub(crate) fn peer_reason(&self, code: u32) {
        if self.entry().peer_reason() != code {
            self.entry().set_peer_reason(code);
            log::debug!("fd {}: the peer stays on TCP: 0x{code:08x}", self.listed_fd());
        }
    }

    /// The peer wants TCP before anything has moved.
    #[cold]
    pub(crate) fn note_refusal(&self) {
        if self.view().peers().go_back() && !self.is_pinned() && self.entry().mode() == Mode::Tcp {
            self.entry().set_why(Why::new(Detail::PeerReturned));
            self.note_peer_reason();
        }
    }

    // --- descriptors ---

    /// Another descriptor of this process stands for the connection now.
    pub fn add_alias(&self) {
        self.aliases.fetch_add(1, Ordering::Relaxed);
    }

    /// Descriptors of this process that stand for the connection.
    pub fn aliases(&self) -> u32 {
        self.aliases.load(Ordering::Relaxed)
    }

    /// The descriptor under which the tools list the connection.
    pub fn listed_fd(&self) -> i32 {
        self.entry().fd()
    }

    pub fn list_as(&self, fd: i32) {
        self.entry().set_fd(fd);
    }

    /// Descriptor `fd` is about to be closed (-1: it was, unseen). After the last one the `Conn` is free for others.
    pub fn close(&'static self, fd: i32) {
        if self.aliases.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        report::connection_closes(self, fd);
        epoll::connection_closes(self);
        // One that an end shut down first ended too soon, too.
        if self.pinned().is_none_or(|why| matches!(why.detail, Detail::ShutDown | Detail::PeerShutDown)) {
            eager::connection_ends(
                self.is_active(),
                self.weight.load(Ordering::Relaxed),
                self.entry().ring_bytes(),
            );
        }
        let end = self.end();
        // A step of the rendezvous that another thread takes is waited for; it never blocks. One that this thread
        // interrupted (a signal handler that closes) cannot be.
        let interrupted = self.advancer.load(Ordering::Relaxed) == lock::tid();
        let mut slot = None;
        if !interrupted {
            let mut cold = self.cold.lock();
            slot = cold.slot();
            if !matches!(cold.rendezvous, Rendezvous::Idle) {
                proof::hide(fd);
            }
            *cold = Cold::default();
        }
        let phase = self.phase.load(Ordering::SeqCst);
        let attached = phase == ATTACHED;
        let end_index = self.end_index.load(Ordering::Relaxed).checked_sub(1);
        if attached {
            self.pay_debt(fd);
            // With both locks no call is inside; later ones meet another generation. A signal handler that closes
            // what it interrupted goes ahead without.
            let rx = end.rx.lock.lock();
            let tx = end.tx.lock.lock();
            if end.held_alone() {
                self.last_close(fd);
            }
            self.retire();
            drop((rx, tx));
        } else if phase > ATTACHED {
            let rx = end.rx.lock.lock();
            let tx = end.tx.lock.lock();
            let phase = self.phase.load(Ordering::SeqCst);
            self.close_far(phase);
            self.retire();
            drop((rx, tx));
        } else {
            self.retire();
        }
        REGISTRY.free(self.entry());
        let last = end.let_go(end_index);
        if let Some(slot) = slot {
            crate::link::leave_slot(&slot, last);
        }
        if !interrupted {
            CONNS.free(self.index());
        }
    }

    fn retire(&self) {
        self.phase.store(FREE, Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// No other process holds the socket: what TCP would do at the close must follow from the ring too. (One that the
    /// descriptor was passed to may, but then nothing is read from the ring any more.)
    fn last_close(&self, fd: i32) {
        let handed_over = self.is_pinned();
        if self.ring_state().readable && !handed_over {
            // TCP answers a close with unread data by a reset, so that the sender learns of the loss.
            let _ = sock::reset_at_close(fd);
        }
        if self.tx_let_go(&self.end().tx) {
            self.ring_peer(Bell::Data);
        }
        self.view().mine().set_closed();
    }

    /// The peer broke the ring's rules: this connection ends, and nothing else.
    #[cold]
    pub(crate) fn broken(&self, fd: i32) -> Errno {
        log::error!("fd {fd}: the peer wrote impossible values into shared memory; connection ended");
        let why = Why::new(Detail::RingGarbled);
        let _ = self.end().pinned.compare_exchange(0, why.pack(), Ordering::SeqCst, Ordering::SeqCst);
        self.entry().set_why(why);
        let _ = sock::shutdown(fd, libc::SHUT_RDWR);
        Errno(libc::ECONNRESET)
    }

    /// The line of this connection for SMC_REPORT.
    pub(crate) fn record(&self, fd: i32) -> SocketRecord {
        let known = self.cold.try_lock().and_then(|cold| cold.ends.as_deref().copied());
        SocketRecord::of_own(self.entry(), fd, known)
    }

    // --- fork ---

    pub(crate) fn fork_begins(&self) {
        self.end().fork_begins();
    }

    /// The child can borrow no buffer.
    pub(crate) fn borrow_for_child(&self) {
        if self.is_attached() {
            let _ = crate::link::lending::borrow(&self.view(), &self.end().tx);
        }
    }

    pub(crate) fn fork_failed(&self) {
        self.end().fork_failed();
    }

    /// In a child that has none of the epoll instances.
    pub(crate) fn forget_registrations(&self) {
        self.registrations.store(0, Ordering::Relaxed);
    }

    /// In the child, which has one thread: what other threads of the parent were doing is not going on here.
    pub(crate) fn forked(&self) {
        self.end().fork_done_in_child();
        self.end_index.store(0, Ordering::Relaxed);
        self.rx.waiters.store(0, Ordering::Relaxed);
        self.held.store(0, Ordering::Relaxed);
        self.rx.native.store(0, Ordering::Relaxed);
        self.tx.native.store(0, Ordering::Relaxed);
        self.attached_here.store(0, Ordering::Relaxed);
        self.advancer.store(0, Ordering::Relaxed);
        if self.cold.is_locked() {
            // SAFETY: the holder is a thread of the parent; here is only this one.
            unsafe { self.cold.force_unlock() };
        }
        if let Some(mut cold) = self.cold.try_lock() {
            // Drops the copies of descriptors only: the parent goes on with its own.
            if cold.slot().is_none() {
                cold.rendezvous = Rendezvous::default();
            }
        }
        let old = self.entry();
        let entry = REGISTRY.alloc(old.fd(), Kind::Connection);
        entry.set_status(old.mode(), old.why());
        entry.set_peer_reason(old.peer_reason());
        self.entry.store(entry as *const _ as *mut _, Ordering::Relaxed);
        self.far_forked();
    }
}

/// Set when something happened after which this process moves no connection any more (packed Why).
static STOPPED: AtomicU64 = AtomicU64::new(0);

/// Why no connection of this process moves any more, if that is so.
pub fn stopped() -> Option<Why> {
    Why::unpack(STOPPED.load(Ordering::Relaxed)).filter(|why| *why != Why::NONE)
}

/// From now on connections of this process that are not attached stay on TCP.
pub fn stop_moving(why: Why) {
    let _ = STOPPED.compare_exchange(0, why.pack(), Ordering::Relaxed, Ordering::Relaxed);
    all().filter(|c| !c.is_attached()).for_each(|c| c.pin(why));
}

/// The doorbell `old` has moved to another number.
pub fn doorbell_moved(old: i32, new: i32) {
    for conn in all() {
        for bell in &conn.bells {
            let _ = bell.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}
