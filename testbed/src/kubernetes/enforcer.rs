//! Enforces NetworkPolicies on a testbed's nodes, as a CNI implementation's agent would: what the CNI plug-ins
//! that connect its pods do not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use waymark_controller::Source;
use waymark_controller::kubernetes::{Access, KubernetesSource};
use waymark_proto::Inventory;

use super::error::KubernetesError;
use super::policies;
use crate::process::announce;
use crate::script::Script;
use crate::state::StateDir;
use crate::{Error, Result};

/// How often it is looked whether something changed, which costs next to nothing.
const PERIOD: Duration = Duration::from_millis(100);

/// Keeps the rules of all nodes of a testbed what the policies say, for ever. Makes `ready` once they are.
pub fn enforce(name: &str, ready: &Path) -> Result<()> {
    let dir = StateDir::new(name)?;
    let state = dir.load()?.ok_or_else(|| Error::NotUp { name: name.to_owned() })?;
    let cluster = state.cluster(name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(Error::file("start", "an asynchronous runtime"))?;
    runtime.block_on(async {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
            Error::Kubernetes(KubernetesError::Api { what: "watch NetworkPolicies".into(), source })
        };
        let access = Access { kubeconfig: Some(dir.kubernetes().kubeconfig()), context: None };
        let connection = access.connect().await.map_err(|error| failed(error.into()))?;
        let source = KubernetesSource::start(connection).await.map_err(|error| failed(error.into()))?;
        let mut applied: BTreeMap<&str, Script> = BTreeMap::new();
        let mut known: Option<Arc<Inventory>> = None;
        loop {
            let inventory = source.inventory().await.map_err(|error| failed(error.into()))?;
            if known.as_ref().is_some_and(|known| Arc::ptr_eq(known, &inventory)) {
                tokio::time::sleep(PERIOD).await;
                continue;
            }
            for node in &cluster.nodes {
                let script = policies::script(&inventory, &node.name, &node.netns);
                if applied.get(node.name.as_str()) == Some(&script) {
                    continue;
                }
                match tokio::task::block_in_place(|| script.run()) {
                    Ok(()) => {
                        println!("{}: {} lines of rules", node.name, script.lines.len());
                        applied.insert(&node.name, script);
                    }
                    Err(error) => eprintln!("enforcer: {}: {error}", node.name),
                }
            }
            if known.is_none() {
                announce(ready)?;
            }
            known = Some(inventory);
        }
    })
}
