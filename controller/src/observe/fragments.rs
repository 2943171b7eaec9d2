//! Later fragments of a packet: no copies of it and no steps of its walk, but with one of them the packet is lost.
//!
//! The first fragment has the packet's headers and goes the packet's way; rule traces show it alone. A later fragment that is
//! dropped may die long before the first has come to an end, which is a reassembly that waits. So the walk is that of the
//! first fragment, up to where the lost one was seen last.

use waymark_proto::Hook;

use super::timeline::{Item, What};
use crate::reasons::{self, Meaning};

/// Drops that are no loss of a fragment: of a frame's copy that was for somebody else, and of a fragment's second copy.
const HARMLESS: [&str; 2] = ["OTHERHOST", "DUP_FRAG"];
/// What a reassembly that waited in vain gives back with: fragments that were not lost.
const TIMEOUT: &str = "FRAG_REASM_TIMEOUT";
/// The same where the kernel gives no reasons.
const EXPIRES: [&str; 4] =
    ["ip_expire", "ip6frag_expire_frag_queue", "nf_ct_frag6_expire", "inet_frag_rbtree_purge"];
/// Who frees the fragments that a packet consists of, with the packet; older kernels report that as drops.
const RELEASES: [&str; 3] = ["skb_release_data", "kfree_skb_list", "skb_release_all"];

/// What kind of end a drop is for a fragment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Lost,
    TimedOut,
    Harmless,
}

fn end(item: &Item) -> Option<End> {
    let What::Dropped { reason, function } = &item.what else { return None };
    let reason = reason.as_deref();
    let by = |functions: &[&str]| functions.iter().any(|name| function.starts_with(name));
    Some(if reason.is_some_and(|reason| HARMLESS.contains(&reason)) || by(&RELEASES) {
        End::Harmless
    } else if reason == Some(TIMEOUT) || by(&EXPIRES) {
        End::TimedOut
    } else {
        End::Lost
    })
}

/// What is left of the walk of a packet that did not arrive, if that was for the loss of a later fragment, whose drop is then
/// the last item. `items` are of the packet and its first fragment, `later` of the others, both in order.
pub(super) fn lost(items: &[Item], later: &[Item]) -> Option<Vec<Item>> {
    if items.iter().any(|item| end(item) == Some(End::Lost)) {
        return None;
    }
    let is_lost = |index: &usize| end(&later[*index]) == Some(End::Lost) && !went_on(later, *index);
    // Who waited had the first fragment: else the first is what was lost, and not here.
    let waited = |index: &usize| {
        let drop = &later[*index];
        end(drop) == Some(End::TimedOut) && items.iter().any(|item| item.place == drop.place)
    };
    let index = (0..later.len()).rfind(is_lost).or_else(|| (0..later.len()).rfind(waited))?;
    let drop = &later[index];
    let mut walk = items[..kept(items, &later[..index], drop)].to_vec();
    walk.push(drop.clone());
    Some(walk)
}

/// Whether another copy of the fragment went on.
fn went_on(later: &[Item], drop: usize) -> bool {
    let is_same = |item: &&Item| item.fragment_offset == later[drop].fragment_offset;
    later[drop + 1..].iter().filter(is_same).any(|item| matches!(item.what, What::Passed { .. }))
}

/// How many of the packet's items are no further on its way than the fragment that was dropped. `before` is what was seen of
/// later fragments before that.
fn kept(items: &[Item], before: &[Item], drop: &Item) -> usize {
    let mut passed = before.iter().rev().filter(|item| {
        item.fragment_offset == drop.fragment_offset && matches!(item.what, What::Passed { .. })
    });
    let beside = |seen: &Item| {
        items.iter().rposition(|item| {
            matches!(item.what, What::Passed { .. })
                && item.is_at(&seen.place, seen.hook, seen.device.as_ref(), seen.outer.is_some())
        })
    };
    // It may have been dropped where it was made, before any hook saw it.
    let made = || items.iter().rposition(|item| item.place == drop.place && item.at_ns <= drop.at_ns);
    let kept = passed.find_map(beside).or_else(made).map_or(items.len(), |last| last + 1);
    kept + filtered(&items[kept..], drop)
}

/// Through how many of the netfilter hooks that come next for the first fragment the dropped one came, or into the last of
/// them: that where the first still waits for it, else, of those that let the first pass, the one that drops most.
fn filtered(next: &[Item], drop: &Item) -> usize {
    let What::Dropped { reason, function } = &drop.what else { return 0 };
    if reasons::meaning(reason.as_deref(), function) != Some(Meaning::Netfilter) {
        return 0;
    }
    let is_hook = |item: &&Item| item.place == drop.place && matches!(item.what, What::Filtered { .. });
    let hooks: Vec<&Item> = next.iter().take_while(is_hook).collect();
    let open = hooks.iter().position(|item| item.is_open());
    let forward = || hooks.iter().position(|item| item.hook == Hook::NetfilterForward);
    open.or_else(forward).map_or(hooks.len(), |last| last + 1)
}

#[cfg(test)]
mod tests {
    use waymark_proto::{Action, Cause, Event, Place, Sighting, Step};

    use super::*;
    use crate::fixture::{THERE, drop_at, sightings, steps, tcp};
    use crate::observe::tests::read;
    use crate::observe::{Observed, Walk};

    /// What was seen of the second fragment of a packet that was fragmented by `node1`, which drops it at `node2`.
    fn second(there: &[Step], dropped: Option<(&str, &str)>) -> Vec<Sighting> {
        let mut second = sightings(there, 0, false);
        second.retain(|sighting| {
            !sighting.hook.is_netfilter()
                && matches!(sighting.hook, Hook::DriverRx | Hook::DriverTx | Hook::Qdisc)
        });
        let received = second.iter().position(|seen| seen.place.netns.as_str() == "t-node2").unwrap();
        if let Some((reason, function)) = dropped {
            let at = second[received].clone();
            second.truncate(received + 1);
            let step = there.iter().find(|step| step.place == at.place && step.hook == at.hook).unwrap();
            second.push(Sighting { at_ns: at.at_ns + 10, ..drop_at(step, 0, false, reason, function) });
        }
        second.retain(|seen| seen.place.netns.as_str() != "t-cart");
        for seen in &mut second {
            // After all of the first.
            (seen.fragment_offset, seen.at_ns) = (1480, seen.at_ns + 50_000_000);
        }
        second
    }

    fn last(walk: &Walk) -> (&Place, Hook, Action, Option<Cause>, String) {
        let step = walk.steps.last().unwrap();
        let note = step.note.as_ref().map(ToString::to_string).unwrap_or_default();
        (&step.place, step.hook, step.action, step.cause, note)
    }

    /// The first fragment waits at its receiver, so it is not seen to arrive.
    fn first(there: &[Step]) -> Vec<Sighting> {
        let mut first = sightings(there, 0, false);
        first.retain(|seen| {
            seen.hook != Hook::NetfilterInput && !matches!(seen.event, Event::Consumed { .. })
        });
        first
    }

    fn with(first: Vec<Sighting>, second: Vec<Sighting>) -> Observed {
        read(&[first, second].concat())
    }

    const FIREWALL: Option<(&str, &str)> = Some(("NETFILTER_DROP", "nf_hook_slow+0xb5"));

    #[test]
    fn later_fragments_of_a_packet_that_arrives_are_neither_steps_nor_copies() {
        let there = steps(THERE, tcp());
        let whole = read(&sightings(&there, 0, false));
        for dropped in [None, FIREWALL, Some(("DUP_FRAG", "ip_frag_queue+0x1"))] {
            let observed = with(sightings(&there, 0, false), second(&there, dropped));
            assert_eq!(observed, whole, "{dropped:?}");
        }
    }

    #[test]
    fn with_a_fragment_its_packet_is_lost() {
        let there = steps(THERE, tcp());
        let observed = with(first(&there), second(&there, FIREWALL));
        let (place, hook, action, cause, note) = last(&observed.forward);
        assert_eq!(
            (place.netns.as_str(), action, cause),
            ("t-node2", Action::Dropped, Some(Cause::FilterDrop))
        );
        assert_eq!(hook, Hook::NetfilterForward);
        assert!(note.contains("fragment") && note.contains("1480") && note.contains("guess"), "{note}");
        assert!(observed.forward.steps.iter().any(|step| step.hook == Hook::NetfilterPrerouting));
    }

    /// Whoever tracks connections puts fragments together first.
    #[test]
    fn a_hook_where_the_first_waits_for_it_is_where_it_died() {
        let there = steps(THERE, tcp());
        let mut waits = first(&there);
        let entered = waits
            .iter()
            .position(|seen| seen.place.netns.as_str() == "t-node2" && seen.hook == Hook::NetfilterPrerouting)
            .unwrap();
        let at_node2 = waits[entered].at_ns;
        waits[entered].event = Event::Entered;
        waits.retain(|seen| seen.place.node.as_str() != "node2" || seen.at_ns <= at_node2);
        let observed = with(waits, second(&there, FIREWALL));
        let (place, hook, .., cause, note) = last(&observed.forward);
        assert_eq!((place.netns.as_str(), hook), ("t-node2", Hook::NetfilterPrerouting));
        assert_eq!(cause, Some(Cause::FilterDrop));
        assert!(!note.contains("guess"), "{note}");
    }

    #[test]
    fn what_is_no_loss_of_a_fragment_ends_no_walk() {
        let there = steps(THERE, tcp());
        let alone = read(&first(&there));
        for (reason, function) in [
            ("OTHERHOST", "ip_rcv+0x1"),
            ("DUP_FRAG", "ip_frag_queue+0x1"),
            ("NOT_SPECIFIED", "skb_release_data+0x1"),
        ] {
            let observed = with(first(&there), second(&there, Some((reason, function))));
            assert_eq!(observed.forward.steps, alone.forward.steps, "{reason} {function}");
        }
        // One of two copies of a fragment.
        let copies = [second(&there, FIREWALL), second(&there, None)].concat();
        assert_eq!(with(first(&there), copies).forward.steps, alone.forward.steps);
    }

    #[test]
    fn the_packet_s_own_death_comes_first() {
        let there = steps(THERE, tcp());
        let mut dies = first(&there);
        let at = there.iter().find(|step| step.place.netns.as_str() == "t-node1").unwrap();
        dies.retain(|seen| seen.place.netns.as_str() == "t-cart");
        dies.push(drop_at(at, 0, false, "IP_INNOROUTES", "ip_error+0x1"));
        assert_eq!(last(&with(dies, second(&there, FIREWALL)).forward).3, Some(Cause::NoRoute));
    }

    #[test]
    fn a_reassembly_that_waited_in_vain_ends_where_the_first_fragment_came_to() {
        let there = steps(THERE, tcp());
        let timeout = Some((TIMEOUT, "ip_expire+0x1"));
        let observed = with(first(&there), second(&there, timeout));
        assert_eq!(last(&observed.forward).0.netns.as_str(), "t-node2");
        let mut vanished = first(&there);
        vanished.retain(|seen| seen.place.node.as_str() != "node2");
        let alone = read(&vanished).forward.steps;
        assert_eq!(with(vanished, second(&there, timeout)).forward.steps, alone);
    }
}
