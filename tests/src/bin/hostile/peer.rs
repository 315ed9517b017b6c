//! What a peer of the preload library does, by hand.

use crate::Stage;
use smc_core::link::message::{Held, Hello, Offer, ProcessId, MAX_LEN};
use smc_core::link::Doorbells;
use smc_core::ring::layout::{segment_len, slots_of, Area, SlotView, CONTROL};
use smc_core::sys::fd::{self, OwnFd};
use smc_core::sys::sock::{self, Endpoint, MAX_FDS};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

/// Exchanges after which the victim should have taken every step of the rendezvous that it wants to.
pub const EXCHANGES: usize = 400;

/// The rendezvous name of the connection `connecting` to `accepting`.
pub fn name(connecting: &Endpoint, accepting: &Endpoint) -> Vec<u8> {
    let mut text = "smc1/".to_owned();
    for end in [connecting, accepting] {
        text.extend(end.ip.iter().map(|byte| format!("{byte:02x}")));
        text.push_str(&format!(":{} ", end.port));
    }
    text.into_bytes()
}

/// A connection with the victim.
pub struct Peer {
    pub tcp: TcpStream,
    pub local: Endpoint,
    pub remote: Endpoint,
    /// Bytes sent on TCP.
    pub sent: u64,
}

impl Peer {
    fn new(tcp: TcpStream) -> Peer {
        tcp.set_read_timeout(Some(Duration::from_secs(60))).expect("SO_RCVTIMEO");
        tcp.set_write_timeout(Some(Duration::from_secs(60))).expect("SO_SNDTIMEO");
        tcp.set_nodelay(true).expect("TCP_NODELAY");
        let (local, remote) =
            (sock::local(tcp.as_raw_fd()).expect("name"), sock::peer(tcp.as_raw_fd()).expect("name"));
        Peer { tcp, local, remote, sent: 0 }
    }

    /// Connects to the victim; `before` is called with the connection's future local and remote addresses.
    pub fn connect<T>(stage: &Stage, before: impl FnOnce(&Endpoint, &Endpoint) -> T) -> (Peer, T) {
        // The port has to be known before the connection is: bound, but not with std.
        let fd = smc_tests::net::Family::V4.client_socket(0).expect("socket");
        let any = smc_tests::sys::Address::new(([127, 0, 0, 1], 0).into());
        smc_tests::sys::bind(fd, &any).expect("bind");
        let local = sock::local(fd).expect("name");
        let remote = Endpoint { ip: local.ip, port: stage.port };
        let prepared = before(&local, &remote);
        smc_tests::sys::connect(fd, &smc_tests::net::Family::V4.target(stage.port)).expect("connect");
        // SAFETY: the descriptor is this function's own.
        let tcp = unsafe { <TcpStream as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        (Peer::new(tcp), prepared)
    }

    /// Has the victim connect.
    pub fn accept(stage: &Stage) -> Result<Peer, String> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        stage.victim_connects(listener.local_addr().expect("name").port())?;
        Ok(Peer::new(listener.accept().expect("accept").0))
    }

    /// Sends a few bytes over TCP and reads them back.
    pub fn exchange(&mut self) -> Result<(), String> {
        let out = self.sent.to_le_bytes();
        let mut back = [0; 8];
        self.tcp.write_all(&out).map_err(|e| format!("send on TCP: {e}"))?;
        self.sent += 8;
        self.tcp.read_exact(&mut back).map_err(|e| format!("no echo on TCP: {e}"))?;
        if back == out {
            Ok(())
        } else {
            Err(format!("wrong bytes on TCP: {back:?} for {out:?}"))
        }
    }

    /// Exchanges until `done` has a result.
    pub fn exchange_until<T>(
        &mut self,
        what: &str,
        mut done: impl FnMut() -> Option<T>,
    ) -> Result<T, String> {
        for _ in 0..EXCHANGES {
            if let Some(t) = done() {
                return Ok(t);
            }
            self.exchange()?;
        }
        Err(format!("{what} within {EXCHANGES} exchanges"))
    }

    /// What is left on TCP, without waiting. False: the victim has ended the connection.
    pub fn drain(&mut self) -> bool {
        self.tcp.set_nonblocking(true).expect("O_NONBLOCK");
        let mut buf = [0; 65536];
        let open = loop {
            match self.tcp.read(&mut buf) {
                Ok(0) => break false,
                Ok(_) => {}
                Err(e) => break e.kind() == ErrorKind::WouldBlock,
            }
        };
        self.tcp.set_nonblocking(false).expect("O_NONBLOCK");
        open
    }

    /// Bytes on TCP as far as it takes them. False: the victim has ended the connection.
    pub fn poke(&mut self, bytes: &[u8]) -> bool {
        self.tcp.set_nonblocking(true).expect("O_NONBLOCK");
        let sent = self.tcp.write(bytes);
        self.tcp.set_nonblocking(false).expect("O_NONBLOCK");
        match sent {
            Ok(n) => {
                self.sent += n as u64;
                true
            }
            Err(e) => e.kind() == ErrorKind::WouldBlock,
        }
    }

    /// As the connecting end: waits for the victim's greeting on `listener`.
    pub fn greeted(&mut self, listener: &OwnFd) -> Result<(OwnFd, Hello), String> {
        let stream =
            self.exchange_until("the victim did not come", || sock::unix_accept(listener.raw()).ok())?;
        let mut buf = [0; MAX_LEN];
        let mut fds = Default::default();
        let n = self.exchange_until("no greeting", || {
            sock::receive_with_fds(stream.raw(), &mut buf, &mut fds).ok()
        })?;
        let hello = Hello::decode(&buf[..n]).map_err(|e| format!("the greeting: {e:?}"))?;
        Ok((stream, hello))
    }

    /// As the accepting end: reaches the victim's listener.
    pub fn call(&mut self) -> Result<OwnFd, String> {
        let name = name(&self.remote, &self.local);
        self.exchange_until("the victim does not listen", || sock::unix_connect(&name).ok())
    }

    /// The descriptor that a peer names in its messages.
    pub fn fd(&self) -> i32 {
        self.tcp.as_raw_fd()
    }
}

/// A segment, a slot of it, and doorbells.
pub struct Memory {
    pub view: SlotView,
    base: *mut u8,
    len: usize,
    pub memfd: Option<OwnFd>,
    pub bells: Vec<OwnFd>,
}

/// What a peer tells of its socket that shows it in no other way.
pub fn held(fd: i32) -> Held {
    Held { fd, proof: -1 }
}

pub fn random_process() -> ProcessId {
    let mut id = [0; 16];
    smc_core::sys::random(&mut id).expect("random bytes");
    id
}

impl Memory {
    pub fn new(sizes: [u64; 2]) -> Memory {
        let memfd = fd::sealed_memfd(segment_len(sizes, 1)).expect("memfd");
        let bells = (0..Doorbells::COUNT).map(|_| fd::eventfd().expect("eventfd")).collect();
        Memory::map(memfd, sizes, (1, 0), 0, bells)
    }

    /// `slots`: how many there are, and which one is meant.
    fn map(memfd: OwnFd, sizes: [u64; 2], slots: (u32, u32), end: usize, bells: Vec<OwnFd>) -> Memory {
        let len = segment_len(sizes, slots.0);
        let base = smc_core::sys::map(len, libc::MAP_SHARED, memfd.raw()).expect("mmap");
        // SAFETY: the mapping has this length; it stays until nothing uses it any more.
        let area = Box::leak(Box::new(unsafe { Area::new(base, sizes, slots.0) }));
        Memory { view: area.view(slots.1, end), base, len, memfd: Some(memfd), bells }
    }

    /// What the victim offers.
    pub fn offered(offer: &Offer, mut fds: [Option<OwnFd>; MAX_FDS]) -> Result<Memory, String> {
        let mut fds = fds.iter_mut().filter_map(Option::take);
        if !offer.new_segment || !offer.new_doorbells {
            return Err("a new process gets a new segment".to_owned());
        }
        let memfd = fds.next().ok_or("no memfd")?;
        let len = fd::sealed_size(memfd.raw()).map_err(|e| format!("the memfd: {e:?}"))?;
        let slots = slots_of(len, offer.sizes, 256).ok_or("a segment of an odd length")?;
        Ok(Memory::map(memfd, offer.sizes, (slots, offer.slot), 1, fds.collect()))
    }

    pub fn offer(&self, fd: i32) -> Offer {
        Offer {
            process: random_process(),
            held: held(fd),
            segment: 0,
            slot: 0,
            sizes: self.view.sizes(),
            new_segment: true,
            new_doorbells: true,
        }
    }

    /// The descriptors that go with the offer.
    pub fn fds(&self) -> Vec<i32> {
        self.memfd.iter().chain(&self.bells).map(OwnFd::raw).collect()
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the segment is mapped for good, page aligned, and touched as atomics only.
        unsafe { std::slice::from_raw_parts(self.base as *const AtomicU64, self.len / 8) }
    }

    /// The control words of the slot.
    pub fn control(&self) -> &[AtomicU64] {
        let at = self.view.number() as usize * CONTROL / 8;
        &self.words()[at..at + CONTROL / 8]
    }

    pub fn control_halves(&self) -> &[AtomicU32] {
        // SAFETY: as in `words`.
        unsafe { std::slice::from_raw_parts(self.view.control_words() as *const AtomicU32, CONTROL / 4) }
    }

    pub fn ring_bells(&self) {
        self.bells.iter().for_each(|bell| fd::ring(bell.raw()));
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made; nothing uses it any more.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// A peer that has attached properly.
pub struct Attached {
    pub peer: Peer,
    pub memory: Memory,
    _rendezvous: OwnFd,
}

/// Attaches as the connecting end, with rings of `sizes`.
pub fn attach_connecting(stage: &Stage, sizes: [u64; 2]) -> Result<Attached, String> {
    let (mut peer, listener) =
        Peer::connect(stage, |local, remote| sock::unix_listen(&name(local, remote)).expect("the name"));
    let (rendezvous, _) = peer.greeted(&listener)?;
    let memory = Memory::new(sizes);
    let (bytes, len) = memory.offer(peer.fd()).encode();
    sock::send_with_fds(rendezvous.raw(), &bytes[..len], &memory.fds())
        .map_err(|e| format!("the offer: {e:?}"))?;
    peer.exchange_until("the victim did not attach", || memory.view.peers().attached().then_some(()))?;
    Ok(Attached { peer, memory, _rendezvous: rendezvous })
}

/// Attaches as the accepting end.
pub fn attach_accepting(stage: &Stage) -> Result<Attached, String> {
    let mut peer = Peer::accept(stage)?;
    let rendezvous = peer.call()?;
    let hello = Hello { process: random_process(), held: held(peer.fd()), rcvbuf: 4096, sndbuf: 4096 };
    let (bytes, len) = hello.encode();
    sock::send_with_fds(rendezvous.raw(), &bytes[..len], &[]).map_err(|e| format!("the greeting: {e:?}"))?;
    let mut buf = [0; MAX_LEN];
    let mut fds = Default::default();
    let n = peer
        .exchange_until("no offer", || sock::receive_with_fds(rendezvous.raw(), &mut buf, &mut fds).ok())?;
    let offer = Offer::decode(&buf[..n]).map_err(|e| format!("the offer: {e:?}"))?;
    Ok(Attached { peer, memory: Memory::offered(&offer, fds)?, _rendezvous: rendezvous })
}
