//! What was predicted beside what the kernel did, step by step.

use waymark_proto::{
    Action, Branch, Disposition, Event, Headers, Hook, Match, Path, PathSet, Place, Protocol, RuleRef,
    Sighting, Step,
};
use waymark_sim::Cluster;

use super::fixture::Evidence;
use super::tell::{ends_alike, is_refused, is_same, is_seen, words};
use super::world::part;

/// How a packet's way and its prediction go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Agrees,
    /// As far as the prediction knows; why it knows no further.
    Unknown(String),
    /// Where they part.
    Differs(String),
}

/// How far two go together, and how they part. Of several branches that which goes furthest is told.
type Parting = ((Stage, usize), String);

/// What is compared, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Forward,
    Answer,
    Rules,
}

/// Compares a packet's way with all that was predicted for it.
pub(super) fn compare(paths: &PathSet, evidence: &Evidence) -> Comparison {
    let mut nearest: Option<Parting> = None;
    for branch in &paths.branches {
        match (Beside { evidence }).branch(branch) {
            Ok(None) => return Comparison::Agrees,
            Ok(Some(why)) => return Comparison::Unknown(why),
            Err(parting) if nearest.as_ref().is_none_or(|(most, _)| parting.0 >= *most) => {
                nearest = Some(parting);
            }
            Err(_) => {}
        }
    }
    Comparison::Differs(nearest.map_or_else(|| "nothing was predicted".to_owned(), |(_, why)| why))
}

/// The rules of the node that were seen to match, in order.
pub(super) fn matched(cluster: &Cluster, sightings: &[Sighting]) -> Vec<(Hook, RuleRef)> {
    let of_flow = |sighting: &&Sighting| sighting.headers.as_ref().is_some_and(is_of_flow);
    let mut seen: Vec<&Sighting> =
        sightings.iter().filter(|sighting| is_node(&sighting.place)).filter(of_flow).collect();
    seen.sort_by_key(|sighting| sighting.at_ns);
    let rule = |sighting: &&Sighting| match &sighting.event {
        Event::Verdict { rule, .. } if rule.handle.is_some() || rule.position.is_some() => {
            // A policy is counted as the rule behind the last one.
            cluster.rule(&sighting.place, rule).map(|rule| (sighting.hook, rule))
        }
        _ => None,
    };
    seen.iter().filter_map(rule).collect()
}

/// Whether a place is the node, and no host.
fn is_node(place: &Place) -> bool {
    part(place) == "n"
}

/// Whether headers are of the packet or of its answer, and not of an error or a reset.
fn is_of_flow(headers: &Headers) -> bool {
    const RST: u8 = 4;
    !matches!(headers.matched, Match::Quoted) && headers.tcp_flags & RST == 0
}

/// What was seen of one packet, for one branch of what was predicted.
struct Beside<'a> {
    evidence: &'a Evidence,
}

impl Beside<'_> {
    /// `Some` if the prediction does not know to the end.
    fn branch(&self, branch: &Branch) -> Result<Option<String>, Parting> {
        let Evidence { start, flow, error, forward, back, .. } = self.evidence;
        let last = branch.path.last();
        if let Some(error) = error {
            let told = || format!("the sender was told {error}; predicted was {}", words(last));
            // What the sending system call refused never was on its way.
            return match last.action {
                _ if last.place != *start => Err(((Stage::Forward, 0), told())),
                Action::Unknown => Ok(Some(doubt(last))),
                _ if is_refused(last, error) => Ok(None),
                _ => Err(((Stage::Forward, 0), told())),
            };
        }
        let doubt = walk(&branch.path, forward, false).map_err(|(at, why)| ((Stage::Forward, at), why))?;
        let there = rules_of(&branch.path);
        if doubt.is_some() || branch.path.disposition() != Disposition::Delivered {
            self.rules(&there, doubt.is_some())?;
            return Ok(doubt);
        }
        // Nobody reads datagrams.
        let awaited = flow.protocol != Protocol::Udp
            && branch.answer.iter().any(|answer| answer.path.steps().iter().any(is_seen));
        if !awaited && back.iter().all(|step| step.hook == Hook::Socket) {
            self.rules(&there, false)?;
            return Ok(None);
        }
        let mut nearest: Option<Parting> = None;
        for answer in &branch.answer {
            let all = [there.clone(), rules_of(&answer.path)].concat();
            let outcome = walk(&answer.path, back, true)
                .map_err(|(at, why)| ((Stage::Answer, at), format!("answer: {why}")))
                .and_then(|doubt| self.rules(&all, doubt.is_some()).map(|()| doubt));
            match outcome {
                Ok(doubt) => return Ok(doubt),
                Err(parting) if nearest.as_ref().is_none_or(|(most, _)| parting.0 >= *most) => {
                    nearest = Some(parting);
                }
                Err(_) => {}
            }
        }
        let none = || ((Stage::Answer, 0), "answer: none was predicted".to_owned());
        Err(nearest.unwrap_or_else(none))
    }

    /// Rules of nftables and of `x_tables` are reported by ways of their own, which do not tell their order.
    fn rules(&self, predicted: &[(Hook, RuleRef)], in_part: bool) -> Result<(), Parting> {
        for legacy in [false, true] {
            let of = |rules: &[(Hook, RuleRef)]| -> Vec<(Hook, RuleRef)> {
                rules.iter().filter(|(_, rule)| rule.handle.is_none() == legacy).cloned().collect()
            };
            rules(&of(predicted), &of(&self.evidence.rules), in_part)?;
        }
        Ok(())
    }
}

fn rules_of(path: &Path) -> Vec<(Hook, RuleRef)> {
    let here = path.steps().iter().filter(|step| is_node(&step.place));
    here.flat_map(|step| step.matched.iter().map(|rule| (step.hook, rule.clone()))).collect()
}

fn rules(predicted: &[(Hook, RuleRef)], seen: &[(Hook, RuleRef)], in_part: bool) -> Result<(), Parting> {
    let together = predicted.iter().zip(seen).take_while(|(a, b)| a == b).count();
    let (next, seen) = (predicted.get(together), seen.get(together));
    if next.is_none() && (seen.is_none() || in_part) {
        return Ok(());
    }
    let words = |rule: Option<&(Hook, RuleRef)>| {
        rule.map_or_else(|| "no further rule".to_owned(), |(hook, rule)| format!("{hook} {rule}"))
    };
    let why = format!("rule {together}: predicted {}, seen {}", words(next), words(seen));
    Err(((Stage::Rules, together), why))
}

/// One walk. `Some` if the prediction does not know to its end; the error says after how many steps they part.
fn walk(path: &Path, seen: &[Step], is_answer: bool) -> Result<Option<String>, (usize, String)> {
    let predicted: Vec<&Step> = path.steps().iter().filter(|step| is_seen(step)).collect();
    let observed: Vec<&Step> = seen.iter().filter(|step| is_seen(step)).collect();
    let together = predicted.iter().zip(&observed).take_while(|(a, b)| is_same(a, b)).count();
    let parting = |expected: &Step, found: Option<&Step>| {
        let found = found.map_or_else(|| "nothing".to_owned(), words);
        Err((together, format!("predicted {}, seen {found}", words(expected))))
    };
    if let Some(&next) = predicted.get(together) {
        return parting(next, observed.get(together).copied().or(seen.last()));
    }
    let end = path.last();
    if path.disposition() == Disposition::InsufficientInfo {
        return Ok(Some(doubt(end)));
    }
    if let Some(&next) = observed.get(together) {
        return parting(end, Some(next));
    }
    let last = seen.last().filter(|step| !step.action.continues());
    // Whom an answer does not find, that is told by where it came.
    let strayed = |last: &Step| {
        is_answer && end.hook == Hook::Socket && last.hook == Hook::Socket && end.place == last.place
    };
    match last {
        Some(last) if ends_alike(end, last) || strayed(last) => Ok(None),
        _ => parting(end, last),
    }
}

/// Why a prediction ends before its packet does.
fn doubt(end: &Step) -> String {
    end.note.as_ref().map_or_else(|| words(end), ToString::to_string)
}
