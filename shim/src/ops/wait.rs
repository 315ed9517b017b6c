//! poll and select over at least one connection or engine's epoll instance.
//!
//! The array goes to the kernel rewritten: attached connections are asked for what only the kernel knows
//! ([`Conn::kernel_events`]), and their doorbells stand behind the program's entries. Everything else is passed as it
//! is. select is poll with other clothes.

use super::epoll::{listener_bell, watched};
use crate::fd_table::{self, Entry};
use crate::{errno, guard, real};
use core::ptr::{null, null_mut};
use libc::{c_int, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};
use smc_core::conn::watch::{Watch, LOOK_NS};
use smc_core::conn::Conn;
use smc_core::link::Bell;
use smc_core::ring::asked as asked_for_doorbells;
use smc_core::{listener, remote, sys};

/// Entries for which the stack has room, doorbells included; beyond that memory is mapped for the call.
const ON_STACK: usize = 48;
const FOR_EVER: u64 = u64::MAX;
const NS: u64 = 1_000_000_000;

/// Room for `len` entries. Not freed by dropping: cancellation may unwind through its owner, which must not drop.
struct Room {
    stack: [pollfd; ON_STACK],
    mapped: *mut pollfd,
    len: usize,
}

impl Room {
    #[inline(always)]
    fn new() -> Room {
        Room {
            stack: [pollfd { fd: -1, events: 0, revents: 0 }; ON_STACK],
            mapped: null_mut(),
            len: ON_STACK,
        }
    }

    /// The entries; null if memory is out.
    fn get(&mut self, len: usize) -> *mut pollfd {
        if len <= ON_STACK {
            return self.stack.as_mut_ptr();
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        match sys::map(len * core::mem::size_of::<pollfd>(), flags, -1) {
            Ok(at) => {
                self.mapped = at.cast();
                self.len = len;
                self.mapped
            }
            Err(_) => null_mut(),
        }
    }

    fn give_back(&mut self) {
        if !self.mapped.is_null() {
            let len = self.len * core::mem::size_of::<pollfd>();
            // SAFETY: mapped by `get`, and not used after.
            let _ = unsafe { smc_core::sys!(SYS_munmap, self.mapped, len) };
        }
    }
}

/// The attached connection behind `fd`.
#[inline(always)]
fn attached(fd: c_int) -> Option<&'static Conn> {
    match fd_table::get(fd) {
        Entry::Conn(conn) if conn.is_moved() => Some(conn),
        _ => None,
    }
}

pub unsafe extern "C" fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    let left = if timeout < 0 { FOR_EVER } else { timeout as u64 * 1_000_000 };
    unsafe { poll_for(fds, count as usize, left, null()) }
}

pub unsafe extern "C" fn ppoll(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    match unsafe { nanoseconds(timeout) } {
        Some(left) => unsafe { poll_for(fds, count as usize, left, mask) },
        // EINVAL, from the kernel.
        None => unsafe { real::ppoll(fds, count, timeout, mask) },
    }
}

/// `FOR_EVER` for null; `None` for what the kernel refuses.
unsafe fn nanoseconds(timeout: *const timespec) -> Option<u64> {
    match unsafe { timeout.as_ref() } {
        None => Some(FOR_EVER),
        Some(t) if t.tv_sec >= 0 && (0..NS as i64).contains(&t.tv_nsec) => {
            Some((t.tv_sec as u64).saturating_mul(NS).saturating_add(t.tv_nsec as u64))
        }
        Some(_) => None,
    }
}

/// First look, without the kernel. Readiness goes into `revents`.
extern "C" fn look(fds: *mut pollfd, count: usize) -> Looked {
    const NOTHING: Looked = Looked { ready: 0, complete: 0, attached: 0 };
    guard::protect(NOTHING, || {
        let mut looked = NOTHING;
        for i in 0..count {
            // SAFETY: the program's array.
            let entry = unsafe { &mut *fds.add(i) };
            entry.revents = 0;
            if let Some(conn) = attached(entry.fd) {
                conn.settle(entry.fd);
            }
            if let Some(conn) = attached(entry.fd) {
                looked.attached += 1;
                entry.revents = conn.combine(entry.events, conn.ring_state(), 0);
                looked.ready += (entry.revents != 0) as usize;
                // What else there is only the kernel knows.
                looked.complete += (entry.revents & entry.events == entry.events) as usize;
            }
        }
        looked
    })
}

#[derive(Clone, Copy)]
struct Looked {
    ready: usize,
    /// Ready for all that is asked for.
    complete: usize,
    attached: usize,
}

/// Watches the first attached connection for as long as it may pay off: one is what most polls have.
extern "C" fn spin(fds: *mut pollfd, count: usize) -> bool {
    guard::protect(false, || {
        for i in 0..count {
            // SAFETY: the program's array.
            let entry = unsafe { &*fds.add(i) };
            if let Some(conn) = attached(entry.fd) {
                return conn.spin_for(entry.events);
            }
        }
        false
    })
}

/// What a poll waits for space with.
struct Space {
    watch: Option<Watch>,
    /// Doorbells in it.
    bells: usize,
}

/// In the kernel's array, between [`begin_sleep`] and [`prepare`]: the connection's doorbell is watched for space; and: was reset.
const WATCHED: i16 = 1;
const RESET: i16 = 2;

/// Before a sleep: resets the doorbells of connections that are waited for to become readable, and watches those of connections that
/// are to become writable. All of it before the watch is cleared, which takes a reset for a ring.
extern "C" fn begin_sleep(fds: *mut pollfd, count: usize, asked: *mut pollfd, space: &mut Space) {
    guard::protect((), || {
        for i in 0..count {
            // SAFETY: as in `prepare`.
            let (entry, ask) = unsafe { (&*fds.add(i), &mut *asked.add(i)) };
            ask.revents = 0;
            let Some(conn) = attached(entry.fd).filter(|conn| conn.is_attached()) else { continue };
            if entry.events & READ != 0 && conn.quiet_bell(Bell::Data) {
                ask.revents |= RESET;
            }
            if entry.events & WRITE != 0 {
                let ring = conn.ring_state();
                if !ring.writable && (ring.tx_on_ring || !tcp_takes_more(entry.fd)) && space.watch(conn) {
                    ask.revents |= WATCHED;
                }
            }
        }
        if let Some(watch) = space.watch {
            watch.clear();
        }
    });
}

impl Space {
    fn watch(&mut self, conn: &Conn) -> bool {
        if self.watch.is_none() {
            self.watch = Watch::take();
        }
        let added = self.watch.map(|watch| watch.add(conn.doorbell(Bell::Space)));
        self.bells += (added == Some(Ok(true))) as usize;
        matches!(added, Some(Ok(_)))
    }

    /// The doorbell of `conn` may be watched: `fd` is what stood behind the program's entries.
    fn watched_until_now(&mut self, conn: &Conn, fd: c_int) {
        if let Some(watch) = self.watch.filter(|watch| watch.fd() == fd) {
            self.bells = self.bells.saturating_sub(watch.remove(conn.doorbell(Bell::Space)) as usize);
        }
    }
}

fn tcp_takes_more(fd: c_int) -> bool {
    sys::poll(&mut [pollfd { fd, events: libc::POLLOUT, revents: 0 }], 0) != Ok(0)
}

extern "C" fn end_sleeps(space: &Space) {
    guard::protect((), || {
        if let Some(watch) = space.watch {
            watch.give_back(space.bells == 0);
        }
    });
}

/// Writes the kernel's array: `count` entries and two doorbells for each attached one, and asks for the doorbells if the
/// call may sleep, after [`begin_sleep`]. Returns the length, and for how long the sleep may last at most.
extern "C" fn prepare(
    fds: *mut pollfd,
    count: usize,
    asked: *mut pollfd,
    sleeps: bool,
    space: &mut Space,
) -> Prepared {
    if sleeps {
        begin_sleep(fds, count, asked, space);
    }
    guard::protect(Prepared { len: count, limit: FOR_EVER, news: true }, || {
        let mut p = Prepared { len: count, limit: FOR_EVER, news: false };
        for i in 0..count {
            // SAFETY: the program's array, and one of ours with room for three entries each.
            let (entry, ask) = unsafe { (&*fds.add(i), &mut *asked.add(i)) };
            let begun = if sleeps { ask.revents } else { 0 };
            let watch = space.watch.filter(|_| begun & WATCHED != 0);
            *ask = pollfd { fd: entry.fd, events: entry.events, revents: 0 };
            let looked_up = fd_table::get(entry.fd);
            if let Entry::Conn(conn) = looked_up {
                conn.settle(entry.fd);
            }
            match looked_up {
                Entry::Conn(conn) if conn.is_moved() => {
                    let mut reset = [false; 2];
                    // The end of its handshake rings both.
                    let undecided = conn.is_undecided();
                    for (bell, events) in BELLS {
                        let asked_for = undecided || entry.events & events != 0;
                        let number = conn.doorbell(bell);
                        // Left out, but recognisable, where nobody waits for it: poll ignores negative numbers.
                        let fd = match bell {
                            Bell::Space if conn.is_attached() => watch.map_or(-1, |watch| watch.fd()),
                            _ if asked_for || number < 0 => number,
                            _ => !number,
                        };
                        // SAFETY: as above.
                        unsafe { *asked.add(p.len) = pollfd { fd, events: libc::POLLIN, revents: 0 } };
                        p.len += 1;
                        // Of one on shared memory that was done before.
                        reset[bell as usize] = match conn.is_attached() {
                            true => bell == Bell::Data && begun & RESET != 0,
                            false => sleeps && asked_for && conn.quiet_bell(bell),
                        };
                    }
                    if sleeps {
                        conn.rx_wait_begins();
                        conn.want(entry.events);
                        asked_for_doorbells();
                    }
                    // The reset may have swallowed what it ended with.
                    p.news |= undecided && conn.settle(entry.fd);
                    let ring = conn.ring_state();
                    if conn.is_attached() {
                        ask.events = conn.kernel_events(entry.events, ring);
                        if entry.events & WRITE != 0 && watch.is_none() {
                            p.limit = p.limit.min(LOOK_NS);
                        }
                    } else {
                        // What the socket says of its TCP connection means nothing. (poll ignores negative numbers.)
                        let fd = if sleeps { conn.end_bell(entry.events) } else { -1 };
                        *ask = pollfd { fd, events: libc::POLLIN, revents: 0 };
                        if fd < 0 && entry.events & (READ | WRITE) == 0 {
                            // There was no descriptor for a doorbell that tells of an end alone.
                            p.limit = p.limit.min(NS / 10);
                        }
                    }
                    if conn.combine(entry.events, ring, 0) != 0 {
                        p.news = true;
                        for (bell, _) in BELLS.into_iter().filter(|(bell, _)| reset[*bell as usize]) {
                            conn.ring_own(bell);
                        }
                    }
                    if entry.events & READ != 0 {
                        p.limit = p.limit.min(conn.rx_limit().unwrap_or(FOR_EVER));
                    }
                    if entry.events & WRITE != 0 {
                        p.limit = p.limit.min(conn.tx_full_limit().unwrap_or(FOR_EVER));
                    }
                }
                // Only who waits for bytes counts as a blind reader.
                Entry::Conn(conn) if entry.events & READ != 0 => conn.poll_begins(),
                Entry::Epoll(set) => watched(set),
                Entry::Listener(_) if remote::is_loaded() && entry.events & READ != 0 => {
                    let bell = listener_bell(entry.fd);
                    if bell >= 0 {
                        // SAFETY: as above.
                        unsafe { *asked.add(p.len) = pollfd { fd: bell, events: libc::POLLIN, revents: 0 } };
                        p.len += 1;
                    }
                }
                _ => {}
            }
        }
        p
    })
}

/// The doorbells of an attached connection, in the order in which they stand in the kernel's array, and what they
/// are for.
const BELLS: [(Bell, i16); 2] = [(Bell::Data, READ), (Bell::Space, WRITE)];

/// Whether the entry at `at` is the first doorbell of `conn`: not if the connection was attached only after
/// [`prepare`].
unsafe fn has_bells(conn: &Conn, at: *const pollfd) -> bool {
    let bell = conn.doorbell(BELLS[0].0);
    let fd = unsafe { (*at).fd };
    bell >= 0 && (fd == bell || fd == !bell)
}

/// If the entry at `at` is the doorbell of the listener that the program's entry is about: whether it was rung.
unsafe fn rung_listener(entry: &pollfd, at: *const pollfd) -> Option<bool> {
    if !remote::is_loaded()
        || entry.events & READ == 0
        || !matches!(fd_table::get(entry.fd), Entry::Listener(_))
    {
        return None;
    }
    let (bell, answer) = (listener::doorbell(entry.fd), unsafe { &*at });
    (bell >= 0 && answer.fd == bell).then_some(answer.revents & libc::POLLIN != 0)
}

#[derive(Clone, Copy)]
struct Prepared {
    len: usize,
    limit: u64,
    /// An entry has become ready in memory.
    news: bool,
}

/// Puts the kernel's answers together with what the rings say. Returns how many entries are ready.
extern "C" fn conclude(
    fds: *mut pollfd,
    count: usize,
    asked: *mut pollfd,
    slept: bool,
    space: &mut Space,
) -> c_int {
    guard::protect(0, || {
        let mut ready = 0;
        let mut bell = count;
        for i in 0..count {
            // SAFETY: as in `prepare`.
            let (entry, answer) = unsafe { (&mut *fds.add(i), &*asked.add(i)) };
            entry.revents = answer.revents;
            if let Entry::Conn(conn) = fd_table::get(entry.fd) {
                // SAFETY: as in `prepare`.
                if unsafe { has_bells(conn, asked.add(bell)) } {
                    if slept {
                        conn.rx_wait_ends();
                    }
                    for (kind, _) in BELLS {
                        // SAFETY: as in `prepare`.
                        let answer = unsafe { *asked.add(bell) };
                        conn.after_sleep(kind, answer.revents & libc::POLLIN != 0);
                        bell += 1;
                        space.watched_until_now(conn, answer.fd);
                    }
                    // One that has turned out to be TCP is for the next look.
                    let moved = conn.settle(entry.fd) && conn.is_moved();
                    let ring = conn.ring_state();
                    entry.revents = if moved { conn.combine(entry.events, ring, answer.revents) } else { 0 };
                } else if entry.events & READ != 0 {
                    conn.poll_ends();
                }
            } else if let Some(rung) = unsafe { rung_listener(entry, asked.add(bell)) } {
                if rung {
                    entry.revents |= entry.events & (libc::POLLIN | libc::POLLRDNORM);
                }
                bell += 1;
            }
            ready += (entry.revents != 0) as c_int;
        }
        ready
    })
}

/// After a wait that failed: undoes what [`prepare`] did for connections that were not attached.
extern "C" fn abandon(fds: *mut pollfd, count: usize, asked: *mut pollfd, slept: bool, space: &mut Space) {
    guard::protect((), || {
        let mut bell = count;
        for i in 0..count {
            // SAFETY: as in `prepare`.
            let entry = unsafe { &*fds.add(i) };
            if let Entry::Conn(conn) = fd_table::get(entry.fd) {
                // SAFETY: as in `prepare`.
                if unsafe { has_bells(conn, asked.add(bell)) } {
                    if slept {
                        conn.rx_wait_ends();
                    }
                    for _ in BELLS {
                        // SAFETY: as in `prepare`.
                        space.watched_until_now(conn, unsafe { (*asked.add(bell)).fd });
                        bell += 1;
                    }
                } else if entry.events & READ != 0 {
                    conn.poll_ends();
                }
            // SAFETY: as in `prepare`.
            } else if unsafe { rung_listener(entry, asked.add(bell)) }.is_some() {
                bell += 1;
            }
        }
    });
}

/// poll for at most `left` nanoseconds.
unsafe extern "C" fn poll_for(fds: *mut pollfd, count: usize, left: u64, mask: *const sigset_t) -> c_int {
    let looked = look(fds, count);
    if looked.ready == count && looked.complete == count {
        return count as c_int;
    }
    // What is ready in memory may be taken by another thread before it is reported: then the wait goes on.
    let mut at_once = looked.ready > 0 || (left != 0 && looked.attached > 0 && spin(fds, count));
    let mut left = left;
    let mut room = Room::new();
    let asked = room.get(count * 3 + 1);
    if asked.is_null() {
        errno::set(libc::ENOMEM);
        return -1;
    }
    let deadline = if left == 0 || left == FOR_EVER { left } else { sys::now_ns().saturating_add(left) };
    let mut space = Space { watch: None, bells: 0 };
    let ready = loop {
        let sleeps = left != 0 && !at_once;
        let prepared = prepare(fds, count, asked, sleeps, &mut space);
        // The entry after the last: `conclude` may look at it.
        unsafe { (*asked.add(prepared.len)).fd = c_int::MIN };
        let wait = if prepared.news || at_once { 0 } else { left.min(prepared.limit) };
        at_once = false;
        let time = timespec { tv_sec: (wait / NS) as i64, tv_nsec: (wait % NS) as i64 };
        let time = if wait == FOR_EVER { null() } else { &time as *const timespec };
        let got = unsafe { real::ppoll(asked, prepared.len as nfds_t, time, mask) };
        if got < 0 {
            abandon(fds, count, asked, sleeps, &mut space);
            break got;
        }
        let ready = conclude(fds, count, asked, sleeps, &mut space);
        if ready > 0 || left == 0 {
            break ready;
        }
        if deadline != FOR_EVER {
            left = deadline.saturating_sub(sys::now_ns());
            if left == 0 {
                break 0;
            }
        }
    };
    room.give_back();
    if space.watch.is_some() {
        end_sleeps(&space);
    }
    ready
}

const BITS: usize = usize::BITS as usize;
/// What each of select's sets asks of poll, and which of poll's answers put a descriptor into it (select(2)).
const READ: i16 = libc::POLLIN | libc::POLLRDNORM | libc::POLLRDBAND;
const WRITE: i16 = libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND;
const READ_ANSWER: i16 = READ | libc::POLLHUP | libc::POLLERR;
const WRITE_ANSWER: i16 = WRITE | libc::POLLERR;
const EXCEPT: i16 = libc::POLLPRI;

unsafe fn has(set: *const fd_set, fd: usize) -> bool {
    !set.is_null() && unsafe { *set.cast::<usize>().add(fd / BITS) } & (1 << (fd % BITS)) != 0
}

unsafe fn put(set: *mut fd_set, fd: usize, on: bool) {
    if !set.is_null() {
        let word = unsafe { &mut *set.cast::<usize>().add(fd / BITS) };
        *word = if on { *word | 1 << (fd % BITS) } else { *word & !(1 << (fd % BITS)) };
    }
}

/// Fills `list` (if there is one) with the descriptors in the sets; returns how many there are.
unsafe extern "C" fn gather(count: usize, sets: &[*mut fd_set; 3], list: *mut pollfd) -> usize {
    let mut n = 0;
    for fd in 0..count {
        let mut events = 0;
        unsafe {
            for (set, ask) in [(sets[0], READ), (sets[1], WRITE), (sets[2], EXCEPT)] {
                if has(set, fd) {
                    events |= ask;
                }
            }
            if events != 0 {
                if !list.is_null() {
                    *list.add(n) = pollfd { fd: fd as c_int, events, revents: 0 };
                }
                n += 1;
            }
        }
    }
    n
}

/// Puts the answers into the sets. Returns their count, or -1 for a descriptor that is not open.
unsafe extern "C" fn scatter(sets: &[*mut fd_set; 3], list: *const pollfd, n: usize) -> c_int {
    for i in 0..n {
        if unsafe { (*list.add(i)).revents } & libc::POLLNVAL != 0 {
            return -1;
        }
    }
    let mut bits = 0;
    for i in 0..n {
        let entry = unsafe { &*list.add(i) };
        let fd = entry.fd as usize;
        for (set, answer) in [(sets[0], READ_ANSWER), (sets[1], WRITE_ANSWER), (sets[2], EXCEPT)] {
            unsafe {
                if has(set, fd) {
                    let on = entry.revents & answer != 0;
                    put(set, fd, on);
                    bits += on as c_int;
                }
            }
        }
    }
    bits
}

unsafe extern "C" fn select_for(
    count: usize,
    sets: &[*mut fd_set; 3],
    left: u64,
    mask: *const sigset_t,
) -> c_int {
    let mut room = Room::new();
    let n = unsafe { gather(count, sets, null_mut()) };
    let list = room.get(n);
    if list.is_null() {
        errno::set(libc::ENOMEM);
        return -1;
    }
    unsafe { gather(count, sets, list) };
    let ready = unsafe { poll_for(list, n, left, mask) };
    let result = match ready {
        ..=-1 => ready,
        _ => match unsafe { scatter(sets, list, n) } {
            -1 => {
                errno::set(libc::EBADF);
                -1
            }
            bits => bits,
        },
    };
    room.give_back();
    result
}

/// The sets may be longer than `fd_set`, in whole words, and `count` larger than FD_SETSIZE.
pub unsafe extern "C" fn select(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    let left = match unsafe { timeout.as_ref() } {
        None => FOR_EVER,
        Some(t) if t.tv_sec >= 0 && t.tv_usec >= 0 => {
            (t.tv_sec as u64).saturating_mul(NS).saturating_add((t.tv_usec as u64).saturating_mul(1000))
        }
        Some(_) => return unsafe { real::select(count, read, write, except, timeout) },
    };
    let begun = sys::now_ns();
    let result = unsafe { select_for(count.max(0) as usize, &[read, write, except], left, null()) };
    if let Some(t) = unsafe { timeout.as_mut() } {
        // Linux leaves the time that remains.
        let rest = left.saturating_sub(sys::now_ns().saturating_sub(begun));
        t.tv_sec = (rest / NS) as i64;
        t.tv_usec = (rest % NS / 1000) as i64;
    }
    result
}

/// As [`select`].
pub unsafe extern "C" fn pselect(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    match unsafe { nanoseconds(timeout) } {
        Some(left) => unsafe { select_for(count.max(0) as usize, &[read, write, except], left, mask) },
        None => unsafe { real::pselect(count, read, write, except, timeout, mask) },
    }
}
