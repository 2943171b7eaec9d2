//! Which process has a socket open, found by the descriptors of all processes.
//!
//! To look into all of them takes tens of milliseconds on a full node, while sockets that receive come and go rarely. So
//! what was found is kept, and nobody looks again before a socket comes that was not there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use procfs::process::{FDTarget, Process, all_processes};
use waymark_proto::SocketHolder;

/// Sockets of nobody's that are remembered; there are few, but those that are gone count, too.
const MOST_NOBODYS: usize = 10_000;

/// What was found: a holder for each inode, or that nobody was.
static KNOWN: Mutex<BTreeMap<u64, Option<SocketHolder>>> = Mutex::new(BTreeMap::new());

/// The holders of sockets, by inode.
pub(super) fn of(sockets: &BTreeSet<u64>) -> BTreeMap<u64, SocketHolder> {
    // Each step leaves it usable, so a panic elsewhere does no harm here.
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if sockets.iter().any(|inode| !known.contains_key(inode)) {
        let found = find();
        // Who was found before is forgotten: a socket's number may be another's by now. That nobody was is not, or sockets
        // of the kernel's own in two namespaces would have all processes looked into for ever.
        known.retain(|_, holder| holder.is_none());
        if known.len() > MOST_NOBODYS {
            known.clear();
        }
        known.extend(sockets.iter().map(|inode| (*inode, None)));
        known.extend(found);
    }
    let holder = |inode: &u64| Some((*inode, known.get(inode)?.clone()?));
    sockets.iter().filter_map(holder).collect()
}

/// Looks into all processes. One that ends meanwhile, or may not be looked into, has no sockets.
fn find() -> BTreeMap<u64, Option<SocketHolder>> {
    let mut found = BTreeMap::new();
    for process in all_processes().into_iter().flatten().flatten() {
        let inodes: Vec<u64> =
            process.fd().into_iter().flatten().flatten().filter_map(|fd| socket(&fd.target)).collect();
        if inodes.is_empty() {
            continue;
        }
        let Some(holder) = holder(&process) else { continue };
        for inode in inodes {
            // Of several that share it the one that was there first, as a rule, has the lowest number.
            let entry = found.entry(inode).or_insert_with(|| Some(holder.clone()));
            if entry.as_ref().is_some_and(|other| other.pid > holder.pid) {
                *entry = Some(holder.clone());
            }
        }
    }
    found
}

fn socket(target: &FDTarget) -> Option<u64> {
    match target {
        FDTarget::Socket(inode) => Some(*inode),
        _ => None,
    }
}

fn holder(process: &Process) -> Option<SocketHolder> {
    let command = process.stat().ok()?.comm;
    let cgroups = process.cgroups().into_iter().flatten();
    let cgroup = cgroups.map(|cgroup| cgroup.pathname).find(|path| path != "/");
    Some(SocketHolder { pid: u32::try_from(process.pid).ok()?, command, cgroup })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_own_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let link = link.to_str().unwrap().to_owned();
        let inode: u64 = link.trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap();
        let holder = find().remove(&inode).flatten().expect("it is open");
        assert_eq!(holder.pid, std::process::id());
        assert!(!holder.command.is_empty());
    }
}
