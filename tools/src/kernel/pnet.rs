//! The kernel's table of user-defined PNET ids: which network interface and which port of an RDMA device are on the same
//! physical network. Generic netlink family SMC_PNETID (include/uapi/linux/smc.h).

use std::io;

use netlink_packet_core::DefaultNla;
use serde::Serialize;

use super::netlink::{string, Family, Kind};
use super::{explain, Attributes};

const FAMILY: &str = "SMC_PNETID";
const SMC_PNETID_GET: u8 = 1;
const SMC_PNETID_ADD: u8 = 2;
const SMC_PNETID_DEL: u8 = 3;
const SMC_PNETID_FLUSH: u8 = 4;
const SMC_PNETID_NAME: u16 = 1;
const SMC_PNETID_ETHNAME: u16 = 2;
const SMC_PNETID_IBNAME: u16 = 3;
const SMC_PNETID_IBPORT: u16 = 4;

/// What the kernel writes for the part that an entry does not have.
const NONE: &str = "n/a";

/// An entry: an interface, or a port of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// 1 to 16 letters and digits; the kernel makes them upper case.
    pub pnet_id: String,
    pub interface: Option<String>,
    pub device: Option<String>,
    /// 1 or 2, with a device.
    pub port: Option<u8>,
}

pub fn list() -> io::Result<Vec<Entry>> {
    let answers = Family::find(FAMILY)?.request(Kind::Dump, SMC_PNETID_GET, &[])?;
    Ok(answers.iter().filter_map(|a| entry(Attributes(a))).collect())
}

fn entry(attributes: Attributes) -> Option<Entry> {
    let part = |kind| attributes.string(kind).filter(|name| !name.is_empty() && name != NONE);
    let device = part(SMC_PNETID_IBNAME);
    Some(Entry {
        pnet_id: attributes.string(SMC_PNETID_NAME)?,
        interface: part(SMC_PNETID_ETHNAME),
        port: device.as_ref().and(attributes.u8(SMC_PNETID_IBPORT)),
        device,
    })
}

/// Gives an interface, a device's port, or both a PNET id.
pub fn add(pnet_id: &str, interface: Option<&str>, device: Option<&str>, port: u8) -> io::Result<()> {
    let mut attributes = vec![string(SMC_PNETID_NAME, pnet_id)];
    attributes.extend(interface.map(|name| string(SMC_PNETID_ETHNAME, name)));
    if let Some(device) = device {
        attributes.push(string(SMC_PNETID_IBNAME, device));
        attributes.push(DefaultNla::new(SMC_PNETID_IBPORT, vec![port]));
    }
    let meanings = [
        (libc::EINVAL, "no such interface or device, or no name of 1 to 16 letters and digits"),
        (libc::ENODEV, "no such interface or device"),
        (libc::EEXIST, "the interface or device has a PNET id already"),
        (libc::EPERM, "only root may change PNET ids (CAP_NET_ADMIN)"),
    ];
    Family::find(FAMILY)?
        .request(Kind::Do, SMC_PNETID_ADD, &attributes)
        .map(|_| ())
        .map_err(|e| explain(e, &format!("cannot add {pnet_id}"), &meanings))
}

/// Removes all entries with this id.
pub fn remove(pnet_id: &str) -> io::Result<()> {
    let meanings =
        [(libc::ENOENT, "it is not there"), (libc::EPERM, "only root may change PNET ids (CAP_NET_ADMIN)")];
    Family::find(FAMILY)?
        .request(Kind::Do, SMC_PNETID_DEL, &[string(SMC_PNETID_NAME, pnet_id)])
        .map(|_| ())
        .map_err(|e| explain(e, &format!("cannot remove {pnet_id}"), &meanings))
}

pub fn flush() -> io::Result<()> {
    Family::find(FAMILY)?.request(Kind::Do, SMC_PNETID_FLUSH, &[]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::super::testdata::recorded;
    use super::*;

    #[test]
    fn a_kernels_entries_are_read_with_the_part_that_they_have() {
        let read: Vec<_> = recorded("pnet").iter().map(|a| entry(Attributes(a)).unwrap()).collect();
        let interface =
            Entry { pnet_id: "LABNET".into(), interface: Some("eth0".into()), device: None, port: None };
        let device =
            Entry { interface: None, device: Some("rxe0".into()), port: Some(1), ..interface.clone() };
        assert_eq!(read, [interface, device]);
    }
}
