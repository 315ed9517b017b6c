//! From rounds to a line of the table.

use crate::distance::Class;
use crate::process::{Carried, Side};
use crate::workload::{Expect, Measured, Round, Sample};
use serde::Serialize;
use smc_benches::median;

/// Rounds in which others took more than this share of the CPUs are left out, if enough are left without them.
pub const BUSY: f64 = 0.15;
const ENOUGH: usize = 3;

#[derive(Debug, Clone, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Spread> {
        let fold = |f: fn(f64, f64) -> f64| values.iter().copied().reduce(f);
        Some(Spread { median: median(values), min: fold(f64::min)?, max: fold(f64::max)? })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} ({} to {})", figures(self.median), figures(self.min), figures(self.max))
    }
}

/// Three significant figures or all of the integer part.
pub fn figures(value: f64) -> String {
    let decimals = match value.abs() {
        x if !x.is_finite() => return "?".to_owned(),
        x if x >= 99.95 => 0,
        x if x >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// A workload in one class.
#[derive(Serialize)]
pub struct Row {
    pub workload: String,
    pub about: &'static str,
    pub unit: &'static str,
    pub class: Class,
    /// How many rounds were counted, and how many there were in this class.
    pub rounds: usize,
    pub rounds_in_all: usize,
    /// Median share of the CPUs that others took.
    pub others: Option<f64>,
    pub tcp: Spread,
    pub smc: Option<Spread>,
    /// Of rates, SMC to TCP: of each round.
    pub ratio: Option<Spread>,
    /// TCP's 99th percentile of latency to SMC's.
    pub p99: Option<Spread>,
    /// TCP's processor time for a message to SMC's.
    pub cpu: Option<Spread>,
    pub unix: Option<Spread>,
    pub sockmap: Option<Spread>,
    /// The share of bytes that went through rings.
    pub ring_share: Option<f64>,
    pub target: Option<(f64, f64)>,
    pub notes: Vec<String>,
}

fn sample(round: &Round, side: Side) -> Option<&Sample> {
    round.samples.iter().find(|(of, _)| *of == side).map(|(_, sample)| sample)
}

impl Row {
    pub fn new(measured: &Measured, class: Class) -> Row {
        let workload = measured.workload;
        let all: Vec<&Round> = measured.rounds.iter().filter(|round| round.class == Some(class)).collect();
        let quiet: Vec<&Round> =
            all.iter().copied().filter(|round| round.others.is_none_or(|others| others <= BUSY)).collect();
        let rounds = if quiet.len() >= ENOUGH { &quiet } else { &all };
        let samples = |side| rounds.iter().filter_map(move |round| sample(round, side));
        let rates = |side| Spread::of(&samples(side).map(|sample| sample.rate).collect::<Vec<_>>());
        let ratios = |side, of: fn(&Sample) -> Option<f64>, inverse: bool| {
            let ratio = |round: &&Round| {
                let (tcp, other) = (of(sample(round, Side::Tcp)?)?, of(sample(round, side)?)?);
                Some(if inverse { tcp / other } else { other / tcp })
            };
            Spread::of(&rounds.iter().filter_map(ratio).collect::<Vec<_>>())
        };
        let rate = |sample: &Sample| Some(sample.rate);
        let carried: Vec<&Carried> =
            samples(Side::Smc).filter_map(|sample| sample.carried.as_ref()).collect();
        let not_as_expected = not_as_expected(workload.expect, &carried);
        let mut notes: Vec<String> = not_as_expected.iter().cloned().collect();
        if workload.expect == Expect::Either {
            notes.extend(carried.last().and_then(|carried| carried.reason.clone()));
        }
        let others: Vec<f64> = rounds.iter().filter_map(|round| round.others).collect();
        let others = (!others.is_empty()).then(|| median(&others));
        if others.is_some_and(|others| others > BUSY) {
            notes.push(format!("others took {:.0} % of the CPUs", others.unwrap_or_default() * 100.0));
        }
        let redirected =
            samples(Side::Sockmap).all(|sample| sample.redirected.is_some_and(|count| count > 0));
        if !redirected {
            notes.push("the sockmap redirected nothing".to_owned());
        }
        let shares: Vec<f64> = carried.iter().map(|carried| carried.ring_share()).collect();
        Row {
            workload: workload.name.clone(),
            about: workload.about,
            unit: workload.unit,
            class,
            rounds: rounds.len(),
            rounds_in_all: all.len(),
            others,
            tcp: rates(Side::Tcp).expect("a class has a round"),
            smc: rates(Side::Smc),
            // What was not measured on SMC is no ratio of SMC.
            ratio: ratios(Side::Smc, rate, false).filter(|_| not_as_expected.is_none()),
            p99: ratios(Side::Smc, |sample| sample.p99_us, true),
            cpu: ratios(Side::Smc, |sample| sample.cpu_us, true),
            unix: ratios(Side::Unix, rate, false),
            sockmap: ratios(Side::Sockmap, rate, false).filter(|_| redirected),
            ring_share: (!shares.is_empty()).then(|| median(&shares)),
            target: workload.targets.map(|targets| targets[class as usize]),
            notes,
        }
    }

    /// What the ratio is worth, by the target.
    fn verdict(&self) -> &'static str {
        match (&self.ratio, self.target) {
            (Some(ratio), Some((_, wrong))) if ratio.median < wrong => "WRONG",
            (Some(ratio), Some((target, _))) if ratio.median < target => "short",
            (Some(_), Some(_)) => "met",
            _ => "",
        }
    }
}

/// Why the SMC runs prove nothing, if so.
fn not_as_expected(expect: Expect, carried: &[&Carried]) -> Option<String> {
    let last_reason = || carried.iter().rev().find_map(|carried| carried.reason.clone()).unwrap_or_default();
    match expect {
        Expect::NoConnections => None,
        _ if carried.is_empty() => Some("no report of the library: was it loaded?".to_owned()),
        Expect::Ring if carried.iter().any(|carried| carried.ring_bytes == 0) => {
            Some(format!("not on SMC: {}", last_reason()))
        }
        Expect::Either => None,
        Expect::Tcp if carried.iter().any(|carried| carried.ring_bytes > 0) => {
            Some("moved to SMC, unexpectedly".to_owned())
        }
        _ => None,
    }
}

/// The table, in Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| workload | CPUs | rounds | TCP | SMC | SMC/TCP | target (wrong) | | p99 | CPU | AF_UNIX | sockmap | on rings | notes |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let spread = |spread: &Option<Spread>| spread.as_ref().map(Spread::to_string).unwrap_or_default();
    let middle = |spread: &Option<Spread>| spread.as_ref().map(|s| figures(s.median)).unwrap_or_default();
    for row in rows {
        let target = row.target.map(|(target, wrong)| format!("{target} ({wrong})")).unwrap_or_default();
        let share = row.ring_share.map(|share| format!("{:.1} %", share * 100.0)).unwrap_or_default();
        text += &format!(
            "| {} | {} | {} | {} {} | {} | {} | {target} | {} | {} | {} | {} | {} | {share} | {} |\n",
            row.workload,
            row.class,
            row.rounds,
            figures(row.tcp.median),
            row.unit,
            middle(&row.smc),
            spread(&row.ratio),
            row.verdict(),
            middle(&row.p99),
            middle(&row.cpu),
            middle(&row.unix),
            middle(&row.sockmap),
            row.notes.join("; "),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_figures_or_the_integer_part() {
        let shown: Vec<String> = [0.123, 1.0, 9.999, 12.34, 99.99, 12345.6].map(figures).to_vec();
        assert_eq!(shown, ["0.12", "1.00", "10.0", "12.3", "100", "12346"]);
        assert_eq!(figures(f64::NAN), "?");
    }

    #[test]
    fn a_run_that_left_tcp_by_no_byte_gives_no_ratio() {
        let moved = Carried { connections: 1, ring_bytes: 10, tcp_bytes: 1, reason: None };
        let stayed = Carried { ring_bytes: 0, reason: Some("why".to_owned()), ..moved.clone() };
        assert_eq!(not_as_expected(Expect::Ring, &[&moved]), None);
        assert_eq!(not_as_expected(Expect::Ring, &[&moved, &stayed]), Some("not on SMC: why".to_owned()));
        assert!(not_as_expected(Expect::Ring, &[]).is_some());
        assert!(not_as_expected(Expect::Tcp, &[&moved]).is_some());
        assert_eq!(not_as_expected(Expect::Tcp, &[&stayed]), None);
        assert_eq!(not_as_expected(Expect::NoConnections, &[]), None);
    }
}
