//! Partial loss: how much of what came to a place was lost there, and what the loss goes with.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Text;

/// Losses among packets, with the interval in which their rate lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// Packets lost.
    pub lost: u32,
    /// Packets in all.
    pub of: u32,
    /// Lower end of the interval, 0 to 1.
    pub low: f64,
    /// Upper end of the interval, 0 to 1.
    pub high: f64,
}

/// Quantile of the normal distribution for two-sided intervals of 95 %.
const Z: f64 = 1.959_964;

impl Share {
    /// The share with its score interval of 95 % (Wilson, "Probable inference, the law of succession, and
    /// statistical inference", 1927). Of nothing, nothing is known: 0 to 1.
    pub fn new(lost: u32, of: u32) -> Self {
        if of == 0 {
            return Self { lost, of, low: 0.0, high: 1.0 };
        }
        let (n, rate) = (f64::from(of), f64::from(lost) / f64::from(of));
        let spread = Z * (rate * (1.0 - rate) / n + Z * Z / (4.0 * n * n)).sqrt();
        let (middle, scale) = (rate + Z * Z / (2.0 * n), 1.0 + Z * Z / n);
        // At both ends the bound is exact; rounding must not move it.
        let low = if lost == 0 { 0.0 } else { (middle - spread) / scale };
        let high = if lost == of { 1.0 } else { (middle + spread) / scale };
        Self { lost, of, low, high }
    }

    /// The rate that was seen, 0 to 1.
    pub fn rate(&self) -> f64 {
        if self.of == 0 { 0.0 } else { f64::from(self.lost) / f64::from(self.of) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.words())
    }
}

/// What packets of a check differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FactorKind {
    /// Their length.
    Size,
    /// Their differentiated services code point.
    Dscp,
    /// The backend of the Service that they came to.
    Backend,
    /// The next hop of a route with several.
    NextHop,
    /// The outcome of a rule that leaves it to chance.
    Rule,
    /// Their source port: what a hash over the flow tells apart.
    SourcePort,
}

impl FactorKind {
    /// Every kind, those that explain most first.
    pub const ALL: [Self; 6] =
        [Self::Size, Self::Dscp, Self::Backend, Self::NextHop, Self::Rule, Self::SourcePort];
}

impl fmt::Display for FactorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.words())
    }
}

/// Something that the loss goes with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Factor {
    /// What.
    pub kind: FactorKind,
    /// The values with which packets are lost.
    pub values: Vec<Text>,
    /// The values with which they are not, or less.
    pub others: Vec<Text>,
    /// Losses with these values.
    pub with: Share,
    /// Losses with the others.
    pub without: Share,
    /// How likely chance alone would do this.
    pub chance: f64,
}

/// What is known of a partial loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LossReport {
    /// Of the packets that came to the fault point, those that were lost there.
    pub share: Share,
    /// What the loss goes with; absent if it hits without regard to anything that was varied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<Factor>,
    /// How many more packets it would take to say what the loss goes with; absent if enough were sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_literature() {
        // Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
        for (lost, of, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let share = Share::new(lost, of);
            assert!((share.low - low).abs() < 1e-4 && (share.high - high).abs() < 1e-4, "{share:?}");
        }
        assert_eq!((Share::new(0, 0).low, Share::new(0, 0).high), (0.0, 1.0));
        assert_eq!((Share::new(5, 5).high, Share::new(0, 5).low), (1.0, 0.0));
    }
}
