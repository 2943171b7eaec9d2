//! Sockets that receive, and who has them open.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Protocol;

/// A socket that receives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Socket {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Bound address; unspecified is any. An IPv6 unspecified address may take IPv4 too, see `v6only`.
    pub address: IpAddr,
    /// Bound port.
    pub port: u16,
    /// For IPv6 sockets: takes no IPv4.
    #[serde(default)]
    pub v6only: bool,
    /// Index of the device it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<u32>,
    /// Who has it open; not known of sockets of the kernel's own, nor where processes cannot be looked into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<SocketHolder>,
}

/// A process that has a socket open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SocketHolder {
    /// Its number, as the agent sees it.
    pub pid: u32,
    /// Name of its program (`/proc/PID/comm`).
    pub command: String,
    /// Its control group, which names pod and container; of version 1 that of the first hierarchy in which it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}
