//! What can be checked on any kernel.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

use smc_core::capability::{self, Peer};
use smc_tests::sys::{self, Address};

use crate::packets::Segment;
use crate::{Outcome, Setting, FAR};

pub type Check = (&'static str, fn(&Setting) -> Outcome);

pub const ALL: &[Check] = &[
    ("asked_for_on_both_ends_it_is_on_syn_and_syn_ack_and_nowhere_else", |s| on_both_ends(s, "127.0.0.1:0")),
    ("over_ipv6_too", |s| on_both_ends(s, "[::1]:0")),
    ("a_listener_that_does_not_ask_does_not_answer", client_only),
    ("a_client_that_does_not_ask_is_not_offered_it", listener_only),
    ("who_does_not_ask_sends_nothing", nobody_asks),
    ("an_accepted_socket_inherits_the_wish", inherited),
    ("a_wish_taken_back_counts", taken_back),
    ("the_canary_is_another_one_each_time", canaries_differ),
    ("a_peer_that_sends_back_every_option_is_found_out", echoing_peer),
    ("an_answer_is_taken_as_the_kernel_takes_it", odd_answers),
    ("it_is_refused_where_it_could_not_be_kept", refused),
    ("without_room_for_it_the_connection_is_plain", no_room),
    ("large_options_of_others_work_as_before", large_options),
];

/// With net.ipv4.tcp_syncookies at 2, which means always.
pub const WITH_COOKIES: &[Check] = &[("with_syn_cookies_the_answer_is_without_it", syn_cookies)];

pub const SMC: u8 = 254;
pub const CANARY: u8 = 253;
pub const SMC_ID: &[u8] = &[0xe2, 0xd4, 0xc3, 0xd9];

pub fn errno(e: sys::Errno) -> String {
    sys::errno_name(e)
}

pub fn core(e: smc_core::sys::Errno) -> String {
    sys::errno_name(e.0)
}

pub fn expect<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Outcome {
    if got == wanted {
        return Ok(());
    }
    Err(format!("{what}: {got:?}, not {wanted:?}"))
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: a descriptor that was just made and is nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub fn tcp_socket(address: &SocketAddr) -> Result<OwnedFd, String> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    sys::socket(family, libc::SOCK_CLOEXEC).map(owned).map_err(errno)
}

pub fn parse(address: &str) -> SocketAddr {
    address.parse().expect("a literal address")
}

/// A listener with `prepare` done to it before `listen`, and its address.
pub fn listener(address: &str, prepare: impl Fn(RawFd) -> Outcome) -> Result<(OwnedFd, SocketAddr), String> {
    let mut address = parse(address);
    let fd = tcp_socket(&address)?;
    sys::bind(fd.as_raw_fd(), &Address::new(address)).map_err(errno)?;
    prepare(fd.as_raw_fd())?;
    sys::listen(fd.as_raw_fd(), 16).map_err(errno)?;
    address.set_port(sys::getsockname(fd.as_raw_fd()).map_err(errno)?.port());
    Ok((fd, address))
}

pub fn want(fd: RawFd) -> Outcome {
    capability::want(fd, true).map_err(core)
}

pub fn nothing(_: RawFd) -> Outcome {
    Ok(())
}

/// A connection with both its ends, and its two handshake segments.
struct Pair {
    client: OwnedFd,
    server: OwnedFd,
    _listener: OwnedFd,
    syn: Segment,
    syn_ack: Segment,
}

impl Pair {
    fn open(
        setting: &Setting,
        address: &str,
        on_client: impl Fn(RawFd) -> Outcome,
        on_listener: impl Fn(RawFd) -> Outcome,
    ) -> Result<Pair, String> {
        let (listener, address) = listener(address, on_listener)?;
        let client = tcp_socket(&address)?;
        on_client(client.as_raw_fd())?;
        sys::connect(client.as_raw_fd(), &Address::new(address)).map_err(errno)?;
        let server = owned(sys::accept(listener.as_raw_fd()).map_err(errno)?);
        let port = address.port();
        let syn = setting.loopback.next(|s| s.destination_port == port && s.syn && !s.ack)?;
        let syn_ack = setting.loopback.next(|s| s.source_port == port && s.syn && s.ack)?;
        Ok(Pair { client, server, _listener: listener, syn, syn_ack })
    }

    fn peers(&self) -> Result<(Peer, Peer), String> {
        Ok((peer(&self.client)?, peer(&self.server)?))
    }

    /// The SMC options of SYN and SYN-ACK, and how many canaries they have.
    fn expect_options(&self, syn: &[&[u8]], syn_ack: &[&[u8]]) -> Outcome {
        expect("SMC option on the SYN", self.syn.option(SMC), syn.to_vec())?;
        expect("canaries on the SYN", self.syn.option(CANARY).len(), syn.len())?;
        expect("SMC option on the SYN-ACK", self.syn_ack.option(SMC), syn_ack.to_vec())?;
        expect("canaries on the SYN-ACK", self.syn_ack.option(CANARY).len(), 0)
    }
}

fn peer(fd: &OwnedFd) -> Result<Peer, String> {
    capability::peer(fd.as_raw_fd()).map_err(core)
}

fn on_both_ends(setting: &Setting, address: &str) -> Outcome {
    let pair = Pair::open(setting, address, want, want)?;
    pair.expect_options(&[SMC_ID], &[SMC_ID])?;
    expect("what client and server see", pair.peers()?, (Peer::Capable, Peer::Capable))?;
    // Data both ways, and what is sent for it has neither option.
    let (client, server) = (pair.client.as_raw_fd(), pair.server.as_raw_fd());
    for (from, to) in [(client, server), (server, client)] {
        sys::send(from, b"hello", 0).map_err(errno)?;
        expect("bytes received", sys::recv(to, &mut [0; 8], 0).map_err(errno)?, 5)?;
    }
    for _ in 0..3 {
        let segment = setting.loopback.next(|s| !s.syn)?;
        expect("options after the handshake", segment.option(SMC).len() + segment.option(CANARY).len(), 0)?;
    }
    Ok(())
}

fn client_only(setting: &Setting) -> Outcome {
    let pair = Pair::open(setting, "127.0.0.1:0", want, nothing)?;
    pair.expect_options(&[SMC_ID], &[])?;
    expect("what client and server see", pair.peers()?, (Peer::Absent, Peer::Unknown))
}

fn listener_only(setting: &Setting) -> Outcome {
    let pair = Pair::open(setting, "127.0.0.1:0", nothing, want)?;
    pair.expect_options(&[], &[])?;
    expect("what client and server see", pair.peers()?, (Peer::Unknown, Peer::Absent))
}

fn nobody_asks(setting: &Setting) -> Outcome {
    let pair = Pair::open(setting, "127.0.0.1:0", nothing, nothing)?;
    pair.expect_options(&[], &[])?;
    expect("what client and server see", pair.peers()?, (Peer::Unknown, Peer::Unknown))?;
    expect("the wish", capability::wanted(pair.client.as_raw_fd()).map_err(core)?, false)
}

fn inherited(setting: &Setting) -> Outcome {
    let pair = Pair::open(setting, "127.0.0.1:0", nothing, want)?;
    expect("the wish", capability::wanted(pair.server.as_raw_fd()).map_err(core)?, true)
}

fn taken_back(setting: &Setting) -> Outcome {
    let change_mind = |fd| {
        want(fd)?;
        capability::want(fd, false).map_err(core)
    };
    let pair = Pair::open(setting, "127.0.0.1:0", change_mind, change_mind)?;
    pair.expect_options(&[], &[])?;
    expect("what client and server see", pair.peers()?, (Peer::Unknown, Peer::Unknown))
}

fn canaries_differ(setting: &Setting) -> Outcome {
    let canary = || {
        let pair = Pair::open(setting, "127.0.0.1:0", want, nothing)?;
        pair.syn.option(CANARY).first().map(|id| id.to_vec()).ok_or("no canary".to_string())
    };
    let (first, second) = (canary()?, canary()?);
    expect("length of a canary's id", first.len(), 4)?;
    if first == second {
        return Err(format!("{first:02x?} twice"));
    }
    Ok(())
}

fn echoing_peer(setting: &Setting) -> Outcome {
    let seen = seen_of_far(setting, |syn| syn.raw_options.clone())?;
    expect("what the client sees", seen, Peer::Echoes)
}

fn odd_answers(setting: &Setting) -> Outcome {
    for (length, wanted) in [(6, Peer::Capable), (8, Peer::Capable), (12, Peer::Capable), (7, Peer::Absent)] {
        let mut options = [&[SMC, length], SMC_ID].concat();
        options.resize(length.into(), 0);
        let seen = seen_of_far(setting, |_| options.clone())?;
        expect(&format!("what the client sees of an option of {length} bytes"), seen, wanted)?;
    }
    let other = [SMC, 6, SMC_ID[0], SMC_ID[1], SMC_ID[2], 0];
    expect("what the client sees of another id", seen_of_far(setting, |_| other.to_vec())?, Peer::Absent)
}

/// What a client that asks sees of a peer whose SYN-ACK has these options.
fn seen_of_far(setting: &Setting, options: impl Fn(&Segment) -> Vec<u8>) -> Result<Peer, String> {
    let client = tcp_socket(&parse("10.77.0.1:0"))?;
    want(client.as_raw_fd())?;
    sys::set_nonblocking(client.as_raw_fd(), true);
    let far = parse(&format!("{FAR}:7000"));
    match sys::connect(client.as_raw_fd(), &Address::new(far)) {
        Err(libc::EINPROGRESS) => {}
        other => return Err(format!("connect: {other:?}")),
    }
    let port = sys::getsockname(client.as_raw_fd()).map_err(errno)?.port();
    let syn = setting.far.next(|s| s.syn && s.source_port == port)?;
    expect("before the answer", peer(&client)?, Peer::Unknown)?;
    setting.far.answer(&syn, &options(&syn))?;
    let mut polled = [libc::pollfd { fd: client.as_raw_fd(), events: libc::POLLOUT, revents: 0 }];
    expect("connected", sys::poll(&mut polled, 10_000).map_err(errno)?, 1)?;
    expect("error of connect", sys::socket_error(client.as_raw_fd()), 0)?;
    peer(&client)
}

fn refused(setting: &Setting) -> Outcome {
    let eperm = Err(smc_core::sys::Errno(libc::EPERM));
    let pair = Pair::open(setting, "127.0.0.1:0", want, want)?;
    for (what, fd) in
        [("a listener", &pair._listener), ("a client", &pair.client), ("an accepted socket", &pair.server)]
    {
        expect(what, capability::want(fd.as_raw_fd(), false), eperm)?;
    }
    let udp = UdpSocket::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    expect("UDP", capability::want(udp.as_raw_fd(), true), eperm)?;
    let unix = UnixDatagram::unbound().map_err(|e| e.to_string())?;
    expect("a Unix socket", capability::want(unix.as_raw_fd(), true), eperm)?;
    let tcp = tcp_socket(&parse("127.0.0.1:0"))?;
    let fd = tcp.as_raw_fd();
    let level = capability::LEVEL;
    expect("a value of another size", sys::setsockopt(fd, level, capability::WANTED, 1u8), Err(libc::EPERM))?;
    expect(
        "setting what the peer said",
        sys::setsockopt(fd, level, capability::PEER, 2i32),
        Err(libc::EPERM),
    )?;
    expect("an option of no name", sys::getsockopt_int(fd, level, 77).is_err(), true)
}

/// With TCP-MD5 the options of a SYN take 32 of 40 bytes, too much for option and canary.
fn no_room(setting: &Setting) -> Outcome {
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct TcpMd5Sig {
        address: libc::sockaddr_storage,
        flags: u8,
        prefix: u8,
        key_length: u16,
        interface: i32,
        key: [u8; 80],
    }
    const TCP_MD5SIG: i32 = 14;
    let sign = |fd| {
        // SAFETY: plain data, for which zero is a value.
        let mut md5: TcpMd5Sig = unsafe { std::mem::zeroed() };
        let any = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
            sin_zero: [0; 8],
        };
        // SAFETY: a sockaddr_storage is large and aligned enough for every address.
        unsafe { (&mut md5.address as *mut libc::sockaddr_storage).cast::<libc::sockaddr_in>().write(any) };
        md5.key_length = 3;
        md5.key[..3].copy_from_slice(b"key");
        sys::setsockopt(fd, libc::IPPROTO_TCP, TCP_MD5SIG, md5)
            .map_err(|e| format!("TCP_MD5SIG: {}", errno(e)))?;
        want(fd)
    };
    let pair = Pair::open(setting, "127.0.0.1:0", sign, sign)?;
    expect("MD5 option", pair.syn.option(19).len(), 1)?;
    pair.expect_options(&[], &[])?;
    expect("what client and server see", pair.peers()?, (Peer::Absent, Peer::Absent))
}

/// Asked for in vain: the server does not remember the SYN.
fn syn_cookies(setting: &Setting) -> Outcome {
    let pair = Pair::open(setting, "127.0.0.1:0", want, want)?;
    pair.expect_options(&[SMC_ID], &[])?;
    expect("what client and server see", pair.peers()?, (Peer::Absent, Peer::Absent))
}

fn large_options(_: &Setting) -> Outcome {
    let (_listener, address) = listener("127.0.0.1:0", nothing)?;
    let stream = TcpStream::connect(address).map_err(|e| e.to_string())?;
    let fd = stream.as_raw_fd();
    // More than a page, which a program on the way sees in part only.
    let mut name = [0u8; 8192];
    name[..4].copy_from_slice(b"reno");
    sys::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, name)
        .map_err(|e| format!("TCP_CONGESTION of 8192 bytes: {}", errno(e)))?;
    let mut info = [0u8; 8192];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: a buffer of that length.
    let done = unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut length)
    };
    expect("TCP_INFO into 8192 bytes", done, 0)?;
    // The first byte is the state: TCP_ESTABLISHED.
    expect("its state", info[0], 1)?;
    expect("its length is of the kernel's struct", (100..1000).contains(&length), true)
}
