//! Network namespaces by descriptor. The only file that calls `setns`.
//!
//! A namespace is entered by a closure on a thread of its own, which ends with the closure: no other
//! code ever runs in the wrong namespace, and there is no way back that could fail. A name is resolved
//! once; from then on the descriptor is the identity, whatever happens to the name.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use waymark_proto::{NetnsInode, NetnsName};

/// Where `ip netns` keeps its names.
const NAMED: &str = "/run/netns";

/// What went wrong with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The name leads nowhere.
    #[error("cannot open network namespace {name} ({}): {source}", path.display())]
    Open {
        /// The name.
        name: NetnsName,
        /// The file that was tried.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot enter network namespace {name}: {source}; this needs root (CAP_SYS_ADMIN)")]
    Enter {
        /// The name.
        name: NetnsName,
        /// Why.
        source: io::Error,
    },
}

/// A network namespace, held open.
#[derive(Clone, Debug)]
pub struct Netns {
    name: NetnsName,
    file: Arc<File>,
    inode: NetnsInode,
}

impl Netns {
    /// Opens a namespace by the name that an inventory gives it: a name under `/run/netns`, an absolute
    /// path, or `host` for the namespace of this process.
    pub fn open(name: &NetnsName) -> Result<Self, NetnsError> {
        let path = match name.as_str() {
            NetnsName::HOST => PathBuf::from("/proc/self/ns/net"),
            path if path.starts_with('/') => PathBuf::from(path),
            short => PathBuf::from(NAMED).join(short),
        };
        Self::open_at(name, &path)
    }

    /// Opens the namespace at a path that its name does not tell.
    pub fn open_at(name: &NetnsName, path: &Path) -> Result<Self, NetnsError> {
        let open = || {
            let file = File::open(path)?;
            // nsfs inode numbers are 32 bits wide (`struct ns_common`).
            let inode = NetnsInode(file.metadata()?.ino() as u32);
            Ok((file, inode))
        };
        let (file, inode) = open().map_err(|source| NetnsError::Open {
            name: name.clone(),
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { name: name.clone(), file: Arc::new(file), inode })
    }

    /// The same namespace by another name.
    #[must_use]
    pub fn named(&self, name: &NetnsName) -> Self {
        Self { name: name.clone(), ..self.clone() }
    }

    /// The name that it was opened by.
    pub fn name(&self) -> &NetnsName {
        &self.name
    }

    /// Its identity.
    pub fn inode(&self) -> NetnsInode {
        self.inode
    }

    /// The descriptor, for netlink requests about it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs a closure inside the namespace, on a thread of its own, and waits for it.
    ///
    /// # Panics
    /// If the closure panics, with its panic.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let enter = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| NetnsError::Enter { name: self.name.clone(), source: errno.into() })?;
            Ok(inside())
        };
        std::thread::scope(|scope| scope.spawn(enter).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_name_says_what_was_tried() {
        let error = Netns::open(&NetnsName::from("no-such-namespace")).unwrap_err().to_string();
        assert!(error.contains("/run/netns/no-such-namespace"), "{error}");
    }

    #[test]
    fn the_own_namespace_needs_no_name() {
        let own = Netns::open(&NetnsName::from(NetnsName::HOST)).unwrap();
        let path = Netns::open(&NetnsName::from("/proc/self/ns/net")).unwrap();
        assert_eq!(own.inode(), path.inode());
    }
}
