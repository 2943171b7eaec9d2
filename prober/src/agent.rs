//! The agent of one node: what the controller's orders come to.

mod arming;
mod error;
mod probing;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::Semaphore;
use waymark_proto::{
    CheckId, Facts, Flow, Inventory, MarkerKey, NetnsName, NodeName, Place, Protocol, Scope, Seq, rpc,
};

use crate::facts;
use crate::inject::{InjectSpec, Ports, inject};
use crate::metrics::Metrics;
use crate::netns::Netns;
use crate::pods::{Opened, Pods};
use crate::tracer::{Tracer, prepare_names};
use crate::watch::Budget;
use arming::Lease;
pub use error::AgentError;
use probing::Probing;

/// What an agent refuses to exceed, whoever asks.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Packets of one check.
    pub count: u32,
    /// Packets per second of one check.
    pub packets_per_second: u32,
    /// How long a check may stay armed.
    pub lease: Duration,
    /// Traces of live traffic at once.
    pub live_traces: u32,
    /// Destinations beyond those of the inventory.
    pub allow: Vec<IpNet>,
    /// Continuous probing.
    pub probing: Budget,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            count: 1000,
            packets_per_second: 1000,
            lease: Duration::from_secs(300),
            live_traces: 4,
            allow: Vec::new(),
            probing: Budget::default(),
        }
    }
}

/// The agent of one node. Cheap to clone; clones are the same agent.
#[derive(Clone)]
pub struct Agent(Arc<Inner>);

struct Inner {
    node: NodeName,
    /// What belongs to the node; absent until the controller says so.
    scope: RwLock<Option<Arc<Scope>>>,
    /// Whether the controller is to say so.
    wants_scope: bool,
    pods: Pods,
    limits: Limits,
    tracer: Tracer,
    ports: Mutex<Ports>,
    leases: Mutex<HashMap<CheckId, Lease>>,
    /// A permit for each live trace that there may be.
    live: Arc<Semaphore>,
    /// Checks whose lease ended, until they are asked about; the oldest are forgotten.
    expired: Mutex<VecDeque<CheckId>>,
    probing: tokio::sync::Mutex<Probing>,
    metrics: Metrics,
}

impl Agent {
    /// An agent for a node of the inventory, with the default limits.
    ///
    /// Loads the tracer's programs; must be called within a tokio runtime.
    pub fn new(inventory: &Inventory, node: NodeName) -> Result<Self, AgentError> {
        Self::with_limits(inventory, node, Limits::default())
    }

    /// The same with other limits.
    pub fn with_limits(inventory: &Inventory, node: NodeName, limits: Limits) -> Result<Self, AgentError> {
        if inventory.node(&node).is_none() {
            let known = inventory.nodes.iter().map(|node| node.name.to_string()).collect();
            return Err(AgentError::UnknownNode { node, known });
        }
        let scope = inventory.scope(&node);
        Self::start(node, scope, Pods::default(), limits)
    }

    /// An agent that learns from its controller what belongs to its node, and looks for pods' namespaces
    /// with `pods`.
    pub fn unassigned(node: NodeName, pods: Pods, limits: Limits) -> Result<Self, AgentError> {
        Self::start(node, None, pods, limits)
    }

    fn start(node: NodeName, scope: Option<Scope>, pods: Pods, limits: Limits) -> Result<Self, AgentError> {
        let tracer = Tracer::new()?;
        let live = Arc::new(Semaphore::new(limits.live_traces as usize));
        let agent = Self(Arc::new(Inner {
            node,
            wants_scope: scope.is_none(),
            scope: RwLock::new(scope.map(Arc::new)),
            pods,
            limits,
            tracer,
            ports: Mutex::default(),
            leases: Mutex::default(),
            live,
            expired: Mutex::default(),
            probing: tokio::sync::Mutex::default(),
            metrics: Metrics::default(),
        }));
        // Nobody waits for it: who needs the names first reads them.
        tokio::task::spawn_blocking(prepare_names);
        Ok(agent)
    }

    /// The node.
    pub fn node(&self) -> &NodeName {
        &self.0.node
    }

    /// Whether it has no inventory of its own.
    pub fn wants_scope(&self) -> bool {
        self.0.wants_scope
    }

    /// Learns what belongs to its node. What is armed or being sent goes on.
    pub fn assign(&self, order: &rpc::Assign) -> Result<(), AgentError> {
        let scope = Scope::from_json(&order.scope_json)
            .map_err(|error| AgentError::Malformed(format!("scope: {error}")))?;
        if scope.node.name != self.0.node {
            let (theirs, own) = (&scope.node.name, &self.0.node);
            return Err(AgentError::Malformed(format!("the scope of {theirs} for the agent of {own}")));
        }
        *self.0.scope.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(scope));
        Ok(())
    }

    /// Collects the node's facts.
    pub async fn collect_facts(&self) -> Result<Facts, AgentError> {
        let (inner, scope) = (self.0.clone(), self.0.scope()?);
        let facts = tokio::task::spawn_blocking(move || facts::collect_scope(&scope, &inner.pods)).await??;
        Ok(facts)
    }

    /// Sends a check's packets. The check must be armed here, so that no packet goes unseen.
    pub async fn inject(&self, order: &rpc::Inject) -> Result<rpc::Injected, AgentError> {
        let check = check_id(order.check)?;
        let limits = &self.0.limits;
        within("a number of packets of", order.count, limits.count)?;
        let flow: Flow = serde_json::from_slice(&order.flow_json)
            .map_err(|error| AgentError::Malformed(format!("flow: {error}")))?;
        if !self.0.may_send_to(flow.dst)? {
            return Err(AgentError::Destination(flow.dst));
        }
        let name = NetnsName::from(order.netns.as_str());
        let netns = self.0.open_namespace(&name).await?;
        let least = Duration::from_secs(1) / limits.packets_per_second.max(1);
        let spec = InjectSpec {
            check,
            key: key(&order.key)?,
            flow,
            first: Seq(0),
            count: order.count,
            interval: Duration::from_micros(order.interval_us.into()).max(least),
            sizes: or_one(order.sizes.clone()),
            dscps: or_one(order.dscps.iter().map(|&dscp| code_point(dscp)).collect::<Result<_, _>>()?),
            flows: NonZeroU32::new(order.flows),
            ttl: match order.ttl {
                0 => 64,
                ttl => u8::try_from(ttl).map_err(|_| AgentError::Malformed(format!("ttl {ttl}")))?,
            },
            fragmentable: order.fragmentable,
        };
        let stop = self.0.begin_injecting(&spec)?;
        let inner = self.0.clone();
        let (sent, reservations) =
            tokio::task::spawn_blocking(move || inject(&netns, &spec, &inner.ports, stop)).await??;
        if let Some(lease) = self.0.leases().get_mut(&check) {
            lease.reservations.push(reservations);
        }
        let packets = sent.into_iter().map(|packet| rpc::SentPacket {
            seq: packet.seq.0,
            source_port: packet.source_port.into(),
            sent_ns: packet.sent_ns,
            error: packet.error.unwrap_or_default(),
            size: packet.size,
            dscp: packet.dscp.into(),
        });
        Ok(rpc::Injected { packets: packets.collect() })
    }
}

impl Inner {
    fn leases(&self) -> std::sync::MutexGuard<'_, HashMap<CheckId, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks an injection against what is armed. It ends when the other end of what is returned is dropped.
    fn begin_injecting(&self, spec: &InjectSpec) -> Result<std::sync::mpsc::Receiver<()>, AgentError> {
        let mut leases = self.leases();
        let lease = leases.get_mut(&spec.check).ok_or(AgentError::NotArmed(spec.check))?;
        if lease.key != spec.key || spec.count > lease.count {
            return Err(AgentError::OtherPackets(spec.check));
        }
        let takes = spec.interval * spec.count;
        if takes > lease.length {
            return Err(AgentError::OutlastsLease { takes, lease: lease.length });
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        lease.injecting.push(sender);
        Ok(receiver)
    }

    fn scope(&self) -> Result<Arc<Scope>, AgentError> {
        let scope = self.scope.read().unwrap_or_else(PoisonError::into_inner).clone();
        scope.ok_or_else(|| AgentError::NoScope { node: self.node.clone() })
    }

    /// The node's namespaces that are there now: its own first, then its pods'; and why others are not.
    /// Pods come and go, so this is asked anew for each order.
    async fn open_namespaces(
        self: &Arc<Self>,
    ) -> Result<(Vec<(Place, Netns)>, HashMap<NetnsName, String>), AgentError> {
        let (inner, scope) = (self.clone(), self.scope()?);
        let all = tokio::task::spawn_blocking(move || inner.pods.open_all(&scope)).await?;
        let (mut open, mut closed) = (Vec::new(), HashMap::new());
        for Opened { place, netns, .. } in all {
            match netns {
                Ok(netns) => open.push((place, netns)),
                Err(error) => {
                    tracing::warn!(%place, %error, "left out");
                    closed.insert(place.netns, error.to_string());
                }
            }
        }
        Ok((open, closed))
    }

    /// One of the node's namespaces.
    async fn open_namespace(self: &Arc<Self>, name: &NetnsName) -> Result<Netns, AgentError> {
        let (inner, scope, wanted) = (self.clone(), self.scope()?, name.clone());
        let found = tokio::task::spawn_blocking(move || inner.pods.open_one(&scope, &wanted)).await?;
        let unknown = || AgentError::UnknownNetns { node: self.node.clone(), netns: name.clone() };
        Ok(found.ok_or_else(unknown)?.netns?)
    }

    fn may_send_to(&self, ip: IpAddr) -> Result<bool, AgentError> {
        Ok(self.allows(&*self.scope()?, ip))
    }

    fn allows(&self, scope: &Scope, ip: IpAddr) -> bool {
        scope.knows(ip) || self.limits.allow.iter().any(|allowed| allowed.contains(&ip))
    }
}

fn within(what: &'static str, asked: u32, limit: u32) -> Result<(), AgentError> {
    if asked > limit { Err(AgentError::Limit { what, asked, limit }) } else { Ok(()) }
}

fn check_id(id: u32) -> Result<CheckId, AgentError> {
    CheckId::new(id).ok_or_else(|| AgentError::Malformed("check id 0".to_owned()))
}

/// What is taken in turn: the default alone, if nothing was asked for.
fn or_one<T: Default>(asked: Vec<T>) -> Vec<T> {
    if asked.is_empty() { vec![T::default()] } else { asked }
}

/// Largest code point (RFC 2474).
const MAX_DSCP: u8 = 63;

fn code_point(number: u32) -> Result<u8, AgentError> {
    let known = u8::try_from(number).ok().filter(|&dscp| dscp <= MAX_DSCP);
    known.ok_or_else(|| AgentError::Malformed(format!("code point {number}")))
}

fn key(bytes: &[u8]) -> Result<MarkerKey, AgentError> {
    let key = bytes.try_into();
    key.map(MarkerKey).map_err(|_| AgentError::Malformed(format!("a key of {} bytes", bytes.len())))
}

fn protocol(number: u32) -> Result<Protocol, AgentError> {
    let known = u8::try_from(number).ok().and_then(Protocol::from_number);
    known.ok_or_else(|| AgentError::Malformed(format!("protocol {number}")))
}

#[cfg(test)]
mod tests;
