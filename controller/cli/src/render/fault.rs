//! The fault point in words.

use std::fmt::Write;

use waymark_proto::{Cause, Confidence, Direction, Disposition, FactorKind, FaultPoint, Hook, LossReport};

use super::{Paint, line};

/// Writes where and why it ends, what that rests on, and what to do.
pub(super) fn point(out: &mut String, fault: &FaultPoint, loss: Option<&LossReport>, paint: Paint) {
    line!(out, "{} {}", paint.bad("Fault:"), paint.strong(&sentence(fault)));
    if let Some(culprit) = &fault.culprit {
        line!(out, "  {}  {}", paint.strong("Culprit:"), paint.strong(&culprit.to_string()));
    }
    if let Some(object) = &fault.object {
        line!(out, "  Object:   {object}");
    }
    if let Some(loss) = loss {
        line!(out, "  Loss:     {} of the packets that came there", loss.share);
        line!(out, "  {} {}", paint.strong("Pattern: "), paint.strong(&pattern(loss)));
    }
    for (index, evidence) in fault.evidence.iter().enumerate() {
        line!(out, "  {} {evidence}", if index == 0 { "Evidence:" } else { "         " });
    }
    line!(out, "  Confidence: {}", confidence(fault.confidence));
    line!(out, "{} {}", paint.strong("Next:"), fault.advice);
}

/// How sure it is, in a word.
pub(super) fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::High => "high",
        Confidence::Medium => "medium",
        Confidence::Low => "low",
    }
}

/// What a partial loss goes with.
pub(super) fn pattern(loss: &LossReport) -> String {
    match (&loss.factor, loss.wanted) {
        (Some(factor), _) => {
            let many = |values: &[String]| match values {
                [] => String::new(),
                [one] => one.clone(),
                values if values.len() <= MOST_VALUES => values.join(", "),
                values => {
                    format!("{} and {} more", values[..MOST_VALUES].join(", "), values.len() - MOST_VALUES)
                }
            };
            let (with, without) = (&factor.with, &factor.without);
            let rates = format!("{} of {} packets are lost", with.lost, with.of);
            let (values, others) = (many(&factor.values), many(&factor.others));
            match factor.kind {
                // Nobody wants to read a list of ports that are well.
                FactorKind::SourcePort => format!(
                    "it goes with the source port: {rates} from {values}; {} of {} from the other {} ports. So a hash over the flow leads to it: one of several links, next hops or machines behind that place is bad",
                    without.lost,
                    without.of,
                    factor.others.len()
                ),
                kind => format!(
                    "it goes with the {kind}: {rates} with {values}, {} of {} with {others}",
                    without.lost, without.of
                ),
            }
        }
        (None, Some(wanted)) => {
            format!("not known yet; about {wanted} more packets would tell: --max-packets")
        }
        (None, None) => "none: it hits packets of all sizes, code points and source ports alike".to_owned(),
    }
}

/// Values of a factor that are listed.
const MOST_VALUES: usize = 8;

/// `dropped on node2 in netfilter-forward by rule ip filter FORWARD handle 7 (filter-drop)`
pub(crate) fn sentence(fault: &FaultPoint) -> String {
    let whose = match fault.direction {
        Direction::Forward => "",
        Direction::Return => "the answer is ",
    };
    if let (Hook::Wire, Some(span)) = (fault.hook, &fault.span) {
        let end = |end: &waymark_proto::SpanEnd| {
            format!("{} ({}{})", end.node, end.hook, device(end.device.as_deref()))
        };
        return format!(
            "{whose}lost between {} and {} ({})",
            end(&span.last_seen),
            end(&span.first_missing),
            fault.cause
        );
    }
    let verb = match fault.cause.fate() {
        _ if fault.cause == Cause::WrongReceiver => "led astray",
        _ if fault.cause == Cause::AnswerMismatch => "made another",
        Disposition::Rejected => "rejected",
        Disposition::NoRoute => "without a route",
        Disposition::NeighbourUnreachable => "stuck without a neighbour",
        Disposition::Loop => "going in circles",
        _ if fault.span.is_some() => "lost",
        _ => "dropped",
    };
    let netns = match &fault.pod {
        Some(pod) => format!(" in pod {pod}"),
        None => String::new(),
    };
    let rule = fault.rule.as_ref().map(|rule| format!(" by rule {rule}")).unwrap_or_default();
    format!(
        "{whose}{verb} on {}{netns} in {}{}{rule} ({})",
        fault.node,
        fault.hook,
        device(fault.device.as_deref()),
        fault.cause
    )
}

fn device(name: Option<&str>) -> String {
    name.map(|name| format!(" {name}")).unwrap_or_default()
}
