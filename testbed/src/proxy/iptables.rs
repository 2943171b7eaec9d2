//! kube-proxy's iptables mode (1.28 and later), with kubelet's own chain.

use std::fmt::Display;

use waymark_proto::{Backend, Service};

use super::{MASQUERADE_MARK, chain_hash, endpoint, port_name};
use crate::dataplane::cluster_cidr;
use crate::script::{Script, Tool};

/// `filter` but for the Services' own rules.
const FILTER_HEAD: [&str; 21] = [
    "*filter",
    ":KUBE-EXTERNAL-SERVICES - [0:0]",
    ":KUBE-FIREWALL - [0:0]",
    ":KUBE-FORWARD - [0:0]",
    ":KUBE-NODEPORTS - [0:0]",
    ":KUBE-PROXY-FIREWALL - [0:0]",
    ":KUBE-SERVICES - [0:0]",
    r#"-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL"#,
    r#"-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS"#,
    r#"-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES"#,
    "-A INPUT -j KUBE-FIREWALL",
    r#"-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL"#,
    r#"-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD"#,
    r#"-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
    r#"-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES"#,
    r#"-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL"#,
    r#"-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
    "-A OUTPUT -j KUBE-FIREWALL",
    "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
    r#"-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT"#,
    r#"-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"#,
];

/// `nat` but for the Services' own rules.
const NAT_HEAD: [&str; 8] = [
    "*nat",
    ":KUBE-MARK-MASQ - [0:0]",
    ":KUBE-NODEPORTS - [0:0]",
    ":KUBE-POSTROUTING - [0:0]",
    ":KUBE-SERVICES - [0:0]",
    r#"-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
    r#"-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
    r#"-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING"#,
];

/// Both families' scripts.
pub(super) fn scripts(netns: &str, services: &[Service]) -> Vec<Script> {
    [(false, Tool::Iptables), (true, Tool::Ip6tables)]
        .map(|(ipv6, tool)| {
            let of_family = services.iter().filter(|service| service.cluster_ip.is_ipv6() == ipv6);
            Script::new(tool, netns, tables(ipv6, &of_family.collect::<Vec<_>>()))
        })
        .into()
}

pub(super) fn tables(ipv6: bool, services: &[&Service]) -> Vec<String> {
    let mut filter: Vec<_> = FILTER_HEAD.map(str::to_owned).into();
    filter.extend(firewall(ipv6));
    let mut chains = Vec::new();
    let mut nat: Vec<_> = NAT_HEAD.map(str::to_owned).into();
    nat.extend([
        format!("-A KUBE-MARK-MASQ -j MARK --or-mark {MASQUERADE_MARK:#x}"),
        format!("-A KUBE-POSTROUTING -m mark ! --mark {MASQUERADE_MARK:#x}/{MASQUERADE_MARK:#x} -j RETURN"),
        format!("-A KUBE-POSTROUTING -j MARK --xor-mark {MASQUERADE_MARK:#x}"),
        r#"-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully"#.to_owned(),
    ]);
    for service in services {
        if service.backends.is_empty() {
            filter.push(reject(service));
        } else {
            chains.push(format!(":{} - [0:0]", service_chain(service)));
            chains
                .extend(service.backends.iter().map(|b| format!(":{} - [0:0]", endpoint_chain(service, b))));
            nat.extend(portal(ipv6, service));
        }
    }
    nat.push(r#"-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"#.to_owned());
    // The chains' declarations belong before all rules.
    nat.splice(1..1, chains);
    filter.push("COMMIT".into());
    nat.push("COMMIT".into());
    filter.extend(nat);
    filter
}

/// Kubelet's: nobody but the machine itself speaks to its loopback addresses.
fn firewall(ipv6: bool) -> Option<String> {
    (!ipv6).then(|| {
        r#"-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"#.to_owned()
    })
}

/// `-d ADDRESS -p PROTOCOL …` of a Service's virtual address.
fn portal_match(service: &Service, comment: &dyn Display) -> String {
    let (ip, protocol, port) = (service.cluster_ip, service.protocol, service.port);
    let prefix = if ip.is_ipv6() { 128 } else { 32 };
    format!("-d {ip}/{prefix} -p {protocol} -m comment --comment \"{comment}\" -m {protocol} --dport {port}")
}

fn reject(service: &Service) -> String {
    let with = if service.cluster_ip.is_ipv6() { "icmp6-port-unreachable" } else { "icmp-port-unreachable" };
    let comment = format!("{} has no endpoints", port_name(service));
    format!("-A KUBE-SERVICES {} -j REJECT --reject-with {with}", portal_match(service, &comment))
}

/// The rules in `nat` of a Service with backends.
fn portal(ipv6: bool, service: &Service) -> Vec<String> {
    let (name, chain) = (port_name(service), service_chain(service));
    let portal = portal_match(service, &format!("{name} cluster IP"));
    let mut rules = vec![
        format!("-A KUBE-SERVICES {portal} -j {chain}"),
        format!("-A {chain} ! -s {} {portal} -j KUBE-MARK-MASQ", cluster_cidr(ipv6)),
    ];
    let count = service.backends.len();
    for (index, backend) in service.backends.iter().enumerate() {
        let (sep, to) = (endpoint_chain(service, backend), endpoint(backend));
        let left = u32::try_from(count - index).unwrap_or(u32::MAX);
        // The last one takes what is left.
        let odds = if left == 1 {
            String::new()
        } else {
            format!(" -m statistic --mode random --probability {:.11}", 1.0 / f64::from(left))
        };
        rules.push(format!("-A {chain} -m comment --comment \"{name} -> {to}\"{odds} -j {sep}"));
        rules.push(format!(
            "-A {sep} -s {} -m comment --comment \"{name}\" -j KUBE-MARK-MASQ",
            host_prefix(backend)
        ));
        rules.push(format!("-A {sep} {}", dnat(service, backend)));
    }
    rules
}

fn host_prefix(backend: &Backend) -> String {
    format!("{}/{}", backend.ip, if backend.ip.is_ipv6() { 128 } else { 32 })
}

fn dnat(service: &Service, backend: &Backend) -> String {
    let (protocol, name) = (service.protocol, port_name(service));
    format!(
        "-p {protocol} -m comment --comment \"{name}\" -m {protocol} -j DNAT --to-destination {}",
        endpoint(backend)
    )
}

/// Replaces the DNAT rule of a backend, which is the second in its chain.
pub(super) fn redirect(netns: &str, service: &Service, backend: &Backend, to: &Backend) -> Script {
    let tool = if backend.ip.is_ipv6() { Tool::Ip6tables } else { Tool::Iptables };
    let rule = format!("-R {} 2 {}", endpoint_chain(service, backend), dnat(service, to));
    Script::new(tool, netns, ["*nat".to_owned(), rule, "COMMIT".to_owned()])
}

fn service_chain(service: &Service) -> String {
    format!("KUBE-SVC-{}", chain_hash(&[&port_name(service), &service.protocol.to_string()]))
}

fn endpoint_chain(service: &Service, backend: &Backend) -> String {
    let parts = [&port_name(service), &service.protocol.to_string(), &endpoint(backend)];
    format!("KUBE-SEP-{}", chain_hash(&parts.map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Cluster, Dataplane, Proxy};
    use crate::topology::Topology;

    #[test]
    fn rules_of_the_default_topology() {
        let cluster = Cluster::plan("t", &Topology::default(), Dataplane::Routed, Proxy::Iptables);
        let [v4, v6] = <[Script; 2]>::try_from(scripts("n", &cluster.services)).unwrap();
        let text = v4.lines.join("\n");
        assert!(text.contains("-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment \"shop/pay cluster IP\" -m tcp --dport 80 -j KUBE-SVC-"), "{text}");
        assert!(text.contains("\"shop/pay -> 10.244.2.10:80\" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-"), "{text}");
        assert!(text.contains("\"shop/empty has no endpoints\" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable"), "{text}");
        assert!(text.contains("-m udp -j DNAT --to-destination 10.244.2.11:53"), "{text}");
        assert!(!text.contains("fd00"), "{text}");
        let text = v6.lines.join("\n");
        assert!(text.contains("--to-destination [fd00:10:244:2::10]:80"), "{text}");
        assert_eq!(text.matches("COMMIT").count(), 2);
    }
}
