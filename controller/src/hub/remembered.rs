//! What is remembered of nodes whose agents are not there. Their names come from outside, so there is a limit.

use std::collections::BTreeMap;

use waymark_proto::NodeName;

/// Nodes of which something is remembered: twice as many as a Kubernetes cluster is made for.
pub(super) const MAX_REMEMBERED: usize = 10_000;

/// One thing for each node, of those of which something was last told.
#[derive(Debug)]
pub(super) struct Remembered<T> {
    /// With the number of its place in `order`.
    of: BTreeMap<NodeName, (u64, T)>,
    /// Oldest first.
    order: BTreeMap<u64, NodeName>,
    told: u64,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self { of: BTreeMap::new(), order: BTreeMap::new(), told: 0 }
    }
}

impl<T> Remembered<T> {
    /// Remembers this of a node, in place of what was told before. If there are too many, the oldest is forgotten.
    pub(super) fn insert(&mut self, node: NodeName, what: T) {
        self.remove(&node);
        self.told += 1;
        self.order.insert(self.told, node.clone());
        self.of.insert(node, (self.told, what));
        while self.of.len() > MAX_REMEMBERED
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.of.remove(&oldest);
        }
    }

    /// Forgets a node.
    pub(super) fn remove(&mut self, node: &NodeName) {
        if let Some((place, _)) = self.of.remove(node) {
            self.order.remove(&place);
        }
    }

    pub(super) fn get(&self, node: &NodeName) -> Option<&T> {
        self.of.get(node).map(|(_, what)| what)
    }

    /// All of it, by node.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.of.values().map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let node = |number: usize| NodeName::from(format!("n{number}"));
        let mut remembered = Remembered::default();
        for number in 0..MAX_REMEMBERED {
            remembered.insert(node(number), number);
        }
        assert_eq!(remembered.get(&node(0)), Some(&0));
        // Of the first there are news, and the third is gone before it is its turn.
        remembered.insert(node(0), 7);
        remembered.remove(&node(2));
        for number in 0..2 {
            remembered.insert(node(MAX_REMEMBERED + number), number);
        }
        assert_eq!(
            [0, 1, 2, 3].map(|number| remembered.get(&node(number)).copied()),
            [Some(7), None, None, Some(3)]
        );
        assert_eq!(remembered.values().count(), MAX_REMEMBERED);
        assert_eq!(remembered.order.len(), MAX_REMEMBERED);
    }
}
