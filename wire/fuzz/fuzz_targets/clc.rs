//! Any bytes as a TCP stream of CLC messages: what decodes encodes to something that says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smc_wire::clc::{Clc, Framer};

fuzz_target!(|bytes: &[u8]| {
    let (mut framer, mut input) = (Framer::default(), bytes);
    loop {
        match framer.feed(&mut input) {
            Ok(Some(message)) => {
                if let Some(canonical) = message.encode() {
                    assert_eq!(Clc::decode(&canonical), Ok(message));
                }
            }
            Ok(None) => {
                assert!(input.is_empty() && framer.wanted() > 0);
                break;
            }
            Err(_) => break,
        }
    }
    // And as one message.
    let _ = Clc::decode(bytes);
});
