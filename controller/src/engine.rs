//! A check from question to result.
//!
//! * `round`: one round of packets
//! * `trials`: what was sent and seen in all of them
//! * `survey`: how many rounds, of which packets
//! * `second`: other packets over the stretch where some vanished
//! * `hops`: packets that end at the routers between
//! * `witness`: the same packets again, while nodes watch to which they should not come
//! * `ttl`: TTL that is lost where nobody should route
//! * `sets`: which element of a set a rule matched
//! * `programs`: which BPF program it was
//! * `rules`: what rules do that a trace names without saying it
//! * `byway`: nodes by which packets go though neither end lives there
//! * `oneway`: nodes that see one direction of a flow only
//! * `oversize`: packets that are too large
//! * `damage`: a rule that drops what came damaged
//! * `replay`: a check of which all is known that was seen

mod byway;
mod damage;
mod hops;
mod oneway;
mod oversize;
mod programs;
mod replay;
mod round;
mod rules;
mod second;
mod sets;
mod survey;
mod trials;
mod ttl;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use waymark_proto::{
    API_VERSION, CheckId, CheckResult, HookSet, Inventory, NodeName, Place, Protocol, Seq, Text, text,
};

use crate::agents::{AgentError, Agents};
use crate::armed::{Progress, Seen};
use crate::deviation;
use crate::diagnose::{Case, Diagnosis, diagnose};
use crate::gather::{GatherError, Keep, Picture, gather, with_source_port};
use crate::observe::{Lens, Observed, observe};
use crate::recording::{Examination, Recording};
use crate::request::Request;
use crate::resolve::{Ends, ResolveError, resolve};
pub use replay::{ReplayError, replay};
use round::{Range, Secret, all_steps, fire};
use survey::Watched;
use trials::Looks;
pub(crate) use trials::Trials;

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

/// Runs a check.
pub async fn check(
    agents: &Arc<dyn Agents>,
    inventory: &Inventory,
    request: &Request,
    progress: &Progress,
) -> Result<CheckResult, CheckError> {
    let examined = examine(agents, inventory, request, Keep::Nothing, progress).await?;
    Ok(follow_up(agents, inventory, &examined, Keep::Nothing, progress).await.0)
}

/// Runs a check, and keeps what its result rests on.
pub async fn check_and_record(
    agents: &Arc<dyn Agents>,
    inventory: &Inventory,
    request: &Request,
    progress: &Progress,
) -> Result<(CheckResult, Recording), CheckError> {
    let examined = examine(agents, inventory, request, Keep::All, progress).await?;
    let (result, further) = follow_up(agents, inventory, &examined, Keep::All, progress).await;
    Ok((result, examined.recording(inventory, further)))
}

/// What was sent and seen beyond the check itself, where its packets vanish and nobody could look.
#[derive(Default)]
struct Further {
    opinions: Vec<Examination>,
    witnessed: Option<Trials>,
    routers: Vec<IpAddr>,
}

/// Sends more packets where those of the check vanish, and adds what they tell to the result.
async fn follow_up(
    agents: &Arc<dyn Agents>,
    inventory: &Inventory,
    examined: &Examined<'_>,
    keep: Keep,
    progress: &Progress,
) -> (CheckResult, Further) {
    let mut result = examined.result();
    let (others, routers, witnessed) = tokio::join!(
        second::ask(agents, inventory, examined, keep, progress, &result),
        hops::ask(agents, inventory, examined, progress, &result),
        witness::ask(agents, inventory, examined, progress, &result),
    );
    let opinions = second::weigh_all(&mut result, others);
    hops::weigh(&mut result, &routers);
    if let Some(witnessed) = &witnessed {
        witness::weigh(&mut result, witnessed);
    }
    (result, Further { opinions, witnessed, routers })
}

/// What was asked, sent and seen, and what that says.
struct Examined<'a> {
    question: Question<'a>,
    looks: Looks,
    diagnosis: Diagnosis,
}

impl Examined<'_> {
    fn result(&self) -> CheckResult {
        self.question.conclude(self.diagnosis.clone(), &self.looks)
    }
}

/// Sends packets until it is known what becomes of them: the heart of the controller.
async fn examine<'a>(
    agents: &Arc<dyn Agents>,
    inventory: &'a Inventory,
    request: &'a Request,
    keep: Keep,
    progress: &Progress,
) -> Result<Examined<'a>, CheckError> {
    let first = Secret::random()?;
    let ends = with_source_port(resolve(inventory, request)?, first.port);
    disturbs_nobody(request, &ends)?;
    let picture = gather(agents.as_ref(), inventory, &ends, keep, progress);
    let mut picture = progress.unless_cancelled(picture).await.ok_or(CheckError::Cancelled)??;
    picture.heed(&ends, &survey::dscps(request));
    let question = Question { check: first.check, inventory, request, ends, picture };
    let Question { ends, picture, .. } = &question;
    let range =
        Range { agents, request, ends, prediction: &picture.prediction, witnesses: &[], keep, progress };
    let (mut looks, mut secret) = (Looks::default(), first);
    let mut salvo = survey::first(request, picture.full_size);
    loop {
        let more = looks.take(salvo.hooks, fire(&range, &secret, &salvo).await)?;
        progress.say("comparing the walks");
        let diagnosis = question.diagnose(&looks);
        // Of a light look alone: it does not see which way it was that took them to another router.
        let detour = salvo.hooks == HookSet::Light
            && ttl::is_lost_between_nodes(&picture.prediction, &looks.light.seen.sightings);
        let last = Watched { hooks: salvo.hooks, detour };
        let next = survey::next(request, picture.full_size, looks.sent(), last, &diagnosis);
        let Some(next) = next.filter(|_| more) else {
            return Ok(Examined { question, looks, diagnosis });
        };
        (salvo, secret) = (next, Secret::random()?);
    }
}

/// A UDP packet reaches the application behind its port, so it is sent only if that was asked for.
fn disturbs_nobody(request: &Request, ends: &Ends) -> Result<(), CheckError> {
    if ends.flow.protocol == Protocol::Udp && request.protocol.is_none() {
        return Err(CheckError::UdpNotAsked(request.destination.to_string()));
    }
    Ok(())
}

/// What a check is about.
struct Question<'a> {
    check: CheckId,
    inventory: &'a Inventory,
    request: &'a Request,
    ends: Ends,
    picture: Picture,
}

impl Question<'_> {
    /// Compares what was predicted with what was seen.
    fn diagnose(&self, looks: &Looks) -> Diagnosis {
        let Self { inventory, request, ends, picture, .. } = self;
        let observed = looks.each().map(|trials| (trials, self.observe(trials)));
        let [before @ .., look] = observed.each_ref().map(|(trials, observed)| trials.look(observed));
        diagnose(&Case {
            inventory,
            cluster: &picture.cluster,
            source: &ends.source,
            flow: ends.flow,
            receivers: if ends.exclusive { &ends.destinations } else { &[] },
            one_way: request.one_way,
            prediction: &picture.prediction,
            look,
            before: before.into(),
        })
    }

    /// The walks of the packets of some rounds.
    fn observe(&self, trials: &Trials) -> BTreeMap<Seq, Observed> {
        let Self { inventory, ends, picture, .. } = self;
        let Trials { sent, seen } = trials;
        let steps = || picture.prediction.branches.iter().flat_map(|branch| branch.path.steps());
        let mut visited: Vec<NodeName> = vec![ends.source.node.clone()];
        for step in steps() {
            if !visited.contains(&step.place.node) {
                visited.push(step.place.node.clone());
            }
        }
        let mut receivers = BTreeSet::from([(ends.flow.dst, ends.flow.dst_port)]);
        receivers.extend(steps().filter_map(|step| step.flow).map(|flow| (flow.dst, flow.dst_port)));
        let lens = Lens {
            inventory,
            source: &ends.source,
            flow: ends.flow,
            source_ports: sent.iter().map(|packet| (packet.seq, packet.source_port)).collect(),
            receivers,
            filters_watched: watched_filters(seen),
            watched: watched_nodes(seen, inventory),
            received_once: !seen.sight.records_twice(),
            nodes: visited,
        };
        observe(&rules::told(&seen.sightings, &picture.cluster), &lens)
    }

    /// The answer.
    fn conclude(&self, mut diagnosis: Diagnosis, looks: &Looks) -> CheckResult {
        let Self { check, inventory, request, ends, picture } = self;
        for point in [&mut diagnosis.fault_point, &mut diagnosis.rewritten].into_iter().flatten() {
            let place = point.place();
            if let Some(rule) = &mut point.rule
                && let Some(known) = picture.cluster.rule(&place, rule)
            {
                // A trace names rules by their handles alone.
                *rule = known;
            }
            programs::name(point, |place| picture.cluster.programs(place));
        }
        if let Some(point) = &mut diagnosis.fault_point {
            let (flow, loss) = (diagnosis.fault_flow.as_ref(), diagnosis.loss.as_ref());
            rules::own(point, inventory);
            sets::explain(point, flow, &picture.cluster);
            oversize::explain(point, flow, loss, looks.largest(), picture);
            damage::recognize(point, diagnosis.fault_flow.as_ref(), diagnosis.rewritten.take());
        }
        let asked = deviation::Question {
            inventory,
            flow: ends.flow,
            prediction: &picture.prediction,
            cluster: &picture.cluster,
        };
        let intent = deviation::of_check(&asked, &mut diagnosis);
        let mut notes = picture.notes.clone();
        notes.extend(looks.notes());
        notes.extend(byway::remarks(inventory, ends.flow, &diagnosis));
        notes.extend(oneway::remark(&diagnosis).filter(|_| ends.flow.protocol == Protocol::Tcp));
        notes.extend(diagnosis.notes);
        notes.extend(ignored_policies(inventory));
        let mut remarks: Vec<Text> = all_steps(&picture.prediction.branches)
            .filter_map(|step| step.note.clone().filter(|_| !step.action.continues()))
            .collect();
        remarks.dedup();
        notes.extend(remarks);
        let losses = looks.losses();
        CheckResult {
            api_version: API_VERSION.to_owned(),
            kind: "CheckResult".to_owned(),
            check: *check,
            source: request.source.to_string(),
            destination: request.destination.to_string(),
            flow: ends.flow,
            verdict: diagnosis.verdict,
            sent: looks.sent(),
            delivered: diagnosis.delivered,
            replied: diagnosis.replied,
            rtt_ns: diagnosis.rtt_ns,
            fault_point: diagnosis.fault_point,
            loss: diagnosis.loss,
            anomalies: diagnosis.anomalies,
            intent,
            forward: diagnosis.forward,
            return_: diagnosis.return_,
            model_errors: diagnosis.model_errors,
            not_observable: diagnosis.not_observable,
            lost_events: losses.total(),
            losses,
            notes,
        }
    }
}

/// Policies that are there and not understood: what was intended is judged without them.
fn ignored_policies(inventory: &Inventory) -> impl Iterator<Item = Text> {
    let absent = inventory.absent.iter().filter(|absent| absent.object.kind == "NetworkPolicy");
    absent.map(|absent| text!(note::PolicyIgnored { policy: &absent.object, why: &absent.why }))
}

/// The namespaces of which the rule trace is whole.
fn watched_filters(seen: &Seen) -> BTreeSet<Place> {
    if seen.losses.trace_overruns > 0 {
        return BTreeSet::new();
    }
    let places = seen.sightings.iter().map(|sighting| &sighting.place);
    places.filter(|place| seen.sight.watches_filters(place)).cloned().collect()
}

/// The nodes of which no record is missing.
fn watched_nodes(seen: &Seen, inventory: &Inventory) -> BTreeSet<NodeName> {
    if seen.losses.total() > 0 {
        return BTreeSet::new();
    }
    let names = inventory.nodes.iter().map(|node| &node.name);
    names.filter(|name| seen.sight.watches(name)).cloned().collect()
}

#[cfg(test)]
pub(crate) mod fakes;
#[cfg(test)]
mod tests;
