//! What the kernel keeps of a packet beside its bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Flow;

/// Members of `struct sk_buff` at one moment, as far as somebody saw them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Number of the VLAN whose tag was taken off the packet, or waits to be put on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Who has computed, or checked, its checksum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
    /// The connection that it belongs to; of the outer headers if it is encapsulated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conntrack: Option<Conntrack>,
}

impl Metadata {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// State of a checksum (`skb->ip_summed`, `include/linux/skbuff.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum Checksum {
    /// `CHECKSUM_NONE`: it is in the packet, and nobody has checked it.
    None = 0,
    /// `CHECKSUM_UNNECESSARY`: a device has checked it.
    Unnecessary = 1,
    /// `CHECKSUM_COMPLETE`: a device has summed the packet up, which is to be compared.
    Complete = 2,
    /// `CHECKSUM_PARTIAL`: whoever sends the packet out has still to compute it.
    Partial = 3,
}

impl Checksum {
    /// The state of the kernel's number.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::None, Self::Unnecessary, Self::Complete, Self::Partial]
            .into_iter()
            .find(|state| *state as u32 == number)
    }
}

/// An entry of connection tracking (`struct nf_conn`), as a packet carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conntrack {
    /// What the packet is to the connection.
    pub state: ConntrackState,
    /// Whether it goes the way of answers.
    pub is_reply: bool,
    /// How the connection was opened.
    pub original: Flow,
    /// How answers are expected: the reverse, unless addresses or ports are translated.
    pub reply: Flow,
    /// Bits of `enum ip_conntrack_status`.
    pub status: u32,
}

/// What a packet is to its connection (`enum ip_conntrack_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum ConntrackState {
    /// Of one that has seen answers.
    Established = 0,
    /// Of one that another expects, or an error about it.
    Related = 1,
    /// The first, or one before any answer.
    New = 2,
}

/// `IP_CT_IS_REPLY`: added to the number of packets that go the way of answers.
const IS_REPLY: u32 = 3;

impl ConntrackState {
    /// The state of the kernel's number, and whether it is one of answers.
    pub fn from_number(number: u32) -> Option<(Self, bool)> {
        let is_reply = number >= IS_REPLY;
        let number = if is_reply { number - IS_REPLY } else { number };
        let states = [Self::Established, Self::Related, Self::New];
        Some((states.into_iter().find(|state| *state as u32 == number)?, is_reply))
    }

    /// As rules have it: `NEW`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::Related => "RELATED",
            Self::New => "NEW",
        }
    }
}

impl Conntrack {
    /// Bits of the status and their names (`include/uapi/linux/netfilter/nf_conntrack_common.h`), as `conntrack -L` and rules
    /// have them.
    const BITS: [(u32, &'static str); 5] = [
        (1 << 1, "SEEN_REPLY"),
        (1 << 2, "ASSURED"),
        (1 << 3, "CONFIRMED"),
        (1 << 4, "SNAT"),
        (1 << 5, "DNAT"),
    ];

    /// What the packet is to the connection, as the kernel's number.
    pub fn info(&self) -> u32 {
        self.state as u32 + if self.is_reply { IS_REPLY } else { 0 }
    }

    /// Whether addresses or ports of the connection are translated.
    pub fn is_translated(&self) -> bool {
        self.original.reversed() != self.reply
    }
}

/// `NEW tcp 10.0.1.2:40000 → 10.96.0.1:80, answers tcp 10.0.2.3:80 → 10.0.1.2:40000 (CONFIRMED, DNAT)`
impl fmt::Display for Conntrack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, answers {}", self.state.name(), self.original, self.reply)?;
        let set = Self::BITS.iter().filter(|(bit, _)| self.status & bit != 0);
        let names: Vec<&str> = set.map(|(_, name)| *name).collect();
        if names.is_empty() { Ok(()) } else { write!(f, " ({})", names.join(", ")) }
    }
}
