//! Conventions for the names of chains and tables, and where each is written down.

use waymark_proto::RuleRef;

/// What the rest of a chain's name tells, behind the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Nothing that is known here.
    Nothing,
    /// Nothing, and the program has made the chain for rules of others.
    Administrator,
    /// A Service's port, by kube-proxy's hash.
    Service,
    /// An endpoint of a Service, by kube-proxy's hash.
    Endpoint,
    /// Nothing, but the comments of rules tell the Service.
    Comment,
    /// A Service's port or an endpoint, spelled out.
    Spelled,
    /// A pod, by the other end of its device.
    Workload,
    /// A policy, by Calico's name for it.
    Policy,
    /// Nothing, but the rules are in the pod's own namespace.
    Pod,
}

/// How a program names what is its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Convention {
    /// The table, if it is the program's own; `None` for those of iptables.
    table: Option<&'static str>,
    /// How names of its chains begin, or how one is named (see `whole`).
    pub(super) prefix: &'static str,
    whole: bool,
    pub(super) program: &'static str,
    pub(super) names: Names,
}

impl Convention {
    /// Whether a rule is named so.
    pub(super) fn fits(&self, rule: &RuleRef) -> bool {
        let chain = rule.chain.as_str();
        let named = if self.whole { chain == self.prefix } else { chain.starts_with(self.prefix) };
        named && self.table.is_none_or(|table| rule.table == table)
    }

    /// What follows the prefix.
    pub(super) fn rest<'a>(&self, chain: &'a str) -> &'a str {
        chain.strip_prefix(self.prefix).unwrap_or_default()
    }
}

/// Chains whose names begin so, in whichever table.
const fn chains(prefix: &'static str, program: &'static str, names: Names) -> Convention {
    Convention { table: None, prefix, whole: false, program, names }
}

/// One chain.
const fn chain(name: &'static str, program: &'static str, names: Names) -> Convention {
    Convention { table: None, prefix: name, whole: true, program, names }
}

/// Chains of a table of nftables that is the program's own.
const fn within(
    table: &'static str,
    prefix: &'static str,
    program: &'static str,
    names: Names,
) -> Convention {
    Convention { table: Some(table), prefix, whole: false, program, names }
}

const KUBE_PROXY: &str = "kube-proxy";
const KUBELET: &str = "kubelet";
const KUBE_ROUTER: &str = "kube-router";
const CALICO: &str = "Calico";
const CILIUM: &str = "Cilium";
const FLANNEL: &str = "Flannel";
const ISTIO: &str = "Istio";
const DOCKER: &str = "Docker";

/// All that are known; of those that fit the first counts.
pub(super) const CONVENTIONS: &[Convention] = &[
    // kubernetes: pkg/proxy/iptables/proxier.go (`servicePortChainName` and the like); KUBE-XLB- up to 1.23.
    chains("KUBE-SVC-", KUBE_PROXY, Names::Service),
    chains("KUBE-SVL-", KUBE_PROXY, Names::Service),
    chains("KUBE-EXT-", KUBE_PROXY, Names::Service),
    chains("KUBE-XLB-", KUBE_PROXY, Names::Service),
    chains("KUBE-FW-", KUBE_PROXY, Names::Service),
    chains("KUBE-SEP-", KUBE_PROXY, Names::Endpoint),
    // kubernetes: pkg/kubelet/kubelet_network_linux.go; before 1.26 kube-proxy and kubelet shared the first two.
    chain("KUBE-FIREWALL", KUBELET, Names::Nothing),
    chain("KUBE-MARK-DROP", KUBELET, Names::Nothing),
    chain("KUBE-KUBELET-CANARY", KUBELET, Names::Nothing),
    chain("KUBE-IPTABLES-HINT", KUBELET, Names::Nothing),
    // kube-router: pkg/controllers/netpol.
    chains("KUBE-POD-FW-", KUBE_ROUTER, Names::Nothing),
    chains("KUBE-NWPLCY-", KUBE_ROUTER, Names::Nothing),
    chains("KUBE-ROUTER-", KUBE_ROUTER, Names::Nothing),
    // KUBE-SERVICES, KUBE-NODEPORTS, KUBE-FORWARD and the like; rules there have the Service in their comments.
    chains("KUBE-", KUBE_PROXY, Names::Comment),
    // kubernetes: pkg/proxy/nftables/proxier.go and README.md.
    within("kube-proxy", "service-endpoints-check", KUBE_PROXY, Names::Nothing),
    within("kube-proxy", "service-", KUBE_PROXY, Names::Spelled),
    within("kube-proxy", "external-", KUBE_PROXY, Names::Spelled),
    within("kube-proxy", "firewall-", KUBE_PROXY, Names::Spelled),
    within("kube-proxy", "endpoint-", KUBE_PROXY, Names::Spelled),
    within("kube-proxy", "", KUBE_PROXY, Names::Nothing),
    // calico: felix/rules/rule_defs.go. In nftables' mode the table of iptables stands before the name
    // (felix/nftables/table_layer.go).
    chains("cali-tw-", CALICO, Names::Workload),
    chains("cali-fw-", CALICO, Names::Workload),
    chains("cali-pi-", CALICO, Names::Policy),
    chains("cali-po-", CALICO, Names::Policy),
    chains("cali-", CALICO, Names::Nothing),
    within("calico", "filter-cali-tw-", CALICO, Names::Workload),
    within("calico", "filter-cali-fw-", CALICO, Names::Workload),
    within("calico", "filter-cali-pi-", CALICO, Names::Policy),
    within("calico", "filter-cali-po-", CALICO, Names::Policy),
    within("calico", "", CALICO, Names::Nothing),
    // cilium: pkg/datapath/iptables/iptables.go; OLD_ while the agent replaces them.
    chains("CILIUM_", CILIUM, Names::Nothing),
    chains("OLD_CILIUM_", CILIUM, Names::Nothing),
    // flannel: pkg/trafficmngr/iptables and pkg/trafficmngr/nftables.
    chains("FLANNEL-", FLANNEL, Names::Nothing),
    within("flannel-ipv4", "", FLANNEL, Names::Nothing),
    within("flannel-ipv6", "", FLANNEL, Names::Nothing),
    // istio: tools/istio-iptables/pkg/constants and tools/istio-nftables.
    chains("ISTIO_", ISTIO, Names::Pod),
    within("istio-proxy-nat", "", ISTIO, Names::Pod),
    within("istio-proxy-mangle", "", ISTIO, Names::Pod),
    within("istio-proxy-raw", "", ISTIO, Names::Pod),
    // moby: daemon/libnetwork; docs.docker.com, "Packet filtering and firewalls".
    chain("DOCKER-USER", DOCKER, Names::Administrator),
    chain("DOCKER", DOCKER, Names::Nothing),
    chains("DOCKER-", DOCKER, Names::Nothing),
    within("docker-bridges", "", DOCKER, Names::Nothing),
    // containernetworking/plugins: plugins/meta/portmap, plugins/meta/firewall, pkg/ip/ipmasq_linux.go.
    chains("CNI-HOSTPORT-", "CNI plugin portmap", Names::Nothing),
    chains("CNI-DN-", "CNI plugin portmap", Names::Nothing),
    chains("CNI-SN-", "CNI plugin portmap", Names::Nothing),
    chain("CNI-FORWARD", "CNI plugin firewall", Names::Nothing),
    chain("CNI-ADMIN", "CNI plugin firewall", Names::Administrator),
    chains("CNI-", "CNI plugin", Names::Nothing),
    // firewalld: src/firewall/core/nftables.py. ufw: /etc/ufw/*.rules.
    within("firewalld", "", "firewalld", Names::Nothing),
    chains("ufw-", "ufw", Names::Nothing),
    chains("ufw6-", "ufw", Names::Nothing),
];
