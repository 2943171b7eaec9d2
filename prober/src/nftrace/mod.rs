//! Netfilter's own trace of marked packets: entering and leaving each hook, and every rule between.
//!
//! * `table`: the tables that make the kernel report
//! * `rules`: their rules, which pick the packets
//! * `arrivals`: what came through the input hook, without a trace: all that is asked where no rules are
//! * `filter`: which of its reports are taken
//! * `event`: those, parsed
//! * `identify`: which packet one is about
//! * `translate`: reports → sightings
//! * `legacy`: what legacy tables report, among them
//! * `passage`: fewer sightings where nothing came of it

mod arrivals;
mod event;
pub(crate) mod filter;
mod identify;
mod legacy;
mod passage;
mod rules;
mod table;
mod translate;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_sys::Socket;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use waymark_proto::{HookSet, Place};

use crate::facts::has_bridges;
use crate::netns::{Netns, NetnsError};
use crate::reports;
use crate::xtrace::XtTrace;
use arrivals::Arrivals;
pub use identify::OuterKey;
use table::TraceTable;
pub use table::{TABLE_PREFIX, Traced};
pub use translate::{Markers, Translator};

/// `NFNLGRP_NFTRACE`
const GROUP: u32 = 9;

/// What went wrong with the trace of a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NftraceError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// nftables or netlink refused.
    #[error("cannot {what} in network namespace {netns}: {source}")]
    Netlink {
        /// What was tried.
        what: &'static str,
        /// Where.
        netns: String,
        /// Why.
        source: io::Error,
    },
}

/// The trace of one namespace. Ends, with its tables, when it is dropped.
///
/// Whoever holds two of its locks took that of the translator first.
pub struct Watch {
    /// Name of the trace table, when there is one.
    table: String,
    rules: Mutex<Rules>,
    arrivals: Mutex<Option<Arrivals>>,
    events: Socket,
    /// Readable when there is something to read.
    ready: Epoll,
    translator: Mutex<Translator>,
    place: Place,
    netns: Netns,
}

/// What checks that want rules ask for.
#[derive(Default)]
struct Rules {
    /// The table of IP, and that of bridges where there are any; none before the first such check, nor once closed.
    tables: Vec<TraceTable>,
    legacy: Legacy,
    /// How many checks want every rule that matches.
    every: usize,
}

/// The reports of a namespace's legacy tables.
#[derive(Default)]
enum Legacy {
    /// There are no such tables, or none any more to listen to.
    #[default]
    None,
    Heard(XtTrace),
    /// Why not, though there are such tables.
    Unheard(String),
}

impl Watch {
    /// Begins to watch a namespace. Nothing is looked at before a check is armed.
    pub fn start(place: Place, netns: &Netns) -> Result<Self, NftraceError> {
        let (events, devices) = netns.run(|| (listen(), device_names()))?;
        let prepare = || {
            let (events, ready) = (events?, Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
            announce(&ready, &events)?;
            Ok((events, ready))
        };
        let (events, ready) = prepare().map_err(|source| NftraceError::Netlink {
            what: "listen to nftables' trace",
            netns: netns.name().to_string(),
            source,
        })?;
        let table = table::new_name();
        Ok(Self {
            rules: Mutex::default(),
            arrivals: Mutex::default(),
            events,
            ready,
            translator: Mutex::new(Translator::new(place.clone(), table.clone(), devices)),
            table,
            place,
            netns: netns.clone(),
        })
    }

    /// Makes what a trace of rules needs, unless it is there.
    fn trace_rules(&self) -> Result<MutexGuard<'_, Rules>, NftraceError> {
        let mut rules = lock(&self.rules);
        if !rules.tables.is_empty() {
            return Ok(rules);
        }
        let (table, bridges, reports) = self
            .netns
            .run(|| {
                let table = TraceTable::create(&self.table)?;
                let bridges = has_bridges().then(|| table.for_bridges());
                Ok((table, bridges, XtTrace::start()))
            })?
            .map_err(|source| self.failed("make the trace table of nftables", source))?;
        let place = &self.place;
        rules.tables.push(table);
        match bridges {
            Some(Ok(table)) => rules.tables.push(table),
            // A kernel may have bridges and no nftables for them. Then there are no rules to trace, either.
            Some(Err(error)) => tracing::debug!(%place, %error, "rules of bridges are not traced"),
            None => {}
        }
        rules.legacy = match reports {
            Ok(reports) => reports.map_or(Legacy::None, Legacy::Heard),
            Err(error) => {
                tracing::warn!(%place, %error, "rules of iptables-legacy are not traced");
                Legacy::Unheard(error.to_string())
            }
        };
        Ok(rules)
    }

    /// Makes what the others need, unless it is there.
    fn log_arrivals(&self) -> Result<MutexGuard<'_, Option<Arrivals>>, NftraceError> {
        let mut arrivals = lock(&self.arrivals);
        if arrivals.is_none() {
            let started = self.netns.run(Arrivals::start)?.and_then(|started| {
                announce(&self.ready, &started)?;
                Ok(started)
            });
            *arrivals =
                Some(started.map_err(|source| self.failed("have nftables log what arrives", source))?);
        }
        Ok(arrivals)
    }

    fn failed(&self, what: &'static str, source: io::Error) -> NftraceError {
        NftraceError::Netlink { what, netns: self.netns.name().to_string(), source }
    }

    /// Watches for the markers of a check. Tells by what.
    pub fn arm(&self, traced: &Traced) -> Result<String, NftraceError> {
        let failed = |source| self.failed("arm a check", source);
        match traced.set {
            HookSet::Light | HookSet::Wide => {
                let arrivals = self.log_arrivals()?;
                arrivals.iter().try_for_each(|arrivals| arrivals.arm(traced)).map_err(failed)?;
                Ok("nftables log".to_owned())
            }
            HookSet::All => {
                let mut rules = self.trace_rules()?;
                rules.tables.iter().try_for_each(|table| table.arm(traced)).map_err(failed)?;
                if traced.every_rule {
                    if rules.every == 0 {
                        filter::detach(&self.events).map_err(failed)?;
                    }
                    rules.every += 1;
                }
                Ok(rules.provider())
            }
        }
    }

    /// No longer watches for the markers of a check.
    pub fn disarm(&self, traced: &Traced) -> io::Result<()> {
        match traced.set {
            HookSet::Light | HookSet::Wide => {
                lock(&self.arrivals).iter().try_for_each(|arrivals| arrivals.disarm(traced))
            }
            HookSet::All => {
                let mut rules = lock(&self.rules);
                if traced.every_rule {
                    rules.every = rules.every.saturating_sub(1);
                    if rules.every == 0 {
                        filter::attach(&self.events)?;
                    }
                }
                rules.tables.iter().try_for_each(|table| table.disarm(traced))
            }
        }
    }

    /// Removes the tables now, whoever else still holds this watch, and lets the namespace have its logger back.
    pub fn close(&self) {
        *lock(&self.rules) = Rules::default();
        *lock(&self.arrivals) = None;
    }

    /// A descriptor that becomes readable when there are events.
    pub fn readiness(&self) -> io::Result<OwnedFd> {
        self.ready.0.try_clone()
    }

    /// Takes all events that are there now. Returns how often some were lost, in the kernel or here.
    pub fn drain(&self, markers: &mut dyn Markers) -> u64 {
        let mut translator = lock(&self.translator);
        let mut overruns = 0;
        let rules = lock(&self.rules);
        translator.tell_every_rule(rules.every > 0);
        if let Legacy::Heard(legacy) = &rules.legacy {
            // In this order, which `legacy` has the reason for.
            let mut datagrams = Vec::new();
            overruns += reports::read(&self.events, &mut |datagram| datagrams.push(datagram.to_vec()));
            overruns += legacy.drain(&mut |report| translator.report(&report, markers));
            for event in datagrams.iter().flat_map(|datagram| event::parse(datagram)) {
                translator.event(&event, markers);
            }
        } else {
            overruns += reports::read(&self.events, &mut |datagram| {
                for event in event::parse(datagram) {
                    translator.event(&event, markers);
                }
            });
        }
        drop(rules);
        translator.tell(markers);
        if let Some(arrivals) = &*lock(&self.arrivals) {
            overruns += arrivals.drain(&mut |logged| translator.arrived(&logged, markers));
        }
        overruns + translator.take_lost()
    }

    /// A tracer below saw which marker is inside this encapsulated packet.
    pub fn learn_outer(&self, key: OuterKey, inner: &waymark_proto::Sighting, markers: &mut dyn Markers) {
        lock(&self.translator).learn_outer(key, inner, markers);
    }
}

impl Rules {
    /// Who tells what, for people.
    fn provider(&self) -> String {
        match &self.legacy {
            Legacy::Heard(_) => "nftables trace, iptables-legacy trace".to_owned(),
            Legacy::None => "nftables trace".to_owned(),
            Legacy::Unheard(why) => format!("nftables trace; none of iptables-legacy: {why}"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves a usable state: at worst one packet's context is missing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a socket make `ready` readable.
fn announce(ready: &Epoll, socket: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the socket is open while it is borrowed.
    let socket = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    Ok(ready.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?)
}

/// Whether rules can be traced at all: makes the table in a namespace of its own, which goes with it.
pub fn try_table() -> io::Result<()> {
    let alone = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        TraceTable::create(&table::new_name()).map(drop)
    };
    std::thread::spawn(alone)
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that tries it panicked")))
}

fn listen() -> io::Result<Socket> {
    let socket = reports::open()?;
    filter::attach(&socket)?;
    socket.add_membership(GROUP)?;
    Ok(socket)
}

/// Names of the devices of the calling thread's namespace, by index. Without them devices are shown by
/// number, so a failure is not worth an error.
fn device_names() -> BTreeMap<u32, String> {
    let interfaces = nix::net::if_::if_nameindex();
    let named = |interface: &nix::net::if_::Interface| {
        (interface.index(), interface.name().to_string_lossy().into_owned())
    };
    interfaces.map(|all| all.iter().map(named).collect()).unwrap_or_default()
}
