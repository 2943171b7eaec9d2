//! What API servers accept, fill in and refuse; what kubectl shows.

use serde_json::json;

use super::ground::{Ground, current, old};

#[tokio::test]
async fn kubernetes_1_20_has_the_schema() {
    let Some(ground) = old("the schema").await else { return };
    accepts_fills_in_and_refuses(&ground).await;
}

#[tokio::test]
async fn a_current_server_has_the_schema() {
    let Some(ground) = current("the schema").await else { return };
    accepts_fills_in_and_refuses(&ground).await;
}

async fn accepts_fills_in_and_refuses(ground: &Ground) {
    let spec = json!({"source": {"pod": "cart"}, "destination": {"service": "pay", "port": 80}, "foo": 1});
    let made = serde_json::to_value(ground.create("least", spec).await.unwrap().spec).unwrap();
    assert_eq!(
        made,
        json!({
            "source": {"pod": "cart"}, "destination": {"service": "pay", "port": 80}, "count": 5,
            "interval": "10ms", "maxPackets": 400, "timeout": "2s", "hopLimit": 64, "oneWay": false, "expect": "Reachable",
        }),
        "defaults are filled in, and what is unknown is pruned"
    );
    let most = json!({
        "source": {"node": "n1.example"}, "destination": {"ip": "fd00::1", "port": 65535},
        "protocol": "UDP", "ipFamily": "IPv6", "count": 10000, "maxPackets": 0, "interval": "1.5ms", "timeout": "1m",
        "size": 1500, "hopLimit": 1, "oneWay": true, "expect": "Unreachable", "ttlSecondsAfterFinished": 0,
    });
    let made = serde_json::to_value(ground.create("most", most.clone()).await.unwrap().spec).unwrap();
    assert_eq!(made, most);
    let pod = || json!({"pod": "cart"});
    for (number, (source, destination, words)) in [
        (json!({}), json!({"ip": "10.0.0.1"}), &["spec.source", "(oneOf)", "Found none valid"] as &[&str]),
        (json!({"pod": "a", "node": "b"}), json!({"ip": "10.0.0.1"}), &["spec.source", "Found 2 valid"]),
        (json!({"node": "a", "namespace": "b"}), json!({"ip": "10.0.0.1"}), &["spec.source", "(anyOf)"]),
        (json!({"pod": null}), json!({"ip": "10.0.0.1"}), &["spec.source"]),
        (json!({"pod": "A_"}), json!({"ip": "10.0.0.1"}), &["spec.source.pod", "should match"]),
        (json!({"pod": "a".repeat(254)}), json!({"ip": "10.0.0.1"}), &["spec.source.pod", "253"]),
        (pod(), json!({"service": "pay"}), &["spec.destination.port", "Required"]),
        (pod(), json!({"pod": "a", "service": "b", "port": 1}), &["spec.destination", "Found 2 valid"]),
        (pod(), json!({"ip": "10.0.0.256"}), &["spec.destination.ip", "(anyOf)"]),
        (
            pod(),
            json!({"ip": "10.0.0.1", "port": 0}),
            &["spec.destination.port", "greater than or equal to 1"],
        ),
        (pod(), json!({"ip": "10.0.0.1", "port": 65536}), &["spec.destination.port", "65535"]),
    ]
    .into_iter()
    .enumerate()
    {
        let spec = json!({"source": source, "destination": destination});
        let refused = ground.create(&format!("bad-end-{number}"), spec).await.unwrap_err();
        assert!(words.iter().all(|word| refused.contains(word)), "{refused}");
    }
    for (number, (field, value, words)) in [
        ("count", json!(0), &["spec.count", "greater than or equal to 1"] as &[&str]),
        ("count", json!(10_001), &["spec.count", "10000"]),
        ("maxPackets", json!(10_001), &["spec.maxPackets", "10000"]),
        ("count", json!("5"), &["spec.count", "integer"]),
        ("interval", json!("soon"), &["spec.interval", "should match"]),
        ("timeout", json!("1h"), &["spec.timeout", "should match"]),
        ("hopLimit", json!(256), &["spec.hopLimit", "255"]),
        ("size", json!(43), &["spec.size", "44"]),
        ("protocol", json!("tcp"), &["spec.protocol", "\"TCP\", \"UDP\", \"ICMP\""]),
        ("expect", json!("Maybe"), &["spec.expect", "\"Reachable\", \"Unreachable\""]),
        ("ttlSecondsAfterFinished", json!(-1), &["spec.ttlSecondsAfterFinished", "equal to 0"]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut spec = json!({"source": pod(), "destination": {"pod": "pay"}});
        spec[field] = value;
        let refused = ground.create(&format!("bad-field-{number}"), spec).await.unwrap_err();
        assert!(words.iter().all(|word| refused.contains(word)), "{refused}");
    }
}
