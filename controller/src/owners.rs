//! Whom a netfilter rule belongs to: the program that wrote its chain, and the object for which it did.
//!
//! What a chain is named is a program's own convention, so each is a row of one table with its source.
//!
//! * `table`: the conventions
//! * `kube_proxy`: chains of Services and of their endpoints
//! * `calico`: chains of pods and of policies

mod calico;
mod kube_proxy;
mod table;

use waymark_proto::{Inventory, Place, RuleRef};

use table::{CONVENTIONS, Convention, Names};

/// Whom a rule belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The program that wrote it.
    pub(crate) program: &'static str,
    /// For what it did, in the words of the cluster: `Service shop/pay:http`.
    pub(crate) object: Option<String>,
    /// Whether it made the chain for rules of the administrator.
    pub(crate) is_left: bool,
}

/// The owner of a rule, if its chain or table is named as some program names them.
pub(crate) fn of_rule(rule: &RuleRef, place: &Place, inventory: &Inventory) -> Option<Owner> {
    let convention: &Convention = CONVENTIONS.iter().find(|convention| convention.fits(rule))?;
    let rest = convention.rest(&rule.chain);
    let object = match convention.names {
        Names::Nothing | Names::Administrator => None,
        Names::Service => {
            kube_proxy::service(inventory, rest).or_else(|| kube_proxy::commented(inventory, rule))
        }
        Names::Endpoint => kube_proxy::endpoint(inventory, rest),
        Names::Comment => kube_proxy::commented(inventory, rule),
        Names::Spelled => kube_proxy::spelled(rest),
        Names::Workload => calico::workload(inventory, place, rest),
        Names::Policy => calico::policy(inventory, convention.prefix, rest),
        Names::Pod => inventory.pod_at(place).map(|pod| format!("Pod {}", pod.full_name())),
    };
    let is_left = convention.names == Names::Administrator;
    Some(Owner { program: convention.program, object, is_left })
}

#[cfg(test)]
mod tests {
    use waymark_proto::{Backend, NetworkPolicy, NetworkPolicySpec, Service};

    use super::*;
    use crate::fixture;

    fn inventory() -> Inventory {
        let mut inventory = fixture::inventory();
        let service = |namespace: &str, name: &str, port_name: Option<&str>, protocol: &str| -> Service {
            let json = format!(
                r#"{{"namespace":"{namespace}","name":"{name}","clusterIP":"10.96.0.10","port":53,"protocol":"{protocol}"}}"#
            );
            let mut service: Service = serde_json::from_str(&json).unwrap();
            service.port_name = port_name.map(str::to_owned);
            service
        };
        let mut plain = service("shop", "pay", None, "tcp");
        plain.backends.push(Backend { pod: None, ip: [10, 244, 2, 10].into(), port: 80, ready: true });
        inventory.services = vec![
            service("default", "kubernetes", Some("https"), "tcp"),
            service("kube-system", "kube-dns", Some("dns"), "udp"),
            service("kube-system", "kube-dns", Some("dns-tcp"), "tcp"),
            plain,
        ];
        inventory.policies = vec![NetworkPolicy {
            namespace: "shop".into(),
            name: "deny".into(),
            spec: NetworkPolicySpec::default(),
        }];
        inventory.pods[0].host_device = Some("cali1a2b3c4d5e6".into());
        inventory
    }

    fn rule(family: &str, table: &str, chain: &str, text: &str) -> RuleRef {
        RuleRef {
            family: family.into(),
            table: table.into(),
            chain: chain.into(),
            handle: None,
            position: Some(1),
            text: Some(text.into()),
        }
    }

    /// `kube-proxy: Service shop/pay`
    fn owner(rule: &RuleRef) -> String {
        let inventory = inventory();
        let pod = inventory.pods[0].clone();
        // Istio's rules are in the pod's own namespace, all others in the node's.
        let is_pods = rule.chain.to_lowercase().starts_with("istio");
        let node = inventory.node(&pod.node).unwrap();
        let place = if is_pods { pod.place() } else { node.place() };
        match of_rule(rule, &place, &inventory) {
            Some(Owner { program, object: Some(object), .. }) => format!("{program}: {object}"),
            Some(Owner { program, is_left: true, .. }) => format!("left by {program}"),
            Some(Owner { program, .. }) => program.to_owned(),
            None => "nobody".to_owned(),
        }
    }

    #[test]
    fn chains_of_kube_proxy_are_named_by_their_service() {
        for (chain, text, expected) in [
            // Seen in any cluster.
            ("KUBE-SVC-NPX46M4PTMTKRN6Y", "", "kube-proxy: Service default/kubernetes:https"),
            ("KUBE-SVC-TCOU7JCQXEZGVUNU", "", "kube-proxy: Service kube-system/kube-dns:dns"),
            ("KUBE-EXT-ERIFXISQEP7F7OF4", "", "kube-proxy: Service kube-system/kube-dns:dns-tcp"),
            ("KUBE-SVC-AAAAAAAAAAAAAAAA", "", "kube-proxy"),
            (
                "KUBE-SERVICES",
                "-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment \"shop/pay has no endpoints\" -j REJECT",
                "kube-proxy: Service shop/pay",
            ),
            (
                "KUBE-SERVICES",
                "-A KUBE-SERVICES -d 10.96.0.1/32 -m comment --comment \"default/kubernetes:https cluster IP\" -j KUBE-SVC-NPX46M4PTMTKRN6Y",
                "kube-proxy: Service default/kubernetes:https",
            ),
            ("KUBE-FORWARD", "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP", "kube-proxy"),
            ("KUBE-FIREWALL", "-A KUBE-FIREWALL -j DROP", "kubelet"),
            ("KUBE-POD-FW-ABCDEFGHIJKLMNOP", "", "kube-router"),
        ] {
            assert_eq!(owner(&rule("ip", "nat", chain, text)), expected, "{chain}");
        }
    }

    #[test]
    fn an_endpoint_is_named_by_service_and_address() {
        let chain = format!("KUBE-SEP-{}", kube_proxy::hash(&["shop/pay", "tcp", "10.244.2.10:80"]));
        let expected = "kube-proxy: Service shop/pay, endpoint 10.244.2.10:80";
        assert_eq!(owner(&rule("ip", "nat", &chain, "")), expected);
    }

    #[test]
    fn chains_of_kube_proxys_nftables_mode_spell_it_out() {
        for (chain, expected) in [
            (
                "service-NWBZK7IH-kube-system/kube-dns/tcp/dns-tcp",
                "kube-proxy: Service kube-system/kube-dns:dns-tcp",
            ),
            ("external-42NFTM6N-ns2/svc2/tcp/p80", "kube-proxy: Service ns2/svc2:p80"),
            ("service-ULMVA6XW-ns1/svc1/tcp/", "kube-proxy: Service ns1/svc1"),
            (
                "endpoint-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80",
                "kube-proxy: Service ns1/svc1:p80, endpoint 10.180.0.1:80",
            ),
            ("nat-prerouting", "kube-proxy"),
        ] {
            assert_eq!(owner(&rule("ip", "kube-proxy", chain, "")), expected, "{chain}");
        }
    }

    #[test]
    fn calicos_chains_are_named_by_pod_and_policy() {
        let policy = |direction: &str| {
            let chain = format!("cali-{direction}-shop/knp.default.deny");
            calico::shortened(&format!("cali-{direction}-"), &chain[8..])
        };
        assert!(policy("pi").starts_with("cali-pi-_") && policy("pi").len() == 28, "{}", policy("pi"));
        for (table, chain, expected) in [
            ("filter", "cali-tw-cali1a2b3c4d5e6".to_owned(), "Calico: Pod shop/cart"),
            ("filter", "cali-fw-cali0000000000".to_owned(), "Calico"),
            ("filter", policy("pi"), "Calico: NetworkPolicy shop/deny"),
            ("filter", policy("po"), "Calico: NetworkPolicy shop/deny"),
            ("nat", "cali-nat-outgoing".to_owned(), "Calico"),
            ("calico", "filter-cali-tw-cali1a2b3c4d5e6".to_owned(), "Calico: Pod shop/cart"),
        ] {
            assert_eq!(owner(&rule("ip", table, &chain, "")), expected, "{chain}");
        }
    }

    #[test]
    fn chains_of_other_programs_are_known_by_their_names() {
        for (family, table, chain, expected) in [
            ("ip", "nat", "CILIUM_POST_nat", "Cilium"),
            ("ip", "raw", "OLD_CILIUM_PRE_raw", "Cilium"),
            ("ip", "filter", "FLANNEL-FWD", "Flannel"),
            ("ip", "flannel-ipv4", "postrtg", "Flannel"),
            ("ip", "nat", "ISTIO_IN_REDIRECT", "Istio: Pod shop/cart"),
            ("inet", "istio-proxy-nat", "istio-output", "Istio: Pod shop/cart"),
            ("ip", "filter", "DOCKER-ISOLATION-STAGE-2", "Docker"),
            ("ip", "nat", "DOCKER", "Docker"),
            ("ip", "docker-bridges", "filter-forward-in__docker0", "Docker"),
            ("ip", "filter", "DOCKER-USER", "left by Docker"),
            ("ip", "nat", "CNI-HOSTPORT-DNAT", "CNI plugin portmap"),
            ("inet", "firewalld", "filter_FORWARD", "firewalld"),
            ("ip", "filter", "ufw-user-forward", "ufw"),
            ("ip", "filter", "FORWARD", "nobody"),
            ("ip", "filter", "DOCKERISH", "nobody"),
        ] {
            assert_eq!(owner(&rule(family, table, chain, "")), expected, "{chain}");
        }
    }
}
