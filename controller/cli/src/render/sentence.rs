//! The fault in one sentence, as a person would say it who knows the machine:
//! `dropped on node2 in netfilter forward: rule 14 of chain WM-FW drops tcp dport 80 from 10.1.0.0/16 (filter-drop)`.

use waymark_proto::texts::object::{ListensOnDevice, NoLocalRoute};
use waymark_proto::{Cause, Direction, Disposition, FaultPoint, Hook, SpanEnd, Text, text};

use super::rule;

/// What happens to the packet, where, why, and the cause's name.
pub(crate) fn sentence(fault: &FaultPoint) -> Text {
    text!(sentence::Whole {
        answer: fault.direction == Direction::Return,
        fate: fate(fault),
        place: place(fault),
        why: why(fault),
        cause: fault.cause,
    })
}

/// What happens to it.
fn fate(fault: &FaultPoint) -> Text {
    match (fault.cause, fault.cause.fate()) {
        (Cause::WrongReceiver | Cause::WrongRoute | Cause::NobodysAddress, _) => text!(sentence::LedAstray),
        (Cause::Rewritten, _) => text!(sentence::Rewritten),
        (Cause::AnswerMismatch, _) => text!(sentence::Refused),
        (Cause::SendFailed, _) => text!(sentence::NotSent),
        (_, Disposition::Rejected) => text!(sentence::Rejected),
        (_, Disposition::NoRoute | Disposition::NeighbourUnreachable) => text!(sentence::Stopped),
        (_, Disposition::Loop) => text!(sentence::InCircles),
        (Cause::SilentLoss, _) => text!(sentence::Lost),
        _ if fault.span.is_some() && fault.cause != Cause::OtherHost => text!(sentence::Lost),
        _ => text!(sentence::Dropped),
    }
}

/// Where.
fn place(fault: &FaultPoint) -> Text {
    // Of what died by a cause that is known, the place is known too.
    let vanished = fault.hook == Hook::Wire
        || fault.rule.is_none() && matches!(fault.cause, Cause::SilentLoss | Cause::Unknown);
    if let Some(span) = fault.span.as_ref().filter(|_| vanished) {
        let (last, first) = (&span.last_seen, &span.first_missing);
        return if last.node == first.node {
            text!(place::Within { node: &last.node, from: hook(last), to: hook(first) })
        } else {
            text!(place::Between { from: last.words(), to: first.words() })
        };
    }
    let device = fault.device.as_deref();
    let netfilter = |chain: &str| text!(place::Netfilter { chain });
    let hook = match fault.hook {
        Hook::Inject => text!(place::Inject),
        Hook::Route => text!(place::Route),
        Hook::NetfilterPrerouting => netfilter("prerouting"),
        Hook::NetfilterInput => netfilter("input"),
        Hook::NetfilterForward => netfilter("forward"),
        Hook::NetfilterOutput => netfilter("output"),
        Hook::NetfilterPostrouting => netfilter("postrouting"),
        Hook::Neighbour => text!(place::Neighbour { device }),
        Hook::Qdisc => text!(place::Queue { device }),
        Hook::DriverTx => text!(place::WayOut { device }),
        Hook::DriverRx => text!(place::WayIn { device }),
        Hook::Bridge => text!(place::Bridge { device }),
        Hook::Tunnel => text!(place::Tunnel { device }),
        Hook::Wire => text!(place::Wire { device }),
        Hook::Socket => text!(place::Socket),
        Hook::Ip => text!(place::Ip),
    };
    text!(place::On { node: &fault.node, pod: fault.pod.as_deref(), hook })
}

/// `driver-tx eth0`
fn hook(end: &SpanEnd) -> String {
    let device = end.device.as_ref().map(|device| format!(" {device}")).unwrap_or_default();
    format!("{}{device}", end.hook)
}

/// Why. Where a rule decided, that it did says more than its cause.
fn why(fault: &FaultPoint) -> Text {
    if let Some(rule) = &fault.rule {
        return rule::sentence(rule);
    }
    let device = || fault.device.as_deref().map_or_else(|| text!(why::Device), Text::verbatim);
    match fault.cause {
        Cause::FilterDrop => text!(why::FilterDrop),
        Cause::FilterReject => text!(why::FilterReject),
        Cause::ServiceWithoutEndpoints => text!(why::ServiceWithoutEndpoints),
        Cause::ServiceWithoutLocalEndpoints => text!(why::ServiceWithoutLocalEndpoints),
        Cause::NoRoute if fault.is_about::<NoLocalRoute>() => text!(why::NoLocalRoute),
        Cause::NoRoute => text!(why::NoRoute),
        Cause::BlackholeRoute => text!(why::BlackholeRoute),
        Cause::UnreachableRoute => text!(why::UnreachableRoute),
        Cause::ProhibitRoute => text!(why::ProhibitRoute),
        Cause::WrongRoute => text!(why::WrongRoute),
        Cause::ForwardingDisabled => text!(why::ForwardingDisabled),
        Cause::SourceValidation => text!(why::SourceValidation { device: device() }),
        Cause::MartianAddress => text!(why::MartianAddress),
        Cause::TtlExpired => text!(why::TtlExpired),
        Cause::MtuExceeded => text!(why::MtuExceeded),
        Cause::NeighbourUnresolved => text!(why::NeighbourUnresolved),
        Cause::WrongNeighbour => text!(why::WrongNeighbour),
        Cause::DeviceDown => text!(why::DeviceDown { device: device() }),
        Cause::NoCarrier => text!(why::NoCarrier { device: device() }),
        Cause::QueueDrop => text!(why::QueueDrop),
        Cause::BridgePort => text!(why::BridgePort),
        Cause::TunnelNoRemote => text!(why::TunnelNoRemote),
        Cause::TunnelUnknownVni => text!(why::TunnelUnknownVni),
        Cause::TunnelDrop => text!(why::TunnelDrop),
        Cause::AddressMissing => text!(why::AddressMissing),
        Cause::WrongReceiver => text!(why::WrongReceiver),
        Cause::NobodysAddress => text!(why::NobodysAddress),
        Cause::Rewritten => text!(why::Rewritten),
        Cause::NoFreePort => text!(why::NoFreePort),
        Cause::AnswerMismatch => text!(why::AnswerMismatch),
        Cause::NoListener if fault.is_about::<ListensOnDevice>() => text!(why::ListensOnDevice),
        Cause::NoListener => text!(why::NoListener),
        Cause::SocketQueueFull => text!(why::SocketQueueFull),
        Cause::SocketFilter => text!(why::SocketFilter),
        Cause::SocketOption => socket_option(fault.reason.as_deref()),
        Cause::EchoIgnored => text!(why::EchoIgnored),
        Cause::OtherHost => text!(why::OtherHost),
        Cause::Malformed => text!(why::Malformed),
        Cause::BpfDrop => text!(why::BpfDrop),
        Cause::RoutingLoop => text!(why::RoutingLoop),
        Cause::SilentLoss => text!(why::SilentLoss),
        Cause::KernelDrop => {
            let (function, reason) = (fault.function.as_deref(), fault.reason.as_deref());
            text!(why::KernelDrop { function, reason })
        }
        Cause::SendFailed => text!(why::SendFailed { reason: fault.reason.as_deref() }),
        Cause::Unknown => text!(why::Unknown),
    }
}

/// What a listening socket's options ask for, as far as the kernel says which refused.
fn socket_option(reason: Option<&str>) -> Text {
    match reason {
        Some("TCP_MINTTL") => text!(why::SocketTtl),
        Some(reason) if reason.starts_with("TCP_MD5") => text!(why::SocketSignature { kind: "TCP MD5" }),
        Some(reason) if reason.starts_with("TCP_AO") => text!(why::SocketSignature { kind: "TCP-AO" }),
        _ => text!(why::SocketOption),
    }
}
