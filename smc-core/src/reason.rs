//! Why a connection is not on SMC.
//!
//! A reason has two layers. [`Reason`] is the number that kernel SMC and its tools use (`SMC_CLC_DECL_*`: the
//! diagnosis of a CLC DECLINE, and the fallback reason shown by `smcss`). [`Detail`] says which of several causes
//! behind one number it was; it never leaves the host. [`Why`] is both, small enough for one atomic word.
//!
//! The two tables below are the only place where a reason is declared. Everything else (numbers, names, sentences,
//! advice, the lists that tools and tests walk) is generated from them.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $sentence:literal, $advice:literal;)*) => {
        /// A fallback reason, numbered as the kernel numbers it.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* #[doc = $sentence] $variant = $code,)*
        }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),*];

            /// The reason with the number `code`; `None` for numbers this version does not know (vendor kernels
            /// use some), which are only for display.
            pub const fn from_code(code: u32) -> Option<Reason> {
                match code {
                    $($code => Some(Reason::$variant),)*
                    _ => None,
                }
            }

            /// The kernel's name of the number, or `NONE` for 0.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// One sentence for the user, without full stop.
            pub const fn sentence(self) -> &'static str {
                match self { $(Reason::$variant => $sentence,)* }
            }

            /// What the user can do about it, without full stop; empty where there is nothing to do.
            pub const fn advice(self) -> &'static str {
                match self { $(Reason::$variant => $advice,)* }
            }
        }
    };
}

reasons! {
    None = 0, "NONE",
        "no reason recorded", "";
    Mem = 0x0101_0000, "SMC_CLC_DECL_MEM",
        "no memory, or no room for one more SMC connection",
        "raise the memory or descriptor limits, or make the buffers smaller (SMC_RCVBUF, SMC_SNDBUF)";
    TimeoutCl = 0x0201_0000, "SMC_CLC_DECL_TIMEOUT_CL",
        "the peer did not confirm the link in time",
        "check that both ends can reach each other over the RDMA device";
    TimeoutAl = 0x0202_0000, "SMC_CLC_DECL_TIMEOUT_AL",
        "adding a link took too long", "";
    Cnferr = 0x0300_0000, "SMC_CLC_DECL_CNFERR",
        "configuration error", "check the addresses and prefixes of the network interface";
    PeerNoSmc = 0x0301_0000, "SMC_CLC_DECL_PEERNOSMC",
        "the peer did not indicate SMC", "run the peer with smc as well";
    Active = 0x0301_0001, "SMC_CLC_DECL_ACTIVE",
        "this end chose TCP", "smcss -d and reason_text say why";
    Ipsec = 0x0302_0000, "SMC_CLC_DECL_IPSEC",
        "an IPsec policy applies to the socket", "";
    NoSmcDev = 0x0303_0000, "SMC_CLC_DECL_NOSMCDEV",
        "no usable SMC device", "check that the host has an RDMA device and that its port is up";
    NoSmcdDev = 0x0303_0001, "SMC_CLC_DECL_NOSMCDDEV",
        "no SMC-D device", "";
    NoSmcrDev = 0x0303_0002, "SMC_CLC_DECL_NOSMCRDEV",
        "no SMC-R device, or its address is not routable IPv4",
        "check that the RDMA device's port is up and has an IPv4 address";
    NoIsm2Supp = 0x0303_0003, "SMC_CLC_DECL_NOISM2SUPP",
        "no ISMv2 hardware", "";
    NoV2Ext = 0x0303_0004, "SMC_CLC_DECL_NOV2EXT",
        "the peer's proposal lacks the SMC version 2 part", "enable SMC version 2 on the peer";
    NoV2DExt = 0x0303_0005, "SMC_CLC_DECL_NOV2DEXT",
        "the peer's proposal lacks the SMC-D version 2 part", "";
    NoSeid = 0x0303_0006, "SMC_CLC_DECL_NOSEID",
        "no system enterprise id", "";
    NoSmcd2Dev = 0x0303_0007, "SMC_CLC_DECL_NOSMCD2DEV",
        "no matching SMC-D version 2 device", "";
    NoUeid = 0x0303_0008, "SMC_CLC_DECL_NOUEID",
        "the proposal names no enterprise id", "define the same user enterprise id on both hosts";
    ReleaseErr = 0x0303_0009, "SMC_CLC_DECL_RELEASEERR",
        "the peer changed the negotiated release", "";
    MaxConnErr = 0x0303_000A, "SMC_CLC_DECL_MAXCONNERR",
        "the peer's limit on connections per link group is not acceptable", "";
    MaxLinkErr = 0x0303_000B, "SMC_CLC_DECL_MAXLINKERR",
        "the peer's limit on links per link group is not acceptable", "";
    ModeUnsupp = 0x0304_0000, "SMC_CLC_DECL_MODEUNSUPP",
        "the peer chose an SMC variant that was not proposed", "";
    RmbeEc = 0x0305_0000, "SMC_CLC_DECL_RMBE_EC",
        "the peer wants an eye catcher in its buffers", "";
    OptUnsupp = 0x0306_0000, "SMC_CLC_DECL_OPTUNSUPP",
        "the program uses a socket option or call that only TCP serves", "turn it off in the program, if it can do without";
    DiffPrefix = 0x0307_0000, "SMC_CLC_DECL_DIFFPREFIX",
        "the hosts have no IP subnet in common", "use SMC version 2 on both hosts";
    GetVlanErr = 0x0308_0000, "SMC_CLC_DECL_GETVLANERR",
        "the VLAN of the route could not be found", "";
    IsmVlanErr = 0x0309_0000, "SMC_CLC_DECL_ISMVLANERR",
        "the VLAN could not be registered at the ISM device", "";
    NoActLink = 0x030A_0000, "SMC_CLC_DECL_NOACTLINK",
        "the link group has no active link", "";
    NoSrvLink = 0x030B_0000, "SMC_CLC_DECL_NOSRVLINK",
        "the server named a link that is not known here", "";
    VersMismat = 0x030C_0000, "SMC_CLC_DECL_VERSMISMAT",
        "the two ends speak different versions", "run the same version on both ends";
    MaxDmb = 0x030D_0000, "SMC_CLC_DECL_MAX_DMB",
        "the SMC-D device has no buffer left", "";
    NoRoute = 0x030E_0000, "SMC_CLC_DECL_NOROUTE",
        "no route to the peer's RDMA address", "check the routing between the two RDMA networks";
    NoIndirect = 0x030F_0000, "SMC_CLC_DECL_NOINDIRECT",
        "the two ends disagree whether a router lies between them", "";
    SyncErr = 0x0400_0000, "SMC_CLC_DECL_SYNCERR",
        "the two ends disagree about a link group; the next connection makes a new one", "";
    PeerDecl = 0x0500_0000, "SMC_CLC_DECL_PEERDECL",
        "the peer declined; its own code stands beside this one", "look up the peer's code";
    Interr = 0x0999_0000, "SMC_CLC_DECL_INTERR",
        "internal error", "set SMC_LOG and report what it says";
    ErrRtok = 0x0999_0001, "SMC_CLC_DECL_ERR_RTOK",
        "no slot left for the peer's memory keys", "";
    ErrRdyLnk = 0x0999_0002, "SMC_CLC_DECL_ERR_RDYLNK",
        "the queue pair could not be brought up", "check the RDMA connection between the hosts; with iWARP, that one of SMC_RDMA_PORTS is free at the server and let through";
    ErrRegBuf = 0x0999_0003, "SMC_CLC_DECL_ERR_REGBUF",
        "a buffer could not be registered at the device", "raise the locked-memory limit (ulimit -l)";
}

impl Reason {
    /// The number of the reason.
    #[inline]
    pub const fn code(self) -> u32 {
        self as u32
    }
}

macro_rules! details {
    ($($variant:ident = $code:literal, $reason:ident, $sentence:literal, $advice:literal;)*) => {
        /// Which cause behind a [`Reason`] it was. Numbers are local to this software and never reused.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum Detail {
            /// Nothing more than the reason itself says.
            Unspecified = 0,
            $(#[doc = $sentence] $variant = $code,)*
        }

        impl Detail {
            /// Every detail except [`Detail::Unspecified`], in the order of the table.
            pub const ALL: &'static [Detail] = &[$(Detail::$variant),*];

            /// The detail with the number `code`.
            pub const fn from_code(code: u16) -> Option<Detail> {
                match code {
                    0 => Some(Detail::Unspecified),
                    $($code => Some(Detail::$variant),)*
                    _ => None,
                }
            }

            /// The reason this detail belongs to; [`Reason::None`] for [`Detail::Unspecified`].
            pub const fn reason(self) -> Reason {
                match self {
                    Detail::Unspecified => Reason::None,
                    $(Detail::$variant => Reason::$reason,)*
                }
            }

            /// One sentence for the user, without full stop; empty for [`Detail::Unspecified`].
            pub const fn sentence(self) -> &'static str {
                match self {
                    Detail::Unspecified => "",
                    $(Detail::$variant => $sentence,)*
                }
            }

            /// What the user can do about it, without full stop; empty for [`Detail::Unspecified`].
            pub const fn advice(self) -> &'static str {
                match self {
                    Detail::Unspecified => "",
                    $(Detail::$variant => $advice,)*
                }
            }
        }
    };
}

details! {
    // Choices made on this side. 2, 7, 17, 18 and 20 were used once, as were 42 and 62.
    NotBusyYet = 1, Active,
        "not moved yet: fewer bytes than SMC_UPGRADE_AFTER",
        "nothing: the connection has not been busy; --upgrade-after=0 moves every connection at once";
    Excluded = 3, Active,
        "excluded by a rule of SMC_POLICY or of the configuration file",
        "ask smcctl explain which rule it is";
    Stdio = 4, Active,
        "the program reads or writes the socket through a stdio stream (fdopen)",
        "nothing: such bytes cannot be seen";
    StdFd = 5, Active,
        "the socket is descriptor 0, 1 or 2",
        "nothing: such bytes may go through stdio, where they cannot be seen";
    FdPassed = 6, Active,
        "the descriptor was passed to another process over a Unix socket",
        "nothing: the other process may not run under smc";
    IoUring = 8, Active,
        "the program uses io_uring, whose transfers cannot be seen",
        "turn io_uring off in the program, if it can do without";
    Ktls = 9, Active,
        "kernel TLS was found on the socket",
        "turn off kernel TLS in the program; TLS in the program works";
    Seccomp = 10, Active,
        "the program filters its system calls (seccomp), and may forbid those that are needed",
        "turn off the filter in the program, if it can do without";
    SharedProcess = 11, Active,
        "several processes hold the connection",
        "nothing: it moves when one of them is left, if it has not been moved before the fork";
    BehindShim = 12, Active,
        "bytes went over the connection that this library did not see",
        "nothing: the program makes system calls itself, and cannot use smc";
    PeerUidUnverified = 13, Active,
        "it could not be verified which user owns the other end",
        "allow sock_diag (AF_NETLINK) and put both ends into one user namespace";
    Executed = 14, Active,
        "the process executed another program, which may run without smc",
        "nothing, or let the program set FD_CLOEXEC on its sockets";
    OptionFound = 15, Active,
        "an option that SMC cannot serve was found on the descriptor",
        "turn the option off in the program that set it";
    CallUnsupported = 16, Active,
        "the program made a call on the socket that only TCP can serve",
        "nothing: the call works, on TCP";
    NoData = 19, Active,
        "not moved yet: nothing was sent since both ends agreed to move",
        "nothing: it moves with the next bytes";
    SettingsBroken = 30, Active,
        "the configuration file or SMC_POLICY cannot be used",
        "mend what smcctl check names";
    Overflow = 31, Active,
        "a ring was full and stood still, so that the stream went on over TCP",
        "nothing: it moves again; larger rings (SMC_RCVBUF, SMC_SNDBUF) help a reader that pauses";
    PeerShutDown = 32, Active,
        "the peer has shut down its sending side, and what is left to send goes over TCP",
        "nothing: the connection is about to end";
    ShutDown = 33, Active,
        "this end shut down its sending side before the connection was moved",
        "nothing: the connection is about to end";
    BornOnTcp = 36, Active,
        "SMC_BACKEND is kernel, and the socket comes from elsewhere, as a TCP socket",
        "start the program that made the socket with smc_run --backend=kernel too";
    RuleNeedsAddress = 37, Active,
        "SMC_BACKEND is kernel, and a rule asks for addresses, which are not known when the socket is made",
        "use rules about program= and uid= alone with SMC_BACKEND=kernel";
    // Nothing to do it with.
    NoKernelSmc = 48, NoSmcDev,
        "SMC_BACKEND is kernel, and the kernel has no AF_SMC, or does not give it to this program",
        "load the kernel's module smc, or do without SMC_BACKEND";
    NoRdmaDevice = 49, NoSmcDev,
        "the peer is on another host, or in another network namespace, and this host has no RDMA device",
        "for another host: an RDMA device on both hosts (docs/smc-r.md)";
    // Nobody to talk to.
    NoRendezvous = 40, PeerNoSmc,
        "the peer has not come to the rendezvous: it made too few calls for that, or runs without smc, or under SMC_DISABLE, or in another network namespace",
        "nothing, if the connection soon ended; else start both programs with smc_run, in one network namespace";
    PeerRemote = 41, PeerNoSmc,
        "the peer is on another host, or in another network namespace",
        "for another host: this software on it too, with libsmc_rdma.so, or its kernel's AF_SMC; IPv4 only (docs/smc-r.md)";
    NoTcpOption = 43, PeerNoSmc,
        "the peer is on another host, or in another network namespace, and the TCP option of SMC is not there to ask with",
        "for another host: smcctl tcp-option on, as root, on both hosts (docs/tcp-option.md)";
    // Limits.
    Memory = 60, Mem,
        "out of memory for the shared buffers",
        "raise the limits on memory and file size, or lower SMC_RCVBUF and SMC_SNDBUF";
    FdLimit = 61, Mem,
        "out of descriptors",
        "raise the limit on open files (ulimit -n)";
    ConnLimit = 63, Mem,
        "the process has moved as many connections as SMC_MAX_CONNS allows",
        "raise SMC_MAX_CONNS, if more of them are to move";
    // Options and calls.
    ZeroCopy = 80, OptUnsupp,
        "the program set SO_ZEROCOPY",
        "turn zero-copy sends off in the program";
    UrgentData = 81, OptUnsupp,
        "the program sends or receives urgent data",
        "nothing: urgent data works, on TCP";
    FastOpen = 82, OptUnsupp,
        "the program uses TCP fast open",
        "turn off TCP fast open in the program";
    PeekOffset = 83, OptUnsupp,
        "the program set SO_PEEK_OFF",
        "nothing: the option works, on TCP";
    Ulp = 84, OptUnsupp,
        "the program attached an upper-layer protocol (TCP_ULP, kernel TLS)",
        "turn off kernel TLS in the program; TLS in the program works";
    Signature = 85, OptUnsupp,
        "the program set TCP MD5 or TCP-AO keys",
        "nothing: signatures work, on TCP";
    Repair = 86, OptUnsupp,
        "the program put the socket into repair mode",
        "nothing: it is being moved or examined";
    IpsecPolicy = 87, Ipsec,
        "the program set an IPsec policy for the socket",
        "nothing: the policy works, on TCP";
    // The peer.
    PeerReturned = 100, PeerDecl,
        "the peer brought the stream back to TCP",
        "look up the peer's code, and its text at that end";
    PeerRefused = 101, PeerDecl,
        "the peer stays on TCP",
        "look up the peer's code, and its text at that end";
    RendezvousTimeout = 110, TimeoutCl,
        "the peer began to move the connection and did not finish in time",
        "nothing, if rare; else see whether the peer is stopped or starved";
    RendezvousVersion = 111, VersMismat,
        "the peer runs an incompatible version of this software",
        "install the same version for both";
    RendezvousGarbled = 112, SyncErr,
        "the peer broke the rules of the rendezvous",
        "report it, unless the peer is hostile";
    FarLost = 114, SyncErr,
        "the SMC-R handshake broke off, and with it the connection",
        "look at the log of both ends (SMC_LOG; dmesg, where the peer is a kernel)";
    RingGarbled = 113, SyncErr,
        "the peer wrote impossible values into shared memory",
        "report it, unless the peer is hostile";
    Panicked = 120, Interr,
        "this library failed internally; what has not moved stays on TCP",
        "set SMC_LOG and report what it says";
}

impl Detail {
    /// Whether the peer is told of it at the rendezvous: choices of this end that last, as far as this end can still make
    /// the system calls that takes.
    pub const fn is_told(self) -> bool {
        use Detail::*;
        match self {
            NotBusyYet | NoData | Overflow | PeerShutDown | ShutDown => false,
            Seccomp | SharedProcess | PeerUidUnverified => false,
            NoKernelSmc => true,
            _ => matches!(self.reason(), Reason::Active | Reason::OptUnsupp | Reason::Mem | Reason::Ipsec),
        }
    }
}

/// A reason with its detail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Why {
    pub reason: Reason,
    pub detail: Detail,
}

impl Why {
    /// No reason: the connection is on SMC.
    pub const NONE: Why = Why { reason: Reason::None, detail: Detail::Unspecified };

    /// `detail` under the reason it belongs to.
    #[inline]
    pub const fn new(detail: Detail) -> Why {
        Why { reason: detail.reason(), detail }
    }

    /// Reason in bits 63..32, detail in bits 15..0; bits 31..16 are zero.
    #[inline]
    pub const fn pack(self) -> u64 {
        (self.reason as u64) << 32 | self.detail as u64
    }

    /// The inverse of [`Why::pack`]; bits 31..16 are ignored. `None` for numbers this version does not know.
    pub const fn unpack(word: u64) -> Option<Why> {
        match (Reason::from_code((word >> 32) as u32), Detail::from_code(word as u16)) {
            (Some(reason), Some(detail)) => Some(Why { reason, detail }),
            _ => None,
        }
    }

    /// The most precise sentence there is.
    pub const fn sentence(self) -> &'static str {
        match self.detail {
            Detail::Unspecified => self.reason.sentence(),
            detail => detail.sentence(),
        }
    }

    /// What the user can do about it; may be empty.
    pub const fn advice(self) -> &'static str {
        match self.detail {
            Detail::Unspecified => self.reason.advice(),
            detail => detail.advice(),
        }
    }
}

impl From<Detail> for Why {
    fn from(detail: Detail) -> Why {
        Why::new(detail)
    }
}

impl From<Reason> for Why {
    fn from(reason: Reason) -> Why {
        Why { reason, detail: Detail::Unspecified }
    }
}

impl core::fmt::Display for Why {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "0x{:08x} {}", self.reason.code(), self.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_names_are_unique_and_convert_back() {
        let names: HashSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for &r in Reason::ALL {
            assert_eq!(Reason::from_code(r.code()), Some(r));
        }
        for &d in Detail::ALL {
            assert_eq!(Detail::from_code(d as u16), Some(d));
        }
        assert_eq!(Reason::from_code(0x0301_0002), None);
        assert_eq!(Detail::from_code(u16::MAX), None);
    }

    #[test]
    fn every_reason_but_none_has_a_kernel_name_and_a_sentence() {
        for r in Reason::ALL.iter().filter(|r| **r != Reason::None) {
            assert!(r.name().starts_with("SMC_CLC_DECL_"), "{r:?}");
            assert!(!r.sentence().is_empty() && !r.sentence().ends_with('.'), "{r:?}");
        }
    }

    #[test]
    fn every_detail_has_a_reason_a_sentence_of_its_own_and_advice() {
        let sentences: HashSet<_> = Detail::ALL.iter().map(|d| d.sentence()).collect();
        assert_eq!(sentences.len(), Detail::ALL.len());
        for d in Detail::ALL {
            assert_ne!(d.reason(), Reason::None, "{d:?}");
            assert!(!d.sentence().is_empty() && !d.sentence().ends_with('.'), "{d:?}");
            assert!(!d.advice().is_empty() && !d.advice().ends_with('.'), "{d:?}");
        }
    }

    #[test]
    fn a_packed_why_unpacks_to_itself_and_unknown_numbers_do_not_unpack() {
        for &d in Detail::ALL {
            let why = Why::new(d);
            assert_eq!(Why::unpack(why.pack()), Some(why));
            assert_eq!(Why::unpack(why.pack() | 0xffff_0000), Some(why));
        }
        assert_eq!(Why::unpack(0), Some(Why::NONE));
        assert_eq!(Why::unpack(0x0301_0002_0000_0000), None);
        assert_eq!(Why::unpack(Why::from(Reason::Active).pack() | 0x7fff), None);
    }

    #[test]
    fn the_sentence_is_the_details_where_there_is_one() {
        assert_eq!(Why::from(Reason::Active).sentence(), Reason::Active.sentence());
        assert_eq!(Why::new(Detail::IoUring).sentence(), Detail::IoUring.sentence());
        assert_eq!(
            Why::new(Detail::IoUring).to_string(),
            format!("0x03010001 {}", Detail::IoUring.sentence())
        );
    }
}
