//! A small world for the tracer's tests: a node and two pods, each a network namespace of its own.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use waymark_prober::agent::{Agent, Limits};
use waymark_proto::{
    CheckId, Event, Flow, Hook, HookReport, Inventory, Losses, MarkerKey, Match, NetnsName, Protocol,
    Sighting, rpc,
};

/// Longer than anything takes here, on a machine that does much else.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Secret of the tests' checks.
pub const KEY: MarkerKey = MarkerKey([9; 16]);

/// `node` with `client` (10.9.1.2) and `server` (10.9.2.2), joined by veth pairs, routed.
pub struct World {
    prefix: String,
    pub inventory: Inventory,
    pub agent: Agent,
    _namespaces: Namespaces,
}

/// Whether tests can run here. Without root they are left out, aloud; under CI that is a failure.
pub fn privileged() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "tests of the tracer need root");
    eprintln!("skipped: the tests of the tracer need root");
    false
}

/// Whether this is a guest of `testbed/tests/kernels`.
pub fn in_guest() -> bool {
    std::env::var_os("WAYMARK_GUEST").is_some()
}

pub fn run(command: &str) -> String {
    let words: Vec<_> = command.split_whitespace().collect();
    let output =
        Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|e| panic!("{command}: {e}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl World {
    pub fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !privileged() {
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("wmt-{}-{number}", std::process::id());
        let name = |part: &str| format!("{prefix}-{part}");
        let (node, client, server) = (name("node"), name("client"), name("server"));
        let namespaces = Namespaces::make([&node, &client, &server].map(Clone::clone).to_vec());
        for (pod, device, subnet) in [(&client, "vc", "10.9.1"), (&server, "vs", "10.9.2")] {
            run(&format!("ip -n {node} link add {device} type veth peer name eth0 netns {pod}"));
            run(&format!("ip -n {node} addr add {subnet}.1/24 dev {device}"));
            run(&format!("ip -n {node} link set {device} up"));
            run(&format!("ip -n {pod} addr add {subnet}.2/24 dev eth0"));
            run(&format!("ip -n {pod} link set eth0 up"));
            run(&format!("ip -n {pod} route add default via {subnet}.1"));
        }
        run(&format!("ip netns exec {node} sysctl -q -w net.ipv4.ip_forward=1"));
        for (netns, device) in [(&node, "vc"), (&node, "vs"), (&client, "eth0"), (&server, "eth0")] {
            await_carrier(netns, device);
        }
        let pod = |name: &str, netns: &str, ip: &str| {
            format!(r#"{{"namespace":"test","name":"{name}","node":"node","netns":"{netns}","ip":"{ip}"}}"#)
        };
        let json = format!(
            r#"{{"nodes":[{{"name":"node","netns":"{node}","ip":"10.9.1.1"}}],"pods":[{},{}]}}"#,
            pod("client", &client, "10.9.1.2"),
            pod("server", &server, "10.9.2.2")
        );
        let inventory = Inventory::from_json(json.as_bytes()).expect("the test's inventory is right");
        let allow = vec!["10.8.0.0/24".parse().expect("a prefix")];
        let limits = Limits { allow, ..Limits::default() };
        let agent = Agent::with_limits(&inventory, "node".into(), limits).expect("the agent starts");
        Some(Self { prefix, inventory, agent, _namespaces: namespaces })
    }

    /// Name of a namespace by its part.
    pub fn netns(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    /// The part that a namespace's name stands for.
    pub fn part<'a>(&self, netns: &'a NetnsName) -> &'a str {
        netns.as_str().trim_start_matches(&self.prefix).trim_start_matches('-')
    }

    /// An order to send from client to server.
    pub fn inject(&self, check: CheckId, protocol: Protocol, count: u32) -> rpc::Inject {
        self.inject_from(check, protocol, count, "10.9.1.2", "10.9.2.2")
    }

    /// An order to send from the client, by any addresses.
    pub fn inject_from(
        &self,
        check: CheckId,
        protocol: Protocol,
        count: u32,
        src: &str,
        dst: &str,
    ) -> rpc::Inject {
        rpc::Inject {
            check: check.get(),
            key: KEY.0.to_vec(),
            netns: self.netns("client"),
            flow_json: flow(src, dst, protocol),
            count,
            ..Default::default()
        }
    }

    /// Sends packets from client to server and gives back what was seen of them.
    pub async fn check(&self, protocol: Protocol, count: u32) -> (Vec<Sighting>, Losses) {
        self.try_check(protocol, count, "10.9.1.2", "10.9.2.2").await.expect("the check is carried out")
    }

    /// The same between any addresses, and it may fail.
    pub async fn try_check(
        &self,
        protocol: Protocol,
        count: u32,
        src: &str,
        dst: &str,
    ) -> Result<(Vec<Sighting>, Losses), String> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let check = CheckId::new(NUMBER.fetch_add(1, Ordering::Relaxed)).expect("not zero");
        let order = self.inject_from(check, protocol, count, src, dst);
        let (sightings, losses, _) =
            self.carry_out(&arm(check.get(), protocol, count, 60_000), &order).await?;
        Ok((sightings, losses))
    }

    /// Arms, sends, and gives back what was seen, what was lost of it, and what could be seen.
    pub async fn carry_out(
        &self,
        arm: &rpc::Arm,
        order: &rpc::Inject,
    ) -> Result<(Vec<Sighting>, Losses, Vec<HookReport>), String> {
        let check = CheckId::new(arm.check).expect("not zero");
        let (sink, mut sightings) = mpsc::channel(65536);
        let reports = self.agent.arm(arm, sink).await.map_err(|error| error.to_string())?;
        let injected = self.agent.inject(order).await.map_err(|error| error.to_string())?;
        if let Some(failed) = injected.packets.iter().find(|packet| !packet.error.is_empty()) {
            self.agent.disarm(check).await.map_err(|error| error.to_string())?;
            return Err(failed.error.clone());
        }

        // A packet's fate is known when its receiver or a drop gave back the buffer.
        let mut all = Vec::new();
        let mut open: BTreeSet<u32> = (0..arm.count).collect();
        while !open.is_empty() {
            let next = tokio::time::timeout(LIMIT, sightings.recv()).await;
            let sighting = next.map_err(|_| format!("no fate for {open:?}: {all:#?}"))?.expect("armed");
            if self.is_fate(&sighting, arm.hooks()) {
                open.remove(&sighting.marker.seq.0);
            }
            all.push(sighting);
        }
        let losses = self.agent.disarm(check).await.map_err(|error| error.to_string())?;
        while let Some(sighting) = sightings.recv().await {
            all.push(sighting);
        }
        Ok((all, losses, reports))
    }

    fn is_fate(&self, sighting: &Sighting, hooks: rpc::HookSet) -> bool {
        let forward = sighting
            .headers
            .as_ref()
            .is_some_and(|headers| matches!(headers.matched, Match::Tag | Match::TcpSeq));
        forward
            && match &sighting.event {
                Event::Dropped { .. } => true,
                // A light look does not tell what is used up.
                Event::Passed => hooks == rpc::HookSet::Light && sighting.hook == Hook::NetfilterInput,
                Event::Consumed { function: Some(function) } => function.starts_with("icmp_rcv"),
                // Kernels before 6.3 do not say by whom; the server's own uses up requests alone.
                Event::Consumed { function: None } => self.part(&sighting.place.netns) == "server",
                _ => false,
            }
    }
}

/// Waits until the kernel has noticed that both ends of a pair are up: one that was so first carries nothing before.
fn await_carrier(netns: &str, device: &str) {
    let end = Instant::now() + LIMIT;
    while !run(&format!("ip -n {netns} -br link show dev {device}")).contains(" UP ") {
        assert!(Instant::now() < end, "{device} of {netns} does not come up");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An order to arm a check in all namespaces of the node.
pub fn arm(check: u32, protocol: Protocol, count: u32, lease_ms: u32) -> rpc::Arm {
    let protocol = protocol.number(false).into();
    rpc::Arm { check, key: KEY.0.to_vec(), count, lease_ms, protocol, ..Default::default() }
}

fn flow(src: &str, dst: &str, protocol: Protocol) -> Vec<u8> {
    let address = |text: &str| text.parse().expect("an address");
    let flow = Flow { src: address(src), dst: address(dst), protocol, src_port: 0, dst_port: 80 };
    serde_json::to_vec(&flow).expect("a flow has a JSON form")
}

/// Namespaces that are removed when this is dropped.
pub struct Namespaces(Vec<String>);

impl Namespaces {
    pub fn make(names: Vec<String>) -> Self {
        // What is made before one fails is removed, too.
        let namespaces = Self(names);
        for netns in &namespaces.0 {
            run(&format!("ip netns add {netns}"));
            run(&format!("ip -n {netns} link set lo up"));
        }
        namespaces
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}
