//! The tracer of one node: tracepoints and netfilter's trace together, as one stream of sightings.
//!
//! * `floor`: the BPF programs, loaded once, attached while something is armed
//! * `deep`: functions of the kernel, where it lets them be watched
//! * `arm`: what is armed
//! * `shared`: what is read, and by whom
//! * `decode`: records of the kernel side → sightings; `beside`: those that are no step of a packet's way
//! * `report`: what can be seen
//! * `symbols`, `reasons`, `answer`: names for addresses, drop reasons and answers of the running kernel
//! * `types`: its functions
//!
//! A check is armed with a lease. It ends by [`Tracer::disarm`], or when the lease runs out: the kernel side
//! looks at the lease itself, so even a stuck agent records nothing beyond it.

mod answer;
mod arm;
mod beside;
mod decode;
mod deep;
mod floor;
mod reasons;
mod report;
mod shared;
mod symbols;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use waymark_proto::{
    CheckId, Hook, HookReport, HookSet, Losses, Marker, MarkerKey, Place, Protocol, Seq, Sighting,
};

use crate::live::Live;
use crate::netns::Netns;
use crate::nftrace;
pub use crate::nftrace::Traced;
use arm::{Armed, ArmedChecks};
pub use decode::prepare_names;
use floor::Floor;
pub use floor::FloorError;
pub use report::of_netfilter as netfilter_reports;
use shared::{Shared, duplicate, lock, read_when_ready};

/// What a check asks of a tracer.
#[derive(Clone, Debug)]
pub struct ArmSpec {
    /// Its markers, and which hooks it wants.
    pub traced: Traced,
    /// How long it may stay armed.
    pub lease: Duration,
    /// Namespaces whose netfilter hooks are of interest.
    pub netfilter: Vec<Netns>,
}

/// What a check asks that marks no packets: all hooks, and nothing of what packets carry.
pub fn unmarked(check: CheckId, key: MarkerKey, lease: Duration) -> ArmSpec {
    let traced = Traced {
        check,
        key,
        count: 0,
        protocol: Protocol::Udp,
        set: HookSet::All,
        capture: false,
        every_rule: false,
    };
    ArmSpec { traced, lease, netfilter: Vec::new() }
}

/// What went wrong with the tracer.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    /// The BPF side.
    #[error(transparent)]
    Floor(#[from] FloorError),
    /// The check is armed already.
    #[error("check {0} is armed already")]
    Twice(CheckId),
    /// Readiness of a descriptor could not be asked for.
    #[error("cannot watch a descriptor: {0}")]
    Poll(#[source] io::Error),
}

/// The tracer of one node.
pub struct Tracer {
    shared: Arc<Shared>,
    ring_task: JoinHandle<()>,
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of `bpf_ktime_get_ns`.
pub fn now_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}

/// What a kernel makes of the programs.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The tracepoints that it refused, each with the reason.
    pub refused: Vec<String>,
    /// The functions of the deep tier.
    pub functions: Vec<WatchedFunction>,
}

/// Loads the programs and lets go of them again.
pub fn try_load() -> Result<Tried, FloorError> {
    let (floor, _) = Floor::load()?;
    let (_, refused) = floor.served();
    let refused = refused.into_iter().map(|(tracepoint, why)| format!("{tracepoint}: {why}")).collect();
    Ok(Tried { refused, functions: floor.functions().iter().map(deep::Row::foretell).collect() })
}

/// What a check that wants all would see on this machine, hook by hook. Attaches nothing.
pub fn foresee() -> Result<Vec<HookReport>, FloorError> {
    let (floor, _) = Floor::load()?;
    let functions = floor.functions().iter().map(deep::Row::foretell).collect();
    let mut reports = report::of_floor(&floor, functions, HookSet::All);
    let traced = nftrace::try_table().map(|()| "nftables trace".to_owned());
    reports.extend(report::of_rules(traced.map_err(|error| error.to_string())));
    Ok(reports)
}

/// How each function of the deep tier is watched, as `fexit/NAME`, or why it is not: in the order of their registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedFunction {
    /// Its name in this kernel.
    pub function: &'static str,
    /// The hook that it tells about.
    pub hook: Hook,
    /// Who watches it, or why nobody does.
    pub provider: Result<String, String>,
}

/// Whether packets can be read whose headers a network card left in pages.
pub fn reads_pages() -> bool {
    symbols::Variables::of_running_kernel().are_known()
}

impl Tracer {
    /// Loads the programs. Attaches nothing yet.
    ///
    /// Must be called within a tokio runtime.
    pub fn new() -> Result<Self, TracerError> {
        Self::of(Floor::load()?, ArmedChecks::default())
    }

    /// The same for one check that marks no packets: a filter picks them. To be armed with [`unmarked`].
    pub fn live(check: CheckId, live: &Live) -> Result<Self, TracerError> {
        Self::of(Floor::load_live(check, live)?, ArmedChecks { live: true, ..ArmedChecks::default() })
    }

    fn of((floor, ring): (Floor, RingBuf<MapData>), armed: ArmedChecks) -> Result<Self, TracerError> {
        let readiness = duplicate(ring.as_raw_fd()).map_err(TracerError::Poll)?;
        let shared = Arc::new(Shared {
            places: Mutex::default(),
            floor: Mutex::new(floor),
            ring: Mutex::new(ring),
            armed: Mutex::new(armed),
            watches: Mutex::default(),
        });
        let ring_task = read_when_ready(readiness, &shared, Shared::drain_ring)?;
        Ok(Self { shared, ring_task })
    }

    /// The tracepoints at which every packet of the machine is looked at now.
    pub fn attached(&self) -> BTreeSet<&'static str> {
        lock(&self.shared.floor).attached().collect()
    }

    /// The functions of the kernel that are watched while a check wants more than the light set; before the first such check as it seems.
    pub fn functions(&self) -> Vec<WatchedFunction> {
        let floor = lock(&self.shared.floor);
        floor.functions().iter().map(deep::Row::report).collect()
    }

    /// Says which namespaces are this node's: sightings of others are not recorded.
    pub fn set_namespaces(&self, namespaces: &[(Place, Netns)]) -> Result<(), TracerError> {
        let places: BTreeMap<_, _> =
            namespaces.iter().map(|(place, netns)| (netns.inode(), place.clone())).collect();
        lock(&self.shared.floor).watch_namespaces(&places.keys().copied().collect())?;
        *lock(&self.shared.places) = places;
        Ok(())
    }

    /// Arms a check; its sightings go to `sink` until it is disarmed. Says what can be observed.
    pub fn arm(&self, spec: ArmSpec, sink: mpsc::Sender<Sighting>) -> Result<Vec<HookReport>, TracerError> {
        let ArmSpec { traced, lease, netfilter } = spec;
        let Traced { check, key, count, protocol, set, .. } = traced;
        let until = now_ns().saturating_add(u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX));
        let losses_before = self.shared.losses();
        {
            let mut armed = lock(&self.shared.armed);
            if armed.checks.contains_key(&check) {
                return Err(TracerError::Twice(check));
            }
            if protocol == Protocol::Tcp {
                let markers = key.isns(check, count);
                armed.isns.extend(markers.map(|(seq, isn)| (isn, Marker { check, seq })));
            }
            let entry = Armed { traced, sink, losses_before, refused: 0 };
            armed.checks.insert(check, entry);
        }
        if let Err(error) = lock(&self.shared.floor).arm(&traced, until) {
            self.disarm(check);
            return Err(error.into());
        }
        let floor = lock(&self.shared.floor);
        let functions = floor.functions().iter().map(deep::Row::report).collect();
        let mut reports = report::of_floor(&floor, functions, set);
        drop(floor);
        for netns in &netfilter {
            let outcome = self.shared.watch(netns, &traced);
            reports.extend(report::of_netfilter(netns.name(), outcome, set));
        }
        Ok(reports)
    }

    /// Ends a check: no longer looks, takes what there is still to read, then forgets it. Says what was lost while it was
    /// armed; nothing if it was not.
    pub fn disarm(&self, check: CheckId) -> Losses {
        let Some(traced) = lock(&self.shared.armed).checks.get(&check).map(|entry| entry.traced) else {
            return Losses::default();
        };
        // In this order all is read that anybody may have seen traced, and what comes without the kernel's time gets one at
        // which tracepoints were still watched.
        self.shared.stop(&traced);
        self.shared.drain_ring();
        let watches: Vec<_> = lock(&self.shared.watches).values().map(|task| task.watch.clone()).collect();
        for watch in watches {
            self.shared.drain_watch(&watch);
        }
        lock(&self.shared.floor).disarm(&traced);
        self.shared.drain_ring();
        let losses_now = self.shared.losses();
        let mut armed = lock(&self.shared.armed);
        let Some(entry) = armed.checks.remove(&check) else { return Losses::default() };
        armed.isns.retain(|_, marker| marker.check != check);
        drop(armed);
        self.shared.unwatch(check);
        let before = entry.losses_before;
        Losses {
            // Counters only rise; one that could not be read counts as nothing lost since.
            ring_full: losses_now.ring_full.saturating_sub(before.ring_full) + entry.refused,
            trace_overruns: losses_now.trace_overruns.saturating_sub(before.trace_overruns),
            follow_full: losses_now.follow_full.saturating_sub(before.follow_full),
            out_of_reach: losses_now.out_of_reach.saturating_sub(before.out_of_reach),
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.ring_task.abort();
    }
}

/// The marker of a record, if it could be one.
fn marker(check: u32, seq: u32) -> Option<Marker> {
    Some(Marker { check: CheckId::new(check)?, seq: Seq(seq) })
}
