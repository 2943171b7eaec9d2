//! Who reaches whom in a cluster of 1,000 pods under 500 policies, which Calico's rules enforce.

use std::collections::BTreeMap;
use std::time::Instant;

use waymark_lab::{Dataplane, Lab, calico};
use waymark_proto::{Disposition, Expectation, Flow, Inventory, NetworkPolicy, Pod, Protocol};
use waymark_sim::{Aim, Cluster, Outcome, Predictor, Row, intend, selects};

use crate::row as line;

const NODES: u8 = 20;
const PODS: u8 = 50;
const POLICIES: usize = 500;
const PORTS: [(Protocol, u16); 3] = [(Protocol::Tcp, 80), (Protocol::Udp, 53), (Protocol::Tcp, 443)];
/// Groups of pods that policies tell apart.
const APPS: usize = 100;
const TIERS: usize = 7;
/// One cell of so many is compared with what the policies ask for.
const ONE_OF: usize = 997;
/// Limits: seconds, and bytes.
const LIMIT_S: f64 = 20.0;
const LIMIT_MIB: f64 = 1024.0;

fn policy(number: usize) -> NetworkPolicy {
    let (app, tier, other) = (number % APPS, number % TIERS, (number / 2) % TIERS);
    let (kind, rules, peers) =
        if number.is_multiple_of(2) { ("Ingress", "ingress", "from") } else { ("Egress", "egress", "to") };
    let ports = match number % 3 {
        0 => r#"[{"port":80}]"#,
        1 => r#"[{"port":80},{"protocol":"UDP","port":53}]"#,
        _ => "[]",
    };
    let json = format!(
        r#"{{"namespace":"shop","name":"policy-{number}","spec":{{"podSelector":{{"matchLabels":{{"app":"{app}"}}}},
            "policyTypes":["{kind}"],"{rules}":[{{"{peers}":[
                {{"podSelector":{{"matchLabels":{{"tier":"{tier}"}}}}}},
                {{"podSelector":{{"matchLabels":{{"tier":"{other}"}}}}}}],"ports":{ports}}}]}}}}"#
    );
    serde_json::from_str(&json).expect("the policy is right")
}

fn lab() -> Lab {
    let mut lab = Lab::of(Dataplane::Routed, NODES, PODS);
    for (number, pod) in lab.inventory.pods.iter_mut().enumerate() {
        let label = |name: &str, of: usize| (name.to_owned(), (number % of).to_string());
        pod.labels = BTreeMap::from([label("app", APPS), label("tier", TIERS)]);
    }
    lab.inventory.policies = (0..POLICIES).map(policy).collect();
    for facts in lab.facts.iter_mut().flat_map(|facts| &mut facts.namespaces) {
        let mut more = facts.sockets.clone();
        more.retain(|socket| socket.protocol == Protocol::Tcp);
        for socket in &mut more {
            socket.port = 443;
        }
        facts.sockets.extend(more);
    }
    calico::enforce(&mut lab, selects);
    lab
}

/// The most memory that this process had, in MiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::INFINITY) / 1024.0
}

fn agrees(inventory: &Inventory, from: &Pod, aim: &Aim, outcome: &Outcome) -> bool {
    let flow =
        Flow { src: from.ip, dst: aim.dst, protocol: aim.protocol, src_port: 50_000, dst_port: aim.dst_port };
    match intend(inventory, &flow).expectation {
        Expectation::Allowed => outcome.failure.is_none(),
        Expectation::Denied => {
            let dropped = |failure: &waymark_sim::Failure| failure.disposition == Disposition::Dropped;
            outcome.failure.as_ref().is_some_and(dropped)
        }
        other => panic!("{flow}: {other:?}"),
    }
}

/// Measures; says whether all limits are kept.
pub fn measure() -> bool {
    let Lab { inventory, facts } = lab();
    let aims = inventory
        .pods
        .iter()
        .flat_map(|pod| PORTS.map(|(protocol, dst_port)| Aim { dst: pod.ip, protocol, dst_port }));
    let aims: Vec<Aim> = aims.collect();
    let started = Instant::now();
    let mut cluster = Cluster::new(&inventory);
    for facts in facts {
        cluster.add(facts).expect("the facts are right");
    }
    let compiled = started.elapsed().as_secs_f64();
    let pods: Vec<&Pod> = inventory.pods.iter().collect();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let rows: Vec<(&Pod, Row)> = std::thread::scope(|scope| {
        let part = |pods: &'_ [&'_ Pod]| -> Vec<Row> {
            let predictor = Predictor::new(&cluster);
            let of = |pod: &&Pod| predictor.row(&pod.place(), pod.ip, &aims);
            pods.iter().map(of).collect()
        };
        let parts: Vec<_> = pods.chunks(pods.len().div_ceil(threads)).collect();
        let working: Vec<_> = parts.into_iter().map(|pods| scope.spawn(move || part(pods))).collect();
        let rows = working.into_iter().flat_map(|thread| thread.join().expect("it predicts"));
        pods.iter().copied().zip(rows).collect()
    });
    let took = started.elapsed().as_secs_f64();
    let cells: usize = rows.iter().map(|(_, row)| row.cells.len()).sum();
    let cell = |row: &Row, index: usize| row.outcomes[row.cells[index] as usize].clone();
    let width = aims.len();
    let all = rows.iter().enumerate().flat_map(|(at, (pod, row))| {
        let of_row = (0..row.cells.len()).filter(move |index| (at * width + index).is_multiple_of(ONE_OF));
        of_row.map(move |index| (*pod, row, index))
    });
    let compared: Vec<bool> =
        all.map(|(pod, row, index)| agrees(&inventory, pod, &aims[index], &cell(row, index))).collect();
    let right = compared.iter().filter(|agrees| **agrees).count();
    println!("{cells} flows of {} pods under {POLICIES} policies", pods.len());
    println!("{right} of {} are what the policies ask for", compared.len());
    line("facts of all nodes, compiled", compiled, "s", 1.0, None);
    let fast = line("all flows, there and back", took, "s", took / LIMIT_S, Some(("≤", 1.0)));
    let memory = peak();
    let small = line("most memory", memory, "MiB", memory / LIMIT_MIB, Some(("≤", 1.0)));
    fast && small && right == compared.len()
}
