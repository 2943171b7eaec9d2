//! Passages through netfilter hooks, each as one sighting where nothing came of it.
//!
//! Most packets come out of most hooks as they went in. Whoever let them pass then does not matter, and three or more
//! sightings of each hook are most of what a check's packets leave behind.

use waymark_proto::{Event, Sighting};

use super::translate::Markers;

/// What was seen of a passage that may go on: that the packet entered, and who accepted it.
#[derive(Default)]
pub(super) struct Passage(Vec<Sighting>);

impl Passage {
    /// Takes the next sighting of the namespace. Those of one passage follow each other; when others come between,
    /// nothing is left out.
    pub(super) fn take(&mut self, sighting: Sighting, markers: &mut dyn Markers) {
        let begun = self.0.first();
        let goes_on = begun.is_some_and(|entered| is_of_one_packet(entered, &sighting));
        match &sighting.event {
            Event::Left if goes_on => {
                self.0.clear();
                markers.sighted(Sighting { event: Event::Passed, ..sighting });
            }
            Event::Verdict { verdict, .. } if goes_on && verdict == "accept" => self.0.push(sighting),
            Event::Entered => {
                self.tell(markers);
                self.0.push(sighting);
            }
            _ => {
                self.tell(markers);
                markers.sighted(sighting);
            }
        }
    }

    /// Tells all that is held back.
    pub(super) fn tell(&mut self, markers: &mut dyn Markers) {
        for sighting in self.0.drain(..) {
            markers.sighted(sighting);
        }
    }
}

/// Whether two sightings are of one packet in one hook, which has not changed between them.
fn is_of_one_packet(one: &Sighting, other: &Sighting) -> bool {
    (one.marker, one.hook) == (other.marker, other.hook)
        && one.device == other.device
        && one.headers == other.headers
}

#[cfg(test)]
mod tests {
    use waymark_proto::{CheckId, Flow, Headers, Hook, Marker, Match, Place, Protocol, RuleRef, Seq};

    use super::*;

    /// What is told.
    #[derive(Default)]
    struct Told(Vec<Sighting>);

    impl Markers for Told {
        fn by_isn(&self, _: u32) -> Option<Marker> {
            None
        }
        fn is_armed(&self, _: Marker) -> bool {
            true
        }
        fn are_captured(&self, _: CheckId) -> bool {
            false
        }
        fn sighted(&mut self, sighting: Sighting) {
            self.0.push(sighting);
        }
        fn now_ns(&self) -> u64 {
            0
        }
    }

    fn sighting(seq: u32, hook: Hook, event: Event) -> Sighting {
        let flow = Flow {
            src: [10, 1, 1, 2].into(),
            dst: [10, 1, 2, 2].into(),
            protocol: Protocol::Tcp,
            src_port: 40_000,
            dst_port: 80,
        };
        let matched = Match::TcpSeq;
        let headers =
            Headers { flow, matched, ttl: 64, len: 40, ip_id: 0, tcp_flags: 2, mark: 0, outer: None };
        Sighting {
            place: Place::new("node1", "node1"),
            at_ns: 0,
            marker: Marker { check: CheckId::new(7).unwrap(), seq: Seq(seq) },
            hook,
            device: Some("cni0".into()),
            event,
            fragment_offset: 0,
            headers: Some(headers),
            identity: 0,
            buffer: 0,
            packet: Vec::new(),
            metadata: waymark_proto::Metadata::default(),
        }
    }

    fn verdict(word: &str) -> Event {
        let rule = RuleRef {
            family: "ip".into(),
            table: "filter".into(),
            chain: "FORWARD".into(),
            handle: Some(4),
            position: None,
            text: None,
        };
        Event::Verdict { rule, verdict: word.into() }
    }

    fn told(sightings: Vec<Sighting>) -> Vec<Sighting> {
        let (mut passage, mut told) = (Passage::default(), Told::default());
        for sighting in sightings {
            passage.take(sighting, &mut told);
        }
        passage.tell(&mut told);
        told.0
    }

    const HOOK: Hook = Hook::NetfilterForward;

    #[test]
    fn a_packet_that_comes_out_as_it_went_in_has_passed() {
        let all = [Event::Entered, verdict("accept"), Event::Left].map(|event| sighting(0, HOOK, event));
        assert_eq!(told(all.into()), [sighting(0, HOOK, Event::Passed)]);
    }

    #[test]
    fn what_became_of_others_is_told_in_full() {
        let dies = [Event::Entered, verdict("accept"), verdict("drop")].map(|event| sighting(0, HOOK, event));
        let mut rewritten =
            [Event::Entered, verdict("accept"), Event::Left].map(|event| sighting(0, HOOK, event));
        if let Some(headers) = &mut rewritten[2].headers {
            headers.flow.dst_port = 8080;
        }
        let mut marked = [Event::Entered, Event::Left].map(|event| sighting(0, HOOK, event));
        if let Some(headers) = &mut marked[1].headers {
            headers.mark = 0x4000;
        }
        for all in [dies.to_vec(), rewritten.to_vec(), marked.to_vec()] {
            assert_eq!(told(all.clone()), all);
        }
    }

    #[test]
    fn passages_at_the_same_time_are_not_taken_for_one() {
        let event = |seq, event| sighting(seq, HOOK, event);
        let between = vec![event(0, Event::Entered), event(1, Event::Entered), event(0, Event::Left)];
        assert_eq!(told(between.clone()), between);
        // The first copy of a packet died, the second passed.
        let copies = vec![event(0, Event::Entered), event(0, Event::Entered), event(0, Event::Left)];
        assert_eq!(told(copies), [event(0, Event::Entered), event(0, Event::Passed)]);
    }
}
