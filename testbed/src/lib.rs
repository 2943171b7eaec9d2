//! Testbeds: clusters of network namespaces, faults that are put into them on purpose, and how well
//! Waymark says where those are.
//!
//! A testbed looks like a Kubernetes cluster to everything that looks at it: nodes with bridges, VXLAN
//! devices or per-pod routes as the common CNIs make them, pods that really listen, Services as
//! kube-proxy writes them, and an underlay that nobody may look into. It needs no Kubernetes, only root;
//! but it can have a real control plane, which then says what is in it.
//!
//! ```no_run
//! use waymark_testbed::{Control, Dataplane, Instance, Programs, Proxy, Topology, UpOptions};
//!
//! let instance = Instance::new("mine", Programs::find(None)?)?;
//! let options = UpOptions {
//!     topology: Topology::default(),
//!     dataplane: Dataplane::BridgeVxlan,
//!     proxy: Proxy::Iptables,
//!     control: Control::Inventory,
//!     agents: true,
//! };
//! instance.up(&options)?;
//! let guard = instance.inject(waymark_testbed::fault("wrong-vni")?)?;
//! drop(guard); // undoes it
//! instance.down()?;
//! # Ok::<(), waymark_testbed::Error>(())
//! ```
//!
//! What is there:
//! * `topology`: the file that says which nodes, pods and Services
//! * `plan`: names, addresses and devices that follow from it
//! * `dataplane`: the scripts that make devices and routes
//! * `proxy`: the scripts that make Services, in two of kube-proxy's modes
//!
//! How it comes to be:
//! * `script`: what configures a namespace, and the one place that runs it
//! * `conntrack`: forgetting connections
//! * `namespace`: named namespaces
//! * `process`: processes that outlive their starter
//! * `server`: what a pod runs
//! * `bpf`, `cgroup`, `tcx`: programs that faults attach
//! * `impair`: an underlay that delays, spoils, doubles and confuses frames
//! * `programs`: where the other programs are
//! * `state`: what is known between two commands
//! * `preflight`: what must be there before
//! * [`kubernetes`]: real control planes
//! * `instance`: up and down
//! * `interrupt`: Ctrl-C
//!
//! What it is for:
//! * `fault`: the catalogue, each with the fault point that Waymark must name
//! * `check`: runs the real client
//! * `healthy`: flows that must be reachable
//! * `accuracy`: the catalogue against the answers
//! * `fuzz`: the predictor against the kernel, with random configurations and packets
//! * `record`: the same as recordings that can be replayed
//! * `demo`: one of each, for people
//! * `status`: what there is, as a table
//! * `tell`: lines for people
//! * `exec`: a command inside a node or pod

mod accuracy;
mod bpf;
mod cgroup;
mod check;
mod conntrack;
mod dataplane;
mod demo;
mod error;
mod exec;
mod fault;
mod fuzz;
mod healthy;
mod impair;
mod instance;
pub mod interrupt;
pub mod kubernetes;
mod namespace;
mod plan;
mod preflight;
mod process;
mod programs;
mod proxy;
mod record;
mod script;
mod server;
mod state;
mod status;
mod tcx;
mod tell;
mod topology;

pub use accuracy::{
    AccuracyOptions, Answer, Choice, DataplaneReport, FaultReport, HealthyReport, Report, accuracy,
    categories,
};
pub use check::Probe;
pub use demo::demo;
pub use error::{Error, Result};
pub use exec::exec;
pub use fault::{
    Act, Expected, Fault, Helper, Injected, Pair, Symptom, all as faults, fault, pairs, table as fault_table,
};
pub use fuzz::{FuzzFailure, FuzzOptions, FuzzReport, check_fixture, fuzz, fuzz_case};
pub use healthy::flows as healthy_flows;
pub use impair::{Impairment, relay as impair};
pub use instance::{AGENT_METRICS, Instance, UpOptions};
pub use plan::{Cluster, Control, Dataplane, NodePlan, PodPlan, Proxy};
pub use process::detach;
pub use programs::Programs;
pub use proxy::iptables_rules as iptables_of_services;
pub use record::{RecordOptions, record};
pub use script::{Script, Tool};
pub use server::{Manner, serve};
pub use state::{ActiveFault, DEFAULT_NAME, State, StateDir};
pub use status::render as status_table;
pub use tcx::{Side, drop_all as tcx};
pub use tell::{note, say};
pub use topology::{BackendSpec, NodeSpec, PodSpec, ServiceSpec, Topology, TopologyError};
