//! The configuration file: which one it is, reading it, and its lines.
//!
//! A line is empty, a comment (`#` first), a setting (`NAME=VALUE`, with the names of the environment variables) or a
//! rule ([`crate::policy`]). What is neither is an error: nobody can tell what was meant, so the file as a whole
//! does not count, and the program that reads it stays on TCP.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;

use super::{Config, FILE_SETTINGS};
use crate::policy::{self, Origin, Rule};
use crate::sys::{self, Errno};

/// Names the file; set but empty: there is none.
pub const CONFIG_ENV: &str = "SMC_CONFIG";
/// The file, if [`CONFIG_ENV`] is not set and it is there.
pub const DEFAULT_PATH: &str = "/etc/smc/smc.conf";
/// A larger file is refused: every program reads it at its start.
pub const MAX_LEN: usize = 64 << 10;

/// A setting of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    pub name: &'static str,
    pub value: String,
    /// From 1.
    pub line: u32,
}

/// What a file says.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Contents {
    pub settings: Vec<Setting>,
    pub rules: Vec<Rule>,
    /// What is wrong, with the line, counted from 1.
    pub errors: Vec<(u32, String)>,
}

/// The path of the file to read, and whether it must be there.
pub fn path(var: Option<OsString>) -> Option<(Vec<u8>, bool)> {
    match var {
        None => Some((DEFAULT_PATH.into(), false)),
        Some(path) if path.is_empty() => None,
        Some(path) => Some((path.into_vec(), true)),
    }
}

/// The bytes of a file; `None` if there is none.
///
/// # Errors
/// A clause that says why it cannot be used.
pub fn read(path: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let path = CString::new(path).map_err(|_| "a NUL byte is no part of a path".to_owned())?;
    // Not blocking: it may be a pipe.
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    // SAFETY: a C string.
    let fd = match unsafe { sys!(SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0) } {
        Ok(fd) => fd as i32,
        Err(Errno(libc::ENOENT)) => return Ok(None),
        Err(e) => return Err(format!("cannot be opened: {}", reason(e))),
    };
    let bytes = read_all(fd);
    sys::fd::close(fd);
    bytes.map(Some)
}

fn read_all(fd: i32) -> Result<Vec<u8>, String> {
    let st = sys::fd::stat(fd).map_err(|e| format!("cannot be read: {}", reason(e)))?;
    if st.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err("not a plain file".to_owned());
    }
    if st.st_size as u64 > MAX_LEN as u64 {
        return Err(format!("larger than {MAX_LEN} bytes"));
    }
    // One byte more than there should be: the end is seen without another call, unless the file grows just now.
    let mut bytes = vec![0; st.st_size as usize + 1];
    let mut len = 0;
    loop {
        // SAFETY: the rest of the buffer.
        let n = unsafe { sys!(SYS_read, fd, bytes.as_mut_ptr().add(len), bytes.len() - len) };
        match n {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(Errno(libc::EINTR)) => continue,
            Err(e) => return Err(format!("cannot be read: {}", reason(e))),
        }
        if len <= st.st_size as usize {
            // All of it, as far as its size goes.
            break;
        }
        if len > MAX_LEN {
            return Err(format!("larger than {MAX_LEN} bytes"));
        }
        bytes.resize(MAX_LEN + 1, 0);
    }
    bytes.truncate(len);
    Ok(bytes)
}

fn reason(e: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(e.0)
}

/// Reads the lines of a file.
pub fn parse(bytes: &[u8]) -> Contents {
    let mut contents = Contents::default();
    for (line, number) in bytes.split(|b| *b == b'\n').zip(1..) {
        let read = match std::str::from_utf8(line) {
            Ok(text) => contents.line(text.trim(), number),
            Err(_) => Err("not UTF-8 text".to_owned()),
        };
        if let Err(why) = read {
            contents.errors.push((number, why));
        }
    }
    contents
}

impl Contents {
    fn line(&mut self, text: &str, line: u32) -> Result<(), String> {
        let first = text.split(|c: char| c.is_ascii_whitespace() || c == '=').next().unwrap_or("");
        match first {
            "" if text.is_empty() => Ok(()),
            _ if text.starts_with('#') => Ok(()),
            "include" | "exclude" => {
                self.rules.push(policy::rule(text, Origin::File(line))?);
                Ok(())
            }
            _ => self.setting(text, line),
        }
    }

    fn setting(&mut self, text: &str, line: u32) -> Result<(), String> {
        let halves = text.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        let Some((name, value)) = halves.filter(|(name, _)| !name.contains(char::is_whitespace)) else {
            return Err(format!(
                "'{text}' is neither a setting (NAME=VALUE) nor a rule (include ..., exclude ...)"
            ));
        };
        let Some(known) = FILE_SETTINGS.iter().find(|known| **known == name) else {
            return Err(match name.strip_prefix("SMC_") {
                Some("CONFIG" | "POLICY" | "RUN_DIR" | "PRELOAD") => {
                    format!("{name} can be set in the environment only")
                }
                _ => format!("unknown setting '{name}'; there are {}", FILE_SETTINGS.join(", ")),
            });
        };
        if let Some(before) = self.settings.iter().find(|s| s.name == *known) {
            return Err(format!("{known} is set a second time, after line {}", before.line));
        }
        let wrong = |why: &str| format!("{known}={value}: {why}");
        if value.starts_with(['"', '\'']) {
            return Err(wrong("values stand without quotes"));
        }
        let path = match *known {
            "SMC_REPORT" => Some(value),
            "SMC_LOG" => value.split_once(':').map(|(_, file)| file).filter(|file| *file != "stderr"),
            _ => None,
        };
        if path.is_some_and(|path| !path.is_empty() && !path.starts_with('/')) {
            return Err(wrong("a file is named by its whole path, from /"));
        }
        Config::default().set(known, value).map_err(|why| wrong(&why))?;
        self.settings.push(Setting { name: known, value: value.to_owned(), line });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_comments_settings_and_rules() {
        let contents = parse(
            b"# comment\n\n  SMC_UPGRADE_AFTER = 0 \nSMC_LOG=info:/tmp/a#b\nexclude uid=5\r\n\tinclude\nSMC_REPORT=/x",
        );
        assert_eq!(contents.errors, []);
        let settings: Vec<_> = contents.settings.iter().map(|s| (s.name, &*s.value, s.line)).collect();
        assert_eq!(
            settings,
            [("SMC_UPGRADE_AFTER", "0", 3), ("SMC_LOG", "info:/tmp/a#b", 4), ("SMC_REPORT", "/x", 7)]
        );
        let rules: Vec<_> = contents.rules.iter().map(|r| (&*r.text, &r.origin)).collect();
        assert_eq!(rules, [("exclude uid=5", &Origin::File(5)), ("include", &Origin::File(6))]);
    }

    #[test]
    fn every_wrong_line_is_named() {
        for (line, part) in [
            ("nonsense", "'nonsense' is neither a setting"),
            ("excluded uid=5", "'excluded uid=5' is neither a setting"),
            ("SMC_RCVBUFF=4k", "unknown setting 'SMC_RCVBUFF'"),
            ("SMC_RCVBUF=lots", "SMC_RCVBUF=lots: not a size"),
            ("SMC_RUN_DIR=/x", "in the environment only"),
            ("SMC_LOG=\"info\"", "without quotes"),
            ("SMC_LOG=loud", "does not begin with a level"),
            ("SMC_LOG=info:log", "whole path"),
            ("SMC_REPORT=report", "whole path"),
            ("exclude peer=me", "peer=me: 'me' is not an IP address"),
            ("SMC_DISABLE=1\nSMC_DISABLE=0", "a second time, after line 2"),
        ] {
            let contents = parse(format!("# first\n{line}\n").as_bytes());
            let last = 1 + line.lines().count() as u32;
            assert_eq!(contents.errors.len(), 1, "{line}");
            assert!(
                contents.errors[0].0 == last && contents.errors[0].1.contains(part),
                "{:?}",
                contents.errors
            );
        }
        assert_eq!(parse(b"\n\xff\xfe=1\n").errors, [(2, "not UTF-8 text".to_owned())]);
        assert_eq!(parse(b"a\nb\nexclude\nc").errors.len(), 3);
    }

    /// Whatever is in it: each line is understood or complained about, and nothing panics.
    #[test]
    fn a_file_with_anything_in_it_is_read_to_its_end() {
        let good = include_bytes!("../../../examples/config/smc.conf");
        let whole = parse(good);
        assert_eq!(whole.errors, []);
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        for _ in 0..3000 {
            let mut bytes = good.to_vec();
            for _ in 0..=random(8) {
                let at = random(bytes.len());
                match random(3) {
                    0 => bytes[at] = random(256) as u8,
                    1 => drop(bytes.drain(at..(at + random(20)).min(bytes.len()))),
                    _ => bytes.insert(at, b"=:/,-[]*#\n"[random(10)]),
                }
            }
            let lines = bytes.split(|b| *b == b'\n').filter(|l| {
                // As they are read: \v is blank for str::trim, and not for trim_ascii.
                std::str::from_utf8(l).is_ok_and(|l| !l.trim().is_empty() && !l.trim().starts_with('#'))
            });
            let contents = parse(&bytes);
            let understood = contents.settings.len() + contents.rules.len() + contents.errors.len();
            // A comment that is no text is an error too.
            assert!(understood >= lines.count(), "{}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn files_that_are_none_are_refused_and_a_missing_one_is_none() {
        let dir = std::env::temp_dir().join(format!("smc-config-file-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let bytes = |name: &str| dir.join(name).into_os_string().into_vec();
        std::fs::write(dir.join("good"), "exclude\n").unwrap();
        std::fs::write(dir.join("empty"), "").unwrap();
        std::fs::write(dir.join("most"), vec![b'#'; MAX_LEN]).unwrap();
        std::fs::write(dir.join("large"), vec![b'#'; MAX_LEN + 1]).unwrap();
        assert_eq!(read(&bytes("good")), Ok(Some(b"exclude\n".to_vec())));
        assert_eq!(read(&bytes("empty")), Ok(Some(Vec::new())));
        assert_eq!(read(&bytes("most")).map(|b| b.map(|b| b.len())), Ok(Some(MAX_LEN)));
        assert_eq!(read(&bytes("missing")), Ok(None));
        assert!(read(&bytes("large")).unwrap_err().contains("larger than 65536"));
        assert!(read(&bytes("")).unwrap_err().contains("not a plain file"));
        assert!(read(&bytes("good/x")).unwrap_err().contains("cannot be opened"));
        assert!(read(b"/dev/null").unwrap_err().contains("not a plain file"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
