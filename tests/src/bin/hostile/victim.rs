//! The victim: an echo server that also connects to ports it is told on standard input. Whatever happens on a
//! connection, it closes that one and goes on.

use smc_tests::net::Family;
use smc_tests::sys;
use std::io::{BufRead, Write};
use std::os::fd::RawFd;
use std::process::ExitCode;

pub fn run(waiting: &str) -> ExitCode {
    sys::die_with_parent();
    let (listener, port) = Family::V4.listener(0).expect("listen");
    let mut out = std::io::stdout();
    out.write_all(&u64::from(port).to_le_bytes()).and_then(|()| out.flush()).expect("the port");
    match waiting {
        "epoll" => event_loop(listener),
        _ => threads(listener),
    }
    ExitCode::SUCCESS
}

fn connect(port: u16) -> Option<RawFd> {
    let fd = Family::V4.client_socket(0).expect("socket");
    match sys::connect(fd, &Family::V4.target(port)) {
        Ok(()) => Some(fd),
        Err(_) => {
            let _ = sys::close(fd);
            None
        }
    }
}

fn threads(listener: RawFd) {
    let serve = |fd| {
        std::thread::spawn(move || {
            let mut buf = vec![0; 20_000];
            'open: while let Ok(n @ 1..) = sys::recv(fd, &mut buf, 0) {
                let mut sent = 0;
                while sent < n {
                    match sys::send(fd, &buf[sent..n], libc::MSG_NOSIGNAL) {
                        Ok(more) => sent += more,
                        Err(_) => break 'open,
                    }
                }
            }
            let _ = sys::close(fd);
        });
    };
    std::thread::spawn(move || loop {
        if let Ok(fd) = sys::accept4(listener, libc::SOCK_CLOEXEC) {
            serve(fd);
        }
    });
    for line in std::io::stdin().lock().lines() {
        let port = line.expect("input").parse().expect("a port");
        connect(port).into_iter().for_each(serve);
    }
}

struct Connection {
    fd: RawFd,
    /// Received and still to be sent back.
    owed: Vec<u8>,
}

fn event_loop(listener: RawFd) {
    const INPUT: u64 = u64::MAX;
    let epfd = sys::epoll_create();
    sys::set_nonblocking(listener, true);
    sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, listener, libc::EPOLLIN as u32, listener as u64)
        .expect("epoll_ctl");
    sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, 0, libc::EPOLLIN as u32, INPUT).expect("epoll_ctl");
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let mut opened = None;
        for (_, data) in sys::epoll_wait(epfd, 16, -1).expect("epoll_wait") {
            if data == INPUT {
                let mut line = String::new();
                if std::io::stdin().read_line(&mut line).expect("input") == 0 {
                    return;
                }
                opened = connect(line.trim().parse().expect("a port"));
            } else if data == listener as u64 {
                opened = sys::accept4(listener, libc::SOCK_CLOEXEC).ok();
            } else if let Some(at) = connections.iter().position(|c| c.fd as u64 == data) {
                if !connections[at].go_on(epfd) {
                    let _ = sys::close(connections.swap_remove(at).fd);
                }
            }
            if let Some(fd) = opened.take() {
                sys::set_nonblocking(fd, true);
                sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN as u32, fd as u64)
                    .expect("epoll_ctl");
                connections.push(Connection { fd, owed: Vec::new() });
            }
        }
    }
}

impl Connection {
    /// False: the connection is to be closed.
    fn go_on(&mut self, epfd: RawFd) -> bool {
        if self.owed.is_empty() {
            let mut buf = [0; 20_000];
            match sys::recv(self.fd, &mut buf, 0) {
                Ok(0) => return false,
                Ok(n) => self.owed.extend(&buf[..n]),
                Err(libc::EAGAIN) => return true,
                Err(_) => return false,
            }
        }
        match sys::send(self.fd, &self.owed, libc::MSG_NOSIGNAL) {
            Ok(n) => drop(self.owed.drain(..n)),
            Err(libc::EAGAIN) => {}
            Err(_) => return false,
        }
        let events = if self.owed.is_empty() { libc::EPOLLIN } else { libc::EPOLLOUT };
        sys::epoll_ctl(epfd, libc::EPOLL_CTL_MOD, self.fd, events as u32, self.fd as u64).is_ok()
    }
}
