//! The socket table, column for column as smc-tools' smcss prints it, so that scripts and eyes find what they know.

use std::collections::HashSet;
use std::fmt::Write;

use smc_core::registry::SocketRecord;

/// How a table is printed.
#[derive(Clone, Copy, Default)]
pub struct Layout {
    /// Addresses in full.
    pub wide: bool,
    /// The columns that smc-tools does not have.
    pub details: bool,
}

/// Widest `address:port` of the usual table; longer ones are cut.
const NARROW: usize = 23;
/// The longest IPv6 address, a colon and five digits.
const WIDE: usize = 45;
/// `TCP`, two codes and what separates them.
const MODE: usize = 25;

impl Layout {
    /// The table with its heading, each line ended.
    pub fn render(self, sockets: &[SocketRecord]) -> String {
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
        if self.details {
            let _ = write!(
                line,
                "{:pad$} {:>7} {:15} {:>5} {:19} {:>12} {:>12} {:>12} {:>12} {:>8} Reason",
                "",
                "PID",
                "Command",
                "FD",
                "Since",
                "TCP-Rx",
                "TCP-Tx",
                "Ring-Rx",
                "Ring-Tx",
                "Switches",
                pad = MODE - "Mode".len()
            );
        }
        line
    }

    fn row(self, s: &SocketRecord) -> String {
        let width = self.address_width();
        let local = self.address(&s.local);
        let peer = self.address(&s.peer);
        let connection = s.state != "LISTEN" && !s.local.is_empty();
        let interface = if connection { format!("{:04}", s.interface) } else { String::new() };
        let mode = if connection { mode(s) } else { String::new() };
        let mut line = format!(
            "{:14} {:05} {:07} {local:width$} {peer:width$} {interface:4} {mode}",
            s.state, s.uid, s.inode
        );
        if self.details {
            let _ = write!(
                line,
                "{:pad$} {:>7} {:15} {:>5} {:19} {:>12} {:>12} {:>12} {:>12} {:>8} {}",
                "",
                s.pid,
                s.comm,
                s.fd,
                local_time(s.since),
                s.tcp_rx_bytes,
                s.tcp_tx_bytes,
                s.ring_rx_bytes,
                s.ring_tx_bytes,
                s.switches,
                s.reason_text,
                pad = MODE - mode.len().min(MODE)
            );
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

fn mode(s: &SocketRecord) -> String {
    const NO_CODE: &str = "0x00000000";
    match (s.mode, &*s.peer_reason) {
        ("TCP", NO_CODE) => format!("TCP {}", s.reason),
        ("TCP", peer) => format!("TCP {}/{peer}", s.reason),
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
        layout.render(sockets).lines().map(str::to_owned).collect()
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

    #[test]
    fn a_time_that_is_none_is_a_dash() {
        assert_eq!(local_time(u64::MAX), "-");
        assert_eq!(local_time(1_700_000_000_000).len(), "2023-11-14T22:13:20".len());
    }
}
