//! Traces whose agents need no cluster.

use std::sync::PoisonError;

use waymark_proto::{Hook, HookReport, Match, Observability, Place};

use super::*;
use crate::agents::AgentError;
use crate::engine::fakes::Fakes;
use crate::fixture::{THERE, inventory, sightings, steps, tcp};

fn question(packets: u32) -> Question {
    let filter = compile("tcp").unwrap();
    Question { filter, on: Vec::new(), packets, time: Duration::from_secs(60) }
}

fn seen(place: &Place, seq: u32, identity: u64, event: Event) -> Sighting {
    let mut sighting = sightings(&steps(THERE, tcp()), seq, false).remove(0);
    sighting.headers.as_mut().unwrap().matched = Match::Filter;
    Sighting { place: place.clone(), identity, event, ..sighting }
}

struct Run {
    fakes: Arc<Fakes>,
    told: mpsc::Receiver<Told>,
    tracing: tokio::task::JoinHandle<Result<(), TraceError>>,
}

impl Run {
    /// Begins.
    fn begin(fakes: Fakes, question: Question) -> Self {
        let fakes = Arc::new(fakes);
        let agents: Arc<dyn Agents> = fakes.clone();
        let (events, told) = mpsc::channel(64);
        let tracing = tokio::spawn(async move { trace(&agents, &inventory(), &question, &events).await });
        Self { fakes, told, tracing }
    }

    async fn see(&self, sighting: Sighting) {
        let sinks = self.fakes.sinks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        sinks[&sighting.place.node].send(sighting).await.unwrap();
    }

    fn disarmed(&self) -> Vec<NodeName> {
        let mut disarmed = self.fakes.disarmed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        disarmed.sort();
        disarmed
    }

    async fn rest(&mut self) -> Vec<Told> {
        let mut rest = Vec::new();
        while let Some(told) = self.told.recv().await {
            rest.push(told);
        }
        rest
    }
}

const SEEN: Event = Event::Seen;

#[tokio::test]
async fn what_is_seen_is_told_with_one_number_and_whose_it_is() {
    let mut run = Run::begin(Fakes::default(), question(2));
    let Some(Told::Begun { nodes, blind, notes }) = run.told.recv().await else { panic!("it begins") };
    assert_eq!((nodes, notes), (vec!["node1".into(), "node2".into()], Vec::new()));
    assert_eq!(blind, []);
    let [cart, node2] = [Place::new("node1", "t-cart"), Place::new("node2", "t-node2")];
    let drop = Event::Dropped { reason: None, function: "tcp_v4_rcv+0x1".to_owned() };
    for sighting in [
        seen(&cart, 5, 100, SEEN),
        seen(&node2, 9, 100, SEEN),
        seen(&node2, 9, 100, drop),
        seen(&cart, 6, 200, SEEN),
    ] {
        run.see(sighting).await;
    }
    let rest = run.rest().await;
    let told: Vec<_> = rest
        .iter()
        .filter_map(|told| match told {
            Told::Sighted { number, object, .. } => Some((*number, object.as_str())),
            Told::Begun { .. } | Told::Ended { .. } => None,
        })
        .collect();
    assert_eq!(told, [(1, "pod/shop/cart"), (1, "node/node2"), (1, "node/node2"), (2, "pod/shop/cart")]);
    let because = Because::Packets;
    let (losses, notes) = (Losses::default(), Vec::new());
    let ended = Told::Ended { because, packets: 2, dropped: 1, sightings: 4, losses, notes };
    assert_eq!(rest.last(), Some(&ended));
    (&mut run.tracing).await.unwrap().unwrap();
    assert_eq!(run.disarmed(), ["node1".into(), "node2".into()]);
}

#[tokio::test]
async fn a_trace_ends_with_its_time_and_what_did_not_look_is_told() {
    let absent = Some("node2".into());
    let short = Question { time: Duration::from_millis(10), ..question(2) };
    let mut run = Run::begin(Fakes { absent, ..Fakes::default() }, short);
    let rest = run.rest().await;
    let [Told::Begun { nodes, notes, .. }, Told::Ended { because, packets: 0, .. }] = &rest[..] else {
        panic!("{rest:?}")
    };
    assert_eq!((nodes, because), (&vec!["node1".into()], &Because::Time));
    assert!(notes[0].to_string().contains("node2"), "{notes:?}");
    assert_eq!(run.disarmed(), ["node1".into()]);
}

#[tokio::test]
async fn whoever_goes_away_leaves_nothing_armed() {
    let mut run = Run::begin(Fakes::default(), question(2));
    assert!(run.told.recv().await.is_some());
    run.told.close();
    // The trace would take longer.
    tokio::time::timeout(Duration::from_secs(30), &mut run.tracing).await.unwrap().unwrap().unwrap();
    assert_eq!(run.disarmed(), ["node1".into(), "node2".into()]);
}

/// Agents of which none can look.
struct Blind;

#[async_trait::async_trait]
impl Agents for Blind {
    async fn facts(&self, node: &NodeName) -> Result<Arc<crate::agents::NodeFacts>, AgentError> {
        Err(AgentError::NoAgent { node: node.clone() })
    }

    async fn arm(
        &self,
        node: &NodeName,
        _arm: rpc::Arm,
        _sink: mpsc::Sender<Sighting>,
    ) -> Result<Vec<HookReport>, AgentError> {
        Err(AgentError::NoAgent { node: node.clone() })
    }

    async fn inject(&self, node: &NodeName, _inject: rpc::Inject) -> Result<rpc::Injected, AgentError> {
        Err(AgentError::NoAgent { node: node.clone() })
    }

    async fn disarm(&self, node: &NodeName, _check: CheckId) -> Result<Losses, AgentError> {
        Err(AgentError::NoAgent { node: node.clone() })
    }
}

#[tokio::test]
async fn where_no_node_can_look_that_is_the_answer() {
    let agents: Arc<dyn Agents> = Arc::new(Blind);
    let (events, _told) = mpsc::channel(64);
    let error = trace(&agents, &inventory(), &question(1), &events).await.unwrap_err().to_string();
    assert!(
        error.starts_with("no node can look: ") && error.contains("node1") && error.contains("node2"),
        "{error}"
    );
}

#[test]
fn one_reason_for_which_nothing_is_seen_is_told_once() {
    let report = |hook, why: &str| {
        let why = Text::verbatim(why.to_owned());
        HookReport { hook, netns: None, observability: Observability::NotObservable { why } }
    };
    let mut sight = Sight::default();
    for node in ["node1", "node2"] {
        let of_rules = report(Hook::NetfilterInput, "not asked");
        let reports = vec![report(Hook::Bridge, "no kprobes"), report(Hook::Route, node), of_rules];
        sight.armed(node.into(), reports);
    }
    let told: Vec<_> = blind(&sight).into_iter().map(|blind| (blind.hook, blind.nodes.len())).collect();
    assert_eq!(told, [(Hook::Bridge, 2), (Hook::Route, 1), (Hook::Route, 1)]);
}
