//! Any bytes as an LLC message: what decodes encodes to something that says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smc_wire::llc::{Llc, MAX_LENGTH};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(message)) = Llc::decode(bytes) {
        let canonical = message.encode();
        assert!((44..=MAX_LENGTH).contains(&canonical.len()));
        assert_eq!(Llc::decode(&canonical), Ok(Some(message)));
    }
});
