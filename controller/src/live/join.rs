//! Which packet of one node is which of another.
//!
//! Each agent numbers the packets that it picks by itself. A packet keeps some of what it is on its way from node to node, and
//! has its identity by that; but many a packet is like another, so the first of a kind on one node is taken to be the first on
//! any, the second to be the second.

use std::collections::HashMap;

use waymark_proto::{NodeName, Seq, Sighting};

/// Numbers packets, from 1 on, in the order in which they are met first.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    known: HashMap<(NodeName, Seq), u32>,
    /// Those of each identity, in the order in which they are met.
    alike: HashMap<u64, Vec<u32>>,
    /// How many of an identity a node has shown.
    shown: HashMap<(NodeName, u64), usize>,
    /// How many packets each node has shown.
    of_node: HashMap<NodeName, u32>,
    last: u32,
}

impl Numbers {
    /// The number of the packet that was seen.
    pub(super) fn of(&mut self, sighting: &Sighting) -> u32 {
        let node = &sighting.place.node;
        let key = (node.clone(), sighting.marker.seq);
        if let Some(number) = self.known.get(&key) {
            return *number;
        }
        let number = self.number(node, sighting.identity);
        self.known.insert(key, number);
        *self.of_node.entry(node.clone()).or_default() += 1;
        number
    }

    /// That of one more packet of a node.
    fn number(&mut self, node: &NodeName, identity: u64) -> u32 {
        if identity == 0 {
            self.last += 1;
            return self.last;
        }
        let shown = self.shown.entry((node.clone(), identity)).or_default();
        let alike = self.alike.entry(identity).or_default();
        if *shown == alike.len() {
            self.last += 1;
            alike.push(self.last);
        }
        let number = alike[*shown];
        *shown += 1;
        number
    }

    /// How many packets the node has shown that has shown the most.
    pub(super) fn most(&self) -> u32 {
        self.of_node.values().copied().max().unwrap_or_default()
    }

    /// How many packets there were.
    pub(super) fn count(&self) -> u32 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{THERE, sightings, steps, tcp};

    fn seen(node: &str, seq: u32, identity: u64) -> Sighting {
        let mut sighting = sightings(&steps(THERE, tcp()), 0, false).remove(0);
        sighting.place.node = node.into();
        sighting.marker.seq = Seq(seq);
        Sighting { identity, ..sighting }
    }

    #[test]
    fn a_packet_has_one_number_wherever_it_is_seen() {
        let mut numbers = Numbers::default();
        let told = [("a", 7, 100), ("a", 9, 200), ("a", 7, 100), ("b", 3, 200), ("b", 4, 100), ("b", 4, 100)];
        let told: Vec<_> = told.iter().map(|&(node, seq, id)| numbers.of(&seen(node, seq, id))).collect();
        assert_eq!(told, [1, 2, 1, 2, 1, 1]);
        assert_eq!((numbers.count(), numbers.most()), (2, 2));
    }

    #[test]
    fn of_packets_that_are_alike_the_order_tells() {
        let mut numbers = Numbers::default();
        let told =
            [("a", 1, 5), ("a", 2, 5), ("b", 1, 5), ("a", 3, 5), ("b", 2, 5), ("b", 9, 5), ("b", 10, 5)];
        let told: Vec<_> = told.iter().map(|&(node, seq, id)| numbers.of(&seen(node, seq, id))).collect();
        assert_eq!(told, [1, 2, 1, 3, 2, 3, 4]);
    }

    #[test]
    fn what_has_no_identity_is_like_nothing_else() {
        let mut numbers = Numbers::default();
        let told: Vec<_> = ["a", "b"].map(|node| numbers.of(&seen(node, 1, 0))).to_vec();
        assert_eq!(told, [1, 2]);
    }
}
