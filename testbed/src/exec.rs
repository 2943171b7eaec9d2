//! A command inside a node, a pod or the fabric.

use std::os::unix::process::CommandExt;
use std::process::Command;

use waymark_prober::netns::Netns;
use waymark_proto::NetnsName;

use crate::instance::Instance;
use crate::kubernetes::Record;
use crate::preflight::need_root;
use crate::{Error, Result};

/// Turns this process into a command in the namespace of `target`: a node's name, a pod's
/// `namespace/name`, `control` for the Kubernetes control plane, or `fabric`. kubectl works on nodes and on
/// `control`. Comes back only with an error.
pub fn exec(
    instance: &Instance,
    target: &str,
    program: &str,
    args: &[String],
) -> Result<std::convert::Infallible> {
    need_root("exec")?;
    let cluster = instance.state()?.cluster(instance.name());
    let node = cluster.nodes.iter().find(|node| node.name == target).map(|node| &node.netns);
    let pod = || cluster.pods.iter().find(|pod| pod.full_name == target).map(|pod| &pod.netns);
    let records = instance.records();
    let record = || records.iter().find(|pod| pod.full_name() == target).map(|pod| &pod.netns);
    let control = || cluster.control.as_ref().filter(|_| target == "control");
    let fabric = || (target == "fabric").then_some(&cluster.fabric);
    let Some(netns) = node.or_else(pod).or_else(record).or_else(control).or_else(fabric) else {
        let nodes = cluster.nodes.iter().map(|node| node.name.as_str());
        let nodes = nodes.map(str::to_owned).chain(cluster.control.iter().map(|_| "control".to_owned()));
        let pods = cluster.pods.iter().map(|pod| pod.full_name.clone());
        let known: Vec<_> = nodes.chain(pods).chain(records.iter().map(Record::full_name)).collect();
        return Err(Error::UnknownTarget {
            name: instance.name().to_owned(),
            target: target.to_owned(),
            known: format!("{} and fabric", known.join(", ")),
        });
    };
    // The thread that calls `exec` becomes the process, with its namespace.
    let mut command = Command::new(program);
    command.args(args);
    if node.is_some() || control().is_some() {
        let kubeconfig = instance.dir().kubernetes().inner_kubeconfig();
        command.envs(kubeconfig.exists().then_some(("KUBECONFIG", kubeconfig)));
    }
    let source = Netns::open(&NetnsName::from(netns.as_str()))?.run(|| command.exec())?;
    Err(Error::Spawn { program: program.to_owned(), source, remedy: "give a program that this machine has" })
}
