//! Packets that something other than address translation changed: a BPF program, a rule of a bridge, a box between
//! nodes. It shows between two hooks that saw the packet with different addresses or ports.
//!
//! Not every such change is a fault: a network plugin may translate in BPF. So a change is to blame only if it gave the
//! packet an end that nobody meant, and if that may be what the packet died of.

use waymark_proto::{
    Action, Cause, Confidence, Direction, FaultPoint, Flow, Hook, Service, Span, SpanEnd, Step, text,
};

use super::consequence::may_come_of_change;
use super::locate::{Fate, Fault};
use super::nobody::came_of_it;
use super::{Case, Leg};
use crate::observe::Walk;

/// A change between two steps.
struct Rewrite<'a> {
    from: &'a Step,
    to: &'a Step,
    before: Flow,
    after: Flow,
}

impl<'a> Case<'a> {
    /// Blames what changed a packet for that it died of that; for an answer, what changed its question, too.
    pub(super) fn came_of_rewrite(&self, mut leg: Leg<'a>, question: Option<&Leg<'a>>) -> Leg<'a> {
        let Fate::Died(end) = &leg.fate else { return leg };
        if !may_come_of_change(end.point.cause) {
            return leg;
        }
        let direction = end.point.direction;
        let own = match question {
            None => self.rewrites(leg.walk).find(|change| self.is_foreign(change)),
            Some(question) => self.rewrites(leg.walk).find(|change| !answers(question.walk, change.after)),
        };
        let asked = || {
            let question = question?;
            let goes_there = |change: &Rewrite<'_>| change.after.src == end.flow.dst;
            self.rewrites(question.walk).find(|change| self.is_foreign(change) && goes_there(change))
        };
        if let Some(change) = own.or_else(asked) {
            let mut fault = self.fault_of_change(&leg, direction, &change);
            fault.flow = end.flow;
            fault.point.evidence.extend(came_of_it(end));
            leg.fate = Fate::Died(Box::new(fault));
        }
        leg
    }

    /// The changes of a walk that no address translation made.
    fn rewrites<'w>(&self, walk: &'w Walk) -> impl Iterator<Item = Rewrite<'w>> {
        let known: Vec<(&Step, Flow)> =
            walk.steps.iter().filter_map(|step| Some((step, step.flow?))).collect();
        let found: Vec<Rewrite<'w>> = known
            .windows(2)
            .filter_map(|pair| {
                let [(from, before), (to, after)] = *pair else { return None };
                let change = Rewrite { from, to, before, after };
                let is_it = change.is_one() && self.hides_no_translation(from, to);
                (is_it && !translates(walk, &change)).then_some(change)
            })
            .collect();
        found.into_iter()
    }

    /// Whether no translation of netfilter can have been between two steps without being seen.
    fn hides_no_translation(&self, from: &Step, to: &Step) -> bool {
        // Each translates at a hook, which tells what it leaves with.
        let tells = to.action != Action::Translated && from.action.continues();
        let crosses = (from.hook, to.hook) == (Hook::DriverTx, Hook::DriverRx);
        let watched = || from.place == to.place && self.look.sight.watches_filters(&from.place);
        tells && (crosses || watched())
    }

    /// Whether a change gave a packet an end that neither the question nor any Service means.
    fn is_foreign(&self, change: &Rewrite<'_>) -> bool {
        let Rewrite { before, after, .. } = change;
        let receiver = (after.dst, after.dst_port);
        let asked = |service: &&Service| {
            [service.cluster_ip].iter().chain(&service.external_ips).any(|ip| *ip == before.dst)
                || service.node_port == Some(before.dst_port)
        };
        let mut backends = self.inventory.services.iter().filter(asked).flat_map(|service| &service.backends);
        let meant = receiver == (self.flow.dst, self.flow.dst_port)
            || backends.any(|backend| (backend.ip, backend.port) == receiver);
        let to_another = receiver != (before.dst, before.dst_port) && !meant;
        // A node may lend its address.
        let lends = |ip| self.inventory.nodes.iter().any(|node| node.ip == ip || node.ip6 == Some(ip));
        let from_another = after.src != before.src && after.src != self.flow.src && !lends(after.src);
        to_another || from_another
    }

    /// Where an answer was changed to what is the answer to nothing that was asked.
    pub(super) fn changed_answer(&self, back: &Leg<'a>, question: &Leg<'a>) -> Option<FaultPoint> {
        let change = self.rewrites(back.walk).find(|change| !answers(question.walk, change.after))?;
        Some(self.fault_of_change(back, Direction::Return, &change).point)
    }

    fn fault_of_change(&self, leg: &Leg<'a>, direction: Direction, change: &Rewrite<'_>) -> Fault {
        let Rewrite { from, to, before, after } = change;
        let mut step = change.at().clone();
        step.action = Action::Dropped;
        step.cause = Some(Cause::Rewritten);
        (step.rule, step.note) = (None, None);
        let mut fault = self.fault_of(leg, direction, &step, Confidence::High, text!(ground::ChangedBetween));
        fault.point.span = Some(Span { last_seen: SpanEnd::from(*from), first_missing: SpanEnd::from(*to) });
        fault.point.evidence.push(text!(evidence::ChangedBetween {
            from: from.at(),
            to: to.at(),
            before,
            after,
        }));
        fault
    }
}

impl Rewrite<'_> {
    /// Whether it is one at all. Headers of which most differ are those of another packet, as the outer one of a tunnel.
    fn is_one(&self) -> bool {
        let Self { before, after, .. } = self;
        let same = [
            before.src == after.src,
            before.dst == after.dst,
            before.src_port == after.src_port,
            before.dst_port == after.dst_port,
        ];
        let same = same.iter().filter(|same| **same).count();
        before.protocol == after.protocol && (2..4).contains(&same)
    }

    /// The place to look at. What comes in is changed before it comes to netfilter, what goes out before its queue; what
    /// nobody saw change within a node is changed between nodes.
    fn at(&self) -> Step {
        let Self { from, to, .. } = self;
        match (from.hook, to.hook) {
            _ if from.place.node != to.place.node => Step { hook: Hook::Wire, ..(*from).clone() },
            (Hook::DriverRx, _) => (*from).clone(),
            _ => (*to).clone(),
        }
    }
}

/// Whether a hook there gave the packet what it changed to. A bridge runs hooks of its own, and whether the packet came
/// by its port before them or after them does not always show.
fn translates(walk: &Walk, change: &Rewrite<'_>) -> bool {
    walk.steps.iter().any(|step| {
        let there = step.place == change.from.place || step.place == change.to.place;
        there && step.action == Action::Translated && step.flow == Some(change.after)
    })
}

/// Whether a packet is the answer to a question as some hook saw it: so translations are taken back.
fn answers(question: &Walk, answer: Flow) -> bool {
    let ends = |flow: Flow| (flow.src, flow.dst, flow.src_port, flow.dst_port);
    let mut asked = question.steps.iter().filter_map(|step| step.flow);
    asked.any(|asked| {
        let wanted = asked.reversed();
        if asked.protocol.has_ports() {
            ends(wanted) == ends(answer)
        } else {
            (wanted.src, wanted.dst) == (answer.src, answer.dst)
        }
    })
}
