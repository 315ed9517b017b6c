//! Programs that users run: redis, nginx, memcached, PostgreSQL, each with its own load generator where it has one.

use crate::process::{Bench, End, Place, Running, Side};
use crate::workload::{Sample, Session, Start, Workload};
use anyhow::{bail, Context, Result};
use nix::sys::signal::Signal;
use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::hash::BuildHasher;
use std::iter::repeat_with;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const NO_UNIX: &[Side] = &[Side::Tcp, Side::Smc, Side::Sockmap];

pub fn all() -> Vec<Workload> {
    let redis = |name: &'static str, about, clients, pipeline, tests| {
        Workload::new(name, about, "requests/s", Redis::start(clients, pipeline, tests)).all_sides()
    };
    vec![
        redis("redis-1", "redis-benchmark, 1 client, SET and GET", 1, 1, "set,get").targets(
            (1.8, 1.3),
            (3.0, 1.3),
            (5.0, 1.3),
        ),
        redis("redis-50", "redis-benchmark, 50 clients, SET and GET", 50, 1, "set,get").targets(
            (2.5, 1.5),
            (3.5, 1.5),
            (7.0, 1.5),
        ),
        redis("redis-50-p16", "redis-benchmark, 50 clients, pipelines of 16, GET", 50, 16, "get").targets(
            (1.4, 1.2),
            (1.4, 1.2),
            (2.0, 1.2),
        ),
        redis("hogs-redis-50", "redis-50 with a CPU hog on each CPU", 50, 1, "set,get")
            .target(1.0, 0.97)
            .sides(&[Side::Tcp, Side::Smc])
            .with_hogs(),
        Workload::new("nginx", "a file of 1 KiB, keepalive, wrk -c 32", "requests/s", Box::new(nginx))
            .sides(NO_UNIX)
            .targets((2.0, 1.3), (2.0, 1.3), (3.0, 1.3)),
        Workload::new(
            "memcached",
            "4 threads, 4 threads of clients with 8 connections",
            "GET/s",
            Box::new(memcached),
        )
        .all_sides()
        .places(&[Place::Free])
        .target(1.8, 1.2),
        Workload::new("pgbench", "PostgreSQL, pgbench -S -c 4", "transactions/s", Box::new(postgres))
            .all_sides()
            .places(&[Place::Free])
            .target(1.2, 1.0),
    ]
}

/// Where a server listens.
struct Address {
    port: u16,
    path: PathBuf,
}

impl Address {
    /// A port that is free just now, and a path in the folder of the benchmark.
    fn new(bench: &Bench, name: &str, side: Side) -> Result<Address> {
        // Below the usual ephemeral ports: no client takes it, nor meets itself there while nobody listens.
        let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        let random = || 16_000 + RandomState::new().hash_one(0) as u16 % 16_000;
        let port = repeat_with(random).take(100).find(free).context("no free port")?;
        Ok(Address { port, path: bench.work.join(format!("{name}-{side:?}.sock")) })
    }

    fn answers(&self, side: Side) -> bool {
        match side {
            Side::Unix => UnixStream::connect(&self.path).is_ok(),
            _ => TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok(),
        }
    }

    /// Until the server listens.
    fn wait_for(&self, side: Side, server: &mut Running) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !self.answers(side) {
            if !server.alive() {
                bail!("the server ended");
            }
            if Instant::now() > deadline {
                bail!("the server does not listen");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// A program in the PATH or where daemons are.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let mut files = places.map(|place| place.join(name));
    files.find(|file| file.is_file()).with_context(|| format!("{name} is not installed (ci/deps.sh bench)"))
}

type Read = fn(&str) -> Result<(f64, Option<f64>)>;

/// A server that runs as long as its load generator is asked.
struct Served {
    _server: Running,
    side: Side,
    place: Place,
    client: PathBuf,
    arguments: Vec<OsString>,
    user: Option<(u32, u32)>,
    /// Of the output: requests a second and the 99th percentile in microseconds.
    read: Read,
}

impl Session for Served {
    fn run(&mut self, bench: &Bench) -> Result<Sample> {
        let mut client = bench.command(&self.client, self.side, self.place, End::Client);
        client.args(&self.arguments);
        if let Some((user, group)) = self.user {
            client.uid(user).gid(group);
        }
        let used = || bench.group.as_ref().and_then(|group| group.cpu_us());
        let (before, start) = (used(), Instant::now());
        let (output, carried) = bench.run(client)?;
        let (elapsed, after) = (start.elapsed().as_secs_f64(), used());
        let (rate, p99_us) = (self.read)(&output).with_context(|| output.clone())?;
        let cpu_us = before.zip(after).map(|(before, after)| (after - before) / (rate * elapsed));
        Ok(Sample { rate, p99_us, cpu_us, carried, ..Sample::default() })
    }
}

/// redis-server with redis-benchmark.
struct Redis {
    _server: Running,
    side: Side,
    place: Place,
    client: PathBuf,
    arguments: Vec<OsString>,
    /// Requests of a test of the next run.
    requests: u64,
    /// As many at least: a run must be long against the time in which its connections move.
    least: u64,
}

impl Redis {
    fn start(clients: u32, pipeline: u32, tests: &'static str) -> Start {
        Box::new(move |bench, side, place| {
            let address = Address::new(bench, "redis", side)?;
            let mut server = bench.command(program("redis-server")?, side, place, End::Server);
            let port = address.port.to_string();
            server.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
            server.args(["--daemonize", "no", "--loglevel", "warning", "--dir"]).arg(&bench.work);
            server.arg("--unixsocket").arg(&address.path);
            let mut server = Running::start(server)?;
            address.wait_for(side, &mut server)?;
            let mut arguments: Vec<OsString> = match side {
                Side::Unix => vec!["-s".into(), address.path.into()],
                _ => vec!["-h".into(), "127.0.0.1".into(), "-p".into(), port.into()],
            };
            let settings = format!("-c {clients} -P {pipeline} -t {tests} --csv");
            arguments.extend(settings.split(' ').map(OsString::from));
            let client = program("redis-benchmark")?;
            let least = u64::from(clients * pipeline) * 200;
            let mut redis = Redis { _server: server, side, place, client, arguments, requests: least, least };
            // To learn how many requests fill the time of a run.
            redis.run(bench)?;
            redis.run(bench)?;
            Ok(Box::new(redis))
        })
    }
}

impl Session for Redis {
    fn run(&mut self, bench: &Bench) -> Result<Sample> {
        let mut client = bench.command(&self.client, self.side, self.place, End::Client);
        client.args(&self.arguments).args(["-n", &self.requests.to_string()]);
        let used = || bench.group.as_ref().and_then(|group| group.cpu_us());
        let before = used();
        let (output, carried) = bench.run(client)?;
        let after = used();
        let tests = redis_tests(&output)?;
        let cpu_us = before
            .zip(after)
            .map(|(before, after)| (after - before) / (self.requests as f64 * tests.len() as f64));
        // Of two tests, the rate at which both together are done.
        let rate = tests.len() as f64 / tests.iter().map(|(rate, _)| 1.0 / rate).sum::<f64>();
        let p99_us = tests.iter().map(|(_, p99)| *p99).reduce(f64::max);
        self.requests = ((rate * bench.ms as f64 / 1000.0 / tests.len() as f64 * 2.0) as u64).max(self.least);
        Ok(Sample { rate, p99_us, cpu_us, carried, ..Sample::default() })
    }
}

/// Of each test, requests a second and the 99th percentile in microseconds. The lines are "test","rps","avg","min",
/// "p50","p95","p99","max", times in milliseconds.
fn redis_tests(csv: &str) -> Result<Vec<(f64, f64)>> {
    let numbers = |line: &str| -> Option<(f64, f64)> {
        let fields: Vec<&str> = line.trim().split(',').map(|field| field.trim_matches('"')).collect();
        Some((fields.get(1)?.parse().ok()?, fields.get(6)?.parse::<f64>().ok()? * 1000.0))
    };
    let tests: Vec<(f64, f64)> = csv.lines().filter_map(numbers).collect();
    if tests.is_empty() {
        bail!("redis-benchmark printed no result: {csv}");
    }
    Ok(tests)
}

fn nginx(bench: &Bench, side: Side, place: Place) -> Result<Box<dyn Session>> {
    let address = Address::new(bench, "nginx", side)?;
    let folder = bench.work.join(format!("nginx-{side:?}-{place:?}"));
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("1k"), "n".repeat(1024))?;
    let configuration = folder.join("nginx.conf");
    std::fs::write(&configuration, nginx_configuration(&folder, address.port))?;
    let mut server = bench.command(program("nginx")?, side, place, End::Server);
    server.arg("-c").arg(&configuration).arg("-e").arg(folder.join("error.log"));
    let mut server = Running::start(server)?;
    address.wait_for(side, &mut server)?;
    let arguments = ["-t", "1", "-c", "32", "-d", "1s", "--latency"].map(OsString::from);
    let mut arguments: Vec<OsString> = arguments.into();
    arguments.push(format!("http://127.0.0.1:{}/1k", address.port).into());
    let client = program("wrk")?;
    Ok(Box::new(Served { _server: server, side, place, client, arguments, user: None, read: wrk_result }))
}

/// As Debian's default, with one worker. The worker keeps the user, so that it may read the folder.
fn nginx_configuration(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
    format!(
        "{user} daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
         events {{ worker_connections 768; }}
         http {{
             sendfile on; tcp_nopush on; access_log off; keepalive_requests 1000000000;
             client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fcgi;
             uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
             server {{ listen 127.0.0.1:{port}; root {folder}; }}
         }}\n"
    )
}

fn wrk_result(output: &str) -> Result<(f64, Option<f64>)> {
    let field = |name: &str| {
        let line = output.lines().find(|line| line.trim_start().starts_with(name));
        line.and_then(|line| line.split_whitespace().last()).map(str::to_owned)
    };
    if output.contains("Non-2xx") {
        bail!("nginx answered with errors");
    }
    let rate = field("Requests/sec:").context("no Requests/sec")?.parse()?;
    Ok((rate, field("99%").and_then(|text| microseconds(&text))))
}

/// wrk writes 12.00us, 1.20ms, 1.02s.
fn microseconds(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let value: f64 = text[..unit].parse().ok()?;
    match &text[unit..] {
        "us" => Some(value),
        "ms" => Some(value * 1e3),
        "s" => Some(value * 1e6),
        _ => None,
    }
}

fn memcached(bench: &Bench, side: Side, place: Place) -> Result<Box<dyn Session>> {
    let address = Address::new(bench, "memcached", side)?;
    let mut server = bench.command(program("memcached")?, side, place, End::Server);
    server.args(["-t", "4", "-U", "0", "-u", "root"]);
    match side {
        Side::Unix => server.arg("-s").arg(&address.path),
        _ => server.args(["-l", "127.0.0.1", "-p", &address.port.to_string()]),
    };
    let mut server = Running::start(server)?;
    address.wait_for(side, &mut server)?;
    let ms = format!("--ms={}", bench.ms);
    let settings = ["client", "--work=memcached", "--threads=4", "--each=8", &ms];
    let mut arguments: Vec<OsString> = settings.into_iter().map(OsString::from).collect();
    arguments.extend(match side {
        Side::Unix => ["--unix".into(), address.path.into_os_string()],
        _ => ["--port".into(), address.port.to_string().into()],
    });
    let client = bench.load.clone();
    let read = |output: &str| {
        let account = crate::own::last_line(output)?;
        Ok((account.rate, account.p99_us))
    };
    Ok(Box::new(Served { _server: server, side, place, client, arguments, user: None, read }))
}

/// A program of PostgreSQL's newest version; Debian keeps them out of the PATH.
fn postgres_program(name: &str) -> Result<PathBuf> {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed (ci/deps.sh bench)")?;
    let versions = versions.filter_map(Result::ok).map(|version| version.path().join("bin").join(name));
    versions.filter(|file| file.is_file()).max().with_context(|| format!("{name} is not installed"))
}

fn done(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn postgres(bench: &Bench, side: Side, place: Place) -> Result<Box<dyn Session>> {
    // Its programs refuse to run as root.
    let user = if nix::unistd::geteuid().is_root() {
        let user = nix::unistd::User::from_name("postgres")?.context("there is no user postgres")?;
        Some((user.uid.as_raw(), user.gid.as_raw()))
    } else {
        None
    };
    let folder = bench.work.join(format!("postgres-{side:?}"));
    std::fs::create_dir(&folder)?;
    let as_user = |mut command: Command| {
        if let Some((user, group)) = user {
            command.uid(user).gid(group);
        }
        command.current_dir("/");
        command
    };
    let own = |path: &Path| match user {
        Some((user, group)) => std::os::unix::fs::chown(path, Some(user), Some(group)),
        None => Ok(()),
    };
    own(&folder)?;
    // The library writes its report there as this user.
    own(&bench.work)?;
    let address = Address { path: folder.join("socket"), ..Address::new(bench, "postgres", Side::Tcp)? };
    let data = folder.join("data");
    let mut initdb = as_user(Command::new(postgres_program("initdb")?));
    done(initdb.args(["-A", "trust", "-U", "bench", "--no-sync", "-D"]).arg(&data))?;
    let mut server = as_user(bench.command(postgres_program("postgres")?, side, place, End::Server));
    let port = address.port.to_string();
    server.arg("-D").arg(&data).arg("-k").arg(&folder).args(["-p", &port, "-c", "fsync=off"]);
    server.args(["-c", "listen_addresses=127.0.0.1", "-c", "log_min_messages=panic"]);
    // SIGINT: without waiting for its clients.
    let mut server = Running::start(server)?.stopped_by(Signal::SIGINT);
    let mut host: Vec<OsString> = vec!["-U".into(), "bench".into(), "-p".into(), port.into(), "-h".into()];
    host.push(if side == Side::Unix { folder.clone().into() } else { "127.0.0.1".into() });
    address.wait_for(Side::Tcp, &mut server)?;
    let pgbench = postgres_program("pgbench")?;
    let fill = || {
        let mut command = as_user(Command::new(&pgbench));
        done(command.args(["-i", "-q"]).args(&host).arg("postgres"))
    };
    // It listens before it has started up.
    let deadline = Instant::now() + Duration::from_secs(120);
    while let Err(e) = fill() {
        if Instant::now() > deadline {
            return Err(e);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut arguments: Vec<OsString> = ["-S", "-n", "-c", "4", "-T", "1"].map(OsString::from).into();
    arguments.extend(host);
    arguments.push("postgres".into());
    Ok(Box::new(Served {
        _server: server,
        side,
        place,
        client: pgbench,
        arguments,
        user,
        read: pgbench_result,
    }))
}

fn pgbench_result(output: &str) -> Result<(f64, Option<f64>)> {
    let line = output.lines().find_map(|line| line.strip_prefix("tps = ")).context("no tps")?;
    let rate = line.split(' ').next().expect("split gives one at least").parse()?;
    Ok((rate, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_the_generators_are_understood() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\",\"min\",\"p50\",\"p95\",\"p99\",\"max\"\n\
                   \"GET\",\"50000.00\",\"0.1\",\"0.05\",\"0.1\",\"0.2\",\"0.303\",\"0.5\"\n";
        assert_eq!(redis_tests(csv).unwrap(), [(50000.0, 303.0)]);
        assert!(redis_tests("Could not connect").is_err());
        let wrk = "  Latency Distribution\n     50%  300.00us\n     99%    1.20ms\nRequests/sec:  81234.50\n";
        assert_eq!(wrk_result(wrk).unwrap(), (81234.5, Some(1200.0)));
        assert!(wrk_result("  Non-2xx or 3xx responses: 7\nRequests/sec:  81234.50\n").is_err());
        assert_eq!(pgbench_result("tps = 1234.5 (without initial connection time)\n").unwrap().0, 1234.5);
    }
}
