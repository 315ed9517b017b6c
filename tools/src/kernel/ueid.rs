//! User-defined enterprise ids of the kernel: two hosts speak SMC-Rv2 only if they have one in common.
//! Generic netlink family SMC_GEN_NETLINK (include/uapi/linux/smc.h); the kernel keeps four at most, for all network
//! namespaces.

use std::io;

use netlink_packet_core::DefaultNla;
use smc_core::config::ueid::{check, LENGTH};

use super::netlink::{Family, Kind};
use super::{dump, explain, Attributes, FAMILY};

const SMC_NETLINK_DUMP_UEID: u8 = 9;
const SMC_NETLINK_ADD_UEID: u8 = 10;
const SMC_NETLINK_REMOVE_UEID: u8 = 11;
const SMC_NETLINK_FLUSH_UEID: u8 = 12;
/// SMC_NLA_EID_TABLE_ENTRY.
const ENTRY: u16 = 1;

/// All EIDs in use, without the blanks.
pub fn list() -> io::Result<Vec<String>> {
    let answers = dump(SMC_NETLINK_DUMP_UEID)?;
    Ok(answers.iter().filter_map(|a| entry(Attributes(a))).collect())
}

fn entry(attributes: Attributes) -> Option<String> {
    Some(attributes.string(ENTRY)?.trim_end().into())
}

pub fn add(eid: &str) -> io::Result<()> {
    let meanings = [
        (libc::EINVAL, "the kernel does not take it as an EID"),
        (libc::EEXIST, "it is there already"),
        (libc::ERANGE, "the kernel has as many as it can hold"),
        (libc::EPERM, "only root may change the kernel's EIDs (CAP_NET_ADMIN)"),
    ];
    change(SMC_NETLINK_ADD_UEID, eid).map_err(|e| explain(e, &format!("cannot add {eid}"), &meanings))
}

pub fn remove(eid: &str) -> io::Result<()> {
    let meanings = [
        (libc::ENOENT, "it is not there"),
        (libc::EPERM, "only root may change the kernel's EIDs (CAP_NET_ADMIN)"),
    ];
    change(SMC_NETLINK_REMOVE_UEID, eid).map_err(|e| explain(e, &format!("cannot remove {eid}"), &meanings))
}

pub fn flush() -> io::Result<()> {
    Family::find(FAMILY)?.request(Kind::Do, SMC_NETLINK_FLUSH_UEID, &[]).map(|_| ())
}

fn change(command: u8, eid: &str) -> io::Result<()> {
    check(eid).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let mut bytes = format!("{eid:LENGTH$}").into_bytes();
    bytes.push(0);
    Family::find(FAMILY)?.request(Kind::Do, command, &[DefaultNla::new(ENTRY, bytes)]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::super::testdata::recorded;
    use super::*;

    #[test]
    fn a_kernels_eids_are_read_without_their_padding() {
        let read: Vec<_> = recorded("ueid").iter().filter_map(|a| entry(Attributes(a))).collect();
        assert_eq!(read, ["SMCLAB", "OTHER.1-A"]);
    }
}
