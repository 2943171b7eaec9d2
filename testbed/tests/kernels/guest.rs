//! A machine of QEMU's with a kernel of its own and the root of this one: boots, runs commands, is gone when dropped.
//!
//! No hardware virtualization is asked for, so all in it is ten to twenty times slower than here.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::cache::{self, Kernel};
use crate::initramfs;

/// How long a guest may take to its first command, on a machine that does much else.
const BOOT: Duration = Duration::from_secs(180);
/// Memory of a guest, which holds all that it writes.
const MEMORY: &str = "1024M";
/// What a kernel is told: to end when it panics, to do without what makes a guest slow and changes nothing else, and not to
/// try whether its timer ticks, which on a busy machine it may do too late.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet cryptomgr.notests mitigations=off rcupdate.rcu_expedited=1 \
                            no_timer_check";
/// How much of what a guest said is told when it fails, in characters.
const TAIL: usize = 4000;

/// One end of a cable between two guests.
pub struct Plug {
    socket: OwnedFd,
    /// Hardware address of the guest's device, which the guest calls eth0.
    mac: &'static str,
}

/// A cable of these two ends. Nobody else can get hold of it.
pub fn cable(macs: [&'static str; 2]) -> [Plug; 2] {
    let (one, other) = UnixDatagram::pair().expect("a pair of sockets");
    let [first, second] = macs;
    [Plug { socket: one.into(), mac: first }, Plug { socket: other.into(), mac: second }]
}

/// A running guest.
pub struct Guest {
    /// Which kernel it runs.
    pub kernel: Kernel,
    control: BufReader<UnixStream>,
    /// What it says to the host, by who says it; the last is what commands print.
    said: [(&'static str, File); 4],
    /// Its files have no names any more once it has opened them.
    folder: Option<TempDir>,
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
    /// Boots a kernel and waits until it takes commands.
    pub fn boot(kernel: &Kernel) -> Self {
        let mut guest = Self::start(kernel, None);
        guest.ready();
        guest
    }

    /// Begins to boot a kernel, with a network device if there is a cable.
    pub fn start(kernel: &Kernel, plug: Option<Plug>) -> Self {
        let folder =
            tempfile::Builder::new().prefix("waymark-guest-").tempdir().expect("a folder can be made");
        let at = |name: &str| folder.path().join(name);
        initramfs::write(kernel, &at("initramfs"));
        let said = ["qemu", "share", "console", "output"].map(|name| {
            File::create(at(name)).expect("the folder is ours");
            (name, File::open(at(name)).expect("it was made"))
        });
        let share = share(&at("share.sock"), &at("share"));
        let (control, theirs) = UnixStream::pair().expect("a pair of sockets");
        let mut qemu = cache::command("bin/qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.arg("-L").arg(cache::tool("share/qemu")).arg("-L").arg(cache::tool("share/seabios"));
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY]);
        qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(at("initramfs"));
        qemu.args(["-append", COMMAND_LINE]);
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
        let errors = File::create(at("qemu")).expect("the folder is ours");
        qemu.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(errors);
        if let Some(plug) = plug {
            // QEMU has two descriptors at hand: it reads the first for commands, and prints nothing to the second.
            qemu.args(["-netdev", "dgram,id=cable,local.type=fd,local.str=1"]).stdout(plug.socket);
            qemu.arg("-device").arg(format!("virtio-net-pci,netdev=cable,mac={},romfile=", plug.mac));
        }
        let process = qemu.spawn().unwrap_or_else(|error| panic!("start {qemu:?}: {error}"));
        // It holds QEMU's end of the control socket, which must be closed once QEMU has ended.
        drop(qemu);
        let control = BufReader::new(control);
        Self { kernel: kernel.clone(), control, said, folder: Some(folder), qemu: process, share }
    }

    /// Waits until it takes commands.
    pub fn ready(&mut self) {
        let word = self.hear(BOOT);
        assert_eq!(word, "ready", "{self}");
        self.folder = None;
    }

    /// Runs a line of bash.
    pub fn run(&mut self, command: &str, limit: Duration) -> Ran {
        assert!(!command.contains('\n'), "a command is one line: {command}");
        let begun = Instant::now();
        let sent = writeln!(self.control.get_mut(), "{command}");
        sent.unwrap_or_else(|error| panic!("ask for {command}: {error}\n{self}"));
        let status = self.hear(limit);
        let status = status.parse().unwrap_or_else(|_| panic!("{command}: {status:?} is no status\n{self}"));
        Ran { status, text: self.printed(), took: begun.elapsed() }
    }

    /// Starts a program that stays, and waits until it prints this.
    #[track_caller]
    pub fn serve(&mut self, name: &str, command: &str, says: &str) {
        let log = format!("/run/{name}.log");
        self.succeed(
            &format!("grep --quiet --max-count 1 '{says}' < <({command} 2>&1 | tee -p {log}) || ! cat {log}"),
            BOOT,
        );
    }

    /// Runs what must succeed, and gives back what it printed.
    #[track_caller]
    pub fn succeed(&mut self, command: &str, limit: Duration) -> String {
        let ran = self.run(command, limit);
        assert_eq!(ran.status, 0, "{} on {}:\n{}", command, self.kernel.version, ran.text);
        ran.text
    }

    /// The next word of the guest.
    fn hear(&mut self, limit: Duration) -> String {
        self.control.get_ref().set_read_timeout(Some(limit)).expect("it is not zero");
        let mut line = String::new();
        match self.control.read_line(&mut line) {
            Ok(0) => panic!("the guest ended\n{self}"),
            Ok(_) => line.trim_end().to_owned(),
            Err(error) => panic!("the guest says nothing for {limit:?}: {error}\n{self}"),
        }
    }

    /// What was printed since the last time. A guest's write is over once QEMU has written, so all of a command's
    /// output is here before its status.
    fn printed(&mut self) -> String {
        let [.., (_, output)] = &mut self.said;
        read(output)
    }
}

/// The rest of a file.
fn read(mut file: &File) -> String {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("a file that is open can be read");
    String::from_utf8_lossy(&bytes).replace('\r', "")
}

/// What it said last, for who must find out why it says no more.
impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "guest with {} of {}", self.kernel.version, self.kernel.release)?;
        for (name, file) in &self.said {
            let text = read(file);
            let begin = text.char_indices().rev().nth(TAIL).map_or(0, |(at, _)| at);
            writeln!(f, "--- {name}:\n{}", &text[begin..])?;
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
fn share(socket: &Path, log: &Path) -> Child {
    let listener = UnixListener::bind(socket).unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
    let log = File::create(log).expect("the folder is ours");
    let mut command = cache::command("libexec/virtiofsd");
    command.args(["--fd=0", "--shared-dir=/", "--readonly", "--cache=always", "--sandbox=none"]);
    // An overlay takes no folder that something is mounted at.
    command.arg("--no-announce-submounts");
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"))
}
