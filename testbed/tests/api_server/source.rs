//! The controller's view of a cluster, from a real API server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use waymark_controller::kubernetes::{Access, KubernetesError, KubernetesSource};
use waymark_controller::{Request, Source, resolve};
use waymark_proto::{Inventory, PortRef};
use waymark_testbed::kubernetes::{ControlPlane, Credential, User};

use crate::{control_plane, namespace, turn};

/// How long a change may take to be seen. Machines under load need some seconds.
const LIMIT: Duration = Duration::from_secs(120);

async fn start(kubeconfig: &Path) -> Result<KubernetesSource, KubernetesError> {
    let access = Access { kubeconfig: Some(kubeconfig.to_owned()), context: None };
    KubernetesSource::start(access.connect().await?).await
}

async fn refusal(kubeconfig: &Path) -> String {
    let error = start(kubeconfig).await.map(drop).expect_err("it is refused").to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

/// Asks until the answer fits.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    tokio::time::timeout(LIMIT, asking).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

async fn inventory_with(
    source: &KubernetesSource,
    what: &str,
    fits: impl Fn(&Inventory) -> bool,
) -> Arc<Inventory> {
    until(what, async || Some(source.inventory().await.unwrap()).filter(|inventory| fits(inventory))).await
}

#[tokio::test]
async fn a_cluster_is_followed() {
    let Some(plane) = control_plane("the Kubernetes source") else { return };
    let _turn = turn().await;
    let client = plane.client().await.unwrap();
    let namespace = namespace(&client).await;
    let node_name = format!("node-{namespace}");
    let nodes: Api<Node> = Api::all(client.clone());
    create(&nodes, json!({"metadata": {"name": node_name}, "spec": {"podCIDR": "10.244.77.0/24"}})).await;
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "172.18.77.2"}]}});
    nodes.patch_status(&node_name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    create(
        &services,
        json!({"metadata": {"name": "pay"}, "spec": {"selector": {"app": "pay"},
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}}),
    )
    .await;
    create(
        &services,
        json!({"metadata": {"name": "db"}, "spec": {"clusterIP": "None",
            "ports": [{"port": 5432, "protocol": "TCP"}]}}),
    )
    .await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let container = json!({"name": "c", "image": "none", "ports": [{"name": "web", "containerPort": 8080}]});
    create(
        &pods,
        json!({"metadata": {"name": "pay-1", "labels": {"app": "pay"}},
            "spec": {"nodeName": node_name, "containers": [container]}}),
    )
    .await;

    let source = start(plane.kubeconfig()).await.unwrap();
    let inventory = source.inventory().await.unwrap();
    assert_eq!(source.doubt(), None);
    assert_eq!(inventory.node(&node_name.as_str().into()).unwrap().ip.to_string(), "172.18.77.2");
    let ask = |inventory: &Inventory, to: &str| {
        let request = Request::new(format!("node/{node_name}").parse().unwrap(), to.parse().unwrap());
        resolve(inventory, &request).map_err(|error| error.to_string())
    };
    let pay = format!("pod/{namespace}/pay-1:8080");
    assert_eq!(
        ask(&inventory, &pay).unwrap_err(),
        format!("pod {namespace}/pay-1 has no address yet: it is Pending on {node_name}")
    );
    let db = ask(&inventory, &format!("svc/{namespace}/db:5432")).unwrap_err();
    assert!(db.starts_with(&format!("service {namespace}/db has no cluster IP: it is headless")), "{db}");

    // The pod gets an address and becomes ready, and the controllers write its endpoint.
    let status = json!({"status": {"phase": "Running", "podIP": "10.244.77.10", "podIPs": [{"ip": "10.244.77.10"}],
        "conditions": [{"type": "Ready", "status": "True"}]}});
    pods.patch_status("pay-1", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let backends = |inventory: &Inventory| {
        let service = inventory.services.iter().find(|service| service.namespace == namespace).cloned();
        service.map(|service| service.backends).unwrap_or_default()
    };
    // Each kind is watched for itself, so of pod and endpoint either may be known first.
    let both = |inventory: &Inventory| !backends(inventory).is_empty() && ask(inventory, &pay).is_ok();
    let inventory = inventory_with(&source, "a pod with an address and an endpoint", both).await;
    assert_eq!(ask(&inventory, &pay).unwrap().flow.dst.to_string(), "10.244.77.10");
    let backend = backends(&inventory).remove(0);
    assert_eq!((backend.ip.to_string(), backend.port, backend.ready), ("10.244.77.10".into(), 8080, true));
    assert_eq!(backend.pod, Some(format!("{namespace}/pay-1")));
    let service = inventory.services.iter().find(|service| service.namespace == namespace).unwrap();
    assert_eq!(service.target_port, Some(PortRef::Name("web".into())));
    let pod = inventory.pod(&namespace, "pay-1").unwrap();
    assert_eq!(pod.netns.as_str(), format!("pod:{namespace}/pay-1"));

    // It goes away.
    pods.delete("pay-1", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() })
        .await
        .unwrap();
    let gone = |inventory: &Inventory| {
        inventory.pod(&namespace, "pay-1").is_none() && backends(inventory).is_empty()
    };
    let inventory = inventory_with(&source, "the end of the pod", gone).await;
    assert!(ask(&inventory, &pay).unwrap_err().starts_with("there is no pod"));
    nodes.delete(&node_name, &DeleteParams::default()).await.unwrap();
}

/// A user with a role of these verbs on all that is watched.
async fn user_with(plane: &ControlPlane, name: &str, verbs: &[&str]) -> PathBuf {
    let client = plane.client().await.unwrap();
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods", "nodes", "services", "namespaces"], "verbs": verbs},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": verbs},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
    ]);
    let cluster_roles: Api<ClusterRole> = Api::all(client.clone());
    create(&cluster_roles, json!({"metadata": {"name": name}, "rules": rules})).await;
    let bindings: Api<ClusterRoleBinding> = Api::all(client);
    create(
        &bindings,
        json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}]}),
    )
    .await;
    plane.user(&User::new(name)).unwrap()
}

#[tokio::test]
async fn missing_rights_name_the_verb_and_what_it_is_for() {
    let Some(plane) = control_plane("rights of the Kubernetes source") else { return };
    assert_eq!(
        refusal(&plane.user(&User::new("source-nobody")).unwrap()).await,
        "not permitted to list endpointslices, namespaces, networkpolicies, nodes, pods, services (as user source-nobody): grant it the verb list on endpointslices, namespaces, networkpolicies, nodes, pods, services by a ClusterRole, as the Helm chart does"
    );
    let only_list = user_with(plane, "source-lister", &["list"]).await;
    // The authorizer learns of roles by a watch of its own.
    let says =
        until("the role", async || Some(refusal(&only_list).await).filter(|says| says.contains("watch")))
            .await;
    assert!(
        says.starts_with("not permitted to watch endpointslices, namespaces, nodes, pods, services (")
            && says.contains("grant it the verb watch on endpointslices, namespaces"),
        "{says}"
    );
    let enough = user_with(plane, "source-watcher", &["list", "watch"]).await;
    until("the role", async || start(&enough).await.ok()).await;
}

#[tokio::test]
async fn credentials_and_servers_that_are_wrong_are_told_apart() {
    let Some(plane) = control_plane("credentials of the Kubernetes source") else { return };
    for credential in [Credential::Token("expired".into()), Credential::ExpiredCertificate] {
        let says = refusal(&plane.user(&User::admin().with(credential)).unwrap()).await;
        assert!(says.contains("401 Unauthorized") && says.contains("expired"), "{says}");
    }
    // A port that nobody listens on: it is held, but not listened on, until the end of the test.
    let (_held, nobody) = hold();
    let says = refusal(changed(plane, "server", format!("https://{nobody}")).path()).await;
    assert!(
        says.starts_with(&format!(
            "no Kubernetes API server answers at https://{nobody}: Connection refused"
        )),
        "{says}"
    );
    let stranger = rcgen::generate_simple_self_signed(["stranger".to_owned()]).unwrap().cert.pem();
    let stranger = serde_json::to_value(ByteString(stranger.into_bytes())).unwrap();
    let says = refusal(changed(plane, "certificate-authority-data", stranger).path()).await;
    assert!(says.starts_with("cannot trust the API server at https://"), "{says}");
}

/// The administrator's kubeconfig with another server, or another authority.
pub(crate) fn changed(plane: &ControlPlane, field: &str, value: impl Into<Value>) -> tempfile::NamedTempFile {
    let mut document: Value = serde_json::from_slice(&std::fs::read(plane.kubeconfig()).unwrap()).unwrap();
    document["clusters"][0]["cluster"][field] = value.into();
    let file = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(&file, &document).unwrap();
    file
}

/// Holds a port of the loopback without listening on it: nobody gets it but who asks for it by its number.
fn hold() -> (Socket, SocketAddr) {
    let held = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    held.set_reuse_address(true).unwrap();
    held.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = held.local_addr().unwrap().as_socket().unwrap();
    (held, address)
}

/// A way to the API server that can be cut and mended.
pub(crate) struct Wire {
    /// Nobody else listens here while it is cut.
    _held: Socket,
    pub(crate) address: SocketAddr,
    server: String,
    carrying: Option<JoinHandle<()>>,
}

impl Wire {
    pub(crate) async fn new(plane: &ControlPlane) -> Self {
        let (held, address) = hold();
        let listener = TcpListener::bind(address).await.unwrap();
        let server = plane.server().trim_start_matches("https://").to_owned();
        let carrying = Some(tokio::spawn(carry(listener, server.clone())));
        Self { _held: held, address, server, carrying }
    }

    /// Ends all connections and takes no more.
    pub(crate) async fn cut(&mut self) {
        let carrying = self.carrying.take().expect("it is whole");
        carrying.abort();
        drop(carrying.await);
    }

    pub(crate) async fn mend(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.carrying = Some(tokio::spawn(carry(listener, self.server.clone())));
    }
}

async fn carry(listener: TcpListener, server: String) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        let server = server.clone();
        connections.spawn(async move {
            let mut server = TcpStream::connect(server).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        });
    }
}

#[tokio::test]
async fn a_source_that_lost_its_server_says_so_until_it_is_back() {
    let Some(plane) = control_plane("a lost API server") else { return };
    let mut wire = Wire::new(plane).await;
    let kubeconfig = changed(plane, "server", format!("https://{}", wire.address));
    let source = start(kubeconfig.path()).await.unwrap();
    assert_eq!(source.doubt(), None);
    let before = source.inventory().await.unwrap();
    wire.cut().await;
    // Each kind's watch finds it out in its own time.
    let of_pods = async || source.doubt().filter(|doubt| doubt.contains("pods"));
    let doubt = until("a doubt of what is known of pods", of_pods).await;
    assert!(doubt.contains("no Kubernetes API server answers"), "{doubt}");
    // What is known is still given.
    assert!(source.inventory().await.unwrap().namespaces.len() >= before.namespaces.len());
    // What happens meanwhile is known afterwards.
    let namespace = namespace(&plane.client().await.unwrap()).await;
    let knows = |inventory: &Inventory| inventory.namespaces.iter().any(|known| known.name == namespace);
    assert!(!knows(&source.inventory().await.unwrap()));
    wire.mend().await;
    until("no doubt", async || source.doubt().is_none().then_some(())).await;
    inventory_with(&source, "the new namespace", knows).await;
}
