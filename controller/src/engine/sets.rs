//! The elements of sets that made a rule match, or would have made another match.

use waymark_proto::{FaultPoint, Flow, text};
use waymark_sim::{Cluster, Membership};

/// Adds to a fault what the sets say that its rule asks.
pub(super) fn explain(point: &mut FaultPoint, flow: Option<&Flow>, cluster: &Cluster) {
    let (Some(flow), Some(rule)) = (flow, &point.rule) else { return };
    let memberships = cluster.memberships(&point.place(), point.hook, point.device.as_deref(), rule, flow);
    let said = memberships.into_iter().map(|membership| {
        let Membership { set, packet, element, rule } = membership;
        match element {
            Some(element) => {
                // That it is itself need not be said twice.
                let packet = (packet != element).then_some(packet);
                text!(evidence::SetHas { set, element, packet })
            }
            None => text!(evidence::SetLacks { set, packet, rule }),
        }
    });
    point.evidence.extend(said);
}
