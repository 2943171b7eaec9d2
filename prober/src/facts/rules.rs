//! Policy rules: `RTM_GETRULE`, both families.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::Nla;
use netlink_packet_route::rule::{
    RuleAction as WireAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use waymark_proto::{PolicyRule, PortRange, RuleAction};

use super::Missing;
use super::netlink::{Netlink, NetlinkError};

/// `suppress_prefixlength` and `suppress_ifgroup` of a rule that suppresses nothing (-1).
const SUPPRESS_NOTHING: u32 = u32::MAX;
/// `FRA_PAD`, and the masks of flow label and DSCP: they say nothing by themselves. The packet crate does not know
/// these, nor the four below.
const SILENT: [u16; 3] = [18, 27, 30];
const FRA_DSCP: u16 = 25;
const FRA_FLOWLABEL: u16 = 26;
const FRA_SPORT_MASK: u16 = 28;
const FRA_DPORT_MASK: u16 = 29;
/// The mask of a port that is compared as a whole.
const WHOLE_PORT: [u8; 2] = [0xff; 2];

/// Reads the policy rules of the thread's namespace, by family and priority; rules of one priority stay in
/// the kernel's order, which is the order in which it tries them.
pub(super) fn read(netlink: &mut Netlink, missing: &mut Missing) -> Result<Vec<PolicyRule>, NetlinkError> {
    let mut rules = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RuleMessage::default();
        request.header.family = family;
        let dump = netlink.dump(&RouteNetlinkMessage::GetRule(request))?;
        let version = if family == AddressFamily::Inet6 { 6 } else { 4 };
        missing.remarks(&format!("rules.ipv{version}"), dump.remarks);
        rules.extend(dump.messages.into_iter().filter_map(|message| match message {
            // A kernel without IPv6 answers with the rules of every family that it has.
            RouteNetlinkMessage::NewRule(rule) if rule.header.family == family => Some(read_one(&rule)),
            _ => None,
        }));
    }
    rules.sort_by_key(|rule| (rule.ipv6, rule.priority));
    Ok(rules)
}

fn read_one(message: &RuleMessage) -> PolicyRule {
    let header = &message.header;
    let mut rule = PolicyRule {
        ipv6: header.family == AddressFamily::Inet6,
        priority: 0,
        action: action(header.action),
        table: header.table.into(),
        goto: None,
        src: None,
        dst: None,
        iif: None,
        oif: None,
        mark: None,
        mask: None,
        ip_protocol: None,
        src_ports: None,
        dst_ports: None,
        tos: (header.tos != 0).then_some(header.tos),
        invert: header.flags.contains(RuleFlags::Invert),
        unmodelled: Vec::new(),
    };
    for attribute in &message.attributes {
        read_attribute(attribute, &mut rule, header.src_len, header.dst_len);
    }
    if rule.mask.is_some_and(|mask| mask != 0) {
        // The kernel leaves a mark of zero out of its answer.
        rule.mark = rule.mark.or(Some(0));
    }
    rule
}

fn read_attribute(attribute: &RuleAttribute, rule: &mut PolicyRule, src_len: u8, dst_len: u8) {
    let prefix = |ip: &IpAddr, length: u8| IpNet::new(*ip, length).ok().filter(|_| length != 0);
    match attribute {
        RuleAttribute::Source(ip) => rule.src = prefix(ip, src_len),
        RuleAttribute::Destination(ip) => rule.dst = prefix(ip, dst_len),
        RuleAttribute::Priority(priority) => rule.priority = *priority,
        RuleAttribute::Table(table) => rule.table = *table,
        RuleAttribute::Goto(priority) => rule.goto = Some(*priority),
        RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
        RuleAttribute::Oifname(name) => rule.oif = Some(name.clone()),
        RuleAttribute::FwMark(mark) => rule.mark = Some(*mark),
        RuleAttribute::FwMask(mask) => rule.mask = Some(*mask),
        RuleAttribute::SuppressPrefixLen(SUPPRESS_NOTHING)
        | RuleAttribute::SuppressIfGroup(SUPPRESS_NOTHING)
        | RuleAttribute::TunId(0)
        | RuleAttribute::L3MDev(false)
        // Who made the rule, and the realm for accounting: neither selects.
        | RuleAttribute::Protocol(_)
        | RuleAttribute::Realm(_) => {}
        RuleAttribute::SuppressPrefixLen(length) => {
            rule.unmodelled.push(format!("suppress_prefixlength {length}"));
        }
        RuleAttribute::SuppressIfGroup(group) => rule.unmodelled.push(format!("suppress_ifgroup {group}")),
        RuleAttribute::TunId(id) => rule.unmodelled.push(format!("tun_id {id}")),
        RuleAttribute::L3MDev(true) => rule.unmodelled.push("l3mdev".to_owned()),
        RuleAttribute::UidRange(_) => rule.unmodelled.push("uidrange".to_owned()),
        RuleAttribute::IpProtocol(protocol) => rule.ip_protocol = Some(u8::from(*protocol)),
        RuleAttribute::SourcePortRange(range) => rule.src_ports = Some(ports(*range)),
        RuleAttribute::DestinationPortRange(range) => rule.dst_ports = Some(ports(*range)),
        other => match other.kind() {
            kind if SILENT.contains(&kind) => {}
            FRA_DSCP => rule.unmodelled.push("dscp".to_owned()),
            FRA_SPORT_MASK | FRA_DPORT_MASK if value(other) == WHOLE_PORT => {}
            FRA_SPORT_MASK => rule.unmodelled.push("sport with a mask".to_owned()),
            FRA_DPORT_MASK => rule.unmodelled.push("dport with a mask".to_owned()),
            FRA_FLOWLABEL => rule.unmodelled.push("flowlabel".to_owned()),
            kind => rule.unmodelled.push(format!("attribute {kind}")),
        },
    }
}

fn ports(range: RulePortRange) -> PortRange {
    PortRange { first: range.start, last: range.end }
}

/// The bytes of an attribute.
fn value(attribute: &RuleAttribute) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

fn action(action: WireAction) -> RuleAction {
    match action {
        WireAction::ToTable => RuleAction::Table,
        WireAction::Goto => RuleAction::Goto,
        WireAction::Nop => RuleAction::Nop,
        WireAction::Blackhole => RuleAction::Blackhole,
        WireAction::Unreachable => RuleAction::Unreachable,
        WireAction::Prohibit => RuleAction::Prohibit,
        _ => RuleAction::Other,
    }
}
