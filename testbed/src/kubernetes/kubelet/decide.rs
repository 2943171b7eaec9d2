//! What the kubelet does about a pod. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// What there is of a pod on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Nothing.
    Nothing,
    /// It runs.
    Running,
    /// It was tried in vain.
    Failed,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Rest,
    /// Say on which node it runs.
    Bind(String),
    /// Make it run there.
    Start(String),
    /// End it, then let its object go.
    Stop,
}

/// Decides. `turn` counts the pods that were bound before: nodes take turns.
pub(crate) fn decide(pod: &Pod, held: Held, nodes: &[String], turn: usize) -> Step {
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty());
    if pod.metadata.deletion_timestamp.is_some() {
        return Step::Stop;
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    match (node, held) {
        (_, Held::Running | Held::Failed) => Step::Rest,
        _ if matches!(phase, Some("Succeeded" | "Failed")) => Step::Rest,
        (Some(node), Held::Nothing) if nodes.iter().any(|own| own == node) => Step::Start(node.to_owned()),
        (Some(_), Held::Nothing) => Step::Rest,
        (None, Held::Nothing) => place(pod, nodes, turn).map_or(Step::Rest, Step::Bind),
    }
}

/// The node for a pod: the one that a DaemonSet or a selector by host name asks for, or the next in turn.
fn place(pod: &Pod, nodes: &[String], turn: usize) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if spec.scheduler_name.as_deref().is_some_and(|name| name != "default-scheduler") {
        return None;
    }
    let by_selector =
        spec.node_selector.as_ref().and_then(|labels| labels.get("kubernetes.io/hostname")).cloned();
    let wanted = by_selector.or_else(|| by_affinity(pod));
    match wanted {
        Some(wanted) => nodes.iter().find(|node| **node == wanted).cloned(),
        None => nodes.get(turn.checked_rem(nodes.len())?).cloned(),
    }
}

/// A DaemonSet's way to name a node: an affinity to the field `metadata.name`.
fn by_affinity(pod: &Pod) -> Option<String> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let field = fields.find(|field| field.key == "metadata.name" && field.operator == "In")?;
    field.values.as_ref()?.first().cloned()
}

/// The TCP and UDP ports that a pod's containers declare.
pub(crate) fn ports(pod: &Pod) -> (Vec<u16>, Vec<u16>) {
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    for port in containers.flat_map(|container| container.ports.iter().flatten()) {
        let Ok(number) = u16::try_from(port.container_port) else { continue };
        let list = match port.protocol.as_deref() {
            None | Some("TCP") => &mut tcp,
            Some("UDP") => &mut udp,
            // Nobody here speaks SCTP.
            Some(_) => continue,
        };
        if !list.contains(&number) {
            list.push(number);
        }
    }
    (tcp, udp)
}

/// A pod's hostPorts, as the plug-in portmap takes them.
pub(crate) fn port_mappings(pod: &Pod) -> Vec<Value> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let mapping = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
        Some(json!({
            "hostPort": port.host_port.filter(|port| *port > 0)?,
            "containerPort": port.container_port,
            "protocol": protocol,
        }))
    };
    ports.filter_map(mapping).collect()
}

/// Whether a pod runs in its node's own namespace.
pub(crate) fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
}

/// How a pod fares, to be told.
pub(crate) enum Fate<'a> {
    /// It listens at this address.
    Runs(std::net::Ipv4Addr),
    /// It could not be made.
    Waits(&'a str),
}

/// The patch of a pod's status that a kubelet sends.
pub(crate) fn status(pod: &Pod, host: std::net::Ipv4Addr, fate: &Fate<'_>, now: &str) -> Value {
    let (phase, ready, message) = match fate {
        Fate::Runs(_) => ("Running", "True", None),
        Fate::Waits(message) => ("Pending", "False", Some(*message)),
    };
    let condition = |kind: &str, status: &str| json!({ "type": kind, "status": status, "lastTransitionTime": now, "message": message.unwrap_or("") });
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let container = |container: &k8s_openapi::api::core::v1::Container| {
        let state = match message {
            None => json!({ "running": { "startedAt": now } }),
            Some(message) => json!({ "waiting": { "reason": "CreateContainerError", "message": message } }),
        };
        json!({
            "name": container.name,
            "image": container.image,
            "imageID": "",
            "containerID": format!("waymark://{uid}-{}", container.name),
            "ready": message.is_none(),
            "started": message.is_none(),
            "restartCount": 0,
            "state": state,
        })
    };
    let containers: Vec<_> = pod.spec.iter().flat_map(|spec| &spec.containers).map(container).collect();
    let mut status = BTreeMap::from([
        ("phase", json!(phase)),
        ("hostIP", json!(host)),
        ("startTime", json!(now)),
        (
            "conditions",
            json!([
                condition("PodScheduled", "True"),
                condition("Initialized", "True"),
                condition("ContainersReady", ready),
                condition("Ready", ready),
            ]),
        ),
        ("containerStatuses", json!(containers)),
    ]);
    if let Fate::Runs(ip) = fate {
        status.insert("podIP", json!(ip));
        status.insert("podIPs", json!([{ "ip": ip }]));
    }
    json!({ "status": status })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(document: Value) -> Pod {
        serde_json::from_value(document).unwrap()
    }

    fn nodes() -> Vec<String> {
        ["node1", "node2"].map(str::to_owned).into()
    }

    #[test]
    fn a_pod_is_bound_then_started_then_stopped() {
        let containers = json!([{ "name": "c", "image": "i" }]);
        let fresh = pod(json!({ "metadata": {}, "spec": { "containers": containers } }));
        assert_eq!(decide(&fresh, Held::Nothing, &nodes(), 3), Step::Bind("node2".into()));
        assert_eq!(decide(&fresh, Held::Nothing, &[], 3), Step::Rest);
        let bound = pod(json!({ "metadata": {}, "spec": { "nodeName": "node1", "containers": containers } }));
        assert_eq!(decide(&bound, Held::Nothing, &nodes(), 0), Step::Start("node1".into()));
        assert_eq!(decide(&bound, Held::Running, &nodes(), 0), Step::Rest);
        assert_eq!(decide(&bound, Held::Failed, &nodes(), 0), Step::Rest);
        let elsewhere = pod(json!({ "metadata": {}, "spec": { "nodeName": "x", "containers": containers } }));
        assert_eq!(decide(&elsewhere, Held::Nothing, &nodes(), 0), Step::Rest);
        let dying = pod(json!({
            "metadata": { "deletionTimestamp": "2024-01-01T00:00:00Z" },
            "spec": { "nodeName": "node1", "containers": containers },
        }));
        for held in [Held::Running, Held::Nothing, Held::Failed] {
            assert_eq!(decide(&dying, held, &nodes(), 0), Step::Stop);
        }
    }

    #[test]
    fn who_asks_for_a_node_gets_it() {
        let daemon = pod(json!({ "metadata": {}, "spec": { "containers": [], "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [{ "matchFields": [
                { "key": "metadata.name", "operator": "In", "values": ["node2"] },
            ]}]},
        }}}}));
        assert_eq!(decide(&daemon, Held::Nothing, &nodes(), 0), Step::Bind("node2".into()));
        let selector = json!({ "kubernetes.io/hostname": "node9" });
        let selected = pod(json!({ "metadata": {}, "spec": { "containers": [], "nodeSelector": selector } }));
        assert_eq!(decide(&selected, Held::Nothing, &nodes(), 0), Step::Rest, "no such node");
        let other = pod(json!({ "metadata": {}, "spec": { "containers": [], "schedulerName": "mine" } }));
        assert_eq!(decide(&other, Held::Nothing, &nodes(), 0), Step::Rest);
    }

    #[test]
    fn declared_ports_are_those_that_are_listened_on() {
        let pod = pod(json!({ "metadata": {}, "spec": { "containers": [
            { "name": "a", "ports": [{ "containerPort": 80, "hostPort": 8080 }, { "containerPort": 53, "protocol": "UDP" }] },
            { "name": "b", "ports": [{ "containerPort": 80 }, { "containerPort": 9, "protocol": "SCTP" }] },
        ]}}));
        assert_eq!(ports(&pod), (vec![80], vec![53]));
        assert_eq!(
            port_mappings(&pod),
            [json!({ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" })]
        );
    }
}
