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
//!
//! For a cluster of namespaces (`up --kubernetes`), as root:
//! * `cluster`: brings it up
//! * `files`: what it has in its folder
//! * `relay`: the way from the machine to the API server
//! * `objects`: a topology as Kubernetes objects
//! * `apply`: gives them to the server
//! * `kubelet`: runs pods
//! * `policies`: NetworkPolicies as rules
//! * `enforcer`: keeps them on the nodes
//! * [`demo()`]: the four uses, shown
//!
//! * `error`: what can go wrong

mod apply;
mod assets;
mod authority;
mod cluster;
mod crd_server;
mod demo;
mod enforcer;
mod error;
mod files;
mod flags;
mod kubeconfig;
mod kubelet;
mod objects;
mod plane;
mod policies;
mod port;
mod ready;
mod relay;
mod scratch;

pub use assets::{Assets, Program};
pub use crd_server::CrdServer;
pub use demo::demo;
pub use enforcer::enforce;
pub use error::KubernetesError;
pub use files::Files;
pub use kubeconfig::{Credential, User};
pub use kubelet::{Record, kubelet};
pub use plane::{ControlPlane, Options};
pub use relay::relay;

pub(crate) use cluster::{Needs, start};
pub(crate) use kubelet::CniError;
