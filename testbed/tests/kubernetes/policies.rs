//! NetworkPolicies are enforced: between pods of one node, which share a bridge, and of two.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use waymark_proto::Protocol;

use crate::common::traffic::{PATIENT, SHORT, talk};
use crate::{Kubernetes, able};

fn pod(name: &str, node: &str, team: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "walled", "labels": { "app": name, "team": team } },
        "spec": { "nodeName": node, "containers": [{
            "name": "app", "image": "none",
            "ports": [{ "name": "web", "containerPort": 8080 }, { "containerPort": 9090 }],
        }]},
    })
}

/// Waits until the rules of node1 are so.
fn rules(cluster: &Kubernetes, so: impl Fn(&str) -> bool) {
    let listed = || cluster.testbed.succeed(&["exec", "node1", "--", "nft", "list", "ruleset"]);
    cluster.until("the policy's rules", || so(&listed()));
}

#[test]
fn a_policy_closes_all_but_what_it_names() {
    if !able("NetworkPolicies") {
        return;
    }
    let cluster = Kubernetes::shared();
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "walled" } });
    let pods = [
        pod("server", "node1", "a"),
        pod("friend", "node1", "b"),
        pod("stranger", "node1", "c"),
        pod("far-friend", "node2", "b"),
        pod("far-stranger", "node2", "c"),
    ];
    let objects = [[namespace].as_slice(), &pods].concat();
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }));
    cluster.kubectl(&["-n", "walled", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s"]);
    let records = cluster.testbed.instance().records();
    let server = records.iter().find(|record| record.full_name() == "walled/server").unwrap();
    let ask = |who: &str, port: u16, limit| {
        let to = SocketAddr::new(IpAddr::V4(server.ip.unwrap()), port);
        talk(&cluster.netns(who), Protocol::Tcp, to, limit)
    };
    ask("walled/stranger", 8080, PATIENT).unwrap();
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "friends", "namespace": "walled" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "server" } },
            "ingress": [{
                "from": [{ "podSelector": { "matchLabels": { "team": "b" } } }],
                "ports": [{ "protocol": "TCP", "port": "web" }],
            }],
        },
    });
    cluster.apply(&policy);
    rules(&cluster, |rules| rules.contains("drop comment \"walled/friends\""));
    for friend in ["walled/friend", "walled/far-friend"] {
        ask(friend, 8080, PATIENT).unwrap();
        assert!(ask(friend, 9090, SHORT).is_err(), "{friend}: another port");
    }
    for stranger in ["walled/stranger", "walled/far-stranger"] {
        assert!(ask(stranger, 8080, SHORT).is_err(), "{stranger}");
    }
    cluster.kubectl(&["-n", "walled", "delete", "networkpolicy", "friends"]);
    rules(&cluster, |rules| !rules.contains("walled/friends"));
    ask("walled/far-stranger", 9090, PATIENT).unwrap();
    cluster.kubectl(&["delete", "namespace", "walled", "--timeout=120s"]);
}
