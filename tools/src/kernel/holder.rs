//! Whose a socket is: the processes that hold a descriptor of it, by its inode. Of other users' processes, only root sees
//! that.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

/// A process with a descriptor of a socket. Where several hold one, it is that with the lowest number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    pub pid: u32,
    /// The process's command name.
    pub comm: String,
    pub fd: u32,
}

/// The holders of sockets, by their inodes. What cannot be read is left out.
pub fn all() -> HashMap<u64, Holder> {
    let mut holders: HashMap<u64, Holder> = HashMap::new();
    for (pid, process) in numbered("/proc".as_ref()) {
        let mut comm = None;
        for (fd, link) in numbered(&process.join("fd")) {
            let Some(inode) = fs::read_link(link).ok().and_then(|target| inode(target.to_str()?)) else {
                continue;
            };
            let comm =
                comm.get_or_insert_with(|| fs::read_to_string(process.join("comm")).unwrap_or_default());
            let holder = Holder { pid, comm: comm.trim_end().to_owned(), fd };
            let known = holders.entry(inode).or_insert_with(|| holder.clone());
            if (pid, fd) < (known.pid, known.fd) {
                *known = holder;
            }
        }
    }
    holders
}

/// What is named by a number in a folder.
fn numbered(folder: &Path) -> impl Iterator<Item = (u32, std::path::PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}

/// `socket:[4711]`
fn inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_socket_of_this_process_is_found_by_its_inode() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let found = all().remove(&inode(link.to_str().unwrap()).unwrap()).unwrap();
        let comm = fs::read_to_string("/proc/self/comm").unwrap().trim_end().to_owned();
        let own = Holder { pid: std::process::id(), comm, fd: socket.as_raw_fd() as u32 };
        assert_eq!(found, own);
        assert_eq!((inode("pipe:[3]"), inode("socket:[3]"), inode("socket:[]")), (None, Some(3), None));
    }
}
