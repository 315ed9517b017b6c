//! What short connections and process starts cost with the preload library, as a ratio to what they cost without.
//!
//!     connect-rate connections PRELOAD [ROUNDS] [PER_ROUND]
//!     connect-rate start PRELOAD [ROUNDS]
//!
//! Native and preloaded runs alternate, in an order that changes from pair to pair, and the median of the pairs'
//! ratios is printed, so that drifts of the machine do not count. The last line holds the result alone.

use smc_tests::net::Family;
use smc_tests::sys;
use std::io::{BufRead, BufReader};
use std::process::{exit, Child, Command, Stdio};
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| args.get(i).map_or(default, |n| n.parse().unwrap_or(default));
    match args.first().map(String::as_str) {
        Some("connections") if args.len() > 1 => connections(&args[1], number(2, 61), number(3, 2000)),
        Some("start") if args.len() > 1 => start(&args[1], number(2, 201)),
        Some("server") => serve(),
        Some("client") => println!("{}", connect(number(1, 0) as u16, number(2, 1))),
        _ => {
            eprintln!("usage: connect-rate connections|start PRELOAD [ROUNDS] [PER_ROUND]");
            exit(2);
        }
    }
}

/// Answers one request on each connection, until killed.
fn serve() {
    sys::run_on_cpu(1);
    let (listener, port) = Family::V4.listener(0).expect("listen");
    println!("{port}");
    let mut request = [0; 256];
    loop {
        let fd = sys::accept4(listener, libc::SOCK_CLOEXEC).expect("accept");
        while let Ok(n) = sys::recv(fd, &mut request, 0) {
            if n == 0 || sys::send(fd, &request[..n], libc::MSG_NOSIGNAL).is_err() {
                break;
            }
        }
        sys::close(fd).expect("close");
    }
}

/// Makes `count` connections of one request each, one after the other; the connections a second.
fn connect(port: u16, count: usize) -> f64 {
    sys::run_on_cpu(0);
    let target = Family::V4.target(port);
    let request = [b'r'; 128];
    let mut answer = [0; 256];
    let start = Instant::now();
    for _ in 0..count {
        let fd = Family::V4.client_socket(0).expect("socket");
        // A reset at the end leaves no TIME_WAIT behind, of which there would be more than ports.
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, linger).expect("SO_LINGER");
        sys::connect(fd, &target).expect("connect");
        assert_eq!(sys::send(fd, &request, 0), Ok(request.len()));
        assert_eq!(sys::recv(fd, &mut answer, 0), Ok(request.len()));
        sys::close(fd).expect("close");
    }
    count as f64 / start.elapsed().as_secs_f64()
}

/// This program again, with or without the library.
fn again(preload: Option<&str>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.stdin(Stdio::null()).env_remove("LD_PRELOAD");
    if let Some(preload) = preload {
        command.env("LD_PRELOAD", preload);
    }
    command
}

/// A server that runs until this is dropped.
struct Server {
    process: Child,
    port: String,
}

impl Server {
    fn start(preload: Option<&str>) -> Server {
        let mut process = again(preload).arg("server").stdout(Stdio::piped()).spawn().expect("server");
        let mut port = String::new();
        let output = process.stdout.take().expect("the server's output is a pipe");
        BufReader::new(output).read_line(&mut port).expect("the server's port");
        Server { process, port: port.trim().to_owned() }
    }

    /// The rate of a client that is started for it.
    fn rate(&self, preload: Option<&str>, count: usize) -> f64 {
        let client =
            again(preload).args(["client", &self.port, &count.to_string()]).output().expect("client");
        let text = String::from_utf8_lossy(&client.stdout);
        let failed = || panic!("the client failed: {}", String::from_utf8_lossy(&client.stderr));
        text.trim().parse().unwrap_or_else(|_| failed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One pair for each round: what `measure` gives without and with the library.
fn pairs(rounds: usize, preload: &str, measure: impl Fn(Option<&str>) -> f64) -> Vec<(f64, f64)> {
    let one_pair = |round: usize| {
        if round % 2 == 0 {
            let native = measure(None);
            (native, measure(Some(preload)))
        } else {
            let shim = measure(Some(preload));
            (measure(None), shim)
        }
    };
    // The first is to warm up caches.
    one_pair(0);
    (0..rounds).map(one_pair).collect()
}

fn medians(pairs: &[(f64, f64)]) -> (f64, f64) {
    let (mut native, mut shim): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    (median(&mut native), median(&mut shim))
}

fn connections(preload: &str, rounds: usize, count: usize) {
    // One for all rounds: where its memory happens to lie would otherwise differ from round to round.
    let (native, preloaded) = (Server::start(None), Server::start(Some(preload)));
    let pairs = pairs(rounds, preload, |preload| {
        let server = if preload.is_some() { &preloaded } else { &native };
        server.rate(preload, count)
    });
    let (native, shim) = medians(&pairs);
    let mut ratios: Vec<f64> = pairs.iter().map(|(native, shim)| shim / native).collect();
    let ratio = median(&mut ratios);
    let quarter = ratios.len() / 4;
    println!(
        "connections a second: {native:.0} native, {shim:.0} under the shim; ratio of {rounds} pairs: \
         median {ratio:.3}, quartiles {:.3} to {:.3}",
        ratios[quarter],
        ratios[ratios.len() - 1 - quarter]
    );
    println!("{ratio:.4}");
}

fn start(preload: &str, rounds: usize) {
    let pairs = pairs(rounds, preload, |preload| {
        let mut command = Command::new("/bin/true");
        command.env_remove("LD_PRELOAD");
        if let Some(preload) = preload {
            command.env("LD_PRELOAD", preload);
        }
        let start = Instant::now();
        let status = command.status().expect("/bin/true");
        let elapsed = start.elapsed().as_secs_f64() * 1e6;
        assert!(status.success(), "{status}");
        elapsed
    });
    let (native, shim) = medians(&pairs);
    let mut costs: Vec<f64> = pairs.iter().map(|(native, shim)| shim - native).collect();
    let cost = median(&mut costs);
    println!("start of /bin/true: {native:.0} us native, {shim:.0} us with the shim; median of {rounds} differences:");
    println!("{cost:.0}");
}
