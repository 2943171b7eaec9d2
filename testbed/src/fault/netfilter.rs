//! Rules that drop or reject, at each netfilter hook.

use waymark_proto::{Cause, Hook};

use super::{Breakage, EVERY, Fault, ICMP, TCP, TCP6, UDP, in_pod, on_node, returning};
use crate::plan::NodePlan;
use crate::script::{Script, Tool};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "forward-drop",
        about: "iptables FORWARD of the target's node drops what is for the target",
        dataplanes: EVERY,
        traffic: TCP,
        expected: |site| on_node(site.target_node(), Hook::NetfilterForward, Cause::FilterDrop),
        breakage: |site| {
            iptables(Tool::Iptables, site.target_node(), &format!("-d {}/32 -j DROP", site.target.ip))
        },
    },
    Fault {
        name: "forward6-drop",
        about: "ip6tables FORWARD of the target's node drops what is for the target",
        dataplanes: EVERY,
        traffic: TCP6,
        expected: |site| on_node(site.target_node(), Hook::NetfilterForward, Cause::FilterDrop),
        breakage: |site| {
            iptables(Tool::Ip6tables, site.target_node(), &format!("-d {}/128 -j DROP", site.target.ip6))
        },
    },
    Fault {
        name: "forward-reject",
        about: "iptables FORWARD of the source's node rejects what is for the target",
        dataplanes: EVERY,
        traffic: UDP,
        expected: |site| on_node(site.source_node(), Hook::NetfilterForward, Cause::FilterReject),
        breakage: |site| {
            let rule = format!("-d {}/32 -j REJECT --reject-with icmp-admin-prohibited", site.target.ip);
            iptables(Tool::Iptables, site.source_node(), &rule)
        },
    },
    Fault {
        name: "nft-forward-drop",
        about: "a native nftables chain of the target's node drops what is for the target",
        dataplanes: EVERY,
        traffic: TCP,
        expected: |site| on_node(site.target_node(), Hook::NetfilterForward, Cause::FilterDrop),
        breakage: |site| {
            nft(
                &site.target_node().netns,
                "nft-forward-drop",
                "forward",
                &format!("ip daddr {}", site.target.ip),
            )
        },
    },
    Fault {
        name: "prerouting-drop",
        about: "a native nftables chain drops what comes to the target's node for the target",
        dataplanes: EVERY,
        traffic: ICMP,
        expected: |site| on_node(site.target_node(), Hook::NetfilterPrerouting, Cause::FilterDrop),
        breakage: |site| {
            nft(
                &site.target_node().netns,
                "prerouting-drop",
                "prerouting",
                &format!("ip daddr {}", site.target.ip),
            )
        },
    },
    Fault {
        name: "postrouting-drop",
        about: "a native nftables chain drops what leaves the source's node for the target",
        dataplanes: EVERY,
        traffic: TCP,
        expected: |site| on_node(site.source_node(), Hook::NetfilterPostrouting, Cause::FilterDrop),
        breakage: |site| {
            nft(
                &site.source_node().netns,
                "postrouting-drop",
                "postrouting",
                &format!("ip daddr {}", site.target.ip),
            )
        },
    },
    Fault {
        name: "pod-output-drop",
        about: "a rule in the source pod's own OUTPUT drops what is for the target",
        dataplanes: EVERY,
        traffic: TCP,
        expected: |site| in_pod(site, site.source, Hook::NetfilterOutput, Cause::FilterDrop),
        breakage: |site| {
            nft(&site.source.netns, "pod-output-drop", "output", &format!("ip daddr {}", site.target.ip))
        },
    },
    Fault {
        name: "pod-input-drop",
        about: "a rule in the target pod's own INPUT drops what comes from the source",
        dataplanes: EVERY,
        traffic: UDP,
        expected: |site| in_pod(site, site.target, Hook::NetfilterInput, Cause::FilterDrop),
        breakage: |site| {
            nft(
                &site.target.netns,
                "pod-input-drop",
                "input",
                &format!("ip saddr {} meta l4proto udp", site.source.ip),
            )
        },
    },
    Fault {
        name: "return-drop",
        about: "iptables FORWARD of the source's node drops the answers",
        dataplanes: EVERY,
        traffic: TCP,
        expected: |site| returning(on_node(site.source_node(), Hook::NetfilterForward, Cause::FilterDrop)),
        breakage: |site| {
            let rule = format!("-s {}/32 -d {}/32 -j DROP", site.target.ip, site.source.ip);
            iptables(Tool::Iptables, site.source_node(), &rule)
        },
    },
];

/// A rule at the head of `filter FORWARD`.
fn iptables(tool: Tool, node: &NodePlan, rule: &str) -> Breakage {
    let table =
        |line: String| Script::new(tool, &node.netns, ["*filter".to_owned(), line, "COMMIT".to_owned()]);
    Breakage::scripts(table(format!("-I FORWARD 1 {rule}")), table(format!("-D FORWARD {rule}")))
}

/// A table of its own with one rule that drops.
fn nft(netns: &str, name: &str, hook: &str, matches: &str) -> Breakage {
    let table = format!("inet fault-{name}");
    let inject = [
        format!("add table {table}"),
        format!("add chain {table} drops {{ type filter hook {hook} priority 10; }}"),
        format!("add rule {table} drops {matches} drop"),
    ];
    let undo = [format!("delete table {table}")];
    Breakage::scripts(Script::new(Tool::Nft, netns, inject), Script::new(Tool::Nft, netns, undo))
}
