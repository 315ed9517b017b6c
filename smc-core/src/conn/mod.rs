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
mod far;
pub mod io;
mod life;
mod moving;
mod native;
mod options;
pub mod ready;
mod recall;
pub mod remote;
pub mod rx;
mod spin;
pub mod tx;
pub mod wait;
pub mod watch;

pub(crate) use counts::{half_closed, Counts};

use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::link::rendezvous::Rendezvous;
use crate::link::{Bell, TakenSlot};
use crate::lock::Lock;
use crate::policy;
use crate::reason::{Detail, Why};
use crate::registry::{Ends, Entry, Kind, Mode, REGISTRY};
use crate::ring::layout::{Area, SlotView};
use crate::shared::{self, EndState};
use crate::slab::{Slab, Slot};
use crate::sys::{self, Errno};

/// Places in [`Conn::bells`]. On shared memory each end has one doorbell. On SMC-R there is no peer's, and this end has two and, as
/// they are needed, two more.
mod bells {
    pub const DATA: usize = 0;
    /// SMC-R only.
    pub const SPACE: usize = 1;
    /// Shared memory only.
    pub const PEER: usize = 2;
    /// SMC-R only, both: for who waits for ends alone.
    pub const END: usize = 2;
    pub const HUP: usize = 3;
    pub const COUNT: usize = 4;
}

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
    /// See [`bells`].
    bells: [AtomicI32; bells::COUNT],
    /// The peer has closed its sending side, or this end its receiving side.
    fin_seen: AtomicU32,
    /// An error that the kernel reported while the ring still had bytes; 0 is none.
    saved_error: AtomicU32,
    /// Native calls under way during which the connection must not move.
    held: AtomicU32,
    /// The thread that takes a step of the rendezvous, with `cold` locked.
    advancer: AtomicU32,
    /// Somebody found the doorbell ([`bells::DATA`], [`bells::SPACE`]) rung and nobody has reset it since.
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
            bells: [const { AtomicI32::new(-1) }; bells::COUNT],
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

    /// The doorbell that is rung for this end: for data, or, of a connection on SMC-R, for space. On shared memory there is one for
    /// both, on which who waits for space sleeps through a [`watch::Watch`].
    #[inline]
    pub fn doorbell(&self, bell: Bell) -> i32 {
        let at = if bell == Bell::Space && !self.is_attached() { bells::SPACE } else { bells::DATA };
        self.bells[at].load(Ordering::Relaxed)
    }

    pub(crate) fn wakes_me(&self, bell: Bell) -> (Bell, i32) {
        (bell, self.doorbell(bell))
    }

    /// As [`crate::link::Doorbells::seen_from`] this end.
    pub(crate) fn set_doorbells(&self, [mine, peers]: [i32; 2]) {
        self.bells[bells::DATA].store(mine, Ordering::Relaxed);
        self.bells[bells::PEER].store(peers, Ordering::Relaxed);
    }

    /// The numbers of both ends' doorbells, while attached.
    pub fn doorbells(&self) -> [i32; 2] {
        [bells::DATA, bells::PEER].map(|at| self.bells[at].load(Ordering::Relaxed))
    }

    /// Wakes the peer, whatever it waits for.
    #[inline]
    pub(crate) fn ring_peer(&self) {
        sys::fd::ring(self.bells[bells::PEER].load(Ordering::Relaxed));
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
