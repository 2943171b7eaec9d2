//! The fault point in words.

use std::fmt::Write;

use waymark_proto::{Confidence, FactorKind, FaultPoint, LossReport};

use super::sentence::sentence;
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
