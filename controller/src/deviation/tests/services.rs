//! Services, their endpoints, and nodes' rules for them.

use waymark_proto::Text;

use super::*;

#[test]
fn a_service_as_it_should_be_deviates_in_nothing() {
    let story = Story::new(inventory(), to_service(), vec![translated("10.1.2.2", 80)]);
    let (report, _) = story.checked();
    assert_eq!(kinds(&report), [""; 0]);
    assert_eq!(report.intent.expectation, Expectation::Allowed);
    assert_eq!(story.predicted(), report);
}

#[test]
fn a_stale_rule_is_the_services() {
    let dead =
        ending(translated("10.1.2.99", 80), "t-node2", Hook::Neighbour, "cni0", Cause::NeighbourUnresolved);
    let story = Story::new(inventory(), to_service(), vec![dead]);
    let (report, fault) = story.checked();
    assert_eq!(kinds(&report), ["stale-service-rule Service shop/pay"]);
    let deviation = &report.deviations[0];
    assert_eq!(deviation.node.as_ref().unwrap().as_str(), "node1");
    assert_eq!(
        deviation.summary,
        "node1 leads Service shop/pay (10.96.0.10:80) to 10.1.2.99:80 by rule ip nat KUBE-SEP-X rule 2: \
         -A KUBE-SEP-X -p tcp -j DNAT --to-destination 10.1.2.99:80, which is no endpoint of it; ready is 10.1.2.2:80 (shop/pay)"
    );
    let fault = fault.unwrap();
    assert_eq!(culprit(Some(&fault)), "Service shop/pay");
    // The place stays what it was.
    assert_eq!((fault.cause, fault.node.as_str()), (Cause::NeighbourUnresolved, "node2"));
    assert!(fault.evidence.contains(&deviation.summary));
    assert!(
        fault.advice.contains("kubectl -n shop get endpointslices -l kubernetes.io/service-name=pay"),
        "{}",
        fault.advice
    );
}

#[test]
fn another_fault_on_a_stale_way_is_not_the_services() {
    // The rule leads to a living pod, and the wire loses the packet.
    let mut inventory = inventory();
    let mut other = inventory.pods[1].clone();
    (other.name, other.ip, other.netns) = ("other".into(), ip("10.1.2.3"), "t-other".into());
    other.labels = labels(&[("app", "other")]);
    inventory.pods.push(other);
    let lost = ending(translated("10.1.2.3", 80), "t-node1", Hook::Wire, "eth0", Cause::SilentLoss);
    let (report, fault) = Story::new(inventory, to_service(), vec![lost]).checked();
    assert_eq!(kinds(&report)[0], "stale-service-rule Service shop/pay");
    assert_eq!(culprit(fault.as_ref()), "nobody");
}

#[test]
fn an_endpoint_that_is_not_ready_may_not_be_led_to() {
    let mut inventory = inventory();
    inventory.services[0].backends[0].ready = false;
    inventory.services[0].backends.push(Backend { pod: None, ip: ip("10.1.1.2"), port: 80, ready: true });
    let report = Story::new(inventory, to_service(), vec![translated("10.1.2.2", 80)]).predicted();
    assert!(report.deviations[0].summary.contains("which is not ready"), "{}", report.deviations[0].summary);
    assert_eq!(
        kinds(&report),
        [
            "stale-service-rule Service shop/pay",
            // shop/cart is not what it selects.
            "wrong-endpoint Service shop/pay",
        ]
    );
}

#[test]
fn where_none_is_ready_one_that_terminates_may_serve() {
    let mut inventory = inventory();
    inventory.services[0].backends[0].ready = false;
    let report = Story::new(inventory, to_service(), vec![translated("10.1.2.2", 80)]).predicted();
    assert_eq!(kinds(&report), ["not-ready Pod shop/pay"]);
}

#[test]
fn an_endpoint_that_no_rule_leads_to() {
    let mut inventory = inventory();
    let mut second = inventory.pods[1].clone();
    (second.name, second.ip, second.netns) = ("pay-2".into(), ip("10.1.2.3"), "t-pay-2".into());
    inventory.pods.push(second);
    inventory.services[0].backends.push(Backend { pod: None, ip: ip("10.1.2.3"), port: 80, ready: true });
    let mut story = Story::new(inventory, to_service(), vec![translated("10.1.2.2", 80)]);
    assert_eq!(kinds(&story.predicted()), ["missing-service-rule Service shop/pay"]);
    story.branches.push(branch(path(translated("10.1.2.3", 80))));
    assert_eq!(kinds(&story.predicted()), [""; 0]);
}

#[test]
fn a_service_that_no_rule_translates() {
    let lost = ending(steps(THERE, to_service()), "t-node1", Hook::Wire, "eth0", Cause::SilentLoss);
    let (report, fault) = Story::new(inventory(), to_service(), vec![lost]).checked();
    assert_eq!(kinds(&report), ["no-service-rule Service shop/pay"]);
    assert_eq!(
        report.deviations[0].summary,
        "no rule on node1 translates Service shop/pay (10.96.0.10:80/tcp)"
    );
    assert_eq!(culprit(fault.as_ref()), "Service shop/pay");
    // Where it dies before any rule could, nothing is said.
    let early = ending(steps(THERE, to_service()), "t-cart", Hook::Route, "eth0", Cause::NoRoute);
    assert_eq!(kinds(&Story::new(self::inventory(), to_service(), vec![early]).predicted()), [""; 0]);
}

fn refused() -> Vec<Step> {
    ending(
        steps(THERE, to_service()),
        "t-node1",
        Hook::NetfilterForward,
        "cni0",
        Cause::ServiceWithoutEndpoints,
    )
}

#[test]
fn a_refusal_in_spite_of_endpoints_is_stale() {
    let (report, fault) = Story::new(inventory(), to_service(), vec![refused()]).checked();
    assert_eq!(kinds(&report), ["stale-service-rule Service shop/pay"]);
    assert_eq!(culprit(fault.as_ref()), "Service shop/pay");
}

#[test]
fn want_of_endpoints_has_its_reasons() {
    let of = |change: &dyn Fn(&mut Inventory)| {
        let mut inventory = inventory();
        inventory.services[0].backends.clear();
        change(&mut inventory);
        let (report, fault) = Story::new(inventory, to_service(), vec![refused()]).checked();
        assert_eq!(report.intent.expectation, Expectation::NoEndpoints);
        assert_eq!(report.deviations.len(), 1, "{:?}", report.deviations);
        assert_eq!(fault.unwrap().culprit.as_ref(), Some(&report.deviations[0].culprit));
        (kinds(&report).remove(0), report.deviations[0].summary.clone())
    };
    let (kind, why) = of(&|inventory| inventory.pods[1].labels = labels(&[("app", "pai")]));
    assert_eq!(kind, "no-matching-pod Service shop/pay");
    assert_eq!(
        why,
        "Service shop/pay selects app=pay, and no running pod of shop has that; the likest is shop/pay (app=pai)"
    );
    let (_, why) = of(&|inventory| {
        let nothing_like_it = labels(&[("app", "mailer")]);
        inventory.pods.iter_mut().for_each(|pod| pod.labels.clone_from(&nothing_like_it));
    });
    assert!(why.ends_with("no running pod of shop has that"), "{why}");
    let (_, why) = of(&|inventory| {
        inventory.pods.remove(1);
        let object = waymark_proto::ObjectRef::namespaced("Pod", "shop", "pay-2");
        inventory
            .absent
            .push(waymark_proto::Absent { object, why: Text::verbatim("has no address yet: it is Pending") });
    });
    assert!(why.ends_with("; Pod shop/pay-2 has no address yet: it is Pending"), "{why}");
    let (kind, why) = of(&|inventory| {
        inventory.services[0].backends =
            vec![Backend { pod: None, ip: ip("10.1.2.2"), port: 80, ready: false }];
    });
    assert_eq!(kind, "not-ready Pod shop/pay");
    assert_eq!(why, "Service shop/pay selects shop/pay, of which none is a ready endpoint");
    let (kind, why) = of(&|inventory| inventory.services[0].target_port = Some(PortRef::Name("web".into())));
    assert_eq!(kind, "wrong-target-port Service shop/pay");
    assert!(why.contains("\"web\"") && why.contains("shop/pay"), "{why}");
    let (kind, _) = of(&|inventory| inventory.services[0].selector = None);
    assert_eq!(kind, "no-endpoints Service shop/pay");
}

#[test]
fn endpoints_without_their_pods() {
    let of = |change: &dyn Fn(&mut Inventory)| {
        let mut inventory = inventory();
        change(&mut inventory);
        let to = inventory.services[0].backends[0].clone();
        let dead = ending(
            translated(&to.ip.to_string(), to.port),
            "t-node2",
            Hook::Neighbour,
            "cni0",
            Cause::NeighbourUnresolved,
        );
        let (report, fault) = Story::new(inventory, to_service(), vec![dead]).checked();
        (
            kinds(&report),
            report.deviations.first().map(|first| first.summary.clone()),
            culprit(fault.as_ref()),
        )
    };
    let (kind, why, whose) = of(&|inventory| inventory.services[0].backends[0].ip = ip("10.1.2.99"));
    assert_eq!(kind, ["wrong-endpoint Service shop/pay"]);
    assert!(why.unwrap().ends_with("and no running pod has that address"));
    assert_eq!(whose, "Service shop/pay");
    // By hand, and outside: that may be.
    let (kind, _, whose) = of(&|inventory| {
        inventory.services[0].selector = None;
        inventory.services[0].backends[0].ip = ip("203.0.113.7");
    });
    assert_eq!((kind.len(), whose.as_str()), (0, "nobody"));
    let (kind, why, whose) = of(&|inventory| inventory.services[0].backends[0].port = 81);
    assert_eq!(kind, ["wrong-endpoint Service shop/pay"]);
    assert!(why.unwrap().ends_with("and its targetPort is 80"));
    assert_eq!(whose, "nobody", "a wrong port does not explain a missing neighbour");
    let (kind, why, _) = of(&|inventory| inventory.pods[1].labels = labels(&[("app", "other")]));
    assert_eq!(kind, ["wrong-endpoint Service shop/pay"]);
    assert!(why.unwrap().ends_with("which is shop/pay with app=other, and selects app=pay"));
    // Behind a name there is another port on each pod.
    let (kind, _, _) =
        of(&|inventory| inventory.services[0].target_port = Some(PortRef::Name("http".into())));
    assert_eq!(kind, [""; 0]);
}

/// The facts of node2: shop/pay listens on this TCP port.
fn listening(port: u16) -> Facts {
    let facts = format!(
        r#"{{"apiVersion": "{}", "node": "node2", "kernel": "6.1",
            "namespaces": [{{"name": "t-pay", "inode": 4, "sockets": [{{"protocol": "tcp", "address": "0.0.0.0", "port": {port}}}]}}]}}"#,
        waymark_proto::FACTS_API_VERSION
    );
    serde_json::from_str(&facts).unwrap()
}

#[test]
fn a_target_port_on_which_nobody_listens() {
    let of = |declared: u16, listens: Option<u16>| {
        let mut inventory = inventory();
        inventory.pods[1].ports[0].port = declared;
        let deaf = ending(translated("10.1.2.2", 80), "t-pay", Hook::Socket, "-", Cause::NoListener);
        let mut story = Story::new(inventory, to_service(), vec![deaf]);
        if let Some(port) = listens {
            story.cluster.add(listening(port)).unwrap();
        }
        let (report, fault) = story.checked();
        (kinds(&report), report.deviations[0].summary.clone(), culprit(fault.as_ref()))
    };
    let (kind, why, whose) = of(8080, Some(8080));
    assert_eq!(kind, ["wrong-target-port Service shop/pay"]);
    assert_eq!(
        why,
        "the targetPort 80 of Service shop/pay leads to 80/tcp of shop/pay, where nothing listens; it listens on tcp 8080"
    );
    assert_eq!(whose, "Service shop/pay");
    // The pod declares the port: it is the pod that does not do what it says.
    let (kind, why, whose) = of(80, None);
    assert_eq!((kind[0].as_str(), whose.as_str()), ("not-listening Pod shop/pay", "Pod shop/pay"));
    assert!(why.ends_with("though it declares that port"), "{why}");
}

/// A pod in its node's network behind a Service is no wrong endpoint, though others share its address.
#[test]
fn pods_may_share_their_nodes_address() {
    let mut inventory = inventory();
    let on_node = |name: &str, app: &str| Pod {
        name: name.into(),
        ip: ip("172.18.0.2"),
        host_network: true,
        netns: "t-node2".into(),
        labels: labels(&[("app", app)]),
        ..fixture::inventory().pods[1].clone()
    };
    inventory.pods.extend([on_node("agent", "agent"), on_node("pay-host", "pay")]);
    inventory.services[0].backends[0].ip = ip("172.18.0.2");
    let report = Story::new(inventory, to_service(), vec![translated("172.18.0.2", 80)]).predicted();
    assert_eq!(kinds(&report), [""; 0]);
}

/// A Service whose policies are Local, and all of whose endpoints are on node2.
fn local_only() -> Inventory {
    let mut inventory = inventory();
    let service = &mut inventory.services[0];
    service.internal_traffic_policy = TrafficPolicy::Local;
    service.external_traffic_policy = TrafficPolicy::Local;
    service.node_port = Some(30080);
    inventory
}

#[test]
fn a_traffic_policy_that_leaves_no_endpoint_is_the_services() {
    let dropped =
        |cause| ending(steps(THERE, to_service()), "t-node1", Hook::NetfilterForward, "cni0", cause);
    let mut by_comment = dropped(Cause::FilterDrop);
    by_comment.last_mut().unwrap().rule =
        Some(rule(r#"-A KUBE-SERVICES -m comment --comment "shop/pay has no local endpoints" -j DROP"#));
    for way in [dropped(Cause::ServiceWithoutLocalEndpoints), by_comment] {
        let (report, fault) = Story::new(local_only(), to_service(), vec![way]).checked();
        assert_eq!(kinds(&report), ["no-local-endpoints Service shop/pay"]);
        assert_eq!(report.intent.expectation, Expectation::NoEndpoints);
        assert_eq!(
            report.deviations[0].summary,
            "the internalTrafficPolicy of Service shop/pay is Local, so node1 leads it only to endpoints on node1, \
             of which none is ready; ready elsewhere is shop/pay on node2"
        );
        assert_eq!(report.deviations[0].node.as_ref().unwrap().as_str(), "node1");
        let fault = fault.unwrap();
        assert_eq!(culprit(Some(&fault)), "Service shop/pay");
        assert!(fault.advice.contains("set its internalTrafficPolicy to Cluster"), "{}", fault.advice);
    }
    // A rule of somebody else's is not explained by it, and yet nobody can say that it is unwanted.
    let (report, fault) = Story::new(local_only(), to_service(), vec![dropped(Cause::FilterDrop)]).checked();
    assert_eq!(kinds(&report), ["no-local-endpoints Service shop/pay"]);
    assert_eq!(culprit(fault.as_ref()), "nobody");
}

#[test]
fn a_node_port_may_lead_to_its_own_node_only() {
    let at_port = Flow { dst: ip("172.18.0.1"), dst_port: 30080, ..tcp() };
    let cause = Cause::ServiceWithoutLocalEndpoints;
    let way = ending(steps(THERE, at_port), "t-node1", Hook::NetfilterForward, "cni0", cause);
    let (report, fault) = Story::new(local_only(), at_port, vec![way]).checked();
    assert_eq!(kinds(&report), ["no-local-endpoints Service shop/pay"]);
    let summary = &report.deviations[0].summary;
    assert!(
        summary.starts_with("the externalTrafficPolicy of Service shop/pay is Local, so node1"),
        "{summary}"
    );
    assert_eq!(culprit(fault.as_ref()), "Service shop/pay");
    // To kube-proxy pods may be senders within the cluster, whom it leads to all endpoints.
    let report = Story::new(local_only(), at_port, vec![led(at_port, "10.1.2.2", 80)]).predicted();
    assert_eq!(kinds(&report), [""; 0]);
}

#[test]
fn rules_that_do_not_heed_a_traffic_policy_are_stale() {
    let report = Story::new(local_only(), to_service(), vec![translated("10.1.2.2", 80)]).predicted();
    assert_eq!(
        kinds(&report),
        ["stale-service-rule Service shop/pay", "no-local-endpoints Service shop/pay"]
    );
    let summary = &report.deviations[0].summary;
    assert!(summary.contains("which is not on node1, and its internalTrafficPolicy is Local"), "{summary}");
    // Endpoints elsewhere are not missing.
    let mut inventory = local_only();
    inventory.services[0].backends.push(Backend { pod: None, ip: ip("10.1.1.3"), port: 80, ready: true });
    let mut near = inventory.pods[1].clone();
    (near.name, near.node, near.ip, near.netns) =
        ("pay-1".into(), "node1".into(), ip("10.1.1.3"), "t-pay-1".into());
    inventory.pods.push(near);
    let report = Story::new(inventory, to_service(), vec![translated("10.1.1.3", 80)]).predicted();
    assert_eq!(kinds(&report), [""; 0]);
    // Nor is there anything to refuse for.
    let refused = ending(
        steps(THERE, to_service()),
        "t-node1",
        Hook::NetfilterForward,
        "cni0",
        Cause::ServiceWithoutLocalEndpoints,
    );
    let (report, fault) = Story::new(self::inventory(), to_service(), vec![refused]).checked();
    assert_eq!(kinds(&report), ["stale-service-rule Service shop/pay"]);
    assert_eq!(culprit(fault.as_ref()), "Service shop/pay");
}

#[test]
fn an_address_from_outside_is_the_services_as_well() {
    let mut inventory = inventory();
    inventory.services[0].external_ips = vec![ip("192.0.2.7")];
    let flow = Flow { dst: ip("192.0.2.7"), ..tcp() };
    let dead =
        ending(led(flow, "10.1.2.99", 80), "t-node2", Hook::Neighbour, "cni0", Cause::NeighbourUnresolved);
    let (report, fault) = Story::new(inventory.clone(), flow, vec![dead]).checked();
    assert_eq!(kinds(&report), ["stale-service-rule Service shop/pay"]);
    assert_eq!(culprit(fault.as_ref()), "Service shop/pay");
    // Where no node translates it, it goes to a load balancer.
    let report = Story::new(inventory, flow, vec![steps(THERE, flow)]).predicted();
    assert_eq!(kinds(&report), [""; 0]);
}
