//! What is armed: one entry per check, with its lease and the way to its owner.

use std::collections::HashMap;

use tokio::sync::mpsc;
use waymark_proto::{CheckId, Losses, Marker, Sighting};

use crate::nftrace::{Markers, Traced};

/// One armed check.
#[derive(Debug)]
pub struct Armed {
    /// Its markers.
    pub traced: Traced,
    /// Where its sightings go.
    pub sink: mpsc::Sender<Sighting>,
    /// What was lost before it was armed, of all checks together; losses are the difference.
    pub losses_before: Losses,
    /// Sightings that its owner was too slow to take.
    pub refused: u64,
}

impl Armed {
    /// Hands a sighting to the check's owner, without ever waiting for it.
    pub fn deliver(&mut self, sighting: Sighting) {
        if self.sink.try_send(sighting).is_err() {
            self.refused += 1;
        }
    }
}

/// The armed checks, with the reverse index of their TCP markers.
#[derive(Default)]
pub struct ArmedChecks {
    pub checks: HashMap<CheckId, Armed>,
    pub isns: HashMap<u32, Marker>,
    pub trace_overruns: u64,
    /// Whether a filter picks the packets, which have no markers.
    pub live: bool,
}

impl ArmedChecks {
    /// The identity of a packet that was picked, which tells nothing of what it carries.
    pub fn identity(&self, check: CheckId, kept: u64) -> u64 {
        self.checks.get(&check).map_or(0, |armed| armed.traced.key.hide(kept))
    }

    /// Whether a tag has the hash that only the check's key gives. Where no hash could be read (TCP, whose
    /// sequence number is one itself; quoted and followed packets) the identity has to do.
    pub fn is_genuine(&self, marker: Marker, hash: Option<u64>) -> bool {
        let Some(armed) = self.checks.get(&marker.check) else { return false };
        if self.live {
            return true;
        }
        hash.is_none_or(|hash| hash == armed.traced.key.tag(marker))
    }
}

impl Markers for ArmedChecks {
    fn by_isn(&self, isn: u32) -> Option<Marker> {
        self.isns.get(&isn).copied()
    }

    fn is_armed(&self, marker: Marker) -> bool {
        self.checks.get(&marker.check).is_some_and(|armed| self.live || marker.seq.0 < armed.traced.count)
    }

    fn are_captured(&self, check: CheckId) -> bool {
        self.checks.get(&check).is_some_and(|armed| armed.traced.capture)
    }

    fn sighted(&mut self, sighting: Sighting) {
        if self.is_armed(sighting.marker)
            && let Some(armed) = self.checks.get_mut(&sighting.marker.check)
        {
            armed.deliver(sighting);
        }
    }

    fn now_ns(&self) -> u64 {
        super::now_ns()
    }
}
