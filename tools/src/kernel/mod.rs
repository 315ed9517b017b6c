//! What the kernel's own SMC (AF_SMC) tells and lets set through netlink: user-defined EIDs, PNET ids, link groups, devices
//! and statistics through its two generic families, sockets through smc_diag. Numbers and layouts: include/uapi/linux/{smc,smc_diag,genetlink}.h.

pub mod device;
pub mod diag;
pub mod holder;
pub mod linkgroup;
mod netlink;
pub mod pnet;
pub mod stats;
#[cfg(test)]
mod testdata;
pub mod ueid;

use std::io;

/// Attributes of a message, looked up by type.
#[derive(Clone, Copy)]
struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this type. Ends at one that is malformed.
    fn find(self, kind: u16) -> Option<&'a [u8]> {
        use netlink_packet_core::NLA_HEADER_SIZE;
        let mut rest = self.0;
        while let Ok(attribute) = netlink_packet_core::NlaBuffer::new_checked(rest) {
            let length = usize::from(attribute.length());
            if attribute.kind() == kind {
                return rest.get(NLA_HEADER_SIZE..length);
            }
            rest = rest.get(length.next_multiple_of(netlink_packet_core::NLA_ALIGNTO)..)?;
        }
        None
    }

    /// The attributes within the first attribute of this type.
    fn nest(self, kind: u16) -> Option<Attributes<'a>> {
        self.find(kind).map(Attributes)
    }

    fn u8(self, kind: u16) -> Option<u8> {
        self.find(kind)?.first().copied()
    }

    fn u16(self, kind: u16) -> Option<u16> {
        Some(u16::from_ne_bytes(self.find(kind)?.get(..2)?.try_into().ok()?))
    }

    fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.find(kind)?.get(..4)?.try_into().ok()?))
    }

    /// A number of four bytes or eight.
    fn uint(self, kind: u16) -> Option<u64> {
        let bytes = self.find(kind)?;
        match bytes.len() {
            8 => Some(u64::from_ne_bytes(bytes.try_into().ok()?)),
            _ => self.u32(kind).map(u64::from),
        }
    }

    /// A string without its terminating zero.
    fn string(self, kind: u16) -> Option<String> {
        let bytes = self.find(kind)?;
        Some(text(bytes))
    }
}

/// The text before the first zero byte.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or(&[])).into_owned()
}

/// The name of a network interface by its index; `None` for 0, and for one that is gone or in another namespace.
fn interface_name(index: u32) -> Option<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: room for the longest name.
    let found = index != 0 && !unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) }.is_null();
    found.then(|| text(&name))
}

/// The generic family that is not about PNET ids (SMC_GENL_FAMILY_NAME).
const FAMILY: &str = "SMC_GEN_NETLINK";

/// The attributes of all answers to a dump of [`FAMILY`].
fn dump(command: u8) -> io::Result<Vec<Vec<u8>>> {
    netlink::Family::find(FAMILY)?.request(netlink::Kind::Dump, command, &[])
}

/// Says what an error of a state-changing command means.
fn explain(error: io::Error, what: &str, meanings: &[(i32, &str)]) -> io::Error {
    let meaning = meanings
        .iter()
        .find(|(errno, _)| error.raw_os_error() == Some(*errno))
        .map(|(_, meaning)| format!(": {meaning}"))
        .unwrap_or_else(|| format!(": {error}"));
    io::Error::new(error.kind(), format!("{what}{meaning}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_by_type_and_malformed_ones_end_the_search() {
        // type 1 "ab", padded; type 2 with the nested flag, 7; then one that claims more than there is.
        let bytes = [6, 0, 1, 0, b'a', b'b', 0, 0, 5, 0, 2, 0x80, 7, 0, 0, 0, 9, 0, 3, 0, 1];
        let attributes = Attributes(&bytes);
        assert_eq!(attributes.string(1).as_deref(), Some("ab"));
        assert_eq!(attributes.u8(2), Some(7));
        assert_eq!(attributes.find(3), None);
        assert_eq!(attributes.find(4), None);
        assert_eq!(Attributes(&[1, 0, 1, 0]).find(1), None);
        assert_eq!(Attributes(&[5, 0, 1, 0, 3]).u8(1), Some(3));
        assert_eq!(Attributes(&[4, 0, 1, 0]).u8(1), None);
    }

    #[test]
    fn numbers_of_every_width_are_read_and_short_ones_are_none() {
        let mut bytes = vec![12, 0, 1, 0];
        bytes.extend(0x0102_0304_0506_0708u64.to_ne_bytes());
        bytes.extend([8, 0, 2, 0]);
        bytes.extend(0x0a0b_0c0du32.to_ne_bytes());
        bytes.extend([5, 0, 3, 0, 1, 0, 0, 0]);
        let attributes = Attributes(&bytes);
        assert_eq!(attributes.uint(1), Some(0x0102_0304_0506_0708));
        assert_eq!((attributes.uint(2), attributes.u32(2)), (Some(0x0a0b_0c0d), Some(0x0a0b_0c0d)));
        assert_eq!((attributes.u32(3), attributes.u16(3), attributes.uint(3)), (None, None, None));
        let nested = [8, 0, 4, 0x80, 5, 0, 1, 0, 9];
        assert!(Attributes(&nested).nest(4).is_some_and(|nest| nest.u8(1).is_none()));
        let nested = [12, 0, 4, 0x80, 5, 0, 1, 0, 9, 0, 0, 0];
        assert_eq!(Attributes(&nested).nest(4).and_then(|nest| nest.u8(1)), Some(9));
    }
}
