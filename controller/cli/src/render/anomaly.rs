//! What happens to packets that arrive, in words.

use std::fmt::Write;
use std::time::Duration;

use waymark_proto::{Anomaly, AnomalyKind, Direction, Hook, SpanEnd};

use super::{Paint, line};

/// Writes anomalies with what to do about each.
pub(super) fn all(out: &mut String, anomalies: &[Anomaly], paint: Paint) {
    for anomaly in anomalies {
        let name = match anomaly.kind {
            AnomalyKind::Delay => "Delay:",
            AnomalyKind::Duplication => "Duplication:",
            AnomalyKind::Reordering => "Reordering:",
        };
        line!(out);
        line!(out, "{} {}", paint.odd(name), paint.strong(&sentence(anomaly)));
        line!(out, "  Packets:  {} of {} that arrived", anomaly.share.lost, anomaly.share.of);
        line!(out, "{} {}", paint.strong("Next:"), anomaly.advice);
    }
}

/// `held up for 50.1 ms on node1 in qdisc eth0`
pub(super) fn sentence(anomaly: &Anomaly) -> String {
    let whose = match anomaly.direction {
        Direction::Forward => "",
        Direction::Return => "answers are ",
    };
    let verb = match (anomaly.kind, anomaly.delay_ns) {
        (AnomalyKind::Delay, Some(ns)) => {
            format!("held up for {:.1} ms", Duration::from_nanos(ns).as_secs_f64() * 1e3)
        }
        (AnomalyKind::Delay, None) => "held up".to_owned(),
        (AnomalyKind::Duplication, _) => "doubled".to_owned(),
        (AnomalyKind::Reordering, _) => "taken out of their order".to_owned(),
    };
    let end = |end: &SpanEnd| {
        let device = end.device.as_deref().map(|device| format!(" {device}")).unwrap_or_default();
        format!("{} ({}{device})", end.node, end.hook)
    };
    if anomaly.hook == Hook::Wire {
        let ways = if anomaly.kind == AnomalyKind::Delay { ", both ways together" } else { "" };
        let (from, to) = (end(&anomaly.span.last_seen), end(&anomaly.span.first_missing));
        return format!("{whose}{verb} between {from} and {to}{ways}");
    }
    let device = anomaly.device.as_deref().map(|device| format!(" {device}")).unwrap_or_default();
    let pod = anomaly.netns.pod().map(|pod| format!(" in pod {pod}")).unwrap_or_default();
    format!("{whose}{verb} on {}{pod} in {}{device}", anomaly.node, anomaly.hook)
}
