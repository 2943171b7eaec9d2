//! The turns of a walk that goes in circles: one of them says all.

use std::ops::Range;

/// Turns of a sequence that are as the one before them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Circle {
    hidden: Range<usize>,
    /// How many turns these are.
    pub(super) turns: usize,
}

/// Fewer are shown as they are: a packet may come by the same hooks twice on an honest way.
const LEAST: usize = 2;

impl Circle {
    /// The first circle of a sequence whose elements are the same if their keys are.
    pub(super) fn of<'a, T, K: PartialEq>(all: &'a [T], key: impl Fn(&'a T) -> K) -> Self {
        let keys: Vec<K> = all.iter().map(key).collect();
        for start in 0..keys.len() {
            for length in 2..=(keys.len() - start) / (LEAST + 1) {
                let first = &keys[start..start + length];
                let turns = keys[start + length..].chunks(length).take_while(|turn| *turn == first).count();
                if turns >= LEAST {
                    return Self { hidden: start + length..start + length * (turns + 1), turns };
                }
            }
        }
        Self::default()
    }

    /// Whether the hidden turns begin here.
    pub(super) fn begins(&self, index: usize) -> bool {
        !self.hidden.is_empty() && self.hidden.start == index
    }

    /// Whether an element is part of a turn that says nothing new.
    pub(super) fn hides(&self, index: usize) -> bool {
        self.hidden.contains(&index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(walk: &str) -> String {
        let steps: Vec<char> = walk.chars().collect();
        let circle = Circle::of(&steps, |step| *step);
        let mut shown = String::new();
        for (index, step) in steps.iter().enumerate() {
            if circle.begins(index) {
                shown.extend(["(", &circle.turns.to_string(), ")"]);
            }
            if !circle.hides(index) {
                shown.push(*step);
            }
        }
        shown
    }

    #[test]
    fn one_turn_stands_for_all() {
        assert_eq!(shown("sababababax"), "sab(3)ax");
        assert_eq!(shown("sabcabcabcab"), "sabc(2)ab");
    }

    #[test]
    fn an_honest_way_is_shown_whole() {
        for walk in ["", "a", "ab", "abab", "abcdabce", "aab"] {
            assert_eq!(shown(walk), walk);
        }
    }
}
