//! Socket options: what becomes of each one, in every phase of a socket.
//!
//! An option is in one of three classes. **Y**: it has its TCP effect while shared memory carries the data. **M**: TCP
//! takes it and reads it back, but it concerns packets, and the ring has none. **N**: only TCP can serve it; a socket that
//! has it stays on TCP, or goes back there. Calls always reach the TCP socket in the end, which is the program's
//! own: what differs is what the engine does beside it.
//!
//! The rows of [`socket`], [`tcp`] and [`groups`] are the only place where options are declared. Dispatch of setsockopt and
//! getsockopt, `smcss --options`, the tables in README.md and docs/options.md and the test that compares every option with
//! native TCP come from them. Numbers and answers are those of Linux 6.12 (include/uapi/asm-generic/socket.h,
//! include/uapi/linux/tcp.h).

/// Declares rows: numbers in brackets (none: all others of the level), name, class, then the fields of [`Row`] from
/// `before` on.
macro_rules! rows {
    ($level:expr; $([$($number:literal),*] $name:literal, $class:ident, $before:expr, $after:expr, $child:ident, $by:ident, $why_n:expr, $why:literal;)*) => {
        &[$($crate::options::Row {
            level: $level,
            numbers: &[$($number),*],
            name: $name,
            class: $crate::options::Class::$class,
            before: $before,
            after: $after,
            child: $crate::options::Child::$child,
            by: $crate::options::By::$by,
            detail: $why_n,
            why: $why,
        }),*]
    };
}

pub mod found;
mod groups;
pub mod render;
mod socket;
mod tcp;
#[cfg(test)]
mod tests;

use crate::reason::Detail;

/// include/uapi/linux/tcp.h and asm-generic/socket.h; libc has no names for these.
pub const TCP_ULP: i32 = 31;
pub const TCP_ZEROCOPY_RECEIVE: i32 = 35;
pub const SO_PEEK_OFF: i32 = 42;
pub const SOL_SMC: i32 = 286;
pub const SOL_TLS: i32 = 282;
pub const SOL_MPTCP: i32 = 284;

/// What an option means while the data takes the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// The same as on TCP.
    Y,
    /// Nothing: it concerns packets.
    M,
    /// Only TCP can serve it.
    N,
}

/// Which values of an option that only TCP serves make a socket stay there. The others switch the option off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Any that TCP accepts.
    Accepted,
    /// Any, whatever TCP answers.
    Always,
    /// 1, if TCP accepts it.
    One,
    /// 0 and above, if TCP accepts it.
    NotNegative,
    /// A key of at least one byte (`struct tcp_md5sig`), if TCP accepts it.
    Key,
}

/// A set before the socket is connected, while its data is on TCP, or while it listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Before {
    /// TCP takes it.
    Pass,
    /// There is nothing to set; TCP answers.
    GetOnly,
    /// TCP has no such option: ENOPROTOOPT.
    Refused,
    /// TCP takes it, and the socket, and what a listener accepts from then on, stays on TCP.
    StaysTcp(When),
}

/// A set on a connection that has moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// TCP takes it.
    Pass,
    /// TCP takes it, and the engine acts on it.
    Apply,
    GetOnly,
    Refused,
    /// The engine answers.
    Engine,
    /// TCP refuses it on a connection. Should it accept, the stream goes back to TCP.
    TcpDecides,
    /// The stream goes back to TCP, which then takes it; EOPNOTSUPP where the peer does not let it.
    Returns(When),
    /// This errno, on TCP too while the connection may still move.
    Fails(i32),
}

/// What a socket accepted from a listener with the option has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Child {
    /// The listener's value.
    Yes,
    /// The default.
    No,
    /// A value of its own, negotiated or measured.
    Own,
    AsTcp,
    /// It stays on TCP, with the listener's reason.
    StaysTcp,
    NotApplicable,
}

/// Who gives the option its effect on a moved connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    Tcp,
    Engine,
    Both,
}

/// A protocol level (the second argument of setsockopt).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Socket,
    Tcp,
    Ip,
    Ipv6,
    Smc,
    Tls,
    /// All that are not named.
    Other,
}

impl Level {
    pub const fn of(number: i32) -> Level {
        match number {
            libc::SOL_SOCKET => Level::Socket,
            libc::IPPROTO_TCP => Level::Tcp,
            libc::IPPROTO_IP => Level::Ip,
            libc::IPPROTO_IPV6 => Level::Ipv6,
            SOL_SMC => Level::Smc,
            SOL_TLS => Level::Tls,
            _ => Level::Other,
        }
    }

    /// Its number; for [`Level::Other`] that of one that is not named, SOL_MPTCP.
    pub const fn number(self) -> i32 {
        match self {
            Level::Socket => libc::SOL_SOCKET,
            Level::Tcp => libc::IPPROTO_TCP,
            Level::Ip => libc::IPPROTO_IP,
            Level::Ipv6 => libc::IPPROTO_IPV6,
            Level::Smc => SOL_SMC,
            Level::Tls => SOL_TLS,
            Level::Other => SOL_MPTCP,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Level::Socket => "SOL_SOCKET",
            Level::Tcp => "SOL_TCP",
            Level::Ip => "SOL_IP",
            Level::Ipv6 => "SOL_IPV6",
            Level::Smc => "SOL_SMC",
            Level::Tls => "SOL_TLS",
            Level::Other => "other levels",
        }
    }
}

/// One option, or a group that is treated alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    pub level: Level,
    /// Empty: all of the level that no other row names.
    pub numbers: &'static [i32],
    pub name: &'static str,
    pub class: Class,
    pub before: Before,
    pub after: After,
    pub child: Child,
    pub by: By,
    /// Why a socket with it is on TCP; its reason has the code.
    pub detail: Option<Detail>,
    pub why: &'static str,
}

impl Row {
    /// A set on a listening socket. As [`Row::before`], except for what fails on connections.
    pub fn on_listener(&self) -> Result<Before, i32> {
        match self.after {
            // Kernel TLS: a listener never takes it, so that nothing is lost by keeping what it accepts.
            After::Fails(errno) if self.before == Before::StaysTcp(When::Always) => Err(errno),
            _ => Ok(self.before),
        }
    }

    /// The reason code of a socket that has the option, 0 for options that keep nothing on TCP.
    pub fn code(&self) -> u32 {
        self.detail.map_or(0, |detail| detail.reason().code())
    }
}

impl When {
    /// Whether a call with these bytes as its value, which TCP has answered (`accepted`), keeps the socket on TCP.
    pub fn applies(self, value: &[u8], accepted: bool) -> bool {
        let int = value.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes));
        match self {
            When::Always => true,
            When::Accepted => accepted,
            When::One => accepted && int == Some(1),
            When::NotNegative => accepted && int.is_some_and(|n| n >= 0),
            When::Key => accepted && has_key(value),
        }
    }
}

/// Whether a `struct tcp_md5sig` has a key: its u16 after an address of 128 bytes, flags and prefix length.
fn has_key(value: &[u8]) -> bool {
    const KEYLEN: usize = 128 + 1 + 1;
    value.get(KEYLEN..KEYLEN + 2).is_some_and(|bytes| bytes != [0, 0])
}

/// All rows, by level and number.
pub fn all() -> impl Iterator<Item = &'static Row> {
    socket::ROWS.iter().chain(tcp::ROWS).chain(groups::ROWS)
}

/// The row for an option, by the numbers of setsockopt.
pub fn find(level: i32, number: i32) -> &'static Row {
    // Rows of the first two levels stand in the order of their numbers, from 1 without a gap.
    let place = (number as usize).wrapping_sub(1);
    let named = match Level::of(level) {
        Level::Socket => socket::ROWS.get(place),
        Level::Tcp => tcp::ROWS.get(place),
        level => groups::ROWS.iter().find(|row| row.level == level && row.numbers.contains(&number)),
    };
    named.unwrap_or_else(|| groups::rest_of(Level::of(level)))
}
