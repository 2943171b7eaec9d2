//! What happens to packets that arrive, in words.

use std::fmt::Write;
use std::time::Duration;

use waymark_proto::{Anomaly, AnomalyKind, Direction, Hook, Text, text};

use super::fault::{Labels, next};
use super::sentence::end;
use super::{Paint, line};

/// Writes anomalies with what to do about each.
pub(super) fn all(out: &mut String, anomalies: &[Anomaly], paint: Paint) {
    for anomaly in anomalies {
        let label = match anomaly.kind {
            AnomalyKind::Delay => text!(label::Delay),
            AnomalyKind::Duplication => text!(label::Duplication),
            AnomalyKind::Reordering => text!(label::Reordering),
        };
        let packets = text!(anomaly::Packets { some: anomaly.share.lost, all: anomaly.share.of });
        line!(out);
        let words = paint.strong(&paint.say(&sentence(anomaly)));
        line!(out, "{}{}{words}", paint.odd(&paint.say(&label)), paint.gap());
        Labels::new(paint).entry(out, &text!(label::Packets), &paint.say(&packets));
        next(out, &anomaly.advice, paint);
    }
}

/// `held up for 50.1 ms on node1 in qdisc eth0`
pub(super) fn sentence(anomaly: &Anomaly) -> Text {
    let answer = anomaly.direction == Direction::Return;
    let place = place(anomaly);
    match anomaly.kind {
        AnomalyKind::Delay => {
            let ms =
                anomaly.delay_ns.map(|ns| format!("{:.1}", Duration::from_nanos(ns).as_secs_f64() * 1e3));
            text!(anomaly::HeldUp { answer, place, ms })
        }
        AnomalyKind::Duplication => text!(anomaly::Doubled { answer, place }),
        AnomalyKind::Reordering => text!(anomaly::TakenOutOfOrder { answer, place }),
    }
}

fn place(anomaly: &Anomaly) -> Text {
    if anomaly.hook == Hook::Wire {
        let (from, to) = (end(&anomaly.span.last_seen), end(&anomaly.span.first_missing));
        return text!(anomaly::Between { from, to, both: anomaly.kind == AnomalyKind::Delay });
    }
    text!(anomaly::At {
        node: &anomaly.node,
        pod: anomaly.netns.pod(),
        hook: anomaly.hook,
        device: anomaly.device.as_deref(),
    })
}
