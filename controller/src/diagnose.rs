//! Compares the walks: verdict, fault point, and the steps side by side. Pure.
//!
//! Each packet is laid beside the predicted branch that fits it best (`align`), which tells where it ended
//! (`locate`); the packets together give the verdict, and the fault that most of them met is the answer.
//!
//! * `sight`: what could be seen at all
//! * `align`: an observed walk beside a predicted one
//! * `trail`: one walk beside its prediction
//! * `packet`: a packet with what became of it
//! * `locate`: where one walk ended, and why
//! * `vanished`: the same where nobody reported it
//! * `blame`: who sent it to where the prediction has it die
//! * `diverted`: where a packet left its way for somebody whom it does not concern
//! * `suspect`: where a packet vanished that nobody reported
//! * `anomaly`: what happens to packets that arrive
//! * `parting`: packets that arrive by another way than predicted
//! * `luck`: packets that all arrived, though not every way is one on which they do
//! * `loss`, `factor`: what is lost of many packets, and what the loss goes with
//! * `model`: where the prediction was wrong though packets arrived
//! * `mismatch`: packets that arrived, but at the wrong place or as the wrong answer
//! * `consequence`: what of a packet may have led to its end
//! * `nobody`: packets for an address that nobody has
//! * `rewrite`: packets that something other than address translation changed
//! * `errno`: what a failed send says
//! * `compare`: the steps side by side, for people

mod align;
mod anomaly;
mod blame;
mod compare;
mod consequence;
mod diverted;
mod errno;
mod factor;
mod locate;
mod loss;
mod luck;
mod mismatch;
mod model;
mod nobody;
mod packet;
mod parting;
mod rewrite;
mod sight;
mod suspect;
mod trail;
mod vanished;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use waymark_proto::{
    Action, Anomaly, Branch, Cause, Choice, Direction, Disposition, FaultPoint, Flow, Hook, Inventory,
    LossReport, Losses, NotObservable, Path, PathSet, Place, Protocol, Seq, Step, Text, Verdict,
    WalkComparison, text,
};
use waymark_sim::Cluster;

use crate::advice::advice;
use crate::observe::{Observed, Walk};
use align::Fit;
pub(crate) use consequence::may_come_of_change;
use locate::{Fate, Fault};
pub(crate) use loss::ENOUGH_LOSSES;
use packet::{Leg, Packet};
pub use sight::Sight;
use trail::Trail;

/// One packet as it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sent {
    /// Its number.
    pub seq: Seq,
    /// Its source port or echo identifier.
    pub source_port: u16,
    /// When, in nanoseconds of the sender's monotonic clock.
    pub sent_ns: u64,
    /// The error of the sending system call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its length in bytes.
    pub size: u32,
    /// Its code point.
    pub dscp: u8,
}

/// All that a diagnosis rests on.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// The cluster.
    pub inventory: &'a Inventory,
    /// Facts of the nodes that the prediction visits.
    pub cluster: &'a Cluster,
    /// The namespace that sent.
    pub source: &'a Place,
    /// The flow of the first packet.
    pub flow: Flow,
    /// The namespaces that may receive the packets; empty if that cannot be told.
    pub receivers: &'a [Place],
    /// Whether no answer was asked for.
    pub one_way: bool,
    /// The prediction.
    pub prediction: &'a PathSet,
    /// The packets of which most was watched.
    pub look: Look<'a>,
    /// The packets before them, of which less was watched: from little to much.
    pub before: Vec<Look<'a>>,
}

/// Packets that were watched in the same way.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The packets.
    pub sent: &'a [Sent],
    /// What was seen of them.
    pub observed: &'a BTreeMap<Seq, Observed>,
    /// What could be seen.
    pub sight: &'a Sight,
    /// What was lost of what was seen.
    pub losses: Losses,
}

/// What a diagnosis finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// The verdict.
    pub verdict: Verdict,
    /// Packets that came to their receiver.
    pub delivered: u32,
    /// Packets whose answer came back, unless none was asked for.
    pub replied: Option<u32>,
    /// Round-trip times in nanoseconds: minimum, median, maximum.
    pub rtt_ns: Option<[u64; 3]>,
    /// The fault that most packets met.
    pub fault_point: Option<FaultPoint>,
    /// For an answer that met it: where it was rewritten before to what belongs to no connection.
    pub rewritten: Option<FaultPoint>,
    /// How much is lost there, where some packets come through.
    pub loss: Option<LossReport>,
    /// What happens to packets that arrive.
    pub anomalies: Vec<Anomaly>,
    /// The headers of a packet that met it, there.
    pub fault_flow: Option<Flow>,
    /// Every packet died, but at different places, or such as may get through by the prediction; or every packet
    /// arrived, but not on every way do they by the prediction: more would tell.
    pub doubtful: bool,
    /// The way there.
    pub forward: WalkComparison,
    /// The way back, if any packet arrived and an answer was asked for.
    pub return_: Option<WalkComparison>,
    /// Where the prediction was wrong though packets arrived.
    pub model_errors: Vec<Text>,
    /// Hooks of the path that nobody could see.
    pub not_observable: Vec<NotObservable>,
    /// Remarks.
    pub notes: Vec<Text>,
}

/// Diagnoses a case.
pub fn diagnose(case: &Case<'_>) -> Diagnosis {
    let silence = Observed::default();
    let (mut all, mut looks) = (Vec::new(), Vec::new());
    for look in case.before.iter().chain([&case.look]).filter(|look| !look.sent.is_empty()) {
        let case = Case { look: *look, before: Vec::new(), ..case.clone() };
        let begin = all.len();
        all.extend(case.packets(&silence));
        looks.push((case, begin..all.len()));
    }
    see_through(&mut all, looks.iter().map(|(_, those)| those.clone()));
    // What was never met again when more was watched is told as it was seen before.
    let met = looks.iter().rposition(|(_, those)| main_fault(&all[those.clone()]).is_some());
    let told = met.unwrap_or(looks.len().saturating_sub(1));
    let (case, packets) =
        looks.get(told).map_or((case, &all[..0]), |(case, those)| (case, &all[those.clone()]));
    // From much to little that was watched.
    let others = || looks.iter().enumerate().rev().filter(|(index, _)| *index != told).map(|(_, look)| look);
    let fault = main_fault(packets);
    let fault_point = fault.map(|fault| conclude(fault, &all, case.prediction.detour.is_none()));
    let legs = |direction: Direction| -> Vec<&Leg<'_>> {
        let leg = |packet| match direction {
            Direction::Forward => Some(legs_forward(packet)),
            Direction::Return => legs_back(packet),
        };
        packets.iter().filter_map(leg).collect()
    };
    let compare = |direction| case.compare(&legs(direction), fault, direction);
    let count = |wanted: &dyn Fn(&Packet<'_>) -> bool| all.iter().filter(|p| wanted(p)).count() as u32;
    let mut notes = mysteries(packets);
    notes.extend(case.silent_servers(&all));
    let (luck, unmet) = case.luck(&all);
    notes.extend(luck);
    let mut anomalies = case.anomalies(packets);
    for (case, those) in others() {
        let mut not_again = case.anomalies(&all[those.clone()]);
        not_again.retain(|one| anomalies.iter().all(|again| again.kind != one.kind));
        anomalies.extend(not_again);
    }
    let whole = looks.iter().all(|(case, _)| case.look.losses.total() == 0);
    Diagnosis {
        verdict: verdict(&all, whole),
        delivered: count(&|packet| packet.forward.fate == Fate::Delivered),
        replied: (!case.one_way).then(|| {
            count(&|packet| {
                packet.forward.fate == Fate::Delivered
                    && packet.back.as_ref().is_some_and(|leg| leg.fate == Fate::Delivered)
            })
        }),
        rtt_ns: case
            .rtt()
            .or_else(|| others().find_map(|(case, _)| case.rtt()))
            .filter(|_| !case.one_way && case.prediction.detour.is_none()),
        fault_point,
        rewritten: fault.and_then(|fault| {
            let met = |packet: &&Packet<'_>| {
                packet.fault().is_some_and(|other| same_fault(&other.point, &fault.point))
            };
            case.foreign(packets.iter().find(met)?)
        }),
        loss: fault.and_then(|fault| loss::loss(&all, fault)),
        anomalies,
        fault_flow: fault.map(|fault| fault.flow),
        doubtful: unmet || case.is_doubtful(&all),
        forward: compare(Direction::Forward),
        return_: (!legs(Direction::Return).is_empty()).then(|| compare(Direction::Return)),
        model_errors: case.model_errors(&all),
        not_observable: case.not_observable(packets),
        notes,
    }
}

/// Takes what packets met of which less was watched for what others met of which more was, where that may be.
fn see_through(all: &mut [Packet<'_>], looks: impl DoubleEndedIterator<Item = Range<usize>>) {
    let mut faults: Vec<Fault> = Vec::new();
    for those in looks.rev() {
        let own = main_fault(&all[those.clone()]).cloned();
        all[those].iter_mut().for_each(|packet| packet.see_through(&faults));
        faults.extend(own);
    }
}

fn legs_forward<'p, 'a>(packet: &'p Packet<'a>) -> &'p Leg<'a> {
    &packet.forward
}

fn legs_back<'p, 'a>(packet: &'p Packet<'a>) -> Option<&'p Leg<'a>> {
    packet.back.as_ref()
}

/// `whole` is whether no record was lost: then a packet whose arrival was not seen did not arrive.
fn verdict(packets: &[Packet<'_>], whole: bool) -> Verdict {
    let arrived = packets.iter().filter(|packet| packet.arrived()).count();
    let died = packets.iter().any(|packet| packet.fault().is_some());
    match arrived {
        0 if died => Verdict::Unreachable,
        0 => Verdict::Undetermined,
        all if all == packets.len() => Verdict::Reachable,
        _ if died || whole => Verdict::Inconsistent,
        _ => Verdict::Undetermined,
    }
}

/// How likely chance may be the reason why no packet got through.
const CHANCE: f64 = 0.01;

/// How likely a packet on one of these ways comes to its end.
fn passing(branches: &[Branch]) -> f64 {
    let passes = |branch: &&Branch| branch.path.disposition() == Disposition::Delivered;
    let answered = |branch: &Branch| if branch.answer.is_empty() { 1.0 } else { passing(&branch.answer) };
    branches.iter().filter(passes).map(|branch| branch.probability * answered(branch)).sum()
}

/// Of the faults that packets met, the one that most met.
fn main_fault<'p>(packets: &'p [Packet<'_>]) -> Option<&'p Fault> {
    let mut groups: Vec<(usize, &Fault)> = Vec::new();
    for fault in packets.iter().filter_map(Packet::fault) {
        match groups.iter_mut().find(|(_, first)| same_fault(&first.point, &fault.point)) {
            Some((count, _)) => *count += 1,
            None => groups.push((1, fault)),
        }
    }
    // Of equals the first packet's.
    groups.into_iter().rev().max_by_key(|(count, _)| *count).map(|(_, fault)| fault)
}

fn same_fault(a: &FaultPoint, b: &FaultPoint) -> bool {
    (&a.node, &a.netns, &a.device, a.hook, a.cause, a.direction)
        == (&b.node, &b.netns, &b.device, b.hook, b.cause, b.direction)
}

/// Completes the fault point of a fault; `by_packets` is whether it was they who met it.
fn conclude(fault: &Fault, packets: &[Packet<'_>], by_packets: bool) -> FaultPoint {
    let met = packets.iter().filter_map(Packet::fault).filter(|other| same_fault(&fault.point, &other.point));
    let mut point = fault.point.clone();
    if by_packets {
        point.evidence.insert(0, text!(evidence::PacketsMet { met: met.count(), all: packets.len() }));
    }
    let others =
        packets.iter().filter_map(Packet::fault).filter(|other| !same_fault(&fault.point, &other.point));
    let others = others.count();
    if others > 0 {
        point.evidence.push(text!(evidence::DiedElsewhere { others }));
    }
    point.advice = advice(&point, &fault.flow);
    point
}

/// Why packets' fates are not known, each reason once.
fn mysteries(packets: &[Packet<'_>]) -> Vec<Text> {
    let mut reasons: BTreeMap<&str, (usize, &Text)> = BTreeMap::new();
    for why in packets.iter().filter_map(Packet::mystery) {
        reasons.entry(why.as_str()).or_insert((0, why)).0 += 1;
    }
    let all = packets.len();
    reasons.into_values().map(|(some, why)| text!(note::Packets { some, all, why })).collect()
}

impl<'a> Case<'a> {
    /// Whether more packets might fare better than these, of which none arrived.
    fn is_doubtful(&self, packets: &[Packet<'_>]) -> bool {
        let mut faults = packets.iter().filter_map(Packet::fault);
        let Some(first) = faults.next() else { return false };
        if packets.iter().any(Packet::arrived) {
            return false;
        }
        let lost = (1.0 - passing(&self.prediction.branches)).max(0.0);
        let chance = lost.powi(i32::try_from(packets.len()).unwrap_or(i32::MAX));
        let by_chance = lost < 1.0 && chance > CHANCE;
        by_chance || faults.any(|fault| !same_fault(&fault.point, &first.point))
    }

    /// The packets, each with what became of it. `silence` is what was seen of those that nobody saw.
    fn packets(&self, silence: &'a Observed) -> Vec<Packet<'a>> {
        let Look { sent, observed, .. } = self.look;
        sent.iter().map(|sent| self.packet(sent, observed.get(&sent.seq).unwrap_or(silence))).collect()
    }

    /// What is predicted of packets like this one.
    fn prediction_of(&self, sent: &Sent) -> &'a PathSet {
        self.prediction.by_dscp.get(&sent.dscp).unwrap_or(self.prediction)
    }

    fn packet(&self, sent: &'a Sent, observed: &'a Observed) -> Packet<'a> {
        let prediction = self.prediction_of(sent);
        let best = align::best(&prediction.branches, &observed.forward);
        if let Some(detour) = &prediction.detour {
            let (fit, choices) = best;
            let fate = self.foretold(&observed.forward, &prediction.branches, detour);
            return Packet { sent, forward: Leg { walk: &observed.forward, fit, choices, fate }, back: None };
        }
        let forward = self.leg(Direction::Forward, &observed.forward, best, sent.error.as_deref(), None);
        let forward =
            if observed.back.steps.is_empty() { self.refused_by_receiver(forward) } else { forward };
        let forward = self.unanswerable(forward);
        let answers: &[Branch] = forward.fit.as_ref().map_or(&[], |(branch, _)| &branch.answer);
        let expected = !self.one_way && forward.fate == Fate::Delivered && {
            // A UDP application need not answer, and if it does, not with the marker. But if it could not,
            // its silence is no riddle.
            let mute = || self.is_mute(answers);
            self.flow.protocol != Protocol::Udp || !observed.back.steps.is_empty() || mute()
        };
        let receiver = observed.forward.steps.last();
        let back = expected.then(|| {
            let best = align::best(answers, &observed.back);
            let leg = self.leg(Direction::Return, &observed.back, best, None, receiver);
            let leg = self.refused_by_asker(leg, &forward, sent);
            self.came_of_rewrite(self.answered_nobody(leg, &forward), Some(&forward))
        });
        let forward = self.sent_to_nobody(self.misdelivered(forward));
        Packet { sent, forward: self.came_of_rewrite(forward, None), back }
    }

    fn leg(
        &self,
        direction: Direction,
        walk: &'a Walk,
        (fit, choices): (Option<Fit<'a>>, Vec<&'a Choice>),
        send_error: Option<&str>,
        receiver: Option<&Step>,
    ) -> Leg<'a> {
        let path = fit.as_ref().map(|(branch, _)| &branch.path);
        let trail = Trail {
            direction,
            walk,
            path,
            alignment: fit.as_ref().map(|(_, alignment)| alignment),
            predicted: path.and_then(|path| self.predicted_death(path, direction)),
            receiver,
            send_error,
        };
        let fate = self.locate(&trail);
        Leg { walk, fit, choices, fate }
    }

    /// Whether the receiver has no way to answer.
    fn is_mute(&self, answers: &[Branch]) -> bool {
        let dies = |branch: &Branch| self.predicted_death(&branch.path, Direction::Return).is_some();
        !answers.is_empty() && answers.iter().all(dies)
    }

    /// A question that the kernel of its receiver drops for no better reason than that its answer cannot be sent
    /// (`icmpv6_echo_reply` without a route) was received: the answer is what dies.
    fn unanswerable(&self, mut leg: Leg<'a>) -> Leg<'a> {
        let Fate::Died(fault) = &leg.fate else { return leg };
        let answers = leg.fit.as_ref().map_or(&[][..], |(branch, _)| branch.answer.as_slice());
        let vaguely = fault.point.hook == Hook::Socket && fault.point.cause == Cause::KernelDrop;
        if vaguely && self.is_mute(answers) {
            leg.fate = Fate::Delivered;
        }
        leg
    }

    /// The step at which a prediction ends badly.
    fn predicted_death(&self, path: &Path, direction: Direction) -> Option<Step> {
        let mut death = path.last().clone();
        match path.disposition() {
            Disposition::ExitsCluster => {
                let flow = path.steps().iter().rev().find_map(|step| step.flow).unwrap_or(self.flow);
                // An answer is for somebody inside, and so is what a rule gave another destination.
                let translated = path.steps().iter().any(|step| {
                    step.action == Action::Translated && step.flow.is_some_and(|to| to.dst == flow.dst)
                });
                if direction == Direction::Forward && !translated && !self.is_inside(flow.dst) {
                    return None;
                }
                if let Some(tunnel) = path.steps().iter().rev().find(|step| step.hook == Hook::Tunnel)
                    && path.last().outer.is_some()
                {
                    // The tunnel's remote is no node: no route of the underlay is to blame for that.
                    let mut tunnel = tunnel.clone();
                    let remote =
                        tunnel.outer.as_ref().map(|outer| text!(object::RemoteOutside { remote: outer.dst }));
                    tunnel.object = tunnel.object.or(remote);
                    tunnel.action = Action::Dropped;
                    tunnel.cause = Some(Cause::TunnelNoRemote);
                    return Some(tunnel);
                }
                let route =
                    path.steps().iter().rev().find(|step| step.hook == Hook::Route && step.outer.is_none());
                death = route.unwrap_or(&death).clone();
                death.flow = Some(flow);
                death.action = Action::Dropped;
                death.cause = Some(Cause::WrongRoute);
            }
            Disposition::Loop if death.cause.is_none() => death.cause = Some(Cause::RoutingLoop),
            _ => {}
        }
        death.cause.is_some().then_some(death)
    }

    /// Whether an address belongs to the cluster.
    fn is_inside(&self, ip: IpAddr) -> bool {
        let cidrs = self.inventory.nodes.iter().flat_map(|node| [node.pod_cidr, node.pod_cidr6]).flatten();
        self.inventory.owner(ip).is_some()
            || self.inventory.services.iter().any(|service| service.cluster_ip == ip)
            || cidrs.into_iter().any(|cidr| cidr.contains(&ip))
    }

    /// Round trips of the packets that were answered.
    fn rtt(&self) -> Option<[u64; 3]> {
        let of = |sent: &Sent| {
            let arrived = self.look.observed.get(&sent.seq)?.back.arrived_ns?;
            arrived.checked_sub(sent.sent_ns)
        };
        let mut times: Vec<u64> = self.look.sent.iter().filter_map(of).collect();
        times.sort_unstable();
        Some([*times.first()?, times[times.len() / 2], *times.last()?])
    }

    fn not_observable(&self, packets: &[Packet<'_>]) -> Vec<NotObservable> {
        let legs = packets.iter().flat_map(|packet| [Some(&packet.forward), packet.back.as_ref()]).flatten();
        // Most packets go the same way.
        let mut paths: Vec<&Path> = Vec::new();
        for (branch, _) in legs.filter_map(|leg| leg.fit.as_ref()) {
            if !paths.iter().any(|&path| std::ptr::eq(path, &raw const branch.path)) {
                paths.push(&branch.path);
            }
        }
        self.look.sight.not_observable(paths.into_iter().flat_map(Path::steps))
    }

    /// A remark about UDP receivers that took packets and sent no marked answer.
    fn silent_servers(&self, packets: &[Packet<'_>]) -> Option<Text> {
        let silent = packets.iter().filter(|p| p.forward.fate == Fate::Delivered && p.back.is_none()).count();
        (silent > 0 && !self.one_way).then(|| text!(note::SilentServers { packets: silent }))
    }
}

#[cfg(test)]
pub(crate) mod tests;
