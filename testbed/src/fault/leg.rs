//! The acts that impair the way from one node to another.

use super::definition::Leg;
use super::render::Breakage;
use super::site::{End, Site};
use super::{Act, Helper};
use crate::impair;
use crate::plan::{Dataplane, NodePlan, hex_hash};
use crate::script::{Script, Tool};

/// Leads the packets of the case's family, or the tunnel's that carries them, into a relay and out of it; and the
/// other way round. `fault` names all that is made.
pub(super) fn impaired(site: &Site<'_>, leg: &Leg, fault: &str) -> Result<Breakage, &'static str> {
    let cluster = site.cluster;
    let ((from, _), (to, _)) = (site.at(leg.from)?, site.at(leg.to)?);
    // Names of devices have at most fifteen letters.
    let device = &format!("impair{}", hex_hash(fault, 8));
    let role = format!("fault-{fault}");
    let relay = Helper {
        role: role.clone(),
        netns: cluster.fabric.clone(),
        args: impair::command(device, leg.impair),
    };
    // No address of its own, so that it sends nothing of its own.
    let up = [format!("link set {device} addrgenmode none"), format!("link set {device} up")];
    let nft = |lines: Vec<String>| Act::Script(Script::new(Tool::Nft, &cluster.fabric, lines));
    let up = Act::Script(Script::new(Tool::Ip, &cluster.fabric, up));
    // Of the nodes' own packets no tunnel makes others.
    let tunnelled = cluster.dataplane == Dataplane::BridgeVxlan && site.to != End::TargetNode;
    let rules = nft(rules(site.ipv6() && !tunnelled, fault, [from, to], device));
    // A table that is not there is no error: a relay that did not start has none.
    let gone = nft(vec![format!("add table netdev {fault}"), format!("delete table netdev {fault}")]);
    Ok(Breakage { inject: vec![Act::Start(relay), up, rules], undo: vec![gone, Act::Stop(role)] })
}

fn rules(ipv6: bool, fault: &str, [from, to]: [&NodePlan; 2], device: &str) -> Vec<String> {
    let ip = if ipv6 { "ip6" } else { "ip" };
    let chain = |name: &str, device: &str| {
        format!(
            "add chain netdev {fault} {name} {{ type filter hook ingress device \"{device}\" priority 0; }}"
        )
    };
    let mut lines = vec![format!("add table netdev {fault}"), chain("in", &from.name), chain("out", device)];
    // Neighbour discovery goes through, as ARP does, so that neighbours resolve.
    let discovery = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept";
    lines.extend(ipv6.then(|| format!("add rule netdev {fault} in {discovery}")));
    let matched = format!("ether daddr {} ether type {ip}", to.mac());
    lines.push(format!("add rule netdev {fault} in {matched} fwd to \"{device}\""));
    lines.push(format!("add rule netdev {fault} out fwd to \"{}\"", to.name));
    lines
}
