//! Facts and prediction: facts are fetched node by node, as the prediction reaches them.

use std::collections::BTreeSet;

use futures::future::join_all;
use waymark_proto::{API_VERSION, Disposition, Facts, Hook, Inventory, NodeName, PathSet, Text, text};
use waymark_sim::{Cluster, Manner, SimError};

use crate::agents::{AgentError, Agents};
use crate::armed::Progress;
use crate::deviation;
use crate::documents::Prediction;
use crate::request::Request;
use crate::resolve::{Ends, ResolveError, resolve};

/// Why there is no prediction.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// The ends.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The source's node has no agent.
    #[error("nothing can be sent from there: {}{}", .0, remedy(.0))]
    Source(AgentError),
    /// Facts that contradict themselves.
    #[error("the facts of {node} are of no use: {source}")]
    Facts {
        /// The node.
        node: NodeName,
        /// What is wrong.
        source: SimError,
    },
}

/// What to do where nobody is.
fn remedy(error: &AgentError) -> &'static str {
    match error {
        AgentError::NoAgent { .. } => "; see that `waymark-agent run` is up on that node",
        _ => "",
    }
}

/// What is known before the first packet.
pub(crate) struct Picture {
    /// The ways that the packets may take.
    pub(crate) prediction: PathSet,
    /// The facts that this rests on.
    pub(crate) cluster: Cluster,
    /// The same as the agents told them, if they were to be kept.
    pub(crate) facts: Vec<Facts>,
    /// Length of the largest packet that the source's own device lets out, in bytes.
    pub(crate) full_size: Option<u16>,
    /// Facts that were missing, a sentence each.
    pub(crate) notes: Vec<Text>,
}

/// What is kept beside what a check makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing.
    Nothing,
    /// Copies of the facts that were of use, and the first bytes of the packets that were seen.
    All,
}

impl Picture {
    /// What these facts show.
    pub(crate) fn of(
        inventory: &Inventory,
        facts: Vec<Facts>,
        ends: &Ends,
        notes: Vec<Text>,
    ) -> Result<Self, GatherError> {
        let mut cluster = Cluster::new(inventory);
        for facts in facts {
            let node = facts.node.clone();
            cluster.add(facts).map_err(|source| GatherError::Facts { node, source })?;
        }
        let prediction = waymark_sim::predict(&cluster, &ends.source, &ends.flow);
        Ok(Self::new(prediction, cluster, inventory, ends, notes))
    }

    fn new(
        prediction: PathSet,
        cluster: Cluster,
        inventory: &Inventory,
        ends: &Ends,
        mut notes: Vec<Text>,
    ) -> Self {
        // A recording has it among its notes.
        notes.extend(elsewhere_from(&prediction, inventory, ends).filter(|note| !notes.contains(note)));
        let mut steps = prediction.branches.iter().flat_map(|branch| branch.path.steps());
        let first = steps.find(|step| step.hook == Hook::Qdisc && step.place == ends.source);
        let device = first.and_then(|step| step.device.as_deref());
        let mtu = device.and_then(|device| cluster.mtu(&ends.source, device));
        let full_size = mtu.and_then(|mtu| u16::try_from(mtu).ok());
        Self { prediction, cluster, facts: Vec::new(), full_size, notes }
    }

    /// Adds the ways of packets with each of these code points, where routing asks for them. What most packets have, or
    /// else the first, is what the prediction itself is about from then on.
    pub(crate) fn heed(&mut self, ends: &Ends, dscps: &[u8]) {
        if !self.cluster.heeds_dscp() {
            return;
        }
        let of = |dscp| {
            waymark_sim::predict_as(
                &self.cluster,
                &ends.source,
                &ends.flow,
                Manner { dscp, ..Manner::default() },
            )
        };
        let usual = if dscps.contains(&0) { 0 } else { dscps.first().copied().unwrap_or(0) };
        let mut prediction = of(usual);
        prediction.by_dscp = dscps
            .iter()
            .map(|&dscp| (dscp, of(dscp)))
            .filter(|(_, other)| other.branches != prediction.branches || other.detour != prediction.detour)
            .collect();
        self.prediction = prediction;
    }
}

/// A remark on a pod whose connections do not leave from its address. A node has an address on each of its networks,
/// and which of them its connections leave from is no riddle.
fn elsewhere_from(prediction: &PathSet, inventory: &Inventory, ends: &Ends) -> Option<Text> {
    let (own, taken) = (ends.flow.src, prediction.unbound_source?);
    inventory.pod_at(&ends.source)?;
    Some(text!(note::UnboundSource { own, taken }))
}

/// Collects the facts that the prediction needs, and predicts.
pub(crate) async fn gather(
    agents: &dyn Agents,
    inventory: &Inventory,
    ends: &Ends,
    keep: Keep,
    progress: &Progress,
) -> Result<Picture, GatherError> {
    let mut cluster = Cluster::new(inventory);
    let (mut kept, mut notes) = (Vec::new(), Vec::new());
    let mut asked = BTreeSet::new();
    let mut wanted: BTreeSet<NodeName> = ends.destinations.iter().map(|place| place.node.clone()).collect();
    wanted.insert(ends.source.node.clone());
    loop {
        progress.say(format!("collecting facts of {}", list(&wanted)));
        let fetch = |node: &NodeName| {
            let node = node.clone();
            async move { (agents.facts(&node).await, node) }
        };
        for (facts, node) in join_all(wanted.iter().map(fetch)).await {
            match facts {
                Ok(facts) => match facts.compiled().and_then(|compiled| cluster.add_compiled(compiled)) {
                    Ok(()) if keep == Keep::All => kept.push(facts.told().clone()),
                    Ok(()) => {}
                    Err(source) => {
                        let error = GatherError::Facts { node, source };
                        notes.push(Text::verbatim(error.to_string()));
                    }
                },
                Err(error @ (AgentError::NoAgent { .. } | AgentError::Refused { .. }))
                    if node == ends.source.node =>
                {
                    return Err(GatherError::Source(error));
                }
                Err(error) => notes.push(text!(note::NoFacts { node, error: error.to_string() })),
            }
        }
        asked.append(&mut wanted);
        let prediction = waymark_sim::predict(&cluster, &ends.source, &ends.flow);
        wanted = prediction.needs.iter().filter(|node| !asked.contains(*node)).cloned().collect();
        if wanted.is_empty() {
            return Ok(Picture { facts: kept, ..Picture::new(prediction, cluster, inventory, ends, notes) });
        }
    }
}

/// Predicts with facts from agents.
pub async fn predict(
    agents: &dyn Agents,
    inventory: &Inventory,
    request: &Request,
    progress: &Progress,
) -> Result<Prediction, GatherError> {
    let ends = with_source_port(resolve(inventory, request)?, 0);
    let picture = gather(agents, inventory, &ends, Keep::Nothing, progress).await?;
    Ok(document(inventory, request, &ends, picture))
}

/// Predicts with facts at hand.
pub fn predict_offline(
    inventory: &Inventory,
    facts: Vec<Facts>,
    request: &Request,
) -> Result<Prediction, GatherError> {
    let ends = with_source_port(resolve(inventory, request)?, 0);
    let mut picture = Picture::of(inventory, facts, &ends, Vec::new())?;
    let missing = picture.prediction.needs.iter().map(|node| text!(note::FactsWanted { node }));
    picture.notes.splice(0..0, missing);
    Ok(document(inventory, request, &ends, picture))
}

/// First of the source ports that are proposed. The agent takes the next free one that has not been used for
/// a while.
const FIRST_SOURCE_PORT: u16 = 20000;
/// How many there are, less those that the packets of one check may take.
const SOURCE_PORTS: u16 = u16::MAX - FIRST_SOURCE_PORT - crate::request::MAX_ROUND as u16;

/// A source port, or an echo identifier, by a random number.
pub(crate) fn source_port(random: u16) -> u16 {
    FIRST_SOURCE_PORT + random % SOURCE_PORTS
}

/// Chooses a source port, or an echo identifier on both sides, by a random number.
pub(crate) fn with_source_port(mut ends: Ends, random: u16) -> Ends {
    ends.flow.src_port = source_port(random);
    if !ends.flow.protocol.has_ports() {
        ends.flow.dst_port = ends.flow.src_port;
    }
    ends
}

fn document(inventory: &Inventory, request: &Request, ends: &Ends, picture: Picture) -> Prediction {
    let Picture { prediction, cluster, notes, .. } = picture;
    let question =
        deviation::Question { inventory, flow: ends.flow, prediction: &prediction, cluster: &cluster };
    let intent = deviation::of_prediction(&question);
    Prediction {
        api_version: API_VERSION.to_owned(),
        kind: "Prediction".to_owned(),
        source: request.source.to_string(),
        destination: request.destination.to_string(),
        flow: ends.flow,
        intent,
        paths: prediction,
        notes,
    }
}

impl Prediction {
    /// The fate that all branches share; `None` if they differ or there are none.
    pub fn disposition(&self) -> Option<Disposition> {
        let mut all = self.paths.branches.iter().map(|branch| branch.path.disposition());
        let first = all.next()?;
        all.all(|other| other == first).then_some(first)
    }
}

fn list(nodes: &BTreeSet<NodeName>) -> String {
    nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}
