//! Services: virtual addresses, and where they lead.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{PortRef, Protocol};

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Virtual address.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: IpAddr,
    /// Virtual port.
    pub port: u16,
    /// Protocol.
    #[serde(default = "tcp")]
    pub protocol: Protocol,
    /// Where its traffic may go.
    #[serde(default)]
    pub backends: Vec<Backend>,
    /// Name of the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_name: Option<String>,
    /// The pods that it should lead to; absent if its endpoints are written by somebody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<BTreeMap<String, String>>,
    /// The port of those pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<PortRef>,
    /// The port of each node that leads here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// Addresses from outside that nodes lead here at the same port: `externalIPs`, and those of a load balancer.
    #[serde(default, rename = "externalIPs", skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<IpAddr>,
    /// Which endpoints traffic to the virtual address may go to.
    #[serde(default, skip_serializing_if = "TrafficPolicy::is_cluster")]
    pub internal_traffic_policy: TrafficPolicy,
    /// Which endpoints traffic to nodes' ports and to addresses from outside may go to.
    #[serde(default, skip_serializing_if = "TrafficPolicy::is_cluster")]
    pub external_traffic_policy: TrafficPolicy,
}

/// Which endpoints of a Service traffic may go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// All that are ready.
    #[default]
    Cluster,
    /// Those on the node whose rules it meets. Where there is none it is dropped.
    Local,
}

impl TrafficPolicy {
    /// Whether it is what goes without saying.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_cluster(&self) -> bool {
        *self == Self::Cluster
    }
}

fn tcp() -> Protocol {
    Protocol::Tcp
}

/// An endpoint of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// The pod, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether it may be sent to.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub ready: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_yes(value: &bool) -> bool {
    *value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_without_saying_is_not_written() {
        let plain = r#"{"namespace":"x","name":"y","clusterIP":"10.96.0.1","port":80,"protocol":"tcp","backends":[]}"#;
        let mut service: Service = serde_json::from_str(plain).unwrap();
        assert_eq!(service.internal_traffic_policy, TrafficPolicy::Cluster);
        assert_eq!(serde_json::to_string(&service).unwrap(), plain);
        service.internal_traffic_policy = TrafficPolicy::Local;
        service.external_traffic_policy = TrafficPolicy::Local;
        service.external_ips = vec![[192, 0, 2, 7].into()];
        let told = serde_json::to_string(&service).unwrap();
        let words =
            r#""externalIPs":["192.0.2.7"],"internalTrafficPolicy":"Local","externalTrafficPolicy":"Local""#;
        assert!(told.contains(words), "{told}");
        assert_eq!(serde_json::from_str::<Service>(&told).unwrap(), service);
    }
}
