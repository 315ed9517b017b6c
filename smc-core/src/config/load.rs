//! Environment and file together.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStringExt;

use super::file::{self, Setting, CONFIG_ENV};
use super::{Config, FILE_SETTINGS, RDMA_LIBRARY, TEST_SWITCH};
use crate::policy::{self, Origin, Rule};

/// Rules in the environment, separated by `;`. They come before those of the file.
const POLICY_ENV: &str = "SMC_POLICY";

/// Everything that is set, for one process.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub config: Config,
    /// In the order in which they are asked.
    pub rules: Vec<Rule>,
    pub complaints: Vec<Complaint>,
    /// The file that was read.
    pub path: Option<String>,
    values: Vec<Setting>,
}

/// Something that cannot be used as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Complaint {
    /// `FILE:LINE`, `FILE`, or the variable with its value.
    pub place: String,
    pub text: String,
    /// The program must stay on TCP, since nobody can tell which connections were meant to. False: a bad value in the
    /// environment, in whose place another one is used.
    pub keeps_tcp: bool,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

impl Settings {
    /// Reads the file that `var`, the environment, names, and what else is set there. The environment wins. At most
    /// one file is opened; if there is none, that costs one system call.
    pub fn load<V: AsRef<OsStr>>(var: impl Fn(&str) -> Option<V>) -> Settings {
        let var = |name: &str| var(name).map(|v| v.as_ref().to_owned());
        let mut settings = Settings::default();
        settings.rules_of_environment(var(POLICY_ENV));
        if let Some((path, wanted)) = file::path(var(CONFIG_ENV)) {
            settings.file(&path, wanted);
        }
        for name in FILE_SETTINGS.iter().chain(&[TEST_SWITCH, RDMA_LIBRARY]) {
            let Some(value) = var(name) else { continue };
            if *name == "SMC_REPORT" {
                // Any bytes but NUL, which no variable has.
                settings.config.report = CString::new(value.into_vec()).ok().filter(|path| !path.is_empty());
                continue;
            }
            let value = value.to_string_lossy();
            if let Err(why) = settings.config.set(name, &value) {
                settings.complaints.push(Complaint {
                    place: format!("{name}={value}"),
                    text: format!("{why}; not used"),
                    keeps_tcp: false,
                });
            }
        }
        settings
    }

    fn rules_of_environment(&mut self, text: Option<OsString>) {
        let text = text.unwrap_or_default();
        let rules = text.to_string_lossy();
        let rules = rules.split(';').map(str::trim).filter(|rule| !rule.is_empty());
        for (rule, number) in rules.zip(1..) {
            match policy::rule(rule, Origin::Environment(number)) {
                Ok(rule) => self.rules.push(rule),
                Err(text) => self.complain(self.place(&Origin::Environment(number)), text),
            }
        }
    }

    fn file(&mut self, path: &[u8], wanted: bool) {
        let name = String::from_utf8_lossy(path).into_owned();
        let contents = match file::read(path) {
            Ok(Some(bytes)) => file::parse(&bytes),
            Ok(None) if wanted => {
                return self.complain(name, format!("named by {CONFIG_ENV}, and not there"))
            }
            Ok(None) => return,
            Err(why) => return self.complain(name, why),
        };
        self.path = Some(name);
        for (line, text) in contents.errors {
            self.complain(self.place(&Origin::File(line)), text);
        }
        for setting in &contents.settings {
            // Checked when it was parsed.
            let _ = self.config.set(setting.name, &setting.value);
        }
        self.rules.extend(contents.rules);
        self.values = contents.settings;
    }

    fn complain(&mut self, place: String, text: String) {
        self.complaints.push(Complaint { place, text, keeps_tcp: true });
    }

    /// Whether the process must stay on TCP because of what is wrong with its settings.
    pub fn are_broken(&self) -> bool {
        self.complaints.iter().any(|complaint| complaint.keeps_tcp)
    }

    /// What the file sets `name` to, for a reader that has looked at the environment before.
    pub fn of_file(&self, name: &str) -> Option<&Setting> {
        self.values.iter().find(|setting| setting.name == name)
    }

    /// Where a rule stands, for people.
    pub fn place(&self, origin: &Origin) -> String {
        match origin {
            Origin::Environment(number) => format!("{POLICY_ENV}, rule {number}"),
            Origin::File(line) => format!("{}:{line}", self.path.as_deref().unwrap_or("")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct File(std::path::PathBuf);

    impl File {
        fn new(name: &str, text: &str) -> File {
            let path = std::env::temp_dir().join(format!("smc-{name}-{}.conf", std::process::id()));
            std::fs::write(&path, text).unwrap();
            File(path)
        }

        fn load(&self, vars: &[(&str, &str)]) -> Settings {
            let path = self.0.to_str().unwrap();
            load(&[vars, &[(CONFIG_ENV, path)]].concat())
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn load(vars: &[(&str, &str)]) -> Settings {
        Settings::load(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    const NO_FILE: (&str, &str) = (CONFIG_ENV, "");

    #[test]
    fn bad_values_of_the_environment_are_named_and_the_default_stays() {
        let settings = load(&[NO_FILE, ("SMC_RCVBUF", "lots"), ("SMC_DISABLE", "yes")]);
        assert_eq!(settings.config, Config::default());
        assert_eq!(settings.complaints.len(), 2);
        let said = settings.complaints[0].to_string();
        assert!(said.starts_with("SMC_RCVBUF=lots: not a size"), "{said}");
        assert!(!settings.are_broken());
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let file = File::new("wins", "SMC_UPGRADE_AFTER=1k\nSMC_REPORT=/a\nSMC_RCVBUF=8k\nexclude uid=1\n");
        let settings =
            file.load(&[("SMC_UPGRADE_AFTER", "0"), ("SMC_REPORT", ""), ("SMC_POLICY", "include uid=1;")]);
        assert!(settings.complaints.is_empty(), "{:?}", settings.complaints);
        assert_eq!((settings.config.upgrade_after, settings.config.rcvbuf), (0, 8192));
        assert_eq!(settings.config.report, None);
        let places: Vec<_> = settings.rules.iter().map(|r| settings.place(&r.origin)).collect();
        assert_eq!(places, ["SMC_POLICY, rule 1".to_owned(), format!("{}:4", file.0.display())]);
        // A bad value of the environment leaves the file's.
        assert_eq!(file.load(&[("SMC_RCVBUF", "x")]).config.rcvbuf, 8192);
    }

    #[test]
    fn a_broken_file_keeps_the_program_on_tcp() {
        let file = File::new("broken", "SMC_RCVBUF=8k\nexclud uid=1\n");
        let settings = file.load(&[]);
        assert!(settings.are_broken());
        let said = settings.complaints[0].to_string();
        assert!(said.starts_with(&format!("{}:2: ", file.0.display())), "{said}");
        assert!(load(&[(CONFIG_ENV, "/nonexistent/smc.conf")]).are_broken());
        let settings = load(&[NO_FILE, ("SMC_POLICY", "exclude; include port=5")]);
        assert!(settings.are_broken());
        assert_eq!(settings.complaints[0].place, "SMC_POLICY, rule 2");
    }

    #[test]
    fn without_a_file_there_is_nothing_to_complain_about() {
        let settings = load(&[NO_FILE]);
        assert!(settings.complaints.is_empty() && settings.rules.is_empty() && settings.path.is_none());
        assert_eq!(settings.config, Config::default());
    }
}
