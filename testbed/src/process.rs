//! Processes that outlive the command which started them: started, awaited, found again, ended.
//!
//! A process is known by its pid *and* its start time, so that a number the kernel gave to somebody else
//! since is never signalled; signals go through a pidfd for the same reason. Readiness is a file that the
//! process makes itself: waiting is one `poll` on that file's folder and on the process.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, setsid, waitid,
};
use waymark_prober::netns::Netns;
use waymark_proto::NetnsName;

use crate::state::StateDir;
use crate::{Error, Result, interrupt};

/// How much of a log an error quotes, in bytes.
const TAIL: i64 = 2000;
/// How long a process that was killed may take to be gone: the kernel first takes back all that it has, and what an
/// agent has attached costs a grace period each.
const DEATH: Duration = Duration::from_secs(60);

/// A program to start in the background.
#[derive(Clone, Debug)]
pub(crate) struct Daemon {
    /// Its name among the instance's processes: `controller`, `agent-node1`, …
    pub(crate) role: String,
    /// In which namespace; the machine's own if absent.
    pub(crate) netns: Option<String>,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// How it says that it is ready.
    pub(crate) readiness: Readiness,
}

/// How a process says that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It takes `--ready-file PATH`, which is added to its arguments, and makes that file.
    File,
    /// It doesn't: it must be asked, each in its way.
    Asked,
}

/// A process that was started and may not be ready yet.
#[must_use = "it may never get ready: wait for it"]
pub(crate) struct Starting {
    role: String,
    child: Child,
    pidfd: OwnedFd,
    folder: OwnedFd,
    ready: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts it. `this` is this program, which detaches the process and writes down its pid.
    pub(crate) fn start(&self, dir: &StateDir, this: &Path) -> Result<Starting> {
        let (ready, log) = (dir.ready(&self.role), dir.log(&self.role));
        match fs::remove_file(&ready) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("remove", &ready)(error));
            }
            _ => {}
        }
        let folder =
            watch(ready.parent().expect("the file is in a folder")).map_err(Error::file("watch", &ready))?;
        let output = File::create(&log).map_err(Error::file("create", &log))?;
        let errors = output.try_clone().map_err(Error::file("open", &log))?;
        let mut command = Command::new(this);
        command.arg("detach").arg("--pid-file").arg(dir.pid(&self.role)).arg("--").arg(&self.program);
        command.args(&self.args);
        if self.readiness == Readiness::File {
            command.arg("--ready-file").arg(&ready);
        }
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let spawned = match &self.netns {
            // A child is born into the namespace of the thread that forks it.
            Some(netns) => Netns::open(&NetnsName::from(netns.as_str()))?.run(|| command.spawn())?,
            None => command.spawn(),
        };
        let failed = |source| Error::Spawn {
            program: this.display().to_string(),
            source,
            remedy: "the program must stay where it was started from",
        };
        let child = spawned.map_err(failed)?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let pidfd = pidfd.map_err(|errno| failed(errno.into()))?;
        Ok(Starting { role: self.role.clone(), child, pidfd, folder, ready, log })
    }
}

impl Starting {
    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        let Ok(Some(status)) = self.child.try_wait() else { return Ok(()) };
        let (role, log, tail) = (self.role.clone(), self.log.clone(), tail(&self.log));
        Err(Error::Died { role, status: status.to_string(), log, tail })
    }

    /// Waits until it is ready, it ended, or `limit` has passed.
    pub(crate) fn wait(mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            interrupt::check()?;
            if self.ready.exists() {
                return Ok(());
            }
            self.check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::NotReady { role: self.role, seconds: limit.as_secs(), log: self.log });
            }
            wait_readable(
                [Some(self.folder.as_fd()), Some(self.pidfd.as_fd()), interrupt::descriptor()],
                left,
            );
            drain(&self.folder);
        }
    }
}

/// Watches a folder for files that come into it.
fn watch(folder: &Path) -> io::Result<OwnedFd> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&fd, folder, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)?;
    Ok(fd)
}

fn drain(folder: &OwnedFd) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(folder, &mut buffer);
    while reader.next().is_ok() {}
}

/// Waits until one of the descriptors is readable or the time is up.
fn wait_readable<const N: usize>(descriptors: [Option<std::os::fd::BorrowedFd<'_>>; N], limit: Duration) {
    let mut fds: Vec<_> =
        descriptors.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let limit = Timespec::try_from(limit).ok();
    // EINTR and time-out alike: the caller looks for itself what happened.
    let _ = poll(&mut fds, limit.as_ref());
}

pub(crate) fn tail(log: &Path) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let len = file.metadata()?.len();
        let back = TAIL.min(len.try_into().unwrap_or(TAIL));
        file.seek(SeekFrom::End(-back))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        io::Result::Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    match read() {
        Ok(text) if text.is_empty() => "(it printed nothing)".into(),
        Ok(text) => text,
        Err(error) => format!("(not readable: {error})"),
    }
}

/// Says that this process is ready: makes the file that its starter waits for.
pub(crate) fn announce(ready: &Path) -> Result<()> {
    File::create(ready).map(drop).map_err(Error::file("create", ready))
}

/// Becomes a session of its own, writes down who it is, and turns into another program. Pid and start
/// time stay, so the note is true before the program runs its first instruction.
pub fn detach(pid_file: &Path, program: &Path, args: &[String]) -> Error {
    let note = || -> Result<()> {
        setsid().map_err(|errno| Error::file("start a session for", program)(errno.into()))?;
        let pid = rustix::process::getpid();
        let started = start_time(pid).map_err(Error::file("read", "/proc/self/stat"))?;
        let text = format!("{} {started}\n", pid.as_raw_nonzero());
        let draft = pid_file.with_extension("draft");
        fs::write(&draft, text).map_err(Error::file("write", &draft))?;
        fs::rename(&draft, pid_file).map_err(Error::file("write", pid_file))
    };
    if let Err(error) = note() {
        return error;
    }
    Error::Spawn {
        program: program.display().to_string(),
        source: Command::new(program).args(args).exec(),
        remedy: "build it with `cargo build`, or name its folder with --bin-dir",
    }
}

/// When a process started, in clock ticks since boot: field 22 of `/proc/PID/stat`.
fn start_time(pid: Pid) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    // The second field is the name in parentheses, which may itself hold spaces and parentheses.
    let field = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
    field.ok_or_else(|| io::Error::other(format!("unexpected {stat:?}")))
}

/// A process that lives.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) pid: Pid,
    pidfd: OwnedFd,
}

/// The process of a pid file, if it is still the one that wrote it and lives.
pub(crate) fn recorded(pid_file: &Path) -> Option<Running> {
    let text = fs::read_to_string(pid_file).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let pid = Pid::from_raw(pid.parse().ok()?)?;
    // First hold it, then look: the descriptor stays with the process that is looked at.
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let same = start_time(pid).is_ok_and(|time| time.to_string() == started);
    let running = Running { pid, pidfd };
    (same && !running.ended(Duration::ZERO)).then_some(running)
}

/// All processes in the namespaces of these inodes, but for the caller itself.
pub(crate) fn inside(inodes: &[u64]) -> Vec<Running> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let own = rustix::process::getpid();
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|&pid| pid != own) else { continue };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let netns = fs::metadata(format!("/proc/{}/ns/net", pid.as_raw_nonzero()));
        if netns.is_ok_and(|netns| inodes.contains(&netns.ino())) {
            found.push(Running { pid, pidfd });
        }
    }
    found
}

impl Running {
    fn signal(&self, signal: Signal) {
        // The only failure is that it has ended already.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Whether it ends within the time. Collects it if it is a child of this process.
    fn ended(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            let limit = Timespec::try_from(left).ok();
            match poll(&mut fds, limit.as_ref()) {
                Ok(0) => return false,
                Ok(_) => {
                    let _ = waitid(
                        WaitId::PidFd(self.pidfd.as_fd()),
                        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
                    );
                    return true;
                }
                Err(_) => {}
            }
        }
    }
}

/// Ends processes: SIGTERM to all, and SIGKILL to those that take longer than `patience`. Gives back the
/// first that even that did not end.
pub(crate) fn end(processes: &[Running], patience: Duration) -> std::result::Result<(), Pid> {
    for process in processes {
        process.signal(Signal::TERM);
    }
    let deadline = Instant::now() + patience;
    let stubborn = processes.iter().filter(|p| !p.ended(deadline.saturating_duration_since(Instant::now())));
    for process in stubborn {
        process.signal(Signal::KILL);
        if !process.ended(DEATH) {
            return Err(process.pid);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_of_an_older_process_of_that_number_finds_nobody() {
        let file = std::env::temp_dir().join(format!("waymark-pid-{}", std::process::id()));
        let own = rustix::process::getpid();
        let started = start_time(own).unwrap();
        fs::write(&file, format!("{} {started}\n", own.as_raw_nonzero())).unwrap();
        assert_eq!(recorded(&file).map(|running| running.pid), Some(own));
        for text in [format!("{} {}\n", own.as_raw_nonzero(), started + 1), String::new(), "x y".into()] {
            fs::write(&file, text).unwrap();
            assert!(recorded(&file).is_none());
        }
        fs::remove_file(&file).unwrap();
    }
}
