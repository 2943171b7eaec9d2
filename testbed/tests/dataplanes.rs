//! Every dataplane carries every kind of traffic.

mod common;

use std::net::{IpAddr, SocketAddr};

use common::traffic::{PATIENT, talk};
use common::{Testbed, privileged};
use waymark_proto::Protocol;
use waymark_testbed::Cluster;

/// Pods to pods and nodes, nodes to pods, both to Services, by every protocol and family.
#[track_caller]
fn everything_works(args: &[&str]) {
    if !privileged("carrying traffic") {
        return;
    }
    let testbed = Testbed::up(args);
    let cluster = testbed.cluster();
    let sources =
        cluster.nodes.iter().map(|node| &node.netns).chain(cluster.pods.iter().map(|pod| &pod.netns));
    for netns in sources {
        for (protocol, to) in destinations(&cluster) {
            if let Err(error) = talk(netns, protocol, to, PATIENT) {
                panic!("{protocol} from {netns} to {to}: {error}");
            }
        }
    }
}

fn destinations(cluster: &Cluster) -> Vec<(Protocol, SocketAddr)> {
    let mut list = Vec::new();
    for pod in &cluster.pods {
        for ipv6 in [false, true] {
            let ip = pod.address(ipv6);
            list.push((Protocol::Tcp, SocketAddr::new(ip, pod.tcp[0])));
            list.push((Protocol::Udp, SocketAddr::new(ip, pod.udp[0])));
            list.push((Protocol::Icmp, SocketAddr::new(ip, 0)));
        }
    }
    for node in &cluster.nodes {
        list.extend(
            [IpAddr::V4(node.ip()), IpAddr::V6(node.ip6())]
                .map(|ip| (Protocol::Icmp, SocketAddr::new(ip, 0))),
        );
    }
    for service in cluster.services.iter().filter(|service| !service.backends.is_empty()) {
        // Each backend is as likely as the other: a few calls reach both.
        let to = (service.protocol, SocketAddr::new(service.cluster_ip, service.port));
        list.extend([to; 4]);
    }
    list
}

#[test]
fn bridge_hostgw() {
    everything_works(&["--dataplane", "bridge-hostgw"]);
}

#[test]
fn bridge_vxlan() {
    everything_works(&["--dataplane", "bridge-vxlan"]);
}

#[test]
fn routed() {
    everything_works(&["--dataplane", "routed"]);
}

#[test]
fn services_by_nftables() {
    everything_works(&["--dataplane", "bridge-hostgw", "--proxy", "nftables"]);
    everything_works(&["--dataplane", "routed", "--proxy", "nftables"]);
}

#[test]
fn nothing_is_seen_in_the_machines_own_namespace() {
    if !privileged("looking for devices") {
        return;
    }
    // The names are the instance's own only where they are hashed: those are looked for.
    let testbed = Testbed::up(&["--dataplane", "routed"]);
    let devices = std::fs::read_to_string("/proc/net/dev").unwrap();
    for pod in &testbed.cluster().pods {
        assert!(!devices.contains(&pod.host_device), "{devices}");
    }
}
