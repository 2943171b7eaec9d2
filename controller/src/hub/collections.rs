//! Facts are collected once for all who ask at the same time: two hundred checks at once want the facts of the same
//! few nodes.
//!
//! Facts must not be older than the question. So who comes while an agent collects does not get what it brings: it
//! waits for the next collection, together with all who come before that begins. However many ask, a node spends no more
//! than a quarter of its time on being read, a short while excepted: who asks alone never waits, nor do many who come at
//! once, of whom all but the first want a second collection right behind the first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::time::Instant;
use waymark_proto::NodeName;

use crate::agents::{AgentError, NodeFacts};

type Outcome = Result<Arc<NodeFacts>, AgentError>;
type Collection = Shared<BoxFuture<'static, Outcome>>;

/// How much longer than a collection the rest is that it asks for.
const REST: u32 = 3;
/// How much rest a node may be owed when the next collection begins.
const CREDIT: Duration = Duration::from_millis(200);
/// The longest wait: a node with a great many rules does not keep people waiting for longer.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// The collections of all nodes.
#[derive(Debug, Default)]
pub(super) struct Collections(Mutex<HashMap<NodeName, Queue>>);

/// Those of a node.
#[derive(Debug)]
struct Queue {
    /// Held while its agent collects.
    busy: Arc<tokio::sync::Mutex<()>>,
    /// The collection that has not begun.
    next: Option<Collection>,
    /// When its agent has had all the rest that its collections ask for.
    rested: Instant,
}

impl Collections {
    /// Joins the next collection of a node's facts. If there is none, `collect` is it.
    pub(super) fn join(
        self: &Arc<Self>,
        node: &NodeName,
        collect: impl Future<Output = Outcome> + Send + 'static,
    ) -> Collection {
        let now = Instant::now();
        let mut queues = self.queues();
        // Nodes that nobody asks about any more.
        queues.retain(|_, queue| {
            queue.next.is_some() || Arc::strong_count(&queue.busy) > 1 || queue.rested > now
        });
        let new = || Queue { busy: Arc::default(), next: None, rested: now };
        let queue = queues.entry(node.clone()).or_insert_with(new);
        if let Some(next) = &queue.next {
            return next.clone();
        }
        let (busy, all, node) = (Arc::clone(&queue.busy), Arc::clone(self), node.clone());
        let next = async move {
            let turn = busy.lock_owned().await;
            let rested = all.queues().get(&node).map_or(now, |queue| queue.rested);
            // `Instant` cannot be older than the machine.
            tokio::time::sleep_until(rested.checked_sub(CREDIT).unwrap_or(now)).await;
            // From here on it is too late to join.
            if let Some(queue) = all.queues().get_mut(&node) {
                queue.next = None;
            }
            let begun = Instant::now();
            let outcome = collect.await;
            if let Some(queue) = all.queues().get_mut(&node) {
                queue.rested = rest(queue.rested, begun, Instant::now());
            }
            drop(turn);
            outcome
        };
        queue.next.insert(next.boxed().shared()).clone()
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<NodeName, Queue>> {
        // Every critical section is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a node is rested that was so, or is to be, at `rested`, after a collection from `begun` to `ended`.
fn rest(rested: Instant, begun: Instant, ended: Instant) -> Instant {
    let asked = rested.max(begun) + (ended - begun) * (1 + REST);
    asked.min(ended + CREDIT + LONGEST_WAIT)
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
    }

    #[tokio::test]
    async fn a_node_rests_between_collections_and_is_forgotten_when_nobody_asks() {
        let took = Duration::from_millis(60);
        let slow = || async move {
            tokio::time::sleep(took).await;
            Err(AgentError::NoAgent { node: "node1".into() })
        };
        let collections = Arc::<Collections>::default();
        let started = Instant::now();
        for _ in 0..3 {
            collections.join(&"node1".into(), slow()).await.unwrap_err();
        }
        assert!(started.elapsed() + CREDIT >= took * (2 * (1 + REST) + 1), "the third has to wait");
        let rested = collections.queues().get(&"node1".into()).map(|queue| queue.rested);
        tokio::time::sleep_until(rested.unwrap()).await;
        collections.join(&"node2".into(), slow()).await.unwrap_err();
        assert_eq!(collections.queues().keys().collect::<Vec<_>>(), [&NodeName::from("node2")]);
    }

    #[test]
    fn a_node_spends_a_quarter_of_its_time_on_being_read() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(rest(start, at(0), at(10)), at(40));
        assert_eq!(rest(at(40), at(10), at(20)), at(80), "the second began too early");
        assert_eq!(rest(at(80), at(100), at(110)), at(140), "nobody asked meanwhile");
        assert_eq!(rest(start, at(0), at(60_000)), at(60_000) + CREDIT + LONGEST_WAIT);
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
