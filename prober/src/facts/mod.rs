//! Facts: what the kernel holds that decides a packet's way, read from inside each namespace of a node.
//!
//! Everything is read by netlink and from `/proc/sys/net`, but netfilter, for which its own tools are
//! asked. A namespace that cannot be entered, a table that cannot be read, a tool that is not there: each
//! is recorded in `missing` where it belongs and voids nothing else. Lists are ordered by what identifies
//! their entries, so equal configuration gives equal facts.
//!
//! The facts of a namespace are no snapshot: the kernel offers none across tables. What changes while it
//! is read may be seen half.
//!
//! * `netlink`: dumps and questions over blocking sockets
//! * `links`, `addresses`, `routes`, `nexthops`, `rules`, `neighbours`: routing netlink, one table each
//! * `programs`: BPF programs of devices
//! * `sockets`: who listens; `holders`: the processes that do
//! * `sysctls`: settings below `/proc/sys/net`
//! * `netfilter`, `nfnetlink`, `command`: rulesets, by the tools that print them

mod addresses;
pub(crate) mod command;
mod holders;
mod links;
mod neighbours;
mod netfilter;
pub(crate) mod netlink;
mod nexthops;
pub(crate) mod nfnetlink;
mod programs;
mod routes;
mod rules;
mod sockets;
mod sysctls;

use std::fmt::Display;
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use waymark_proto::{
    FACTS_API_VERSION, Facts, Inventory, MissingFact, NetnsFacts, NetnsInode, NodeName, Scope,
};

use crate::netns::Netns;
use crate::pods::{LocateError, Opened, Pods};
pub(crate) use links::has_bridges;
use netfilter::Tools;
pub(crate) use netfilter::legacy_tables;
use netlink::{Netlink, NetlinkError};

/// Why there are no facts at all.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The inventory does not have the node.
    #[error("cannot collect facts: node {0} is not in the inventory")]
    UnknownNode(NodeName),
    /// Not one namespace could be entered.
    #[error("cannot collect facts of node {node}: {source}")]
    Nothing {
        /// The node.
        node: NodeName,
        /// Why its own namespace was not read.
        source: LocateError,
    },
}

/// Collects the facts of a node of an inventory, as [`collect_scope`] does.
///
/// # Errors
/// If the inventory does not have the node, or none of its namespaces can be entered.
pub fn collect(inventory: &Inventory, node: &NodeName) -> Result<Facts, FactsError> {
    let scope = inventory.scope(node).ok_or_else(|| FactsError::UnknownNode(node.clone()))?;
    collect_scope(&scope, &Pods::default())
}

/// Collects the facts of a node: its own namespace first, then those of its pods in the order of the scope.
/// A pod that uses its node's namespace is not listed again.
///
/// # Errors
/// If none of its namespaces can be entered.
pub fn collect_scope(scope: &Scope, pods: &Pods) -> Result<Facts, FactsError> {
    let node = &scope.node.name;
    let (subjects, opened): (Vec<_>, Vec<_>) =
        pods.open_all(scope).into_iter().map(|Opened { place, pod, netns }| ((place, pod), netns)).unzip();
    let outcomes = read_all(opened);
    let nothing = outcomes.iter().all(Result::is_err);
    let mut namespaces = Vec::with_capacity(subjects.len());
    for ((place, pod), outcome) in subjects.into_iter().zip(outcomes) {
        let (inode, facts) = match outcome {
            Ok((inode, facts)) => (inode.0, facts),
            Err(source) if nothing => return Err(FactsError::Nothing { node: node.clone(), source }),
            Err(error) => (0, unreadable(&error)),
        };
        namespaces.push(NetnsFacts { name: place.netns.to_string(), inode, pod, ..facts });
    }
    Ok(Facts {
        api_version: FACTS_API_VERSION.to_owned(),
        node: node.clone(),
        kernel: kernel_release(),
        namespaces,
    })
}

/// The addresses of the thread's namespace.
pub(crate) fn addresses_here() -> Result<Vec<IpAddr>, NetlinkError> {
    let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_ROUTE)?;
    let addresses = addresses::read(&mut netlink, &mut Missing::default())?;
    Ok(addresses.iter().map(|address| address.address.addr()).collect())
}

/// Reads all namespaces that could be opened; the outcomes are in their order.
fn read_all(opened: Vec<Result<Netns, LocateError>>) -> Vec<Result<(NetnsInode, NetnsFacts), LocateError>> {
    let known: Vec<Netns> = opened.iter().flatten().cloned().collect();
    let tools = Tools::find();
    let read_one = |netns: &Netns| netns.run(|| read_inside(netns, &known, &tools));
    let mut answers = in_parallel(&known, read_one).into_iter();
    let mut outcome = |opened: Result<Netns, LocateError>| {
        let netns = opened?;
        let facts = answers.next().expect("every namespace that was opened has an answer")?;
        Ok((netns.inode(), facts))
    };
    opened.into_iter().map(&mut outcome).collect()
}

/// Reads namespaces on a few threads; the answers are in their order. Reading mostly waits for processes
/// and the kernel's locks, so a few more threads than processors pay off; more only fight for the mutex
/// of routing netlink.
fn in_parallel<T: Send>(namespaces: &[Netns], read: impl Fn(&Netns) -> T + Sync) -> Vec<T> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let next = AtomicUsize::new(0);
    let answers: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(namespaces.len()));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(netns) = namespaces.get(index) else { return };
            let answer = read(netns);
            answers.lock().expect(NO_PANIC).push((index, answer));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..namespaces.len().min(2 * processors) {
            scope.spawn(work);
        }
    });
    let mut answers = answers.into_inner().expect(NO_PANIC);
    answers.sort_by_key(|&(index, _)| index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

const NO_PANIC: &str = "no thread panics while it holds the lock";

/// Reads `own`, which is the namespace of this thread.
fn read_inside(own: &Netns, known: &[Netns], tools: &Tools) -> NetnsFacts {
    let mut missing = Missing::default();
    let mut facts = NetnsFacts::default();
    // The tools run while the rest is read.
    let netfilter = netfilter::start(tools, &mut missing);
    match Netlink::open(netlink_sys::protocols::NETLINK_ROUTE) {
        Ok(mut netlink) => read_routing(&mut netlink, &mut facts, own, known, &mut missing),
        Err(error) => missing.note("links", error.to_string()),
    }
    facts.sockets = missing.table("sockets", sockets::read);
    facts.sysctls = sysctls::read(&mut missing);
    facts.netfilter = netfilter.finish(&mut missing);
    facts.missing = missing.0;
    facts
}

fn read_routing(
    netlink: &mut Netlink,
    facts: &mut NetnsFacts,
    own: &Netns,
    known: &[Netns],
    missing: &mut Missing,
) {
    let mut xdp = Vec::new();
    facts.links = missing.table("links", |missing| links::read(netlink, own, known, &mut xdp, missing));
    facts.programs = missing.table("programs", |missing| programs::read(netlink, &facts.links, xdp, missing));
    facts.addresses = missing.table("addresses", |missing| addresses::read(netlink, missing));
    facts.routes = missing.table("routes", |missing| routes::read(netlink, missing));
    facts.rules = missing.table("rules", |missing| rules::read(netlink, missing));
    facts.neighbours = missing.table("neighbours", |missing| neighbours::read(netlink, missing));
    facts.fdb = missing.table("fdb", |missing| neighbours::read_fdb(netlink, &facts.links, missing));
}

/// What is known of a namespace that could not be entered.
fn unreadable(error: &LocateError) -> NetnsFacts {
    let mut missing = Missing::default();
    missing.note("namespace", error.to_string());
    NetnsFacts { missing: missing.0, ..NetnsFacts::default() }
}

/// Kernel release, as `uname -r`; empty if it cannot be told.
pub(crate) fn kernel_release() -> String {
    nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Major and minor of a kernel release.
pub(crate) fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What could not be read, as it adds up.
#[derive(Default)]
struct Missing(Vec<MissingFact>);

impl Missing {
    fn note(&mut self, what: &str, why: String) {
        self.0.push(MissingFact { what: what.to_owned(), why });
    }

    fn remarks(&mut self, what: &str, remarks: Vec<String>) {
        for why in remarks {
            self.note(what, why);
        }
    }

    fn or_note<T, E: Display>(&mut self, what: &str, result: Result<T, E>) -> Option<T> {
        result.inspect_err(|error| self.note(what, error.to_string())).ok()
    }

    fn table<T>(
        &mut self,
        what: &str,
        read: impl FnOnce(&mut Self) -> Result<Vec<T>, NetlinkError>,
    ) -> Vec<T> {
        let rows = read(self);
        self.or_note(what, rows).unwrap_or_default()
    }
}

/// `aa:bb:cc:dd:ee:ff`; `None` for addresses that are not Ethernet's.
fn mac_text(bytes: &[u8]) -> Option<String> {
    let mac: [u8; 6] = bytes.try_into().ok()?;
    Some(mac.map(|byte| format!("{byte:02x}")).join(":"))
}

/// An address from the bytes of its family.
fn ip_from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
