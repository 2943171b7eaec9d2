//! What to do about a fault: one table from cause to a text with the commands to look with. A drop that has no cause
//! of its own is told by what the kernel's reason for it means.

use std::net::IpAddr;

use waymark_proto::texts::object;
use waymark_proto::{
    AnomalyKind, Arg, Cause, FaultPoint, Flow, Hook, NetnsName, Place, RuleRef, Span, Text, text,
};

use crate::reasons::{self, NO_REASON};

/// The next step for a fault of this cause at this place, about this flow.
pub fn advice(fault: &FaultPoint, flow: &Flow) -> Text {
    let node = &fault.node;
    let place = match fault.netns.pod() {
        // Which path that namespace has, if any, is the container runtime's affair.
        Some(pod) => text!(advice::InPod { node, pod }),
        None => text!(advice::AtNode { node }),
    };
    let device = fault.device.as_deref().unwrap_or("DEVICE");
    let (dst, src) = (flow.dst, flow.src);
    let family = if flow.is_ipv6() { "-6 " } else { "" };
    let enter = entering(&fault.netns);
    let route = format!("{enter}ip {family}route get {dst} from {src}");
    match fault.cause {
        Cause::FilterDrop | Cause::FilterReject => match &fault.rule {
            Some(rule) => text!(advice::FilterRule { place, look: look_at_rule(rule, &fault.netns) }),
            None => text!(advice::FilterUnseen { place, enter }),
        },
        Cause::ServiceWithoutEndpoints => text!(advice::ServiceWithoutEndpoints),
        Cause::ServiceWithoutLocalEndpoints => text!(advice::ServiceWithoutLocalEndpoints { place }),
        Cause::NoRoute if fault.is_about::<object::NoLocalRoute>() => {
            text!(advice::LocalRoute { place, enter, family, dst, device })
        }
        Cause::NoRoute => text!(advice::NoRoute { place, route }),
        Cause::BlackholeRoute | Cause::UnreachableRoute | Cause::ProhibitRoute => {
            // Rules can ask for the protocol and the ports too.
            let route = format!("{route}{}", selecting(flow));
            text!(advice::RefusingRoute { place, route, enter, family })
        }
        Cause::WrongRoute => text!(advice::WrongRoute { place, route, dst }),
        Cause::ForwardingDisabled => {
            let all = if flow.is_ipv6() { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" };
            // The prediction names the one that is off.
            let key = fault.object.as_deref().and_then(|object| object.strip_suffix(" = 0")).unwrap_or(all);
            text!(advice::ForwardingDisabled { place, enter, key })
        }
        Cause::SourceValidation => text!(advice::SourceValidation { place, src, device, enter, family }),
        Cause::MartianAddress => text!(advice::MartianAddress { place, src, dst, enter }),
        Cause::TtlExpired => text!(advice::TtlExpired { place, route }),
        Cause::MtuExceeded if fault.is_about::<object::NarrowEnd>() => {
            text!(advice::NarrowEnd { place, enter })
        }
        Cause::MtuExceeded => text!(advice::MtuExceeded { place, enter }),
        Cause::NeighbourUnresolved => text!(advice::NeighbourUnresolved { place, enter, device }),
        Cause::WrongNeighbour if fault.is_about::<object::MisledNeighbour>() => {
            text!(advice::MisledNeighbour { place, enter, device })
        }
        Cause::WrongNeighbour => text!(advice::WrongNeighbour { place, enter, device }),
        Cause::DeviceDown => text!(advice::DeviceDown { place, enter, device }),
        Cause::NoCarrier => text!(advice::NoCarrier { place, enter, device }),
        Cause::QueueDrop => text!(advice::QueueDrop { place, enter, device }),
        Cause::BridgePort => text!(advice::BridgePort { place, enter }),
        Cause::TunnelNoRemote => text!(advice::TunnelNoRemote { place, enter, device }),
        Cause::TunnelUnknownVni => text!(advice::TunnelUnknownVni { place, enter }),
        Cause::TunnelDrop => text!(advice::TunnelDrop { place, enter, device }),
        Cause::AddressMissing => {
            text!(advice::AddressMissing { place, enter, dst: lost(fault).unwrap_or(dst) })
        }
        Cause::WrongReceiver => wrong_receiver(fault, &place, enter, dst),
        Cause::NobodysAddress => nobodys_address(fault, place, enter, dst),
        Cause::Rewritten => match fault.span.as_ref().filter(|_| fault.hook == Hook::Wire) {
            Some(Span { last_seen, first_missing }) => {
                text!(advice::RewrittenBetween { from: &last_seen.node, to: &first_missing.node })
            }
            None => text!(advice::Rewritten { place, enter, device }),
        },
        Cause::NoFreePort => {
            let look = look_at(fault, &enter);
            text!(advice::NoFreePort { place, enter, look })
        }
        Cause::AnswerMismatch => text!(advice::AnswerMismatch { place, enter }),
        Cause::NoListener if fault.is_about::<object::ListensOnDevice>() => {
            text!(advice::ListenerOnDevice { place, enter, port: flow.dst_port })
        }
        Cause::NoListener if flow.protocol.has_ports() => {
            text!(advice::NoListener { place, enter, port: flow.dst_port })
        }
        Cause::NoListener => text!(advice::NoRawListener { place, enter }),
        Cause::SocketQueueFull => text!(advice::SocketQueueFull { place, enter }),
        Cause::SocketFilter => text!(advice::SocketFilter { place, enter }),
        Cause::SocketOption if fault.reason.as_deref() == Some(TOO_FAR) => {
            text!(advice::SocketTtl { place, enter })
        }
        Cause::SocketOption => {
            let meaning = fault.reason.as_deref().and_then(reasons::in_words);
            text!(advice::SocketOption { place, enter, meaning })
        }
        Cause::EchoIgnored => {
            let all = if flow.is_ipv6() {
                "net.ipv6.icmp.echo_ignore_all"
            } else {
                "net.ipv4.icmp_echo_ignore_all"
            };
            text!(advice::EchoIgnored { place, enter, key: all })
        }
        Cause::OtherHost => text!(advice::OtherHost { node }),
        Cause::Malformed => text!(advice::Malformed { place, enter, device }),
        Cause::BpfDrop => text!(advice::BpfDrop { place, enter, device }),
        Cause::RoutingLoop => text!(advice::RoutingLoop { route }),
        Cause::SilentLoss => match &fault.span {
            Some(span) => text!(advice::SilentLossBetween {
                from: &span.last_seen.node,
                to: &span.first_missing.node,
                enter,
                device,
            }),
            None => text!(advice::SilentLossBehind { place, enter, device }),
        },
        Cause::KernelDrop => by_reason(fault, place, enter, route),
        Cause::SendFailed => text!(advice::SendFailed { place, route }),
        Cause::Unknown => text!(advice::Unknown { place, route, enter }),
    }
}

/// What makes `ip route get` look up a flow as the kernel does for its packets.
fn selecting(flow: &Flow) -> String {
    let protocol = flow.protocol.number(flow.is_ipv6());
    if flow.protocol.has_ports() {
        format!(" ipproto {protocol} sport {} dport {}", flow.src_port, flow.dst_port)
    } else {
        format!(" ipproto {protocol}")
    }
}

/// The next step for a drop that has no cause of its own: what its reason means is all there is.
fn by_reason(fault: &FaultPoint, place: Text, enter: String, route: String) -> Text {
    let reason = fault.reason.as_deref().unwrap_or(NO_REASON);
    let discards = fault.function.as_deref().is_some_and(|function| function.starts_with(DISCARDS));
    if reason == BY_POLICY {
        return text!(advice::IpsecPolicy { place, enter });
    }
    if reason == NO_REASON && discards {
        return text!(advice::RouteDiscards { place, route, enter });
    }
    if let Some(meaning) = reasons::in_words(reason).filter(|_| reason != NO_REASON) {
        return text!(advice::KernelReason { place, enter, reason, meaning });
    }
    let function = fault.function.as_deref().map_or_else(|| text!(advice::UnknownFunction), Text::verbatim);
    text!(advice::KernelDrop { place, enter, reason, function })
}

/// The address that its host has lost, which need not be the packet's: it may be that of a tunnel around it.
fn lost(fault: &FaultPoint) -> Option<IpAddr> {
    let object = fault.object.as_ref().filter(|object| object.is::<object::AddressOfNoDevice>())?;
    match object.arg("ip")? {
        Arg::Name(ip) => ip.parse().ok(),
        _ => None,
    }
}

/// The command that shows the rule of a fault, or all of them if it is not known.
fn look_at(fault: &FaultPoint, enter: &str) -> String {
    fault
        .rule
        .as_ref()
        .map_or_else(|| format!("{enter}nft list ruleset"), |rule| look_at_rule(rule, &fault.netns))
}

/// A rule gave the packet the address, or none gave it another.
fn nobodys_address(fault: &FaultPoint, place: Text, enter: String, ip: IpAddr) -> Text {
    if fault.is_about::<object::Untranslated>() {
        text!(advice::Untranslated { place, enter, ip })
    } else if fault.is_about::<object::NoSuchPort>() {
        text!(advice::NoSuchPort { ip })
    } else {
        text!(advice::NobodysAddress { place, look: look_at(fault, &enter), ip })
    }
}

/// What to look at depends on which kind of step led it astray.
fn wrong_receiver(fault: &FaultPoint, place: &Text, enter: String, dst: IpAddr) -> Text {
    let device = fault.device.as_deref().unwrap_or("DEVICE");
    match (fault.hook, &fault.rule) {
        (_, Some(rule)) => text!(advice::TakenByRule { place, look: look_at_rule(rule, &fault.netns), dst }),
        (Hook::Bridge, None) => text!(advice::WrongPort { place, enter, device, dst }),
        (Hook::DriverRx | Hook::DriverTx | Hook::Qdisc, None) => {
            text!(advice::Diverted { place, enter, device, dst })
        }
        (hook, None) if hook.is_netfilter() => {
            text!(advice::TakenByRule { place, look: format!("{enter}nft list ruleset"), dst })
        }
        (_, None) => text!(advice::WrongReceiver { place, enter, dst }),
    }
}

/// What the kernel says of a policy of `IPsec`.
const BY_POLICY: &str = "XFRM_POLICY";
/// What it says of a packet that came over more routers than its socket allows.
const TOO_FAR: &str = "TCP_MINTTL";
/// How its functions begin that routes and policies have packets discarded by.
const DISCARDS: &str = "dst_discard";

/// The next step for what happens to packets that arrive.
pub(crate) fn of_anomaly(
    kind: AnomalyKind,
    hook: Hook,
    place: &Place,
    device: Option<&str>,
    span: &Span,
) -> Text {
    let (node, device) = (&place.node, device.unwrap_or("DEVICE"));
    let enter = entering(&place.netns);
    match (kind, hook) {
        (_, Hook::Wire) => text!(advice::AnomalyOnWire {
            from: &span.last_seen.node,
            to: &span.first_missing.node,
            enter,
            device,
        }),
        (_, Hook::Qdisc) => text!(advice::AnomalyInQueue { node, enter, device }),
        (AnomalyKind::Delay, Hook::Socket) => text!(advice::DelayInReceiver { node }),
        (AnomalyKind::Delay, _) => text!(advice::DelayInStack { node, enter }),
        (AnomalyKind::Duplication, _) => text!(advice::Duplication { node, enter, device }),
        // Another way has advice of its own, which needs the flow.
        (AnomalyKind::Reordering | AnomalyKind::OtherWay, _) => {
            text!(advice::Reordering { node, enter, device })
        }
    }
}

/// The next step for packets of a flow that arrive by another way than predicted, and came there by this device.
pub(crate) fn of_other_way(place: &Place, device: Option<&str>, flow: &Flow) -> Text {
    text!(advice::OtherWay {
        node: &place.node,
        enter: entering(&place.netns),
        family: if flow.is_ipv6() { "-6 " } else { "" },
        dst: flow.dst,
        device: device.unwrap_or("DEVICE"),
    })
}

/// The command that shows a rule of a namespace among its neighbours.
pub(crate) fn look_at_rule(rule: &RuleRef, netns: &NetnsName) -> String {
    format!("{}{}", entering(netns), listing(rule))
}

/// The command that shows a rule among its neighbours. iptables-legacy knows positions, nftables handles.
fn listing(rule: &RuleRef) -> String {
    let RuleRef { family, table, chain, .. } = rule;
    match (rule.handle, rule.position, family.as_str()) {
        (None, Some(_), "ip6") => format!("ip6tables-legacy -t {table} -vnL {chain} --line-numbers"),
        (None, Some(_), _) => format!("iptables-legacy -t {table} -vnL {chain} --line-numbers"),
        _ => format!("nft -a list chain {family} {table} {chain}"),
    }
}

/// What to put before a command to run it in a namespace.
fn entering(netns: &NetnsName) -> String {
    match netns.as_str() {
        NetnsName::HOST => String::new(),
        _ if netns.pod().is_some() => String::new(),
        path if path.starts_with('/') => format!("nsenter --net={path} "),
        name => format!("ip netns exec {name} "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn every_cause_has_advice_with_a_place_or_a_command() {
        for &cause in Cause::ALL {
            let fault = FaultPoint { cause, ..fixture::fault() };
            let text = advice(&fault, &fixture::tcp());
            assert!(text.contains('`'), "{cause}: {text}");
        }
    }

    #[test]
    fn every_reason_of_the_kernel_has_advice_of_its_cause_or_of_its_own() {
        for (reason, meaning) in reasons::all() {
            let cause = meaning.cause();
            let reason = Some(reason.to_owned());
            let fault = FaultPoint { cause, reason: reason.clone(), ..fixture::fault() };
            let text = advice(&fault, &fixture::tcp());
            let general = advice(&FaultPoint { reason: None, ..fault }, &fixture::tcp());
            assert!(text.contains('`'), "{reason:?}: {text}");
            let of_its_own = text.id() != general.id();
            let says_nothing = reason.as_deref() == Some(NO_REASON);
            assert!(cause != Cause::KernelDrop || of_its_own || says_nothing, "{reason:?}: {text}");
        }
    }

    #[test]
    fn what_ipsec_and_a_listener_that_counts_hops_refuse_is_looked_for_there() {
        let about = |cause, reason: &str| {
            let fault = FaultPoint { cause, reason: Some(reason.to_owned()), ..fixture::fault() };
            advice(&fault, &fixture::tcp())
        };
        assert!(about(Cause::KernelDrop, "XFRM_POLICY").contains("ip xfrm policy"));
        let cause = reasons::meaning(Some("TCP_MINTTL"), "tcp_v4_rcv+0x1").unwrap().cause();
        assert_eq!(cause, Cause::SocketOption);
        assert!(about(cause, "TCP_MINTTL").contains("IP_MINTTL"));
    }

    #[test]
    fn a_namespace_that_is_known_by_its_pod_is_told_in_words() {
        let netns = NetnsName::of_pod("shop", "pay-1");
        let fault = FaultPoint { cause: Cause::NoListener, netns, ..fixture::fault() };
        let text = advice(&fault, &fixture::tcp());
        assert!(text.starts_with("on node2, in the network namespace of pod shop/pay-1: "), "{text}");
        assert!(text.contains("`ss -lntu`"), "{text}");
        let fault = FaultPoint { cause: Cause::NoListener, netns: "a".into(), ..fixture::fault() };
        assert!(advice(&fault, &fixture::tcp()).contains("`ip netns exec a ss -lntu`"));
    }
}
