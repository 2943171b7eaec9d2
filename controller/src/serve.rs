//! Serving agents and clients on a listener, each behind the gate that is theirs.

use std::future::Future;

use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use waymark_proto::KEEP_ALIVE;

use crate::api::Api;
use crate::hub::Hub;
use crate::listen::Listener;
use crate::tls::{Admission, Gate, Keeper, Role, incoming};

/// Who is let in.
pub enum Security {
    /// Everybody who can reach the listener: a unix socket's file has an owner, plaintext TCP was asked for.
    Open,
    /// Who shows a certificate, for what it permits.
    Certificates(Box<Keeper>),
}

/// Serves until `shutdown`, and until the calls that are under way then have ended.
///
/// # Errors
/// The transport's.
///
/// # Panics
/// If a TLS listener comes without certificates: that is a mistake of the caller.
pub async fn serve(
    listener: Listener,
    security: Security,
    hub: &Hub,
    api: &Api,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let admission = match security {
        Security::Open => Admission::Everybody,
        Security::Certificates(_) => Admission::Certificate,
    };
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(InterceptedService::new(hub.service(), Gate::new(admission, Role::Agent)))
        .add_service(InterceptedService::new(api.service(), Gate::new(admission, Role::Client)));
    match (listener, security) {
        (Listener::Unix(listener, file), _) => {
            let outcome =
                router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown).await;
            drop(file);
            outcome
        }
        (Listener::Tcp(listener), _) => {
            router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown).await
        }
        (Listener::Tls(listener), Security::Certificates(keeper)) => {
            let connections = incoming(listener, keeper.server());
            tokio::select! {
                outcome = router.serve_with_incoming_shutdown(connections, shutdown) => outcome,
                never = keeper.run() => match never {},
            }
        }
        (Listener::Tls(_), Security::Open) => unreachable!("a TLS listener without certificates"),
    }
}
