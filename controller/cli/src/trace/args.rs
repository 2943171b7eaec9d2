//! The command line of `waymark trace`.

use std::time::Duration;

use clap::Args;
use waymark_controller::live::{DEFAULT_PACKETS, MAX_PACKETS, MAX_TIME};
use waymark_proto::rpc;

use crate::args::{Answerer, Format};
use crate::cluster::Namespace;
use crate::failure::Failure;
use crate::values::{duration, number};

/// Shortest trace that can be asked for.
const MIN_TIME: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct TraceArguments {
    /// Which packets, as tcpdump takes it, like 'tcp port 80 and host 10.244.1.5'; in a tunnel of VXLAN it is asked of the packet inside, too. Nothing is sent. Filters are of packets from their IP header on, with addresses and numbers, not names.
    #[arg(long, value_name = "FILTER", required = true)]
    live: String,
    /// Look on these nodes and on those of these pods: node/NAME, pod/NAMESPACE/NAME. May be repeated. Default: every node, of up to 20.
    #[arg(long, value_name = "WHERE", value_delimiter = ',', num_args = 1..)]
    on: Vec<String>,
    /// Stop when a node has picked so many packets, 1 to 1000.
    #[arg(
        short, long, value_name = "N", allow_hyphen_values = true,
        value_parser = number(1..=MAX_PACKETS), default_value_t = DEFAULT_PACKETS
    )]
    count: u32,
    /// Stop when so much time is over.
    #[arg(
        long = "for", value_name = "TIME", allow_hyphen_values = true,
        value_parser = duration(MIN_TIME..=MAX_TIME), default_value = "10s"
    )]
    time: Duration,
    /// Output format; JSON has a document in each line.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(super) output: Format,
    #[command(flatten)]
    namespace: Namespace,
    #[command(flatten)]
    pub(super) answerer: Answerer,
}

impl TraceArguments {
    /// Completes the names of places, as kubectl would.
    pub(crate) async fn complete(&mut self) -> Result<(), Failure> {
        self.answerer.line.kube.complete(&self.namespace, &mut self.on).await
    }

    pub(super) fn message(&self) -> rpc::TraceRequest {
        rpc::TraceRequest {
            filter: self.live.clone(),
            on: self.on.clone(),
            packets: self.count,
            time_ms: u32::try_from(self.time.as_millis()).unwrap_or(u32::MAX),
        }
    }
}
