//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use waymark_controller::{
    MAX_COUNT, MAX_INTERVAL, MAX_TIMEOUT, MIN_INTERVAL, MIN_TIMEOUT, Request, RequestError,
};
use waymark_proto::{DEFAULT_ENDPOINT, Endpoint, Language, NodeName, Protocol, rpc};

use crate::cluster::{Kube, Namespace};
use crate::failure::Failure;
use crate::render::{Manner, PredictionFormat, ResultFormat};
use crate::show::ShowArguments;
use crate::trace::TraceArguments;
use crate::validate::ValidateArguments;
use crate::values::{duration, endpoint, node, number, path, percent, recording};
use crate::watch::WatchCommand;

/// Where exactly does this packet die, and why?
///
/// Exit codes: 0 as expected, 1 not as expected, 2 undetermined, 64 usage, 69 no controller or agent,
/// 77 not permitted, other codes from 3 up: other errors.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send marked packets and compare their way with the predicted one.
    Check(CheckArguments),
    /// Answer a recorded check again, anywhere: it needs no root, no agents and no network.
    Replay(ReplayArguments),
    /// Predict the way of a packet without sending one.
    Predict(PredictArguments),
    /// Collect the facts of a node.
    Facts(FactsArguments),
    /// Probe targets continuously: loss, round-trip times, outages with their fault points.
    Watch {
        #[command(subcommand)]
        command: WatchCommand,
    },
    /// Trace packets that are there anyway: what a filter picks, hook by hook, on all its way.
    Trace(TraceArguments),
    /// Show results of the past: the latest, or one.
    Show(ShowArguments),
    /// Show the nodes and their agents.
    Status(StatusArguments),
    /// Try a change of NetworkPolicies and Services, and take it back if it fails.
    Validate(Box<ValidateArguments>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Expect {
    Reachable,
    Unreachable,
}

/// What is asked.
#[derive(Debug, Args)]
pub(crate) struct Question {
    /// Who sends: pod/NAMESPACE/NAME or node/NAME. With a kubeconfig also pod/NAME and deploy/NAME.
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// Who receives: pod/NAMESPACE/NAME[:PORT], svc/NAMESPACE/NAME:PORT, node/NAME[:PORT] or IP[:PORT]. With a kubeconfig also without NAMESPACE.
    #[arg(value_name = "DST")]
    pub(crate) destination: String,
    /// Protocol: tcp, udp or icmp. Default: tcp to a port, icmp to none, a Service's own.
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) proto: Option<Protocol>,
    /// Use IPv6.
    #[arg(short = '6', long)]
    pub(crate) ipv6: bool,
    /// What the answer should be.
    #[arg(long, value_enum, default_value_t = Expect::Reachable)]
    pub(crate) expect: Expect,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
}

/// The way to a controller, and the cluster that it is of.
#[derive(Debug, Args)]
pub(crate) struct Line {
    /// The controller: `unix:/PATH`, `https://HOST:PORT`, `HOST:PORT` for the same, or `http://HOST:PORT`.
    #[arg(long, value_name = "ADDRESS", env = "WAYMARK_CONTROLLER", value_parser = endpoint, default_value = DEFAULT_ENDPOINT)]
    pub(crate) controller: Endpoint,
    /// The folder of the clients' certificate, for https://: DIR/client of the controller's --tls-dir.
    #[arg(long, value_name = "DIR", env = "WAYMARK_TLS", value_parser = path)]
    pub(crate) tls: Option<PathBuf>,
    /// The Kubernetes namespace in which the controller keeps the clients' certificate, for https://; it is read
    /// from there with the rights of the kubeconfig's user.
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "tls")]
    pub(crate) tls_secret: Option<String>,
    /// Dial http://HOST:PORT without encryption.
    #[arg(long)]
    pub(crate) insecure: bool,
    #[command(flatten)]
    pub(crate) kube: Kube,
}

/// Who answers.
#[derive(Debug, Args)]
pub(crate) struct Answerer {
    #[command(flatten)]
    pub(crate) line: Line,
    /// Do it in this process, without controller and agents, for an inventory of this machine.
    #[arg(long, requires = "inventory")]
    pub(crate) local: bool,
    /// The inventory file for --local and --facts.
    #[arg(long, value_name = "FILE", value_parser = path)]
    pub(crate) inventory: Option<PathBuf>,
}

/// How a result is shown.
#[derive(Debug, Args)]
pub(crate) struct Look {
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = ResultFormat::Text)]
    pub(crate) output: ResultFormat,
    /// In text, draw every step of the walk.
    #[arg(long)]
    pub(crate) explain: bool,
    #[command(flatten)]
    pub(crate) tongue: Tongue,
}

/// In which language answers are.
#[derive(Debug, Args)]
pub(crate) struct Tongue {
    /// Language of the answer; messages about errors are English.
    #[arg(long = "lang", value_enum, value_name = "LANGUAGE", env = "WAYMARK_LANG", default_value_t = Language::En)]
    pub(crate) language: Language,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    pub(crate) question: Question,
    /// How many packets.
    #[arg(
        short, long, allow_negative_numbers = true,
        value_parser = number(1..=MAX_COUNT), default_value_t = waymark_controller::DEFAULT_COUNT
    )]
    pub(crate) count: u32,
    /// Most packets with those that follow where some are lost and some are not, to find out what the loss goes with.
    #[arg(
        long, value_name = "COUNT", allow_negative_numbers = true,
        value_parser = number(1..=MAX_COUNT), default_value_t = waymark_controller::DEFAULT_MAX_PACKETS
    )]
    pub(crate) max_packets: u32,
    /// Send as many packets as it takes to see a loss of so many percent, in place of --count and --max-packets: 5, 0.5.
    #[arg(long, value_name = "PERCENT", value_parser = percent, conflicts_with_all = ["count", "max_packets"])]
    pub(crate) loss: Option<f64>,
    /// Lengths of the IP packets in bytes, taken in turn [default: the smallest and the largest that leaves the source].
    #[arg(
        short, long, value_name = "BYTES", value_delimiter = ',', allow_negative_numbers = true,
        value_parser = number(1..=u16::MAX)
    )]
    pub(crate) size: Vec<u16>,
    /// Differentiated services code points, taken in turn [default: 0].
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', allow_negative_numbers = true, value_parser = number(0..=63u8))]
    pub(crate) dscp: Vec<u8>,
    /// How long to wait after the last packet: 2, 2s, 500ms.
    #[arg(
        long, value_name = "TIME", allow_hyphen_values = true,
        value_parser = duration(MIN_TIMEOUT..=MAX_TIMEOUT), default_value = "2s"
    )]
    pub(crate) timeout: Duration,
    /// Time between packets.
    #[arg(
        short, long, value_name = "TIME", allow_hyphen_values = true,
        value_parser = duration(MIN_INTERVAL..=MAX_INTERVAL), default_value = "10ms"
    )]
    pub(crate) interval: Duration,
    /// TTL or hop limit.
    #[arg(
        long, allow_negative_numbers = true,
        value_parser = number(1..=u8::MAX), default_value_t = waymark_controller::DEFAULT_TTL
    )]
    pub(crate) ttl: u8,
    /// Let routers fragment packets of IPv4 on the way, which are sent with "don't fragment" otherwise. Of IPv6 they may not.
    #[arg(long)]
    pub(crate) fragmentable: bool,
    /// Do not wait for answers.
    #[arg(long)]
    pub(crate) one_way: bool,
    /// Watch every hook and rule from the first packet on, not only once something is wrong. --explain does, too.
    #[arg(long)]
    pub(crate) wide: bool,
    /// Keep all that the answer rests on in this file, for `waymark replay`; compressed if it ends in .gz. It tells the configuration of the nodes on the path.
    #[arg(long, value_name = "FILE", value_parser = recording)]
    pub(crate) record: Option<PathBuf>,
    /// Write the packets as they were seen to this file, for Wireshark and the like: each place at which they were seen is an interface of its own.
    #[arg(long, value_name = "FILE", value_parser = path)]
    pub(crate) pcapng: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) look: Look,
    #[command(flatten)]
    pub(crate) answerer: Answerer,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// The file that `waymark check --record FILE` wrote.
    #[arg(value_name = "FILE", value_parser = path)]
    pub(crate) file: PathBuf,
    /// What the answer should be.
    #[arg(long, value_enum, default_value_t = Expect::Reachable)]
    pub(crate) expect: Expect,
    /// Write the packets as they were seen to this file, for Wireshark and the like.
    #[arg(long, value_name = "FILE", value_parser = path)]
    pub(crate) pcapng: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) look: Look,
}

#[derive(Debug, Args)]
pub(crate) struct PredictArguments {
    #[command(flatten)]
    pub(crate) question: Question,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = PredictionFormat::Text)]
    pub(crate) output: PredictionFormat,
    #[command(flatten)]
    pub(crate) tongue: Tongue,
    #[command(flatten)]
    pub(crate) answerer: Answerer,
    /// Predict from saved facts instead of asking anybody: the folder that `waymark facts --cluster` wrote, or files of
    /// nodes, with --inventory.
    #[arg(long, value_name = "PATH", value_parser = path, num_args = 1.., conflicts_with = "local")]
    pub(crate) facts: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct FactsArguments {
    /// The node.
    #[arg(value_parser = node, required_unless_present = "cluster")]
    pub(crate) node: Option<NodeName>,
    /// Collect those of all nodes, with the inventory, in a folder from which predictions can be made anywhere.
    #[arg(long, requires = "out", conflicts_with = "node")]
    pub(crate) cluster: bool,
    /// Write to this file, or with --cluster to this folder, instead of standard output.
    #[arg(short, long, value_name = "PATH", value_parser = path)]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) answerer: Answerer,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) line: Line,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

impl Question {
    /// Completes the names of both ends, as kubectl would.
    pub(crate) async fn complete(&mut self, kube: &Kube) -> Result<(), Failure> {
        kube.complete(&self.namespace, [&mut self.source, &mut self.destination]).await
    }

    /// The question as a message.
    pub(crate) fn message(&self) -> rpc::CheckRequest {
        rpc::CheckRequest {
            source: self.source.clone(),
            destination: self.destination.clone(),
            protocol: self.proto.map(|protocol| protocol.to_string()).unwrap_or_default(),
            ipv6: self.ipv6,
            ..Default::default()
        }
    }

    /// The question, checked.
    pub(crate) fn request(&self) -> Result<Request, RequestError> {
        Request::try_from(self.message())
    }
}

impl Look {
    /// The manner, for whom this is as expected.
    pub(crate) fn manner(&self, expect: Expect) -> Manner {
        Manner { format: self.output, explain: self.explain, expect, language: self.tongue.language }
    }
}

/// How sure it is that a loss is seen which is as frequent as was asked for.
const SURE: f64 = 0.99;

/// The packets of the first round that see at least one loss of a rate, 1 − (1 − rate)^n ≥ 99 %; and those of all
/// rounds, four times as many: what the loss goes with takes more than one.
fn packets_for(percent: f64) -> (u32, u32) {
    let mut count = 0;
    let mut unseen = 1.0;
    while unseen > 1.0 - SURE && count < MAX_COUNT {
        unseen *= 1.0 - percent / 100.0;
        count += 1;
    }
    (count, (4 * count).min(MAX_COUNT))
}

impl CheckArguments {
    /// The question with how to send, as a message.
    pub(crate) fn message(&self) -> rpc::CheckRequest {
        let (count, max_packets) = self.loss.map_or((self.count, self.max_packets), packets_for);
        rpc::CheckRequest {
            count,
            max_packets,
            sizes: self.size.iter().map(|&size| size.into()).collect(),
            dscps: self.dscp.iter().map(|&dscp| dscp.into()).collect(),
            timeout_ms: u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX),
            one_way: self.one_way,
            fragmentable: self.fragmentable,
            wide: self.wide || self.look.explain,
            interval_us: u32::try_from(self.interval.as_micros()).unwrap_or(u32::MAX),
            ttl: self.ttl.into(),
            record: self.record.is_some() || self.pcapng.is_some(),
            ..self.question.message()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_of_loss_takes_so_many_packets() {
        assert_eq!(packets_for(0.5), (919, 3676));
        assert_eq!(packets_for(5.0), (90, 360));
        assert_eq!(packets_for(0.05), (9209, MAX_COUNT));
        assert_eq!(packets_for(99.0), (1, 4));
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
