//! Netfilter's trace against nft.
//!
//! Both read the same messages of the kernel, in namespaces in which Waymark traces. So packets must enter and leave each
//! hook as often on both sides, with the same headers, and meet the same rules there with the same verdicts. Waymark tells
//! less where nothing came of it: of a packet that left a hook as it had entered it, not who accepted it. So:
//!
//! * Every verdict that Waymark tells is one that nft told, of the same rule and for the same packet.
//! * Every verdict that nft told is told by Waymark, unless all of that passage are `accept`, the packet left the hook,
//!   and Waymark says that one passed.
//! * Of chains of bridges and devices the end of a packet is compared.
//! * A trace does not tell hooks. A chain that comes before Waymark's first is told of with the hook that the packet left
//!   last: that is where both count it.
//!
//! Tracers read what the kernel told a moment before their tables are gone. What nft told last of a table, behind all of
//! which Waymark told, may have come between: answers that are sent again, for example.
//!
//! A packet inside a tunnel is known to nft by the tunnel's addresses and the IP identification. Of some packets Waymark
//! need not tell: where rounds were armed that no recording holds (packets that end at routers), where damage makes
//! another packet of one, and where it is in a tunnel that came by no device while it could be read. A trace quotes too
//! little of those, and so Waymark cannot tell of them either.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use waymark_proto::{Event, Hook, RuleRef, Sighting};

use super::Disagreement;
use crate::rules::{Headers, Passage, Rule, Traced, Verdict, sortable};
use crate::waymark::Look;
use crate::wire::Tunnel;

/// Namespace, hook and packet.
type Place<'a> = (&'a str, Hook, Headers);

/// What was told of packets that look alike at one hook.
#[derive(Default)]
struct Told<'a> {
    entered: usize,
    passed: usize,
    left: usize,
    verdicts: BTreeMap<Verdict, usize>,
    /// The passages that nft told of.
    passages: Vec<&'a Passage>,
    /// How many of nft's passages ended with these headers.
    ended: usize,
}

/// What else is known of what nft tells.
#[derive(Default)]
pub struct Known {
    /// Whether no rounds were armed but those that were recorded.
    pub complete: bool,
    /// Packets of tunnels in which there was a marker to be read while tracers were armed, by namespace.
    pub legible: BTreeSet<(String, Tunnel)>,
}

/// Compares all looks of a check with what nft told in all namespaces.
pub fn compare(looks: &[Look], traced: &[Traced], known: &Known) -> Vec<Disagreement> {
    let all: Vec<&Passage> = traced.iter().flat_map(|traced| &traced.passages).collect();
    let late = late(&all, &by_place(looks, &all, known));
    let due: Vec<&Passage> = all.into_iter().filter(|passage| !is_among(&late, passage)).collect();
    let mut told = ends(looks.iter().flat_map(|look| &look.sightings), traced);
    told.extend(by_place(looks, &due, known).iter().flat_map(|(place, told)| of_place(place, told)));
    told
}

/// Passages of which Waymark need not tell because they came last: where nft told of more, the last of them, if they are
/// behind all others of their trace.
fn late<'a>(all: &[&'a Passage], places: &BTreeMap<Place<'a>, Told<'a>>) -> Vec<&'a Passage> {
    let trace = |passage: &'a Passage| (passage.netns.as_str(), passage.table.as_str());
    let (mut last, mut surplus) = (BTreeMap::new(), Vec::new());
    for told in places.values() {
        let entered: Vec<&Passage> = told.passages.iter().copied().filter(|passage| !passage.stray).collect();
        let more = entered.len().saturating_sub(told.entered + told.passed);
        surplus.extend(&entered[entered.len() - more..]);
    }
    for (order, &passage) in all.iter().enumerate().filter(|(_, passage)| !is_among(&surplus, passage)) {
        last.insert(trace(passage), order);
    }
    let behind = all.iter().enumerate().filter(|&(order, &passage)| {
        is_among(&surplus, passage) && last.get(&trace(passage)).is_some_and(|&last| order > last)
    });
    behind.map(|(_, &passage)| passage).collect()
}

/// Whether it is one of these, not one like these.
fn is_among(passages: &[&Passage], passage: &Passage) -> bool {
    passages.iter().any(|one| std::ptr::eq(*one, passage))
}

/// What both tell.
fn by_place<'a>(looks: &'a [Look], passages: &[&'a Passage], known: &Known) -> BTreeMap<Place<'a>, Told<'a>> {
    let mut places = by_waymark(looks.iter().flat_map(|look| &look.sightings));
    for &passage in passages {
        let place = |headers: &Headers| (passage.netns.as_str(), passage.hook, headers.clone());
        let is_due = known.is_due(passage, looks);
        if let Some(told) = find(&mut places, place(&passage.entered), is_due) {
            told.passages.push(passage);
        }
        let left = passage.left.as_ref();
        if let Some(told) = left.and_then(|left| find(&mut places, place(left), is_due)) {
            told.ended += 1;
        }
    }
    places
}

/// What Waymark tells.
fn by_waymark<'a>(sightings: impl Iterator<Item = &'a Sighting>) -> BTreeMap<Place<'a>, Told<'a>> {
    let mut places: BTreeMap<Place<'_>, Told<'_>> = BTreeMap::new();
    for sighting in sightings.filter(|sighting| sighting.hook.is_netfilter()) {
        let Some(headers) = headers(sighting) else { continue };
        let told = places.entry((sighting.place.netns.as_str(), sighting.hook, headers)).or_default();
        match &sighting.event {
            Event::Entered => told.entered += 1,
            Event::Left => told.left += 1,
            Event::Passed => told.passed += 1,
            // Of legacy tables nft knows nothing.
            Event::Verdict { rule, .. } if rule.position.is_some() => {}
            Event::Verdict { rule, verdict } => {
                *told.verdicts.entry((known(rule), verdict.clone())).or_default() += 1;
            }
            Event::Seen
            | Event::Arrived
            | Event::Transmitted { .. }
            | Event::Dropped { .. }
            | Event::Consumed { .. }
            | Event::Called { .. } => {}
        }
    }
    places
}

impl Known {
    /// Whether Waymark must tell of a passage.
    fn is_due(&self, passage: &Passage, looks: &[Look]) -> bool {
        let is_known = |tag| looks.iter().any(|look| look.identities.values().any(|known| *known == tag));
        let is_legible = match &passage.entered {
            Headers::Tunnel(tunnel) => self.legible.contains(&(passage.netns.clone(), *tunnel)),
            Headers::Plain(_) => passage.tag.is_none_or(is_known),
        };
        self.complete && is_legible
    }
}

/// What was told of a place, of which Waymark need not know if nothing is due.
fn find<'p, 'a>(
    places: &'p mut BTreeMap<Place<'a>, Told<'a>>,
    place: Place<'a>,
    is_due: bool,
) -> Option<&'p mut Told<'a>> {
    if is_due { Some(places.entry(place).or_default()) } else { places.get_mut(&place) }
}

/// The end of packets in chains of bridges and devices.
fn ends<'a>(sightings: impl Iterator<Item = &'a Sighting>, traced: &'a [Traced]) -> Vec<Disagreement> {
    let mut counts: BTreeMap<(&str, Verdict), [usize; 2]> = BTreeMap::new();
    for sighting in sightings.filter(|sighting| !sighting.hook.is_netfilter()) {
        if let Event::Verdict { rule, verdict } = &sighting.event {
            let verdict = (known(rule), verdict.clone());
            counts.entry((sighting.place.netns.as_str(), verdict)).or_default()[0] += 1;
        }
    }
    for (netns, verdict) in traced.iter().flat_map(|traced| &traced.ends) {
        counts.entry((netns, verdict.clone())).or_default()[1] += 1;
    }
    let unequal = counts.into_iter().filter(|(_, [waymark, nft])| waymark != nft);
    let told = unequal.map(|((netns, verdict), [waymark, nft])| Disagreement {
        oracle: "nft",
        packet: "packets in a chain of bridges or devices".into(),
        place: format!("in {netns}"),
        waymark: format!("{waymark} times {}", show(&verdict)),
        other: format!("it {nft} times"),
    });
    told.collect()
}

fn of_place(place: &Place<'_>, told: &Told<'_>) -> Vec<Disagreement> {
    let (netns, hook, headers) = place;
    let disagreement = |waymark: String, other: String| Disagreement {
        oracle: "nft",
        packet: format!("{headers:?}"),
        place: format!("{hook} in {netns}"),
        waymark,
        other,
    };
    let mut all = Vec::new();
    let (entered, left) = (told.entered + told.passed, told.left + told.passed);
    let by_nft = told.passages.iter().filter(|passage| !passage.stray).count();
    if entered != by_nft {
        all.push(disagreement(format!("it enter {entered} times"), format!("it {by_nft} times")));
    }
    if left != told.ended {
        all.push(disagreement(format!("it leave {left} times"), format!("it {} times", told.ended)));
    }
    let (only_waymark, only_nft) = untold(told);
    for verdict in only_waymark {
        all.push(disagreement(show(&verdict), "no such verdict".into()));
    }
    for passage in only_nft {
        let verdicts: Vec<_> = passage.verdicts.iter().map(show).collect();
        all.push(disagreement("not all of these verdicts".into(), verdicts.join(", ")));
    }
    all
}

/// The verdicts that only Waymark tells, and the passages of whose verdicts it does not tell all though it should.
fn untold<'a>(told: &Told<'a>) -> (Vec<Verdict>, Vec<&'a Passage>) {
    let mut verdicts = told.verdicts.clone();
    let mut passages = told.passages.clone();
    // Those of which all must be told first: they have the first claim on what is told.
    passages.sort_by_key(|passage| (may_be_left_out(passage), std::cmp::Reverse(passage.verdicts.len())));
    let (mut untold, mut left_out) = (Vec::new(), 0);
    for passage in passages {
        let mut rest = verdicts.clone();
        let is_told = passage.verdicts.iter().all(|verdict| take(&mut rest, verdict));
        if is_told {
            verdicts = rest;
        } else if may_be_left_out(passage) && left_out < told.passed {
            left_out += 1;
        } else {
            untold.push(passage);
        }
    }
    let only_waymark = verdicts.into_iter().filter(|(_, count)| *count > 0);
    (only_waymark.map(|(verdict, _)| verdict).collect(), untold)
}

/// Whether a packet left a hook as it had entered it, and nobody did more than let it pass.
fn may_be_left_out(passage: &Passage) -> bool {
    let accepted = passage.verdicts.iter().all(|(_, verdict)| verdict == "accept");
    accepted && passage.left.as_ref() == Some(&passage.entered)
}

fn take(verdicts: &mut BTreeMap<Verdict, usize>, verdict: &Verdict) -> bool {
    match verdicts.get_mut(verdict) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    }
}

fn headers(sighting: &Sighting) -> Option<Headers> {
    let headers = sighting.headers.as_ref()?;
    Some(match &headers.outer {
        Some(outer) => Headers::Tunnel((outer.src, outer.dst, headers.ip_id)),
        None => Headers::Plain(sortable(&headers.flow)),
    })
}

fn known(rule: &RuleRef) -> Rule {
    let RuleRef { family, table, chain, handle, .. } = rule.clone();
    Rule { family, table, chain, handle }
}

fn show((rule, verdict): &Verdict) -> String {
    let Rule { family, table, chain, handle } = rule;
    let rule = handle.map_or_else(|| "its policy".to_owned(), |handle| format!("rule {handle}"));
    format!("{verdict} by {rule} in {family} {table} {chain}")
}
