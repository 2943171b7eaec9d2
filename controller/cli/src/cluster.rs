//! Which Kubernetes cluster is meant, in kubectl's words.

use std::path::PathBuf;

use clap::Args;
use waymark_controller::kubernetes::{Access, Connection, KubernetesError};

use crate::failure::{Exit, Failure};
use crate::values::path;

/// The cluster, by kubectl's flags.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Kube {
    /// The kubeconfig file [default: $KUBECONFIG, else ~/.kube/config].
    #[arg(long, value_name = "FILE", value_parser = path)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The namespace of what names none [default: the context's].
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

impl Kube {
    /// Connects with the rights of the kubeconfig's user.
    pub(crate) async fn connect(&self) -> Result<Connection, Failure> {
        let access = Access { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() };
        Ok(access.connect().await?)
    }
}

impl From<KubernetesError> for Failure {
    fn from(error: KubernetesError) -> Self {
        let exit = match &error {
            KubernetesError::Kubeconfig { .. } | KubernetesError::Credentials { .. } => Exit::Data,
            KubernetesError::NoConfiguration
            | KubernetesError::NoContext { .. }
            | KubernetesError::UnknownContext { .. } => Exit::Usage,
            KubernetesError::Unauthorized { .. } | KubernetesError::Forbidden { .. } => Exit::NoPermission,
            _ => Exit::Unavailable,
        };
        Self::new(exit, error.to_string())
    }
}
