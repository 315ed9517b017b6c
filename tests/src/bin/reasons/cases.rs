//! The cases: what one end (the near one) does, and what both ends say about it.

use crate::{Expected, NOT_HERE};
use smc_core::reason::{Detail, Reason};
use smc_tests::net::Family;
use smc_tests::pair::{Arrangement, End, Order, Pair};
use smc_tests::sys;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};

/// What the far end says.
#[derive(Clone, Copy)]
pub enum Far {
    /// It was told at the rendezvous: 0x05000000 and the near end's code.
    Refused,
    /// It was told in shared memory: the same.
    Returned,
    /// This, and the near end says nothing to it.
    Says(Detail),
    /// Depends on which end came how far first.
    Whatever,
}

impl Far {
    pub fn detail(self) -> Option<Detail> {
        match self {
            Far::Refused => Some(Detail::PeerRefused),
            Far::Returned => Some(Detail::PeerReturned),
            Far::Says(detail) => Some(detail),
            Far::Whatever => None,
        }
    }

    pub fn expected(self, near: Detail) -> Option<Expected> {
        let told = matches!(self, Far::Refused | Far::Returned);
        let peer = Some(if told { near.reason().code() } else { 0 });
        self.detail().map(|own| Expected { own, peer })
    }
}

pub struct Case {
    pub near: Detail,
    pub far: Far,
    pub arrangements: &'static [Arrangement],
    /// Of both ends; `@` is the folder of the case. The near end may change those of the far one.
    pub settings: &'static [(&'static str, &'static str)],
    act: fn(Arrangement) -> Pair,
}

const FAR: [Arrangement; 2] = [Arrangement::FarConnects, Arrangement::FarAccepts];
const BOTH: &[Arrangement] = &FAR;
const CONNECTING: &[Arrangement] = &[Arrangement::FarAccepts];
const ACCEPTING: &[Arrangement] = &[Arrangement::FarConnects];
/// Not at once: the near end does something first.
const LATER: &[(&str, &str)] = &[("SMC_UPGRADE_AFTER", "32k")];

macro_rules! cases {
    ($($near:ident, $far:expr, $arrangements:ident, $settings:expr, $act:expr;)*) => {
        pub const CASES: &[Case] = &[$(Case {
            near: Detail::$near, far: $far, arrangements: $arrangements, settings: $settings, act: $act,
        }),*];
    };
}

cases! {
    NotBusyYet, Far::Says(Detail::NotBusyYet), BOTH, LATER, |a| {
        let mut pair = Pair::fresh(a);
        pair.exchange_pieces(1, 1);
        pair
    };
    Excluded, Far::Refused, BOTH, &[("SMC_POLICY", "include uid=4294967294; exclude program=reasons")],
        |a| busy(far_without("SMC_POLICY", a));
    SettingsBroken, Far::Refused, BOTH, &[("SMC_CONFIG", "@/broken.conf")], |a| busy(far_without("SMC_CONFIG", a));
    Stdio, Far::Returned, BOTH, &[], |a| after_moving(a, |pair| {
        sys::File::open(pair.near.fd);
    });
    StdFd, Far::Refused, BOTH, LATER, |a| before_moving(a, |pair| {
        // Standard input is needed.
        sys::dup2(pair.near.fd, 2).expect("dup2");
    });
    FdPassed, Far::Returned, BOTH, &[], |a| after_moving(a, |pair| {
        let (here, _there) = sys::socketpair();
        sys::send_descriptor(here, pair.near.fd);
    });
    IoUring, Far::Refused, BOTH, LATER, |a| before_moving(a, |_| {
        let mut parameters = [0u8; 120];
        // SAFETY: the size of io_uring_params. The kernel may refuse; the library does not know yet then.
        unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
    });
    Ktls, Far::Refused, BOTH, LATER, |a| before_moving(a, |pair| {
        const TCP_ULP: i32 = 31;
        if unseen_setsockopt(pair.near.fd, libc::IPPROTO_TCP, TCP_ULP, b"tls\0").is_err() {
            not_here("this kernel has no kernel TLS");
        }
    });
    Seccomp, Far::Whatever, BOTH, LATER, |a| before_moving(a, |_| filter(&[ALLOW], |command, arg, filter| {
        // SAFETY: prctl(2) as the manual has it; the filter outlives the call.
        unsafe { libc::prctl(command, arg, filter, 0, 0) }
    }));
    SharedProcess, Far::Whatever, BOTH, LATER, |a| before_moving(a, |pair| {
        let near = pair.near.fd;
        let child = sys::fork_child(|| {
            sys::die_with_parent();
            // Of all it has, it keeps the connection.
            for fd in (3..64).filter(|fd| *fd != near) {
                let _ = sys::close(fd);
            }
            loop {
                // SAFETY: waits to be killed.
                unsafe { libc::pause() };
            }
        });
        assert!(child > 0);
    });
    BehindShim, Far::Refused, CONNECTING, LATER, unseen_byte;
    BehindShim, Far::Returned, ACCEPTING, LATER, unseen_byte;
    PeerUidUnverified, Far::Says(Detail::PeerUidUnverified), BOTH, &[], |a| busy(Pair::fresh(a));
    Executed, Far::Returned, BOTH, &[], |a| after_moving(a, |pair| {
        sys::fcntl(pair.near.fd, libc::F_SETFD, 0).expect("F_SETFD");
        assert_eq!(sys::exec("/nonexistent"), libc::ENOENT);
    });
    OptionFound, Far::Refused, BOTH, LATER, |a| before_moving(a, |pair| {
        let on = 1i32.to_ne_bytes();
        unseen_setsockopt(pair.near.fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, &on).expect("SO_ZEROCOPY");
    });
    CallUnsupported, Far::Returned, BOTH, &[], |a| after_moving(a, |pair| {
        sys::ignore_signal(libc::SIGIO);
        let flags = sys::fcntl(pair.near.fd, libc::F_GETFL, 0).expect("F_GETFL");
        sys::fcntl(pair.near.fd, libc::F_SETFL, flags | libc::O_ASYNC).expect("F_SETFL");
    });
    NoData, Far::Whatever, CONNECTING, &[], |a| {
        let mut pair = Pair::fresh(a);
        // In its call the far end greets.
        pair.near.send(1);
        pair.far.must(Order::Recv(1));
        for _ in 0..64 {
            assert_eq!(sys::recv(pair.near.fd, &mut [0], libc::MSG_DONTWAIT), Err(libc::EAGAIN));
        }
        pair
    };
    Overflow, Far::Says(Detail::Overflow), BOTH, &[], |a| {
        let mut pair = Pair::warm(a);
        let sent = pair.fill();
        let received = pair.far.must(Order::Fill);
        assert!(sent > 0 && received > 0);
        pair.far.must(Order::Recv(sent));
        pair.near.recv(received);
        pair
    };
    PeerShutDown, Far::Whatever, BOTH, &[], |a| {
        let mut pair = Pair::fresh(a);
        // In one direction only: the other one is to stay on TCP.
        for _ in 0..200 {
            pair.near.send(100);
            pair.far.must(Order::Recv(100));
        }
        pair.far.must(Order::Shutdown(libc::SHUT_WR));
        for _ in 0..20 {
            pair.near.send(100);
            pair.far.must(Order::Recv(100));
        }
        pair
    };
    ShutDown, Far::Says(Detail::PeerShutDown), BOTH, LATER, |a| {
        let mut pair = Pair::fresh(a);
        pair.exchange_pieces(10, 1);
        sys::shutdown(pair.near.fd, libc::SHUT_WR).expect("shutdown");
        for _ in 0..40 {
            pair.far.must(Order::Send(100));
            pair.near.recv(100);
        }
        pair
    };
    NoKernelSmc, Far::Refused, BOTH, &[("SMC_BACKEND", "kernel")], |a| {
        if unseen_socket(AF_SMC).is_ok() {
            not_here("this kernel has AF_SMC");
        }
        busy(far_without("SMC_BACKEND", a))
    };
    RuleNeedsAddress, Far::Refused, CONNECTING, &[("SMC_BACKEND", "kernel"), ("SMC_POLICY", "exclude peer=:1")], |a| {
        std::env::remove_var("SMC_POLICY");
        busy(far_without("SMC_BACKEND", a))
    };
    BornOnTcp, Far::Refused, ACCEPTING, &[("SMC_BACKEND", "kernel")], |_| {
        std::env::remove_var("SMC_BACKEND");
        let listener = unseen_socket(libc::AF_INET).expect("socket");
        sys::bind(listener, &Family::V4.target(0)).expect("bind");
        sys::listen(listener, 1).expect("listen");
        let port = sys::getsockname(listener).expect("getsockname").port();
        busy(Pair::accepted(listener, Family::V4, port))
    };
    NoRendezvous, Far::Whatever, BOTH, &[], |a| busy(far_without("LD_PRELOAD", a));
    NoRdmaDevice, Far::Whatever, BOTH, LATER, |a| {
        if has_rdma_device() {
            not_here("this host has an RDMA device");
        }
        busy_elsewhere(Pair::fresh(a))
    };
    NoTcpOption, Far::Whatever, BOTH, LATER, |a| {
        show_rdma_device();
        let pair = Pair::fresh(a);
        if smc_core::capability::wanted(pair.near.fd).is_ok() {
            not_here("this host has the TCP option");
        }
        busy_elsewhere(pair)
    };
    // As with both: no SMC-R over IPv6.
    PeerRemote, Far::Whatever, BOTH, LATER, |a| busy_elsewhere(Pair::over(a, Family::V6));
    Memory, Far::Refused, CONNECTING, LATER, |a| before_moving(a, |_| limit(libc::RLIMIT_FSIZE, 256 << 10));
    FdLimit, Far::Whatever, BOTH, LATER, |a| before_moving(a, |_| limit(libc::RLIMIT_NOFILE, 30));
    ConnLimit, Far::Refused, BOTH, &[("SMC_UPGRADE_AFTER", "0"), ("SMC_MAX_CONNS", "1")], |a| {
        // Each with a process of its own at its far end, which it is the first one of.
        std::mem::forget(busy(Pair::fresh(a)));
        busy(Pair::fresh(a))
    };
    ZeroCopy, Far::Refused, BOTH, LATER, |a| before_moving(a, |pair| {
        sys::setsockopt(pair.near.fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1i32).expect("SO_ZEROCOPY");
    });
    UrgentData, Far::Returned, BOTH, &[], |a| after_moving(a, |pair| {
        // Not in the stream, as long as nobody asks for it.
        assert_eq!(sys::send(pair.near.fd, b"!", libc::MSG_OOB), Ok(1));
    });
    FastOpen, Far::Refused, CONNECTING, LATER, |_| {
        let (listener, port) = Family::V4.listener(0).expect("listen");
        let fd = Family::V4.client_socket(0).expect("socket");
        sys::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1i32).expect("TCP_FASTOPEN_CONNECT");
        sys::connect(fd, &Family::V4.target(port)).expect("connect");
        let mut near = End::near(fd);
        // The SYN may go with it.
        near.send(10);
        let mut far = End::far(sys::accept4(listener, libc::SOCK_CLOEXEC).expect("accept"));
        far.recv(10);
        let far = smc_tests::pair::Far::Local(Arc::new(Mutex::new(far)));
        busy(Pair { near, far, arrangement: Arrangement::SameProcess })
    };
    PeekOffset, Far::Refused, BOTH, LATER, |a| before_moving(a, |pair| {
        const SO_PEEK_OFF: i32 = 42;
        if sys::setsockopt(pair.near.fd, libc::SOL_SOCKET, SO_PEEK_OFF, 0i32).is_err() {
            not_here("this kernel has no SO_PEEK_OFF for TCP");
        }
    });
    Ulp, Far::Refused, BOTH, LATER, |a| before_moving(a, |pair| {
        const TCP_ULP: i32 = 31;
        if sys::setsockopt(pair.near.fd, libc::IPPROTO_TCP, TCP_ULP, *b"tls\0").is_err() {
            not_here("this kernel has no kernel TLS");
        }
    });
    Signature, Far::Refused, BOTH, LATER, |a| before_moving(a, |pair| {
        // struct tcp_md5sig: a key of one byte for an address that is not the peer's.
        let mut key = [0u8; 216];
        key[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        key[4..8].copy_from_slice(&[10, 9, 8, 7]);
        key[130..132].copy_from_slice(&1u16.to_ne_bytes());
        if sys::setsockopt(pair.near.fd, libc::IPPROTO_TCP, libc::TCP_MD5SIG, key).is_err() {
            not_here("this kernel signs no segments");
        }
    });
    Repair, Far::Refused, BOTH, LATER, |a| before_moving(a, |pair| {
        if sys::setsockopt(pair.near.fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, 1i32).is_err() {
            not_here("TCP_REPAIR is for root");
        }
        sys::setsockopt(pair.near.fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, 0i32).expect("TCP_REPAIR");
    });
    RendezvousTimeout, Far::Whatever, ACCEPTING, &[], |a| {
        let mut pair = Pair::fresh(a);
        // The far end listens since its connect, which is over when it answers this, and makes no call on the connection.
        pair.far.must(Order::LimitBuffer);
        for _ in 0..40_000 {
            assert_eq!(sys::recv(pair.near.fd, &mut [0], libc::MSG_DONTWAIT), Err(libc::EAGAIN));
        }
        pair.exchange_pieces(10, 20);
        pair
    };
}

/// Exchanges after which both ends have taken every step that they want to.
const ENOUGH: usize = 400;

fn busy(mut pair: Pair) -> Pair {
    pair.exchange_pieces(10, ENOUGH);
    pair
}

/// On a connection that has moved; data flows before and behind it.
fn after_moving(arrangement: Arrangement, act: fn(&mut Pair)) -> Pair {
    let mut pair = busy(Pair::fresh(arrangement));
    act(&mut pair);
    busy(pair)
}

/// On a connection that may move later.
fn before_moving(arrangement: Arrangement, act: fn(&mut Pair)) -> Pair {
    let mut pair = Pair::fresh(arrangement);
    pair.exchange_pieces(10, 1);
    act(&mut pair);
    busy(pair)
}

/// Gets busy in a network namespace where the peer is not; the connection stays where it was made.
fn busy_elsewhere(mut pair: Pair) -> Pair {
    pair.exchange_pieces(10, 1);
    let home = std::fs::File::open("/proc/self/ns/net").expect("the network namespace");
    // SAFETY: plain flags.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        not_here("no network namespaces of one's own");
    }
    let pair = busy(pair);
    // SAFETY: plain flags. smcss finds it at home.
    assert_eq!(unsafe { libc::setns(home.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
    pair
}

fn has_rdma_device() -> bool {
    std::fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some())
}

/// This process sees a device that there is not.
fn show_rdma_device() {
    let (class, tmpfs) = (c"/sys/class".as_ptr(), c"tmpfs".as_ptr());
    let (root, private) = (c"/".as_ptr(), libc::MS_REC | libc::MS_PRIVATE);
    // SAFETY: names that end with a NUL, and no data.
    let mounted = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(tmpfs, root, core::ptr::null(), private, core::ptr::null()) == 0
            && libc::mount(tmpfs, class, tmpfs, 0, core::ptr::null()) == 0
    };
    if !mounted || std::fs::create_dir_all("/sys/class/infiniband/none0").is_err() {
        not_here("no mounts of one's own");
    }
}

/// A pair whose far end is started without a variable that this end has read.
fn far_without(variable: &str, arrangement: Arrangement) -> Pair {
    std::env::remove_var(variable);
    Pair::fresh(arrangement)
}

fn unseen_byte(arrangement: Arrangement) -> Pair {
    before_moving(arrangement, |pair| {
        let byte = pair.near.take(1);
        let args = [pair.near.fd as usize, byte.as_ptr() as usize, 1, 0, 0, 0];
        // SAFETY: write(2) of one byte.
        assert_eq!(unsafe { smc_core::sys::raw::call(libc::SYS_write, args) }, Ok(1));
        pair.far.must(Order::Recv(1));
    })
}

fn unseen_setsockopt(fd: i32, level: i32, name: i32, value: &[u8]) -> Result<(), i32> {
    let args = [fd as usize, level as usize, name as usize, value.as_ptr() as usize, value.len(), 0];
    // SAFETY: the value is as long as the call is told.
    unsafe { smc_core::sys::raw::call(libc::SYS_setsockopt, args) }.map(drop).map_err(|e| e.0)
}

/// include/linux/socket.h
const AF_SMC: i32 = 43;

fn unseen_socket(domain: i32) -> Result<i32, i32> {
    let kind = (libc::SOCK_STREAM | libc::SOCK_CLOEXEC) as usize;
    // SAFETY: integer arguments only.
    unsafe { smc_core::sys::raw::call(libc::SYS_socket, [domain as usize, kind, 0, 0, 0, 0]) }
        .map(|fd| fd as i32)
        .map_err(|e| e.0)
}

fn limit(resource: u32, soft: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: libc::RLIM_INFINITY };
    let mut now = limit;
    // SAFETY: reads into `now` and sets from it.
    unsafe {
        assert_eq!(libc::getrlimit(resource as _, &mut now), 0);
        now.rlim_cur = soft.min(now.rlim_max);
        assert_eq!(libc::setrlimit(resource as _, &now), 0);
    }
}

/// Instructions of classic BPF: include/uapi/linux/{filter,seccomp}.h.
const ALLOW: libc::sock_filter = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 };

/// Installs a filter of system calls by way of `prctl`.
fn filter(instructions: &[libc::sock_filter], prctl: impl Fn(i32, usize, usize) -> i32) {
    let program =
        libc::sock_fprog { len: instructions.len() as u16, filter: instructions.as_ptr().cast_mut() };
    assert_eq!(prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0), 0, "PR_SET_NO_NEW_PRIVS");
    let address = &program as *const libc::sock_fprog as usize;
    assert_eq!(prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER as usize, address), 0, "PR_SET_SECCOMP");
}

/// Has the program run without sock_diag.
pub fn forbid_netlink(command: &mut Command) {
    let load = |k| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k };
    let unless = |k, jf| libc::sock_filter { code: 0x15, jt: 0, jf, k };
    let refuse = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x0005_0000 | libc::EAFNOSUPPORT as u32 };
    // struct seccomp_data: the number of the call at 0, its first argument (low half) at 16.
    let low = if cfg!(target_endian = "big") { 20 } else { 16 };
    let instructions = [
        load(0),
        unless(libc::SYS_socket as u32, 3),
        load(low),
        unless(libc::AF_NETLINK as u32, 1),
        refuse,
        ALLOW,
    ];
    // SAFETY: between fork and exec, only system calls are made.
    unsafe {
        command.pre_exec(move || {
            filter(&instructions, |command, arg, filter| libc::prctl(command, arg, filter, 0, 0));
            Ok(())
        })
    };
}

fn not_here(why: &str) -> ! {
    println!("not-here {why}");
    std::process::exit(NOT_HERE)
}

impl Case {
    pub fn name(&self) -> String {
        format!("{:?}", self.near)
    }

    /// Whether it is for good.
    pub fn near_lasts(&self) -> bool {
        use Detail::*;
        !matches!(self.near, NotBusyYet | NoData | Overflow | PeerShutDown | SharedProcess | NoRendezvous)
            && self.near.reason() != Reason::None
    }
}

/// The near end of a case.
pub fn near(name: &str, role: &str) -> ExitCode {
    sys::die_with_parent();
    if name == "echo" {
        return crate::crooked::echo();
    }
    let arrangement = FAR.into_iter().find(|a| a.name() == role).expect("a role");
    let runs = |c: &&Case| c.name() == name && c.arrangements.iter().any(|a| a.name() == role);
    let case = CASES.iter().find(runs).expect("a case");
    let pair = (case.act)(arrangement);
    let address = |result: Result<sys::Address, i32>| {
        let name = result.expect("a name");
        format!("{}:{}", if name.is_ipv4() { "127.0.0.1" } else { "[::1]" }, name.port())
    };
    println!("{} {}", address(sys::getsockname(pair.near.fd)), address(sys::getpeername(pair.near.fd)));
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    pair.close();
    ExitCode::SUCCESS
}
