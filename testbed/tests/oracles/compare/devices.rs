//! Receptions and transmissions against tcpdump.
//!
//! A device's tap and the tracepoint are next to each other: on reception the tracepoint comes first, in
//! `__netif_receive_skb_core`, and on transmission the tap, in `xmit_one`. So each packet must be in both as often, by
//! device and direction, whether it is inside a tunnel or not. Exceptions:
//!
//! * Between tracepoint and tap a program of generic XDP may take a received packet: where there is one, Waymark may have
//!   seen more.
//! * tcpdump shows what leaves by `lo` only as it comes in there.
//! * Waymark is blind once its tracers are disarmed, and on nodes that had none: later and elsewhere only tcpdump saw.
//! * A buffer that was followed and cannot be read is nothing to tcpdump.
//! * A later fragment is nothing to it either: what marks a packet is in the first.
//! * A damaged tag counts for nothing: Waymark verifies its hash, which is not damaged alike.

use std::collections::{BTreeMap, BTreeSet};

use waymark_proto::{Event, Hook, NodeName, Sighting};

use super::Disagreement;
use crate::capture::{Tapped, Way};
use crate::waymark::Look;
use crate::wire::{Identity, Marked, Reading};

/// A packet that waited for the stack has a time from before it was received, and tracers may be disarmed meanwhile: of
/// copies that come so long before the last sighting of a node not all are seen.
const CLOSING_NS: u64 = 5_000_000;

/// Namespace, device and direction.
type Point<'a> = (&'a str, &'a str, Way);

/// What is known of the devices.
pub struct Devices {
    /// Whose namespace it is.
    pub nodes: BTreeMap<String, NodeName>,
    /// Those with a program of generic XDP: namespace and name.
    pub generic_xdp: BTreeSet<(String, String)>,
}

/// How often each side saw a packet.
#[derive(Default)]
struct Times {
    waymark: usize,
    /// While tracers were armed.
    armed: usize,
    /// The same, and no short time before the end.
    early: usize,
    tapped: usize,
}

/// Compares a look with what tcpdump saw in all namespaces.
pub fn compare(look: &Look, tapped: &[Tapped], devices: &Devices) -> Vec<Disagreement> {
    let mut seen: BTreeMap<(Point<'_>, Marked), Times> = BTreeMap::new();
    let is_seen = |sighting: &&Sighting| sighting.event == Event::Seen && !sighting.is_later_fragment();
    for sighting in look.sightings.iter().filter(is_seen) {
        let way = match sighting.hook {
            Hook::DriverRx => Way::In,
            Hook::DriverTx => Way::Out,
            _ => continue,
        };
        let Some(marked) = look.marked(sighting) else { continue };
        let point = (sighting.place.netns.as_str(), sighting.device.as_deref().unwrap_or_default(), way);
        seen.entry((point, marked)).or_default().waymark += 1;
    }
    let mut unknown = Vec::new();
    for tap in tapped {
        let reading = tap.reading;
        let node = devices.nodes.get(&tap.netns).filter(|node| look.watched.contains(node));
        if let Some(node) = node.filter(|_| look.is_genuine(reading)) {
            let until = look.seen_until_ns(reading.marked.identity, node).unwrap_or_default();
            let times = seen.entry(((&tap.netns, &tap.device, tap.way), reading.marked)).or_default();
            times.tapped += 1;
            times.armed += usize::from(tap.at_ns <= until);
            times.early += usize::from(tap.at_ns + CLOSING_NS <= until);
        } else if is_of(look, tap, reading) {
            unknown.push(never_seen(tap, reading));
        }
    }
    let disagrees = |((point, marked), times): (&(Point<'_>, Marked), &Times)| {
        let &(netns, device, way) = point;
        let untold = (device == "lo" && way == Way::Out)
            || (way == Way::In && devices.generic_xdp.contains(&(netns.to_owned(), device.to_owned())));
        let due = if times.waymark == 0 { times.armed } else { times.early };
        let agree = due <= times.waymark && (untold || times.waymark <= times.tapped);
        (!agree).then(|| Disagreement {
            oracle: "tcpdump",
            packet: marked.to_string(),
            place: format!("{} {device} in {netns}", if way == Way::In { "received by" } else { "sent by" }),
            waymark: format!("it {} times", times.waymark),
            other: format!("it {} times, {} while tracers were armed", times.tapped, times.armed),
        })
    };
    seen.iter().filter_map(disagrees).chain(unknown).collect()
}

/// Whether a packet is one that was sent in this look, though no sighting is of it.
fn is_of(look: &Look, tap: &Tapped, reading: Reading) -> bool {
    let is_of_other = match reading.marked.identity {
        Identity::Tag(check, _) => !look.checks().any(|known| known == check),
        Identity::Isn(isn) => look.identities.values().any(|known| *known == Identity::Isn(isn)),
    };
    let unseen = look.sent.iter().filter(|sent| !look.is_identified(sent));
    !is_of_other && unseen.into_iter().any(|sent| look.is_sent_as(sent, tap))
}

fn never_seen(tap: &Tapped, reading: Reading) -> Disagreement {
    Disagreement {
        oracle: "tcpdump",
        packet: reading.marked.to_string(),
        place: format!("sent by {} in {}", tap.device, tap.netns),
        waymark: "it nowhere".into(),
        other: "it".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture::{look, tapped};

    fn devices() -> Devices {
        let nodes = [("pod", "node1"), ("node1", "node1"), ("node3", "node3")];
        let nodes = nodes.map(|(netns, node)| (netns.into(), node.into()));
        Devices { nodes: nodes.into(), generic_xdp: BTreeSet::new() }
    }

    #[test]
    fn both_saw_the_same() {
        assert_eq!(compare(&look(), &tapped(), &devices()), []);
    }

    #[test]
    fn whatever_one_of_them_lacks_is_told() {
        for (index, lacks) in look().sightings.iter().enumerate() {
            let told = compare(&look().without(index), &tapped(), &devices());
            let is_at_device = lacks.event == Event::Seen && lacks.hook != Hook::Qdisc;
            assert_eq!(told.len(), usize::from(is_at_device), "{lacks:?}: {told:?}");
        }
        for index in 0..tapped().len() {
            let mut less = tapped();
            less.remove(index);
            let told = compare(&look(), &less, &devices());
            assert_eq!(told.len(), 1, "{told:?}");
        }
    }

    #[test]
    fn another_device_or_direction_is_told_on_both_sides() {
        let mut elsewhere = tapped();
        elsewhere[0].device = "eth1".into();
        assert_eq!(compare(&look(), &elsewhere, &devices()).len(), 2);
        let mut otherwise = tapped();
        otherwise[0].way = Way::In;
        let told = compare(&look(), &otherwise, &devices());
        assert_eq!(told.len(), 2);
        let said = told[1].to_string();
        assert_eq!(
            said,
            "SYN with sequence number 100, sent by eth0 in pod: \
             Waymark saw it 1 times, tcpdump saw it 0 times, 0 while tracers were armed"
        );
    }

    #[test]
    fn a_packet_that_waymark_never_saw_is_told() {
        let blind = Look::new("pod".into(), look().watched, look().sent, Vec::new());
        let told = compare(&blind, &tapped(), &devices());
        assert!(told.iter().any(|told| told.waymark == "it nowhere"), "{told:?}");
    }

    #[test]
    fn what_only_tcpdump_can_see_is_no_disagreement() {
        let mut more = tapped();
        // After the tracers were disarmed.
        let mut late = more[0].clone();
        late.at_ns += 1_000_000_000;
        // Where nobody watched.
        let mut elsewhere = more[0].clone();
        elsewhere.netns = "node3".into();
        more.extend([late, elsewhere]);
        assert_eq!(compare(&look(), &more, &devices()), []);
    }

    #[test]
    fn generic_xdp_hides_receptions_from_tcpdump() {
        let mut less = tapped();
        less.retain(|tap| tap.way == Way::Out);
        assert_eq!(compare(&look(), &less, &devices()).len(), 1);
        let hidden = Devices { generic_xdp: [("node1".into(), "veth1".into())].into(), ..devices() };
        assert_eq!(compare(&look(), &less, &hidden), []);
    }
}
