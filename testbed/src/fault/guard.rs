//! Injecting and undoing.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Act, Fault};
use crate::bpf::OBJECT;
use crate::conntrack;
use crate::instance::Instance;
use crate::plan::Cluster;
use crate::preflight::need_root;
use crate::state::{ActiveFault, Lock, State};
use crate::{Error, Result};

/// Where the BPF program is while a fault may need it.
pub(super) fn object_path(cluster: &Cluster) -> String {
    // One per instance: the fabric's namespace has the instance's name in it.
    format!("/run/waymark/{}.bpf.o", cluster.fabric)
}

/// A fault that is in an instance; dropping the guard undoes it.
#[must_use = "the fault is undone as soon as the guard is dropped"]
#[derive(Debug)]
pub struct Injected<'a> {
    instance: &'a Instance,
    name: &'static str,
    armed: bool,
}

impl Injected<'_> {
    /// Leaves the fault in, for [`Instance::clear`] or `down` to undo.
    pub fn keep(mut self) {
        self.armed = false;
    }

    /// Undoes it, and says if that fails.
    pub fn clear(mut self) -> Result<()> {
        self.armed = false;
        self.instance.clear(Some(self.name)).map(drop)
    }
}

impl Drop for Injected<'_> {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.instance.clear(Some(self.name))
        {
            crate::note(format_args!("waymark-testbed: undoing {}: {error}", self.name));
        }
    }
}

impl Instance {
    /// Injects a fault. If that fails half-way, what was done is undone.
    pub fn inject(&self, fault: &'static Fault) -> Result<Injected<'_>> {
        need_root("fault inject")?;
        let (lock, mut state, cluster) = self.locked()?;
        if state.faults.iter().any(|active| active.name == fault.name) {
            return Err(Error::FaultActive(fault.name.clone()));
        }
        let breakage = fault.breakage(&cluster)?;
        state.faults.push(ActiveFault { name: fault.name.clone(), undo: breakage.undo });
        self.dir().save(&lock, &state)?;
        let object = object_path(&cluster);
        let done =
            put(&object).and_then(|()| breakage.inject.iter().try_for_each(|act| self.act(&cluster, act)));
        // Attached, a program needs its file no longer.
        drop(std::fs::remove_file(&object));
        let Err(error) = done else {
            return Ok(Injected { instance: self, name: &fault.name, armed: true });
        };
        let undo = state.faults.pop().map(|active| active.undo).unwrap_or_default();
        // What was never done cannot be undone: those failures say nothing new.
        for act in &undo {
            drop(self.act(&cluster, act));
        }
        forget_connections(&undo);
        self.dir().save(&lock, &state)?;
        Err(error)
    }

    /// Undoes one fault, or all, the last one first. Gives back their names.
    pub fn clear(&self, name: Option<&str>) -> Result<Vec<String>> {
        need_root("fault clear")?;
        let (lock, mut state, cluster) = self.locked()?;
        if let Some(name) = name.filter(|name| !state.faults.iter().any(|active| active.name == *name)) {
            super::fault(name)?;
            return Err(Error::FaultNotActive(name.to_owned()));
        }
        let mut cleared = Vec::new();
        for index in (0..state.faults.len()).rev() {
            if name.is_none_or(|name| name == state.faults[index].name) {
                self.undo(&cluster, &state.faults[index].undo)?;
                cleared.push(state.faults.remove(index).name);
                self.dir().save(&lock, &state)?;
            }
        }
        Ok(cleared)
    }

    fn undo(&self, cluster: &Cluster, undo: &[Act]) -> Result<()> {
        undo.iter().try_for_each(|act| self.act(cluster, act))?;
        forget_connections(undo);
        Ok(())
    }

    fn locked(&self) -> Result<(Lock, State, Cluster)> {
        // A lock would make the folder of an instance that is not there.
        self.state()?;
        let lock = self.dir().lock()?;
        let state = self.state()?;
        let cluster = state.cluster(self.name());
        Ok((lock, state, cluster))
    }
}

/// Whoever comes with the same ports within two minutes would still be translated as a rule had it. The fault itself is
/// undone by then, so what cannot be forgotten is only told.
fn forget_connections(undo: &[Act]) {
    let filtered: BTreeSet<&str> = undo.iter().filter_map(Act::filtered).collect();
    for error in filtered.into_iter().filter_map(|netns| conntrack::forget_all(netns).err()) {
        crate::note(format_args!(
            "waymark-testbed: what the fault did to connections may last for minutes: {error}"
        ));
    }
}

fn put(object: &str) -> Result<()> {
    std::fs::write(Path::new(object), OBJECT).map_err(Error::file("write", object))
}
