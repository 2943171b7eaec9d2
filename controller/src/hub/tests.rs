use waymark_proto::rpc::agent_hub_client::AgentHubClient;
use waymark_proto::{FACTS_API_VERSION, Hook, Observability, Scope};

use super::puppet::{Changing, Puppet, Stage, dial, stage, stage_of};
use super::*;
use crate::fixture::inventory;

fn node() -> NodeName {
    "node1".into()
}

fn arm_order() -> rpc::Arm {
    rpc::Arm { check: 7, key: vec![0; 16], count: 1, lease_ms: 1000, ..Default::default() }
}

#[tokio::test]
async fn orders_are_answered_by_number() {
    let stage = stage(Patience::default()).await;
    let mut puppet = Puppet::attach(&stage, "node1").await;
    assert_eq!(stage.hub.attached()[0].version, "9");
    let answering = async {
        // Two orders under way, answered in the other order.
        let (first, second) = (puppet.order().await, puppet.order().await);
        for order in [second, first] {
            let body = match order.body.unwrap() {
                to_agent::Body::CollectFacts(_) => {
                    let json = format!(
                        r#"{{"apiVersion":"{FACTS_API_VERSION}","node":"node1","kernel":"6","namespaces":[]}}"#
                    );
                    from_agent::Body::Facts(rpc::Facts { json: json.into_bytes() })
                }
                _ => from_agent::Body::Injected(rpc::Injected::default()),
            };
            puppet.answer(order.order, body).await;
        }
    };
    let (target, hub) = (node(), &stage.hub);
    let (facts, injected, ()) =
        tokio::join!(hub.facts(&target), hub.inject(&target, rpc::Inject::default()), answering);
    assert_eq!(facts.unwrap().told().node, node());
    assert!(injected.unwrap().packets.is_empty());
}

#[tokio::test]
async fn sightings_before_the_disarm_are_delivered_and_the_sink_ends() {
    let stage = stage(Patience::default()).await;
    let mut puppet = Puppet::attach(&stage, "node1").await;
    let (sink, mut sightings) = mpsc::channel(64);
    let acting = async {
        let order = puppet.order().await.order;
        let report = HookReport {
            hook: Hook::Qdisc,
            netns: None,
            observability: Observability::Observed { provider: "x".into() },
        };
        let reports_json = serde_json::to_vec(&[report]).unwrap();
        puppet.answer(order, from_agent::Body::Armed(rpc::Armed { reports_json, check: 7 })).await;
        let order = puppet.order().await.order;
        let sighting = rpc::Sighting {
            netns: "t".into(),
            hook: u32::from(Hook::Qdisc as u8),
            event: Some(rpc::sighting::Event::Seen(rpc::Nothing {})),
            ..Default::default()
        };
        let broken = rpc::Sighting::default();
        let batch = rpc::SightingBatch { check: 7, sightings: vec![broken, sighting.clone(), sighting] };
        puppet.answer(0, from_agent::Body::Sightings(batch)).await;
        let losses = rpc::Disarmed { ring_full: 3, ..Default::default() };
        puppet.answer(order, from_agent::Body::Disarmed(losses)).await;
    };
    let ordering = async {
        let reports = stage.hub.arm(&node(), arm_order(), sink).await.unwrap();
        assert_eq!(reports.len(), 1);
        stage.hub.disarm(&node(), CheckId::new(7).unwrap()).await.unwrap()
    };
    let (losses, ()) = tokio::join!(ordering, acting);
    assert_eq!(losses.ring_full, 3);
    let mut got = 0;
    while sightings.recv().await.is_some() {
        got += 1;
    }
    assert_eq!(got, 2, "the broken one is left out, and the sink ends");
}

#[tokio::test]
async fn an_agent_that_dies_mid_order_fails_it_at_once() {
    let stage = stage(Patience::default()).await;
    let mut puppet = Puppet::attach(&stage, "node1").await;
    let dying = async {
        puppet.order().await;
        drop(puppet);
    };
    let target = node();
    let (outcome, ()) = tokio::join!(stage.hub.facts(&target), dying);
    let error = outcome.unwrap_err();
    assert!(matches!(error, AgentError::Gone { .. }), "{error}");
    assert!(error.to_string().starts_with("the agent of node1 went away when asked to collect facts"));
    assert!(stage.hub.attached().is_empty());
    let error = stage.hub.facts(&node()).await.unwrap_err();
    assert_eq!(error.to_string(), "no agent is attached for node node1");
}

#[tokio::test]
async fn a_second_agent_of_a_node_takes_its_place() {
    let stage = stage(Patience::default()).await;
    let mut first = Puppet::attach(&stage, "node1").await;
    let replacing = async {
        first.order().await;
        let second = Puppet::attach(&stage, "node1").await;
        let end = first.hears.message().await.unwrap_err();
        assert_eq!(end.message(), "another agent of node1 attached in its place");
        second
    };
    let target = node();
    let (outcome, mut second) = tokio::join!(stage.hub.facts(&target), replacing);
    assert!(outcome.unwrap_err().to_string().contains("another agent of node1 attached in its place"));
    // The end of the first stream must not throw the second out.
    drop(first);
    let failing = async {
        let order = second.order().await.order;
        second.answer(order, from_agent::Body::Failure(rpc::Failure { message: "no disk".into() })).await;
    };
    let (outcome, ()) = tokio::join!(stage.hub.facts(&target), failing);
    assert_eq!(outcome.unwrap_err().to_string(), "the agent of node1 could not collect facts: no disk");
}

#[tokio::test]
async fn a_silent_agent_runs_out_of_time() {
    let patience = Patience { facts: Duration::from_millis(20), ..Patience::default() };
    let stage = stage(patience).await;
    let mut puppet = Puppet::attach(&stage, "node1").await;
    let error = stage.hub.facts(&node()).await.unwrap_err();
    assert!(matches!(error, AgentError::Timeout { .. }));
    // An answer that comes too late is nobody's.
    let order = puppet.order().await.order;
    puppet.answer(order, from_agent::Body::Facts(rpc::Facts { json: Vec::new() })).await;
    assert_eq!(stage.hub.attached().len(), 1);
}

#[tokio::test]
async fn who_arms_too_late_is_disarmed() {
    let patience = Patience { arm: Duration::from_millis(20), ..Patience::default() };
    let stage = stage(patience).await;
    let mut puppet = Puppet::attach(&stage, "node1").await;
    let (sink, _sightings) = mpsc::channel(1);
    let error = stage.hub.arm(&node(), arm_order(), sink).await.unwrap_err();
    assert!(matches!(error, AgentError::Timeout { .. }));
    let order = puppet.order().await.order;
    let armed = rpc::Armed { reports_json: b"[]".to_vec(), check: 7 };
    puppet.answer(order, from_agent::Body::Armed(armed)).await;
    let disarm = puppet.order().await.body;
    assert_eq!(disarm, Some(to_agent::Body::Disarm(rpc::Disarm { check: 7 })));
}

#[tokio::test]
async fn the_first_message_must_be_a_hello() {
    let stage = stage(Patience::default()).await;
    let (says, stream) = mpsc::channel(4);
    let body = from_agent::Body::Injected(rpc::Injected::default());
    says.send(FromAgent { order: 1, body: Some(body) }).await.unwrap();
    let channel = dial(&stage.endpoint).connect().await.unwrap();
    let refusal = AgentHubClient::new(channel).attach(ReceiverStream::new(stream)).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn a_name_that_no_node_has_is_refused_and_not_remembered() {
    let stage = stage(Patience::default()).await;
    for name in [String::new(), "n".repeat(MAX_NAME + 1)] {
        let hello = rpc::Hello { node: name, protocol: rpc::PROTOCOL + 1, ..Default::default() };
        let refusal = Puppet::dial(&stage, hello).await.map(drop).unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::InvalidArgument);
        assert!(refusal.message().ends_with("a name of 1 to 253 characters"), "{refusal}");
    }
    assert_eq!(stage.hub.refused(), []);
}

#[tokio::test]
async fn a_closed_hub_ends_its_streams() {
    let stage = stage(Patience::default()).await;
    let mut puppet = Puppet::attach(&stage, "node1").await;
    stage.hub.close();
    assert_eq!(puppet.hears.message().await.unwrap_err().message(), "the controller stops");
    assert!(stage.hub.attached().is_empty());
}

/// Asks for facts and answers; returns what was ordered on the way.
async fn orders_of_a_question(stage: &Stage, puppet: &mut Puppet) -> Vec<to_agent::Body> {
    let answering = async {
        let mut ordered = Vec::new();
        loop {
            let ToAgent { order, body } = puppet.order().await;
            let body = body.unwrap();
            let answer = match &body {
                to_agent::Body::Assign(_) => from_agent::Body::Assigned(rpc::Assigned {}),
                _ => from_agent::Body::Failure(rpc::Failure { message: "enough".into() }),
            };
            let last = matches!(body, to_agent::Body::CollectFacts(_));
            puppet.answer(order, answer).await;
            ordered.push(body);
            if last {
                return ordered;
            }
        }
    };
    let target = node();
    let (facts, ordered) = tokio::join!(stage.hub.facts(&target), answering);
    assert!(facts.unwrap_err().to_string().ends_with("enough"));
    ordered
}

fn scope_of(order: &to_agent::Body) -> Scope {
    let to_agent::Body::Assign(assign) = order else { panic!("{order:?} is no assignment") };
    Scope::from_json(&assign.scope_json).unwrap()
}

#[tokio::test]
async fn an_agent_without_inventory_is_told_what_changed_before_the_next_order() {
    let source = Changing::default();
    let stage = stage_of(Hub::with_source(Patience::default(), Arc::new(source.clone()))).await;
    let hello =
        rpc::Hello { node: "node1".into(), protocol: rpc::PROTOCOL, wants_scope: true, ..Default::default() };
    let mut puppet = Puppet::dial(&stage, hello).await.unwrap();
    // Its node is not there yet: it is told nothing.
    assert_eq!(orders_of_a_question(&stage, &mut puppet).await.len(), 1);

    source.set(inventory());
    let ordered = orders_of_a_question(&stage, &mut puppet).await;
    assert_eq!(ordered.len(), 2);
    let scope = scope_of(&ordered[0]);
    assert_eq!((scope.node.name.as_str(), scope.pods[0].name.as_str()), ("node1", "cart"));
    assert!(scope.knows("10.96.0.10".parse().unwrap()) && !scope.knows("192.0.2.1".parse().unwrap()));
    // Nothing changed, and then nothing that it must know.
    assert_eq!(orders_of_a_question(&stage, &mut puppet).await.len(), 1);
    let mut changed = inventory();
    changed.services[0].backends[0].ready = false;
    source.set(changed.clone());
    assert_eq!(orders_of_a_question(&stage, &mut puppet).await.len(), 1);
    changed.pods.retain(|pod| pod.name != "cart");
    source.set(changed);
    let ordered = orders_of_a_question(&stage, &mut puppet).await;
    assert!(scope_of(&ordered[0]).pods.is_empty());
}

#[tokio::test]
async fn an_agent_is_told_when_it_attaches() {
    let source = Changing::default();
    source.set(inventory());
    let stage = stage_of(Hub::with_source(Patience::default(), Arc::new(source))).await;
    let hello =
        rpc::Hello { node: "node1".into(), protocol: rpc::PROTOCOL, wants_scope: true, ..Default::default() };
    let mut puppet = Puppet::dial(&stage, hello).await.unwrap();
    let order = puppet.order().await;
    assert_eq!(scope_of(&order.body.unwrap()).node.name, node());
    puppet.answer(order.order, from_agent::Body::Assigned(rpc::Assigned {})).await;
    assert_eq!(orders_of_a_question(&stage, &mut puppet).await.len(), 1, "it is not told twice");
}

#[tokio::test]
async fn an_agent_with_an_inventory_is_told_nothing() {
    let source = Changing::default();
    source.set(inventory());
    let stage = stage_of(Hub::with_source(Patience::default(), Arc::new(source))).await;
    let mut puppet = Puppet::attach(&stage, "node1").await;
    assert_eq!(orders_of_a_question(&stage, &mut puppet).await.len(), 1);
}

#[tokio::test]
async fn an_agent_of_another_protocol_is_refused_and_remembered() {
    let stage = stage(Patience::default()).await;
    let hello = rpc::Hello { node: "node1".into(), version: "0.0.9".into(), ..Default::default() };
    let refusal = Puppet::dial(&stage, hello).await.map(drop).unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::FailedPrecondition);
    let why = format!(
        "its version 0.0.9 speaks protocol 0, this controller's version {} speaks protocol {}; run both in the same version",
        env!("CARGO_PKG_VERSION"),
        rpc::PROTOCOL
    );
    assert_eq!(refusal.message(), format!("the agent of node1 is not taken: {why}"));
    let refused = stage.hub.refused();
    assert_eq!((refused[0].version.as_str(), refused[0].why.as_str()), ("0.0.9", why.as_str()));
    let error = stage.hub.facts(&node()).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!("no agent is attached for node node1, because the one that dialled in was refused: {why}")
    );
    // Once a fitting one is there, all is forgotten.
    let _puppet = Puppet::attach(&stage, "node1").await;
    assert!(stage.hub.refused().is_empty());
}
