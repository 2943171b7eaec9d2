//! The chart: the API server takes what it renders, and what it permits is enough for the real controller.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::{conditions, wait::await_condition};
use serde_json::json;
use waymark_testbed::kubernetes::{ControlPlane, User};

use crate::helm::{CHART, helm, render};
use crate::rights::{allowed, granted};
use crate::{control_plane, namespace, own_control_plane};

/// How long a program may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// `kubectl` with something on its standard input.
fn kubectl(plane: &ControlPlane, arguments: &[&str], input: &str) -> Output {
    let mut kubectl = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(plane.kubeconfig())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl");
    kubectl.stdin.take().expect("it is piped").write_all(input.as_bytes()).unwrap();
    kubectl.wait_with_output().unwrap()
}

#[track_caller]
fn apply(plane: &ControlPlane, arguments: &[&str], manifests: &str) -> String {
    let output = kubectl(plane, &[&["apply", "-f", "-"], arguments].concat(), manifests);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A definition of the Prometheus operator's kind that takes any spec: what an object is called, where it is and
/// what metadata it has is checked, and that the kind is of this group and version.
fn pod_monitors() -> serde_json::Value {
    let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    json!({
        "metadata": { "name": "podmonitors.monitoring.coreos.com" },
        "spec": {
            "group": "monitoring.coreos.com", "scope": "Namespaced",
            "names": { "kind": "PodMonitor", "plural": "podmonitors" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": {
                "type": "object", "required": ["spec"], "properties": { "spec": any } } } }],
        },
    })
}

#[tokio::test]
async fn the_api_server_takes_what_the_chart_renders() {
    let Some(plane) = control_plane("the chart") else { return };
    let Some(helm) = helm("the chart") else { return };
    let client = plane.client().await.unwrap();
    let namespace = namespace(&client).await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let monitors = serde_json::from_value(pod_monitors()).unwrap();
    definitions.create(&PostParams::default(), &monitors).await.unwrap();
    served(&client, "podmonitors.monitoring.coreos.com", "monitoring.coreos.com").await;
    let everything = "
fullnameOverride: tracer
image: {registry: 'registry.example:5000/team', tag: v1, pullPolicy: Always}
imagePullSecrets: [{name: registry}]
controller:
  port: 8443
  clusterChecksIn: [ops, kube-system]
  stateClaim: watches
  extraNames: [waymark.example.org, 192.0.2.7]
  serviceAccount: {annotations: {example.org/role: reader}}
  service: {type: LoadBalancer, annotations: {example.org/internal: 'true'}}
  podAnnotations: {example.org/a: b}
  priorityClassName: system-cluster-critical
  tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
agent:
  findByProcess: true
  netnsFolders: [/run/netns, /var/run/docker/netns]
  allow: [192.0.2.0/24, '2001:db8::/32']
  maxUnavailable: 3
  podAnnotations: {example.org/a: b}
metrics: {enabled: true}
podMonitor: {enabled: true, interval: 15s, labels: {release: prometheus}}
networkPolicy: {enabled: true}
";
    let least = "
rbac: {create: false, aggregate: false}
controller: {serviceAccount: {create: false, name: mine}, nodeSelector: null}
agent: {serviceAccount: {create: false, name: mine}, priorityClassName: '', tolerations: []}
";
    for (values, objects) in [("", 14), (everything, 16), (least, 6)] {
        let manifests = render(&helm, &namespace, values, &["--kube-version", "1.20.2"]);
        let said = apply(plane, &["--server-side", "--dry-run=server", "--validate=strict"], &manifests);
        let taken = said.lines().filter(|line| line.ends_with("(server dry run)")).count();
        assert_eq!(taken, objects, "{values}: {said}");
    }
}

/// Waits until a definition is served, and its group is among those that kubectl is told of.
async fn served(client: &kube::Client, definition: &str, group: &str) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let established = await_condition(definitions, definition, conditions::is_crd_established());
    tokio::time::timeout(PATIENCE, established).await.expect("in time").unwrap();
    let end = Instant::now() + PATIENCE;
    while !client.list_api_groups().await.unwrap().groups.iter().any(|listed| listed.name == group) {
        assert!(Instant::now() < end, "{group} is not listed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A review of what the chart's controller asks for: a right by its Role, and one by its `ClusterRole`.
fn reviews_of_controller(namespace: &str) -> [serde_json::Value; 2] {
    let review = |attributes: serde_json::Value| {
        json!({
            "user": format!("system:serviceaccount:{namespace}:{namespace}-controller"),
            "groups": [format!("system:serviceaccounts:{namespace}")],
            "resourceAttributes": attributes,
        })
    };
    [
        review(json!({ "verb": "get", "resource": "secrets", "name": "waymark-ca", "namespace": namespace })),
        review(json!({ "verb": "watch", "resource": "pods" })),
    ]
}

/// A controller that ends with its guard.
struct Controller {
    process: Child,
    endpoint: String,
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_waymark-testbed")).with_file_name(name)
}

/// `waymark-controller run` as the chart starts it, by this kubeconfig, on loopback.
fn controller(kubeconfig: &Path, namespace: &str, ready: &Path) -> Command {
    let mut command = Command::new(program("waymark-controller"));
    command.args(["run", "--kubeconfig"]).arg(kubeconfig);
    command.args(["--tls-secrets", namespace, "--listen", "https://127.0.0.1:0", "--health", "127.0.0.1:0"]);
    command.arg("--ready-file").arg(ready).stdout(Stdio::null());
    command
}

fn start(kubeconfig: &Path, namespace: &str, folder: &Path) -> Controller {
    let (ready, log) = (folder.join("ready"), folder.join("log"));
    let mut process = controller(kubeconfig, namespace, &ready)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let end = Instant::now() + PATIENCE;
    while !ready.exists() {
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        assert!(process.try_wait().unwrap().is_none(), "it ended: {}", log());
        assert!(Instant::now() < end, "it is not ready: {}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let endpoint = std::fs::read_to_string(&ready).unwrap().trim().to_owned();
    Controller { process, endpoint }
}

/// Asks the controller for its status with the certificate that a Secret holds.
async fn status(client: &kube::Client, namespace: &str, secret: &str, controller: &Controller) -> Output {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let data = secrets.get(secret).await.unwrap().data.expect("the controller fills it");
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in data {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes.0).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    Command::new(program("waymark"))
        .args(["status", "-o", "json", "--controller", &controller.endpoint, "--tls"])
        .arg(folder.path())
        .output()
        .unwrap()
}

#[tokio::test]
async fn the_controller_does_with_what_the_chart_permits() {
    let Some(plane) = &own_control_plane("the controller's role") else { return };
    let Some(helm) = helm("the controller's role") else { return };
    let client = plane.client().await.unwrap();
    let namespace = namespace(&client).await;
    let name = format!("fullnameOverride: {namespace}");
    let parts = ["--show-only", "templates/rbac.yaml", "--show-only", "templates/secrets.yaml"];
    apply(plane, &[], &render(&helm, &namespace, &name, &parts));
    let crds = std::fs::read_to_string(format!("{CHART}/crds/waymark.io_checks.yaml")).unwrap();
    apply(plane, &["--server-side", "--force-conflicts"], &crds);
    served(&client, "checks.waymark.io", "waymark.io").await;
    for review in reviews_of_controller(&namespace) {
        granted(&client, &review).await;
    }
    let notes = std::fs::read_to_string(format!("{CHART}/templates/NOTES.txt")).unwrap();
    let example = notes.split_once("<<EOF\n").and_then(|(_, rest)| rest.split_once("  EOF\n"));
    apply(
        plane,
        &["--namespace", &namespace, "--dry-run=server"],
        example.expect("the notes show a Check").0,
    );
    let account = User::service_account(&namespace, &format!("{namespace}-controller"));
    let kubeconfig = plane.user(&account).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let running = start(&kubeconfig, &namespace, folder.path());
    let asked = status(&client, &namespace, "waymark-client-tls", &running).await;
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let refused = status(&client, &namespace, "waymark-agent-tls", &running).await;
    assert_eq!(refused.status.code(), Some(77), "{}", String::from_utf8_lossy(&refused.stderr));
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(!log.contains("not permitted"), "{log}");

    // The same by the kubeconfig, for who may read the Secret; and who may not is told so.
    let by_kubeconfig = |kubeconfig: &Path| {
        Command::new(program("waymark"))
            .env("KUBECONFIG", kubeconfig)
            .args(["status", "--controller", &running.endpoint, "--tls-secret", &namespace])
            .output()
            .unwrap()
    };
    let asked = by_kubeconfig(plane.kubeconfig());
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let refused = by_kubeconfig(&plane.user(&User::new("nobody")).unwrap());
    let message = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(77), "{message}");
    assert!(message.contains("not permitted to get secrets/waymark-client-tls"), "{message}");

    // It runs the Checks, and says in their status that this one's pod is not there.
    let check = json!({
        "apiVersion": "waymark.io/v1alpha1", "kind": "Check", "metadata": { "name": "one" },
        "spec": { "source": { "pod": "gone" }, "destination": { "ip": "192.0.2.1" } },
    });
    apply(plane, &["--namespace", &namespace], &check.to_string());
    let wait = ["--namespace", &namespace, "wait", "--for=condition=Complete", "--timeout=100s", "check/one"];
    let waited = kubectl(plane, &wait, "");
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(waited.status.success(), "{}: {log}", String::from_utf8_lossy(&waited.stderr));

    // A second start finds the certificates of the first.
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let kept = secrets.get("waymark-client-tls").await.unwrap();
    drop(running);
    let again = tempfile::tempdir().unwrap();
    let running = start(&kubeconfig, &namespace, again.path());
    assert_eq!(secrets.get("waymark-client-tls").await.unwrap().data, kept.data);
    let labels = kept.metadata.labels.unwrap_or_default();
    assert_eq!(labels.get("app.kubernetes.io/name").map(String::as_str), Some("waymark"));

    // Other Secrets are none of its business, nor is anything else that it does not need.
    for (verb, resource, named, permitted) in [
        ("get", "secrets", "waymark-ca", true),
        ("get", "secrets", "other", false),
        ("list", "secrets", "", false),
        ("create", "secrets", "", false),
        ("create", "pods", "", false),
        ("watch", "pods", "", true),
        ("delete", "pods", "", false),
    ] {
        let groups = [format!("system:serviceaccounts:{namespace}")];
        let user = format!("system:serviceaccount:{namespace}:{namespace}-controller");
        let review = json!({ "user": user, "groups": groups, "resourceAttributes": {
            "verb": verb, "resource": resource, "name": named, "namespace": namespace } });
        assert_eq!(allowed(&client, &review).await, permitted, "{verb} {resource} {named}");
    }
    drop(running);
}

#[tokio::test]
async fn without_a_right_the_controller_says_which_in_one_sentence() {
    let Some(plane) = control_plane("a missing right") else { return };
    let Some(helm) = helm("a missing right") else { return };
    let client = plane.client().await.unwrap();
    let namespace = namespace(&client).await;
    let name = format!("fullnameOverride: {namespace}");
    let roles = render(&helm, &namespace, &name, &["--show-only", "templates/rbac.yaml"]);
    // No Secrets were made, and it may not make any.
    apply(plane, &[], &roles);
    for review in reviews_of_controller(&namespace) {
        granted(&client, &review).await;
    }
    let account = User::service_account(&namespace, &format!("{namespace}-controller"));
    let kubeconfig = plane.user(&account).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = controller(&kubeconfig, &namespace, &folder.path().join("ready")).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    let message = message.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(70), "{message}");
    for words in ["cannot make Secret", "waymark-ca", "not permitted to create secrets"] {
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn who_may_edit_a_namespace_may_make_checks_in_it() {
    let Some(plane) = control_plane("aggregated roles") else { return };
    let Some(helm) = helm("aggregated roles") else { return };
    let client = plane.client().await.unwrap();
    let namespace = namespace(&client).await;
    let name = format!("fullnameOverride: {namespace}");
    apply(plane, &[], &render(&helm, &namespace, &name, &["--show-only", "templates/rbac.yaml"]));
    let user = format!("editor-of-{namespace}");
    let kind = GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", "RoleBinding");
    let bindings: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &namespace, &ApiResource::from_gvk(&kind));
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": "editor" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
    });
    bindings.patch("editor", &PatchParams::apply("test"), &Patch::Apply(&binding)).await.unwrap();
    let review = |namespace: &str| {
        json!({ "user": user, "resourceAttributes": {
            "verb": "create", "group": "waymark.io", "resource": "checks", "namespace": namespace } })
    };
    // A controller of the cluster adds the chart's role to `edit`, when it comes to it.
    granted(&client, &review(&namespace)).await;
    assert!(!allowed(&client, &review("default")).await);
}
