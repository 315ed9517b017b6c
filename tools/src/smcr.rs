//! How `smcr` prints link groups, devices and statistics: columns and lines as smc-tools has them, so that scripts and
//! eyes find what they know.

use std::fmt::Write;

use crate::kernel::device::Device;
use crate::kernel::linkgroup::{Link, LinkGroup};
use crate::kernel::stats::{Direction, Stats, CLASSES};

const NOT_THERE: &str = "n/a";

/// A table with columns as wide as they have to be, two blanks apart.
fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    };
    let mut out = line(&mut heading.iter().copied());
    rows.iter().for_each(|row| out.push_str(&line(&mut row.iter().map(String::as_str))));
    out
}

/// Blocks of `name : value`, an empty line between them.
fn blocks(all: Vec<Vec<(&str, String)>>) -> String {
    let block = |lines: Vec<(&str, String)>| {
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        lines.iter().fold(String::new(), |mut text, (name, value)| {
            let _ = writeln!(text, "{name:width$} : {value}");
            text
        })
    };
    all.into_iter().map(block).collect::<Vec<_>>().join("\n")
}

fn or_none(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or(NOT_THERE).to_owned()
}

/// The columns that a group and each of its links begin with.
fn front(group: &LinkGroup) -> Vec<String> {
    vec![format!("{:08x}", group.id), group.role.into(), group.kind.into()]
}

/// `smcr linkgroup show`; `details` is how often -d was given.
pub fn groups(groups: &[LinkGroup], details: u8) -> String {
    if details > 1 {
        return blocks(groups.iter().map(group_block).collect());
    }
    let mut heading = vec!["LG-ID", "LG-Role", "LG-Type", "VLAN", "#Conns", "PNET-ID"];
    if details > 0 {
        heading.extend(["Version", "EID", "Peer-Host", "#Links"]);
    }
    let row = |g: &LinkGroup| {
        let mut row = front(g);
        row.extend([g.vlan.to_string(), g.connections.to_string(), or_none(Some(&g.pnet_id))]);
        if details > 0 {
            row.extend([version(g), or_none(g.v2.as_ref().map(|v| &*v.eid))]);
            row.extend([or_none(g.v2.as_ref().map(|v| &*v.peer_host)), g.links.len().to_string()]);
        }
        row
    };
    table(&heading, &groups.iter().map(row).collect::<Vec<_>>())
}

/// Version and release.
fn version(group: &LinkGroup) -> String {
    group.v2.as_ref().map_or("1".into(), |v| format!("{}.{}", v.version, v.release))
}

fn group_block(g: &LinkGroup) -> Vec<(&'static str, String)> {
    let number = |n: Option<u64>| n.map_or(NOT_THERE.into(), |n| n.to_string());
    let mut lines = vec![
        ("LG-ID", format!("{:08x}", g.id)),
        ("LG-Role", g.role.into()),
        ("LG-Type", g.kind.into()),
        ("VLAN", g.vlan.to_string()),
        ("PNET-ID", or_none(Some(&g.pnet_id))),
        ("Version", version(g)),
        ("#Conns", g.connections.to_string()),
        ("#Links", g.links.len().to_string()),
        ("Buf-Type", or_none(g.buffer_type)),
        ("Sndbuf-Bytes", number(g.send_buffers)),
        ("RMB-Bytes", number(g.rmbs)),
        ("Net-Cookie", number(g.net_cookie)),
    ];
    if let Some(v) = &g.v2 {
        lines.extend([
            ("EID", v.eid.clone()),
            ("Peer-Host", or_none(Some(&v.peer_host))),
            ("Peer-OS", v.peer_os.to_string()),
            ("Direct", yes(v.direct)),
            ("Max-Conns", number(v.max_connections.map(u64::from))),
            ("Max-Links", number(v.max_links.map(u64::from))),
        ]);
    }
    lines
}

fn yes(is: bool) -> String {
    if is { "Yes" } else { "No" }.into()
}

/// `smcr linkgroup link-show`.
pub fn links(groups: &[LinkGroup], details: u8) -> String {
    let all = || groups.iter().flat_map(|g| g.links.iter().map(move |l| (g, l)));
    if details > 1 {
        return blocks(all().map(|(g, l)| link_block(g, l)).collect());
    }
    let mut heading = vec!["LG-ID", "LG-Role", "LG-Type", "Net-Dev", "Link-State", "#Conns"];
    if details > 0 {
        heading.extend(["Link-UID", "Peer-UID", "IB-Dev", "IB-P", "Local-GID", "Peer-GID"]);
    }
    let row = |(g, l): (&LinkGroup, &Link)| {
        let mut row = front(g);
        row.extend([or_none(l.interface.as_deref()), l.state.into(), l.connections.to_string()]);
        if details > 0 {
            row.extend([format!("{:08x}", l.uid), format!("{:08x}", l.peer_uid)]);
            row.extend([l.device.clone(), l.port.to_string(), l.gid.clone(), l.peer_gid.clone()]);
        }
        row
    };
    table(&heading, &all().map(row).collect::<Vec<_>>())
}

fn link_block(g: &LinkGroup, l: &Link) -> Vec<(&'static str, String)> {
    vec![
        ("LG-ID", format!("{:08x}", g.id)),
        ("LG-Role", g.role.into()),
        ("LG-Type", g.kind.into()),
        ("Link-ID", l.id.to_string()),
        ("Link-State", l.state.into()),
        ("Net-Dev", or_none(l.interface.as_deref())),
        ("IB-Dev", l.device.clone()),
        ("IB-P", l.port.to_string()),
        ("Link-UID", format!("{:08x}", l.uid)),
        ("Peer-UID", format!("{:08x}", l.peer_uid)),
        ("Local-GID", l.gid.clone()),
        ("Peer-GID", l.peer_gid.clone()),
        ("#Conns", l.connections.to_string()),
    ]
}

/// `smcr device show`: a line for each port.
pub fn devices(devices: &[Device], details: u8) -> String {
    let mut heading = vec!["Net-Dev", "IB-Dev", "IB-P", "IB-State", "Type", "Crit", "#Links", "PNET-ID"];
    if details > 0 {
        heading.extend(["FID", "PCI-ID", "PCHID"]);
    }
    let rows = devices.iter().flat_map(|d| d.ports.iter().map(move |p| (d, p)));
    let rows = rows.map(|(d, p)| {
        let user = if p.pnet_id_by_user { "*" } else { "" };
        let pnet_id = if p.pnet_id.is_empty() { String::new() } else { format!("{user}{}", p.pnet_id) };
        let state = if p.active { "ACTIVE" } else { "INACTIVE" };
        let mut row = vec![or_none(p.interface.as_deref()), d.name.clone(), p.number.to_string()];
        row.extend([
            state.into(),
            device_type(d),
            yes(d.critical),
            p.links.to_string(),
            or_none(Some(&pnet_id)),
        ]);
        if details > 0 {
            let pci = d.pci.as_ref();
            row.push(pci.map_or(NOT_THERE.into(), |p| format!("{:04x}", p.function)));
            row.push(or_none(pci.map(|p| &*p.id)));
            row.push(pci.map_or(NOT_THERE.into(), |p| format!("{:04x}", p.channel)));
        }
        row
    });
    table(&heading, &rows.collect::<Vec<_>>())
}

/// The names that smc-tools gives two of them; numbers of vendor and device for the others.
fn device_type(device: &Device) -> String {
    match &device.pci {
        None => NOT_THERE.into(),
        Some(pci) => match (pci.vendor, pci.device) {
            (0x15b3, 0x1004) => "RoCE_Express".into(),
            (0x15b3, 0x1016) => "RoCE_Express2".into(),
            (vendor, device) => format!("{vendor:04x}:{device:04x}"),
        },
    }
}

/// `smcr stats`.
pub fn stats(s: &Stats, details: u8) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(out, "  {name:30} {value:>16}");
    };
    let smc = s.client_v1 + s.client_v2 + s.server_v1 + s.server_v2;
    let errors = s.client_handshake_errors + s.server_handshake_errors;
    let fallbacks = s.client_fallbacks + s.server_fallbacks;
    let special = s.cork + s.nodelay + s.sendpage + s.splice + s.urgent_data;
    line("Total connections handled", &(smc + errors + fallbacks));
    line("SMC connections", &smc);
    if details > 0 {
        line("  client v1 / v2", &format!("{} / {}", s.client_v1, s.client_v2));
        line("  server v1 / v2", &format!("{} / {}", s.server_v1, s.server_v2));
    }
    line("Handshake errors", &errors);
    if details > 0 {
        line("  client / server", &format!("{} / {}", s.client_handshake_errors, s.server_handshake_errors));
    }
    let requests = s.rx.requests + s.tx.requests + special;
    line("Avg requests per SMC conn", &format!("{:.1}", ratio(requests, smc)));
    line("TCP fallback", &fallbacks);
    if details > 0 {
        line("  client / server", &format!("{} / {}", s.client_fallbacks, s.server_fallbacks));
        for f in &s.fallback_reasons {
            let side = if f.server { "server" } else { "client" };
            line(&format!("  0x{:08x}, {side}", f.reason), &f.count);
        }
    }
    let mut out = format!("SMC-R Connections Summary\n{out}");
    direction(&mut out, "RX", &s.rx, details);
    direction(&mut out, "TX", &s.tx, details);
    let _ = writeln!(out, "\nExtras\n  {:30} {special:>16}", "Special socket calls");
    if details > 0 {
        let calls = [
            ("cork", s.cork),
            ("nodelay", s.nodelay),
            ("sendpage", s.sendpage),
            ("splice", s.splice),
            ("urgent data", s.urgent_data),
        ];
        for (name, count) in calls {
            let _ = writeln!(out, "    {name:28} {count:>16}");
        }
    }
    out
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn direction(out: &mut String, name: &str, d: &Direction, details: u8) {
    let _ = writeln!(out, "\n{name} Stats");
    let mut line = |name: &str, value: u64, share: bool| {
        let share =
            if share { format!(" ({:.2}%)", 100.0 * ratio(value, d.requests)) } else { String::new() };
        let _ = writeln!(out, "  {name:30} {value:>16}{share}");
    };
    line("Data transmitted (Bytes)", d.bytes, false);
    line("Total requests", d.requests, false);
    line("Buffer full", d.full, true);
    if details > 0 {
        line("Buffer full (remote)", d.full_peer, true);
        line("Buffer too small", d.too_small, true);
        line("Buffer too small (remote)", d.too_small_peer, true);
        line("Buffer downgrades", d.downgrades, false);
        line("Buffer reuses", d.reuses, false);
        line("Buffer allocations", d.allocations, false);
        if let Some(bytes) = d.buffers_in_use {
            line("Buffers in use (Bytes)", bytes, false);
        }
    }
    let class = |kib: u32| if kib < 1024 { format!("{kib}KB") } else { format!("{}MB", kib / 1024) };
    let last = format!(">{}", class(CLASSES[7]));
    let heading: Vec<String> = CLASSES.iter().map(|kib| class(*kib)).chain([last]).collect();
    let _ = writeln!(out, "  {:4} {}", "", heading.iter().map(|h| format!("{h:>8}")).collect::<String>());
    for (name, counts) in [("Bufs", d.buffer_sizes), ("Reqs", d.request_sizes)] {
        let _ = writeln!(out, "  {name:4} {}", counts.map(|n| format!("{n:>8}")).concat());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::device::Port;
    use crate::kernel::linkgroup::Version2;

    fn group() -> LinkGroup {
        let gid = "0000:0000:0000:0000:0000:ffff:0a09:0001".to_owned();
        let link = Link {
            id: 1,
            device: "rxe0".into(),
            port: 1,
            interface: Some("enp0s3".into()),
            peer_gid: gid.replace("0001", "0002"),
            gid,
            connections: 12,
            uid: 0x101,
            peer_uid: 0x201,
            state: "LINK_ACTIVE",
        };
        let v2 = Version2 {
            version: 2,
            release: 1,
            peer_os: 2,
            eid: "SMCLAB".into(),
            peer_host: "host-b".into(),
            direct: true,
            max_connections: Some(255),
            max_links: None,
        };
        LinkGroup {
            id: 0x100,
            role: "SERV",
            kind: "SINGLE",
            vlan: 0,
            connections: 12,
            pnet_id: String::new(),
            net_cookie: None,
            buffer_type: Some("CONT"),
            send_buffers: Some(65536),
            rmbs: Some(131_072),
            v2: Some(v2),
            links: vec![link],
        }
    }

    #[test]
    fn groups_have_a_line_each_or_a_block() {
        assert_eq!(
            groups(&[group()], 0),
            "LG-ID     LG-Role  LG-Type  VLAN  #Conns  PNET-ID\n\
             00000100  SERV     SINGLE   0     12      n/a\n"
        );
        let detailed = groups(&[group()], 1);
        assert!(detailed.ends_with("n/a      2.1      SMCLAB  host-b     1\n"), "{detailed}");
        let all = groups(&[group(), group()], 2);
        assert_eq!(all.split("\n\n").count(), 2);
        for line in
            ["LG-ID        : 00000100", "RMB-Bytes    : 131072", "Direct       : Yes", "Max-Links    : n/a"]
        {
            assert!(all.lines().any(|l| l == line), "{line} is not in\n{all}");
        }
        let v1 = LinkGroup { v2: None, ..group() };
        assert!(groups(&[v1], 1).contains(" 1        n/a  n/a"));
        assert_eq!(groups(&[], 0).lines().count(), 1);
    }

    #[test]
    fn links_have_a_line_each_or_a_block() {
        assert_eq!(
            links(&[group()], 0),
            "LG-ID     LG-Role  LG-Type  Net-Dev  Link-State   #Conns\n\
             00000100  SERV     SINGLE   enp0s3   LINK_ACTIVE  12\n"
        );
        let detailed = links(&[group()], 1);
        let (heading, line) = detailed.trim_end().split_once('\n').unwrap();
        for (name, value) in [("Link-UID", "00000101"), ("Peer-UID", "00000201"), ("IB-Dev", "rxe0")] {
            assert_eq!(heading.find(name), line.find(value), "{detailed}");
        }
        assert!(links(&[group()], 2).contains("Peer-GID   : 0000:0000:0000:0000:0000:ffff:0a09:0002\n"));
    }

    #[test]
    fn devices_have_a_line_for_each_port() {
        let port = Port {
            number: 1,
            active: true,
            interface: None,
            pnet_id: "LABNET".into(),
            pnet_id_by_user: true,
            links: 3,
        };
        let other = Port { number: 2, active: false, pnet_id: String::new(), ..port.clone() };
        let device = Device { name: "rxe0".into(), critical: true, pci: None, ports: vec![port, other] };
        assert_eq!(
            devices(&[device], 0),
            "Net-Dev  IB-Dev  IB-P  IB-State  Type  Crit  #Links  PNET-ID\n\
             n/a      rxe0    1     ACTIVE    n/a   Yes   3       *LABNET\n\
             n/a      rxe0    2     INACTIVE  n/a   Yes   3       n/a\n"
        );
    }

    #[test]
    fn statistics_are_summed_and_shown_in_full_when_asked_for() {
        let rx = Direction { bytes: 5, requests: 8, full: 2, full_peer: 4, ..Direction::default() };
        let counted = Stats {
            client_v2: 1,
            server_v2: 2,
            server_handshake_errors: 4,
            client_fallbacks: 8,
            cork: 1,
            rx,
            tx: Direction { request_sizes: [0, 0, 0, 0, 0, 0, 0, 0, 77], ..Direction::default() },
            ..Stats::default()
        };
        let text = stats(&counted, 0);
        let words = |text: &str| {
            text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        let lines = words(&text);
        for line in [
            "Total connections handled 15",
            "SMC connections 3",
            "Avg requests per SMC conn 3.0",
            "Buffer full 2 (25.00%)",
            "Reqs 0 0 0 0 0 0 0 0 77",
            "Special socket calls 1",
        ] {
            assert!(lines.iter().any(|l| l == line), "{line} is not in\n{text}");
        }
        let detailed = words(&stats(&counted, 1));
        assert!(lines.iter().all(|line| detailed.contains(line)));
        assert!(detailed.iter().any(|l| l == "Buffer full (remote) 4 (50.00%)"));
        assert!(stats(&Stats::default(), 1).contains("0.0"));
    }
}
