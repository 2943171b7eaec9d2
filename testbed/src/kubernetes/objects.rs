//! A topology as Kubernetes objects. Pure.
//!
//! The topology names a Service's backends; Kubernetes selects them by label. Every pod has `app`, its name
//! without a number at the end, as the pods of a Deployment would; where that selects just the backends, it
//! is the selector, and else a label of that Service's own is. IPv6 Services are left out: the API server is
//! of one family.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use serde_json::{Value, json};

use crate::plan::NodePlan;
use crate::topology::{PodSpec, ServiceSpec, Topology};

/// The labels that select a Service's pods.
type Labels = BTreeMap<String, String>;

/// What a topology asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Objects {
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) services: Vec<Service>,
    pub(crate) pods: Vec<Pod>,
}

impl Objects {
    /// The objects; or what Kubernetes cannot have.
    pub(crate) fn of(topology: &Topology) -> Result<Self, String> {
        let mut ports: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for service in topology.services.iter().filter(|service| service.cluster_ip.is_ipv4()) {
            ports.entry((&service.namespace, &service.name)).or_default().push(service);
        }
        let mut labels: Vec<Labels> = topology.pods.iter().map(own_labels).collect();
        let mut services = Vec::new();
        for ports in ports.values() {
            let selector = select(ports, &topology.pods, &mut labels)?;
            services.push(service(ports, &selector)?);
        }
        let names: BTreeSet<_> = topology
            .pods
            .iter()
            .map(|pod| &pod.namespace)
            .chain(topology.services.iter().map(|service| &service.namespace))
            .collect();
        Ok(Self {
            namespaces: names.into_iter().map(|name| namespace(name)).collect(),
            services,
            pods: topology.pods.iter().zip(&labels).map(|(pod, labels)| self::pod(pod, labels)).collect(),
        })
    }
}

/// An object whose parts are all known to be right.
fn object<T: serde::de::DeserializeOwned>(document: Value) -> T {
    serde_json::from_value(document).expect("the document has the shape of its kind")
}

/// A namespace with the label that 1.21 and newer give it by themselves.
fn namespace(name: &str) -> Namespace {
    object(json!({ "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } } }))
}

fn own_labels(pod: &PodSpec) -> Labels {
    let app = match pod.name.rsplit_once('-') {
        Some((app, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => app,
        _ => &pod.name,
    };
    Labels::from([("app".to_owned(), app.to_owned())])
}

/// The selector of a Service, after giving its pods a label if they have none in common.
fn select(ports: &[&ServiceSpec], pods: &[PodSpec], labels: &mut [Labels]) -> Result<Labels, String> {
    let service = ports[0];
    let backends = |port: &ServiceSpec| -> BTreeSet<String> {
        port.backends.iter().map(|backend| backend.pod.clone()).collect()
    };
    let wanted = backends(service);
    if ports.iter().any(|port| backends(port) != wanted || port.cluster_ip != service.cluster_ip) {
        return Err(format!(
            "the ports of Service {}/{} differ in address or backends, and in Kubernetes they cannot",
            service.namespace, service.name
        ));
    }
    let chosen = |selector: &Labels, labels: &[Labels]| -> BTreeSet<String> {
        let pods = pods.iter().zip(labels).filter(|(pod, _)| pod.namespace == service.namespace);
        let matching =
            pods.filter(|(_, own)| selector.iter().all(|(key, value)| own.get(key) == Some(value)));
        matching.map(|(pod, _)| pod.full_name()).collect()
    };
    let first = pods.iter().position(|pod| wanted.contains(&pod.full_name()));
    let app = first.map_or_else(|| service.name.clone(), |first| labels[first]["app"].clone());
    let by_app = Labels::from([("app".to_owned(), app)]);
    if chosen(&by_app, labels) == wanted {
        return Ok(by_app);
    }
    let own = Labels::from([(format!("serves-{}", service.name), "yes".to_owned())]);
    for (pod, labels) in pods.iter().zip(labels.iter_mut()) {
        if wanted.contains(&pod.full_name()) {
            labels.extend(own.clone());
        }
    }
    if chosen(&own, labels) == wanted {
        Ok(own)
    } else {
        Err(format!(
            "Service {}/{} has backends in another namespace, and in Kubernetes it cannot",
            service.namespace, service.name
        ))
    }
}

fn service(ports: &[&ServiceSpec], selector: &Labels) -> Result<Service, String> {
    let first = ports[0];
    let mut entries = Vec::new();
    for port in ports {
        let targets: BTreeSet<_> =
            port.backends.iter().map(|backend| backend.target_port.unwrap_or(port.port)).collect();
        if targets.len() > 1 {
            return Err(format!(
                "the backends of Service {}/{} have different ports, and in Kubernetes they cannot",
                first.namespace, first.name
            ));
        }
        let protocol = port.protocol.to_string().to_uppercase();
        let mut entry = json!({
            "port": port.port,
            "targetPort": targets.first().unwrap_or(&port.port),
            "protocol": protocol,
        });
        if ports.len() > 1 {
            entry["name"] = format!("{}-{}", port.protocol, port.port).into();
        }
        entries.push(entry);
    }
    Ok(object(json!({
        "metadata": { "name": first.name, "namespace": first.namespace },
        "spec": { "clusterIP": first.cluster_ip, "selector": selector, "ports": entries },
    })))
}

fn pod(pod: &PodSpec, labels: &Labels) -> Pod {
    let port = |protocol: &str, number: &u16| {
        json!({
            "name": format!("{}-{number}", protocol.to_lowercase()),
            "containerPort": number,
            "protocol": protocol,
        })
    };
    let ports = pod.tcp.iter().map(|number| port("TCP", number));
    let ports: Vec<_> = ports.chain(pod.udp.iter().map(|number| port("UDP", number))).collect();
    object(json!({
        "metadata": { "name": pod.name, "namespace": pod.namespace, "labels": labels },
        "spec": {
            "nodeName": pod.node,
            "containers": [{ "name": "app", "image": "waymark-testbed", "ports": ports }],
        },
    }))
}

/// A node without its status.
pub(crate) fn node(plan: &NodePlan) -> Node {
    let net = plan.pod_net();
    object(json!({
        "metadata": {
            "name": plan.name,
            "labels": { "kubernetes.io/hostname": plan.name, "kubernetes.io/os": "linux" },
        },
        "spec": { "podCIDR": net, "podCIDRs": [net] },
    }))
}

/// What a kubelet says of a node that is well.
pub(crate) fn node_status(plan: &NodePlan, now: &str) -> Value {
    let room = json!({ "cpu": "4", "memory": "4Gi", "pods": "200" });
    json!({ "status": {
        "addresses": [
            { "type": "InternalIP", "address": plan.ip() },
            { "type": "Hostname", "address": plan.name },
        ],
        "capacity": room,
        "allocatable": room,
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady",
            "message": "the testbed's kubelet posts ready status",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_select_their_backends() {
        let topology = Topology::default();
        let objects = Objects::of(&topology).unwrap();
        assert_eq!(objects.namespaces[0].metadata.name.as_deref(), Some("shop"));
        let selected = |name: &str| -> Vec<String> {
            let service = objects.services.iter().find(|s| s.metadata.name.as_deref() == Some(name)).unwrap();
            let selector = service.spec.as_ref().unwrap().selector.clone().unwrap();
            let labels = |pod: &Pod| pod.metadata.labels.clone().unwrap();
            let pods = objects.pods.iter();
            let pods = pods.filter(|pod| selector.iter().all(|(k, v)| labels(pod).get(k) == Some(v)));
            pods.map(|pod| pod.metadata.name.clone().unwrap()).collect()
        };
        assert_eq!(selected("pay"), ["pay-1", "pay-2"]);
        assert_eq!(selected("dns"), ["stock", "mail"]);
        assert_eq!(selected("stock"), ["stock"]);
        assert_eq!(selected("empty"), [""; 0]);
        assert_eq!(objects.services.len(), 4, "one of the five is IPv6");
        let pay = objects.services.iter().find(|s| s.metadata.name.as_deref() == Some("pay")).unwrap();
        assert_eq!(pay.spec.as_ref().unwrap().selector, Some(Labels::from([("app".into(), "pay".into())])));
    }

    #[test]
    fn what_kubernetes_cannot_have_is_refused() {
        let text = |services: &str| {
            let pod =
                |namespace| format!("[[pods]]\nnamespace = \"{namespace}\"\nname = \"p\"\nnode = \"n\"\n");
            format!("[[nodes]]\nname = \"n\"\n{}{}{services}", pod("a"), pod("b"))
        };
        let service = |namespace: &str, port: u16, backends: &str| {
            format!(
                "[[services]]\nnamespace = \"{namespace}\"\nname = \"s\"\nclusterIP = \"10.96.0.1\"\nport = {port}\nbackends = {backends}\n"
            )
        };
        let error = |services: String| Objects::of(&Topology::parse(&text(&services)).unwrap()).unwrap_err();
        assert!(error(service("a", 80, "[{ pod = \"b/p\" }]")).contains("in another namespace"));
        let two = service("a", 80, "[]") + &service("a", 81, "[{ pod = \"a/p\" }]");
        assert!(error(two).contains("differ in address or backends"));
        let whole = service("a", 80, "[{ pod = \"a/p\" }]") + &service("a", 81, "[{ pod = \"a/p\" }]");
        let objects = Objects::of(&Topology::parse(&text(&whole)).unwrap()).unwrap();
        let ports = objects.services[0].spec.as_ref().unwrap().ports.as_ref().unwrap();
        assert_eq!(ports[1].name.as_deref(), Some("tcp-81"));
    }
}
