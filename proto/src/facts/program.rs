//! BPF programs that devices run.

use serde::{Deserialize, Serialize};

/// A BPF program that a device runs, which may drop what comes by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceProgram {
    /// The device.
    pub device: String,
    /// Where it runs.
    pub point: ProgramPoint,
    /// Its number in the kernel; a classic BPF filter has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// Its name, if the kernel tells one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Where a device runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProgramPoint {
    /// In the driver, before there is a packet buffer.
    XdpDriver,
    /// In the stack, before all else.
    XdpGeneric,
    /// On the card.
    XdpHardware,
    /// Where packets come in: a classifier of clsact or ingress, or tcx.
    TcIngress,
    /// Where packets go out: a classifier of clsact, or tcx.
    TcEgress,
}
