//! What lies between the nodes: the fabric swallows packets, and nobody there says a word.

use waymark_proto::{Cause, Hook};

use super::{Breakage, EVERY, Fault, ICMP, Site, TCP, TUNNELLED, on_node, returning};
use crate::dataplane::VXLAN_PORT;
use crate::plan::NodePlan;
use crate::script::{Script, Tool};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "underlay-drop",
        about: "the fabric drops IPv4 from the source's node to the target's",
        dataplanes: EVERY,
        traffic: TCP,
        expected: |site| on_node(site.source_node(), Hook::Wire, Cause::SilentLoss),
        breakage: |site| {
            swallow(site, "underlay-drop", site.source_node(), site.target_node(), "ether type ip")
        },
    },
    Fault {
        name: "underlay-return-drop",
        about: "the fabric drops IPv4 from the target's node to the source's",
        dataplanes: EVERY,
        traffic: ICMP,
        expected: |site| returning(on_node(site.target_node(), Hook::Wire, Cause::SilentLoss)),
        breakage: |site| {
            swallow(site, "underlay-return-drop", site.target_node(), site.source_node(), "ether type ip")
        },
    },
    Fault {
        name: "underlay-vxlan-block",
        about: "the fabric drops VXLAN from the source's node to the target's, and nothing else",
        dataplanes: TUNNELLED,
        traffic: TCP,
        expected: |site| on_node(site.source_node(), Hook::Wire, Cause::SilentLoss),
        breakage: |site| {
            let vxlan = format!("ether type ip udp dport {VXLAN_PORT}");
            swallow(site, "underlay-vxlan-block", site.source_node(), site.target_node(), &vxlan)
        },
    },
];

/// A rule in the fabric's bridge for one direction. ARP goes through, so that neighbours resolve.
fn swallow(site: &Site, name: &str, from: &NodePlan, to: &NodePlan, matches: &str) -> Breakage {
    let table = format!("bridge fault-{name}");
    let inject = [
        format!("add table {table}"),
        format!("add chain {table} drops {{ type filter hook forward priority 0; }}"),
        format!("add rule {table} drops iifname \"{}\" oifname \"{}\" {matches} drop", from.name, to.name),
    ];
    let script = |lines: &[String]| Script::new(Tool::Nft, &site.cluster.fabric, lines);
    Breakage::scripts(script(&inject), script(&[format!("delete table {table}")]))
}
