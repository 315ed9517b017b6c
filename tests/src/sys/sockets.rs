//! Calls that make and name sockets, and their options.

use super::*;

pub fn socket(family: c_int, flags: c_int) -> Result<RawFd, Errno> {
    status(c!(socket(family, libc::SOCK_STREAM | flags, 0)))
}

pub fn listen(fd: RawFd, backlog: c_int) -> Result<(), Errno> {
    status(c!(listen(fd, backlog))).map(drop)
}

pub fn accept(fd: RawFd) -> Result<RawFd, Errno> {
    status(c!(accept(fd, ptr::null_mut(), ptr::null_mut())))
}

pub fn accept4(fd: RawFd, flags: c_int) -> Result<RawFd, Errno> {
    status(c!(accept4(fd, ptr::null_mut(), ptr::null_mut(), flags)))
}

pub fn shutdown(fd: RawFd, how: c_int) -> Result<(), Errno> {
    status(c!(shutdown(fd, how))).map(drop)
}

/// Sets a socket option whose value is plain data (no pointers in it).
pub fn setsockopt<T: Copy>(fd: RawFd, level: c_int, name: c_int, value: T) -> Result<(), Errno> {
    let len = std::mem::size_of::<T>() as libc::socklen_t;
    status(c!(setsockopt(fd, level, name, (&value as *const T).cast(), len))).map(drop)
}

pub fn getsockopt_int(fd: RawFd, level: c_int, name: c_int) -> Result<c_int, Errno> {
    let mut value: c_int = 0;
    let mut len = std::mem::size_of::<c_int>() as libc::socklen_t;
    status(c!(getsockopt(fd, level, name, (&mut value as *mut c_int).cast(), &mut len)))?;
    Ok(value)
}

/// Sets an option to these bytes.
pub fn setsockopt_bytes(fd: RawFd, level: c_int, name: c_int, value: &[u8]) -> Result<(), Errno> {
    status(c!(setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as _))).map(drop)
}

/// Reads an option into `value`; how many bytes it has.
pub fn getsockopt_bytes(fd: RawFd, level: c_int, name: c_int, value: &mut [u8]) -> Count {
    let mut len = value.len() as libc::socklen_t;
    status(c!(getsockopt(fd, level, name, value.as_mut_ptr().cast(), &mut len)))?;
    Ok(len as usize)
}

/// Attaches a socket filter that keeps nothing of what arrives.
pub fn drop_all_segments(fd: RawFd) -> Result<(), Errno> {
    // BPF_RET | BPF_K with 0: keep no byte.
    let mut nothing = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &mut nothing };
    setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
}

/// SO_ERROR, which reading clears.
pub fn socket_error(fd: RawFd) -> Errno {
    getsockopt_int(fd, libc::SOL_SOCKET, libc::SO_ERROR).expect("SO_ERROR")
}

/// A socket address with its length, as the calls take it.
#[derive(Clone, Copy)]
pub struct Address {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl Address {
    pub fn new(address: std::net::SocketAddr) -> Self {
        // SAFETY: sockaddr_storage is plain integers, for which zero is a value.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let place = &mut storage as *mut libc::sockaddr_storage;
        let len = match address {
            std::net::SocketAddr::V4(v4) => {
                let sin = libc::sockaddr_in {
                    sin_family: libc::AF_INET as _,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is large and aligned enough for every sockaddr.
                unsafe { place.cast::<libc::sockaddr_in>().write(sin) };
                std::mem::size_of::<libc::sockaddr_in>()
            }
            std::net::SocketAddr::V6(v6) => {
                let sin6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as _,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: sockaddr_storage is large and aligned enough for every sockaddr.
                unsafe { place.cast::<libc::sockaddr_in6>().write(sin6) };
                std::mem::size_of::<libc::sockaddr_in6>()
            }
        };
        Address { storage, len: len as _ }
    }

    fn port_and_family(&self) -> (u16, c_int) {
        let place = &self.storage as *const libc::sockaddr_storage;
        // SAFETY: the port of sockaddr_in and of sockaddr_in6 lies at the same place, and the storage holds one
        // of the two.
        let port = unsafe { (*place.cast::<libc::sockaddr_in>()).sin_port };
        (u16::from_be(port), self.storage.ss_family.into())
    }

    /// True for an IPv4 address, plain or mapped into IPv6.
    pub fn is_ipv4(&self) -> bool {
        if self.port_and_family().1 == libc::AF_INET {
            return true;
        }
        let place = &self.storage as *const libc::sockaddr_storage;
        // SAFETY: the family is not AF_INET, so that the storage holds a sockaddr_in6 (these programs open
        // sockets of the two families only).
        let octets = unsafe { (*place.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr };
        std::net::Ipv6Addr::from(octets).to_ipv4_mapped().is_some()
    }

    pub fn port(&self) -> u16 {
        self.port_and_family().0
    }
}

pub fn bind(fd: RawFd, address: &Address) -> Result<(), Errno> {
    status(c!(bind(fd, (&address.storage as *const libc::sockaddr_storage).cast(), address.len))).map(drop)
}

pub fn connect(fd: RawFd, address: &Address) -> Result<(), Errno> {
    status(c!(connect(fd, (&address.storage as *const libc::sockaddr_storage).cast(), address.len))).map(drop)
}

/// `sendto` with an address.
pub fn send_to(fd: RawFd, buf: &[u8], flags: c_int, address: &Address) -> Count {
    let name = (&address.storage as *const libc::sockaddr_storage).cast();
    count(c!(sendto(fd, buf.as_ptr().cast(), buf.len(), flags, name, address.len)))
}

fn empty_address() -> Address {
    // SAFETY: sockaddr_storage is plain integers, for which zero is a value.
    let storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    Address { storage, len: std::mem::size_of::<libc::sockaddr_storage>() as _ }
}

pub fn getsockname(fd: RawFd) -> Result<Address, Errno> {
    let mut address = empty_address();
    let place = (&mut address.storage as *mut libc::sockaddr_storage).cast();
    status(c!(getsockname(fd, place, &mut address.len)))?;
    Ok(address)
}

pub fn getpeername(fd: RawFd) -> Result<Address, Errno> {
    let mut address = empty_address();
    let place = (&mut address.storage as *mut libc::sockaddr_storage).cast();
    status(c!(getpeername(fd, place, &mut address.len)))?;
    Ok(address)
}
