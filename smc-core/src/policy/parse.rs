//! Rules as they are written: `exclude program=redis-server,redis-cli peer=10.0.0.0/8:6379`.

use std::net::IpAddr;

use super::address::Network;
use super::{Action, AddressSet, Field, Origin, Pattern, Rule};
use crate::sys::sock::Endpoint;

/// Reads one rule. An error is a clause about what is wrong, for a place in front of it.
pub fn rule(text: &str, origin: Origin) -> Result<Rule, String> {
    let mut words = text.split_ascii_whitespace();
    let action = match words.next() {
        Some("include") => Action::Include,
        Some("exclude") => Action::Exclude,
        word => {
            return Err(format!("'{}' is not a rule: it begins with include or exclude", word.unwrap_or("")))
        }
    };
    let mut rule = Rule {
        action,
        programs: Vec::new(),
        uids: Vec::new(),
        local: Vec::new(),
        peer: Vec::new(),
        origin,
        text: text.trim().to_owned(),
    };
    let mut seen = Vec::new();
    for word in words {
        let (field, values) = condition(word)?;
        if seen.contains(&field) {
            return Err(format!("{}= is given twice; separate its values by commas", field.name()));
        }
        seen.push(field);
        for value in values.split(',') {
            let wrong = |why: String| format!("{}={value}: {why}", field.name());
            match field {
                Field::Program => rule.programs.push(pattern(value).map_err(wrong)?),
                Field::Uid => rule.uids.push(uid(value).map_err(wrong)?),
                Field::Local => rule.local.push(address_set(value).map_err(wrong)?),
                Field::Peer => rule.peer.push(address_set(value).map_err(wrong)?),
            }
        }
    }
    Ok(rule)
}

fn condition(word: &str) -> Result<(Field, &str), String> {
    const FIELDS: [Field; 4] = [Field::Program, Field::Uid, Field::Local, Field::Peer];
    if word.starts_with('#') {
        return Err("a comment takes a line of its own".to_owned());
    }
    let Some((name, values)) = word.split_once('=') else {
        return Err(format!("'{word}' is not a condition: program=, uid=, local= or peer= with a value"));
    };
    match FIELDS.into_iter().find(|field| field.name() == name) {
        Some(field) => Ok((field, values)),
        None => Err(format!("unknown condition '{name}': there are program, uid, local and peer")),
    }
}

fn pattern(value: &str) -> Result<Pattern, String> {
    match value {
        "" => Err("a name is missing".to_owned()),
        _ => Ok(Pattern(value.as_bytes().to_vec())),
    }
}

fn uid(value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| "not a number; users are given by number (id -u NAME)".to_owned())
}

/// `ADDRESS`, `ADDRESS/BITS`, either with `:PORT` or `:FIRST-LAST` behind it (IPv6 in brackets then), or the ports
/// alone.
fn address_set(value: &str) -> Result<AddressSet, String> {
    let (network, ports) = match split(value)? {
        (address, Some(ports)) => (address, port_range(ports)?),
        (address, None) => (address, (0, u16::MAX)),
    };
    let network = match network {
        "" | "*" if value.is_empty() => return Err("an address or a port is missing".to_owned()),
        "" | "*" => None,
        text => Some(parse_network(text)?),
    };
    Ok(AddressSet { network, ports })
}

/// Takes the ports off an address.
fn split(value: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = value.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or("the ] is missing")?;
        return match after.strip_prefix(':') {
            Some(ports) => Ok((address, Some(ports))),
            None if after.is_empty() => Ok((address, None)),
            None => Err(format!("'{after}' stands behind the ]")),
        };
    }
    match value.split_once(':') {
        // An IPv6 address without ports.
        Some((_, rest)) if rest.contains(':') => Ok((value, None)),
        Some((address, ports)) => Ok((address, Some(ports))),
        None => Ok((value, None)),
    }
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let port = |t: &str| t.parse::<u16>().map_err(|_| format!("'{t}' is not a port (0 to 65535)"));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last {
        return Err(format!("the ports {first}-{last} are none: the first is above the last"));
    }
    Ok((first, last))
}

fn parse_network(text: &str) -> Result<Network, String> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let ip = address.parse::<IpAddr>().map_err(|_| {
        format!("'{address}' is not an IP address (names are not looked up, IPv6 with a port needs brackets)")
    })?;
    let (v4, bytes, most) = match ip {
        IpAddr::V4(ip) => (true, ip.to_ipv6_mapped().octets(), 32),
        IpAddr::V6(ip) => (ip.to_ipv4_mapped().is_some(), ip.octets(), 128),
    };
    let bits = match bits {
        None => most,
        Some(bits) => bits
            .parse::<u8>()
            .ok()
            .filter(|n| *n <= most)
            .ok_or_else(|| format!("/{bits} is not a length of a prefix (0 to {most})"))?,
    };
    let network = Network { v4, ip: bytes, bits: 128 - most + bits };
    if v4 && network.bits < 96 {
        return Err(format!("/{bits} is too short for a v4-mapped address"));
    }
    if network.first() != bytes {
        let first = std::net::Ipv6Addr::from(network.first());
        let first = if ip.is_ipv4() { first.to_canonical() } else { IpAddr::V6(first) };
        return Err(format!("bits are set behind the prefix; this network is {first}/{bits}"));
    }
    Ok(network)
}

/// An address with its port, as `10.0.0.1:80` or `[::1]:80`.
pub fn endpoint(text: &str) -> Result<Endpoint, String> {
    let (address, Some(port)) = split(text)? else {
        return Err("the port is missing (10.0.0.1:80, [::1]:80)".to_owned());
    };
    let port = port.parse().map_err(|_| format!("'{port}' is not a port (0 to 65535)"))?;
    let ip: IpAddr = address.parse().map_err(|_| format!("'{address}' is not an IP address"))?;
    let ip = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    Ok(Endpoint { ip, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        rule(text, Origin::File(1)).expect_err(text)
    }

    fn contains(set: &str, address: &str) -> bool {
        address_set(set).expect(set).contains(&endpoint(address).expect(address))
    }

    #[test]
    fn a_rule_has_its_conditions_and_its_text() {
        let rule =
            rule("  exclude program=a,b*  uid=0,5 local=:80 peer=10.0.0.0/8,[::1]:9 ", Origin::File(7))
                .unwrap();
        assert_eq!(rule.action, Action::Exclude);
        assert_eq!(rule.programs, [Pattern(b"a".to_vec()), Pattern(b"b*".to_vec())]);
        assert_eq!((rule.uids, rule.local.len(), rule.peer.len()), (vec![0, 5], 1, 2));
        assert_eq!(rule.text, "exclude program=a,b*  uid=0,5 local=:80 peer=10.0.0.0/8,[::1]:9");
        assert_eq!(rule.origin, Origin::File(7));
    }

    #[test]
    fn addresses_prefixes_and_ports() {
        for (set, address, is) in [
            ("10.0.0.1", "10.0.0.1:1", true),
            ("10.0.0.1", "10.0.0.2:1", false),
            ("10.0.0.1:80", "10.0.0.1:80", true),
            ("10.0.0.1:80", "10.0.0.1:81", false),
            ("10.0.0.0/8:80-90", "10.255.0.1:90", true),
            ("10.0.0.0/8:80-90", "10.255.0.1:91", false),
            ("10.0.0.0/8", "11.0.0.1:80", false),
            (":80", "[::1]:80", true),
            ("*:80", "1.2.3.4:80", true),
            ("*", "1.2.3.4:80", true),
            ("0.0.0.0/0", "1.2.3.4:1", true),
            ("0.0.0.0/0", "[::1]:1", false),
            ("::/0", "[::1]:1", true),
            ("::/0", "1.2.3.4:1", false),
            ("::1", "[::1]:1", true),
            ("fd00::/8", "[fd12::1]:1", true),
            ("[fd00::/8]:5", "[fd12::1]:5", true),
            ("[fd00::/8]:5", "[fd12::1]:6", false),
            ("[fe80::1]", "[fe80::1]:6", true),
            // An IPv4 peer of an IPv6 socket.
            ("127.0.0.1", "[::ffff:127.0.0.1]:1", true),
            ("::ffff:127.0.0.0/104", "127.8.0.1:1", true),
        ] {
            assert_eq!(contains(set, address), is, "{set} {address}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("deny all", "'deny' is not a rule"),
            ("", "include or exclude"),
            ("exclude all", "'all' is not a condition"),
            ("exclude port=5", "unknown condition 'port'"),
            ("exclude uid=redis", "uid=redis: not a number"),
            ("exclude uid=1 uid=2", "uid= is given twice"),
            ("exclude program=", "a name is missing"),
            ("exclude program=a,", "a name is missing"),
            ("exclude peer=", "an address or a port is missing"),
            ("exclude peer=localhost", "'localhost' is not an IP address"),
            ("exclude peer=10.0.0.1/8", "this network is 10.0.0.0/8"),
            ("exclude peer=fd00::1/8", "this network is fd00::/8"),
            ("exclude peer=10.0.0.0/33", "/33 is not a length"),
            ("exclude peer=10.0.0.0/-1", "/-1 is not a length"),
            ("exclude local=:65536", "'65536' is not a port"),
            ("exclude local=:90-80", "first is above the last"),
            ("exclude local=:", "'' is not a port"),
            ("exclude local=[::1", "the ] is missing"),
            ("exclude local=[::1]80", "'80' stands behind"),
            ("exclude uid=0 # root", "a line of its own"),
        ] {
            let said = complaint(text);
            assert!(said.contains(part), "{text}: {said}");
        }
    }
}
