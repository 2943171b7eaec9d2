//! Reports of `x_tables` (`trace_packet` in `net/ipv4/netfilter/ip_tables.c`), as `nfnetlink_log` sends them:
//! a packet with the prefix `TRACE: TABLE:CHAIN:KIND:NUMBER `.

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload, Nla};
use netlink_packet_netfilter::nflog::{PacketHdr, PacketNla, ULogMessage};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use waymark_proto::Hook;

/// How a prefix of the kernel's begins.
const PREFIX: &str = "TRACE: ";

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

/// The reports in a datagram. What is none, or is damaged, is left out.
pub fn parse(mut datagram: &[u8]) -> impl Iterator<Item = XtEvent> {
    let messages = std::iter::from_fn(move || {
        let length = NetlinkBuffer::new_checked(datagram).ok()?.length() as usize;
        let message = datagram.get(..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    });
    messages.filter_map(parse_message)
}

fn parse_message(message: &[u8]) -> Option<XtEvent> {
    let message = NetlinkMessage::<NetfilterMessage>::deserialize(message).ok()?;
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    let ipv6 = u8::from(message.header.family) == libc::NFPROTO_IPV6 as u8;
    let NetfilterMessageInner::ULog(ULogMessage::Packet(attributes)) = message.inner else { return None };
    let (mut hook, mut prefix, mut packet) = (None, None, Vec::new());
    let (mut iif, mut oif, mut mark) = (None, None, 0);
    for attribute in attributes {
        match attribute {
            PacketNla::PacketHdr(header) => hook = hook_of(&header),
            PacketNla::Prefix(text) => prefix = Some(text),
            PacketNla::Payload(bytes) => packet = bytes,
            PacketNla::IfIndexInDev(index) => iif = Some(index),
            PacketNla::IfIndexOutDev(index) => oif = Some(index),
            PacketNla::Mark(value) => mark = value,
            _ => {}
        }
    }
    let prefix = prefix?;
    let (table, chain, kind, position) = parse_prefix(prefix.to_str().ok()?)?;
    let (table, chain) = (table.to_owned(), chain.to_owned());
    Some(XtEvent { ipv6, hook: hook?, table, chain, kind, position, packet, iif, oif, mark })
}

/// The crate gives no other sight of the hook than the attribute as it was: protocol, hook, padding.
fn hook_of(header: &PacketHdr) -> Option<Hook> {
    let mut raw = [0; 4];
    header.emit_value(&mut raw);
    Some(match i32::from(raw[2]) {
        libc::NF_INET_PRE_ROUTING => Hook::NetfilterPrerouting,
        libc::NF_INET_LOCAL_IN => Hook::NetfilterInput,
        libc::NF_INET_FORWARD => Hook::NetfilterForward,
        libc::NF_INET_LOCAL_OUT => Hook::NetfilterOutput,
        libc::NF_INET_POST_ROUTING => Hook::NetfilterPostrouting,
        _ => return None,
    })
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

    /// As a 6.18 kernel sent it, for an echo request that came in at INPUT.
    const REPORT: &[u8] = &[
        // nlmsghdr, nfgenmsg
        0x7c, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, //
        // NFULA_PACKET_HDR, NFULA_PREFIX, NFULA_IFINDEX_INDEV
        8, 0, 1, 0, 0x08, 0x00, 1, 0, //
        0x1f, 0, 10, 0, b'T', b'R', b'A', b'C', b'E', b':', b' ', b'f', b'i', b'l', b't', b'e', b'r', b':',
        b'F', b'O', b':', b'O', b':', b'r', b'u', b'l', b'e', b':', b'7', b' ', 0, 0, //
        8, 0, 4, 0, 0, 0, 0, 2, //
        // NFULA_PAYLOAD
        0x20, 0, 9, 0, 0x45, 0, 0, 0x54, 0x28, 0x59, 0x40, 0, 0x40, 1, 0xfd, 0xb3, 0x0a, 0x4d, 0, 2, 0x0a,
        0x4d, 0, 1, 8, 0, 0x62, 0x86, 0x78, 0xab, 0, 1,
    ];

    fn report() -> Vec<u8> {
        let mut report = REPORT.to_vec();
        report[0] = report.len() as u8;
        report
    }

    #[test]
    fn a_report_is_read() {
        let report = report();
        let events: Vec<XtEvent> = parse(&report).collect();
        let [event] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((event.table.as_str(), event.chain.as_str(), event.position), ("filter", "FO:O", 7));
        assert_eq!((event.kind, event.hook, event.ipv6), (XtKind::Rule, Hook::NetfilterInput, false));
        assert_eq!((event.iif, event.oif, event.mark, event.packet.len()), (Some(2), None, 0, 28));
        assert_eq!(parse(&report.repeat(2)).count(), 2);
    }

    #[test]
    fn damaged_reports_are_left_out() {
        let report = report();
        for end in 0..report.len() {
            assert_eq!(parse(&report[..end]).count(), 0);
        }
        assert_eq!(parse(&[0xff; 64]).count() + parse(&[0; 64]).count(), 0);
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
