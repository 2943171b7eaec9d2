//! Who may call what: an agent's certificate attaches, a client's asks.

use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::authority::Role;
use super::card::Card;

/// How those who got through to the listener are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// By the certificate that they showed.
    Certificate,
    /// Not at all: the socket's file has an owner, or `--insecure` was said.
    Everybody,
}

/// Stands before a service.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    admission: Admission,
    role: Role,
}

impl Gate {
    /// A gate that lets one role through.
    pub fn new(admission: Admission, role: Role) -> Self {
        Self { admission, role }
    }
}

impl Interceptor for Gate {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if self.admission == Admission::Everybody {
            return Ok(request);
        }
        let certificates = request.peer_certs();
        let card = certificates.as_deref().and_then(|certificates| certificates.first()).and_then(Card::of);
        match (card.as_ref().and_then(Role::of), self.role) {
            (Some(role), wanted) if role == wanted => Ok(request),
            (Some(Role::Agent), Role::Client) => Err(Status::permission_denied(
                "the certificate is the agents', which may not ask: use the clients'",
            )),
            (Some(Role::Client), Role::Agent) => Err(Status::permission_denied(
                "the certificate is the clients', which may not attach an agent: use the agents'",
            )),
            (_, _) => Err(Status::unauthenticated("the certificate gives no role")),
        }
    }
}
