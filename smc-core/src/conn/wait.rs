//! What a call does when it cannot go on: whether it may wait, how long, and on what.

use crate::link::Bell;
use crate::sys::{self, fd, sock, Errno};

/// How a step of a call ended.
#[derive(Clone, Copy)]
pub enum Step {
    /// The call is done with this many bytes.
    Done(usize),
    Fail(Errno),
    /// The call is to be made on the TCP socket as it stands; nothing has been moved.
    Native,
    /// The caller is to sleep as [`Sleep`] says and then to take the next step.
    Sleep(Sleep),
}

/// One sleep in ppoll, on a descriptor of the program's and a doorbell, which the shim makes in a frame that cancellation may unwind.
#[derive(Clone, Copy)]
pub struct Sleep {
    pub fds: [libc::pollfd; 2],
    /// Which of the connection's doorbells the second one is.
    pub bell: Bell,
    /// Nanoseconds; negative: for ever.
    pub timeout_ns: i64,
    /// A handler that interrupts the sleep ends the call even if it was installed with SA_RESTART, because the socket
    /// has a timeout (signal(7)).
    pub has_timeout: bool,
}

/// The time a call may take, learnt when it first has to wait.
#[derive(Clone, Copy, Default)]
pub struct Patience {
    asked: bool,
    /// CLOCK_MONOTONIC, nanoseconds.
    deadline: Option<u64>,
}

/// The answer to "may this call wait?".
pub enum May {
    Wait {
        remaining_ns: Option<u64>,
    },
    NotAtAll,
    /// The descriptor is not what it was.
    Fail(Errno),
}

impl Patience {
    /// `timeout`: SO_RCVTIMEO or SO_SNDTIMEO. Asks the kernel each time what other processes may have changed.
    pub fn ask(&mut self, fd: i32, flags: i32, timeout: i32) -> May {
        if flags & libc::MSG_DONTWAIT != 0 {
            return May::NotAtAll;
        }
        match fd::nonblocking(fd) {
            Ok(false) => {}
            Ok(true) => return May::NotAtAll,
            Err(e) => return May::Fail(e),
        }
        let now = sys::now_ns();
        if !self.asked {
            self.asked = true;
            match sock::timeout(fd, timeout) {
                Ok(t) => self.deadline = t.map(|t| now.saturating_add(t)),
                Err(e) => return May::Fail(e),
            }
        }
        match self.deadline {
            None => May::Wait { remaining_ns: None },
            Some(d) if d <= now => May::NotAtAll,
            Some(d) => May::Wait { remaining_ns: Some(d - now) },
        }
    }
}

impl Sleep {
    /// Sleeps until `events` on the socket or the doorbell, at most `limit_ns` and `remaining_ns`.
    pub fn new(
        (fd, events): (i32, i16),
        (bell, bell_fd): (Bell, i32),
        remaining_ns: Option<u64>,
        limit_ns: Option<u64>,
    ) -> Sleep {
        let timeout = match (remaining_ns, limit_ns) {
            (None, None) => -1,
            (Some(a), None) | (None, Some(a)) => a.min(i64::MAX as u64) as i64,
            (Some(a), Some(b)) => a.min(b).min(i64::MAX as u64) as i64,
        };
        Sleep {
            fds: [
                libc::pollfd { fd, events, revents: 0 },
                libc::pollfd { fd: bell_fd, events: libc::POLLIN, revents: 0 },
            ],
            bell,
            timeout_ns: timeout,
            has_timeout: remaining_ns.is_some(),
        }
    }
}
