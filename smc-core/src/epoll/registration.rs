//! One descriptor of a connection in one epoll instance of the program.

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::{kernel, EPOLLET, EPOLLEXCLUSIVE, EPOLLONESHOT};
use crate::conn::Conn;
use crate::slab::{Slab, Slot};
use crate::sys;

const NONE: u32 = 0;
const NOTED: u32 = 1;
const MOVED: u32 = 2;

/// Events of which the ring knows nothing.
const OF_THE_KERNEL: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR | libc::EPOLLPRI) as u32;

/// Whether epoll_ctl(2) takes these events: EPOLLEXCLUSIVE goes with few others, and not with EPOLL_CTL_MOD.
pub(super) fn is_valid(op: i32, events: u32) -> bool {
    const WITH_EXCLUSIVE: u32 = (libc::EPOLLIN
        | libc::EPOLLOUT
        | libc::EPOLLERR
        | libc::EPOLLHUP
        | libc::EPOLLWAKEUP
        | libc::EPOLLET
        | libc::EPOLLEXCLUSIVE) as u32;
    events & EPOLLEXCLUSIVE == 0 || (op != libc::EPOLL_CTL_MOD && events & !WITH_EXCLUSIVE == 0)
}

/// Fields are written with the set's lock held, except the links of the connection's list, which belong to the
/// lists' lock.
#[derive(Default)]
pub struct Registration {
    link: AtomicU32,
    generation: AtomicU32,
    state: AtomicU32,
    set: AtomicU32,
    /// Where it stands in its set's list of all.
    place: AtomicU32,
    conn: AtomicU64,
    conn_generation: AtomicU32,
    /// Index plus one of the next registration of the same connection.
    next: AtomicU32,
    fd: AtomicI32,
    events: AtomicU32,
    data: AtomicU64,
    /// One-shot and fired, or parked.
    disabled: AtomicU32,
    parked: AtomicU32,
    /// The inner epoll shows what the doorbell is rung for space, too.
    watches_space: AtomicU32,
    hot: AtomicU32,
    /// Sleeps since something happened.
    quiet: AtomicU32,
    /// The kernel may have something to say about the socket.
    kernel_dirty: AtomicU32,
    /// For edge-triggered ones: report what is ready, whatever it is.
    edge: AtomicU32,
    reported: AtomicU32,
    /// What the kernel had said that only it can say, at the last report.
    seen_kernel: AtomicU32,
    seen_produced: AtomicU64,
    seen_starved: AtomicU32,
}

impl Slot for Registration {
    fn link(&self) -> &AtomicU32 {
        &self.link
    }
}

pub(super) static REGISTRATIONS: Slab<Registration> = Slab::new(libc::MAP_PRIVATE);

/// Names a registration in the data of an inner epoll: generation (31 bits) above, index below.
pub(super) fn tag(index: u32) -> u64 {
    let generation = REGISTRATIONS.get(index).map_or(0, |r| r.generation.load(Ordering::Relaxed));
    ((generation as u64 & 0x7fff_ffff) << 32) | index as u64
}

/// The registration that `data` names, if it is still that one and of `set`.
pub(super) fn by_tag(data: u64, set: u32) -> Option<(u32, &'static Registration)> {
    let index = data as u32;
    let r = REGISTRATIONS.get(index)?;
    let live =
        r.state.load(Ordering::Relaxed) != NONE && r.set() == set && tag(index) == data & !kernel::SOCKET;
    live.then_some((index, r))
}

/// A new note in the connection's list. With the lists' lock and the set's lock held.
pub(super) fn make(
    conn: &Conn,
    set: u32,
    fd: i32,
    event: libc::epoll_event,
    all: &mut Vec<u32>,
) -> Option<u32> {
    let (index, r) = REGISTRATIONS.alloc(|_| false)?;
    r.set.store(set, Ordering::Relaxed);
    r.conn.store(conn as *const Conn as u64, Ordering::Relaxed);
    r.conn_generation.store(conn.generation(), Ordering::Relaxed);
    r.fd.store(fd, Ordering::Relaxed);
    for word in [&r.hot, &r.quiet, &r.reported, &r.seen_starved, &r.seen_kernel, &r.watches_space] {
        word.store(0, Ordering::Relaxed);
    }
    r.seen_produced.store(0, Ordering::Relaxed);
    r.modify(event);
    r.state.store(NOTED, Ordering::Relaxed);
    r.place.store(all.len() as u32, Ordering::Relaxed);
    all.push(index);
    r.next.store(conn.registrations.load(Ordering::Relaxed), Ordering::Relaxed);
    conn.registrations.store(index + 1, Ordering::Release);
    Some(index)
}

/// Calls `f` for each registration of the connection; `f` may free the one it is given.
pub(super) fn each_of(conn: &Conn, mut f: impl FnMut(u32, &'static Registration)) {
    let mut next = conn.registrations.load(Ordering::Acquire);
    while let Some(index) = next.checked_sub(1) {
        let Some(r) = REGISTRATIONS.get(index) else { return };
        next = r.next.load(Ordering::Relaxed);
        f(index, r);
    }
}

/// The same for those of one set.
pub(super) fn each(conn: &Conn, set: u32, mut f: impl FnMut(u32, &'static Registration)) {
    each_of(conn, |index, r| {
        if r.set() == set {
            f(index, r);
        }
    });
}

/// Whether the connection is registered just once.
pub(crate) fn only_one(conn: &Conn) -> bool {
    let first = conn.registrations.load(Ordering::Relaxed).checked_sub(1);
    first.and_then(|i| REGISTRATIONS.get(i)).is_some_and(|r| r.next() == 0)
}

pub(super) fn find(conn: &Conn, set: u32, fd: i32) -> Option<(u32, &'static Registration)> {
    let mut found = None;
    each(conn, set, |index, r| {
        if r.fd() == fd {
            found = Some((index, r));
        }
    });
    found
}

impl Registration {
    pub(super) fn set(&self) -> u32 {
        self.set.load(Ordering::Relaxed)
    }
    pub(super) fn fd(&self) -> i32 {
        self.fd.load(Ordering::Relaxed)
    }
    pub(super) fn events(&self) -> u32 {
        self.events.load(Ordering::Relaxed)
    }
    pub(super) fn data(&self) -> u64 {
        self.data.load(Ordering::Relaxed)
    }
    pub(super) fn next(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }
    pub(super) fn is_moved(&self) -> bool {
        self.state.load(Ordering::Relaxed) == MOVED
    }
    pub(super) fn set_moved(&self) {
        self.state.store(MOVED, Ordering::Relaxed);
    }
    /// The kernel is to tell its readiness again. Returns the events to ask for.
    pub(super) fn return_to_kernel(&self) -> u32 {
        self.state.store(NOTED, Ordering::Relaxed);
        self.cool();
        match self.disabled.swap(0, Ordering::Relaxed) {
            0 => self.events(),
            // One-shot, and fired.
            _ => self.events() & (EPOLLET | EPOLLONESHOT),
        }
    }
    /// EPOLL_CTL_DEL: for the program it is gone.
    pub(super) fn park(&self) {
        self.parked.store(1, Ordering::Relaxed);
        self.disabled.store(1, Ordering::Relaxed);
    }
    pub(super) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Relaxed) != 0
    }
    /// Asks for doorbells for what the program waits for; see [`crate::ring::asked`].
    pub(super) fn ask(&self) {
        if let Some(conn) = self.conn() {
            conn.want_news(self.wanted());
        }
    }
    pub(super) fn watches_space(&self) -> bool {
        self.watches_space.load(Ordering::Relaxed) != 0
    }
    pub(super) fn set_watches_space(&self, watches: bool) {
        self.watches_space.store(watches as u32, Ordering::Relaxed);
    }
    pub(super) fn set_disabled(&self, disabled: bool) {
        self.disabled.store(disabled as u32, Ordering::Relaxed);
    }

    /// The connection, if it is still the one that was registered.
    pub(super) fn conn(&self) -> Option<&'static Conn> {
        // SAFETY: set in `make` to a Conn, whose memory is never unmapped.
        let conn = unsafe { &*(self.conn.load(Ordering::Relaxed) as *const Conn) };
        (conn.generation() == self.conn_generation.load(Ordering::Relaxed)).then_some(conn)
    }

    /// What EPOLL_CTL_MOD (or ADD) asks for. As in the kernel, what is ready now is reported once more.
    pub(super) fn modify(&self, event: libc::epoll_event) {
        self.events.store(event.events, Ordering::Relaxed);
        self.data.store(event.u64, Ordering::Relaxed);
        self.disabled.store(0, Ordering::Relaxed);
        self.parked.store(0, Ordering::Relaxed);
        self.seen_kernel.store(0, Ordering::Relaxed);
        self.kernel_dirty.store(1, Ordering::Relaxed);
        self.edge.store(1, Ordering::Relaxed);
    }

    /// The kernel reported `events` of the socket. It always says that the socket is writable; that is news only if
    /// the bytes take that way.
    pub(super) fn kernel_news(&self, events: u32) {
        let Some(conn) = self.conn() else { return };
        self.kernel_dirty.store(1, Ordering::Relaxed);
        let told = self.events() | (libc::EPOLLHUP | libc::EPOLLERR) as u32;
        let mut news = events & OF_THE_KERNEL & !self.seen_kernel.load(Ordering::Relaxed);
        if !conn.ring_state().tx_on_ring {
            news |= events & libc::EPOLLOUT as u32;
        }
        // While the ring is read, the kernel is readable only with bytes behind those of the ring, or the end.
        news |= events & libc::EPOLLIN as u32;
        news &= told;
        if news != 0 {
            self.edge.store(1, Ordering::Relaxed);
        }
    }

    /// Something happened. True: it was not in the hot list.
    pub(super) fn heat(&self) -> bool {
        self.quiet.store(0, Ordering::Relaxed);
        self.hot.swap(1, Ordering::Relaxed) == 0
    }

    /// One more sleep; whether nothing has happened during more than `after` of them.
    pub(super) fn is_quiet(&self, after: u32) -> bool {
        let quiet = self.quiet.load(Ordering::Relaxed).saturating_add(1);
        self.quiet.store(quiet, Ordering::Relaxed);
        quiet > after
    }

    /// It leaves the hot list.
    pub(super) fn cool(&self) {
        self.hot.store(0, Ordering::Relaxed);
    }

    pub(super) fn just_reported(&self) -> bool {
        self.reported.swap(0, Ordering::Relaxed) != 0
    }

    /// The events asked for, as poll numbers them; epoll uses the same numbers.
    pub(super) fn wanted(&self) -> i16 {
        if self.disabled.load(Ordering::Relaxed) != 0 {
            return 0;
        }
        (self.events() & 0x7fff) as i16
    }

    /// The events to report now, 0 for none. `take`: they are being reported, so that edges and one-shots are used
    /// up.
    pub(super) fn evaluate(&self, take: bool) -> u32 {
        let Some(conn) = self.conn() else { return 0 };
        if self.disabled.load(Ordering::Relaxed) != 0 || !conn.is_moved() {
            return 0;
        }
        let wanted = self.wanted();
        // Before the look at what is ready: what comes in between makes an edge too many, and not one too few.
        let counts = (self.events() & EPOLLET != 0).then(|| (conn.produced(), conn.starved()));
        let ring = conn.ring_state();
        let mut kernel = 0;
        let dirty = self.kernel_dirty.load(Ordering::Relaxed) != 0;
        if conn.is_attached() && (dirty || (!ring.tx_on_ring && wanted & libc::POLLOUT != 0)) {
            let ask = conn.kernel_events(wanted, ring) | libc::POLLRDHUP;
            // The number registered may have been closed while a duplicate goes on.
            let mut look = [libc::pollfd { fd: conn.listed_fd(), events: ask, revents: 0 }];
            if sys::poll(&mut look, 0) == Ok(0) {
                self.kernel_dirty.store(0, Ordering::Relaxed);
            }
            kernel = look[0].revents & !libc::POLLNVAL;
        }
        let ready = conn.combine(wanted, ring, kernel) as u16 as u32;
        if counts.is_some_and(|counts| !self.is_edge(conn, counts, ready, take)) {
            return 0;
        }
        if ready != 0 && take {
            self.quiet.store(0, Ordering::Relaxed);
            self.reported.store(1, Ordering::Relaxed);
            if self.events() & EPOLLONESHOT != 0 {
                self.disabled.store(1, Ordering::Relaxed);
            }
        }
        ready
    }

    /// Whether something is new since the last report. The counts are [`Conn::produced`] and [`Conn::starved`], no later than `ready`.
    fn is_edge(&self, conn: &Conn, (produced, starved): (u64, u32), ready: u32, take: bool) -> bool {
        // On SMC-R ends are counted with the bytes; otherwise the kernel tells of them (`kernel_news`).
        let of_bytes = libc::EPOLLIN as u32 | if conn.is_attached() { 0 } else { OF_THE_KERNEL & ready };
        let edge = self.edge.load(Ordering::Relaxed) != 0
            || (ready & of_bytes != 0 && produced != self.seen_produced.load(Ordering::Relaxed))
            || (ready & libc::EPOLLOUT as u32 != 0 && starved != self.seen_starved.load(Ordering::Relaxed));
        if take && ready != 0 {
            self.edge.store(0, Ordering::Relaxed);
            if edge {
                self.seen_kernel.store(ready & OF_THE_KERNEL, Ordering::Relaxed);
                self.seen_produced.store(produced, Ordering::Relaxed);
                if ready & libc::EPOLLOUT as u32 != 0 {
                    self.seen_starved.store(starved, Ordering::Relaxed);
                }
            }
        }
        edge
    }

    /// Takes it out of its set's list of all.
    pub(super) fn remove_from(&self, all: &mut Vec<u32>) {
        let place = self.place.load(Ordering::Relaxed) as usize;
        if place < all.len() {
            all.swap_remove(place);
            if let Some(r) = all.get(place).and_then(|i| REGISTRATIONS.get(*i)) {
                r.place.store(place as u32, Ordering::Relaxed);
            }
        }
    }

    /// Takes it out of its connection's list. With the lists' lock held.
    pub(super) fn unlink(&self) {
        let Some(conn) = self.conn() else { return };
        let mut place = &conn.registrations;
        while let Some(r) = place.load(Ordering::Relaxed).checked_sub(1).and_then(|i| REGISTRATIONS.get(i)) {
            if core::ptr::eq(r, self) {
                place.store(self.next.load(Ordering::Relaxed), Ordering::Release);
                return;
            }
            place = &r.next;
        }
    }

    pub(super) fn free(&self, index: u32) {
        self.state.store(NONE, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Relaxed);
        REGISTRATIONS.free(index);
    }
}
