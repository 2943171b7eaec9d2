//! The demonstration: a cluster comes up, a flow is fine, something breaks, Waymark says what.

use crate::fault::{self, Fault};
use crate::instance::{Instance, UpOptions};
use crate::plan::{Cluster, Control, Dataplane, Proxy};
use crate::tell::{chapter, say};
use crate::topology::Topology;
use crate::{Error, Result, interrupt};

/// What breaks: something that no tool on one machine alone would find.
const FAULT: &str = "forward-drop";

/// Runs it. Whatever happens, Ctrl-C included, the testbed is taken down again.
pub fn demo(instance: &Instance, dataplane: Dataplane) -> Result<()> {
    chapter(format_args!(
        "Bringing up three nodes with six pods, {dataplane}, and a Waymark agent on each node."
    ));
    let started = std::time::Instant::now();
    instance.up(&UpOptions {
        topology: Topology::default(),
        dataplane,
        proxy: Proxy::Iptables,
        control: Control::Inventory,
        agents: true,
    })?;
    chapter(format_args!("Up after {:.1} s.", started.elapsed().as_secs_f64()));
    let shown = show(instance).map_err(interrupt::rather);
    chapter("Taking it down.");
    let down = instance.down();
    shown?;
    down?;
    chapter("Done: no namespace, device, rule or process is left.");
    Ok(())
}

fn show(instance: &Instance) -> Result<()> {
    let cluster = instance.state()?.cluster(instance.name());
    let fault = fault::fault(FAULT)?;
    chapter("A healthy flow:");
    check(instance, &cluster, fault, 0)?;
    chapter(format_args!("Breaking it: {}.", fault.about()));
    let injected = instance.inject(fault)?;
    check(instance, &cluster, fault, 1)?;
    let (answer, _) = fault.probe(&cluster)?.ask(instance)?;
    let (expected, point) = (fault.expected(&cluster)?, answer.fault_point);
    if point.as_ref().is_none_or(|p| p.node.as_str() != expected.node || p.hook != expected.hook) {
        return Err(Error::Demo(format!("the fault was not localized: expected {expected}")));
    }
    chapter(format_args!("That is the place: {expected}. Mending it:"));
    injected.clear()?;
    check(instance, &cluster, fault, 0)
}

/// Runs the client as a user would, and expects an exit code of it.
fn check(instance: &Instance, cluster: &Cluster, fault: &Fault, expected: i32) -> Result<()> {
    interrupt::check()?;
    let probe = fault.probe(cluster)?;
    let mut command = probe.command(instance)?;
    command.arg("--explain");
    say(format_args!("$ waymark check {} {} --proto {} --explain", probe.from, probe.to, probe.protocol));
    let failed = |status: String| Error::NoResult {
        command: format!("waymark check {} {}", probe.from, probe.to),
        status,
        output: "see above".into(),
    };
    let status = command.status().map_err(|error| failed(error.to_string()))?;
    interrupt::check()?;
    match status.code() {
        Some(code) if code == expected => Ok(()),
        Some(code @ 0..=2) => {
            Err(Error::Demo(format!("the check ended with {code} where {expected} was expected")))
        }
        _ => Err(failed(status.to_string())),
    }
}
