//! The TCP option that says "SMC-R is spoken here" (RFC 7609 A.1).
//!
//! In SYN and SYN-ACK only; the SYN-ACK carries it only if the SYN did. Both have it: the first bytes of the client on the
//! connection are a CLC message. Otherwise the connection is TCP, with [`PEERNOSMC`](crate::Diagnosis::PEERNOSMC) and no CLC.

/// "SMCR" in EBCDIC: the experiment id of the option, and the eye catcher of CLC messages.
pub const SMCR: [u8; 4] = [0xE2, 0xD4, 0xC3, 0xD9];

/// The option as it is sent: kind 254 (experimental), length 6, experiment id. Linux puts two NOPs before it.
pub const OPTION: [u8; 6] = [254, 6, SMCR[0], SMCR[1], SMCR[2], SMCR[3]];

/// Whether the options of a SYN or SYN-ACK (what follows the first 20 bytes of the TCP header) have the option. As in Linux
/// it may be longer than 6 bytes, if its length is even.
pub fn is_in(mut options: &[u8]) -> bool {
    loop {
        options = match *options {
            [] | [0, ..] => return false,
            [1, ref rest @ ..] => rest,
            [kind, length, ..] if length >= 2 && usize::from(length) <= options.len() => {
                let (option, rest) = options.split_at(usize::from(length));
                if kind == OPTION[0] && length >= 6 && length % 2 == 0 && option[2..6] == SMCR {
                    return true;
                }
                rest
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_behind_others_and_not_in_broken_options() {
        let syn =
            [&[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7, 1, 1], &OPTION[..]].concat();
        assert!(is_in(&syn));
        for end in 0..syn.len() {
            assert!(!is_in(&syn[..end]), "{end}");
        }
        assert!(is_in(&[254, 8, 0xe2, 0xd4, 0xc3, 0xd9, 0, 0]));
        assert!(!is_in(&[254, 7, 0xe2, 0xd4, 0xc3, 0xd9, 0]));
        assert!(!is_in(&[253, 6, 0xe2, 0xd4, 0xc3, 0xd9]));
        assert!(!is_in(&[254, 6, 0xe2, 0xd4, 0xc3, 0xc4]));
        assert!(!is_in(&[[0].as_slice(), &OPTION].concat()), "nothing counts after the end of the options");
        assert!(!is_in(&[3, 0, 254, 6, 0xe2, 0xd4, 0xc3, 0xd9]), "a length of zero does not loop");
    }
}
