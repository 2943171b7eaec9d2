//! What functions of the kernel answered, where they are watched.

use waymark_proto::ComparedStep;

use super::*;
use crate::fixture::call_at;

fn at_route() -> Step {
    let step =
        there().into_iter().find(|step| step.place.netns.as_str() == "t-node2" && step.hook == Hook::Route);
    step.expect("the node routes what comes in")
}

impl Story {
    /// A function is called with all packets at a step.
    fn called(mut self, step: &Step, function: &str, answer: Option<&str>) -> Self {
        self.sightings.extend((0..PACKETS).map(|seq| call_at(step, seq, function, answer)));
        self
    }
}

#[test]
fn a_call_shows_a_step_that_leaves_no_other_trace() {
    let story = Story::healthy().seen(&there(), false).seen(&back(), true);
    let found = story
        .called(&at_route(), "fib_validate_source", Some("0"))
        .called(&at_route(), "ip_route_input_noref", Some("ip_forward"))
        .told();
    assert_eq!(found.verdict, Verdict::Reachable);
    assert_eq!((&found.anomalies, &found.model_errors), (&Vec::new(), &Vec::new()));
    let rows = &found.forward.steps;
    assert!(rows.iter().all(|row| row.predicted.is_some()), "a call is no step of its own: {rows:#?}");
    let here = |row: &&ComparedStep| row.predicted.as_ref() == Some(&at_route());
    let row = rows.iter().find(here).expect("it was predicted");
    assert_eq!((row.agreement, row.packets), (Agreement::Seen, PACKETS));
    let note = row.observed.as_ref().and_then(|step| step.note.as_deref());
    assert_eq!(note, Some("fib_validate_source → 0, ip_route_input_noref → ip_forward"));
}

/// As kernels before 5.17 report it.
#[test]
fn an_answer_is_the_reason_of_a_drop_that_has_none() {
    let dying = ending(there(), "t-node2", Hook::Route, "cni0", Cause::SourceValidation);
    let last = dying.last().unwrap().clone();
    let story = |answer| {
        Story::healthy()
            .seen(&dying[..dying.len() - 1], false)
            .dropped(&last, false, "NOT_SPECIFIED", "ip_rcv_finish_core+0x1")
            .called(&last, "fib_validate_source", answer)
    };
    let point = story(Some("EXDEV")).told().fault_point.expect("it died");
    assert_eq!(
        (point.netns.as_str(), point.hook, point.cause),
        ("t-node2", Hook::Route, Cause::SourceValidation)
    );
    assert_eq!(point.confidence, Confidence::High);
    assert!(
        point.evidence.iter().any(|text| text.contains("fib_validate_source answered EXDEV")),
        "{point:#?}"
    );
    let point = story(Some("0")).told().fault_point.expect("it died");
    assert_eq!((point.hook, point.cause), (Hook::Route, Cause::KernelDrop), "this answer let it through");
}

#[test]
fn a_reason_says_better_than_a_function_what_that_decided() {
    let dying = ending(there(), "t-node2", Hook::Route, "cni0", Cause::NoRoute);
    let last = dying.last().unwrap().clone();
    let found = Story::healthy()
        .seen(&dying[..dying.len() - 1], false)
        .dropped(&last, false, "IP_INNOROUTES", "ip_error+0x1")
        .called(&last, "fib_validate_source", Some("EXDEV"))
        .told();
    assert_eq!(found.fault_point.expect("it died").cause, Cause::NoRoute);
}

/// Where rules cannot be traced the function says in which hook it was.
#[test]
fn the_hook_of_a_drop_by_netfilter_is_no_guess() {
    let dying = ending(there(), "t-node2", Hook::NetfilterPrerouting, "eth0", Cause::FilterDrop);
    let last = dying.last().unwrap().clone();
    let found = Story::healthy()
        .seen(&dying[..dying.len() - 1], false)
        .dropped(&last, false, "NOT_SPECIFIED", "nf_hook_slow+0x1")
        .called(&last, "nf_hook_slow", Some("NF_DROP"))
        .told();
    let point = found.fault_point.expect("it died");
    assert_eq!((point.hook, point.cause), (Hook::NetfilterPrerouting, Cause::FilterDrop));
}
