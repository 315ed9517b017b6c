//! Calls that move bytes.

use super::*;

// Writing.

pub fn write(fd: RawFd, buf: &[u8]) -> Count {
    count(c!(write(fd, buf.as_ptr().cast(), buf.len())))
}

pub fn write_alias(fd: RawFd, buf: &[u8]) -> Count {
    count(c_alias!(__write(fd, buf.as_ptr().cast(), buf.len())))
}

pub fn writev(fd: RawFd, parts: &[&[u8]]) -> Count {
    let iov = iov(parts);
    count(c!(writev(fd, iov.as_ptr(), iov.len() as c_int)))
}

/// `pwritev2` at the file position (-1), which is what a socket accepts.
pub fn pwritev2(fd: RawFd, parts: &[&[u8]], flags: c_int) -> Count {
    let iov = iov(parts);
    count(c!(pwritev2(fd, iov.as_ptr(), iov.len() as c_int, -1, flags)))
}

pub fn pwritev64v2(fd: RawFd, parts: &[&[u8]], flags: c_int) -> Count {
    let iov = iov(parts);
    count(c_alias!(pwritev64v2(fd, iov.as_ptr(), iov.len() as c_int, -1, flags)))
}

pub fn send(fd: RawFd, buf: &[u8], flags: c_int) -> Count {
    count(c!(send(fd, buf.as_ptr().cast(), buf.len(), flags)))
}

pub fn send_alias(fd: RawFd, buf: &[u8], flags: c_int) -> Count {
    count(c_alias!(__send(fd, buf.as_ptr().cast(), buf.len(), flags)))
}

pub fn sendto(fd: RawFd, buf: &[u8], flags: c_int) -> Count {
    count(c!(sendto(fd, buf.as_ptr().cast(), buf.len(), flags, ptr::null(), 0)))
}

pub fn sendmsg(fd: RawFd, parts: &[&[u8]], flags: c_int) -> Count {
    let mut iov = iov(parts);
    let header = header(&mut iov);
    count(c!(sendmsg(fd, &header, flags)))
}

/// The bytes sent of each message that `sendmmsg` counts as sent.
pub fn sendmmsg(fd: RawFd, messages: &[&[u8]], flags: c_int) -> Result<Vec<usize>, Errno> {
    let mut iovs: Vec<libc::iovec> = iov(messages);
    let mut headers: Vec<libc::mmsghdr> = iovs
        .iter_mut()
        .map(|v| libc::mmsghdr { msg_hdr: header(std::slice::from_mut(v)), msg_len: 0 })
        .collect();
    let n = status(c!(sendmmsg(fd, headers.as_mut_ptr(), headers.len() as u32, flags as _)))?;
    Ok(headers[..n as usize].iter().map(|h| h.msg_len as usize).collect())
}

/// `sendfile` from `offset`, which advances as the call says, or from the file's own position when `None`.
pub fn sendfile(out: RawFd, file: RawFd, offset: Option<&mut i64>, n: usize) -> Count {
    let offset = offset.map_or(ptr::null_mut(), |o| o as *mut i64);
    count(c!(sendfile(out, file, offset, n)))
}

pub fn sendfile64(out: RawFd, file: RawFd, offset: Option<&mut i64>, n: usize) -> Count {
    let offset = offset.map_or(ptr::null_mut(), |o| o as *mut i64);
    count(c!(sendfile64(out, file, offset, n)))
}

pub fn splice(from: RawFd, to: RawFd, n: usize, flags: u32) -> Count {
    count(c!(splice(from, ptr::null_mut(), to, ptr::null_mut(), n, flags)))
}

// Reading.

pub fn read(fd: RawFd, buf: &mut [u8]) -> Count {
    count(c!(read(fd, buf.as_mut_ptr().cast(), buf.len())))
}

pub fn read_alias(fd: RawFd, buf: &mut [u8]) -> Count {
    count(c_alias!(__read(fd, buf.as_mut_ptr().cast(), buf.len())))
}

pub fn read_chk(fd: RawFd, buf: &mut [u8]) -> Count {
    count(c_alias!(__read_chk(fd, buf.as_mut_ptr().cast(), buf.len(), buf.len())))
}

pub fn readv(fd: RawFd, parts: &mut [&mut [u8]]) -> Count {
    let iov = iov_mut(parts);
    count(c!(readv(fd, iov.as_ptr(), iov.len() as c_int)))
}

/// `preadv2` at the file position (-1), which is what a socket accepts.
pub fn preadv2(fd: RawFd, parts: &mut [&mut [u8]], flags: c_int) -> Count {
    let iov = iov_mut(parts);
    count(c!(preadv2(fd, iov.as_ptr(), iov.len() as c_int, -1, flags)))
}

pub fn preadv64v2(fd: RawFd, parts: &mut [&mut [u8]], flags: c_int) -> Count {
    let iov = iov_mut(parts);
    count(c_alias!(preadv64v2(fd, iov.as_ptr(), iov.len() as c_int, -1, flags)))
}

pub fn recv(fd: RawFd, buf: &mut [u8], flags: c_int) -> Count {
    count(c!(recv(fd, buf.as_mut_ptr().cast(), buf.len(), flags)))
}

pub fn recv_chk(fd: RawFd, buf: &mut [u8], flags: c_int) -> Count {
    count(c_alias!(__recv_chk(fd, buf.as_mut_ptr().cast(), buf.len(), buf.len(), flags)))
}

pub fn recvfrom(fd: RawFd, buf: &mut [u8], flags: c_int) -> Count {
    count(c!(recvfrom(fd, buf.as_mut_ptr().cast(), buf.len(), flags, ptr::null_mut(), ptr::null_mut())))
}

pub fn recvfrom_chk(fd: RawFd, buf: &mut [u8], flags: c_int) -> Count {
    let (addr, len) = (ptr::null_mut(), ptr::null_mut());
    count(c_alias!(__recvfrom_chk(fd, buf.as_mut_ptr().cast(), buf.len(), buf.len(), flags, addr, len)))
}

/// `recvfrom` with room for an address: the count and the address length that the call leaves.
pub fn recvfrom_address(fd: RawFd, buf: &mut [u8], flags: c_int) -> Result<(usize, u32), Errno> {
    let mut storage = [0u8; 128];
    let mut len = storage.len() as libc::socklen_t;
    let addr = storage.as_mut_ptr().cast();
    let n = count(c!(recvfrom(fd, buf.as_mut_ptr().cast(), buf.len(), flags, addr, &mut len)))?;
    Ok((n, len))
}

/// What `recvmsg` leaves in its header.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    pub bytes: usize,
    pub flags: c_int,
    pub name_length: u32,
    pub control_length: usize,
}

/// `recvmsg` with room for a name and for control data; what comes back in them is part of the result.
pub fn recvmsg(fd: RawFd, parts: &mut [&mut [u8]], flags: c_int) -> Result<Received, Errno> {
    let mut iov = iov_mut(parts);
    let mut header = header(&mut iov);
    let (mut name, mut control) = ([0u64; 16], [0u64; 16]);
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = std::mem::size_of_val(&name) as _;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = std::mem::size_of_val(&control) as _;
    header.msg_flags = -1;
    let bytes = count(c!(recvmsg(fd, &mut header, flags)))?;
    Ok(Received {
        bytes,
        flags: header.msg_flags,
        name_length: header.msg_namelen,
        control_length: header.msg_controllen,
    })
}

/// The bytes received of each message that `recvmmsg` counts.
pub fn recvmmsg(fd: RawFd, parts: &mut [&mut [u8]], flags: c_int) -> Result<Vec<usize>, Errno> {
    let mut iovs: Vec<libc::iovec> = iov_mut(parts);
    let mut headers: Vec<libc::mmsghdr> = iovs
        .iter_mut()
        .map(|v| libc::mmsghdr { msg_hdr: header(std::slice::from_mut(v)), msg_len: 0 })
        .collect();
    let n =
        status(c!(recvmmsg(fd, headers.as_mut_ptr(), headers.len() as u32, flags as _, ptr::null_mut())))?;
    Ok(headers[..n as usize].iter().map(|h| h.msg_len as usize).collect())
}
