//! Why a packet dies: one table from cause to fate, shared by prediction, observation and answer.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Disposition;

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $fate:ident;)*) => {
        /// Why a packet goes no further.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Cause {
            $($(#[$doc])* $variant,)*
        }

        impl Cause {
            /// Every cause.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in text and JSON.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The fate of a walk that ends for this cause.
            pub fn fate(self) -> Disposition {
                match self {
                    $(Self::$variant => Disposition::$fate,)*
                }
            }
        }
    };
}

causes! {
    /// A netfilter rule or chain policy dropped it.
    FilterDrop, "filter-drop", Dropped;
    /// A netfilter rule rejected it with an error to the sender.
    FilterReject, "filter-reject", Rejected;
    /// A Service has no ready endpoints.
    ServiceWithoutEndpoints, "service-without-endpoints", Rejected;
    /// A Service's traffic policy is Local, and none of its ready endpoints is on the node.
    ServiceWithoutLocalEndpoints, "service-without-local-endpoints", Dropped;
    /// No route matches the destination.
    NoRoute, "no-route", NoRoute;
    /// The matching route is of type blackhole.
    BlackholeRoute, "blackhole-route", Dropped;
    /// The matching route or rule is of type unreachable.
    UnreachableRoute, "unreachable-route", Rejected;
    /// The matching route or rule is of type prohibit.
    ProhibitRoute, "prohibit-route", Rejected;
    /// The route leads somewhere else than it should.
    WrongRoute, "wrong-route", Dropped;
    /// The packet is for another host and forwarding is off.
    ForwardingDisabled, "forwarding-disabled", Dropped;
    /// Reverse-path filter: the route back leads elsewhere.
    SourceValidation, "source-validation", Dropped;
    /// An address that may not appear here.
    MartianAddress, "martian-address", Dropped;
    /// TTL or hop limit ran out.
    TtlExpired, "ttl-expired", Dropped;
    /// Larger than the MTU and not to be fragmented.
    MtuExceeded, "mtu-exceeded", Dropped;
    /// The next hop's link-layer address cannot be found.
    NeighbourUnresolved, "neighbour-unresolved", NeighbourUnreachable;
    /// The link-layer address in use is not the next hop's.
    WrongNeighbour, "wrong-neighbour", Dropped;
    /// A device is administratively down.
    DeviceDown, "device-down", Dropped;
    /// A device is up but has no carrier, as when its peer is down.
    NoCarrier, "no-carrier", Dropped;
    /// A queueing discipline dropped it.
    QueueDrop, "queue-drop", Dropped;
    /// The bridge knows no port for it, or the port does not forward.
    BridgePort, "bridge-port", Dropped;
    /// A tunnel has no remote end for the destination.
    TunnelNoRemote, "tunnel-no-remote", Dropped;
    /// The receiving tunnel does not know this VNI.
    TunnelUnknownVni, "tunnel-unknown-vni", Dropped;
    /// A tunnel endpoint refused it for another reason.
    TunnelDrop, "tunnel-drop", Dropped;
    /// The namespace that should have the destination address does not have it.
    AddressMissing, "address-missing", Dropped;
    /// Somebody else received it than it was meant for.
    WrongReceiver, "wrong-receiver", Dropped;
    /// Its destination is an address that nobody has: a rule gave it that, or none gave it another.
    NobodysAddress, "nobodys-address", Dropped;
    /// Something other than address translation changed addresses or ports.
    Rewritten, "rewritten", Dropped;
    /// Translation has no address and port left for it that no other connection has.
    NoFreePort, "no-free-port", Dropped;
    /// The answer's addresses or ports are not the question's: the asking socket does not take it.
    AnswerMismatch, "answer-mismatch", Dropped;
    /// No socket listens on the port.
    NoListener, "no-listener", Rejected;
    /// The socket's receive buffer or accept queue is full.
    SocketQueueFull, "socket-queue-full", Dropped;
    /// A socket filter or cgroup program refused it.
    SocketFilter, "socket-filter", Dropped;
    /// The listening socket asks by its options for what the packet does not have: a signature, a TTL, encryption.
    SocketOption, "socket-option", Dropped;
    /// The kernel is told not to answer echo requests.
    EchoIgnored, "echo-ignored", Dropped;
    /// The frame is addressed to another host on the link.
    OtherHost, "other-host", Dropped;
    /// A checksum or a header is wrong.
    Malformed, "malformed", Dropped;
    /// A BPF program (tc, XDP, cgroup) dropped it.
    BpfDrop, "bpf-drop", Dropped;
    /// It came back to a place where it had been.
    RoutingLoop, "routing-loop", Loop;
    /// It left the last hook that saw it and never came to the next, and no kernel reported a drop.
    SilentLoss, "silent-loss", Dropped;
    /// The kernel dropped it for a reason that this table does not name; the reason is quoted.
    KernelDrop, "kernel-drop", Dropped;
    /// The sending system call failed; the error is quoted.
    SendFailed, "send-failed", Dropped;
    /// Sight did not suffice to say.
    Unknown, "unknown", InsufficientInfo;
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_with_serde() {
        for &cause in Cause::ALL {
            assert_eq!(serde_json::to_string(&cause).unwrap(), format!("{:?}", cause.name()));
            assert_ne!(cause.fate(), Disposition::Delivered);
        }
    }
}
