//! A client that sends position-coded bytes, and a server that sends them back, over TCP or the kernel's AF_SMC.
//!
//! `echo-peer server FAMILY ADDRESS CONNECTIONS READY-FILE [COMMAND]` serves that many connections and ends. The file is
//! made when it listens. `echo-peer client FAMILY ADDRESS CONNECTIONS BYTES WRITE-SIZE [COMMAND]` opens that many at
//! once, sends that many bytes on each in writes of that size while it reads, and closes its sending side.
//!
//! FAMILY is `tcp` or `smc`, ADDRESS is as in 10.9.0.1:7000. COMMAND is for the shell, run once while the first connection
//! is open: in the server when the first bytes have come, in the client when all have come back. Its failure is the program's. Any wrong byte, error, or early end is a failure.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::FromRawFd;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use smc_tests::pattern::Stream;
use smc_tests::sys::{self, Address};

type Outcome = Result<(), String>;

const AF_SMC: i32 = 43;
const SEED: u64 = 0x6c61_6221;
/// A peer that is gone for so long is an error, not a reason to wait.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["server", family, address, connections, ready] => serve(family, address, connections, ready, None),
        ["server", family, address, connections, ready, command] => {
            serve(family, address, connections, ready, Some(command))
        }
        ["client", family, address, connections, bytes, size] => {
            call(family, address, connections, bytes, size, None)
        }
        ["client", family, address, connections, bytes, size, command] => {
            call(family, address, connections, bytes, size, Some(command))
        }
        _ => Err("usage: echo-peer server FAMILY ADDRESS CONNECTIONS READY-FILE [COMMAND]\n       \
                  echo-peer client FAMILY ADDRESS CONNECTIONS BYTES WRITE-SIZE [COMMAND]"
            .into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("echo-peer: {e}");
            ExitCode::FAILURE
        }
    }
}

fn failed<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String + '_ {
    move |e| format!("{what}: {e}")
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// A socket of the family, not yet bound, and the address.
fn socket(family: &str, address: &str) -> Result<(i32, Address), String> {
    let address: SocketAddr = address.parse().map_err(failed(address))?;
    let fd = match (family, address.is_ipv4()) {
        ("tcp", true) => sys::socket(libc::AF_INET, libc::SOCK_CLOEXEC),
        ("tcp", false) => sys::socket(libc::AF_INET6, libc::SOCK_CLOEXEC),
        ("smc", true) => sys::socket(AF_SMC, libc::SOCK_CLOEXEC),
        _ => return Err(format!("no sockets of {family} for {address}")),
    };
    Ok((fd.map_err(sys::errno_name)?, Address::new(address)))
}

fn run(command: Option<&str>) -> Outcome {
    let Some(command) = command else { return Ok(()) };
    let status = Command::new("sh").args(["-c", command]).status().map_err(failed("sh"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command}: {status}"))
    }
}

fn serve(family: &str, address: &str, connections: &str, ready: &str, command: Option<&str>) -> Outcome {
    let (fd, address) = socket(family, address)?;
    sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1i32).map_err(sys::errno_name)?;
    sys::bind(fd, &address).map_err(|e| format!("bind: {}", sys::errno_name(e)))?;
    sys::listen(fd, 128).map_err(|e| format!("listen: {}", sys::errno_name(e)))?;
    // SAFETY: a socket of this process that nothing else closes. The standard library makes the same calls on it
    // whatever its family.
    let listener = unsafe { TcpListener::from_raw_fd(fd) };
    File::create(ready).map_err(failed(ready))?;
    let mut threads = Vec::new();
    for index in 0..number::<usize>(connections)? {
        let stream = accept(&listener).map_err(failed("accept"))?;
        let command = command.filter(|_| index == 0).map(str::to_owned);
        threads.push(thread::spawn(move || echo(stream, command.as_deref())));
    }
    join(threads)
}

/// Not `TcpListener::accept`, which wants an address of TCP's families from the kernel.
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    use std::os::fd::AsRawFd;
    let fd = sys::accept4(listener.as_raw_fd(), libc::SOCK_CLOEXEC).map_err(io::Error::from_raw_os_error)?;
    // SAFETY: a new descriptor that is this function's alone.
    Ok(unsafe { TcpStream::from_raw_fd(fd) })
}

fn join(threads: Vec<thread::JoinHandle<Outcome>>) -> Outcome {
    let results: Vec<Outcome> =
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a thread panicked".into()))).collect();
    results.into_iter().collect()
}

fn echo(mut stream: TcpStream, command: Option<&str>) -> Outcome {
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed("timeout"))?;
    let mut buffer = vec![0; 1 << 16];
    let mut command = command;
    let mut total = 0u64;
    loop {
        let n = stream.read(&mut buffer).map_err(failed("server: read"))?;
        if n == 0 {
            break;
        }
        // Before the answer, for which the client waits with the connection open.
        run(command.take())?;
        stream.write_all(&buffer[..n]).map_err(failed("server: write"))?;
        total += n as u64;
    }
    println!("server: {total} bytes echoed");
    stream.shutdown(Shutdown::Write).map_err(failed("server: shutdown"))
}

fn call(
    family: &str,
    address: &str,
    connections: &str,
    bytes: &str,
    size: &str,
    command: Option<&str>,
) -> Outcome {
    let (bytes, size) = (number(bytes)?, number(size)?);
    let mut threads = Vec::new();
    for index in 0..number::<u32>(connections)? {
        let (fd, address) = socket(family, address)?;
        sys::connect(fd, &address).map_err(|e| format!("connect: {}", sys::errno_name(e)))?;
        // SAFETY: a new descriptor that nothing else closes.
        let stream = unsafe { TcpStream::from_raw_fd(fd) };
        let command = command.filter(|_| index == 0).map(str::to_owned);
        threads.push(thread::spawn(move || exchange(stream, index, bytes, size, command.as_deref())));
    }
    join(threads)
}

fn exchange(stream: TcpStream, connection: u32, bytes: u64, size: usize, command: Option<&str>) -> Outcome {
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed("timeout"))?;
    let pattern = Stream { seed: SEED, connection, direction: 0 };
    let stream = Arc::new(stream);
    let reader = {
        let stream = Arc::clone(&stream);
        thread::spawn(move || read(&stream, pattern, bytes))
    };
    let mut buffer = vec![0; size];
    let mut offset = 0;
    while offset < bytes {
        let n = size.min((bytes - offset) as usize);
        pattern.fill(offset, &mut buffer[..n]);
        (&*stream).write_all(&buffer[..n]).map_err(|e| format!("client: write at {offset}: {e}"))?;
        offset += n as u64;
    }
    join(vec![reader])?;
    run(command)?;
    stream.shutdown(Shutdown::Write).map_err(failed("client: shutdown"))?;
    match (&*stream).read(&mut [0]).map_err(failed("client: read the end"))? {
        0 => {
            println!("client: connection {connection}: {bytes} bytes came back");
            Ok(())
        }
        _ => Err(format!("connection {connection}: more came back than was sent")),
    }
}

fn read(mut stream: &TcpStream, pattern: Stream, bytes: u64) -> Outcome {
    let mut buffer = vec![0; 1 << 16];
    let mut offset = 0;
    while offset < bytes {
        let n = stream.read(&mut buffer).map_err(|e| format!("client: read at {offset}: {e}"))?;
        if n == 0 {
            return Err(format!("connection {}: ended after {offset} of {bytes} bytes", pattern.connection));
        }
        pattern.check(offset, &buffer[..n])?;
        offset += n as u64;
    }
    Ok(())
}
