//! Which way a sighting goes: with the packet, with its answer, or with an error about it.

use std::cmp::Reverse;
use std::collections::HashMap;

use waymark_proto::{Direction, Event, Headers, Hook, Match, NodeName, Place, Protocol, Seq, Sighting};

use super::Lens;

/// TCP flags.
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// The sightings of one packet by what they are about.
#[derive(Default)]
pub(super) struct Split<'a> {
    pub(super) forward: Vec<&'a Sighting>,
    pub(super) back: Vec<&'a Sighting>,
    /// TCP resets in answer.
    pub(super) resets: Vec<&'a Sighting>,
    /// ICMP errors about the packet.
    pub(super) errors: Vec<&'a Sighting>,
}

impl Split<'_> {
    /// The namespace that sent the reset: where its TTL was highest, and there the first that saw it.
    pub(super) fn origin_of_reset(&self) -> Option<Place> {
        let ttl = |sighting: &Sighting| sighting.headers.as_ref().map_or(0, |headers| headers.ttl);
        let first = self.resets.iter().min_by_key(|sighting| (Reverse(ttl(sighting)), sighting.at_ns));
        first.map(|sighting| sighting.place.clone())
    }
}

#[derive(Clone, Copy)]
enum Class {
    Way(Direction),
    Reset,
    Error,
    /// The sender's own reset of a connection that it never wanted.
    Aftermath,
}

pub(super) fn split<'a>(seq: Seq, sightings: &[&'a Sighting], lens: &Lens<'_>) -> Split<'a> {
    let mut ordered = sightings.to_vec();
    ordered.sort_by(|a, b| (&a.place.node, a.at_ns).cmp(&(&b.place.node, b.at_ns)));
    let mut split = Split::default();
    // A sighting that knows the buffer alone goes the way that this buffer last went on this node. Once the
    // packet left the node or was freed, the kernel gives its buffer to other packets.
    let mut buffers: HashMap<(&NodeName, u64), Option<Class>> = HashMap::new();
    for sighting in ordered {
        let key = (&sighting.place.node, sighting.buffer);
        let readable = sighting.headers.as_ref().filter(|headers| headers.matched != Match::Buffer);
        let class = match readable {
            Some(headers) => Some(classify(seq, headers, lens)),
            None => buffers.get(&key).copied().unwrap_or(Some(Class::Way(Direction::Forward))),
        };
        // A driver answers when the buffer may be gone already.
        if sighting.buffer != 0 && !matches!(sighting.event, Event::Transmitted { .. }) {
            buffers.insert(key, class.filter(|_| !is_last(sighting, lens)));
        }
        let Some(class) = class else { continue };
        match class {
            Class::Way(Direction::Forward) => split.forward.push(sighting),
            Class::Way(Direction::Return) => split.back.push(sighting),
            Class::Reset => split.resets.push(sighting),
            Class::Error => split.errors.push(sighting),
            Class::Aftermath => {}
        }
    }
    split
}

/// Whether a buffer holds its packet no longer after this.
fn is_last(sighting: &Sighting, lens: &Lens<'_>) -> bool {
    let uplink = || {
        lens.inventory
            .node(&sighting.place.node)
            .filter(|node| node.place() == sighting.place)?
            .uplink
            .clone()
    };
    match sighting.event {
        Event::Dropped { .. } | Event::Consumed { .. } => true,
        Event::Seen => {
            sighting.hook == Hook::DriverTx && sighting.device.is_some() && sighting.device == uplink()
        }
        Event::Arrived
        | Event::Transmitted { .. }
        | Event::Entered
        | Event::Left
        | Event::Passed
        | Event::Verdict { .. }
        | Event::Called { .. } => false,
    }
}

fn classify(seq: Seq, headers: &Headers, lens: &Lens<'_>) -> Class {
    match headers.matched {
        Match::TcpSeq if headers.tcp_flags & RST != 0 => Class::Aftermath,
        Match::TcpAck if headers.tcp_flags & (RST | SYN) == RST => Class::Reset,
        // Who has a connection with these ends already answers a SYN that does not belong to it with what it waits for
        // (RFC 5961), which may be what another packet of this check began. What answers a SYN is one, too.
        Match::TcpAck if headers.tcp_flags & SYN == 0 => Class::Aftermath,
        Match::TcpAck | Match::EchoReply => Class::Way(Direction::Return),
        Match::Quoted => Class::Error,
        Match::Tag if headers.flow.protocol == Protocol::Udp => Class::Way(udp(seq, headers, lens)),
        Match::Tag | Match::TcpSeq | Match::Buffer | Match::Filter => Class::Way(Direction::Forward),
    }
}

/// A UDP answer carries the same tag: addresses and ports tell it from the question. Translation may change
/// either end on the way, so one end that fits suffices.
fn udp(seq: Seq, headers: &Headers, lens: &Lens<'_>) -> Direction {
    let flow = &headers.flow;
    let port = lens.source_ports.get(&seq).copied().unwrap_or(lens.flow.src_port);
    let sender = |ip, number| ip == lens.flow.src && number == port;
    let receiver = |ip, number| lens.receivers.contains(&(ip, number));
    if sender(flow.src, flow.src_port) || receiver(flow.dst, flow.dst_port) {
        Direction::Forward
    } else if sender(flow.dst, flow.dst_port) || receiver(flow.src, flow.src_port) || flow.dst_port == port {
        Direction::Return
    } else {
        Direction::Forward
    }
}
