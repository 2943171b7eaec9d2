//! Which of several branches a packet took, as far as it was seen.

use waymark_proto::{Choice, ChoiceKind};

use super::super::align;
use super::*;
use crate::observe::Walk;

fn backend(taken: &str) -> Choice {
    Choice { kind: ChoiceKind::Backend, taken: taken.to_owned(), probability: 0.5 }
}

/// The way to a backend: alike in all steps but for the address behind the first translation.
fn to(address: &str) -> Branch {
    let mut steps = there();
    for step in steps.iter_mut().skip(11) {
        step.flow.as_mut().unwrap().dst = address.parse().unwrap();
    }
    Branch { choices: vec![backend(address)], ..branch(steps, Vec::new()) }
}

fn taken(seen: usize) -> Vec<String> {
    let branches = ["10.1.2.2", "10.1.2.3"].map(to);
    let steps = branches[1].path.steps()[..seen].to_vec();
    let walk = Walk { steps, ..Walk::default() };
    let (fit, choices) = align::best(&branches, &walk);
    assert!(fit.is_some());
    choices.into_iter().map(|choice| choice.taken.clone()).collect()
}

#[test]
fn a_packet_that_was_lost_behind_the_choice_tells_its_backend() {
    assert_eq!(taken(17), ["10.1.2.3"]);
}

#[test]
fn a_packet_that_was_lost_before_it_does_not() {
    assert_eq!(taken(8), [""; 0]);
}

/// What is said of packets that all took the first of two backends, of which the second is predicted to end so.
fn lucky(second: Branch) -> Diagnosis {
    let probable = |branch: Branch, probability| Branch { probability, ..branch };
    let first = Branch { choices: vec![backend("10.1.2.2")], ..branch(there(), back()) };
    let branches = vec![probable(first, 0.5), probable(second, 0.5)];
    Story { branches, ..Story::healthy() }.seen(&there(), false).seen(&back(), true).told()
}

#[test]
fn packets_that_met_the_good_backend_only_are_called_lucky() {
    let dying = ending(there(), "t-node1", Hook::NetfilterForward, "cni0", Cause::FilterDrop);
    let found = lucky(Branch { choices: vec![backend("10.1.2.3")], ..branch(dying, Vec::new()) });
    assert_eq!((found.verdict, found.doubtful), (Verdict::Reachable, true));
    let [note] = found.notes.as_slice() else { panic!("{:?}", found.notes) };
    assert!(note.starts_with("1 of 2 backends predicted to fail"), "{note}");
    assert!(
        note.contains("10.1.2.3, which ends at node1/t-node1 netfilter-forward cni0, filter-drop"),
        "{note}"
    );

    let mute = ending(back(), "t-node2", Hook::NetfilterForward, "cni0", Cause::FilterDrop);
    let found = lucky(Branch {
        choices: vec![backend("10.1.2.3")],
        ..branch(to("10.1.2.3").path.steps().to_vec(), mute)
    });
    let [note] = found.notes.as_slice() else { panic!("{:?}", found.notes) };
    assert!(note.contains("10.1.2.3, whose answers end at node2/t-node2"), "{note}");
}

#[test]
fn where_every_way_is_good_or_a_rule_throws_dice_luck_is_not_told_of() {
    let good = lucky(to("10.1.2.3"));
    assert_eq!((good.doubtful, good.notes), (false, Vec::new()));
    let dying = ending(there(), "t-node1", Hook::NetfilterForward, "cni0", Cause::FilterDrop);
    let limited = |taken: &str| Choice { kind: ChoiceKind::Rule, ..backend(taken) };
    let good = Branch { choices: vec![limited("below")], ..branch(there(), back()) };
    let bad = Branch { choices: vec![limited("above")], ..branch(dying, Vec::new()) };
    let branches = [good, bad].map(|branch| Branch { probability: 0.5, ..branch }).to_vec();
    let found = Story { branches, ..Story::healthy() }.seen(&there(), false).seen(&back(), true).told();
    assert_eq!((found.doubtful, found.notes), (false, Vec::new()));
}
