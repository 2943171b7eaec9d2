//! Which element of a set a packet is, for the rule that decides on it.

mod support;

use support::{Dataplane, Lab, tcp};
use waymark_proto::{Flow, RuleRef};

fn flow() -> Flow {
    tcp("10.244.1.10", "10.244.2.10", 80)
}

/// What the sets say where the packet of the flow is predicted to die: `set: packet in element`, and the rule that
/// would have matched.
fn said(lab: &Lab) -> Vec<String> {
    let branch = lab.one("pod1-1", &flow());
    let last = branch.path.last();
    let (rule, device) = (last.rule.as_ref().expect("a rule decides"), last.device.as_deref());
    let memberships = lab.cluster().memberships(&last.place, last.hook, device, rule, &last.flow.unwrap());
    let words = |membership: &waymark_sim::Membership| {
        let element = membership.element.as_deref().unwrap_or("nothing");
        let rule = membership.rule.as_ref().and_then(|rule| rule.position).map(|n| format!(" (rule {n})"));
        format!("{}: {} in {element}{}", membership.set, membership.packet, rule.unwrap_or_default())
    };
    memberships.iter().map(words).collect()
}

fn with(rules: &str, ipset: &str) -> Lab {
    let mut lab = Lab::new(Dataplane::HostGw);
    lab.iptables("node2", &format!("*filter\n:FORWARD ACCEPT [0:0]\n:FW - [0:0]\n{rules}COMMIT\n"));
    lab.netns("node2").netfilter.ipset = Some(ipset.into());
    lab
}

#[test]
fn the_member_that_matched_is_named() {
    let sets = "create deny hash:net family inet\nadd deny 10.244.0.0/16\nadd deny 10.244.1.8/30\n\
        create ports hash:ip,port family inet\nadd ports 10.244.2.10,tcp:80\n\
        create all list:set size 8\nadd all ports\nadd all deny\n";
    let lab = with("-A FORWARD -m set --match-set deny src -j DROP\n", sets);
    assert_eq!(said(&lab), ["deny: 10.244.1.10 in 10.244.1.8/30"]);
    let lab = with("-A FORWARD -m set --match-set ports dst,dst -j DROP\n", sets);
    assert_eq!(said(&lab), ["ports: 10.244.2.10,tcp:80 in 10.244.2.10,tcp:80"]);
    let lab = with("-A FORWARD -m set --match-set all dst,dst -j DROP\n", sets);
    assert_eq!(said(&lab), ["ports: 10.244.2.10,tcp:80 in 10.244.2.10,tcp:80"]);
    let lab = with("-A FORWARD -m set ! --match-set ports src,dst -j DROP\n", sets);
    assert_eq!(said(&lab), ["ports: 10.244.1.10,tcp:80 in nothing"]);
}

/// What drops the rest is reached for want of a member in the rules before it.
#[test]
fn the_set_that_lacks_the_packet_is_named() {
    let sets = "create cali40s:web hash:net family inet\nadd cali40s:web 10.0.0.0/24\n\
        create cali40s:db hash:net family inet\nadd cali40s:db 10.244.1.10\n";
    let rules = "-A FORWARD -d 10.244.2.10/32 -j FW\n\
        -A FW -p udp -m set --match-set cali40s:web src -j ACCEPT\n\
        -A FW -p tcp -m set --match-set cali40s:web src -m tcp --dport 80 -j ACCEPT\n\
        -A FW -p tcp -m set --match-set cali40s:db src -m tcp --dport 81 -j ACCEPT\n\
        -A FW -m mark --mark 0x1 -m set --match-set cali40s:web src -j ACCEPT\n\
        -A FW -j DROP\n";
    let lab = with(rules, sets);
    assert_eq!(said(&lab), ["cali40s:web: 10.244.1.10 in nothing (rule 2)"]);
    // The same by a policy.
    let mut lab = with("", sets);
    let rules = "-A FORWARD -m set --match-set cali40s:web src -j ACCEPT\n";
    lab.iptables("node2", &format!("*filter\n:FORWARD DROP [0:0]\n{rules}COMMIT\n"));
    assert_eq!(said(&lab), ["cali40s:web: 10.244.1.10 in nothing (rule 1)"]);
}

#[test]
fn elements_of_nftables_are_named() {
    let mut lab = Lab::new(Dataplane::HostGw);
    let json = serde_json::json!({"nftables": [
        {"table": {"family": "ip", "name": "fw", "handle": 1}},
        {"set": {"family": "ip", "name": "deny", "table": "fw", "handle": 2, "flags": ["interval"],
            "type": ["ipv4_addr", "inet_proto", "inet_service"],
            "elem": [{"concat": [{"prefix": {"addr": "10.244.1.0", "len": 24}}, "tcp", 80]}]}},
        {"chain": {"family": "ip", "table": "fw", "name": "f", "handle": 3, "type": "filter", "hook": "forward",
            "prio": 0, "policy": "accept"}},
        {"rule": {"family": "ip", "table": "fw", "chain": "f", "handle": 4, "expr": [
            {"match": {"op": "==", "left": {"concat": [
                {"payload": {"protocol": "ip", "field": "saddr"}}, {"meta": {"key": "l4proto"}},
                {"payload": {"protocol": "th", "field": "dport"}}]}, "right": "@deny"}},
            {"drop": null}]}},
    ]});
    lab.nft("node2", &json.to_string());
    assert_eq!(said(&lab), ["deny: 10.244.1.10 . tcp . 80 in 10.244.1.0/24 . tcp . 80"]);
}

/// A rule that drops everything says why by the rule that leads to its chain.
#[test]
fn what_leads_to_the_chain_is_named() {
    let sets = "create deny hash:ip family inet\nadd deny 10.244.1.10\ncreate other hash:ip\n";
    let rules = "-A FORWARD -p udp -j FW\n-A FORWARD -m set --match-set other src -j FW\n\
        -A FORWARD -m set --match-set deny src -j FW\n-A FW -j DROP\n";
    assert_eq!(said(&with(rules, sets)), ["deny: 10.244.1.10 in 10.244.1.10"]);

    let mut lab = Lab::new(Dataplane::HostGw);
    let json = serde_json::json!({"nftables": [
        {"table": {"family": "ip", "name": "fw", "handle": 1}},
        {"map": {"family": "ip", "name": "verdicts", "table": "fw", "handle": 2, "type": "ipv4_addr",
            "map": "verdict", "elem": [["10.244.2.10", {"goto": {"target": "bad"}}]]}},
        {"chain": {"family": "ip", "table": "fw", "name": "bad", "handle": 3}},
        {"chain": {"family": "ip", "table": "fw", "name": "f", "handle": 4, "type": "filter", "hook": "forward",
            "prio": 0, "policy": "accept"}},
        {"rule": {"family": "ip", "table": "fw", "chain": "f", "handle": 5, "expr": [
            {"vmap": {"key": {"payload": {"protocol": "ip", "field": "daddr"}}, "data": "@verdicts"}}]}},
        {"rule": {"family": "ip", "table": "fw", "chain": "bad", "handle": 6, "expr": [{"drop": null}]}},
    ]});
    lab.nft("node2", &json.to_string());
    assert_eq!(said(&lab), ["verdicts: 10.244.2.10 in 10.244.2.10"]);
}

/// Chains of bridges are not run, but a trace names their rules.
#[test]
fn a_rule_of_a_bridge_is_known_by_its_handle() {
    let mut lab = Lab::new(Dataplane::HostGw);
    let json = serde_json::json!({"nftables": [
        {"table": {"family": "bridge", "name": "corp", "handle": 1}},
        {"chain": {"family": "bridge", "table": "corp", "name": "f", "handle": 2}},
        {"rule": {"family": "bridge", "table": "corp", "chain": "f", "handle": 3, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "10.0.0.1"}},
            {"drop": null}]}},
    ]});
    lab.nft("node2", &json.to_string());
    let traced = RuleRef {
        family: "bridge".into(),
        table: "corp".into(),
        chain: "f".into(),
        handle: Some(3),
        position: None,
        text: None,
    };
    let known = lab.cluster().rule(&support::place("node2"), &traced).unwrap();
    assert_eq!(known.text.as_deref(), Some("ip daddr 10.0.0.1 drop"));
}
