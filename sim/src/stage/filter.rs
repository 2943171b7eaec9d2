//! The five netfilter hooks of the network layer.

use waymark_proto::Hook;

use super::Here;
use crate::netfilter::{At, pass};
use crate::walk::{Egress, Stage, Walk, Walks};

/// Takes a walk through a hook and on to its next stage.
fn through(here: Here<'_>, walk: Walk, hook: Hook, at: At, next: &Stage) -> Walks {
    let passages = pass(here.namespace, hook, at, walk);
    passages.into_iter().map(|passage| passage.walk.to(next.clone())).collect()
}

/// Prerouting, on behalf of the network layer.
pub(super) fn prerouting(here: Here<'_>, walk: Walk, input: u32) -> Walks {
    let at = At { input: Some(input), ..At::default() };
    through(here, walk, Hook::NetfilterPrerouting, at, &Stage::RouteInput(input))
}

/// Local output; what it changes may need another route (`ip_route_me_harder`).
pub(super) fn output(here: Here<'_>, walk: Walk, egress: &Egress) -> Walks {
    let at = At { output: Some(egress.device), ..At::default() };
    let next = |reroute: bool| {
        if reroute {
            Stage::RouteOutput { again: true, oif: None }
        } else {
            Stage::FilterPostrouting { input: None, egress: egress.clone() }
        }
    };
    let passages = pass(here.namespace, Hook::NetfilterOutput, at, walk);
    passages.into_iter().map(|passage| passage.walk.to(next(passage.reroute))).collect()
}

/// Postrouting, where rules see by which device a packet came that is passed on (`ip_output`, `ip6_output`, Linux 5.7).
/// What stays on this host needs no neighbour.
pub(super) fn postrouting(here: Here<'_>, walk: Walk, input: Option<u32>, egress: Egress) -> Walks {
    let next_hop = Some(egress.next_hop);
    let at = At { input, output: Some(egress.device), port_in: walk.port, next_hop, ..At::default() };
    let next = if egress.local { Stage::Transmit(egress.device) } else { Stage::Neighbour(egress) };
    through(here, walk, Hook::NetfilterPostrouting, at, &next)
}

/// Forward, from one device to another.
pub(super) fn forward(here: Here<'_>, walk: Walk, input: u32, egress: Egress) -> Walks {
    let at = At { input: Some(input), output: Some(egress.device), port_in: walk.port, ..At::default() };
    let next = Stage::FilterPostrouting { input: Some(input), egress };
    through(here, walk, Hook::NetfilterForward, at, &next)
}

/// Local input.
pub(super) fn input(here: Here<'_>, walk: Walk, input: u32) -> Walks {
    let at = At { input: Some(input), port_in: walk.port, ..At::default() };
    let next = if walk.carried.is_empty() { Stage::Socket(input) } else { Stage::Decapsulate };
    through(here, walk, Hook::NetfilterInput, at, &next)
}
