//! `smcr`: what the kernel's own SMC knows and is told: link groups, devices, statistics, user-defined EIDs, PNET ids,
//! sockets.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;
use smc_tools::kernel::diag::{self, Mode};
use smc_tools::kernel::{device, linkgroup, pnet, stats, ueid};
use smc_tools::{reset, smcr};

/// Show and set what the kernel's SMC (AF_SMC) works with.
///
/// Needs the kernel's module smc; changing something needs root.
#[derive(Parser)]
#[command(name = "smcr", version)]
struct Options {
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    json: bool,

    /// More columns; twice, with link groups: everything, a line each
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    details: u8,

    #[command(subcommand)]
    object: Object,
}

#[derive(Subcommand)]
enum Object {
    /// Link groups and their links
    Linkgroup {
        #[arg(
            help = "[show|link-show] [all|LG-ID] [netdev NAME] [ibdev NAME]: groups or their links; those with \
                    this id, on this network interface, on this RDMA device"
        )]
        words: Vec<String>,
    },
    /// RDMA devices that SMC-R can use
    Device {
        #[arg(help = "[show] [all] [netdev NAME] [ibdev NAME]")]
        words: Vec<String>,
    },
    /// Statistics of this network namespace since the last reset
    Stats {
        /// Show; show and set back, for this user until the next boot; show as JSON
        #[arg(default_value = "show")]
        what: What,
        /// Since the module was loaded
        #[arg(short, long)]
        absolute: bool,
    },
    /// User-defined enterprise ids: two hosts use SMC-Rv2 only if they have one in common
    #[command(subcommand)]
    Ueid(Ueid),
    /// PNET ids: which network interface and which RDMA device are on one physical network
    #[command(subcommand)]
    Pnet(Pnet),
    /// The kernel's SMC sockets
    Sockets,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Show,
    Reset,
    Json,
}

/// What the words of `linkgroup` and `device` select.
#[derive(Default)]
struct Selection {
    links: bool,
    id: Option<u32>,
    interface: Option<String>,
    device: Option<String>,
}

impl Selection {
    /// `ids`: the object has ids, and links.
    fn of(words: &[String], ids: bool) -> Result<Selection, String> {
        let mut selection = Selection::default();
        let mut words = words.iter().map(String::as_str);
        let mut first = true;
        while let Some(word) = words.next() {
            let mut name = || words.next().map(str::to_owned).ok_or(format!("{word} needs a name"));
            match word {
                "show" if first => {}
                "link-show" if first && ids => selection.links = true,
                "all" => {}
                "netdev" => selection.interface = Some(name()?),
                "ibdev" => selection.device = Some(name()?),
                id if ids => {
                    let number = u32::from_str_radix(id.trim_start_matches("0x"), 16);
                    selection.id = Some(number.map_err(|_| format!("{id} is no id of a link group"))?);
                }
                _ => return Err(format!("{word} is not understood")),
            }
            first = false;
        }
        Ok(selection)
    }

    fn is_on(&self, device: &str, interface: Option<&str>) -> bool {
        self.device.as_deref().is_none_or(|wanted| wanted == device)
            && self.interface.as_deref().is_none_or(|wanted| Some(wanted) == interface)
    }
}

#[derive(Subcommand)]
enum Ueid {
    /// Show all
    Show,
    /// Add one: 1 to 32 capital letters, digits, hyphens and dots; the kernel holds four
    Add { eid: String },
    /// Remove one
    Del { eid: String },
    /// Remove all
    Flush,
}

#[derive(Subcommand)]
enum Pnet {
    /// Show all
    Show,
    /// Give an interface, a device's port, or both an id of 1 to 16 letters and digits
    #[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["interface", "device"])))]
    Add {
        pnet_id: String,
        /// Network interface
        #[arg(short = 'I', long)]
        interface: Option<String>,
        /// RDMA device
        #[arg(short = 'D', long)]
        device: Option<String>,
        /// Port of the RDMA device
        #[arg(short = 'P', long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
        port: u8,
    },
    /// Remove all entries with an id
    Del { pnet_id: String },
    /// Remove all
    Flush,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("smcr: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<String> {
    match &options.object {
        Object::Linkgroup { words } => linkgroups(options, &selection(words, true)),
        Object::Device { words } => devices(options, &selection(words, false)),
        Object::Stats { what, absolute } => statistics(options, *what, *absolute),
        Object::Ueid(Ueid::Show) => {
            let all = ueid::list()?;
            answer(options.json, "ueids", &all, || all.iter().map(|eid| format!("{eid}\n")).collect())
        }
        Object::Ueid(Ueid::Add { eid }) => done(ueid::add(eid)),
        Object::Ueid(Ueid::Del { eid }) => done(ueid::remove(eid)),
        Object::Ueid(Ueid::Flush) => done(ueid::flush()),
        Object::Pnet(Pnet::Show) => {
            let all = pnet::list()?;
            answer(options.json, "pnet_ids", &all, || pnet_table(&all))
        }
        Object::Pnet(Pnet::Add { pnet_id, interface, device, port }) => {
            done(pnet::add(pnet_id, interface.as_deref(), device.as_deref(), *port))
        }
        Object::Pnet(Pnet::Del { pnet_id }) => done(pnet::remove(pnet_id)),
        Object::Pnet(Pnet::Flush) => done(pnet::flush()),
        Object::Sockets => {
            let mut all = diag::sockets()?;
            if options.json {
                diag::find_holders(&mut all);
            }
            answer(options.json, "sockets", &all, || socket_table(&all))
        }
    }
}

/// Ends the program with the status of wrong usage where the words are none.
fn selection(words: &[String], ids: bool) -> Selection {
    use clap::CommandFactory;
    let wrong = |why| Options::command().error(clap::error::ErrorKind::InvalidValue, why).exit();
    Selection::of(words, ids).unwrap_or_else(wrong)
}

fn linkgroups(options: &Options, wanted: &Selection) -> io::Result<String> {
    let mut all = linkgroup::all()?;
    all.retain(|group| wanted.id.is_none_or(|id| id == group.id));
    let filtered = wanted.device.is_some() || wanted.interface.is_some();
    all.retain(|group| {
        !filtered || group.links.iter().any(|l| wanted.is_on(&l.device, l.interface.as_deref()))
    });
    if wanted.links {
        all.iter_mut().for_each(|g| g.links.retain(|l| wanted.is_on(&l.device, l.interface.as_deref())));
    }
    answer(options.json, "link_groups", &all, || match wanted.links {
        true => smcr::links(&all, options.details),
        false => smcr::groups(&all, options.details),
    })
}

fn devices(options: &Options, wanted: &Selection) -> io::Result<String> {
    let mut all = device::all()?;
    all.iter_mut().for_each(|d| d.ports.retain(|p| wanted.is_on(&d.name, p.interface.as_deref())));
    all.retain(|d| !d.ports.is_empty());
    answer(options.json, "devices", &all, || smcr::devices(&all, options.details))
}

fn statistics(options: &Options, what: What, absolute: bool) -> io::Result<String> {
    let all = stats::read()?;
    let shown = match absolute {
        true => all.clone(),
        false => all.since(&reset::path().map(|path| reset::load(&path)).unwrap_or_default()),
    };
    if what == What::Reset {
        reset::store(&reset::path()?, &all)?;
    }
    answer(options.json || what == What::Json, "stats", &shown, || smcr::stats(&shown, options.details))
}

fn done(result: io::Result<()>) -> io::Result<String> {
    result.map(|()| String::new())
}

fn answer(
    json: bool,
    name: &'static str,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> io::Result<String> {
    if json {
        return Ok(format!("{}\n", serde_json::json!({ name: value })));
    }
    Ok(text())
}

fn pnet_table(entries: &[pnet::Entry]) -> String {
    let mut out = format!("{:16} {:16} {:16} {}\n", "PNET-ID", "Interface", "Device", "Port");
    for e in entries {
        let part = |name: &Option<String>| name.clone().unwrap_or_else(|| "n/a".into());
        let port = e.port.map_or_else(|| "n/a".into(), |p| p.to_string());
        let _ = writeln!(out, "{:16} {:16} {:16} {port}", e.pnet_id, part(&e.interface), part(&e.device));
    }
    out
}

fn socket_table(sockets: &[diag::Socket]) -> String {
    let mut out = format!(
        "{:10} {:>6} {:>8} {:23} {:23} Mode\n",
        "State", "UID", "Inode", "Local Address", "Peer Address"
    );
    for s in sockets {
        let mode = match (s.mode, &s.fallback, &s.link) {
            (Mode::Smcr, _, Some(l)) => {
                format!("SMCR {} {}/{} {} {}", l.role, l.device, l.port, l.gid, l.peer_gid)
            }
            (Mode::Smcr, _, None) => "SMCR".into(),
            (Mode::Smcd, ..) => "SMCD".into(),
            (Mode::Tcp, Some(f), _) if f.peer_diagnosis != 0 => {
                format!("TCP 0x{:08x}/0x{:08x}", f.reason, f.peer_diagnosis)
            }
            (Mode::Tcp, Some(f), _) => format!("TCP 0x{:08x}", f.reason),
            (Mode::Tcp, None, _) => "TCP".into(),
            (Mode::Unknown, ..) => "?".into(),
        };
        let (local, peer) = (s.local.to_string(), s.peer.to_string());
        let _ = writeln!(out, "{:10} {:>6} {:>8} {local:23} {peer:23} {mode}", s.state, s.uid, s.inode);
    }
    out
}

/// Writes to stdout. A reader that has seen enough (`smcr ueid show | head`) is no error.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
