//! NetworkPolicies and the rules that should implement them.

use super::*;

fn isolating(name: &str, from: &str) -> NetworkPolicy {
    let peer = PolicyPeer {
        pod_selector: Some(LabelSelector {
            match_labels: labels(&[("app", from)]),
            ..LabelSelector::default()
        }),
        ..PolicyPeer::default()
    };
    NetworkPolicy {
        namespace: "shop".into(),
        name: name.into(),
        spec: NetworkPolicySpec {
            pod_selector: LabelSelector {
                match_labels: labels(&[("app", "pay")]),
                ..LabelSelector::default()
            },
            ingress: vec![IngressRule { from: vec![peer], ports: Vec::new() }],
            ..NetworkPolicySpec::default()
        },
    }
}

#[test]
fn a_drop_that_a_policy_asks_for_is_the_policys() {
    let mut inventory = inventory();
    inventory.policies = vec![isolating("only-web", "web")];
    let story = Story::new(inventory.clone(), tcp(), vec![filtered()]);
    let (report, fault) = story.checked();
    assert_eq!(kinds(&report), ["policy-denied NetworkPolicy shop/only-web"]);
    assert_eq!(kinds(&story.predicted()), kinds(&report));
    assert_eq!(
        report.deviations[0].summary,
        "NetworkPolicy shop/only-web denies ingress to shop/pay: it has no rule that admits what goes from shop/cart (app=cart) on 80/tcp"
    );
    assert_eq!(culprit(fault.as_ref()), "NetworkPolicy shop/only-web");
    assert!(fault.unwrap().advice.contains("`kubectl -n shop describe networkpolicy only-web`"));
    // Several share the blame; the first is named.
    inventory.policies.push(isolating("only-admin", "admin"));
    let (report, _) = Story::new(inventory, tcp(), vec![filtered()]).checked();
    assert!(
        report.deviations[0]
            .summary
            .starts_with("NetworkPolicies shop/only-web and shop/only-admin deny ingress"),
        "{}",
        report.deviations[0].summary
    );
}

#[test]
fn a_drop_that_no_policy_asks_for_is_the_nodes() {
    let (report, fault) = Story::new(inventory(), tcp(), vec![filtered()]).checked();
    assert_eq!(kinds(&report), ["unwanted-rule Node node2"]);
    let why = &report.deviations[0].summary;
    assert!(
        why.starts_with(
            "shop/cart → shop/pay 80/tcp is meant to pass (no NetworkPolicy isolates either end)"
        ),
        "{why}"
    );
    assert!(why.contains("-A FORWARD -d 10.1.2.2/32 -j DROP on node2 stops it"), "{why}");
    assert!(why.ends_with("; node1 lets the same traffic pass"), "{why}");
    assert_eq!(culprit(fault.as_ref()), "Node node2");
    let advice = fault.unwrap().advice;
    assert!(advice.starts_with("on node2: look at the rule with `ip netns exec t-node2 "), "{advice}");
    let mut admitting = inventory();
    admitting.policies = vec![isolating("cart", "cart")];
    let (report, _) = Story::new(admitting, tcp(), vec![filtered()]).checked();
    assert!(report.deviations[0].summary.contains("(NetworkPolicy shop/cart admits it)"));
}

#[test]
fn a_policy_that_nothing_enforces() {
    let mut inventory = inventory();
    inventory.policies = vec![isolating("only-web", "web")];
    let story = Story::new(inventory.clone(), tcp(), vec![steps(THERE, tcp())]);
    let (report, fault) = story.checked();
    assert!(fault.is_none());
    assert_eq!(kinds(&report), ["not-enforced NetworkPolicy shop/only-web"]);
    assert!(report.deviations[0].summary.ends_with("on 80/tcp, and nothing enforces that"));
    assert_eq!(kinds(&story.predicted()), kinds(&report));
    // For ICMP the API promises nothing.
    let ping = Flow { protocol: Protocol::Icmp, ..tcp() };
    let (report, _) = Story::new(inventory, ping, vec![steps(THERE, ping)]).checked();
    assert_eq!((report.intent.expectation, report.deviations.len()), (Expectation::Denied, 0));
}
