//! Sightings: what the kernel reported about one marked packet at one hook.

use serde::{Deserialize, Serialize};

use crate::{Flow, Hook, Marker, Metadata, Outer, Place, RuleRef};

/// One record from the kernel: this marker, at this hook, at this time, with these headers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sighting {
    /// Node and namespace.
    #[serde(flatten)]
    pub place: Place,
    /// Nanoseconds of the node's monotonic clock.
    pub at_ns: u64,
    /// Which packet. An answer carries the marker of the packet that it answers.
    pub marker: Marker,
    /// Which hook.
    pub hook: Hook,
    /// The device, if the hook has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What happened.
    pub event: Event,
    /// Where in the packet a later fragment of it has its payload, in bytes. 0 for a whole packet and for the first fragment,
    /// which stands for the packet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fragment_offset: u16,
    /// The headers at that moment; of the inner packet if it is encapsulated. Absent when the packet was
    /// followed by its buffer alone. Of a later fragment, which has no transport header, ports and the like are those of the
    /// first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    /// What the kernel kept beside its bytes, as far as the provider tells.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
    /// Of a packet that nobody marked: a hash of what it keeps on its way, whatever translates, forwards or wraps it up, with the
    /// trace's key. Two that are alike (RFC 791's identification included) have the same. 0 of marked packets.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub identity: u64,
    /// The buffer that held it (`skb->head`); 0 where the provider does not know it.
    #[serde(default)]
    pub buffer: u64,
    /// Its first bytes, from the outermost IP header on. None where nobody asked for them, or they could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "base64")]
    pub packet: Vec<u8>,
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

impl Sighting {
    /// Whether it is of a fragment without transport header: a part of the packet, and no copy of it.
    pub fn is_later_fragment(&self) -> bool {
        self.fragment_offset != 0
    }
}

/// Bytes as text in JSON.
mod base64 {
    use ::base64::Engine;
    use ::base64::prelude::BASE64_STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        BASE64_STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// The verdict of a rule that a packet matched last, as far as was seen, where its provider does not say what the rule
/// does: its text tells.
pub const MATCHED: &str = "matched";

/// What a provider says about the packet at its hook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Event {
    /// It came by.
    Seen,
    /// It came by a device and waits for the stack, which reports it again, as [`Event::Seen`], when it takes it.
    Arrived,
    /// It entered a netfilter hook: the chain of first priority saw it.
    Entered,
    /// It left a netfilter hook alive: the chain of last priority saw it.
    Left,
    /// It entered a netfilter hook and left it as it was.
    Passed,
    /// A netfilter rule or a chain's policy gave a verdict.
    Verdict {
        /// The rule.
        rule: RuleRef,
        /// `accept`, `drop`, `jump NAME`, `goto NAME`, `return`, `continue`, `queue`, …, or [`MATCHED`].
        verdict: String,
    },
    /// The driver answered to a transmission that it did not go well.
    Transmitted {
        /// `netdev_tx_t`, other than `NETDEV_TX_OK`.
        code: i32,
    },
    /// A function of the kernel was called with it, and has returned if it answers.
    Called {
        /// Its name.
        function: String,
        /// What it answered, by the name that the kernel's sources have for it: `0`, `EXDEV`, `NF_DROP`, `XDP_PASS`. Absent
        /// where only the call says something.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<String>,
    },
    /// The kernel freed it as dropped.
    Dropped {
        /// The drop reason by its kernel name without prefix (`NO_SOCKET`), if the kernel gives one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// The function that dropped it: `symbol+0xoffset`.
        function: String,
    },
    /// The kernel freed it as used up.
    Consumed {
        /// The function that freed it, if known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        function: Option<String>,
    },
}

/// How the marker was recognized, and so which way the packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum Match {
    /// The tag in a UDP payload or an ICMP echo request.
    Tag = 1,
    /// The tag in an ICMP echo reply.
    EchoReply = 2,
    /// A TCP sequence number.
    TcpSeq = 3,
    /// A TCP acknowledgement number: the answer.
    TcpAck = 4,
    /// The packet quoted in an ICMP error.
    Quoted = 5,
    /// The buffer alone; the headers say nothing.
    Buffer = 6,
    /// A filter, which has no markers: whose answer it is, it does not tell.
    Filter = 7,
}

impl Match {
    /// The value of a number on the wire.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Tag, Self::EchoReply, Self::TcpSeq, Self::TcpAck, Self::Quoted, Self::Buffer, Self::Filter]
            .into_iter()
            .find(|matched| *matched as u32 == number)
    }
}

/// Headers of a packet at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Headers {
    /// The flow as it stands now.
    pub flow: Flow,
    /// How the marker was recognized.
    pub matched: Match,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IP total length in bytes, both families counting their header.
    pub len: u16,
    /// IPv4 identification of the outermost header; 0 for IPv6.
    #[serde(default)]
    pub ip_id: u16,
    /// TCP flags; 0 for others.
    #[serde(default)]
    pub tcp_flags: u8,
    /// `skb->mark`.
    #[serde(default)]
    pub mark: u32,
    /// The tunnel around it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<Outer>,
}

/// What a provider lost: a result with losses says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Losses {
    /// Records that did not fit into the ring buffer.
    pub ring_full: u64,
    /// Netlink trace messages that the kernel dropped (counted by overruns of the socket).
    pub trace_overruns: u64,
    /// Buffers that could not be followed because the map was full.
    pub follow_full: u64,
    /// Packets on the node, of anybody, whose headers could not be read: a network card had left them in pages.
    #[serde(default)]
    pub out_of_reach: u64,
}

impl Losses {
    /// All of them together.
    pub fn total(&self) -> u64 {
        let all = [self.ring_full, self.trace_overruns, self.follow_full, self.out_of_reach];
        all.into_iter().fold(0, u64::saturating_add)
    }
}

impl std::ops::AddAssign for Losses {
    fn add_assign(&mut self, other: Self) {
        self.ring_full += other.ring_full;
        self.trace_overruns += other.trace_overruns;
        self.follow_full += other.follow_full;
        self.out_of_reach += other.out_of_reach;
    }
}
