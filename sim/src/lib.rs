//! The predictor: what the machines of a cluster, as they are configured, do with a packet.
//!
//! Pure: no I/O, no clock, no threads; the same facts give the same prediction. The heart is
//! `stage::process`, one step of a walk through the datapath in the kernel's own order.
//!
//! ```
//! use waymark_proto::{Disposition, Flow, Inventory, Place, Protocol};
//! use waymark_sim::{Cluster, predict};
//!
//! let inventory = Inventory::from_json(br#"{"nodes":[{"name":"a","ip":"10.0.0.1"}]}"#)?;
//! let cluster = Cluster::new(&inventory);
//! let [src, dst] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
//! let flow = Flow { src, dst, protocol: Protocol::Tcp, src_port: 40000, dst_port: 80 };
//! let paths = predict(&cluster, &Place::new("a", "host"), &flow);
//! assert_eq!(paths.branches[0].path.disposition(), Disposition::InsufficientInfo);
//! assert_eq!(paths.needs, ["a".into()]); // its facts; add them and predict again
//! # Ok::<(), waymark_proto::InventoryError>(())
//! ```
//!
//! * `cluster`: what is known: an inventory, and the facts of some nodes
//! * `namespace`: one network namespace, arranged for looking up; `sysctls`: its settings
//! * `graph`: who is on a link with whom; `layout`: that, and who has an address, arranged once
//! * `predict`: forward walk and answers; `matrix`: the ends of many
//! * `sender`: what the sender's own kernel makes of a packet by whoever sends it
//! * `walk`: one walk, and the loop that drives it
//! * `stage`: the datapath, a file per stage
//! * `packet`, `conntrack`: what decides a packet's way, and how answers are translated back
//! * `fib`: policy rules and routes; `table`: a routing table
//! * `netfilter`: iptables, nftables and ipset, compiled to one form
//! * `intent`: what the cluster's owner asked for: Services and NetworkPolicies
//! * `error`: what is wrong with facts

mod cluster;
mod conntrack;
mod error;
mod fib;
mod graph;
mod intent;
mod layout;
mod matrix;
mod namespace;
mod netfilter;
mod packet;
mod predict;
mod sender;
mod stage;
mod sysctls;
mod table;
mod walk;

pub use cluster::{Cluster, Compiled};
pub use error::SimError;
pub use intent::{Change, Destination, Pair, Reach, Reachability, Survey, Target, Traffic, intend, selects};
pub use matrix::{Aim, Failure, Outcome, Predictor, Row};
pub use netfilter::Membership;
pub use predict::{Manner, predict, predict_as};
