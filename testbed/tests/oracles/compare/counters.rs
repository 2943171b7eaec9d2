//! Drops against the counters of devices and queues.
//!
//! Where the kernel counts what it drops by device, its counter must have risen at least by as many packets as Waymark saw
//! dropped there. More is no disagreement: others use the devices, too.

use std::collections::BTreeMap;

use waymark_proto::{Event, Sighting};

use super::Disagreement;
use crate::counters::{Counter, Counts, Place};
use crate::waymark::Look;

/// The counters one of which counts packets that are dropped so; none if the kernel does not count them by device.
fn counters(reason: Option<&str>, function: &str) -> &'static [Counter] {
    let function = function.split('+').next().unwrap_or_default();
    match (reason.unwrap_or_default(), function) {
        ("TC_INGRESS" | "TC_EGRESS", _) => &[Counter::Filter],
        ("QDISC_DROP" | "QDISC_OVERLIMIT" | "QDISC_CONGESTED", _) => &[Counter::Qdisc],
        ("NO_TX_TARGET", "vxlan_xmit") | (_, "veth_xmit") => &[Counter::TxDropped],
        _ => &[],
    }
}

/// Compares all looks of a check with by how much counters rose meanwhile.
pub fn compare(looks: &[Look], risen: &Counts) -> Vec<Disagreement> {
    let mut counted: BTreeMap<Vec<Place>, Vec<&Sighting>> = BTreeMap::new();
    for sighting in looks.iter().flat_map(|look| &look.sightings) {
        let Event::Dropped { reason, function } = &sighting.event else { continue };
        let Some(device) = &sighting.device else { continue };
        let place = |counter: &Counter| (sighting.place.netns.to_string(), device.clone(), *counter);
        let places: Vec<Place> = counters(reason.as_deref(), function).iter().map(place).collect();
        let is_counted = places.iter().any(|place| risen.contains_key(place));
        if is_counted {
            counted.entry(places).or_default().push(sighting);
        }
    }
    let disagrees = |(places, sightings): (Vec<Place>, Vec<&Sighting>)| {
        let count: u64 = places.iter().filter_map(|place| risen.get(place)).sum();
        let (netns, device, _) = places.first()?;
        let kinds: Vec<_> = places.iter().map(|(.., counter)| *counter).collect();
        (count < sightings.len() as u64).then(|| Disagreement {
            oracle: "the device's counter",
            packet: "packets".into(),
            place: format!("{device} in {netns}"),
            waymark: format!("{} drops, the first as {:?}", sightings.len(), sightings[0].event),
            other: format!("{count} ({kinds:?})"),
        })
    };
    counted.into_iter().filter_map(disagrees).collect()
}

#[cfg(test)]
mod tests {
    use waymark_proto::Hook;

    use super::*;
    use crate::compare::fixture::{look, sighting};

    fn queue_drops(count: usize) -> Look {
        let event =
            Event::Dropped { reason: Some("QDISC_DROP".into()), function: "__dev_queue_xmit+0x1".into() };
        let mut look = look();
        look.sightings.extend(vec![sighting("pod", 5, Hook::Ip, "eth0", event); count]);
        look
    }

    fn risen(count: u64) -> Counts {
        [(("pod".into(), "eth0".into(), Counter::Qdisc), count)].into()
    }

    #[test]
    fn a_counter_must_have_risen_by_what_waymark_saw() {
        assert_eq!(compare(&[queue_drops(2)], &risen(2)), []);
        assert_eq!(compare(&[queue_drops(2)], &risen(9)), [], "others drop, too");
        let told = compare(&[queue_drops(3)], &risen(2));
        assert_eq!(told.len(), 1);
        assert!(told[0].to_string().contains("Waymark saw 3 drops"), "{}", told[0]);
    }

    #[test]
    fn what_nobody_counts_by_device_is_not_compared() {
        assert_eq!(compare(&[look()], &risen(0)), []);
    }
}
