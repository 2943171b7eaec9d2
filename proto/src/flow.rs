//! The traffic in question.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Transport protocols that Waymark injects. `Icmp` is echo of the flow's own family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP: a lone SYN.
    Tcp,
    /// UDP: one datagram.
    Udp,
    /// ICMP or `ICMPv6` echo request.
    Icmp,
}

impl Protocol {
    /// The IANA protocol number within the given family.
    pub fn number(self, ipv6: bool) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp if ipv6 => 58,
            Self::Icmp => 1,
        }
    }

    /// The protocol of an IANA number; both ICMP numbers are `Icmp`.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            1 | 58 => Some(Self::Icmp),
            _ => None,
        }
    }

    /// Whether the protocol has ports.
    pub fn has_ports(self) -> bool {
        self != Self::Icmp
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "icmp" | "icmpv6" | "icmp6" => Ok(Self::Icmp),
            _ => Err(format!("unknown protocol {:?}: use tcp, udp or icmp", crate::short(text))),
        }
    }
}

/// One direction of the traffic in question: the headers that decide its way.
///
/// For ICMP echo, `src_port` and `dst_port` both hold the echo identifier, as conntrack does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Source port or echo identifier.
    pub src_port: u16,
    /// Destination port or echo identifier.
    pub dst_port: u16,
}

impl Flow {
    /// Whether the flow is IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.dst.is_ipv6()
    }

    /// The flow that an answer to this one belongs to.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            protocol: self.protocol,
            src_port: self.dst_port,
            dst_port: self.src_port,
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol.has_ports() {
            let src = SocketAddr::new(self.src, self.src_port);
            let dst = SocketAddr::new(self.dst, self.dst_port);
            write!(f, "{} {src} → {dst}", self.protocol)
        } else {
            write!(f, "{} {} → {}", self.protocol, self.src, self.dst)
        }
    }
}
