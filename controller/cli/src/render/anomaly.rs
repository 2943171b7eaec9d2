//! What happens to packets that arrive, in words.

use std::fmt::Write;

use waymark_proto::{Anomaly, AnomalyKind, text};

use super::fault::{Labels, next};
use super::{Paint, line};

/// Writes anomalies with what to do about each.
pub(super) fn all(out: &mut String, anomalies: &[Anomaly], paint: Paint) {
    for anomaly in anomalies {
        let label = match anomaly.kind {
            AnomalyKind::Delay => text!(label::Delay),
            AnomalyKind::Duplication => text!(label::Duplication),
            AnomalyKind::Reordering => text!(label::Reordering),
            AnomalyKind::OtherWay => text!(label::OtherWay),
        };
        let packets = text!(anomaly::Packets { some: anomaly.share.lost, all: anomaly.share.of });
        line!(out);
        let words = paint.strong(&paint.say(&anomaly.sentence()));
        line!(out, "{}{}{words}", paint.odd(&paint.say(&label)), paint.gap());
        Labels::new(paint).entry(out, &text!(label::Packets), &paint.say(&packets));
        next(out, &anomaly.advice, paint);
    }
}
