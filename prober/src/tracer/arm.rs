//! What is armed: one entry per check, with its lease and the way to its owner.

use tokio::sync::mpsc;
use waymark_proto::{Losses, Sighting};

use crate::nftrace::Traced;

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
