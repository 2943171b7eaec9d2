//! Luck: every packet arrived, but by the prediction not every way that packets may take is one on which they do, as
//! when one backend of several refuses. Who met only the others knows nothing of it.
//!
//! Ways differ in backends and next hops. What a rule leaves to chance or to a rate limit is meant to hit some.

use std::collections::BTreeMap;

use waymark_proto::{Branch, Choice, ChoiceKind, Direction, Protocol, Step, Text, text};

use super::{CHANCE, Case, Packet};

/// Ways that are described at most.
const DESCRIBED: usize = 3;

/// What was chosen on a way.
type Chosen<'a> = Vec<(ChoiceKind, &'a str)>;

/// Ways there and back on which the same was chosen.
#[derive(Default)]
struct Way<'a> {
    /// How likely packets take it.
    probability: f64,
    /// Where one of its branches ends badly.
    death: Option<(Direction, Step)>,
    /// Whether packets come through, or may, or are known to.
    passes: bool,
    choices: Vec<&'a Choice>,
}

impl Case<'_> {
    /// The ways on which packets die by the prediction, and which no packet is known to have taken; a remark on them,
    /// and whether more packets would most likely meet one.
    pub(super) fn luck(&self, packets: &[Packet<'_>]) -> (Option<Text>, bool) {
        let plain = self.prediction.detour.is_none() && self.prediction.by_dscp.is_empty();
        if !plain || packets.is_empty() || !packets.iter().all(Packet::arrived) {
            return (None, false);
        }
        let ways = self.ways(packets);
        let failing: Vec<&Way<'_>> = ways.values().filter(|way| !way.passes).collect();
        if failing.is_empty() || failing.len() == ways.len() {
            return (None, false);
        }
        let share: f64 = failing.iter().map(|way| way.probability).sum();
        let chance = (1.0 - share).max(0.0).powi(i32::try_from(packets.len()).unwrap_or(i32::MAX));
        let described: Vec<Text> =
            failing.iter().take(DESCRIBED).filter_map(|way| way.words(&ways)).collect();
        let note = text!(note::WaysFail {
            failing: failing.len(),
            all: ways.len(),
            backends: failing
                .iter()
                .any(|way| way.choices.iter().any(|choice| choice.kind == ChoiceKind::Backend)),
            packets: packets.len(),
            ways: described,
            more: failing.len().saturating_sub(DESCRIBED),
        });
        (Some(note), chance > CHANCE)
    }

    fn ways<'c>(&'c self, packets: &[Packet<'_>]) -> BTreeMap<Chosen<'c>, Way<'c>> {
        let mut ways: BTreeMap<Chosen<'c>, Way<'c>> = BTreeMap::new();
        let judges_answers = !self.one_way && self.flow.protocol != Protocol::Udp;
        for there in &self.prediction.branches {
            let death = self.predicted_death(&there.path, Direction::Forward);
            if there.answer.is_empty() || death.is_some() || !judges_answers {
                let taken = took(packets, there, None);
                add(&mut ways, &[there], death.map(|step| (Direction::Forward, step)), taken);
                continue;
            }
            for back in &there.answer {
                let death = self.predicted_death(&back.path, Direction::Return);
                let taken = took(packets, there, Some(back));
                add(&mut ways, &[there, back], death.map(|step| (Direction::Return, step)), taken);
            }
        }
        ways
    }
}

/// Whether a packet that arrived is known best as one of these branches.
fn took(packets: &[Packet<'_>], there: &Branch, back: Option<&Branch>) -> bool {
    let is = |leg: Option<&super::Leg<'_>>, branch: &Branch| {
        leg.and_then(|leg| leg.fit.as_ref()).is_some_and(|(own, _)| std::ptr::eq(*own, branch))
    };
    packets.iter().any(|packet| {
        is(Some(&packet.forward), there) && back.is_none_or(|back| is(packet.back.as_ref(), back))
    })
}

/// Adds branches, one there and one back, to the way that they are of.
fn add<'a>(
    ways: &mut BTreeMap<Chosen<'a>, Way<'a>>,
    branches: &[&'a Branch],
    death: Option<(Direction, Step)>,
    taken: bool,
) {
    let steered = |choice: &&Choice| choice.kind != ChoiceKind::Rule;
    let choices: Vec<&Choice> = branches.iter().flat_map(|branch| &branch.choices).filter(steered).collect();
    let key = choices.iter().map(|choice| (choice.kind, choice.taken.as_str())).collect();
    let way = ways.entry(key).or_default();
    way.probability += branches.iter().map(|branch| branch.probability).product::<f64>();
    way.passes |= death.is_none() || taken;
    way.death = way.death.take().or(death);
    way.choices = choices;
}

impl Way<'_> {
    /// What tells it from the others, and where it ends.
    fn words(&self, all: &BTreeMap<Chosen<'_>, Way<'_>>) -> Option<Text> {
        let (direction, death) = self.death.as_ref()?;
        let shared =
            |choice: &Choice| all.keys().all(|key| key.contains(&(choice.kind, choice.taken.as_str())));
        let own: Vec<&str> = self
            .choices
            .iter()
            .filter(|choice| !shared(choice))
            .map(|choice| choice.taken.as_str())
            .collect();
        Some(text!(note::WayFails {
            way: own.join(", "),
            answer: *direction == Direction::Return,
            at: death.at(),
            cause: death.cause,
            object: death
                .object
                .clone()
                .or_else(|| death.rule.as_ref().map(|rule| Text::verbatim(rule.to_string()))),
        }))
    }
}
