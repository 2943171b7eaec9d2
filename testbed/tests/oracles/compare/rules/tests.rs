//! The comparison with nft, on hand-made passages.

use super::*;
use crate::compare::fixture::{look, passages};
use crate::wire::Identity;

const KNOWN: Known = Known { complete: true, legible: BTreeSet::new() };

fn traced() -> Vec<Traced> {
    vec![Traced { passages: passages(), ..Traced::default() }]
}

fn told(look: Look, traced: &[Traced]) -> Vec<String> {
    compare(&[look], traced, &KNOWN).iter().map(ToString::to_string).collect()
}

#[test]
fn both_saw_the_same() {
    assert_eq!(told(look(), &traced()), [""; 0]);
}

#[test]
fn whatever_one_of_them_lacks_is_told() {
    for (index, lacks) in look().sightings.iter().enumerate() {
        let is_by_nft = lacks.hook.is_netfilter();
        assert_eq!(told(look().without(index), &traced()).is_empty(), !is_by_nft, "{lacks:?}");
    }
    for index in 0..passages().len() {
        let mut less = traced();
        less[0].passages.remove(index);
        assert!(!told(look(), &less).is_empty(), "{index}");
    }
}

#[test]
fn another_rule_or_verdict_is_told_on_both_sides() {
    let changed = |change: &dyn Fn(&mut Verdict)| {
        let mut all = traced();
        change(&mut all[0].passages[1].verdicts[0]);
        told(look(), &all)
    };
    assert_eq!(changed(&|(rule, _)| rule.handle = Some(27)).len(), 2);
    assert_eq!(changed(&|(rule, _)| rule.chain = "INPUT".into()).len(), 2);
    let said = changed(&|(_, verdict)| *verdict = "accept".into());
    assert!(
        said[0].ends_with("saw drop by rule 26 in ip filter FORWARD, nft saw no such verdict"),
        "{said:?}"
    );
}

#[test]
fn a_verdict_is_left_out_only_of_a_packet_that_passed_unchanged() {
    let mut changed = traced();
    changed[0].passages[0].left = Some(Headers::Tunnel(([1, 1, 1, 1].into(), [1, 1, 1, 2].into(), 3)));
    assert!(told(look(), &changed).iter().any(|told| told.contains("not all of these verdicts")));
    let mut dropped = traced();
    dropped[0].passages[0].verdicts[0].1 = "drop".into();
    assert!(!told(look(), &dropped).is_empty());
}

#[test]
fn the_end_in_a_chain_of_bridges_is_compared() {
    let rule = Rule { family: "bridge".into(), table: "t".into(), chain: "c".into(), handle: Some(3) };
    let mut more = traced();
    more[0].ends.push(("node1".into(), (rule, "drop".into())));
    assert_eq!(told(look(), &more).len(), 1);
}

#[test]
fn a_chain_before_all_others_is_none_of_the_hook() {
    let mut strays = traced();
    let verdicts = strays[0].passages[1].verdicts.clone();
    let stray = Passage { stray: true, left: None, verdicts, ..strays[0].passages[0].clone() };
    strays[0].passages.push(stray);
    assert_eq!(told(look(), &strays).len(), 1, "of its verdict Waymark must tell");
    let mut seen = look();
    let verdict = seen.sightings.last().unwrap().clone();
    seen.sightings.push(Sighting { hook: Hook::NetfilterPrerouting, ..verdict });
    assert_eq!(told(seen, &strays), [""; 0]);
}

#[test]
fn the_last_of_a_trace_may_have_come_too_late() {
    let more = |at: usize, table: &str| {
        let mut more = traced();
        let again = Passage { table: table.into(), ..more[0].passages[1].clone() };
        more[0].passages.insert(at, again);
        told(look(), &more)
    };
    assert_eq!(more(2, "waymark_7_0"), [""; 0]);
    assert!(!more(2, "waymark_7_1").is_empty(), "of another trace");
    let mut before = traced();
    let again = before[0].passages[1].clone();
    before[0].passages.splice(..0, [again.clone(), again]);
    before[0].passages.pop();
    assert!(!told(look(), &before).is_empty(), "before one of which Waymark told");
}

#[test]
fn of_some_packets_waymark_need_not_tell() {
    let with = |entered: &Headers, tag| {
        let mut more = traced();
        let foreign = Passage { entered: entered.clone(), left: None, tag, ..more[0].passages[0].clone() };
        more[0].passages.insert(0, foreign);
        more
    };
    let flow = Headers::Plain(([1, 1, 1, 1].into(), [1, 1, 1, 2].into(), 17, 1, 2));
    assert!(!told(look(), &with(&flow, None)).is_empty());
    assert_eq!(compare(&[look()], &with(&flow, None), &Known::default()), [], "of another round");
    assert_eq!(told(look(), &with(&flow, Some(Identity::Tag(7, 1 << 30)))), [""; 0], "damaged");
    let tunnel = ([1, 1, 1, 1].into(), [1, 1, 1, 2].into(), 3);
    let inside = with(&Headers::Tunnel(tunnel), None);
    assert_eq!(told(look(), &inside), [""; 0], "never seen at a device");
    let known = Known { legible: [("node1".into(), tunnel)].into(), ..KNOWN };
    assert!(!compare(&[look()], &inside, &known).is_empty());
}
