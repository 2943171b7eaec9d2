//! What is not as Kubernetes' objects ask for it, and which object is to mend. Pure.
//!
//! The objects are held against one another (`endpoints`), against the prediction (`rules`), and against the
//! place where packets die (`ending`). A deviation that explains a fault names its culprit; the fault stays where
//! it was found.
//!
//! * `endpoints`: a Service, its endpoints and its pods
//! * `rules`: where nodes' rules lead a Service
//! * `ending`: policies and listeners at the place where packets die
//! * `words`: how objects and ends are named

mod ending;
mod endpoints;
mod rules;
#[cfg(test)]
mod tests;
mod words;

use waymark_proto::{
    Cause, Confidence, Deviation, DeviationKind, Disposition, FaultPoint, Flow, Intent, IntentReport,
    Inventory, LocalOnly, PathSet, PolicyField, Service, Verdict, text,
};
use waymark_sim::{Cluster, intend};

use crate::diagnose::Diagnosis;
use ending::Ending;

/// What intent is compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    /// The objects.
    pub(crate) inventory: &'a Inventory,
    /// The flow.
    pub(crate) flow: Flow,
    /// Its prediction,
    pub(crate) prediction: &'a PathSet,
    /// and the facts that it rests on.
    pub(crate) cluster: &'a Cluster,
}

/// Compares intent with a prediction alone.
pub(crate) fn of_prediction(question: &Question<'_>) -> Option<IntentReport> {
    let intent = intend(question.inventory, &question.flow);
    let mut deviations = question.standing(&intent);
    if question.inventory.has_objects() {
        let endings = question.prediction.branches.iter().filter_map(|branch| Ending::of_path(&branch.path));
        let found: Vec<Deviation> =
            endings.filter_map(|ending| question.at_ending(&intent, &ending)).collect();
        deviations.extend(found);
        let delivered = question.delivered();
        deviations.extend(question.not_enforced(&intent, |receiver| delivered.contains(&receiver.address)));
    }
    question.report(intent, deviations)
}

/// Compares intent with the outcome of a check, and names the culprit of its fault.
pub(crate) fn of_check(question: &Question<'_>, diagnosis: &mut Diagnosis) -> Option<IntentReport> {
    let intent = intend(question.inventory, &question.flow);
    let mut deviations = question.standing(&intent);
    if let Some((point, flow)) = diagnosis.fault_point.as_mut().zip(diagnosis.fault_flow) {
        let ending = Ending::of_fault(point, flow);
        if question.inventory.has_objects() {
            deviations.extend(question.at_ending(&intent, &ending));
        }
        let explaining = deviations
            .iter()
            .filter_map(|deviation| Some((question.explains(deviation, &ending)?, deviation)));
        // Of equals the first.
        if let Some((_, deviation)) = explaining.min_by_key(|(rank, _)| *rank) {
            blame(point, deviation);
        }
    }
    if question.inventory.has_objects() && diagnosis.verdict != Verdict::Unreachable {
        let delivered = question.delivered();
        let arrived = diagnosis.delivered > 0 && !intent.receivers.iter().any(|r| r.admission.admits());
        deviations.extend(
            question.not_enforced(&intent, |receiver| arrived || delivered.contains(&receiver.address)),
        );
    }
    question.report(intent, deviations)
}

/// Enters a culprit into a fault point.
fn blame(point: &mut FaultPoint, deviation: &Deviation) {
    point.culprit = Some(deviation.culprit.clone());
    point.evidence.push(deviation.summary.clone());
    point.advice.clone_from(&deviation.advice);
    if point.confidence == Confidence::Low && deviation.kind != DeviationKind::NoServiceRule {
        // Observation and objects agree.
        point.confidence = Confidence::Medium;
        point.ground = Some(text!(ground::ObjectsAgree));
    }
}

impl<'a> Question<'a> {
    /// What deviates whatever becomes of the packets.
    fn standing(&self, intent: &Intent) -> Vec<Deviation> {
        let Some(service) = self.service(intent) else { return Vec::new() };
        let mut deviations = rules::of_service(self, service, intent);
        if self.inventory.has_objects() {
            deviations.extend(endpoints::of_service(self.inventory, service, intent));
            // Whom kube-proxy takes for a sender within the cluster, it leads on in spite of the policy.
            let is_external = |only: &LocalOnly| only.policy == PolicyField::External;
            if intent.local_only.as_ref().is_some_and(is_external) && !self.delivered().is_empty() {
                deviations.retain(|deviation| deviation.kind != DeviationKind::NoLocalEndpoints);
            }
        } else {
            // A plain inventory says where a Service leads, and no more.
            deviations.retain(|deviation| deviation.kind == DeviationKind::StaleServiceRule);
        }
        deviations
    }

    /// The Service port that the flow goes to.
    fn service(&self, intent: &Intent) -> Option<&'a Service> {
        let object = intent.service.as_ref()?;
        let flow = &self.flow;
        self.inventory.services.iter().find(|service| {
            let named = object.name == service.name && object.namespace.as_ref() == Some(&service.namespace);
            let by_address = service.cluster_ip == flow.dst && service.port == flow.dst_port;
            let by_node = service.cluster_ip != flow.dst && service.node_port == Some(flow.dst_port);
            let from_outside = service.external_ips.contains(&flow.dst) && service.port == flow.dst_port;
            named && service.protocol == flow.protocol && (by_address || by_node || from_outside)
        })
    }

    /// Where the prediction has packets arrive.
    fn delivered(&self) -> Vec<std::net::IpAddr> {
        let branches = self.prediction.branches.iter();
        let arriving = branches.filter(|branch| branch.path.disposition() == Disposition::Delivered);
        arriving.filter_map(|branch| Some(branch.path.last().flow?.dst)).collect()
    }

    fn report(&self, intent: Intent, mut deviations: Vec<Deviation>) -> Option<IntentReport> {
        let mut seen: Vec<Deviation> = Vec::new();
        deviations.retain(|deviation| {
            let new = !seen.contains(deviation);
            seen.extend(new.then(|| deviation.clone()));
            new
        });
        (self.inventory.has_objects() || !deviations.is_empty())
            .then_some(IntentReport { intent, deviations })
    }

    /// Whether a deviation explains that packets die there; the lower, the closer to the root.
    fn explains(&self, deviation: &Deviation, ending: &Ending<'_>) -> Option<u8> {
        let met = |ip| [ending.flow.dst, ending.flow.src].contains(&ip);
        let untranslated = ending.flow.dst == self.flow.dst;
        let refused = matches!(
            ending.cause,
            Cause::ServiceWithoutEndpoints | Cause::ServiceWithoutLocalEndpoints | Cause::FilterReject
        );
        match (deviation.kind, deviation.endpoint) {
            (DeviationKind::StaleServiceRule | DeviationKind::WrongEndpoint, Some(ip)) => {
                // Who comes to a living but wrong receiver may still meet another fault on the way.
                let fits = self.inventory.owner(ip).is_none() || ending.is_at_receiver();
                (met(ip) && fits).then_some(0)
            }
            (DeviationKind::StaleServiceRule, None) => (untranslated && refused).then_some(0),
            (DeviationKind::NoLocalEndpoints, _) => {
                (untranslated && (refused || ending.is_want_of_local_endpoints())).then_some(1)
            }
            (
                DeviationKind::NoEndpoints
                | DeviationKind::NoMatchingPod
                | DeviationKind::NotReady
                | DeviationKind::WrongTargetPort,
                None,
            ) => (untranslated && ending.cause != Cause::FilterDrop).then_some(1),
            (DeviationKind::NoServiceRule, _) => {
                (untranslated && ending.cause != Cause::FilterDrop).then_some(2)
            }
            // Those were found at this ending.
            (
                DeviationKind::PolicyDenied
                | DeviationKind::UnwantedRule
                | DeviationKind::NotListening
                | DeviationKind::WrongTargetPort,
                _,
            ) => Some(3),
            (
                DeviationKind::MissingServiceRule
                | DeviationKind::NotEnforced
                | DeviationKind::WrongEndpoint
                | DeviationKind::NoEndpoints
                | DeviationKind::NoMatchingPod
                | DeviationKind::NotReady,
                _,
            ) => None,
        }
    }
}
