//! `smcss`: which sockets use SMC, and why the others do not.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;
use smc_core::options::render;
use smc_core::registry::reader::Search;
use smc_core::registry::SocketRecord;
use smc_tools::reasons;
use smc_tools::table::Layout;

/// Show the sockets of programs that run under smc_run, and what carries their data.
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

    /// Only sockets that use RDMA (SMC-R)
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

JSON
  {\"sockets\":[{\"pid\",\"comm\",\"fd\",\"uid\",\"inode\",\"state\",\"local\",\"peer\",\"mode\",\"reason\",\"peer_reason\",
  \"reason_text\",\"since\",\"tcp_rx_bytes\",\"tcp_tx_bytes\",\"ring_rx_bytes\",\"ring_tx_bytes\",\"switches\"}]}
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
    sockets.retain(|s| options.selects(s));
    if options.json {
        let mut text = serde_json::to_string(&Listing { sockets: &sockets })?;
        text.push('\n');
        return Ok(text);
    }
    Ok(Layout { wide: options.wide, details: options.debug }.render(&sockets))
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
    fn selects(&self, s: &SocketRecord) -> bool {
        let by_state = match s.state {
            "LISTEN" => self.all || self.listening,
            "CLOSED" => self.all,
            _ => !self.listening,
        };
        let by_mode = match (self.smcd, self.smcr) {
            (true, _) => s.mode == "SMCD",
            (_, true) => s.mode == "SMCR",
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
