//! A folder, and processes in it, that go with this process: when it drops them, when it ends, and when it
//! is killed.
//!
//! * Processes get SIGKILL from the kernel when their parent's *thread* ends (`PR_SET_PDEATHSIG`), so all of
//!   them are started by one thread that ends with the process.
//! * The folder is removed by a shell that waits for the end of its input. Its input is a pipe that only
//!   this process holds, and that the kernel closes for it. It is told the processes' numbers and waits for
//!   them first: what is still writing would leave files behind.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::error::{KubernetesError, Result};

/// Reads numbers until nobody writes any more, waits until those processes are gone, removes the folder.
/// Signals of a terminal are not for it.
const UNDERTAKER: &str = "trap '' INT TERM HUP
while read -r pid; do pids=\"$pids $pid\"; done
for pid in $pids; do n=0; while [ -d /proc/$pid ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n + 1)); done; done
rm -rf -- \"$1\"";

/// The folder with its processes.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    undertaker: Child,
    children: Mutex<Vec<(String, Child)>>,
}

impl Scratch {
    /// A new folder of that kind below the folder for temporary files.
    pub(crate) fn new(kind: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let own = std::process::id();
        let path = loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("waymark-{kind}-{own}-{number}"));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                // Of an earlier process of this number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => break made.map(|()| path.clone()).map_err(KubernetesError::file("create", path))?,
            }
        };
        let mut undertaker = Command::new("/bin/sh");
        undertaker.args(["-c", UNDERTAKER, "waymark-undertaker"]).arg(&path).process_group(0);
        undertaker.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let undertaker = undertaker.spawn().map_err(|source| {
            let _ = fs::remove_dir(&path);
            KubernetesError::Spawn { program: "/bin/sh".into(), source }
        })?;
        Ok(Self { path, undertaker, children: Mutex::default() })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a process's output goes.
    pub(crate) fn log(&self, role: &str) -> PathBuf {
        self.path.join(format!("{role}.log"))
    }

    /// Starts a program whose output goes to its log.
    pub(crate) fn spawn(&self, role: &str, program: &Path, args: &[String]) -> Result<()> {
        let log = self.log(role);
        let output = File::create(&log).map_err(KubernetesError::file("create", &log))?;
        let errors = output.try_clone().map_err(KubernetesError::file("open", &log))?;
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.path);
        // Ctrl-C is for the process that started it, which ends it.
        command.process_group(0).stdin(Stdio::null()).stdout(output).stderr(errors);
        let failed = |source| KubernetesError::Spawn { program: program.to_owned(), source };
        let child = spawn_for_life(command).map_err(failed)?;
        let told = self.undertaker.stdin.as_ref().map(|mut pipe| writeln!(pipe, "{}", child.id()));
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.push((role.to_owned(), child));
        told.unwrap_or(Ok(())).map_err(failed)
    }

    /// Fails if a process has ended.
    pub(crate) fn check(&self) -> Result<()> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        for (role, child) in children.iter_mut() {
            if let Ok(Some(status)) = child.try_wait() {
                let tail = crate::process::tail(&self.log(role));
                return Err(KubernetesError::Ended { role: role.clone(), status: status.to_string(), tail });
            }
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let children = self.children.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (_, child) in children.iter_mut() {
            // The only failure is that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        // `wait` closes the pipe first.
        let _ = self.undertaker.wait();
    }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts a process that the kernel ends with this one.
fn spawn_for_life(mut command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let parent = rustix::process::getpid();
    let arrange = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have ended before this was asked for.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: prctl(2) and getppid(2) are async-signal-safe, and nothing is allocated.
    unsafe { command.pre_exec(arrange) };
    let starter = STARTER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in orders {
                // Whoever asked waits for it.
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (answer, spawned) = mpsc::channel();
    let gone = |_| io::Error::other("the thread that starts processes has ended");
    starter.send((command, answer)).map_err(|_| io::Error::other("no thread starts processes"))?;
    spawned.recv().map_err(gone)?
}

/// Whether a process of that number lives.
#[cfg(test)]
fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_what_was_dropped() {
        let scratch = Scratch::new("test").unwrap();
        let path = scratch.path().to_owned();
        scratch.spawn("sleep", Path::new("sleep"), &["1000".into()]).unwrap();
        let pid = scratch.children.lock().unwrap()[0].1.id();
        assert!(path.is_dir() && lives(pid));
        scratch.check().unwrap();
        drop(scratch);
        assert!(!path.exists() && !lives(pid));
    }

    /// In the process that is killed: says what it has, and waits.
    const INNER: &str = "WAYMARK_TEST_SCRATCH_IS_KILLED";

    #[test]
    fn nothing_is_left_of_a_killed_process() {
        if std::env::var_os(INNER).is_some() {
            let scratch = Scratch::new("test").unwrap();
            scratch.spawn("sleep", Path::new("sleep"), &["1000".into()]).unwrap();
            let pid = scratch.children.lock().unwrap()[0].1.id();
            println!("\nHERE {pid} {}", scratch.path().display());
            loop {
                std::thread::park();
            }
        }
        let name = "kubernetes::scratch::tests::nothing_is_left_of_a_killed_process";
        let mut inner = Command::new(std::env::current_exe().unwrap());
        inner.args([name, "--exact", "--nocapture"]).env(INNER, "1").stdout(Stdio::piped());
        let mut inner = inner.spawn().unwrap();
        let lines = io::BufRead::lines(io::BufReader::new(inner.stdout.take().unwrap()));
        let line = lines.map_while(io::Result::ok).find(|line| line.starts_with("HERE")).unwrap();
        let [_, pid, path] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (pid, path) = (pid.parse().unwrap(), Path::new(path));
        assert!(lives(pid) && path.is_dir());
        inner.kill().unwrap();
        inner.wait().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while lives(pid) || path.exists() {
            assert!(std::time::Instant::now() < deadline, "{pid} or {} is left", path.display());
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_process_that_ended_is_named_with_what_it_said() {
        let scratch = Scratch::new("test").unwrap();
        let args = ["-c".into(), "echo no luck; exit 3".into()];
        scratch.spawn("luck", Path::new("sh"), &args).unwrap();
        let error = loop {
            if let Err(error) = scratch.check() {
                break error.to_string();
            }
            std::thread::yield_now();
        };
        assert!(error.contains("luck ended (exit status: 3)") && error.contains("no luck"), "{error}");
    }
}
