//! The fault in one sentence, as a person would say it who knows the machine:
//! `dropped on node2 in netfilter forward: rule 14 of chain WM-FW drops tcp dport 80 from 10.1.0.0/16 (filter-drop)`.

use waymark_proto::{Cause, Direction, Disposition, FaultPoint, Hook, SpanEnd};

use super::rule;

/// What happens to the packet, where, why, and the cause's name.
pub(crate) fn sentence(fault: &FaultPoint) -> String {
    let whose = match fault.direction {
        Direction::Forward => "",
        Direction::Return => "the answer is ",
    };
    format!("{whose}{} {}: {} ({})", fate(fault), place(fault), why(fault), fault.cause)
}

/// What happens to it.
fn fate(fault: &FaultPoint) -> &'static str {
    match (fault.cause, fault.cause.fate()) {
        (Cause::WrongReceiver | Cause::WrongRoute, _) => "led astray",
        (Cause::AnswerMismatch, _) => "refused",
        (Cause::SendFailed, _) => "not sent",
        (_, Disposition::Rejected) => "rejected",
        (_, Disposition::NoRoute | Disposition::NeighbourUnreachable) => "stopped",
        (_, Disposition::Loop) => "going in circles",
        (Cause::SilentLoss, _) => "lost",
        _ if fault.span.is_some() => "lost",
        _ => "dropped",
    }
}

/// Where.
fn place(fault: &FaultPoint) -> String {
    let pod = fault.pod.as_ref().map(|pod| format!(" in pod {pod}")).unwrap_or_default();
    // Of what died by a cause that is known, the place is known too.
    let vanished = fault.hook == Hook::Wire
        || fault.rule.is_none() && matches!(fault.cause, Cause::SilentLoss | Cause::Unknown);
    if let Some(span) = fault.span.as_ref().filter(|_| vanished) {
        let (last, first) = (&span.last_seen, &span.first_missing);
        return if last.node == first.node {
            format!("on {} between {} and {}", last.node, hook(last), hook(first))
        } else {
            let end = |end: &SpanEnd| format!("{} ({})", end.node, hook(end));
            format!("between {} and {}", end(last), end(first))
        };
    }
    let at = |words: &str, preposition: &str| match &fault.device {
        Some(device) => format!("{words} {preposition} {device}"),
        None => words.to_owned(),
    };
    let hook = match fault.hook {
        Hook::Inject => "at the sending socket".to_owned(),
        Hook::Route => "at the routing decision".to_owned(),
        Hook::NetfilterPrerouting => "in netfilter prerouting".to_owned(),
        Hook::NetfilterInput => "in netfilter input".to_owned(),
        Hook::NetfilterForward => "in netfilter forward".to_owned(),
        Hook::NetfilterOutput => "in netfilter output".to_owned(),
        Hook::NetfilterPostrouting => "in netfilter postrouting".to_owned(),
        Hook::Neighbour => at("at the neighbour lookup", "on"),
        Hook::Qdisc => at("in the queue", "of"),
        Hook::DriverTx => at("on the way out", "by"),
        Hook::DriverRx => at("on the way in", "by"),
        Hook::Bridge => {
            fault.device.as_ref().map_or("in the bridge".into(), |name| format!("in bridge {name}"))
        }
        Hook::Tunnel => {
            fault.device.as_ref().map_or("in the tunnel".into(), |name| format!("in tunnel {name}"))
        }
        Hook::Wire => at("on the wire", "behind"),
        Hook::Socket => "at the socket".to_owned(),
        Hook::Ip => "in the IP layer".to_owned(),
    };
    format!("on {}{pod} {hook}", fault.node)
}

/// `driver-tx eth0`
fn hook(end: &SpanEnd) -> String {
    let device = end.device.as_ref().map(|device| format!(" {device}")).unwrap_or_default();
    format!("{}{device}", end.hook)
}

/// Why. Where a rule decided, that it did says more than its cause.
fn why(fault: &FaultPoint) -> String {
    if let Some(rule) = &fault.rule {
        return rule::sentence(rule);
    }
    let device = fault.device.as_deref().unwrap_or("the device");
    let words = match fault.cause {
        Cause::FilterDrop => "netfilter drops it, by a rule or policy that was not seen",
        Cause::FilterReject => "netfilter rejects it, by a rule that was not seen",
        Cause::ServiceWithoutEndpoints => "the Service has no ready endpoint",
        Cause::ServiceWithoutLocalEndpoints => {
            "the Service's traffic policy is Local, and no ready endpoint is on this node"
        }
        Cause::NoRoute => "no route leads to its destination",
        Cause::BlackholeRoute => "the route to its destination is a blackhole",
        Cause::UnreachableRoute => "the route to its destination says unreachable",
        Cause::ProhibitRoute => "the route to its destination says prohibit",
        Cause::WrongRoute => "the route to its destination leads elsewhere",
        Cause::ForwardingDisabled => "it is for another host, and forwarding is off",
        Cause::SourceValidation => {
            return format!(
                "the reverse-path filter drops it, for the way back to its source does not lead by {device}"
            );
        }
        Cause::MartianAddress => "its source or destination may not appear here",
        Cause::TtlExpired => "its TTL ran out",
        Cause::MtuExceeded => "it is larger than the MTU and may not be fragmented",
        Cause::NeighbourUnresolved => "the next hop does not tell its link-layer address",
        Cause::WrongNeighbour => "the link-layer address in use is not the next hop's",
        Cause::DeviceDown => return format!("{device} is down"),
        Cause::NoCarrier => return format!("{device} has no carrier, as when its other end is down"),
        Cause::QueueDrop => "the queueing discipline drops it, being full or made to",
        Cause::BridgePort => "the bridge has no port that forwards it",
        Cause::TunnelNoRemote => "the tunnel knows no remote end for its destination",
        Cause::TunnelUnknownVni => "no tunnel here has the VNI that it carries",
        Cause::TunnelDrop => "the tunnel refuses it",
        Cause::AddressMissing => "its destination address is not there",
        Cause::WrongReceiver => "somebody takes it for whom it is not meant",
        Cause::AnswerMismatch => "its addresses or ports are not those that were asked",
        Cause::NoListener => "nothing listens on its port",
        Cause::SocketQueueFull => "the socket's queue is full",
        Cause::SocketFilter => "a socket filter, cgroup program or security module refuses it",
        Cause::OtherHost => "its frame is addressed to another host",
        Cause::Malformed => "a header or checksum is wrong",
        Cause::BpfDrop => "a BPF program drops it",
        Cause::RoutingLoop => "it comes back to where it had been",
        Cause::SilentLoss => "no kernel reports a drop",
        Cause::KernelDrop => return by_the_kernel(fault),
        Cause::SendFailed => match &fault.reason {
            Some(reason) => return format!("the system call says {reason}"),
            None => "the system call fails",
        },
        Cause::Unknown => "nothing that was watched tells why",
    };
    words.to_owned()
}

/// What the kernel says of a drop that no other cause names.
fn by_the_kernel(fault: &FaultPoint) -> String {
    match (&fault.function, &fault.reason) {
        (Some(function), Some(reason)) => format!("the kernel drops it in {function}, reason {reason}"),
        (Some(function), None) => format!("the kernel drops it in {function} and gives no reason"),
        (None, Some(reason)) => format!("the kernel drops it, reason {reason}"),
        (None, None) => "the kernel drops it and gives no reason".to_owned(),
    }
}
