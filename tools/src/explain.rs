//! What the rules say about a connection, in words.

use std::fmt::Write;

use smc_core::config::Settings;
use smc_core::policy::{decide, Action, Decision, Field, Fit, Rule, Subject};
use smc_core::reason::Detail;

/// The rules that were looked at, one a line, and what follows from them. False: something must be known first that
/// `subject` does not have.
pub fn explain(settings: &Settings, subject: &Subject<'_>) -> (String, bool) {
    let mut out = String::new();
    if let Some(complaint) = settings.complaints.iter().find(|complaint| complaint.keeps_tcp) {
        for complaint in settings.complaints.iter().filter(|complaint| complaint.keeps_tcp) {
            let _ = writeln!(out, "{complaint}");
        }
        let _ = writeln!(out, "TCP, {}: {}", code(Detail::SettingsBroken), complaint.place);
        return (out, true);
    }
    if settings.config.disable {
        let _ = writeln!(
            out,
            "TCP: SMC_DISABLE is set ({}), the library does nothing",
            origin(settings, "SMC_DISABLE")
        );
        return (out, true);
    }
    for rule in &settings.rules {
        let fit = rule.fit(subject);
        let why = match fit {
            Fit::Yes => "holds".to_owned(),
            Fit::No(field) => format!("not for it: {}", field.name()),
            Fit::Unknown(field) => format!("open: --{} is not given", field.name()),
        };
        let _ = writeln!(out, "{}: {} ({why})", settings.place(&rule.origin), rule.text);
        if !matches!(fit, Fit::No(_)) {
            break;
        }
    }
    let decision = decide(&settings.rules, subject);
    let _ = match decision {
        Decision::Decided(Action::Exclude, rule) => {
            writeln!(out, "TCP, {}: {}", code(Detail::Excluded), by(settings, rule))
        }
        Decision::Decided(Action::Include, rule) => writeln!(
            out,
            "SMC, if the other end is under smc on this host, after {} bytes (SMC_UPGRADE_AFTER, {}): {}",
            settings.config.upgrade_after,
            origin(settings, "SMC_UPGRADE_AFTER"),
            by(settings, rule)
        ),
        Decision::Open(rule, field) => writeln!(out, "open: {}", missing(settings, rule, field)),
    };
    (out, matches!(decision, Decision::Decided(..)))
}

fn code(detail: Detail) -> String {
    format!("0x{:08x}", detail.reason().code())
}

fn by(settings: &Settings, rule: Option<&Rule>) -> String {
    match rule {
        Some(rule) => format!("by {}", settings.place(&rule.origin)),
        None => "no rule is for it".to_owned(),
    }
}

fn missing(settings: &Settings, rule: &Rule, field: Field) -> String {
    format!("{} decides if it holds; give --{}", settings.place(&rule.origin), field.name())
}

/// Where a setting has its value from.
fn origin(settings: &Settings, name: &str) -> String {
    match (std::env::var_os(name), settings.of_file(name), &settings.path) {
        (Some(_), ..) => "from the environment".to_owned(),
        (None, Some(setting), Some(path)) => format!("{path}:{}", setting.line),
        _ => "the default".to_owned(),
    }
}
