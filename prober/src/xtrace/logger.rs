//! The logger of a namespace and family: to whom the kernel tells what no rule has a logger for.
//!
//! It is a sysctl of the namespace, so, unlike all else of Waymark's, it does not go with a descriptor. While it is
//! changed, a process of its own waits for the agent's end (see `guard`), and puts it back. Only if that is killed
//! too, at the same time, the setting stays: then a namespace's traces and its log of invalid connections go to nobody,
//! until somebody writes the logger's name to `/proc/sys/net/netfilter/nf_log/2` (10 for IPv6) again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::guard::Guard;

/// The logger that sends to sockets.
const SOCKETS: &str = "nfnetlink_log";

/// A namespace whose logger is `nfnetlink_log`, at the latest since this was made, and as long as it lives.
pub(super) struct Logger {
    /// What it had before, if that was another.
    _lent: Option<Lent>,
}

/// A logger to give back.
struct Lent {
    file: File,
    before: String,
    /// Stands down when it is dropped.
    _guard: Guard,
}

impl Logger {
    /// Has the namespace of the calling thread tell the family's logs to sockets.
    pub(super) fn take(family: u8) -> io::Result<Self> {
        let path = format!("sys/net/netfilter/nf_log/{family}");
        let failed = |what: &str, error: &io::Error| {
            io::Error::new(error.kind(), format!("cannot {what} /proc/{path}: {error}"))
        };
        let file = open(&path).map_err(|error| failed("open", &error))?;
        let before = read(&file).map_err(|error| failed("read", &error))?;
        if before == SOCKETS {
            return Ok(Self { _lent: None });
        }
        let guard = Guard::set(&file, before.as_bytes())?;
        file.write_all_at(SOCKETS.as_bytes(), 0).map_err(|error| failed("write nfnetlink_log to", &error))?;
        Ok(Self { _lent: Some(Lent { file, before, _guard: guard }) })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Whoever has chosen another meanwhile is to keep it.
        if read(&self.file).is_ok_and(|now| now != SOCKETS) {
            return;
        }
        if let Err(error) = self.file.write_all_at(self.before.as_bytes(), 0) {
            tracing::warn!(logger = self.before, %error, "cannot give a namespace its logger back");
        }
    }
}

fn read(file: &File) -> io::Result<String> {
    let mut name = [0; 128];
    let length = file.read_at(&mut name, 0)?;
    Ok(String::from_utf8_lossy(&name[..length]).trim_end().to_owned())
}

/// Opens a file of `/proc` for writing. Containers have a `/proc/sys` that cannot be written, but with the right to
/// mount one needs no place for it.
fn open(path: &str) -> io::Result<File> {
    let usual = OpenOptions::new().read(true).write(true).open(format!("/proc/{path}"));
    usual.or_else(|error| match error.raw_os_error() {
        Some(libc::EROFS | libc::EACCES | libc::EPERM) => {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            Ok(openat(&own_proc().map_err(|_| error)?, path, flags, Mode::empty())?.into())
        }
        _ => Err(error),
    })
}

/// A `/proc` that is mounted nowhere.
fn own_proc() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// Runs on a thread that has a namespace and mounts of its own, and a `/proc/sys` as containers have it.
    fn in_container<T: Send>(inside: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(Some("/proc/sys"), "/proc/sys", none, MsFlags::MS_BIND, none).unwrap();
            let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(none, "/proc/sys", none, read_only, none).unwrap();
            inside()
        };
        std::thread::scope(|scope| scope.spawn(enter).join()).unwrap()
    }

    #[test]
    fn containers_that_cannot_write_settings_are_no_obstacle() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "this test needs root");
            eprintln!("skipped: this test needs root");
            return;
        }
        in_container(|| {
            let setting = || read(&File::open("/proc/sys/net/netfilter/nf_log/2").unwrap()).unwrap();
            let before = setting();
            assert!(OpenOptions::new().write(true).open("/proc/sys/net/netfilter/nf_log/2").is_err());
            let logger = Logger::take(2).unwrap();
            assert_eq!(setting(), SOCKETS);
            drop(logger);
            assert_eq!(setting(), before);
        });
    }
}
