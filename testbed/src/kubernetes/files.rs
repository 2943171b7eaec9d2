//! What a testbed with a control plane has in its folder, beside what every testbed has.
//!
//! | path | what |
//! |---|---|
//! | `kubeconfig` | for the machine's own programs: through the relay |
//! | `control/` | the control plane's keys and data, and kubeconfigs for programs on the nodes |
//! | `pods/` | a link to each pod's network namespace |
//! | `records/` | what the kubelet knows of each pod, as JSON |
//! | `cni/` | the addresses that are taken |

use std::path::{Path, PathBuf};

/// The paths.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// For the machine's own programs, with which everything is allowed.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// For programs on the nodes, with which everything is allowed.
    pub fn inner_kubeconfig(&self) -> PathBuf {
        self.control().join("admin.kubeconfig")
    }

    /// For kube-proxy.
    pub(crate) fn proxy_kubeconfig(&self) -> PathBuf {
        self.control().join("proxy.kubeconfig")
    }

    /// The control plane's own.
    pub(crate) fn control(&self) -> PathBuf {
        self.folder.join("control")
    }

    /// Where the namespaces of the pods are, and those of no other testbed.
    pub fn pods(&self) -> PathBuf {
        self.folder.join("pods")
    }

    /// What the kubelet knows.
    pub(crate) fn records(&self) -> PathBuf {
        self.folder.join("records")
    }

    /// The data of the CNI plug-ins.
    pub(crate) fn cni(&self) -> PathBuf {
        self.folder.join("cni")
    }

    /// All folders.
    pub(crate) fn folders(&self) -> [PathBuf; 4] {
        [self.control(), self.pods(), self.records(), self.cni()]
    }
}
