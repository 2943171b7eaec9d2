use std::collections::BTreeMap;
use std::net::IpAddr;

use waymark_proto::{
    Action, Backend, Branch, Cause, ContainerPort, Expectation, Facts, FaultPoint, Hook, IngressRule,
    LabelSelector, Namespace, NetworkPolicy, NetworkPolicySpec, Path, Pod, PolicyPeer, PortRef, Protocol,
    RuleRef, Step, TransportProtocol, WalkComparison,
};

use super::*;
use crate::fixture::{self, THERE, ending, path, steps, tcp};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The cluster of tests as Kubernetes tells of it: shop/pay selects app=pay and leads to port 80.
fn inventory() -> Inventory {
    let mut inventory = fixture::inventory();
    inventory.namespaces = vec![Namespace { name: "shop".into(), labels: BTreeMap::new() }];
    for pod in &mut inventory.pods {
        pod.labels = labels(&[("app", pod.name.as_str())]);
    }
    inventory.pods[1].ports =
        vec![ContainerPort { name: Some("http".into()), port: 80, protocol: TransportProtocol::Tcp }];
    for service in &mut inventory.services {
        service.selector = Some(labels(&[("app", "pay")]));
        service.target_port = Some(PortRef::Number(service.port));
    }
    inventory
}

const VIP: &str = "10.96.0.10";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn to_service() -> Flow {
    Flow { dst: ip(VIP), ..tcp() }
}

fn rule(text: &str) -> RuleRef {
    RuleRef {
        family: "ip".into(),
        table: "nat".into(),
        chain: "KUBE-SEP-X".into(),
        handle: None,
        position: Some(2),
        text: Some(text.into()),
    }
}

/// The way to the Service, which node1 translates to this endpoint.
fn translated(to: &str, port: u16) -> Vec<Step> {
    let mut way = steps(THERE, to_service());
    let at = way
        .iter()
        .position(|step| step.hook == Hook::NetfilterPrerouting && step.place.netns.as_str() == "t-node1")
        .unwrap();
    for step in &mut way[at..] {
        step.flow = Some(Flow { dst: ip(to), dst_port: port, ..tcp() });
    }
    way[at].action = Action::Translated;
    way[at].rule = Some(rule(&format!("-A KUBE-SEP-X -p tcp -j DNAT --to-destination {to}:{port}")));
    way
}

fn branch(path: Path) -> Branch {
    Branch { probability: 1.0, choices: Vec::new(), path, answer: Vec::new() }
}

/// One question, with the facts of no node.
struct Story {
    inventory: Inventory,
    flow: Flow,
    branches: Vec<Branch>,
    cluster: Cluster,
}

impl Story {
    fn new(inventory: Inventory, flow: Flow, ways: Vec<Vec<Step>>) -> Self {
        let cluster = Cluster::new(&inventory);
        Self { inventory, flow, branches: ways.into_iter().map(|way| branch(path(way))).collect(), cluster }
    }

    fn asked<T>(&self, ask: impl FnOnce(&Question<'_>) -> T) -> T {
        let prediction = PathSet { branches: self.branches.clone(), needs: Vec::new() };
        ask(&Question {
            inventory: &self.inventory,
            flow: self.flow,
            prediction: &prediction,
            cluster: &self.cluster,
        })
    }

    fn predicted(&self) -> IntentReport {
        self.asked(of_prediction).expect("an inventory with objects is compared")
    }

    /// The check whose packets all end as the first branch has it.
    fn checked(&self) -> (IntentReport, Option<FaultPoint>) {
        let last = self.branches[0].path.last();
        let dies = last.cause.is_some();
        let point = FaultPoint {
            node: last.place.node.clone(),
            netns: last.place.netns.clone(),
            hook: last.hook,
            cause: last.cause.unwrap_or(Cause::Unknown),
            rule: last.rule.clone(),
            advice: "look there".to_owned(),
            ..fixture::fault()
        };
        let walk = WalkComparison {
            predicted: None,
            observed: Disposition::InsufficientInfo,
            branches: 1,
            steps: Vec::new(),
        };
        let mut diagnosis = Diagnosis {
            verdict: if dies { Verdict::Unreachable } else { Verdict::Reachable },
            delivered: u32::from(!dies),
            replied: None,
            rtt_ns: None,
            fault_point: dies.then_some(point),
            fault_flow: last.flow.filter(|_| dies),
            forward: walk,
            return_: None,
            model_errors: Vec::new(),
            not_observable: Vec::new(),
            notes: Vec::new(),
        };
        let report = self.asked(|question| of_check(question, &mut diagnosis));
        (report.expect("an inventory with objects is compared"), diagnosis.fault_point)
    }
}

/// Kinds and culprits.
fn kinds(report: &IntentReport) -> Vec<String> {
    let name = |deviation: &Deviation| {
        let kind = serde_json::to_string(&deviation.kind).unwrap();
        format!("{} {}", kind.trim_matches('"'), deviation.culprit)
    };
    report.deviations.iter().map(name).collect()
}

fn culprit(fault: Option<&FaultPoint>) -> String {
    fault.unwrap().culprit.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string)
}

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

fn filtered() -> Vec<Step> {
    let mut way = ending(steps(THERE, tcp()), "t-node2", Hook::NetfilterForward, "eth0", Cause::FilterDrop);
    way.last_mut().unwrap().rule = Some(rule("-A FORWARD -d 10.1.2.2/32 -j DROP"));
    way
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

#[test]
fn faults_of_other_kinds_have_no_culprit() {
    for (netns, hook, device, cause) in [
        ("t-node1", Hook::Wire, "eth0", Cause::SilentLoss),
        ("t-node2", Hook::Route, "cni0", Cause::NoRoute),
        ("t-pay", Hook::Socket, "-", Cause::NoListener),
    ] {
        let way = ending(steps(THERE, tcp()), netns, hook, device, cause);
        let (report, fault) = Story::new(inventory(), tcp(), vec![way]).checked();
        assert_eq!((report.deviations.len(), culprit(fault.as_ref()).as_str()), (0, "nobody"), "{cause}");
        assert_eq!(fault.unwrap().advice, "look there");
    }
}

#[test]
fn a_plain_inventory_is_compared_with_its_backends_alone() {
    let plain = fixture::inventory();
    let quiet = |way: Vec<Step>, flow| Story::new(plain.clone(), flow, vec![way]).asked(of_prediction);
    assert_eq!(quiet(filtered(), tcp()), None);
    assert_eq!(quiet(steps(THERE, tcp()), tcp()), None);
    assert_eq!(quiet(translated("10.1.2.2", 80), to_service()), None);
    assert_eq!(quiet(steps(THERE, to_service()), to_service()), None);
    let stale = quiet(translated("10.1.2.99", 80), to_service()).unwrap();
    assert_eq!(kinds(&stale), ["stale-service-rule Service shop/pay"]);
    assert!(!stale.deviations[0].advice.contains("kubectl"), "{}", stale.deviations[0].advice);
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
