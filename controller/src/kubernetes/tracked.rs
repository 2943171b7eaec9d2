//! The kinds of objects that are watched, and what is kept of them.
//!
//! Of a hundred thousand pods only what an inventory is made of may stay in memory: a tenth. And since what
//! is thrown away is no change, the heartbeats of nodes and the conditions of pods do not make the inventory
//! be built anew.

use k8s_openapi::api::core::v1::{
    Container, Namespace, Node, NodeSpec, NodeStatus, Pod, PodSpec, PodStatus, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;

/// A kind that is watched.
pub(super) trait Tracked:
    Resource<DynamicType = ()> + Clone + PartialEq + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static
{
    /// Drops what no inventory needs.
    fn trim(&mut self);

    /// The name of the kind in roles and messages.
    fn resource() -> String {
        Self::plural(&()).into_owned()
    }
}

/// What is kept of everybody's metadata.
fn trim_metadata(metadata: &mut ObjectMeta) {
    *metadata = ObjectMeta {
        name: metadata.name.take(),
        namespace: metadata.namespace.take(),
        labels: metadata.labels.take(),
        ..ObjectMeta::default()
    };
}

impl Tracked for Node {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
        self.spec = self.spec.take().map(|spec| NodeSpec {
            pod_cidr: spec.pod_cidr,
            pod_cidrs: spec.pod_cidrs,
            ..NodeSpec::default()
        });
        self.status = self
            .status
            .take()
            .map(|status| NodeStatus { addresses: status.addresses, ..NodeStatus::default() });
    }
}

impl Tracked for Pod {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
        self.spec = self.spec.take().map(|spec| PodSpec {
            node_name: spec.node_name,
            host_network: spec.host_network,
            containers: spec.containers.into_iter().map(trim_container).collect(),
            init_containers: spec
                .init_containers
                .map(|containers| containers.into_iter().map(trim_container).collect()),
            ..PodSpec::default()
        });
        self.status = self.status.take().map(|status| {
            let kept = PodStatus {
                phase: status.phase,
                pod_ip: status.pod_ip,
                pod_ips: status.pod_ips,
                ..PodStatus::default()
            };
            if kept.pod_ip.is_some() {
                return kept;
            }
            // What explains the lack of an address.
            PodStatus { conditions: status.conditions, container_statuses: status.container_statuses, ..kept }
        });
    }
}

fn trim_container(container: Container) -> Container {
    Container {
        name: container.name,
        ports: container.ports,
        restart_policy: container.restart_policy,
        ..Container::default()
    }
}

impl Tracked for Service {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
        self.status = None;
    }
}

impl Tracked for EndpointSlice {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
    }
}

impl Tracked for NetworkPolicy {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
    }
}

impl Tracked for Namespace {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
        self.spec = None;
        self.status = None;
    }
}
