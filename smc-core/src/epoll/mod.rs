//! Epoll instances of the program in which attached connections are registered.
//!
//! A connection that is still native is registered in the program's epoll as it always was; here only a note is kept
//! ([`registration::Registration`]). When it is attached, the kernel's view of its socket no longer tells its
//! readiness, so its registration is *moved*: taken out of the program's epoll and put into an *inner* epoll of
//! ours, both the TCP socket and the doorbell, edge-triggered. The inner epoll itself is one entry of the program's
//! epoll. Other entries and their data are never touched.
//!
//! Registrations in which something happened lately are *hot*: a wait looks at their cursors in memory, without
//! a system call. Before the wait sleeps it asks for doorbells for all hot ones. One that stays quiet for
//! [`COOL_AFTER`] sleeps leaves the hot list with its doorbell asked for; the doorbell makes it hot again. So the
//! cost of a wait grows with the busy connections, not with the idle ones.

pub(crate) mod kernel;
pub mod registration;

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::conn::Conn;
use crate::link::Bell;
use crate::lock::{Held, Lock};
use crate::reason::{Detail, Why};
use crate::ring::asked;
use crate::slab::{Slab, Slot};
use crate::sys::fd::{self, OwnFd};
use crate::sys::Errno;
use registration::{Registration, REGISTRATIONS};

pub const EPOLLET: u32 = libc::EPOLLET as u32;
pub const EPOLLONESHOT: u32 = libc::EPOLLONESHOT as u32;
pub const EPOLLEXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;

/// Sleeps without news after which a registration is no longer hot.
const COOL_AFTER: u32 = 32;
/// Waits in a row that may be answered from memory before the kernel is asked for other events.
const KERNEL_EVERY: u32 = 8;

/// One epoll instance. Type-stable, as [`Conn`].
#[repr(C, align(64))]
pub struct EpollSet {
    link: AtomicU32,
    index: AtomicU32,
    /// 0 free, 1 in use.
    used: AtomicU32,
    epfd: AtomicI32,
    aliases: AtomicU32,
    /// There is an inner epoll, which may report at any time.
    has_inner: AtomicU32,
    /// Threads asleep in the kernel in a wait on this instance.
    sleepers: AtomicU32,
    /// The instance is watched from outside (nested, or in poll), so its descriptor must be readable whenever
    /// an event is ready.
    watched: AtomicU32,
    unasked: AtomicU32,
    /// There may be connections whose SMC-R handshake is under way.
    undecided: AtomicU32,
    lock: Lock,
    state: UnsafeCell<State>,
}

#[derive(Default)]
struct State {
    inner: Option<OwnFd>,
    /// All registrations of connections here.
    all: Vec<u32>,
    hot: Vec<u32>,
    /// Where the next look at `hot` begins.
    turn: usize,
}

// SAFETY: `state` is only touched with the lock held.
unsafe impl Sync for EpollSet {}

impl Default for EpollSet {
    fn default() -> EpollSet {
        EpollSet {
            link: AtomicU32::new(0),
            index: AtomicU32::new(0),
            used: AtomicU32::new(0),
            epfd: AtomicI32::new(-1),
            aliases: AtomicU32::new(0),
            has_inner: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            watched: AtomicU32::new(0),
            unasked: AtomicU32::new(0),
            undecided: AtomicU32::new(0),
            lock: Lock::new(),
            state: UnsafeCell::new(State::default()),
        }
    }
}

impl Slot for EpollSet {
    fn link(&self) -> &AtomicU32 {
        &self.link
    }
}

static SETS: Slab<EpollSet> = Slab::new(libc::MAP_PRIVATE);

/// The fork handlers take this lock.
pub fn raw_lock() -> &'static Lock {
    SETS.raw_lock()
}

/// The fork handlers take this lock.
pub fn registrations_raw_lock() -> &'static Lock {
    REGISTRATIONS.raw_lock()
}

/// The epoll instances of this process that are open.
pub fn all_sets() -> impl Iterator<Item = &'static EpollSet> {
    (0..).map_while(|i| SETS.get(i)).filter(|s| s.used.load(Ordering::Acquire) == 1)
}

/// The locks of all instances, also of those that are not open any more: a thread may be about to close one.
pub(crate) fn set_locks() -> impl Iterator<Item = &'static Lock> {
    (0..).map_while(|i| SETS.get(i)).map(EpollSet::raw_lock)
}

/// Serialises changes of the lists that connect connections with their registrations.
static LISTS: Lock = Lock::new();

/// What `epoll_ctl` should do.
#[derive(Clone, Copy)]
pub enum Ctl {
    /// The call is complete.
    Done,
    Fail(Errno),
    /// The kernel is to make the call; afterwards [`EpollSet::note_ctl`].
    Native,
}

impl EpollSet {
    /// Begins to follow epoll instance `epfd`.
    pub fn open(epfd: i32) -> Option<&'static EpollSet> {
        let (index, set) = SETS.alloc(|_| false)?;
        set.index.store(index, Ordering::Relaxed);
        set.epfd.store(epfd, Ordering::Relaxed);
        set.aliases.store(1, Ordering::Relaxed);
        for word in [&set.has_inner, &set.sleepers, &set.watched, &set.unasked, &set.undecided] {
            word.store(0, Ordering::Relaxed);
        }
        set.used.store(1, Ordering::Release);
        Some(set)
    }

    pub(crate) fn raw_lock(&self) -> &Lock {
        &self.lock
    }

    pub fn add_alias(&self) {
        self.aliases.fetch_add(1, Ordering::Relaxed);
    }

    /// Descriptors of this process that stand for the instance.
    pub fn aliases(&self) -> u32 {
        self.aliases.load(Ordering::Relaxed)
    }

    /// A descriptor of the instance is about to be closed. `survivor`: another descriptor of it, if there is one.
    pub fn close(&'static self, survivor: Option<i32>) {
        if self.aliases.fetch_sub(1, Ordering::AcqRel) > 1 {
            if let Some(fd) = survivor {
                self.epfd.store(fd, Ordering::Relaxed);
            }
            return;
        }
        self.used.store(0, Ordering::Release);
        let Ok(lists) = LISTS.lock() else { return };
        if let Some((_held, state)) = self.state() {
            for index in core::mem::take(&mut state.all) {
                if let Some(r) = REGISTRATIONS.get(index) {
                    r.unlink();
                    r.free(index);
                }
            }
            state.hot.clear();
            state.inner = None;
        }
        drop(lists);
        SETS.free(self.index.load(Ordering::Relaxed));
    }

    #[allow(clippy::mut_from_ref)] // the lock makes it exclusive
    fn state(&self) -> Option<(Held<'_>, &mut State)> {
        let held = self.lock.lock().ok()?;
        // SAFETY: the lock is held as long as the first part of the pair lives.
        Some((held, unsafe { &mut *self.state.get() }))
    }

    fn me(&self) -> u32 {
        self.index.load(Ordering::Relaxed)
    }

    /// No connection was ever registered through us: the kernel answers alone.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.has_inner.load(Ordering::SeqCst) == 0
    }

    /// `epoll_ctl(self, op, fd, event)` for descriptor `fd` of `conn`, before the kernel sees it.
    pub fn ctl(
        &'static self,
        op: i32,
        fd: i32,
        conn: &'static Conn,
        event: Option<libc::epoll_event>,
    ) -> Ctl {
        if conn.is_undecided() {
            conn.settle(fd);
        }
        if !conn.is_moved() {
            return Ctl::Native;
        }
        if event.is_some_and(|e| !registration::is_valid(op, e.events)) {
            return Ctl::Fail(Errno(libc::EINVAL));
        }
        let Ok(_lists) = LISTS.lock() else { return Ctl::Fail(Errno(libc::EAGAIN)) };
        let found = registration::find(conn, self.me(), fd);
        match (op, found, event) {
            (libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL, Some((_, r)), _) if r.is_parked() => {
                Ctl::Fail(Errno(libc::ENOENT))
            }
            (libc::EPOLL_CTL_ADD, Some((_, r)), Some(_)) if r.is_moved() && !r.is_parked() => {
                Ctl::Fail(Errno(libc::EEXIST))
            }
            (libc::EPOLL_CTL_ADD, None, Some(event)) => {
                let Some((_held, state)) = self.state() else { return Ctl::Fail(Errno(libc::EAGAIN)) };
                let Some(index) = registration::make(conn, self.me(), fd, event, &mut state.all) else {
                    return Ctl::Fail(Errno(libc::ENOMEM));
                };
                match self.move_in(state, index, conn, fd) {
                    Ok(()) => Ctl::Done,
                    Err(e) => {
                        self.forget(state, index);
                        Ctl::Fail(e)
                    }
                }
            }
            (libc::EPOLL_CTL_MOD, Some((_, r)), Some(_))
                if r.is_moved() && r.events() & EPOLLEXCLUSIVE != 0 =>
            {
                Ctl::Fail(Errno(libc::EINVAL))
            }
            (libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_ADD, Some((index, r)), Some(event)) if r.is_moved() => {
                let Some((_held, state)) = self.state() else { return Ctl::Fail(Errno(libc::EAGAIN)) };
                if let Err(e) = self.watch_space(state, index, r, conn, event.events) {
                    return Ctl::Fail(e);
                }
                r.modify(event);
                state.heat(index, r);
                self.wake_sleepers(conn);
                Ctl::Done
            }
            (libc::EPOLL_CTL_DEL, Some((_, r)), _) if r.is_moved() => {
                let Some(_locked) = self.state() else { return Ctl::Fail(Errno(libc::EAGAIN)) };
                // It stays in the inner epoll, silent, until the connection closes: programs that take a descriptor
                // out usually put it back soon.
                r.park();
                Ctl::Done
            }
            _ => Ctl::Native,
        }
    }

    /// The kernel has made an `epoll_ctl` of a connection that is not attached (or not moved).
    pub fn note_ctl(&'static self, op: i32, fd: i32, conn: &'static Conn, event: Option<libc::epoll_event>) {
        let Ok(_lists) = LISTS.lock() else { return };
        let found = registration::find(conn, self.me(), fd);
        let Some((_held, state)) = self.state() else { return };
        match (op, found, event) {
            (libc::EPOLL_CTL_ADD, None, Some(event)) => {
                let made = registration::make(conn, self.me(), fd, event, &mut state.all);
                if made.is_none() {
                    conn.pin(Why::new(Detail::Memory));
                } else if conn.is_moved() {
                    // Attached by another thread while the kernel was asked.
                    if made.is_some_and(|index| self.convert(state, index, conn, fd).is_err()) {
                        conn.pin(Why::new(Detail::FdLimit));
                    }
                }
            }
            (libc::EPOLL_CTL_MOD, Some((index, r)), Some(event)) => {
                // Attached by another thread while the kernel was asked: as in `ctl`.
                if r.is_moved() && self.watch_space(state, index, r, conn, event.events).is_err() {
                    conn.pin(Why::new(Detail::FdLimit));
                }
                r.modify(event);
                if r.is_moved() {
                    state.heat(index, r);
                    self.wake_sleepers(conn);
                }
            }
            (libc::EPOLL_CTL_DEL, Some((index, _)), _) => self.forget(state, index),
            _ => {}
        }
    }

    /// Takes the registration out of the program's epoll and into the inner one.
    fn convert(&'static self, state: &mut State, index: u32, conn: &Conn, fd: i32) -> Result<(), Errno> {
        let Some(r) = REGISTRATIONS.get(index).filter(|r| !r.is_moved()) else { return Ok(()) };
        let epfd = self.epfd.load(Ordering::Relaxed);
        // A one-shot registration that has fired is asleep until the program wakes it.
        let fired = r.events() & EPOLLONESHOT != 0 && kernel::is_disabled(epfd, fd);
        self.move_in(state, index, conn, fd)?;
        kernel::delete(epfd, fd);
        r.set_disabled(fired);
        Ok(())
    }

    fn move_in(&'static self, state: &mut State, index: u32, conn: &Conn, fd: i32) -> Result<(), Errno> {
        let inner = match &state.inner {
            Some(inner) => inner.raw(),
            None => {
                if !fd::may_open(1) {
                    return Err(Errno(libc::EMFILE));
                }
                let inner = kernel::create()?;
                kernel::add(
                    self.epfd.load(Ordering::Relaxed),
                    inner.raw(),
                    libc::EPOLLIN as u32,
                    self.tag(),
                )?;
                let raw = inner.raw();
                state.inner = Some(inner);
                self.has_inner.store(1, Ordering::SeqCst);
                raw
            }
        };
        let tag = registration::tag(index);
        if conn.is_attached() {
            kernel::add(inner, fd, kernel::SOCKET_EVENTS, tag | kernel::SOCKET)?;
        } else {
            // Of a connection on SMC-R the socket tells nothing.
            self.undecided.store(1, Ordering::SeqCst);
        }
        let Some(r) = REGISTRATIONS.get(index) else { return Err(Errno(libc::ENOMEM)) };
        r.set_watches_space(wants_space(r.events()));
        if let Err(e) = self.add_bells(inner, index, conn) {
            r.set_watches_space(false);
            kernel::delete(inner, fd);
            kernel::delete(inner, conn.doorbell(Bell::Data));
            // A duplicate's registration here has the same doorbell.
            registration::each(conn, self.me(), |other, r| {
                if r.is_moved() {
                    let _ = self.add_bells(inner, other, conn);
                }
            });
            return Err(e);
        }
        r.set_moved();
        state.heat(index, r);
        // The kernel reports at once what the socket is ready for; seen here, it does not make the instance readable. Not what may be
        // about to wake somebody.
        if self.sleepers.load(Ordering::SeqCst) == 0 {
            self.harvest(state, inner);
        }
        self.wake_sleepers(conn);
        Ok(())
    }

    /// Puts the doorbells of a connection into the inner epoll, in the name of its registration `index`; or once more, when more is
    /// to be seen of them. The doorbell for space only where it is wanted: most programs never ask.
    fn add_bells(&self, inner: i32, index: u32, conn: &Conn) -> Result<(), Errno> {
        let mut space = false;
        registration::each(conn, self.me(), |_, r| space |= r.watches_space());
        let tag = registration::tag(index);
        let data = conn.doorbell(Bell::Data);
        if conn.is_attached() {
            let more = if space { kernel::WHATEVER_RESETS } else { 0 };
            return kernel::add(inner, data, kernel::BELL_EVENTS | more, tag);
        }
        kernel::add(inner, data, kernel::BELL_EVENTS, tag)?;
        match space {
            true => kernel::add(inner, conn.doorbell(Bell::Space), kernel::BELL_EVENTS, tag),
            false => Ok(()),
        }
    }

    /// The moved registration is to have `events`: space is watched from the first time on that the program wants to know of it.
    fn watch_space(
        &self,
        state: &mut State,
        index: u32,
        r: &Registration,
        conn: &Conn,
        events: u32,
    ) -> Result<(), Errno> {
        let Some(inner) = state.inner.as_ref().map(OwnFd::raw) else { return Ok(()) };
        if !wants_space(events) || r.watches_space() {
            return Ok(());
        }
        r.set_watches_space(true);
        if let Err(e) = self.add_bells(inner, index, conn) {
            r.set_watches_space(false);
            return Err(e);
        }
        Ok(())
    }

    /// Takes the news out of the inner epoll and makes hot what they are about.
    fn harvest(&self, state: &mut State, inner: i32) {
        let me = self.me();
        kernel::harvest(inner, |events, data| {
            let Some((index, r)) = registration::by_tag(data, me) else { return };
            if data & kernel::SOCKET != 0 {
                r.kernel_news(events);
                state.heat(index, r);
            } else if let Some(conn) = r.conn() {
                registration::each(conn, me, |index, r| state.heat(index, r));
            }
        });
    }

    fn move_out(&self, state: &mut State, conn: &Conn, fd: i32) {
        if let Some(inner) = &state.inner {
            kernel::delete(inner.raw(), fd);
            kernel::delete(inner.raw(), conn.doorbell(Bell::Data));
            if !conn.is_attached() {
                kernel::delete(inner.raw(), conn.doorbell(Bell::Space));
            }
        }
    }

    /// Drops the note. With the lists' lock and the set's lock held.
    fn forget(&self, state: &mut State, index: u32) {
        let Some(r) = REGISTRATIONS.get(index) else { return };
        state.hot.retain(|i| *i != index);
        r.remove_from(&mut state.all);
        r.unlink();
        r.free(index);
    }

    /// Marks the inner epoll's entry in the program's epoll: an address of ours, which no program uses as its data.
    pub fn tag(&self) -> u64 {
        self as *const EpollSet as u64
    }

    /// Threads asleep on the instance must look again.
    fn wake_sleepers(&self, conn: &Conn) {
        if self.sleepers.load(Ordering::SeqCst) > 0 || self.watched.load(Ordering::Relaxed) != 0 {
            conn.ring_own(Bell::Data);
        }
    }

    // --- waiting ---

    /// Sees which SMC-R handshakes of connections here are over. Before a look at what is ready.
    pub fn settle(&self) {
        if self.undecided.load(Ordering::Relaxed) != 0 {
            self.settle_all();
        }
    }

    #[cold]
    fn settle_all(&self) {
        let mut undecided = Vec::new();
        if let Some((_held, state)) = self.state() {
            let conns = state.all.iter().filter_map(|i| REGISTRATIONS.get(*i)).filter_map(|r| r.conn());
            undecided.extend(conns.filter(|conn| conn.is_undecided()));
            if undecided.is_empty() {
                self.undecided.store(0, Ordering::Relaxed);
            }
        }
        for conn in undecided {
            conn.settle(conn.listed_fd());
        }
    }

    /// Puts events that are ready now into `out`; returns how many. No system call unless the kernel had news of a
    /// socket.
    pub fn collect(&self, out: &mut [libc::epoll_event]) -> usize {
        let Some((_held, state)) = self.state() else { return 0 };
        let mut n = 0;
        let count = state.hot.len();
        if count > 0 {
            state.turn %= count;
        }
        for i in 0..count {
            if n == out.len() {
                state.turn += i;
                break;
            }
            let index = state.hot[(state.turn + i) % count];
            let Some(r) = REGISTRATIONS.get(index) else { continue };
            let events = r.evaluate(true);
            if events != 0 {
                out[n] = libc::epoll_event { events, u64: r.data() };
                n += 1;
            }
        }
        n
    }

    /// Whether it is time to ask the kernel for its events before looking at the ones in memory. Counts waits that
    /// found something in memory; a sleep asks the kernel anyway.
    pub fn kernel_is_due(&self) -> bool {
        let n = self.unasked.load(Ordering::Relaxed) + 1;
        self.unasked.store(n % KERNEL_EVERY, Ordering::Relaxed);
        n >= KERNEL_EVERY
    }

    /// Watches the hot registrations for as long as it may pay off.
    pub fn spin(&self) -> bool {
        let first = {
            let Some((_held, state)) = self.state() else { return false };
            state.hot.first().and_then(|i| REGISTRATIONS.get(*i)).and_then(|r| r.conn())
        };
        let Some(first) = first else { return false };
        // The lock is free between two looks, for those who change registrations meanwhile.
        first.watch(|| {
            let Some((_held, state)) = self.state() else { return true };
            state.hot.iter().any(|i| REGISTRATIONS.get(*i).is_some_and(|r| r.evaluate(false) != 0))
        })
    }

    /// Asks for doorbells for all hot registrations. Afterwards [`EpollSet::collect`] must be called once more
    /// before sleeping. Returns how long the sleep may last at most.
    pub fn arm(&self) -> Option<u64> {
        let (_held, state) = self.state()?;
        let mut limit = None;
        state.hot.iter().filter_map(|i| REGISTRATIONS.get(*i)).for_each(Registration::ask);
        asked();
        state.hot.retain(|index| {
            let Some(r) = REGISTRATIONS.get(*index) else { return false };
            let Some(conn) = r.conn() else { return false };
            let wanted = r.wanted();
            let full = if wanted & libc::POLLOUT != 0 { conn.tx_full_limit() } else { None };
            let later = if wanted & libc::POLLIN != 0 { conn.rx_limit() } else { None };
            limit = [limit, full, later].into_iter().flatten().min();
            // One that leaves the list is not looked at again before the sleep: look now, after asking.
            full.is_some() || later.is_some() || !r.is_quiet(COOL_AFTER) || r.evaluate(false) != 0 || {
                r.cool();
                false
            }
        });
        limit
    }

    /// A thread goes to sleep in the kernel on the instance.
    pub fn sleep_begins(&self) {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
    }

    /// It is awake again. If nobody else sleeps, the busy connections need not ring any more.
    pub fn sleep_ends(&self) {
        self.unasked.store(0, Ordering::Relaxed);
        let others = self.sleepers.fetch_sub(1, Ordering::SeqCst) > 1;
        if others || self.watched.load(Ordering::Relaxed) != 0 {
            return;
        }
        if let Some((_held, state)) = self.state() {
            if self.sleepers.load(Ordering::SeqCst) > 0 {
                return;
            }
            let hot = state.hot.iter().filter_map(|i| REGISTRATIONS.get(*i));
            hot.filter_map(|r| r.conn()).filter(|c| c.has_one_registration()).for_each(Conn::waive_data);
        }
    }

    /// Takes the inner epoll's entry out of the first `n` of `events` and makes hot what it announces. Returns how
    /// many events remain.
    pub fn absorb(&self, events: &mut [libc::epoll_event], n: usize) -> usize {
        let tag = self.tag();
        let Some(at) = events[..n].iter().position(|e| e.u64 == tag) else { return n };
        events.copy_within(at + 1..n, at);
        if let Some((_held, state)) = self.state() {
            if let Some(inner) = state.inner.as_ref().map(OwnFd::raw) {
                self.harvest(state, inner);
            }
        }
        n - 1
    }

    /// The calling thread leaves a wait. Others that sleep on the instance, or watch its descriptor, rely on
    /// doorbells from now on.
    pub fn leave(&self) {
        let watched = self.watched.load(Ordering::Relaxed) != 0;
        if !watched && self.sleepers.load(Ordering::SeqCst) == 0 {
            return;
        }
        let Some((_held, state)) = self.state() else { return };
        state.hot.iter().filter_map(|i| REGISTRATIONS.get(*i)).for_each(Registration::ask);
        asked();
        for r in state.hot.iter().filter_map(|i| REGISTRATIONS.get(*i)) {
            let Some(conn) = r.conn() else { continue };
            if (watched || !r.just_reported()) && r.evaluate(false) != 0 {
                conn.ring_own(Bell::Data);
            }
        }
    }

    /// The instance is watched through its descriptor from now on: by another epoll, or by poll or select.
    pub fn watched_from_outside(&self) {
        self.watched.store(1, Ordering::Relaxed);
        // Old news must not make it readable; what is ready now must.
        if let Some((_held, state)) = self.state() {
            if let Some(inner) = state.inner.as_ref().map(OwnFd::raw) {
                self.harvest(state, inner);
            }
        }
        self.leave();
    }
}

impl State {
    fn heat(&mut self, index: u32, r: &Registration) {
        if r.heat() && !self.hot.contains(&index) {
            self.hot.push(index);
        }
    }
}

fn wants_space(events: u32) -> bool {
    events & (libc::EPOLLOUT | libc::EPOLLWRNORM | libc::EPOLLWRBAND) as u32 != 0
}

/// The connection has been attached: its registrations move. If one cannot, the connection stays on TCP, whose
/// readiness the kernel tells.
pub(crate) fn connection_attached(conn: &Conn, _fd: i32) {
    let Ok(_lists) = LISTS.lock() else { return };
    let mut failed = false;
    registration::each_of(conn, |index, r| {
        let Some(set) = SETS.get(r.set()) else { return };
        let Some((_held, state)) = set.state() else { return };
        failed |= set.convert(state, index, conn, r.fd()).is_err();
    });
    if failed {
        conn.pin(Why::new(Detail::FdLimit));
    }
}

/// The connection has turned out to be TCP: its registrations go back to the program's epoll instances.
pub(crate) fn connection_returned(conn: &Conn) {
    if conn.registrations.load(Ordering::Acquire) == 0 {
        return;
    }
    let Ok(_lists) = LISTS.lock() else { return };
    registration::each_of(conn, |index, r| {
        let Some(set) = SETS.get(r.set()) else { return };
        let Some((_held, state)) = set.state() else { return };
        if !r.is_moved() {
            return;
        }
        set.move_out(state, conn, r.fd());
        if r.is_parked() {
            return set.forget(state, index);
        }
        state.hot.retain(|i| *i != index);
        let events = r.return_to_kernel();
        let _ = kernel::add(set.epfd.load(Ordering::Relaxed), r.fd(), events, r.data());
    });
}

/// A writer of the connection was told to wait: its registrations are to be looked at in the next waits.
pub(crate) fn connection_starved(conn: &Conn) {
    if conn.registrations.load(Ordering::Acquire) == 0 {
        return;
    }
    let Ok(_lists) = LISTS.lock() else { return };
    registration::each_of(conn, |index, r| {
        let Some(set) = SETS.get(r.set()) else { return };
        let Some((_held, state)) = set.state() else { return };
        if r.is_moved() {
            state.heat(index, r);
        }
    });
}

/// The connection's last descriptor is about to be closed.
pub(crate) fn connection_closes(conn: &'static Conn) {
    if conn.registrations.load(Ordering::Acquire) == 0 {
        return;
    }
    let Ok(_lists) = LISTS.lock() else { return };
    registration::each_of(conn, |index, r| {
        let Some(set) = SETS.get(r.set()) else { return };
        let Some((_held, state)) = set.state() else { return };
        // The inner epoll of a forked child is the parent's too, which may go on with the connection; entries that
        // nobody knows any more are ignored, and replaced when their doorbells are used again.
        if r.is_moved() && !conn.was_forked() {
            set.move_out(state, conn, r.fd());
        }
        set.forget(state, index);
    });
}

/// In a forked child.
pub(crate) fn after_fork_in_child() {
    for set in all_sets() {
        set.sleepers.store(0, Ordering::Relaxed);
        // The parent uses the same kernel object: what one of them takes from it the other does not see.
        set.watched.store(1, Ordering::Relaxed);
    }
}

/// The fork handlers take this lock first.
pub(crate) fn lists_raw_lock() -> &'static Lock {
    &LISTS
}
