//! The SMC option on TCP's handshake, as a process without privilege uses it (RFC 7609 section 3.1).
//!
//! A BPF program that root has attached (`smcctl tcp-option on`, tools/bpf/) writes and reads the option; it serves two
//! private socket options of TCP sockets. Where it is not attached they are unknown, and connections stay on TCP
//! (0x03010000).
//!
//! A SYN-ACK with the option obliges: the peer's connect fails unless CLC is answered within seconds. So ask on a
//! listener only where somebody will answer. And do not ask on a socket that uses TCP fast open: data in the SYN comes
//! before the answer is known.

use crate::sys::sock::{int_option, set_int_option};
use crate::sys::{Errno, Result};

/// The level of both options: "SMCR" in ASCII, which no protocol of the kernel has.
pub const LEVEL: i32 = 0x534d_4352;
/// Set and get, an `int`: whether the next `connect` or `listen` offers SMC. Accepted sockets inherit it.
pub const WANTED: i32 = 1;
/// Get, an `int`: a [`Peer`].
pub const PEER: i32 = 2;

/// What the peer's SYN or SYN-ACK said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// Not asked for, or the handshake is not over.
    Unknown,
    /// The peer did not send the option, or there was no room for ours.
    Absent,
    /// The peer is capable of SMC. If it is a server, its answer to our SYN says so.
    Capable,
    /// The peer sends back options that nobody implements: ours among them means nothing.
    Echoes,
}

/// Asks for the option (or no longer) at the next `connect` or `listen` on this TCP socket.
///
/// ENOPROTOOPT or EOPNOTSUPP: the BPF program is not attached here. EPERM: the socket is already connected or
/// listening, or is no TCP socket.
pub fn want(fd: i32, on: bool) -> Result<()> {
    set_int_option(fd, LEVEL, WANTED, i32::from(on))
}

/// Whether the option is asked for on this socket.
pub fn wanted(fd: i32) -> Result<bool> {
    Ok(int_option(fd, LEVEL, WANTED)? != 0)
}

/// What the peer said, once the connection is established. Errors as for [`want`].
pub fn peer(fd: i32) -> Result<Peer> {
    match int_option(fd, LEVEL, PEER)? {
        0 => Ok(Peer::Unknown),
        1 => Ok(Peer::Absent),
        2 => Ok(Peer::Capable),
        3 => Ok(Peer::Echoes),
        // A later version's programs are attached.
        _ => Err(Errno(libc::EPROTO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bpf_programs_have_the_same_numbers() {
        let header = include_str!("../../tools/bpf/tcp_option.h");
        let defines = |name: &str, value: &str| {
            header.lines().any(|line| {
                let mut words = line.split_whitespace().filter(|w| *w != "#define" && *w != "=");
                words.next() == Some(name) && words.next().map(|w| w.trim_end_matches(',')) == Some(value)
            })
        };
        assert!(defines("SMC_OPTION_LEVEL", &format!("{LEVEL:#x}")));
        assert!(defines("SMC_OPTION_WANTED", &WANTED.to_string()));
        assert!(defines("SMC_OPTION_PEER", &PEER.to_string()));
        for (name, value) in [
            ("SMC_PEER_UNKNOWN", "0"),
            ("SMC_PEER_ABSENT", "1"),
            ("SMC_PEER_CAPABLE", "2"),
            ("SMC_PEER_ECHOES", "3"),
        ] {
            assert!(defines(name, value), "{name}");
        }
    }
}
