//! Where `smcr stats reset` keeps what the counters were: the kernel cannot set them back. Each user has a mark of their
//! own, in `$XDG_STATE_HOME/smc` or `~/.local/state/smc`; it counts until the next boot.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use serde::{Deserialize, Serialize};

use crate::kernel::stats::Stats;

#[derive(Serialize, Deserialize)]
struct Mark {
    boot_id: String,
    stats: Stats,
}

/// Where the mark is.
pub fn path() -> io::Result<PathBuf> {
    let set =
        |name| env::var_os(name).filter(|dir: &OsString| Path::new(dir).is_absolute()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    let state = state
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "neither XDG_STATE_HOME nor HOME is set"))?;
    Ok(state.join("smc/smcr-stats.json"))
}

/// What the counters were at the last reset; nothing without one, and with one that cannot be read.
pub fn load(path: &Path) -> Stats {
    let mark = fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Mark>(&bytes).ok());
    mark.filter(|mark| boot_id().is_ok_and(|boot| boot == mark.boot_id))
        .map(|mark| mark.stats)
        .unwrap_or_default()
}

pub fn store(path: &Path, stats: &Stats) -> io::Result<()> {
    let said = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let text = serde_json::to_vec(&Mark { boot_id: boot_id()?, stats: stats.clone() })?;
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(said)?;
    }
    // Whole or not at all.
    let new = path.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).map_err(said)
}

fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_again_and_one_of_another_boot_is_not() {
        let dir = env::temp_dir().join(format!("smcr-reset-{}", std::process::id()));
        let path = dir.join("a/mark.json");
        assert_eq!(load(&path), Stats::default());
        let stats = Stats { client_v2: 7, ..Stats::default() };
        store(&path, &stats).unwrap();
        store(&path, &stats).unwrap();
        assert_eq!(load(&path), stats);
        let text = fs::read_to_string(&path).unwrap().replace(&boot_id().unwrap(), "another");
        fs::write(&path, text).unwrap();
        assert_eq!(load(&path), Stats::default());
        fs::write(&path, "{").unwrap();
        assert_eq!(load(&path), Stats::default());
        fs::remove_dir_all(&dir).unwrap();
    }
}
