//! What the kubelet knows of a pod: written before anything is made, so that whatever is made can be found.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kubernetes::error::{KubernetesError, Result};

/// A pod's sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// Its identity in Kubernetes.
    pub uid: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The node it runs on.
    pub node: String,
    /// Its network namespace: the node's own for a hostNetwork pod.
    pub netns: String,
    /// Whether that is its node's.
    pub host_network: bool,
    /// Its address, once it has one.
    pub ip: Option<Ipv4Addr>,
    /// Its hostPorts, as the plug-in takes them.
    pub port_mappings: Vec<Value>,
    /// What the CNI plug-ins made of it.
    pub result: Option<Value>,
}

impl Record {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The role of what the pod runs. A dot would mean a draft.
    pub fn role(&self) -> String {
        format!("serve-{}_{}", self.namespace, self.name)
    }

    /// What an inventory says of it, once it has an address.
    pub(crate) fn pod(&self) -> Option<waymark_proto::Pod> {
        Some(waymark_proto::Pod {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            node: self.node.as_str().into(),
            netns: self.netns.as_str().into(),
            ip: self.ip?.into(),
            ip6: None,
            device: Some(crate::plan::ETH0.into()),
            host_device: None,
            labels: std::collections::BTreeMap::new(),
            ports: Vec::new(),
            host_network: self.host_network,
        })
    }

    /// Kubernetes names hold no underscore.
    fn file(&self) -> String {
        format!("{}_{}.json", self.namespace, self.name)
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(self.file());
        let draft = path.with_extension("draft");
        let json = serde_json::to_vec_pretty(self).expect("names and numbers are always JSON");
        fs::write(&draft, json).map_err(KubernetesError::file("write", &draft))?;
        fs::rename(&draft, &path).map_err(KubernetesError::file("write", &path))
    }

    pub(crate) fn remove(&self, folder: &Path) -> Result<()> {
        let path = folder.join(self.file());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(KubernetesError::file("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// All that are there and whole, by name. A file that is not belongs to a write that was cut short.
    pub(crate) fn all(folder: &Path) -> Vec<Self> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let paths =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json"));
        let mut records: Vec<Self> =
            paths.filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect();
        records.sort_by_key(Self::full_name);
        records
    }
}
