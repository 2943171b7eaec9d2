//! Recordings of the testbed, replayed, shuffled and mutilated.
//!
//! What their answers say is tested beside the command line, which prints them.

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};
use waymark_proto::{CheckResult, Text};

use super::*;
use crate::engine::fakes::recorded;
use crate::engine::replay;

/// Rejected in netfilter, and answers that vanish between nodes.
const SOME: [&str; 2] = ["forward-reject-bridge-hostgw", "underlay-return-drop-routed"];
/// The smallest.
const SMALL: &str = "service-without-endpoints-routed";

fn path(name: &str) -> PathBuf {
    format!("{}/cli/tests/recordings/{name}.json.gz", env!("CARGO_MANIFEST_DIR")).into()
}

fn recording(name: &str) -> Recording {
    Recording::read(&path(name)).unwrap()
}

fn bytes(result: &CheckResult) -> String {
    serde_json::to_string(result).unwrap()
}

#[tokio::test]
async fn a_recorded_check_is_answered_as_it_was() {
    let (result, recording) = recorded(false).await;
    let json = recording.clone().doubted(Some(Text::verbatim("nobody knows"))).to_json().unwrap();
    let read = Recording::from_json(&json).unwrap();
    assert_eq!(read.clone().doubted(None), recording);
    let mut again = replay(&read).unwrap();
    assert_eq!(again.notes.pop().as_deref(), Some("nobody knows"));
    assert_eq!(bytes(&again), bytes(&result));
}

#[tokio::test]
async fn addresses_of_the_kernel_stay_where_they_are() {
    for trials in [recorded(false).await.1.check.light, recorded(true).await.1.check.all] {
        let buffers: Vec<u64> = trials.seen.sightings.iter().map(|sighting| sighting.buffer).collect();
        assert!(buffers.contains(&0) && buffers.contains(&1), "{buffers:?}");
        assert!(buffers.iter().all(|&buffer| buffer <= buffers.len() as u64), "{buffers:?}");
    }
}

#[test]
fn twice_replayed_is_the_same_to_the_byte() {
    for name in SOME {
        let recording = recording(name);
        let once = bytes(&replay(&recording).unwrap());
        let again = Recording::from_json(&recording.to_json().unwrap()).unwrap();
        assert_eq!(bytes(&replay(&again).unwrap()), once, "{name}");
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_whole() {
    let recording = recording(SMALL);
    let all = recording.to_json().unwrap().len();
    assert_eq!(recording.json_of(all).unwrap().len(), all);
    assert!(matches!(recording.json_of(all - 1), Err(RecordingError::TooLarge)));
    let blown_up = vec![b' '; MAX_RECORDING + 1];
    assert!(matches!(Recording::from_json(&blown_up), Err(RecordingError::TooLarge)));
}

#[test]
fn contradictions_are_told() {
    let says = |change: fn(&mut Recording)| {
        let mut recording = recording(SMALL);
        change(&mut recording);
        replay(&recording).unwrap_err().to_string()
    };
    assert_eq!(
        says(|recording| recording.inventory.nodes.push(recording.inventory.nodes[0].clone())),
        "its inventory is of no use: node \"node1\" is there twice"
    );
    assert!(
        says(|r| r.check.facts[0].node = "nowhere".into()).starts_with("the facts of nowhere are of no use")
    );
    assert!(says(|r| r.check.facts[0].namespaces.clear()).contains("are of no use"));
    assert!(says(|r| r.check.facts[0].api_version = "v0".to_owned()).contains("are of no use"));
    assert!(says(|r| r.check.facts[0].namespaces.extend_from_within(..1)).contains("are of no use"));
}

/// A change at one place of a document; numbers choose the way there, from any value to one of its own.
fn mutilate(document: &mut Value, way: &[usize], what: usize) {
    let Some((&step, further)) = way.split_first() else { return *document = strange(document, what) };
    let inner = match document {
        Value::Array(list) if !list.is_empty() => {
            let index = step % list.len();
            list.get_mut(index)
        }
        Value::Object(map) if !map.is_empty() => {
            let index = step % map.len();
            map.values_mut().nth(index)
        }
        _ => None,
    };
    match inner {
        Some(inner) => mutilate(inner, further, what),
        None => *document = strange(document, what),
    }
}

/// Something else in place of a value: half of the time of its own kind, which is read and must then be lived with.
fn strange(value: &Value, what: usize) -> Value {
    match (value, what % 8) {
        (Value::Array(list), 0) => list.iter().chain(list).cloned().collect(),
        (Value::Array(list), 1) => list.iter().rev().cloned().collect(),
        (Value::Array(list), 2) => list.iter().skip(1).cloned().collect(),
        (Value::Object(map), 0..=3) => map.clone().into_iter().skip(1).collect(),
        (Value::Number(_), 0) => u64::MAX.into(),
        (Value::Number(_), 1) => u16::MAX.into(),
        (Value::Number(_), 2) => 0.into(),
        (Value::Number(_), 3) => 255.into(),
        (Value::String(_), 0) => "".into(),
        (Value::String(_), 1) => "node2".into(),
        (Value::String(_), 2) => "10.244.2.10".into(),
        (Value::String(text), 3) => text.chars().rev().collect::<String>().into(),
        (Value::Bool(truth), 0..=3) => (!truth).into(),
        (_, 4) => (-1).into(),
        (_, 5) => "::".into(),
        (_, 6) => json!({}),
        (_, 7) => Value::Null,
        _ => json!([]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Streams of different nodes come in any order.
    #[test]
    fn the_order_between_nodes_changes_nothing(which in 0..SOME.len(), turns in prop::collection::vec(0..3_usize, 1..200)) {
        let mut recording = recording(SOME[which]);
        let before = replay(&recording).unwrap();
        let sightings = std::mem::take(&mut recording.check.all.seen.sightings);
        let nodes = ["node1", "node2", "node3"];
        let mut streams = nodes.map(|node| {
            let of_node = sightings.iter().filter(|sighting| sighting.place.node.as_str() == node);
            of_node.cloned().collect::<std::collections::VecDeque<_>>()
        });
        let shuffled = &mut recording.check.all.seen.sightings;
        for turn in turns.into_iter().cycle() {
            let first = (0..3).map(|next| (turn + next) % 3).find(|&stream| !streams[stream].is_empty());
            let Some(first) = first else { break };
            shuffled.extend(streams[first].pop_front());
        }
        prop_assert_eq!(shuffled.len(), sightings.len());
        let after = replay(&recording).unwrap();
        prop_assert_eq!(after.verdict, before.verdict);
        prop_assert_eq!(after.fault_point, before.fault_point);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Whatever stands in a document, there is a result or an error.
    #[test]
    fn mutilated_documents_do_no_harm(
        name in prop::sample::select(vec![SMALL, SOME[0], SOME[1]]),
        changes in prop::collection::vec((prop::collection::vec(any::<usize>(), 2..10), any::<usize>()), 1..4)
    ) {
        let mut document = serde_json::to_value(recording(name)).unwrap();
        for (way, what) in changes {
            mutilate(&mut document, &way, what);
        }
        match Recording::from_json(&serde_json::to_vec(&document).unwrap()) {
            Ok(recording) => drop(replay(&recording)),
            Err(error) => {
                let words = error.to_string();
                prop_assert!(words.lines().count() == 1 && words.chars().count() < 250, "{}", words);
            }
        }
    }
}

/// As recordings were named when there were two sets of hooks.
#[tokio::test]
async fn older_recordings_are_read() {
    for (wide, [now, before]) in [(false, ["\"light\":", "\"glance\":"]), (true, ["\"all\":", "\"trials\":"])]
    {
        let (result, recording) = recorded(wide).await;
        let text = serde_json::to_string(&recording).unwrap();
        assert_eq!(text.matches(now).count(), 1, "{now}");
        let older: Recording = serde_json::from_str(&text.replace(now, before)).unwrap();
        assert_eq!(replay(&older).unwrap(), result);
    }
}
