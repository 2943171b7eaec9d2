//! Hooks: the named places of the Linux datapath.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Text;

macro_rules! hooks {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// A named place in the Linux datapath. The order is that of declaration, not of traversal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[repr(u8)]
        pub enum Hook {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Hook {
            /// Every hook.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in text and JSON.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The hook of a number on the wire.
            pub fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

hooks! {
    /// The raw socket that sends the marked packet.
    Inject = 1, "inject";
    /// The routing decision: policy rules, tables, source validation (`ip_route_input_noref`,
    /// `ip_route_output_key`).
    Route = 2, "route";
    /// Netfilter `NF_INET_PRE_ROUTING`.
    NetfilterPrerouting = 3, "netfilter-prerouting";
    /// Netfilter `NF_INET_LOCAL_IN`.
    NetfilterInput = 4, "netfilter-input";
    /// Netfilter `NF_INET_FORWARD`.
    NetfilterForward = 5, "netfilter-forward";
    /// Netfilter `NF_INET_LOCAL_OUT`.
    NetfilterOutput = 6, "netfilter-output";
    /// Netfilter `NF_INET_POST_ROUTING`.
    NetfilterPostrouting = 7, "netfilter-postrouting";
    /// Resolution of the next hop's link-layer address (`neigh_resolve_output`).
    Neighbour = 8, "neighbour";
    /// Entry of a device's queueing discipline (`__dev_queue_xmit`).
    Qdisc = 9, "qdisc";
    /// Hand-over to a device's driver (`ndo_start_xmit`).
    DriverTx = 10, "driver-tx";
    /// Reception from a device's driver (`netif_rx`, `__netif_receive_skb_core`).
    DriverRx = 11, "driver-rx";
    /// The forwarding decision of a bridge (`br_handle_frame`).
    Bridge = 12, "bridge";
    /// Encapsulation or decapsulation by a tunnel device.
    Tunnel = 13, "tunnel";
    /// What lies between two nodes: cables, switches, a cloud's fabric. No agent watches it.
    Wire = 14, "wire";
    /// Local delivery: the socket, or the kernel's own ICMP responder.
    Socket = 15, "socket";
    /// Somewhere in the IP layer that no other hook names (header checks, fragmentation, TTL).
    Ip = 16, "ip";
}

/// Priority of the agent's first chain at each netfilter hook: behind `NF_IP_PRI_FIRST` alone. What a chain with a lower
/// one drops was not seen to come to the hook.
pub const FIRST_TRACED_PRIORITY: i32 = i32::MIN + 1;

impl Hook {
    /// Whether this is one of the five netfilter hooks.
    pub fn is_netfilter(self) -> bool {
        matches!(
            self,
            Self::NetfilterPrerouting
                | Self::NetfilterInput
                | Self::NetfilterForward
                | Self::NetfilterOutput
                | Self::NetfilterPostrouting
        )
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which hooks a check wants watched, from few to all: every packet of the node pays for those that are.
///
/// The light set is where packets come in, and drops: a bystander pays for two or three short looks on its way. Programs of
/// tcx on the devices of the predicted path alone were measured beside it (64-byte UDP over a bridge and over VXLAN, kernel
/// 6.18): they cost those who use the devices as much, and to attach or detach each takes a grace period of RCU (8 to 24 ms)
/// under the lock that all changes of devices need. Sockets of `AF_PACKET` with a filter cost more.
///
/// Rules are no part of the wide set because a single one that traces makes every chain of the machine dearer for every packet
/// (`nft_trace_enabled`), as dear as all other hooks together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookSet {
    /// Where packets come in, where they are dropped, and what comes through netfilter's input hook at the ends.
    Light,
    /// Every hook, but no rules, of netfilter's hooks the same, and not what drivers answer.
    Wide,
    /// Everything.
    All,
}

/// Who reports a hook on a node, or why nobody does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Observability {
    /// A provider is attached; its name, e.g. `tp_btf/netif_receive_skb`.
    Observed {
        /// The provider.
        provider: String,
    },
    /// The hook has no provider on this node: not seeing a packet there means nothing.
    NotObservable {
        /// Why: what was tried, and what to do about it.
        why: Text,
    },
}

/// One row of an agent's report of what it can see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookReport {
    /// The hook.
    pub hook: Hook,
    /// The namespace, if the answer differs between the namespaces of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<crate::NetnsName>,
    /// The answer.
    #[serde(flatten)]
    pub observability: Observability,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_with_serde() {
        for &hook in Hook::ALL {
            assert_eq!(serde_json::to_string(&hook).unwrap(), format!("{:?}", hook.name()));
            assert_eq!(Hook::from_number(hook as u8), Some(hook));
        }
        assert_eq!(Hook::from_number(0), None);
    }
}
