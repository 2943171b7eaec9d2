//! BPF programs that devices run.

use std::fmt;

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

impl ProgramPoint {
    /// What such a program is called.
    pub fn title(self) -> &'static str {
        match self {
            Self::XdpDriver => "XDP program",
            Self::XdpGeneric => "generic XDP program",
            Self::XdpHardware => "offloaded XDP program",
            Self::TcIngress => "tc ingress program",
            Self::TcEgress => "tc egress program",
        }
    }
}

impl fmt::Display for DeviceProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.point.title())?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        match self.id {
            Some(id) => write!(f, " (id {id})")?,
            None => f.write_str(" (classic BPF)")?,
        }
        write!(f, " of {}", self.device)
    }
}
