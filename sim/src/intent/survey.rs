//! Many pairs at once: who may reach whom in some namespaces, and what a change makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use waymark_proto::{Expectation, Intent, Inventory, LocalOnly, Pod, PortRef, Service, Text, text};

use super::policies::{Answer, End, Policies};
use super::traffic::Traffic;
use super::{fold, intent, service};

/// Which pairs to look at: all pods of some namespaces as sources; the same pods at their ports, and the
/// Services of those namespaces, as destinations.
///
/// A pod's ports are those that it declares, that Services lead to, and that rules for it name by number. A
/// pod without any is asked for by ICMP. Made of several inventories, so that what is there before a change
/// and what is there after it are surveyed alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    sources: BTreeSet<(String, String)>,
    destinations: BTreeSet<Destination>,
}

/// Where a pair leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// Kubernetes namespace.
    pub namespace: String,
    /// What it is, by name.
    #[serde(flatten)]
    pub target: Target,
    /// Protocol and port: a pod's own, or the Service's.
    pub traffic: Traffic,
}

/// What a destination is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// A pod, by name.
    Pod(String),
    /// A Service, by name.
    Service(String),
}

/// A source and a destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pair {
    /// Kubernetes namespace of the sending pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Where it sends.
    pub destination: Destination,
}

/// Whether a source may reach a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Reach {
    /// It may.
    Allowed,
    /// Some backends of the Service only.
    Partly,
    /// It may not.
    Denied,
    /// The Service has no ready backend, or none that its traffic policy lets count.
    NoEndpoints,
    /// The objects do not say.
    Unknown,
    /// One of the two is not there.
    Absent,
}

/// Who may reach whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reachability {
    sources: Vec<(String, String)>,
    destinations: Vec<Destination>,
    /// Row by row, a row per source.
    cells: Vec<Reach>,
}

/// A pair of which two answers differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The pair.
    #[serde(flatten)]
    pub pair: Pair,
    /// The first answer.
    pub before: Reach,
    /// The second answer.
    pub after: Reach,
}

impl Survey {
    /// The pairs within these namespaces, of all of the inventories together.
    pub fn new(inventories: &[&Inventory], namespaces: &BTreeSet<String>) -> Self {
        let mut survey = Self::default();
        for inventory in inventories {
            let ports = ports(inventory);
            let concerned = |namespace: &String| namespaces.contains(namespace);
            for (index, pod) in inventory.pods.iter().enumerate().filter(|(_, pod)| concerned(&pod.namespace))
            {
                survey.sources.insert((pod.namespace.clone(), pod.name.clone()));
                survey.destinations.extend(ports[index].iter().map(|&traffic| Destination {
                    namespace: pod.namespace.clone(),
                    target: Target::Pod(pod.name.clone()),
                    traffic,
                }));
            }
            let services = inventory.services.iter().filter(|service| concerned(&service.namespace));
            survey.destinations.extend(services.map(|service| Destination {
                namespace: service.namespace.clone(),
                target: Target::Service(service.name.clone()),
                traffic: service::traffic(service),
            }));
        }
        survey
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.sources.len() * self.destinations.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the objects of an inventory ask for, of each pair.
    pub fn reachability(&self, inventory: &Inventory) -> Reachability {
        let board = Board::new(inventory);
        let ends: Vec<Ends<'_>> =
            self.destinations.iter().map(|destination| board.ends(destination)).collect();
        let mut cells = Vec::with_capacity(self.len());
        for (namespace, name) in &self.sources {
            let source = board.policies.directory.pod(namespace, name);
            cells.extend(ends.iter().map(|ends| match source {
                Some((_, pod)) => board.reach(pod, ends),
                None => Reach::Absent,
            }));
        }
        Reachability {
            sources: self.sources.iter().cloned().collect(),
            destinations: self.destinations.iter().cloned().collect(),
            cells,
        }
    }

    /// What the objects ask for, of one pair, with the reasons; absent if one of its ends is.
    pub fn explain(inventory: &Inventory, pair: &Pair) -> Option<Intent> {
        let board = Board::new(inventory);
        let (_, pod) = board.policies.directory.pod(&pair.namespace, &pair.pod)?;
        let (receivers, of, local_only) = match board.ends(&pair.destination) {
            Ends::Absent => return None,
            Ends::Pod(receiver, traffic) => (vec![(board.same_family(pod, receiver), traffic)], None, None),
            Ends::Service(service, mut receivers) => {
                let local_only = board.local_only(service, pod);
                receivers.retain(|(receiver, _)| service::counts(local_only.as_ref(), receiver.party));
                (receivers, Some(service::object(service)), local_only)
            }
        };
        let receivers = receivers.into_iter().map(|(receiver, traffic)| {
            let admission = match board.address(pod, receiver.ip.is_ipv6()) {
                Some(source) => board.policies.judge(source, receiver, traffic),
                None => waymark_proto::Admission::Unknown {
                    why: text!(intent::NoAddress { pod: pod.full_name(), ip: receiver.ip }),
                },
            };
            board.policies.receiver(receiver.ip, traffic, admission)
        });
        Some(intent(of, local_only, receivers.collect()))
    }
}

/// An inventory, arranged for asking about many pairs.
struct Board<'a> {
    policies: Policies<'a>,
    services: BTreeMap<(&'a str, &'a str, Traffic), &'a Service>,
}

/// A destination, looked up once for all sources.
enum Ends<'a> {
    Absent,
    Pod(End<'a>, Traffic),
    Service(&'a Service, Vec<(End<'a>, Traffic)>),
}

impl<'a> Board<'a> {
    fn new(inventory: &'a Inventory) -> Self {
        // Of a Service with addresses of both families, the first stands for it.
        let mut services = BTreeMap::new();
        for service in &inventory.services {
            let key = (service.namespace.as_str(), service.name.as_str(), service::traffic(service));
            services.entry(key).or_insert(service);
        }
        Self { policies: Policies::new(inventory), services }
    }

    fn ends(&self, destination: &Destination) -> Ends<'a> {
        match &destination.target {
            Target::Pod(name) => match self.policies.directory.pod(&destination.namespace, name) {
                Some((_, pod)) => Ends::Pod(self.policies.end(pod.ip), destination.traffic),
                None => Ends::Absent,
            },
            Target::Service(name) => {
                let key = (destination.namespace.as_str(), name.as_str(), destination.traffic);
                let Some(service) = self.services.get(&key) else { return Ends::Absent };
                let ready = service::ready(service);
                let backends = ready.map(|(ip, port)| (self.policies.end(ip), destination.traffic.at(port)));
                Ends::Service(service, backends.collect())
            }
        }
    }

    fn local_only(&self, service: &Service, source: &Pod) -> Option<LocalOnly> {
        service::from_within(service, self.policies.end(source.ip).party)
    }

    fn address(&self, pod: &Pod, ipv6: bool) -> Option<End<'a>> {
        pod.address(ipv6).map(|ip| self.policies.end(ip))
    }

    /// A receiving pod at its address of the source's family, where it has one.
    fn same_family(&self, source: &Pod, receiver: End<'a>) -> End<'a> {
        let other = receiver.party.pod().filter(|_| source.address(receiver.ip.is_ipv6()).is_none());
        let address = other.and_then(|(_, pod)| self.address(pod, !receiver.ip.is_ipv6()));
        address.unwrap_or(receiver)
    }

    fn reach(&self, source: &Pod, ends: &Ends<'a>) -> Reach {
        let answer = |receiver: End<'a>, traffic| match self.address(source, receiver.ip.is_ipv6()) {
            Some(source) => self.policies.answer(source, receiver, traffic),
            None => Answer::Unknown,
        };
        let expectation = match ends {
            Ends::Absent => return Reach::Absent,
            Ends::Pod(receiver, traffic) => {
                fold(std::iter::once(answer(self.same_family(source, *receiver), *traffic)))
            }
            Ends::Service(service, receivers) => {
                let local_only = self.local_only(service, source);
                let counting =
                    receivers.iter().filter(|(end, _)| service::counts(local_only.as_ref(), end.party));
                fold(counting.map(|(receiver, traffic)| answer(*receiver, *traffic)))
            }
        };
        expectation.into()
    }
}

/// The ports at which each pod is asked for, by the pod's index.
fn ports(inventory: &Inventory) -> Vec<BTreeSet<Traffic>> {
    let mut ports: Vec<BTreeSet<Traffic>> = inventory
        .pods
        .iter()
        .map(|pod| pod.ports.iter().map(|port| Traffic::Port(port.protocol, port.port)).collect())
        .collect();
    let mut by_address: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for (index, pod) in inventory.pods.iter().enumerate().filter(|(_, pod)| !pod.host_network) {
        by_address.extend([Some(pod.ip), pod.ip6].into_iter().flatten().map(|ip| (ip, index)));
    }
    for service in &inventory.services {
        for backend in &service.backends {
            if let Some(&index) = by_address.get(&backend.ip) {
                ports[index].insert(service::traffic(service).at(backend.port));
            }
        }
    }
    for policy in &inventory.policies {
        let named: BTreeSet<Traffic> =
            policy.spec.ingress.iter().flat_map(|rule| &rule.ports).filter_map(number).collect();
        let selected = |pod: &Pod| {
            pod.namespace == policy.namespace
                && super::selector::selects(&policy.spec.pod_selector, &pod.labels)
        };
        for (index, _) in inventory.pods.iter().enumerate().filter(|(_, pod)| selected(pod)) {
            ports[index].extend(&named);
        }
    }
    for ports in ports.iter_mut().filter(|ports| ports.is_empty()) {
        ports.insert(Traffic::Icmp);
    }
    ports
}

fn number(port: &waymark_proto::PolicyPort) -> Option<Traffic> {
    match port.port {
        Some(PortRef::Number(number)) => Some(Traffic::Port(port.protocol, number)),
        Some(PortRef::Name(_)) | None => None,
    }
}

impl Reachability {
    /// Every pair with its answer, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (Pair, Reach)> {
        let pairs = self
            .sources
            .iter()
            .flat_map(|source| self.destinations.iter().map(move |destination| (source, destination)));
        pairs.zip(&self.cells).map(|((source, destination), &reach)| (pair(source, destination), reach))
    }

    /// The answer for a pair; [`Reach::Absent`] if it was not asked for.
    pub fn get(&self, pair: &Pair) -> Reach {
        let wanted = (&pair.namespace, &pair.pod);
        let source = self.sources.binary_search_by(|(namespace, pod)| (namespace, pod).cmp(&wanted)).ok();
        let destination = self.destinations.binary_search(&pair.destination).ok();
        match source.zip(destination) {
            Some((row, column)) => self.cells[row * self.destinations.len() + column],
            None => Reach::Absent,
        }
    }

    /// The pairs of which a later answer differs. What the later one did not ask for counts as absent.
    pub fn changes(&self, later: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        if (&self.sources, &self.destinations) == (&later.sources, &later.destinations) {
            let columns = self.destinations.len();
            for (index, (&before, &after)) in self.cells.iter().zip(&later.cells).enumerate() {
                if before != after {
                    let pair = pair(&self.sources[index / columns], &self.destinations[index % columns]);
                    changes.push(Change { pair, before, after });
                }
            }
            return changes;
        }
        let mut cells: BTreeMap<Pair, (Reach, Reach)> = BTreeMap::new();
        for (pair, before) in self.pairs() {
            cells.insert(pair, (before, Reach::Absent));
        }
        for (pair, after) in later.pairs() {
            cells.entry(pair).or_insert((Reach::Absent, Reach::Absent)).1 = after;
        }
        let differ = |(pair, (before, after))| (before != after).then_some(Change { pair, before, after });
        cells.into_iter().filter_map(differ).collect()
    }
}

fn pair((namespace, pod): &(String, String), destination: &Destination) -> Pair {
    Pair { namespace: namespace.clone(), pod: pod.clone(), destination: destination.clone() }
}

impl From<Expectation> for Reach {
    fn from(expectation: Expectation) -> Self {
        match expectation {
            Expectation::Allowed => Self::Allowed,
            Expectation::Partly => Self::Partly,
            Expectation::Denied => Self::Denied,
            Expectation::NoEndpoints => Self::NoEndpoints,
            Expectation::Unknown => Self::Unknown,
        }
    }
}

impl Reach {
    /// The word in text.
    pub fn words(self) -> Text {
        match self {
            Self::Allowed => text!(reach::Allowed),
            Self::Partly => text!(reach::Partly),
            Self::Denied => text!(reach::Denied),
            Self::NoEndpoints => text!(reach::NoEndpoints),
            Self::Unknown => text!(reach::Unknown),
            Self::Absent => text!(reach::Absent),
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.words())
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Pod(name) => write!(f, "pod/{}/{name} {}", self.namespace, self.traffic),
            Target::Service(name) => write!(f, "svc/{}/{name} {}", self.namespace, self.traffic),
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod/{}/{} → {}", self.namespace, self.pod, self.destination)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} → {}", self.pair, self.before, self.after)
    }
}
