//! Verdicts that rest on facts which are not there: a packet is not called lost because of a list that
//! could not be read.

use waymark_proto::{Action, Cause, Disposition, Link, LinkKind, Step, Text, text};

use crate::cluster::Cluster;
use crate::namespace::Namespace;
use crate::walk::Walk;

/// Takes back the end of a walk if facts are missing that could have changed it.
pub(super) fn weigh(cluster: &Cluster, walk: &mut Walk) {
    let Some(why) = doubt(cluster, walk) else { return };
    if let Some(step) = walk.steps.last_mut() {
        let (cause, object) = (step.cause.take(), step.object.take());
        step.note = Some(text!(model::Doubt { why, cause, object }));
        step.action = Action::Unknown;
        step.rule = None;
    }
    walk.fate = Some(Disposition::InsufficientInfo);
}

fn doubt(cluster: &Cluster, walk: &Walk) -> Option<Text> {
    let step = walk.steps.last().filter(|_| walk.fate.is_some())?;
    let cause = step.cause?;
    let namespace = cluster.namespace(&walk.at)?;
    let own = |kinds: &[&str]| kinds.iter().find_map(|kind| namespace.lacks(kind));
    match cause {
        // What routes and rules lack, their lookup knows; what is wrong with a device, the device tells.
        Cause::ForwardingDisabled | Cause::SourceValidation | Cause::MartianAddress => {
            sysctls(namespace, step, cause).or_else(|| match cause {
                Cause::SourceValidation => own(&["links", "addresses"]),
                _ => None,
            })
        }
        Cause::NeighbourUnresolved | Cause::WrongNeighbour => {
            let tunnel =
                device(namespace, step).is_some_and(|link| matches!(link.kind, LinkKind::Vxlan { .. }));
            own(&["neighbours"])
                .or_else(|| own(&["fdb"]).filter(|_| tunnel))
                .or_else(|| on_node(cluster, walk, &["links", "addresses", "routes", "rules", "sysctls"]))
        }
        Cause::BridgePort => own(&["fdb"]).or_else(|| on_node(cluster, walk, &["links"])),
        Cause::TunnelNoRemote => own(&["fdb"]),
        Cause::TunnelUnknownVni => own(&["links"]),
        // An answer is not taken by a socket of the facts.
        Cause::NoListener if walk.expected.is_some() && walk.carried.is_empty() => None,
        Cause::NoListener => own(&["links", "sockets"]),
        _ => None,
    }
}

fn device<'a>(namespace: &'a Namespace, step: &Step) -> Option<&'a Link> {
    let name = step.device.as_deref()?;
    namespace.links().find(|link| link.name == name)
}

/// What any namespace of the node lacks: its neighbours are in the others.
fn on_node(cluster: &Cluster, walk: &Walk, kinds: &[&str]) -> Option<Text> {
    let mut there = cluster.namespaces().filter(|namespace| namespace.place.node == walk.at.node);
    there.find_map(|namespace| {
        let why = kinds.iter().find_map(|kind| namespace.lacks(kind))?;
        Some(if namespace.place == walk.at {
            why
        } else {
            text!(model::Elsewhere { netns: &namespace.place.netns, why })
        })
    })
}

/// The lack of sysctls, unless those that decided are there.
fn sysctls(namespace: &Namespace, step: &Step, cause: Cause) -> Option<Text> {
    let why = namespace.lacks("sysctls")?;
    let name = step.device.as_deref().unwrap_or_default();
    let both = |key: &str| ["all", name].iter().all(|device| namespace.conf("ipv4", device, key).is_some());
    let ipv6 = step.flow.is_some_and(|flow| flow.is_ipv6());
    let known = match cause {
        // One setting rules all devices.
        Cause::ForwardingDisabled => ipv6 || namespace.conf("ipv4", name, "forwarding").is_some(),
        Cause::SourceValidation => {
            ["rp_filter", "accept_local", "src_valid_mark"].iter().all(|key| both(key))
        }
        _ => ipv6 || ["accept_local", "route_localnet", "rp_filter"].iter().all(|key| both(key)),
    };
    (!known).then_some(why)
}
