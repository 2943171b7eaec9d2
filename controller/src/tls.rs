//! TLS between the controller and everybody who dials in over TCP.
//!
//! The controller has a CA of its own and trusts nobody else's. It makes one certificate that all agents
//! share and one that all clients share, keeps them in a [`Store`], and renews them before they expire. Its own
//! certificate stays in memory and is made anew at every start.
//!
//! What a certificate permits is written in it: an agent's may attach an agent and nothing else, a client's may
//! ask and not attach. *Known limit*: all agents show the same certificate, so the controller cannot tell one
//! node's agent from another's; whoever has the agents' key can pose as any node.
//!
//! * `authority`: the CA, and what it issues; pure
//! * `card`: what a certificate says of its owner
//! * `store`: where certificates are kept; `folder`: files
//! * `keeper`: makes and renews what is in a store
//! * `accept`: handshakes
//! * `gate`: who may call what

mod accept;
mod authority;
mod card;
mod folder;
mod gate;
mod keeper;
mod store;

pub use accept::incoming;
pub use authority::{AUTHORITY_LIFETIME, Authority, AuthorityError, LIFETIME, RENEWAL, Role};
pub use folder::FolderStore;
pub use gate::{Admission, Gate};
pub use keeper::{Keeper, KeeperError, Names};
pub use store::{Document, Found, Saved, Store, StoreError};
