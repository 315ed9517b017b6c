//! A control group for everything that the benchmark starts: it tells exactly what processor time was ours, also that
//! of processes that are gone, and which connections a sockmap is for.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Removed when dropped, together with its groups.
pub struct Group {
    path: PathBuf,
    /// Where this process was before.
    from: PathBuf,
}

/// The mount of a cgroup file system of this type, for version 1 with this controller.
fn mount(kind: &str, controller: Option<&str>) -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let matching = |line: &&str| {
        let fields: Vec<&str> = line.split(' ').collect();
        fields[2] == kind && controller.is_none_or(|name| fields[3].split(',').any(|option| option == name))
    };
    let line = mounts.lines().find(matching).with_context(|| format!("no {kind} file system is mounted"))?;
    Ok(PathBuf::from(line.split(' ').nth(1).expect("a mount has a place")))
}

impl Group {
    /// Makes a group and puts this process into it.
    pub fn enter() -> Result<Group> {
        let root = mount("cgroup2", None)?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own =
            own.lines().find_map(|line| line.strip_prefix("0::/")).context("in no cgroup of version 2")?;
        let from = root.join(own);
        let path = from.join(format!("smc-bench-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("{}", path.display()))?;
        let group = Group { path, from };
        fs::create_dir(group.sockmap())?;
        fs::write(group.path.join("cgroup.procs"), "0").context("cgroup.procs")?;
        Ok(group)
    }

    /// The group of the processes whose connections the sockmap joins.
    pub fn sockmap(&self) -> PathBuf {
        self.path.join("sockmap")
    }

    /// Processor time of all that was ever in the group, in microseconds.
    pub fn cpu_us(&self) -> Option<f64> {
        let stat = fs::read_to_string(self.path.join("cpu.stat")).ok()?;
        stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.parse().ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.from.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(self.sockmap());
        let _ = fs::remove_dir(&self.path);
    }
}

/// A group that counts memory, the kernel's for sockets and files included.
pub struct Memory {
    path: PathBuf,
    usage: &'static str,
}

impl Memory {
    pub fn new(name: &str) -> Result<Memory> {
        let name = format!("smc-bench-{}-{name}", std::process::id());
        if let Ok(root) = mount("cgroup", Some("memory")) {
            let path = root.join(name);
            fs::create_dir(&path).context("a memory cgroup")?;
            return Ok(Memory { path, usage: "memory.usage_in_bytes" });
        }
        let path = mount("cgroup2", None)?.join(name);
        fs::create_dir(&path).context("a memory cgroup")?;
        let memory = Memory { path, usage: "memory.current" };
        memory.usage().context("the memory controller is not enabled")?;
        Ok(memory)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes.
    pub fn usage(&self) -> Result<f64> {
        Ok(fs::read_to_string(self.path.join(self.usage))?.trim().parse()?)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}
