//! smcss as a user runs it, over sockets that this process publishes.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use smc_core::reason::{Detail, Reason};
use smc_core::registry::{Entry, Kind, Mode, RunDirs, Writer};

/// A run directory in which this process publishes three sockets.
struct Scene {
    dir: PathBuf,
    writer: &'static Writer,
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
    client_entry: &'static Entry,
}

impl Scene {
    fn new() -> Scene {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("smcss-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        let writer: &'static Writer = Box::leak(Box::new(Writer::new()));
        writer.set_dirs(Box::leak(Box::new(RunDirs::new(Some(dir.as_os_str().as_bytes()), None, 0))));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        writer.alloc(listener.as_raw_fd(), Kind::Listener);
        let client_entry = writer.alloc(client.as_raw_fd(), Kind::Connection);
        client_entry.set_mode(Mode::Smcd);
        client_entry.add_ring_tx(5);
        client_entry.add_switch();
        let entry = writer.alloc(server.as_raw_fd(), Kind::Connection);
        entry.set_why(Detail::PeerReturned.into());
        entry.set_peer_reason(Reason::Active.code());
        assert!(writer.is_published());
        Scene { dir, writer, listener, client, server, client_entry }
    }

    fn run(&self, args: &[&str]) -> Output {
        smcss(&self.dir, args)
    }

    fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn sockets(&self, args: &[&str]) -> Vec<serde_json::Value> {
        let all = [args, &["--json"]].concat();
        let value: serde_json::Value = serde_json::from_str(&self.text(&all)).unwrap();
        value["sockets"].as_array().unwrap().clone()
    }

    fn client_row(&self) -> String {
        self.row("ACTIVE", &self.client, "SMCD")
    }

    fn server_row(&self) -> String {
        self.row("ACTIVE", &self.server, "TCP 0x05000000/0x03010001")
    }

    fn row(&self, state: &str, s: &TcpStream, mode: &str) -> String {
        let (local, peer) = (s.local_addr().unwrap().to_string(), s.peer_addr().unwrap().to_string());
        let (uid, inode) = owner_and_inode(s.as_raw_fd());
        format!("{state:14} {uid:05} {inode:07} {local:23} {peer:23} 0000 {mode}\n")
    }

    fn listener_row(&self) -> String {
        let (uid, inode) = owner_and_inode(self.listener.as_raw_fd());
        format!("LISTEN         {uid:05} {inode:07} {}\n", self.listener.local_addr().unwrap())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.writer.close();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

const HEADING: &str =
    "State          UID   Inode   Local Address           Peer Address            Intf Mode\n";

fn smcss(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_smcss")).args(args).env("SMC_RUN_DIR", dir).output().unwrap()
}

fn owner_and_inode(fd: i32) -> (u32, u64) {
    let link = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    let inode = link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap();
    // SAFETY: asks for a number.
    (unsafe { libc::geteuid() }, inode)
}

#[test]
fn the_options_select_sockets() {
    let scene = Scene::new();
    let (c, s, l) = (scene.client_row(), scene.server_row(), scene.listener_row());
    let table = |mut rows: Vec<(i32, &String)>| {
        rows.sort();
        rows.into_iter().fold(HEADING.to_owned(), |text, (_, row)| text + row)
    };
    let ends = vec![(scene.client.as_raw_fd(), &c), (scene.server.as_raw_fd(), &s)];
    let all = [&ends[..], &[(scene.listener.as_raw_fd(), &l)]].concat();
    assert_eq!(scene.text(&[]), table(ends));
    assert_eq!(scene.text(&["-a"]), table(all.clone()));
    assert_eq!(scene.text(&["--all"]), table(all));
    assert_eq!(scene.text(&["-l"]), format!("{HEADING}{l}"));
    assert_eq!(scene.text(&["-D"]), format!("{HEADING}{c}"));
    assert!(scene.text(&["-R"]).starts_with(HEADING.trim_end()) && scene.text(&["-R"]).lines().count() == 1);
    assert_eq!(scene.sockets(&[]).len(), 2);
    assert_eq!(scene.sockets(&["-a"]).len(), 3);
    assert_eq!(scene.sockets(&["-l"])[0]["state"], "LISTEN");
}

#[test]
fn json_has_everything_about_a_socket() {
    let scene = Scene::new();
    let sockets = scene.sockets(&[]);
    let of = |fd: i32| sockets.iter().find(|s| s["fd"] == fd).unwrap();
    let (c, s) = (of(scene.client.as_raw_fd()), of(scene.server.as_raw_fd()));
    assert_eq!(c["pid"], std::process::id());
    assert_eq!(c["comm"], fs::read_to_string("/proc/self/comm").unwrap().trim());
    assert_eq!(c["fd"], scene.client.as_raw_fd());
    assert_eq!(c["local"], scene.client.local_addr().unwrap().to_string());
    assert_eq!(c["peer"], scene.server.local_addr().unwrap().to_string());
    assert_eq!((&c["mode"], &c["reason"]), (&"SMCD".into(), &"0x00000000".into()));
    assert_eq!((&c["ring_tx_bytes"], &c["switches"]), (&5.into(), &1.into()));
    assert_eq!((&s["mode"], &s["reason"]), (&"TCP".into(), &"0x05000000".into()));
    assert_eq!(
        (&s["peer_reason"], &s["reason_text"]),
        (&"0x03010001".into(), &Detail::PeerReturned.sentence().into())
    );
}

#[test]
fn details_show_process_bytes_and_reason() {
    let scene = Scene::new();
    let text = scene.text(&["-d"]);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with(HEADING.trim_end()) && lines[0].ends_with(" Reason"), "{text}");
    let line = |part: &str| *lines.iter().find(|l| l.contains(part)).unwrap();
    let fields: Vec<_> = line(" SMCD ").split_whitespace().collect();
    assert_eq!(fields[7], std::process::id().to_string());
    assert!(fields.contains(&&*scene.client.as_raw_fd().to_string()), "{text}");
    assert!(line(" TCP 0x").ends_with(Detail::PeerReturned.sentence()), "{text}");
    assert_eq!(text, scene.text(&["--details"]));
}

#[test]
fn nothing_published_is_an_empty_table() {
    let output = smcss(Path::new("/proc/self/no-such-directory"), &[]);
    assert_eq!(
        (output.status.code(), String::from_utf8(output.stdout).unwrap()),
        (Some(0), HEADING.to_owned())
    );
    let output = smcss(Path::new("/proc/self/no-such-directory"), &["--json"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "{\"sockets\":[]}\n");
}

#[test]
fn errors_are_told_apart_by_status() {
    for (dir, args, status, part) in [
        ("relative", &[][..], 1, "SMC_RUN_DIR must be an absolute path"),
        ("/proc/self/status", &[], 1, "cannot read /proc/self/status"),
        ("/tmp", &["-a", "-l"], 2, "cannot be used with"),
        ("/tmp", &["--nonsense"], 2, "--nonsense"),
        ("/tmp", &["stray"], 2, "stray"),
    ] {
        let output = smcss(Path::new(dir), args);
        assert_eq!(output.status.code(), Some(status), "{dir} {args:?}");
        assert!(output.stdout.is_empty());
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_full_disk_is_an_error_and_a_closed_pipe_is_not() {
    let full = Command::new(env!("CARGO_BIN_EXE_smcss"))
        .arg("--reasons")
        .stdout(File::options().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    assert_eq!(full.status.code(), Some(1));
    assert!(String::from_utf8(full.stderr).unwrap().contains("cannot write"));

    let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(reader);
    let piped = Command::new(env!("CARGO_BIN_EXE_smcss"))
        .arg("--reasons")
        .stdout(std::os::fd::OwnedFd::from(writer))
        .output()
        .unwrap();
    assert!(piped.status.success() && piped.stderr.is_empty(), "{piped:?}");
}

#[test]
fn reasons_and_help_explain_the_codes() {
    let scene = Scene::new();
    assert!(scene.text(&["--reasons"]).contains("0x03010001  SMC_CLC_DECL_ACTIVE\n"));
    let help = scene.text(&["--help"]);
    for word in ["--all", "--listening", "--wide", "--debug", "--json", "EXIT STATUS", "SMC_RUN_DIR"] {
        assert!(help.contains(word), "{word} is not in the help");
    }
    assert_eq!(scene.text(&["-v"]), format!("smcss {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_listing_is_sound_while_sockets_come_and_go() {
    let scene = Scene::new();
    let stop = AtomicBool::new(false);
    let address = scene.listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let client = TcpStream::connect(address).unwrap();
                let (server, _) = scene.listener.accept().unwrap();
                let entries = [&client, &server].map(|s| {
                    let entry = scene.writer.alloc(s.as_raw_fd(), Kind::Connection);
                    entry.set_why(Detail::NotBusyYet.into());
                    entry
                });
                scene.client_entry.add_ring_tx(1);
                // Before the descriptors are closed: from then on other tests may get their numbers.
                for entry in entries {
                    scene.writer.free(entry);
                }
            }
        });
        for _ in 0..20 {
            let sockets = scene.sockets(&[]);
            let lasting = |fd: i32, mode: &str| sockets.iter().any(|s| s["fd"] == fd && s["mode"] == mode);
            assert!(lasting(scene.client.as_raw_fd(), "SMCD") && lasting(scene.server.as_raw_fd(), "TCP"));
            for s in &sockets {
                assert!(s["mode"] != "TCP" || s["reason"] != "0x00000000", "no reason: {s}");
                let port = format!(":{}", address.port());
                let ends = [&s["local"], &s["peer"]].map(|a| a.as_str().unwrap().to_owned());
                assert!(ends.iter().any(|a| a.ends_with(&port)), "{s}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn the_options_are_shown_as_a_table_and_as_json() {
    let dir = std::env::temp_dir();
    let text = |args: &[&str]| {
        let output = smcss(&dir, args);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let table = text(&["--options"]);
    let json: serde_json::Value = serde_json::from_str(&text(&["--options", "--json"])).unwrap();
    let rows = json["options"].as_array().unwrap();
    assert_eq!(rows.len(), smc_core::options::all().count());
    for (row, of_json) in smc_core::options::all().zip(rows) {
        assert!(table.lines().any(|line| line.contains(row.name) && line.contains(row.why)), "{}", row.name);
        assert_eq!(of_json["option"], row.name);
        let code = if row.code() == 0 { String::new() } else { format!("0x{:08x}", row.code()) };
        assert_eq!(of_json["code"], code);
    }
    assert!(!smcss(&dir, &["--options", "-a"]).status.success());
}
