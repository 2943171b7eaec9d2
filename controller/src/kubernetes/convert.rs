//! API objects to an inventory: pure, and the same for a watched cluster and for manifests in files.
//!
//! What has no place in an inventory, as a pod without an address, is kept among its absent ones with the
//! reason. Nothing is refused: the API server has validated the objects, and of others as much is taken as
//! makes sense.
//!
//! * `pod`, `node`, `service`, `policy`: one kind each

#![allow(clippy::result_large_err, reason = "what has no place is kept as it is, once for each object")]

mod node;
mod pod;
mod policy;
mod service;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use waymark_proto::{Absent, Inventory, ObjectRef, Text};

/// The objects of a cluster, in any order.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Pods.
    pub pods: Vec<Arc<Pod>>,
    /// Services.
    pub services: Vec<Arc<Service>>,
    /// Their endpoints.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// NetworkPolicies.
    pub policies: Vec<Arc<NetworkPolicy>>,
    /// Namespaces.
    pub namespaces: Vec<Arc<Namespace>>,
}

/// The inventory of these objects, sorted by name.
pub fn convert(objects: &Objects) -> Inventory {
    let mut inventory = Inventory::default();
    for node in &objects.nodes {
        sort_out(node::convert(node), &mut inventory.nodes, &mut inventory.absent);
    }
    inventory.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let nodes: BTreeSet<&str> = inventory.nodes.iter().map(|node| node.name.as_str()).collect();
    for pod in &objects.pods {
        sort_out(pod::convert(pod, &nodes), &mut inventory.pods, &mut inventory.absent);
    }
    inventory.pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let endpoints = service::endpoints(&objects.slices);
    for service in &objects.services {
        match service::convert(service, &endpoints) {
            Ok(ports) => inventory.services.extend(ports),
            Err(absent) => inventory.absent.push(absent),
        }
    }
    inventory.services.sort_by(|a, b| {
        let key = |s: &waymark_proto::Service| (s.port, s.protocol, s.cluster_ip);
        (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)).then_with(|| key(a).cmp(&key(b)))
    });
    for policy in &objects.policies {
        sort_out(policy::convert(policy), &mut inventory.policies, &mut inventory.absent);
    }
    inventory.policies.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    inventory.namespaces = objects.namespaces.iter().map(|namespace| convert_namespace(namespace)).collect();
    inventory.namespaces.sort_by(|a, b| a.name.cmp(&b.name));
    inventory.absent.sort_by(|a, b| a.object.cmp(&b.object));
    inventory
}

fn sort_out<T>(converted: Result<T, Absent>, present: &mut Vec<T>, absent: &mut Vec<Absent>) {
    match converted {
        Ok(object) => present.push(object),
        Err(why) => absent.push(why),
    }
}

fn convert_namespace(namespace: &Namespace) -> waymark_proto::Namespace {
    let name = name(&namespace.metadata);
    let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
    // Every namespace has this label since 1.21; policies select by it, older servers do not add it.
    labels.entry("kubernetes.io/metadata.name".to_owned()).or_insert_with(|| name.clone());
    waymark_proto::Namespace { name, labels }
}

fn name(metadata: &ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

fn namespace(metadata: &ObjectMeta) -> String {
    metadata.namespace.clone().unwrap_or_else(|| "default".to_owned())
}

fn absent(kind: &str, metadata: &ObjectMeta, why: Text) -> Absent {
    Absent { object: ObjectRef::namespaced(kind, &namespace(metadata), &name(metadata)), why }
}

/// The first address and the first of the other family.
fn both_families(mut addresses: impl Iterator<Item = IpAddr>) -> Option<(IpAddr, Option<IpAddr>)> {
    let first = addresses.next()?;
    Some((first, addresses.find(|ip| ip.is_ipv6() != first.is_ipv6())))
}

#[cfg(test)]
mod tests;
