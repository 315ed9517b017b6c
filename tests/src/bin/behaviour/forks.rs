//! What `fork` finds and leaves: in a signal handler, when it fails, and what of the parent's a child keeps.

use crate::processes::{await_turn, give_turn};
use smc_tests::net::Family;
use smc_tests::pair::{End, Pair};
use smc_tests::sys::{self, fork_child, wait_child};
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};

crate::tests! {
    fresh a_fork_that_fails_does_not_keep_a_connection_from_moving;
    fresh a_daemon_that_cannot_be_made_does_not_keep_a_connection_from_moving;
    fresh a_terminals_process_that_cannot_be_made_does_not_keep_a_connection_from_moving;
    alone what_only_a_child_has_left_is_in_no_instance_of_its_parent;
    alone signal_handlers_that_fork_disturb_nothing stays;
}

/// Installs a filter with which `fork` fails, as it does when there are too many processes (EAGAIN), by calls that the
/// library does not see: filters are a reason of their own for TCP.
fn let_forks_fail() {
    let statement = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // struct seccomp_data begins with the number of the call. BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K.
    let filter = [
        statement(0x20, 0, 0, 0),
        statement(0x15, 0, 1, libc::SYS_clone as u32),
        statement(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EAGAIN as u32),
        statement(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let prctl = |option: i32, a: usize, b: usize| {
        // SAFETY: prctl(2) as the manual has it; the filter outlives the call.
        unsafe { smc_core::sys::raw::call(libc::SYS_prctl, [option as usize, a, b, 0, 0, 0]) }
    };
    assert_eq!(prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0), Ok(0));
    let address = &program as *const libc::sock_fprog as usize;
    assert_eq!(prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER as usize, address), Ok(0));
}

fn a_fork_that_fails_does_not_keep_a_connection_from_moving(pair: &mut Pair) {
    let_forks_fail();
    for _ in 0..3 {
        // SAFETY: there is no child.
        assert_eq!(unsafe { libc::fork() }, -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN));
    }
    pair.exchange_pieces(100, 100);
}

fn a_daemon_that_cannot_be_made_does_not_keep_a_connection_from_moving(pair: &mut Pair) {
    let_forks_fail();
    // SAFETY: there is no child, and this process stays.
    assert_eq!(unsafe { libc::daemon(1, 1) }, -1);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN));
    pair.exchange_pieces(100, 100);
}

fn a_terminals_process_that_cannot_be_made_does_not_keep_a_connection_from_moving(pair: &mut Pair) {
    let_forks_fail();
    let (mut terminal, null) = (-1, std::ptr::null_mut());
    // SAFETY: the number is written to `terminal`; there is no child.
    assert_eq!(unsafe { libc::forkpty(&mut terminal, null, null.cast(), null.cast()) }, -1);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN));
    pair.exchange_pieces(100, 100);
}

/// Whether an epoll instance of this process lists the file with this inode.
fn is_in_an_instance(inode: u64) -> bool {
    let wanted = format!("ino:{inode:x}");
    let lists = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        text.lines()
            .any(|line| line.starts_with("tfd:") && line.split_whitespace().any(|word| word == wanted))
    };
    std::fs::read_dir("/proc/self/fdinfo").expect("/proc").flatten().any(lists)
}

/// The program has none; by one of its own the library shows who holds a socket.
fn what_only_a_child_has_left_is_in_no_instance_of_its_parent() {
    let inode = |fd: RawFd| std::fs::metadata(format!("/proc/self/fd/{fd}")).expect("fstat").ino();
    let (listener, port) = Family::V4.listener(0).expect("listen");
    // Duplicated after it was shown; and one that stays on TCP, and says so.
    for stays in [false, true] {
        let near = Family::V4.client_socket(0).expect("socket");
        if stays {
            sys::setsockopt(near, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1i32).expect("SO_ZEROCOPY");
        }
        sys::connect(near, &Family::V4.target(port)).expect("connect");
        let far = sys::accept(listener).expect("accept");
        let (mut near, mut far) = (End::near(near), End::far(far));
        for _ in 0..100 {
            near.send(1000);
            far.recv(1000);
            far.send(1000);
            near.recv(1000);
        }
        let shown = [inode(near.fd), inode(far.fd)];
        let ends = [near.fd, far.fd];
        let ends = if stays {
            ends
        } else {
            ends.map(|fd| {
                let other = sys::dup(fd).expect("dup");
                sys::close(fd).expect("close");
                other
            })
        };
        let (waits, go) = sys::pipe(0);
        let child = fork_child(|| await_turn(waits));
        ends.into_iter().for_each(|fd| sys::close(fd).expect("close"));
        assert_eq!(shown.map(is_in_an_instance), [false, false], "stays: {stays}");
        give_turn(go);
        assert_eq!(wait_child(child), 0);
    }
}

/// Children that the handler has made.
static FORKS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn fork_in_handler(_signal: libc::c_int) {
    FORKS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the process has one thread; the child ends.
    match unsafe { libc::fork() } {
        // SAFETY: ends the process.
        0 => unsafe { libc::_exit(0) },
        pid => assert!(pid > 0, "fork"),
    }
}

/// The handler interrupts the library in all that it does for a connection.
fn signal_handlers_that_fork_disturb_nothing() {
    sys::ignore_signal(libc::SIGCHLD);
    let (listener, port) = Family::V4.listener(0).expect("listen");
    sys::install_handler(libc::SIGALRM, fork_in_handler, libc::SA_RESTART);
    sys::interval_timer(5000);
    while FORKS.load(Ordering::Relaxed) < 100 {
        let near = Family::V4.client_socket(0).expect("socket");
        // A connect that is interrupted goes on, and fails when it is repeated.
        match sys::connect(near, &Family::V4.target(port)) {
            Ok(()) | Err(libc::EISCONN) => {}
            Err(errno) => panic!("connect: {}", sys::errno_name(errno)),
        }
        let far = sys::accept(listener).expect("accept");
        let (mut near, mut far) = (End::near(near), End::far(far));
        for _ in 0..20 {
            near.send(1000);
            far.recv(1000);
            far.send(1000);
            near.recv(1000);
        }
        sys::close(far.fd).and(sys::close(near.fd)).expect("close");
    }
    sys::interval_timer(0);
}
