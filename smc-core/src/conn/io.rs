//! Where bytes of a call come from and go to.

use crate::sys::{self, Errno};

/// What Linux moves in one call at most.
pub const MAX_CALL: usize = 0x7fff_f000;

/// The buffers of a call, consumed from the front.
#[derive(Clone, Copy)]
pub struct Buffers {
    next: *const libc::iovec,
    left: usize,
    /// Bytes of the first buffer already used.
    used: usize,
    remaining: usize,
}

impl Buffers {
    /// # Safety
    /// `iov` must point at `count` iovecs which stay valid, with the memory they name, as long as this value is
    /// used; `count` at most 1024. Sums beyond [`MAX_CALL`] are cut, as Linux does.
    pub unsafe fn new(iov: *const libc::iovec, count: usize) -> Buffers {
        let mut remaining = 0usize;
        for i in 0..count {
            // SAFETY: promised by the caller.
            remaining = remaining.saturating_add(unsafe { (*iov.add(i)).iov_len });
        }
        Buffers { next: iov, left: count, used: 0, remaining: remaining.min(MAX_CALL) }
    }

    #[inline]
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    /// The first `n` bytes of them.
    pub fn first(mut self, n: usize) -> Buffers {
        self.remaining = self.remaining.min(n);
        self
    }

    /// The next contiguous piece, at most `max` bytes.
    #[inline]
    pub(super) fn piece(&mut self, max: usize) -> Option<(*mut u8, usize)> {
        let max = max.min(self.remaining);
        while self.left > 0 && max > 0 {
            // SAFETY: `left` iovecs remain at `next`.
            let iov = unsafe { &*self.next };
            if self.used < iov.iov_len {
                let len = max.min(iov.iov_len - self.used);
                // SAFETY: within the buffer.
                return Some((unsafe { (iov.iov_base as *mut u8).add(self.used) }, len));
            }
            // SAFETY: one more remains, or `left` becomes 0.
            self.next = unsafe { self.next.add(1) };
            self.left -= 1;
            self.used = 0;
        }
        None
    }

    #[inline]
    pub(super) fn take(&mut self, n: usize) {
        self.used += n;
        self.remaining -= n;
    }

    /// Copies from the buffers to the two pieces.
    #[inline]
    pub fn copy_to(&mut self, pieces: [(*mut u8, usize); 2]) {
        for (mut to, mut len) in pieces {
            while len > 0 {
                let Some((from, n)) = self.piece(len) else { return };
                // SAFETY: both ranges are valid for n bytes; the program's memory and the ring do not overlap. A
                // peer may write to the ring meanwhile: it garbles its own stream.
                unsafe {
                    core::ptr::copy_nonoverlapping(from, to, n);
                    to = to.add(n);
                }
                len -= n;
                self.take(n);
            }
        }
    }

    /// Copies from the two pieces to the buffers; `discard`: only counts (MSG_TRUNC).
    #[inline]
    pub fn copy_from(&mut self, pieces: [(*mut u8, usize); 2], discard: bool) {
        for (mut from, mut len) in pieces {
            while len > 0 {
                let Some((to, n)) = self.piece(len) else { return };
                // SAFETY: as in `copy_to`.
                unsafe {
                    if !discard {
                        core::ptr::copy_nonoverlapping(from, to, n);
                    }
                    from = from.add(n);
                }
                len -= n;
                self.take(n);
            }
        }
    }

    /// `recvmsg` (with `receive`) or `sendmsg` of at most `max` bytes on `fd`, without waiting and without SIGPIPE.
    pub fn transfer(&mut self, fd: i32, flags: i32, max: usize, receive: bool) -> Result<usize, Errno> {
        let n = self.transfer_behind(None, fd, flags, max, receive)?;
        self.skip(n);
        Ok(n)
    }

    /// With MSG_PEEK: what lies in the kernel's queue behind the bytes that fill `before`, which are put there once
    /// more. 0 if there is nothing.
    pub fn peek_behind(&mut self, before: Buffers, fd: i32, flags: i32, max: usize) -> Result<usize, Errno> {
        let skipped = before.remaining;
        let n = self.transfer_behind(Some(before), fd, flags, max, true)?.saturating_sub(skipped);
        self.skip(n);
        Ok(n)
    }

    /// Uses nothing up.
    fn transfer_behind(
        &self,
        before: Option<Buffers>,
        fd: i32,
        flags: i32,
        max: usize,
        receive: bool,
    ) -> Result<usize, Errno> {
        const BATCH: usize = 16;
        let mut iov = [libc::iovec { iov_base: core::ptr::null_mut(), iov_len: 0 }; BATCH];
        let mut count = 0;
        let mut fill = |mut from: Buffers, max: usize| {
            let mut total = 0;
            while count < BATCH && total < max {
                let Some((base, len)) = from.piece(max - total) else { break };
                iov[count] = libc::iovec { iov_base: base as *mut _, iov_len: len };
                from.take(len);
                count += 1;
                total += len;
            }
        };
        if let Some(before) = before {
            fill(before, usize::MAX);
        }
        fill(*self, max);
        // SAFETY: all-zero is a valid msghdr; the buffers are the program's.
        unsafe {
            let mut msg: libc::msghdr = core::mem::zeroed();
            msg.msg_iov = iov.as_mut_ptr();
            msg.msg_iovlen = count as _;
            let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            if receive {
                sys!(SYS_recvmsg, fd, &mut msg as *mut _, flags)
            } else {
                sys!(SYS_sendmsg, fd, &msg as *const _, flags)
            }
        }
    }

    /// Counts `n` bytes as used.
    fn skip(&mut self, n: usize) {
        let mut left = n;
        while left > 0 {
            let Some((_, len)) = self.piece(left) else { break };
            self.take(len);
            left -= len;
        }
    }
}

/// What is sent.
#[derive(Clone, Copy)]
pub enum Source {
    Buffers(Buffers),
    /// sendfile: a regular file, read at `offset` or, without one, at its own position.
    File {
        fd: i32,
        offset: Option<i64>,
        remaining: usize,
    },
    /// splice: a pipe. `wait`: the call may wait for bytes in it.
    Pipe {
        fd: i32,
        remaining: usize,
        wait: bool,
    },
}

/// From [`Source::send`]: the pipe has no bytes now, whereas EAGAIN speaks of the socket.
pub const DRY: Errno = Errno(libc::ENODATA);

/// The source gave nothing.
pub enum Dry {
    /// End of file.
    End,
    /// A pipe without bytes now.
    Later,
    Error(Errno),
}

impl Source {
    #[inline]
    pub fn remaining(&self) -> usize {
        match self {
            Source::Buffers(b) => b.remaining(),
            Source::File { remaining, .. } | Source::Pipe { remaining, .. } => *remaining,
        }
    }

    /// Moves up to the pieces' length into the ring.
    #[inline]
    pub fn fill(&mut self, pieces: [(*mut u8, usize); 2]) -> Result<usize, Dry> {
        match self {
            Source::Buffers(b) => {
                let before = b.remaining();
                b.copy_to(pieces);
                Ok(before - b.remaining())
            }
            Source::File { fd, offset, remaining } => {
                let iov = iovecs(pieces);
                let got = match offset {
                    // SAFETY: the pieces are memory of the ring that belongs to the holder of the direction's lock.
                    Some(at) => unsafe { sys!(SYS_preadv, *fd, iov.as_ptr(), 2, *at, 0) },
                    // SAFETY: as above.
                    None => unsafe { sys!(SYS_readv, *fd, iov.as_ptr(), 2) },
                };
                match got {
                    Ok(0) => Err(Dry::End),
                    Ok(n) => {
                        *remaining -= n;
                        if let Some(at) = offset {
                            *at += n as i64;
                        }
                        Ok(n)
                    }
                    Err(e) => Err(Dry::Error(e)),
                }
            }
            Source::Pipe { fd, remaining, .. } => {
                if !has_bytes(*fd) {
                    return Err(Dry::Later);
                }
                let iov = iovecs(pieces);
                // SAFETY: as above; the pipe has bytes or its end, so the read does not wait.
                match unsafe { sys!(SYS_readv, *fd, iov.as_ptr(), 2) } {
                    Ok(0) => Err(Dry::End),
                    Ok(n) => {
                        *remaining -= n;
                        Ok(n)
                    }
                    Err(Errno(libc::EAGAIN)) => Err(Dry::Later),
                    Err(e) => Err(Dry::Error(e)),
                }
            }
        }
    }

    /// Sends up to `max` bytes on the TCP socket without waiting. `Ok(0)`: the source has ended.
    pub fn send(&mut self, fd: i32, flags: i32, max: usize) -> Result<usize, Errno> {
        match self {
            Source::Buffers(b) => b.transfer(fd, flags, max, false),
            Source::File { fd: file, offset, remaining } => {
                let len = max.min(*remaining);
                let place = offset.as_mut().map_or(core::ptr::null_mut(), |o| o as *mut i64);
                // sendfile has no flag against waiting or SIGPIPE: see that there is room, and send no more than
                // surely fits at once on a socket that says so.
                if !writable(fd) {
                    return Err(Errno(libc::EAGAIN));
                }
                // SAFETY: the offset, if any, outlives the call.
                let n = unsafe { sys!(SYS_sendfile, fd, *file, place, len.min(16 << 10)) }?;
                *remaining -= n;
                Ok(n)
            }
            Source::Pipe { fd: pipe, remaining, .. } => {
                let len = max.min(*remaining);
                let flags = libc::SPLICE_F_NONBLOCK;
                if !has_bytes(*pipe) {
                    return Err(DRY);
                }
                if !writable(fd) {
                    return Err(Errno(libc::EAGAIN));
                }
                // SAFETY: null offsets.
                let n = unsafe { sys!(SYS_splice, *pipe, 0, fd, 0, len.min(16 << 10), flags) }?;
                *remaining -= n;
                Ok(n)
            }
        }
    }
}

fn iovecs(pieces: [(*mut u8, usize); 2]) -> [libc::iovec; 2] {
    pieces.map(|(base, len)| libc::iovec { iov_base: base as *mut _, iov_len: len })
}

/// Whether a read from the pipe would not wait.
fn has_bytes(fd: i32) -> bool {
    let mut look = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
    sys::poll(&mut look, 0) != Ok(0)
}

fn writable(fd: i32) -> bool {
    let mut look = [libc::pollfd { fd, events: libc::POLLOUT, revents: 0 }];
    sys::poll(&mut look, 0) != Ok(0)
}
