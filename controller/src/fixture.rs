//! A cluster of two nodes for tests.

use waymark_proto::{Cause, Confidence, Direction, FaultPoint, Flow, Hook, Inventory, Protocol};

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
        advice: String::new(),
        confidence: Confidence::High,
        evidence: Vec::new(),
    }
}
