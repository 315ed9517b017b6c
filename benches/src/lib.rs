//! What the load program (`smc-load`) and the program that compares (`smc-bench`) share: the line of JSON in which one end of a
//! workload tells what it measured.

use serde::{Deserialize, Serialize};

/// One end's own account of a run.
#[derive(Serialize, Deserialize, Default, Debug, Clone, PartialEq)]
pub struct Account {
    /// Messages (round trips, connections, calls) in the measured time, a second. 0 for the end that does not measure.
    pub rate: f64,
    /// Latency of a message in microseconds, where it was measured.
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    /// Messages in all, with those before the measured time.
    pub messages: u64,
    /// Processor time of this end for all these messages, in microseconds, from its first connection to its last.
    pub cpu_us: f64,
    /// How often a thread of this end gave up its CPU because it had to wait, in the same time.
    pub sleeps: u64,
}

impl Account {
    /// Prints it as one line on standard output.
    pub fn print(&self) {
        println!("{}", serde_json::to_string(self).expect("numbers are JSON"));
    }
}

/// The middle of `values`, or the mean of the two in the middle; NaN for none.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n == 0 {
        return f64::NAN;
    }
    (values[(n - 1) / 2] + values[n / 2]) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 10.0]), 3.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn an_account_is_one_line_that_can_be_read_back() {
        let account = Account { rate: 12.5, p99_us: Some(3.0), messages: 7, ..Account::default() };
        let line = serde_json::to_string(&account).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Account>(&line).unwrap(), account);
    }
}
