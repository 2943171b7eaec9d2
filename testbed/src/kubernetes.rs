//! Real Kubernetes control planes: etcd, kube-apiserver, kube-controller-manager, kube-proxy.
//!
//! For tests of one API server, without root:
//!
//! ```no_run
//! use waymark_testbed::kubernetes::{ControlPlane, Options, User};
//!
//! let plane = ControlPlane::start(&Options::default())?;
//! let admin = plane.kubeconfig();
//! let alice = plane.user(&User::new("alice").in_group("developers"))?;
//! println!("kubectl --kubeconfig {} get pods", admin.display());
//! drop(plane); // ends the processes and removes the folder; so does the end of this process
//! # drop(alice);
//! # Ok::<(), waymark_testbed::kubernetes::KubernetesError>(())
//! ```
//!
//! * `assets`: where the programs are
//! * `authority`: certificates
//! * `kubeconfig`: how clients find the server, and as whom
//! * `flags`: the programs' command lines
//! * `port`: ports that nobody else takes
//! * `scratch`: a folder and processes that go with this process
//! * `ready`: waits for a server
//! * `plane`: all that together, for tests
//! * `crd_server`: a server of a current version beside it, for custom resources
//! * `error`: what can go wrong

mod assets;
mod authority;
mod crd_server;
mod error;
mod flags;
mod kubeconfig;
mod plane;
mod port;
mod ready;
mod scratch;

pub use assets::{Assets, Program};
pub use crd_server::CrdServer;
pub use error::KubernetesError;
pub use kubeconfig::{Credential, User};
pub use plane::{ControlPlane, Options};
