//! From a watch to what each agent has to probe. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;
use waymark_proto::{Inventory, NodeName, Probe, ProbeId, ProbePlan, Protocol, Responder};

use super::outage::Outage;
use super::spec::{WatchError, WatchSpec};
use crate::request::Request;
use crate::resolve::resolve;
use crate::target::Target;

/// Port of the agents' UDP responders.
pub const RESPONDER_PORT: u16 = 7171;
/// Most targets of one watch.
pub const MAX_TARGETS: usize = 20_000;
/// All nodes, as a source or a destination.
const ALL_NODES: &str = "nodes";

/// What a watch comes to in a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The work of each node's agent.
    pub(super) plans: BTreeMap<NodeName, ProbePlan>,
    /// Pairs of ends that cannot be probed now, a sentence each.
    pub(super) problems: Vec<String>,
}

/// Resolves a watch. What is not there now is a problem of that pair alone: pods come and go.
///
/// # Errors
/// Ends that never can be, as a Service as a source.
pub(super) fn targets(spec: &WatchSpec, inventory: &Inventory) -> Result<Resolved, WatchError> {
    let sources = ends(&spec.from, inventory)?;
    let destinations = ends(&spec.to, inventory)?;
    let count = sources.len() * destinations.len();
    if count > MAX_TARGETS {
        return Err(WatchError::TooMany { what: "the targets", count, limit: MAX_TARGETS });
    }
    let mut resolved = Resolved::default();
    let mut seen = BTreeSet::new();
    for source in &sources {
        if !matches!(source, Target::Pod { port: None, .. } | Target::Node { port: None, .. }) {
            return Err(WatchError::End(format!(
                "nothing can be sent from {source}: a source is a pod or a node, without port"
            )));
        }
        for destination in destinations.iter().filter(|destination| *destination != source) {
            let probe = match pair(spec, source, destination, inventory) {
                Ok(probe) => probe,
                Err(Unfit::Ever(why)) => return Err(WatchError::End(why)),
                Err(Unfit::Now(why)) => {
                    if !resolved.problems.contains(&why) {
                        resolved.problems.push(why);
                    }
                    continue;
                }
            };
            if !seen.insert(probe.probe.id) {
                continue;
            }
            if let Some((node, responder)) = probe.responder {
                let responders = &mut resolved.plans.entry(node).or_default().responders;
                if !responders.contains(&responder) {
                    responders.push(responder);
                }
            }
            resolved.plans.entry(probe.node).or_default().probes.push(probe.probe);
        }
    }
    Ok(resolved)
}

/// The ends that a list names, each once.
fn ends(names: &[String], inventory: &Inventory) -> Result<Vec<Target>, WatchError> {
    let mut ends: Vec<Target> = Vec::new();
    for name in names {
        if name == ALL_NODES {
            let node = |node: &waymark_proto::Node| Target::Node { name: node.name.to_string(), port: None };
            ends.extend(inventory.nodes.iter().map(node));
        } else {
            ends.push(name.parse().map_err(|error| WatchError::End(format!("{error}")))?);
        }
    }
    let mut seen = BTreeSet::new();
    ends.retain(|end| seen.insert(end.to_string()));
    Ok(ends)
}

/// One pair of ends, resolved.
struct Pair {
    node: NodeName,
    probe: Probe,
    responder: Option<(NodeName, Responder)>,
}

/// Why a pair cannot be probed.
enum Unfit {
    /// By what was asked.
    Ever(String),
    /// By what there is.
    Now(String),
}

fn pair(
    spec: &WatchSpec,
    source: &Target,
    destination: &Target,
    inventory: &Inventory,
) -> Result<Pair, Unfit> {
    let udp = spec.protocol == Some(Protocol::Udp);
    let request = request(source.clone(), destination, spec.protocol, spec.ipv6)?;
    let ends = resolve(inventory, &request).map_err(|error| Unfit::Now(error.to_string()))?;
    let flow = ends.flow;
    if flow.protocol == Protocol::Udp && !udp {
        return Err(Unfit::Ever(format!(
            "{destination} is a UDP port, and probes would reach the application behind it: watch its pods with --proto udp and without port"
        )));
    }
    let responder = udp
        .then(|| ends.destinations.first())
        .flatten()
        .map(|place| (place.node.clone(), Responder { netns: place.netns.clone(), port: flow.dst_port }));
    let probe = Probe {
        id: id(spec, source, destination, flow.protocol),
        watch: spec.name.clone(),
        source: source.to_string(),
        destination: destination.to_string(),
        netns: ends.source.netns,
        address: flow.dst,
        port: flow.protocol.has_ports().then_some(flow.dst_port),
        protocol: flow.protocol,
        interval_us: spec.interval_us,
        timeout_us: spec.timeout_us,
    };
    Ok(Pair { node: ends.source.node, probe, responder })
}

/// A check of what the probes of a target meet.
pub(super) fn question(outage: &Outage) -> Result<Request, String> {
    let end = |name: &str| name.parse::<Target>().map_err(|error| error.to_string());
    let (source, destination) = (end(&outage.source)?, end(&outage.destination)?);
    match request(source, &destination, Some(outage.protocol), outage.ipv6) {
        // It may be over soon: there is no time for a first look.
        Ok(request) => Ok(Request { wide: true, ..request }),
        Err(Unfit::Ever(why) | Unfit::Now(why)) => Err(why),
    }
}

fn request(
    source: Target,
    destination: &Target,
    protocol: Option<Protocol>,
    ipv6: bool,
) -> Result<Request, Unfit> {
    let udp = protocol == Some(Protocol::Udp);
    let destination = if udp { with_responder(destination)? } else { destination.clone() };
    Ok(Request { protocol, ipv6, ..Request::new(source, destination) })
}

/// UDP goes to a responder of the agent, never to an application.
fn with_responder(destination: &Target) -> Result<Target, Unfit> {
    let port = Some(RESPONDER_PORT);
    match destination {
        Target::Pod { namespace, name, port: None } => {
            Ok(Target::Pod { namespace: namespace.clone(), name: name.clone(), port })
        }
        Target::Node { name, port: None } => Ok(Target::Node { name: name.clone(), port }),
        other => Err(Unfit::Ever(format!(
            "UDP is probed against a responder of the agents: name pods or nodes without port, not {other}"
        ))),
    }
}

/// The same for the same target of a watch, whatever its address is at the time.
fn id(spec: &WatchSpec, source: &Target, destination: &Target, protocol: Protocol) -> ProbeId {
    let mut hasher = SipHasher13::new();
    (&spec.name, source.to_string(), destination.to_string(), protocol, spec.ipv6).hash(&mut hasher);
    ProbeId(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::super::spec::spec;
    use super::*;
    use crate::fixture::inventory;

    fn says(spec: &WatchSpec) -> String {
        targets(spec, &inventory()).unwrap_err().to_string()
    }

    #[test]
    fn all_nodes_probe_one_another() {
        let mesh = WatchSpec { protocol: Some(Protocol::Udp), ..spec("mesh", &["nodes"], &["nodes"]) };
        let resolved = targets(&mesh, &inventory()).unwrap();
        let nodes = inventory().nodes.len();
        assert_eq!(resolved.plans.len(), nodes);
        for (node, plan) in &resolved.plans {
            assert_eq!(plan.probes.len(), nodes - 1, "{node} does not probe itself");
            assert!(plan.probes.iter().all(|probe| probe.port == Some(RESPONDER_PORT)));
            assert_eq!(plan.responders.len(), 1);
        }
        assert_eq!(resolved.problems, Vec::<String>::new());
    }

    #[test]
    fn a_target_keeps_its_id_when_its_address_changes() {
        let watch = spec("w", &["pod/shop/cart"], &["pod/shop/pay", "svc/shop/pay:80"]);
        let mut moved = inventory();
        moved.pods.iter_mut().find(|pod| pod.name == "pay").unwrap().ip = "10.244.9.9".parse().unwrap();
        let ids = |inventory: &Inventory| -> Vec<_> {
            let plans = targets(&watch, inventory).unwrap().plans;
            plans.into_values().flat_map(|plan| plan.probes).map(|probe| (probe.id, probe.address)).collect()
        };
        let (before, after) = (ids(&inventory()), ids(&moved));
        assert_eq!(before.len(), 2);
        assert_eq!(before[0].0, after[0].0);
        assert_ne!(before[0].1, after[0].1);
        assert_ne!(before[0].0, before[1].0);
    }

    #[test]
    fn what_is_not_there_is_a_problem_of_that_pair() {
        let watch = spec("w", &["pod/shop/cart"], &["pod/shop/pay", "pod/shop/gone"]);
        let resolved = targets(&watch, &inventory()).unwrap();
        assert_eq!(resolved.plans.len(), 1);
        assert_eq!(resolved.problems.len(), 1);
        assert!(resolved.problems[0].contains("there is no pod shop/gone"), "{:?}", resolved.problems);
    }

    #[test]
    fn what_cannot_be_probed_is_refused() {
        assert!(says(&spec("w", &["svc/shop/pay:80"], &["nodes"])).contains("nothing can be sent from"));
        assert!(says(&spec("w", &["nodes"], &["what"])).contains("not a target"));
        assert!(says(&spec("w", &["nodes"], &["svc/shop/pay:53"])).contains("UDP port"));
        let udp = WatchSpec { protocol: Some(Protocol::Udp), ..spec("w", &["nodes"], &["svc/shop/pay:53"]) };
        assert!(says(&udp).contains("responder"));
    }
}
