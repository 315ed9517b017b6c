//! Which RDMA port and GID serve a TCP connection: those of the interface that has its local address.
//!
//! An iWARP device has one GID, its interface's MAC address padded with zeros, by which it is found. In CLC messages the IPv4 address stands in
//! its place, as with RoCE.
//!
//! The tables of GIDs are read from sysfs (`/sys/class/infiniband/DEVICE/ports/N/gids` and `gid_attrs`), which says for each which
//! kind it is and to which network interface it belongs; libibverbs cannot on all versions.

use crate::sys::{interfaces, Interface};
use crate::verbs::{Context, Path};
use smc_core::sys::Result;
use smc_wire::{Gid, Mac, MtuCode};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path as File;
use std::sync::Arc;

const DEVICES: &str = "/sys/class/infiniband";
const INTERFACES: &str = "/sys/class/net";
/// What sysfs says in `node_type` of an iWARP device (RDMA_NODE_RNIC).
const RNIC: &str = "4:";
/// What sysfs calls the kind of GIDs that SMC-Rv2 uses.
const ROCE_V2: &str = "RoCE v2";
/// How long an acknowledgement is waited for, as Linux does it: about 134 ms.
const TIMEOUT: u8 = 15;
/// On soft-RoCE: about 1.1 s. On a crowded machine acknowledgements take long there, and rxe of Linux 6.12 seems not to survive being late
/// twice over one message: the peer refuses a request (status 9), and the link is lost.
const SOFTWARE_TIMEOUT: u8 = 18;

/// How queue pairs of a device are connected.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Transport {
    /// By what CLC messages say.
    Roce,
    /// By the connection manager.
    Iwarp,
}

/// A GID of a port of an opened device.
pub struct Port {
    pub context: Arc<Context>,
    pub device: String,
    pub transport: Transport,
    /// From 1.
    pub number: u8,
    pub gid_index: u8,
    pub gid: Gid,
    pub mac: Mac,
    /// The active MTU.
    pub mtu: MtuCode,
    pub interface: Interface,
}

/// An entry of a GID table.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    device: String,
    transport: Transport,
    port: u8,
    index: u8,
    gid: Gid,
}

impl Port {
    /// The port for connections from the local address `address`, of the device `only` if that is given. `None`: there is none that is
    /// active.
    pub fn find(address: Ipv4Addr, only: Option<&str>) -> Option<Port> {
        let interface = interfaces().into_iter().find(|interface| interface.address == address)?;
        let mac = mac(&interface.name)?;
        let mut entries = entries(&interface, mac, only);
        // The interface may have several addresses, and devices of both kinds.
        entries.sort_by_key(|entry| (entry.gid != Gid::from_ipv4(address), entry.transport));
        entries.into_iter().find_map(|entry| Port::open(entry, mac, &interface).ok().flatten())
    }

    fn open(entry: Entry, mac: Mac, interface: &Interface) -> Result<Option<Port>> {
        let context = Context::open(&entry.device)?;
        let state = context.port(entry.port)?;
        Ok(state.active.then(|| Port {
            context,
            device: entry.device,
            transport: entry.transport,
            number: entry.port,
            gid_index: entry.index,
            gid: entry.gid,
            mac,
            mtu: state.mtu,
            interface: interface.clone(),
        }))
    }

    /// Whether it still is what it was found to be.
    pub fn is_usable(&self) -> bool {
        self.context.port(self.number).is_ok_and(|state| state.active)
            && interfaces().contains(&self.interface)
    }

    /// For queue pairs.
    pub fn path(&self) -> Path {
        // Only a device that is made on top of a network interface says which.
        let software = File::new(DEVICES).join(&self.device).join("parent").exists();
        let timeout = if software { SOFTWARE_TIMEOUT } else { TIMEOUT };
        Path { port: self.number, gid_index: self.gid_index, timeout }
    }

    /// Whether no gateway lies between this port and the one with that GID.
    pub fn is_direct(&self, gid: Gid) -> bool {
        gid.ipv4().is_some_and(|address| self.interface.reaches(address))
    }
}

fn text(path: &File) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The names in a folder.
fn names(folder: &File) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn mac(interface: &str) -> Option<Mac> {
    let text = text(&File::new(INTERFACES).join(interface).join("address"))?;
    let bytes: Vec<u8> = text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().ok().map(Mac)
}

/// The RoCEv2 GIDs with an IPv4 address that belong to an interface, and the iWARP devices on it.
fn entries(interface: &Interface, mac: Mac, only: Option<&str>) -> Vec<Entry> {
    let mut found = Vec::new();
    for device in names(File::new(DEVICES)) {
        if only.is_some_and(|only| only != device) {
            continue;
        }
        let folder = File::new(DEVICES).join(&device);
        let iwarp = text(&folder.join("node_type")).is_some_and(|kind| kind.starts_with(RNIC));
        let transport = if iwarp { Transport::Iwarp } else { Transport::Roce };
        let ports = folder.join("ports");
        for port in names(&ports) {
            let (folder, Ok(port)) = (ports.join(&port), port.parse()) else { continue };
            let gids = match transport {
                Transport::Roce => table(&folder, &interface.name),
                Transport::Iwarp if is_of(&folder, mac) => vec![(0, Gid::from_ipv4(interface.address))],
                Transport::Iwarp => Vec::new(),
            };
            found.extend(gids.into_iter().map(|(index, gid)| Entry {
                device: device.clone(),
                transport,
                port,
                index,
                gid,
            }));
        }
    }
    found
}

/// Whether a port of an iWARP device is that of the interface with this MAC address.
fn is_of(port: &File, mac: Mac) -> bool {
    let gid = text(&port.join("gids").join("0")).and_then(|gid| gid.parse::<Ipv6Addr>().ok());
    gid.is_some_and(|gid| gid.octets()[..6] == mac.0)
}

/// Those of one port.
fn table(port: &File, interface: &str) -> Vec<(u8, Gid)> {
    let attributes = port.join("gid_attrs");
    let mut found = Vec::new();
    // The index in an address handle has eight bits.
    for index in 0..=u8::MAX {
        let name = index.to_string();
        // An entry that is not in use has no interface.
        let Some(owner) = text(&attributes.join("ndevs").join(&name)) else { continue };
        if owner != interface || text(&attributes.join("types").join(&name)).as_deref() != Some(ROCE_V2) {
            continue;
        }
        let gid = text(&port.join("gids").join(&name)).and_then(|gid| gid.parse::<Ipv6Addr>().ok());
        if let Some(gid) = gid.map(|gid| Gid(gid.octets())).filter(|gid| gid.ipv4().is_some()) {
            found.push((index, gid));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_iwarp_port_is_known_by_the_mac_address_in_its_gid() {
        let port = std::env::temp_dir().join(format!("smc-rdma-iwarp-port-{}", std::process::id()));
        fs::create_dir_all(port.join("gids")).expect("folder");
        let gid = port.join("gids/0");
        let mac = Mac([0x52, 0x54, 0, 0xaa, 0, 1]);
        let found = ["5254:00aa:0001:0000:0000:0000:0000:0000", "5254:00aa:0002::", "garbage"].map(|text| {
            fs::write(&gid, format!("{text}\n")).expect("file");
            is_of(&port, mac)
        });
        fs::remove_file(&gid).expect("remove");
        let absent = is_of(&port, mac);
        fs::remove_dir_all(&port).expect("remove");
        assert_eq!((found, absent), ([true, false, false], false));
    }

    #[test]
    fn the_table_of_an_interface_has_its_rocev2_gids_with_an_ipv4_address() {
        let port = std::env::temp_dir().join(format!("smc-rdma-port-{}", std::process::id()));
        let put = |folder: &str, index: usize, text: &str| {
            let folder = port.join(folder);
            fs::create_dir_all(&folder).expect("folder");
            fs::write(folder.join(index.to_string()), format!("{text}\n")).expect("file");
        };
        let mapped = "0000:0000:0000:0000:0000:ffff:0a09:0001";
        let rows = [
            ("fe80:0000:0000:0000:5054:00ff:feaa:0001", "eth0", "RoCE v2"),
            (mapped, "eth0", "IB/RoCE v1"),
            (mapped, "eth1", "RoCE v2"),
            (mapped, "eth0", "RoCE v2"),
        ];
        for (index, (gid, interface, kind)) in rows.into_iter().enumerate() {
            put("gids", index, gid);
            put("gid_attrs/ndevs", index, interface);
            put("gid_attrs/types", index, kind);
        }
        put("gids", 4, mapped);
        let found = table(&port, "eth0");
        fs::remove_dir_all(&port).expect("remove");
        assert_eq!(found, [(3, Gid::from_ipv4(Ipv4Addr::new(10, 9, 0, 1)))]);
    }
}
