//! Validation without a cluster: two folders of manifests, and of facts if they were saved, compared.
//!
//! Workloads stand for one pod each, made of their template, where the folder has no pod of theirs. What has no
//! address gets one of 198.18.0.0/15 (RFC 2544), which no cluster uses, and counts as ready. Services get the
//! endpoints that they would get, where the folder has none of theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use waymark_proto::{Disposition, Facts, Inventory, Text, text};

use super::choose::{Bounds, choose};
use super::expect::{ExpectError, Expectations};
use super::foresee::{Foresight, foresee};
use super::judge::{Seen, agrees};
use super::manifest::{Document, ManifestError};
use super::objects::complete_endpoints;
use super::report::{Action, ChangedObject, Outcome, PredictionReport, ValidationReport};
use super::world::question;
use super::{differing, shortened};
use crate::kubernetes::{Objects, convert};
use crate::{GatherError, Prediction, Request, predict_offline};

/// Deepest folder within a folder that is looked into.
const DEEPEST: usize = 16;
/// `apiVersion` of saved facts.
const FACTS: &str = "waymark.io/facts/v1alpha1";

/// A folder's objects and facts.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// The objects.
    objects: Objects,
    /// Facts of nodes.
    facts: Vec<Facts>,
    /// How many objects of each other kind there are.
    others: BTreeMap<String, usize>,
    /// Pods of workloads: with the labels by which real ones are told.
    templates: Vec<Pod>,
}

/// Why a folder cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// Not readable.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
    /// Not a manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A manifest that is not of its kind.
    #[error("{origin}: not a {kind}: {reason}")]
    Object {
        /// Which document.
        origin: String,
        /// The kind that it says it is.
        kind: String,
        /// What is wrong.
        reason: String,
    },
    /// Nothing to compare.
    #[error("{} has no manifests: files that end with .yaml, .yml or .json are read", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// The expectations.
    #[error(transparent)]
    Expectations(#[from] ExpectError),
    /// Facts of no use.
    #[error(transparent)]
    Predict(#[from] GatherError),
}

impl Folder {
    /// Reads a folder and those within it. Objects without a namespace are of the given one.
    ///
    /// # Errors
    /// A file that cannot be read or is no manifest, or none at all.
    pub fn read(path: &Path, namespace: &str) -> Result<Self, OfflineError> {
        let mut files = Vec::new();
        find(path, 0, &mut files)?;
        if files.is_empty() {
            return Err(OfflineError::Empty { path: path.to_owned() });
        }
        let mut folder = Self::default();
        for file in files {
            let text = std::fs::read_to_string(&file)
                .map_err(|source| OfflineError::Read { path: file.clone(), source })?;
            let documents = match super::manifest::read(&file.display().to_string(), &text) {
                // A folder may have a file that was emptied.
                Err(ManifestError::Empty { .. }) => continue,
                other => other,
            };
            match documents {
                Ok(documents) => {
                    for document in documents {
                        folder.take(document, namespace)?;
                    }
                }
                // Saved facts have no kind.
                Err(error) => match Facts::from_json(text.as_bytes()) {
                    Ok(facts) if text.contains(FACTS) => folder.facts.push(facts),
                    _ => return Err(error.into()),
                },
            }
        }
        folder.add_templates();
        Ok(folder)
    }

    fn take(&mut self, document: Document, namespace: &str) -> Result<(), OfflineError> {
        let kind = document.value["kind"].as_str().unwrap_or_default().to_owned();
        let objects = &mut self.objects;
        match kind.as_str() {
            "Node" => objects.nodes.push(Arc::new(typed(document, &kind, None)?)),
            "Namespace" => objects.namespaces.push(Arc::new(typed(document, &kind, None)?)),
            "Pod" => objects.pods.push(Arc::new(typed(document, &kind, Some(namespace))?)),
            "Service" => objects.services.push(Arc::new(typed(document, &kind, Some(namespace))?)),
            "EndpointSlice" => objects.slices.push(Arc::new(typed(document, &kind, Some(namespace))?)),
            "NetworkPolicy" => objects.policies.push(Arc::new(typed(document, &kind, Some(namespace))?)),
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
                let template = document.value["spec"]["template"].clone();
                self.take_template(&document, &template, namespace)?;
            }
            "CronJob" => {
                let template = document.value["spec"]["jobTemplate"]["spec"]["template"].clone();
                self.take_template(&document, &template, namespace)?;
            }
            _ => *self.others.entry(kind).or_default() += 1,
        }
        Ok(())
    }

    fn take_template(
        &mut self,
        document: &Document,
        template: &Value,
        namespace: &str,
    ) -> Result<(), OfflineError> {
        let owned =
            document.value["metadata"]["ownerReferences"].as_array().is_some_and(|owners| !owners.is_empty());
        if owned {
            // Its owner is among the manifests, or its pods are.
            return Ok(());
        }
        let kind = document.value["kind"].as_str().unwrap_or_default();
        let metadata = &document.value["metadata"];
        let pod = json!({
            "metadata": {
                "name": metadata["name"], "labels": template["metadata"]["labels"],
                "namespace": metadata["namespace"].as_str().unwrap_or(namespace),
            },
            "spec": template["spec"],
        });
        let origin = document.origin.clone();
        self.templates.push(typed(
            Document { origin, value: pod },
            &format!("{kind} with a pod template"),
            None,
        )?);
        Ok(())
    }

    /// Adds the pods of workloads that have none among the manifests.
    fn add_templates(&mut self) {
        for template in std::mem::take(&mut self.templates) {
            let is_there = self.objects.pods.iter().any(|pod| {
                pod.namespace() == template.namespace()
                    && template.labels().iter().all(|(key, value)| pod.labels().get(key) == Some(value))
            });
            if !is_there || template.labels().is_empty() {
                self.objects.pods.push(Arc::new(template));
            }
        }
    }

    fn inventory(&self, addresses: &Addresses) -> Inventory {
        let mut objects = self.objects.clone();
        addresses.fill(&mut objects);
        complete_endpoints(&mut objects);
        convert(&objects)
    }
}

fn find(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), OfflineError> {
    let wrong = |source| OfflineError::Read { path: path.to_owned(), source };
    let mut entries = std::fs::read_dir(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(wrong)?
        .into_iter()
        .map(|entry| entry.path())
        .collect::<Vec<_>>();
    entries.sort();
    for entry in entries {
        let extension = entry.extension().and_then(|extension| extension.to_str());
        if entry.is_dir() && depth < DEEPEST && !entry.is_symlink() {
            find(&entry, depth + 1, files)?;
        } else if entry.is_file() && matches!(extension, Some("yaml" | "yml" | "json")) {
            files.push(entry);
        }
    }
    Ok(())
}

fn typed<T: DeserializeOwned>(
    document: Document,
    kind: &str,
    namespace: Option<&str>,
) -> Result<T, OfflineError> {
    let Document { origin, mut value } = document;
    let wrong =
        |reason: String| OfflineError::Object { origin: origin.clone(), kind: kind.to_owned(), reason };
    if value["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        return Err(wrong("it has no metadata.name".to_owned()));
    }
    if let Some(namespace) = namespace
        && value["metadata"]["namespace"].as_str().is_none_or(str::is_empty)
    {
        value["metadata"]["namespace"] = namespace.into();
    }
    serde_json::from_value(value).map_err(|error| wrong(error.to_string()))
}

/// Addresses for what has none, the same in both folders.
struct Addresses {
    pods: BTreeMap<(String, String), usize>,
    nodes: BTreeMap<String, usize>,
}

/// The node of pods that have none.
const UNSCHEDULED: &str = "unscheduled";
/// Addresses of pods begin here, those of nodes at the other half of the network.
const POD_BASE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const NODE_BASE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);

impl Addresses {
    fn new(folders: &[&Folder; 2]) -> Self {
        let pods = folders.iter().flat_map(|folder| &folder.objects.pods);
        let names: BTreeSet<_> =
            pods.clone().map(|pod| (pod.namespace().unwrap_or_default(), pod.name_any())).collect();
        let nodes: BTreeSet<String> = pods.map(|pod| node_of(pod).to_owned()).collect();
        Self {
            pods: names.into_iter().enumerate().map(|(index, name)| (name, index)).collect(),
            nodes: nodes.into_iter().enumerate().map(|(index, name)| (name, index)).collect(),
        }
    }

    fn fill(&self, objects: &mut Objects) {
        let known: BTreeSet<String> = objects.nodes.iter().map(|node| node.name_any()).collect();
        let mut missing = BTreeSet::new();
        for pod in &mut objects.pods {
            let pod = Arc::make_mut(pod);
            let key = (pod.namespace().unwrap_or_default(), pod.name_any());
            let node = node_of(pod).to_owned();
            let from_manifest = pod.status.as_ref().is_none_or(|status| status.phase.is_none());
            if from_manifest {
                let index = self.pods.get(&key).copied().unwrap_or_default();
                let ip = nth(POD_BASE, index);
                let status = json!({
                    "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                    "conditions": [{"type": "Ready", "status": "True"}],
                });
                pod.status = serde_json::from_value(status).ok();
                if let Some(spec) = &mut pod.spec {
                    spec.node_name = Some(node.clone());
                }
            }
            if !known.contains(&node) {
                missing.insert(node);
            }
        }
        objects.nodes.extend(missing.into_iter().filter_map(|name| {
            let ip = nth(NODE_BASE, self.nodes.get(&name).copied().unwrap_or_default());
            let addresses = json!([{"type": "InternalIP", "address": ip}]);
            let node = json!({"metadata": {"name": name}, "status": {"addresses": addresses}});
            serde_json::from_value::<Node>(node).ok().map(Arc::new)
        }));
    }
}

fn node_of(pod: &Pod) -> &str {
    let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    name.filter(|name| !name.is_empty()).unwrap_or(UNSCHEDULED)
}

fn nth(base: Ipv4Addr, index: usize) -> String {
    Ipv4Addr::from(u32::from(base).saturating_add(index as u32)).to_string()
}

/// Compares two folders: what the objects mean, and, where facts are given, what the nodes would do.
///
/// # Errors
/// An expectation that fits nothing, or facts that contradict themselves.
pub fn compare_folders(
    from: &Folder,
    to: &Folder,
    expectations: &Expectations,
    bounds: Bounds,
) -> Result<ValidationReport, OfflineError> {
    let addresses = Addresses::new(&[from, to]);
    let inventories = [from.inventory(&addresses), to.inventory(&addresses)];
    let [before, after] = &inventories;
    let changed = differing(&from.objects, &to.objects);
    let foresight = foresee(before, after, &changed);
    let mut report = ValidationReport::new(changes(&from.objects, &to.objects), &foresight);
    for unmet in shortened(expectations.unmet(&foresight.after)?) {
        report.outcome = Outcome::Failed;
        report.failures.push(unmet);
    }
    if !from.facts.is_empty() || !to.facts.is_empty() {
        let samples = Samples { folders: [from, to], inventories: [before, after], foresight: &foresight };
        // Where nothing changes, all may be asked about.
        let touched = if changed.is_empty() { &foresight.namespaces } else { &changed };
        report.predictions = samples.predict(touched, expectations, bounds)?;
        let differ = report.predictions.iter().filter_map(|prediction| {
            let after = prediction.after.filter(|after| *after != Seen::Unseen)?;
            let wrong = !agrees(prediction.intended, after);
            wrong.then(|| {
                text!(validation::ByFacts {
                    pair: prediction.pair.to_string(),
                    intended: prediction.intended.words(),
                    fate: fate_words(after),
                })
            })
        });
        let differ = shortened(differ.collect());
        if !differ.is_empty() {
            report.outcome = Outcome::Failed;
            report.failures.extend(differ);
        }
    }
    let others: BTreeSet<&String> = from.others.keys().chain(to.others.keys()).collect();
    if !others.is_empty() {
        let others: Vec<&str> = others.into_iter().map(String::as_str).collect();
        report.remarks.push(text!(validation::OtherKinds { kinds: others.join(", ") }));
    }
    Ok(report)
}

fn fate_words(seen: Seen) -> Text {
    match seen {
        Seen::Works => text!(validation::FactWorks),
        Seen::Sometimes => text!(validation::FactSometimes),
        Seen::Fails => text!(validation::FactFails),
        Seen::Unseen => text!(validation::FactUnseen),
    }
}

/// The policies and Services that differ.
fn changes(before: &Objects, after: &Objects) -> Vec<ChangedObject> {
    let mut changes = compared("NetworkPolicy", &before.policies, &after.policies);
    changes.extend(compared("Service", &before.services, &after.services));
    changes
}

fn compared<T: ResourceExt + PartialEq>(
    kind: &str,
    before: &[Arc<T>],
    after: &[Arc<T>],
) -> Vec<ChangedObject> {
    type Name = (String, String);
    let named = |objects: &[Arc<T>]| -> Vec<Name> {
        objects.iter().map(|object| (object.namespace().unwrap_or_default(), object.name_any())).collect()
    };
    let at = |objects: &[Arc<T>], names: &[Name], name: &Name| -> Option<usize> {
        names.iter().position(|other| other == name).filter(|index| *index < objects.len())
    };
    let (was, will) = (named(before), named(after));
    let all: BTreeSet<&Name> = was.iter().chain(&will).collect();
    all.into_iter()
        .filter_map(|name| {
            let action = match (at(before, &was, name), at(after, &will, name)) {
                (Some(one), Some(other)) if before[one] == after[other] => return None,
                (Some(_), Some(_)) => Action::Changed,
                (Some(_), None) => Action::Deleted,
                (None, _) => Action::Created,
            };
            Some(ChangedObject {
                object: waymark_proto::ObjectRef::namespaced(kind, &name.0, &name.1),
                action,
            })
        })
        .collect()
}

/// What is needed to simulate some connections.
struct Samples<'a> {
    folders: [&'a Folder; 2],
    inventories: [&'a Inventory; 2],
    foresight: &'a Foresight,
}

impl Samples<'_> {
    fn predict(
        &self,
        touched: &BTreeSet<String>,
        expectations: &Expectations,
        bounds: Bounds,
    ) -> Result<Vec<PredictionReport>, OfflineError> {
        // Nothing is sent, so nobody is disturbed.
        let bounds = Bounds { udp: true, ..bounds };
        let choice = choose(self.foresight, &self.inventories, touched, expectations, bounds);
        let mut predictions = Vec::new();
        for sample in choice.samples {
            let Some(asked) = question(&sample.pair) else { continue };
            let Ok(request) = Request::try_from(asked) else { continue };
            let fate = |side: usize| -> Result<Option<Seen>, OfflineError> {
                let facts = &self.folders[side].facts;
                if facts.is_empty() {
                    return Ok(None);
                }
                match predict_offline(self.inventories[side], facts.clone(), &request) {
                    Ok(prediction) => Ok(Some(fate(&prediction))),
                    // It is on one side only.
                    Err(GatherError::Resolve(_)) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            };
            predictions.push(PredictionReport {
                before: fate(0)?,
                after: fate(1)?,
                intended: sample.predicted,
                pair: sample.pair,
            });
        }
        Ok(predictions)
    }
}

/// What a prediction says about a connection: packets there and answers back.
fn fate(prediction: &Prediction) -> Seen {
    let branches = &prediction.paths.branches;
    let delivered = |branch: &waymark_proto::Branch| {
        let answered = branch.answer.is_empty()
            || branch.answer.iter().any(|answer| answer.path.disposition() == Disposition::Delivered);
        branch.path.disposition() == Disposition::Delivered && answered
    };
    let unknown = |branch: &waymark_proto::Branch| {
        matches!(branch.path.disposition(), Disposition::InsufficientInfo | Disposition::ExitsCluster)
    };
    if branches.is_empty() || branches.iter().any(unknown) {
        Seen::Unseen
    } else if branches.iter().all(delivered) {
        Seen::Works
    } else if branches.iter().any(delivered) {
        Seen::Sometimes
    } else {
        Seen::Fails
    }
}
