//! Torture of TCP byte streams: position-coded bytes in random pieces by every call there is, in both directions of
//! many connections at once, checked at the receiver. See `--help`.

mod blocking;
mod board;
mod event_loop;
mod open;
mod options;
mod stream;

use board::Board;
use event_loop::EventLoop;
use open::Opener;
use options::{Layout, Options, Role, Wait, USAGE};
use smc_tests::net::Family;
use smc_tests::sys;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{exit, Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Ends a role with a message: the other end may be waiting for what will not come.
fn fail(message: &str) -> ! {
    eprintln!("torture: {message}");
    exit(1);
}

fn main() -> ExitCode {
    let mut options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}{}{USAGE}", if message.is_empty() { "" } else { "\n" });
            return ExitCode::from(if message.is_empty() { 0 } else { 2 });
        }
    };
    if let Some(role) = options.role {
        play(&options, role);
        return ExitCode::SUCCESS;
    }
    let (first, runs) = (options.seed, options.runs);
    let mut failed = 0;
    for seed in first..first + runs {
        options.seed = seed;
        // The random choices that the seed makes are made by the roles; here only for the report.
        if !watch(&options) {
            failed += 1;
            eprintln!("torture: FAILED; to repeat: torture {} --seed {seed}", options.given.join(" "));
        }
    }
    println!("torture: {} passed, {failed} failed", runs - failed);
    ExitCode::from(u8::from(failed > 0))
}

fn play(options: &Options, role: Role) {
    sys::die_with_parent();
    std::panic::set_hook(Box::new(|info| fail(&info.to_string())));
    sys::raise_descriptor_limit(4096);
    if options.signals {
        // Some handlers restart calls and some do not; a run has the one or the other.
        sys::handle_signal(libc::SIGALRM, if options.seed % 2 == 0 { libc::SA_RESTART } else { 0 });
        sys::interval_timer(3000);
    }
    let board = Arc::new(Board::open(options.board, options.connections as usize));
    let result = match role {
        Role::Server => serve(options, board, announce),
        Role::Client => open(options, board, options.port),
        Role::Both if options.layout == Layout::OneThread => one_thread(options, board),
        Role::Both => {
            let (sender, receiver) = std::sync::mpsc::channel();
            let (its_options, its_board) = (options.clone(), board.clone());
            let server = std::thread::spawn(move || {
                let result =
                    serve(&its_options, its_board, |port| sender.send(port).expect("the client waits"));
                if let Err(message) = &result {
                    fail(message);
                }
            });
            let result =
                receiver.recv().map_err(|e| e.to_string()).and_then(|port| open(options, board, port));
            if result.is_ok() {
                server.join().expect("the server thread fails by ending the process");
            }
            result
        }
    };
    if let Err(message) = result {
        fail(&message);
    }
}

/// Tells the process that started this one where to connect to.
fn announce(port: u16) {
    println!("{port}");
    std::io::stdout().flush().expect("stdout is a pipe");
}

fn listener(options: &Options) -> Result<(i32, u16), String> {
    let family = options.family.unwrap_or(Family::MappedAccept);
    family.listener(0).map_err(|e| format!("listen failed: {}", sys::errno_name(e)))
}

fn serve(options: &Options, board: Arc<Board>, announce: impl FnOnce(u16)) -> Result<(), String> {
    let (fd, port) = listener(options)?;
    announce(port);
    let opener = Opener::new(options, board, 1);
    match options.server_wait {
        Wait::Blocking => blocking::server(opener, fd),
        wait => EventLoop::new(wait, opener, Some(fd), None).run(),
    }
}

fn open(options: &Options, board: Arc<Board>, port: u16) -> Result<(), String> {
    let opener = Opener::new(options, board, 2);
    match options.client_wait {
        Wait::Blocking => blocking::client(opener, port),
        wait => EventLoop::new(wait, opener, None, Some(port)).run(),
    }
}

fn one_thread(options: &Options, board: Arc<Board>) -> Result<(), String> {
    let (fd, port) = listener(options)?;
    EventLoop::new(options.server_wait, Opener::new(options, board, 3), Some(fd), Some(port)).run()
}

/// Starts this program again in `role`.
fn start(options: &Options, role: &str, board: i32, port: u16) -> Child {
    let mut command = Command::new("/proc/self/exe");
    command.args(&options.given);
    command.args(["--seed", &options.seed.to_string(), "--role", role]);
    command.args(["--board", &board.to_string(), "--port", &port.to_string()]);
    command.stdin(Stdio::null());
    if role == "server" {
        command.stdout(Stdio::piped());
    }
    command.spawn().expect("cannot start this program again")
}

/// Runs one seed in processes of its own; false when it fails or stalls.
fn watch(options: &Options) -> bool {
    let (board, fd) = Board::create(options.connections as usize);
    sys::fcntl(fd, libc::F_SETFD, 0).expect("F_SETFD");
    let mut children = Vec::new();
    if options.layout == Layout::Processes {
        let mut server = start(options, "server", fd, 0);
        let mut line = String::new();
        let mut output = BufReader::new(server.stdout.take().expect("the server's output is a pipe"));
        let port = output.read_line(&mut line).ok().and_then(|_| line.trim().parse().ok());
        children.push(server);
        match port {
            Some(port) => children.push(start(options, "client", fd, port)),
            None => eprintln!("torture: the server did not come up"),
        }
        // Nothing more is expected from it, but a closed pipe must not be its end.
        std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
    } else {
        children.push(start(options, "both", fd, 0));
    }
    sys::close(fd).expect("close of the board");
    let passed = wait_for(options, &board, &mut children);
    for child in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
    let left = board.dump();
    if passed && !left.is_empty() {
        eprintln!("torture: the ends are through but the counts do not meet:\n{left}");
    } else if !passed {
        eprint!("torture: connections not through:\n{left}");
    }
    passed && left.is_empty()
}

/// What the threads of a process are doing: state, system call with its arguments, where in the kernel.
fn dump_threads(process: u32) {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return };
    for thread in threads.flatten() {
        let read = |name| std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let status = read("status");
        let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or("State: gone");
        let tid = thread.file_name();
        let (call, place) = (read("syscall"), read("wchan"));
        eprintln!("  thread {}: {state}; system call {} in {place}", tid.to_string_lossy(), call.trim());
    }
}

/// True when all children have succeeded; false as soon as one fails or nothing moves any more.
fn wait_for(options: &Options, board: &Board, children: &mut [Child]) -> bool {
    let stall = Duration::from_secs(options.stall_seconds);
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        let mut running = 0;
        for child in children.iter_mut() {
            match child.try_wait().expect("waiting for a child") {
                None => running += 1,
                Some(status) if status.success() => {}
                Some(status) => {
                    eprintln!("torture: a process ended with {status}");
                    return false;
                }
            }
        }
        if running == 0 {
            return children.len() == if options.layout == Layout::Processes { 2 } else { 1 };
        }
        let now = board.progress_so_far();
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > stall {
            eprintln!("torture: nothing has moved for {} s after {now} calls", options.stall_seconds);
            children.iter().for_each(|child| dump_threads(child.id()));
            return false;
        }
        // A look now and then at what the children do; nothing depends on how long this takes.
        std::thread::sleep(Duration::from_millis(5));
    }
}
