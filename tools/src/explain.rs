//! What the rules say about a connection, in words.

use std::fmt::Write;

use smc_core::config::{Backend, Settings};
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
    if settings.config.backend == Backend::Kernel {
        return by_kernel(settings, subject);
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

/// Under SMC_BACKEND=kernel rules are asked when the socket is made, and has no addresses.
fn by_kernel(settings: &Settings, subject: &Subject<'_>) -> (String, bool) {
    let backend = format!("SMC_BACKEND=kernel, {}", origin(settings, "SMC_BACKEND"));
    let subject = Subject { local: None, peer: None, ..*subject };
    match decide(&settings.rules, &subject) {
        Decision::Decided(Action::Exclude, rule) => {
            (format!("TCP, {}: {} ({backend})\n", code(Detail::Excluded), by(settings, rule)), true)
        }
        Decision::Decided(Action::Include, rule) => {
            let (rule, missing) = (by(settings, rule), code(Detail::NoKernelSmc));
            (
                format!("a socket of the kernel's SMC; TCP, {missing}, if it has none: {rule} ({backend})\n"),
                true,
            )
        }
        Decision::Open(rule, field @ (Field::Local | Field::Peer)) => {
            let (place, field) = (settings.place(&rule.origin), field.name());
            let why = code(Detail::RuleNeedsAddress);
            (format!("TCP, {why}: {place} asks for {field}=, which comes too late ({backend})\n"), true)
        }
        Decision::Open(rule, field) => (format!("open: {}\n", missing(settings, rule, field)), false),
    }
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
