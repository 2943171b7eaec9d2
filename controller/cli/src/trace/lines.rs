//! What a trace tells, as lines of text: one for each time that a packet is seen.
//!
//! ```text
//!   #1  pod/shop/cart      0 µs  driver-tx eth0      tcp 10.244.1.10:40022 → 10.244.2.10:80 S  ttl 64  60 bytes
//!   #1  node/node1        14 µs  driver-rx veth1f03
//! ```
//!
//! Times are since the node saw the packet first: clocks of nodes differ. Headers are shown where they are not what they were
//! where the node saw the packet before.

use std::collections::HashMap;

use waymark_controller::live::{Because, Blind, Told};
use waymark_proto::{Event, Headers, Losses, NodeName, Protocol, Sighting, Text};

use crate::render::Paint;

pub(super) struct Lines {
    paint: Paint,
    /// What each node knows of each packet.
    known: HashMap<(NodeName, u32), Known>,
}

/// When a packet was seen first, and how it looked when it was seen last.
struct Known {
    first_ns: u64,
    headers: String,
}

impl Lines {
    pub(super) fn new(paint: Paint) -> Self {
        Self { paint, known: HashMap::new() }
    }

    /// The lines of one thing that is told.
    pub(super) fn of(&mut self, told: &Told) -> String {
        match told {
            Told::Begun { nodes, blind, notes } => {
                let begun = self.paint.faint(&format!("looking on {}", listed(nodes)));
                let blind = blind.iter().map(|Blind { nodes, hook, why }| {
                    let why = self.paint.say(why);
                    self.paint.faint(&format!("not seen on {}: {hook} ({why})", listed(nodes))) + "\n"
                });
                format!("{begun}\n{}{}", blind.collect::<String>(), self.notes(notes))
            }
            Told::Sighted { number, object, sighting } => self.sighted(*number, object, sighting),
            Told::Ended { because, packets, dropped, sightings, losses, notes } => {
                let because = match because {
                    Because::Time => "the time is over",
                    Because::Packets => "a node has picked as many packets as it may",
                    Because::Agents => "no agent looks any more",
                };
                let packets = counted(u64::from(*packets), "packet");
                let seen = counted(*sightings, "sighting");
                let dropped = match dropped {
                    0 => "no drop was seen".to_owned(),
                    dropped => self.paint.bad(&format!("{dropped} of them dropped")),
                };
                format!(
                    "{packets}, {dropped}; {seen}; {because}\n{}{}",
                    self.losses(losses),
                    self.notes(notes)
                )
            }
        }
    }

    fn sighted(&mut self, packet: u32, object: &str, sighting: &Sighting) -> String {
        let key = (sighting.place.node.clone(), packet);
        let known =
            self.known.entry(key).or_insert(Known { first_ns: sighting.at_ns, headers: String::new() });
        let since = format!("{} µs", sighting.at_ns.saturating_sub(known.first_ns) / 1000);
        let headers = sighting.headers.as_ref().map_or_else(|| "known by its buffer".to_owned(), words);
        let headers = if headers == known.headers { String::new() } else { headers };
        if !headers.is_empty() {
            known.headers.clone_from(&headers);
        }
        let (event, paint) = (self.event(sighting), self.paint);
        let mut line = format!("{:>5}  {object:<24} {since:>9}  {event}", format!("#{packet}"));
        if !headers.is_empty() {
            line += &paint.faint(&format!("  {headers}"));
        }
        line.push('\n');
        line
    }

    /// At which hook it is, and what happened to it there.
    fn event(&self, sighting: &Sighting) -> String {
        let device = sighting.device.as_deref().map(|device| format!(" {device}")).unwrap_or_default();
        let hook = sighting.hook;
        match &sighting.event {
            Event::Dropped { reason, function } => {
                let reason = reason.as_deref().unwrap_or("no reason given");
                self.paint.bad(&format!("✗ dropped by {function} ({reason}){device}"))
            }
            Event::Consumed { function: Some(function) } => format!("used up by {function}"),
            Event::Consumed { function: None } => "used up".to_owned(),
            Event::Transmitted { code } => {
                self.paint.odd(&format!("{hook}{device}: the driver answered {code}"))
            }
            Event::Called { function, answer: Some(answer) } => format!("{hook}: {function} = {answer}"),
            Event::Called { function, answer: None } => format!("{hook}: {function}"),
            Event::Arrived => format!("{hook}{device}, on its way in"),
            Event::Seen | Event::Entered | Event::Left | Event::Passed => format!("{hook}{device}"),
            Event::Verdict { rule, verdict } => format!("{hook}: {verdict} by {rule}"),
        }
    }

    fn losses(&self, losses: &Losses) -> String {
        if losses.total() == 0 {
            return String::new();
        }
        let Losses { ring_full, trace_overruns, follow_full, out_of_reach } = losses;
        let words = format!(
            "not all was told: {ring_full} sightings and {trace_overruns} messages found no room, {follow_full} buffers were not followed, {out_of_reach} packets could not be read"
        );
        self.paint.odd(&words) + "\n"
    }

    fn notes(&self, notes: &[Text]) -> String {
        notes.iter().map(|note| self.paint.odd(&self.paint.say(note)) + "\n").collect()
    }
}

fn listed(nodes: &[NodeName]) -> String {
    nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}

fn counted(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn words(headers: &Headers) -> String {
    let Headers { flow, ttl, len, outer, mark, .. } = headers;
    let flags =
        if flow.protocol == Protocol::Tcp { format!(" {}", flags(headers.tcp_flags)) } else { String::new() };
    let mark = if *mark == 0 { String::new() } else { format!("  mark {mark:#x}") };
    let around = outer.as_ref().map(|outer| {
        let vni = outer.vni.map(|vni| format!(" {vni}")).unwrap_or_default();
        format!("  in {}{vni} {} → {}", outer.kind, outer.src, outer.dst)
    });
    format!("{flow}{flags}  ttl {ttl}  {len} bytes{mark}{}", around.unwrap_or_default())
}

/// As tcpdump has them, without brackets: `S`, `S.`, `P.`, `R`.
fn flags(flags: u8) -> String {
    let known = [
        (0x01, 'F'),
        (0x02, 'S'),
        (0x04, 'R'),
        (0x08, 'P'),
        (0x10, '.'),
        (0x20, 'U'),
        (0x40, 'E'),
        (0x80, 'W'),
    ];
    let set: String = known.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| *letter).collect();
    if set.is_empty() { "none".to_owned() } else { set }
}

#[cfg(test)]
mod tests {
    use waymark_proto::{CheckId, Flow, Hook, Marker, Match, Metadata, Outer, Place, Seq};

    use super::*;

    fn headers(ttl: u8, outer: Option<Outer>) -> Headers {
        let (src, dst) = ("10.244.1.10".parse().unwrap(), "10.244.2.10".parse().unwrap());
        let flow = Flow { src, dst, protocol: Protocol::Tcp, src_port: 40022, dst_port: 80 };
        Headers { flow, matched: Match::Filter, ttl, len: 60, ip_id: 1, tcp_flags: 0x12, mark: 0, outer }
    }

    fn sighted(node: &str, object: &str, at_ns: u64, event: Event, headers: Option<Headers>) -> Told {
        let sighting = Sighting {
            place: Place::new(node, "netns"),
            at_ns,
            marker: Marker { check: CheckId::new(1).unwrap(), seq: Seq(77) },
            hook: Hook::DriverTx,
            device: Some("eth0".to_owned()),
            event,
            fragment_offset: 0,
            headers,
            metadata: Metadata::default(),
            identity: 5,
            buffer: 1,
            packet: Vec::new(),
        };
        Told::Sighted { number: 1, object: object.to_owned(), sighting: Box::new(sighting) }
    }

    #[test]
    fn headers_are_shown_where_they_change() {
        let tunnel = Outer {
            kind: "vxlan".to_owned(),
            src: "172.18.0.11".parse().unwrap(),
            dst: "172.18.0.12".parse().unwrap(),
            vni: Some(1),
        };
        let drop =
            Event::Dropped { reason: Some("NETFILTER_DROP".into()), function: "nft_do_chain+0x1".into() };
        let told = [
            Told::Begun {
                nodes: vec!["node1".into(), "node2".into()],
                blind: vec![Blind {
                    nodes: vec!["node2".into()],
                    hook: Hook::Bridge,
                    why: Text::verbatim("nobody tells".to_owned()),
                }],
                notes: Vec::new(),
            },
            sighted("node1", "pod/shop/cart", 5_000, Event::Seen, Some(headers(64, None))),
            sighted("node1", "node/node1", 19_000, Event::Seen, Some(headers(64, None))),
            sighted("node1", "node/node1", 25_000, Event::Seen, Some(headers(63, Some(tunnel)))),
            sighted("node2", "node/node2", 900, Event::Seen, Some(headers(63, None))),
            sighted("node2", "node/node2", 1_900, drop, None),
            Told::Ended {
                because: Because::Time,
                packets: 1,
                dropped: 1,
                sightings: 5,
                losses: Losses { ring_full: 2, ..Losses::default() },
                notes: Vec::new(),
            },
        ];
        let mut lines = Lines::new(Paint::new(false));
        let text: String = told.iter().map(|told| lines.of(told)).collect();
        let flow = "tcp 10.244.1.10:40022 → 10.244.2.10:80 S.";
        let expected = [
            "looking on node1, node2".to_owned(),
            "not seen on node2: bridge (nobody tells)".to_owned(),
            format!("   #1  pod/shop/cart                 0 µs  driver-tx eth0  {flow}  ttl 64  60 bytes"),
            "   #1  node/node1                   14 µs  driver-tx eth0".to_owned(),
            format!("   #1  node/node1                   20 µs  driver-tx eth0  {flow}  ttl 63  60 bytes  in vxlan 1 172.18.0.11 → 172.18.0.12"),
            format!("   #1  node/node2                    0 µs  driver-tx eth0  {flow}  ttl 63  60 bytes"),
            "   #1  node/node2                    1 µs  ✗ dropped by nft_do_chain+0x1 (NETFILTER_DROP) eth0  known by its buffer".to_owned(),
            "1 packet, 1 of them dropped; 5 sightings; the time is over".to_owned(),
            "not all was told: 2 sightings and 0 messages found no room, 0 buffers were not followed, 0 packets could not be read".to_owned(),
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
