//! What is predicted of many flows at once is what is predicted of each alone.

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use support::{DATAPLANES, Dataplane, Lab, ip};
use waymark_lab::calico;
use waymark_proto::{Disposition, Flow, NetworkPolicy, PathSet, Place, Protocol, Step};
use waymark_sim::{Aim, Cluster, Outcome, Predictor, predict, selects};

const IPTABLES: &str = include_str!("fixtures/kube-proxy-iptables.txt");
const NFT: &str = include_str!("fixtures/kube-proxy-nft.json");

/// The same of a whole prediction.
fn ends(paths: &PathSet) -> (f64, Vec<(f64, Disposition, Step)>) {
    let (mut delivered, mut failures) = (0.0, Vec::new());
    let end = |step: &Step| Step { flow: None, ..step.clone() };
    for branch in &paths.branches {
        if branch.path.disposition() != Disposition::Delivered {
            failures.push((branch.probability, branch.path.disposition(), end(branch.path.last())));
        }
        for answer in &branch.answer {
            let probability = branch.probability * answer.probability;
            if answer.path.disposition() == Disposition::Delivered {
                delivered += probability;
            } else {
                failures.push((probability, answer.path.disposition(), end(answer.path.last())));
            }
        }
    }
    (delivered, failures)
}

fn same(cluster: &Cluster, start: &Place, flow: &Flow, outcome: &Outcome) {
    let (delivered, failures) = ends(&predict(cluster, start, flow));
    assert!((outcome.delivered - delivered).abs() < 1e-9, "{flow}: {outcome:?}, not {delivered}");
    match &outcome.failure {
        None => assert_eq!(failures, [], "{flow}"),
        Some(failure) => {
            let most = failures.iter().map(|(probability, ..)| *probability).fold(0.0, f64::max);
            let told = |(probability, disposition, step): &(f64, Disposition, Step)| {
                let likely = *probability >= most - 1e-9;
                // Where a packet leaves the cluster, or its device's other end is not there, no step decides.
                likely
                    && *disposition == failure.disposition
                    && failure.step.as_ref().is_none_or(|own| own == step)
            };
            assert!(failures.iter().any(told), "{flow}: {failure:?}, not one of {failures:#?}");
        }
    }
}

/// Asks for all flows of a few sources in rows, and one by one, twice from different ports.
fn compare(lab: &Lab, targets: &[(&str, u16)]) {
    let cluster = lab.cluster();
    let mut predictor = Predictor::new(&cluster);
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp];
    let aims: Vec<Aim> = targets
        .iter()
        .flat_map(|&(dst, dst_port)| protocols.map(|protocol| Aim { dst: ip(dst), protocol, dst_port }))
        .collect();
    for (start, src) in [
        ("pod1-1", "10.244.1.10"),
        ("pod1-2", "10.244.1.11"),
        ("pod2-1", "10.244.2.10"),
        ("node1", "192.168.77.1"),
    ] {
        let start = lab.place(start);
        let row = predictor.row(&start, ip(src), &aims);
        for (aim, cell) in aims.iter().zip(&row.cells) {
            for src_port in [50_000, 1_000, 50_000] {
                let has_ports = aim.protocol.has_ports();
                let (src_port, dst_port) = if has_ports { (src_port, aim.dst_port) } else { (1, 1) };
                let flow = Flow { src: ip(src), dst: aim.dst, protocol: aim.protocol, src_port, dst_port };
                same(&cluster, &start, &flow, &predictor.outcome(&start, &flow));
                if src_port == 50_000 {
                    same(&cluster, &start, &flow, &row.outcomes[*cell as usize]);
                }
            }
        }
    }
}

const PODS: [(&str, u16); 4] =
    [("10.244.1.10", 80), ("10.244.1.11", 53), ("10.244.2.10", 80), ("10.244.2.11", 9)];

#[test]
fn services_are_predicted_alike() {
    let services = [("10.96.0.10", 80), ("10.96.0.10", 81), ("10.96.0.11", 80), ("10.244.2.10", 80)];
    for dataplane in DATAPLANES {
        for mode in ["iptables", "nft"] {
            let mut lab = Lab::new(dataplane);
            for node in ["node1", "node2"] {
                if mode == "nft" { lab.nft(node, NFT) } else { lab.iptables(node, IPTABLES) }
            }
            compare(&lab, &services);
        }
    }
}

#[test]
fn what_looks_at_source_ports_is_predicted_for_each() {
    let mut lab = Lab::new(Dataplane::HostGw);
    lab.iptables(
        "node1",
        "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -m tcp --sport 1000 -j DROP\nCOMMIT\n",
    );
    compare(&lab, &PODS);
    // The answer's destination port is the same.
    lab.iptables(
        "node1",
        "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -m tcp --dport 1000 -j DROP\nCOMMIT\n",
    );
    compare(&lab, &PODS);
    lab.iptables("node1", "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --sport 1000 -j DNAT --to-destination 10.244.1.11\nCOMMIT\n");
    compare(&lab, &PODS);
    let mut lab = Lab::new(Dataplane::Routed);
    let mut rule = lab.netns("node1").rules[1].clone();
    (rule.priority, rule.ip_protocol, rule.src_ports) =
        (7, Some(6), Some(serde_json::from_str("{\"first\":1000,\"last\":1000}").unwrap()));
    rule.action = waymark_proto::RuleAction::Prohibit;
    lab.netns("node1").rules.insert(1, rule);
    compare(&lab, &PODS);
}

fn policy(number: usize, app: u8, ingress: bool, tier: u8, ports: &[u16]) -> NetworkPolicy {
    let (kind, rules, peers) =
        if ingress { ("Ingress", "ingress", "from") } else { ("Egress", "egress", "to") };
    let ports: Vec<_> = ports.iter().map(|port| serde_json::json!({ "port": port })).collect();
    serde_json::from_value(serde_json::json!({
        "namespace": "shop", "name": format!("policy-{number}"),
        "spec": {
            "podSelector": { "matchLabels": { "app": app.to_string() } },
            "policyTypes": [kind],
            rules: [{ peers: [{ "podSelector": { "matchLabels": { "tier": tier.to_string() } } }], "ports": ports }],
        },
    }))
    .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn policies_are_predicted_alike(
        labels in prop::collection::vec((0..2_u8, 0..2_u8), 4),
        policies in prop::collection::vec(
            (0..2_u8, any::<bool>(), 0..2_u8, prop::sample::subsequence(vec![80, 53, 9], 0..3)), 0..5),
    ) {
        let mut lab = Lab::new(Dataplane::Routed);
        for (pod, (app, tier)) in lab.inventory.pods.iter_mut().zip(labels) {
            pod.labels = BTreeMap::from([("app".into(), app.to_string()), ("tier".into(), tier.to_string())]);
        }
        let policies = policies.iter().enumerate();
        lab.inventory.policies =
            policies.map(|(number, (app, ingress, tier, ports))| policy(number, *app, *ingress, *tier, ports)).collect();
        calico::enforce(&mut lab, selects);
        compare(&lab, &PODS);
    }
}
