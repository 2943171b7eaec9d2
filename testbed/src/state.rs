//! What is known about an instance between two commands: a folder below `/run`, gone with the machine's
//! next boot like the namespaces themselves.
//!
//! | file | what |
//! |---|---|
//! | `lock` | held by the command that is changing the instance |
//! | `state.json` | how it was asked for, and the faults in it; written before anything is made |
//! | `inventory.json` | what agents, controller and client read |
//! | `pids/ROLE` | pid and start time of each process |
//! | `logs/ROLE.log` | what it printed |
//! | `ready/ROLE` | made by the process when it is ready |
//!
//! With a Kubernetes control plane there are also those of [`crate::kubernetes::Files`].

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::fault::Act;
use crate::kubernetes::Files;
use crate::plan::{Cluster, Control, Dataplane, Proxy};
use crate::topology::{Topology, is_label};
use crate::{Error, Result};

/// Folder of all instances.
const ROOT: &str = "/run/waymark/testbed";
/// The instance that is meant when none is named.
pub const DEFAULT_NAME: &str = "default";
/// Where the client looks for a controller unless it is told: the default instance's.
const DEFAULT_SOCKET: &str = "/run/waymark/controller.sock";

/// How an instance was asked for, and what was done to it since.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    /// How pods reach one another.
    pub dataplane: Dataplane,
    /// Whose rules implement Services.
    pub proxy: Proxy,
    /// Who knows what is in it.
    #[serde(default)]
    pub control: Control,
    /// Whether controller and agents belong to it.
    pub agents: bool,
    /// Whether `up` came to its end.
    pub complete: bool,
    /// Its topology.
    pub topology: Topology,
    /// The faults in it, oldest first.
    pub faults: Vec<ActiveFault>,
}

/// A fault that was injected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActiveFault {
    /// Its name in the catalogue.
    pub name: String,
    /// What undoes it, in order.
    pub undo: Vec<Act>,
}

impl State {
    /// The cluster, planned again.
    pub fn cluster(&self, instance: &str) -> Cluster {
        match self.control {
            Control::Inventory => Cluster::plan(instance, &self.topology, self.dataplane, self.proxy),
            Control::Kubernetes => Cluster::of_kubernetes(instance, &self.topology, self.dataplane),
        }
    }
}

/// The folder of an instance.
#[derive(Clone, Debug)]
pub struct StateDir {
    name: String,
    path: PathBuf,
}

/// The instance's lock, held.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl StateDir {
    /// The folder of the instance of that name, which need not exist.
    pub fn new(name: &str) -> Result<Self> {
        if !is_label(name, 32) {
            return Err(Error::InstanceName(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), path: Path::new(ROOT).join(name) })
    }

    /// The instance's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The names of all instances that have a folder.
    pub fn all() -> Vec<String> {
        let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Whether there is a folder.
    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// The inventory file.
    pub fn inventory(&self) -> PathBuf {
        self.path.join("inventory.json")
    }

    /// What a Kubernetes control plane has here.
    pub fn kubernetes(&self) -> Files {
        Files::new(&self.path)
    }

    /// The controller's socket.
    pub fn socket(&self) -> PathBuf {
        if self.name == DEFAULT_NAME { DEFAULT_SOCKET.into() } else { self.path.join("controller.sock") }
    }

    /// The controller's address, as the client takes it.
    pub fn controller(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    pub(crate) fn pid(&self, role: &str) -> PathBuf {
        self.path.join("pids").join(role)
    }

    pub(crate) fn log(&self, role: &str) -> PathBuf {
        self.path.join("logs").join(format!("{role}.log"))
    }

    pub(crate) fn ready(&self, role: &str) -> PathBuf {
        self.path.join("ready").join(role)
    }

    /// Forgets a process that has ended for good.
    pub(crate) fn forget(&self, role: &str) -> Result<()> {
        for path in [self.pid(role), self.ready(role), self.log(role)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::file("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The roles of all processes that were started, by name.
    pub(crate) fn roles(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path.join("pids")).into_iter().flatten().flatten();
        let mut roles: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        // A draft is not yet a note.
        roles.retain(|role| !role.contains('.'));
        roles.sort();
        roles
    }

    /// Makes the folder and waits for its lock. Serializes the commands of one instance; the lock goes
    /// with the process that holds it, however that ends.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.path.join("lock");
        loop {
            self.make_folders()?;
            let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            let file = match opened {
                // Another command has just taken the folder away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(Error::file("open", &path))?,
            };
            loop {
                match flock(&file, FlockOperation::LockExclusive) {
                    Err(rustix::io::Errno::INTR) => crate::interrupt::check()?,
                    done => break done.map_err(|errno| Error::file("lock", &path)(errno.into()))?,
                }
            }
            // A lock on a file that is no longer there guards nothing.
            let held = file.metadata().map_err(Error::file("look at", &path))?.ino();
            if fs::metadata(&path).is_ok_and(|now| now.ino() == held) {
                return Ok(Lock { _file: file });
            }
        }
    }

    fn make_folders(&self) -> Result<()> {
        for sub in ["pids", "logs", "ready"] {
            let sub = self.path.join(sub);
            match fs::create_dir_all(&sub) {
                // Another command is just taking the folder away; the lock will tell.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                made => made.map_err(Error::file("create", &sub))?,
            }
        }
        Ok(())
    }

    /// The state; `None` if the instance is not up.
    pub fn load(&self) -> Result<Option<State>> {
        let path = self.path.join("state.json");
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(Error::file("read", &path))?,
        };
        let damaged =
            |error: serde_json::Error| Error::State { name: self.name.clone(), path, why: error.to_string() };
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// Writes the state; a reader sees the old one or the new one.
    pub fn save(&self, _lock: &Lock, state: &State) -> Result<()> {
        self.write("state.json", state)
    }

    /// Writes the inventory.
    pub fn save_inventory(&self, _lock: &Lock, inventory: &waymark_proto::Inventory) -> Result<()> {
        self.write("inventory.json", inventory)
    }

    fn write(&self, name: &str, document: &impl Serialize) -> Result<()> {
        let (draft, path) = (self.path.join(format!("{name}.draft")), self.path.join(name));
        let mut json = serde_json::to_vec_pretty(document).expect("names and numbers are always JSON");
        json.push(b'\n');
        fs::write(&draft, json).map_err(Error::file("write", &draft))?;
        fs::rename(&draft, &path).map_err(Error::file("write", &path))
    }

    /// Takes the controller's socket away, which a killed controller leaves behind.
    pub(crate) fn remove_socket(&self) -> Result<()> {
        match fs::remove_file(self.socket()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove", self.socket())(error))
            }
            _ => Ok(()),
        }
    }

    /// Takes the folder away, and with it the lock.
    pub(crate) fn remove(&self, _lock: Lock) -> Result<()> {
        fs::remove_dir_all(&self.path).map_err(Error::file("remove", &self.path))?;
        // The folders above too, unless somebody else has something in them.
        for parent in self.path.ancestors().skip(1).take(2) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        Ok(())
    }
}
