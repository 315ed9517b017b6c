//! The process's side of the registry.
//!
//! Nothing here takes a lock, allocates or calls libc (with one exception, see `calls::now_ms`), so it may be
//! called from any thread, from signal handlers and from inside malloc.
//!
//! | the process | what happens |
//! |---|---|
//! | first managed socket | the file is made and mapped, its descriptor closed again |
//! | fork | the child calls [`Writer::after_fork`]: the parent's file is no longer its business; its own is made at its first [`Writer::alloc`] |
//! | vfork | nothing may be called in the child |
//! | exec | the new image finds a file of its own name at its first socket and replaces it |
//! | exit | [`Writer::close`] unlinks the file |
//! | killed | the file stays; readers and later writers remove it |

use core::ffi::CStr;
use core::mem::size_of;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::*};

use super::calls::{self, Fd};
use super::rundir::{self, RunDirs, Text};
use super::schema::*;
use crate::sys::Errno;

const WORDS: usize = (CAPACITY + 1) / 64;
const PAGE: usize = 4096;
const PAGE_WORDS: usize = FILE_SIZE / PAGE / 64;

/// Publishes the sockets of one process. See [`super::REGISTRY`] for the instance that everybody uses.
pub struct Writer {
    /// [`UNOPENED`], [`OPENING`], [`OPEN`] or [`CLOSED`].
    state: AtomicU32,
    /// Directories to try; null: those that need no environment. What it points to lives for ever.
    dirs: AtomicPtr<RunDirs>,
    /// Start of the mapping, null if there is none. Valid for ever once stored with `state` [`OPEN`].
    base: AtomicPtr<u8>,
    /// One more than the position of the directory in use among `dirs`, 0 for private memory.
    dir: AtomicU32,
    /// A set bit is an entry in use. The last bit is the one entry that a file has less than the bits.
    used: [AtomicU64; WORDS],
    /// No word before this is likely to have a clear bit. Only a hint: low entries first keeps the file small.
    hint: AtomicU32,
    /// A set bit is a page that is known to have memory behind it.
    pages: [AtomicU64; PAGE_WORDS],
    /// What sockets share that got no entry: everything is counted in it, nothing is listed.
    overflow: Entry,
}

const UNOPENED: u32 = 0;
const OPENING: u32 = 1;
const OPEN: u32 = 2;
const CLOSED: u32 = 3;

impl Writer {
    /// A writer that has not looked for a directory yet.
    #[allow(clippy::new_without_default)] // for statics; a default would suggest making more of them
    pub const fn new() -> Writer {
        #[allow(clippy::declare_interior_mutable_const)] // the initial value of array elements
        const ZERO: AtomicU64 = AtomicU64::new(0);
        Writer {
            state: AtomicU32::new(UNOPENED),
            dirs: AtomicPtr::new(core::ptr::null_mut()),
            base: AtomicPtr::new(core::ptr::null_mut()),
            dir: AtomicU32::new(0),
            used: [ZERO; WORDS],
            hint: AtomicU32::new(0),
            pages: [ZERO; PAGE_WORDS],
            overflow: Entry::UNUSED,
        }
    }

    /// Says where files may go. Before the first [`Writer::alloc`]; later calls count for children only.
    pub fn set_dirs(&self, dirs: &'static RunDirs) {
        self.dirs.store(dirs as *const RunDirs as *mut RunDirs, Release);
    }

    /// An entry for the socket behind `fd`, zeroed, with the time of now, mode TCP and no reason. It belongs to the
    /// caller until [`Writer::free`]. If there is none left (or the process has no memory for them) it is one that
    /// is shared and not listed: see [`Writer::is_overflow`].
    ///
    /// The first call makes the file: some tens of microseconds.
    pub fn alloc(&'static self, fd: i32, kind: Kind) -> &'static Entry {
        self.open();
        let base = self.base.load(Acquire);
        if base.is_null() {
            return &self.overflow;
        }
        let Some(index) = self.claim() else { return &self.overflow };
        // SAFETY: `claim` answers less than CAPACITY, so the entry lies inside the mapping, which is never unmapped.
        // Entries hold atomics only, so references to it may be shared whatever others do.
        let entry = unsafe { &*(base.add((index + 1) * ENTRY_SIZE) as *const Entry) };
        if !self.page_usable(index, entry) {
            self.release(index);
            return &self.overflow;
        }
        entry.begin(fd, kind, calls::now_ms());
        // SAFETY: the header is at the start of the mapping, and this field of it is atomic.
        let used = unsafe { &*core::ptr::addr_of!((*(base as *const Header)).used) };
        used.fetch_max(index as u32 + 1, Relaxed);
        entry
    }

    /// Takes the entry back; the caller must not touch it again. Entries that are not of this file (the shared one, or
    /// one from before a fork) are ignored.
    pub fn free(&self, entry: &Entry) {
        let Some(index) = self.index_of(entry) else { return };
        if self.used[index / 64].load(Relaxed) & 1 << (index % 64) == 0 {
            return;
        }
        entry.end();
        self.release(index);
    }

    /// Whether the entry is the one shared by sockets that got none of their own, so that its numbers mean nothing.
    pub fn is_overflow(&self, entry: &Entry) -> bool {
        core::ptr::eq(entry, &self.overflow)
    }

    /// In the child of a fork, before anything else here: forgets the parent's file. Entries from before the fork
    /// keep what they said, and may still be written to, to no effect; all sockets that the child goes on with need
    /// new ones.
    pub fn after_fork(&self) {
        if self.state.load(Relaxed) == UNOPENED {
            return;
        }
        let base = self.base.load(Relaxed);
        if !base.is_null() && self.dir.load(Relaxed) != 0 {
            // If it fails (no memory), entries from before the fork go on writing to the parent's: wrong counts in a listing.
            let _ = detach(base);
        }
        self.base.store(core::ptr::null_mut(), Relaxed);
        self.dir.store(0, Relaxed);
        for word in self.used.iter().chain(&self.pages) {
            word.store(0, Relaxed);
        }
        self.hint.store(0, Relaxed);
        self.state.store(UNOPENED, Release);
    }

    /// At the end of the process: unlinks the file. Entries stay usable; they are listed no more.
    pub fn close(&self) {
        if self.state.compare_exchange(OPEN, CLOSED, AcqRel, Relaxed).is_err() {
            return;
        }
        let position = self.dir.load(Relaxed) as usize;
        // SAFETY: with a directory in use the header was written before OPEN was, and its pid never changes.
        let owner = unsafe { (*(self.base.load(Relaxed) as *const Header)).pid };
        // A child that was made behind our back (a raw clone) must not take the parent's file away.
        if position == 0 || owner != calls::pid() {
            return;
        }
        let uid = calls::effective_uid();
        self.with_dirs(uid, |dirs| {
            let Some(path) = dirs.iter().nth(position - 1) else { return };
            let Some(dir) = rundir::open_run_dir(path, uid) else { return };
            // SAFETY: as above: written before OPEN, constant since.
            let header = unsafe { &*(self.base.load(Relaxed) as *const Header) };
            let name = file_name(header.pid, header.start_ticks, header.pid_ns);
            let _ = calls::unlink_at(dir.raw(), name.as_c_str());
        });
    }

    /// Whether other processes can see the entries (`false` before the first [`Writer::alloc`]).
    pub fn is_published(&self) -> bool {
        self.state.load(Acquire) == OPEN && self.dir.load(Relaxed) != 0
    }

    fn open(&self) {
        match self.state.compare_exchange(UNOPENED, OPENING, Acquire, Acquire) {
            Ok(_) => {
                let (base, dir) = self.make();
                self.dir.store(dir, Relaxed);
                // Bits beyond the file are never free.
                self.used[CAPACITY / 64].fetch_or(!0 << (CAPACITY % 64), Relaxed);
                self.base.store(base, Release);
                self.state.store(OPEN, Release);
            }
            Err(OPENING) => {
                // Bounded: whoever is opening may be the thread that our signal handler interrupted. Then this socket
                // is not listed.
                for _ in 0..1000 {
                    if self.state.load(Acquire) != OPENING {
                        return;
                    }
                    calls::sched_yield();
                }
            }
            Err(_) => {}
        }
    }

    /// A mapping and where it is ([`Writer::dir`]). Null if there is no memory either.
    fn make(&self) -> (*mut u8, u32) {
        let published =
            identity().filter(|_| calls::file_size_limit() >= FILE_SIZE as u64).and_then(|header| {
                let uid = header.uid;
                self.with_dirs(uid, |dirs| {
                    dirs.iter().zip(1u32..).find_map(|(path, n)| {
                        let dir = rundir::open_run_dir(path, uid)?;
                        let base = make_file(&dir, &header)?;
                        remove_dead(&dir, header.pid_ns);
                        Some((base, n))
                    })
                })
            });
        published.unwrap_or_else(|| (calls::map_private(FILE_SIZE).unwrap_or(core::ptr::null_mut()), 0))
    }

    fn with_dirs<T>(&self, uid: u32, f: impl FnOnce(&RunDirs) -> T) -> T {
        let dirs = self.dirs.load(Acquire);
        if dirs.is_null() {
            return f(&RunDirs::new(None, None, uid));
        }
        // SAFETY: only `set_dirs` stores it, from a `&'static`.
        f(unsafe { &*dirs })
    }

    /// Takes the lowest free entry, roughly.
    fn claim(&self) -> Option<usize> {
        let start = self.hint.load(Relaxed) as usize % WORDS;
        for n in 0..WORDS {
            let at = (start + n) % WORDS;
            let mut word = self.used[at].load(Relaxed);
            while word != !0 {
                let bit = word.trailing_ones();
                match self.used[at].compare_exchange_weak(word, word | 1 << bit, Acquire, Relaxed) {
                    Ok(_) => {
                        if at != start {
                            // Not if somebody freed a lower one meanwhile.
                            let _ = self.hint.compare_exchange(start as u32, at as u32, Relaxed, Relaxed);
                        }
                        return Some(at * 64 + bit as usize);
                    }
                    Err(now) => word = now,
                }
            }
        }
        None
    }

    fn release(&self, index: usize) {
        self.used[index / 64].fetch_and(!(1 << (index % 64)), Release);
        self.hint.fetch_min((index / 64) as u32, Relaxed);
    }

    fn index_of(&self, entry: &Entry) -> Option<usize> {
        let base = self.base.load(Relaxed) as usize;
        let offset = (entry as *const Entry as usize).checked_sub(base)?;
        (base != 0 && (ENTRY_SIZE..FILE_SIZE).contains(&offset)).then_some(offset / ENTRY_SIZE - 1)
    }

    /// Whether storing to the entry's page is safe. A store to a hole of a file on a full file system raises SIGBUS,
    /// so each page is first touched by the kernel, which reports that as an error instead.
    fn page_usable(&self, index: usize, entry: &Entry) -> bool {
        if self.dir.load(Relaxed) == 0 {
            return true;
        }
        let page = (index + 1) * ENTRY_SIZE / PAGE;
        let bit = 1u64 << (page % 64);
        if self.pages[page / 64].load(Relaxed) & bit != 0 {
            return true;
        }
        // SAFETY: the entry's scratch is 48 bytes that nobody reads, and the entry is the caller's.
        let usable = unsafe { calls::kernel_can_write(entry.scratch()) };
        if usable {
            self.pages[page / 64].fetch_or(bit, Relaxed);
        }
        usable
    }
}

/// Puts private memory with the same content in the place of a mapped file.
fn detach(base: *mut u8) -> Result<(), Errno> {
    // SAFETY: the header is at the start of the mapping, and this field of it is atomic.
    let used = unsafe { &*core::ptr::addr_of!((*(base as *const Header)).used) }.load(Relaxed) as usize;
    let copy = calls::map_private(FILE_SIZE)?;
    let len = (used.min(CAPACITY) + 1) * ENTRY_SIZE;
    // SAFETY: both mappings are FILE_SIZE long and distinct. The parent may be storing to the words read here: then the
    // copy is a little older or newer. What refers to `base` are atomics, content with any value, and the kernel replaces
    // the mapping in one step; nothing refers to `copy` but this function.
    unsafe {
        for at in (0..len).step_by(8) {
            let word = (*(base.add(at) as *const AtomicU64)).load(Relaxed);
            (*(copy.add(at) as *const AtomicU64)).store(word, Relaxed);
        }
        calls::move_mapping(copy, base, FILE_SIZE).inspect_err(|_| {
            calls::unmap(copy, FILE_SIZE);
        })
    }
}

/// The header of this process's file; `None` if /proc does not tell who we are.
fn identity() -> Option<Header> {
    let mut stat = [0u8; 512];
    let fd = calls::open_at(libc::AT_FDCWD, c(b"/proc/self/stat\0"), libc::O_RDONLY, 0).ok()?;
    let n = calls::read(fd.raw(), &mut stat).ok()?;
    let stat = &stat[..n];
    let (pid, comm, start_ticks) = parse_stat(stat)?;
    // Another pid in /proc is one of another pid namespace: no reader could make sense of either.
    if pid != calls::pid() {
        return None;
    }
    let pid_ns = calls::stat(c(b"/proc/self/ns/pid\0")).ok()?.st_ino;
    let mut padded = [0; 16];
    let len = comm.len().min(15);
    padded[..len].copy_from_slice(&comm[..len]);
    Some(Header {
        magic: MAGIC,
        version: VERSION,
        entry_size: ENTRY_SIZE as u32,
        capacity: CAPACITY as u32,
        pid,
        start_ticks,
        pid_ns,
        created_ms: calls::now_ms(),
        uid: calls::effective_uid(),
        used: AtomicU32::new(0),
        comm: padded,
        reserved: [0; 56],
    })
}

/// Pid, command name and start time from the content of /proc/PID/stat.
pub(super) fn parse_stat(stat: &[u8]) -> Option<(i32, &[u8], u64)> {
    let open = stat.iter().position(|&b| b == b'(')?;
    // The name may contain anything, parentheses and spaces too.
    let close = stat.iter().rposition(|&b| b == b')')?;
    let pid = number(stat.get(..open)?.strip_suffix(b" ")?)?;
    // The state is field 3, the start time field 22.
    let start = stat.get(close + 2..)?.split(|&b| b == b' ').nth(22 - 3)?;
    Some((i32::try_from(pid).ok()?, stat.get(open + 1..close)?, number(start)?))
}

fn number(digits: &[u8]) -> Option<u64> {
    core::str::from_utf8(digits).ok()?.parse().ok()
}

const SUFFIX: &[u8] = b".smc";

/// The name of a process's file.
pub(super) fn file_name(pid: i32, start_ticks: u64, pid_ns: u64) -> Text {
    Text::format(format_args!("{pid}-{start_ticks}-{pid_ns}.smc"))
}

/// The inverse of [`file_name`]: pid, start time, pid namespace.
pub(super) fn parse_file_name(name: &[u8]) -> Option<(i32, u64, u64)> {
    let mut parts = name.strip_suffix(SUFFIX)?.split(|&b| b == b'-');
    let pid = i32::try_from(number(parts.next()?)?).ok()?;
    let ids = (pid, number(parts.next()?)?, number(parts.next()?)?);
    // One spelling only.
    (parts.next().is_none() && pid > 0 && file_name(ids.0, ids.1, ids.2).as_c_str().to_bytes() == name)
        .then_some(ids)
}

/// Makes and maps the file; `None` leaves nothing behind.
fn make_file(dir: &Fd, header: &Header) -> Option<*mut u8> {
    let name = file_name(header.pid, header.start_ticks, header.pid_ns);
    let name = name.as_c_str();
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let file = match calls::open_at(dir.raw(), name, flags, 0o644) {
        // The program that this process ran before exec. In a sticky directory this fails on others' files.
        Err(e) if e.0 == libc::EEXIST => {
            calls::unlink_at(dir.raw(), name).ok()?;
            calls::open_at(dir.raw(), name, flags, 0o644).ok()?
        }
        other => other.ok()?,
    };
    // SAFETY: `Header` is repr(C) without padding (its fields add up to its size) and borrowed for the call.
    let bytes =
        unsafe { core::slice::from_raw_parts(header as *const Header as *const u8, size_of::<Header>()) };
    // Size first: readers that see the header find the whole file. The write also makes sure that the first page exists.
    let mapped = calls::truncate(file.raw(), FILE_SIZE)
        .ok()
        .filter(|()| calls::write_start(file.raw(), bytes))
        .and_then(|()| calls::map_file(file.raw(), FILE_SIZE).ok());
    if mapped.is_none() {
        let _ = calls::unlink_at(dir.raw(), name);
    }
    mapped
}

/// Removes files of dead processes, so that forking servers whose children are killed do not fill the directory when
/// nobody runs the tools. Bounded: one buffer of names, a few look-ups.
fn remove_dead(dir: &Fd, pid_ns: u64) {
    const LOOKUPS: usize = 8;
    let mut buf = [0u8; 2048];
    let Ok(len) = calls::dir_entries(dir.raw(), &mut buf) else { return };
    let mut looked = 0;
    let mut rest = &buf[..len];
    // struct linux_dirent64: inode 8, offset 8, record length 2, type 1, name with its zero.
    while rest.len() > 19 && looked < LOOKUPS {
        let record = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
        if record <= 19 || record > rest.len() {
            return;
        }
        if let Ok(name) = CStr::from_bytes_until_nul(&rest[19..record]) {
            if let Some((pid, _, ns)) = parse_file_name(name.to_bytes()) {
                looked += 1;
                let process = Text::format(format_args!("/proc/{pid}"));
                let gone = matches!(calls::stat(process.as_c_str()), Err(e) if e.0 == libc::ENOENT);
                if ns == pid_ns && gone {
                    let _ = calls::unlink_at(dir.raw(), name);
                }
            }
        }
        rest = &rest[record..];
    }
}

fn c(bytes_with_zero: &'static [u8]) -> &'static CStr {
    CStr::from_bytes_with_nul(bytes_with_zero).unwrap_or_default()
}
