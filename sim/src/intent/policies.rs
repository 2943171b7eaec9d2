//! NetworkPolicies, arranged for looking up by the pods that they isolate.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::OnceLock;

use waymark_proto::{
    Absent, Admission, Denial, Exemption, Inventory, IpBlock, NetworkPolicy, Node, ObjectRef, Pod,
    PolicyPeer, PolicyPort, PolicyType, text,
};

use super::party::{Directory, Party};
use super::selector::selects;
use super::traffic::Traffic;

/// One end of a flow with its address.
#[derive(Clone, Copy, Debug)]
pub(super) struct End<'a> {
    pub(super) party: Party<'a>,
    pub(super) ip: IpAddr,
}

/// The policies of a cluster. What is asked for often is worked out once, when it is first asked for.
#[derive(Debug)]
pub(super) struct Policies<'a> {
    pub(super) directory: Directory<'a>,
    compiled: Vec<Compiled<'a>>,
    by_namespace: BTreeMap<&'a str, Vec<usize>>,
    /// Policies that are not understood, by their namespaces: what they select and admit is not known.
    riddles: BTreeMap<&'a str, &'a Absent>,
    /// For each pod the policies that isolate its ingress and its egress.
    isolating: Vec<[OnceLock<Vec<usize>>; 2]>,
}

#[derive(Debug)]
struct Compiled<'a> {
    policy: &'a NetworkPolicy,
    ingress: Option<Vec<Rule<'a>>>,
    egress: Option<Vec<Rule<'a>>>,
}

#[derive(Debug)]
struct Rule<'a> {
    peers: Vec<Peer<'a>>,
    ports: &'a [PolicyPort],
}

#[derive(Debug)]
struct Peer<'a> {
    peer: &'a PolicyPeer,
    /// Which pods its selectors select, by index.
    members: OnceLock<Vec<bool>>,
}

/// What the policies of one direction say about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// None isolates the pod.
    Open,
    /// One of those that isolate it has a rule for the flow.
    Admitted,
    /// None of those that isolate it has.
    Closed,
}

/// The answer without its reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Allowed,
    Denied,
    Unknown,
}

impl<'a> Policies<'a> {
    pub(super) fn new(inventory: &'a Inventory) -> Self {
        let compiled: Vec<Compiled<'a>> = inventory.policies.iter().map(Compiled::new).collect();
        let mut by_namespace: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, one) in compiled.iter().enumerate() {
            by_namespace.entry(&one.policy.namespace).or_default().push(index);
        }
        let riddles = inventory.absent.iter().filter(|absent| absent.object.kind == "NetworkPolicy");
        let riddles = riddles.filter_map(|absent| Some((absent.object.namespace.as_deref()?, absent)));
        let riddles = riddles.collect();
        let isolating = inventory.pods.iter().map(|_| [OnceLock::new(), OnceLock::new()]).collect();
        Self { directory: Directory::new(inventory), compiled, by_namespace, riddles, isolating }
    }

    /// Whether a source may send to a receiver, without the reasons.
    pub(super) fn answer(&self, source: End<'_>, receiver: End<'_>, traffic: Traffic) -> Answer {
        if exempt(source.party, receiver.party).is_some() {
            return Answer::Allowed;
        }
        if [source, receiver].iter().any(|end| vacant(*end).is_some() || self.riddle(*end).is_some()) {
            return Answer::Unknown;
        }
        let allowed = [PolicyType::Egress, PolicyType::Ingress]
            .into_iter()
            .all(|direction| self.passes(direction, source, receiver, traffic));
        if allowed { Answer::Allowed } else { Answer::Denied }
    }

    /// Whether a source may send to a receiver, and by which policies.
    pub(super) fn judge(&self, source: End<'_>, receiver: End<'_>, traffic: Traffic) -> Admission {
        if let Some(why) = exempt(source.party, receiver.party) {
            return Admission::NotSubject { why };
        }
        for end in [source, receiver] {
            if let Some(node) = vacant(end) {
                let why = text!(intent::Vacant { ip: end.ip, node: &node.name });
                return Admission::Unknown { why };
            }
            if let Some(riddle) = self.riddle(end) {
                return Admission::Unknown {
                    why: text!(intent::Absent { object: &riddle.object, why: &riddle.why }),
                };
            }
        }
        let mut by = Vec::new();
        let mut denials = Vec::new();
        for direction in [PolicyType::Egress, PolicyType::Ingress] {
            let (own, other) = ends(direction, source, receiver);
            let Some((index, pod)) = own.party.pod() else { continue };
            let isolating = self.isolating(index, pod, direction);
            let admits = |policy: &&usize| {
                self.compiled[**policy].admits(self, direction, other, receiver.party, traffic)
            };
            let admitting: Vec<ObjectRef> =
                isolating.iter().filter(admits).map(|&policy| self.compiled[policy].object()).collect();
            if admitting.is_empty() && !isolating.is_empty() {
                let policies = isolating.iter().map(|&policy| self.compiled[policy].object()).collect();
                denials.push(Denial { direction, pod: pod.full_name(), policies });
            }
            by.extend(admitting);
        }
        if denials.is_empty() { Admission::Allowed { by } } else { Admission::Denied { by: denials } }
    }

    /// Whether the policies of one direction let a source send to a receiver.
    pub(super) fn passes(
        &self,
        direction: PolicyType,
        source: End<'_>,
        receiver: End<'_>,
        traffic: Traffic,
    ) -> bool {
        exempt(source.party, receiver.party).is_some()
            || self.side(direction, source, receiver, traffic) != Side::Closed
    }

    fn side(&self, direction: PolicyType, source: End<'_>, receiver: End<'_>, traffic: Traffic) -> Side {
        let (own, other) = ends(direction, source, receiver);
        let Some((index, pod)) = own.party.pod() else { return Side::Open };
        let isolating = self.isolating(index, pod, direction);
        let admits =
            |&policy: &usize| self.compiled[policy].admits(self, direction, other, receiver.party, traffic);
        match isolating {
            [] => Side::Open,
            some if some.iter().any(admits) => Side::Admitted,
            _ => Side::Closed,
        }
    }

    /// A policy that may concern an end and is not understood.
    fn riddle(&self, end: End<'_>) -> Option<&'a Absent> {
        let (_, pod) = end.party.pod()?;
        self.riddles.get(pod.namespace.as_str()).copied()
    }

    /// The policies that isolate a pod in a direction.
    fn isolating(&self, index: usize, pod: &Pod, direction: PolicyType) -> &[usize] {
        let slot = match direction {
            PolicyType::Ingress => 0,
            PolicyType::Egress => 1,
        };
        self.isolating[index][slot].get_or_init(|| {
            let of_namespace = self.by_namespace.get(pod.namespace.as_str()).map_or(&[][..], Vec::as_slice);
            let isolates = |index: &&usize| {
                let compiled = &self.compiled[**index];
                compiled.rules(direction).is_some()
                    && selects(&compiled.policy.spec.pod_selector, &pod.labels)
            };
            of_namespace.iter().filter(isolates).copied().collect()
        })
    }
}

/// The end that a direction's policies isolate, and the other one.
fn ends<'a>(direction: PolicyType, source: End<'a>, receiver: End<'a>) -> (End<'a>, End<'a>) {
    match direction {
        PolicyType::Egress => (source, receiver),
        PolicyType::Ingress => (receiver, source),
    }
}

fn exempt(source: Party<'_>, receiver: Party<'_>) -> Option<Exemption> {
    match (source, receiver) {
        (Party::Pod(a, _), Party::Pod(b, _)) => (a == b).then_some(Exemption::SamePod),
        (Party::Pod(_, pod), Party::Node(node)) | (Party::Node(node), Party::Pod(_, pod)) => {
            (pod.node == node.name).then_some(Exemption::OwnNode)
        }
        (Party::Node(_) | Party::Outside, Party::Node(_) | Party::Outside) => Some(Exemption::NoPod),
        _ => None,
    }
}

/// The node whose pod network an end's address is of, if no pod has it.
fn vacant(end: End<'_>) -> Option<&Node> {
    match end.party {
        Party::Vacant(node) => Some(node),
        Party::Pod(..) | Party::Node(_) | Party::Outside => None,
    }
}

impl<'a> Compiled<'a> {
    fn new(policy: &'a NetworkPolicy) -> Self {
        let spec = &policy.spec;
        let isolates = |direction: PolicyType| match spec.policy_types.as_slice() {
            // The API server's default.
            [] => direction == PolicyType::Ingress || !spec.egress.is_empty(),
            types => types.contains(&direction),
        };
        let ingress = || spec.ingress.iter().map(|rule| Rule::new(&rule.from, &rule.ports)).collect();
        let egress = || spec.egress.iter().map(|rule| Rule::new(&rule.to, &rule.ports)).collect();
        Self {
            policy,
            ingress: isolates(PolicyType::Ingress).then(ingress),
            egress: isolates(PolicyType::Egress).then(egress),
        }
    }

    fn object(&self) -> ObjectRef {
        ObjectRef::namespaced("NetworkPolicy", &self.policy.namespace, &self.policy.name)
    }

    /// Its rules for a direction, unless it does not isolate in it.
    fn rules(&self, direction: PolicyType) -> Option<&[Rule<'a>]> {
        match direction {
            PolicyType::Ingress => self.ingress.as_deref(),
            PolicyType::Egress => self.egress.as_deref(),
        }
    }

    fn admits(
        &self,
        policies: &Policies<'_>,
        direction: PolicyType,
        other: End<'_>,
        receiver: Party<'_>,
        traffic: Traffic,
    ) -> bool {
        let rules = self.rules(direction).unwrap_or_default();
        rules.iter().any(|rule| {
            traffic.is_among(rule.ports, receiver.pod().map(|(_, pod)| pod))
                && (rule.peers.is_empty()
                    || rule.peers.iter().any(|peer| peer.is(policies, &self.policy.namespace, other)))
        })
    }
}

impl<'a> Rule<'a> {
    fn new(peers: &'a [PolicyPeer], ports: &'a [PolicyPort]) -> Self {
        let peers = peers.iter().map(|peer| Peer { peer, members: OnceLock::new() }).collect();
        Self { peers, ports }
    }
}

impl Peer<'_> {
    fn is(&self, policies: &Policies<'_>, namespace: &str, end: End<'_>) -> bool {
        match (&self.peer.ip_block, end.party.pod()) {
            (Some(block), _) => is_of(block, end.ip),
            (None, Some((index, _))) => self.members(policies, namespace)[index],
            // Selectors select pods with a network of their own.
            (None, None) => false,
        }
    }

    fn members(&self, policies: &Policies<'_>, own: &str) -> &[bool] {
        let PolicyPeer { pod_selector, namespace_selector, .. } = self.peer;
        let of_namespace = |pod: &Pod| match namespace_selector {
            Some(selector) => selects(selector, policies.directory.labels(&pod.namespace)),
            // A peer without any selector selects nothing; the API server refuses it.
            None => pod_selector.is_some() && pod.namespace == own,
        };
        let is_member = |pod: &Pod| {
            of_namespace(pod) && pod_selector.as_ref().is_none_or(|selector| selects(selector, &pod.labels))
        };
        self.members.get_or_init(|| policies.directory.inventory.pods.iter().map(is_member).collect())
    }
}

fn is_of(block: &IpBlock, ip: IpAddr) -> bool {
    block.cidr.contains(&ip) && !block.except.iter().any(|except| except.contains(&ip))
}
