//! Checks name the Kubernetes object to mend: real packets and real rules, with an inventory that says what
//! such objects ask for.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use common::{PROGRAM, Testbed, privileged, text};
use waymark_proto::{
    CheckResult, DeviationKind, Expectation, Inventory, Namespace, NetworkPolicy, PortRef, Verdict,
};

/// A testbed, and its inventory with selectors, labels and policies.
struct Lab {
    testbed: Testbed,
    folder: tempfile::TempDir,
    inventory: Inventory,
}

impl Lab {
    fn up(proxy: &str) -> Self {
        let testbed = Testbed::up(&["--proxy", proxy]);
        let listed = testbed.succeed(&["status", "-o", "json"]);
        let mut inventory = Inventory::from_json(listed.as_bytes()).unwrap();
        inventory.namespaces = vec![Namespace { name: "shop".into(), labels: BTreeMap::new() }];
        let labelled = |name: &str| {
            let app = name.split('-').next().unwrap_or(name);
            BTreeMap::from([("app".to_owned(), app.to_owned())])
        };
        for pod in &mut inventory.pods {
            pod.labels = labelled(&pod.name);
        }
        for service in &mut inventory.services {
            service.selector = Some(labelled(&service.name));
            service.target_port = service.backends.first().map(|backend| PortRef::Number(backend.port));
        }
        Self { testbed, folder: tempfile::tempdir().unwrap(), inventory }
    }

    /// Isolates the pods with this label `app`, but for what comes from those with the other.
    fn isolate(&mut self, app: &str, from: &str) {
        let spec = format!(
            r#"{{"podSelector": {{"matchLabels": {{"app": "{app}"}}}},
                "ingress": [{{"from": [{{"podSelector": {{"matchLabels": {{"app": "{from}"}}}}}}]}}]}}"#
        );
        let spec = serde_json::from_str(&spec).unwrap();
        let name = format!("{app}-from-{from}");
        self.inventory.policies = vec![NetworkPolicy { namespace: "shop".into(), name, spec }];
    }

    fn check(&self, from: &str, to: &str) -> CheckResult {
        let path = self.folder.path().join("inventory.json");
        std::fs::write(&path, serde_json::to_vec(&self.inventory).unwrap()).unwrap();
        let output = Command::new(Path::new(PROGRAM).with_file_name("waymark"))
            .args(["check", from, to, "--local", "-o", "json", "--inventory"])
            .arg(&path)
            .output()
            .expect("the client was built with the testbed");
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{from} → {to}: {error}: {}", text(&output.stderr)))
    }

    fn on(&self, node: &str, command: &str) {
        self.testbed.succeed(&["exec", node, "--", "sh", "-c", command]);
    }
}

fn kinds(result: &CheckResult) -> Vec<DeviationKind> {
    let report = result.intent.as_ref().expect("the inventory says what is asked for");
    report.deviations.iter().map(|deviation| deviation.kind).collect()
}

fn culprit(result: &CheckResult) -> Option<String> {
    result.fault_point.as_ref()?.culprit.as_ref().map(ToString::to_string)
}

const STOCK: &str = "svc/shop/stock:8080";

#[track_caller]
fn services_are_named(proxy: &str) {
    if !privileged("checks with intent") {
        return;
    }
    let lab = Lab::up(proxy);
    let healthy = lab.check("pod/shop/cart", STOCK);
    assert_eq!((healthy.verdict, kinds(&healthy)), (Verdict::Reachable, vec![]), "{healthy:?}");
    assert_eq!(healthy.intent.unwrap().intent.expectation, Expectation::Allowed);

    lab.testbed.succeed(&["fault", "inject", "stale-dnat"]);
    let stale = lab.check("pod/shop/cart", STOCK);
    assert_eq!((stale.verdict, kinds(&stale)), (Verdict::Unreachable, vec![DeviationKind::StaleServiceRule]));
    assert_eq!(culprit(&stale).as_deref(), Some("Service shop/stock"));
    // Other nodes' rules are as they should be.
    let elsewhere = lab.check("pod/shop/mail", STOCK);
    assert_eq!((elsewhere.verdict, kinds(&elsewhere)), (Verdict::Reachable, vec![]));
    lab.testbed.succeed(&["fault", "clear", "stale-dnat"]);

    let empty = lab.check("pod/shop/cart", "svc/shop/empty:80");
    assert_eq!((empty.verdict, kinds(&empty)), (Verdict::Unreachable, vec![DeviationKind::NoMatchingPod]));
    assert_eq!(culprit(&empty).as_deref(), Some("Service shop/empty"));
}

#[test]
fn services_in_iptables() {
    services_are_named("iptables");
}

#[test]
fn services_in_nftables() {
    services_are_named("nftables");
}

/// The API and the node's rules agree on a port on which the pod does not listen.
#[test]
fn a_wrong_target_port_is_named() {
    if !privileged("checks with intent") {
        return;
    }
    let mut lab = Lab::up("iptables");
    let stock = lab.inventory.services.iter_mut().find(|service| service.name == "stock").unwrap();
    (stock.target_port, stock.backends[0].port) = (Some(PortRef::Number(81)), 81);
    lab.on(
        "node1",
        "iptables -t nat -I PREROUTING -d 10.96.0.20 -p tcp --dport 8080 -j DNAT --to 10.244.2.11:81",
    );
    let deaf = lab.check("pod/shop/cart", STOCK);
    assert_eq!((deaf.verdict, kinds(&deaf)), (Verdict::Unreachable, vec![DeviationKind::WrongTargetPort]));
    assert_eq!(culprit(&deaf).as_deref(), Some("Service shop/stock"));
    let summary = &deaf.intent.unwrap().deviations[0].summary;
    assert!(
        summary.contains("leads to 81/tcp of shop/stock, where nothing listens; it listens on tcp 80"),
        "{summary}"
    );
}

#[test]
fn policies_and_foreign_rules_are_named() {
    if !privileged("checks with intent") {
        return;
    }
    let mut lab = Lab::up("iptables");
    lab.isolate("stock", "web");
    let open = lab.check("pod/shop/cart", STOCK);
    assert_eq!((open.verdict, kinds(&open)), (Verdict::Reachable, vec![DeviationKind::NotEnforced]));
    lab.on("node2", "iptables -I FORWARD -d 10.244.2.11 -j DROP");
    let denied = lab.check("pod/shop/cart", STOCK);
    assert_eq!((denied.verdict, kinds(&denied)), (Verdict::Unreachable, vec![DeviationKind::PolicyDenied]));
    assert_eq!(culprit(&denied).as_deref(), Some("NetworkPolicy shop/stock-from-web"));
    lab.isolate("stock", "cart");
    let unwanted = lab.check("pod/shop/cart", STOCK);
    assert_eq!(
        (unwanted.verdict, kinds(&unwanted)),
        (Verdict::Unreachable, vec![DeviationKind::UnwantedRule])
    );
    assert_eq!(culprit(&unwanted).as_deref(), Some("Node node2"));
    let summary = &unwanted.intent.unwrap().deviations[0].summary;
    assert!(summary.contains("NetworkPolicy shop/stock-from-cart admits it"), "{summary}");
    assert!(summary.contains("-A FORWARD -d 10.244.2.11/32 -j DROP on node2 stops it"), "{summary}");
    assert!(summary.ends_with("node1 lets the same traffic pass"), "{summary}");
}
