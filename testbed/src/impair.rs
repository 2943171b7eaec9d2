//! An underlay that does not lose by a rule but in the manner of wires: late, twice, spoilt, out of order.
//!
//! Kernels without netem cannot do that by themselves. So frames are led out of the kernel into a relay, a process
//! with a TAP device in the underlay's namespace, and from it on to where they were going:
//!
//! ```text
//!          ┌ ingress: fwd ┐                      ┌ ingress: fwd ┐
//! node1 ──▶ port of node1 ────▶ TAP ──▶ relay ──▶ TAP ────▶ port of node2 ──▶ node2
//! ```
//!
//! Two nftables rules lead them, so that the relay sees those that match and no others: everything else goes its
//! usual way, link-layer addresses are not learnt anew, and offloads are as they were. A TAP device offers none, so
//! that the kernel writes the checksums of what it hands out. What comes back has a buffer of its own, as what
//! comes from another machine has: a tracer cannot follow it but by its marker.
//!
//! The device goes with the process, and the rules with the table that undoing takes away.
//!
//! * `line`: what becomes of each frame; pure
//! * `tap`: the device

mod line;
mod tap;

use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::process::announce;
use crate::{Error, Result};
use line::Line;
use tap::Tap;

/// What a relay does to frames. Shares are in frames of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Impairment {
    /// How long every frame is held up, in milliseconds.
    pub delay_ms: u64,
    /// How many are lost.
    pub lose: u32,
    /// How many have one bit changed, behind the headers of the link layer.
    pub corrupt: u32,
    /// How many come twice.
    pub duplicate: u32,
    /// How many are overtaken by the next.
    pub reorder: u32,
    /// From which number chance is drawn.
    pub seed: u64,
}

/// The arguments of this program with which it relays what `device` is given.
pub(crate) fn command(device: &str, impairment: Impairment) -> Vec<String> {
    let impairment = serde_json::to_string(&impairment).expect("numbers are always JSON");
    ["impair", "--device", device, "--impairment", &impairment].map(str::to_owned).into()
}

/// Relays for ever what the device `name` of this namespace is given, impaired. Says by making `ready` that the device
/// is there.
pub fn relay(name: &str, impairment: Impairment, ready: &Path) -> Result<()> {
    let failed = Error::file("relay frames of", name);
    let tap = Tap::open(name).map_err(Error::file("make device", name))?;
    announce(ready)?;
    run(&tap, Line::new(impairment)).map_err(failed)
}

fn run(tap: &Tap, mut line: Line) -> std::io::Result<()> {
    loop {
        let wait = line.due().map(|due| due.saturating_duration_since(Instant::now()));
        let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
        poll(&mut [PollFd::new(tap, PollFlags::IN)], wait.as_ref())?;
        while let Some(frame) = tap.read()? {
            line.enter(frame, Instant::now());
        }
        while let Some(frame) = line.leave(Instant::now()) {
            tap.write(&frame)?;
        }
    }
}
