//! NetworkPolicies as Calico's Felix enforces them in its iptables dataplane (v3.27): dispatch chains by the pods' devices,
//! a chain for each policy and direction, ipset for the pods that rules select.
//!
//! Chains are named after what they are of, where Felix takes hashes; the order of rules and the marks are its own. Only
//! what is without `ipBlock` and named ports is rendered.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use waymark_proto::{
    Inventory, LabelSelector, NetworkPolicy, Pod, PolicyPeer, PolicyPort, PolicyType, PortRef,
    TransportProtocol,
};

use crate::Lab;

/// Prefix of devices that Felix takes for pods'.
const PREFIX: &str = "cali";
/// `iptables-mark-mask`: accepted, and passed on to the next tier.
const ACCEPTED: &str = "0x10000/0x10000";
const NOT_PASSED: &str = "0x0/0x20000";

/// Whether a selector selects labels; the predictor's own is `waymark_sim::selects`.
pub type Selects = fn(&LabelSelector, &BTreeMap<String, String>) -> bool;

/// Has all nodes enforce the inventory's policies, and names devices as Calico does.
pub fn enforce(lab: &mut Lab, selects: Selects) {
    let inventory = lab.inventory.clone();
    for node in &inventory.nodes {
        let netns = node.netns.as_str();
        let facts = lab.netns(netns);
        for link in &mut facts.links {
            if let Some(rest) = link.name.strip_prefix("veth") {
                link.name = format!("{PREFIX}{rest}");
            }
        }
        facts.sysctls = std::mem::take(&mut facts.sysctls)
            .into_iter()
            .map(|(name, value)| (name.replace(".veth", &format!(".{PREFIX}")), value))
            .collect();
        let felix = Felix { inventory: &inventory, selects };
        let (rules, sets) = felix.of_node(node.name.as_str());
        lab.iptables(netns, &rules);
        lab.netns(netns).netfilter.ipset = Some(sets);
    }
}

/// What enforces the policies of a node.
struct Felix<'a> {
    inventory: &'a Inventory,
    selects: Selects,
}

/// A direction, as Felix abbreviates it.
#[derive(Clone, Copy)]
struct Way {
    policy_type: PolicyType,
    /// Of a pod's chain.
    pod: &'static str,
    /// Of a policy's chain.
    policy: &'static str,
    /// Of a profile's chain.
    profile: &'static str,
    /// Of the chain that leads to pods' chains, and the device by which it does.
    dispatch: (&'static str, &'static str),
    /// The side of packets that rules select.
    side: &'static str,
}

const WAYS: [Way; 2] = [
    Way {
        policy_type: PolicyType::Egress,
        pod: "cali-fw",
        policy: "cali-po",
        profile: "cali-pro",
        dispatch: ("cali-from-wl-dispatch", "-i"),
        side: "dst",
    },
    Way {
        policy_type: PolicyType::Ingress,
        pod: "cali-tw",
        policy: "cali-pi",
        profile: "cali-pri",
        dispatch: ("cali-to-wl-dispatch", "-o"),
        side: "src",
    },
];

/// Lines of `iptables-save` for one table, and of `ipset save`.
#[derive(Default)]
struct Text {
    chains: String,
    rules: String,
    sets: BTreeMap<String, Vec<String>>,
}

impl Text {
    fn chain(&mut self, name: &str) {
        writeln!(self.chains, ":{name} - [0:0]").expect("writing to a string cannot fail");
    }

    fn rule(&mut self, rule: impl std::fmt::Display) {
        writeln!(self.rules, "-A {rule}").expect("writing to a string cannot fail");
    }
}

impl Felix<'_> {
    fn of_node(&self, node: &str) -> (String, String) {
        let mut text = Text::default();
        let comment = |what: &str| format!("-m comment --comment \"{what}\"");
        for chain in ["cali-FORWARD", "cali-INPUT", "cali-OUTPUT", "cali-wl-to-host"] {
            text.chain(chain);
        }
        text.rule("INPUT -j cali-INPUT");
        text.rule("FORWARD -j cali-FORWARD");
        text.rule(format!(
            "FORWARD {} -m mark --mark {ACCEPTED} -j ACCEPT",
            comment("Policy explicitly accepted packet.")
        ));
        text.rule("OUTPUT -j cali-OUTPUT");
        text.rule("cali-FORWARD -j MARK --set-xmark 0x0/0xe0000");
        let pods: Vec<_> = self.inventory.pods.iter().filter(|pod| pod.node.as_str() == node).collect();
        for way in WAYS {
            let (dispatch, device) = way.dispatch;
            text.chain(dispatch);
            text.rule(format!("cali-FORWARD {device} {PREFIX}+ -j {dispatch}"));
            let mut enforced: BTreeMap<String, &NetworkPolicy> = BTreeMap::new();
            for pod in &pods {
                let name = device_of(pod);
                text.rule(format!("{dispatch} {device} {name} -g {}-{name}", way.pod));
                for policy in self.isolating(pod, way.policy_type) {
                    enforced.insert(chain_of(way, policy), policy);
                }
                self.pod(&mut text, pod, way);
            }
            text.rule(format!("{dispatch} {} -j DROP", comment("Unknown interface")));
            for (chain, policy) in enforced {
                self.policy(&mut text, &chain, policy, way);
            }
            let profile = format!("{}-kns.shop", way.profile);
            text.chain(&profile);
            text.rule(format!("{profile} -j MARK --set-xmark {ACCEPTED}"));
            text.rule(format!("{profile} -m mark --mark {ACCEPTED} -j RETURN"));
        }
        text.rule(format!("cali-INPUT -i {PREFIX}+ -g cali-wl-to-host"));
        text.rule("cali-wl-to-host -j cali-from-wl-dispatch");
        text.rule("cali-wl-to-host -j ACCEPT");
        let rules = format!(
            "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{}{}COMMIT\n",
            text.chains, text.rules
        );
        let mut sets = String::new();
        for (name, members) in text.sets {
            writeln!(sets, "create {name} hash:net family inet hashsize 1024 maxelem 1048576")
                .expect("writing to a string cannot fail");
            for member in members {
                writeln!(sets, "add {name} {member}").expect("writing to a string cannot fail");
            }
        }
        (rules, sets)
    }

    /// The chain of a pod: `cali-fw-…` for what it sends, `cali-tw-…` for what it is sent.
    fn pod(&self, text: &mut Text, pod: &Pod, way: Way) {
        let chain = format!("{}-{}", way.pod, device_of(pod));
        text.chain(&chain);
        text.rule(format!("{chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
        text.rule(format!("{chain} -m conntrack --ctstate INVALID -j DROP"));
        text.rule(format!("{chain} -j MARK --set-xmark 0x0/0x10000"));
        if way.policy_type == PolicyType::Egress {
            text.rule(format!("{chain} -p udp -m multiport --dports 4789 -j DROP"));
            text.rule(format!("{chain} -p ipencap -j DROP"));
        }
        let policies = self.isolating(pod, way.policy_type);
        if !policies.is_empty() {
            text.rule(format!("{chain} -j MARK --set-xmark {NOT_PASSED}"));
            for policy in policies {
                text.rule(format!("{chain} -m mark --mark {NOT_PASSED} -j {}", chain_of(way, policy)));
                text.rule(format!("{chain} -m mark --mark {ACCEPTED} -j RETURN"));
            }
            text.rule(format!(
                "{chain} -m comment --comment \"Drop if no policies passed packet\" -m mark --mark {NOT_PASSED} -j DROP"
            ));
        }
        text.rule(format!("{chain} -j {}-kns.shop", way.profile));
        text.rule(format!("{chain} -m mark --mark {ACCEPTED} -j RETURN"));
        text.rule(format!("{chain} -m comment --comment \"Drop if no profiles matched\" -j DROP"));
    }

    /// The chain of a policy, with the sets that its rules ask.
    fn policy(&self, text: &mut Text, chain: &str, policy: &NetworkPolicy, way: Way) {
        text.chain(chain);
        let rules: Vec<(&[PolicyPeer], &[PolicyPort])> = match way.policy_type {
            PolicyType::Ingress => {
                policy.spec.ingress.iter().map(|rule| (&*rule.from, &*rule.ports)).collect()
            }
            PolicyType::Egress => policy.spec.egress.iter().map(|rule| (&*rule.to, &*rule.ports)).collect(),
        };
        for (rule, (peers, ports)) in rules.into_iter().enumerate() {
            let mut partners = vec![String::new()];
            if !peers.is_empty() {
                partners.clear();
            }
            for (number, peer) in peers.iter().enumerate() {
                let set = format!("cali40s:{}-{rule}-{number}", chain.trim_start_matches("cali-"));
                let members = self.inventory.pods.iter().filter(|pod| self.is_selected(policy, peer, pod));
                text.sets.insert(set.clone(), members.map(|pod| pod.ip.to_string()).collect());
                partners.push(format!("-m set --match-set {set} {} ", way.side));
            }
            for partner in partners {
                for port in matching(ports) {
                    text.rule(format!("{chain} {partner}{port}-j MARK --set-xmark {ACCEPTED}"));
                    text.rule(format!("{chain} -m mark --mark {ACCEPTED} -j RETURN"));
                }
            }
        }
    }

    fn isolating(&self, pod: &Pod, way: PolicyType) -> Vec<&NetworkPolicy> {
        let isolates = |policy: &&NetworkPolicy| {
            policy.namespace == pod.namespace
                && policy.spec.policy_types.contains(&way)
                && (self.selects)(&policy.spec.pod_selector, &pod.labels)
        };
        self.inventory.policies.iter().filter(isolates).collect()
    }

    fn is_selected(&self, policy: &NetworkPolicy, peer: &PolicyPeer, pod: &Pod) -> bool {
        let labels = |name: &str| {
            let known = self.inventory.namespaces.iter().find(|namespace| namespace.name == name);
            known.map(|namespace| namespace.labels.clone()).unwrap_or_default()
        };
        let namespace = match &peer.namespace_selector {
            Some(selector) => (self.selects)(selector, &labels(&pod.namespace)),
            None => pod.namespace == policy.namespace,
        };
        let by_pod = |selector: &LabelSelector| (self.selects)(selector, &pod.labels);
        namespace && peer.pod_selector.as_ref().is_none_or(by_pod)
    }
}

/// The device of a pod in its node's namespace.
fn device_of(pod: &Pod) -> String {
    format!("{PREFIX}{}", pod.name.trim_start_matches('p'))
}

fn chain_of(way: Way, policy: &NetworkPolicy) -> String {
    format!("{}-{}", way.policy, policy.name)
}

/// Ports as the matching parts of rules; one that matches all if there are none.
fn matching(ports: &[PolicyPort]) -> Vec<String> {
    if ports.is_empty() {
        return vec![String::new()];
    }
    let one = |port: &PolicyPort| {
        let protocol = match port.protocol {
            TransportProtocol::Tcp => "tcp",
            TransportProtocol::Udp => "udp",
            TransportProtocol::Sctp => "sctp",
        };
        match (&port.port, port.end_port) {
            (Some(PortRef::Number(first)), Some(last)) => {
                format!("-p {protocol} -m multiport --dports {first}:{last} ")
            }
            (Some(PortRef::Number(number)), None) => format!("-p {protocol} -m multiport --dports {number} "),
            _ => format!("-p {protocol} "),
        }
    };
    ports.iter().map(one).collect()
}
