//! Rules that the real kube-proxy wrote lead real traffic, between pods that real CNI plug-ins connected.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use waymark_proto::Protocol;

use crate::common::traffic::{PATIENT, talk};
use crate::{Kubernetes, able, turn};

#[track_caller]
fn everything_works(dataplane: &str, cluster: fn(&str) -> Arc<Kubernetes>) {
    if !able("Services by kube-proxy") {
        return;
    }
    let cluster = cluster(dataplane);
    let mut inventory = cluster.testbed.instance().inventory().unwrap();
    // Others may have pods of their own in a shared one.
    inventory
        .pods
        .retain(|pod| ["cart", "front", "pay-1", "pay-2", "stock", "mail"].contains(&pod.name.as_str()));
    assert_eq!(inventory.pods.len(), 6);
    let mut destinations: Vec<(Protocol, SocketAddr)> = Vec::new();
    for pod in &inventory.pods {
        destinations.extend(
            [(Protocol::Tcp, 80), (Protocol::Udp, 53), (Protocol::Icmp, 0)]
                .map(|(protocol, port)| (protocol, SocketAddr::new(pod.ip, port))),
        );
    }
    let service = |last: u8, port: u16| SocketAddr::new(IpAddr::from([10, 96, 0, last]), port);
    for _ in 0..4 {
        // Each backend is as likely as the other: a few calls reach both.
        destinations.push((Protocol::Tcp, service(10, 80)));
        destinations.push((Protocol::Udp, service(53, 53)));
        destinations.push((Protocol::Tcp, service(20, 8080)));
    }
    let pods = inventory.pods.iter().map(|pod| &pod.netns);
    for netns in pods.chain(inventory.nodes.iter().map(|node| &node.netns)) {
        for (protocol, to) in &destinations {
            if let Err(error) = talk(netns.as_str(), *protocol, *to, PATIENT) {
                panic!("{dataplane}: {protocol} from {netns} to {to}: {error}");
            }
        }
    }
    // The rules are kube-proxy's, for the addresses that the API has.
    let rules = cluster.testbed.succeed(&["exec", "node1", "--", "iptables-save", "-t", "nat"]);
    for pod in inventory.pods.iter().filter(|pod| pod.name.starts_with("pay-")) {
        assert!(rules.contains(&format!("--to-destination {}:80", pod.ip)), "{rules}");
    }
    assert!(rules.contains("-A KUBE-SERVICES") && rules.contains("shop/pay"), "{rules}");
}

fn own(dataplane: &str) -> Arc<Kubernetes> {
    Arc::new(Kubernetes::up(&["--dataplane", dataplane]))
}

#[test]
fn bridge_hostgw() {
    everything_works("bridge-hostgw", |_| Kubernetes::shared());
}

#[test]
fn bridge_vxlan() {
    let _turn = turn();
    everything_works("bridge-vxlan", own);
}

#[test]
fn routed() {
    let _turn = turn();
    everything_works("routed", own);
}
