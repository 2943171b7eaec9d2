//! What must be there before anything is made: root, and the one kernel module that does not load itself.

use std::path::Path;
use std::process::Command;

use crate::plan::Cluster;
use crate::script::{Script, Tool};
use crate::{Error, Result};

/// There once `br_netfilter` is loaded or built in.
const BRIDGE_SETTINGS: &str = "/proc/sys/net/bridge";

/// Fails unless this process is root.
pub(crate) fn need_root(what: &'static str) -> Result<()> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(Error::NotRoot { what }) }
}

/// Loads what the cluster's dataplane needs.
///
/// veth, bridge, vxlan and the netfilter modules load when they are asked for; `br_netfilter`, which makes
/// bridged packets pass the IP rules as on any Kubernetes node, does not. In the machine's own namespace
/// it is switched off at once, so that other bridges of this machine behave as before.
pub(crate) fn kernel(cluster: &Cluster) -> Result<()> {
    if !cluster.dataplane.has_bridge() || Path::new(BRIDGE_SETTINGS).exists() {
        return Ok(());
    }
    crate::note(format_args!(
        "waymark-testbed: loading the kernel module br_netfilter, off in the machine's own namespace"
    ));
    let failed = |stderr| Error::Command {
        command: "modprobe br_netfilter".into(),
        netns: "the machine".into(),
        stderr,
    };
    let output =
        Command::new("modprobe").arg("br_netfilter").output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let remedy = "the bridged dataplanes need this module; --dataplane routed does not";
        return Err(failed(format!("{}; {remedy}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    let off =
        ["iptables", "ip6tables", "arptables"].map(|tables| format!("bridge/bridge-nf-call-{tables}=0"));
    Script::new(Tool::Sysctl, "host", off).run()
}
