//! VXLAN.

use waymark_proto::{Cause, Hook};

use super::{Act, Breakage, Fault, ICMP, Site, TCP, TUNNELLED, on_node};
use crate::dataplane::{VNI, fdb_entry, remotes};
use crate::plan::VXLAN;
use crate::script::{Script, Tool};

/// A network that no other node is in.
const WRONG_VNI: u32 = VNI + 1;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "wrong-vni",
        about: "the target's node has its VXLAN device in another network",
        dataplanes: TUNNELLED,
        traffic: TCP,
        expected: |site| on_node(site.target_node(), Hook::Tunnel, Cause::TunnelUnknownVni),
        breakage: |site| Breakage { inject: remake(site, WRONG_VNI), undo: remake(site, VNI) },
    },
    Fault {
        name: "fdb-missing",
        about: "the source's node does not know behind which node the target's VXLAN device is",
        dataplanes: TUNNELLED,
        traffic: ICMP,
        expected: |site| on_node(site.source_node(), Hook::Tunnel, Cause::TunnelNoRemote),
        breakage: |site| {
            let entry = fdb_entry(site.target_node());
            let script =
                |verb| Script::new(Tool::Bridge, &site.source_node().netns, [format!("fdb {verb} {entry}")]);
            Breakage::scripts(script("del"), script("add"))
        },
    },
];

/// A VXLAN device cannot change its network: it goes, with all that hangs on it, and comes again.
fn remake(site: &Site, vni: u32) -> Vec<Act> {
    let node = site.target_node();
    let delete = Script::new(Tool::Ip, &node.netns, [format!("link del {VXLAN}")]);
    std::iter::once(delete).chain(remotes(site.cluster, node, vni)).map(Act::Script).collect()
}
