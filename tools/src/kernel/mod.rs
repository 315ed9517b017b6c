//! What the kernel's own SMC (AF_SMC) tells and lets set through netlink: user-defined EIDs and PNET ids through its two
//! generic families, sockets through smc_diag. Numbers and layouts: include/uapi/linux/{smc,smc_diag,genetlink}.h.

pub mod diag;
mod netlink;
pub mod pnet;
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

    fn u8(self, kind: u16) -> Option<u8> {
        self.find(kind)?.first().copied()
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
}
