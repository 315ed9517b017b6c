//! Names of programs, and patterns for them.

use std::ffi::CStr;

/// The names that a process goes by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// The file that was executed: a script, or the program itself, as whoever executed it wrote it.
    executed: Vec<u8>,
    /// The program that runs: for a script its interpreter. With all links resolved.
    running: Vec<u8>,
}

/// A name in a rule, in which `*` stands for any text. With a slash it is compared with whole paths, without one
/// with the last part of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(pub(super) Vec<u8>);

impl Program {
    /// One that has this name or path, for a dry run.
    pub fn named(name: &str) -> Program {
        Program { executed: name.into(), running: name.into() }
    }

    /// This process.
    pub fn current() -> Program {
        // SAFETY: reads the auxiliary vector; the string it points to is the kernel's and stays.
        let executed = unsafe {
            match libc::getauxval(libc::AT_EXECFN) {
                0 => Vec::new(),
                at => CStr::from_ptr(at as *const libc::c_char).to_bytes().to_vec(),
            }
        };
        let mut running = vec![0; libc::PATH_MAX as usize];
        let path = c"/proc/self/exe".as_ptr();
        // SAFETY: a C string, and a buffer of the length given.
        let n = unsafe { sys!(SYS_readlinkat, libc::AT_FDCWD, path, running.as_mut_ptr(), running.len()) };
        running.truncate(n.unwrap_or(0));
        if let Some(path) = running.strip_suffix(b" (deleted)") {
            running.truncate(path.len());
        }
        Program { executed, running }
    }
}

impl Pattern {
    pub fn matches(&self, program: &Program) -> bool {
        let whole = self.0.contains(&b'/');
        [&program.executed, &program.running].into_iter().any(|path| {
            let last = path.rsplit(|b| *b == b'/').next().unwrap_or(path);
            glob(&self.0, if whole { path } else { last })
        })
    }
}

/// Whether `text` is `pattern`, with `*` for any bytes. Linear but for the tries behind the last `*`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // The last star, and how far what it stands for reaches.
    let mut star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, until)) = star {
            star = Some((at, until + 1));
            p = at + 1;
            t = until + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, program: &str) -> bool {
        Pattern(pattern.into()).matches(&Program::named(program))
    }

    #[test]
    fn names_are_the_last_part_of_a_path_and_paths_are_whole() {
        assert!(
            matches("nginx", "/usr/sbin/nginx") && matches("nginx", "nginx") && matches("nginx", "./nginx")
        );
        assert!(
            !matches("nginx", "/usr/sbin/nginx2")
                && !matches("nginx", "/nginx/x")
                && !matches("ngin", "nginx")
        );
        assert!(matches("/usr/sbin/nginx", "/usr/sbin/nginx") && !matches("/sbin/nginx", "/usr/sbin/nginx"));
        assert!(matches("/opt/*", "/opt/app/bin/x") && !matches("/opt/*", "/usr/opt/x"));
    }

    #[test]
    fn a_star_is_any_text() {
        for (pattern, text, is) in [
            ("*", "", true),
            ("python3*", "python3.11", true),
            ("python3*", "python3", true),
            ("*-server", "redis-server", true),
            ("*-server", "redis-server-2", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("**", "x", true),
            ("a", "", false),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), is, "{pattern} {text}");
        }
    }

    #[test]
    fn this_process_is_known_by_the_file_it_runs() {
        let path = std::env::current_exe().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(Pattern(name.into_bytes()).matches(&Program::current()));
        assert!(Pattern(path.to_str().unwrap().into()).matches(&Program::current()));
        assert!(!Pattern(b"redis-server".to_vec()).matches(&Program::current()));
    }
}
