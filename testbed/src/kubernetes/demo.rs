//! The demonstration on a real control plane: the four uses, one chapter each, as a person would type them.
//!
//! * `story`: runs the client as a user would, and compares what it says with what it should
//! * `services`: checks of Services, and three breakages with different culprits
//! * `watch`: an outage with its histogram and its fault point
//! * `validate`: a good and a harmful change

mod services;
mod story;
mod validate;
mod watch;

use std::time::Instant;

use crate::instance::{Instance, UpOptions};
use crate::plan::{Control, Dataplane, Proxy};
use crate::tell::chapter;
use crate::topology::Topology;
use crate::{Result, interrupt};
use story::Story;

/// Runs it. Whatever happens, Ctrl-C included, the testbed is taken down again.
pub fn demo(instance: &Instance, dataplane: Dataplane) -> Result<()> {
    chapter(format_args!(
        "Bringing up etcd, kube-apiserver, kube-controller-manager, three nodes with kube-proxy ({dataplane}), six pods, four Services, and Waymark."
    ));
    let started = Instant::now();
    instance.up(&UpOptions {
        topology: Topology::default(),
        dataplane,
        proxy: Proxy::Iptables,
        control: Control::Kubernetes,
        agents: true,
    })?;
    chapter(format_args!("Up after {:.1} s.", started.elapsed().as_secs_f64()));
    let shown = Story::of(instance).and_then(|story| tell(&story)).map_err(interrupt::rather);
    chapter("Taking it down.");
    let down = instance.down();
    shown?;
    down?;
    chapter("Done: no namespace, device, rule or process is left.");
    Ok(())
}

fn tell(story: &Story<'_>) -> Result<()> {
    services::healthy(story)?;
    services::stale_rule(story)?;
    services::wrong_port(story)?;
    services::foreign_rule(story)?;
    watch::outage(story)?;
    validate::changes(story)
}
