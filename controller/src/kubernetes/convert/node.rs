//! Nodes.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use waymark_proto::{Absent, NetnsName, ObjectRef, text};

use super::{both_families, name};

/// A node by its internal addresses, else by its external ones.
pub(super) fn convert(node: &Node) -> Result<waymark_proto::Node, Absent> {
    let name = name(&node.metadata);
    let known = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let of_type = |wanted: &'static str| {
        let known = known.clone().filter(move |address| address.type_ == wanted);
        known.filter_map(|address| address.address.parse::<IpAddr>().ok())
    };
    let Some((ip, ip6)) = both_families(of_type("InternalIP").chain(of_type("ExternalIP"))) else {
        let object = ObjectRef { kind: "Node".to_owned(), namespace: None, name };
        return Err(Absent { object, why: text!(absent::KubeletSilent) });
    };
    let spec = node.spec.as_ref();
    let single = spec.and_then(|spec| spec.pod_cidr.as_ref());
    let all = spec.and_then(|spec| spec.pod_cidrs.as_ref()).into_iter().flatten();
    let networks = || all.clone().chain(single).filter_map(|text| text.parse::<IpNet>().ok());
    let pod_cidr = networks().next();
    let of_other_family =
        |network: &IpNet| pod_cidr.is_some_and(|first| first.addr().is_ipv6() != network.addr().is_ipv6());
    Ok(waymark_proto::Node {
        name: name.into(),
        netns: NetnsName::HOST.into(),
        ip,
        ip6,
        uplink: None,
        pod_cidr,
        pod_cidr6: networks().find(of_other_family),
    })
}
