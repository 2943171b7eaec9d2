//! Connection tracking: what lets answers find their way back through address translation.
//!
//! One table per namespace; it begins empty with every prediction, since the marked packets are of
//! connections of their own.

use std::net::IpAddr;

use smallvec::SmallVec;
use waymark_proto::{Flow, Protocol};

use crate::packet::Packet;

/// A connection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Connection {
    /// As the first packet came.
    pub(crate) original: Flow,
    /// As the answer comes.
    pub(crate) reply: Flow,
    pub(crate) source_nat: bool,
    pub(crate) destination_nat: bool,
    /// Which translations are settled: source, destination (`IPS_SRC_NAT_DONE`, `IPS_DST_NAT_DONE`). Rules are asked for
    /// the others.
    pub(crate) settled: [bool; 2],
    pub(crate) mark: u32,
    /// Whether an answer was seen.
    pub(crate) answered: bool,
}

/// The connection of a packet.
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) enum Tracking {
    /// Not looked up yet.
    #[default]
    None,
    /// Kept out on purpose.
    Untracked,
    /// Looked up, and an answer to nothing.
    Invalid,
    /// Part of a connection.
    Tracked {
        connection: Connection,
        /// Whether the packet goes against the first one.
        reply: bool,
        /// Whether the connection is in the table.
        confirmed: bool,
    },
}

/// The connections of a namespace.
pub(crate) type Table = SmallVec<[Connection; 1]>;

/// Looks a packet's connection up or begins one (`nf_conntrack_in`).
pub(crate) fn track(packet: &mut Packet, table: Option<&Table>) {
    if packet.tracking != Tracking::None {
        return;
    }
    let find = |reply: bool| {
        let flow = packet.flow;
        let known =
            table?.iter().find(|known| if reply { known.reply == flow } else { known.original == flow })?;
        let mut connection = known.clone();
        connection.answered |= reply;
        Some(Tracking::Tracked { connection, reply, confirmed: true })
    };
    // TCP's tracker refuses a SYN-ACK without a SYN, ICMP's a reply without a request.
    let begins = !packet.answer || packet.flow.protocol == Protocol::Udp;
    let fresh = Connection {
        original: packet.flow,
        reply: packet.flow.reversed(),
        source_nat: false,
        destination_nat: false,
        settled: [false, false],
        mark: 0,
        answered: false,
    };
    packet.tracking = find(true).or_else(|| find(false)).unwrap_or(if begins {
        Tracking::Tracked { connection: fresh, reply: false, confirmed: false }
    } else {
        Tracking::Invalid
    });
}

/// Which end of a packet a translation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

impl End {
    fn index(self) -> usize {
        match self {
            Self::Source => 0,
            Self::Destination => 1,
        }
    }
}

/// Whether rules are still to be asked for a translation of this end: of a connection that nobody answered
/// (`IP_CT_NEW` in `nf_nat_inet_fn`).
pub(crate) fn unsettled(packet: &Packet, end: End) -> bool {
    matches!(&packet.tracking, Tracking::Tracked { connection, reply: false, .. }
        if !connection.answered && !connection.settled[end.index()])
}

/// Settles a translation of one end (`nf_nat_setup_info`): to a new address and port, or none.
pub(crate) fn settle(packet: &mut Packet, end: End, to: Option<(IpAddr, u16)>) {
    let Tracking::Tracked { connection, .. } = &mut packet.tracking else { return };
    connection.settled[end.index()] = true;
    let Some((address, port)) = to else { return };
    // For echo, both ports of the flow hold the identifier. What stays the same is no translation.
    let reply = connection.reply;
    match end {
        End::Source => {
            connection.reply.dst = address;
            connection.reply.dst_port = port;
            connection.source_nat |= connection.reply != reply;
        }
        End::Destination => {
            connection.reply.src = address;
            connection.reply.src_port = port;
            connection.destination_nat |= connection.reply != reply;
        }
    }
}

/// Rewrites one end of a packet as its connection says (`nf_nat_packet`).
pub(crate) fn translate(packet: &mut Packet, end: End) {
    let Tracking::Tracked { connection, reply, .. } = &packet.tracking else { return };
    // An answer undoes at the destination end what was done at the source end, and the reverse.
    let done = match (end, reply) {
        (End::Source, false) | (End::Destination, true) => connection.source_nat,
        (End::Destination, false) | (End::Source, true) => connection.destination_nat,
    };
    if !done {
        return;
    }
    let target = if *reply { connection.original.reversed() } else { connection.reply.reversed() };
    match end {
        End::Source => {
            packet.flow.src = target.src;
            packet.flow.src_port = target.src_port;
        }
        End::Destination => {
            packet.flow.dst = target.dst;
            packet.flow.dst_port = target.dst_port;
        }
    }
}

/// Enters the packet's connection into the table, or updates it there (`nf_confirm`).
pub(crate) fn confirm(packet: &mut Packet, table: &mut Table) {
    let Tracking::Tracked { connection, confirmed, .. } = &mut packet.tracking else { return };
    *confirmed = true;
    match table.iter_mut().find(|known| known.original == connection.original) {
        Some(known) => *known = connection.clone(),
        None => table.push(connection.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(src: &str, dst: &str, dst_port: u16) -> Flow {
        let [src, dst] = [src, dst].map(|ip| ip.parse().unwrap());
        Flow { src, dst, protocol: Protocol::Tcp, src_port: 4000, dst_port }
    }

    #[test]
    fn an_answer_is_translated_back() {
        let mut table = Table::new();
        let mut packet = Packet::new(flow("10.0.0.1", "10.96.0.1", 80), false);
        track(&mut packet, Some(&table));
        settle(&mut packet, End::Destination, Some(("10.0.0.9".parse().unwrap(), 8080)));
        translate(&mut packet, End::Destination);
        settle(&mut packet, End::Source, Some(("10.0.0.254".parse().unwrap(), 4000)));
        translate(&mut packet, End::Source);
        assert_eq!(packet.flow, flow("10.0.0.254", "10.0.0.9", 8080));
        confirm(&mut packet, &mut table);

        let mut answer = Packet::new(packet.flow.reversed(), true);
        track(&mut answer, Some(&table));
        translate(&mut answer, End::Destination);
        assert_eq!(answer.flow.dst, "10.0.0.1".parse::<IpAddr>().unwrap());
        translate(&mut answer, End::Source);
        assert_eq!(answer.flow, flow("10.0.0.1", "10.96.0.1", 80).reversed());
    }

    #[test]
    fn an_answer_to_nothing_is_invalid() {
        let mut answer = Packet::new(flow("10.0.0.1", "10.0.0.2", 80), true);
        track(&mut answer, None);
        assert_eq!(answer.tracking, Tracking::Invalid);
    }
}
