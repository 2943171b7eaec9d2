//! What `fetch.sh` put into the cache: kernels of Debian's releases, and the programs that boot them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Debian's release that it is of.
    pub release: &'static str,
    folder: PathBuf,
    /// Its version as `uname -r` prints it.
    pub version: String,
}

impl Kernel {
    /// The kernel of a release, fetched if it is not there. Where it cannot be had it is said what is left out,
    /// and under CI that is a failure.
    pub fn find(release: &'static str) -> Option<Self> {
        let folder = cache().join(release);
        fetch(release);
        if !folder.is_dir() || !cache().join("tools").is_dir() {
            let why = format!(
                "there is no kernel of {release} in {}: see what testbed/kernels/fetch.sh says",
                cache().display()
            );
            assert!(std::env::var_os("CI").is_none(), "{why}; under CI nothing is skipped");
            eprintln!("SKIPPED: scenarios on the kernel of {release}: {why}");
            return None;
        }
        let modules = folder.join("lib/modules");
        let mut versions =
            fs::read_dir(&modules).unwrap_or_else(|error| panic!("{}: {error}", modules.display()));
        let version =
            versions.next().expect("a kernel has modules").expect("a folder can be read").file_name();
        Some(Self { release, folder, version: version.into_string().expect("versions are ASCII") })
    }

    /// What boots.
    pub fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// Its modules, and what is known about them.
    pub fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.version)
    }
}

/// One fetches for all.
fn fetch(release: &str) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/fetch.sh");
    let status = Command::new(&script).arg(release).stdin(Stdio::null()).status();
    // What it could not do it said, and is seen by what is not there.
    status.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
}

fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    base.expect("XDG_CACHE_HOME or HOME says where the cache is").join("waymark/kernels")
}

/// A path among the tools.
pub fn tool(path: &str) -> PathBuf {
    cache().join("tools/usr").join(path)
}

/// What loads a program of the tools with their own libraries, as words for a shell.
pub fn loader() -> String {
    let libraries = tool("lib/x86_64-linux-gnu");
    format!("{0}/ld-linux-x86-64.so.2 --library-path {0}", libraries.display())
}

/// A program of the tools. It is killed when the thread that starts it ends, whatever ends that.
pub fn command(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(loader().split(' ')).arg(tool(program));
    command
}
