//! Address translation by a rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use waymark_proto::{Hook, RuleRef, text};

use super::read::{Reading, Stop};
use super::rule::{Expr, Nat, NatKind};
use super::run::Run;
use super::source;
use super::value::Value;
use crate::conntrack::{self, End};

/// The end that is translated at a hook.
pub(crate) fn end_at(hook: Hook) -> Option<End> {
    match hook {
        Hook::NetfilterPrerouting | Hook::NetfilterOutput => Some(End::Destination),
        Hook::NetfilterInput | Hook::NetfilterPostrouting => Some(End::Source),
        _ => None,
    }
}

/// What a rule makes of one end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translation {
    end: End,
    address: IpAddr,
    port: u16,
}

/// What a rule translates a packet to.
pub(crate) fn translation(reading: &Reading<'_>, nat: &Nat) -> Result<Translation, Stop> {
    let end = match nat.kind {
        NatKind::Source | NatKind::Masquerade => End::Source,
        NatKind::Destination | NatKind::Redirect => End::Destination,
    };
    if end_at(reading.at.hook) != Some(end) {
        return Err(Stop::Unknown(text!(model::TranslationHere)));
    }
    let flow = reading.packet.flow;
    let (address, port) =
        if end == End::Source { (flow.src, flow.src_port) } else { (flow.dst, flow.dst_port) };
    let (given, given_port) = operands(reading, nat)?;
    let address = match nat.kind {
        NatKind::Source | NatKind::Destination => given.unwrap_or(address),
        NatKind::Masquerade => masquerade(reading)?,
        NatKind::Redirect => redirect(reading)?,
    };
    if address.is_ipv6() != flow.is_ipv6() {
        return Err(Stop::Unknown(text!(model::TranslationOfFamily)));
    }
    // An echo identifier is not a port: rules cannot name it.
    let port = if flow.protocol.has_ports() { given_port.unwrap_or(port) } else { port };
    Ok(Translation { end, address, port })
}

impl Translation {
    /// Settles it for a run's connection.
    pub(crate) fn settle(self, run: &mut Run, rule: RuleRef) {
        let Self { end, address, port } = self;
        conntrack::settle(&mut run.packet, end, Some((address, port)));
        run.translated_by = Some(rule);
        if end == End::Destination && !run.chances.is_empty() {
            run.chances.clear();
            let to = if run.packet.flow.protocol.has_ports() {
                SocketAddr::new(address, port).to_string()
            } else {
                address.to_string()
            };
            run.backend = Some(to);
        }
    }
}

fn operands(reading: &Reading<'_>, nat: &Nat) -> Result<(Option<IpAddr>, Option<u16>), Stop> {
    let strange = || Stop::Unknown(text!(model::TranslationToThis));
    let port = |value: &Value| match value {
        Value::Number(port) => u16::try_from(*port).map(Some).map_err(|_| strange()),
        _ => Err(strange()),
    };
    let read = |expr: &Option<Expr>| expr.as_ref().map(|expr| reading.expr(expr)).transpose();
    let named_port = read(&nat.port)?;
    let named_port = match named_port.as_deref() {
        None => None,
        Some([value]) => port(value)?,
        Some(_) => return Err(strange()),
    };
    match read(&nat.address)?.as_deref() {
        None => Ok((None, named_port)),
        Some([Value::Ip(ip)]) => Ok((Some(*ip), named_port)),
        Some([Value::Ip(ip), value]) => Ok((Some(*ip), port(value)?)),
        Some(_) => Err(strange()),
    }
}

/// The address of the output device that is nearest to the next hop; for IPv6, what is chosen for the destination
/// (`nf_nat_masquerade_ipv4`, `nf_nat_masquerade_ipv6`).
fn masquerade(reading: &Reading<'_>) -> Result<IpAddr, Stop> {
    let namespace = reading.at.namespace;
    let device = reading.at.output.and_then(|name| namespace.links().find(|link| *link.name == **name));
    let dst = reading.packet.flow.dst;
    let towards = reading.at.next_hop.filter(|next_hop| next_hop.is_ipv4() && dst.is_ipv4()).unwrap_or(dst);
    device
        .and_then(|device| source::select(namespace, device.index, towards))
        .ok_or_else(|| Stop::Unknown(text!(model::NoMasqueradeAddress)))
}

/// This host: the loopback address for its own packets, else the first of the input device
/// (`nf_nat_redirect`).
fn redirect(reading: &Reading<'_>) -> Result<IpAddr, Stop> {
    let ipv6 = reading.packet.flow.is_ipv6();
    if reading.at.hook == Hook::NetfilterOutput {
        return Ok(if ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() });
    }
    let namespace = reading.at.namespace;
    let device = reading.at.input.and_then(|name| namespace.links().find(|link| *link.name == **name));
    device
        .and_then(|device| namespace.addresses_of(device.index, ipv6).next())
        .map(|address| address.address.addr())
        .ok_or_else(|| Stop::Unknown(text!(model::NoRedirectAddress)))
}
