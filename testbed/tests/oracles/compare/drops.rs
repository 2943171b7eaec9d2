//! Drops against perf.
//!
//! Waymark's program and perf's are called by the same tracepoint, so times differ by no more than one of them takes, or
//! an interrupt between them:
//!
//! * For each drop of Waymark's perf has one of its own, at that time, with the same location and reason.
//! * perf cannot tell whose packet it was. But of a buffer's address it tells by which devices it came: where exactly one
//!   event of perf has device, length and time of one of Waymark's sightings, the buffer is that packet's. If it is dropped
//!   before anything else happens to it, Waymark must have seen that.
//!
//! So a drop of a copy that came by no device is compared in one direction only.

use std::collections::BTreeSet;

use waymark_proto::{Event, Hook, Sighting};

use super::Disagreement;
use crate::drops::{Freed, What};
use crate::waymark::Look;

/// Between two programs at one tracepoint: others share the processors, in the machine and below it.
const APART_NS: u64 = 2_000_000;
/// The same, to be sure that an event is of a certain packet.
const CLOSE_NS: u64 = 20_000;
/// How long after a sighting a tracer is armed for certain: it gathers what it sees for two milliseconds before it tells
/// that, and is disarmed once something is told, or once nothing moved for long. So a packet that waited for its neighbour
/// may be dropped just when the time for it is over, and one that moves may not.
const ARMED_NS: u64 = 100_000;
/// Ethernet's header, which is part of what is sent, and no more of what was received.
const ETHERNET: u32 = 14;
/// What a tunnel adds: IP, UDP, VXLAN, Ethernet.
const TUNNEL: u32 = 20 + 8 + 8 + 14;
/// `ETH_P_IP` and `ETH_P_IPV6`
const IP: [u16; 2] = [0x0800, 0x86dd];

/// Compares a look with what perf recorded, in order of time.
pub fn compare(look: &Look, freed: &[Freed]) -> Vec<Disagreement> {
    let mut told = Vec::new();
    let mut explained = BTreeSet::new();
    for sighting in &look.sightings {
        let Event::Dropped { reason, function } = &sighting.event else { continue };
        let is_it = |what: &What| match what {
            What::Dropped { function: f, reason: r, .. } => f == function && Some(r) == reason.as_ref(),
            _ => false,
        };
        let near = around(freed, sighting.at_ns, APART_NS);
        let free = near.clone().filter(|&index| is_it(&freed[index].what) && !explained.contains(&index));
        match free.min_by_key(|&index| freed[index].at_ns.abs_diff(sighting.at_ns)) {
            Some(index) => drop(explained.insert(index)),
            None => told.push(disagreement(look, sighting, &sighting.event, &drops(&freed[near]))),
        }
    }
    for sighting in look.sightings.iter().filter(|sighting| sighting.event == Event::Seen) {
        let Some(came) = the_event(sighting, freed) else { continue };
        let next = freed[came + 1..].iter().position(|next| next.buffer == freed[came].buffer);
        let Some(index) = next.map(|next| came + 1 + next) else { continue };
        let What::Dropped { protocol, .. } = &freed[index].what else { continue };
        let last = look.armed_until_ns(sighting.marker.check, &sighting.place.node);
        let until = last.unwrap_or_default().max(sighting.at_ns + ARMED_NS);
        if IP.contains(protocol) && freed[index].at_ns <= until && explained.insert(index) {
            let nothing = format!("no drop until {until}");
            told.push(disagreement(look, sighting, nothing, &drops(&freed[index..=index])));
        }
    }
    told
}

/// The events at a time.
fn around(freed: &[Freed], at_ns: u64, apart_ns: u64) -> std::ops::Range<usize> {
    let from = freed.partition_point(|event| event.at_ns + apart_ns < at_ns);
    let to = freed.partition_point(|event| event.at_ns <= at_ns + apart_ns);
    from..to
}

/// The one event that tells of a sighting at a device.
fn the_event(sighting: &Sighting, freed: &[Freed]) -> Option<usize> {
    let headers = sighting.headers.as_ref()?;
    let sent = if sighting.hook == Hook::DriverRx { 0 } else { ETHERNET };
    let whole = u32::from(headers.len) + sent + headers.outer.as_ref().map_or(0, |_| TUNNEL);
    let is_it = |what: &What| match what {
        What::Came { hook, device, length } => {
            *hook == sighting.hook && Some(device) == sighting.device.as_ref() && *length == whole
        }
        _ => false,
    };
    let mut found = around(freed, sighting.at_ns, CLOSE_NS).filter(|&index| is_it(&freed[index].what));
    found.next().filter(|_| found.next().is_none())
}

fn drops(freed: &[Freed]) -> String {
    let dropped = freed.iter().filter_map(|event| match &event.what {
        What::Dropped { function, reason, .. } => Some(format!("{function} {reason} at {}", event.at_ns)),
        _ => None,
    });
    let all: Vec<_> = dropped.collect();
    if all.is_empty() { "no drop".into() } else { all.join(", ") }
}

fn disagreement(
    look: &Look,
    sighting: &Sighting,
    waymark: impl std::fmt::Debug,
    other: &str,
) -> Disagreement {
    let marker = sighting.marker;
    let number = format!("packet {} of check {}", marker.seq.0, marker.check);
    Disagreement {
        oracle: "perf",
        packet: look.marked(sighting).map_or(number, |marked| marked.to_string()),
        place: format!(
            "{} {} in {} at {}",
            sighting.hook,
            sighting.device.as_deref().unwrap_or("without device"),
            sighting.place.netns,
            sighting.at_ns
        ),
        waymark: format!("{waymark:?}"),
        other: other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture::{freed, look};

    /// The number of the sighting.
    const DROP: usize = 3;

    #[test]
    fn both_saw_the_same() {
        assert_eq!(compare(&look(), &freed()), []);
    }

    #[test]
    fn a_drop_that_one_of_them_lacks_is_told() {
        let told = compare(&look().without(DROP), &freed());
        assert_eq!(told.len(), 1, "{told:?}");
        let said = told[0].to_string();
        assert!(said.contains("no drop until 1130000"), "{said}");
        assert!(said.ends_with("perf saw nft_do_chain+0x3e8 NETFILTER_DROP at 1050500"), "{said}");
        let mut less = freed();
        less.pop();
        assert_eq!(compare(&look(), &less).len(), 1);
    }

    #[test]
    fn another_function_reason_or_time_is_told() {
        let changed = |change: &dyn Fn(&mut Freed)| {
            let mut all = freed();
            change(all.last_mut().unwrap());
            compare(&look(), &all).len()
        };
        let drop_of = |function: &str, reason: &str| What::Dropped {
            function: function.into(),
            reason: reason.into(),
            protocol: 0x800,
        };
        // Waymark's has no partner, and perf's is the packet's.
        assert_eq!(changed(&|last| last.what = drop_of("ip_rcv+0x1", "NETFILTER_DROP")), 2);
        assert_eq!(changed(&|last| last.what = drop_of("nft_do_chain+0x3e8", "NO_SOCKET")), 2);
        // Too late to be looked for on the other side.
        assert_eq!(changed(&|last| last.at_ns += 10_000_000), 1);
    }

    #[test]
    fn two_drops_need_two() {
        let mut twice = look();
        let dropped = twice.sightings[DROP].clone();
        twice.sightings.push(dropped);
        assert_eq!(compare(&twice, &freed()).len(), 1);
    }

    #[test]
    fn what_is_of_others_is_no_disagreement() {
        let less = look().without(DROP);
        let foreign = |at_ns, what| Freed { at_ns, buffer: 0xabc, what };
        let mut used = freed();
        used.insert(3, foreign(1_040_000, What::Consumed));
        assert_eq!(compare(&less, &used), [], "the buffer holds another packet");
        let mut two = freed();
        let came = two[2].clone();
        two.insert(3, Freed { at_ns: came.at_ns + 1_000, buffer: 0xdef, ..came });
        two.drain(..2);
        assert_eq!(compare(&less, &two), [], "it could be either");
    }
}
