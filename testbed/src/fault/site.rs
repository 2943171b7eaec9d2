//! Who plays which part in a cluster: the catalogue speaks of parts, not of names.

use serde::Deserialize;
use waymark_proto::{Protocol, Service};

use super::definition::{Family, Traffic};
use crate::plan::{Cluster, NodePlan, PodPlan};

/// Where the packets of a fault's traffic go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum End {
    /// To the target pod, on another node.
    Target,
    /// To another pod on the source's node, which is the target then.
    SourceNeighbour,
    /// To the target's node itself.
    TargetNode,
    /// To a Service with the target as its one backend.
    SingleService,
    /// To a Service without backends.
    EmptyService,
    /// To a Service whose one backend is the source, which is the target too.
    OwnService,
}

/// A part's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Place {
    /// The pod that sends.
    SourcePod,
    /// Its node.
    SourceNode,
    /// The pod that receives.
    TargetPod,
    /// Its node.
    TargetNode,
    /// A node that has neither.
    ThirdNode,
    /// The underlay.
    Fabric,
}

/// The parts.
pub(super) struct Site<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) family: Family,
    pub(super) source: &'a PodPlan,
    pub(super) target: &'a PodPlan,
    pub(super) third: Option<&'a NodePlan>,
    pub(super) service: Option<&'a Service>,
    pub(super) to: End,
}

impl<'a> Site<'a> {
    /// Gives the parts; or says what the topology lacks.
    pub(super) fn choose(cluster: &'a Cluster, to: End, family: Family) -> Result<Self, &'static str> {
        let ipv6 = family == Family::V6;
        let first = cluster.pods.first().ok_or("the topology has no pods")?;
        let listens = |pod: &&PodPlan| !pod.tcp.is_empty() && !pod.udp.is_empty();
        let far = |pod: &&PodPlan| pod.node != first.node;
        let ordinary = || {
            cluster.pods.iter().filter(far).find(listens).ok_or(
                "the topology has no two pods on different nodes of which the second listens on TCP and UDP",
            )
        };
        let services = || {
            cluster.services.iter().filter(|s| s.cluster_ip.is_ipv6() == ipv6 && s.protocol == Protocol::Tcp)
        };
        let backend = |service: &Service| match service.backends.as_slice() {
            [only] => cluster.pods.iter().find(|pod| pod.address(ipv6) == only.ip),
            _ => None,
        };
        let single = |wanted: &dyn Fn(&&PodPlan) -> bool, why| {
            services().find_map(|service| Some((service, backend(service).filter(wanted)?))).ok_or(why)
        };
        let (source, target, service) = match to {
            End::Target | End::TargetNode => (first, ordinary()?, None),
            End::SourceNeighbour => {
                let near = |pod: &&PodPlan| pod.node == first.node && pod.full_name != first.full_name;
                let target = cluster.pods.iter().filter(near).find(listens);
                (first, target.ok_or("the topology has no second pod on the first one's node")?, None)
            }
            End::SingleService => {
                let why = "the topology has no TCP Service with one backend on another node";
                let (service, target) = single(&far, why)?;
                (first, target, Some(service))
            }
            End::OwnService => {
                let why = "the topology has no TCP Service with one backend";
                let (service, pod) = single(&|_| true, why)?;
                (pod, pod, Some(service))
            }
            End::EmptyService => {
                let empty = services().find(|service| service.backends.is_empty());
                (first, ordinary()?, Some(empty.ok_or("the topology has no TCP Service without backends")?))
            }
        };
        let third = (0..cluster.nodes.len()).find(|&node| node != source.node && node != target.node);
        let third = third.map(|node| &cluster.nodes[node]);
        Ok(Self { cluster, family, source, target, third, service, to })
    }

    pub(super) fn ipv6(&self) -> bool {
        self.family == Family::V6
    }

    /// A part's node and namespace. The underlay counts as the source's: the fault point of what it does is
    /// the wire behind that node.
    pub(super) fn at(&self, place: Place) -> Result<(&'a NodePlan, &'a str), &'static str> {
        let pod = |pod: &'a PodPlan| (self.cluster.node_of(pod), pod.netns.as_str());
        let node = |node: &'a NodePlan| (node, node.netns.as_str());
        Ok(match place {
            Place::SourcePod => pod(self.source),
            Place::SourceNode => node(self.cluster.node_of(self.source)),
            Place::TargetPod => pod(self.target),
            Place::TargetNode => node(self.cluster.node_of(self.target)),
            Place::ThirdNode => node(self.third.ok_or("the topology has no third node")?),
            Place::Fabric => (self.cluster.node_of(self.source), &self.cluster.fabric),
        })
    }

    /// The pod whose server a part is.
    pub(super) fn pod(&self, place: Place) -> Option<&'a PodPlan> {
        match place {
            Place::SourcePod => Some(self.source),
            Place::TargetPod => Some(self.target),
            _ => None,
        }
    }

    /// Where the traffic goes, in the client's words.
    pub(super) fn destination(&self, traffic: &Traffic) -> String {
        if let Some(service) = self.service {
            return format!("svc/{}/{}:{}", service.namespace, service.name, service.port);
        }
        let port = traffic.port.or(match traffic.protocol {
            Protocol::Tcp => self.target.tcp.first().copied(),
            Protocol::Udp => self.target.udp.first().copied(),
            Protocol::Icmp => None,
        });
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        if self.to == End::TargetNode {
            let node = self.cluster.node_of(self.target);
            return format!(
                "node/{}{}",
                node.name,
                if traffic.protocol == Protocol::Icmp { "" } else { &port }
            );
        }
        format!("pod/{}{port}", self.target.full_name)
    }
}
