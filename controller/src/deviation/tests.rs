use std::collections::BTreeMap;
use std::net::IpAddr;

use waymark_proto::{
    Action, Backend, Branch, Cause, ContainerPort, Expectation, Facts, FaultPoint, Hook, IngressRule,
    LabelSelector, Namespace, NetworkPolicy, NetworkPolicySpec, Path, Pod, PolicyPeer, PortRef, Protocol,
    RuleRef, Step, Text, TrafficPolicy, TransportProtocol, WalkComparison,
};

use super::*;
use crate::fixture::{self, THERE, ending, path, steps, tcp};

mod policies;
mod services;

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
    led(to_service(), to, port)
}

/// The way of a flow that node1 gives this endpoint as its destination.
fn led(flow: Flow, to: &str, port: u16) -> Vec<Step> {
    let mut way = steps(THERE, flow);
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
        let prediction = PathSet { branches: self.branches.clone(), ..PathSet::default() };
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
            advice: Text::verbatim("look there"),
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
            rewritten: None,
            loss: None,
            anomalies: Vec::new(),
            fault_flow: last.flow.filter(|_| dies),
            doubtful: false,
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

fn filtered() -> Vec<Step> {
    let mut way = ending(steps(THERE, tcp()), "t-node2", Hook::NetfilterForward, "eth0", Cause::FilterDrop);
    way.last_mut().unwrap().rule = Some(rule("-A FORWARD -d 10.1.2.2/32 -j DROP"));
    way
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
