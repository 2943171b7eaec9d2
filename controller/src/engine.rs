//! A check from question to result.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use waymark_proto::{
    API_VERSION, Branch, CheckId, CheckResult, Disposition, Inventory, MarkerKey, NetnsName, NodeName,
    PathSet, Place, Protocol, Seq, Step, rpc,
};

use crate::agents::{AgentError, Agents};
use crate::armed::{Armed, Progress, Seen, Settled};
use crate::deviation;
use crate::diagnose::{Case, Sent, diagnose};
use crate::gather::{GatherError, Picture, gather, with_source_port};
use crate::observe::{Lens, observe};
use crate::request::Request;
use crate::resolve::{Ends, ResolveError, resolve};

/// How long agents stay armed beyond what the check itself takes, should the controller die.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// Why a check gave no result.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The ends.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// UDP would reach an application without having been asked for.
    #[error(
        "{0} is a UDP port, and a UDP probe reaches the application behind it; say --proto udp if that is wanted"
    )]
    UdpNotAsked(String),
    /// Facts or prediction.
    #[error(transparent)]
    Gather(#[from] GatherError),
    /// The source's agent did not send, or did not say what it sent.
    #[error("{sent}: {0}", sent = what_was_sent(.0))]
    Inject(AgentError),
    /// The source's node cannot be watched, and without that nothing is sent.
    #[error("nothing was sent: {0}")]
    Arm(String),
    /// Who asked does not listen any more.
    #[error("the check was cancelled")]
    Cancelled,
    /// The operating system gave no random numbers.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

/// What is known of the packets of an agent that did not answer with them.
fn what_was_sent(error: &AgentError) -> &'static str {
    match error {
        AgentError::NoAgent { .. } | AgentError::Refused { .. } | AgentError::Failed { .. } => {
            "nothing was sent"
        }
        AgentError::Timeout { .. } | AgentError::Gone { .. } => "nobody knows what was sent",
    }
}

/// Runs a check: the heart of the controller.
pub async fn check(
    agents: &Arc<dyn Agents>,
    inventory: &Inventory,
    request: &Request,
    progress: &Progress,
) -> Result<CheckResult, CheckError> {
    let secret = Secret::random()?;
    let ends = with_source_port(resolve(inventory, request)?, secret.port);
    disturbs_nobody(request, &ends)?;
    let picture = gather(agents.as_ref(), inventory, &ends, progress).await?;
    progress.say("arming tracers");
    let tracers = arm(agents, request, &secret, &ends, &picture.prediction).await;
    let sent = tokio::select! {
        sent = send(agents, &tracers, request, &secret, &ends, progress) => sent,
        () = progress.cancelled() => Err(CheckError::Cancelled),
    };
    let seen = tracers.disarm().await;
    let sent = sent?;
    progress.say("comparing the walks");
    Ok(conclude(inventory, request, &secret, &ends, picture, &sent, seen))
}

/// A UDP packet reaches the application behind its port, so it is sent only if that was asked for.
fn disturbs_nobody(request: &Request, ends: &Ends) -> Result<(), CheckError> {
    if ends.flow.protocol == Protocol::Udp && request.protocol.is_none() {
        return Err(CheckError::UdpNotAsked(request.destination.to_string()));
    }
    Ok(())
}

/// What tells this check's packets from all others.
struct Secret {
    check: CheckId,
    key: MarkerKey,
    port: u16,
}

impl Secret {
    fn random() -> Result<Self, CheckError> {
        let mut bytes = [0; 22];
        loop {
            getrandom::fill(&mut bytes).map_err(CheckError::Random)?;
            let (id, rest) = bytes.split_at(4);
            let (port, key) = rest.split_at(2);
            let id = u32::from_ne_bytes(id.try_into().expect("four bytes"));
            let port = u16::from_ne_bytes(port.try_into().expect("two bytes"));
            let key = MarkerKey(key.try_into().expect("the remaining sixteen of 22 bytes"));
            if let Some(check) = CheckId::new(id) {
                return Ok(Self { check, key, port });
            }
        }
    }
}

/// Arms the nodes of the predicted paths, of the source, and of the destinations.
async fn arm(
    agents: &Arc<dyn Agents>,
    request: &Request,
    secret: &Secret,
    ends: &Ends,
    prediction: &PathSet,
) -> Armed {
    let on_path = places(prediction);
    let mut nodes: BTreeMap<NodeName, BTreeSet<NetnsName>> = BTreeMap::new();
    for place in on_path.iter().chain(&ends.destinations).chain([&ends.source]) {
        nodes.entry(place.node.clone()).or_default().insert(place.netns.clone());
    }
    let answers = prediction.branches.iter().flat_map(|branch| &branch.answer);
    let mut all = prediction.branches.iter().chain(answers);
    if all.any(|branch| branch.path.disposition() == Disposition::InsufficientInfo) {
        // Where the prediction knows no further, any namespace of these nodes may be next.
        nodes.values_mut().for_each(BTreeSet::clear);
    }
    let lease = request.interval * request.count + request.timeout + LEASE_MARGIN;
    let order = rpc::Arm {
        check: secret.check.get(),
        key: secret.key.0.to_vec(),
        count: request.count,
        lease_ms: lease.as_millis() as u32,
        protocol: ends.flow.protocol.number(ends.flow.is_ipv6()).into(),
        netns: Vec::new(),
    };
    let settled = Settled { source: ends.source.clone(), one_way: request.one_way, on_path };
    Armed::arm(agents, secret.check, &order, &nodes, settled).await
}

/// Sends the packets and waits until their fates are known.
async fn send(
    agents: &Arc<dyn Agents>,
    tracers: &Armed,
    request: &Request,
    secret: &Secret,
    ends: &Ends,
    progress: &Progress,
) -> Result<Vec<Sent>, CheckError> {
    let node = &ends.source.node;
    if !tracers.sight.watches(node) {
        return Err(CheckError::Arm(tracers.notes.join("; ")));
    }
    progress.say(format!("sending {} packets from {}", request.count, ends.source));
    let order = rpc::Inject {
        check: secret.check.get(),
        key: secret.key.0.to_vec(),
        netns: ends.source.netns.to_string(),
        flow_json: serde_json::to_vec(&ends.flow).expect("a flow is plain data"),
        count: request.count,
        interval_us: request.interval.as_micros() as u32,
        size: request.size.unwrap_or(0).into(),
        ttl: request.ttl.into(),
        budget_pps: 0,
    };
    let injected = agents.inject(node, order).await.map_err(CheckError::Inject)?;
    let sent: Vec<Sent> = injected.packets.into_iter().map(Sent::from).collect();
    let out = sent.iter().filter(|packet| packet.error.is_none()).map(|packet| packet.seq).collect();
    progress.say("waiting for sightings");
    tracers.settle(&out, request.timeout).await;
    Ok(sent)
}

impl From<rpc::SentPacket> for Sent {
    fn from(packet: rpc::SentPacket) -> Self {
        Self {
            seq: Seq(packet.seq),
            source_port: packet.source_port as u16,
            sent_ns: packet.sent_ns,
            error: (!packet.error.is_empty()).then_some(packet.error),
        }
    }
}

/// Compares what was predicted with what was seen.
fn conclude(
    inventory: &Inventory,
    request: &Request,
    secret: &Secret,
    ends: &Ends,
    picture: Picture,
    sent: &[Sent],
    seen: Seen,
) -> CheckResult {
    let mut visited: Vec<NodeName> = vec![ends.source.node.clone()];
    for step in picture.prediction.branches.iter().flat_map(|branch| branch.path.steps()) {
        if !visited.contains(&step.place.node) {
            visited.push(step.place.node.clone());
        }
    }
    let mut receivers = BTreeSet::from([(ends.flow.dst, ends.flow.dst_port)]);
    let on_the_way = picture.prediction.branches.iter().flat_map(|branch| branch.path.steps());
    receivers.extend(on_the_way.filter_map(|step| step.flow).map(|flow| (flow.dst, flow.dst_port)));
    let lens = Lens {
        inventory,
        source: &ends.source,
        flow: ends.flow,
        source_ports: sent.iter().map(|packet| (packet.seq, packet.source_port)).collect(),
        receivers,
        filters_watched: watched_filters(&seen),
        nodes: visited,
    };
    let observed = observe(&seen.sightings, &lens);
    let question = Case {
        inventory,
        source: &ends.source,
        flow: ends.flow,
        receivers: if ends.exclusive { &ends.destinations } else { &[] },
        one_way: request.one_way,
        prediction: &picture.prediction,
        sent,
        observed: &observed,
        sight: &seen.sight,
        losses: seen.losses,
    };
    let mut diagnosis = diagnose(&question);
    let asked = deviation::Question {
        inventory,
        flow: ends.flow,
        prediction: &picture.prediction,
        cluster: &picture.cluster,
    };
    let intent = deviation::of_check(&asked, &mut diagnosis);
    let mut notes = picture.notes;
    notes.extend(seen.notes);
    notes.extend(diagnosis.notes);
    notes.extend(ignored_policies(inventory));
    let mut remarks: Vec<String> = all_steps(&picture.prediction.branches)
        .filter_map(|step| step.note.clone().filter(|_| !step.action.continues()))
        .collect();
    remarks.dedup();
    notes.extend(remarks);
    CheckResult {
        api_version: API_VERSION.to_owned(),
        kind: "CheckResult".to_owned(),
        check: secret.check,
        source: request.source.to_string(),
        destination: request.destination.to_string(),
        flow: ends.flow,
        verdict: diagnosis.verdict,
        sent: sent.len() as u32,
        delivered: diagnosis.delivered,
        replied: diagnosis.replied,
        rtt_ns: diagnosis.rtt_ns,
        fault_point: diagnosis.fault_point,
        intent,
        forward: diagnosis.forward,
        return_: diagnosis.return_,
        model_errors: diagnosis.model_errors,
        not_observable: diagnosis.not_observable,
        lost_events: seen.losses.total(),
        losses: seen.losses,
        notes,
    }
}

/// Policies that are there and not understood: what was intended is judged without them.
fn ignored_policies(inventory: &Inventory) -> impl Iterator<Item = String> {
    let absent = inventory.absent.iter().filter(|absent| absent.object.kind == "NetworkPolicy");
    absent.map(|absent| format!("{} {}; what was intended is judged without it", absent.object, absent.why))
}

/// The namespaces of which the rule trace is whole.
fn watched_filters(seen: &Seen) -> BTreeSet<Place> {
    if seen.losses.trace_overruns > 0 {
        return BTreeSet::new();
    }
    let places = seen.sightings.iter().map(|sighting| &sighting.place);
    places.filter(|place| seen.sight.watches_filters(place)).cloned().collect()
}

/// All steps of branches and their answers.
fn all_steps(branches: &[Branch]) -> impl Iterator<Item = &Step> {
    let answers = branches.iter().flat_map(|branch| &branch.answer);
    branches.iter().chain(answers).flat_map(|branch| branch.path.steps())
}

fn places(prediction: &PathSet) -> BTreeSet<Place> {
    all_steps(&prediction.branches).map(|step| step.place.clone()).collect()
}

#[cfg(test)]
pub(crate) mod fakes;
#[cfg(test)]
mod tests;
