//! Listeners and connections on the loopback interface.

use crate::sys::{self, Address, Errno};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;

/// How the two ends name each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
    /// The accepting end is an IPv6 socket on which an IPv4 peer arrives as `::ffff:127.0.0.1`; the connecting end
    /// is an IPv4 socket.
    MappedAccept,
    /// Both ends are IPv6 sockets with IPv4-mapped addresses.
    MappedBoth,
}

impl Family {
    pub const ALL: [Family; 4] = [Family::V4, Family::V6, Family::MappedAccept, Family::MappedBoth];

    fn listen_ip(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
            Family::MappedAccept | Family::MappedBoth => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    fn connect_ip(self) -> IpAddr {
        match self {
            Family::V4 | Family::MappedAccept => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
            Family::MappedBoth => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        }
    }

    fn domain(ip: IpAddr) -> i32 {
        if ip.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        }
    }

    /// The address to connect to for `port`.
    pub fn target(self, port: u16) -> Address {
        Address::new(SocketAddr::new(self.connect_ip(), port))
    }

    /// A socket from which [`Family::target`] can be connected to. `flags` as for `socket(2)`.
    pub fn client_socket(self, flags: i32) -> Result<RawFd, Errno> {
        sys::socket(Self::domain(self.connect_ip()), flags | libc::SOCK_CLOEXEC)
    }

    /// A listener on a free port, and the port. One on `::` serves all families.
    pub fn listener(self, flags: i32) -> Result<(RawFd, u16), Errno> {
        let ip = self.listen_ip();
        let fd = sys::socket(Self::domain(ip), flags | libc::SOCK_CLOEXEC)?;
        if ip.is_ipv6() {
            sys::setsockopt(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0i32)?;
        }
        sys::bind(fd, &Address::new(SocketAddr::new(ip, 0)))?;
        sys::listen(fd, 4096)?;
        Ok((fd, sys::getsockname(fd)?.port()))
    }
}
