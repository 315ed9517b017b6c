//! `smcss`: which sockets use SMC, and why the others do not.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;
use smc_core::options::render;
use smc_core::registry::reader::Search;
use smc_core::registry::SocketRecord;
use smc_tools::kernel::diag;
use smc_tools::reasons;
use smc_tools::table::{Layout, Row};

/// Show the sockets of programs that run under smc_run, and what carries their data; and those of the kernel's own SMC
/// (AF_SMC), where it has one.
///
/// Without options: connecting, connected and closing sockets of all processes that you may see.
#[derive(Parser)]
#[command(name = "smcss", version, disable_version_flag = true, after_long_help = MANUAL)]
struct Options {
    /// All sockets: also listening and closed ones
    #[arg(short, long)]
    all: bool,

    /// Listening sockets only
    #[arg(short, long, conflicts_with = "all")]
    listening: bool,

    /// More columns: process, descriptor, age, bytes by path, changes of path, reason in words
    #[arg(short, long = "debug", visible_alias = "details")]
    debug: bool,

    /// Do not cut long addresses
    #[arg(short = 'W', long)]
    wide: bool,

    /// Only sockets that use shared memory (SMC-D)
    #[arg(short = 'D', long, conflicts_with_all = ["smcr", "listening"])]
    smcd: bool,

    /// Only sockets that use RDMA (SMC-R), and over which link
    #[arg(short = 'R', long, conflicts_with = "listening")]
    smcr: bool,

    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,

    /// Explain all reason codes and exit; =markdown for those that connections of this host can have
    #[arg(long, exclusive = true, value_name = "FORM", require_equals = true, num_args = 0..=1, default_missing_value = "text")]
    reasons: Option<Reasons>,

    /// Show what becomes of each socket option and exit; with --json for scripts
    #[arg(long, conflicts_with_all = ["all", "listening", "debug", "wide", "smcd", "smcr", "reasons"])]
    options: bool,

    /// Print version
    #[arg(short, long, action = clap::ArgAction::Version)]
    version: (),
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Reasons {
    Text,
    Markdown,
}

const MANUAL: &str = "\
COLUMNS
  State    INIT connecting; ACTIVE connected; LISTEN; PEERCLW1 this end has closed its sending side;
           APPLCLW1 the peer has closed its sending side; APPLCLW2 both have; CLOSED
  UID      owner of the socket
  Inode    inode of the socket, as in /proc/PID/fd
  Local Address, Peer Address
           address:port; addresses that end with '..' are cut, see --wide
  Intf     number of the interface the socket is bound to (SO_BINDTODEVICE), 0000 for none
  Mode     SMCD: shared memory. SMCR: RDMA. TCP: TCP, with this end's reason code and, where the peer gave
           one, the peer's, as 0x05000000/0x03030000. --debug shows the reason in words, --reasons explains all
  Role, IB-device, Port, Linkid, GID, Peer-GID
           with --smcr: CLNT if this end began the link group, SERV if the other did; RDMA device and port; link
  GID, Token, Peer-GID, Peer-Token, Linkid
           with --smcd, of the kernel's connections over an ISM device: where the buffers are

JSON
  {\"sockets\":[{\"pid\",\"comm\",\"fd\",\"uid\",\"inode\",\"state\",\"local\",\"peer\",\"mode\",\"reason\",\"peer_reason\",
  \"reason_text\",\"since\",\"tcp_rx_bytes\",\"tcp_tx_bytes\",\"ring_rx_bytes\",\"ring_tx_bytes\",\"switches\"}]}
  Behind that, where there are any: \"kernel_sockets\":[{\"state\",\"mode\",\"local\",\"peer\",\"interface\",\"uid\",\"inode\",
  \"holder\":{\"pid\",\"comm\",\"fd\"},\"fallback\":{\"reason\",\"peer_diagnosis\"},\"link\":{\"id\",\"device\",\"port\",\"gid\",\"peer_gid\",\"role\"},
  \"dmb\":{\"link_id\",\"gid\",\"token\",\"peer_gid\",\"peer_token\"},\"buffers\":{\"send\",\"rmbe\",\"peer_rmbe\"}}], codes as
  numbers, sizes in bytes, null for what there is not.
  The options select sockets here as they do in the table. \"since\" is in milliseconds since the epoch; bytes are
  those of the program's stream, by the path they took.

  With --options: {\"options\":[{\"level\",\"level_number\",\"option\",\"numbers\",\"class\",\"before_connect\",\"after_connect\",
  \"on_listener\",\"accepted\",\"by\",\"code\",\"why\"}]}; no numbers: all of the level that no other row names.

ENVIRONMENT
  SMC_RUN_DIR  The directory in which processes publish their sockets. Default: /run/smc, $XDG_RUNTIME_DIR/smc
               and /tmp/smc-UID; of other users, those you may read.

EXIT STATUS
  0  success, also if there is no socket to show
  1  the listing could not be made or written
  2  wrong usage";

#[derive(Serialize)]
struct OptionTable<'a> {
    options: &'a [render::Words],
}

#[derive(Serialize)]
struct Listing<'a> {
    sockets: &'a [SocketRecord],
    /// Of AF_SMC.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    kernel_sockets: &'a [diag::Socket],
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("smcss: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<String> {
    match options.reasons {
        Some(Reasons::Text) => return Ok(reasons::render()),
        Some(Reasons::Markdown) => return Ok(reasons::markdown()),
        None => {}
    }
    if options.options {
        return options_table(options.json);
    }
    let mut sockets = Search::from_env()?.sockets()?;
    sockets.retain(|s| options.selects(s.state, s.mode));
    let mut kernels = kernels_sockets();
    kernels.retain(|s| options.selects(s.state, s.mode.name()));
    if options.json || options.debug {
        diag::find_holders(&mut kernels);
    }
    if options.json {
        let mut text = serde_json::to_string(&Listing { sockets: &sockets, kernel_sockets: &kernels })?;
        text.push('\n');
        return Ok(text);
    }
    let layout = Layout {
        wide: options.wide,
        details: options.debug,
        links: options.smcr,
        buffers: options.smcd && kernels.iter().any(|s| s.dmb.is_some()),
    };
    let rows: Vec<Row> = sockets.iter().map(Row::from).chain(kernels.iter().map(Row::from)).collect();
    Ok(layout.render(&rows))
}

/// Those of AF_SMC. A kernel without it has none; one that does not tell is no reason to show nothing at all.
fn kernels_sockets() -> Vec<diag::Socket> {
    diag::sockets().unwrap_or_else(|e| {
        if e.kind() != io::ErrorKind::NotFound {
            eprintln!("smcss: the kernel's sockets are left out: {e}");
        }
        Vec::new()
    })
}

fn options_table(json: bool) -> io::Result<String> {
    if !json {
        return Ok(render::text());
    }
    let rows: Vec<_> = smc_core::options::all().map(render::Words::of).collect();
    let mut text = serde_json::to_string(&OptionTable { options: &rows })?;
    text.push('\n');
    Ok(text)
}

impl Options {
    fn selects(&self, state: &str, mode: &str) -> bool {
        let by_state = match state {
            "LISTEN" => self.all || self.listening,
            "CLOSED" => self.all,
            _ => !self.listening,
        };
        let by_mode = match (self.smcd, self.smcr) {
            (true, _) => mode == "SMCD",
            (_, true) => mode == "SMCR",
            _ => true,
        };
        by_state && by_mode
    }
}

/// Writes to stdout. A reader that has seen enough (`smcss | head`) is no error.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(io::Error::new(e.kind(), format!("cannot write: {e}"))),
        Ok(()) => Ok(()),
    }
}
