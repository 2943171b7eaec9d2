//! The fault point in words.

use std::fmt::Write;

use waymark_proto::{Confidence, FactorKind, FaultPoint, LossReport, Text, text};

use super::sentence::sentence;
use super::text::{padded, width};
use super::{Paint, line};

/// Writes where and why it ends, what that rests on, and what to do.
pub(super) fn point(out: &mut String, fault: &FaultPoint, loss: Option<&LossReport>, paint: Paint) {
    let said = |text: &Text| paint.say(text);
    let label = paint.bad(&said(&text!(label::Fault)));
    line!(out, "{label}{}{}", paint.gap(), paint.strong(&said(&sentence(fault))));
    let labels = Labels::new(paint);
    if let Some(culprit) = &fault.culprit {
        // Painted without what pads it.
        let label = said(&text!(label::Culprit));
        let pad = " ".repeat(labels.width - width(&label));
        line!(out, "  {}{pad}{}{}", paint.strong(&label), paint.gap(), paint.strong(&culprit.to_string()));
    }
    if let Some(object) = &fault.object {
        labels.entry(out, &text!(label::Object), &said(object));
    }
    if let Some(loss) = loss {
        labels.entry(out, &text!(label::Loss), &said(&text!(loss::OfPackets { share: loss.share.words() })));
        let label = padded(&said(&text!(label::Pattern)), labels.width);
        line!(out, "  {}{}{}", paint.strong(&label), paint.gap(), paint.strong(&said(&pattern(loss))));
    }
    for (index, evidence) in fault.evidence.iter().enumerate() {
        let label = if index == 0 { text!(label::Evidence) } else { Text::default() };
        labels.entry(out, &label, &said(evidence));
    }
    line!(out, "  {}", said(&confidence(fault)));
    next(out, &fault.advice, paint);
}

/// Writes what to do.
pub(super) fn next(out: &mut String, advice: &Text, paint: Paint) {
    let label = paint.strong(&paint.say(&text!(label::Next)));
    line!(out, "{label}{}{}", paint.gap(), paint.say(advice));
}

/// The labels of a fault, all as wide as the widest.
pub(super) struct Labels {
    paint: Paint,
    width: usize,
}

impl Labels {
    pub(super) fn new(paint: Paint) -> Self {
        let all = [
            text!(label::Culprit),
            text!(label::Object),
            text!(label::Loss),
            text!(label::Pattern),
            text!(label::Evidence),
        ];
        Self { paint, width: all.iter().map(|label| width(&paint.say(label))).max().unwrap_or(0) }
    }

    /// Writes what a label is of.
    pub(super) fn entry(&self, out: &mut String, label: &Text, words: &str) {
        let label = padded(&self.paint.say(label), self.width);
        line!(out, "  {label}{}{words}", self.paint.gap());
    }
}

/// How sure it is, and why.
pub(super) fn confidence(fault: &FaultPoint) -> Text {
    text!(confidence::Line { confidence: how_sure(fault.confidence), ground: fault.ground.as_ref() })
}

/// How sure it is, in a word.
pub(super) fn how_sure(confidence: Confidence) -> Text {
    match confidence {
        Confidence::High => text!(confidence::High),
        Confidence::Medium => text!(confidence::Medium),
        Confidence::Low => text!(confidence::Low),
    }
}

/// What a partial loss goes with.
pub(super) fn pattern(loss: &LossReport) -> Text {
    let Some(factor) = &loss.factor else {
        return match loss.wanted {
            Some(wanted) => text!(loss::NotKnownYet { wanted }),
            None => text!(loss::None),
        };
    };
    let many = |values: &[Text]| {
        let (shown, rest) = values.split_at(values.len().min(MOST_VALUES));
        text!(loss::Values { items: shown, more: rest.len() })
    };
    let (with, without) = (&factor.with, &factor.without);
    let values = many(&factor.values);
    match factor.kind {
        // Nobody wants to read a list of ports that are well.
        FactorKind::SourcePort => text!(loss::ByPort {
            lost: with.lost,
            of: with.of,
            values,
            others_lost: without.lost,
            others_of: without.of,
            others: factor.others.len(),
        }),
        kind => text!(loss::ByFactor {
            factor: kind.words(),
            lost: with.lost,
            of: with.of,
            values,
            others_lost: without.lost,
            others_of: without.of,
            others: many(&factor.others),
        }),
    }
}

/// Values of a factor that are listed.
const MOST_VALUES: usize = 8;
