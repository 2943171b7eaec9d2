//! Some packets arrive, and others do not.

use super::*;

#[test]
fn some_packets_are_lost() {
    let mut story = Story::healthy().seen(&there(), false).seen(&back(), true);
    let cut = ending(there(), "t-node1", Hook::Wire, "eth0", Cause::SilentLoss);
    story.sightings.retain(|sighting| sighting.marker.seq != Seq(1));
    story.sightings.extend(sightings(&cut, 1, false));
    let found = story.told();
    assert_eq!(found.verdict, Verdict::Inconsistent);
    assert_eq!((found.delivered, found.replied), (2, Some(2)));
    assert_eq!(fault(&found), "t-node1 wire eth0 silent-loss");
    assert!(found.fault_point.unwrap().evidence[0].starts_with("1 of 3"));
}

#[test]
fn one_backend_of_two_is_broken() {
    let good = branch(there(), back());
    let broken = ending(there(), "t-node1", Hook::NetfilterForward, "cni0", Cause::FilterDrop);
    let mut story = Story { branches: vec![good, branch(broken.clone(), Vec::new())], ..Story::healthy() };
    for seq in 0..2 {
        story.sightings.extend(sightings(&there(), seq, false));
        story.sightings.extend(sightings(&back(), seq, true));
    }
    story.sightings.extend(sightings(&broken, 2, false));
    let found = story.told();
    assert_eq!(found.verdict, Verdict::Inconsistent);
    assert_eq!(fault(&found), "t-node1 netfilter-forward cni0 filter-drop");
    assert!(found.model_errors.is_empty());
    assert_eq!(found.forward.predicted, Some(Disposition::Dropped), "the branch of the fault is shown");
}

/// At what a packet dies behind a fault, it came by that.
#[test]
fn who_dies_further_on_came_by() {
    let near = ending(there(), "t-node1", Hook::Wire, "eth0", Cause::SilentLoss);
    let far = ending(there(), "t-node2", Hook::NetfilterForward, "eth0", Cause::FilterDrop);
    let mut story = Story::healthy();
    for (seq, steps) in [(0, &near), (1, &near), (2, &far)] {
        story.sightings.extend(sightings(steps, seq, false));
    }
    let found = story.told();
    assert_eq!(fault(&found), "t-node1 wire eth0 silent-loss");
    let share = found.loss.expect("one came by").share;
    assert_eq!((share.lost, share.of), (2, 3));
    assert!(found.doubtful, "two places");
}

#[test]
fn of_a_few_that_died_chance_may_be_the_reason() {
    let dying = ending(there(), "t-node1", Hook::NetfilterForward, "cni0", Cause::FilterDrop);
    let doubtful = |passing: f64| {
        let branches = vec![
            Branch { probability: passing, ..branch(there(), back()) },
            Branch { probability: 1.0 - passing, ..branch(dying.clone(), Vec::new()) },
        ];
        let found = Story { branches, ..Story::healthy() }.seen(&dying, false).told();
        assert_eq!(found.verdict, Verdict::Unreachable);
        found.doubtful
    };
    assert_eq!([0.0, 0.1, 0.5].map(doubtful), [false, true, true]);
    assert_eq!(
        [0.8, 1.0].map(doubtful),
        [false, false],
        "all three of them by chance is less than one in a hundred"
    );
}

/// A rule that asks for a TOS takes some packets and not others: each is held against the prediction of its own.
#[test]
fn code_points_have_ways_of_their_own() {
    let black = ending(there(), "t-node1", Hook::Route, "eth0", Cause::BlackholeRoute);
    let marked = PathSet { branches: vec![branch(black.clone(), Vec::new())], ..PathSet::default() };
    let mut story = Story { dscps: [4, 0, 0], by_dscp: [(4, marked)].into(), ..Story::healthy() };
    let until = &black[..black.len() - 1];
    story.sightings.extend(sightings(until, 0, false));
    story.sightings.push(drop_at(black.last().unwrap(), 0, false, "NOT_SPECIFIED", "ip_error+0x1"));
    for seq in 1..PACKETS {
        story.sightings.extend(sightings(&there(), seq, false));
        story.sightings.extend(sightings(&back(), seq, true));
    }
    let found = story.told();
    assert_eq!(found.verdict, Verdict::Inconsistent);
    assert_eq!(fault(&found), "t-node1 route eth0 blackhole-route");
    assert!(found.model_errors.is_empty(), "{:?}", found.model_errors);
}
