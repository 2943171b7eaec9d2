//! What functions of the kernel answered: evidence beside a walk, where an agent's kernel lets them be watched.
//!
//! A walk is what tracepoints and rule traces saw, which every kernel has; a call is no step of it. It tells that a decision
//! was made at a hook that leaves no other trace, and which: that makes a predicted step one that was seen, and may say better
//! than the kernel why a packet was dropped.

use waymark_proto::{Event, Hook, Place, Sighting};

/// A call of a kernel function with the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Where.
    pub place: Place,
    /// The hook that it tells about.
    pub hook: Hook,
    /// Whether the packet was encapsulated; not known where it was followed by its buffer alone.
    pub encapsulated: Option<bool>,
    /// The function.
    pub function: String,
    /// What it answered, if its answer says something.
    pub answer: Option<String>,
    /// When it was called, in nanoseconds of the node's monotonic clock.
    pub at_ns: u64,
}

impl Call {
    /// The call and its answer, as in a trace.
    pub fn words(&self) -> String {
        match &self.answer {
            Some(answer) => format!("{} → {answer}", self.function),
            None => self.function.clone(),
        }
    }
}

/// The calls among sightings, on each node in order.
pub(super) fn of(sightings: &[&Sighting]) -> Vec<Call> {
    let mut calls: Vec<Call> = sightings.iter().filter_map(|sighting| call(sighting)).collect();
    calls.sort_by(|a, b| (&a.place.node, a.at_ns).cmp(&(&b.place.node, b.at_ns)));
    calls
}

fn call(sighting: &Sighting) -> Option<Call> {
    let Event::Called { function, answer } = &sighting.event else { return None };
    Some(Call {
        place: sighting.place.clone(),
        hook: sighting.hook,
        encapsulated: sighting.headers.as_ref().map(|headers| headers.outer.is_some()),
        function: function.clone(),
        answer: answer.clone(),
        at_ns: sighting.at_ns,
    })
}
