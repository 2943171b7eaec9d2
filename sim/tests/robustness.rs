//! Damaged facts never break a prediction, equal facts give equal predictions, and one more drop rule
//! never delivers what was dropped.

mod support;

use proptest::prelude::*;
use support::{DATAPLANES, Dataplane, Lab, tcp, udp};
use waymark_proto::{Disposition, Facts, Flow, PathSet};
use waymark_sim::{Cluster, predict};

const IPTABLES: &str = include_str!("fixtures/kube-proxy-iptables.txt");
const NFT: &str = include_str!("fixtures/kube-proxy-nft.json");
const MISC: &str = include_str!("fixtures/misc-nft.json");

fn lab(dataplane: usize, rules: usize) -> Lab {
    let mut lab = Lab::new(DATAPLANES[dataplane % 3]);
    for node in ["node1", "node2"] {
        match rules % 4 {
            0 => lab.iptables(node, IPTABLES),
            1 => lab.nft(node, NFT),
            2 => lab.nft(node, MISC),
            _ => {}
        }
    }
    lab
}

fn flow(which: usize) -> (&'static str, Flow) {
    match which % 5 {
        0 => ("pod1-1", tcp("10.244.1.10", "10.96.0.10", 80)),
        1 => ("pod1-1", tcp("10.244.1.10", "10.244.2.10", 80)),
        2 => ("node2", udp("192.168.77.2", "10.244.1.11", 53)),
        3 => ("pod1-2", tcp("10.244.1.11", "10.96.0.11", 80)),
        _ => ("pod2-2", udp("10.244.2.11", "10.244.2.10", 53)),
    }
}

/// Whole numbers, names and lists of facts, changed at one place.
fn mutate(json: &mut serde_json::Value, at: &mut usize, how: usize) {
    use serde_json::Value as Json;
    if *at == 0 {
        *json = match (how % 6, &*json) {
            (0, Json::Array(list)) => Json::Array(list[..list.len() / 2].to_vec()),
            (1, Json::Array(list)) => Json::Array(list.iter().chain(list).cloned().collect()),
            (_, Json::Array(list)) => Json::Array(list.iter().rev().cloned().collect()),
            (0, Json::Number(_)) => Json::from(0),
            (1, Json::Number(_)) => Json::from(255),
            (2, Json::Number(number)) => Json::from(number.as_u64().unwrap_or(1).wrapping_add(1) % 256),
            (_, Json::Number(_)) => Json::from(u32::MAX),
            (_, Json::Bool(flag)) => Json::Bool(!flag),
            (0, Json::String(_)) => Json::from("eth0"),
            (1, Json::String(text)) => Json::from(text.chars().take(text.len() / 2).collect::<String>()),
            (2, Json::String(text)) => Json::from(text.replace("-j ", "-g ")),
            (_, Json::String(text)) => {
                Json::from(text.replace("ACCEPT", "KUBE-SERVICES").replace("10.", "::"))
            }
            (_, other) => other.clone(),
        };
        *at = usize::MAX;
        return;
    }
    *at = at.saturating_sub(1);
    match json {
        Json::Array(list) => list.iter_mut().for_each(|item| {
            if *at != usize::MAX {
                mutate(item, at, how);
            }
        }),
        Json::Object(map) => map.values_mut().for_each(|item| {
            if *at != usize::MAX {
                mutate(item, at, how);
            }
        }),
        _ => {}
    }
}

fn size(json: &serde_json::Value) -> usize {
    match json {
        serde_json::Value::Array(list) => 1 + list.iter().map(size).sum::<usize>(),
        serde_json::Value::Object(map) => 1 + map.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

fn sums_to_one(paths: &PathSet) -> bool {
    (paths.branches.iter().map(|branch| branch.probability).sum::<f64>() - 1.0).abs() < 1e-6
}

fn check_shape(paths: &PathSet) -> Result<(), TestCaseError> {
    prop_assert!(sums_to_one(paths), "{}", support::render(paths));
    for branch in &paths.branches {
        let delivered = branch.path.disposition() == Disposition::Delivered;
        prop_assert_eq!(delivered, !branch.answer.is_empty());
        for answer in &branch.answer {
            prop_assert!(answer.answer.is_empty());
        }
        let json = serde_json::to_string(&branch.path).unwrap();
        prop_assert!(serde_json::from_str::<waymark_proto::Path>(&json).is_ok(), "a path of good shape");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_facts_never_break_it(
        dataplane in 0usize..3,
        rules in 0usize..4,
        which in 0usize..5,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..6), 1..5),
    ) {
        let lab = lab(dataplane, rules);
        let mut cluster = Cluster::new(&lab.inventory);
        for (node, facts) in lab.facts.iter().enumerate() {
            let mut json = serde_json::to_value(facts).unwrap();
            for (at, how) in &changes {
                let mut at = at.index(size(&json)) + node;
                let mut changed = json.clone();
                mutate(&mut changed, &mut at, *how);
                // A change that no longer is a document of facts is refused before it comes here.
                if serde_json::from_value::<Facts>(changed.clone()).is_ok() {
                    json = changed;
                }
            }
            let _ = cluster.add(serde_json::from_value(json).unwrap());
        }
        let (start, flow) = flow(which);
        let start = support::place(start);
        let first = predict(&cluster, &start, &flow);
        check_shape(&first)?;
        prop_assert_eq!(&first, &predict(&cluster, &start, &flow), "the same facts, the same prediction");
    }

    #[test]
    fn damaged_rules_never_break_it(text in "[-*:!A-Za-z0-9/., \"\n]{0,200}", cut in any::<prop::sample::Index>()) {
        let mut lab = Lab::new(Dataplane::HostGw);
        let (head, _) = IPTABLES.split_at(cut.index(IPTABLES.len()));
        lab.iptables("node1", &format!("{head}{text}"));
        lab.netns("node1").netfilter.ipset = Some(text);
        let (start, flow) = flow(0);
        check_shape(&lab.predict(start, &flow))?;
    }

    #[test]
    fn one_more_drop_rule_delivers_nothing_more(
        dataplane in 0usize..3,
        which in 0usize..5,
        chain in prop::sample::select(vec!["INPUT", "FORWARD", "OUTPUT"]),
        net in prop::sample::select(vec!["10.244.1.0/24", "10.244.2.10/32", "0.0.0.0/0", "10.96.0.0/12"]),
        node in prop::sample::select(vec!["node1", "node2", "pod1-1", "pod2-1"]),
        first in any::<bool>(),
    ) {
        let share = |lab: &Lab| {
            let (start, flow) = flow(which);
            let paths = lab.predict(start, &flow);
            let delivered = paths.branches.iter().filter(|b| b.path.disposition() == Disposition::Delivered);
            delivered.map(|branch| branch.probability).sum::<f64>()
        };
        let base = format!("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A {chain} -s 10.244.1.11/32 -j DROP\n");
        let drop = format!("-A {chain} -d {net} -j DROP\n");
        let mut lab = Lab::new(DATAPLANES[dataplane]);
        lab.iptables(node, &format!("{base}COMMIT\n"));
        let before = share(&lab);
        let with = if first { base.replacen("-A ", &format!("{drop}-A "), 1) } else { format!("{base}{drop}") };
        lab.iptables(node, &format!("{with}COMMIT\n"));
        prop_assert!(share(&lab) <= before + 1e-9);
    }
}

#[test]
fn refused_facts_are_told_apart() {
    let lab = Lab::new(Dataplane::HostGw);
    let mut cluster = Cluster::new(&lab.inventory);
    let refuse = |cluster: &mut Cluster, change: &dyn Fn(&mut Facts)| {
        let mut facts = lab.facts[0].clone();
        change(&mut facts);
        cluster.add(facts).unwrap_err().to_string()
    };
    let told = refuse(&mut cluster, &|facts| facts.node = "stranger".into());
    assert!(told.contains("the inventory has no such node"), "{told}");
    let told = refuse(&mut cluster, &|facts| facts.namespaces.clear());
    assert!(told.contains("no network namespace"), "{told}");
    let told = refuse(&mut cluster, &|facts| facts.api_version = "v0".into());
    assert!(told.contains("version"), "{told}");
    let told = refuse(&mut cluster, &|facts| facts.namespaces.push(facts.namespaces[0].clone()));
    assert!(told.contains("twice"), "{told}");
    assert!(!cluster.has(&"n1".into()), "nothing of refused facts stays");
}
