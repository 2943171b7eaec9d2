//! What the kernel's drop reasons and dropping functions mean: one table each, to hook and cause.
//!
//! A reason outranks a function. Reasons that the kernel gives in several places ask the function for the
//! place. A drop in netfilter names its hook neither way: the rule trace or the prediction does.

mod answers;
mod table;

pub use answers::answered;
use waymark_proto::{Cause, Hook, Text};

/// What a reason or a function says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// This hook, this cause.
    At(Hook, Cause),
    /// One of the netfilter hooks.
    Netfilter,
    /// Probably this hook and cause; what else is known may say better.
    Ambiguous(Hook, Cause),
}

impl Meaning {
    /// The cause.
    pub fn cause(self) -> Cause {
        match self {
            Self::At(_, cause) | Self::Ambiguous(_, cause) => cause,
            Self::Netfilter => table::NETFILTER_CAUSE,
        }
    }

    /// The hook, given the one that the agent guessed.
    pub fn hook(self, guess: Hook) -> Hook {
        match self {
            Self::At(hook, _) | Self::Ambiguous(hook, _) => hook,
            Self::Netfilter if guess.is_netfilter() => guess,
            // Of the five it is the one through which most foreign traffic goes.
            Self::Netfilter => Hook::NetfilterForward,
        }
    }
}

/// What the kernel says where it says nothing.
pub const NO_REASON: &str = "NOT_SPECIFIED";

/// Where a TTL runs out.
const FORWARDERS: [&str; 2] = ["ip_forward", "ip6_forward"];

/// What a drop means, from its reason (without prefix) and function (`symbol+0xoffset`); `None` if neither
/// is in the tables.
pub fn meaning(reason: Option<&str>, function: &str) -> Option<Meaning> {
    let symbol = function.split('+').next().unwrap_or_default();
    let by_reason = reason.and_then(|reason| lookup(table::REASONS, |name| name == reason));
    let by_function = lookup(table::FUNCTIONS, |prefix| symbol.starts_with(prefix));
    match (by_reason, by_function) {
        (Some(Meaning::Ambiguous(_, Cause::KernelDrop)), Some(better)) => Some(better),
        // Only who forwards counts TTLs down; anywhere else it is the header that is wrong.
        (Some(Meaning::Ambiguous(hook, Cause::TtlExpired)), by_function)
            if !FORWARDERS.iter().any(|f| symbol.starts_with(f)) =>
        {
            let hook = match by_function {
                Some(Meaning::At(hook, _) | Meaning::Ambiguous(hook, _)) => hook,
                Some(Meaning::Netfilter) | None => hook,
            };
            Some(Meaning::Ambiguous(hook, Cause::Malformed))
        }
        // It is the outer packet for which there is no route.
        (
            Some(Meaning::At(Hook::Route, Cause::NoRoute) | Meaning::Ambiguous(_, Cause::NoRoute)),
            Some(Meaning::Ambiguous(Hook::Tunnel, cause)),
        ) => Some(Meaning::Ambiguous(Hook::Tunnel, cause)),
        // A bridge's reason in a tunnel's function: the function knows where, and what that means there.
        (
            Some(Meaning::Ambiguous(Hook::Bridge, Cause::BridgePort)),
            Some(Meaning::Ambiguous(Hook::Tunnel, _)),
        ) => Some(Meaning::Ambiguous(Hook::Tunnel, Cause::TunnelNoRemote)),
        (Some(Meaning::Ambiguous(_, cause)), Some(Meaning::At(hook, _) | Meaning::Ambiguous(hook, _))) => {
            Some(Meaning::Ambiguous(hook, cause))
        }
        (Some(meaning), _) => Some(meaning),
        (None, by_function) => by_function,
    }
}

/// What a reason means, in words; `None` if it is not in the table.
pub fn in_words(reason: &str) -> Option<Text> {
    Text::named("reason", &reason.to_ascii_lowercase().replace('_', "-"))
}

/// Every reason with what it says.
#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = (&'static str, Meaning)> {
    table::REASONS.iter().copied()
}

fn lookup(table: &[(&str, Meaning)], wanted: impl Fn(&str) -> bool) -> Option<Meaning> {
    table.iter().find(|(name, _)| wanted(name)).map(|&(_, meaning)| meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_the_kernel_is_in_the_table() {
        let missing: Vec<&str> = include_str!("../tests/data/drop-reasons-6.18.txt")
            .lines()
            .filter(|name| lookup(table::REASONS, |known| known == *name).is_none())
            .collect();
        assert_eq!(missing, [""; 0]);
    }

    #[test]
    fn every_reason_is_told_in_words() {
        let missing: Vec<&str> =
            all().map(|(reason, _)| reason).filter(|reason| in_words(reason).is_none()).collect();
        assert_eq!(missing, [""; 0]);
        assert_eq!(in_words("SUBSYS_NEW"), None);
    }

    #[test]
    fn no_reason_is_there_twice() {
        let mut names: Vec<_> = table::REASONS.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        let len = names.len();
        names.dedup();
        assert_eq!(names.len(), len);
    }

    #[test]
    fn reasons_outrank_functions_unless_they_are_vague() {
        let says = |reason, function| meaning(reason, function);
        assert_eq!(
            says(Some("NO_SOCKET"), "tcp_v4_rcv+0x1"),
            Some(Meaning::At(Hook::Socket, Cause::NoListener))
        );
        assert_eq!(
            says(Some("NOT_SPECIFIED"), "neigh_probe+0x1").map(|m| m.hook(Hook::Ip)),
            Some(Hook::Neighbour)
        );
        assert_eq!(says(Some("NETFILTER_DROP"), "nf_hook_slow+0xb5"), Some(Meaning::Netfilter));
        assert_eq!(says(None, "nf_hook_slow+0xb5"), Some(Meaning::Netfilter));
        let vxlan = says(Some("NO_TX_TARGET"), "vxlan_xmit+0x3");
        assert_eq!(vxlan, Some(Meaning::Ambiguous(Hook::Tunnel, Cause::TunnelNoRemote)));
        assert_eq!(
            says(Some("IP_INNOROUTES"), "ip_error+0x1"),
            Some(Meaning::At(Hook::Route, Cause::NoRoute))
        );
        assert_eq!(says(Some("SUBSYS_NEW"), "wholly_unknown"), None);
        let policy = |function| says(Some("XFRM_POLICY"), function).map(|m| m.hook(Hook::Ip));
        assert_eq!(policy("tcp_v4_rcv+0x1"), Some(Hook::Socket));
        assert_eq!(policy("ip_forward+0x1"), Some(Hook::Ip));
    }

    #[test]
    fn a_reason_means_what_it_can_in_its_function() {
        let says = |reason, function| meaning(Some(reason), function).map(|m| (m.hook(Hook::Ip), m.cause()));
        assert_eq!(says("IP_INHDR", "ip_forward+0x3b9"), Some((Hook::Ip, Cause::TtlExpired)));
        assert_eq!(says("IP_INHDR", "ip_rcv_core+0x1"), Some((Hook::Ip, Cause::Malformed)));
        assert_eq!(says("IP_INHDR", "br_nf_pre_routing+0x1"), Some((Hook::Bridge, Cause::Malformed)));
        assert_eq!(says("IP_OUTNOROUTES", "ip_output+0x1"), Some((Hook::Route, Cause::NoRoute)));
        assert_eq!(says("IP_OUTNOROUTES", "vxlan_xmit_one+0x1").map(|(hook, _)| hook), Some(Hook::Tunnel));
    }

    #[test]
    fn an_unnamed_netfilter_hook_is_the_agents_guess() {
        assert_eq!(Meaning::Netfilter.hook(Hook::NetfilterInput), Hook::NetfilterInput);
        assert_eq!(Meaning::Netfilter.hook(Hook::Ip), Hook::NetfilterForward);
    }
}
