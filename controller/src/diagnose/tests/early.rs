//! What is dropped at a netfilter hook by a chain that comes before those which show that it came there.

use waymark_proto::{Event, RuleRef};

use super::*;

fn rule(chain: &str) -> RuleRef {
    RuleRef {
        family: "inet".to_owned(),
        table: "h".to_owned(),
        chain: chain.to_owned(),
        handle: Some(2),
        position: None,
        text: None,
    }
}

/// A prediction that ends there by a rule of a chain of the first priority, or of another.
fn dying(hook: Hook, device: &str, first: bool) -> Vec<Step> {
    let mut steps = ending(there(), "t-node2", hook, device, Cause::FilterDrop);
    let last = steps.last_mut().unwrap();
    last.rule = Some(rule("c"));
    last.note = first.then(|| text!(model::BeforeTraces { priority: i32::MIN.to_string() }));
    steps
}

/// What is said if the packet was seen up to the hook before, and then dropped by netfilter.
fn told(predicted: Vec<Step>, traced: Option<RuleRef>) -> Diagnosis {
    let seen = predicted[..predicted.len() - 1].to_vec();
    let end = predicted.last().unwrap().clone();
    let before = seen.iter().rfind(|step| step.hook.is_netfilter() && step.place == end.place).cloned();
    let mut story = Story { traced: vec![end.place.clone()], ..Story::predicting(predicted) };
    story = story.seen(&seen, false).dropped(&end, false, "NETFILTER_DROP", "nft_do_chain+0x1");
    if let (Some(rule), Some(before)) = (traced, before) {
        for seq in 0..PACKETS {
            let mut verdict = sightings(std::slice::from_ref(&before), seq, false).remove(0);
            verdict.at_ns += 60_000;
            verdict.event = Event::Verdict { rule: rule.clone(), verdict: "drop".to_owned() };
            story.sightings.push(verdict);
        }
    }
    story.told()
}

#[test]
fn the_rule_that_is_predicted_next_is_named() {
    let found = told(dying(Hook::NetfilterPrerouting, "eth0", true), None);
    assert_eq!(fault(&found), "t-node2 netfilter-prerouting eth0 filter-drop");
    let point = found.fault_point.unwrap();
    assert_eq!((point.rule, point.confidence), (Some(rule("c")), Confidence::High));
    let said: Vec<String> = point.evidence.iter().map(ToString::to_string).collect();
    assert!(said.iter().any(|words| words.contains("right before netfilter-prerouting")), "{said:?}");
    assert!(!said.iter().any(|words| words.contains("outside the IP hooks")), "{said:?}");
}

#[test]
fn a_rule_of_a_chain_that_is_watched_is_not_to_blame_for_what_did_not_come_there() {
    let found = told(dying(Hook::NetfilterPrerouting, "eth0", false), None);
    assert_eq!(fault(&found), "t-node2 driver-rx eth0 filter-drop");
}

#[test]
fn the_rule_that_was_seen_says_where_it_was() {
    let predicted = dying(Hook::NetfilterPostrouting, "cni0", true);
    let found = told(predicted.clone(), Some(rule("c")));
    assert_eq!(fault(&found), "t-node2 netfilter-postrouting cni0 filter-drop");
    let found = told(dying(Hook::NetfilterPostrouting, "cni0", false), Some(rule("other")));
    assert_eq!(fault(&found), "t-node2 netfilter-forward eth0 filter-drop", "another rule");
}
