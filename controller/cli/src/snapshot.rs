//! `waymark facts`: of a node, or of all of them as a folder.

use std::path::Path;

use futures::StreamExt;
use jiff::Timestamp;
use waymark_controller::{MissingNode, Snapshot, SnapshotError};
use waymark_proto::{Facts, NodeName};

use crate::ask::Collector;
use crate::failure::{Exit, Failure};
use crate::progress;

/// How many nodes are asked at once.
const AT_ONCE: usize = 16;

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        let exit = match &error {
            SnapshotError::Io { what: "read", .. } => Exit::NoInput,
            SnapshotError::Io { .. } | SnapshotError::NotEmpty(_) => Exit::CannotCreate,
            SnapshotError::Document { .. } => Exit::Data,
        };
        Self::new(exit, error.to_string())
    }
}

/// Collects the facts of all nodes in a folder. Gives those that it could not have; it is an error if none could be had.
pub(crate) async fn take(collector: &Collector, folder: &Path) -> Result<Vec<MissingNode>, Failure> {
    let inventory = collector.inventory().await?;
    let line = progress::Line::start();
    let nodes: Vec<NodeName> = inventory.nodes.iter().map(|node| node.name.clone()).collect();
    let asked = nodes.iter().map(async |node| (node, collector.facts(node).await));
    let mut answers = futures::stream::iter(asked).buffered(AT_ONCE);
    let (mut facts, mut missing): (Vec<Facts>, Vec<MissingNode>) = (Vec::new(), Vec::new());
    while let Some((node, answer)) = answers.next().await {
        match answer {
            Ok(answer) => facts.push(answer),
            Err(failure) if nodes.len() == 1 => return Err(failure),
            Err(failure) => missing.push(MissingNode { node: node.clone(), why: failure.message }),
        }
        line.say(format!("{} of {} nodes", facts.len() + missing.len(), nodes.len()));
    }
    if let (true, Some(first)) = (facts.is_empty(), missing.first()) {
        let message = format!("no node gave its facts; {}: {}", first.node, first.why);
        return Err(Failure::new(Exit::Unavailable, message));
    }
    let taken = Timestamp::now();
    let snapshot = Snapshot { taken, inventory, facts, missing };
    snapshot.write(folder)?;
    Ok(snapshot.missing)
}
