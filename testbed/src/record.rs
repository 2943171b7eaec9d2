//! Recordings of checks of the catalogue's faults, for tests that replay them.

use std::path::{Path, PathBuf};

use waymark_controller::{Recording, save};

use crate::fault::{self, Fault};
use crate::instance::{Instance, UpOptions};
use crate::plan::{Control, Dataplane, Proxy};
use crate::programs::Programs;
use crate::topology::Topology;
use crate::{Error, Result, interrupt};

/// What to record.
#[derive(Clone, Debug)]
pub struct RecordOptions {
    /// Name of the instance.
    pub name: String,
    /// Its dataplane.
    pub dataplane: Dataplane,
    /// Whose rules implement its Services.
    pub proxy: Proxy,
    /// The faults, one recording each; all that the dataplane can have if empty.
    pub faults: Vec<&'static Fault>,
    /// The folder for the recordings.
    pub folder: PathBuf,
}

/// Injects each fault in turn into an instance of its own, and records what Waymark finds. `tell` is called with
/// the path of each file.
pub fn record(options: &RecordOptions, programs: &Programs, tell: &mut dyn FnMut(&Path)) -> Result<()> {
    let failed = Error::file("make", &options.folder);
    std::fs::create_dir_all(&options.folder).map_err(failed)?;
    let instance = Instance::new(&options.name, programs.clone())?;
    instance.up(&UpOptions {
        topology: Topology::default(),
        dataplane: options.dataplane,
        proxy: options.proxy,
        control: Control::Inventory,
        agents: true,
    })?;
    let recorded = record_all(options, &instance, tell).map_err(interrupt::rather);
    let down = instance.down();
    recorded?;
    down.map(drop)
}

fn record_all(options: &RecordOptions, instance: &Instance, tell: &mut dyn FnMut(&Path)) -> Result<()> {
    let faults: Vec<&Fault> = if options.faults.is_empty() {
        fault::all().filter(|fault| fault.is_for(options.dataplane, options.proxy)).collect()
    } else {
        options.faults.clone()
    };
    for fault in faults {
        interrupt::check()?;
        let path = options.folder.join(format!("{}-{}.json.gz", fault.name, options.dataplane));
        record_one(instance, fault, &path)?;
        tell(&path);
    }
    Ok(())
}

fn record_one(instance: &Instance, fault: &'static Fault, path: &Path) -> Result<()> {
    let cluster = instance.state()?.cluster(instance.name());
    let probe = fault.probe(&cluster)?;
    let mut command = probe.command(instance)?;
    command.arg("--record").arg(path);
    let failed = |status: String, output: String| Error::NoResult {
        command: format!("waymark check {} {} --record {}", probe.from, probe.to, path.display()),
        status,
        output,
    };
    let injected = instance.inject(fault)?;
    let asked = command.output();
    injected.clear()?;
    let output = asked.map_err(|error| failed("not started".into(), error.to_string()))?;
    if output.status.code().is_none_or(|code| code >= 3) {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(output.status.to_string(), words));
    }
    strip(path)
}

/// Takes out of a recording what is of this machine and not of the testbed: the release of its kernel.
fn strip(path: &Path) -> Result<()> {
    let useless = |why: &dyn std::fmt::Display| Error::Recording { path: path.into(), why: why.to_string() };
    let recording = Recording::read(path).map_err(|error| useless(&error))?;
    let mut document = serde_json::to_value(&recording).expect("a recording is plain data with text keys");
    let opinions = document["opinions"].as_array().map_or(0, Vec::len);
    let places =
        (0..opinions).map(|index| format!("/opinions/{index}/facts")).chain(["/check/facts".to_owned()]);
    for place in places {
        let facts = document.pointer_mut(&place).and_then(serde_json::Value::as_array_mut);
        for facts in facts.into_iter().flatten() {
            facts["kernel"] = "0.0.0".into();
        }
    }
    let json = serde_json::to_vec(&document).expect("JSON is JSON");
    save(path, &json).map_err(Error::file("write", path))
}
