//! Runs the real client against a testbed's controller.

use std::fmt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use waymark_proto::{CheckResult, Protocol};

use crate::instance::Instance;
use crate::{Error, Result};

/// A question for the client, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// `pod/NS/NAME` or `node/NAME`.
    pub from: String,
    /// The same with a port, or `svc/NS/NAME:PORT`.
    pub to: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Whether to ask about IPv6.
    pub ipv6: bool,
    /// Length of the IP packets in bytes; the smallest if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u16>,
    /// How many packets; the client's own number if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.ipv6 { " IPv6" } else { "" };
        let size = self.size.map(|size| format!(" {size} bytes")).unwrap_or_default();
        f.pad(&format!("{} → {} {}{family}{size}", self.from, self.to, self.protocol))
    }
}

/// How long the client waits for a packet's fate.
const TIMEOUT: &str = "3s";

impl Probe {
    /// A question about the smallest packets, as many as the client sends.
    pub fn new(from: String, to: String, protocol: Protocol, ipv6: bool) -> Self {
        Self { from, to, protocol, ipv6, size: None, count: None }
    }

    /// The client's command line.
    pub fn command(&self, instance: &Instance) -> Result<Command> {
        let mut command = Command::new(instance.programs().client()?);
        command.args([
            "check",
            &self.from,
            &self.to,
            "--proto",
            &self.protocol.to_string(),
            "--timeout",
            TIMEOUT,
        ]);
        command.args(["--controller", &instance.dir().controller()]);
        if self.ipv6 {
            command.arg("--ipv6");
        }
        if let Some(size) = self.size {
            command.args(["--size", &size.to_string()]);
        }
        if let Some(count) = self.count {
            command.args(["--count", &count.to_string()]);
        }
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Asks, and says how long the answer took.
    pub fn ask(&self, instance: &Instance) -> Result<(CheckResult, Duration)> {
        let mut command = self.command(instance)?;
        command.args(["-o", "json"]);
        let failed = |status: String, output: String| Error::NoResult {
            command: format!("waymark check {} {} --proto {}", self.from, self.to, self.protocol),
            status,
            output,
        };
        let started = Instant::now();
        let output = command.output().map_err(|error| failed("not started".into(), error.to_string()))?;
        let took = started.elapsed();
        let status = output.status.to_string();
        if output.status.code().is_none_or(|code| code >= 3) {
            return Err(failed(status, String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let result =
            serde_json::from_slice(&output.stdout).map_err(|error| failed(status, error.to_string()))?;
        Ok((result, took))
    }
}
