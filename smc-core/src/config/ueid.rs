//! User-defined enterprise ids: two hosts speak SMC-Rv2 only if they have one in common.

/// The one that is used where none is set: hosts that nobody has configured have it in common.
pub const DEFAULT: &str = "SMCLAB";
/// SMC_MAX_EID_LEN (include/uapi/linux/smc.h): bytes of an EID, padded with blanks in messages.
pub const LENGTH: usize = 32;
/// SMC_CLC_MAX_UEID (net/smc/smc_clc.h): how many a proposal has room for.
pub const MOST: usize = 8;

/// What is wrong with an EID, which is ASCII: capital letters, digits, hyphens and dots, beginning with a letter or a
/// digit, without two dots in a row. No blanks: the padding is not written.
pub fn check(eid: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if eid.is_empty() || eid.len() > LENGTH {
        return Err(format!("an EID has 1 to {LENGTH} characters"));
    }
    if let Some(c) = eid.chars().find(|c| !allowed(*c)) {
        return Err(format!("{c:?} cannot be in an EID: capital letters, digits, hyphens and dots can"));
    }
    if !eid.starts_with(|c: char| c.is_ascii_alphanumeric()) || eid.contains("..") {
        return Err("an EID begins with a letter or a digit and has no two dots in a row".into());
    }
    Ok(())
}

/// The EIDs of SMC_UEID, separated by commas; the default for an empty text.
pub(super) fn list(text: &str) -> Result<Vec<String>, String> {
    let text = if text.is_empty() { DEFAULT } else { text };
    let eids: Vec<String> = text.split(',').map(|eid| eid.trim().to_owned()).collect();
    if eids.len() > MOST {
        return Err(format!("more than {MOST} EIDs"));
    }
    eids.iter().try_for_each(|eid| check(eid))?;
    Ok(eids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eid_is_checked_as_the_kernel_does() {
        for good in [DEFAULT, "A", "0.EXAMPLE-NET.1", "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "lower", "-A", ".A", "A..B", "A B", "Ä", "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_is_separated_by_commas_and_never_empty() {
        assert_eq!(list("").unwrap(), [DEFAULT]);
        assert_eq!(list("A, B.2").unwrap(), ["A", "B.2"]);
        assert!(list("A,,B").is_err() && list("A,b").is_err());
        assert!(list(&["A"; MOST].join(",")).is_ok() && list(&["A"; MOST + 1].join(",")).is_err());
    }
}
