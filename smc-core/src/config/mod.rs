//! Settings, read once, when the library is loaded: from the environment, and from a file ([`mod@file`]).

pub mod file;
mod load;
pub mod ueid;

pub use load::{Complaint, Settings};

use std::ffi::CString;

use once_cell::sync::OnceCell;

use crate::ring::layout::{MAX_RING, MIN_RING};

/// Bytes (with each call counted as at least [`CALL_WEIGHT`]) before a connection is moved.
pub const DEFAULT_UPGRADE_AFTER: u64 = 32 << 10;
/// A call of few bytes weighs as much as this many: eight small request-response exchanges, sixteen calls on each
/// end, reach the default.
pub const CALL_WEIGHT: u64 = 2 << 10;
/// Of one ring. Larger ones leave the cache of most machines.
pub const DEFAULT_RING: u64 = 256 << 10;

/// Those that Alibaba Cloud reserves for SMC-R over eRDMA.
pub const DEFAULT_RDMA_PORTS: (u16, u16) = (65500, 65515);

/// What makes SMC of a program's sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// This software: TCP sockets, whose connections move.
    #[default]
    Auto,
    /// The kernel: AF_SMC sockets.
    Kernel,
}

/// See `docs/configuration.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// SMC_DISABLE: everything stays TCP.
    pub disable: bool,
    /// SMC_BACKEND.
    pub backend: Backend,
    /// SMC_UPGRADE_AFTER in bytes; 0 moves connections at once.
    pub upgrade_after: u64,
    /// SMC_RCVBUF: ring for bytes to this process, power of two.
    pub rcvbuf: u64,
    /// SMC_SNDBUF: ring for bytes from this process, power of two.
    pub sndbuf: u64,
    /// SMC_MAX_CONNS: ends of moved connections that the process has at once; 0: as many as its limits allow.
    pub max_conns: u32,
    /// SMC_REPORT: file that gets a line for each connection when it closes.
    pub report: Option<CString>,
    /// SMC_UEID: the enterprise ids of this host for SMC-Rv2, in the order in which they are proposed. One to
    /// [`ueid::MOST`], each as [`ueid::check`] wants it, without padding.
    pub ueids: Vec<String>,
    /// SMC_RDMA_DEVICE: the RDMA device that SMC-R is to use; empty: any.
    pub rdma_device: String,
    /// SMC_RDMA_SPIN: how long a wait on SMC-R watches before it sleeps, in microseconds.
    pub rdma_spin: u32,
    /// SMC_RDMA_PORTS: TCP ports, first and last, on one of which an iWARP device listens; none is 0.
    pub rdma_ports: (u16, u16),
    /// SMC_RDMA_LIBRARY: in place of the libsmc_rdma.so beside this library.
    pub rdma_library: Option<CString>,
    /// SMC_TEST_SWITCH: in tests, a direction leaves its medium after this many calls on average; 0 never.
    pub test_switch: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            disable: false,
            backend: Backend::Auto,
            upgrade_after: DEFAULT_UPGRADE_AFTER,
            rcvbuf: DEFAULT_RING,
            sndbuf: DEFAULT_RING,
            max_conns: 0,
            report: None,
            ueids: vec![ueid::DEFAULT.to_owned()],
            rdma_device: String::new(),
            rdma_spin: DEFAULT_RDMA_SPIN,
            rdma_ports: DEFAULT_RDMA_PORTS,
            rdma_library: None,
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

/// The variables that are also settings of the configuration file. SMC_RUN_DIR is not: `smcss` must find it too.
pub const FILE_SETTINGS: &[&str] = &[
    "SMC_BACKEND",
    "SMC_UPGRADE_AFTER",
    "SMC_RCVBUF",
    "SMC_SNDBUF",
    "SMC_MAX_CONNS",
    "SMC_UEID",
    "SMC_DISABLE",
    "SMC_LOG",
    "SMC_REPORT",
    "SMC_RDMA_DEVICE",
    "SMC_RDMA_SPIN",
    "SMC_RDMA_PORTS",
];
/// In the environment alone: which code runs is not for a file to say.
const RDMA_LIBRARY: &str = "SMC_RDMA_LIBRARY";
/// For tests, in the environment alone.
const TEST_SWITCH: &str = "SMC_TEST_SWITCH";

/// Microseconds: longer than a message takes there and back where RDMA is worth having, and than waking a thread.
pub const DEFAULT_RDMA_SPIN: u32 = 20;
const MAX_RDMA_SPIN: u32 = 1_000_000;

/// Levels of SMC_LOG, those of the `log` crate.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Config {
    /// Gives a setting the value written as `text`; an empty one is the default. An error says what a value has to
    /// be. SMC_LOG is only checked: the log is not this struct's.
    fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let text = text.trim();
        let default = Config::default();
        match name {
            "SMC_UPGRADE_AFTER" => self.upgrade_after = size(text, default.upgrade_after, 0, u64::MAX / 2)?,
            "SMC_RCVBUF" => self.rcvbuf = ring(text)?,
            "SMC_SNDBUF" => self.sndbuf = ring(text)?,
            "SMC_MAX_CONNS" => {
                self.max_conns = match text {
                    "" => 0,
                    _ => text.parse().map_err(|_| format!("not a number from 0 to {}", u32::MAX))?,
                }
            }
            "SMC_DISABLE" => match text {
                "" | "0" => self.disable = false,
                "1" => self.disable = true,
                _ => return Err("must be 0 or 1".to_owned()),
            },
            "SMC_BACKEND" => match text {
                "" | "auto" => self.backend = Backend::Auto,
                "kernel" => self.backend = Backend::Kernel,
                _ => return Err("must be auto or kernel".to_owned()),
            },
            "SMC_LOG" => check_log(text)?,
            "SMC_REPORT" => {
                let path = CString::new(text).map_err(|_| "a NUL byte is no part of a path".to_owned())?;
                self.report = Some(path).filter(|path| !path.is_empty());
            }
            "SMC_UEID" => self.ueids = ueid::list(text)?,
            "SMC_RDMA_DEVICE" => match text.contains('/') {
                false => self.rdma_device = text.to_owned(),
                true => return Err("is no name of a device".to_owned()),
            },
            "SMC_RDMA_SPIN" => {
                self.rdma_spin =
                    match text {
                        "" => DEFAULT_RDMA_SPIN,
                        _ => text.parse().ok().filter(|us| *us <= MAX_RDMA_SPIN).ok_or_else(|| {
                            format!("not a number of microseconds from 0 to {MAX_RDMA_SPIN}")
                        })?,
                    }
            }
            "SMC_RDMA_PORTS" => self.rdma_ports = ports(text)?,
            RDMA_LIBRARY => {
                let path = CString::new(text).map_err(|_| "a NUL byte is no part of a path".to_owned())?;
                self.rdma_library = Some(path).filter(|path| !path.is_empty());
            }
            TEST_SWITCH => self.test_switch = size(text, 0, 0, u64::from(u32::MAX))? as u32,
            _ => return Err(format!("there is no such setting; there are {}", FILE_SETTINGS.join(", "))),
        }
        Ok(())
    }
}

fn size(text: &str, default: u64, low: u64, high: u64) -> Result<u64, String> {
    if text.is_empty() {
        return Ok(default);
    }
    parse_size(text)
        .filter(|n| (low..=high).contains(n))
        .ok_or_else(|| format!("not a size from {low} to {high} bytes (k and m suffixes allowed)"))
}

fn ring(text: &str) -> Result<u64, String> {
    size(text, DEFAULT_RING, 1, MAX_RING).map(|n| n.next_power_of_two().max(MIN_RING))
}

/// A port, or the first and the last of several with a hyphen between.
fn ports(text: &str) -> Result<(u16, u16), String> {
    if text.is_empty() {
        return Ok(DEFAULT_RDMA_PORTS);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u16>().ok(),
        false => None,
    };
    match (port(first), port(last)) {
        (Some(first), Some(last)) if 0 < first && first <= last => Ok((first, last)),
        _ => Err("is no range of ports, FIRST-LAST, from 1 to 65535".to_owned()),
    }
}

fn check_log(text: &str) -> Result<(), String> {
    let (level, file) = text.split_once(':').map_or((text, None), |(level, file)| (level, Some(file)));
    if !text.is_empty() && !LEVELS.iter().any(|l| l.eq_ignore_ascii_case(level)) {
        return Err(format!("does not begin with a level ({})", LEVELS.join(", ")));
    }
    match file {
        Some("") => Err("names no file behind the colon".to_owned()),
        _ => Ok(()),
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
    fn every_setting_of_a_file_is_understood_and_an_empty_value_is_the_default() {
        for name in FILE_SETTINGS {
            let mut config = Config::default();
            config.set(name, "").expect(name);
            assert_eq!(config, Config::default(), "{name}");
        }
    }

    #[test]
    fn rings_are_powers_of_two() {
        let mut config = Config::default();
        config.set("SMC_RCVBUF", "100k").unwrap();
        config.set("SMC_SNDBUF", "1").unwrap();
        assert_eq!((config.rcvbuf, config.sndbuf), (128 << 10, MIN_RING));
    }

    #[test]
    fn ports_are_one_or_a_range() {
        assert_eq!(ports(""), Ok((65500, 65515)));
        assert_eq!(ports("1"), Ok((1, 1)));
        assert_eq!(ports("65535-65535"), Ok((65535, 65535)));
        assert_eq!(ports("7000-7003"), Ok((7000, 7003)));
        for bad in ["0", "0-1", "2-1", "-", "1-", "-1", "+1", "1-65536", "1-2-3", "1 - 2", "http"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_that_make_no_sense_change_nothing() {
        let mut config = Config::default();
        for (name, value) in [
            ("SMC_RCVBUF", "lots"),
            ("SMC_RCVBUF", "65m"),
            ("SMC_SNDBUF", "0"),
            ("SMC_UPGRADE_AFTER", "-1"),
            ("SMC_MAX_CONNS", "-1"),
            ("SMC_MAX_CONNS", "1k"),
            ("SMC_DISABLE", "yes"),
            ("SMC_BACKEND", "Kernel"),
            ("SMC_UEID", "lower"),
            ("SMC_LOG", "loud"),
            ("SMC_RDMA_PORTS", "65515-65500"),
            ("SMC_RDMA_SPIN", "1000001"),
            ("SMC_RDMA_SPIN", "20us"),
            ("SMC_LOG", "info:"),
            ("SMC_REPORT", "a\0b"),
            ("SMC_RUN_DIR", "/run/smc"),
            ("SMC_NONSENSE", "1"),
        ] {
            assert!(config.set(name, value).is_err(), "{name}={value}");
        }
        assert_eq!(config, Config::default());
    }
}
