//! The comparison: what Waymark says against what an oracle says. Pure.
//!
//! * `devices`: tcpdump
//! * `rules`: nft
//! * `drops`: perf
//! * `counters`: devices and queues

pub mod counters;
pub mod devices;
pub mod drops;
#[cfg(test)]
pub mod fixture;
pub mod rules;

use std::fmt::{self, Display};

/// Something that Waymark and an oracle do not agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// The oracle.
    pub oracle: &'static str,
    /// Which packet, or which packets.
    pub packet: String,
    /// Where.
    pub place: String,
    /// What Waymark saw.
    pub waymark: String,
    /// What the oracle saw.
    pub other: String,
}

impl Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { oracle, packet, place, waymark, other } = self;
        write!(f, "{packet}, {place}: Waymark saw {waymark}, {oracle} saw {other}")
    }
}
