//! What a loss goes with: of all that packets differ in, what tells the lost ones from the others.
//!
//! For each factor the packets are a table of its values against "lost" and "came through". Its likelihood ratio
//! (G) says how far it is from independence; how likely chance does as much is found by permutation, which holds
//! for a handful of packets and for thousands, for two sizes and for fifty source ports alike (Good, "Permutation,
//! Parametric, and Bootstrap Tests of Hypotheses", 2005).
//!
//! The permutations are drawn from a fixed seed: the same packets give the same answer.

use std::collections::BTreeMap;

use waymark_proto::{Factor, FactorKind, Share, Text};

/// Permutations per factor. The least chance that they can tell is one in this many.
const PERMUTATIONS: u32 = 999;
/// How likely chance may do it, over all factors together.
const CHANCE: f64 = 0.01;
/// Of factors that explain alike up to this share of the whole, the one with fewer values is named: a next hop
/// rather than the source ports that are hashed to it.
const ALIKE: f64 = 0.1;
const SEED: u64 = 0x5741_594d;

/// One packet that came to the place in question.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Trial {
    pub(super) lost: bool,
    /// What it was like. What is not known of it is absent.
    pub(super) values: BTreeMap<FactorKind, Text>,
}

/// The factor that the loss goes with, if any.
pub(super) fn decisive(trials: &[Trial]) -> Option<Factor> {
    let tables: Vec<Table<'_>> =
        FactorKind::ALL.into_iter().filter_map(|kind| Table::of(kind, trials)).collect();
    let allowed = CHANCE / f64::from(tables.len().max(1) as u32);
    let telling = tables.iter().map(|table| (table, table.chance())).filter(|(_, chance)| *chance <= allowed);
    let mut telling: Vec<(&Table<'_>, f64)> = telling.collect();
    let most = telling.iter().map(|(table, _)| table.explained()).fold(0.0, f64::max);
    telling.retain(|(table, _)| table.explained() >= most - ALIKE);
    // Stable: of factors with as many values the first kind.
    telling.sort_by_key(|(table, _)| table.rows.len());
    telling.first().map(|(table, chance)| table.factor(*chance))
}

/// The values of one factor against losses.
struct Table<'a> {
    kind: FactorKind,
    rows: Vec<Row<'a>>,
    /// For each packet the index of its row.
    of_packet: Vec<usize>,
    outcomes: Vec<bool>,
}

#[derive(Clone, Copy)]
struct Row<'a> {
    value: &'a Text,
    lost: u32,
    of: u32,
}

impl<'a> Table<'a> {
    /// The table of a factor, if it could tell anything: at least two values, and both outcomes. A value that one
    /// packet alone has is left out: it explains that packet whatever became of it, so that of packets with a port each
    /// before others with a few ports together, a loss that came and went would look like one of the ports.
    fn of(kind: FactorKind, trials: &'a [Trial]) -> Option<Self> {
        let mut packets: BTreeMap<&str, u32> = BTreeMap::new();
        for value in trials.iter().filter_map(|trial| trial.values.get(&kind)) {
            *packets.entry(value.as_str()).or_default() += 1;
        }
        let mut rows: Vec<Row<'a>> = Vec::new();
        let mut index = BTreeMap::new();
        let (mut of_packet, mut outcomes) = (Vec::new(), Vec::new());
        for trial in trials {
            let Some(value) = trial.values.get(&kind) else { continue };
            if packets.get(value.as_str()) == Some(&1) {
                continue;
            }
            let at = *index.entry(value.as_str()).or_insert_with(|| {
                rows.push(Row { value, lost: 0, of: 0 });
                rows.len() - 1
            });
            rows[at].of += 1;
            rows[at].lost += u32::from(trial.lost);
            of_packet.push(at);
            outcomes.push(trial.lost);
        }
        let both = outcomes.contains(&true) && outcomes.contains(&false);
        (rows.len() > 1 && both).then_some(Self { kind, rows, of_packet, outcomes })
    }

    /// How likely chance separates losses as much as this.
    fn chance(&self) -> f64 {
        let own = deviance(self.rows.iter().map(|row| (row.lost, row.of)));
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut outcomes = self.outcomes.clone();
        let mut lost = vec![0; self.rows.len()];
        let mut as_much = 0;
        for _ in 0..PERMUTATIONS {
            random.shuffle(&mut outcomes);
            lost.fill(0);
            for (&row, &is_lost) in self.of_packet.iter().zip(&outcomes) {
                lost[row] += u32::from(is_lost);
            }
            let other = deviance(lost.iter().zip(&self.rows).map(|(&lost, row)| (lost, row.of)));
            // The less that is left unexplained, the stronger; equal up to rounding counts.
            as_much += u32::from(other <= own + 1e-9);
        }
        f64::from(as_much + 1) / f64::from(PERMUTATIONS + 1)
    }

    /// Which share of the uncertainty about a packet's fate its value takes away, 0 to 1.
    fn explained(&self) -> f64 {
        let (lost, of) = self.rows.iter().fold((0, 0), |(lost, of), row| (lost + row.lost, of + row.of));
        let whole = deviance([(lost, of)]);
        1.0 - deviance(self.rows.iter().map(|row| (row.lost, row.of))) / whole
    }

    /// The values by their losses, cut in two where that separates best.
    fn factor(&self, chance: f64) -> Factor {
        let mut rows = self.rows.clone();
        let rate = |row: &Row<'_>| f64::from(row.lost) / f64::from(row.of);
        rows.sort_by(|a, b| rate(b).total_cmp(&rate(a)).then_with(|| a.value.as_str().cmp(b.value.as_str())));
        let sum =
            |rows: &[Row<'_>]| rows.iter().fold((0, 0), |(lost, of), row| (lost + row.lost, of + row.of));
        let left = |cut: &usize| deviance([sum(&rows[..*cut]), sum(&rows[*cut..])]);
        let cut = (1..rows.len()).min_by(|a, b| left(a).total_cmp(&left(b))).unwrap_or(1);
        let share = |rows: &[Row<'_>]| {
            let (lost, of) = sum(rows);
            Share::new(lost, of)
        };
        let values = |rows: &[Row<'_>]| rows.iter().map(|row| row.value.clone()).collect();
        Factor {
            kind: self.kind,
            values: values(&rows[..cut]),
            others: values(&rows[cut..]),
            with: share(&rows[..cut]),
            without: share(&rows[cut..]),
            chance,
        }
    }
}

/// Twice the negative log likelihood of losses, a rate of its own for each of some groups.
fn deviance(groups: impl IntoIterator<Item = (u32, u32)>) -> f64 {
    let part = |count: u32, of: u32| match count {
        0 => 0.0,
        count => f64::from(count) * (f64::from(count) / f64::from(of)).ln(),
    };
    -2.0 * groups.into_iter().map(|(lost, of)| part(lost, of) + part(of - lost, of)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets of two sizes and sixteen ports, of which `lost` says who is lost.
    fn trials(count: u32, lost: impl Fn(u32, u32) -> bool) -> Vec<Trial> {
        (0..count)
            .map(|number| {
                let (size, port) = ([60, 1500][(number % 2) as usize], 40_000 + number / 2 % 16);
                let values = [(FactorKind::Size, size), (FactorKind::SourcePort, port)]
                    .map(|(kind, value)| (kind, Text::verbatim(value.to_string())))
                    .into();
                Trial { lost: lost(size, port), values }
            })
            .collect()
    }

    #[test]
    fn a_size_that_is_lost_is_named() {
        let factor = decisive(&trials(20, |size, _| size == 1500)).unwrap();
        assert_eq!((factor.kind, factor.values), (FactorKind::Size, vec![Text::verbatim("1500")]));
        assert_eq!((factor.with.lost, factor.with.of, factor.without.lost), (10, 10, 0));
        assert!(factor.chance <= 0.005);
    }

    #[test]
    fn ports_of_a_dead_member_are_named() {
        let factor = decisive(&trials(64, |_, port| port % 8 == 3)).unwrap();
        assert_eq!(factor.kind, FactorKind::SourcePort);
        assert_eq!(factor.values, ["40003", "40011"]);
        assert_eq!((factor.with.lost, factor.with.of, factor.without.lost), (8, 8, 0));
    }

    #[test]
    fn fewer_values_that_explain_as_much_are_preferred() {
        let mut all = trials(64, |_, port| port % 8 == 3);
        for trial in &mut all {
            let leg = if trial.lost { "10.0.0.2" } else { "10.0.0.3" };
            trial.values.insert(FactorKind::NextHop, Text::verbatim(leg));
        }
        assert_eq!(decisive(&all).unwrap().kind, FactorKind::NextHop);
    }

    #[test]
    fn chance_is_no_factor() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut named = 0;
        for _ in 0..50 {
            let lost: Vec<bool> = (0..256).map(|_| random.u8(..20) == 0).collect();
            let number = std::cell::Cell::new(0);
            let all = trials(256, |_, _| lost[number.replace(number.get() + 1)]);
            named += usize::from(decisive(&all).is_some());
        }
        // One in a hundred is allowed.
        assert!(named <= 3, "{named} of 50");
    }

    #[test]
    fn a_loss_that_came_and_went_is_none_of_the_ports_of_its_time() {
        // A hundred packets with a port each, of which those in the middle are lost; then four times sixteen.
        let first = (0..100).map(|number| (50_000 + number, (40..60).contains(&number)));
        let then = (0..64).map(|number| (40_000 + number % 16, false));
        let trial = |(port, lost): (u32, bool)| {
            let values = [(FactorKind::SourcePort, Text::verbatim(port.to_string()))].into();
            Trial { lost, values }
        };
        let all: Vec<Trial> = first.chain(then).map(trial).collect();
        assert_eq!(decisive(&all), None);
    }

    #[test]
    fn too_few_packets_tell_nothing() {
        assert_eq!(decisive(&trials(2, |size, _| size == 1500)), None);
        assert_eq!(decisive(&trials(64, |_, _| true)), None);
        assert_eq!(decisive(&[]), None);
    }
}
