//! The chart by itself: its values are checked, and what it gives the agents is what they need and no more.

#[path = "common/helm.rs"]
mod helm;

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{PROGRAM, Testbed, privileged, text};
use helm::{CHART, helm, render, template};

/// How long a program may take to be ready on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn helm_finds_no_fault_with_the_chart() {
    let Some(helm) = helm("the chart") else { return };
    let output = Command::new(helm).args(["lint", "--strict", CHART]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stdout));
}

#[test]
fn wrong_values_are_refused_by_name() {
    let Some(helm) = helm("values") else { return };
    for (values, named) in [
        ("unknown: 1", "(root)"),
        ("controller: {port: 80}", "controller.port"),
        ("controller: {port: '7443'}", "controller.port"),
        ("controller: {listenAddress: everywhere}", "controller.listenAddress"),
        ("controller: {service: {type: ExternalName}}", "controller.service.type"),
        ("controller: {extraNames: ['a b']}", "controller.extraNames.0"),
        ("image: {registry: 'https://x/'}", "image.registry"),
        ("image: {pullPolicy: Sometimes}", "image.pullPolicy"),
        ("agent: {netnsFolders: []}", "agent.netnsFolders"),
        ("agent: {netnsFolders: [run/netns]}", "agent.netnsFolders.0"),
        ("agent: {allow: [everything]}", "agent.allow.0"),
        ("agent: {maxUnavailable: 0}", "agent.maxUnavailable"),
        ("agent: {privileged: true}", "agent"),
        ("agent: {findByProcess: 'yes'}", "agent.findByProcess"),
        ("rbac: {create: 1}", "rbac.create"),
        ("podMonitor: {interval: often}", "podMonitor.interval"),
    ] {
        let output = template(&helm, "ops", values, &[]);
        let message = text(&output.stderr);
        assert!(!output.status.success(), "{values} is accepted");
        assert!(message.contains(&format!("\n- {named}: ")), "{values}: {message}");
    }
    let nameless = template(&helm, "ops", "agent: {serviceAccount: {create: false}}", &[]);
    assert!(text(&nameless.stderr).contains("agent.serviceAccount.name is needed"));
}

#[test]
fn nobody_is_privileged_and_the_controller_is_nobody() {
    let Some(helm) = helm("security contexts") else { return };
    let controller = render(&helm, "ops", "", &["--show-only", "templates/controller.yaml"]);
    for wanted in ["runAsNonRoot: true", "readOnlyRootFilesystem: true", "drop: [ALL]", "replicas: 1"] {
        assert!(controller.contains(wanted), "{wanted}: {controller}");
    }
    assert!(!controller.contains("add:"), "{controller}");
    let agent = render(&helm, "ops", "", &["--show-only", "templates/agent.yaml"]);
    assert!(agent.contains("privileged: false") && agent.contains("readOnlyRootFilesystem: true"), "{agent}");
    let old = render(&helm, "ops", "", &["--kube-version", "1.29.0"]);
    let new = render(&helm, "ops", "", &["--kube-version", "1.30.0"]);
    let annotation = "container.apparmor.security.beta.kubernetes.io/agent: unconfined";
    assert!(old.contains(annotation) && !old.contains("appArmorProfile"));
    assert!(!new.contains(annotation) && new.contains("appArmorProfile"));
}

#[test]
fn what_is_scraped_is_what_is_served() {
    let Some(helm) = helm("PodMonitor") else { return };
    let ports = |values: &str| -> Vec<String> {
        let objects: Vec<serde_json::Value> =
            serde_saphyr::from_multiple(&render(&helm, "ops", values, &[])).unwrap();
        let monitor = objects.iter().find(|object| object["kind"] == "PodMonitor");
        let endpoints = monitor.and_then(|monitor| monitor["spec"]["podMetricsEndpoints"].as_array());
        endpoints
            .into_iter()
            .flatten()
            .map(|endpoint| endpoint["port"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ports("metrics: {enabled: true}"), [""; 0]);
    assert_eq!(ports("podMonitor: {enabled: true}"), ["health"]);
    assert_eq!(ports("{podMonitor: {enabled: true}, metrics: {enabled: true}}"), ["health", "metrics"]);
}

#[test]
fn an_agent_that_asks_no_process_gets_neither_their_ids_nor_the_right() {
    let Some(helm) = helm("findByProcess") else { return };
    let values = "agent: {netnsFolders: [/run/netns, /run/docker/netns]}";
    let agent = render(&helm, "ops", values, &["--show-only", "templates/agent.yaml"]);
    assert!(agent.contains("hostPID: false") && !agent.contains("SYS_PTRACE"), "{agent}");
    assert!(agent.contains("--pod-netns=/run/docker/netns"), "{agent}");
    let asking = render(&helm, "ops", "agent: {findByProcess: true}", &[]);
    assert!(asking.contains("hostPID: true") && !asking.contains("--pod-netns"), "{asking}");
    assert_eq!(capabilities(&agent).len() + 1, capabilities(&asking).len());
}

/// The capabilities that the manifests give the agent, as `capabilities(7)` calls them.
fn capabilities(manifests: &str) -> BTreeSet<String> {
    let agent = serde_saphyr::from_multiple::<serde_json::Value>(manifests)
        .unwrap()
        .into_iter()
        .find(|object| object["kind"] == "DaemonSet")
        .expect("a DaemonSet");
    let context = &agent["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
    let added = context["capabilities"]["add"].as_array().expect("a list").iter();
    added.map(|name| name.as_str().unwrap().to_ascii_lowercase()).collect()
}

/// A program that ends with its guard.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A controller and an agent for each node, which have no more than these capabilities.
struct Confined {
    address: String,
    folder: tempfile::TempDir,
    _running: Vec<Running>,
}

impl Confined {
    fn start(testbed: &Testbed, capabilities: &BTreeSet<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let inventory = path("inventory.json");
        std::fs::write(&inventory, testbed.succeed(&["status", "-o", "json"])).unwrap();
        let tls = path("tls");
        let ready = path("controller");
        let mut controller = Command::new(program("waymark-controller"));
        controller.args(["run", "--inventory", &inventory, "--listen", "127.0.0.1:0"]);
        let mut running = vec![run(controller.args(["--tls-dir", &tls, "--ready-file", &ready]))];
        await_file(&ready);
        let address = std::fs::read_to_string(&ready).unwrap().trim().to_owned();
        let nodes = ["node1", "node2", "node3"];
        for node in nodes {
            let mut agent = confine(capabilities);
            agent.args(["--inventory", &inventory, "--node", node]);
            agent.args(["--controller", &address, "--tls", &path("tls/agent"), "--ready-file", &path(node)]);
            running.push(run(&mut agent));
        }
        for node in &nodes {
            await_file(&path(node));
        }
        Self { address, folder, _running: running }
    }

    /// The result of a check, or the one sentence of an error.
    fn check(&self, destination: &str) -> Result<serde_json::Value, String> {
        let output = Command::new(program("waymark"))
            .args(["check", "pod/shop/cart", destination, "-o", "json", "--controller", &self.address])
            .args(["--tls".as_ref(), self.folder.path().join("tls/client").as_os_str()])
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).map_err(|_| text(&output.stderr))
    }
}

/// `waymark-agent run` with no more than these capabilities.
fn confine(capabilities: &BTreeSet<String>) -> Command {
    let mut agent = bounded(capabilities, &program("waymark-agent"));
    agent.arg("run");
    agent
}

/// A program that has no more than these capabilities, nor has anything that it starts.
fn bounded(capabilities: &BTreeSet<String>, program: &Path) -> Command {
    let bounds: Vec<String> = std::iter::once("-all".to_owned())
        .chain(capabilities.iter().map(|name| format!("+{name}")))
        .collect();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", &bounds.join(","), "--inh-caps", "-all", "--no-new-privs"]);
    command.arg(program);
    command
}

#[test]
fn the_namespaces_of_processes_can_be_told() {
    if !privileged("processes") {
        return;
    }
    let Some(helm) = helm("processes") else { return };
    // One that may do more than the agent, as a container's may.
    let other = run(Command::new("sleep").arg("1000"));
    let namespace = format!("/proc/{}/ns/net", other.0.id());
    let tells = |values: &str| {
        let given = capabilities(&render(&helm, "ops", values, &[]));
        bounded(&given, Path::new("readlink")).arg(&namespace).status().unwrap().success()
    };
    assert!(tells("agent: {findByProcess: true}"));
    assert!(!tells(""), "then the right would not be needed");
}

fn program(name: &str) -> std::path::PathBuf {
    Path::new(PROGRAM).with_file_name(name)
}

fn run(command: &mut Command) -> Running {
    Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn await_file(path: &str) {
    let end = Instant::now() + PATIENCE;
    while !Path::new(path).exists() {
        assert!(Instant::now() < end, "{path} did not appear");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_agents_capabilities_are_enough_and_each_is_needed() {
    if !privileged("capabilities") {
        return;
    }
    let Some(helm) = helm("capabilities") else { return };
    let given = capabilities(&render(&helm, "ops", "", &[]));
    let testbed = Testbed::up(&[]);
    let without = |name: &str| {
        let mut fewer = given.clone();
        assert!(fewer.remove(name), "{name} is not given");
        Confined::start(&testbed, &fewer)
    };

    let confined = Confined::start(&testbed, &given);
    let reached = confined.check("svc/shop/pay:80").unwrap();
    assert_eq!(reached["verdict"], "Reachable", "{reached:#}");
    let refused = confined.check("pod/shop/pay-1:81").unwrap();
    let fault = &refused["faultPoint"];
    assert_eq!(
        (&fault["cause"], &fault["reason"]),
        (&"no-listener".into(), &"NO_SOCKET".into()),
        "{fault:#}"
    );
    assert!(!fault["function"].as_str().unwrap().starts_with("0x"), "{fault:#}");
    drop(confined);

    let error = without("net_raw").check("svc/shop/pay:80").unwrap_err();
    assert!(error.contains("CAP_NET_RAW"), "{error}");
    let names = without("syslog").check("pod/shop/pay-1:81").unwrap();
    assert!(names["faultPoint"]["function"].as_str().unwrap().starts_with("0x"), "{names:#}");
    let mut fewer = given.clone();
    fewer.remove("sys_admin");
    let inventory = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(inventory.path(), r#"{"nodes":[{"name":"a","ip":"10.0.0.1"}]}"#).unwrap();
    let mut agent = confine(&fewer);
    agent.args(["--node", "a", "--inventory"]).arg(inventory.path());
    let refused = agent.output().unwrap();
    assert!(!refused.status.success() && text(&refused.stderr).contains("CAP_BPF"), "{refused:?}");
    let blind = without("net_admin").check("svc/shop/pay:80").unwrap();
    // The packets arrive all the same; what became of them in netfilter is not seen.
    let hooks = |result: &serde_json::Value| result.to_string().matches("netfilter-").count();
    assert!(hooks(&blind) < hooks(&reached), "{blind:#}");
}
