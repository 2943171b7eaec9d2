//! A cgroup of a process's own with a BPF program that refuses whatever comes for its sockets.
//!
//! The program goes with the process. The cgroup's folder stays, empty, for whoever ends the process.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use aya::Ebpf;
use aya::programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, ProgramError};

use crate::bpf::OBJECT;

/// The program's name in the object.
const PROGRAM: &str = "wm_cgroup_drop";

/// The folder of a process's cgroup, where cgroups of version 2 are mounted.
fn folder(pid: u32) -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (folder, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(folder))
    });
    let mount = mounts.next().ok_or_else(|| io::Error::other("no cgroup2 is mounted"))?;
    Ok(mount.join(format!("waymark-testbed-{pid}")))
}

/// Moves this process into a cgroup whose sockets get nothing. Sockets that were there before are not of it.
pub(crate) fn refuse_everything() -> io::Result<()> {
    let folder = folder(std::process::id())?;
    fs::create_dir(&folder)?;
    fs::write(folder.join("cgroup.procs"), "0")?;
    let other = |error: &dyn std::error::Error| io::Error::other(error.to_string());
    let mut object = Ebpf::load(OBJECT).map_err(|error| other(&error))?;
    let attach = |object: &mut Ebpf| -> Result<(), ProgramError> {
        let program = object.program_mut(PROGRAM).expect("the object has the program");
        let program: &mut CgroupSkb = program.try_into()?;
        program.load()?;
        let cgroup = File::open(&folder).map_err(ProgramError::IOError)?;
        program.attach(cgroup, CgroupSkbAttachType::Ingress, CgroupAttachMode::Single).map(drop)
    };
    attach(&mut object).map_err(|error| other(&error))?;
    // The link is the object's: it must last as long as the process.
    std::mem::forget(object);
    Ok(())
}

/// Takes the folder of a process that has ended away, if it had one.
pub(crate) fn remove(pid: u32) {
    if let Ok(folder) = folder(pid) {
        // Nearly all processes have none.
        drop(fs::remove_dir(folder));
    }
}
