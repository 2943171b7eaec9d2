//! Pods are found by their addresses, in real network namespaces.

mod world;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use waymark_prober::agent::{Agent, AgentError, Limits};
use waymark_prober::pods::{LocateError, Opened, Pods};
use waymark_proto::{CheckId, NetnsName, Protocol, Scope, rpc};
use world::{World, privileged, run};

/// A network namespace with one address, and a name in `/run/netns`.
struct Ns(String);

impl Ns {
    fn new(address: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let ns = Self(format!("wmp-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        run(&format!("ip netns add {}", ns.0));
        run(&format!("ip -n {} link add eth0 type bridge", ns.0));
        run(&format!("ip -n {} addr add {address}/24 dev eth0", ns.0));
        ns
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    fn link_in(&self, folder: &Path, name: &str) {
        symlink(self.path(), folder.join(name)).unwrap();
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

/// An address that no other run of these tests uses at the same time.
fn address(last: u8) -> String {
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    format!("10.{high}.{low}.{last}")
}

/// A node `n` in the namespace of this process, with pods `shop/p0`, `shop/p1`, … of these addresses.
fn scope(addresses: &[&str]) -> Scope {
    let pods = addresses.iter().enumerate().map(|(number, ip)| {
        serde_json::json!({"namespace": "shop", "name": format!("p{number}"), "node": "n",
            "netns": format!("pod:shop/p{number}"), "ip": ip})
    });
    let pods: Vec<_> = pods.collect();
    let json = serde_json::json!({"node": {"name": "n", "ip": "192.0.2.1"}, "pods": pods});
    Scope::from_json(json.to_string().as_bytes()).unwrap()
}

fn inode(path: &str) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().ino() as u32
}

fn error(opened: &Opened) -> &LocateError {
    opened.netns.as_ref().expect_err("it is not to be found")
}

#[test]
fn a_pod_is_the_namespace_that_holds_its_address() {
    if !privileged() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Ns::new("10.77.0.1"), Ns::new("10.77.0.2"));
    first.link_in(folder.path(), "a");
    second.link_in(folder.path(), "b");
    std::fs::write(folder.path().join("other-file"), "x").unwrap();
    let pods = Pods::within(vec![folder.path().into()]);
    // Twice: found by a search, and remembered.
    for _ in 0..2 {
        let opened = pods.open_all(&scope(&["10.77.0.2", "10.77.0.1", "10.77.0.3"]));
        let places: Vec<_> = opened.iter().map(|opened| opened.place.to_string()).collect();
        assert_eq!(places, ["n/host", "n/pod:shop/p0", "n/pod:shop/p1", "n/pod:shop/p2"]);
        assert_eq!(opened[0].pod, None);
        assert_eq!(opened[1].pod.as_deref(), Some("shop/p0"));
        let inodes: Vec<_> =
            opened[..3].iter().map(|opened| opened.netns.as_ref().unwrap().inode().0).collect();
        assert_eq!(inodes, [inode("/proc/self/ns/net"), inode(&second.path()), inode(&first.path())]);
        assert_eq!(opened[1].netns.as_ref().unwrap().name().as_str(), "pod:shop/p0");
        let words = error(&opened[3]).to_string();
        let folder = folder.path().display();
        assert_eq!(
            words,
            format!(
                "no network namespace holds 10.77.0.3, the address of pod shop/p2: 2 were looked into, found by {folder}"
            )
        );
    }
    let one = pods.open_one(&scope(&["10.77.0.2"]), &NetnsName::of_pod("shop", "p0")).unwrap();
    assert_eq!(one.netns.unwrap().inode().0, inode(&second.path()));
    assert!(pods.open_one(&scope(&["10.77.0.2"]), &"pod:shop/p9".into()).is_none());
}

#[test]
fn two_namespaces_with_one_address_are_told() {
    if !privileged() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let twins = [Ns::new("10.77.0.1"), Ns::new("10.77.0.1")];
    for (twin, name) in twins.iter().zip(["a", "b"]) {
        twin.link_in(folder.path(), name);
        // Another name of the same namespace is no other namespace.
        twin.link_in(folder.path(), &format!("{name}-again"));
    }
    let pods = Pods::within(vec![folder.path().into()]);
    let opened = pods.open_all(&scope(&["10.77.0.1"]));
    let words = error(&opened[1]).to_string();
    let path = folder.path().display();
    assert!(
        words.starts_with("pod shop/p0 has the address 10.77.0.1, which 2 network namespaces hold")
            && words.contains(&format!("{path}/a, {path}/b")),
        "{words}"
    );
}

#[test]
fn a_pod_that_came_back_is_found_anew_and_none_is_kept_alive() {
    if !privileged() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pods = Pods::within(vec![folder.path().into()]);
    let link = folder.path().join("pod");
    let node = Ns::new("10.77.1.1");
    let first = Ns::new("10.77.0.1");
    run(&format!("ip -n {} link add veth0 type veth peer name v1 netns {}", node.0, first.0));
    first.link_in(folder.path(), "pod");
    assert!(pods.open_all(&scope(&["10.77.0.1"]))[1].netns.is_ok());
    // Its devices end with it, unless somebody holds it.
    drop(first);
    let limit = Instant::now() + Duration::from_secs(60);
    while Command::new("ip").args(["-n", &node.0, "link", "show", "veth0"]).output().unwrap().status.success()
    {
        assert!(Instant::now() < limit, "the namespace lives on");
        std::thread::yield_now();
    }
    assert!(matches!(error(&pods.open_all(&scope(&["10.77.0.1"]))[1]), LocateError::NotFound { .. }));
    // By the same name another namespace, whose address is not the pod's at first.
    let second = Ns::new("10.77.0.9");
    std::fs::remove_file(&link).unwrap();
    second.link_in(folder.path(), "pod");
    assert!(pods.open_all(&scope(&["10.77.0.1"]))[1].netns.is_err());
    run(&format!("ip -n {} addr add 10.77.0.1/24 dev eth0", second.0));
    assert!(pods.open_all(&scope(&["10.77.0.1"]))[1].netns.is_ok());
    // And it loses it.
    run(&format!("ip -n {} addr flush dev eth0", second.0));
    assert!(pods.open_all(&scope(&["10.77.0.1"]))[1].netns.is_err());
}

/// A process in a network namespace that has no name.
struct Nameless(Child);

impl Drop for Nameless {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_namespace_without_a_name_is_found_by_its_process() {
    if !privileged() {
        return;
    }
    let ip = address(1);
    let script = format!(
        "ip link add eth0 type bridge && ip addr add {ip}/24 dev eth0 && echo ready && exec sleep 600"
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script]).stdout(Stdio::piped());
    let mut process = Nameless(command.spawn().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(process.0.stdout.take().unwrap()), &mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    let opened = Pods::default().open_all(&scope(&[&ip, &address(2)]));
    let found = opened[1].netns.as_ref().unwrap().inode().0;
    assert_eq!(found, inode(&format!("/proc/{}/ns/net", process.0.id())));
    let words = error(&opened[2]).to_string();
    assert!(words.contains("/run/netns") && words.contains("the processes in /proc"), "{words}");
}

/// A scope of the world in which pods are known by their addresses alone, and a folder with them.
fn kubernetes(world: &World) -> (Scope, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut scope = world.inventory.scope(&"node".into()).unwrap();
    for pod in &mut scope.pods {
        symlink(Path::new("/run/netns").join(pod.netns.as_str()), folder.path().join(&pod.name)).unwrap();
        pod.netns = NetnsName::of_pod(&pod.namespace, &pod.name);
    }
    (scope, folder)
}

#[tokio::test]
async fn an_agent_that_is_told_its_scope_does_what_one_with_an_inventory_does() {
    let Some(world) = World::new() else { return };
    let (scope, folder) = kubernetes(&world);
    let pods = Pods::within(vec![folder.path().into()]);
    let agent = Agent::unassigned("node".into(), pods, Limits::default()).unwrap();
    assert!(agent.wants_scope());
    let order = |scope: &Scope| rpc::Assign { scope_json: serde_json::to_vec(scope).unwrap() };

    let untold = agent.collect_facts().await.unwrap_err();
    assert!(matches!(untold, AgentError::NoScope { .. }), "{untold}");
    let mut others = scope.clone();
    others.node.name = "another".into();
    let wrong = agent.assign(&order(&others)).unwrap_err().to_string();
    assert_eq!(wrong, "malformed order: the scope of another for the agent of node");
    assert!(agent.assign(&rpc::Assign { scope_json: b"{".to_vec() }).is_err());

    agent.assign(&order(&scope)).unwrap();
    let facts = agent.collect_facts().await.unwrap();
    let names: Vec<_> = facts.namespaces.iter().map(|facts| facts.name.as_str()).collect();
    assert_eq!(names, [&world.netns("node"), "pod:test/client", "pod:test/server"]);
    assert!(facts.namespaces.iter().all(|facts| facts.missing.is_empty()), "{facts:#?}");

    let check = CheckId::new(77).unwrap();
    let (sink, mut sightings) = mpsc::channel(65536);
    agent.arm(&world::arm(check.get(), Protocol::Icmp, 1, 60_000), sink).await.unwrap();
    let inject =
        rpc::Inject { netns: "pod:test/client".to_owned(), ..world.inject(check, Protocol::Icmp, 1) };
    let injected = agent.inject(&inject).await.unwrap();
    assert_eq!(injected.packets[0].error, "");
    let at_server = async {
        loop {
            let sighting = sightings.recv().await.expect("armed");
            if sighting.place.netns.as_str() == "pod:test/server" {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), at_server)
        .await
        .expect("the packet is seen in the other pod");

    // What it is told last holds: the server is gone, and its address is nobody's.
    let mut less = scope;
    less.pods.retain(|pod| pod.name == "client");
    less.known = vec!["10.9.1.0/30".parse().unwrap()];
    agent.assign(&order(&less)).unwrap();
    let refused = agent.inject(&inject).await.unwrap_err().to_string();
    assert!(refused.starts_with("10.9.2.2 is neither"), "{refused}");
    let gone = rpc::Inject { netns: "pod:test/server".to_owned(), ..inject.clone() };
    let gone = rpc::Inject {
        flow_json: String::from_utf8(gone.flow_json).unwrap().replace("10.9.2.2", "10.9.1.1").into_bytes(),
        ..gone
    };
    let gone = agent.inject(&gone).await.unwrap_err();
    assert!(matches!(gone, AgentError::UnknownNetns { .. }), "{gone}");
    agent.disarm(check).await.unwrap();
}
