//! Settings, read from the environment once, when the library is loaded.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use once_cell::sync::OnceCell;

use crate::ring::layout::{MAX_RING, MIN_RING};

/// Bytes (with each call counted as at least [`CALL_WEIGHT`]) before a connection is moved.
pub const DEFAULT_UPGRADE_AFTER: u64 = 32 << 10;
/// A call of few bytes weighs as much as this many: eight small request-response exchanges, sixteen calls on each
/// end, reach the default.
pub const CALL_WEIGHT: u64 = 2 << 10;
/// Of one ring. Larger ones leave the cache of most machines.
pub const DEFAULT_RING: u64 = 256 << 10;

/// See `docs/configuration.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// SMC_DISABLE: everything stays TCP.
    pub disable: bool,
    /// SMC_UPGRADE_AFTER in bytes; 0 moves connections at once.
    pub upgrade_after: u64,
    /// SMC_RCVBUF: ring for bytes to this process, power of two.
    pub rcvbuf: u64,
    /// SMC_SNDBUF: ring for bytes from this process, power of two.
    pub sndbuf: u64,
    /// SMC_REPORT: file that gets a line for each connection when it closes.
    pub report: Option<CString>,
    /// SMC_TEST_SWITCH: in tests, a direction leaves its medium after this many calls on average; 0 never.
    pub test_switch: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            disable: false,
            upgrade_after: DEFAULT_UPGRADE_AFTER,
            rcvbuf: DEFAULT_RING,
            sndbuf: DEFAULT_RING,
            report: None,
            test_switch: 0,
        }
    }
}

static CONFIG: OnceCell<Config> = OnceCell::new();

/// The settings in force; the defaults until [`install`].
#[inline]
pub fn get() -> &'static Config {
    static DEFAULT: OnceCell<Config> = OnceCell::new();
    CONFIG.get().unwrap_or_else(|| DEFAULT.get_or_init(Config::default))
}

/// Puts settings into force, once.
pub fn install(config: Config) {
    let _ = CONFIG.set(config);
}

impl Config {
    /// Reads the settings; `var` is the environment. Values that make no sense are left at their defaults, and a
    /// sentence for each is returned.
    pub fn read<V: AsRef<OsStr>>(var: impl Fn(&str) -> Option<V>) -> (Config, Vec<String>) {
        let mut config = Config::default();
        let mut complaints = Vec::new();
        let text = |name: &str| var(name).map(|v| v.as_ref().to_string_lossy().trim().to_owned());
        let mut number = |name: &str, place: &mut u64, low: u64, high: u64| {
            let Some(value) = text(name).filter(|v| !v.is_empty()) else { return };
            match parse_size(&value).filter(|n| (low..=high).contains(n)) {
                Some(n) => *place = n,
                None => complaints.push(format!(
                    "{name}={value}: not a size from {low} to {high} bytes (k and m suffixes allowed); using {place}"
                )),
            }
        };
        number("SMC_UPGRADE_AFTER", &mut config.upgrade_after, 0, u64::MAX / 2);
        number("SMC_RCVBUF", &mut config.rcvbuf, 1, MAX_RING);
        number("SMC_SNDBUF", &mut config.sndbuf, 1, MAX_RING);
        let mut switch = 0;
        number("SMC_TEST_SWITCH", &mut switch, 0, u32::MAX as u64);
        config.test_switch = switch as u32;
        config.rcvbuf = config.rcvbuf.next_power_of_two().max(MIN_RING);
        config.sndbuf = config.sndbuf.next_power_of_two().max(MIN_RING);
        match text("SMC_DISABLE").as_deref() {
            None | Some("" | "0") => {}
            Some("1") => config.disable = true,
            Some(other) => complaints.push(format!("SMC_DISABLE={other}: must be 0 or 1; SMC stays enabled")),
        }
        config.report = var("SMC_REPORT")
            .and_then(|v| CString::new(v.as_ref().as_bytes()).ok())
            .filter(|v| !v.is_empty());
        (config, complaints)
    }
}

/// A count of bytes with an optional suffix k or m (either case), powers of 1024.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> (Config, Vec<String>) {
        Config::read(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn sizes_take_suffixes() {
        assert_eq!(parse_size("0"), Some(0));
        assert_eq!(parse_size("64k"), Some(65536));
        assert_eq!(parse_size("2M"), Some(2 << 20));
        for bad in ["", "k", "-1", "1g", "1.5k", " 1", "99999999999999999999"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn rings_are_powers_of_two() {
        let (config, complaints) = read(&[("SMC_RCVBUF", "100k"), ("SMC_SNDBUF", "1")]);
        assert_eq!((config.rcvbuf, config.sndbuf), (128 << 10, MIN_RING));
        assert!(complaints.is_empty());
    }

    #[test]
    fn bad_values_are_named_and_the_default_stays() {
        let (config, complaints) = read(&[("SMC_RCVBUF", "lots"), ("SMC_DISABLE", "yes")]);
        assert_eq!(config, Config::default());
        assert_eq!(complaints.len(), 2);
        assert!(complaints[0].contains("SMC_RCVBUF=lots"), "{}", complaints[0]);
    }
}
