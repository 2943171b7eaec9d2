//! The command line of `waymark watch`.

use std::time::Duration;

use clap::{Args, Subcommand};
use waymark_controller::watching::{
    MAX_PROBE_INTERVAL, MAX_PROBE_TIMEOUT, MIN_PROBE_INTERVAL, MIN_PROBE_TIMEOUT, WatchSpec,
};
use waymark_proto::Protocol;

use crate::args::{Format, Line};
use crate::cluster::Namespace;
use crate::failure::Failure;
use crate::values::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum WatchCommand {
    /// Begin to probe targets, until the watch is stopped.
    Start(StartArguments),
    /// End a watch.
    Stop(StopArguments),
    /// Show the watches.
    List(ListArguments),
    /// Show their targets: loss, round-trip times, outages. Live, until q is pressed.
    Top(TopArguments),
}

#[derive(Debug, Args)]
pub(crate) struct StartArguments {
    /// Its name: a-z, 0-9 and -.
    name: String,
    /// Who sends: pod/NAMESPACE/NAME, node/NAME, or nodes for every node. May be repeated.
    #[arg(long, value_name = "SRC", required = true, value_delimiter = ',', num_args = 1..)]
    from: Vec<String>,
    /// Who receives: the same, svc/NAMESPACE/NAME:PORT or IP[:PORT]. May be repeated.
    #[arg(long, value_name = "DST", required = true, value_delimiter = ',', num_args = 1..)]
    to: Vec<String>,
    /// Protocol: tcp, udp or icmp. Default: tcp to a port, icmp to none. UDP goes to a responder of the agents.
    #[arg(long, value_name = "PROTOCOL")]
    proto: Option<Protocol>,
    /// Time between two probes of a target.
    #[arg(
        short, long, value_name = "TIME", allow_hyphen_values = true,
        value_parser = duration(MIN_PROBE_INTERVAL..=MAX_PROBE_INTERVAL), default_value = "1s"
    )]
    interval: Duration,
    /// How long a probe may take.
    #[arg(
        long, value_name = "TIME", allow_hyphen_values = true,
        value_parser = duration(MIN_PROBE_TIMEOUT..=MAX_PROBE_TIMEOUT), default_value = "1s"
    )]
    timeout: Duration,
    /// Use IPv6.
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(super) output: Format,
    #[command(flatten)]
    pub(super) line: Line,
    #[command(flatten)]
    namespace: Namespace,
}

impl StartArguments {
    /// Completes the names of all ends, as kubectl would.
    pub(super) async fn complete(&mut self) -> Result<(), Failure> {
        self.line.kube.complete(&self.namespace, self.from.iter_mut().chain(&mut self.to)).await
    }
}

#[derive(Debug, Args)]
pub(crate) struct StopArguments {
    /// Its name.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(super) name: Option<String>,
    /// End all watches.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    pub(super) line: Line,
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only this one.
    pub(super) name: Option<String>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(super) output: Format,
    #[command(flatten)]
    pub(super) line: Line,
}

#[derive(Debug, Args)]
pub(crate) struct TopArguments {
    /// Only this watch.
    pub(super) name: Option<String>,
    /// Print once and end.
    #[arg(long)]
    pub(super) once: bool,
    /// Output format, with --once.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(super) output: Format,
    #[command(flatten)]
    pub(super) line: Line,
}

impl StartArguments {
    /// The watch that is asked for.
    pub(super) fn spec(&self) -> WatchSpec {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        WatchSpec {
            name: self.name.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            protocol: self.proto,
            interval_us: micros(self.interval),
            timeout_us: micros(self.timeout),
            ipv6: self.ipv6,
        }
    }
}
