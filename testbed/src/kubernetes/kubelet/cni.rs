//! Calls CNI plug-ins as the specification says (containernetworking/cni, SPEC.md 0.4.0): the verb and the
//! namespace in the environment, the configuration on stdin, the result on stdout.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use waymark_prober::netns::Netns;
use waymark_proto::NetnsName;

use super::record::Record;
use crate::kubernetes::error::KubernetesError;
use crate::plan::{BRIDGE, Cluster, NodePlan};

/// Where Debian and where everybody else puts the plug-ins.
const FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// The plug-ins that a testbed calls.
const PLUGINS: [&str; 5] = ["bridge", "ptp", "host-local", "portmap", "loopback"];
/// The version of the configuration.
const VERSION: &str = "0.4.0";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Add,
    Del,
}

/// What a plug-in said or did not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CniError {
    /// The namespace.
    #[error(transparent)]
    Netns(#[from] waymark_prober::netns::NetnsError),
    /// It did not run.
    #[error("cannot run the CNI plug-in {}: {source}", plugin.display())]
    Run { plugin: PathBuf, source: std::io::Error },
    /// It refused.
    #[error("the CNI plug-in {plugin} failed for {pod}: {why}")]
    Refused { plugin: &'static str, pod: String, why: String },
}

/// The plug-ins with the folder for their data.
#[derive(Clone, Debug)]
pub(crate) struct Cni {
    plugins: PathBuf,
    data: PathBuf,
}

impl Cni {
    /// Finds the plug-ins.
    pub(crate) fn find(data: PathBuf) -> Result<Self, KubernetesError> {
        let all = |folder: &&&str| PLUGINS.iter().all(|plugin| Path::new(folder).join(plugin).is_file());
        match FOLDERS.iter().find(all) {
            Some(&folder) => Ok(Self { plugins: folder.into(), data }),
            None => Err(KubernetesError::NotInstalled {
                program: format!("CNI plug-ins {} in {}", PLUGINS.join(", "), FOLDERS.join(" or ")),
                package: "containernetworking-plugins",
            }),
        }
    }

    /// Connects a pod. Gives back the result of the last plug-in.
    pub(crate) fn add(&self, cluster: &Cluster, node: &NodePlan, pod: &Record) -> Result<Value, CniError> {
        self.call(
            Verb::Add,
            "loopback",
            node,
            pod,
            "lo",
            &json!({ "cniVersion": VERSION, "name": "lo", "type": "loopback" }),
        )?;
        let (plugin, config) = network(cluster, node, &self.data);
        let result = self.call(Verb::Add, plugin, node, pod, "eth0", &config)?;
        if pod.port_mappings.is_empty() {
            return Ok(result);
        }
        self.call(Verb::Add, "portmap", node, pod, "eth0", &port_mapping(pod, &result))
    }

    /// Disconnects it. What is not connected is no error.
    pub(crate) fn del(&self, cluster: &Cluster, node: &NodePlan, pod: &Record) -> Result<(), CniError> {
        if let Some(result) = pod.result.as_ref().filter(|_| !pod.port_mappings.is_empty()) {
            self.call(Verb::Del, "portmap", node, pod, "eth0", &port_mapping(pod, result))?;
        }
        let (plugin, config) = network(cluster, node, &self.data);
        self.call(Verb::Del, plugin, node, pod, "eth0", &config).map(drop)
    }

    fn call(
        &self,
        verb: Verb,
        plugin: &'static str,
        node: &NodePlan,
        pod: &Record,
        device: &str,
        config: &Value,
    ) -> Result<Value, CniError> {
        let program = self.plugins.join(plugin);
        let mut command = Command::new(&program);
        command
            .env("CNI_COMMAND", if verb == Verb::Add { "ADD" } else { "DEL" })
            .env("CNI_CONTAINERID", &pod.uid)
            .env("CNI_NETNS", format!("/run/netns/{}", pod.netns))
            .env("CNI_IFNAME", device)
            .env("CNI_PATH", &self.plugins)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let run = || {
            let mut child = command.spawn()?;
            let mut stdin = child.stdin.take().expect("asked for a pipe");
            // A plug-in that stops early closes the pipe: its own message is the better one.
            let _ = stdin.write_all(config.to_string().as_bytes());
            drop(stdin);
            child.wait_with_output()
        };
        let output = Netns::open(&NetnsName::from(node.netns.as_str()))?.run(run)?;
        let output = output.map_err(|source| CniError::Run { plugin: program, source })?;
        let answer = serde_json::from_slice::<Value>(&output.stdout);
        if output.status.success() {
            // DEL says nothing.
            return Ok(answer.unwrap_or(Value::Null));
        }
        let said = answer.ok().and_then(|answer| Some(answer.get("msg")?.as_str()?.to_owned()));
        let printed = || format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        Err(CniError::Refused { plugin, pod: pod.full_name(), why: said.unwrap_or_else(printed) })
    }
}

/// The plug-in that connects pods in a cluster's dataplane, and its configuration on a node.
fn network(cluster: &Cluster, node: &NodePlan, data: &Path) -> (&'static str, Value) {
    let net = node.pod_net();
    let [a, b, c, _] = net.network().octets();
    let ipam = json!({
        "type": "host-local",
        "dataDir": data.join(&node.name),
        "ranges": [[{
            "subnet": net,
            // As the address plan has it: the others are dead.
            "rangeStart": format!("{a}.{b}.{c}.10"),
            "rangeEnd": format!("{a}.{b}.{c}.249"),
            "gateway": node.gateway(),
        }]],
        "routes": [{ "dst": "0.0.0.0/0" }],
    });
    let plugin = if cluster.dataplane.has_bridge() { "bridge" } else { "ptp" };
    let mut config = json!({
        "cniVersion": VERSION,
        "name": "waymark",
        "type": plugin,
        "mtu": cluster.pod_mtu(),
        "ipMasq": false,
        "ipam": ipam,
    });
    if cluster.dataplane.has_bridge() {
        config["bridge"] = BRIDGE.into();
        config["isGateway"] = true.into();
        // A pod may be a backend of the Service that it calls.
        config["hairpinMode"] = true.into();
    }
    (plugin, config)
}

fn port_mapping(pod: &Record, result: &Value) -> Value {
    json!({
        "cniVersion": VERSION,
        "name": "waymark",
        "type": "portmap",
        "runtimeConfig": { "portMappings": pod.port_mappings },
        "prevResult": result,
    })
}

/// The address in a plug-in's result.
pub(crate) fn address(result: &Value) -> Option<std::net::Ipv4Addr> {
    let ips = result.get("ips")?.as_array()?;
    let address = |ip: &Value| ip.get("address")?.as_str()?.parse::<ipnet::Ipv4Net>().ok();
    ips.iter().find_map(address).map(|net| net.addr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Dataplane;
    use crate::topology::Topology;

    #[test]
    fn configurations_follow_the_plan() {
        let config = |dataplane| {
            let cluster = Cluster::of_kubernetes("t", &Topology::default(), dataplane);
            network(&cluster, &cluster.nodes[1], Path::new("/data")).1
        };
        let bridge = config(Dataplane::BridgeVxlan);
        assert_eq!((&bridge["type"], &bridge["mtu"]), (&json!("bridge"), &json!(1450)));
        assert_eq!(bridge["ipam"]["ranges"][0][0]["subnet"], "10.244.2.0/24");
        assert_eq!(config(Dataplane::Routed)["type"], "ptp");
    }

    #[test]
    fn addresses_of_results() {
        let result = json!({ "ips": [{ "version": "4", "address": "10.244.1.10/24" }] });
        assert_eq!(address(&result), Some([10, 244, 1, 10].into()));
        assert_eq!(address(&json!({ "ips": [{ "address": "fd00::1/64" }] })), None);
        assert_eq!(address(&Value::Null), None);
    }
}
