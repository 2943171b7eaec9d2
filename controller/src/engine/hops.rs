//! Hops: where packets vanish between two nodes, routers may lie between that nobody watches. Packets whose TTL ends at
//! each of them in turn make them say that they were there (RFC 792, RFC 4443): what is lost is lost behind the last.
//!
//! The packets are those of the check. Inside a tunnel and on the way back their TTL says nothing to routers, or is not
//! ours to choose; there they go from node to node, as TCP, whose sequence number even a router quotes that quotes no
//! more than eight bytes.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use waymark_proto::{
    CheckResult, Direction, Hook, HookSet, Inventory, Match, NodeName, PathSet, Protocol, Sighting, text,
};

use super::Examined;
use super::round::{Range, Secret, all_steps, fire};
use super::second::vanished_between;
use super::survey::Salvo;
use super::trials::Trials;
use crate::agents::Agents;
use crate::armed::Progress;
use crate::gather::{Keep, gather, with_source_port};
use crate::request::Request;
use crate::resolve::{Ends, resolve};
use crate::target::Target;

/// Routers that are looked for at most.
const MOST: u8 = 6;
/// Packets to each: routers answer some of them only.
const PACKETS: u32 = 2;
const INTERVAL: Duration = Duration::from_millis(10);
/// How long answers may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(10);
/// What `traceroute` sends to: most likely nobody listens.
const PORT: u16 = 33434;

/// The packets whose TTL is limited.
struct Way<'a> {
    request: Cow<'a, Request>,
    ends: Cow<'a, Ends>,
    prediction: Cow<'a, PathSet>,
    /// How much of the TTL is gone when they come to the wire.
    gone: u8,
}

/// The routers that answer, the nearest first, where a result calls for it.
pub(super) async fn ask(
    agents: &Arc<dyn Agents>,
    inventory: &Inventory,
    examined: &Examined<'_>,
    progress: &Progress,
    result: &CheckResult,
) -> Vec<IpAddr> {
    let Some([from, to]) = vanished_between(result) else { return Vec::new() };
    let asking = async {
        let way = match own_way(examined, result, &from) {
            Some(way) => way,
            None => between_nodes(agents, inventory, examined, progress, [&from, &to]).await?,
        };
        progress.say(format!("looking for routers between {from} and {to}"));
        let hops = join_all((1..=MOST).map(|hop| probe(agents, &way, hop, progress))).await;
        // Some answer never; behind the last that does, nobody answered.
        Some(hops.iter().filter_map(|seen| router(inventory, &from, seen.as_ref())).collect())
    };
    // What cannot be had says nothing, and nor does it if it takes long.
    tokio::time::timeout(LIMIT, asking).await.ok().flatten().unwrap_or_default()
}

/// Adds the routers that answered to the evidence of the fault.
pub(super) fn weigh(result: &mut CheckResult, routers: &[IpAddr]) {
    let (Some(point), Some(last)) = (&mut result.fault_point, routers.last()) else { return };
    let routers: Vec<String> = routers.iter().map(ToString::to_string).collect();
    point.evidence.push(text!(evidence::HopsAnswered { routers, last: last.to_string() }));
}

/// The packets of the check itself, if their TTL is what routers see.
fn own_way<'a>(examined: &'a Examined<'_>, result: &CheckResult, from: &NodeName) -> Option<Way<'a>> {
    let question = &examined.question;
    let point = result.fault_point.as_ref().filter(|point| point.direction == Direction::Forward)?;
    let sent_from = |sighting: &&Sighting| {
        sighting.hook == Hook::DriverTx && sighting.place.node == *from && sighting.device == point.device
    };
    let headers = examined.looks.sightings().iter().filter(sent_from).filter_map(|s| s.headers.as_ref());
    let mut headers = headers.filter(|headers| headers.matched != Match::Quoted).peekable();
    headers.peek()?;
    let prediction = &question.picture.prediction;
    let tunnelled = headers.clone().any(|headers| headers.outer.is_some())
        || all_steps(&prediction.branches).any(|step| step.outer.is_some());
    let left = headers.map(|headers| headers.ttl).max().filter(|_| !tunnelled)?;
    Some(Way {
        request: Cow::Borrowed(question.request),
        ends: Cow::Borrowed(&question.ends),
        prediction: Cow::Borrowed(prediction),
        gone: question.request.ttl.checked_sub(left)?,
    })
}

/// Packets from one node to the other.
async fn between_nodes(
    agents: &Arc<dyn Agents>,
    inventory: &Inventory,
    examined: &Examined<'_>,
    progress: &Progress,
    [from, to]: [&NodeName; 2],
) -> Option<Way<'static>> {
    let question = &examined.question;
    let outer = all_steps(&question.picture.prediction.branches).find_map(|step| step.outer.as_ref());
    let end = |name: &NodeName, port| Target::Node { name: name.to_string(), port };
    let request = Request {
        protocol: Some(Protocol::Tcp),
        ipv6: outer.map_or(question.request.ipv6, |outer| outer.src.is_ipv6()),
        ..Request::new(end(from, None), end(to, Some(PORT)))
    };
    let secret = Secret::random().ok()?;
    let ends = with_source_port(resolve(inventory, &request).ok()?, secret.port);
    let picture = gather(agents.as_ref(), inventory, &ends, Keep::Nothing, progress).await.ok()?;
    let tunnelled = all_steps(&picture.prediction.branches).any(|step| step.outer.is_some());
    (!tunnelled).then_some(Way {
        request: Cow::Owned(request),
        ends: Cow::Owned(ends),
        prediction: Cow::Owned(picture.prediction),
        gone: 0,
    })
}

/// Sends packets that end at a hop.
async fn probe(agents: &Arc<dyn Agents>, way: &Way<'_>, hop: u8, progress: &Progress) -> Option<Trials> {
    let request = Request { ttl: way.gone.checked_add(hop)?, ..way.request.as_ref().clone() };
    let salvo = Salvo {
        count: PACKETS,
        sizes: vec![0],
        dscps: request.dscps.clone(),
        flows: 0,
        interval: INTERVAL,
        timeout: PATIENCE,
        hooks: HookSet::Wide,
    };
    let range = Range {
        agents,
        request: &request,
        ends: &way.ends,
        prediction: &way.prediction,
        witnesses: &[],
        keep: Keep::Nothing,
        progress,
    };
    Trials::beside(fire(&range, &Secret::random().ok()?, &salvo).await)
}

/// Who of those that are no node said that a packet ended with it.
fn router(inventory: &Inventory, from: &NodeName, trials: Option<&Trials>) -> Option<IpAddr> {
    let sightings = trials.into_iter().flat_map(|trials| &trials.seen.sightings);
    let errors = sightings
        .filter(|sighting| sighting.place.node == *from && sighting.hook == Hook::DriverRx)
        .filter_map(|sighting| sighting.headers.as_ref())
        .filter(|headers| headers.matched == Match::Quoted);
    errors.map(|headers| headers.flow.src).find(|ip| inventory.owner(*ip).is_none())
}

#[cfg(test)]
mod tests {
    use waymark_proto::{Place, Step};

    use super::*;
    use crate::fixture::{THERE, inventory, sightings, steps, tcp, wire};

    /// A packet of node1 whose TTL ended, and what came back for it from there.
    fn ended(by: &str, matched: Match) -> Option<Trials> {
        let received = steps(THERE, tcp()).into_iter().find(|step| step.hook == Hook::DriverRx)?;
        let place = Place::new("node1", received.place.netns.clone());
        let mut trials = Trials::default();
        trials.seen.sightings = sightings(&[Step { place, ..received }], 0, false);
        for sighting in &mut trials.seen.sightings {
            let headers = sighting.headers.as_mut()?;
            headers.matched = matched;
            headers.flow.src = by.parse().ok()?;
        }
        Some(trials)
    }

    #[test]
    fn a_router_is_who_quotes_the_packet_and_is_no_node() {
        let asked = |by, matched| router(&inventory(), &"node1".into(), ended(by, matched).as_ref());
        assert_eq!(asked("192.0.2.1", Match::Quoted), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(asked("192.0.2.1", Match::TcpAck), None, "an answer");
        let node = inventory().nodes[1].ip.to_string();
        assert_eq!(asked(&node, Match::Quoted), None);
        assert_eq!(router(&inventory(), &"node2".into(), ended("192.0.2.1", Match::Quoted).as_ref()), None);
        assert_eq!(router(&inventory(), &"node1".into(), None), None);
    }

    #[tokio::test]
    async fn the_last_that_answered_is_named() {
        let mut result = crate::engine::fakes::result().await;
        result.fault_point = Some(wire());
        weigh(&mut result, &[]);
        assert!(result.fault_point.as_ref().unwrap().evidence.is_empty());
        weigh(&mut result, &["192.0.2.1".parse().unwrap(), "192.0.2.9".parse().unwrap()]);
        let evidence = result.fault_point.unwrap().evidence[0].to_string();
        assert!(evidence.contains("192.0.2.1, then 192.0.2.9 answered"), "{evidence}");
        assert!(evidence.contains("lost at 192.0.2.9 or behind it"), "{evidence}");
    }
}
