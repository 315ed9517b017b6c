//! What the shim knows about each descriptor number of this process.
//!
//! Two levels, allocated as numbers are used: independent of RLIMIT_NOFILE, which is 2^30 in some containers. Reading
//! takes no lock and costs two loads; nothing here allocates from the heap, blocks, or touches `errno`, so all of it
//! may be called from signal handlers and before constructors. Numbers from [`LIMIT`] are never managed.
//!
//! An entry says what a number *was* when the shim last saw it. Descriptors are also closed where the shim does not
//! look, so whoever is about to rely on an entry compares the socket's identity first (`ops`).

use core::ffi::c_int;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use smc_core::conn::Conn;
use smc_core::epoll::EpollSet;
use smc_core::reason::Detail;

/// Descriptor numbers from here on are never managed.
pub const LIMIT: usize = PAGES * PAGE;

const PAGES: usize = 1 << 10;
const PAGE: usize = 1 << 12;

type Page = [AtomicUsize; PAGE];

static ROOT: [AtomicPtr<Page>; PAGES] = [const { AtomicPtr::new(core::ptr::null_mut()) }; PAGES];

/// What a descriptor number stands for.
#[derive(Clone, Copy)]
pub enum Entry {
    /// Nothing the shim cares about, or nothing it has seen.
    None,
    /// An AF_INET or AF_INET6 stream socket, neither connected nor listening as far as we have seen. With a detail: its
    /// connection will stay on TCP, for that reason.
    Tcp(Option<Detail>),
    /// A listening TCP socket. With a detail: what it accepts stays on TCP.
    Listener(Option<Detail>),
    /// Looked at and found to be something else.
    NotTcp,
    /// One of the shim's own, which the program does not own and must not reach.
    Internal,
    /// A TCP connection.
    Conn(&'static Conn),
    /// An epoll instance that has, or had, connections moved to shared memory in it.
    Epoll(&'static EpollSet),
}

// An entry is one word: a 64-byte aligned address, or the number of a detail (0 for none), with the kind in the low bits.
const KIND_BITS: usize = 63;
const DETAIL_SHIFT: u32 = 16;
const NONE: usize = 0;
const TCP: usize = 1;
const LISTENER: usize = 2;
const NOT_TCP: usize = 3;
const INTERNAL: usize = 4;
const CONN: usize = 5;
const EPOLL: usize = 6;

const _: () =
    assert!(core::mem::align_of::<Conn>() > KIND_BITS && core::mem::align_of::<EpollSet>() > KIND_BITS);

impl Entry {
    #[inline(always)]
    fn encode(self) -> usize {
        match self {
            Entry::None => NONE,
            Entry::Tcp(detail) => encode_detail(detail) | TCP,
            Entry::Listener(detail) => encode_detail(detail) | LISTENER,
            Entry::NotTcp => NOT_TCP,
            Entry::Internal => INTERNAL,
            Entry::Conn(conn) => conn as *const Conn as usize | CONN,
            Entry::Epoll(set) => set as *const EpollSet as usize | EPOLL,
        }
    }

    #[inline(always)]
    fn decode(word: usize) -> Entry {
        let address = word & !KIND_BITS;
        match word & KIND_BITS {
            TCP => Entry::Tcp(decode_detail(word)),
            LISTENER => Entry::Listener(decode_detail(word)),
            NOT_TCP => Entry::NotTcp,
            INTERNAL => Entry::Internal,
            // SAFETY: only `encode` makes words of this kind, from a `'static` reference.
            CONN => Entry::Conn(unsafe { &*(address as *const Conn) }),
            // SAFETY: as above.
            EPOLL => Entry::Epoll(unsafe { &*(address as *const EpollSet) }),
            _ => Entry::None,
        }
    }

    #[inline(always)]
    pub fn is_none(self) -> bool {
        matches!(self, Entry::None)
    }

    /// Same kind and, where it points at something, the same object.
    #[inline(always)]
    pub fn same(self, other: Entry) -> bool {
        self.encode() == other.encode()
    }
}

#[inline(always)]
fn encode_detail(detail: Option<Detail>) -> usize {
    detail.map_or(0, |detail| (detail as usize) << DETAIL_SHIFT)
}

#[inline(always)]
fn decode_detail(word: usize) -> Option<Detail> {
    Detail::from_code((word >> DETAIL_SHIFT) as u16).filter(|detail| *detail != Detail::Unspecified)
}

/// The slot of `fd`, if its page exists.
#[inline(always)]
fn slot(fd: c_int) -> Option<&'static AtomicUsize> {
    let fd = fd as u32 as usize;
    if fd >= LIMIT {
        return None;
    }
    // SAFETY: fd < LIMIT, so the index is below PAGES.
    let page = unsafe { ROOT.get_unchecked(fd / PAGE) }.load(Ordering::Acquire);
    if page.is_null() {
        return None;
    }
    // SAFETY: pages are published whole, and never unmapped; the index is below PAGE.
    Some(unsafe { (*page).get_unchecked(fd % PAGE) })
}

/// The slot of `fd`, its page made if need be. None if the number is out of range or memory is.
fn slot_or_map(fd: c_int) -> Option<&'static AtomicUsize> {
    if let Some(slot) = slot(fd) {
        return Some(slot);
    }
    let index = fd as u32 as usize;
    if index >= LIMIT {
        return None;
    }
    let len = core::mem::size_of::<Page>();
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new private mapping, which touches nothing that exists.
    let page = unsafe { smc_core::sys!(SYS_mmap, 0, len, prot, flags, -1isize, 0) }.ok()? as *mut Page;
    let published =
        ROOT[index / PAGE].compare_exchange(core::ptr::null_mut(), page, Ordering::AcqRel, Ordering::Acquire);
    if published.is_err() {
        // SAFETY: our own mapping, which nobody else has seen: another thread was first.
        let _ = unsafe { smc_core::sys!(SYS_munmap, page, len) };
    }
    slot(fd)
}

/// The entry of `fd`; [`Entry::None`] for numbers out of range.
#[inline(always)]
pub fn get(fd: c_int) -> Entry {
    match slot(fd) {
        Some(slot) => Entry::decode(slot.load(Ordering::Acquire)),
        None => Entry::None,
    }
}

/// Makes `entry` the entry of `fd`, whatever was there. False if the number cannot be managed (out of range, or no
/// memory for its page); the entry then stays None.
pub fn set(fd: c_int, entry: Entry) -> bool {
    let slot = if entry.is_none() { slot(fd) } else { slot_or_map(fd) };
    match slot {
        Some(slot) => {
            slot.store(entry.encode(), Ordering::Release);
            true
        }
        None => entry.is_none(),
    }
}

/// Takes the entry of `fd` out of the table: of several threads that do, one gets it.
pub fn take(fd: c_int) -> Entry {
    match slot(fd) {
        Some(slot) => Entry::decode(slot.swap(NONE, Ordering::AcqRel)),
        None => Entry::None,
    }
}

/// Makes `new` the entry of `fd` if it is `old` now. False if it was not, or the number cannot be managed.
pub fn replace_if(fd: c_int, old: Entry, new: Entry) -> bool {
    let slot = if new.is_none() { slot(fd) } else { slot_or_map(fd) };
    match slot {
        Some(slot) => {
            slot.compare_exchange(old.encode(), new.encode(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
        }
        None => old.is_none() && new.is_none(),
    }
}

/// Calls `visit` for each number in `first..=last` (both taken as unsigned, as close_range(2) does) that has an
/// entry, in rising order, until it returns false. Entries set or taken meanwhile may or may not be seen.
pub fn for_each(first: u32, last: u32, mut visit: impl FnMut(c_int, Entry) -> bool) {
    let (mut fd, end) = (first as usize, (last as usize).min(LIMIT - 1));
    while fd <= end {
        let page = ROOT[fd / PAGE].load(Ordering::Acquire);
        let page_end = (fd | (PAGE - 1)).min(end);
        if page.is_null() {
            fd = page_end + 1;
            continue;
        }
        while fd <= page_end {
            // SAFETY: pages are published whole, and never unmapped.
            let word = unsafe { &(*page)[fd % PAGE] }.load(Ordering::Acquire);
            if word != NONE && !visit(fd as c_int, Entry::decode(word)) {
                return;
            }
            fd += 1;
        }
    }
}

/// Whether any number in `first..=last` has an entry.
pub extern "C" fn any(first: u32, last: u32) -> bool {
    let mut found = false;
    for_each(first, last, |_, _| {
        found = true;
        false
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::MaybeUninit;

    /// An object to point at; nothing here looks inside.
    fn conn() -> &'static Conn {
        let place: &'static mut MaybeUninit<Conn> = Box::leak(Box::new(MaybeUninit::zeroed()));
        // SAFETY: aligned, live for ever, never read.
        unsafe { &*place.as_ptr() }
    }

    fn epoll_set() -> &'static EpollSet {
        let place: &'static mut MaybeUninit<EpollSet> = Box::leak(Box::new(MaybeUninit::zeroed()));
        // SAFETY: as in `conn`.
        unsafe { &*place.as_ptr() }
    }

    // Tests share the table: each uses numbers of its own.

    #[test]
    fn every_kind_comes_back_as_it_went_in() {
        let kinds = [
            Entry::Tcp(None),
            Entry::Tcp(Some(Detail::FastOpen)),
            Entry::Listener(None),
            Entry::Listener(Some(Detail::IpsecPolicy)),
            Entry::NotTcp,
            Entry::Internal,
            Entry::Conn(conn()),
            Entry::Epoll(epoll_set()),
            Entry::None,
        ];
        for (i, entry) in kinds.into_iter().enumerate() {
            let fd = 1000 + i as c_int;
            assert!(set(fd, entry));
            assert!(get(fd).same(entry));
            assert_eq!(core::mem::discriminant(&get(fd)), core::mem::discriminant(&entry));
        }
    }

    #[test]
    fn numbers_out_of_range_are_never_managed() {
        for fd in [-1, c_int::MIN, LIMIT as c_int, c_int::MAX] {
            assert!(!set(fd, Entry::Tcp(None)));
            assert!(get(fd).is_none());
            assert!(take(fd).is_none());
            assert!(!replace_if(fd, Entry::None, Entry::Tcp(None)));
        }
        let last = LIMIT as c_int - 1;
        assert!(set(last, Entry::Tcp(None)));
        assert!(get(last).same(Entry::Tcp(None)));
        assert!(get(last - 1).is_none());
    }

    #[test]
    fn setting_none_maps_no_page() {
        let fd = (17 * PAGE) as c_int;
        assert!(set(fd, Entry::None));
        assert!(ROOT[17].load(Ordering::Relaxed).is_null());
        assert!(set(fd, Entry::Tcp(None)));
        assert!(!ROOT[17].load(Ordering::Relaxed).is_null());
    }

    #[test]
    fn of_many_takers_one_gets_the_entry() {
        let fd = 2000;
        for _ in 0..200 {
            let entry = Entry::Conn(conn());
            set(fd, entry);
            let winners: usize = std::thread::scope(|scope| {
                let takers: Vec<_> =
                    (0..4).map(|_| scope.spawn(|| usize::from(take(fd).same(entry)))).collect();
                takers.into_iter().map(|taker| taker.join().unwrap()).sum()
            });
            assert_eq!(winners, 1);
        }
    }

    #[test]
    fn threads_that_map_the_same_page_agree_on_it() {
        let base = (33 * PAGE) as c_int;
        std::thread::scope(|scope| {
            for i in 0..8 {
                scope.spawn(move || assert!(set(base + i, Entry::Listener(None))));
            }
        });
        for i in 0..8 {
            assert!(get(base + i).same(Entry::Listener(None)));
        }
    }

    #[test]
    fn replace_if_compares_kind_and_object() {
        let fd = 3000;
        let (a, b) = (Entry::Conn(conn()), Entry::Conn(conn()));
        assert!(replace_if(fd, Entry::None, Entry::Tcp(None)));
        assert!(!replace_if(fd, Entry::Listener(None), a));
        assert!(replace_if(fd, Entry::Tcp(None), a));
        assert!(!replace_if(fd, b, Entry::None));
        assert!(replace_if(fd, a, Entry::None));
        assert!(get(fd).is_none());
    }

    #[test]
    fn iteration_stays_in_range_and_skips_missing_pages() {
        let base = 50 * PAGE as c_int;
        for fd in [base, base + 7, base + PAGE as c_int - 1, base + 3 * PAGE as c_int] {
            set(fd, Entry::Tcp(None));
        }
        let range = |first: c_int, last: c_int| {
            let mut seen = Vec::new();
            for_each(first as u32, last as u32, |fd, _| {
                seen.push(fd);
                true
            });
            seen
        };
        let page = PAGE as c_int;
        assert_eq!(range(base, base + 3 * page), [base, base + 7, base + page - 1, base + 3 * page]);
        assert_eq!(range(base + 1, base + 7), [base + 7]);
        assert_eq!(range(base + 8, base + page - 2), [] as [c_int; 0]);
        assert!(any((base + 3 * page) as u32, u32::MAX));
        assert!(!any((base + 3 * page + 1) as u32, (base + 4 * page) as u32));
        assert!(!any(9, 8), "an empty range");
    }
}
