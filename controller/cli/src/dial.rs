//! A controller on the other side of a connection, which may break at any time.

use std::error::Error;

use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use waymark_controller::MAX_MESSAGE;
use waymark_controller::kubernetes::SecretStore;
use waymark_controller::tls::{Role, StoreError};
use waymark_proto::rpc::waymark_client::WaymarkClient;
use waymark_proto::{Credentials, CredentialsError, Dial, DialError, Endpoint, Plaintext, Trouble};

use crate::args::Line;
use crate::cluster::Kube;
use crate::failure::{Exit, Failure};

/// A controller that was dialled.
pub(crate) struct Controller {
    dial: Dial,
    client: WaymarkClient<Channel>,
}

impl Controller {
    /// Dials it.
    pub(crate) async fn dial(line: &Line) -> Result<Self, Failure> {
        line.kube.check().await?;
        let plaintext = if line.insecure { Plaintext::Accepted } else { Plaintext::Refused };
        let credentials = match (&line.tls, &line.tls_secret) {
            (Some(folder), _) => Some(Credentials::Folder(folder.clone())),
            (None, Some(namespace)) => Some(of_secret(namespace, &line.kube).await?),
            (None, None) => None,
        };
        let dial = Dial::new(line.controller.clone(), credentials, plaintext).map_err(undialled)?;
        let channel = dial.connect().await.map_err(undialled)?;
        let client = WaymarkClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Ok(Self { dial, client })
    }

    /// Calls it.
    pub(crate) async fn ask<T>(
        &self,
        call: impl AsyncFnOnce(WaymarkClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let answer = call(self.client.clone()).await;
        answer.map(Response::into_inner).map_err(|status| self.failure(status, false))
    }

    /// A client of it, for calls whose failures are told apart by their caller.
    pub(crate) fn client(&self) -> WaymarkClient<Channel> {
        self.client.clone()
    }

    /// Whether a call ended because the controller is away, and not by its answer.
    pub(crate) fn is_broken(status: &Status) -> bool {
        broken(status)
    }

    /// What to say when a call ends like this; `begun` if some of its answer was there already.
    pub(crate) fn failure(&self, status: Status, begun: bool) -> Failure {
        if let Some(refusal) = self.dial.refusal(&status) {
            return undialled(refusal);
        }
        let address = self.dial.endpoint();
        match (broken(&status), begun) {
            (false, _) => status.into(),
            (true, false) => absent(address),
            (true, true) => Failure::new(
                Exit::Unavailable,
                format!("the controller at {address} went away in the middle of the check"),
            ),
        }
    }
}

/// The clients' certificate as the controller of this namespace keeps it.
async fn of_secret(namespace: &str, kube: &Kube) -> Result<Credentials, Failure> {
    let store = SecretStore::new(kube.connect().await?, namespace);
    store.credentials(Role::Client).await.map_err(|error| {
        let message = error.to_string();
        let exit = match error {
            StoreError::Kubernetes { source, .. } => Failure::from(source).exit,
            _ => Exit::Unavailable,
        };
        Failure::new(exit, message)
    })
}

/// What to say of a controller that could not be dialled.
#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
fn undialled(error: DialError) -> Failure {
    let exit = match &error {
        DialError::Transport { endpoint, source } if permission_denied(source) => {
            return Failure::new(
                Exit::NoPermission,
                format!("not permitted to connect to {endpoint}: run as root or as its owner"),
            );
        }
        DialError::Transport { endpoint, .. } => return absent(endpoint),
        DialError::NoCertificate { .. }
        | DialError::UselessCertificate { .. }
        | DialError::Plaintext { .. } => Exit::Usage,
        DialError::Credentials(CredentialsError::Missing { .. }) => Exit::NoInput,
        DialError::Credentials(CredentialsError::Read { source, .. })
            if source.kind() != std::io::ErrorKind::PermissionDenied =>
        {
            Exit::NoInput
        }
        DialError::Credentials(CredentialsError::Read { .. } | CredentialsError::Exposed { .. }) => {
            Exit::NoPermission
        }
        DialError::Credentials(CredentialsError::Malformed { .. } | CredentialsError::Mismatch { .. }) => {
            Exit::Data
        }
        DialError::Security { trouble: Trouble::NotTls | Trouble::NeedsTls, .. } => Exit::Unavailable,
        DialError::Security { .. } => Exit::NoPermission,
    };
    Failure::new(exit, error.to_string())
}

fn absent(address: &Endpoint) -> Failure {
    let message = format!(
        "no controller answers at {address}: start one with `waymark-controller run --inventory FILE --listen {address}`, name another with --controller, or let check, trace, predict and facts do without by --local --inventory FILE"
    );
    Failure::new(Exit::Unavailable, message)
}

/// Whether this is no answer of the controller, but what became of the connection. Only a status that was
/// made on this side has a source; tonic drops that of some, which have codes or words that no controller
/// sends.
fn broken(status: &Status) -> bool {
    status.source().is_some()
        || matches!(status.code(), Code::Unknown | Code::Cancelled)
        || ["h2 protocol error", "http2 error", "operation timed out", "connection error"]
            .iter()
            .any(|words| status.message().starts_with(words))
}

fn permission_denied(error: &(dyn Error + 'static)) -> bool {
    let denied = error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
    denied || error.source().is_some_and(permission_denied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_controller_says_is_told_from_what_became_of_it() {
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let mut lost = Status::unavailable("tcp connect error");
        lost.set_source(std::sync::Arc::new(reset));
        let transport = Status::unknown("transport error");
        for status in [lost, transport, Status::internal("h2 protocol error: http2 error")] {
            assert!(broken(&status), "{status}");
        }
        for status in [
            Status::unavailable("no agent is attached for node n1"),
            Status::invalid_argument("there is no pod a/b"),
            Status::internal("no random numbers: none"),
        ] {
            assert!(!broken(&status), "{status}");
        }
    }
}
