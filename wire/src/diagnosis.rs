//! Diagnosis codes: why a connection stays on TCP, as a DECLINE says it (RFC 7609 A.2 and Linux).

use core::fmt;

/// A diagnosis code. Any number may come from a peer; those that Linux defines have names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Diagnosis(pub u32);

macro_rules! diagnoses {
    ($($name:ident = $code:literal, $sentence:literal;)*) => {
        impl Diagnosis {
            $(#[doc = $sentence] pub const $name: Diagnosis = Diagnosis($code);)*

            /// Every code that has a name, in the order of their numbers.
            pub const ALL: &'static [Diagnosis] = &[$(Diagnosis::$name),*];

            /// The kernel's name, `SMC_CLC_DECL_...`; `None` for a number Linux does not use.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(concat!("SMC_CLC_DECL_", stringify!($name))),)*
                    _ => None,
                }
            }
        }
    };
}

diagnoses! {
    MEM = 0x0101_0000, "No memory.";
    TIMEOUT_CL = 0x0201_0000, "CONFIRM LINK did not come in time.";
    TIMEOUT_AL = 0x0202_0000, "ADD LINK did not come in time.";
    CNFERR = 0x0300_0000, "Configuration error.";
    PEERNOSMC = 0x0301_0000, "The peer has no SMC, or its proposal offers nothing usable.";
    ACTIVE = 0x0301_0001, "This side chose TCP. Used by vendor kernels, and by this software.";
    IPSEC = 0x0302_0000, "An IPsec policy applies.";
    NOSMCDEV = 0x0303_0000, "No usable device; also: no enterprise id in common.";
    NOSMCDDEV = 0x0303_0001, "No SMC-D device.";
    NOSMCRDEV = 0x0303_0002, "No SMC-R device; also: the client's GID holds no IPv4 address, or none with a route to it.";
    NOISM2SUPP = 0x0303_0003, "No ISMv2 hardware.";
    NOV2EXT = 0x0303_0004, "The v2 extension is missing.";
    NOV2DEXT = 0x0303_0005, "The SMC-Dv2 extension is missing.";
    NOSEID = 0x0303_0006, "No system enterprise id.";
    NOSMCD2DEV = 0x0303_0007, "No matching SMC-Dv2 device.";
    NOUEID = 0x0303_0008, "The proposal has no enterprise id.";
    RELEASEERR = 0x0303_0009, "CONFIRM has another release than ACCEPT.";
    MAXCONNERR = 0x0303_000A, "Connections per link group: below 16, or not as negotiated.";
    MAXLINKERR = 0x0303_000B, "Links per link group: none, too many, or not as negotiated.";
    MODEUNSUPP = 0x0304_0000, "ACCEPT chose what was not proposed.";
    RMBE_EC = 0x0305_0000, "The peer wants eye catchers in its RMBEs.";
    OPTUNSUPP = 0x0306_0000, "The program uses a socket option that SMC cannot serve. Never on the wire.";
    DIFFPREFIX = 0x0307_0000, "No IP subnet in common (v1).";
    GETVLANERR = 0x0308_0000, "The VLAN of the route was not found.";
    ISMVLANERR = 0x0309_0000, "The VLAN could not be registered at the ISM device.";
    NOACTLINK = 0x030A_0000, "The link group has no active link.";
    NOSRVLINK = 0x030B_0000, "The client has no link with the queue pair and GID of the ACCEPT.";
    VERSMISMAT = 0x030C_0000, "The versions do not match.";
    MAX_DMB = 0x030D_0000, "The SMC-D device has no buffer left.";
    NOROUTE = 0x030E_0000, "No route to the server's GID.";
    NOINDIRECT = 0x030F_0000, "The server says there is a gateway, and there is none.";
    SYNCERR = 0x0400_0000, "The server named a link group that the client does not have.";
    PEERDECL = 0x0500_0000, "The peer declined. Local only; the peer's own code stands beside it.";
    INTERR = 0x0999_0000, "Internal error.";
    ERR_RTOK = 0x0999_0001, "No slot left for the peer's rkey.";
    ERR_RDYLNK = 0x0999_0002, "The queue pair could not be brought up.";
    ERR_REGBUF = 0x0999_0003, "A buffer could not be registered, or its rkey was not confirmed.";
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08x}", self.0)?;
        self.name().map_or(Ok(()), |name| write!(f, " {name}"))
    }
}

impl fmt::Debug for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Diagnosis({self})")
    }
}
