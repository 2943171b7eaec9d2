//! What tests read of a packet, and how they decide.

use std::net::IpAddr;
use std::sync::Arc;

use waymark_proto::{Flow, Hook, Text, text};

use super::address;
use super::classes::Memory;
use super::ipset::{Dimension, IpSet};
use super::raw;
use super::rule::{Bitwise, Direction, Expr, Field, Lookup, Op, Test};
use super::symbols;
use super::value::{Elements, Operands, Value};
use crate::conntrack::Tracking;
use crate::fib::{self, Found, Transport};
use crate::namespace::Namespace;
use crate::packet::Packet;

/// Where in a namespace rules are asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) hook: Hook,
    pub(crate) input: Option<&'a Arc<str>>,
    pub(crate) output: Option<&'a Arc<str>>,
    /// Bridge ports, while the packet is bridged.
    pub(crate) port_in: Option<&'a Arc<str>>,
    pub(crate) port_out: Option<&'a Arc<str>>,
    /// The next hop, where it is chosen.
    pub(crate) next_hop: Option<IpAddr>,
    /// Whether all rules that match are to be told.
    pub(crate) tells_matches: bool,
    /// Who is to know that a source port was looked at.
    pub(crate) memory: Option<&'a Memory>,
}

/// Why there is no value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stop {
    /// The packet has no such field: the rule does not match (`NFT_BREAK`).
    Break,
    /// The model does not know.
    Unknown(Text),
    /// One of so many numbers, equally likely: to be asked again for each.
    Random(u64),
}

/// One reading of a packet.
pub(crate) struct Reading<'a> {
    pub(crate) at: Context<'a>,
    pub(crate) packet: &'a Packet,
    /// The outcome of the random number that was asked for.
    pub(crate) random: Option<u64>,
}

fn unknown<T>(why: Text) -> Result<T, Stop> {
    Err(Stop::Unknown(why))
}

impl Reading<'_> {
    /// The operands of an expression.
    pub(crate) fn expr(&self, expr: &Expr) -> Result<Operands, Stop> {
        match expr {
            Expr::Concat(parts) => {
                let mut operands = Operands::new();
                for part in parts {
                    operands.extend(self.expr(part)?);
                }
                Ok(operands)
            }
            Expr::Map { key, map } => {
                let key = self.expr(key)?;
                let maps = &self.at.namespace.ruleset.maps;
                find(lookup(map, maps)?, &key)?.map(|data| data.as_slice().into()).ok_or(Stop::Break)
            }
            Expr::Const(_) | Expr::Field(_) | Expr::Binary(..) | Expr::Random { .. } | Expr::Unknown(_) => {
                Ok(Operands::from_buf([self.value(expr)?]))
            }
        }
    }

    /// An expression that must be one operand.
    fn value(&self, expr: &Expr) -> Result<Value, Stop> {
        match expr {
            Expr::Const(value) => Ok(value.clone()),
            Expr::Field(field) => self.field(field),
            Expr::Binary(op, left, right) => self.binary(*op, left, right),
            Expr::Random { modulus, offset } => match self.random {
                Some(number) => Ok(Value::Number(offset.saturating_add(number % modulus.max(&1)))),
                None => Err(Stop::Random(*modulus)),
            },
            Expr::Unknown(what) => unknown(text!(model::NotModelled { what })),
            Expr::Concat(_) | Expr::Map { .. } => match self.expr(expr)?.as_slice() {
                [value] => Ok(value.clone()),
                other => unknown(text!(model::NoNumber { value: format!("{other:?}") })),
            },
        }
    }

    /// An expression that must be one number.
    pub(crate) fn number(&self, expr: &Expr) -> Result<u64, Stop> {
        match self.value(expr)? {
            Value::Number(number) => Ok(number),
            other => unknown(text!(model::NoNumber { value: format!("{other:?}") })),
        }
    }

    fn binary(&self, op: Bitwise, left: &Expr, right: &Expr) -> Result<Value, Stop> {
        match (op, self.value(left)?, self.value(right)?) {
            (Bitwise::And, Value::Ip(address), Value::Ip(mask)) => {
                Ok(Value::Ip(super::value::masked(address, mask)))
            }
            (_, Value::Number(left), Value::Number(right)) => {
                let shift = u32::try_from(right).unwrap_or(u32::MAX);
                Ok(Value::Number(match op {
                    Bitwise::And => left & right,
                    Bitwise::Or => left | right,
                    Bitwise::Xor => left ^ right,
                    // Registers have 32 bits.
                    Bitwise::ShiftLeft => left.checked_shl(shift).unwrap_or(0) & 0xffff_ffff,
                    Bitwise::ShiftRight => left.checked_shr(shift).unwrap_or(0),
                }))
            }
            _ => unknown(text!(model::Bitwise)),
        }
    }

    fn see_source_port(&self) {
        if let Some(memory) = self.at.memory {
            memory.see_source_port();
        }
    }

    /// What a field holds; `None` if the packet has no such field, or it is not known.
    pub(crate) fn known(&self, field: &Field) -> Option<Value> {
        self.field(field).ok()
    }

    fn field(&self, field: &Field) -> Result<Value, Stop> {
        let flow = &self.packet.flow;
        let ipv6 = flow.is_ipv6();
        let number = flow.protocol.number(ipv6);
        let name = |device: Option<&Arc<str>>| {
            Ok(device.map_or_else(|| Value::text(""), |name| Value::Text(name.clone())))
        };
        let when = |known: bool, value: Value| if known { Ok(value) } else { Err(Stop::Break) };
        let port = |protocol: &Option<u8>, port: u16| {
            let there = flow.protocol.has_ports() && protocol.is_none_or(|wanted| wanted == number);
            when(there, Value::Number(port.into()))
        };
        // No packet has port 0: it stands for any.
        let unknowable = || flow.protocol.has_ports() && flow.src_port == 0;
        match (field, &self.packet.answer) {
            (Field::SourcePort(_), false)
            | (Field::DestinationPort(_), true)
            | (Field::ConnPort { .. }, _) => {
                self.see_source_port();
            }
            _ => {}
        }
        match field {
            Field::Source(family) => when(family.is_none_or(|v6| v6 == ipv6), Value::Ip(flow.src)),
            Field::Destination(family) => when(family.is_none_or(|v6| v6 == ipv6), Value::Ip(flow.dst)),
            Field::Family => Ok(Value::Number(if ipv6 { 10 } else { 2 })),
            Field::EtherType => Ok(Value::Number(if ipv6 { 0x86dd } else { 0x0800 })),
            Field::L4Protocol => Ok(Value::Number(number.into())),
            Field::HeaderProtocol(family) => when(*family == ipv6, Value::Number(number.into())),
            Field::SourcePort(protocol) => match port(protocol, flow.src_port)? {
                _ if unknowable() => unknown(text!(model::SourcePort)),
                known => Ok(known),
            },
            Field::DestinationPort(protocol) => port(protocol, flow.dst_port),
            Field::TcpFlags => self.packet.tcp_flags().map(Value::Number).ok_or(Stop::Break),
            Field::IcmpType(family) => {
                let kind = self.packet.icmp_type().filter(|_| *family == ipv6);
                kind.map(Value::Number).ok_or(Stop::Break)
            }
            Field::IcmpCode(family) => {
                when(*family == ipv6 && self.packet.icmp_type().is_some(), Value::Number(0))
            }
            Field::Ttl(family) => when(*family == ipv6, Value::Number(self.packet.ttl.into())),
            Field::Dscp(family) => {
                when(family.is_none_or(|v6| v6 == ipv6), Value::Number(self.packet.dscp.into()))
            }
            Field::Length => match self.packet.len {
                Some(len) => Ok(Value::Number(len.into())),
                None => unknown(text!(model::PacketLength)),
            },
            Field::Raw { base, offset, length } => match raw::read(self.packet, *base, *offset, *length) {
                Some(number) => Ok(Value::Number(number)),
                None => unknown(text!(model::NotModelled { what: format!("payload,{offset},{length}") })),
            },
            Field::InName => name(self.at.input),
            Field::OutName => name(self.at.output),
            Field::PhysIn => name(self.at.port_in),
            Field::PhysOut => name(self.at.port_out),
            Field::PhysBridged => Ok(Value::Number(u64::from(self.at.port_out.is_some()))),
            Field::Mark => Ok(Value::Number(self.packet.mark.into())),
            Field::PacketType => Ok(Value::Number(0)),
            Field::AddressType { destination } => {
                let (address, other) = if *destination { (flow.dst, flow.src) } else { (flow.src, flow.dst) };
                let kind = match address {
                    IpAddr::V4(address) => address::of_ipv4(self.at.namespace, address),
                    IpAddr::V6(_) => address::of_ipv6(self.at.namespace, address, other),
                };
                kind.map(Value::Number)
            }
            Field::ReverseRoute => self.reverse_route(),
            Field::Unknown(what) => unknown(text!(model::NotModelled { what })),
            Field::ConnState
            | Field::ConnStateAndNat
            | Field::ConnMark
            | Field::ConnStatus
            | Field::ConnDirection
            | Field::ConnAddress { .. }
            | Field::ConnPort { .. } => self.connection(field),
        }
    }

    fn connection(&self, field: &Field) -> Result<Value, Stop> {
        let (connection, reply, confirmed) = match &self.packet.tracking {
            Tracking::Tracked { connection, reply, confirmed, .. } => (connection, *reply, *confirmed),
            // Before the connection was looked up, nft and xt_conntrack both read "invalid".
            untracked => {
                let state = match untracked {
                    Tracking::Untracked => symbols::STATE_UNTRACKED,
                    _ => symbols::STATE_INVALID,
                };
                let asks = matches!(field, Field::ConnState | Field::ConnStateAndNat);
                return if asks { Ok(Value::Number(state)) } else { Err(Stop::Break) };
            }
        };
        let tuple = |of_reply: &bool| if *of_reply { &connection.reply } else { &connection.original };
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        let state = if connection.answered { symbols::STATE_ESTABLISHED } else { symbols::STATE_NEW };
        Ok(match field {
            Field::ConnStateAndNat => Value::Number(
                state
                    | bit(connection.source_nat, symbols::STATE_SNAT)
                    | bit(connection.destination_nat, symbols::STATE_DNAT),
            ),
            Field::ConnMark => Value::Number(connection.mark.into()),
            Field::ConnStatus => Value::Number(
                bit(connection.answered, 2)
                    | bit(confirmed, 8)
                    | bit(connection.source_nat, 16)
                    | bit(connection.destination_nat, 32)
                    | bit(connection.settled[0], 128)
                    | bit(connection.settled[1], 256),
            ),
            Field::ConnDirection => Value::Number(u64::from(reply)),
            Field::ConnAddress { reply, destination } => Value::Ip(end(tuple(reply), *destination).0),
            Field::ConnPort { reply, destination } => Value::Number(end(tuple(reply), *destination).1.into()),
            _ => Value::Number(state),
        })
    }

    /// Whether the route back to the source leaves by the input device: 1 or 0.
    fn reverse_route(&self) -> Result<Value, Stop> {
        let Some(input) = self.at.input else { return Err(Stop::Break) };
        let flow = &self.packet.flow;
        let transport = Transport::NONE;
        let key =
            fib::Key { dst: flow.src, src: flow.dst, iif: "lo", oif: None, mark: 0, dscp: 0, transport };
        let namespace = self.at.namespace;
        match fib::lookup(namespace, &key) {
            Found::Unicast(_, hops) => {
                let by_input = hops
                    .iter()
                    .any(|(_, hop)| hop.index.is_some_and(|index| namespace.name_of(index) == *input));
                Ok(Value::Number(u64::from(by_input)))
            }
            Found::Unknown(why) => unknown(why),
            Found::Local(_) => Ok(Value::Number(u64::from(&**input == "lo"))),
            Found::Nothing | Found::Refused(..) => Ok(Value::Number(0)),
        }
    }

    /// Whether a test holds; `Random` for those that `run` decides by branching.
    pub(crate) fn test(&self, test: &Test) -> Result<bool, Stop> {
        match test {
            Test::Compare { left, op, right } => self.compare(left, *op, right),
            Test::IpSet { name, fields, negated } => Ok(self.in_ipset(name, fields, 0)? != *negated),
            Test::AddressType6 { destination, types, negated } => {
                let address = end(&self.packet.flow, *destination).0;
                Ok(address::is_of(self.at.namespace, address, types)? != *negated)
            }
            Test::Unknown(why) => unknown(why.clone()),
            Test::Random(_) => Err(Stop::Random(1)),
        }
    }

    fn compare(&self, left: &Expr, op: Op, right: &Lookup<()>) -> Result<bool, Stop> {
        // iptables' negated matches on fields that a packet lacks do not match either: their
        // modules refuse packets of another protocol.
        let (one, many);
        let values = if matches!(left, Expr::Concat(_) | Expr::Map { .. }) {
            match self.expr(left) {
                Err(Stop::Break) => return Ok(false),
                values => many = values?,
            }
            many.as_slice()
        } else {
            match self.value(left) {
                Err(Stop::Break) => return Ok(false),
                value => one = value?,
            }
            std::slice::from_ref(&one)
        };
        let elements = lookup(right, &self.at.namespace.ruleset.sets)?;
        match (op, values, elements.single()) {
            (Op::Equal, [Value::Number(left)], Some(right)) => Ok(*left == right),
            (Op::NotEqual, [Value::Number(left)], Some(right)) => Ok(*left != right),
            (Op::Equal, ..) => Ok(find(elements, values)?.is_some()),
            (Op::NotEqual, ..) => Ok(find(elements, values)?.is_none()),
            (Op::Less, [Value::Number(left)], Some(right)) => Ok(*left < right),
            (Op::LessEqual, [Value::Number(left)], Some(right)) => Ok(*left <= right),
            (Op::Greater, [Value::Number(left)], Some(right)) => Ok(*left > right),
            (Op::GreaterEqual, [Value::Number(left)], Some(right)) => Ok(*left >= right),
            (Op::Any, [Value::Number(left)], Some(right)) => Ok(left & right != 0),
            _ => unknown(text!(model::Comparison)),
        }
    }

    fn in_ipset(&self, name: &str, fields: &[Direction], depth: u32) -> Result<bool, Stop> {
        let Some(set) = self.at.namespace.ruleset.ipsets.get(name) else {
            return unknown(text!(model::IpsetAbsent { name }));
        };
        // Lists do not nest in the kernel; damaged facts might.
        if set.dimensions.is_empty() && depth < 2 {
            for member in &set.lists {
                if self.in_ipset(member, fields, depth + 1)? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        let Some(key) = self.ipset_key(set, fields)? else { return Ok(false) };
        find(&set.elements, &key).map(|member| member.copied().unwrap_or(false))
    }

    pub(crate) fn ipset_key(&self, set: &IpSet, fields: &[Direction]) -> Result<Option<Vec<Value>>, Stop> {
        if fields.len() < set.dimensions.len() {
            return unknown(text!(model::IpsetDirections));
        }
        let flow = &self.packet.flow;
        let protocol = flow.protocol.number(flow.is_ipv6());
        let mut key = Vec::new();
        if set.dimensions.iter().any(|dimension| matches!(dimension, Dimension::Port | Dimension::BarePort)) {
            self.see_source_port();
        }
        for (dimension, direction) in set.dimensions.iter().zip(fields) {
            let destination = *direction == Direction::Destination;
            let (address, port) = end(flow, destination);
            match dimension {
                Dimension::Address => key.push(Value::Ip(address)),
                // For an echo its type and code stand (`ip_set_get_ip4_port`); `bitmap:port` knows none.
                Dimension::Port if !flow.protocol.has_ports() => {
                    let kind = self.packet.icmp_type().unwrap_or_default() << 8;
                    key.extend([Value::Number(protocol.into()), Value::Number(kind)]);
                }
                Dimension::BarePort if !flow.protocol.has_ports() => return Ok(None),
                // No packet has port 0: it stands for any.
                Dimension::Port | Dimension::BarePort if port == 0 => {
                    return unknown(text!(model::SourcePort));
                }
                Dimension::Port => {
                    key.extend([Value::Number(protocol.into()), Value::Number(port.into())]);
                }
                Dimension::BarePort => key.push(Value::Number(port.into())),
                Dimension::Interface => {
                    let device = if destination { self.at.output } else { self.at.input };
                    key.push(device.map_or_else(|| Value::text(""), |name| Value::Text(name.clone())));
                }
                Dimension::Unknown => return unknown(text!(model::IpsetKind)),
            }
        }
        Ok(Some(key))
    }
}

fn end(flow: &Flow, destination: bool) -> (IpAddr, u16) {
    if destination { (flow.dst, flow.dst_port) } else { (flow.src, flow.src_port) }
}

/// The elements of a set or map.
pub(crate) fn lookup<'a, D>(
    lookup: &'a Lookup<D>,
    named: &'a [Elements<D>],
) -> Result<&'a Elements<D>, Stop> {
    match lookup {
        Lookup::Inline(elements) => Ok(elements),
        Lookup::Named(index, name) => match named.get(*index) {
            Some(elements) => Ok(elements),
            None => unknown(text!(model::SetAbsent { name })),
        },
        Lookup::Unknown(why) => unknown(why.clone()),
    }
}

/// The data for a key; a miss is doubtful where an element could not be read.
pub(crate) fn find<'a, D>(elements: &'a Elements<D>, key: &[Value]) -> Result<Option<&'a D>, Stop> {
    match (elements.get(key), elements.unread()) {
        (None, Some(element)) => unknown(text!(model::SetElement { element })),
        (found, _) => Ok(found),
    }
}
