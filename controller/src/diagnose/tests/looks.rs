//! Packets of which less was watched, and what those after them tell of them.

use super::*;

/// A light look: no rule is traced, but those of the ends.
fn glance() -> Story {
    let mut sight = Sight::default();
    sight.armed("node1".into(), reports(&["t-cart"]));
    sight.armed("node2".into(), reports(&["t-pay"]));
    Story { sight, ..Story::healthy() }
}

fn seen_lightly(steps: &[Step], back: bool, story: Story) -> Story {
    let hidden = |step: &Step| step.hook.is_netfilter() && step.place.netns.as_str().starts_with("t-node");
    let visible: Vec<Step> = steps.iter().filter(|step| !hidden(step)).cloned().collect();
    story.seen(&visible, back)
}

/// What ends in a chain of the second node, as the kernel reports it.
fn dropped(story: Story) -> Story {
    let at = there().into_iter().find(is_filter).expect("it comes by");
    story.dropped(&at, false, "NETFILTER_DROP", "nft_do_chain+0x1")
}

fn is_filter(step: &Step) -> bool {
    step.place.netns.as_str() == "t-node2" && step.hook == Hook::NetfilterForward
}

fn until_the_filter() -> Vec<Step> {
    there().into_iter().take_while(|step| !is_filter(step)).collect()
}

/// The same fault, seen from afar and then closely.
fn broken() -> Story {
    broken_after(dropped(seen_lightly(&until_the_filter(), false, glance())))
}

/// It is seen closely after something else was.
fn broken_after(first: Story) -> Story {
    let in_the_filter = ending(there(), "t-node2", Hook::NetfilterForward, "eth0", Cause::FilterDrop);
    dropped(Story::healthy().seen(&in_the_filter, false)).after(first)
}

#[test]
fn what_comes_through_needs_no_closer_look() {
    let first = seen_lightly(&back(), true, seen_lightly(&there(), false, glance())).told();
    assert_eq!((first.verdict, &first.fault_point), (Verdict::Reachable, &None), "{first:#?}");
    assert!(first.anomalies.is_empty() && first.model_errors.is_empty() && !first.doubtful);
    let rows = first.forward.steps.iter().chain(&first.return_.as_ref().unwrap().steps);
    for row in rows {
        assert!(matches!(row.agreement, Agreement::Seen | Agreement::NotObservable), "{row:?}");
    }
}

#[test]
fn what_both_looks_saw_die_died_of_one_fault() {
    let found = broken().told();
    assert_eq!(fault(&found), "t-node2 netfilter-forward eth0 filter-drop", "{found:#?}");
    assert_eq!((found.verdict, found.loss), (Verdict::Unreachable, None));
    let evidence = &found.fault_point.unwrap().evidence;
    assert_eq!(evidence[0], "6 of 6 packets met this fault", "{evidence:?}");
}

#[test]
fn what_came_through_at_first_counts() {
    let first = seen_lightly(&back(), true, seen_lightly(&there(), false, glance()));
    let found = broken_after(first).told();
    assert_eq!(fault(&found), "t-node2 netfilter-forward eth0 filter-drop");
    assert_eq!((found.verdict, found.delivered, found.replied), (Verdict::Inconsistent, 3, Some(3)));
    assert!(found.rtt_ns.is_some(), "who came through has a round trip");
    assert_eq!(found.loss.map(|loss| (loss.share.lost, loss.share.of)), Some((3, 6)));
}

#[test]
fn what_was_never_met_again_is_told_as_it_was_seen() {
    let first = seen_lightly(&there()[..12], false, glance());
    let found = Story::healthy().seen(&there(), false).seen(&back(), true).after(first).told();
    assert_eq!(found.verdict, Verdict::Inconsistent, "{found:#?}");
    assert!(found.fault_point.is_some());
    assert_eq!(found.loss.map(|loss| (loss.share.lost, loss.share.of)), Some((3, 6)));
}

#[test]
fn what_three_looks_saw_die_died_of_one_fault() {
    let lightly = dropped(seen_lightly(&until_the_filter(), false, glance()));
    let widely = dropped(seen_lightly(&until_the_filter(), false, glance())).after(lightly);
    let found = broken_after(widely).told();
    assert_eq!(fault(&found), "t-node2 netfilter-forward eth0 filter-drop", "{found:#?}");
    assert_eq!(found.fault_point.unwrap().evidence[0], "9 of 9 packets met this fault");
}

#[test]
fn of_looks_at_which_it_was_met_the_closest_tells() {
    let healthy = || Story::healthy().seen(&there(), false).seen(&back(), true);
    let first = seen_lightly(&there()[..12], false, glance());
    let found = healthy().after(broken_after(first)).told();
    assert_eq!(fault(&found), "t-node2 netfilter-forward eth0 filter-drop", "{found:#?}");
    assert_eq!((found.verdict, found.delivered), (Verdict::Inconsistent, 3));
    assert!(found.rtt_ns.is_some(), "of those that came through when all was watched");
}
