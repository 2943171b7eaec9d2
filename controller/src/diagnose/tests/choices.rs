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
