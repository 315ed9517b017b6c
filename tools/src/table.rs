//! The socket table, column for column as smc-tools' smcss prints it, so that scripts and eyes find what they know.

use std::collections::HashSet;
use std::fmt::Write;

use smc_core::reason::Reason;
use smc_core::registry::SocketRecord;

use crate::kernel::diag;

/// How a table is printed.
#[derive(Clone, Copy, Default)]
pub struct Layout {
    /// Addresses in full.
    pub wide: bool,
    /// The columns that smc-tools does not have.
    pub details: bool,
    /// The columns of SMC-R links.
    pub links: bool,
    /// The columns of SMC-D buffers.
    pub buffers: bool,
}

/// One socket, of a process's or of the kernel's.
#[derive(Clone, Default)]
pub struct Row {
    state: &'static str,
    uid: u32,
    inode: u64,
    /// `ip:port` or `[ip6]:port`, empty if there is none.
    local: String,
    peer: String,
    interface: u32,
    mode: String,
    reason_text: String,
    /// Process, command name and descriptor.
    holder: Option<(String, String, String)>,
    counts: Option<Counts>,
    link: Option<[String; 6]>,
    dmb: Option<diag::Dmb>,
}

/// What a process publishes of its connection; the kernel tells none of it.
#[derive(Clone)]
struct Counts {
    since: u64,
    bytes: [u64; 4],
    switches: u32,
}

impl From<&SocketRecord> for Row {
    fn from(s: &SocketRecord) -> Row {
        Row {
            state: s.state,
            uid: s.uid,
            inode: s.inode,
            local: s.local.clone(),
            peer: s.peer.clone(),
            interface: s.interface,
            mode: mode(s.mode, &s.reason, &s.peer_reason),
            reason_text: s.reason_text.clone(),
            holder: Some((s.pid.to_string(), s.comm.clone(), s.fd.to_string())),
            counts: Some(Counts {
                since: s.since,
                bytes: [s.tcp_rx_bytes, s.tcp_tx_bytes, s.ring_rx_bytes, s.ring_tx_bytes],
                switches: s.switches,
            }),
            link: s.device.rsplit_once('/').map(|(device, port)| {
                // Processes do not publish the link's number and GIDs.
                let port = port.parse::<u8>().map_or_else(|_| port.to_owned(), |port| format!("{port:02x}"));
                [s.role, device, &port, "", "", ""].map(str::to_owned)
            }),
            dmb: None,
        }
    }
}

impl From<&diag::Socket> for Row {
    fn from(s: &diag::Socket) -> Row {
        let connected = s.peer.port() != 0;
        let (mode, reason_text) = match (s.mode, &s.fallback) {
            (diag::Mode::Tcp, Some(f)) => (
                mode("TCP", &code(f.reason), &code(f.peer_diagnosis)),
                Reason::from_code(f.reason).map_or("", Reason::sentence).to_owned(),
            ),
            (diag::Mode::Smcr | diag::Mode::Smcd, _) => {
                (s.mode.name().to_owned(), "uses the kernel's SMC".to_owned())
            }
            _ => (s.mode.name().to_owned(), String::new()),
        };
        Row {
            state: s.state,
            uid: s.uid,
            inode: s.inode,
            local: s.local.to_string(),
            peer: if connected { s.peer.to_string() } else { String::new() },
            interface: s.interface,
            mode,
            reason_text,
            holder: s.holder.as_ref().map(|h| (h.pid.to_string(), h.comm.clone(), h.fd.to_string())),
            counts: None,
            link: s.link.as_ref().map(columns_of),
            dmb: s.dmb,
        }
    }
}

/// The columns of an SMC-R link.
fn columns_of(l: &diag::Link) -> [String; 6] {
    let port = format!("{:02x}", l.port);
    [l.role.to_owned(), l.device.clone(), port, format!("{:02x}", l.id), l.gid.clone(), l.peer_gid.clone()]
}

fn code(number: u32) -> String {
    format!("0x{number:08x}")
}

/// Widest `address:port` of the usual table; longer ones are cut.
const NARROW: usize = 23;
/// The longest IPv6 address, a colon and five digits.
const WIDE: usize = 45;
/// `TCP`, two codes and what separates them.
const MODE: usize = 25;

impl Layout {
    /// The table with its heading, each line ended.
    pub fn render(self, sockets: &[Row]) -> String {
        let mut out = self.heading();
        out.push('\n');
        // Processes that share a socket each publish it: a row tells them apart only in its details.
        let mut printed = HashSet::new();
        for socket in sockets {
            let row = self.row(socket);
            if self.details || !printed.contains(&row) {
                out.push_str(&row);
                out.push('\n');
                printed.insert(row);
            }
        }
        out
    }

    fn heading(self) -> String {
        let width = self.address_width();
        let mut line = format!(
            "State          UID   Inode   {:width$} {:width$} Intf Mode",
            "Local Address", "Peer Address"
        );
        let mut columns = Columns { line: &mut line, open: MODE - "Mode".len() };
        if self.links {
            columns.add(0, &link_columns(["Role", "IB-device", "Port", "Linkid", "GID", "Peer-GID"]));
        }
        if self.buffers {
            columns.add(0, &buffer_columns(["GID", "Token", "Peer-GID", "Peer-Token", "Linkid"]));
        }
        if self.details {
            let counts = ["TCP-Rx", "TCP-Tx", "Ring-Rx", "Ring-Tx", "Switches"];
            columns.add(MODE, &detail_columns(["PID", "Command", "FD", "Since"], counts, "Reason"));
        }
        line.truncate(line.trim_end().len());
        line
    }

    fn row(self, s: &Row) -> String {
        let width = self.address_width();
        let local = self.address(&s.local);
        let peer = self.address(&s.peer);
        let connection = s.state != "LISTEN" && !s.local.is_empty();
        let interface = if connection { format!("{:04}", s.interface) } else { String::new() };
        let mode = if connection { &*s.mode } else { "" };
        let mut line = format!(
            "{:14} {:05} {:07} {local:width$} {peer:width$} {interface:4} {mode}",
            s.state, s.uid, s.inode
        );
        let mut columns = Columns { line: &mut line, open: MODE - mode.len().min(MODE) };
        if self.links {
            let text = s.link.as_ref().map(|l| link_columns(l.each_ref().map(String::as_str)));
            columns.add(0, &text.unwrap_or_else(|| link_columns([""; 6])));
        }
        if self.buffers {
            let text = s.dmb.map(|d| {
                let words = [d.gid, d.token, d.peer_gid, d.peer_token].map(|n| format!("{n:016x}"));
                let [gid, token, peer_gid, peer_token] = words.each_ref().map(String::as_str);
                buffer_columns([gid, token, peer_gid, peer_token, &format!("{:08x}", d.link_id)])
            });
            columns.add(0, &text.unwrap_or_else(|| buffer_columns([""; 5])));
        }
        if self.details {
            let (pid, comm, fd) = match &s.holder {
                Some((pid, comm, fd)) => (&**pid, &**comm, &**fd),
                None => ("-", "-", "-"),
            };
            let text = match &s.counts {
                Some(counts) => {
                    let [a, b, c, d] = counts.bytes.map(|n| n.to_string());
                    let numbers = [&*a, &*b, &*c, &*d, &*counts.switches.to_string()];
                    detail_columns([pid, comm, fd, &local_time(counts.since)], numbers, &s.reason_text)
                }
                None => detail_columns([pid, comm, fd, "-"], ["-"; 5], &s.reason_text),
            };
            columns.add(MODE, &text);
        }
        line.truncate(line.trim_end().len());
        line
    }

    fn address_width(self) -> usize {
        if self.wide {
            WIDE
        } else {
            NARROW
        }
    }

    /// `[ip6]:port` loses its brackets, and what is too long its middle.
    fn address(self, text: &str) -> String {
        let Some((ip, port)) = text.rsplit_once(':') else { return String::new() };
        let ip = ip.trim_start_matches('[').trim_end_matches(']');
        if ip.len() + 1 + port.len() <= self.address_width() {
            return format!("{ip}:{port}");
        }
        let keep = self.address_width() - 1 - port.len() - "..".len();
        format!("{}..:{port}", &ip[..keep])
    }
}

/// What stands behind the mode.
struct Columns<'a> {
    line: &'a mut String,
    /// Blanks that are missing to the full width of the mode.
    open: usize,
}

impl Columns<'_> {
    /// Adds columns; those that have to stand clear of the longest mode say its width, the others that of four letters.
    fn add(&mut self, width: usize, text: &str) {
        let blanks = std::mem::take(&mut self.open);
        let blanks = if width == MODE { blanks } else { blanks.saturating_sub(MODE - "SMCR".len()) };
        let _ = write!(self.line, "{:blanks$} {text}", "");
    }
}

fn link_columns([role, device, port, id, gid, peer_gid]: [&str; 6]) -> String {
    format!("{role:4} {device:15} {port:4} {id:6} {gid:40} {peer_gid:40}")
}

fn buffer_columns([gid, token, peer_gid, peer_token, id]: [&str; 5]) -> String {
    format!("{gid:16} {token:16} {peer_gid:16} {peer_token:16} {id:8}")
}

fn detail_columns([pid, comm, fd, since]: [&str; 4], counts: [&str; 5], reason: &str) -> String {
    let [a, b, c, d, switches] = counts;
    format!("{pid:>7} {comm:15} {fd:>5} {since:19} {a:>12} {b:>12} {c:>12} {d:>12} {switches:>8} {reason}")
}

/// The mode, with the codes of one that is TCP.
fn mode(mode: &str, reason: &str, peer_reason: &str) -> String {
    const NO_CODE: &str = "0x00000000";
    match (mode, peer_reason) {
        ("TCP", NO_CODE) => format!("TCP {reason}"),
        ("TCP", peer) => format!("TCP {reason}/{peer}"),
        (smc, _) => smc.to_owned(),
    }
}

/// Milliseconds since the epoch as `2024-02-29T12:34:56` in the local time zone; `-` for what is no time.
fn local_time(ms: u64) -> String {
    let seconds = (ms / 1000) as libc::time_t;
    // SAFETY: all zeroes is a `tm`: integers and a pointer that may be null.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: reads a number, writes `tm`.
    if unsafe { libc::localtime_r(&seconds, &mut tm) }.is_null() || tm.tm_year >= 8100 {
        return "-".to_owned();
    }
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        tm.tm_year + 1900,
        tm.tm_mon + 1,
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::holder::Holder;

    fn socket(local: &str, peer: &str) -> SocketRecord {
        SocketRecord {
            pid: 4711,
            comm: "redis-server".to_owned(),
            fd: 8,
            uid: 0,
            inode: 59964,
            state: "ACTIVE",
            local: local.to_owned(),
            peer: peer.to_owned(),
            mode: "SMCD",
            reason: "0x00000000".to_owned(),
            peer_reason: "0x00000000".to_owned(),
            reason_text: "uses SMC".to_owned(),
            role: "",
            device: String::new(),
            since: 0,
            tcp_rx_bytes: 1,
            tcp_tx_bytes: 2,
            ring_rx_bytes: 3,
            ring_tx_bytes: 4,
            switches: 5,
            interface: 0,
        }
    }

    fn rows(layout: Layout, sockets: &[SocketRecord]) -> Vec<String> {
        layout.render(&sockets.iter().map(Row::from).collect::<Vec<_>>()).lines().map(str::to_owned).collect()
    }

    #[test]
    fn columns_stand_where_smc_tools_has_them() {
        let mut tcp = socket("172.17.192.73:47772", "172.17.192.10:80");
        tcp.mode = "TCP";
        tcp.reason = "0x05000000".to_owned();
        tcp.peer_reason = "0x03030000".to_owned();
        let mut one_code = tcp.clone();
        one_code.peer_reason = "0x00000000".to_owned();
        let mut listener = socket("0.0.0.0:37373", "");
        listener.state = "LISTEN";
        let mut closed = socket("", "");
        closed.state = "CLOSED";
        let smcd = socket("172.17.192.73:47772", "172.17.192.10:80");
        let mut bound = smcd.clone();
        bound.interface = 2;
        let want = [
            "State          UID   Inode   Local Address           Peer Address            Intf Mode",
            "ACTIVE         00000 0059964 172.17.192.73:47772     172.17.192.10:80        0000 SMCD",
            "ACTIVE         00000 0059964 172.17.192.73:47772     172.17.192.10:80        0002 SMCD",
            "ACTIVE         00000 0059964 172.17.192.73:47772     172.17.192.10:80        0000 TCP 0x05000000/0x03030000",
            "ACTIVE         00000 0059964 172.17.192.73:47772     172.17.192.10:80        0000 TCP 0x05000000",
            "LISTEN         00000 0059964 0.0.0.0:37373",
            "CLOSED         00000 0059964",
        ];
        assert_eq!(rows(Layout::default(), &[smcd, bound, tcp, one_code, listener, closed]), want);
    }

    #[test]
    fn long_addresses_are_cut_unless_wide() {
        let mapped = socket("[::ffff:10.10.93.12]:46093", "[fe80:1234:5678:9abc:def0:1234:5678:9abc]:1");
        let narrow = "ACTIVE         00000 0059964 ::ffff:10.10.93..:46093 fe80:1234:5678:9abc..:1 0000 SMCD";
        assert_eq!(rows(Layout::default(), std::slice::from_ref(&mapped))[1], narrow);
        let wide = Layout { wide: true, ..Layout::default() };
        let row = &rows(wide, &[mapped])[1];
        assert!(row.contains(" ::ffff:10.10.93.12:46093 "), "{row}");
        assert!(row.contains(" fe80:1234:5678:9abc:def0:1234:5678:9abc:1 "), "{row}");
        let longest = socket(
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
        );
        assert!(!rows(wide, &[longest])[1].contains(".."));
    }

    #[test]
    fn details_name_the_process_and_line_up_with_the_heading() {
        let details = Layout { details: true, ..Layout::default() };
        let mut tcp = socket("1.2.3.4:5", "1.2.3.4:6");
        tcp.mode = "TCP";
        tcp.reason = "0x03010001".to_owned();
        let mut listener = socket("0.0.0.0:37373", "");
        listener.state = "LISTEN";
        let lines = rows(details, &[socket("1.2.3.4:5", "1.2.3.4:6"), tcp, listener]);
        let command = lines[0].find("Command").unwrap();
        let reason = lines[0].find("Reason").unwrap();
        for line in &lines[1..] {
            assert!(line[command..].starts_with("redis-server "), "{line}");
            assert_eq!(&line[reason..], "uses SMC", "{line}");
        }
    }

    #[test]
    fn a_socket_shared_by_processes_takes_one_row_unless_details_tell_them_apart() {
        let one = socket("1.2.3.4:5", "1.2.3.4:6");
        let other = SocketRecord { pid: 4712, ..one.clone() };
        assert_eq!(rows(Layout::default(), &[one.clone(), other.clone()]).len(), 2);
        assert_eq!(rows(Layout { details: true, ..Layout::default() }, &[one, other]).len(), 3);
    }

    fn of_kernel(mode: diag::Mode) -> diag::Socket {
        diag::Socket {
            state: "ACTIVE",
            mode,
            local: "10.9.0.1:7000".parse().unwrap(),
            peer: "10.9.0.2:32769".parse().unwrap(),
            interface: 0,
            uid: 0,
            inode: 77,
            holder: None,
            fallback: None,
            link: None,
            dmb: None,
            buffers: None,
        }
    }

    #[test]
    fn the_kernels_sockets_have_rows_of_the_same_shape_and_their_links() {
        let gid = "0000:0000:0000:0000:0000:ffff:0a09:0001";
        let peer_gid = "0000:0000:0000:0000:0000:ffff:0a09:0002".to_owned();
        let link =
            diag::Link { id: 1, device: "rxe0".into(), port: 1, gid: gid.into(), peer_gid, role: "SERV" };
        let smcr = diag::Socket { link: Some(link), ..of_kernel(diag::Mode::Smcr) };
        let fallback = Some(diag::Fallback { reason: 0x0303_0000, peer_diagnosis: 0 });
        let tcp = diag::Socket { fallback, ..of_kernel(diag::Mode::Tcp) };
        let peer = "0.0.0.0:0".parse().unwrap();
        let listener = diag::Socket { state: "LISTEN", peer, ..of_kernel(diag::Mode::Smcr) };
        let all: Vec<Row> = [&smcr, &tcp, &listener].map(Row::from).into();
        let front = "ACTIVE         00000 0000077 10.9.0.1:7000           10.9.0.2:32769          0000";
        let lines: Vec<_> = Layout::default().render(&all).lines().map(str::to_owned).collect();
        assert_eq!(lines[1], format!("{front} SMCR"));
        assert_eq!(lines[2], format!("{front} TCP 0x03030000"));
        assert_eq!(lines[3], "LISTEN         00000 0000077 10.9.0.1:7000");
        let links = Layout { links: true, ..Layout::default() }.render(&all[..1]);
        let (heading, line) = links.trim_end().split_once('\n').unwrap();
        assert!(heading.trim_end().ends_with(
            " Mode Role IB-device       Port Linkid GID                                      Peer-GID"
        ));
        assert_eq!(
            line,
            format!("{front} SMCR SERV rxe0            01   01     {gid}  0000:0000:0000:0000:0000:ffff:0a09:0002")
        );
        assert_eq!(heading.find("Peer-GID"), line.find("0000:0000:0000:0000:0000:ffff:0a09:0002"));
        let holder = Some(Holder { pid: 4711, comm: "redis-server".into(), fd: 8 });
        let held = Row::from(&diag::Socket { holder, ..smcr });
        let both = Layout { links: true, details: true, ..Layout::default() }.render(&[held]);
        let (heading, line) = both.trim_end().split_once('\n').unwrap();
        assert_eq!(heading.find("Command"), line.find("redis-server"));
        let details = Layout { details: true, ..Layout::default() }.render(&all[1..2]);
        let (heading, tcp) = details.trim_end().split_once('\n').unwrap();
        assert_eq!(heading.find("Command").map(|at| &tcp[at..at + 2]), Some("- "));
        assert!(line.ends_with(" uses the kernel's SMC"));
    }

    #[test]
    fn the_kernels_connections_over_ism_show_their_buffers() {
        let dmb = diag::Dmb { link_id: 7, gid: 2, token: 3, peer_gid: 1, peer_token: 4 };
        let row = Row::from(&diag::Socket { dmb: Some(dmb), ..of_kernel(diag::Mode::Smcd) });
        let text = Layout { buffers: true, ..Layout::default() }.render(&[row]);
        let (heading, line) = text.trim_end().split_once('\n').unwrap();
        assert!(line
            .ends_with("SMCD 0000000000000002 0000000000000003 0000000000000001 0000000000000004 00000007"));
        assert_eq!(heading.find("Linkid"), line.find("00000007"));
    }

    #[test]
    fn a_time_that_is_none_is_a_dash() {
        assert_eq!(local_time(u64::MAX), "-");
        assert_eq!(local_time(1_700_000_000_000).len(), "2023-11-14T22:13:20".len());
    }
}
