//! Agents that see what a test wants: every packet delivered and answered, once a gate is open.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use waymark_controller::history::History;
use waymark_controller::kubernetes::{Checks, ChecksOptions, Connection, Limits, Tenancy};
use waymark_controller::{AgentError, Agents, NodeFacts, Notices, Source, SourceError};
use waymark_proto::{
    Absent, CheckId, Event, Flow, Headers, Hook, HookReport, Inventory, Losses, Marker, Match, NodeName,
    ObjectRef, Observability, Place, Seq, Sighting, rpc,
};

/// The agents of the cluster of [`Cluster`].
pub(crate) struct Fakes {
    sinks: Mutex<HashMap<(NodeName, u32), mpsc::Sender<Sighting>>>,
    gate: watch::Sender<bool>,
    /// Whether who looks at the cluster panics.
    broken: AtomicBool,
    /// Whether an agent is attached at all.
    attached: watch::Sender<bool>,
    pub(crate) injections: AtomicUsize,
    /// How many injections are waiting for the gate, and how many were at most.
    waiting: watch::Sender<usize>,
    most: AtomicUsize,
    /// Where results are kept.
    pub(crate) history: History,
}

impl Fakes {
    /// Agents with an open gate.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            sinks: Mutex::default(),
            gate: watch::Sender::new(true),
            broken: AtomicBool::new(false),
            attached: watch::Sender::new(true),
            injections: AtomicUsize::new(0),
            waiting: watch::Sender::new(0),
            most: AtomicUsize::new(0),
            history: History::open(None, &Notices::default()).unwrap(),
        })
    }

    pub(crate) fn open(&self, open: bool) {
        self.gate.send_replace(open);
    }

    pub(crate) fn attach(&self, attached: bool) {
        self.attached.send_replace(attached);
    }

    pub(crate) fn breaks(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }

    /// Waits until so many injections stand before the gate.
    pub(crate) async fn queue(&self, length: usize) {
        let mut waiting = self.waiting.subscribe();
        let reached = waiting.wait_for(|waiting| *waiting == length);
        tokio::time::timeout(super::ground::LIMIT, reached).await.expect("in time").unwrap();
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    pub(crate) fn armed(&self) -> usize {
        self.sinks.lock().unwrap().len()
    }

    /// Runs the Checks of a namespace with these agents.
    pub(crate) fn start(
        self: &Arc<Self>,
        connection: &Connection,
        namespace: &str,
        at_once: usize,
    ) -> (Checks, Notices) {
        self.start_within(connection, namespace, Limits { at_once, ..Limits::default() })
    }

    /// The same with this patience.
    pub(crate) fn start_within(
        self: &Arc<Self>,
        connection: &Connection,
        namespace: &str,
        limits: Limits,
    ) -> (Checks, Notices) {
        let notices = Notices::default();
        let options = ChecksOptions {
            namespace: Some(namespace.to_owned()),
            tenancy: Tenancy::default(),
            limits,
            history: Some(self.history.clone()),
        };
        let source = Arc::new(Cluster(Arc::new(inventory(namespace)), Arc::clone(self)));
        let checks = Checks::start(connection, Arc::clone(self) as _, source, options, &notices);
        (checks, notices)
    }
}

/// Two pods on two nodes, and one that is Pending.
struct Cluster(Arc<Inventory>, Arc<Fakes>);

#[async_trait]
impl Source for Cluster {
    async fn inventory(&self) -> Result<Arc<Inventory>, SourceError> {
        if self.1.broken.load(Ordering::Relaxed) {
            // Past the hook that would print a backtrace: on a busy machine that takes longer than a test waits.
            std::panic::resume_unwind(Box::new("made to fail"));
        }
        Ok(Arc::clone(&self.0))
    }
}

fn inventory(namespace: &str) -> Inventory {
    let json = serde_json::json!({
        "nodes": [{"name": "n1", "ip": "172.18.0.1"}, {"name": "n2", "ip": "172.18.0.2"}],
        "pods": [
            {"namespace": namespace, "name": "cart", "node": "n1", "netns": "cart", "ip": "10.1.1.2"},
            {"namespace": namespace, "name": "pay", "node": "n2", "netns": "pay", "ip": "10.1.2.2"},
        ],
        "services": [{
            "namespace": namespace, "name": "pay", "clusterIP": "10.96.0.10", "port": 80,
            "backends": [{"ip": "10.1.2.2", "port": 80}],
        }],
    });
    let mut inventory = Inventory::from_json(json.to_string().as_bytes()).unwrap();
    let object = ObjectRef::namespaced("Pod", namespace, "pending");
    inventory
        .absent
        .push(Absent { object, why: waymark_proto::Text::verbatim("has no address yet: it is Pending") });
    inventory
}

/// The port that all packets come from.
const PORT: u16 = 40_000;
/// When all packets were sent, on both nodes' clocks.
const SENT_NS: u64 = 1_000_000;

fn sighting(
    marker: Marker,
    (node, netns, hook): (&str, &str, Hook),
    flow: Flow,
    matched: Match,
    at_ns: u64,
) -> Sighting {
    // SYN, and SYN with ACK.
    let tcp_flags = if matched == Match::TcpAck { 0x12 } else { 0x02 };
    let headers = Headers { flow, matched, ttl: 60, len: 60, ip_id: 0, tcp_flags, mark: 0, outer: None };
    Sighting {
        place: Place::new(node, netns),
        at_ns,
        marker,
        hook,
        device: Some("eth0".into()),
        event: if hook.is_netfilter() { Event::Left } else { Event::Seen },
        fragment_offset: 0,
        headers: Some(headers),
        identity: 0,
        buffer: 0,
        packet: Vec::new(),
        metadata: waymark_proto::Metadata::default(),
    }
}

/// Leaves the queue also when it is cancelled.
struct Standing<'a>(&'a Fakes);

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

#[async_trait]
impl Agents for Fakes {
    async fn facts(&self, node: &NodeName) -> Result<Arc<NodeFacts>, AgentError> {
        if !*self.attached.borrow() {
            return Err(AgentError::NoAgent { node: node.clone() });
        }
        let message = "nothing is known".to_owned();
        Err(AgentError::Failed { node: node.clone(), operation: "collect facts", message })
    }

    async fn arm(
        &self,
        node: &NodeName,
        arm: rpc::Arm,
        sink: mpsc::Sender<Sighting>,
    ) -> Result<Vec<HookReport>, AgentError> {
        self.sinks.lock().unwrap().insert((node.clone(), arm.check), sink);
        let seen = |hook: &Hook| HookReport {
            hook: *hook,
            netns: None,
            observability: Observability::Observed { provider: "test".into() },
        };
        Ok(Hook::ALL.iter().map(seen).collect())
    }

    async fn inject(&self, _node: &NodeName, inject: rpc::Inject) -> Result<rpc::Injected, AgentError> {
        self.injections.fetch_add(1, Ordering::Relaxed);
        self.waiting.send_modify(|waiting| *waiting += 1);
        self.most.fetch_max(*self.waiting.borrow(), Ordering::Relaxed);
        {
            let _standing = Standing(self);
            let mut gate = self.gate.subscribe();
            gate.wait_for(|open| *open).await.expect("the gate is as old as this");
        }
        let asked: Flow = serde_json::from_slice(&inject.flow_json).unwrap();
        let flow = Flow { src_port: PORT, ..asked };
        let there =
            [("n1", "cart", Hook::Qdisc), ("n2", "pay", Hook::DriverRx), ("n2", "pay", Hook::NetfilterInput)];
        let back = [
            ("n2", "pay", Hook::Qdisc),
            ("n1", "cart", Hook::DriverRx),
            ("n1", "cart", Hook::NetfilterInput),
        ];
        let there = there.map(|step| (step, flow, Match::TcpSeq));
        let back = back.map(|step| (step, flow.reversed(), Match::TcpAck));
        for seq in 0..inject.count {
            let marker = Marker { check: CheckId::new(inject.check).unwrap(), seq: Seq(seq) };
            for (number, (step, flow, matched)) in (0..).zip(there.into_iter().chain(back)) {
                let sighting = sighting(marker, step, flow, matched, SENT_NS + 1000 * number);
                let sink = (sighting.place.node.clone(), inject.check);
                let sink = self.sinks.lock().unwrap().get(&sink).cloned();
                if let Some(sink) = sink {
                    // The check may have been cancelled.
                    drop(sink.send(sighting).await);
                }
            }
        }
        let packets = (0..inject.count).map(|seq| rpc::SentPacket {
            seq,
            source_port: PORT.into(),
            sent_ns: SENT_NS,
            ..Default::default()
        });
        Ok(rpc::Injected { packets: packets.collect() })
    }

    async fn disarm(&self, node: &NodeName, check: CheckId) -> Result<Losses, AgentError> {
        self.sinks.lock().unwrap().remove(&(node.clone(), check.get()));
        Ok(Losses::default())
    }
}
