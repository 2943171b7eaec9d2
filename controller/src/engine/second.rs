//! Second opinions: where packets vanish between two nodes and nobody can look, other packets over the same stretch
//! tell what it is that is lost there: everything, or these alone.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use waymark_proto::{
    Cause, CheckResult, Direction, FaultPoint, Flow, Hook, Inventory, NodeName, Protocol, Text, Verdict, text,
};

use super::replay::recorded;
use super::{Examined, examine};
use crate::agents::Agents;
use crate::armed::Progress;
use crate::gather::{GatherError, Keep};
use crate::recording::Examination;
use crate::request::Request;
use crate::target::Target;

/// Packets of each: enough to tell all from nothing.
const PACKETS: u32 = 3;
/// How long to wait for them.
const PATIENCE: Duration = Duration::from_millis(500);

/// Another packet over the same stretch, and what each outcome says.
struct Opinion {
    request: Request,
    /// Whose packets it sends, in words.
    what: Text,
    /// What it says if they come through.
    passes: Text,
    /// What it says if they do not.
    fails: Text,
}

/// An opinion that was asked for.
pub(super) struct Asked {
    opinion: Opinion,
    result: CheckResult,
    /// What it rests on, if that is to be kept.
    examination: Option<Examination>,
}

/// Asks for the opinions that a result calls for.
pub(super) async fn ask(
    agents: &Arc<dyn Agents>,
    inventory: &Inventory,
    examined: &Examined<'_>,
    keep: Keep,
    progress: &Progress,
    result: &CheckResult,
) -> Vec<Asked> {
    let all = opinions(inventory, examined, result).into_iter().map(|opinion| async move {
        progress.say(format!("asking for a second opinion: {}", opinion.what));
        // One that cannot be had says nothing.
        let other = examine(agents, inventory, &opinion.request, keep, progress).await.ok()?;
        let result = other.result();
        let examination = (keep == Keep::All).then(|| other.examination());
        Some(Asked { opinion, result, examination })
    });
    join_all(all).await.into_iter().flatten().collect()
}

/// Adds what was learned to the evidence of the fault. Gives back what the answers rest on.
pub(super) fn weigh_all(result: &mut CheckResult, all: Vec<Asked>) -> Vec<Examination> {
    let weighed = all.into_iter().filter_map(|Asked { opinion, result: other, examination }| {
        weigh(result, &opinion, &other);
        examination
    });
    weighed.collect()
}

/// Asks those who were asked when the check was recorded.
pub(super) fn recall(
    inventory: &Inventory,
    examined: &Examined<'_>,
    kept: &[Examination],
    result: &mut CheckResult,
) -> Result<(), GatherError> {
    for opinion in opinions(inventory, examined, result) {
        if let Some(kept) = kept.iter().find(|kept| kept.request == opinion.request) {
            weigh(result, &opinion, &recorded(inventory, kept)?.result());
        }
    }
    Ok(())
}

/// Adds an opinion to the evidence of the fault that it is about.
fn weigh(result: &mut CheckResult, Opinion { what, passes, fails, .. }: &Opinion, other: &CheckResult) {
    let Some(point) = &mut result.fault_point else { return };
    match other.verdict {
        Verdict::Reachable => point.evidence.push(text!(evidence::OpinionPasses { what, means: passes })),
        Verdict::Unreachable if same_stretch(point, other.fault_point.as_ref()) => {
            point.evidence.push(text!(evidence::OpinionLost { what, means: fails }));
        }
        Verdict::Unreachable | Verdict::Inconsistent | Verdict::Undetermined => {}
    }
}

/// The opinions that a result calls for: where all packets vanish between two nodes.
fn opinions(inventory: &Inventory, examined: &Examined<'_>, result: &CheckResult) -> Vec<Opinion> {
    match (result.verdict, &result.fault_point, examined.diagnosis.fault_flow) {
        (Verdict::Unreachable, Some(point), Some(flow)) => {
            others(inventory, examined.question.request, point, &flow)
        }
        _ => Vec::new(),
    }
}

/// Whether another fault lies between the same nodes, in whichever direction.
fn same_stretch(point: &FaultPoint, other: Option<&FaultPoint>) -> bool {
    let ends = |point: &FaultPoint| {
        let mut ends = nodes(point)?;
        ends.sort();
        Some(ends)
    };
    other.is_some_and(|other| ends(point).is_some() && ends(point) == ends(other))
}

/// The nodes between which packets vanish.
fn nodes(point: &FaultPoint) -> Option<[NodeName; 2]> {
    // What is changed between them comes through.
    let span = point.span.as_ref().filter(|_| point.hook == Hook::Wire && point.cause != Cause::Rewritten)?;
    let (from, to) = (span.last_seen.node.clone(), span.first_missing.node.clone());
    (from != to).then_some([from, to])
}

/// The nodes between which all packets of a check vanish.
pub(super) fn vanished_between(result: &CheckResult) -> Option<[NodeName; 2]> {
    nodes(result.fault_point.as_ref().filter(|_| result.verdict == Verdict::Unreachable)?)
}

/// What else to send.
fn others(inventory: &Inventory, request: &Request, point: &FaultPoint, flow: &Flow) -> Vec<Opinion> {
    let Some([from, to]) = nodes(point) else { return Vec::new() };
    let few = |source, destination| Request {
        protocol: Some(Protocol::Icmp),
        count: PACKETS,
        max_packets: PACKETS,
        timeout: PATIENCE,
        sizes: request.sizes.clone(),
        ipv6: flow.is_ipv6(),
        wide: true,
        ..Request::new(source, destination)
    };
    let mut all = Vec::new();
    let is_node = |target: &Target, name: &NodeName| matches!(target, Target::Node { name: own, .. } if own.as_str() == name.as_str());
    let asked_already = flow.protocol == Protocol::Icmp
        && is_node(&request.source, &from)
        && is_node(&request.destination, &to);
    let both_known = [&from, &to].iter().all(|name| inventory.node(name).is_some());
    if both_known && !asked_already {
        let end = |name: &NodeName| Target::Node { name: name.to_string(), port: None };
        all.push(Opinion {
            request: few(end(&from), end(&to)),
            what: text!(opinion::Nodes { from: &from, to: &to }),
            passes: text!(opinion::NodesPass),
            fails: text!(opinion::NodesFail),
        });
    }
    if flow.protocol != Protocol::Icmp {
        // An answer goes to who asked.
        let asked = if point.direction == Direction::Return { flow.src } else { flow.dst };
        let receiver = inventory.owner(asked).and_then(|place| inventory.pod_at(&place));
        let sender = match &request.source {
            Target::Pod { .. } | Target::Node { .. } => Some(request.source.clone()),
            _ => None,
        };
        if let (Some(pod), Some(sender)) = (receiver, sender) {
            let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
            let destination = Target::Pod { namespace, name, port: None };
            all.push(Opinion {
                what: text!(opinion::SameEnds { from: sender.to_string(), to: destination.to_string() }),
                request: few(sender, destination),
                passes: text!(opinion::SameEndsPass { protocol: flow.protocol }),
                fails: text!(opinion::SameEndsFail),
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{fault, inventory, tcp, wire};

    fn asked(source: &str, destination: &str) -> Request {
        Request::new(source.parse().unwrap(), destination.parse().unwrap())
    }

    #[test]
    fn other_packets_go_the_same_way() {
        let all = others(&inventory(), &asked("pod/shop/cart", "svc/shop/pay:80"), &wire(), &tcp());
        let ends = |opinion: &Opinion| format!("{} {}", opinion.request.source, opinion.request.destination);
        assert_eq!(
            all.iter().map(ends).collect::<Vec<_>>(),
            ["node/node1 node/node2", "pod/shop/cart pod/shop/pay"]
        );
        assert!(
            all.iter()
                .all(|one| one.request.protocol == Some(Protocol::Icmp) && one.request.count == PACKETS)
        );
    }

    #[test]
    fn where_an_answer_vanishes_the_same_question_is_asked() {
        let back = FaultPoint { direction: Direction::Return, ..wire() };
        let all = others(&inventory(), &asked("pod/shop/cart", "pod/shop/pay:80"), &back, &tcp().reversed());
        let same = all.last().expect("there are two");
        assert_eq!(same.request.destination.to_string(), "pod/shop/pay");
    }

    #[test]
    fn nothing_is_asked_twice_or_where_it_says_nothing() {
        let icmp = Flow { protocol: Protocol::Icmp, ..tcp() };
        assert!(others(&inventory(), &asked("node/node1", "node/node2"), &wire(), &icmp).is_empty());
        assert!(
            others(&inventory(), &asked("pod/shop/cart", "pod/shop/pay:80"), &fault(), &tcp()).is_empty()
        );
    }

    #[test]
    fn a_stretch_is_the_same_both_ways() {
        let mut back = wire();
        let span = back.span.as_mut().unwrap();
        std::mem::swap(&mut span.last_seen, &mut span.first_missing);
        assert!(same_stretch(&wire(), Some(&back)));
        assert!(!same_stretch(&wire(), Some(&fault())) && !same_stretch(&wire(), None));
    }
}
