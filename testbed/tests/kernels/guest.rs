//! A machine of QEMU's with a kernel of its own and the root of this one: boots, runs commands, is gone when dropped.
//!
//! No hardware virtualization is asked for, so all in it is ten to twenty times slower than here.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::cache::{self, Kernel};
use crate::initramfs;

/// How long a guest may take to its first command, on a machine that does much else.
const BOOT: Duration = Duration::from_secs(180);
/// Memory of a guest, which holds all that it writes.
const MEMORY: &str = "1536M";

/// One end of a cable between two guests: a socket for each, and the other's address.
pub struct Plug {
    /// Socket of this end.
    pub local: PathBuf,
    /// Socket of the other.
    pub remote: PathBuf,
    /// Hardware address of the guest's device.
    pub mac: &'static str,
}

/// A running guest.
pub struct Guest {
    /// Which kernel it runs.
    pub kernel: Kernel,
    folder: TempDir,
    control: BufReader<UnixStream>,
    read: u64,
    qemu: Child,
    share: Child,
}

/// What became of a command.
pub struct Ran {
    /// Its exit status.
    pub status: i32,
    /// What it printed, errors too.
    pub text: String,
    /// How long it took.
    pub took: Duration,
}

impl Guest {
    /// Boots a kernel, with a network device if there is a cable.
    pub fn boot(kernel: &Kernel, plug: Option<&Plug>) -> Self {
        let folder = tempfile::Builder::new().prefix("waymark-guest-").tempdir().expect("a folder can be made");
        let at = |name: &str| folder.path().join(name);
        initramfs::write(kernel, &at("initramfs"));
        let share = share(&at("share.sock"));
        let (control, theirs) = UnixStream::pair().expect("a pair of sockets");
        control.set_read_timeout(Some(BOOT)).expect("it is not zero");
        let mut qemu = cache::command("bin/qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.arg("-L").arg(cache::tool("share/qemu")).arg("-L").arg(cache::tool("share/seabios"));
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY]);
        qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(at("initramfs"));
        qemu.args(["-append", "console=ttyS0 panic=-1 quiet cryptomgr.notests"]);
        qemu.arg("-serial").arg(format!("file:{}", at("console").display()));
        // The host's root; shared memory is how virtiofsd reads a guest's requests.
        qemu.arg("-object").arg(format!("memory-backend-memfd,id=memory,size={MEMORY},share=on"));
        qemu.args(["-numa", "node,memdev=memory"]);
        qemu.arg("-chardev").arg(format!("socket,id=share,path={}", at("share.sock").display()));
        qemu.args(["-device", "vhost-user-fs-pci,chardev=share,tag=host"]);
        // Commands and their statuses; what they print.
        qemu.args(["-device", "virtio-serial-pci", "-chardev", "socket,id=control,fd=0"]);
        qemu.args(["-device", "virtserialport,chardev=control,nr=1"]);
        qemu.arg("-chardev").arg(format!("file,id=output,path={}", at("output").display()));
        qemu.args(["-device", "virtserialport,chardev=output,nr=2"]);
        if let Some(plug) = plug {
            qemu.arg("-netdev").arg(format!(
                "dgram,id=cable,local.type=unix,local.path={},remote.type=unix,remote.path={}",
                plug.local.display(),
                plug.remote.display()
            ));
            qemu.arg("-device").arg(format!("virtio-net-pci,netdev=cable,mac={},romfile=", plug.mac));
        }
        let log = File::create(at("qemu")).expect("the folder is ours");
        let errors = log.try_clone().expect("a descriptor");
        let spawned = qemu.stdin(OwnedFd::from(theirs)).stdout(log).stderr(errors).spawn();
        let process = spawned.unwrap_or_else(|error| panic!("start {qemu:?}: {error}"));
        // It holds QEMU's end of the control socket, which must be closed once QEMU has ended.
        drop(qemu);
        let mut guest =
            Self { kernel: kernel.clone(), folder, control: BufReader::new(control), read: 0, qemu: process, share };
        let word = guest.hear();
        assert_eq!(word, "ready", "{guest}");
        guest
    }

    /// Runs a line of bash.
    pub fn run(&mut self, command: &str, limit: Duration) -> Ran {
        assert!(!command.contains('\n'), "a command is one line: {command}");
        let begun = Instant::now();
        self.control.get_ref().set_read_timeout(Some(limit)).expect("it is not zero");
        let sent = writeln!(self.control.get_mut(), "{command}");
        sent.unwrap_or_else(|error| panic!("ask for {command}: {error}\n{self}"));
        let status = self.hear();
        let status = status.parse().unwrap_or_else(|_| panic!("{command}: {status:?} is no status\n{self}"));
        Ran { status, text: self.printed(), took: begun.elapsed() }
    }

    /// Runs what must succeed, and gives back what it printed.
    #[track_caller]
    pub fn succeed(&mut self, command: &str, limit: Duration) -> String {
        let ran = self.run(command, limit);
        assert_eq!(ran.status, 0, "{} on {}:\n{}", command, self.kernel.version, ran.text);
        ran.text
    }

    /// The next word of the guest.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        match self.control.read_line(&mut line) {
            Ok(0) => panic!("the guest ended\n{self}"),
            Ok(_) => line.trim_end().to_owned(),
            Err(error) => panic!("the guest says nothing: {error}; it printed {:?}\n{self}", self.printed()),
        }
    }

    /// What was printed since the last time. A guest's write is over once QEMU has written, so all of a command's
    /// output is here before its status.
    fn printed(&mut self) -> String {
        let mut bytes = Vec::new();
        let mut output = File::open(self.folder.path().join("output")).expect("QEMU made it");
        output.seek(SeekFrom::Start(self.read)).expect("it is a file");
        self.read += output.read_to_end(&mut bytes).expect("it is a file") as u64;
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "guest with {} of {}", self.kernel.version, self.kernel.release)?;
        for part in ["qemu", "share.log", "console"] {
            let text = fs::read(self.folder.path().join(part)).unwrap_or_default();
            writeln!(f, "--- {part}:\n{}", String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]))?;
        }
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // virtiofsd ends with its only client, if it had one.
        for process in [&mut self.qemu, &mut self.share] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Shares the root of this machine, read-only, with who connects to the socket.
fn share(socket: &Path) -> Child {
    let listener = UnixListener::bind(socket).unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
    let log = File::create(socket.with_extension("log")).expect("the folder is ours");
    let mut command = cache::command("libexec/virtiofsd");
    command.args(["--fd=0", "--shared-dir=/", "--readonly", "--cache=always", "--sandbox=none"]);
    // An overlay takes no folder that something is mounted at.
    command.arg("--no-announce-submounts");
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"))
}
