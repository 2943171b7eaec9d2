//! What the command line looks like.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use waymark_testbed::{DEFAULT_NAME, Dataplane, Impairment, Manner, Proxy, Side};

/// Clusters of network namespaces, with faults on purpose.
#[derive(Debug, Parser)]
#[command(name = "waymark-testbed", version, about)]
pub(crate) struct Cli {
    /// Folder of waymark, waymark-agent and waymark-controller [default: this program's own]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which instance.
#[derive(Args, Debug)]
pub(crate) struct Name {
    /// Name of the testbed
    #[arg(long, env = "WAYMARK_TESTBED", default_value = DEFAULT_NAME)]
    pub(crate) name: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring a testbed up; returns when everything is ready
    Up {
        #[command(flatten)]
        name: Name,
        /// Topology file (TOML) [default: three nodes, six pods]
        #[arg(short = 'f', long = "file", value_name = "FILE")]
        file: Option<PathBuf>,
        /// How pods of different nodes reach one another
        #[arg(long, value_enum, default_value_t = Dataplane::BridgeHostgw)]
        dataplane: Dataplane,
        /// Whose rules implement Services
        #[arg(long, value_enum, default_value_t = Proxy::Iptables)]
        proxy: Proxy,
        /// With a real Kubernetes control plane: it says what pods and Services there are
        #[arg(long, conflicts_with = "proxy")]
        kubernetes: bool,
        /// Network and pods only: no controller, no agents
        #[arg(long)]
        no_agents: bool,
    },
    /// Take a testbed down, whatever is left of it
    Down {
        #[command(flatten)]
        name: Name,
    },
    /// Show what there is
    Status {
        #[command(flatten)]
        name: Name,
        /// Format; json is the inventory that agents, controller and client read
        #[arg(short = 'o', long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Print the path of the kubeconfig of a testbed with a control plane
    Kubeconfig {
        #[command(flatten)]
        name: Name,
    },
    /// Run a command inside a node, a pod (as NAMESPACE/NAME), `control` or `fabric`
    Exec {
        #[command(flatten)]
        name: Name,
        /// Node, NAMESPACE/NAME of a pod, `control` (the Kubernetes control plane) or `fabric`
        target: String,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Break something, or mend it
    Fault {
        #[command(subcommand)]
        command: FaultCommand,
    },
    /// Bring up, check, break, localize, mend, take down
    Demo {
        /// Name of the testbed
        #[arg(long, default_value = "demo")]
        name: String,
        /// On a real Kubernetes control plane: checks, culprits, an outage, validated changes
        #[arg(long)]
        kubernetes: bool,
        /// How pods of different nodes reach one another
        #[arg(long, value_enum, default_value_t = Dataplane::BridgeVxlan)]
        dataplane: Dataplane,
    },
    /// Hold the predictor against the kernel: random configurations of a node, random packets
    Fuzz {
        /// Seed of the first configuration
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Packets to compare
        #[arg(long, default_value_t = 10_000)]
        cases: u64,
        /// Packets of one configuration, at most
        #[arg(long, default_value_t = 200)]
        packets: usize,
        /// End after so many failing configurations
        #[arg(long, default_value_t = 1)]
        failures: usize,
        /// Keep what the kernel did with cases that fail: a file each in this folder
        #[arg(long, value_name = "DIR")]
        fixtures: Option<PathBuf>,
        /// Play this case instead, as a failure is told (JSON)
        #[arg(long, value_name = "FILE")]
        case: Option<PathBuf>,
        /// Keep what the kernel did with the last packet of that case
        #[arg(long, value_name = "FILE", requires = "case")]
        fixture: Option<PathBuf>,
    },
    /// Inject every fault and compare what Waymark says with what it should
    Accuracy {
        /// Names of the testbeds begin with this
        #[arg(long, default_value = "accuracy")]
        name: String,
        /// Only these dataplanes [default: all]
        #[arg(long = "dataplane", value_enum)]
        dataplanes: Vec<Dataplane>,
        /// Whose rules implement Services
        #[arg(long, value_enum, default_value_t = Proxy::Iptables)]
        proxy: Proxy,
        /// How many healthy flows to check per dataplane
        #[arg(long, default_value_t = 200)]
        healthy: usize,
        /// Only these faults [default: all that apply]
        #[arg(long = "fault", value_name = "NAME")]
        faults: Vec<String>,
        /// Only faults of this category [default: all]
        #[arg(long = "category", value_name = "NAME", value_parser = category())]
        categories: Vec<String>,
        /// Only the few faults that are tried with every change
        #[arg(long)]
        subset: bool,
        /// Format
        #[arg(short = 'o', long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Record what Waymark finds of faults, for `waymark replay`
    Record {
        /// Name of the testbed
        #[arg(long, default_value = "record")]
        name: String,
        /// How pods of different nodes reach one another
        #[arg(long, value_enum, default_value_t = Dataplane::BridgeHostgw)]
        dataplane: Dataplane,
        /// Whose rules implement Services
        #[arg(long, value_enum, default_value_t = Proxy::Iptables)]
        proxy: Proxy,
        /// Only these faults [default: all that apply]
        #[arg(long = "fault", value_name = "NAME")]
        faults: Vec<String>,
        /// Folder for the recordings, FAULT-DATAPLANE.json.gz
        #[arg(long = "out", value_name = "DIR")]
        folder: PathBuf,
    },
    /// What a pod runs
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        tcp: Vec<u16>,
        #[arg(long)]
        udp: Vec<u16>,
        #[arg(long, value_enum, default_value_t = Manner::Ordinary)]
        manner: Manner,
        #[arg(long)]
        ready_file: PathBuf,
    },
    /// What the underlay does to the frames that are led to a device
    #[command(hide = true)]
    Impair {
        #[arg(long)]
        device: String,
        #[arg(long, value_parser = impairment)]
        impairment: Impairment,
        #[arg(long)]
        ready_file: PathBuf,
    },
    /// A foreign program of a device
    #[command(hide = true)]
    Tcx {
        #[arg(long)]
        device: String,
        #[arg(long, value_enum)]
        side: Side,
        #[arg(long)]
        ready_file: PathBuf,
    },
    /// Runs the pods that Kubernetes wants on the nodes
    #[command(hide = true)]
    Kubelet {
        #[command(flatten)]
        name: Name,
        #[arg(long)]
        ready_file: PathBuf,
    },
    /// Keeps NetworkPolicies on the nodes
    #[command(hide = true)]
    Enforcer {
        #[command(flatten)]
        name: Name,
        #[arg(long)]
        ready_file: PathBuf,
    },
    /// The way from the machine into a namespace
    #[command(hide = true)]
    Relay {
        #[arg(long)]
        netns: String,
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        ready_file: PathBuf,
    },
    /// Become a background process
    #[command(hide = true)]
    Detach {
        #[arg(long)]
        pid_file: PathBuf,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum FaultCommand {
    /// Show the catalogue
    List {
        #[command(flatten)]
        name: Name,
    },
    /// Inject a fault
    Inject {
        #[command(flatten)]
        name: Name,
        /// Its name in the catalogue
        fault: String,
    },
    /// Undo a fault, or all
    Clear {
        #[command(flatten)]
        name: Name,
        /// Its name in the catalogue [default: all that are injected]
        fault: Option<String>,
    },
}

fn impairment(json: &str) -> Result<Impairment, serde_json::Error> {
    serde_json::from_str(json)
}

fn category() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(waymark_testbed::categories())
}
