//! Brings a control plane up inside a testbed, with a kubelet and a kube-proxy for each node, and gives it
//! the topology.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use waymark_prober::netns::Netns;
use waymark_proto::NetnsName;

use super::apply::{apply, define};
use super::assets::{Assets, Program, in_path};
use super::authority::Authority;
use super::error::{KubernetesError, Result};
use super::files::Files;
use super::flags::{self, Listen};
use super::kubeconfig::{self, MASTERS, User};
use super::kubelet::Cni;
use super::objects::Objects;
use super::plane::write_pki;
use super::ready::{self, PATIENCE};
use crate::interrupt;
use crate::plan::{CONTROL_IP, Cluster, NodePlan};
use crate::process::{Daemon, Readiness, Starting};
use crate::programs::Programs;
use crate::state::StateDir;
use crate::topology::Topology;

/// Where the API server listens in its namespace.
const API_PORT: u16 = 6443;
/// Where the store listens in its namespace.
const ETCD_PORTS: [u16; 2] = [2379, 2380];
/// How often is looked for the rules of a kube-proxy.
const PERIOD: Duration = Duration::from_millis(100);

/// What must be there before anything is made.
#[derive(Debug)]
pub(crate) struct Needs {
    assets: Assets,
    objects: Objects,
}

impl Needs {
    /// Looks for everything, and asks whether Kubernetes can have the topology.
    pub(crate) fn find(topology: &Topology) -> Result<Self> {
        let objects = Objects::of(topology).map_err(KubernetesError::Topology)?;
        let wanted = [Program::Etcd, Program::ApiServer, Program::ControllerManager, Program::Proxy];
        let assets = Assets::find(&wanted)?;
        Cni::find(PathBuf::new())?;
        // kube-proxy runs it whenever an endpoint of a UDP Service goes.
        for (program, package) in [("conntrack", "conntrack"), ("iptables-save", "iptables")] {
            if in_path(program).is_none() {
                return Err(KubernetesError::NotInstalled { program: program.into(), package });
            }
        }
        Ok(Self { assets, objects })
    }
}

/// Starts everything, in namespaces that are there and connected, and waits until it is as the topology says.
pub(crate) fn start(
    dir: &StateDir,
    programs: &Programs,
    cluster: &Cluster,
    needs: &Needs,
) -> crate::Result<()> {
    let files = dir.kubernetes();
    for folder in files.folders() {
        fs::create_dir_all(&folder).map_err(KubernetesError::file("create", folder))?;
    }
    let secret = fs::set_permissions(files.control(), fs::Permissions::from_mode(0o700));
    secret.map_err(KubernetesError::file("protect", files.control()))?;
    let start = Start { dir, this: programs.this(), cluster, files, assets: &needs.assets };
    start.control_plane()?;
    start.own()?;
    start.proxies()?;
    let kubeconfig = start.files.kubeconfig();
    let endpoints = ready::patiently("the topology's pods and EndpointSlices", async {
        let client = ready::client(&kubeconfig).await?;
        define(&client).await?;
        apply(&client, &needs.objects).await
    })?;
    cluster.nodes.iter().try_for_each(|node| rules(node, &endpoints))
}

struct Start<'a> {
    dir: &'a StateDir,
    this: &'a Path,
    cluster: &'a Cluster,
    files: Files,
    assets: &'a Assets,
}

impl Start<'_> {
    fn control_netns(&self) -> String {
        self.cluster.control.clone().expect("a cluster of Kubernetes has a namespace for it")
    }

    fn daemon(
        &self,
        role: &str,
        netns: Option<String>,
        program: &Path,
        args: Vec<String>,
        readiness: Readiness,
    ) -> crate::Result<Starting> {
        interrupt::check()?;
        Daemon { role: role.to_owned(), netns, program: program.to_owned(), args, readiness }
            .start(self.dir, self.this)
    }

    /// etcd, the API server, the way to it and the controllers.
    fn control_plane(&self) -> crate::Result<()> {
        let (control, netns) = (self.files.control(), self.control_netns());
        let authority = Authority::new(&format!("waymark-testbed-{}", self.dir.name()))?;
        let hosts =
            ["127.0.0.1", &CONTROL_IP.to_string(), "10.96.0.1", "localhost", "kubernetes.default.svc"];
        write_pki(&control, &authority, &hosts.map(str::to_owned))?;
        let inner = format!("https://{CONTROL_IP}:{API_PORT}");
        let write = |path: &Path, server: &str, user: &User| {
            kubeconfig::write(path, &kubeconfig::document(server, &authority, user)?)
        };
        write(&self.files.inner_kubeconfig(), &inner, &User::admin())?;
        write(&self.files.proxy_kubeconfig(), &inner, &User::new("system:kube-proxy"))?;
        let manager = control.join("controller-manager.kubeconfig");
        write(&manager, &inner, &User::new("system:kube-controller-manager").in_group(MASTERS))?;

        let [clients, peers] = ETCD_PORTS;
        let spawn = |role: &str, program, args| {
            self.daemon(role, Some(netns.clone()), &self.assets.path(program)?, args, Readiness::Asked)
        };
        let etcd = spawn("etcd", Program::Etcd, flags::etcd(&control, clients, peers))?;
        let listen = Listen { ip: IpAddr::V4(CONTROL_IP), port: API_PORT };
        let server =
            spawn("kube-apiserver", Program::ApiServer, flags::api_server(&control, clients, listen))?;
        let args =
            ["relay", "--netns", &netns, "--to", &SocketAddr::new(CONTROL_IP.into(), API_PORT).to_string()];
        let args = args.map(str::to_owned).into();
        self.daemon("relay", None, self.this, args, Readiness::File)?.wait(PATIENCE)?;
        let address = fs::read_to_string(self.dir.ready("relay"));
        let address = address.map_err(KubernetesError::file("read", self.dir.ready("relay")))?;
        write(&self.files.kubeconfig(), &format!("https://{address}"), &User::admin())?;

        let alive = Mutex::new([etcd, server]);
        let check = || {
            let mut alive = alive.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let mut ended = alive.iter_mut().map_while(|process| process.check().err());
            ended.next().map_or(Ok(()), |error| Err(KubernetesError::Process(Box::new(error))))
        };
        ready::wait(&self.files.kubeconfig(), &self.dir.log("kube-apiserver"), check)?;
        let args = flags::controller_manager(&control, &manager);
        // Whether it works shows in what it makes.
        drop(spawn("kube-controller-manager", Program::ControllerManager, args)?);
        Ok(())
    }

    /// What runs pods and enforces policies.
    fn own(&self) -> crate::Result<()> {
        ["kubelet", "enforcer"].iter().try_for_each(|role| {
            let args = [role, "--name", self.dir.name()].map(str::to_owned).into();
            self.daemon(role, None, self.this, args, Readiness::File)?.wait(PATIENCE)
        })
    }

    fn proxies(&self) -> crate::Result<()> {
        let program = self.assets.path(Program::Proxy)?;
        for node in &self.cluster.nodes {
            let args = flags::proxy(&self.files.proxy_kubeconfig(), &node.name);
            let role = format!("kube-proxy-{}", node.name);
            // Whether it works shows in the rules.
            drop(self.daemon(&role, Some(node.netns.clone()), &program, args, Readiness::Asked)?);
        }
        Ok(())
    }
}

/// Waits until a node's rules lead to these endpoints.
fn rules(node: &NodePlan, endpoints: &BTreeSet<SocketAddrV4>) -> crate::Result<()> {
    let netns = Netns::open(&NetnsName::from(node.netns.as_str()))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        interrupt::check()?;
        let output = netns.run(|| Command::new("iptables-save").args(["-t", "nat"]).output())?;
        let program = PathBuf::from("iptables-save");
        let output = output.map_err(|source| KubernetesError::Spawn { program, source })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(missing) = missing(&text, endpoints) else { return Ok(()) };
        if deadline <= Instant::now() {
            let what = format!("the rule of kube-proxy on {} for {missing}", node.name);
            return Err(KubernetesError::Late { what, seconds: PATIENCE.as_secs() }.into());
        }
        std::thread::sleep(PERIOD);
    }
}

/// An endpoint that no rule leads to.
fn missing(rules: &str, endpoints: &BTreeSet<SocketAddrV4>) -> Option<SocketAddrV4> {
    let target = |line: &str| -> Option<SocketAddrV4> {
        line.split_once("--to-destination ")?.1.split_whitespace().next()?.parse().ok()
    };
    let there: BTreeSet<_> = rules.lines().filter_map(target).collect();
    endpoints.difference(&there).next().copied()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_endpoint_without_a_rule() {
        let rule = "-A KUBE-SEP-X -p tcp -m comment --comment \"a/b\" -m tcp -j DNAT --to-destination 10.244.1.10:80";
        let there = SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 10), 80);
        let not_there = SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 10), 8080);
        assert_eq!(missing(rule, &[there].into()), None);
        assert_eq!(missing(rule, &[there, not_there].into()), Some(not_there));
    }
}
