//! What can go wrong with Kubernetes, one sentence each: what was tried, on what, what happened, what to do.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use kube::runtime::watcher;

/// What is asked of the API, as roles name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read one.
    Get,
    /// Read all.
    List,
    /// Be told of changes.
    Watch,
    /// Make one.
    Create,
    /// Replace one.
    Update,
    /// Change or apply one.
    Patch,
    /// Remove one.
    Delete,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        })
    }
}

/// What to do about a kubeconfig that names no context of its own.
fn choose_of(known: &[String]) -> String {
    match known {
        [] => "it has no contexts at all; name another file by --kubeconfig or $KUBECONFIG".to_owned(),
        known => format!("name one of {} by --context", known.join(", ")),
    }
}

/// Why Kubernetes does not answer as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubernetesError {
    /// Neither a kubeconfig nor a service account.
    #[error(
        "there is no Kubernetes cluster to talk to: name a kubeconfig by --kubeconfig or $KUBECONFIG, or run in a pod with a service account"
    )]
    NoConfiguration,
    /// The kubeconfig cannot be read, or lacks something.
    #[error("cannot use the kubeconfig {origin}: {why}")]
    Kubeconfig {
        /// The file.
        origin: String,
        /// What is wrong.
        why: String,
    },
    /// No context was chosen.
    #[error("the kubeconfig {origin} has no current context: {}", choose_of(known))]
    NoContext {
        /// The file.
        origin: String,
        /// Its contexts.
        known: Vec<String>,
    },
    /// The context is not there.
    #[error("the kubeconfig {origin} has no context {context:?}: it has {}", known.join(", "))]
    UnknownContext {
        /// The file.
        origin: String,
        /// What was asked for.
        context: String,
        /// Its contexts.
        known: Vec<String>,
    },
    /// Certificates or keys of the configuration are of no use.
    #[error("cannot use the credentials of {origin}: {why}")]
    Credentials {
        /// Where they come from.
        origin: String,
        /// What is wrong.
        why: String,
    },
    /// Nobody answers.
    #[error(
        "no Kubernetes API server answers at {address}: {why}; see that it runs, and that the server address of the kubeconfig is its"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// What the operating system says.
        why: String,
    },
    /// Somebody answers whose certificate is not the cluster's.
    #[error(
        "cannot trust the API server at {address}: {why}; see that certificate-authority in the kubeconfig is that of this cluster"
    )]
    Untrusted {
        /// Where.
        address: String,
        /// What is wrong with the certificate.
        why: String,
    },
    /// 401.
    #[error(
        "the Kubernetes API server at {address} does not accept the credentials (401 Unauthorized): the token or client certificate is wrong or has expired; put a new one into the kubeconfig"
    )]
    Unauthorized {
        /// Where.
        address: String,
    },
    /// 403.
    #[error(
        "not permitted to {verb} {resources} ({user}): grant it the verb {verb} on {resources} by a ClusterRole, as the Helm chart does"
    )]
    Forbidden {
        /// What was tried.
        verb: Verb,
        /// On what.
        resources: String,
        /// Who tried it, as the API server says.
        user: String,
    },
    /// 404 of a kind.
    #[error(
        "the Kubernetes API server at {address} does not serve {resource}: it is of another version, or the resource's definition is not installed"
    )]
    NotServed {
        /// Where.
        address: String,
        /// What.
        resource: String,
    },
    /// It takes too long.
    #[error("the Kubernetes API server at {address} did not list {resources} within {} s", after.as_secs())]
    TooSlow {
        /// Where.
        address: String,
        /// What.
        resources: String,
        /// How long it had.
        after: Duration,
    },
    /// Anything else.
    #[error("cannot {verb} {resource} at {address}: {why}")]
    Other {
        /// What was tried.
        verb: Verb,
        /// On what.
        resource: String,
        /// Where.
        address: String,
        /// What happened.
        why: String,
    },
}

impl KubernetesError {
    /// What an error of the client means that came of trying `verb` on `resource` at `address`.
    pub fn new(verb: Verb, resource: &str, address: &str, error: &kube::Error) -> Self {
        let (resource, address) = (resource.to_owned(), address.to_owned());
        match error {
            kube::Error::Api(status) => match status.code {
                401 => Self::Unauthorized { address },
                403 => Self::Forbidden { verb, resources: resource, user: user(&status.message) },
                // A single object that is missing has a name; a kind that is missing has none.
                404 if status.details.as_ref().is_none_or(|details| details.name.is_empty()) => {
                    Self::NotServed { address, resource }
                }
                code => {
                    let message = status.message.lines().next().unwrap_or_default();
                    Self::Other { verb, resource, address, why: format!("{message} ({code})") }
                }
            },
            kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => {
                let why = innermost(error);
                if why.contains("certificate") {
                    Self::Untrusted { address, why }
                } else {
                    Self::Unreachable { address, why }
                }
            }
            other => Self::Other { verb, resource, address, why: innermost(other) },
        }
    }

    /// What an error of a watcher means.
    pub(super) fn of_watcher(resource: &str, address: &str, error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(error) => Self::new(Verb::List, resource, address, error),
            watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
                Self::new(Verb::Watch, resource, address, error)
            }
            watcher::Error::WatchError(status) => {
                Self::new(Verb::Watch, resource, address, &kube::Error::Api(status.clone()))
            }
            other @ watcher::Error::NoResourceVersion => Self::Other {
                verb: Verb::Watch,
                resource: resource.to_owned(),
                address: address.to_owned(),
                why: other.to_string(),
            },
        }
    }

    /// Whether waiting will not help: somebody must grant something first.
    pub(super) fn is_watch_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { verb: Verb::Watch, .. })
    }
}

/// Who was refused: `User "x" cannot list resource …` is how the API server words it.
fn user(message: &str) -> String {
    let quoted = message.split_once("User \"").and_then(|(_, rest)| rest.split_once('"'));
    quoted.map_or_else(|| message.to_owned(), |(name, _)| format!("as user {name}"))
}

/// The words of the first cause, in one line.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn of_status(code: u16, message: &str) -> String {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        let error = kube::Error::Api(Box::new(status));
        KubernetesError::new(Verb::List, "pods", "https://10.0.0.1:6443", &error).to_string()
    }

    #[test]
    fn answers_of_the_server_become_sentences_that_say_what_to_do() {
        let message = r#"pods is forbidden: User "system:serviceaccount:w:x" cannot list resource "pods" in API group "" at the cluster scope"#;
        assert_eq!(
            of_status(403, message),
            "not permitted to list pods (as user system:serviceaccount:w:x): grant it the verb list on pods by a ClusterRole, as the Helm chart does"
        );
        assert!(
            of_status(401, "Unauthorized").contains("https://10.0.0.1:6443 does not accept the credentials")
        );
        assert!(
            of_status(404, "the server could not find the requested resource")
                .contains("does not serve pods")
        );
        assert_eq!(
            of_status(500, "etcdserver: leader changed\nmore"),
            "cannot list pods at https://10.0.0.1:6443: etcdserver: leader changed (500)"
        );
    }

    #[test]
    fn what_became_of_the_connection_is_told_by_its_first_cause() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = kube::Error::Service(Box::new(refused));
        let says = KubernetesError::new(Verb::List, "pods", "https://h:1", &error).to_string();
        assert!(
            says.starts_with("no Kubernetes API server answers at https://h:1: connection refused"),
            "{says}"
        );
        let error = kube::Error::Service("invalid peer certificate: UnknownIssuer".into());
        let says = KubernetesError::new(Verb::List, "pods", "https://h:1", &error).to_string();
        assert!(says.starts_with("cannot trust the API server at https://h:1: invalid peer"), "{says}");
    }
}
