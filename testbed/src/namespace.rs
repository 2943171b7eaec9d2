//! Network namespaces with names: made, listed, taken away.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use crate::script::{Script, Tool};
use crate::{Error, Result};

/// Where `ip netns` keeps its names.
const NAMED: &str = "/run/netns";

/// Makes namespaces, all or the first few.
pub(crate) fn create(names: &[String]) -> Result<()> {
    Script::new(Tool::Ip, "host", names.iter().map(|name| format!("netns add {name}"))).run()
}

/// All names there are.
pub fn all() -> BTreeSet<String> {
    let entries = fs::read_dir(NAMED).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Identity of the namespace of a name, if it is one and not the machine's own.
pub(crate) fn inode(name: &str) -> Option<u64> {
    let inode = fs::metadata(path(name)).ok()?.ino();
    let own = fs::metadata("/proc/self/ns/net").ok()?.ino();
    (inode != own).then_some(inode)
}

/// Takes a name away, and with it the namespace, once no process is in it. A name that was only half
/// made, or is not there, is no error.
pub(crate) fn remove(name: &str) -> Result<()> {
    let path = path(name);
    match unmount(&path, UnmountFlags::DETACH) {
        // Not a mount point, or not there.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(Error::file("unmount", path)(errno.into())),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Where a name leads to its namespace.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(NAMED).join(name)
}
