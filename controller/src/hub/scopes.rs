//! What agents without an inventory are told of the cluster.
//!
//! Nothing is sent whenever a pod comes or goes: an agent is told when it attaches, and before an order if
//! what it must know has changed since.

use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use waymark_proto::{Inventory, NodeName, Scope};

use crate::source::Source;

/// Where scopes come from.
pub(super) struct Scopes {
    source: Arc<dyn Source>,
    /// The addresses of an inventory: the same for all agents.
    known: Mutex<Option<(Arc<Inventory>, Vec<IpNet>)>>,
}

/// What an agent was told last.
#[derive(Debug, Default)]
pub(super) struct Assigned {
    /// The inventory that it came from.
    inventory: Option<Arc<Inventory>>,
    scope: Option<Scope>,
}

/// What an agent must be told, if anything.
pub(super) struct News {
    inventory: Arc<Inventory>,
    pub(super) scope: Scope,
}

impl std::fmt::Debug for Scopes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scopes").finish_non_exhaustive()
    }
}

impl Scopes {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
        Self { source, known: Mutex::default() }
    }

    /// What the agent of a node does not know yet. Nothing if there is no inventory, or the node is not in
    /// it: the agent then goes on with what it knows, and says so if that is nothing.
    pub(super) async fn news(&self, node: &NodeName, assigned: &mut Assigned) -> Option<News> {
        let inventory = match self.source.inventory().await {
            Ok(inventory) => inventory,
            Err(error) => {
                tracing::warn!(%node, %error, "the agent is not told of changes");
                return None;
            }
        };
        if assigned.inventory.as_ref().is_some_and(|last| Arc::ptr_eq(last, &inventory)) {
            return None;
        }
        let scope = inventory.scope_with(node, self.known(&inventory))?;
        if assigned.scope.as_ref() == Some(&scope) {
            assigned.inventory = Some(inventory);
            return None;
        }
        Some(News { inventory, scope })
    }

    fn known(&self, inventory: &Arc<Inventory>) -> Vec<IpNet> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, addresses)) if Arc::ptr_eq(of, inventory) => addresses.clone(),
            _ => known.insert((Arc::clone(inventory), inventory.known())).1.clone(),
        }
    }
}

impl Assigned {
    /// Notes that the agent was told.
    pub(super) fn told(&mut self, news: News) {
        *self = Self { inventory: Some(news.inventory), scope: Some(news.scope) };
    }
}
