//! A classifier at a device's tcx, which drops every IP packet: no tool of this time attaches one.
//!
//! The program goes with the process.

use std::path::Path;

use aya::Ebpf;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use serde::{Deserialize, Serialize};

use crate::bpf::OBJECT;
use crate::process::announce;
use crate::{Error, Result};

/// The program's name in the object.
const PROGRAM: &str = "wm_tcx_drop";

/// A side of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Where packets come in.
    Ingress,
    /// Where packets go out.
    Egress,
}

/// The arguments of this program with which it drops at a side of `device`.
pub(crate) fn command(device: &str, side: Side) -> Vec<String> {
    let side = if side == Side::Ingress { "ingress" } else { "egress" };
    ["tcx", "--device", device, "--side", side].map(str::to_owned).into()
}

/// Drops every IP packet at a side of a device of this namespace, says so by making `ready`, and does it for ever.
pub fn drop_all(device: &str, side: Side, ready: &Path) -> Result<()> {
    let failed = |error: &dyn std::error::Error| {
        Error::file("attach a program to", device)(std::io::Error::other(error.to_string()))
    };
    let mut object = Ebpf::load(OBJECT).map_err(|error| failed(&error))?;
    attach(&mut object, device, side).map_err(|error| failed(&error))?;
    announce(ready)?;
    loop {
        std::thread::park();
    }
}

fn attach(object: &mut Ebpf, device: &str, side: Side) -> std::result::Result<(), ProgramError> {
    let program = object.program_mut(PROGRAM).expect("the object has the program");
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()?;
    let side = match side {
        Side::Ingress => TcAttachType::Ingress,
        Side::Egress => TcAttachType::Egress,
    };
    program.attach_with_options(device, side, TcAttachOptions::TcxOrder(LinkOrder::default())).map(drop)
}
