//! One round of a check: arm the path, send the packets, wait for their fates, disarm.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use waymark_proto::{
    Branch, CheckId, Disposition, Flow, HookSet, MarkerKey, NetnsName, NodeName, PathSet, Place, Seq, Step,
    rpc,
};

use super::CheckError;
use super::survey::Salvo;
use crate::agents::Agents;
use crate::armed::{Armed, Progress, Seen, Settled};
use crate::diagnose::Sent;
use crate::gather::{Keep, source_port};
use crate::request::Request;
use crate::resolve::Ends;

/// How long agents stay armed beyond what the round itself takes, should the controller die.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// Packets per second of all checks together, for each processor of the controller, while more than the light set is
/// watched: a thousand checks of TCP through Services, two hundred at once, lost no record at that.
const PACKETS_PER_PROCESSOR: u32 = 2000;

/// So many packets count as one of those in light rounds, of which there is less to tell.
const LIGHT: u32 = 3;

/// What a salvo takes beside its packets, at least.
const OVERHEAD: Duration = Duration::from_millis(100);

/// What was sent and seen in a round.
pub(super) type Round = (Vec<Sent>, Seen);

/// What rounds need, whichever they are.
pub(super) struct Range<'a> {
    pub(super) agents: &'a Arc<dyn Agents>,
    pub(super) request: &'a Request,
    pub(super) ends: &'a Ends,
    pub(super) prediction: &'a PathSet,
    /// Who is to watch although no prediction leads there.
    pub(super) witnesses: &'a [Place],
    /// What of the packets is kept.
    pub(super) keep: Keep,
    pub(super) progress: &'a Progress,
}

/// What tells the packets of a round from all others.
pub(super) struct Secret {
    pub(super) check: CheckId,
    key: MarkerKey,
    pub(super) port: u16,
}

impl Secret {
    pub(super) fn random() -> Result<Self, CheckError> {
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

/// Fires a salvo and returns what was sent and seen. Whatever happens, nothing is armed behind it.
pub(super) async fn fire(range: &Range<'_>, secret: &Secret, salvo: &Salvo) -> Result<Round, CheckError> {
    let progress = range.progress;
    progress.say("waiting for a turn");
    let turn = progress.unless_cancelled(turn(salvo)).await;
    let _turn = turn.ok_or(CheckError::Cancelled)?;
    progress.say("arming tracers");
    let tracers = progress.unless_cancelled(arm(range, secret, salvo)).await.ok_or(CheckError::Cancelled)?;
    let sent = progress.unless_cancelled(send(range, &tracers, secret, salvo)).await;
    let seen = tracers.disarm().await;
    Ok((sent.ok_or(CheckError::Cancelled)??, seen))
}

/// Waits until a salvo can be fired beside those that others have under way.
///
/// Every packet makes some seventy sightings, or some twenty in a light round. Agents and the controller keep up with so
/// many packets a second: what exceeds that is lost, and what is lost leaves a check without an answer.
async fn turn(salvo: &Salvo) -> SemaphorePermit<'static> {
    static ROOM: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(packets_at_once() as usize));
    let wanted = rate(salvo).min(packets_at_once());
    ROOM.acquire_many(wanted).await.expect("nobody closes it")
}

/// Packets per second of all salvos together.
fn packets_at_once() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    PACKETS_PER_PROCESSOR.saturating_mul(u32::try_from(processors).unwrap_or(u32::MAX))
}

/// Packets per second of a salvo, with the time that arming and disarming take, and as if more than the light set was
/// watched.
fn rate(salvo: &Salvo) -> u32 {
    let takes = salvo.interval * salvo.count + OVERHEAD;
    let weight =
        if salvo.hooks == HookSet::Light { takes.as_millis() * u128::from(LIGHT) } else { takes.as_millis() };
    (u128::from(salvo.count) * 1000).div_ceil(weight) as u32
}

/// Arms the nodes of the predicted paths, of the source, and of the destinations.
async fn arm(range: &Range<'_>, secret: &Secret, salvo: &Salvo) -> Armed {
    let Range { request, ends, prediction, witnesses, .. } = *range;
    let on_path: BTreeSet<Place> = all_steps(&prediction.branches).map(|step| step.place.clone()).collect();
    // Of each node the namespaces whose netfilter hooks are watched.
    let mut nodes: BTreeMap<NodeName, BTreeSet<NetnsName>> = BTreeMap::new();
    for place in ends.destinations.iter().chain([&ends.source]) {
        nodes.entry(place.node.clone()).or_default().insert(place.netns.clone());
    }
    for place in &on_path {
        let names = nodes.entry(place.node.clone()).or_default();
        if salvo.hooks == HookSet::All {
            names.insert(place.netns.clone());
        }
    }
    let answers = prediction.branches.iter().flat_map(|branch| &branch.answer);
    let mut all = prediction.branches.iter().chain(answers);
    if salvo.hooks == HookSet::All
        && all.any(|branch| branch.path.disposition() == Disposition::InsufficientInfo)
    {
        // Where the prediction knows no further, any namespace of these nodes may be next.
        nodes.values_mut().for_each(BTreeSet::clear);
    }
    for place in witnesses {
        nodes.entry(place.node.clone()).or_default().insert(place.netns.clone());
    }
    let lease = salvo.interval * salvo.count + salvo.timeout + LEASE_MARGIN;
    let order = rpc::Arm {
        check: secret.check.get(),
        key: secret.key.0.to_vec(),
        count: salvo.count,
        lease_ms: lease.as_millis() as u32,
        protocol: ends.flow.protocol.number(ends.flow.is_ipv6()).into(),
        netns: Vec::new(),
        hooks: rpc::HookSet::from(salvo.hooks).into(),
        capture: range.keep == Keep::All,
        filter: Vec::new(),
        every_rule: false,
    };
    let settled = Settled { source: ends.source.clone(), one_way: request.one_way, on_path };
    Armed::arm(range.agents, secret.check, &order, &nodes, settled).await
}

/// Sends the packets and waits until their fates are known.
async fn send(
    range: &Range<'_>,
    tracers: &Armed,
    secret: &Secret,
    salvo: &Salvo,
) -> Result<Vec<Sent>, CheckError> {
    let Range { agents, request, ends, progress, .. } = *range;
    let node = &ends.source.node;
    if !tracers.sight().watches(node) {
        return Err(CheckError::Arm(
            tracers.notes().iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        ));
    }
    progress.say(format!("sending {} packets from {}", salvo.count, ends.source));
    let flow = Flow { src_port: source_port(secret.port), ..ends.flow };
    let order = rpc::Inject {
        check: secret.check.get(),
        key: secret.key.0.to_vec(),
        netns: ends.source.netns.to_string(),
        flow_json: serde_json::to_vec(&flow).expect("a flow is plain data"),
        count: salvo.count,
        interval_us: salvo.interval.as_micros() as u32,
        sizes: salvo.sizes.iter().map(|&size| size.into()).collect(),
        dscps: salvo.dscps.iter().map(|&dscp| dscp.into()).collect(),
        flows: salvo.flows,
        ttl: request.ttl.into(),
        budget_pps: 0,
        fragmentable: request.fragmentable,
    };
    let injected = agents.inject(node, order).await.map_err(CheckError::Inject)?;
    let sent: Vec<Sent> = injected.packets.into_iter().map(Sent::from).collect();
    let out = sent.iter().filter(|packet| packet.error.is_none()).map(|packet| packet.seq).collect();
    progress.say("waiting for sightings");
    tracers.settle(&out, salvo.timeout).await;
    Ok(sent)
}

impl From<rpc::SentPacket> for Sent {
    fn from(packet: rpc::SentPacket) -> Self {
        Self {
            seq: Seq(packet.seq),
            source_port: packet.source_port as u16,
            sent_ns: packet.sent_ns,
            error: (!packet.error.is_empty()).then_some(packet.error),
            size: packet.size,
            dscp: packet.dscp as u8,
        }
    }
}

/// All steps of branches and their answers.
pub(super) fn all_steps(branches: &[Branch]) -> impl Iterator<Item = &Step> {
    let answers = branches.iter().flat_map(|branch| &branch.answer);
    branches.iter().chain(answers).flat_map(|branch| branch.path.steps())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salvo_counts_by_the_packets_that_it_sends_in_a_second() {
        let salvo = |count, interval_ms| Salvo {
            count,
            sizes: vec![0],
            dscps: vec![0],
            flows: 0,
            interval: Duration::from_millis(interval_ms),
            timeout: Duration::ZERO,
            hooks: HookSet::All,
        };
        assert_eq!(rate(&salvo(10, 10)), 50);
        assert_eq!(rate(&salvo(1, 10_000)), 1);
        assert_eq!(rate(&salvo(1000, 0)), 10_000);
        assert_eq!(rate(&Salvo { hooks: HookSet::Light, ..salvo(9, 0) }), 30);
    }
}
