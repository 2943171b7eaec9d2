//! What the owner of a cluster asked for: Services and NetworkPolicies, evaluated from their objects.
//!
//! NetworkPolicies as `networking.k8s.io/v1` defines them. A pod is isolated in a direction once a policy
//! selects it for that direction; then only what a rule of any such policy admits may pass. Policies see a
//! connection's real ends: a Service's traffic is judged at the backend and its port, and answers always pass.
//!
//! Where the API leaves the answer to implementations, the one of most is taken: ICMP is stopped by isolation
//! and admitted by rules without ports; pods in their node's network are taken for the node; an `ipBlock` holds
//! for pods' addresses too.
//!
//! * `selector`: label selectors
//! * `traffic`: protocol and port
//! * `party`: who is at an address
//! * `policies`: which policies isolate a pod, and what they admit
//! * `service`: where a destination address leads
//! * `survey`: many pairs at once, and how two answers differ

mod party;
mod policies;
mod selector;
mod service;
mod survey;
mod traffic;

use std::net::IpAddr;

use waymark_proto::{
    Admission, Expectation, Flow, Intent, Inventory, LocalOnly, NodeName, ObjectRef, PolicyType, Receiver,
    Service, Text, text,
};

use policies::{Answer, End, Policies};
pub use selector::selects;
use service::Destination as Leads;
pub use survey::{Change, Destination, Pair, Reach, Reachability, Survey, Target};
pub use traffic::Traffic;

/// What the objects of a cluster ask for, of a flow.
///
/// The ends are known by the flow's addresses: pods, nodes, a Service's cluster IP, a port of a node that leads
/// to a Service, or an address from outside that does.
///
/// ```
/// use waymark_proto::{Expectation, Flow, Inventory, Protocol};
///
/// let inventory = Inventory::from_json(br#"{
///   "nodes": [{"name": "a", "ip": "10.0.0.1"}],
///   "pods": [{"namespace": "shop", "name": "cart", "node": "a", "netns": "c", "ip": "10.244.0.2"},
///            {"namespace": "shop", "name": "pay", "node": "a", "netns": "p", "ip": "10.244.0.3"}],
///   "policies": [{"namespace": "shop", "name": "deny", "spec": {}}]
/// }"#)?;
/// let [src, dst] = ["10.244.0.2", "10.244.0.3"].map(|ip| ip.parse().unwrap());
/// let flow = Flow { src, dst, protocol: Protocol::Tcp, src_port: 40000, dst_port: 80 };
/// assert_eq!(waymark_sim::intend(&inventory, &flow).expectation, Expectation::Denied);
/// # Ok::<(), waymark_proto::InventoryError>(())
/// ```
pub fn intend(inventory: &Inventory, flow: &Flow) -> Intent {
    let policies = Policies::new(inventory);
    let source = policies.end(flow.src);
    let traffic = Traffic::of(flow);
    match service::destination(inventory, flow) {
        Leads::Owner => {
            let admission = policies.judge(source, policies.end(flow.dst), traffic);
            intent(None, None, vec![policies.receiver(flow.dst, traffic, admission)])
        }
        Leads::Cluster(service) => {
            let local_only = service::from_within(service, source.party);
            let judge = |receiver, traffic| policies.judge(source, receiver, traffic);
            policies.backends(service, local_only, judge)
        }
        Leads::NodePort(service, node) => {
            let local_only = service::at_node_port(service, node, source.party);
            let via = Some((&node.name, policies.end(flow.dst)));
            let judge = |receiver, traffic| policies.through(source, via, flow, receiver, traffic);
            policies.backends(service, local_only, judge)
        }
        Leads::External(service) => {
            // Within the cluster all backends count, whatever the policy: the API says so.
            let node = source.party.node().and_then(|name| inventory.node(name));
            let via = node.and_then(|node| {
                let ip = node.address(flow.is_ipv6())?;
                Some((&node.name, policies.end(ip)))
            });
            let judge = |receiver, traffic| policies.through(source, via, flow, receiver, traffic);
            policies.backends(service, None, judge)
        }
        Leads::Nowhere(service, why) => {
            let receiver = policies.receiver(flow.dst, traffic, Admission::Unknown { why });
            intent(Some(service::object(service)), None, vec![receiver])
        }
    }
}

fn intent(service: Option<ObjectRef>, local_only: Option<LocalOnly>, receivers: Vec<Receiver>) -> Intent {
    Intent {
        expectation: expectation(receivers.iter().map(|receiver| &receiver.admission)),
        service,
        local_only,
        receivers,
    }
}

/// The answer over all receivers.
fn expectation<'a>(admissions: impl Iterator<Item = &'a Admission>) -> Expectation {
    fold(admissions.map(|admission| match admission {
        Admission::Allowed { .. } | Admission::NotSubject { .. } => Answer::Allowed,
        Admission::Denied { .. } => Answer::Denied,
        Admission::Unknown { .. } => Answer::Unknown,
    }))
}

fn fold(answers: impl Iterator<Item = Answer>) -> Expectation {
    let (mut allowed, mut denied) = (false, false);
    for answer in answers {
        match answer {
            Answer::Allowed => allowed = true,
            Answer::Denied => denied = true,
            Answer::Unknown => return Expectation::Unknown,
        }
    }
    match (allowed, denied) {
        (true, true) => Expectation::Partly,
        (true, false) => Expectation::Allowed,
        (false, true) => Expectation::Denied,
        (false, false) => Expectation::NoEndpoints,
    }
}

impl<'a> Policies<'a> {
    fn end(&self, ip: IpAddr) -> End<'a> {
        End { party: self.directory.at(ip), ip }
    }

    fn receiver(&self, address: IpAddr, traffic: Traffic, admission: Admission) -> Receiver {
        let pod = self.end(address).party.pod().map(|(_, pod)| pod.full_name());
        Receiver { pod, address, port: traffic.port(), admission }
    }

    /// The ready backends of a Service that count, each as it is judged.
    fn backends(
        &self,
        service: &Service,
        local_only: Option<LocalOnly>,
        judge: impl Fn(End<'a>, Traffic) -> Admission,
    ) -> Intent {
        let backends = service::ready(service).map(|(ip, port)| (self.end(ip), port));
        let counting = backends.filter(|(end, _)| service::counts(local_only.as_ref(), end.party));
        let receivers = counting.map(|(end, port)| {
            let traffic = service::traffic(service).at(port);
            self.receiver(end.ip, traffic, judge(end, traffic))
        });
        let receivers = receivers.collect();
        intent(Some(service::object(service)), local_only, receivers)
    }

    /// Whether a source may send to a Service's backend through an address that is none of the Service's own,
    /// by a node that may put its own address in place of the source's. The source's policies may see the flow's
    /// destination in place of the backend, and the backend's the node in place of the source: where they tell
    /// them apart, the answer is not known.
    fn through(
        &self,
        source: End<'_>,
        via: Option<(&NodeName, End<'_>)>,
        flow: &Flow,
        receiver: End<'_>,
        traffic: Traffic,
    ) -> Admission {
        let leaves = |to, traffic| self.passes(PolicyType::Egress, source, to, traffic);
        let enters = |from| self.passes(PolicyType::Ingress, from, receiver, traffic);
        let leaves_alike = leaves(receiver, traffic) == leaves(self.end(flow.dst), Traffic::of(flow));
        if leaves_alike && via.is_none_or(|(_, node)| enters(source) == enters(node)) {
            return self.judge(source, receiver, traffic);
        }
        let instead = match via {
            Some((node, end)) if end.ip == flow.dst => text!(intent::Node { node }),
            Some((node, _)) => text!(intent::OrNode { ip: flow.dst, node }),
            None => Text::verbatim(flow.dst.to_string()),
        };
        Admission::Unknown {
            why: text!(intent::ToldApart {
                port: flow.dst_port,
                dst: flow.dst,
                instead,
                source: source.ip,
                receiver: receiver.ip,
            }),
        }
    }
}
