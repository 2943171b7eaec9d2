//! Packets for an address that nobody has. Routes and neighbours are right not to lead there, and who mends them does
//! harm: whoever gave the packet that address is to blame, or should have given it another.

use std::net::IpAddr;

use waymark_proto::{Action, Cause, Confidence, Direction, Flow, Hook, ObjectRef, Service, Step, Text, text};

use super::consequence::may_come_of_address;
use super::locate::{Fate, Fault};
use super::{Case, Leg};

impl<'a> Case<'a> {
    /// Blames the rule that gave a packet its destination, or the lack of one, if that is nobody's.
    pub(super) fn sent_to_nobody(&self, mut leg: Leg<'a>) -> Leg<'a> {
        let Fate::Died(fault) = &leg.fate else { return leg };
        let ip = fault.flow.dst;
        if !may_come_of_address(&fault.point) {
            return leg;
        }
        let blamed = if self.is_nobodys(ip) {
            given(&leg, &self.destination(), ip).map(|(step, was)| Step {
                object: Some(text!(object::GivenAddress { ip, was, service: self.service_at(was) })),
                ..step
            })
        } else {
            self.untranslated(&leg, ip)
        };
        if let Some(step) = blamed {
            leg.fate = self.nobodys(&leg, Direction::Forward, step, fault);
        }
        leg
    }

    /// Blames the rule that gave a packet its source, if its answer dies because that is nobody's address.
    pub(super) fn answered_nobody(&self, mut leg: Leg<'a>, question: &Leg<'a>) -> Leg<'a> {
        let Fate::Died(fault) = &leg.fate else { return leg };
        let ip = fault.flow.dst;
        if !may_come_of_address(&fault.point) || !self.is_nobodys(ip) {
            return leg;
        }
        if let Some((step, was)) = given(question, &self.origin(), ip) {
            let step = Step {
                object: Some(text!(object::GivenAddress { ip, was, service: self.service_at(was) })),
                ..step
            };
            leg.fate = self.nobodys(&leg, Direction::Return, step, fault);
        }
        leg
    }

    /// The Service at an address.
    fn service_at(&self, ip: IpAddr) -> Option<String> {
        let service = self.inventory.services.iter().find(|service| service.cluster_ip == ip)?;
        Some(ObjectRef::namespaced("Service", &service.namespace, &service.name).to_string())
    }

    fn destination(&self) -> End {
        let hooks = [Hook::NetfilterPrerouting, Hook::NetfilterOutput];
        End { asked: self.flow.dst, of: |flow| flow.dst, hooks }
    }

    fn origin(&self) -> End {
        let hooks = [Hook::NetfilterPostrouting, Hook::NetfilterInput];
        End { asked: self.flow.src, of: |flow| flow.src, hooks }
    }

    /// Whether neither objects nor facts know anybody with an address.
    pub(super) fn is_nobodys(&self, ip: IpAddr) -> bool {
        let of_service = |service: &Service| {
            service.cluster_ip == ip
                || service.external_ips.contains(&ip)
                || service.backends.iter().any(|backend| backend.ip == ip)
        };
        self.inventory.owner(ip).is_none()
            && !self.cluster.has_address(ip)
            && !self.inventory.services.iter().any(of_service)
    }

    /// Where rules of a node should have given a packet for a Service the address of an endpoint.
    fn untranslated(&self, leg: &Leg<'a>, ip: IpAddr) -> Option<Step> {
        let mut services = self.inventory.services.iter().filter(|service| service.cluster_ip == ip);
        let service = self.service_at(ip)?;
        let Flow { protocol, dst_port, .. } = self.flow;
        let asked = services.find(|service| (service.protocol, service.port) == (protocol, dst_port));
        let of_node = |step: &&Step| {
            let node = self.inventory.node(&step.place.node);
            node.is_some_and(|node| node.netns == step.place.netns)
        };
        let could = |step: &&Step| {
            matches!(step.hook, Hook::NetfilterPrerouting | Hook::NetfilterOutput) && step.outer.is_none()
        };
        let kept = |step: &&Step| step.action.continues() && step.flow.is_some_and(|flow| flow.dst == ip);
        let predicted = leg.fit.as_ref().map_or(&[][..], |(branch, _)| branch.path.steps());
        let mut steps = leg.walk.steps.iter().chain(predicted);
        let step = steps.find(|step| of_node(step) && could(step) && kept(step))?;
        let object = match asked {
            Some(_) => text!(object::Untranslated { ip, service }),
            None if protocol.has_ports() => {
                text!(object::NoSuchPort { ip, service, port: format!("{dst_port}/{protocol}") })
            }
            // No rule is about what has no port.
            None => return None,
        };
        Some(Step { object: Some(object), rule: None, ..step.clone() })
    }

    /// The fault of whoever gave a packet an address, or did not; `end` is what became of it.
    fn nobodys(&self, leg: &Leg<'a>, direction: Direction, mut step: Step, end: &Fault) -> Fate {
        step.action = Action::Dropped;
        step.cause = Some(Cause::NobodysAddress);
        step.note = None;
        // Beyond the networks of pods somebody may have an address whom nobody told of.
        let cidrs = self.inventory.nodes.iter().flat_map(|node| [node.pod_cidr, node.pod_cidr6]).flatten();
        let ip = end.flow.dst;
        let certain = !self.is_nobodys(ip)
            || end.point.cause == Cause::NeighbourUnresolved
            || cidrs.into_iter().any(|cidr| cidr.contains(&ip));
        let confidence = if certain { Confidence::High } else { Confidence::Medium };
        let mut fault = self.fault_of(leg, direction, &step, confidence, text!(ground::NobodyHasIt));
        fault.flow = end.flow;
        fault.point.evidence.extend(came_of_it(end));
        Fate::Died(Box::new(fault))
    }
}

/// What became of a packet, as evidence for why it did.
pub(super) fn came_of_it(end: &Fault) -> Vec<Text> {
    let point = &end.point;
    let mut step = Step::new(point.place(), point.hook, Action::Dropped);
    step.device.clone_from(&point.device);
    let mut evidence = vec![text!(evidence::CameOfIt { at: step.at(), cause: point.cause })];
    evidence.extend(point.evidence.iter().cloned());
    evidence
}

/// Who gave a packet one of its addresses, and which it had before; as it was seen, else as it was predicted.
fn given(leg: &Leg<'_>, which: &End, ip: IpAddr) -> Option<(Step, IpAddr)> {
    let by = |steps: &[Step]| -> Option<(Step, IpAddr)> {
        let gave = |step: &&Step| {
            step.action == Action::Translated
                && which.hooks.contains(&step.hook)
                && step.flow.is_some_and(|flow| (which.of)(&flow) == ip)
        };
        let step = steps.iter().find(gave)?.clone();
        (which.asked != ip).then_some((step, which.asked))
    };
    let predicted = leg.fit.as_ref().and_then(|(branch, _)| by(branch.path.steps()));
    let Some((mut step, was)) = by(&leg.walk.steps) else { return predicted };
    // A trace does not always tell which rule it was.
    if let Some((foreseen, _)) = predicted
        && (&foreseen.place, foreseen.hook) == (&step.place, step.hook)
    {
        step.rule = step.rule.or(foreseen.rule);
    }
    Some((step, was))
}

/// One of a packet's addresses: as it was asked for, how to read it, and the hooks that translate it.
struct End {
    asked: IpAddr,
    of: fn(&Flow) -> IpAddr,
    hooks: [Hook; 2],
}
