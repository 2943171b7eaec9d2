//! Reports of `x_tables` (`trace_packet` in `net/ipv4/netfilter/ip_tables.c`): packets logged with the prefix
//! `TRACE: TABLE:CHAIN:KIND:NUMBER `.

use waymark_proto::Hook;

use crate::nflog::Logged;

/// How a prefix of the kernel's begins.
pub(super) const PREFIX: &str = "TRACE: ";

/// What was matched, in the kernel's words, which are not to be taken at their word: a rule without any match whose
/// target is `ACCEPT` or `DROP` is told as [`XtKind::Policy`] in a built-in chain, and as [`XtKind::Return`] in others,
/// since `get_chainname_rulenum` looks no closer. Its number is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XtKind {
    /// A rule.
    Rule,
    /// The end of a chain, or a rule that looks like it.
    Return,
    /// A policy, or a rule that looks like it.
    Policy,
}

/// One report: a packet matched a rule. What the rule then did to it is not told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XtEvent {
    /// Whether it is one of `ip6_tables`.
    pub ipv6: bool,
    /// Where.
    pub hook: Hook,
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// What was matched.
    pub kind: XtKind,
    /// Position of the rule in its chain, from 1; the policy comes behind the last rule.
    pub position: u32,
    /// The first bytes of the packet, from the IP header on.
    pub packet: Vec<u8>,
    /// Index of the input device.
    pub iif: Option<u32>,
    /// Index of the output device.
    pub oif: Option<u32>,
    /// `skb->mark`
    pub mark: u32,
}

impl XtEvent {
    /// What a logged packet reports, if it is a report.
    pub fn new(logged: Logged) -> Option<Self> {
        let (table, chain, kind, position) = parse_prefix(&logged.prefix)?;
        let (table, chain) = (table.to_owned(), chain.to_owned());
        let Logged { ipv6, hook, packet, iif, oif, mark, .. } = logged;
        Some(Self { ipv6, hook, table, chain, kind, position, packet, iif, oif, mark })
    }
}

/// `TRACE: filter:KUBE-FORWARD:rule:3 `. Names of chains may have colons, those of tables have none.
fn parse_prefix(prefix: &str) -> Option<(&str, &str, XtKind, u32)> {
    let (table, rest) = prefix.strip_prefix(PREFIX)?.trim_end().split_once(':')?;
    let (rest, position) = rest.rsplit_once(':')?;
    let (chain, kind) = rest.rsplit_once(':')?;
    let kind = match kind {
        "rule" => XtKind::Rule,
        "return" => XtKind::Return,
        "policy" => XtKind::Policy,
        _ => return None,
    };
    Some((table, chain, kind, position.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let logged = |prefix: &str| Logged {
            ipv6: false,
            hook: Hook::NetfilterInput,
            prefix: prefix.to_owned(),
            packet: vec![0x45],
            iif: Some(2),
            oif: None,
            mark: 0,
        };
        let event = XtEvent::new(logged("TRACE: filter:FO:O:rule:7 ")).unwrap();
        assert_eq!((event.table.as_str(), event.chain.as_str(), event.position), ("filter", "FO:O", 7));
        assert_eq!((event.kind, event.hook, event.iif), (XtKind::Rule, Hook::NetfilterInput, Some(2)));
        assert_eq!(XtEvent::new(logged("drop: ")), None);
    }

    #[test]
    fn prefixes_of_rules_are_none_of_the_kernels() {
        for prefix in ["", "drop: ", "TRACE: ", "TRACE: a:b", "TRACE: a:b:rule", "TRACE: a:b:rule:x "] {
            assert_eq!(parse_prefix(prefix), None, "{prefix}");
        }
        assert_eq!(
            parse_prefix("TRACE: nat:POSTROUTING:policy:1 "),
            Some(("nat", "POSTROUTING", XtKind::Policy, 1))
        );
    }
}
