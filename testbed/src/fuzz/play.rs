//! One case on the kernel: the node is configured, packets are sent, and everything that was seen of them is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::mpsc as channel;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use waymark_controller::{Lens, Observed, observe};
use waymark_prober::agent::{Agent, Limits};
use waymark_prober::facts;
use waymark_prober::inject::{InjectSpec, Ports, Reservations, inject};
use waymark_prober::netns::Netns;
use waymark_proto::{
    Branch, CheckId, Event, Facts, Flow, Hook, Losses, MarkerKey, Match, NetnsName, PathSet, Place, Protocol,
    Seq, Sighting, rpc,
};
use waymark_sim::{Cluster, Manner, predict_as};

use super::compare::matched;
use super::fixture::Evidence;
use super::grammar::pool;
use super::grammar::{Case, From, Sending};
use super::tell::is_seen;
use super::world::{Site, sweep};
use crate::{Error, Result};

/// The secret of all markers here: nobody forges them.
const KEY: MarkerKey = MarkerKey([7; 16]);
/// Source ports of a case begin here.
const FIRST_PORT: u16 = 20_000;
/// How long a packet may take to end. Nothing here takes that long unless what was predicted is wrong.
const LIMIT: Duration = Duration::from_secs(2);
/// Checks by what their packets are: a check has one protocol.
const PROTOCOLS: [u32; 4] = [1, 6, 17, 58];

/// What became of a packet.
pub(super) struct Outcome {
    pub(super) predicted: PathSet,
    pub(super) evidence: Evidence,
}

/// A case as it was played.
pub(super) struct Played {
    pub(super) facts: Facts,
    /// One for each of its packets.
    pub(super) outcomes: Vec<Outcome>,
}

/// Where cases are played.
pub(super) struct Stage {
    pub(super) site: Site,
    agent: Agent,
    runtime: Runtime,
    checks: u32,
}

impl Stage {
    /// A stage of its own; several may be at work at once.
    pub(super) fn new(number: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|source| Error::file("start", "an asynchronous runtime")(source))?;
        sweep()?;
        let site = Site::new(number);
        let limits = Limits { count: u32::MAX, ..Limits::default() };
        let node = site.node().name.clone();
        let agent = {
            let _inside = runtime.enter();
            Agent::with_limits(&site.inventory, node, limits)
                .map_err(|error| Error::Fuzz(error.to_string()))?
        };
        Ok(Self { site, agent, runtime, checks: 0 })
    }

    /// Plays a case. The error says that the kernel does not take its configuration.
    pub(super) fn play(&mut self, case: &Case) -> Result<Played> {
        let Self { site, agent, runtime, checks } = self;
        let site: &Site = site;
        let world = site.make().map_err(|error| Error::Fuzz(error.to_string()))?;
        world.load(&case.state)?;
        let facts = facts::collect(&site.inventory, &site.node().name);
        let facts = facts.map_err(|error| Error::Fuzz(error.to_string()))?;
        let mut cluster = Cluster::new(&site.inventory);
        cluster.add(facts.clone()).map_err(|error| Error::Fuzz(error.to_string()))?;
        let (sent, mut sightings) = runtime.block_on(send(agent, site, checks, &cluster, &case.packets))?;
        drop(world);
        let outcome = |(number, (sent, packet)): (usize, (Sent, &Sending))| {
            let seq = Seq(number as u32);
            let Sent { start, flow, error, len, predicted } = sent;
            let sightings = sightings.remove(&seq).unwrap_or_default();
            let Observed { forward, back, .. } = read(site, seq, &start, flow, &sightings);
            let evidence = Evidence {
                rules: matched(&cluster, &sightings),
                start,
                flow,
                dscp: packet.dscp,
                ttl: packet.ttl,
                len,
                error,
                forward: forward.steps,
                back: back.steps,
            };
            Outcome { predicted, evidence }
        };
        let outcomes = sent.into_iter().zip(&case.packets).enumerate().map(outcome).collect();
        Ok(Played { facts, outcomes })
    }
}

/// The walks of a packet.
fn read(site: &Site, seq: Seq, start: &Place, flow: Flow, sightings: &[Sighting]) -> Observed {
    let all = || ["n", "a", "b", "c"].map(|part| site.place(part)).into_iter();
    let lens = Lens {
        inventory: &site.inventory,
        source: start,
        flow,
        source_ports: BTreeMap::from([(seq, flow.src_port)]),
        receivers: BTreeSet::from([(flow.dst, flow.dst_port)]),
        filters_watched: all().collect(),
        watched: all().map(|place| place.node).collect(),
        received_once: true,
        nodes: vec![start.node.clone()],
    };
    observe(sightings, &lens).remove(&seq).unwrap_or_default()
}

/// A packet that was sent.
struct Sent {
    start: Place,
    flow: Flow,
    error: Option<String>,
    len: Option<u16>,
    predicted: PathSet,
}

/// What the sending system call told.
struct Told {
    /// Why it refused.
    error: Option<String>,
    /// The packet's length.
    len: Option<u16>,
}

impl Sent {
    /// Whether an answer may be seen.
    fn is_answered(&self) -> bool {
        let steps = |branch: &Branch| branch.path.steps().iter().any(is_seen);
        // Nobody reads datagrams.
        self.flow.protocol != Protocol::Udp
            && self.predicted.branches.iter().flat_map(|branch| &branch.answer).any(steps)
    }
}

async fn send(
    agent: &Agent,
    site: &Site,
    checks: &mut u32,
    cluster: &Cluster,
    packets: &[Sending],
) -> Result<(Vec<Sent>, BTreeMap<Seq, Vec<Sighting>>)> {
    let failed = |error: &dyn std::fmt::Display| Error::Fuzz(error.to_string());
    let (sink, mut source) = mpsc::channel(1 << 16);
    let mut by_protocol = BTreeMap::new();
    for protocol in PROTOCOLS {
        *checks += 1;
        let arm = rpc::Arm {
            check: *checks,
            key: KEY.0.to_vec(),
            count: packets.len() as u32,
            lease_ms: 60_000,
            protocol,
            every_rule: true,
            ..Default::default()
        };
        agent.arm(&arm, sink.clone()).await.map_err(|error| failed(&error))?;
        by_protocol.insert(protocol, CheckId::new(*checks).expect("not zero"));
    }
    drop(sink);
    let ports = Mutex::new(Ports::default());
    let mut sent = Vec::new();
    let mut reserved = Vec::new();
    let mut awaited = BTreeSet::new();
    for (number, packet) in packets.iter().enumerate() {
        let check = by_protocol[&u32::from(packet.protocol.number(packet.ipv6))];
        let (start, flow, Told { error, len }, reservations) =
            one(site, check, &ports, packet, number as u32)?;
        if error.is_none() {
            awaited.insert(Seq(number as u32));
        }
        let manner = Manner { dscp: packet.dscp, ttl: packet.ttl, len, matches: true };
        let predicted = predict_as(cluster, &start, &flow, manner);
        sent.push(Sent { start, flow, error, len, predicted });
        reserved.push(reservations);
    }
    let mut sightings: BTreeMap<Seq, Vec<Sighting>> = BTreeMap::new();
    let limit = tokio::time::Instant::now() + LIMIT;
    while !awaited.is_empty() {
        let Ok(Some(sighting)) = tokio::time::timeout_at(limit, source.recv()).await else { break };
        let seq = sighting.marker.seq;
        let of_packet = sightings.entry(seq).or_default();
        of_packet.push(sighting);
        if is_over(of_packet, sent[seq.0 as usize].is_answered()) {
            awaited.remove(&seq);
        }
    }
    let mut losses = Losses::default();
    for check in by_protocol.into_values() {
        losses += agent.disarm(check).await.map_err(|error| failed(&error))?;
    }
    while let Some(sighting) = source.recv().await {
        sightings.entry(sighting.marker.seq).or_default().push(sighting);
    }
    if losses.total() > 0 {
        return Err(Error::Fuzz(format!("records were lost: {losses:?}")));
    }
    Ok((sent, sightings))
}

/// Sends one packet.
fn one(
    site: &Site,
    check: CheckId,
    ports: &Mutex<Ports>,
    packet: &Sending,
    number: u32,
) -> Result<(Place, Flow, Told, Reservations)> {
    let part = match packet.from {
        From::Sender => "a",
        From::Node => "n",
    };
    let [src, dst] = [packet.src, packet.dst]
        .map(|spot| pool::address(spot, packet.ipv6).parse().expect("the pool's addresses are right"));
    let flow = Flow {
        src,
        dst,
        protocol: packet.protocol,
        src_port: FIRST_PORT + number as u16,
        dst_port: if packet.protocol.has_ports() { packet.dst_port } else { 0 },
    };
    let spec = InjectSpec {
        check,
        key: KEY,
        flow,
        first: Seq(number),
        count: 1,
        interval: Duration::ZERO,
        sizes: vec![0],
        dscps: vec![packet.dscp],
        flows: NonZero::new(1),
        ttl: packet.ttl,
        fragmentable: false,
    };
    let netns = Netns::open(&NetnsName::from(&*site.netns(part)))?;
    let (_go_on, stop) = channel::channel();
    let (mut sent, reservations) =
        inject(&netns, &spec, ports, stop).map_err(|error| Error::Fuzz(error.to_string()))?;
    let sent = sent.pop().ok_or_else(|| Error::Fuzz("nothing was sent".to_owned()))?;
    let dst_port = if packet.protocol.has_ports() { flow.dst_port } else { sent.source_port };
    let flow = Flow { src_port: sent.source_port, dst_port, ..flow };
    let told = Told { error: sent.error, len: u16::try_from(sent.size).ok() };
    Ok((site.place(part), flow, told, reservations))
}

/// Whether all has ended that a packet set off: itself, and its answer if there is to be one.
fn is_over(sightings: &[Sighting], answered: bool) -> bool {
    let ends = |forward: bool, used: bool| {
        sightings.iter().any(|sighting| {
            let ended = match sighting.event {
                Event::Dropped { .. } => true,
                // Whoever asks for a neighbour works with a copy.
                Event::Consumed { function: Some(ref by) } if by.contains("neigh_") => false,
                Event::Consumed { .. } => used,
                // Of a datagram that waits for its reader no more is seen.
                Event::Passed | Event::Left => used && sighting.hook == Hook::NetfilterInput,
                _ => false,
            };
            let matched = sighting.headers.as_ref().map(|headers| headers.matched);
            let is_forward = matches!(matched, Some(Match::Tag | Match::TcpSeq));
            let is_back = matches!(matched, Some(Match::EchoReply | Match::TcpAck));
            ended && if forward { is_forward } else { is_back }
        })
    };
    let dropped = ends(true, false);
    dropped || (ends(true, true) && (!answered || ends(false, true)))
}
