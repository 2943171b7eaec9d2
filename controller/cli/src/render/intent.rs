//! What was asked for in words, and what is otherwise.

use std::fmt::Write;

use waymark_proto::{
    Admission, Deviation, DeviationKind, Expectation, FaultPoint, Intent, IntentReport, ObjectRef, PolicyType,
};

use super::{Paint, line};

/// Writes what was asked for, in a line, and which policies nothing enforces.
pub(super) fn expectation(out: &mut String, report: &IntentReport, paint: Paint) {
    line!(out, "{} {}", paint.strong("Intended:"), sentence(&report.intent));
    told(out, report.deviations.iter().filter(|deviation| is_loud(deviation)), paint);
}

/// Writes what is not as it was asked for, unless it was written above or belongs to the fault.
pub(super) fn deviations(out: &mut String, report: &IntentReport, fault: Option<&FaultPoint>, paint: Paint) {
    let of_fault =
        |deviation: &&Deviation| fault.is_some_and(|fault| fault.evidence.contains(&deviation.summary));
    let quiet = report.deviations.iter().filter(|deviation| !is_loud(deviation) && !of_fault(deviation));
    told(out, quiet, paint);
}

/// Traffic that should not pass is a finding also where all is reachable.
fn is_loud(deviation: &Deviation) -> bool {
    deviation.kind == DeviationKind::NotEnforced
}

/// Of deviations with the same remedy as many as this are written.
const MOST: usize = 5;

/// Writes deviations, those with the same remedy together.
fn told<'a>(out: &mut String, deviations: impl Iterator<Item = &'a Deviation>, paint: Paint) {
    let mut groups: Vec<Vec<&Deviation>> = Vec::new();
    for deviation in deviations {
        let remedy =
            |other: &Deviation| (&other.culprit, &other.advice) == (&deviation.culprit, &deviation.advice);
        match groups.iter_mut().find(|group| remedy(group[0])) {
            Some(group) => group.push(deviation),
            None => groups.push(vec![deviation]),
        }
    }
    for group in groups {
        for deviation in group.iter().take(MOST) {
            line!(out, "{} {}", paint.odd("Not as intended:"), deviation.summary);
        }
        if group.len() > MOST {
            line!(out, "  and {} more like these", group.len() - MOST);
        }
        line!(out, "  Culprit:  {}", group[0].culprit);
        line!(out, "  {} {}", paint.faint("Next:"), group[0].advice);
    }
}

/// `denied: NetworkPolicy shop/deny isolates shop/pay-1 for ingress`
pub(super) fn sentence(intent: &Intent) -> String {
    let service = intent.service.as_ref().map(|service| format!("{service}: ")).unwrap_or_default();
    let reasons: Vec<String> = {
        let mut reasons: Vec<String> =
            intent.receivers.iter().map(|receiver| reason(&receiver.admission)).collect();
        reasons.sort();
        reasons.dedup();
        reasons
    };
    let backends = match (&intent.service, intent.receivers.len()) {
        (Some(_), 1) => " at its backend".to_owned(),
        (Some(_), count) if count > 1 => format!(" at {count} backends"),
        _ => String::new(),
    };
    let why = if reasons.is_empty() { String::new() } else { format!(", {}", reasons.join("; ")) };
    match (intent.expectation, &intent.local_only) {
        (Expectation::NoEndpoints, Some(only)) => {
            format!("{service}its {} is Local, and it has no ready endpoint on {}", only.policy, only.node)
        }
        (Expectation::NoEndpoints, None) => format!("{service}it has no ready endpoints"),
        (expectation, _) => format!("{service}{expectation}{backends}{why}"),
    }
}

fn reason(admission: &Admission) -> String {
    match admission {
        Admission::Allowed { by } if by.is_empty() => "no NetworkPolicy isolates either end".to_owned(),
        Admission::Allowed { by } => format!("by {}", objects(by)),
        Admission::Denied { by } => {
            let denials = by.iter().map(|denial| {
                let direction = match denial.direction {
                    PolicyType::Ingress => "ingress to",
                    PolicyType::Egress => "egress from",
                };
                format!("{direction} {} by {}", denial.pod, objects(&denial.policies))
            });
            denials.collect::<Vec<_>>().join(" and ")
        }
        Admission::NotSubject { why } => why.to_string(),
        Admission::Unknown { why } => why.clone(),
    }
}

fn objects(objects: &[ObjectRef]) -> String {
    objects.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use waymark_proto::{LocalOnly, PolicyField};

    use super::*;

    #[test]
    fn want_of_endpoints_names_the_policy_that_makes_it() {
        let mut intent = Intent {
            expectation: Expectation::NoEndpoints,
            service: Some(ObjectRef::namespaced("Service", "shop", "pay")),
            local_only: None,
            receivers: Vec::new(),
        };
        assert_eq!(sentence(&intent), "Service shop/pay: it has no ready endpoints");
        intent.local_only = Some(LocalOnly { policy: PolicyField::Internal, node: "node1".into() });
        assert_eq!(
            sentence(&intent),
            "Service shop/pay: its internalTrafficPolicy is Local, and it has no ready endpoint on node1"
        );
    }
}
