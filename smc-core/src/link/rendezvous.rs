//! How the two ends of a busy connection find each other on one host.
//!
//! ```text
//! connecting end                               accepting end
//! listens on an abstract Unix name made
//! of the connection's two addresses  <──────── connects to it, compares the listener's uid with the uid that
//!                                              sock_diag reports for the other end of the TCP connection
//! accepts, compares the uid likewise <──────── Hello
//! maps a slot, is attached           ────────> Offer, with the segment and doorbells if they are new
//!                                              maps the slot, is attached
//! ```
//!
//! An end that stays on TCP by a choice of its own says so in the place of its message (Decline, with the reason), so that
//! the other end can show why: it takes the same steps for that, and no others.
//!
//! Each step is taken in passing, inside calls that the program makes on the connection anyway, and never waits. Where
//! no step is possible the next try comes later and later. Nothing travels in the TCP stream; whatever goes wrong,
//! the connection is the TCP connection that it was.
//!
//! Trust: abstract names can be taken by anybody in the network namespace, so each end checks that the process it
//! talks to has the uid that owns the other end's TCP socket, and, where the kernel lets it look (same uid), that
//! the process has that very socket ([`proof`]). The accepting end does not send the socket
//! itself over: a descriptor in flight would keep the TCP connection open after its owner closed it.

use core::fmt::Write;

use super::message::{Answer, Decline, Greeting, Held, Hello, Malformed, Offer, MAX_LEN};
use super::proof;
use super::{enter_slot, is_full, leave_slot, process_id, take_slot, TakenSlot, FULL};
use crate::conn::{half_closed, stopped, Cold, Conn};
use crate::options::found;
use crate::reason::{Detail, Why};
use crate::sys::diag;
use crate::sys::fd::{self, OwnFd};
use crate::sys::sock::{self, Endpoint, MAX_FDS};
use crate::sys::{self, Errno};
use crate::{config, policy, remote};

/// Where one connection stands.
#[derive(Default)]
pub enum Rendezvous {
    /// Nothing under way.
    #[default]
    Idle,
    /// `tries`: how often nobody was there.
    Waiting { pair: Pair, tries: u32 },
    /// Connecting end: somebody may come.
    Listening { pair: Pair, listener: OwnFd, stream: Option<OwnFd>, tries: u32 },
    /// Accepting end: the greeting is out.
    Greeted { pair: Pair, stream: OwnFd, pid: u32, tries: u32 },
    /// Both ends have agreed; this one is attached.
    Done(TakenSlot),
}

/// The two addresses of a connection, from this end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair {
    local: Endpoint,
    peer: Endpoint,
}

impl Pair {
    /// Who owns the socket at the other end now. A connection that nobody has accepted yet has no owner.
    fn owner(&self) -> Option<diag::Owner> {
        diag::tcp_owner(&self.peer, &self.local).ok().filter(|o| o.inode != 0)
    }

    /// Why it could not be verified who is at the other end of `fd`: often nobody is, any more or not yet.
    fn doubt(&self, fd: i32) -> Detail {
        match (half_closed(fd), diag::tcp_owner(&self.peer, &self.local)) {
            (Some(ended), _) => ended,
            (None, Ok(diag::Owner { inode: 0, .. }) | Err(Errno(libc::ENOENT))) => Detail::NoRendezvous,
            _ => Detail::PeerUidUnverified,
        }
    }
}

/// What a step came to.
pub enum Step {
    /// The next step is worth trying after so many more calls.
    Again {
        calls: u64,
        why: Why,
    },
    Attached,
    Never(Why),
}

/// Tries without an answer before the connection is left alone.
const MAX_TRIES: u32 = 14;

fn never(detail: Detail) -> Step {
    Step::Never(Why::new(detail))
}

/// Wait twice as long after every try.
fn again(tries: u32, detail: Detail) -> Step {
    if tries >= MAX_TRIES {
        return never(detail);
    }
    Step::Again { calls: 1 << tries, why: Why::new(detail) }
}

/// Takes the next step for `conn`, whose TCP socket is `fd`. With a `refusal` this end stays on TCP, and the steps only
/// tell the peer so; they end in [`Step::Never`] then.
pub(crate) fn step(conn: &Conn, fd: i32, cold: &mut Cold, refusal: Option<Why>) -> Step {
    match core::mem::take(&mut cold.rendezvous) {
        Rendezvous::Idle => begin(conn, fd, cold, refusal),
        Rendezvous::Waiting { pair, tries } => call(fd, cold, pair, tries, refusal),
        Rendezvous::Listening { pair, listener, stream, tries } => {
            answer(conn, fd, cold, Listening { pair, listener, stream, tries }, refusal)
        }
        Rendezvous::Greeted { pair, stream, pid, tries } => {
            enter(conn, fd, cold, Greeted { pair, stream, pid, tries }, refusal)
        }
        // Not asked for: only native connections take steps.
        done @ Rendezvous::Done(_) => {
            cold.rendezvous = done;
            Step::Attached
        }
    }
}

struct Greeted {
    pair: Pair,
    stream: OwnFd,
    pid: u32,
    tries: u32,
}

/// The peer stays on TCP, and says why.
fn refused(conn: &Conn, decline: &Decline) -> Step {
    conn.peer_reason(decline.reason);
    never(Detail::PeerRefused)
}

/// Says that this end stays on TCP.
fn refuse(stream: &OwnFd, fd: i32, why: Why) {
    let (bytes, len) = Decline { held: held(fd), reason: why.reason.code() }.encode();
    // A peer that has left need not be told.
    let _ = sock::send_with_fds(stream.raw(), &bytes[..len], &[]);
}

struct Listening {
    pair: Pair,
    listener: OwnFd,
    stream: Option<OwnFd>,
    tries: u32,
}

/// What speaks against moving the connection, at this end.
fn objection(fd: i32) -> Option<Detail> {
    if fd <= 2 {
        return Some(Detail::StdFd);
    }
    if policy::excludes(fd) {
        // The connect was under way when the connection was opened.
        return Some(Detail::Excluded);
    }
    if found::has_ulp(fd) {
        return Some(Detail::Ktls);
    }
    let row = found::on_connection(fd)?;
    log::debug!("fd {fd}: {} is set", row.name);
    Some(Detail::OptionFound)
}

fn begin(conn: &Conn, fd: i32, cold: &mut Cold, refusal: Option<Why>) -> Step {
    if let (None, Some(detail)) = (refusal, objection(fd)) {
        return never(detail);
    }
    conn.learn_options(fd);
    let (Ok(local), Ok(peer)) = (sock::local(fd), sock::peer(fd)) else {
        return again(0, Detail::NotBusyYet);
    };
    if local == peer {
        // A socket connected to itself is its own peer.
        return never(Detail::NoRendezvous);
    }
    if let (None, Some(detail)) = (refusal, half_closed(fd)) {
        return never(detail);
    }
    match diag::tcp_owner(&peer, &local) {
        Ok(_) => {}
        Err(Errno(libc::ENOENT)) => return never(remote::why_not(fd, &peer)),
        Err(_) => return never(Detail::PeerUidUnverified),
    }
    if !fd::may_open(8) {
        return never(Detail::FdLimit);
    }
    if refusal.is_none() && is_full() {
        return never(Detail::ConnLimit);
    }
    let pair = Pair { local, peer };
    if !conn.is_active() {
        return call(fd, cold, pair, 0, refusal);
    }
    match sock::unix_listen(name(&pair.local, &pair.peer).as_bytes()) {
        Ok(listener) => {
            cold.rendezvous = Rendezvous::Listening { pair, listener, stream: None, tries: 0 };
            again(0, Detail::NoRendezvous)
        }
        Err(e) => never(local_failure(e, Detail::NoRendezvous)),
    }
}

/// Connecting end: looks for the other one.
fn answer(conn: &Conn, fd: i32, cold: &mut Cold, mut l: Listening, refusal: Option<Why>) -> Step {
    if l.stream.is_none() {
        match sock::unix_accept(l.listener.raw()) {
            Ok(stream) => l.stream = Some(stream),
            Err(Errno(libc::EAGAIN)) => {}
            Err(e) => return never(local_failure(e, Detail::NoRendezvous)),
        }
    }
    let mut buf = [0u8; MAX_LEN];
    let mut fds = Default::default();
    let got = match &l.stream {
        Some(stream) => sock::receive_with_fds(stream.raw(), &mut buf, &mut fds),
        None => Err(Errno(libc::EAGAIN)),
    };
    let Listening { pair, listener, stream, tries } = l;
    match got {
        Err(Errno(libc::EAGAIN)) => {
            cold.rendezvous = Rendezvous::Listening { pair, listener, stream, tries: tries + 1 };
            again(tries, Detail::NoRendezvous)
        }
        Ok(n) if n > 0 => {
            let Some(stream) = stream else { return never(Detail::RendezvousGarbled) };
            let greeting = match Greeting::decode(&buf[..n]) {
                Ok(greeting) => greeting,
                Err(m) => return never(malformed(m)),
            };
            let Ok(pid) = verify(&pair, &stream, greeting.held()) else {
                let detail = pair.doubt(fd);
                if detail == Detail::PeerUidUnverified {
                    log::warn!("fd {fd}: somebody else answered at the rendezvous");
                }
                cold.rendezvous = Rendezvous::Listening { pair, listener, stream: None, tries: tries + 1 };
                return again(tries, detail);
            };
            if let Some(why) = refusal {
                refuse(&stream, fd, why);
            }
            match greeting {
                Greeting::Decline(decline) => refused(conn, &decline),
                Greeting::Hello(_) if refusal.is_some() => never(Detail::PeerRefused),
                Greeting::Hello(hello) => offer(conn, fd, cold, &stream, pid, &hello),
            }
        }
        // The other one gave up, or was none of ours.
        _ => {
            cold.rendezvous = Rendezvous::Listening { pair, listener, stream: None, tries: tries + 1 };
            again(tries, Detail::NoRendezvous)
        }
    }
}

/// Connecting end: offers memory to the process `pid`, which is the peer.
fn offer(conn: &Conn, fd: i32, cold: &mut Cold, stream: &OwnFd, pid: u32, hello: &Hello) -> Step {
    let counts = match conn.compare_counts(fd) {
        Ok(counts) => counts,
        Err(detail) => {
            refuse(stream, fd, Why::new(detail));
            return never(detail);
        }
    };
    let mine = wishes(fd);
    let size = |a: u64, b: u64| a.max(b).clamp(crate::ring::layout::MIN_RING, crate::ring::layout::MAX_RING);
    let sizes = [
        size(mine.sndbuf, hello.rcvbuf).next_power_of_two(),
        size(hello.sndbuf, mine.rcvbuf).next_power_of_two(),
    ];
    let (slot, mut offer, new) = match take_slot(hello.process, pid, sizes) {
        Ok(taken) => taken,
        Err(e) => {
            let detail = local_failure(e, Detail::Memory);
            refuse(stream, fd, Why::new(detail));
            return never(detail);
        }
    };
    offer.held = held(fd);
    let mut fds = [0; MAX_FDS];
    let mut count = 0;
    let bells = new.doorbells.into_iter().flatten();
    for (place, fd) in fds.iter_mut().zip(new.segment.into_iter().chain(bells)) {
        *place = fd;
        count += 1;
    }
    let (bytes, len) = offer.encode();
    // Attached before the peer can be: from the moment it has the offer it may leave TCP.
    conn.attach(fd, cold, slot, counts);
    if sock::send_with_fds(stream.raw(), &bytes[..len], &fds[..count]).is_err() {
        // Nobody will ever attach at the other end; the connection goes on over TCP through the engine. Nor will anybody leave.
        conn.view().peers().set_released();
        log::debug!("fd {fd}: the peer left the rendezvous");
    }
    Step::Attached
}

/// Accepting end: looks for the other one's name.
fn call(fd: i32, cold: &mut Cold, pair: Pair, tries: u32, refusal: Option<Why>) -> Step {
    let stream = match sock::unix_connect(name(&pair.peer, &pair.local).as_bytes()) {
        Ok(stream) => stream,
        Err(Errno(libc::ECONNREFUSED | libc::EAGAIN | libc::ENOENT)) => {
            cold.rendezvous = Rendezvous::Waiting { pair, tries: tries + 1 };
            return again(tries, Detail::NoRendezvous);
        }
        Err(e) => return never(local_failure(e, Detail::NoRendezvous)),
    };
    let retry = |cold: &mut Cold, detail| {
        cold.rendezvous = Rendezvous::Waiting { pair, tries: tries + 1 };
        again(tries, detail)
    };
    let Ok(credentials) = sock::peer_credentials(stream.raw()) else {
        return retry(cold, Detail::PeerUidUnverified);
    };
    if !pair.owner().is_some_and(|owner| same_uid(&credentials, &owner)) {
        let detail = pair.doubt(fd);
        if detail == Detail::PeerUidUnverified {
            log::warn!("fd {fd}: the rendezvous name belongs to uid {}", credentials.uid);
        }
        return retry(cold, detail);
    }
    if let Some(why) = refusal {
        // The peer may stay on TCP too, and answer so.
        refuse(&stream, fd, why);
    } else {
        let mine = wishes(fd);
        let Ok(process) = process_id() else { return never(Detail::Memory) };
        let (bytes, len) =
            Hello { process, held: held(fd), rcvbuf: mine.rcvbuf, sndbuf: mine.sndbuf }.encode();
        if sock::send_with_fds(stream.raw(), &bytes[..len], &[]).is_err() {
            return retry(cold, Detail::NoRendezvous);
        }
    }
    cold.rendezvous = Rendezvous::Greeted { pair, stream, pid: credentials.pid as u32, tries: 0 };
    again(0, Detail::NoRendezvous)
}

/// Accepting end: takes the offer.
fn enter(conn: &Conn, fd: i32, cold: &mut Cold, g: Greeted, refusal: Option<Why>) -> Step {
    let Greeted { pair, stream, pid, tries } = g;
    let mut buf = [0u8; MAX_LEN];
    let mut fds: [Option<OwnFd>; MAX_FDS] = Default::default();
    let n = match sock::receive_with_fds(stream.raw(), &mut buf, &mut fds) {
        Err(Errno(libc::EAGAIN)) => {
            cold.rendezvous = Rendezvous::Greeted { pair, stream, pid, tries: tries + 1 };
            // The other one answers at its next call on the connection, which may be soon: look often at first.
            let calls = if tries < 8 { 1 } else { 1 << (tries - 7).min(12) };
            return if tries < 24 {
                Step::Again { calls, why: Why::new(Detail::NoRendezvous) }
            } else {
                withdraw(core::mem::take(&mut cold.rendezvous));
                never(Detail::RendezvousTimeout)
            };
        }
        Err(_) | Ok(0) if refusal.is_some() => return never(Detail::NoRendezvous),
        Err(e @ Errno(libc::EMFILE)) => return never(local_failure(e, Detail::FdLimit)),
        Err(_) | Ok(0) => {
            cold.rendezvous = Rendezvous::Waiting { pair, tries: tries + 1 };
            return again(tries, Detail::NoRendezvous);
        }
        Ok(n) => n,
    };
    // Who answers has looked.
    proof::hide(fd);
    let offer = match Answer::decode(&buf[..n]) {
        Ok(Answer::Offer(offer)) => offer,
        Ok(Answer::Decline(decline)) => {
            return match verify(&pair, &stream, decline.held) {
                Ok(_) => refused(conn, &decline),
                Err(()) => never(pair.doubt(fd)),
            };
        }
        Err(m) => return never(malformed(m)),
    };
    if let Some(why) = refusal {
        // The choice was made after the greeting. The peer is attached by now; it learns from the slot.
        return match enter_slot(&offer, pid, fds) {
            Ok((slot, _)) => leave(&slot, why),
            _ => never(Detail::NoRendezvous),
        };
    }
    let slot = match enter_slot(&offer, pid, fds) {
        Ok((slot, true)) => slot,
        Ok((slot, false)) => return leave(&slot, Why::new(Detail::ConnLimit)),
        Err(Errno(libc::EPROTO)) => return never(Detail::RendezvousGarbled),
        Err(e) => return never(local_failure(e, Detail::Memory)),
    };
    // The owner of the other end must be the one that listened, and this process must still be alone on this end; the
    // kernel must have counted what we have.
    let counts = match verify(&pair, &stream, offer.held) {
        Ok(_) if !conn.end().held_alone() => Err(Detail::SharedProcess),
        Ok(_) => conn.compare_counts(fd),
        Err(()) => Err(pair.doubt(fd)),
    };
    match counts {
        Ok(counts) => {
            conn.attach(fd, cold, slot, counts);
            Step::Attached
        }
        Err(detail) => leave(&slot, Why::new(detail)),
    }
}

/// Ends what is under way, as the connection closes or stays on TCP. An offer may have come that nobody has read: its slot
/// goes back to the peer.
pub(crate) fn withdraw(rendezvous: Rendezvous) {
    let Rendezvous::Greeted { stream, pid, .. } = rendezvous else { return };
    if is_filtered() {
        return;
    }
    // Before the look: an offer made later fails, and the peer knows.
    let _ = sock::shutdown(stream.raw(), libc::SHUT_RD);
    let mut buf = [0u8; MAX_LEN];
    let mut fds = Default::default();
    let Ok(n) = sock::receive_with_fds(stream.raw(), &mut buf, &mut fds) else { return };
    let Ok(offer) = Offer::decode(&buf[..n]) else { return };
    if let Ok((slot, _)) = enter_slot(&offer, pid, fds) {
        leave_slot(&slot, true);
    }
}

/// The process filters its system calls: it is to make none that the program does not make.
pub(super) fn is_filtered() -> bool {
    stopped().is_some_and(|why| why.detail == Detail::Seccomp)
}

/// Accepting end: does not go on, though the peer is attached.
fn leave(slot: &TakenSlot, why: Why) -> Step {
    slot.view.mine().set_reason(why.reason.code());
    slot.view.mine().set_go_back();
    leave_slot(slot, true);
    Step::Never(why)
}

/// Sizes of the rings that this end wishes for.
struct Wishes {
    rcvbuf: u64,
    sndbuf: u64,
}

/// What the program has fixed by SO_RCVBUF and SO_SNDBUF, unless the user has chosen sizes; else the configured sizes.
fn wishes(fd: i32) -> Wishes {
    const SO_BUF_LOCK: i32 = 72;
    const SNDBUF_LOCK: i32 = 1;
    const RCVBUF_LOCK: i32 = 2;
    const LIMITS: (u64, u64) = (16 << 10, 1 << 20);
    let fixed = sock::int_option(fd, libc::SOL_SOCKET, SO_BUF_LOCK).unwrap_or(0);
    let size = |lock: i32, name: i32, configured: u64| {
        if fixed & lock == 0 || configured != config::DEFAULT_RING {
            return configured;
        }
        // The kernel stores the double of what the program asked for (socket(7)).
        let stored = sock::int_option(fd, libc::SOL_SOCKET, name).unwrap_or(0).max(0) as u64;
        (stored / 2).clamp(LIMITS.0, LIMITS.1).next_power_of_two()
    };
    let config = config::get();
    Wishes {
        rcvbuf: size(RCVBUF_LOCK, libc::SO_RCVBUF, config.rcvbuf),
        sndbuf: size(SNDBUF_LOCK, libc::SO_SNDBUF, config.sndbuf),
    }
}

fn same_uid(credentials: &libc::ucred, owner: &diag::Owner) -> bool {
    /// What the kernel says where a uid has no number in the caller's user namespace: it could be anybody. It is also the
    /// user nobody, as whom nginx's workers run.
    const OVERFLOW_UID: u32 = 65534;
    let is_known = || sys::geteuid() == OVERFLOW_UID || sys::every_uid_is_mapped();
    credentials.uid == owner.uid && (credentials.uid != OVERFLOW_UID || is_known())
}

/// What this process tells of its socket.
fn held(fd: i32) -> Held {
    Held { fd, proof: proof::show(fd) }
}

/// Checks that the process at the other end of `stream` owns the other end of the connection, which it says that it has as
/// `held`. Returns its pid.
fn verify(pair: &Pair, stream: &OwnFd, held: Held) -> Result<u32, ()> {
    let credentials = sock::peer_credentials(stream.raw()).map_err(|_| ())?;
    let owner = pair.owner().filter(|owner| same_uid(&credentials, owner)).ok_or(())?;
    // Of other users only what cannot be made to wait: reading of an instance takes its lock.
    if credentials.uid == sys::geteuid()
        && proof::is_shown(credentials.pid, held.proof, owner.inode.into(), stream)
    {
        return Ok(credentials.pid as u32);
    }
    let mut path = Text::new();
    let _ = write!(path, "/proc/{}/fd/{}\0", credentials.pid, held.fd);
    let mut target = [0u8; 64];
    // SAFETY: the path ends with a NUL; the kernel writes at most the length given.
    let n = unsafe {
        sys!(SYS_readlinkat, libc::AT_FDCWD, path.as_bytes().as_ptr(), target.as_mut_ptr(), target.len())
    };
    match n {
        Ok(n) => {
            let mut want = Text::new();
            let _ = write!(want, "socket:[{}]", owner.inode);
            if target[..n] == *want.as_bytes() {
                Ok(credentials.pid as u32)
            } else {
                Err(())
            }
        }
        // It has no such descriptor.
        Err(Errno(libc::ENOENT)) if process_is_visible(credentials.pid) => Err(()),
        // Another uid, another pid namespace, no /proc: the uid has to do.
        Err(_) => Ok(credentials.pid.max(0) as u32),
    }
}

/// Whether /proc shows the process.
fn process_is_visible(pid: i32) -> bool {
    let mut path = Text::new();
    let _ = write!(path, "/proc/{pid}/fd\0");
    // SAFETY: the path ends with a NUL.
    unsafe { sys!(SYS_faccessat, libc::AT_FDCWD, path.as_bytes().as_ptr(), libc::F_OK) }.is_ok()
}

/// The abstract name for the connection from `connecting` to `accepting`, without the leading zero byte.
fn name(connecting: &Endpoint, accepting: &Endpoint) -> Text {
    let mut text = Text::new();
    let _ = text.write_str("smc1/");
    for end in [connecting, accepting] {
        for byte in end.ip {
            let _ = write!(text, "{byte:02x}");
        }
        let _ = write!(text, ":{} ", end.port);
    }
    text
}

fn malformed(m: Malformed) -> Detail {
    match m {
        Malformed::Garbled => Detail::RendezvousGarbled,
        Malformed::OtherVersion => Detail::RendezvousVersion,
    }
}

fn local_failure(e: Errno, otherwise: Detail) -> Detail {
    match e {
        FULL => Detail::ConnLimit,
        Errno(libc::EMFILE | libc::ENFILE) => Detail::FdLimit,
        Errno(libc::ENOMEM | libc::ENOBUFS | libc::EFBIG) => Detail::Memory,
        _ => otherwise,
    }
}

/// A short text on the stack: nothing is allocated inside the program's calls.
pub(super) struct Text {
    buf: [u8; 96],
    len: usize,
}

impl Text {
    pub(super) fn new() -> Text {
        Text { buf: [0; 96], len: 0 }
    }
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let to = self.buf.get_mut(self.len..self.len + s.len()).ok_or(core::fmt::Error)?;
        to.copy_from_slice(s.as_bytes());
        self.len += s.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_make_the_same_name_and_it_fits() {
        let v6 = Endpoint { ip: [0xfe; 16], port: 65535 };
        let other = Endpoint { ip: [0xab; 16], port: 12345 };
        let text = name(&v6, &other);
        assert!(text.len < 96, "{}", text.len);
        assert_eq!(text.as_bytes(), name(&v6, &other).as_bytes());
        assert_ne!(text.as_bytes(), name(&other, &v6).as_bytes());
    }
}
