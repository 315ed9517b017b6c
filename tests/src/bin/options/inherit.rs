//! Options that nobody was seen to set: a program without the library makes a listener, sets one, and executes this
//! program under the library, which accepts from it.

use super::{connect, exchange, reported};
use smc_tests::net::Family;
use smc_tests::sys;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// By what accepted sockets inherit, or the listener itself does. The last is one that keeps nothing on TCP.
const OPTIONS: [(&str, i32, i32, i32); 5] = [
    ("TCP_FASTOPEN", libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 5),
    ("TCP_FASTOPEN_NO_COOKIE", libc::IPPROTO_TCP, 34, 1),
    ("SO_ZEROCOPY", libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1),
    ("SO_PEEK_OFF", libc::SOL_SOCKET, smc_core::options::SO_PEEK_OFF, 0),
    ("TCP_NODELAY", libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
];

/// Without the library: one program for each option.
pub fn start() -> ExitCode {
    let library = std::env::var_os("SMC_PRELOAD").expect("SMC_PRELOAD");
    let report = std::env::temp_dir().join(format!("smc-options.{}.json", std::process::id()));
    let (mut passed, mut failed) = (0, 0);
    for (i, (name, level, number, value)) in OPTIONS.into_iter().enumerate() {
        let (listener, port) = Family::V4.listener(0).expect("listen");
        sys::setsockopt(listener, level, number, value).unwrap_or_else(|e| panic!("{name}: {e}"));
        sys::fcntl(listener, libc::F_SETFD, 0).expect("F_SETFD");
        let mut command = Command::new("/proc/self/exe");
        command.args(["--inherited", &format!("{i} {listener} {port}")]);
        command.env("LD_PRELOAD", &library).env("SMC_UPGRADE_AFTER", "0").env("SMC_REPORT", &report);
        // SAFETY: asks for one thing that is safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                sys::die_with_parent();
                Ok(())
            })
        };
        let output = command.output().expect("this program again");
        sys::close(listener).expect("close");
        if output.status.success() {
            passed += 1;
        } else {
            failed += 1;
            println!("options: inherited {name}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let _ = std::fs::remove_file(report);
    println!("options: {passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

/// Under the library: what the listener accepts is on TCP, and says why.
pub fn go_on(what: Option<String>) -> ExitCode {
    let what = what.expect("which");
    let mut words = what.split(' ').map(|word| word.parse::<usize>().expect("a number"));
    let mut next = || words.next().expect("three numbers");
    let (name, listener, port) = (OPTIONS[next()].0, next() as i32, next() as u16);
    let near = Family::V4.client_socket(0).expect("socket");
    let mut ends = connect(near, listener, &Family::V4.target(port));
    exchange(&mut ends);
    exchange(&mut ends);
    let far = reported(near, ends.1.fd).expect("a report").far;
    let want = match name {
        "TCP_NODELAY" => ("SMCD", "0x00000000"),
        _ => ("TCP", "0x03010001"),
    };
    assert_eq!((far["mode"].as_str(), far["reason"].as_str()), (Some(want.0), Some(want.1)), "{far}");
    if want.0 == "TCP" {
        let text = far["reason_text"].as_str().expect("a sentence");
        assert!(text.contains("was found on the descriptor"), "{text}");
    }
    ExitCode::SUCCESS
}
