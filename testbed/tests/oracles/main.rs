//! Outside oracles, in one run, on every scenario: other tools see what Waymark sees, or the test fails.
//!
//! | oracle | tells | compared with |
//! |---|---|---|
//! | `tcpdump` in each namespace | which marked packet came by which device, and which way | sightings at drivers |
//! | `nft monitor` in each namespace | which rules packets met, with what verdict | sightings of rules |
//! | `perf record -e skb:kfree_skb` | what the kernel dropped, where and why | drops |
//! | counters of devices and queues | how many packets they dropped | drops there |
//!
//! A scenario is a fault of the catalogue, two of them, or a healthy flow. Comparisons are pure; each says in its file what it
//! compares, and what its oracle cannot tell. Nothing is compared with what Waymark concludes, only with what it saw: how often
//! its conclusions are right is for `waymark-testbed accuracy` to say.
//!
//! * `scenario`: what is broken, and asked
//! * `evidence`: what all sides saw
//! * `waymark`: what Waymark says it saw
//! * `capture`, `rules`, `drops`, `counters`: what each oracle says
//! * `compare`: one against the other
//! * `wire`: which packet is marked
//! * `tool`: tools beside a check
//! * `clock`: the times that they tell
//! * `awake`: what keeps perf from missing what happens on idle processors

#[path = "../common/mod.rs"]
mod common;

mod awake;
mod capture;
mod clock;
mod compare;
mod counters;
mod drops;
mod evidence;
mod rules;
mod scenario;
mod tool;
mod waymark;
mod wire;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use common::{Testbed, privileged};
use evidence::{Extent, Noticed};
use rustix::process::setpriority_process;
use scenario::Scenario;
use waymark_testbed::{Cluster, Dataplane, Fault, faults, healthy_flows, pairs};

/// Healthy flows beside the faults.
const HEALTHY: usize = 3;

/// Sightings that are left out to see whether that is noticed, of each kind: of a scenario among few, and among many.
const LEFT_OUT: [usize; 2] = [40, 4];
/// Of a hundred sightings that are left out so many are noticed at least. Others were the last of their round, when it is
/// not certain that tracers were still armed, or of buffers that nobody could tell from others.
const ENOUGH: usize = 75;

/// That of the tools, and of the threads that read what they tell.
const PRIORITY: i32 = -10;

/// Whether all oracles are there. Without one it is said what is left out, and under CI that fails.
fn have_oracles() -> bool {
    let lacks = |tool: &&str| {
        !Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let missing: Vec<_> = ["tcpdump", "nft", "perf"].into_iter().filter(lacks).collect();
    assert!(
        missing.is_empty() || std::env::var_os("CI").is_none(),
        "{missing:?} missing, and under CI nothing is skipped"
    );
    if !missing.is_empty() {
        eprintln!("SKIPPED: comparing with outside oracles needs {missing:?}: run deploy/setup.sh");
    }
    missing.is_empty()
}

/// Plays scenarios of one dataplane, all of them whatever is found. Of each, so many sightings of a kind are left out one
/// after the other: a comparison that would not notice compares nothing.
#[track_caller]
fn oracles_agree(dataplane: Dataplane, scenarios: fn(&Cluster) -> Vec<Scenario>, left_out: usize) {
    if !privileged("comparing with outside oracles") || !have_oracles() {
        return;
    }
    let testbed = Testbed::named();
    testbed.succeed(&["up", "--dataplane", dataplane.name()]);
    // What the kernel tells waits only so long, even where others are busy: the tools and who reads them come first.
    setpriority_process(None, PRIORITY).unwrap();
    let cluster = testbed.cluster();
    let (mut extent, mut wrong, mut noticed) = (Extent::default(), Vec::new(), [Noticed::default(); 3]);
    // A few by name, for whoever looks into one.
    let wanted = std::env::var("SCENARIOS").unwrap_or_default();
    let is_wanted =
        |scenario: &Scenario| wanted.is_empty() || wanted.split(',').any(|name| scenario.name == name);
    let started = Instant::now();
    for scenario in scenarios(&cluster).into_iter().filter(is_wanted) {
        let name = format!("{dataplane}, {}", scenario.name);
        let told: Vec<String> = match scenario.play(&testbed, &cluster) {
            Ok(evidence) => {
                println!("{name}: {:?}", evidence.extent());
                extent += evidence.extent();
                noticed.iter_mut().zip(evidence.noticed(left_out)).for_each(|(all, more)| *all += more);
                evidence.disagreements().iter().map(|told| format!("{name}: {told}")).collect()
            }
            Err(why) => vec![format!("{name}: {why}")],
        };
        wrong.extend(told.into_iter().inspect(|told| println!("DISAGREE: {told}")));
    }
    println!("{dataplane}: {extent:?} in {:?}; left out and noticed: {noticed:?}", started.elapsed());
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
    let blind = noticed.iter().any(|Noticed { noticed, of }| *of == 0 || noticed * 100 < of * ENOUGH);
    assert!(!wanted.is_empty() || !blind, "what is left out is not noticed: {noticed:?}");
}

/// The first of each category.
fn one_of_each_kind(cluster: &Cluster) -> Vec<Scenario> {
    let mut kinds = BTreeSet::new();
    let applies =
        faults().filter(|fault| fault.in_subset() && fault.is_for(cluster.dataplane, cluster.proxy));
    let first =
        applies.filter(|fault| kinds.insert(fault.category)).map(|fault| Scenario::of_fault(fault, cluster));
    healthy(cluster).chain(first).collect()
}

/// All of them.
fn all(cluster: &Cluster) -> Vec<Scenario> {
    let applies = |fault: &Fault| fault.is_for(cluster.dataplane, cluster.proxy);
    let single = faults().filter(|fault| applies(fault)).map(|fault| Scenario::of_fault(fault, cluster));
    let both = pairs().iter().filter(|pair| applies(pair.first) && applies(pair.second));
    healthy(cluster).chain(single).chain(both.map(|pair| Scenario::of_pair(pair, cluster))).collect()
}

fn healthy(cluster: &Cluster) -> impl Iterator<Item = Scenario> {
    healthy_flows(cluster, HEALTHY).into_iter().map(Scenario::healthy)
}

#[test]
fn they_agree_on_a_fault_of_each_kind() {
    oracles_agree(Dataplane::BridgeVxlan, one_of_each_kind, LEFT_OUT[0]);
}

#[test]
#[ignore = "takes half an hour: make oracles"]
fn they_agree_on_bridge_hostgw() {
    oracles_agree(Dataplane::BridgeHostgw, all, LEFT_OUT[1]);
}

#[test]
#[ignore = "takes half an hour: make oracles"]
fn they_agree_on_bridge_vxlan() {
    oracles_agree(Dataplane::BridgeVxlan, all, LEFT_OUT[1]);
}

#[test]
#[ignore = "takes half an hour: make oracles"]
fn they_agree_on_routed() {
    oracles_agree(Dataplane::Routed, all, LEFT_OUT[1]);
}
