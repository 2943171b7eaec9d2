//! Trace events of nftables: `NFT_MSG_TRACE` messages of the multicast group `NFNLGRP_NFTRACE`
//! (`nft_trace_notify` in `net/netfilter/nf_tables_trace.c`).

use std::borrow::Cow;

use netlink_packet_core::{NLA_HEADER_SIZE, NlaBuffer, NlasIterator};

/// Length of `struct nlmsghdr` and of `struct nfgenmsg` behind it.
pub(super) const NLMSG_HEADER: usize = 16;
pub(super) const NFGEN_HEADER: usize = 4;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_TRACE`
const MESSAGE_TYPE: u16 = 0x0a11;

// enum nft_trace_attributes
pub(super) const TABLE: u16 = 1;
const CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
pub(super) const TYPE: u16 = 4;
pub(super) const VERDICT: u16 = 5;
const ID: u16 = 6;
const NETWORK_HEADER: u16 = 8;
const TRANSPORT_HEADER: u16 = 9;
const IIF: u16 = 10;
const OIF: u16 = 12;
const MARK: u16 = 14;
const POLICY: u16 = 16;

// enum nft_trace_types
pub(super) const TYPE_POLICY: u32 = 1;
pub(super) const TYPE_RETURN: u32 = 2;
const TYPE_RULE: u32 = 3;

// enum nft_verdict_attributes
pub(super) const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// What kind of event it is (`enum nft_trace_types`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceType {
    /// The policy of a base chain was applied.
    Policy,
    /// A chain was left by its end or by `return`.
    Return,
    /// A rule matched.
    Rule,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEvent<'a> {
    /// Identity of the packet while it is in one namespace.
    pub id: u32,
    /// Kind.
    pub kind: TraceType,
    /// Address family of the chain: `ip`, `ip6`, `inet`, `bridge`, `netdev`, `arp`.
    pub family: &'static str,
    /// Table.
    pub table: Cow<'a, str>,
    /// Chain.
    pub chain: Cow<'a, str>,
    /// Handle of the rule that matched.
    pub handle: Option<u64>,
    /// The verdict in words: `accept`, `drop`, `jump NAME`, …
    pub verdict: Cow<'static, str>,
    /// The packet's headers; only in the first event of a base chain.
    pub packet: Option<TracedPacket<'a>>,
}

/// Headers that came with an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TracedPacket<'a> {
    /// From the IP header, up to 40 bytes.
    pub network: &'a [u8],
    /// From the transport header, up to 20 bytes.
    pub transport: &'a [u8],
    /// Index of the input device.
    pub iif: Option<u32>,
    /// Index of the output device.
    pub oif: Option<u32>,
    /// `skb->mark`
    pub mark: u32,
}

/// The events in a datagram. What is no trace event, or is damaged, is left out.
pub fn parse(mut datagram: &[u8]) -> impl Iterator<Item = TraceEvent<'_>> {
    let messages = std::iter::from_fn(move || {
        let header = datagram.get(..NLMSG_HEADER)?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        // A length below the header's own is refused here too: such a range is none.
        let message = datagram.get(NLMSG_HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, message))
    });
    messages.filter(|(kind, _)| *kind == MESSAGE_TYPE).filter_map(|(_, message)| parse_message(message))
}

fn parse_message(message: &[u8]) -> Option<TraceEvent<'_>> {
    let family = family_name(*message.first()?);
    let mut packet = TracedPacket::default();
    let mut has_packet = false;
    let (mut id, mut kind, mut table, mut chain) = (None, None, None, None);
    let (mut handle, mut verdict, mut policy) = (None, None, None);

    for attribute in NlasIterator::new(message.get(NFGEN_HEADER..)?) {
        let (attribute, value) = taken_apart(attribute.ok()?);
        match attribute {
            TABLE => table = Some(text(value)),
            CHAIN => chain = Some(text(value)),
            RULE_HANDLE => handle = Some(u64::from_be_bytes(value.try_into().ok()?)),
            TYPE => {
                kind = Some(match number(value)? {
                    TYPE_POLICY => TraceType::Policy,
                    TYPE_RETURN => TraceType::Return,
                    TYPE_RULE => TraceType::Rule,
                    _ => return None,
                });
            }
            VERDICT => verdict = parse_verdict(value),
            ID => id = number(value),
            NETWORK_HEADER => {
                packet.network = value;
                has_packet = true;
            }
            TRANSPORT_HEADER => packet.transport = value,
            IIF => packet.iif = number(value),
            OIF => packet.oif = number(value),
            MARK => packet.mark = number(value)?,
            POLICY => policy = number(value).map(|code| verdict_name(code.cast_signed(), None)),
            _ => {}
        }
    }
    Some(TraceEvent {
        id: id?,
        kind: kind?,
        family,
        table: table?,
        chain: chain?,
        handle,
        verdict: verdict.or(policy).unwrap_or(Cow::Borrowed("continue")),
        packet: has_packet.then_some(packet),
    })
}

/// Kind and value of an attribute; the crate's own view of the value lives no longer than that of the attribute.
fn taken_apart(attribute: NlaBuffer<&[u8]>) -> (u16, &[u8]) {
    let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
    (kind, attribute.into_inner().get(NLA_HEADER_SIZE..length).unwrap_or_default())
}

/// `NFTA_VERDICT_CODE` and `NFTA_VERDICT_CHAIN` inside an `NFTA_TRACE_VERDICT`.
fn parse_verdict(nested: &[u8]) -> Option<Cow<'static, str>> {
    let (mut code, mut chain) = (None, None);
    for attribute in NlasIterator::new(nested) {
        let (attribute, value) = taken_apart(attribute.ok()?);
        match attribute {
            VERDICT_CODE => code = number(value),
            VERDICT_CHAIN => chain = Some(text(value)),
            _ => {}
        }
    }
    Some(verdict_name(code?.cast_signed(), chain.as_deref()))
}

/// `enum nft_verdicts` and the `NF_*` codes in words.
fn verdict_name(code: i32, chain: Option<&str>) -> Cow<'static, str> {
    let chain = chain.unwrap_or("?");
    match code {
        -1 => "continue".into(),
        -2 => "break".into(),
        -3 => format!("jump {chain}").into(),
        -4 => format!("goto {chain}").into(),
        -5 => "return".into(),
        code => match code & 0xff {
            0 => "drop".into(),
            1 => "accept".into(),
            2 => "stolen".into(),
            3 => "queue".into(),
            4 => "repeat".into(),
            other => format!("verdict {other}").into(),
        },
    }
}

fn family_name(nfproto: u8) -> &'static str {
    match nfproto {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "unknown",
    }
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn text(value: &[u8]) -> Cow<'_, str> {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(attributes: &[Vec<u8>]) -> Vec<u8> {
        let body: Vec<u8> = [2, 0, 0, 0].into_iter().chain(attributes.concat()).collect();
        let mut bytes = ((body.len() + NLMSG_HEADER) as u32).to_ne_bytes().to_vec();
        bytes.extend(MESSAGE_TYPE.to_ne_bytes());
        bytes.resize(NLMSG_HEADER, 0);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_rule_event_is_read() {
        let verdict = [attribute(1, &(-3_i32).to_be_bytes()), attribute(2, b"KUBE-SVC\0")].concat();
        let bytes = message(&[
            attribute(TABLE, b"nat\0"),
            attribute(CHAIN, b"PREROUTING\0"),
            attribute(RULE_HANDLE, &9_u64.to_be_bytes()),
            attribute(TYPE, &3_u32.to_be_bytes()),
            attribute(VERDICT, &verdict),
            attribute(ID, &77_u32.to_be_bytes()),
        ]);
        let events: Vec<_> = parse(&bytes).collect();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].verdict, "jump KUBE-SVC");
        assert_eq!((events[0].family, events[0].handle, events[0].id), ("ip", Some(9), 77));
        assert_eq!(parse(&bytes.repeat(2)).count(), 2);
    }

    #[test]
    fn damaged_messages_are_left_out() {
        let good = message(&[attribute(TABLE, b"t\0"), attribute(ID, &1_u32.to_be_bytes())]);
        for end in 0..good.len() {
            assert_eq!(parse(&good[..end]).count(), 0);
        }
        assert_eq!(parse(&[0xff; 64]).count(), 0);
        assert_eq!(parse(&[0; 64]).count(), 0);
    }
}
