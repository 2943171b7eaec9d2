//! Changes are applied and taken back by a real API server. The dataplane is made up: it does what the objects
//! ask for, or nothing at all.

use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, RoleBinding};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::MutexGuard;
use waymark_controller::kubernetes::{Access, LiveCluster, convert};
use waymark_controller::validate::{
    Action, Bounds, Change, Cluster, Expectations, Intention, Mode, Namespaces, Observation, Outcome, Pair,
    Plan, Probe, ProbeError, Rollback, Seen, State, Stop, ValidationReport, agrees, foresee, preview,
    read_manifest, validate,
};
use waymark_testbed::kubernetes::User;

use crate::rights::granted;
use crate::{control_plane, namespace, turn};

/// A namespace with three pods on a node of its own.
struct Shop {
    namespace: String,
    client: Client,
    cluster: LiveCluster,
    _turn: MutexGuard<'static, ()>,
}

/// Makes addresses of nodes and pods that no other test has.
static NEXT: AtomicU8 = AtomicU8::new(1);

async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    // As kubectl does it, so that fields have a manager.
    let parameters = PostParams { field_manager: Some("kubectl-create".to_owned()), dry_run: false };
    api.create(&parameters, &serde_json::from_value(object).unwrap()).await.unwrap()
}

async fn live(kubeconfig: &Path, manager: &str, force: bool) -> LiveCluster {
    let access = Access { kubeconfig: Some(kubeconfig.to_owned()), context: None };
    LiveCluster::new(access.connect().await.unwrap(), manager, force)
}

impl Shop {
    async fn open(test: &str) -> Option<Self> {
        let plane = control_plane(test)?;
        let turn = turn().await;
        let client = plane.client().await.unwrap();
        let namespace = namespace(&client).await;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let node = format!("node-{namespace}");
        let nodes: Api<Node> = Api::all(client.clone());
        create(
            &nodes,
            json!({"metadata": {"name": node}, "spec": {"podCIDR": format!("10.249.{number}.0/24")}}),
        )
        .await;
        let address = json!([{"type": "InternalIP", "address": format!("172.29.0.{number}")}]);
        let status = json!({"status": {"addresses": address}});
        nodes.patch_status(&node, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        for (name, last) in [("cart", 10), ("pay", 11), ("web", 12)] {
            let container =
                json!({"name": "c", "image": "none", "ports": [{"name": "http", "containerPort": 8080}]});
            create(
                &pods,
                json!({"metadata": {"name": name, "labels": {"app": name}},
                    "spec": {"nodeName": node, "containers": [container]}}),
            )
            .await;
            let ip = format!("10.249.{number}.{last}");
            let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": "True"}]}});
            pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        }
        let cluster = live(plane.kubeconfig(), "waymark-validate", false).await;
        Some(Self { namespace, client, cluster, _turn: turn })
    }

    fn policies(&self) -> Api<NetworkPolicy> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn plan(&self, intention: Intention, text: &str) -> Plan {
        let documents = read_manifest("change.yaml", text).unwrap();
        let namespaces = Namespaces::Default(self.namespace.clone());
        Plan {
            change: Change::new(documents, intention, &namespaces).unwrap(),
            expectations: Expectations::default(),
            bounds: Bounds { most: 12, udp: false },
            settle: Duration::ZERO,
            rollback: Rollback::OnFailure,
            cautious: false,
        }
    }

    async fn run(&self, plan: &Plan) -> ValidationReport {
        let (_raise, stop) = Stop::new();
        validate(&self.cluster, &self.probe(true), plan, &stop, &|_| ()).await.unwrap()
    }

    /// How many of the changed connections are of the namespace alone.
    fn within(&self, report: &ValidationReport) -> usize {
        let own =
            |pair: &Pair| pair.namespace == self.namespace && pair.destination.namespace == self.namespace;
        report.reachability.connections.iter().filter(|change| own(&change.pair)).count()
    }

    fn probe(&self, obeys: bool) -> ByTheObjects<'_> {
        ByTheObjects { cluster: &self.cluster, obeys }
    }

    /// The object, and all else that is kept of it but its version.
    async fn kept<K: Clone + DeserializeOwned + Serialize + std::fmt::Debug>(
        &self,
        api: &Api<K>,
        name: &str,
    ) -> Value {
        let mut object = serde_json::to_value(api.get(name).await.unwrap()).unwrap();
        for key in ["resourceVersion", "generation"] {
            object["metadata"].as_object_mut().unwrap().remove(key);
        }
        object
    }
}

/// A dataplane that does what the objects ask for, or lets everything pass.
struct ByTheObjects<'a> {
    cluster: &'a LiveCluster,
    obeys: bool,
}

#[async_trait]
impl Probe for ByTheObjects<'_> {
    async fn check(&self, pair: &Pair) -> Result<Observation, ProbeError> {
        let objects = self.cluster.objects().await.map_err(|error| ProbeError::Away(error.to_string()))?;
        let inventory = convert(&objects);
        let namespaces = [pair.namespace.clone(), pair.destination.namespace.clone()].into();
        let reach = foresee(&inventory, &inventory, &namespaces).before.get(pair);
        let works = !self.obeys || agrees(reach, Seen::Works);
        let seen = if works { Seen::Works } else { Seen::Fails };
        Ok(Observation { seen, fault: None, note: None })
    }
}

/// Nobody but `from` may send to `pay`.
fn only(from: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: pay}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: pay}}}}\n  policyTypes: [Ingress]\n  \
         ingress: [{{from: [{{podSelector: {{matchLabels: {{app: {from}}}}}}}]}}]\n"
    )
}

fn policy(from: &str) -> Value {
    serde_json::from_str(&serde_json::to_string(&read_manifest("x", &only(from)).unwrap()[0].value).unwrap())
        .unwrap()
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: pay}\nspec:\n  selector: {app: pay}\n  \
    ports: [{port: 80, targetPort: http, protocol: TCP}]\n";

#[tokio::test]
async fn a_good_change_stays_and_a_harmful_one_is_rolled_back() {
    let Some(shop) = Shop::open("validation").await else { return };
    let mut plan = shop.plan(Intention::Apply, &only("cart"));
    let static_only = preview(&shop.cluster, &plan).await.unwrap().report;
    assert_eq!((static_only.state, static_only.exit_code()), (State::NotApplied, 1));
    assert!(shop.policies().get_opt("pay").await.unwrap().is_none(), "a dry run leaves nothing");

    let report = shop.run(&plan).await;
    assert_eq!((report.outcome, report.state), (Outcome::Failed, State::RolledBack), "{report:?}");
    assert!(shop.policies().get_opt("pay").await.unwrap().is_none(), "it was not there before");

    plan.expectations.accept_lost = true;
    let report = shop.run(&plan).await;
    assert_eq!((report.outcome, report.state, report.exit_code()), (Outcome::AsPredicted, State::Applied, 1));
    assert_eq!(report.change[0].action, Action::Created);
    let managers = shop.policies().get("pay").await.unwrap().metadata.managed_fields.unwrap();
    assert_eq!(managers[0].manager.as_deref(), Some("waymark-validate"));

    let again = shop.run(&plan).await;
    assert_eq!((again.outcome, again.exit_code()), (Outcome::Unchanged, 0), "{again:?}");
}

#[tokio::test]
async fn what_was_there_comes_back_to_the_letter() {
    let Some(shop) = Shop::open("rollback").await else { return };
    let mut old = policy("web");
    old["metadata"]["labels"] = json!({"team": "a"});
    old["metadata"]["annotations"] = json!({"note": "as it was"});
    create(&shop.policies(), old).await;
    let before = shop.kept(&shop.policies(), "pay").await;
    let mut plan = shop.plan(Intention::Apply, &only("cart"));
    // Its fields belong to whoever made it.
    let refused = preview(&shop.cluster, &plan).await.unwrap_err().to_string();
    assert!(refused.contains("kubectl-create") && refused.contains("--force-conflicts"), "{refused}");
    assert!(refused.ends_with("; nothing was applied") && !refused.contains('\n'), "{refused}");

    let plane = control_plane("rollback").unwrap();
    let shop = Shop { cluster: live(plane.kubeconfig(), "waymark-validate", true).await, ..shop };
    let report = shop.run(&plan).await;
    assert_eq!((report.outcome, report.state), (Outcome::Failed, State::RolledBack), "{report:?}");
    assert_eq!(shop.kept(&shop.policies(), "pay").await, before, "managers, labels and all");

    // A dataplane that does not enforce it.
    plan.expectations.accept_lost = true;
    let (_raise, never) = Stop::new();
    let seen = validate(&shop.cluster, &shop.probe(false), &plan, &never, &|_| ()).await.unwrap();
    assert_eq!((seen.outcome, seen.state), (Outcome::Failed, State::RolledBack), "{seen:?}");
    assert!(seen.failures.iter().any(|failure| failure.contains("not enforced")), "{:?}", seen.failures);
    assert_eq!(shop.kept(&shop.policies(), "pay").await, before);
}

#[tokio::test]
async fn a_deleted_policy_is_made_again() {
    let Some(shop) = Shop::open("deletion").await else { return };
    create(&shop.policies(), policy("cart")).await;
    let spec = shop.policies().get("pay").await.unwrap().spec;
    let mut plan = shop.plan(Intention::Delete, &only("cart"));
    plan.rollback = Rollback::Always;
    let report = shop.run(&plan).await;
    assert_eq!((report.outcome, report.state), (Outcome::AsPredicted, State::RolledBack), "{report:?}");
    assert!(report.reachability.gained > 0);
    assert_eq!(shop.policies().get("pay").await.unwrap().spec, spec);

    plan.rollback = Rollback::OnFailure;
    let report = shop.run(&plan).await;
    assert_eq!((report.outcome, report.state), (Outcome::AsPredicted, State::Applied), "{report:?}");
    assert!(shop.policies().get_opt("pay").await.unwrap().is_none());
}

#[tokio::test]
async fn services_get_the_endpoints_and_keep_the_address_that_they_had() {
    let Some(shop) = Shop::open("Services").await else { return };
    let plan = shop.plan(Intention::Apply, SERVICE);
    let foreseen = preview(&shop.cluster, &plan).await.unwrap().report;
    assert_eq!((foreseen.change[0].action, shop.within(&foreseen)), (Action::Created, 3), "{foreseen:?}");
    assert!(shop.services().get_opt("pay").await.unwrap().is_none());
    create(&shop.services(), serde_json::to_value(&read_manifest("x", SERVICE).unwrap()[0].value).unwrap())
        .await;
    let before = shop.kept(&shop.services(), "pay").await;

    // A target port that no pod has: foreseen from the pods, whatever the endpoints are by now.
    let broken = SERVICE.replace("targetPort: http", "targetPort: htpt");
    let plane = control_plane("Services").unwrap();
    let shop = Shop { cluster: live(plane.kubeconfig(), "waymark-validate", true).await, ..shop };
    let mut plan = shop.plan(Intention::Apply, &broken);
    plan.rollback = Rollback::Always;
    let foreseen = preview(&shop.cluster, &plan).await.unwrap().report;
    assert!(foreseen.remarks.iter().any(|remark| remark.contains("leads to no ready pod")), "{foreseen:?}");
    let report = shop.run(&plan).await;
    assert_eq!(report.state, State::RolledBack, "{report:?}");
    assert_eq!(shop.kept(&shop.services(), "pay").await, before);
}

#[tokio::test]
async fn refusals_are_one_sentence_before_anything_is_done() {
    let Some(shop) = Shop::open("refusals").await else { return };
    let says = async |cluster: &LiveCluster, text: &str| {
        let plan = shop.plan(Intention::Apply, text);
        let error = preview(cluster, &plan).await.unwrap_err().to_string();
        assert!(!error.contains('\n') && error.ends_with("; nothing was applied"), "{error}");
        error
    };
    let invalid = says(&shop.cluster, &SERVICE.replace("port: 80", "port: 99999")).await;
    assert!(
        invalid.contains("the API server does not take Service") && invalid.contains("99999"),
        "{invalid}"
    );
    let nowhere = SERVICE.replace("{name: pay}", "{name: pay, namespace: no-such-namespace}");
    let nowhere = says(&shop.cluster, &nowhere).await;
    assert!(nowhere.contains("no-such-namespace"), "{nowhere}");

    // Somebody who may read but not change.
    let plane = control_plane("refusals").unwrap();
    let kinds = json!([{"apiGroups": ["", "networking.k8s.io", "discovery.k8s.io"], "resources": ["*"], "verbs": ["get", "list"]}]);
    let role = json!({"metadata": {"name": shop.namespace}, "rules": kinds});
    create(&Api::<ClusterRole>::all(shop.client.clone()), role).await;
    let reference =
        json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": shop.namespace});
    let subject = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reader"}]);
    let binding = json!({"metadata": {"name": shop.namespace}, "roleRef": reference, "subjects": subject});
    create(&Api::<ClusterRoleBinding>::all(shop.client.clone()), binding).await;
    let may = |user: &str, verb: &str| {
        json!({ "user": user, "resourceAttributes": { "verb": verb, "group": "networking.k8s.io",
            "resource": "networkpolicies", "namespace": shop.namespace } })
    };
    granted(&shop.client, &may("reader", "get")).await;
    let reader = plane.user(&User::new("reader")).unwrap();
    let refused = says(&live(&reader, "m", false).await, &only("cart")).await;
    assert!(
        refused.contains("not permitted to patch NetworkPolicy") && refused.contains("reader"),
        "{refused}"
    );

    // Somebody who may do all of that in one namespace, but not see the others.
    let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let role = format!("{}-editor", shop.namespace);
    create(&Api::<ClusterRole>::all(shop.client.clone()), json!({"metadata": {"name": role}, "rules": all}))
        .await;
    let editor = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
    let subject = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "editor"}]);
    let binding = json!({"metadata": {"name": "editor"}, "roleRef": editor, "subjects": subject});
    create(&Api::<RoleBinding>::namespaced(shop.client.clone(), &shop.namespace), binding).await;
    granted(&shop.client, &may("editor", "patch")).await;
    let editor = plane.user(&User::new("editor")).unwrap();
    let refused = says(&live(&editor, "m", false).await, &only("cart")).await;
    assert!(refused.contains("not permitted to list nodes"), "{refused}");
    assert!(shop.policies().get_opt("pay").await.unwrap().is_none());
}

#[tokio::test]
async fn whoever_comes_between_is_not_overwritten() {
    let Some(shop) = Shop::open("conflicts").await else { return };
    create(&shop.policies(), policy("web")).await;
    let plane = control_plane("conflicts").unwrap();
    let cluster = live(plane.kubeconfig(), "waymark-validate", true).await;
    let plan = shop.plan(Intention::Apply, &only("cart"));
    let mut item = plan.change.items[0].clone();
    let read = cluster.get(&item.key).await.unwrap().unwrap();
    item.manifest["metadata"]["resourceVersion"] = read["metadata"]["resourceVersion"].clone();
    let note = json!({"metadata": {"annotations": {"by": "another"}}});
    shop.policies().patch("pay", &PatchParams::default(), &Patch::Merge(note)).await.unwrap();
    let error = cluster.apply(&item, Mode::Real).await.unwrap_err().to_string();
    assert!(error.contains("somebody else changed it meanwhile") && !error.contains('\n'), "{error}");
    let now: DynamicObject = serde_json::from_value(cluster.get(&item.key).await.unwrap().unwrap()).unwrap();
    assert_eq!(now.data["spec"], policy("web")["spec"]);
}
