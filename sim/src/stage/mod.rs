//! The datapath, a file per stage, in the kernel's own order.
//!
//! Each stage takes a walk and gives back the walks that come of it: at their next stage, or ended.
//!
//! * [`local`]: packets that this host sends
//! * [`route`]: routing decisions; [`source`]: source validation
//! * [`filter`]: the five netfilter hooks
//! * [`neighbour`]: link-layer addresses
//! * [`device`]: queueing disciplines, drivers, reception
//! * [`bridge`]: forwarding by link-layer address
//! * [`tunnel`]: VXLAN devices
//! * [`wire`]: what lies between nodes
//! * [`doubt`]: verdicts that rest on missing facts
//! * [`ip`]: entry of the network layer
//! * [`socket`]: local delivery

mod bridge;
mod device;
mod doubt;
mod filter;
mod ip;
mod local;
mod neighbour;
mod route;
mod socket;
mod source;
mod tunnel;
mod wire;

use smallvec::smallvec;
use waymark_proto::{Hook, text};

use crate::cluster::Cluster;
use crate::namespace::Namespace;
use crate::walk::{Stage, Walk, Walks};

/// What a stage works with: the cluster, and the namespace where the packet is.
#[derive(Clone, Copy)]
pub(crate) struct Here<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) namespace: &'a Namespace,
}

/// Takes a walk through its next stage.
pub(crate) fn process(cluster: &Cluster, mut walk: Walk) -> Walks {
    let home = walk.home.or_else(|| cluster.number_of(&walk.at));
    let Some(namespace) = home.and_then(|home| cluster.numbered(home)) else {
        let why = text!(model::NamespaceAbsent { place: &walk.at });
        return smallvec![walk.unknown(Hook::Ip, None, why)];
    };
    walk.home = home;
    if let Some(memory) = walk.memory.as_ref().filter(|_| namespace.heeds_ports) {
        memory.see_source_port();
    }
    let here = Here { cluster, namespace };
    let walks = match walk.stage.clone() {
        Stage::Inject => local::inject(walk),
        Stage::RouteOutput { again, oif } => route::output(here, walk, again, oif),
        Stage::FilterOutput(egress) => filter::output(here, walk, &egress),
        Stage::FilterPostrouting { input, egress } => filter::postrouting(here, walk, input, egress),
        Stage::Neighbour(egress) => neighbour::resolve(here, walk, &egress),
        Stage::Transmit(device) => device::transmit(here, walk, device),
        Stage::BridgeSend(bridge) => bridge::send(here, walk, bridge),
        Stage::Encapsulate(device) => tunnel::encapsulate(here, walk, device),
        Stage::Wire(device) => wire::cross(here, walk, device),
        Stage::Receive(device) => device::receive(here, walk, device),
        Stage::BridgePort(port) => bridge::enter(here, walk, port),
        Stage::BridgeForward { bridge, from } => bridge::forward(here, walk, bridge, from),
        Stage::Ip(device) => ip::enter(here, walk, device),
        Stage::RouteInput(device) => route::input(here, walk, device),
        Stage::FilterForward { input, egress } => filter::forward(here, walk, input, egress),
        Stage::FilterInput(device) => filter::input(here, walk, device),
        Stage::Decapsulate => tunnel::decapsulate(here, walk),
        Stage::Socket(device) => socket::deliver(here, walk, device),
    };
    let mut walks = walks;
    for walk in walks.iter_mut().filter(|walk| walk.fate.is_some()) {
        doubt::weigh(cluster, walk);
    }
    walks
}
