//! Packets.

use proptest::prelude::*;
use proptest::sample::select;
use serde::{Deserialize, Serialize};
use waymark_proto::Protocol;

use super::pool::{self, NODE, SENDER, Spot};

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum From {
    /// The host in front of the node.
    Sender,
    /// The node itself.
    Node,
}

/// A packet that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sending {
    /// Who sends it.
    pub from: From,
    /// IPv6, or else IPv4.
    pub ipv6: bool,
    /// Its source.
    pub src: Spot,
    /// Its destination.
    pub dst: Spot,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its destination port.
    pub dst_port: u16,
    /// Its TTL or hop limit.
    pub ttl: u8,
    /// Its code point.
    pub dscp: u8,
}

pub(super) fn sending() -> impl Strategy<Value = Sending> {
    let protocol = select(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Icmp][..]);
    let from = prop_oneof![3 => Just(From::Sender), 1 => Just(From::Node)];
    let ttl = prop_oneof![20 => Just(64u8), 1 => 1..3u8];
    let dscp = prop_oneof![10 => Just(0u8), 1 => Just(4u8)];
    (from, any::<bool>(), 0..4usize, pool::destination(), protocol, pool::port(), ttl, dscp).prop_map(
        |(from, ipv6, src, dst, protocol, dst_port, ttl, dscp)| {
            let own = if from == From::Sender { SENDER } else { NODE };
            Sending { from, ipv6, src: own[src], dst, protocol, dst_port, ttl, dscp }
        },
    )
}
