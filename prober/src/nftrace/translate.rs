//! From trace events to sightings.
//!
//! Only the first event of each base chain carries the packet's headers, so they are kept by the event's
//! packet id until the next packet has that id. The headers quote 20 bytes of transport header, which name
//! the marker of a plain packet but not of one inside a tunnel: that one is known by its outer addresses, source
//! port and IP identification once a tracepoint has seen the same packet, and its events wait until then.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use waymark_proto::{CheckId, Event, Headers, Hook, Marker, Metadata, Place, RuleRef, Sighting};

use super::event::{TraceEvent, TraceType, TracedPacket};
use super::identify::{Identity, OuterKey, identify};
use super::legacy::{self, Reports};
use super::passage::Passage;
use super::table::{Bracket, TABLE_PREFIX};
use crate::nflog::Logged;
use crate::xtrace::XtEvent;

/// Packets in flight that are remembered at most; a packet needs one place per hook.
const MAX_PACKETS: usize = 16384;

/// What the translator needs to know about armed checks, and where its sightings go.
pub trait Markers {
    /// The armed marker whose initial sequence number this is.
    fn by_isn(&self, isn: u32) -> Option<Marker>;
    /// Whether the marker's check is armed here.
    fn is_armed(&self, marker: Marker) -> bool;
    /// Whether the first bytes of the check's packets are wanted.
    fn are_captured(&self, check: CheckId) -> bool;
    /// A sighting.
    fn sighted(&mut self, sighting: Sighting);
    /// The time, in nanoseconds of the monotonic clock.
    fn now_ns(&self) -> u64;
}

/// What is known about a packet while it is in a hook.
struct Known {
    hook: Hook,
    device: Option<String>,
    identity: Identity,
    /// Its headers as the trace quotes them, if they are wanted.
    packet: Vec<u8>,
}

/// A sighting without its marker.
struct Waiting {
    hook: Hook,
    device: Option<String>,
    event: Event,
    at_ns: u64,
}

/// State of one namespace.
pub struct Translator {
    place: Place,
    /// The table whose chains are the brackets.
    table: String,
    devices: BTreeMap<u32, String>,
    packets: HashMap<u32, Arc<Known>>,
    /// Markers of encapsulated packets.
    outers: HashMap<OuterKey, (Marker, Headers)>,
    /// Sightings of encapsulated packets whose marker is not known yet.
    waiting: HashMap<OuterKey, Vec<Waiting>>,
    /// How many sightings wait, all together.
    waiting_count: usize,
    /// What legacy tables reported, where there are any.
    reports: Reports<Arc<Known>>,
    /// The passage that may go on.
    passage: Passage,
    /// Whether every rule that matches is told.
    every_rule: bool,
    /// Sightings given up for want of room since this was last asked.
    lost: u64,
}

impl Translator {
    /// A translator for the events of one namespace.
    pub fn new(place: Place, table: String, devices: BTreeMap<u32, String>) -> Self {
        Self {
            place,
            table,
            devices,
            packets: HashMap::new(),
            outers: HashMap::new(),
            waiting: HashMap::new(),
            waiting_count: 0,
            reports: Reports::default(),
            passage: Passage::default(),
            every_rule: false,
            lost: 0,
        }
    }

    /// Has every rule told that matches from now on, or only those that decide.
    pub fn tell_every_rule(&mut self, every_rule: bool) {
        self.every_rule = every_rule;
    }

    /// Takes a packet that came through the input hook.
    pub fn arrived(&mut self, logged: &Logged, markers: &mut dyn Markers) {
        let Some((network, transport)) = legacy::headers(&logged.packet) else { return };
        let &Logged { iif, oif, mark, .. } = logged;
        let packet = TracedPacket { network, transport, iif, oif, mark };
        let known = self.know(logged.hook, &packet, markers);
        self.happened(&known, logged.hook, Event::Passed, markers);
        self.passage.tell(markers);
    }

    /// Takes a report of a legacy table, which is told in its place among the events that come next.
    pub fn report(&mut self, report: &XtEvent, markers: &dyn Markers) {
        let Some((network, transport)) = legacy::headers(&report.packet) else { return };
        let (iif, oif, mark) = (report.iif, report.oif, report.mark);
        let packet = TracedPacket { network, transport, iif, oif, mark };
        if let Some(passing) = identify(&packet, markers).passing(report.hook) {
            self.lost += self.reports.add(passing, report, self.every_rule, MAX_PACKETS) as u64;
        }
    }

    /// Takes one event. What follows from the last ones may be held back until [`Translator::tell`].
    pub fn event(&mut self, event: &TraceEvent<'_>, markers: &mut dyn Markers) {
        let bracket = (event.table == self.table).then(|| Bracket::of_chain(&event.chain)).flatten();
        if event.family == "bridge" && bracket.is_some() {
            // It is only to be known which frame it is.
            if let Some(packet) = &event.packet {
                self.enter(event.id, Hook::Bridge, packet, markers);
            }
            return;
        }
        // Each bracket's first event carries the headers, whatever its kind; between the brackets NAT may
        // have changed them.
        if let Some(Bracket::First(hook) | Bracket::Last(hook)) = bracket
            && let Some(packet) = &event.packet
        {
            self.enter(event.id, hook, packet, markers);
        } else if let Some(packet) = &event.packet
            && !event.table.starts_with(TABLE_PREFIX)
            && !self.packets.contains_key(&event.id)
        {
            // The kernel moved it to a larger buffer, as it does with IPv6 in front of a tunnel, and so gave it another id.
            self.enter(event.id, stage(packet), packet, markers);
        }
        let what = match (bracket, event.kind) {
            (Some(Bracket::First(_)), TraceType::Policy) => Event::Entered,
            // The rule that set the trace bit is the last of its chain that is asked.
            (Some(Bracket::First(_)), TraceType::Rule) if event.verdict == "accept" => Event::Entered,
            (Some(Bracket::Last(_)), TraceType::Policy) => Event::Left,
            (None, TraceType::Rule | TraceType::Policy)
                if !event.table.starts_with(TABLE_PREFIX)
                    && (decides(&event.verdict) || (self.every_rule && event.handle.is_some())) =>
            {
                verdict(event)
            }
            // The end of a chain, which is no rule's doing; other tracers.
            _ => return,
        };
        let Some(known) = self.packets.get(&event.id).cloned() else { return };
        let (Some(hook), Some(passing)) = (hook_of(event, known.hook), known.identity.passing(known.hook))
        else {
            return;
        };
        match &what {
            Event::Entered => self.reports.entered(passing, known.clone(), MAX_PACKETS),
            Event::Verdict { verdict, .. } if verdict == "accept" => {}
            // Whoever sees it leave, or ends it in this hook, comes behind all legacy tables that saw it.
            _ if hook == passing.hook => {
                for verdict in self.reports.left(&passing) {
                    self.happened(&known, hook, verdict, markers);
                }
            }
            _ => {}
        }
        self.happened(&known, hook, what, markers);
    }

    /// Something happened to a packet.
    fn happened(&mut self, known: &Known, hook: Hook, what: Event, markers: &mut dyn Markers) {
        let (device, at_ns) = (known.device.clone(), markers.now_ns());
        let found = match &known.identity {
            Identity::Marked(marker, headers) => Some((*marker, headers.as_ref().clone())),
            Identity::Inside(key) => self.outers.get(key).cloned(),
            Identity::Foreign => return,
        };
        if let Some((marker, headers)) = found {
            let packet = known.packet.clone();
            let sighting =
                Sighting { packet, ..self.sighting(marker, hook, device, what, at_ns, Some(headers)) };
            if self.every_rule {
                markers.sighted(sighting);
            } else {
                self.passage.take(sighting, markers);
            }
        } else if let Identity::Inside(key) = &known.identity {
            let waiting = Waiting { hook, device, event: what, at_ns };
            self.wait(*key, waiting);
        }
    }

    /// Tells what follows from all events and reports so far.
    pub fn tell(&mut self, markers: &mut dyn Markers) {
        for (known, verdicts) in self.reports.take_open() {
            for verdict in verdicts {
                self.happened(&known, known.hook, verdict, markers);
            }
        }
        self.passage.tell(markers);
    }

    fn wait(&mut self, key: OuterKey, waiting: Waiting) {
        if self.waiting_count >= MAX_PACKETS {
            self.lost += self.waiting_count as u64;
            self.waiting.clear();
            self.waiting_count = 0;
        }
        self.waiting_count += 1;
        self.waiting.entry(key).or_default().push(waiting);
    }

    /// How many sightings were given up since this was last asked.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// A tracepoint saw which marker is inside an encapsulated packet.
    pub fn learn_outer(&mut self, key: OuterKey, inner: &Sighting, markers: &mut dyn Markers) {
        let Some(headers) = &inner.headers else { return };
        let waiting = self.waiting.remove(&key).unwrap_or_default();
        self.waiting_count -= waiting.len();
        for Waiting { hook, device, event, at_ns } in waiting {
            let sighting = self.sighting(inner.marker, hook, device, event, at_ns, Some(headers.clone()));
            self.passage.take(sighting, markers);
        }
        self.passage.tell(markers);
        if self.outers.len() >= MAX_PACKETS {
            self.outers.clear();
        }
        self.outers.insert(key, (inner.marker, headers.clone()));
    }

    fn enter(&mut self, id: u32, hook: Hook, packet: &TracedPacket<'_>, markers: &dyn Markers) {
        if self.packets.len() >= MAX_PACKETS {
            // Most of them are long gone, but one may be in the middle of a hook.
            self.lost += 1;
            self.packets.clear();
        }
        self.packets.insert(id, Arc::new(self.know(hook, packet, markers)));
    }

    fn know(&self, hook: Hook, packet: &TracedPacket<'_>, markers: &dyn Markers) -> Known {
        let identity = identify(packet, markers);
        let is_captured =
            matches!(identity, Identity::Marked(marker, _) if markers.are_captured(marker.check));
        let bytes = if is_captured { [packet.network, packet.transport].concat() } else { Vec::new() };
        let index = match hook {
            Hook::NetfilterOutput | Hook::NetfilterPostrouting => packet.oif,
            _ => packet.iif,
        };
        let device =
            index.map(|index| self.devices.get(&index).cloned().unwrap_or_else(|| format!("if{index}")));
        Known { hook, device, identity, packet: bytes }
    }

    fn sighting(
        &self,
        marker: Marker,
        hook: Hook,
        device: Option<String>,
        event: Event,
        at_ns: u64,
        headers: Option<Headers>,
    ) -> Sighting {
        let (place, packet) = (self.place.clone(), Vec::new());
        let metadata = Metadata::default();
        Sighting {
            place,
            at_ns,
            marker,
            hook,
            device,
            event,
            fragment_offset: 0,
            headers,
            metadata,
            identity: 0,
            buffer: 0,
            packet,
        }
    }
}

/// The hook that a packet may be in, by the devices that are known there.
fn stage(packet: &TracedPacket<'_>) -> Hook {
    match (packet.iif, packet.oif) {
        (Some(_), None) => Hook::NetfilterPrerouting,
        (Some(_), Some(_)) => Hook::NetfilterForward,
        (None, _) => Hook::NetfilterPostrouting,
    }
}

/// The hook that an event is of, given the hook that the packet was in last. The trace bit stays with the
/// packet, so chains of other families report too: of those only the end of a packet is of interest.
fn hook_of(event: &TraceEvent<'_>, last: Hook) -> Option<Hook> {
    let ends = matches!(&*event.verdict, "drop" | "queue" | "stolen");
    match event.family {
        "bridge" => ends.then_some(Hook::Bridge),
        // Egress chains come before the queue, ingress chains behind the reception.
        "netdev" if matches!(last, Hook::NetfilterOutput | Hook::NetfilterPostrouting | Hook::Bridge) => {
            ends.then_some(Hook::Qdisc)
        }
        "netdev" => ends.then_some(Hook::DriverRx),
        _ => Some(last),
    }
}

/// Whether a verdict decides on the packet in its chain's hook. Others lead from rule to rule, which is most of what
/// a Service's rules do, and the last of them says all that they say.
fn decides(verdict: &str) -> bool {
    let word = verdict.split_whitespace().next().unwrap_or_default();
    !matches!(word, "continue" | "break" | "jump" | "goto" | "return")
}

fn verdict(event: &TraceEvent<'_>) -> Event {
    let rule = RuleRef {
        family: event.family.to_owned(),
        table: event.table.clone().into_owned(),
        chain: event.chain.clone().into_owned(),
        handle: event.handle,
        position: None,
        text: None,
    };
    Event::Verdict { rule, verdict: event.verdict.clone().into_owned() }
}

#[cfg(test)]
mod tests {
    use waymark_proto::Seq;

    use super::*;

    const ISN: u32 = 7;

    /// One armed marker, and what is told of it.
    #[derive(Default)]
    struct Told(Vec<Sighting>);

    impl Markers for Told {
        fn by_isn(&self, isn: u32) -> Option<Marker> {
            let check = CheckId::new(1)?;
            (isn == ISN).then_some(Marker { check, seq: Seq(0) })
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

    /// A rule of an egress chain drops an IPv6 SYN that was traced under another id before.
    #[test]
    fn a_packet_that_was_moved_to_a_larger_buffer_is_known_by_its_headers() {
        let mut network = [0; 40];
        (network[0], network[6]) = (0x60, 6);
        let mut transport = [0; 20];
        transport[4..8].copy_from_slice(&ISN.to_be_bytes());
        let packet = |network, iif, oif| TracedPacket { network, transport: &transport, iif, oif, mark: 0 };
        let place = Place::new("node1", "node1");
        let mut translator = Translator::new(
            place,
            "waymark_1_0".into(),
            [(2, "cni0".into()), (3, "flannel.1".into())].into(),
        );
        let mut told = Told::default();
        let mut event =
            |id, family, table: &'static str, chain: &'static str, verdict: &'static str, packet| {
                let (table, chain, verdict) = (table.into(), chain.into(), verdict.into());
                let kind = TraceType::Rule;
                let event = TraceEvent { id, kind, family, table, chain, handle: Some(2), verdict, packet };
                translator.event(&event, &mut told);
            };
        let forward = packet(&network, Some(2), Some(3));
        event(10, "inet", "waymark_1_0", "forward-first", "accept", Some(forward));
        event(11, "netdev", "t", "drops", "drop", Some(packet(&network, None, Some(3))));
        // Of what nobody knows nothing is told.
        event(12, "netdev", "t", "drops", "drop", Some(packet(&[0; 40], None, Some(3))));
        event(13, "netdev", "t", "drops", "drop", None);
        let [entered, dropped] = &told.0[..] else { panic!("{:?}", told.0) };
        assert_eq!((entered.hook, &entered.event), (Hook::NetfilterForward, &Event::Entered));
        assert_eq!((dropped.hook, dropped.device.as_deref()), (Hook::Qdisc, Some("flannel.1")));
        assert!(matches!(&dropped.event, Event::Verdict { verdict, .. } if verdict == "drop"));
    }
}
