//! Writer and reader against each other, and each against what it must survive.

use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::reader::Search;
use super::rundir::{self, RunDirs};
use super::schema::*;
use super::writer::{file_name, parse_file_name, parse_stat, Writer};
use super::{Ends, SocketRecord};
use crate::reason::{Detail, Reason, Why};

/// A run directory that goes away with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("smc-registry-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Dir(path)
    }

    fn list(&self) -> Vec<SocketRecord> {
        Search::in_dir(&self.0).sockets().unwrap()
    }

    fn names(&self) -> Vec<String> {
        fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn writer_in(path: &Path) -> &'static Writer {
    let writer: &'static Writer = Box::leak(Box::new(Writer::new()));
    writer.set_dirs(Box::leak(Box::new(RunDirs::new(Some(path.as_os_str().as_bytes()), None, uid()))));
    writer
}

/// Entries in private memory.
fn private_writer() -> &'static Writer {
    writer_in(Path::new("/proc/nowhere"))
}

fn uid() -> u32 {
    super::calls::effective_uid()
}

fn pair() -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (listener, client, server)
}

/// A live process that is not this one.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Sleeper {
        Sleeper(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// The name that its registry file would have.
    fn file_name(&self) -> String {
        name_of(self.pid(), 0)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn name_of(pid: i32, start_offset: u64) -> String {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap();
    let (_, _, start) = parse_stat(&stat).unwrap();
    let name = file_name(pid, start + start_offset, pid_ns());
    name.as_c_str().to_str().unwrap().to_owned()
}

fn pid_ns() -> u64 {
    fs::metadata("/proc/self/ns/pid").unwrap().ino()
}

/// Runs `f` in a forked child and returns what it returned, which must be from 0 to 200.
///
/// The child has one thread of a process of many: `f` may not allocate or print.
fn in_child(f: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child calls only `f`, which keeps to the above, and _exit.
    match unsafe { libc::fork() } {
        0 => {
            let code = f();
            // SAFETY: ends the child.
            unsafe { libc::_exit(code) }
        }
        pid => exit_code(pid),
    }
}

fn exit_code(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: waits for a child of ours.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "child killed by signal {}", libc::WTERMSIG(status));
    libc::WEXITSTATUS(status)
}

#[test]
fn a_reader_sees_what_the_writer_published() {
    let dir = Dir::new();
    let writer = writer_in(&dir.0);
    let (listener, client, server) = pair();
    let entry = writer.alloc(client.as_raw_fd(), Kind::Connection);
    assert!(writer.is_published());
    entry.set_why(Detail::NotBusyYet.into());
    entry.set_peer_reason(Reason::PeerNoSmc.code());
    entry.add_tcp_rx(10);
    entry.add_tcp_rx(1);
    entry.add_tcp_tx(20);
    entry.add_ring_rx(30);
    entry.add_ring_tx(40);
    entry.add_switch();
    writer.alloc(listener.as_raw_fd(), Kind::Listener);

    let records = dir.list();
    let local = client.local_addr().unwrap().to_string();
    let peer = server.local_addr().unwrap().to_string();
    let r = records.iter().find(|r| r.fd == client.as_raw_fd()).unwrap();
    assert_eq!((r.pid, r.uid, r.state), (std::process::id() as i32, uid(), "ACTIVE"));
    assert_eq!(r.comm, fs::read_to_string("/proc/self/comm").unwrap().trim());
    assert_eq!((&r.local, &r.peer), (&local, &peer));
    assert_eq!((r.mode, &*r.reason, &*r.peer_reason), ("TCP", "0x03010001", "0x03010000"));
    assert_eq!(r.reason_text, Detail::NotBusyYet.sentence());
    assert_eq!((r.tcp_rx_bytes, r.tcp_tx_bytes, r.ring_rx_bytes, r.ring_tx_bytes), (11, 20, 30, 40));
    assert_eq!(r.switches, 1);
    let link = fs::read_link(format!("/proc/self/fd/{}", r.fd)).unwrap();
    assert_eq!(link.to_str().unwrap(), format!("socket:[{}]", r.inode));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(r.since <= now && r.since > now - 3_600_000, "{} is not a time shortly before {now}", r.since);

    let l = records.iter().find(|r| r.fd == listener.as_raw_fd()).unwrap();
    assert_eq!((l.state, &*l.local, &*l.peer, l.mode), ("LISTEN", &*peer, "", "TCP"));
    assert_eq!((&*l.reason, &*l.reason_text), ("0x00000000", "listening"));
    assert_eq!(records.len(), 2);

    // SMC_REPORT writes the same record from inside.
    assert_eq!(&SocketRecord::of_own(entry, client.as_raw_fd(), None), r);

    entry.set_mode(Mode::Smcd);
    let r = dir.list().into_iter().find(|r| r.fd == client.as_raw_fd()).unwrap();
    assert_eq!((r.mode, &*r.reason, &*r.peer_reason), ("SMCD", "0x00000000", "0x00000000"));
    entry.set_status(Mode::Tcp, Reason::Mem.into());
    let r = dir.list().into_iter().find(|r| r.fd == client.as_raw_fd()).unwrap();
    assert_eq!((r.mode, &*r.reason, &*r.reason_text), ("TCP", "0x01010000", Reason::Mem.sentence()));
}

#[test]
fn ipv6_and_mapped_addresses_are_shown_as_the_kernel_has_them() {
    let dir = Dir::new();
    let writer = writer_in(&dir.0);
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client6 = TcpStream::connect(("::1", port)).unwrap();
    let (server6, _) = listener.accept().unwrap();
    let client4 = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (mapped, _) = listener.accept().unwrap();
    for s in [&client6, &server6, &client4, &mapped] {
        writer.alloc(s.as_raw_fd(), Kind::Connection);
    }
    let records = dir.list();
    let of = |s: &TcpStream| records.iter().find(|r| r.fd == s.as_raw_fd()).unwrap();
    assert_eq!(of(&client6).peer, format!("[::1]:{port}"));
    assert_eq!(of(&server6).local, format!("[::1]:{port}"));
    assert_eq!(of(&client4).peer, format!("127.0.0.1:{port}"));
    assert_eq!(of(&mapped).local, format!("[::ffff:127.0.0.1]:{port}"));
    let entry = writer.alloc(mapped.as_raw_fd(), Kind::Connection);
    assert_eq!(SocketRecord::of_own(entry, mapped.as_raw_fd(), None).local, of(&mapped).local);
}

#[test]
fn states_follow_the_half_closes_of_the_connection() {
    let dir = Dir::new();
    let writer = writer_in(&dir.0);
    let (_listener, client, mut server) = pair();
    writer.alloc(client.as_raw_fd(), Kind::Connection);
    writer.alloc(server.as_raw_fd(), Kind::Connection);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    // The end of the stream has arrived.
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    let states: Vec<_> = dir.list().iter().map(|r| (r.fd, r.state)).collect();
    assert!(states.contains(&(client.as_raw_fd(), "PEERCLW1")), "{states:?}");
    assert!(states.contains(&(server.as_raw_fd(), "APPLCLW1")), "{states:?}");
}

#[test]
fn freed_closed_and_replaced_sockets_are_not_listed() {
    let dir = Dir::new();
    let writer = writer_in(&dir.0);
    let (listener, client, server) = pair();
    let freed = writer.alloc(client.as_raw_fd(), Kind::Connection);
    writer.free(freed);
    assert!(dir.list().is_empty());

    writer.alloc(server.as_raw_fd(), Kind::Connection);
    assert_eq!(dir.list().len(), 1);
    // Moved out of reach of other tests' sockets, which take low numbers.
    // SAFETY: duplicates a descriptor to an unused number.
    let high = unsafe { libc::fcntl(server.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 900) };
    assert!(high >= 900);
    let entry = writer.alloc(high, Kind::Connection);
    let own = SocketRecord::of_own(entry, high, None);
    entry.set_inode(own.inode);
    assert_eq!(dir.list().len(), 2);
    // SAFETY: `high` is ours; the listener's duplicate takes its place.
    assert_eq!(unsafe { libc::dup2(listener.as_raw_fd(), high) }, high);
    assert_eq!(dir.list().len(), 1, "another socket got the number");
    // SAFETY: `high` is ours.
    unsafe { libc::close(high) };
    assert_eq!(dir.list().len(), 1);
}

#[test]
fn a_reset_connection_keeps_the_addresses_the_caller_knew() {
    let writer = private_writer();
    let (_listener, client, server) = pair();
    let entry = writer.alloc(client.as_raw_fd(), Kind::Connection);
    let ends = Ends::of_fd(client.as_raw_fd());
    assert_eq!(ends, Ends { local: client.local_addr().ok(), peer: server.local_addr().ok() });
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: sets an option from a struct of that option's type.
    let set = unsafe {
        libc::setsockopt(
            server.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            &linger as *const _ as *const libc::c_void,
            std::mem::size_of::<libc::linger>() as u32,
        )
    };
    assert_eq!(set, 0);
    drop(server);
    assert!((&client).read(&mut [0]).is_err(), "reset");
    let record = SocketRecord::of_own(entry, client.as_raw_fd(), Some(ends));
    assert_eq!(record.state, "CLOSED");
    assert_eq!(record.peer, ends.peer.unwrap().to_string());
}

#[test]
fn json_fields_have_the_documented_names_and_order() {
    let writer = private_writer();
    let (_listener, client, _server) = pair();
    let entry = writer.alloc(client.as_raw_fd(), Kind::Connection);
    let line = SocketRecord::of_own(entry, client.as_raw_fd(), None).to_json_line();
    assert!(line.ends_with("}\n") && line.matches('\n').count() == 1);
    let want = [
        "pid",
        "comm",
        "fd",
        "uid",
        "inode",
        "state",
        "local",
        "peer",
        "mode",
        "reason",
        "peer_reason",
        "reason_text",
        "since",
        "tcp_rx_bytes",
        "tcp_tx_bytes",
        "ring_rx_bytes",
        "ring_tx_bytes",
        "switches",
    ];
    let mut at = 0;
    for key in want {
        let key = format!("\"{key}\":");
        at += line[at..].find(&key).unwrap_or_else(|| panic!("{key} is missing or out of order: {line}")) + 1;
    }
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value.as_object().unwrap().len(), want.len());
}

#[test]
fn files_of_dead_processes_are_removed_and_others_left() {
    let dir = Dir::new();
    let dead = {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        child.wait().unwrap();
        file_name(pid, 1, pid_ns()).as_c_str().to_str().unwrap().to_owned()
    };
    let sleeper = Sleeper::new();
    let reused = name_of(sleeper.pid(), 1);
    let foreign = file_name(1 << 22, 1, pid_ns() + 1).as_c_str().to_str().unwrap().to_owned();
    let mut kept = vec![sleeper.file_name(), foreign, "note.txt".to_owned(), "1-2-3-4.smc".to_owned()];
    for name in kept.iter().chain([&dead, &reused]) {
        fs::write(dir.0.join(name), b"whatever").unwrap();
    }
    assert!(dir.list().is_empty());
    let mut names = dir.names();
    names.sort();
    kept.sort();
    assert_eq!(names, kept);
}

#[test]
fn a_writer_that_opens_removes_files_of_dead_processes() {
    let dir = Dir::new();
    let mut child = Command::new("true").spawn().unwrap();
    let dead = file_name(child.id() as i32, 1, pid_ns());
    child.wait().unwrap();
    let foreign = file_name(child.id() as i32, 1, pid_ns() + 1);
    for name in [&dead, &foreign] {
        fs::write(dir.0.join(name.as_c_str().to_str().unwrap()), b"").unwrap();
    }
    writer_in(&dir.0).alloc(0, Kind::Connection);
    let mut want =
        vec![name_of(std::process::id() as i32, 0), foreign.as_c_str().to_str().unwrap().to_owned()];
    let mut names = dir.names();
    names.sort();
    want.sort();
    assert_eq!(names, want);
}

#[test]
fn garbage_in_the_directory_hides_nothing_and_hurts_nobody() {
    let dir = Dir::new();
    let writer = writer_in(&dir.0);
    let (_listener, client, _server) = pair();
    writer.alloc(client.as_raw_fd(), Kind::Connection);
    let own = dir.0.join(name_of(std::process::id() as i32, 0));
    let good = fs::read(&own).unwrap()[..4096].to_vec();

    let sleeper = Sleeper::new();
    let victim = dir.0.join(sleeper.file_name());
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        // Says that it is the sleeper's, whose descriptor numbers then lead nowhere or to no socket.
        file[20..24].copy_from_slice(&sleeper.pid().to_ne_bytes());
        let start = parse_file_name(sleeper.file_name().as_bytes()).unwrap().1;
        file[24..32].copy_from_slice(&start.to_ne_bytes());
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let mut noise = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = vec![0u8; 5000];
    for b in &mut random {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *b = (noise >> 56) as u8;
    }
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("short header", good[..100].to_vec()),
        ("random", random.clone()),
        ("random entries", {
            let mut file = with(0, &[]);
            file.splice(128.., random.iter().copied());
            file[52..56].copy_from_slice(&(CAPACITY as u32).to_ne_bytes());
            file
        }),
        ("another process's header", good.clone()),
        ("count beyond capacity", with(52, &u32::MAX.to_ne_bytes())),
        ("count beyond the file", with(52, &(CAPACITY as u32).to_ne_bytes())),
        ("other version", with(8, &99u32.to_ne_bytes())),
        ("odd entry size", with(12, &0u32.to_ne_bytes())),
        ("entry cut in half", with(0, &[])[..192].to_vec()),
        ("negative descriptor", with(132, &(-1i32).to_ne_bytes())),
        ("unknown mode", with(136, &u64::MAX.to_ne_bytes())),
        ("unknown kind", with(184, &7u32.to_ne_bytes())),
    ];
    for (what, content) in files {
        fs::write(&victim, content).unwrap();
        let records = dir.list();
        assert_eq!(records.len(), 1, "{what}");
        assert_eq!(records[0].fd, client.as_raw_fd(), "{what}");
    }
    fs::remove_file(&victim).unwrap();

    let path = CString::new(victim.as_os_str().as_bytes()).unwrap();
    // SAFETY: makes a FIFO at a path of ours.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    assert_eq!(dir.list().len(), 1, "a FIFO blocks nobody");
    fs::remove_file(&victim).unwrap();
    symlink(&own, &victim).unwrap();
    assert_eq!(dir.list().len(), 1, "a symbolic link is not followed");
    fs::remove_file(&victim).unwrap();
    fs::create_dir(&victim).unwrap();
    assert_eq!(dir.list().len(), 1, "a directory is not a file");
}

#[test]
fn a_reason_unknown_to_this_version_is_shown_as_a_number() {
    let dir = Dir::new();
    let writer = writer_in(&dir.0);
    let (_listener, client, _server) = pair();
    writer.alloc(client.as_raw_fd(), Kind::Connection);
    let own = dir.0.join(name_of(std::process::id() as i32, 0));
    let file = fs::OpenOptions::new().write(true).open(own).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &(0x0301_7777u64 << 32).to_ne_bytes(), 128 + 8).unwrap();
    let record = &dir.list()[0];
    assert_eq!((&*record.reason, &*record.reason_text), ("0x03017777", "reason not known to this version"));
}

#[test]
fn a_file_of_another_user_is_not_believed() {
    if uid() != 0 {
        eprintln!("skipped: giving files away needs root");
        return;
    }
    let dir = Dir::new();
    let writer = writer_in(&dir.0);
    let (_listener, client, _server) = pair();
    writer.alloc(client.as_raw_fd(), Kind::Connection);
    let own = dir.0.join(name_of(std::process::id() as i32, 0));
    std::os::unix::fs::chown(&own, Some(12345), None).unwrap();
    assert!(dir.list().is_empty());
    std::os::unix::fs::chown(&own, Some(0), None).unwrap();
    assert_eq!(dir.list().len(), 1);
}

#[test]
fn unsafe_directories_are_not_used() {
    let dir = Dir::new();
    let link = dir.0.join("link");
    let real = dir.0.join("real");
    fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    let file = dir.0.join("file");
    fs::write(&file, b"").unwrap();
    let open = dir.0.join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    for unusable in [&link, &file, &open, &file.join("below"), Path::new("/proc/smc")] {
        let writer = writer_in(unusable);
        let entry = writer.alloc(5, Kind::Connection);
        assert!(!writer.is_published(), "{}", unusable.display());
        // The program's side goes on all the same.
        assert!(!writer.is_overflow(entry));
        assert_eq!(entry.fd(), 5);
    }
    assert_eq!(fs::read_dir(&real).unwrap().count() + fs::read_dir(&open).unwrap().count(), 0);

    fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
    let writer = writer_in(&open);
    writer.alloc(5, Kind::Connection);
    assert!(writer.is_published(), "sticky is safe");
}

#[test]
fn a_directory_is_safe_if_nobody_else_can_replace_files_in_it() {
    let dir = libc::S_IFDIR;
    for (owner, mode, safe) in [
        (1000, dir | 0o700, true),
        (1000, dir | 0o755, true),
        (1000, dir | 0o775, false),
        (1000, dir | 0o757, false),
        (1000, dir | 0o1777, true),
        (0, dir | 0o1777, true),
        (0, dir | 0o755, true),
        (0, dir | 0o777, false),
        (1001, dir | 0o700, false),
        (1001, dir | 0o1777, false),
        (1000, libc::S_IFREG | 0o700, false),
    ] {
        assert_eq!(rundir::is_safe(owner, mode, 1000), safe, "owner {owner} mode {mode:o}");
    }
}

#[test]
fn candidates_come_in_order_and_odd_environment_values_are_ignored() {
    let list = |run: Option<&[u8]>, xdg: Option<&[u8]>| -> Vec<String> {
        RunDirs::new(run, xdg, 1000).iter().map(|d| d.to_str().unwrap().to_owned()).collect()
    };
    let usual = ["/run/smc", "/run/user/1000/smc", "/tmp/smc-1000"];
    assert_eq!(list(None, Some(b"/run/user/1000")), usual);
    assert_eq!(list(Some(b"/some/where"), Some(b"/run/user/1000")), ["/some/where"]);
    let environment = |name: &str| (name == "XDG_RUNTIME_DIR").then_some("/run/user/1000");
    assert!(RunDirs::from_vars(environment, 1000).iter().map(|d| d.to_str().unwrap()).eq(usual));
    let environment = |name: &str| Some(if name == "SMC_RUN_DIR" { "/some/where" } else { "/run/user/1000" });
    assert!(RunDirs::from_vars(environment, 1000).iter().map(|d| d.to_str().unwrap()).eq(["/some/where"]));
    let long = [b'/'; 201];
    for odd in [&b""[..], b"relative", &long, b"/a\0b"] {
        assert_eq!(list(Some(odd), None), ["/run/smc", "/tmp/smc-1000"]);
        assert_eq!(list(None, Some(odd)), ["/run/smc", "/tmp/smc-1000"]);
    }
}

#[test]
fn closing_unlinks_the_file_and_entries_stay_usable() {
    let dir = Dir::new();
    let writer = writer_in(&dir.0);
    let entry = writer.alloc(7, Kind::Connection);
    assert_eq!(dir.names(), [name_of(std::process::id() as i32, 0)]);
    let mode = fs::metadata(dir.0.join(&dir.names()[0])).unwrap().permissions().mode();
    assert_eq!(mode & 0o022, 0, "others may not write");
    writer.close();
    assert!(dir.names().is_empty());
    entry.add_tcp_rx(1);
    writer.free(entry);
    assert_eq!(writer.alloc(8, Kind::Connection).fd(), 8);
    assert!(dir.names().is_empty());
}

#[test]
fn the_file_that_this_process_left_before_exec_is_replaced() {
    let dir = Dir::new();
    let (_listener, client, _server) = pair();
    fs::write(dir.0.join(name_of(std::process::id() as i32, 0)), b"from the former program").unwrap();
    let writer = writer_in(&dir.0);
    writer.alloc(client.as_raw_fd(), Kind::Connection);
    assert_eq!(dir.list().len(), 1);
}

#[test]
fn a_forked_child_publishes_in_a_file_of_its_own() {
    let dir = Dir::new();
    let writer = writer_in(&dir.0);
    let (_listener, client, server) = pair();
    let entry = writer.alloc(client.as_raw_fd(), Kind::Connection);
    entry.add_tcp_rx(5);
    let (go_on, hold) = std::os::unix::net::UnixStream::pair().unwrap();
    let (mut is_ready, ready) = std::os::unix::net::UnixStream::pair().unwrap();
    // SAFETY: the child keeps to system calls and the writer, which is made for this.
    let child = unsafe { libc::fork() };
    if child == 0 {
        writer.after_fork();
        let kept = entry.fd() == client.as_raw_fd() && entry.snapshot().tcp_rx == 5;
        // To no effect: not on the parent's file, and not a crash.
        entry.add_tcp_rx(100);
        writer.free(entry);
        writer.alloc(server.as_raw_fd(), Kind::Connection).add_tcp_tx(7);
        let mut byte = 0u8;
        // SAFETY: one byte each way, and the end.
        unsafe {
            libc::close(go_on.as_raw_fd());
            libc::write(ready.as_raw_fd(), (&byte as *const u8).cast(), 1);
            libc::read(hold.as_raw_fd(), (&mut byte as *mut u8).cast(), 1);
            writer.close();
            libc::_exit(i32::from(!kept));
        }
    }
    is_ready.read_exact(&mut [0]).unwrap();
    let records = dir.list();
    let seen: Vec<_> = records.iter().map(|r| (r.pid, r.fd, r.tcp_rx_bytes, r.tcp_tx_bytes)).collect();
    let mut want = [(std::process::id() as i32, client.as_raw_fd(), 5, 0), (child, server.as_raw_fd(), 0, 7)];
    want.sort();
    assert_eq!(seen, want);
    drop(go_on);
    assert_eq!(exit_code(child), 0);
    assert_eq!(dir.names(), [name_of(std::process::id() as i32, 0)]);
}

#[test]
fn a_child_made_behind_our_back_does_not_remove_the_parents_file() {
    let dir = Dir::new();
    let writer = writer_in(&dir.0);
    writer.alloc(7, Kind::Connection);
    assert_eq!(
        in_child(|| {
            writer.close();
            0
        }),
        0
    );
    assert_eq!(dir.names().len(), 1);
}

#[test]
fn a_limit_on_file_sizes_costs_the_listing_and_not_the_process() {
    let dir = Dir::new();
    let writer = writer_in(&dir.0);
    let code = in_child(|| {
        let limit = libc::rlimit { rlim_cur: 4096, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: limits this child.
        if unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) } != 0 {
            return 1;
        }
        let entry = writer.alloc(7, Kind::Connection);
        entry.add_tcp_rx(3);
        if writer.is_published() {
            2
        } else if writer.is_overflow(entry) {
            3
        } else {
            0
        }
    });
    assert_eq!(code, 0);
    assert!(dir.names().is_empty());
}

#[test]
fn no_descriptor_left_to_open_costs_the_listing_and_not_the_process() {
    let dir = Dir::new();
    let writer = writer_in(&dir.0);
    let code = in_child(|| {
        let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: limits this child.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
            return 1;
        }
        let entry = writer.alloc(7, Kind::Connection);
        i32::from(writer.is_published() || writer.is_overflow(entry))
    });
    assert_eq!(code, 0);
}

#[test]
fn a_full_file_system_costs_the_listing_and_not_the_process() {
    const SKIP: i32 = 77;
    let dir = Dir::new();
    let writer = writer_in(&dir.0);
    let path = CString::new(dir.0.as_os_str().as_bytes()).unwrap();
    let code = in_child(|| {
        let tmpfs = c"tmpfs".as_ptr().cast::<libc::c_char>();
        let root = c"/".as_ptr().cast::<libc::c_char>();
        let options = c"size=8k,mode=700".as_ptr().cast();
        // SAFETY: system calls that change this child's view only: private mounts, and a tmpfs of two pages.
        let mounted = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(tmpfs, root, tmpfs, libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()) == 0
                && libc::mount(tmpfs, path.as_ptr(), tmpfs, 0, options) == 0
        };
        if !mounted {
            return SKIP;
        }
        // 31 beside the header, 32 in the second page, nothing more.
        let mut listed = 0;
        for fd in 0..200 {
            let entry = writer.alloc(fd, Kind::Connection);
            entry.add_ring_tx(1);
            listed += i32::from(!writer.is_overflow(entry));
        }
        if writer.is_published() {
            listed
        } else {
            200
        }
    });
    if code == SKIP {
        eprintln!("skipped: mounting needs root");
        return;
    }
    // Large pages hold more.
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    assert_eq!(code, if page == 4096 { 63 } else { 200 });
}

#[test]
fn entries_are_unique_while_threads_come_and_go() {
    let writer = private_writer();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                let mut mine = Vec::new();
                for round in 0..2000 {
                    let fd = thread * 10_000 + round;
                    mine.push((writer.alloc(fd, Kind::Connection), fd));
                    if round % 3 == 0 {
                        let (entry, fd) = mine.swap_remove(round as usize % mine.len());
                        assert_eq!(entry.fd(), fd);
                        writer.free(entry);
                    }
                }
                for (entry, fd) in mine {
                    assert_eq!(entry.fd(), fd);
                    assert!(!writer.is_overflow(entry));
                    writer.free(entry);
                }
            });
        }
    });
}

#[test]
fn a_full_registry_shares_one_entry_and_recovers() {
    let writer = private_writer();
    let entries: Vec<_> = (0..CAPACITY as i32).map(|fd| writer.alloc(fd, Kind::Connection)).collect();
    assert!(entries.iter().all(|e| !writer.is_overflow(e)));
    let extra = writer.alloc(-1, Kind::Connection);
    assert!(writer.is_overflow(extra));
    writer.free(extra);
    assert!(writer.is_overflow(writer.alloc(-1, Kind::Connection)));
    writer.free(entries[40_000]);
    let again = writer.alloc(77, Kind::Connection);
    assert!(std::ptr::eq(again, entries[40_000]));
    assert!(writer.is_overflow(writer.alloc(-1, Kind::Connection)));
}

#[test]
fn low_entries_are_used_first() {
    let writer = private_writer();
    let entries: Vec<_> = (0..300).map(|fd| writer.alloc(fd, Kind::Connection)).collect();
    writer.free(entries[200]);
    writer.free(entries[3]);
    assert!(std::ptr::eq(writer.alloc(1, Kind::Connection), entries[3]));
    assert!(std::ptr::eq(writer.alloc(1, Kind::Connection), entries[200]));
}

#[test]
fn a_new_socket_in_an_old_entry_starts_from_nothing() {
    let writer = private_writer();
    let old = writer.alloc(4, Kind::Listener);
    old.set_status(Mode::Smcd, Why::from(Detail::IoUring));
    old.set_peer_reason(9);
    old.set_inode(5);
    old.add_tcp_rx(1);
    old.add_tcp_tx(1);
    old.add_ring_rx(1);
    old.add_ring_tx(1);
    old.add_switch();
    let before = old.snapshot();
    writer.free(old);
    assert!(!old.snapshot().is_live());
    let new = writer.alloc(6, Kind::Connection);
    assert!(std::ptr::eq(old, new));
    let s = new.snapshot();
    assert!(s.is_live() && !s.same_socket(&before));
    assert_eq!(
        (s.fd, s.kind(), s.mode(), s.why()),
        (6, Some(Kind::Connection), Some(Mode::Tcp), Some(Why::NONE))
    );
    assert_eq!((s.peer_reason, s.inode, s.switches), (0, 0, 0));
    assert_eq!((s.tcp_rx, s.tcp_tx, s.ring_rx, s.ring_tx), (0, 0, 0, 0));
}

#[test]
fn mode_and_reason_change_independently() {
    let writer = private_writer();
    let entry = writer.alloc(4, Kind::Connection);
    for &reason in Reason::ALL {
        for mode in [Mode::Tcp, Mode::Smcd, Mode::Smcr] {
            entry.set_why(reason.into());
            entry.set_mode(mode);
            assert_eq!((entry.mode(), entry.why()), (mode, reason.into()));
        }
    }
}

#[test]
fn the_decoded_bytes_of_an_entry_are_its_snapshot() {
    let writer = private_writer();
    let entry = writer.alloc(0x0102_0304, Kind::Listener);
    entry.set_status(Mode::Smcr, Detail::Panicked.into());
    entry.set_peer_reason(0x1122_3344);
    entry.set_inode(1 << 40);
    entry.add_tcp_rx(2 << 40);
    entry.add_tcp_tx(3 << 40);
    entry.add_ring_rx(4 << 40);
    entry.add_ring_tx(5 << 40);
    entry.add_switch();
    // SAFETY: an entry is atomics without padding, and nobody changes it now.
    let bytes = unsafe { &*(entry as *const Entry as *const [u8; ENTRY_SIZE]) };
    assert_eq!(Snapshot::decode(bytes), entry.snapshot());
}

#[test]
fn a_process_name_may_contain_anything() {
    let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
    for name in ["cat", "a b", ") R 1 2 (", "", "((", "))"] {
        let stat = format!("42 ({name}) {rest}\n");
        assert_eq!(parse_stat(stat.as_bytes()), Some((42, name.as_bytes(), 4711)));
    }
    for odd in ["", "42", "42 (", "42 (x", "42 (x)", "42 (x) ", "42 (x) S 1 2", "x (x) S", "42(x) S"] {
        assert_eq!(parse_stat(odd.as_bytes()), None, "{odd:?}");
    }
}

#[test]
fn file_names_have_one_spelling() {
    assert_eq!(parse_file_name(b"12-34-56.smc"), Some((12, 34, 56)));
    for odd in [
        "12-34.smc",
        "12-34-56",
        "12-34-56-7.smc",
        "012-34-56.smc",
        "+12-34-56.smc",
        "0-1-2.smc",
        "a-1-2.smc",
    ] {
        assert_eq!(parse_file_name(odd.as_bytes()), None, "{odd}");
    }
}

#[test]
fn a_named_directory_that_cannot_be_read_is_an_error_and_a_missing_one_is_empty() {
    let dir = Dir::new();
    assert!(Search::in_dir(&dir.0.join("missing")).sockets().unwrap().is_empty());
    fs::write(dir.0.join("file"), b"").unwrap();
    let error = Search::in_dir(&dir.0.join("file")).sockets().unwrap_err();
    assert!(error.to_string().contains("/file"), "{error}");
}

#[test]
fn descriptors_are_not_kept() {
    let dir = Dir::new();
    let writer = writer_in(&dir.0);
    // In a child: other tests open descriptors all the time.
    let code = in_child(|| {
        // SAFETY: takes the lowest free number, twice.
        let free = |n: i32| unsafe { libc::fcntl(n, libc::F_DUPFD, 0) };
        let before = free(0);
        // SAFETY: our number.
        unsafe { libc::close(before) };
        writer.alloc(7, Kind::Connection);
        let after = free(0);
        i32::from(!writer.is_published() || before != after)
    });
    assert_eq!(code, 0);
}

#[test]
fn a_closed_descriptor_makes_no_record_of_somebody_elses_addresses() {
    let (_listener, client, _server) = pair();
    let fd = client.into_raw_fd();
    // SAFETY: duplicates to a high number and closes it again.
    let high = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 950) };
    // SAFETY: both are ours.
    unsafe {
        libc::close(high);
        libc::close(fd);
    }
    assert_eq!(Ends::of_fd(high), Ends::default());
}
