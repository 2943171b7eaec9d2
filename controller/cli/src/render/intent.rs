//! What was asked for in words, and what is otherwise.

use std::fmt::Write;

use waymark_proto::{
    Admission, Deviation, DeviationKind, Expectation, FaultPoint, Intent, IntentReport, ObjectRef,
    PolicyType, Text, text,
};

use super::fault::Labels;
use super::{Paint, line};

/// Writes what was asked for, in a line, and which policies nothing enforces.
pub(super) fn expectation(out: &mut String, report: &IntentReport, paint: Paint) {
    let label = paint.say(&text!(label::Intended));
    line!(out, "{}{}{}", paint.strong(&label), paint.gap(), paint.say(&sentence(&report.intent)));
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
            let label = paint.say(&text!(label::NotAsIntended));
            line!(out, "{}{}{}", paint.odd(&label), paint.gap(), paint.say(&deviation.summary));
        }
        if group.len() > MOST {
            line!(out, "  {}", paint.say(&text!(intended::More { more: group.len() - MOST })));
        }
        Labels::new(paint).entry(out, &text!(label::Culprit), &group[0].culprit.to_string());
        let label = paint.faint(&paint.say(&text!(label::Next)));
        line!(out, "  {label}{}{}", paint.gap(), paint.say(&group[0].advice));
    }
}

/// `denied: NetworkPolicy shop/deny isolates shop/pay-1 for ingress`
pub(super) fn sentence(intent: &Intent) -> Text {
    let words = match (intent.expectation, &intent.local_only) {
        (Expectation::NoEndpoints, Some(only)) => {
            text!(intended::NoLocalEndpoint { policy: only.policy, node: &only.node })
        }
        (Expectation::NoEndpoints, None) => text!(intended::NoEndpoint),
        (expectation, _) => {
            let mut reasons: Vec<Text> =
                intent.receivers.iter().map(|receiver| reason(&receiver.admission)).collect();
            reasons.sort_by(|a, b| a.as_str().cmp(b.as_str()));
            reasons.dedup();
            text!(intended::Expectation {
                expectation: expectation.words(),
                backends: intent.service.as_ref().map_or(0, |_| intent.receivers.len()),
                reasons,
            })
        }
    };
    text!(intended::Report { service: intent.service.as_ref(), words })
}

fn reason(admission: &Admission) -> Text {
    match admission {
        Admission::Allowed { by } if by.is_empty() => text!(deviation::NobodyIsolates),
        Admission::Allowed { by } => text!(intended::By { policies: objects(by) }),
        Admission::Denied { by } => {
            let denials = by.iter().map(|denial| {
                let (pod, policies) = (&denial.pod, objects(&denial.policies));
                match denial.direction {
                    PolicyType::Ingress => text!(intended::Ingress { pod, policies }),
                    PolicyType::Egress => text!(intended::Egress { pod, policies }),
                }
            });
            text!(list::Both { items: denials.collect::<Vec<_>>() })
        }
        Admission::NotSubject { why } => why.words(),
        Admission::Unknown { why } => why.clone(),
    }
}

fn objects(objects: &[ObjectRef]) -> Text {
    text!(list::Plain { items: objects.iter().collect::<Vec<_>>() })
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
