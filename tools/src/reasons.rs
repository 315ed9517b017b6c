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

/// The reasons that this software sets, as the table of the README: after the row of a code those of its causes.
pub fn markdown() -> String {
    let mut out = "| code | meaning | what to do |\n|---|---|---|\n".to_owned();
    for &reason in Reason::ALL {
        let mut details = Detail::ALL.iter().filter(|d| d.reason() == reason).peekable();
        if details.peek().is_some() {
            row(&mut out, &format!("0x{:08x}", reason.code()), reason.sentence(), "");
        }
        details.for_each(|detail| row(&mut out, "", detail.sentence(), detail.advice()));
    }
    out
}

fn row(out: &mut String, code: &str, sentence: &str, advice: &str) {
    let sentence = if code.is_empty() { sentence.to_owned() } else { format!("**{}**", capital(sentence)) };
    let line = format!("| {code} | {sentence} | {} |", capital(advice))
        .replace("|  |", "| |")
        .replace("|  |", "| |");
    let _ = writeln!(out, "{line}");
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn item(out: &mut String, indent: &str, sentence: &str, advice: &str) {
    let arrow = if advice.is_empty() { "" } else { " -> " };
    let _ = writeln!(out, "{indent}{sentence}{arrow}{advice}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Print it with `smcss --reasons=markdown`.
    #[test]
    fn the_readme_has_the_table() {
        let readme = include_str!("../../README.md");
        let table = markdown();
        assert!(readme.contains(&table), "README.md, Reason codes: the table is not\n{table}");
        // And no other: nothing stands directly below it.
        let rest = &readme[readme.find(&table).unwrap_or(0) + table.len()..];
        assert!(rest.starts_with('\n'), "README.md has more rows than there are reasons");
    }

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
