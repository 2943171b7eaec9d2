//! A packet on its way, as far as its headers and its kernel metadata decide where it goes.

use waymark_proto::{Flow, Protocol};

use crate::conntrack::Tracking;

/// TTL and hop limit of an injected packet (`net.ipv4.ip_default_ttl`).
pub(crate) const INITIAL_TTL: u8 = 64;

/// A packet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packet {
    pub(crate) flow: Flow,
    /// A SYN-ACK, echo reply or UDP answer, not the packet that asks.
    pub(crate) answer: bool,
    pub(crate) ttl: u8,
    /// The code point that it is sent with.
    pub(crate) dscp: u8,
    /// IP length in bytes, the header included, where it is known.
    pub(crate) len: Option<u16>,
    /// `skb->mark`.
    pub(crate) mark: u32,
    /// Link-layer destination, as `aa:bb:cc:dd:ee:ff`, where it is known.
    pub(crate) mac: Option<String>,
    /// Its connection in the namespace where it is (`skb->_nfct`).
    pub(crate) tracking: Tracking,
}

impl Packet {
    /// A packet as it is sent.
    pub(crate) fn new(flow: Flow, answer: bool) -> Self {
        Self {
            flow,
            answer,
            ttl: INITIAL_TTL,
            dscp: 0,
            len: None,
            mark: 0,
            mac: None,
            tracking: Tracking::None,
        }
    }

    /// SYN, or SYN and ACK; `None` if it is not TCP.
    pub(crate) fn tcp_flags(&self) -> Option<u64> {
        let flags = if self.answer { 0b1_0010 } else { 0b0_0010 };
        (self.flow.protocol == Protocol::Tcp).then_some(flags)
    }

    /// Echo request or reply of its family; `None` if it is not ICMP.
    pub(crate) fn icmp_type(&self) -> Option<u64> {
        let kind = match (self.flow.is_ipv6(), self.answer) {
            (false, false) => 8,
            (false, true) => 0,
            (true, false) => 128,
            (true, true) => 129,
        };
        (self.flow.protocol == Protocol::Icmp).then_some(kind)
    }

    /// What is left of the metadata behind a device of another namespace (`skb_scrub_packet`).
    pub(crate) fn scrub(&mut self, other_namespace: bool) {
        self.tracking = Tracking::None;
        if other_namespace {
            self.mark = 0;
        }
    }
}
