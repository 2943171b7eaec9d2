//! Facts are collected once for all who ask at the same time: two hundred checks at once want the facts of the same
//! few nodes.
//!
//! Facts must not be older than the question. So who comes while an agent collects does not get what it brings: it
//! waits for the next collection, together with all who come before that begins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use waymark_proto::NodeName;

use crate::agents::{AgentError, NodeFacts};

type Outcome = Result<Arc<NodeFacts>, AgentError>;
type Collection = Shared<BoxFuture<'static, Outcome>>;

/// The collections of all nodes.
#[derive(Debug, Default)]
pub(super) struct Collections(Mutex<HashMap<NodeName, Queue>>);

/// Those of a node.
#[derive(Debug, Default)]
struct Queue {
    /// Held while its agent collects.
    busy: Arc<tokio::sync::Mutex<()>>,
    /// The collection that has not begun.
    next: Option<Collection>,
}

impl Collections {
    /// Joins the next collection of a node's facts. If there is none, `collect` is it.
    pub(super) fn join(
        self: &Arc<Self>,
        node: &NodeName,
        collect: impl Future<Output = Outcome> + Send + 'static,
    ) -> Collection {
        let mut queues = self.queues();
        let queue = queues.entry(node.clone()).or_default();
        if let Some(next) = &queue.next {
            return next.clone();
        }
        let (busy, all, node) = (Arc::clone(&queue.busy), Arc::clone(self), node.clone());
        let next = async move {
            let turn = busy.lock_owned().await;
            // From here on it is too late to join.
            if let Some(queue) = all.queues().get_mut(&node) {
                queue.next = None;
            }
            let outcome = collect.await;
            drop(turn);
            all.forget(&node);
            outcome
        };
        queue.next.insert(next.boxed().shared()).clone()
    }

    /// Forgets a node that nobody asks about any more.
    fn forget(&self, node: &NodeName) {
        let mut queues = self.queues();
        if queues.get(node).is_some_and(|queue| queue.next.is_none() && Arc::strong_count(&queue.busy) == 1) {
            queues.remove(node);
        }
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<NodeName, Queue>> {
        // Every critical section is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;
    use waymark_proto::Facts;

    use super::*;

    /// A node whose collections take a permit each, and count.
    #[derive(Clone, Default)]
    struct Node {
        collections: Arc<Collections>,
        begun: Arc<AtomicU32>,
        permits: Arc<Permits>,
    }

    struct Permits(Semaphore);

    impl Default for Permits {
        fn default() -> Self {
            Self(Semaphore::new(0))
        }
    }

    impl Node {
        fn join(&self) -> Collection {
            let (begun, permits) = (Arc::clone(&self.begun), Arc::clone(&self.permits));
            self.collections.join(&"node1".into(), async move {
                let number = begun.fetch_add(1, Ordering::Relaxed) + 1;
                permits.0.acquire().await.expect("it is not closed").forget();
                let facts = Facts {
                    api_version: String::new(),
                    node: "node1".into(),
                    kernel: number.to_string(),
                    namespaces: Vec::new(),
                };
                Ok(Arc::new(NodeFacts::from(facts)))
            })
        }
    }

    /// The number of the collection that these facts are from.
    fn number(outcome: Outcome) -> String {
        outcome.expect("it was collected").told().kernel.clone()
    }

    #[tokio::test]
    async fn who_asks_while_an_agent_collects_shares_the_next_collection() {
        let node = Node::default();
        let (first, second) = (node.join(), node.join());
        let first = tokio::spawn(first);
        while node.begun.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let (third, fourth) = (node.join(), node.join());
        node.permits.0.add_permits(2);
        assert_eq!(number(first.await.expect("it ends")), "1");
        assert_eq!(number(second.await), "1", "it came before the first began");
        assert_eq!((number(third.await), number(fourth.await)), ("2".to_owned(), "2".to_owned()));
        assert!(
            node.collections.queues().is_empty(),
            "nothing is remembered of a node that nobody asks about"
        );
    }

    #[tokio::test]
    async fn a_collection_that_nobody_waits_for_any_more_makes_room() {
        let node = Node::default();
        let given_up = tokio::spawn(node.join());
        while node.begun.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        given_up.abort();
        assert!(given_up.await.unwrap_err().is_cancelled());
        node.permits.0.add_permits(1);
        assert_eq!(number(node.join().await), "2");
    }
}
