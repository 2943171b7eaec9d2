//! Which Kubernetes cluster is meant, in kubectl's words.

use std::path::PathBuf;

use clap::Args;
use waymark_controller::kubernetes::{Access, Connection, KubernetesError, pod_of_deployment};

use crate::failure::{Exit, Failure};
use crate::names::Name;
use crate::values::path;

/// The cluster, by kubectl's flags.
#[derive(Clone, Debug, Args)]
pub(crate) struct Kube {
    /// The kubeconfig file [default: $KUBECONFIG, else ~/.kube/config].
    #[arg(long, value_name = "FILE", value_parser = path)]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// The namespace by kubectl's flag, for commands with names in them.
#[derive(Clone, Debug, Args)]
pub(crate) struct Namespace {
    /// The namespace of what names none [default: the context's].
    #[arg(id = "namespace", short = 'n', long = "namespace", value_name = "NAMESPACE")]
    pub(crate) name: Option<String>,
}

impl Kube {
    /// Connects with the rights of the kubeconfig's user.
    pub(crate) async fn connect(&self) -> Result<Connection, Failure> {
        Ok(self.access().connect().await?)
    }

    fn access(&self) -> Access {
        Access { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() }
    }

    /// Tells a mistake in what was said, whether it is needed or not.
    pub(crate) async fn check(&self) -> Result<(), Failure> {
        if self.kubeconfig.is_some() || self.context.is_some() {
            self.access().namespace().await?;
        }
        Ok(())
    }

    /// Completes targets as kubectl would: the namespace is that of the flag, else that of the context; a
    /// Deployment becomes one of its pods. Where there is no kubeconfig and no flag, they stay as they are.
    pub(crate) async fn complete(
        &self,
        flag: &Namespace,
        targets: impl IntoIterator<Item = &mut String>,
    ) -> Result<(), Failure> {
        self.check().await?;
        for target in targets {
            let whole = match Name::read(target) {
                Name::Whole => continue,
                Name::Short { kind, rest } => match self.namespace(flag).await? {
                    Some(namespace) => format!("{kind}/{namespace}/{rest}"),
                    None => continue,
                },
                Name::Deployment { namespace, name, port } => {
                    let connection = self.connect().await?;
                    let namespace = namespace.or(flag.name.as_deref()).unwrap_or(&connection.namespace);
                    let pod = pod_of_deployment(&connection, namespace, name).await?;
                    format!("pod/{namespace}/{pod}{port}")
                }
            };
            *target = whole;
        }
        Ok(())
    }

    /// The namespace of what names none.
    async fn namespace(&self, flag: &Namespace) -> Result<Option<String>, Failure> {
        match &flag.name {
            Some(namespace) => Ok(Some(namespace.clone())),
            None => Ok(self.access().namespace().await?),
        }
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
