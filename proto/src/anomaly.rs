//! Anomalies: what happens on the way to packets that arrive all the same.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Direction, Hook, NetnsName, NodeName, Share, Span, SpanEnd, Text, text};

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AnomalyKind {
    /// Packets are held up.
    Delay,
    /// Packets come out twice.
    Duplication,
    /// Packets overtake one another.
    Reordering,
    /// Packets go another way than the prediction has them go.
    OtherWay,
}

impl AnomalyKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Delay, Self::Duplication, Self::Reordering, Self::OtherWay];
}

impl fmt::Display for AnomalyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.words())
    }
}

/// Where it happens, and how much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Anomaly {
    /// What happens.
    pub kind: AnomalyKind,
    /// Node.
    pub node: NodeName,
    /// Namespace.
    pub netns: NetnsName,
    /// Device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The hook that does it, as far as is known: `wire` if it lies between two nodes.
    pub hook: Hook,
    /// Which way the packets were going. A delay between two nodes is that of both ways together: their clocks
    /// cannot be compared.
    pub direction: Direction,
    /// The last hook before, and the first behind it; of another way the first that was predicted.
    pub span: Span,
    /// The first hook that saw packets where the prediction does not have them, for another way only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<SpanEnd>,
    /// What should have decided by the prediction: a route, a neighbour, for another way only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Text>,
    /// Packets to which it happened, of those that arrived.
    pub share: Share,
    /// How long half of them or more were held up, in nanoseconds; for delays only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ns: Option<u64>,
    /// What to do next.
    pub advice: Text,
}

impl Anomaly {
    /// `held up for 50.1 ms on node1 in qdisc eth0`
    pub fn sentence(&self) -> Text {
        let (answer, place) = (self.direction == Direction::Return, self.place());
        match self.kind {
            AnomalyKind::Delay => {
                let ms =
                    self.delay_ns.map(|ns| format!("{:.1}", Duration::from_nanos(ns).as_secs_f64() * 1e3));
                text!(anomaly::HeldUp { answer, place, ms })
            }
            AnomalyKind::Duplication => text!(anomaly::Doubled { answer, place }),
            AnomalyKind::Reordering => text!(anomaly::TakenOutOfOrder { answer, place }),
            AnomalyKind::OtherWay => text!(anomaly::TookAnotherWay {
                answer,
                place,
                object: self.object.as_ref(),
                predicted: self.span.first_missing.words(),
                seen: self.instead.as_ref().map(SpanEnd::words),
            }),
        }
    }

    fn place(&self) -> Text {
        if self.hook == Hook::Wire {
            let (from, to) = (self.span.last_seen.words(), self.span.first_missing.words());
            return text!(anomaly::Between { from, to, both: self.kind == AnomalyKind::Delay });
        }
        text!(anomaly::At {
            node: &self.node,
            pod: self.netns.pod(),
            hook: self.hook,
            device: self.device.as_deref(),
        })
    }
}
