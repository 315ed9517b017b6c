//! The C interface, by which the preload library uses the engine. See [`smc_core::remote::abi`].
//!
//! Each function runs behind [`guarded`]: a panic becomes EIO. Connections are found by number, in a map under a lock that is held for the
//! look-up only.

use crate::engine::listener::{Listener, PROMPT};
use crate::engine::{claim, Claim, Config, Connection, Engine, Outcome, Pending, Side, When};
use parking_lot::Mutex;
use smc_core::host;
use smc_core::remote::abi::{self, Begun, Counts, Host, Start, Table};
use smc_core::sys::fd::OwnFd;
use smc_core::sys::{self, Errno};
use smc_wire::handshake::Failure;
use smc_wire::{Diagnosis, Eid, SizeCode, Time};
use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

static TABLE: Table = Table {
    version: abi::VERSION,
    open,
    begin,
    start,
    outcome,
    receive,
    peek,
    send,
    room,
    ready,
    want,
    ends,
    attend,
    counts,
    error,
    shutdown_write,
    close,
    listen,
    watch,
    accept_begins,
    accept_ends,
    taken,
    unlisten,
    finish,
    forked,
};

/// See [`abi::SYMBOL`].
#[no_mangle]
pub extern "C" fn smc_rdma_entry(version: u32) -> *const Table {
    if version == abi::VERSION {
        &TABLE
    } else {
        ptr::null()
    }
}

/// All of one process.
struct Process {
    engine: Engine,
    handles: Mutex<HashMap<u64, Arc<Handle>>>,
    listeners: Mutex<HashMap<u64, Arc<Listener>>>,
    /// Descriptors of connections that a program is about to duplicate.
    giving: Mutex<Vec<OwnFd>>,
    last: AtomicU64,
}

impl Process {
    fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Gives a handshake a number.
    fn follow(&self, pending: Arc<Pending>) -> Begun {
        let number = self.number();
        let (data, room) = (pending.bells.data.raw(), pending.bells.room.raw());
        self.handles.lock().insert(number, Arc::new(Handle { pending, over: OnceLock::new() }));
        Begun { number, data, room }
    }

    fn listener(&self, number: u64) -> Result<Arc<Listener>, Errno> {
        self.listeners.lock().get(&number).map(Arc::clone).ok_or(Errno(libc::EBADF))
    }
}

/// A connection from the beginning of its handshake on.
struct Handle {
    pending: Arc<Pending>,
    over: OnceLock<Over>,
}

/// How the handshake has ended.
enum Over {
    Smc(Connection, abi::Outcome),
    Else(abi::Outcome),
}

/// Of the process that opened it last; a forked child leaves its parent's where it is.
static PROCESS: AtomicPtr<Process> = AtomicPtr::new(ptr::null_mut());
static CONFIG: OnceLock<Config> = OnceLock::new();

fn process() -> Result<&'static Process, Errno> {
    let process = PROCESS.load(Ordering::Acquire);
    // SAFETY: made by `make`, and never freed.
    unsafe { process.as_ref() }.ok_or(Errno(libc::EBADF))
}

/// The process's own, made if it is not there.
fn own_process() -> Result<&'static Process, Errno> {
    if let Ok(process) = process() {
        return Ok(process);
    }
    let config = CONFIG.get().ok_or(Errno(libc::EINVAL))?;
    let made = Box::into_raw(Box::new(Process {
        engine: Engine::new(config.clone())?,
        handles: Mutex::new(HashMap::new()),
        listeners: Mutex::new(HashMap::new()),
        giving: Mutex::new(Vec::new()),
        last: AtomicU64::new(0),
    }));
    let set = PROCESS.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire);
    if set.is_err() {
        // SAFETY: made above, and nobody has seen it: another thread was first.
        drop(unsafe { Box::from_raw(made) });
    }
    process()
}

fn handle(number: u64) -> Result<Arc<Handle>, Errno> {
    process()?.handles.lock().get(&number).map(Arc::clone).ok_or(Errno(libc::EBADF))
}

/// Does something with a connection that is on SMC-R.
fn with(number: u64, act: impl FnOnce(&Connection) -> Result<usize, Errno>) -> isize {
    guarded(|| match handle(number)?.over.get() {
        Some(Over::Smc(connection, _)) => act(connection),
        _ => Err(Errno(libc::ENOTCONN)),
    })
}

/// Runs `act`, out of which nothing unwinds.
fn guarded(act: impl FnOnce() -> Result<usize, Errno>) -> isize {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(value)) => value as isize,
        Ok(Err(Errno(code))) => -(code as isize),
        Err(payload) => {
            // Dropping it runs code that may panic in turn.
            std::mem::forget(payload);
            -(libc::EIO as isize)
        }
    }
}

/// Where lines of the log go.
struct Log;

static LOG: AtomicUsize = AtomicUsize::new(0);
static MARK: AtomicUsize = AtomicUsize::new(0);

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let to = LOG.load(Ordering::Acquire);
        if to != 0 {
            let text = record.args().to_string();
            // SAFETY: only `open` stores here, a function of this type.
            let to: unsafe extern "C" fn(u32, *const u8, usize) = unsafe { std::mem::transmute(to) };
            // SAFETY: the text is valid for the call.
            unsafe { to(record.level() as u32, text.as_ptr(), text.len()) };
        }
    }

    fn flush(&self) {}
}

fn mark_internal(fd: i32, on: bool) {
    let to = MARK.load(Ordering::Acquire);
    if to != 0 {
        // SAFETY: only `open` stores here, a function of this type.
        let to: extern "C" fn(i32, i32) = unsafe { std::mem::transmute(to) };
        to(fd, i32::from(on));
    }
}

/// # Safety
/// `at` must point at `length` bytes, if that is not 0.
unsafe fn text(at: *const u8, length: usize) -> String {
    if length == 0 {
        return String::new();
    }
    // SAFETY: promised by the caller.
    String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(at, length) }).into_owned()
}

unsafe extern "C" fn open(host: *const Host) -> i32 {
    guarded(|| {
        // SAFETY: the caller's, valid for the call.
        let host = unsafe { &*host };
        LOG.store(host.log as usize, Ordering::Release);
        MARK.store(host.mark_internal as usize, Ordering::Release);
        host::set_mark_internal(mark_internal);
        let levels = log::LevelFilter::iter().nth(host.log_level as usize);
        if log::set_logger(&Log).is_ok() {
            log::set_max_level(levels.unwrap_or(log::LevelFilter::Trace));
        }
        std::panic::set_hook(Box::new(|info| log::error!("internal error in libsmc_rdma: {info}")));
        // SAFETY: as above.
        let (eids, device) =
            unsafe { (text(host.eids, host.eids_length), text(host.device, host.device_length)) };
        let eids = eids.split(',').map(str::trim).filter(|eid| !eid.is_empty());
        let config = Config {
            eids: eids.map(|eid| Eid::new(eid).ok_or(Errno(libc::EINVAL))).collect::<Result<_, _>>()?,
            buffer: SizeCode::fitting(host.buffer),
            device: Some(device).filter(|device| !device.is_empty()),
            ports: host.first_port..=host.last_port,
        };
        let _ = CONFIG.set(config);
        Ok(0)
    }) as i32
}

unsafe extern "C" fn begin(start: *const Start, begun: *mut Begun) -> i32 {
    guarded(|| {
        // SAFETY: the caller's, valid for the call.
        let start = unsafe { &*start };
        let process = own_process()?;
        let side = if start.flags & abi::SERVER != 0 { Side::Server } else { Side::Client };
        // SAFETY: the caller promises that the word stays mapped.
        let word: Option<Claim> = unsafe { start.claim.cast::<AtomicU32>().as_ref() };
        let mut when = When::Now;
        if start.flags & abi::CONNECTING != 0 {
            when = When::Connected;
        } else if start.flags & abi::OFFERED != 0 {
            when = When::Later(Time::from_nanos(sys::now_ns()) + PROMPT);
        } else if word.is_some_and(|word| !claim(word)) {
            return Err(Errno(libc::EBUSY));
        }
        let decline = (start.flags & abi::DECLINE != 0).then_some(Diagnosis(start.decline));
        let pending = process.engine.start(start.fd, side, when, decline, word)?;
        let made = process.follow(pending);
        // SAFETY: as above.
        unsafe { begun.write(made) };
        Ok(0)
    }) as i32
}

extern "C" fn start(number: u64) -> i32 {
    guarded(|| {
        process()?.engine.begin(&handle(number)?.pending);
        Ok(0)
    }) as i32
}

impl Handle {
    /// The outcome, as far as it is known.
    fn outcome(&self) -> abi::Outcome {
        if self.over.get().is_none() {
            if let Some(outcome) = self.pending.take() {
                let _ = self.over.set(over(outcome));
            }
        }
        match self.over.get() {
            Some(Over::Smc(_, outcome) | Over::Else(outcome)) => *outcome,
            None => abi::Outcome::default(),
        }
    }
}

fn over(outcome: Outcome) -> Over {
    let said = |state, code, peer_code| abi::Outcome { state, code, peer_code, ..Default::default() };
    match outcome {
        Outcome::Smc(connection) => {
            let mut said = said(abi::SMC, 0, 0);
            if let Some(info) = connection.info() {
                let name = info.device.as_bytes();
                let length = name.len().min(said.device.len());
                said.device[..length].copy_from_slice(&name[..length]);
                said.port = u32::from(info.port);
            }
            Over::Smc(connection, said)
        }
        Outcome::Tcp(fallback) => {
            Over::Else(said(abi::TCP, fallback.diagnosis.0, fallback.peer.map_or(0, |peer| peer.0)))
        }
        Outcome::Plain => Over::Else(said(abi::PLAIN, 0, 0)),
        Outcome::Elsewhere => Over::Else(said(abi::ELSEWHERE, 0, 0)),
        Outcome::Failed(failure) => {
            let code = match failure {
                Failure::TimedOut => libc::ETIMEDOUT,
                Failure::Closed => libc::ECONNRESET,
                Failure::Malformed(_) => libc::EPROTO,
            };
            Over::Else(said(abi::FAILED, code as u32, 0))
        }
    }
}

unsafe extern "C" fn outcome(number: u64, outcome: *mut abi::Outcome) -> i32 {
    guarded(|| {
        let said = handle(number)?.outcome();
        // SAFETY: the caller's, valid for the call.
        unsafe { outcome.write(said) };
        Ok(0)
    }) as i32
}

unsafe extern "C" fn receive(number: u64, into: *mut u8, length: usize) -> isize {
    with(number, |connection| {
        if into.is_null() {
            return connection.0.discard(length);
        }
        // SAFETY: the program's buffer, of which the caller says that it has that length.
        connection.0.receive(unsafe { std::slice::from_raw_parts_mut(into, length) })
    })
}

unsafe extern "C" fn peek(number: u64, into: *mut u8, length: usize, skip: usize) -> isize {
    with(number, |connection| {
        // SAFETY: as in `receive`.
        let into = unsafe { std::slice::from_raw_parts_mut(into, length) };
        connection.0.peek(into, skip)
    })
}

unsafe extern "C" fn send(number: u64, from: *const u8, length: usize) -> isize {
    // SAFETY: as in `receive`.
    with(number, |connection| connection.0.send(unsafe { std::slice::from_raw_parts(from, length) }))
}

extern "C" fn room(number: u64) -> isize {
    with(number, |connection| Ok(connection.0.room()))
}

extern "C" fn ready(number: u64) -> i32 {
    with(number, |connection| Ok(connection.0.ready() as u16 as usize)) as i32
}

extern "C" fn want(number: u64, events: i32) -> i32 {
    with(number, |connection| Ok(connection.0.want(events) as u16 as usize)) as i32
}

extern "C" fn ends(number: u64, events: i32) -> i32 {
    with(number, |connection| connection.0.end_bell(events).map(|fd| fd as usize)) as i32
}

extern "C" fn attend(number: u64) -> i32 {
    with(number, |connection| Ok(connection.0.attend() as u16 as usize)) as i32
}

unsafe extern "C" fn counts(number: u64, counts: *mut Counts) -> i32 {
    with(number, |connection| {
        let (unread, unsent, news) = connection.0.counts();
        // SAFETY: the caller's, valid for the call.
        unsafe { counts.write(Counts { unread, unsent, news }) };
        Ok(0)
    }) as i32
}

extern "C" fn error(number: u64) -> i32 {
    with(number, |connection| Ok(connection.0.error().map_or(0, |Errno(code)| code as usize))) as i32
}

extern "C" fn shutdown_write(number: u64) -> i32 {
    with(number, |connection| connection.shutdown_write().map(|()| 0)) as i32
}

extern "C" fn close(number: u64, cancel: i32) -> i32 {
    guarded(|| {
        let process = process()?;
        let handle = process.handles.lock().remove(&number).ok_or(Errno(libc::EBADF))?;
        // What nobody takes is closed; what has been taken, with the last thread's use of it.
        if handle.over.get().is_none() {
            process.engine.abandon(&handle.pending, cancel != 0);
        }
        Ok(0)
    }) as i32
}

unsafe extern "C" fn listen(fd: i32, begun: *mut Begun) -> i32 {
    guarded(|| {
        let process = own_process()?;
        let listener = Listener::new(process.number(), fd)?;
        process.engine.listen(&listener)?;
        let made = Begun { number: listener.number, data: listener.bell.raw(), room: -1 };
        process.listeners.lock().insert(listener.number, listener);
        // SAFETY: the caller's, valid for the call.
        unsafe { begun.write(made) };
        Ok(0)
    }) as i32
}

extern "C" fn watch(number: u64, on: i32) -> i32 {
    guarded(|| {
        process()?.listener(number)?.watch(on != 0);
        Ok(0)
    }) as i32
}

unsafe extern "C" fn accept_begins(number: u64, taken: *mut abi::Taken) -> i32 {
    guarded(|| {
        let process = process()?;
        let Some(next) = process.listener(number)?.accept_begins() else { return Ok(0) };
        let begun = next.pending.map(|pending| process.follow(pending)).unwrap_or_default();
        let made = abi::Taken { fd: next.socket.raw(), begun };
        process.giving.lock().push(next.socket);
        // SAFETY: the caller's, valid for the call.
        unsafe { taken.write(made) };
        Ok(1)
    }) as i32
}

extern "C" fn accept_ends(number: u64) -> i32 {
    guarded(|| {
        process()?.listener(number)?.accept_ends();
        Ok(0)
    }) as i32
}

extern "C" fn taken(fd: i32) -> i32 {
    guarded(|| {
        process()?.giving.lock().retain(|socket| socket.raw() != fd);
        Ok(0)
    }) as i32
}

extern "C" fn unlisten(number: u64) -> i32 {
    guarded(|| {
        let process = process()?;
        let listener = process.listeners.lock().remove(&number).ok_or(Errno(libc::EBADF))?;
        process.engine.unlisten(&listener);
        for pending in listener.close().into_iter().filter_map(|taken| taken.pending) {
            process.engine.abandon(&pending, false);
        }
        Ok(0)
    }) as i32
}

extern "C" fn finish(patience_ns: u64) -> i32 {
    guarded(|| {
        process()?.engine.finish(Time::from_nanos(patience_ns));
        Ok(0)
    }) as i32
}

extern "C" fn forked() {
    PROCESS.store(ptr::null_mut(), Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_version_that_is_there_has_a_table() {
        assert!(smc_rdma_entry(abi::VERSION + 1).is_null());
        // SAFETY: a static table.
        let table = unsafe { smc_rdma_entry(abi::VERSION).as_ref() }.expect("table");
        assert_eq!(table.version, abi::VERSION);
    }

    #[test]
    fn numbers_that_nobody_has_given_are_refused() {
        assert_eq!(ready(7), -libc::EBADF);
        assert_eq!(close(7, 0), -libc::EBADF);
        assert_eq!(accept_ends(7), -libc::EBADF);
    }

    #[test]
    fn a_panic_is_an_error() {
        assert_eq!(guarded(|| panic!("on purpose")), -(libc::EIO as isize));
    }
}
