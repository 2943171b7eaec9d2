//! A cluster of two nodes for tests.

use waymark_proto::{
    Action, Cause, CheckId, Confidence, Direction, Disposition, Event, FaultPoint, Flow, Headers, Hook,
    HookReport, Inventory, Marker, Match, Observability, Outer, Path, Place, Protocol, RuleRef, Seq,
    Sighting, Span, SpanEnd, Step, Text,
};

use crate::diagnose::Sight;

pub(crate) fn inventory() -> Inventory {
    Inventory::from_json(
        br#"{
        "nodes": [
            {"name":"node1","netns":"t-node1","ip":"172.18.0.1","uplink":"eth0","podCidr":"10.1.1.0/24"},
            {"name":"node2","netns":"t-node2","ip":"172.18.0.2","uplink":"eth0","podCidr":"10.1.2.0/24"}
        ],
        "pods": [
            {"namespace":"shop","name":"cart","node":"node1","netns":"t-cart","ip":"10.1.1.2"},
            {"namespace":"shop","name":"pay","node":"node2","netns":"t-pay","ip":"10.1.2.2"}
        ],
        "services": [
            {"namespace":"shop","name":"pay","clusterIP":"10.96.0.10","port":80,"backends":[{"ip":"10.1.2.2","port":80}]},
            {"namespace":"shop","name":"pay","clusterIP":"10.96.0.10","port":53,"protocol":"udp","backends":[{"ip":"10.1.2.2","port":53}]}
        ]}"#,
    )
    .expect("the inventory of tests is valid")
}

/// The same with a pod on each node that has no part in what is asked.
pub(crate) fn inventory_with_strangers() -> Inventory {
    let mut inventory = inventory();
    for (index, (name, ip)) in [("front", "10.1.1.3"), ("stock", "10.1.2.3")].into_iter().enumerate() {
        let mut pod = inventory.pods[index].clone();
        (pod.name, pod.netns) = (name.into(), format!("t-{name}").as_str().into());
        pod.ip = ip.parse().expect("an address");
        inventory.pods.push(pod);
    }
    inventory
}

pub(crate) fn tcp() -> Flow {
    Flow {
        src: "10.1.1.2".parse().expect("an address"),
        dst: "10.1.2.2".parse().expect("an address"),
        protocol: Protocol::Tcp,
        src_port: 61000,
        dst_port: 80,
    }
}

pub(crate) fn fault() -> FaultPoint {
    FaultPoint {
        node: "node2".into(),
        netns: "t-node2".into(),
        pod: None,
        device: Some("eth0".into()),
        hook: Hook::NetfilterForward,
        direction: Direction::Forward,
        span: None,
        cause: Cause::FilterDrop,
        reason: None,
        function: None,
        rule: None,
        object: None,
        culprit: None,
        advice: Text::default(),
        ground: None,
        confidence: Confidence::High,
        evidence: Vec::new(),
    }
}

/// A fault between the nodes.
pub(crate) fn wire() -> FaultPoint {
    let end = |node: &str, hook| SpanEnd {
        node: node.into(),
        netns: format!("t-{node}").as_str().into(),
        hook,
        device: Some("eth0".to_owned()),
    };
    let span = Span { last_seen: end("node1", Hook::DriverTx), first_missing: end("node2", Hook::DriverRx) };
    FaultPoint {
        hook: Hook::Wire,
        cause: Cause::SilentLoss,
        span: Some(span),
        confidence: Confidence::Medium,
        ..fault()
    }
}

/// The way of a TCP SYN from `shop/cart` to `shop/pay` with bridges and plain routes between nodes: node,
/// namespace, hook, device, action.
pub(crate) const THERE: &str = "
    node1 t-cart inject - injected
    node1 t-cart route eth0 forwarded
    node1 t-cart netfilter-output eth0 forwarded
    node1 t-cart netfilter-postrouting eth0 forwarded
    node1 t-cart neighbour eth0 forwarded
    node1 t-cart qdisc eth0 forwarded
    node1 t-cart driver-tx eth0 forwarded
    node1 t-node1 driver-rx vethcart forwarded
    node1 t-node1 bridge cni0 forwarded
    node1 t-node1 driver-rx cni0 forwarded
    node1 t-node1 netfilter-prerouting cni0 forwarded
    node1 t-node1 route eth0 forwarded
    node1 t-node1 netfilter-forward cni0 forwarded
    node1 t-node1 netfilter-postrouting eth0 forwarded
    node1 t-node1 neighbour eth0 forwarded
    node1 t-node1 qdisc eth0 forwarded
    node1 t-node1 driver-tx eth0 forwarded
    node1 t-node1 wire eth0 forwarded
    node2 t-node2 driver-rx eth0 forwarded
    node2 t-node2 netfilter-prerouting eth0 forwarded
    node2 t-node2 route cni0 forwarded
    node2 t-node2 netfilter-forward eth0 forwarded
    node2 t-node2 netfilter-postrouting cni0 forwarded
    node2 t-node2 neighbour cni0 forwarded
    node2 t-node2 qdisc cni0 forwarded
    node2 t-node2 driver-tx cni0 forwarded
    node2 t-node2 bridge cni0 forwarded
    node2 t-node2 qdisc vethpay forwarded
    node2 t-node2 driver-tx vethpay forwarded
    node2 t-pay driver-rx eth0 forwarded
    node2 t-pay netfilter-prerouting eth0 forwarded
    node2 t-pay route lo forwarded
    node2 t-pay netfilter-input eth0 forwarded
    node2 t-pay socket - delivered";

/// The way of its answer.
pub(crate) const BACK: &str = "
    node2 t-pay route eth0 forwarded
    node2 t-pay netfilter-output eth0 forwarded
    node2 t-pay netfilter-postrouting eth0 forwarded
    node2 t-pay neighbour eth0 forwarded
    node2 t-pay qdisc eth0 forwarded
    node2 t-pay driver-tx eth0 forwarded
    node2 t-node2 driver-rx vethpay forwarded
    node2 t-node2 bridge cni0 forwarded
    node2 t-node2 driver-rx cni0 forwarded
    node2 t-node2 netfilter-prerouting cni0 forwarded
    node2 t-node2 route eth0 forwarded
    node2 t-node2 netfilter-forward cni0 forwarded
    node2 t-node2 netfilter-postrouting eth0 forwarded
    node2 t-node2 neighbour eth0 forwarded
    node2 t-node2 qdisc eth0 forwarded
    node2 t-node2 driver-tx eth0 forwarded
    node2 t-node2 wire eth0 forwarded
    node1 t-node1 driver-rx eth0 forwarded
    node1 t-node1 netfilter-prerouting eth0 forwarded
    node1 t-node1 route cni0 forwarded
    node1 t-node1 netfilter-forward eth0 forwarded
    node1 t-node1 netfilter-postrouting cni0 forwarded
    node1 t-node1 neighbour cni0 forwarded
    node1 t-node1 qdisc cni0 forwarded
    node1 t-node1 driver-tx cni0 forwarded
    node1 t-node1 bridge cni0 forwarded
    node1 t-node1 qdisc vethcart forwarded
    node1 t-node1 driver-tx vethcart forwarded
    node1 t-cart driver-rx eth0 forwarded
    node1 t-cart netfilter-prerouting eth0 forwarded
    node1 t-cart route lo forwarded
    node1 t-cart netfilter-input eth0 forwarded
    node1 t-cart socket - delivered";

/// The middle of the way there when the nodes are joined by VXLAN; `*` marks encapsulated steps.
pub(crate) const TUNNEL: &str = "
    node1 t-node1 route flannel.1 forwarded
    node1 t-node1 netfilter-forward cni0 forwarded
    node1 t-node1 netfilter-postrouting flannel.1 forwarded
    node1 t-node1 neighbour flannel.1 forwarded
    node1 t-node1 qdisc flannel.1 forwarded
    node1 t-node1 driver-tx flannel.1 forwarded
    node1 t-node1 tunnel flannel.1 encapsulated *
    node1 t-node1 route eth0 forwarded *
    node1 t-node1 netfilter-output eth0 forwarded *
    node1 t-node1 netfilter-postrouting eth0 forwarded *
    node1 t-node1 neighbour eth0 forwarded *
    node1 t-node1 qdisc eth0 forwarded *
    node1 t-node1 driver-tx eth0 forwarded *
    node1 t-node1 wire eth0 forwarded *
    node2 t-node2 driver-rx eth0 forwarded *
    node2 t-node2 netfilter-prerouting eth0 forwarded *
    node2 t-node2 route lo forwarded *
    node2 t-node2 netfilter-input eth0 forwarded *
    node2 t-node2 tunnel flannel.1 decapsulated
    node2 t-node2 driver-rx flannel.1 forwarded
    node2 t-node2 netfilter-prerouting flannel.1 forwarded
    node2 t-node2 route cni0 forwarded
    node2 t-node2 netfilter-forward flannel.1 forwarded";

/// The way there through the tunnel.
pub(crate) fn there_by_tunnel() -> String {
    let lines: Vec<&str> = THERE.lines().collect();
    let until =
        |hook: &str| lines.iter().position(|line| line.contains(hook)).expect("a step of the way there");
    let (start, end) = (until("t-node1 route"), until("t-node2 netfilter-forward"));
    [&lines[..start], &[TUNNEL], &lines[end + 1..]].concat().join("\n")
}

/// The steps of such a text.
pub(crate) fn steps(text: &str, flow: Flow) -> Vec<Step> {
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let json = |word: &str| format!("\"{word}\"");
        let hook = serde_json::from_str(&json(words[2])).expect("a hook");
        let action = serde_json::from_str(&json(words[4])).expect("an action");
        let mut step = Step::new(Place::new(words[0], words[1]), hook, action);
        step.device = Some(words[3].to_owned()).filter(|device| device != "-");
        step.flow = Some(flow);
        step.outer = words.get(5).map(|_| outer());
        step
    };
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(parse).collect()
}

fn outer() -> Outer {
    Outer {
        kind: "vxlan".into(),
        src: "172.18.0.1".parse().expect("an address"),
        dst: "172.18.0.2".parse().expect("an address"),
        vni: Some(1),
    }
}

/// The same steps, of which this one and those behind it have another flow; a hook of netfilter that changes it does so
/// by a rule.
pub(crate) fn changed(mut steps: Vec<Step>, netns: &str, hook: Hook, device: &str, flow: Flow) -> Vec<Step> {
    let here = |step: &Step| {
        step.place.netns.as_str() == netns && step.hook == hook && step.device.as_deref() == Some(device)
    };
    let index = steps.iter().position(here).unwrap_or_else(|| panic!("no {netns} {hook} {device}"));
    if hook.is_netfilter() {
        steps[index].action = Action::Translated;
        steps[index].rule = Some(RuleRef {
            family: "ip".to_owned(),
            table: "nat".to_owned(),
            chain: "TEST".to_owned(),
            handle: Some(7),
            position: None,
            text: None,
        });
    }
    for step in &mut steps[index..] {
        step.flow = Some(flow);
    }
    steps
}

/// The steps up to the first at this namespace, hook and device, which ends them for this cause.
pub(crate) fn ending(mut steps: Vec<Step>, netns: &str, hook: Hook, device: &str, cause: Cause) -> Vec<Step> {
    let here = |step: &Step| {
        step.place.netns.as_str() == netns
            && step.hook == hook
            && step.device.as_deref().unwrap_or("-") == device
    };
    let index = steps.iter().position(here).unwrap_or_else(|| panic!("no {netns} {hook} {device}"));
    steps.truncate(index + 1);
    let rejected = cause.fate() == Disposition::Rejected;
    steps[index].action = if rejected { Action::Rejected } else { Action::Dropped };
    steps[index].cause = Some(cause);
    steps
}

/// A path of steps that end it as their last one says.
pub(crate) fn path(steps: Vec<Step>) -> Path {
    let disposition = steps.last().and_then(|last| last.cause).map_or(Disposition::Delivered, Cause::fate);
    Path::new(disposition, steps).expect("a path of the right shape")
}

/// What agents sight of a packet on these steps. Clocks lie as they do in life: nodes count from other times,
/// and rule traces are stamped late.
pub(crate) fn sightings(steps: &[Step], seq: u32, back: bool) -> Vec<Sighting> {
    let (mut found, mut ttl) = (Vec::new(), 64);
    for (index, step) in steps.iter().enumerate() {
        if step.hook == Hook::NetfilterForward {
            ttl -= 1;
        }
        let start = if step.place.node.as_str() == "node1" { 9_000_000 } else { 1_000_000 };
        let at_ns = start + if back { 100_000 } else { 0 } + index as u64 * 1000;
        let sighting = |event, late| sighting(step, seq, back, ttl, at_ns + late, event);
        match step.hook {
            Hook::DriverRx => {
                found.push(sighting(Event::Arrived, 0));
                found.push(sighting(Event::Seen, 1));
            }
            Hook::Qdisc | Hook::DriverTx => found.push(sighting(Event::Seen, 0)),
            hook if hook.is_netfilter() && step.outer.is_none() => {
                if step.action == Action::Forwarded {
                    found.push(sighting(Event::Passed, 50_001));
                    continue;
                }
                let mut entered = sighting(Event::Entered, 50_000);
                let another = |before: &Step| before.flow.filter(|flow| Some(*flow) != step.flow);
                let before = steps[..index].iter().rev().find_map(another);
                if let (Action::Translated, Some(before), Some(headers)) =
                    (step.action, before, &mut entered.headers)
                {
                    headers.flow = before;
                }
                found.push(entered);
                let verdict =
                    |rule: &RuleRef| Event::Verdict { rule: rule.clone(), verdict: "accept".into() };
                found.extend(step.rule.as_ref().map(|rule| sighting(verdict(rule), 50_000)));
                if step.cause.is_none() {
                    found.push(sighting(Event::Left, 50_001));
                }
            }
            _ => {}
        }
    }
    found
}

/// A drop that the kernel reports at a step.
pub(crate) fn drop_at(step: &Step, seq: u32, back: bool, reason: &str, function: &str) -> Sighting {
    let start = if step.place.node.as_str() == "node1" { 9_000_000 } else { 1_000_000 };
    let event = Event::Dropped { reason: Some(reason.to_owned()), function: function.to_owned() };
    let at_ns = start + 99_000 + if back { 100_000 } else { 0 };
    Sighting { hook: Hook::Ip, ..sighting(step, seq, back, 1, at_ns, event) }
}

/// A function of the kernel that is called at a step.
pub(crate) fn call_at(step: &Step, seq: u32, function: &str, answer: Option<&str>) -> Sighting {
    let start = if step.place.node.as_str() == "node1" { 9_000_000 } else { 1_000_000 };
    let event = Event::Called { function: function.to_owned(), answer: answer.map(str::to_owned) };
    sighting(step, seq, false, 1, start + 98_000, event)
}

fn sighting(step: &Step, seq: u32, back: bool, ttl: u8, at_ns: u64, event: Event) -> Sighting {
    let flow = step.flow.expect("steps of tests have flows");
    let matched = match (flow.protocol, back) {
        (Protocol::Tcp, false) => Match::TcpSeq,
        (Protocol::Tcp, true) => Match::TcpAck,
        (Protocol::Icmp, true) => Match::EchoReply,
        _ => Match::Tag,
    };
    Sighting {
        place: step.place.clone(),
        at_ns,
        marker: Marker { check: CheckId::new(7).expect("not zero"), seq: Seq(seq) },
        hook: step.hook,
        device: step.device.clone(),
        event,
        fragment_offset: 0,
        headers: Some(Headers {
            flow,
            matched,
            ttl,
            len: 60,
            ip_id: 0,
            tcp_flags: if back { 0x12 } else { 0x02 },
            mark: 0,
            outer: step.outer.clone(),
        }),
        // Rule traces do not know buffers.
        identity: 0,
        buffer: if step.hook.is_netfilter() { 0 } else { 1 + u64::from(back) },
        packet: Vec::new(),
        metadata: waymark_proto::Metadata::default(),
    }
}

/// What an agent reports that sees all it can.
pub(crate) fn reports(namespaces: &[&str]) -> Vec<HookReport> {
    let seen = || Observability::Observed { provider: "test".into() };
    let floor = [Hook::DriverRx, Hook::DriverTx, Hook::Qdisc, Hook::Socket, Hook::Ip];
    let mut reports: Vec<HookReport> =
        floor.map(|hook| HookReport { hook, netns: None, observability: seen() }).to_vec();
    for netns in namespaces {
        let netfilter = Hook::ALL.iter().filter(|hook| hook.is_netfilter());
        reports.extend(netfilter.map(|&hook| HookReport {
            hook,
            netns: Some((*netns).into()),
            observability: seen(),
        }));
    }
    reports
}

/// Sight of both nodes.
pub(crate) fn sight() -> Sight {
    let mut sight = Sight::default();
    sight.armed("node1".into(), reports(&["t-cart", "t-node1"]));
    sight.armed("node2".into(), reports(&["t-pay", "t-node2"]));
    sight
}
