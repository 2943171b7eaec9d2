//! What nobody could see, and what was lost of what was seen.

use super::*;

#[test]
fn a_wrong_model_is_not_hidden() {
    let dying = ending(there(), "t-node2", Hook::NetfilterForward, "eth0", Cause::FilterDrop);
    let found = Story::predicting(dying).seen(&there(), false).seen(&back(), true).told();
    assert_eq!(found.verdict, Verdict::Reachable);
    assert_eq!(found.model_errors.len(), 1, "{found:#?}");
    assert!(found.model_errors[0].contains("netfilter-forward"));
}

#[test]
fn what_nobody_could_see_is_not_a_drop() {
    let cut = ending(there(), "t-node1", Hook::Wire, "eth0", Cause::SilentLoss);
    let mut blind = Sight::default();
    blind.armed("node1".into(), reports(&["t-cart", "t-node1"]));
    blind.blind("node2".into(), Text::verbatim("no agent is attached for node node2"));
    let found = Story { sight: blind.clone(), ..Story::healthy() }.seen(&cut, false).told();
    assert_eq!((found.verdict, &found.fault_point), (Verdict::Undetermined, &None));
    assert!(found.notes[0].contains("no agent is attached"), "{:?}", found.notes);
    assert!(found.not_observable.iter().any(|row| row.node.as_str() == "node2"));

    let unseen = Story::healthy().told();
    assert_eq!(unseen.verdict, Verdict::Undetermined, "tracers that see nothing at all prove nothing");

    // The answer tells what the blind node did not.
    let answer: Vec<Step> = back().split_off(17);
    let found = Story { sight: blind, ..Story::healthy() }.seen(&cut, false).seen(&answer, true).told();
    assert_eq!(found.verdict, Verdict::Reachable, "{found:#?}");
}

#[test]
fn without_netfilter_in_sight_the_rest_still_tells() {
    let mut sight = Sight::default();
    sight.armed("node1".into(), reports(&[]));
    sight.armed("node2".into(), reports(&[]));
    let mut story = Story { sight, ..Story::healthy() }.seen(&there(), false).seen(&back(), true);
    let home = back().last().unwrap().clone();
    story = story.dropped(&home, true, "NO_SOCKET", "tcp_v4_rcv+0x1");
    story.sightings.retain(|sighting| !sighting.hook.is_netfilter());
    let found = story.told();
    assert_eq!((found.verdict, found.replied), (Verdict::Reachable, Some(3)), "{found:#?}");
}

#[test]
fn lost_records_are_no_proof_of_a_loss() {
    let until_the_wire: Vec<Step> =
        there().into_iter().take_while(|step| step.place.node.as_str() == "node1").collect();
    let lossy = |ring_full| {
        let losses = Losses { ring_full, ..Losses::default() };
        Story { losses, ..Story::healthy() }.seen(&until_the_wire, false).told()
    };
    assert_eq!(lossy(1).verdict, Verdict::Unreachable);
    let found = lossy(u64::from(PACKETS));
    assert_eq!((found.verdict, found.fault_point), (Verdict::Undetermined, None));
    assert!(found.notes.iter().any(|note| note.contains("records were lost")), "{:?}", found.notes);
}

#[test]
fn of_a_packet_that_arrived_records_may_be_lost_too() {
    let without_an_answer = |ring_full| {
        let losses = Losses { ring_full, ..Losses::default() };
        let mut story = Story { losses, ..Story::healthy() }.seen(&there(), false).seen(&back(), true);
        let is_answer =
            |s: &waymark_proto::Sighting| s.headers.as_ref().is_some_and(|h| h.flow == tcp().reversed());
        story.sightings.retain(|sighting| sighting.marker.seq.0 != 0 || !is_answer(sighting));
        story.told()
    };
    assert_eq!(without_an_answer(0).verdict, Verdict::Inconsistent);
    let found = without_an_answer(10);
    assert_eq!((found.verdict, found.fault_point), (Verdict::Undetermined, None));
}
