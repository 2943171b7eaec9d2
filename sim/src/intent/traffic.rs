//! What of a flow policies can tell apart: protocol and destination port.

use std::fmt;

use serde::Serialize;
use waymark_proto::{Flow, Pod, PolicyPort, PortRef, Protocol, TransportProtocol};

/// Traffic to a receiver, as NetworkPolicies see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Traffic {
    /// ICMP, which has no ports. The API defines policies for TCP, UDP and SCTP and leaves the rest to
    /// implementations. Taken here as by most: isolation stops it, a rule without ports admits it, a rule
    /// with ports does not.
    Icmp,
    /// To a port of the receiver.
    Port(TransportProtocol, u16),
}

impl Traffic {
    /// The traffic of a flow whose destination is the receiver itself.
    pub fn of(flow: &Flow) -> Self {
        match flow.protocol {
            Protocol::Tcp => Self::Port(TransportProtocol::Tcp, flow.dst_port),
            Protocol::Udp => Self::Port(TransportProtocol::Udp, flow.dst_port),
            Protocol::Icmp => Self::Icmp,
        }
    }

    /// The port, unless it is ICMP.
    pub fn port(self) -> Option<u16> {
        match self {
            Self::Icmp => None,
            Self::Port(_, port) => Some(port),
        }
    }

    /// The same traffic at another port.
    pub(super) fn at(self, port: u16) -> Self {
        match self {
            Self::Icmp => Self::Icmp,
            Self::Port(protocol, _) => Self::Port(protocol, port),
        }
    }

    /// Whether one of a rule's ports is meant; all are if it names none. Names are those that the receiver
    /// gives its ports; what is no pod has none.
    pub(super) fn is_among(self, ports: &[PolicyPort], receiver: Option<&Pod>) -> bool {
        ports.is_empty() || ports.iter().any(|port| self.is_meant_by(port, receiver))
    }

    fn is_meant_by(self, wanted: &PolicyPort, receiver: Option<&Pod>) -> bool {
        let Self::Port(protocol, number) = self else { return false };
        wanted.protocol == protocol
            && match (&wanted.port, wanted.end_port) {
                (None, _) => true,
                (Some(PortRef::Number(first)), Some(last)) => (*first..=last).contains(&number),
                (Some(PortRef::Number(only)), None) => *only == number,
                (Some(PortRef::Name(name)), _) => {
                    receiver.is_some_and(|pod| has(pod, name, protocol, number))
                }
            }
    }
}

/// Whether a pod declares a port of this name, protocol and number.
fn has(pod: &Pod, name: &str, protocol: TransportProtocol, number: u16) -> bool {
    let declared = |port: &waymark_proto::ContainerPort| port.name.as_deref() == Some(name);
    pod.ports.iter().any(|port| declared(port) && port.protocol == protocol && port.port == number)
}

/// The name of a transport protocol in text.
pub(super) fn name(protocol: TransportProtocol) -> &'static str {
    match protocol {
        TransportProtocol::Tcp => "tcp",
        TransportProtocol::Udp => "udp",
        TransportProtocol::Sctp => "sctp",
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp => f.pad("icmp"),
            Self::Port(protocol, port) => f.pad(&format!("{port}/{}", name(*protocol))),
        }
    }
}
