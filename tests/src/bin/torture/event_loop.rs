//! Ends that never block: one thread, all connections, and one call that waits for them.

use crate::open::{Connection, Opener};
use crate::options::Wait;
use crate::stream::Step;
use smc_tests::sys::{self, Errno, FdSet};
use std::os::fd::RawFd;

const LISTENER: u64 = u64::MAX;

/// What is known about a descriptor: by level, since the last wait; by edge, since the last EAGAIN.
#[derive(Clone, Copy, Default)]
struct Ready {
    read: bool,
    write: bool,
    /// The peer has sent its FIN: reading goes on to the end, short counts notwithstanding.
    end: bool,
}

struct Slot {
    connection: Connection,
    ready: Ready,
    /// The mask in the epoll set, when in it.
    registered: Option<u32>,
    /// Believes that a short count means what EAGAIN would (epoll(7), Q9).
    trusts_short_counts: bool,
    /// Not to be read in this round, so that the peer runs into a full buffer.
    paused: bool,
}

pub struct EventLoop {
    wait: Wait,
    opener: Opener,
    epfd: RawFd,
    slots: Vec<Option<Slot>>,
    listener: Option<RawFd>,
    listener_ready: bool,
    to_accept: u32,
    port: u16,
    to_connect: std::ops::Range<u32>,
    connected: u32,
    /// Whether this run pauses readers at all: pauses come with timeouts, which hide lost wake-ups.
    pauses: bool,
}

impl EventLoop {
    /// `listener`: accepts all connections of the run. `port`: opens them.
    pub fn new(wait: Wait, mut opener: Opener, listener: Option<RawFd>, port: Option<u16>) -> EventLoop {
        let connections = opener.options.connections;
        let epfd = if wait.is_epoll() { sys::epoll_create() } else { -1 };
        if let Some(listener) = listener {
            sys::set_nonblocking(listener, true);
            if wait.is_epoll() {
                let exclusive = if wait == Wait::EpollExclusive { libc::EPOLLEXCLUSIVE as u32 } else { 0 };
                let events = libc::EPOLLIN as u32 | exclusive;
                sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, listener, events, LISTENER)
                    .expect("ADD of the listener");
            }
        }
        let pauses = opener.random.one_in(2);
        EventLoop {
            wait,
            opener,
            epfd,
            slots: Vec::new(),
            listener,
            listener_ready: false,
            to_accept: if listener.is_some() { connections } else { 0 },
            port: port.unwrap_or(0),
            to_connect: 0..if port.is_some() { connections } else { 0 },
            connected: 0,
            pauses,
        }
    }

    /// Until all connections are through.
    pub fn run(&mut self) -> Result<(), String> {
        loop {
            while self.connected < self.opener.options.concurrency {
                let Some(id) = self.to_connect.next() else { break };
                let connection = self.opener.connect(id, self.port, true)?;
                self.connected += 1;
                self.add(connection)?;
            }
            if self.slots.iter().all(Option::is_none) && self.to_accept == 0 {
                return Ok(());
            }
            self.wait_for_events()?;
            self.accept()?;
            for index in 0..self.slots.len() {
                self.serve(index)?;
            }
        }
    }

    fn add(&mut self, connection: Connection) -> Result<(), String> {
        let trusts_short_counts = self.opener.random.one_in(2);
        let slot = Slot {
            connection,
            ready: Ready::default(),
            registered: None,
            trusts_short_counts,
            paused: false,
        };
        let index = match self.slots.iter().position(Option::is_none) {
            Some(index) => {
                self.slots[index] = Some(slot);
                index
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() - 1
            }
        };
        self.register(index)
    }

    /// The events a slot waits for.
    fn interest(slot: &Slot) -> (bool, bool) {
        if slot.connection.connecting {
            return (false, true);
        }
        (!slot.connection.reader.done() && !slot.paused, !slot.connection.writer.done())
    }

    /// Brings the epoll set up to date.
    fn register(&mut self, index: usize) -> Result<(), String> {
        if !self.wait.is_epoll() {
            return Ok(());
        }
        let Some(slot) = self.slots[index].as_mut() else { return Ok(()) };
        let (read, write) = Self::interest(slot);
        let by_interest =
            if read { libc::EPOLLIN | libc::EPOLLRDHUP } else { 0 } | if write { libc::EPOLLOUT } else { 0 };
        let both = libc::EPOLLIN | libc::EPOLLOUT;
        let mask = match self.wait {
            Wait::EpollEdge => both | libc::EPOLLRDHUP | libc::EPOLLET,
            Wait::EpollExclusive => both | libc::EPOLLET | libc::EPOLLEXCLUSIVE,
            Wait::EpollOneshot => by_interest | libc::EPOLLONESHOT,
            _ => by_interest,
        } as u32;
        // A one-shot registration is spent by its event and armed again by each MOD.
        if slot.registered == Some(mask) && self.wait != Wait::EpollOneshot {
            return Ok(());
        }
        let op = if slot.registered.is_none() { libc::EPOLL_CTL_ADD } else { libc::EPOLL_CTL_MOD };
        slot.registered = Some(mask);
        sys::epoll_ctl(self.epfd, op, slot.connection.fd, mask, index as u64)
            .map_err(|e| format!("epoll_ctl: {}", sys::errno_name(e)))
    }

    fn wait_for_events(&mut self) -> Result<(), String> {
        let mut paused = false;
        let mut pending = false;
        for index in 0..self.slots.len() {
            let pause = self.pauses && self.opener.random.one_in(8);
            let Some(slot) = self.slots[index].as_mut() else { continue };
            slot.paused = pause && !slot.connection.reader.done();
            paused |= slot.paused;
            if self.wait.is_level() {
                slot.ready = Ready::default();
            } else {
                let (read, write) = Self::interest(slot);
                pending |= slot.ready.read && read || slot.ready.write && write;
            }
            self.register(index)?;
        }
        let timeout = match (pending, paused) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => -1,
        };
        let result = match self.wait {
            Wait::Poll | Wait::Ppoll => self.poll(timeout),
            Wait::Select | Wait::Pselect => self.select(timeout),
            _ => self.epoll(timeout),
        };
        match result {
            Ok(()) | Err(libc::EINTR) => Ok(()),
            Err(errno) => Err(format!("{}: {}", self.wait.name(), sys::errno_name(errno))),
        }
    }

    fn poll(&mut self, timeout: i32) -> Result<(), Errno> {
        let mut fds = Vec::new();
        let mut indexes = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            let (read, write) = Self::interest(slot);
            if read || write {
                let events = if read { libc::POLLIN } else { 0 } | if write { libc::POLLOUT } else { 0 };
                fds.push(libc::pollfd { fd: slot.connection.fd, events, revents: 0 });
                indexes.push(index);
            }
        }
        if let (Some(fd), true) = (self.listener, self.to_accept > 0) {
            fds.push(libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        }
        let mask = sys::no_signals();
        let mask = if self.opener.random.one_in(2) { Some(&mask) } else { None };
        let n = match (self.wait, self.opener.random.below(3)) {
            (Wait::Ppoll, _) => sys::ppoll(&mut fds, timeout, mask)?,
            (_, 0) => sys::poll(&mut fds, timeout)?,
            (_, 1) => sys::poll_alias(&mut fds, timeout)?,
            _ => sys::poll_chk(&mut fds, timeout)?,
        };
        assert_eq!(n, fds.iter().filter(|p| p.revents != 0).count(), "poll's count and its events differ");
        assert!(n > 0 || timeout >= 0, "poll without a timeout returned 0");
        for (at, entry) in fds.iter().enumerate() {
            assert_eq!(entry.revents & libc::POLLNVAL, 0, "POLLNVAL for fd {}", entry.fd);
            let other = entry.revents & (libc::POLLHUP | libc::POLLERR) != 0;
            match indexes.get(at) {
                Some(&index) => {
                    let slot = self.slots[index].as_mut().expect("polled slots are in use");
                    slot.ready.read |= entry.revents & libc::POLLIN != 0 || other;
                    slot.ready.write |= entry.revents & libc::POLLOUT != 0 || other;
                }
                None => self.listener_ready |= entry.revents != 0,
            }
        }
        Ok(())
    }

    fn select(&mut self, timeout: i32) -> Result<(), Errno> {
        let (mut read, mut write) = (FdSet::default(), FdSet::default());
        let mut highest = -1;
        for slot in self.slots.iter().flatten() {
            let (reads, writes) = Self::interest(slot);
            if reads {
                read.insert(slot.connection.fd);
            }
            if writes {
                write.insert(slot.connection.fd);
            }
            if reads || writes {
                highest = highest.max(slot.connection.fd);
            }
        }
        if let (Some(fd), true) = (self.listener, self.to_accept > 0) {
            read.insert(fd);
            highest = highest.max(fd);
        }
        let asked = (read, write);
        let mask = sys::no_signals();
        let mask = if self.opener.random.one_in(2) { Some(&mask) } else { None };
        let n = match self.wait {
            Wait::Pselect => sys::pselect(highest + 1, &mut read, &mut write, timeout, mask)?,
            _ => sys::select(highest + 1, &mut read, &mut write, timeout)?,
        };
        let set =
            (0..=highest).map(|fd| usize::from(read.contains(fd)) + usize::from(write.contains(fd))).sum();
        assert_eq!(n, set, "select's count and its sets differ");
        assert!(n > 0 || timeout >= 0, "select without a timeout returned 0");
        for fd in 0..=highest {
            assert!(
                !read.contains(fd) || asked.0.contains(fd),
                "select reports fd {fd}, which nobody asked for"
            );
            assert!(
                !write.contains(fd) || asked.1.contains(fd),
                "select reports fd {fd}, which nobody asked for"
            );
        }
        for slot in self.slots.iter_mut().flatten() {
            slot.ready.read |= read.contains(slot.connection.fd);
            slot.ready.write |= write.contains(slot.connection.fd);
        }
        self.listener_ready |= self.listener.is_some_and(|fd| read.contains(fd));
        Ok(())
    }

    fn epoll(&mut self, timeout: i32) -> Result<(), Errno> {
        // Fewer places than connections now and then: nobody may be forgotten.
        let max = if self.opener.random.one_in(2) { 1 + self.opener.random.below(3) as usize } else { 64 };
        let events = match self.opener.random.below(3) {
            0 => sys::epoll_pwait(self.epfd, max, timeout, None)?,
            1 => sys::epoll_pwait(self.epfd, max, timeout, Some(&sys::no_signals()))?,
            _ => sys::epoll_wait(self.epfd, max, timeout)?,
        };
        assert!(!events.is_empty() || timeout >= 0, "epoll_wait without a timeout returned 0");
        for (mask, data) in events {
            if data == LISTENER {
                self.listener_ready = true;
                continue;
            }
            let slot = self.slots.get_mut(data as usize).and_then(Option::as_mut);
            let slot = slot.unwrap_or_else(|| panic!("event {mask:#x} for slot {data}, which is closed"));
            let asked = slot.registered.unwrap_or(0) | (libc::EPOLLERR | libc::EPOLLHUP) as u32;
            assert_eq!(mask & !asked, 0, "event {mask:#x} for a registration of {asked:#x}");
            let has = |bits: i32| mask & bits as u32 != 0;
            let other = has(libc::EPOLLHUP | libc::EPOLLERR);
            slot.ready.read |= has(libc::EPOLLIN | libc::EPOLLRDHUP) || other;
            slot.ready.write |= has(libc::EPOLLOUT) || other;
            slot.ready.end |= has(libc::EPOLLRDHUP) || other;
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<(), String> {
        let Some(listener) = self.listener.filter(|_| self.listener_ready && self.to_accept > 0) else {
            return Ok(());
        };
        self.listener_ready = false;
        while self.to_accept > 0 {
            let Some(connection) = self.opener.accept(listener, true)? else { break };
            self.to_accept -= 1;
            self.add(connection)?;
        }
        Ok(())
    }

    /// Gives a ready slot some calls, and closes it when it is through.
    fn serve(&mut self, index: usize) -> Result<(), String> {
        let Some(slot) = self.slots[index].as_mut() else { return Ok(()) };
        let level = self.wait.is_level();
        if slot.connection.connecting {
            if !slot.ready.write {
                return Ok(());
            }
            match sys::socket_error(slot.connection.fd) {
                0 => slot.connection.connecting = false,
                errno => return Err(format!("connect failed: {}", sys::errno_name(errno))),
            }
        }
        let random = &mut self.opener.random;
        let Connection { fd, alias, reader, writer, .. } = &mut slot.connection;
        // EPOLLRDHUP is not to be had with EPOLLEXCLUSIVE, and a FIN that comes with the last bytes makes no edge of
        // its own.
        let trusts_reads = slot.trusts_short_counts && !slot.ready.end && self.wait != Wait::EpollExclusive;
        for _ in 0..1 + random.below(6) {
            if slot.ready.write && !writer.done() {
                match writer.step(*alias)? {
                    Step::WouldBlock => slot.ready.write = false,
                    Step::MovedShort if level || slot.trusts_short_counts => slot.ready.write = false,
                    _ => {}
                }
            }
            if slot.ready.read && !reader.done() && !slot.paused {
                match reader.step(*fd)? {
                    Step::WouldBlock => slot.ready.read = false,
                    Step::MovedShort if level || trusts_reads => slot.ready.read = false,
                    _ => {}
                }
            }
        }
        if slot.connection.done() {
            if self.wait.is_epoll()
                && (slot.connection.alias != slot.connection.fd || self.opener.random.one_in(2))
            {
                // Without it, a duplicate would keep the registration alive until it is closed too.
                let fd = slot.connection.fd;
                sys::epoll_del(self.epfd, fd).map_err(|e| format!("epoll DEL: {}", sys::errno_name(e)))?;
            }
            slot.connection.close()?;
            // Only the opening end limits itself; accepted connections were never counted.
            if self.connected > 0 {
                self.connected -= 1;
            }
            self.slots[index] = None;
        }
        Ok(())
    }
}
