//! The programs' command lines. Pure.
//!
//! The flags are those of 1.20 (kubernetes.io/docs/reference/command-line-tools-reference) and etcd 3.4.

use std::net::IpAddr;
use std::path::Path;

use crate::plan::CLUSTER_CIDR;

/// The Services' network: large enough for the addresses that the topologies name.
pub(crate) const SERVICE_NET: &str = "10.96.0.0/16";
/// So that `EndpointSlices` say which node an endpoint is on, as every current version does.
const FEATURES: &str = "EndpointSliceNodeName=true";
/// Files of the cluster's authority and keys, in the folder of the control plane.
pub(crate) mod file {
    pub(crate) const AUTHORITY: &str = "ca.crt";
    pub(crate) const SERVER: &str = "server.crt";
    pub(crate) const SERVER_KEY: &str = "server.key";
    pub(crate) const ACCOUNTS: &str = "accounts.pub";
    pub(crate) const ACCOUNTS_KEY: &str = "accounts.key";
    pub(crate) const FRONT: &str = "front.crt";
    pub(crate) const FRONT_KEY: &str = "front.key";
}

/// Where a server listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listen {
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
}

/// The store: forgets everything with its machine, and so never waits for a disk.
pub(crate) fn etcd(folder: &Path, clients: u16, peers: u16) -> Vec<String> {
    let (clients, peers) = (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{peers}"));
    vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        "--unsafe-no-fsync".into(),
        "--logger=zap".into(),
        "--log-level=warn".into(),
    ]
}

/// The API server. `folder` holds the files of [`file`].
pub(crate) fn api_server(folder: &Path, etcd: u16, listen: Listen) -> Vec<String> {
    let file = |name| folder.join(name).display().to_string();
    let Listen { ip, port } = listen;
    vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd}"),
        format!("--bind-address={ip}"),
        format!("--advertise-address={ip}"),
        format!("--secure-port={port}"),
        "--insecure-port=0".into(),
        format!("--tls-cert-file={}", file(file::SERVER)),
        format!("--tls-private-key-file={}", file(file::SERVER_KEY)),
        format!("--client-ca-file={}", file(file::AUTHORITY)),
        format!("--service-account-key-file={}", file(file::ACCOUNTS)),
        format!("--service-account-signing-key-file={}", file(file::ACCOUNTS_KEY)),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        "--api-audiences=https://kubernetes.default.svc".into(),
        format!("--requestheader-client-ca-file={}", file(file::AUTHORITY)),
        format!("--proxy-client-cert-file={}", file(file::FRONT)),
        format!("--proxy-client-key-file={}", file(file::FRONT_KEY)),
        "--authorization-mode=Node,RBAC".into(),
        // Pods would wait for their namespace's account and get a volume that nobody mounts; nodes would wait
        // for a controller that takes their taint away.
        "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition".into(),
        format!("--service-cluster-ip-range={SERVICE_NET}"),
        // Endpoints of 127.0.0.1 are refused, and nobody there reaches this server through its own Service.
        format!("--endpoint-reconciler-type={}", if ip.is_loopback() { "none" } else { "lease" }),
        "--allow-privileged=true".into(),
        format!("--feature-gates={FEATURES}"),
    ]
}

/// The controllers that a testbed's objects need. None that judges nodes: a loaded machine is no dead one.
pub(crate) fn controller_manager(folder: &Path, kubeconfig: &Path) -> Vec<String> {
    const CONTROLLERS: [&str; 12] = [
        "clusterrole-aggregation",
        "daemonset",
        "deployment",
        "endpoint",
        "endpointslice",
        "endpointslicemirroring",
        "garbagecollector",
        "job",
        "namespace",
        "replicaset",
        "serviceaccount",
        "statefulset",
    ];
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--controllers={}", CONTROLLERS.join(",")),
        format!("--service-account-private-key-file={}", folder.join(file::ACCOUNTS_KEY).display()),
        "--leader-elect=false".into(),
        "--port=0".into(),
        "--secure-port=0".into(),
        // The defaults suit a large cluster: a small one wants its answers now.
        "--kube-api-qps=200".into(),
        "--kube-api-burst=400".into(),
        format!("--feature-gates={FEATURES}"),
    ]
}

/// What writes the Services' rules in a node's namespace. Its limits for conntrack are the machine's, which
/// no testbed changes.
pub(crate) fn proxy(kubeconfig: &Path, node: &str) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--hostname-override={node}"),
        "--proxy-mode=iptables".into(),
        format!("--cluster-cidr={CLUSTER_CIDR}"),
        "--conntrack-max-per-core=0".into(),
        "--conntrack-min=0".into(),
        "--conntrack-tcp-timeout-established=0s".into(),
        "--conntrack-tcp-timeout-close-wait=0s".into(),
        "--iptables-min-sync-period=100ms".into(),
        "--oom-score-adj=0".into(),
    ]
}

/// The server for custom resources: asks the other who may do what.
pub(crate) fn crd_server(folder: &Path, etcd: u16, listen: Listen, kubeconfig: &Path) -> Vec<String> {
    let file = |name| folder.join(name).display().to_string();
    let Listen { ip, port } = listen;
    vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd}"),
        format!("--etcd-prefix=/waymark-crd-server-{port}"),
        format!("--bind-address={ip}"),
        format!("--secure-port={port}"),
        format!("--tls-cert-file={}", file(file::SERVER)),
        format!("--tls-private-key-file={}", file(file::SERVER_KEY)),
        format!("--client-ca-file={}", file(file::AUTHORITY)),
        "--authentication-skip-lookup=true".into(),
        format!("--authentication-kubeconfig={}", kubeconfig.display()),
        format!("--authorization-kubeconfig={}", kubeconfig.display()),
        format!("--kubeconfig={}", kubeconfig.display()),
        "--enable-priority-and-fairness=false".into(),
        "--disable-admission-plugins=NamespaceLifecycle,MutatingAdmissionWebhook,ValidatingAdmissionWebhook,\
         MutatingAdmissionPolicy,ValidatingAdmissionPolicy"
            .into(),
    ]
}
