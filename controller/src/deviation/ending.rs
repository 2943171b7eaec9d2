//! The place where packets die, held against policies and against what pods declare.

use std::collections::BTreeSet;

use waymark_proto::{
    Admission, Cause, Denial, Deviation, DeviationKind, Direction, FaultPoint, Flow, Hook, Intent, ObjectRef,
    Path, Place, PolicyType, Protocol, Receiver, RuleRef, Text, listed, text,
};

use super::Question;
use super::words::{labelled, look_at_service, owner, pod_at, policies, port, port_ref};
use crate::advice::look_at_rule;

/// How packets end.
pub(super) struct Ending<'a> {
    pub(super) place: Place,
    pub(super) hook: Hook,
    pub(super) direction: Direction,
    pub(super) cause: Cause,
    /// Their headers there.
    pub(super) flow: Flow,
    pub(super) rule: Option<&'a RuleRef>,
}

impl<'a> Ending<'a> {
    pub(super) fn of_fault(point: &'a FaultPoint, flow: Flow) -> Self {
        Self {
            place: Place { node: point.node.clone(), netns: point.netns.clone() },
            hook: point.hook,
            direction: point.direction,
            cause: point.cause,
            flow,
            rule: point.rule.as_ref(),
        }
    }

    pub(super) fn of_path(path: &'a Path) -> Option<Self> {
        let last = path.last();
        Some(Self {
            place: last.place.clone(),
            hook: last.hook,
            direction: Direction::Forward,
            cause: last.cause?,
            flow: last.flow?,
            rule: last.rule.as_ref(),
        })
    }

    /// Whether it is a rule of kube-proxy's for want of local endpoints. Before 1.26 it marked packets in the
    /// Service's chain, and dropped those with the mark here.
    pub(super) fn is_want_of_local_endpoints(&self) -> bool {
        let says = |rule: &RuleRef| {
            rule.chain == "KUBE-FIREWALL"
                || rule.text.as_deref().is_some_and(|text| text.contains("has no local endpoints"))
        };
        match self.cause {
            Cause::ServiceWithoutLocalEndpoints => true,
            Cause::FilterDrop => self.rule.is_some_and(says),
            _ => false,
        }
    }

    /// Whether it is what a wrong receiver does to packets.
    pub(super) fn is_at_receiver(&self) -> bool {
        match self.cause {
            Cause::NoListener
            | Cause::WrongReceiver
            | Cause::AnswerMismatch
            | Cause::FilterDrop
            | Cause::FilterReject => true,
            _ => self.hook == Hook::Socket,
        }
    }

    /// The pod's or node's end of the flow that was the destination.
    fn receiver<'i>(&self, intent: &'i Intent) -> Option<&'i Receiver> {
        let address = match self.direction {
            Direction::Forward => self.flow.dst,
            Direction::Return => self.flow.src,
        };
        let found = intent.receivers.iter().find(|receiver| receiver.address == address);
        // Before the Service is translated all backends share their fate.
        let same = |admits: bool| intent.receivers.iter().all(|other| other.admission.admits() == admits);
        found.or_else(|| intent.receivers.first().filter(|first| same(first.admission.admits())))
    }
}

impl Question<'_> {
    /// What deviates where packets end.
    pub(super) fn at_ending(&self, intent: &Intent, ending: &Ending<'_>) -> Option<Deviation> {
        match ending.cause {
            Cause::FilterDrop | Cause::FilterReject | Cause::BpfDrop => {
                let receiver = ending.receiver(intent)?;
                match &receiver.admission {
                    Admission::Denied { by } => Some(self.denied(receiver, by.first()?, ending)),
                    Admission::Allowed { by } if ending.cause != Cause::BpfDrop => {
                        Some(self.unwanted(receiver, by, ending))
                    }
                    Admission::Allowed { .. } | Admission::NotSubject { .. } | Admission::Unknown { .. } => {
                        None
                    }
                }
            }
            Cause::NoListener => self.not_listening(intent, ending),
            _ => None,
        }
    }

    /// The policies that deny what is not stopped.
    pub(super) fn not_enforced(
        &self,
        intent: &Intent,
        arrives: impl Fn(&Receiver) -> bool,
    ) -> Vec<Deviation> {
        // The API leaves ICMP to implementations.
        let receivers = intent
            .receivers
            .iter()
            .filter(|receiver| self.flow.protocol != Protocol::Icmp && arrives(receiver));
        let denials = receivers.filter_map(|receiver| match &receiver.admission {
            Admission::Denied { by } => Some((receiver, by.first()?)),
            _ => None,
        });
        denials
            .map(|(receiver, denial)| Deviation {
                kind: DeviationKind::NotEnforced,
                culprit: denial.policies[0].clone(),
                node: None,
                endpoint: Some(receiver.address),
                rule: None,
                summary: text!(deviation::NotEnforced { denial: self.denial(receiver, denial) }),
                advice: text!(advice::PolicyNotEnforced { describe: describe(&denial.policies[0]) }),
            })
            .collect()
    }

    /// `NetworkPolicy shop/deny denies ingress to shop/pay-1: it has no rule for shop/cart (app=cart) on 80/tcp`
    fn denial(&self, receiver: &Receiver, denial: &Denial) -> Text {
        let mut flow = self.flow;
        flow.dst_port = receiver.port.unwrap_or(flow.dst_port);
        let several = denial.policies.len() > 1;
        let end = |ip| pod_at(self.inventory, ip).map_or_else(|| owner(self.inventory, ip), labelled);
        let (policies, pod, port) = (policies(&denial.policies), &denial.pod, port(&flow));
        match denial.direction {
            PolicyType::Ingress => {
                text!(deviation::DeniesIngress { policies, several, pod, other: end(self.flow.src), port })
            }
            PolicyType::Egress => {
                text!(deviation::DeniesEgress { policies, several, pod, other: end(receiver.address), port })
            }
        }
    }

    fn denied(&self, receiver: &Receiver, denial: &Denial, ending: &Ending<'_>) -> Deviation {
        let policy = &denial.policies[0];
        Deviation {
            kind: DeviationKind::PolicyDenied,
            culprit: policy.clone(),
            node: Some(ending.place.node.clone()),
            endpoint: Some(receiver.address),
            rule: ending.rule.cloned(),
            summary: self.denial(receiver, denial),
            advice: text!(advice::PolicyDenied { policy, describe: describe(policy) }),
        }
    }

    fn unwanted(&self, receiver: &Receiver, by: &[ObjectRef], ending: &Ending<'_>) -> Deviation {
        let node = &ending.place.node;
        let ground = match by {
            [] => text!(deviation::NobodyIsolates),
            some => text!(deviation::Admits { policies: policies(some) }),
        };
        let to = receiver.pod.as_ref().map(Text::verbatim);
        let others: Vec<String> = self.letting_through(ending).into_iter().collect();
        let look = ending.rule.map(|rule| look_at_rule(rule, &ending.place.netns));
        Deviation {
            kind: DeviationKind::UnwantedRule,
            culprit: ObjectRef { kind: "Node".to_owned(), namespace: None, name: node.to_string() },
            node: Some(node.clone()),
            endpoint: Some(receiver.address),
            rule: ending.rule.cloned(),
            summary: text!(deviation::UnwantedRule {
                from: owner(self.inventory, self.flow.src),
                to: to.unwrap_or_else(|| owner(self.inventory, receiver.address)),
                port: port(&Flow { dst_port: receiver.port.unwrap_or(self.flow.dst_port), ..self.flow }),
                ground,
                answer: ending.direction == Direction::Return,
                rule: ending.rule,
                node,
                one: others.len() == 1,
                others: (!others.is_empty()).then(|| listed(&others)),
            }),
            advice: text!(advice::UnwantedRule { node, look }),
        }
    }

    /// Other nodes at whose forward hook the prediction lets the traffic pass.
    fn letting_through(&self, ending: &Ending<'_>) -> BTreeSet<String> {
        let answers = self.prediction.branches.iter().flat_map(|branch| &branch.answer);
        let branches: Vec<_> = match ending.direction {
            Direction::Forward => self.prediction.branches.iter().collect(),
            Direction::Return => answers.collect(),
        };
        let steps = branches.iter().flat_map(|branch| branch.path.steps());
        let passed = steps.filter(|step| step.hook == Hook::NetfilterForward && step.action.continues());
        passed
            .map(|step| &step.place.node)
            .filter(|node| **node != ending.place.node)
            .map(ToString::to_string)
            .collect()
    }

    fn not_listening(&self, intent: &Intent, ending: &Ending<'_>) -> Option<Deviation> {
        if ending.direction != Direction::Forward {
            return None;
        }
        let service = self.service(intent)?;
        let target = service.target_port.as_ref()?;
        let at = |backend: &&waymark_proto::Backend| {
            (backend.ip, backend.port) == (ending.flow.dst, ending.flow.dst_port)
        };
        service.backends.iter().find(at)?;
        let pod = pod_at(self.inventory, ending.flow.dst)?;
        let wanted = port(&ending.flow);
        let name = super::words::service(service);
        let elsewhere = self.cluster.listeners(&ending.place, ending.flow.protocol).unwrap_or_default();
        let ports: Vec<String> = elsewhere.iter().map(u16::to_string).collect();
        let declared = pod.ports.iter().any(|declared| declared.port == ending.flow.dst_port);
        // Whom to believe: a pod that declares the port should listen there; and where nothing listens at all,
        // it is the application that is missing.
        let pods_fault = declared || (elsewhere.is_empty() && pod.ports.is_empty());
        let (kind, culprit, advice) = if pods_fault {
            (
                DeviationKind::NotListening,
                ObjectRef::namespaced("Pod", &pod.namespace, &pod.name),
                text!(advice::NotListening {
                    pod: pod.full_name(),
                    port: &wanted,
                    namespace: &pod.namespace,
                    name: &pod.name,
                }),
            )
        } else {
            (
                DeviationKind::WrongTargetPort,
                name.clone(),
                text!(advice::WrongTargetPort { service: &name, look: look_at_service(service) }),
            )
        };
        Some(Deviation {
            kind,
            culprit,
            node: Some(ending.place.node.clone()),
            endpoint: Some(ending.flow.dst),
            rule: None,
            summary: text!(deviation::NotListening {
                target: port_ref(target),
                service: name,
                port: wanted,
                pod: pod.full_name(),
                protocol: ending.flow.protocol,
                ports: (!ports.is_empty()).then(|| listed(&ports)),
                declared,
            }),
            advice,
        })
    }
}

/// The command that shows a policy.
fn describe(policy: &ObjectRef) -> String {
    let namespace = policy.namespace.as_ref().map(|namespace| format!("-n {namespace} ")).unwrap_or_default();
    format!("kubectl {namespace}describe networkpolicy {}", policy.name)
}
