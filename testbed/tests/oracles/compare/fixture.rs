//! A look at one SYN that leaves a pod and that a rule of its node drops, and what the oracles say to that.

use pnet_packet::tcp::TcpFlags;
use waymark_controller::Sent;
use waymark_proto::{
    CheckId, Event, Flow, Headers, Hook, Marker, Match, Place, Protocol, RuleRef, Seq, Sighting,
};

use crate::capture::{Tapped, Way};
use crate::drops::{Freed, What};
use crate::rules::{Headers as Traces, Passage, Rule, sortable};
use crate::waymark::Look;
use crate::wire::read;

pub const FUNCTION: &str = "nft_do_chain+0x3e8";
pub const REASON: &str = "NETFILTER_DROP";
const LENGTH: u16 = 44;

fn flow() -> Flow {
    let (src, dst) = ([10, 244, 1, 10].into(), [10, 244, 2, 10].into());
    Flow { src, dst, protocol: Protocol::Tcp, src_port: 40_000, dst_port: 80 }
}

fn packet() -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, LENGTH as u8, 0, 0, 0, 0, 64, 6, 0, 0, 10, 244, 1, 10, 10, 244, 2, 10];
    bytes.extend([
        0x9c,
        0x40,
        0,
        80,
        0,
        0,
        0,
        100,
        0,
        0,
        0,
        0,
        0x60,
        TcpFlags::SYN,
        0,
        0,
        0,
        0,
        0,
        0,
        2,
        4,
        2,
        0,
    ]);
    bytes
}

pub fn sighting(netns: &str, at_ns: u64, hook: Hook, device: &str, event: Event) -> Sighting {
    let headers = Headers {
        flow: flow(),
        matched: Match::TcpSeq,
        ttl: 64,
        len: LENGTH,
        ip_id: 0,
        tcp_flags: TcpFlags::SYN,
        mark: 0,
        outer: None,
    };
    Sighting {
        place: Place::new("node1", netns),
        at_ns,
        marker: Marker { check: CheckId::new(7).unwrap(), seq: Seq(0) },
        hook,
        device: Some(device.into()),
        event,
        fragment_offset: 0,
        headers: Some(headers),
        identity: 0,
        buffer: 1,
        packet: packet(),
        metadata: waymark_proto::Metadata::default(),
    }
}

fn rule() -> RuleRef {
    RuleRef {
        family: "ip".into(),
        table: "filter".into(),
        chain: "FORWARD".into(),
        handle: Some(26),
        position: None,
        text: None,
    }
}

/// What Waymark saw.
pub fn look() -> Look {
    let dropped = Event::Dropped { reason: Some(REASON.into()), function: FUNCTION.into() };
    let verdict = Event::Verdict { rule: rule(), verdict: "drop".into() };
    let sightings = vec![
        sighting("pod", 1_000_000, Hook::Qdisc, "eth0", Event::Seen),
        sighting("pod", 1_010_000, Hook::DriverTx, "eth0", Event::Seen),
        sighting("node1", 1_030_000, Hook::DriverRx, "veth1", Event::Seen),
        sighting("node1", 1_050_000, Hook::Ip, "veth1", dropped),
        sighting("node1", 3_000_000, Hook::NetfilterPrerouting, "veth1", Event::Passed),
        sighting("node1", 3_100_000, Hook::NetfilterForward, "veth1", Event::Entered),
        sighting("node1", 3_200_000, Hook::NetfilterForward, "veth1", verdict),
    ];
    let sent = Sent {
        seq: Seq(0),
        source_port: 40_000,
        sent_ns: 990_000,
        error: None,
        size: LENGTH.into(),
        dscp: 0,
    };
    Look::new("pod".into(), ["node1".into()].into(), vec![sent], sightings)
}

/// What tcpdump saw.
pub fn tapped() -> Vec<Tapped> {
    let tap = |netns: &str, device: &str, way, at_ns| {
        let reading = read(&packet()).unwrap();
        Tapped { netns: netns.into(), device: device.into(), way, at_ns, reading }
    };
    vec![tap("pod", "eth0", Way::Out, 1_009_000), tap("node1", "veth1", Way::In, 1_025_000)]
}

/// What nft told of the node.
pub fn passages() -> Vec<Passage> {
    let rule = |chain: &str, handle| Rule {
        family: "ip".into(),
        table: "filter".into(),
        chain: chain.into(),
        handle,
    };
    let headers = Traces::Plain(sortable(&flow()));
    let passage = |hook, left, verdicts| Passage {
        netns: "node1".into(),
        table: "waymark_7_0".into(),
        hook,
        entered: headers.clone(),
        left,
        stray: false,
        tag: None,
        verdicts,
    };
    vec![
        passage(
            Hook::NetfilterPrerouting,
            Some(headers.clone()),
            vec![(rule("PREROUTING", None), "accept".into())],
        ),
        passage(Hook::NetfilterForward, None, vec![(rule("FORWARD", Some(26)), "drop".into())]),
    ]
}

/// What perf recorded.
pub fn freed() -> Vec<Freed> {
    let came = |at_ns, hook, device: &str, length: u32| {
        let what = What::Came { hook, device: device.into(), length };
        Freed { at_ns, buffer: 0xabc, what }
    };
    let what = What::Dropped { function: FUNCTION.into(), reason: REASON.into(), protocol: 0x800 };
    vec![
        came(1_000_500, Hook::Qdisc, "eth0", 58),
        came(1_010_500, Hook::DriverTx, "eth0", 58),
        came(1_030_500, Hook::DriverRx, "veth1", 44),
        Freed { at_ns: 1_050_500, buffer: 0xabc, what },
    ]
}
