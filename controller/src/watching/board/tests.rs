use waymark_proto::{CheckResult, ProbeCounts, Streak, Verdict};

use super::super::spec::spec;
use super::*;
use crate::engine::fakes;
use crate::fixture::{fault, inventory};

fn board() -> (Board, ProbeId, Instant) {
    let (mut board, now) = (Board::default(), Instant::now());
    board.start(spec("w", &["pod/shop/cart"], &["pod/shop/pay"]), 0).unwrap();
    board.resolve(&inventory(), now, 0);
    let id = board.plan(&"node1".into()).probes[0].id;
    (board, id, now)
}

fn report(id: ProbeId, lost: u64, streaks: &[Streak]) -> ProbeReport {
    ProbeReport {
        id,
        at_unix_ns: 0,
        counts: ProbeCounts { sent: lost, lost, ..ProbeCounts::default() },
        rtt_v2: Vec::new(),
        clock: Clock::Kernel,
        streaks: streaks.to_vec(),
    }
}

fn state(board: &mut Board, now: Instant) -> TargetState {
    board.statuses(None, now, |_| None)[0].targets[0].state.clone()
}

#[test]
fn an_outage_opens_once_and_ends() {
    let (mut board, id, now) = board();
    let node = NodeName::from("node1");
    assert_eq!(state(&mut board, now), TargetState::Starting);
    let streak = |failures, until_unix_ns| Streak { since_unix_ns: 7, failures, until_unix_ns };
    assert_eq!(board.report(&node, &[report(id, 3, &[streak(3, None)])], now), [1]);
    assert_eq!(state(&mut board, now), TargetState::Down { outage: 1, since_unix_ns: 7 });
    assert_eq!(board.report(&node, &[report(id, 1, &[streak(4, None)])], now), [0; 0]);
    assert_eq!(board.report(&node, &[report(id, 1, &[streak(5, Some(50))])], now), [0; 0]);
    assert_eq!(state(&mut board, now), TargetState::Up);
    let outages = board.outages(Some("w"));
    assert_eq!((outages.len(), outages[0].failures, outages[0].length_ns(99)), (1, 5, 43));
    assert_eq!(board.statuses(None, now, |_| None)[0].targets[0].total.counts.lost, 5);
}

#[test]
fn an_outage_ends_with_its_target_and_its_watch() {
    let node = NodeName::from("node1");
    let streak = Streak { since_unix_ns: 7, failures: 3, until_unix_ns: None };
    let (mut board, id, now) = board();
    board.report(&node, &[report(id, 3, &[streak])], now);
    let mut without = inventory();
    without.pods.retain(|pod| pod.name != "pay");
    board.resolve(&without, now, 40);
    assert_eq!(board.outages(None)[0].until_unix_ns, Some(40));
    board.resolve(&inventory(), now, 50);
    assert_eq!(state(&mut board, now), TargetState::Starting);
    board.report(&node, &[report(id, 3, &[streak])], now);
    board.stop("w", 60).unwrap();
    assert_eq!(board.outages(None).iter().map(|o| o.until_unix_ns).collect::<Vec<_>>(), [Some(40), Some(60)]);
}

#[test]
fn an_outage_ends_under_an_agent_that_does_not_know_of_it() {
    let (mut board, id, now) = board();
    let node = NodeName::from("node1");
    let streak = |since_unix_ns| Streak { since_unix_ns, failures: 3, until_unix_ns: None };
    board.report(&node, &[report(id, 3, &[streak(7)])], now);
    let answered = |at_unix_ns| {
        let mut answered = report(id, 0, &[]);
        (answered.at_unix_ns, answered.counts.received) = (at_unix_ns, 1);
        answered
    };
    let second = 1_000_000_000;
    board.report(&node, &[answered(second)], now);
    assert_eq!(state(&mut board, now), TargetState::Down { outage: 1, since_unix_ns: 7 });
    board.report(&node, &[answered(60 * second)], now);
    assert_eq!(state(&mut board, now), TargetState::Up);
    assert_eq!(board.outages(None)[0].until_unix_ns, Some(second));
    // Or it fails under the new agent, too: that is an outage of its own.
    board.report(&node, &[report(id, 3, &[streak(70 * second)])], now);
    board.report(&node, &[report(id, 3, &[streak(80 * second)])], now);
    let ends: Vec<_> = board.outages(None).iter().map(|outage| outage.until_unix_ns).collect();
    assert_eq!(ends, [Some(second), Some(80 * second), None]);
}

#[test]
fn an_agent_that_is_away_is_silence_and_no_loss() {
    let (mut board, id, now) = board();
    board.report(&"node1".into(), &[report(id, 0, &[])], now);
    let later = now + SILENCE + Duration::from_secs(1);
    assert!(matches!(state(&mut board, later), TargetState::Silent { .. }));
    let gone = board.statuses(None, now, |_| Some("no agent".into()))[0].targets[0].clone();
    assert_eq!(gone.state, TargetState::Silent { why: "no agent".into() });
    assert_eq!(gone.total.counts.lost, 0);
}

#[test]
fn counts_survive_a_new_address_and_end_with_the_watch() {
    let (mut board, id, now) = board();
    board.report(&"node1".into(), &[report(id, 2, &[])], now);
    let mut moved = inventory();
    moved.pods.iter_mut().find(|pod| pod.name == "pay").unwrap().ip = "10.244.9.9".parse().unwrap();
    board.resolve(&moved, now, 0);
    let status = board.statuses(Some("w"), now, |_| None).remove(0).targets.remove(0);
    assert_eq!((status.address.to_string().as_str(), status.total.counts.lost), ("10.244.9.9", 2));
    assert!(matches!(board.stop("x", 0), Err(WatchError::Unknown { .. })));
    board.stop("w", 0).unwrap();
    board.resolve(&moved, now, 0);
    assert!(board.plan(&"node1".into()).probes.is_empty());
    assert_eq!(board.report(&"node1".into(), &[report(id, 2, &[])], now), [0; 0]);
}

#[test]
fn what_an_agent_refuses_is_told() {
    let (mut board, id, now) = board();
    let refusal = Refusal { probe: Some(id), why: "too many".into() };
    board.refused(&"node1".into(), &[refusal]);
    assert_eq!(state(&mut board, now), TargetState::Refused { why: "too many".into() });
    board.refused(&"node1".into(), &[]);
    assert_eq!(state(&mut board, now), TargetState::Starting);
}

#[tokio::test]
async fn old_outages_keep_the_outline_of_their_check() {
    let (mut board, id, now) = board();
    let many = 2 * FULL_RESULTS as u64;
    let streaks: Vec<Streak> =
        (0..many).map(|at| Streak { since_unix_ns: at, failures: 3, until_unix_ns: Some(at) }).collect();
    let opened = board.report(&"node1".into(), &[report(id, 3, &streaks)], now);
    let result = Box::new(CheckResult { fault_point: Some(fault()), ..fakes::result().await });
    let done = OutageCheck::Done { at_unix_ns: 5, result };
    for number in opened {
        board.set_check(number, done.clone());
    }

    let checks: Vec<_> = board.outages(None).into_iter().map(|outage| outage.check).collect();
    let (old, new) = checks.split_at(FULL_RESULTS);
    let outline = OutageCheck::Outlined {
        at_unix_ns: 5,
        verdict: Verdict::Reachable,
        fault_point: Some(Box::new(fault())),
    };
    assert_eq!(old, vec![outline; FULL_RESULTS]);
    assert_eq!(new, vec![done; FULL_RESULTS]);
    let json = serde_json::to_value(&old[0]).unwrap();
    assert_eq!((&json["state"], &json["verdict"]), (&"outlined".into(), &"Reachable".into()));
    assert_eq!(json["faultPoint"]["cause"], "filter-drop");
    assert_eq!(serde_json::from_value::<OutageCheck>(json).unwrap(), old[0]);
}

#[test]
fn targets_are_counted_by_how_they_are() {
    let (mut board, id, now) = board();
    board.start(spec("idle", &["pod/shop/cart"], &["pod/shop/gone"]), 0).unwrap();
    board.start(spec("mesh", &["nodes"], &["nodes"]), 0).unwrap();
    board.resolve(&inventory(), now, 0);
    let streak = Streak { since_unix_ns: 7, failures: 3, until_unix_ns: None };
    board.report(&"node1".into(), &[report(id, 3, &[streak])], now);
    let absent = |node: &NodeName| (node.as_str() == "node2").then(|| "no agent".to_owned());
    let counts: Vec<String> = (board.counts(now, absent).iter())
        .map(|of_watch| {
            let some = of_watch.targets.iter().filter(|(_, count)| **count > 0);
            let words: Vec<_> = some.map(|(state, count)| format!("{count} {state}")).collect();
            format!("{}: {} of {}", of_watch.watch, words.join(", "), of_watch.targets.len())
        })
        .collect();
    assert_eq!(counts, ["idle:  of 5", "mesh: 1 silent, 1 starting of 5", "w: 1 down of 5"]);
}
