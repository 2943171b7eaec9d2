//! Every cause in a sentence.

use waymark_proto::{Cause, FaultPoint, RuleRef, Span, SpanEnd};

use super::*;

/// A place where each cause is met.
const PLACES: &[(Cause, Hook, Option<&str>)] = &[
    (Cause::FilterDrop, Hook::NetfilterForward, Some("eth0")),
    (Cause::FilterReject, Hook::NetfilterInput, Some("eth0")),
    (Cause::ServiceWithoutEndpoints, Hook::NetfilterForward, Some("cni0")),
    (Cause::ServiceWithoutLocalEndpoints, Hook::NetfilterPrerouting, Some("eth0")),
    (Cause::NoRoute, Hook::Route, None),
    (Cause::BlackholeRoute, Hook::Route, None),
    (Cause::UnreachableRoute, Hook::Route, None),
    (Cause::ProhibitRoute, Hook::Route, None),
    (Cause::WrongRoute, Hook::Route, Some("eth1")),
    (Cause::ForwardingDisabled, Hook::Route, None),
    (Cause::SourceValidation, Hook::Route, Some("eth0")),
    (Cause::MartianAddress, Hook::Route, None),
    (Cause::TtlExpired, Hook::Ip, None),
    (Cause::MtuExceeded, Hook::Ip, None),
    (Cause::NeighbourUnresolved, Hook::Neighbour, Some("eth0")),
    (Cause::WrongNeighbour, Hook::Neighbour, Some("cni0")),
    (Cause::DeviceDown, Hook::Qdisc, Some("eth0")),
    (Cause::NoCarrier, Hook::Qdisc, Some("veth1")),
    (Cause::QueueDrop, Hook::Qdisc, Some("eth0")),
    (Cause::BridgePort, Hook::Bridge, Some("cni0")),
    (Cause::TunnelNoRemote, Hook::Tunnel, Some("flannel.1")),
    (Cause::TunnelUnknownVni, Hook::Tunnel, None),
    (Cause::TunnelDrop, Hook::Tunnel, Some("flannel.1")),
    (Cause::AddressMissing, Hook::Route, Some("eth0")),
    (Cause::WrongReceiver, Hook::Socket, None),
    (Cause::NobodysAddress, Hook::NetfilterPrerouting, Some("cni0")),
    (Cause::Rewritten, Hook::DriverRx, Some("veth1")),
    (Cause::NoFreePort, Hook::NetfilterPostrouting, Some("eth0")),
    (Cause::AnswerMismatch, Hook::Socket, None),
    (Cause::NoListener, Hook::Socket, None),
    (Cause::SocketQueueFull, Hook::Socket, None),
    (Cause::SocketFilter, Hook::Socket, None),
    (Cause::SocketOption, Hook::Socket, None),
    (Cause::EchoIgnored, Hook::Socket, None),
    (Cause::OtherHost, Hook::DriverRx, Some("eth0")),
    (Cause::Malformed, Hook::Ip, None),
    (Cause::BpfDrop, Hook::DriverTx, Some("eth0")),
    (Cause::RoutingLoop, Hook::Route, None),
    (Cause::SilentLoss, Hook::DriverRx, Some("eth0")),
    (Cause::KernelDrop, Hook::Ip, None),
    (Cause::SendFailed, Hook::Inject, None),
    (Cause::Unknown, Hook::NetfilterPostrouting, Some("eth0")),
];

/// The fault of `unreachable`, with another cause.
fn fault(cause: Cause) -> FaultPoint {
    let (_, hook, device) =
        PLACES.iter().find(|(known, ..)| *known == cause).expect("a place for each cause");
    FaultPoint {
        cause,
        hook: *hook,
        device: device.map(Into::into),
        rule: None,
        reason: None,
        function: None,
        ..unreachable().fault_point.unwrap()
    }
}

#[test]
fn every_cause_reads_like_this() {
    let causes: Vec<Text> = Cause::ALL.iter().map(|&cause| fault_in_words(&fault(cause))).collect();

    let text = "-A WM-FW -s 10.1.0.0/16 -p tcp -m tcp --dport 80 -j DROP";
    let rule = |position, text: Option<&str>| {
        let (family, table, chain) = ("ip".into(), "filter".into(), "WM-FW".into());
        Some(RuleRef { family, table, chain, handle: None, position, text: text.map(Into::into) })
    };
    let drop = fault(Cause::FilterDrop);
    let of_the_answer = FaultPoint { direction: Direction::Return, ..drop.clone() };
    let end = |node: &str, hook| SpanEnd {
        node: node.into(),
        netns: "host".into(),
        hook,
        device: Some("eth0".into()),
    };
    let span = Span { last_seen: end("node1", Hook::DriverTx), first_missing: end("node2", Hook::DriverRx) };
    let within =
        Span { last_seen: end("node2", Hook::DriverRx), first_missing: end("node2", Hook::NetfilterForward) };
    let told = |reason: &str, function: Option<&str>, cause| FaultPoint {
        reason: Some(reason.into()),
        function: function.map(Into::into),
        ..fault(cause)
    };
    let special = [
        FaultPoint { rule: rule(Some(14), Some(text)), ..drop.clone() },
        FaultPoint { rule: rule(Some(14), Some("-A WM-FW -m quota --quota 0 -j DROP")), ..drop.clone() },
        FaultPoint { rule: rule(None, None), ..drop },
        FaultPoint { rule: rule(Some(14), Some(text)), ..of_the_answer },
        FaultPoint { pod: Some("shop/stock".into()), ..fault(Cause::NoListener) },
        FaultPoint { hook: Hook::Wire, span: Some(span), ..fault(Cause::SilentLoss) },
        FaultPoint { span: Some(within), ..fault(Cause::SilentLoss) },
        told("TCP_ZEROWINDOW", Some("tcp_data_queue+0x91"), Cause::KernelDrop),
        told("EPERM", None, Cause::SendFailed),
        told("TCP_MINTTL", Some("tcp_v4_rcv+0x91"), Cause::SocketOption),
        told("TCP_MD5NOTFOUND", Some("tcp_v4_rcv+0x91"), Cause::SocketOption),
        told("TCP_AOKEYNOTFOUND", Some("tcp_v4_rcv+0x91"), Cause::SocketOption),
    ];
    let special: Vec<Text> = special.iter().map(fault_in_words).collect();
    for (language, name) in [(Language::En, "faults.txt"), (Language::Zh, "faults.zh.txt")] {
        let said = |texts: &[Text]| texts.iter().map(|text| text.say(language)).collect::<Vec<_>>();
        let lines = [said(&causes), vec![String::new()], said(&special)].concat();
        for line in &lines {
            assert!(!line.contains('\n') && !line.ends_with(['.', '。']), "{line}");
        }
        golden(name, &(lines.join("\n") + "\n"));
    }
}
