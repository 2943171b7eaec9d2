//! The node agent: injects marked packets, traces them, collects facts.
//!
//! A node is a network namespace with its pods' namespaces. The agent finds them by its inventory, enters
//! them as its orders need, and leaves nothing behind: programs, tables and sockets are owned by file
//! descriptors and end with the process.
//!
//! * [`agent`]: the agent of one node, the orders as methods
//! * [`link`]: its line to the controller
//! * [`inject`]: marked packets by raw socket
//! * [`tracer`]: what tracepoints and netfilter saw of them
//! * [`nftrace`]: netfilter's own trace
//! * [`live`]: packets that nobody marked
//! * `guard`: undoes what would outlive a killed agent
//! * `reports`: the sockets to which it reports
//! * `nflog`: packets that netfilter logs
//! * `xtrace`: that of iptables-legacy, which is part of it
//! * [`watch`]: continuous probing
//! * [`metrics`]: for Prometheus
//! * [`facts`]: what the kernel holds that decides a packet's way
//! * [`doctor`]: what this machine lacks
//! * [`pods`]: the namespaces of a node and of its pods, found by what is known of them
//! * [`netns`]: namespaces by descriptor

pub mod agent;
pub mod doctor;
pub mod facts;
mod guard;
pub mod inject;
pub mod link;
pub mod live;
pub mod metrics;
pub mod netns;
mod nflog;
pub mod nftrace;
pub mod pods;
mod reports;
pub mod tracer;
pub mod watch;
mod xtrace;
