//! kube-proxy's nftables mode (1.31 and later). Kubelet still writes its iptables chain beside it.

use waymark_proto::{Backend, Service};

use super::{MASQUERADE_MARK, chain_hash, endpoint, port_name};
use crate::dataplane::cluster_cidr;
use crate::script::{Script, Tool};

/// Kubelet's tables in this mode. The built-in chains stand there, so that a rule that comes and goes in
/// one of them leaves nothing new behind.
const KUBELET: [&str; 11] = [
    "*filter",
    ":INPUT ACCEPT [0:0]",
    ":FORWARD ACCEPT [0:0]",
    ":OUTPUT ACCEPT [0:0]",
    ":KUBE-FIREWALL - [0:0]",
    "-A INPUT -j KUBE-FIREWALL",
    "-A OUTPUT -j KUBE-FIREWALL",
    "COMMIT",
    "*nat",
    ":KUBE-KUBELET-CANARY - [0:0]",
    "COMMIT",
];

/// All scripts of a node.
pub(super) fn scripts(netns: &str, services: &[Service]) -> Vec<Script> {
    let mut lines = Vec::new();
    for ipv6 in [false, true] {
        let of_family = services.iter().filter(|service| service.cluster_ip.is_ipv6() == ipv6);
        lines.extend(table(ipv6, &of_family.collect::<Vec<_>>()));
    }
    vec![
        Script::new(Tool::Iptables, netns, KUBELET),
        Script::new(Tool::Ip6tables, netns, KUBELET),
        Script::new(Tool::Nft, netns, lines),
    ]
}

fn family(ipv6: bool) -> &'static str {
    if ipv6 { "ip6" } else { "ip" }
}

fn table(ipv6: bool, services: &[&Service]) -> Vec<String> {
    let ip = family(ipv6);
    let address = if ipv6 { "ipv6_addr" } else { "ipv4_addr" };
    let service_range = if ipv6 { "fd00:10:96::/112" } else { "10.96.0.0/12" };
    let portal =
        |service: &Service| format!("{} . {} . {}", service.cluster_ip, service.protocol, service.port);
    let (full, empty): (Vec<_>, Vec<_>) =
        services.iter().partition::<Vec<&Service>, _>(|service| !service.backends.is_empty());
    let cluster_ips: std::collections::BTreeSet<_> =
        services.iter().map(|s| s.cluster_ip.to_string()).collect();
    let mut lines = vec![
        format!("table {ip} kube-proxy {{"),
        "comment \"rules for kube-proxy\"".into(),
        format!(
            "set cluster-ips {{ type {address}; comment \"Active ClusterIPs\"; {} }}",
            elements(cluster_ips)
        ),
        format!("set nodeport-ips {{ type {address}; comment \"IPs that accept NodePort traffic\"; }}"),
        format!(
            "map no-endpoint-services {{ type {address} . inet_proto . inet_service : verdict; \
             comment \"vmap to drop or reject packets to services with no endpoints\"; {} }}",
            elements(empty.iter().map(|s| format!(
                "{} comment \"{}\" : goto reject-chain",
                portal(s),
                port_name(s)
            )))
        ),
        "map no-endpoint-nodeports { type inet_proto . inet_service : verdict; \
         comment \"vmap to drop or reject packets to service nodeports with no endpoints\"; }"
            .into(),
        format!(
            "map firewall-ips {{ type {address} . inet_proto . inet_service : verdict; \
             comment \"destinations that are subject to LoadBalancerSourceRanges\"; }}"
        ),
        "map service-nodeports { type inet_proto . inet_service : verdict; comment \"NodePort traffic\"; }"
            .into(),
    ];
    lines.extend(static_chains(ip, service_range));
    lines.extend(full.iter().flat_map(|service| chains(ipv6, service)));
    // The map names the chains, so it comes after them.
    lines.push(format!(
        "map service-ips {{ type {address} . inet_proto . inet_service : verdict; \
         comment \"ClusterIP, ExternalIP and LoadBalancer IP traffic\"; {} }}",
        elements(full.iter().map(|s| format!("{} : goto {}", portal(s), service_chain(s))))
    ));
    lines.push("}".into());
    lines
}

/// `elements = { … };`, or nothing: an empty list is a syntax error.
fn elements(list: impl IntoIterator<Item = String>) -> String {
    let list: Vec<_> = list.into_iter().collect();
    if list.is_empty() { String::new() } else { format!("elements = {{ {} }};", list.join(", ")) }
}

/// The chains that do not depend on the Services.
fn static_chains(ip: &str, service_range: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut chain = |name: &str, rules: &[&str]| {
        lines.push(format!("chain {name} {{"));
        lines.extend(rules.iter().map(|&rule| rule.to_owned()));
        lines.push("}".into());
    };
    chain(
        "filter-prerouting",
        &["type filter hook prerouting priority dstnat - 10", "ct state new jump firewall-check"],
    );
    chain(
        "filter-input",
        &[
            "type filter hook input priority -110",
            "ct state new jump nodeport-endpoints-check",
            "ct state new jump service-endpoints-check",
        ],
    );
    chain(
        "filter-forward",
        &[
            "type filter hook forward priority -110",
            "ct state new jump service-endpoints-check",
            "ct state new jump cluster-ips-check",
        ],
    );
    chain(
        "filter-output",
        &[
            "type filter hook output priority -110",
            "ct state new jump service-endpoints-check",
            "ct state new jump firewall-check",
        ],
    );
    chain(
        "filter-output-post-dnat",
        &["type filter hook output priority -90", "ct state new jump cluster-ips-check"],
    );
    chain("nat-prerouting", &["type nat hook prerouting priority dstnat", "jump services"]);
    chain("nat-output", &["type nat hook output priority -100", "jump services"]);
    chain("nat-postrouting", &["type nat hook postrouting priority srcnat", "jump masquerading"]);
    chain(
        "services",
        &[
            &format!("{ip} daddr . meta l4proto . th dport vmap @service-ips"),
            &format!("{ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"),
        ],
    );
    chain("mark-for-masquerade", &[&format!("mark set mark or {MASQUERADE_MARK:#x}")]);
    chain(
        "masquerading",
        &[
            &format!("mark and {MASQUERADE_MARK:#x} == 0 return"),
            &format!("mark set mark xor {MASQUERADE_MARK:#x}"),
            "masquerade fully-random",
        ],
    );
    chain("reject-chain", &["reject"]);
    chain(
        "cluster-ips-check",
        &[
            &format!(
                "{ip} daddr @cluster-ips reject comment \"Reject traffic to invalid ports of ClusterIPs\""
            ),
            &format!(
                "{ip} daddr {{ {service_range} }} drop comment \"Drop traffic to unallocated ClusterIPs\""
            ),
        ],
    );
    chain(
        "service-endpoints-check",
        &[&format!("{ip} daddr . meta l4proto . th dport vmap @no-endpoint-services")],
    );
    chain(
        "nodeport-endpoints-check",
        &[&format!("{ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports")],
    );
    chain("firewall-check", &[&format!("{ip} daddr . meta l4proto . th dport vmap @firewall-ips")]);
    lines
}

/// A Service's chain and its endpoints'.
fn chains(ipv6: bool, service: &Service) -> Vec<String> {
    let ip = family(ipv6);
    let count = service.backends.len();
    let mut lines = Vec::new();
    for backend in &service.backends {
        lines.push(format!("chain {} {{", endpoint_chain(service, backend)));
        lines.extend(endpoint_rules(service, backend, backend));
        lines.push("}".into());
    }
    let goto = |(index, backend)| format!("{index} : goto {}", endpoint_chain(service, backend));
    let targets: Vec<_> = service.backends.iter().enumerate().map(goto).collect();
    lines.extend([
        format!("chain {} {{", service_chain(service)),
        format!(
            "{ip} daddr {} {} dport {} {ip} saddr != {} jump mark-for-masquerade",
            service.cluster_ip,
            service.protocol,
            service.port,
            cluster_cidr(ipv6)
        ),
        format!("numgen random mod {count} vmap {{ {} }}", targets.join(", ")),
        "}".into(),
    ]);
    lines
}

/// The rules in a backend's chain, with `to` as what it leads to.
fn endpoint_rules(service: &Service, backend: &Backend, to: &Backend) -> [String; 2] {
    [
        format!("{} saddr {} jump mark-for-masquerade", family(backend.ip.is_ipv6()), backend.ip),
        format!("meta l4proto {} dnat to {}", service.protocol, endpoint(to)),
    ]
}

/// Rewrites a backend's chain.
pub(super) fn redirect(netns: &str, service: &Service, backend: &Backend, to: &Backend) -> Script {
    let chain = format!("{} kube-proxy {}", family(backend.ip.is_ipv6()), endpoint_chain(service, backend));
    let rules = endpoint_rules(service, backend, to).map(|rule| format!("add rule {chain} {rule}"));
    Script::new(Tool::Nft, netns, std::iter::once(format!("flush chain {chain}")).chain(rules))
}

fn service_chain(service: &Service) -> String {
    let (name, protocol) = (port_name(service), service.protocol.to_string());
    format!("service-{}-{name}/{protocol}/", &chain_hash(&[&name, &protocol])[..8])
}

fn endpoint_chain(service: &Service, backend: &Backend) -> String {
    let (name, protocol, to) = (port_name(service), service.protocol.to_string(), endpoint(backend));
    // Colons and brackets are not for chain names: kube-proxy writes dots.
    let text: String = format!("{}/{}", backend.ip, backend.port).replace(':', ".");
    format!("endpoint-{}-{name}/{protocol}/__{text}", &chain_hash(&[&name, &protocol, &to])[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Cluster, Dataplane, Proxy};
    use crate::topology::Topology;

    #[test]
    fn rules_of_the_default_topology() {
        let cluster = Cluster::plan("t", &Topology::default(), Dataplane::Routed, Proxy::Nftables);
        let text = scripts("n", &cluster.services).pop().unwrap().lines.join("\n");
        for part in [
            "10.96.0.99 . tcp . 80 comment \"shop/empty\" : goto reject-chain",
            "numgen random mod 2 vmap { 0 : goto endpoint-",
            "ip daddr 10.96.0.10 tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade",
            "meta l4proto udp dnat to 10.244.2.11:53",
            "meta l4proto tcp dnat to [fd00:10:244:2::10]:80",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }
}
