//! Pods.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec, PodStatus};
use waymark_proto::{Absent, NetnsName, TransportProtocol, text};

use super::{absent, both_families, name, namespace};

/// A pod that runs, or why it has no place.
pub(super) fn convert(pod: &Pod, nodes: &BTreeSet<&str>) -> Result<waymark_proto::Pod, Absent> {
    let metadata = &pod.metadata;
    let no_place = |why| absent("Pod", metadata, why);
    let nothing = (PodSpec::default(), PodStatus::default());
    let (spec, status) = (pod.spec.as_ref().unwrap_or(&nothing.0), pod.status.as_ref().unwrap_or(&nothing.1));
    let phase = status.phase.as_deref().unwrap_or("Pending");
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(no_place(text!(absent::Ended { phase })));
    }
    let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) else {
        return Err(no_place(text!(absent::Unscheduled { phase, why: unscheduled(status) })));
    };
    let Some((ip, ip6)) = both_families(addresses(status)) else {
        return Err(no_place(text!(absent::Waiting { phase, node, reason: waiting(status) })));
    };
    if !nodes.contains(node) {
        return Err(no_place(text!(absent::OnUnknownNode { node })));
    }
    let (namespace, name) = (namespace(metadata), name(metadata));
    let host_network = spec.host_network.unwrap_or(false);
    let own = || NetnsName::of_pod(&namespace, &name);
    Ok(waymark_proto::Pod {
        node: node.into(),
        netns: if host_network { NetnsName::HOST.into() } else { own() },
        ip,
        ip6,
        device: None,
        host_device: None,
        labels: metadata.labels.clone().unwrap_or_default(),
        ports: containers(spec).flat_map(|container| container.ports.iter().flatten()).map(port).collect(),
        host_network,
        namespace,
        name,
    })
}

fn addresses(status: &PodStatus) -> impl Iterator<Item = IpAddr> + Clone {
    let all = status.pod_ips.iter().flatten().map(|pod_ip| pod_ip.ip.as_str());
    status.pod_ip.as_deref().into_iter().chain(all).filter_map(|text| text.parse().ok())
}

/// The containers that run as long as the pod does: its own, and init containers that are started again.
fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars)
}

fn port(port: &ContainerPort) -> waymark_proto::ContainerPort {
    waymark_proto::ContainerPort {
        name: port.name.clone(),
        port: u16::try_from(port.container_port).unwrap_or_default(),
        protocol: match port.protocol.as_deref() {
            Some("UDP") => TransportProtocol::Udp,
            Some("SCTP") => TransportProtocol::Sctp,
            _ => TransportProtocol::Tcp,
        },
    }
}

/// What the scheduler says.
fn unscheduled(status: &PodStatus) -> Option<&str> {
    let conditions = status.conditions.iter().flatten();
    let mut refusals = conditions.filter(|c| c.type_ == "PodScheduled" && c.status == "False");
    refusals.find_map(|condition| condition.message.as_deref().or(condition.reason.as_deref()))
}

/// What its first waiting container waits for.
fn waiting(status: &PodStatus) -> Option<&str> {
    let containers = status.container_statuses.iter().flatten();
    let mut reasons =
        containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    reasons.next()
}
