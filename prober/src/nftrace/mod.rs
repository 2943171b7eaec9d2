//! Netfilter's own trace of marked packets: entering and leaving each hook, and every rule between.
//!
//! * `table`: the table that makes the kernel report
//! * `rules`: its rules, which pick the packets
//! * `filter`: which of its reports are taken
//! * `event`: those, parsed
//! * `translate`: reports → sightings
//! * `legacy`: what legacy tables report, among them
//! * `passage`: fewer sightings where nothing came of it

mod event;
pub(crate) mod filter;
mod legacy;
mod passage;
mod rules;
mod table;
mod translate;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use waymark_proto::Place;
use waymark_tracer_ebpf::HookSet;

use crate::facts::has_bridges;
use crate::netns::{Netns, NetnsError};
use crate::xtrace::XtTrace;
use table::TraceTable;
pub use table::{TABLE_PREFIX, Traced};
pub use translate::{Markers, OuterKey, Translator};

/// `NFNLGRP_NFTRACE`
const GROUP: u32 = 9;
/// Room for some forty thousand events between two reads. The kernel takes what events need, not all of it.
const RECEIVE_BUFFER: usize = 32 << 20;
/// Longer than any datagram of the kernel's.
const DATAGRAM: usize = 1 << 16;

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
pub struct Watch {
    /// That of IP, and that of bridges where there are any; none once closed.
    tables: Mutex<Vec<TraceTable>>,
    events: Socket,
    legacy: Mutex<Legacy>,
    translator: Mutex<Translator>,
    place: Place,
    netns: Netns,
}

/// The reports of a namespace's legacy tables.
enum Legacy {
    /// No check has looked closely.
    NotAsked,
    /// There are no such tables, or none any more to listen to.
    None,
    Heard(XtTrace),
    /// Why not, though there are such tables.
    Unheard(String),
}

impl Watch {
    /// Begins to watch a namespace. Nothing is traced before a check is armed.
    pub fn start(place: Place, netns: &Netns) -> Result<Self, NftraceError> {
        let failed = |what: &'static str| {
            let netns = netns.name().to_string();
            move |source| NftraceError::Netlink { what, netns, source }
        };
        let (table, events, devices) = netns.run(|| {
            // Listen first: no event may be lost between the two.
            let events = listen().map_err(failed("listen to nftables' trace"))?;
            let table = TraceTable::create().map_err(failed("make the trace table of nftables"))?;
            Ok::<_, NftraceError>((table, events, device_names()))
        })??;
        let translator = Mutex::new(Translator::new(place.clone(), table.name(), devices));
        let (tables, legacy) = (Mutex::new(vec![table]), Mutex::new(Legacy::NotAsked));
        Ok(Self { tables, events, legacy, translator, place, netns: netns.clone() })
    }

    /// Watches what a light look does without: rules of bridges, and of legacy tables.
    fn look_closely(&self) -> Result<(), NetnsError> {
        let (mut tables, mut legacy) = (self.tables(), self.legacy());
        let (Some(table), Legacy::NotAsked) = (tables.first(), &*legacy) else { return Ok(()) };
        let asked = || (has_bridges().then(|| table.for_bridges()), XtTrace::start());
        let (bridges, reports) = self.netns.run(asked)?;
        let place = &self.place;
        match bridges {
            Some(Ok(table)) => tables.push(table),
            // A kernel may have bridges and no nftables for them. Then there are no rules to trace, either.
            Some(Err(error)) => tracing::debug!(%place, %error, "rules of bridges are not traced"),
            None => {}
        }
        *legacy = match reports {
            Ok(reports) => reports.map_or(Legacy::None, Legacy::Heard),
            Err(error) => {
                tracing::warn!(%place, %error, "rules of iptables-legacy are not traced");
                Legacy::Unheard(error.to_string())
            }
        };
        Ok(())
    }

    /// Who tells what, for people.
    pub fn provider(&self) -> String {
        match &*self.legacy() {
            Legacy::Heard(_) => "nftables trace, iptables-legacy trace".to_owned(),
            Legacy::NotAsked | Legacy::None => "nftables trace".to_owned(),
            Legacy::Unheard(why) => format!("nftables trace; none of iptables-legacy: {why}"),
        }
    }

    /// Traces the markers of a check.
    pub fn arm(&self, traced: &Traced) -> io::Result<()> {
        if traced.set == HookSet::Wide {
            self.look_closely().map_err(io::Error::other)?;
        }
        self.tables().iter().try_for_each(|table| table.arm(traced))
    }

    /// No longer traces the markers of a check.
    pub fn disarm(&self, traced: &Traced) -> io::Result<()> {
        self.tables().iter().try_for_each(|table| table.disarm(traced))
    }

    /// Removes the tables now, whoever else still holds this watch, and lets the namespace have its logger back.
    pub fn close(&self) {
        self.tables().clear();
        *self.legacy() = Legacy::None;
    }

    fn legacy(&self) -> MutexGuard<'_, Legacy> {
        self.legacy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables(&self) -> MutexGuard<'_, Vec<TraceTable>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A descriptor that becomes readable when there are events.
    pub fn readiness(&self) -> io::Result<OwnedFd> {
        // SAFETY: the socket is open while `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.events.as_raw_fd()) }.try_clone_to_owned()
    }

    /// Takes all events that are there now. Returns how often some were lost, in the kernel or here.
    pub fn drain(&self, markers: &mut dyn Markers) -> u64 {
        let mut translator = self.translator();
        let mut overruns = 0;
        if let Legacy::Heard(legacy) = &*self.legacy() {
            // In this order, which `legacy` has the reason for.
            let mut datagrams = Vec::new();
            overruns += self.read(&mut |datagram| datagrams.push(datagram.to_vec()));
            overruns += legacy.drain(&mut |report| translator.report(&report, markers));
            for event in datagrams.iter().flat_map(|datagram| event::parse(datagram)) {
                translator.event(&event, markers);
            }
        } else {
            overruns += self.read(&mut |datagram| {
                for event in event::parse(datagram) {
                    translator.event(&event, markers);
                }
            });
        }
        translator.tell(markers);
        overruns + translator.take_lost()
    }

    /// Reads what nftables has sent by now. Returns how often some was lost.
    fn read(&self, take: &mut dyn FnMut(&[u8])) -> u64 {
        let mut overruns = 0;
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            datagram.clear();
            match self.events.recv(&mut datagram, libc::MSG_DONTWAIT) {
                Ok(_) => take(&datagram),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => overruns += 1,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing more for now; any other error would come again at the next call.
                Err(_) => return overruns,
            }
        }
    }

    /// A tracer below saw which marker is inside this encapsulated packet.
    pub fn learn_outer(&self, key: OuterKey, inner: &waymark_proto::Sighting, markers: &mut dyn Markers) {
        self.translator().learn_outer(key, inner, markers);
    }

    fn translator(&self) -> MutexGuard<'_, Translator> {
        // A panic while translating leaves a usable state: at worst one packet's context is missing.
        self.translator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether rules can be traced at all: makes the table in a namespace of its own, which goes with it.
pub fn try_table() -> io::Result<()> {
    let alone = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        TraceTable::create().map(drop)
    };
    std::thread::spawn(alone)
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that tries it panicked")))
}

fn listen() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    // Larger than net.core.rmem_max, which CAP_NET_ADMIN may exceed; the default does for small checks.
    if set_receive_buffer_force(&socket, RECEIVE_BUFFER).is_err() {
        socket.set_rx_buf_sz(RECEIVE_BUFFER as u32)?;
    }
    filter::attach(&socket)?;
    socket.add_membership(GROUP)?;
    Ok(socket)
}

fn set_receive_buffer_force(socket: &Socket, bytes: usize) -> nix::Result<()> {
    // SAFETY: the socket is open while it is borrowed.
    let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::RcvBufForce, &bytes)
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
