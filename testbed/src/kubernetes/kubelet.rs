//! A kubelet for all nodes of a testbed: one process that registers them, makes the namespaces of the pods
//! that are to run on them with real CNI plug-ins, runs a server on the ports that their containers declare,
//! and keeps their status. It also says on which node a pod runs that names none, as a scheduler does.
//!
//! What a pod's image is makes no difference, and no probe is run: a pod is ready when its server listens.
//!
//! * `decide`: what to do about a pod; pure
//! * `sandbox`: makes and removes what a pod is
//! * `cni`: calls the plug-ins
//! * `record`: what is known of a pod

mod cni;
mod decide;
mod record;
mod sandbox;

use std::collections::HashMap;
use std::path::Path;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector::Lookup};
use serde_json::json;

use self::decide::{Fate, Held, Step, decide, status};
use self::sandbox::Sandboxes;
use super::objects;
use super::ready::client;
use crate::process::announce;
use crate::programs::Programs;
use crate::state::StateDir;
use crate::{Error, Result};

pub(crate) use cni::{Cni, CniError};
pub use record::Record;

/// Runs the kubelet of a testbed for ever. Makes `ready` once the nodes are registered and the pods are
/// watched.
pub fn kubelet(name: &str, ready: &Path) -> Result<()> {
    let dir = StateDir::new(name)?;
    let state = dir.load()?.ok_or_else(|| Error::NotUp { name: name.to_owned() })?;
    let sandboxes = Sandboxes::new(dir.clone(), state.cluster(name), &Programs::find(None)?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(Error::file("start", "an asynchronous runtime"))?;
    runtime.block_on(async {
        let client = client(&dir.kubernetes().kubeconfig()).await?;
        let kubelet = Kubelet { client, sandboxes, held: HashMap::new(), turn: 0 };
        kubelet.run(ready).await
    })
}

/// The time, as Kubernetes writes it.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

struct Kubelet {
    client: kube::Client,
    sandboxes: Sandboxes,
    /// What there is of the pods, by their identity.
    held: HashMap<String, Held>,
    /// How many pods were bound.
    turn: usize,
}

impl Kubelet {
    async fn run(mut self, ready: &Path) -> Result<()> {
        self.register().await?;
        let pods = Api::<Pod>::all(self.client.clone());
        let events = watcher(pods, watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(pod) | Event::InitApply(pod)) => self.sync(&pod).await,
                Ok(Event::Delete(pod)) => self.end(&pod),
                Ok(Event::InitDone) => announce(ready)?,
                Ok(Event::Init) => {}
                Err(error) => eprintln!("kubelet: watching pods: {error}"),
            }
        }
        Ok(())
    }

    /// Says that the nodes are there and well.
    async fn register(&self) -> Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        for plan in &self.sandboxes.cluster().nodes {
            let failed = |error: kube::Error| {
                Error::Kubernetes(super::KubernetesError::Api {
                    what: format!("register node {}", plan.name),
                    source: Box::new(error),
                })
            };
            nodes.create(&PostParams::default(), &objects::node(plan)).await.map_err(failed)?;
            let status = Patch::Merge(objects::node_status(plan, &now()));
            nodes.patch_status(&plan.name, &PatchParams::default(), &status).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Does what is to be done about a pod; what fails is told in the log and in the pod's status.
    async fn sync(&mut self, pod: &Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let held = self.held.get(&uid).copied().unwrap_or(Held::Nothing);
        let done = match decide(pod, held, &self.sandboxes.node_names(), self.turn) {
            Step::Rest => Ok(()),
            Step::Bind(node) => self.bind(pod, &node).await,
            Step::Start(node) => self.start(pod, &node).await,
            Step::Stop => {
                self.end(pod);
                self.release(pod).await
            }
        };
        if let Err(error) = done {
            eprintln!("kubelet: pod {}: {error}", pod.to_object_ref(()));
        }
    }

    fn pods(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or("default"))
    }

    async fn bind(&mut self, pod: &Pod, node: &str) -> std::result::Result<(), kube::Error> {
        self.turn += 1;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": { "name": name, "namespace": pod.metadata.namespace },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        let bound: serde_json::Value =
            self.pods(pod).create_subresource("binding", name, &PostParams::default(), &binding).await?;
        drop(bound);
        Ok(())
    }

    async fn start(&mut self, pod: &Pod, node: &str) -> std::result::Result<(), kube::Error> {
        let started = tokio::task::block_in_place(|| self.sandboxes.start(pod, node));
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let message;
        let fate = match started {
            Ok(ip) => Fate::Runs(ip),
            Err(error) => {
                message = error.to_string();
                Fate::Waits(&message)
            }
        };
        self.held.insert(uid, if matches!(fate, Fate::Runs(_)) { Held::Running } else { Held::Failed });
        let host = self.sandboxes.host_ip(node);
        let patch = Patch::Strategic(status(pod, host, &fate, &now()));
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        self.pods(pod).patch_status(name, &PatchParams::default(), &patch).await.map(drop)
    }

    /// Removes what there is of a pod.
    fn end(&mut self, pod: &Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.held.remove(&uid);
        if let Err(error) = tokio::task::block_in_place(|| self.sandboxes.stop(&uid)) {
            eprintln!("kubelet: ending pod {}: {error}", pod.to_object_ref(()));
        }
    }

    /// Lets the object go, now that nothing is left of the pod.
    async fn release(&self, pod: &Pod) -> std::result::Result<(), kube::Error> {
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match self.pods(pod).delete(name, &params.grace_period(0)).await {
            // It, or a newer one of its name, is what others deal with.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            released => released.map(drop),
        }
    }
}
