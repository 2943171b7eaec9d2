//! From the kernel side's records to sightings.

use std::sync::OnceLock;

use waymark_proto::{
    Checksum, ConntrackState, Event, Flow, Headers, Hook, Match, Metadata, Outer, Place, Protocol, Sighting,
};
use waymark_tracer_ebpf::{Conntrack, Function, MatchKind, Point, Record, Tuple};

use super::reasons::DropReasons;
use super::symbols::Symbols;
use super::types::Types;
use super::{answer, beside, marker};
use crate::nftrace::OuterKey;

/// Reads the names of the running kernel's functions and drop reasons now, so that the first drop need not
/// wait for it. They are the same for every tracer of the process.
pub fn prepare_names() {
    let _ = reasons();
    let _ = symbols();
}

fn symbols() -> Option<&'static Symbols> {
    static SYMBOLS: OnceLock<Option<&'static Symbols>> = OnceLock::new();
    let read = || {
        Symbols::of_running_kernel()
            .inspect_err(|error| tracing::warn!(%error, "drops are shown without function names"))
            .ok()
    };
    *SYMBOLS.get_or_init(read)
}

fn reasons() -> &'static DropReasons {
    static REASONS: OnceLock<DropReasons> = OnceLock::new();
    REASONS.get_or_init(DropReasons::of_running_kernel)
}

/// Whether a function of this name can be told to be nowhere in the running kernel and its modules.
pub fn is_absent(function: &str) -> bool {
    symbols().is_some_and(|symbols| !symbols.has(function))
}

fn function(address: u64) -> String {
    symbols().map_or_else(|| format!("{address:#x}"), |symbols| symbols.name(address))
}

/// The sighting that a record tells of, with the packet's connection and what was captured of it; `None` if it is damaged.
///
/// The hook of a drop is [`Hook::Ip`] here: which hook the packet was at follows from reason, function and
/// what was seen before, which is the comparison's business.
pub fn sighting(
    record: &Record,
    conntrack: Option<&Conntrack>,
    place: &Place,
    packet: Vec<u8>,
) -> Option<Sighting> {
    let (check, seq) = record.marker();
    let (hook, event) = match record.point()? {
        Point::NetifReceiveSkb => (Hook::DriverRx, Event::Seen),
        Point::NetDevQueue => (Hook::Qdisc, Event::Seen),
        Point::NetDevStartXmit => (Hook::DriverTx, Event::Seen),
        Point::NetDevXmit => (Hook::DriverTx, Event::Transmitted { code: record.code() }),
        Point::KfreeSkb => {
            let reason = reasons().name(record.reason());
            (Hook::Ip, Event::Dropped { reason, function: function(record.location()) })
        }
        Point::ConsumeSkb => {
            let function = (record.location() != 0).then(|| function(record.location()));
            (Hook::Ip, Event::Consumed { function })
        }
        point => match Function::of_point(point) {
            Some(function) => called(function, record),
            None => beside::told(point, record)?,
        },
    };
    Some(Sighting {
        place: place.clone(),
        at_ns: record.time_ns(),
        marker: marker(check, seq)?,
        hook,
        device: record.device(),
        event,
        fragment_offset: record.fragment_offset(),
        headers: headers(record),
        metadata: Metadata {
            vlan: record.vlan(),
            checksum: Checksum::from_number(record.checksum().into()),
            conntrack: conntrack.and_then(connection),
        },
        identity: 0,
        buffer: record.buffer(),
        packet,
    })
}

/// The function that has an address in it.
fn symbol(address: u64) -> String {
    function(address).split('+').next().unwrap_or_default().to_owned()
}

/// A function was called with the packet, and may have answered.
fn called(function: &Function, record: &Record) -> (Hook, Event) {
    let types = Types::of_running_kernel();
    let reasons = types.gives_reason(function).then(reasons);
    let name = types.first(function.symbols).map_or(function.symbols[0], |(symbol, _)| symbol);
    let answer = answer::name(function, record, reasons, symbol);
    (answer::hook(function, record), Event::Called { function: name.to_owned(), answer })
}

/// What identifies the packet on its way through the hooks of a tunnel's outer header. Later fragments are not traced there.
pub fn outer_key(record: &Record) -> Option<OuterKey> {
    if record.fragment_offset() != 0 {
        return None;
    }
    let (src, dst, _) = record.vxlan()?;
    Some(OuterKey { src, dst, src_port: record.outer_src_port(), ip_id: record.ip_id() })
}

/// A connection of a protocol that Waymark knows.
fn connection(conntrack: &Conntrack) -> Option<waymark_proto::Conntrack> {
    let protocol = Protocol::from_number(conntrack.protocol())?;
    let flow = |Tuple { src, dst, src_port, dst_port }: Tuple| {
        // Of ICMP the kernel keeps type and code in the place of the second port.
        let dst_port = if protocol.has_ports() { dst_port } else { src_port };
        Flow { src, dst, protocol, src_port, dst_port }
    };
    let (original, reply) = conntrack.tuples()?;
    let (state, is_reply) = ConntrackState::from_number(conntrack.info().into())?;
    let (original, reply) = (flow(original), flow(reply));
    Some(waymark_proto::Conntrack { state, is_reply, original, reply, status: conntrack.status() })
}

fn headers(record: &Record) -> Option<Headers> {
    let (src, dst) = record.addresses()?;
    let (src_port, dst_port) = record.ports();
    let protocol = Protocol::from_number(record.protocol())?;
    let outer =
        record.vxlan().map(|(src, dst, vni)| Outer { kind: "vxlan".into(), src, dst, vni: Some(vni) });
    Some(Headers {
        flow: Flow { src, dst, protocol, src_port, dst_port },
        matched: match record.matched()? {
            MatchKind::Tag => Match::Tag,
            MatchKind::EchoReply => Match::EchoReply,
            MatchKind::TcpSeq => Match::TcpSeq,
            MatchKind::TcpAck => Match::TcpAck,
            MatchKind::Quoted => Match::Quoted,
            MatchKind::Buffer => Match::Buffer,
            MatchKind::Filter => Match::Filter,
        },
        ttl: record.ttl(),
        len: record.ip_len(),
        ip_id: record.ip_id(),
        tcp_flags: record.tcp_flags(),
        mark: record.mark(),
        outer,
    })
}
