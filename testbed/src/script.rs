//! Scripts: what configures a namespace. Data first, so that they can be rendered and tested without
//! root and written to a file for later; then the one place that runs them.

use std::io::Write;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use waymark_prober::netns::Netns;
use waymark_proto::NetnsName;

use crate::{Error, Result};

/// Who understands a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    /// `ip -batch`.
    Ip,
    /// `ip -6 -batch`.
    Ip6,
    /// `bridge -batch`.
    Bridge,
    /// `tc -batch`.
    Tc,
    /// `nft -f`: all or nothing.
    Nft,
    /// `iptables-nft-restore --noflush`: all or nothing per table.
    Iptables,
    /// `ip6tables-nft-restore --noflush`.
    Ip6tables,
    /// `iptables-legacy-restore --noflush`.
    IptablesLegacy,
    /// `ip6tables-legacy-restore --noflush`.
    Ip6tablesLegacy,
    /// `ebtables-nft-restore --noflush`.
    Ebtables,
    /// `ipset restore`.
    Ipset,
    /// This program itself: lines `path=value` below `/proc/sys/net`. A `-` in front means that it is no
    /// error if this kernel has no such setting, as for `sysctl`.
    Sysctl,
}

impl Tool {
    /// The program with its arguments.
    fn command(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Ip => ("ip", &["-batch", "-"]),
            Self::Ip6 => ("ip", &["-6", "-batch", "-"]),
            Self::Bridge => ("bridge", &["-batch", "-"]),
            Self::Tc => ("tc", &["-batch", "-"]),
            Self::Nft => ("nft", &["-f", "-"]),
            Self::Iptables => ("iptables-nft-restore", &["--noflush"]),
            Self::Ip6tables => ("ip6tables-nft-restore", &["--noflush"]),
            Self::IptablesLegacy => ("iptables-legacy-restore", &["--noflush"]),
            Self::Ip6tablesLegacy => ("ip6tables-legacy-restore", &["--noflush"]),
            Self::Ebtables => ("ebtables-nft-restore", &["--noflush"]),
            Self::Ipset => ("ipset", &["restore"]),
            Self::Sysctl => ("sysctl", &[]),
        }
    }

    /// Whether it sets rules of netfilter that see connections.
    pub(crate) fn filters(self) -> bool {
        matches!(
            self,
            Self::Nft | Self::Iptables | Self::Ip6tables | Self::IptablesLegacy | Self::Ip6tablesLegacy
        )
    }

    /// What to install if the program is not there (Debian and Ubuntu names).
    fn remedy(self) -> &'static str {
        match self {
            Self::Ip | Self::Ip6 | Self::Bridge | Self::Tc | Self::Sysctl => {
                "install it with `apt-get install iproute2`"
            }
            Self::Nft => "install it with `apt-get install nftables`",
            Self::Iptables
            | Self::Ip6tables
            | Self::IptablesLegacy
            | Self::Ip6tablesLegacy
            | Self::Ebtables => "install it with `apt-get install iptables`",
            Self::Ipset => "install it with `apt-get install ipset`",
        }
    }
}

/// Lines for one tool, to be run in one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Script {
    /// Where: a name under `/run/netns`, or `host`.
    pub netns: String,
    /// Who understands it.
    pub tool: Tool,
    /// The lines.
    pub lines: Vec<String>,
}

impl Script {
    /// A script.
    pub fn new<L: Into<String>>(tool: Tool, netns: &str, lines: impl IntoIterator<Item = L>) -> Self {
        Self { netns: netns.to_owned(), tool, lines: lines.into_iter().map(Into::into).collect() }
    }

    /// Runs it; the tool stops at the first line that fails.
    pub fn run(&self) -> Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let netns = Netns::open(&NetnsName::from(self.netns.as_str()))?;
        match self.tool {
            Tool::Sysctl => netns.run(|| self.lines.iter().try_for_each(|line| self.write_sysctl(line)))?,
            _ => netns.run(|| self.feed())?,
        }
    }

    /// `/proc/sys/net` shows the namespace of the thread that opens it.
    fn write_sysctl(&self, line: &str) -> Result<()> {
        let failed = |stderr: String| Error::Command {
            command: format!("sysctl {line}"),
            netns: self.netns.clone(),
            stderr,
        };
        let (key, value) = line.split_once('=').ok_or_else(|| failed("no `=`".into()))?;
        let (key, optional) = key.strip_prefix('-').map_or((key, false), |key| (key, true));
        match std::fs::write(format!("/proc/sys/net/{key}"), value) {
            Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            written => written.map_err(|error| failed(error.to_string())),
        }
    }

    /// Runs the tool on the calling thread's namespace, with the lines as its input.
    fn feed(&self) -> Result<()> {
        let (program, args) = self.tool.command();
        let spawn = |source| Error::Spawn { program: program.into(), source, remedy: self.tool.remedy() };
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(spawn)?;
        let mut stdin = child.stdin.take().expect("asked for a pipe");
        let mut text = self.lines.join("\n");
        text.push('\n');
        // A tool that stops early closes the pipe: its own message is the better one.
        let _ = stdin.write_all(text.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().map_err(spawn)?;
        if output.status.success() {
            return Ok(());
        }
        let printed = String::from_utf8_lossy(&output.stderr);
        let printed = printed.split_whitespace().collect::<Vec<_>>().join(" ");
        let command = match self.failed_line(&printed) {
            Some(line) => format!("{program} {line}"),
            None => format!("{program} {}", args.join(" ")),
        };
        let stderr = if printed.is_empty() { output.status.to_string() } else { printed };
        Err(Error::Command { command, netns: self.netns.clone(), stderr })
    }

    /// iproute2 ends its message with `Command failed -:LINE`.
    fn failed_line(&self, printed: &str) -> Option<&str> {
        let number: usize = printed.rsplit_once("Command failed -:")?.1.trim().parse().ok()?;
        self.lines.get(number.checked_sub(1)?).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_error_names_its_line() {
        let script = Script::new(Tool::Ip, "x", ["link set lo up", "link set nothing up"]);
        let printed = "Cannot find device \"nothing\" Command failed -:2";
        assert_eq!(script.failed_line(printed), Some("link set nothing up"));
        assert_eq!(script.failed_line("Command failed -:9"), None);
        assert_eq!(script.failed_line("Error: syntax"), None);
    }
}
