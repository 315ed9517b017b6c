//! The reason codes as a text for users.

use std::fmt::Write;

use smc_core::reason::{Detail, Reason};

/// Every reason code with its name, its sentence, the causes behind it and what can be done about each.
pub fn render() -> String {
    let mut out = String::new();
    for &reason in Reason::ALL.iter().filter(|r| **r != Reason::None) {
        let _ = writeln!(out, "0x{:08x}  {}", reason.code(), reason.name());
        item(&mut out, "  ", reason.sentence(), reason.advice());
        for detail in Detail::ALL.iter().filter(|d| d.reason() == reason) {
            item(&mut out, "    - ", detail.sentence(), detail.advice());
        }
    }
    out
}

fn item(out: &mut String, indent: &str, sentence: &str, advice: &str) {
    let arrow = if advice.is_empty() { "" } else { " -> " };
    let _ = writeln!(out, "{indent}{sentence}{arrow}{advice}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_and_every_detail_is_in_the_text() {
        let text = render();
        for reason in Reason::ALL.iter().filter(|r| **r != Reason::None) {
            assert!(text.contains(reason.name()) && text.contains(reason.sentence()), "{reason:?}");
        }
        for detail in Detail::ALL {
            assert!(text.contains(detail.sentence()) && text.contains(detail.advice()), "{detail:?}");
        }
    }
}
