//! What the tracer and the tasks that read for it have in common.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use waymark_proto::{CheckId, Losses, NetnsInode, Place};
use waymark_tracer_ebpf::{Conntrack, Entry, Record};

use super::arm::ArmedChecks;
use super::floor::Floor;
use super::{Traced, TracerError, decode};
use crate::netns::Netns;
use crate::nftrace::{Markers, Watch};

/// What the reading tasks and the tracer have in common.
pub(super) struct Shared {
    pub(super) places: Mutex<BTreeMap<NetnsInode, Place>>,
    pub(super) floor: Mutex<Floor>,
    pub(super) ring: Mutex<RingBuf<MapData>>,
    pub(super) armed: Mutex<ArmedChecks>,
    pub(super) watches: Mutex<BTreeMap<NetnsInode, WatchTask>>,
}

/// A namespace's netfilter trace with the task that reads it.
pub(super) struct WatchTask {
    pub(super) watch: Arc<Watch>,
    place: Place,
    checks: BTreeSet<CheckId>,
    task: JoinHandle<()>,
}

impl Drop for WatchTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    /// Takes the records that are in the ring buffer now, at most as many as it can hold: under a flood more
    /// would come for ever. Says whether there may be more.
    pub(super) fn drain_ring(self: &Arc<Self>) -> bool {
        let mut ring = lock(&self.ring);
        for _ in 0..RECORDS_AT_ONCE {
            let Some(item) = ring.next() else { return false };
            let Some(Entry { record, conntrack, packet }) = Entry::from_bytes(&item) else { continue };
            let packet = packet.to_vec();
            drop(item);
            self.record(&record, conntrack.as_ref(), packet);
        }
        true
    }

    fn record(&self, record: &Record, conntrack: Option<&Conntrack>, packet: Vec<u8>) {
        let Some(place) = lock(&self.places).get(&NetnsInode(record.netns())).cloned() else { return };
        let Some(mut sighting) = decode::sighting(record, conntrack, &place, packet) else { return };
        let outer = decode::outer_key(record);
        let watch = outer.and_then(|key| {
            let watches = lock(&self.watches);
            watches.get(&NetnsInode(record.netns())).map(|task| (key, task.watch.clone()))
        });
        let mut armed = lock(&self.armed);
        if !armed.is_genuine(sighting.marker, record.hash()) {
            return;
        }
        if armed.live {
            sighting.identity = armed.identity(sighting.marker.check, record.hash().unwrap_or(0));
        }
        if let Some((key, watch)) = watch {
            watch.learn_outer(key, &sighting, &mut *armed);
        }
        armed.sighted(sighting);
    }

    pub(super) fn drain_watch(&self, watch: &Watch) {
        let mut armed = lock(&self.armed);
        let overruns = watch.drain(&mut *armed);
        armed.trace_overruns += overruns;
    }

    pub(super) fn losses(&self) -> Losses {
        let mut losses = lock(&self.floor).losses();
        losses.trace_overruns = lock(&self.armed).trace_overruns;
        losses
    }

    /// Traces a check in a namespace's netfilter hooks. Says by what.
    pub(super) fn watch(self: &Arc<Self>, netns: &Netns, traced: &Traced) -> Result<String, String> {
        let inode = netns.inode();
        let place = lock(&self.places).get(&inode).cloned().ok_or("it is not a namespace of this node")?;
        let mut watches = lock(&self.watches);
        let entry = match watches.entry(inode) {
            btree_map::Entry::Occupied(entry) => entry.into_mut(),
            btree_map::Entry::Vacant(entry) => {
                let started = self.start_watch(&place, netns).map_err(|error| error.to_string())?;
                entry.insert(started)
            }
        };
        let provider = entry.watch.arm(traced).map_err(|error| error.to_string());
        if provider.is_ok() {
            entry.checks.insert(traced.check);
        } else if entry.checks.is_empty() {
            watches.remove(&inode);
        }
        provider
    }

    fn start_watch(
        self: &Arc<Self>,
        place: &Place,
        netns: &Netns,
    ) -> Result<WatchTask, Box<dyn std::error::Error>> {
        let watch = Arc::new(Watch::start(place.clone(), netns)?);
        let readiness = watch.readiness()?;
        // The reader must not keep the table alive that goes with the watch.
        let reader = Arc::downgrade(&watch);
        let task = read_when_ready(readiness, self, move |shared| {
            if let Some(watch) = reader.upgrade() {
                shared.drain_watch(&watch);
            }
            false
        })?;
        Ok(WatchTask { watch, place: place.clone(), checks: BTreeSet::new(), task })
    }

    /// Traces a check in no namespace's netfilter hooks any more.
    pub(super) fn stop(&self, traced: &Traced) {
        let check = traced.check;
        for task in lock(&self.watches).values().filter(|task| task.checks.contains(&check)) {
            if let Err(error) = task.watch.disarm(traced) {
                tracing::warn!(place = %task.place, %check, %error, "cannot remove a check from the trace table");
            }
        }
    }

    /// Forgets a check that was stopped; a namespace that nobody traces any more loses its tables.
    pub(super) fn unwatch(&self, check: CheckId) {
        lock(&self.watches).retain(|_, task| {
            if task.checks.remove(&check) && task.checks.is_empty() {
                task.watch.close();
                return false;
            }
            true
        });
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves its data usable at each step, so a panic elsewhere does no harm here.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn duplicate(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the caller's object holds the descriptor open during this call.
    unsafe { BorrowedFd::borrow_raw(fd) }.as_fd().try_clone_to_owned()
}

/// A ring buffer of 4 MiB holds some 23,000 records of 176 bytes, header included.
const RECORDS_AT_ONCE: usize = 24_000;

/// How long records are left to gather before they are read: a packet leaves dozens within microseconds, and to be woken
/// for each, and to send each by itself, costs more than all else. Both buffers hold what comes meanwhile many times over.
const GATHER: Duration = Duration::from_millis(2);

/// Calls `drain` shortly after the descriptor has become readable, and again while it says that there is more, as long
/// as there is a tracer.
pub(super) fn read_when_ready(
    fd: OwnedFd,
    shared: &Arc<Shared>,
    drain: impl Fn(&Arc<Shared>) -> bool + Send + Sync + 'static,
) -> Result<JoinHandle<()>, TracerError> {
    // SAFETY: an OwnedFd gives the same open descriptor until it is dropped, with the AsyncFd.
    let ready = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .map_err(|error| TracerError::Poll(error.into()))?;
    let shared: Weak<Shared> = Arc::downgrade(shared);
    Ok(tokio::spawn(async move {
        while let Ok(mut guard) = ready.readable().await {
            tokio::time::sleep(GATHER).await;
            // Cleared before reading: what comes meanwhile makes it ready again.
            guard.clear_ready();
            loop {
                let Some(shared) = shared.upgrade() else { return };
                if !drain(&shared) {
                    break;
                }
                drop(shared);
                tokio::task::yield_now().await;
            }
        }
    }))
}
