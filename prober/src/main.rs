//! `waymark-agent`: the node agent.

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use tokio::signal::unix::{SignalKind, signal};
use waymark_prober::agent::{Agent, Limits};
use waymark_prober::pods::Pods;
use waymark_prober::{doctor, facts, link, tracer};
use waymark_proto::{
    Credentials, DEFAULT_ENDPOINT, Dial, Endpoint, Inventory, NodeName, Observability, Plaintext,
    command_line,
};

/// A sighting is made of small strings that one thread makes and another drops: glibc's `malloc` took a fifth of the
/// time of two hundred checks at once.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for anything that failed.
const FAILED: u8 = 70;
/// Exit code of `doctor` when something needed is missing.
const UNFIT: u8 = 1;

/// The node agent of Waymark: injects marked packets, traces them, collects facts.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Attach to a controller and carry out its orders.
    Run {
        /// The cluster: an inventory file. Without it the controller says what runs on this node.
        #[arg(long)]
        inventory: Option<PathBuf>,
        /// The node that this is.
        #[arg(long, env = "WAYMARK_NODE")]
        node: NodeName,
        /// A folder with the network namespaces of this node's pods; may be repeated. Default: where container
        /// runtimes keep them, and what processes are in.
        #[arg(long, value_name = "DIR", conflicts_with = "inventory")]
        pod_netns: Vec<PathBuf>,
        /// The controller: `unix:/PATH`, `https://HOST:PORT`, `HOST:PORT` for the same, or `http://HOST:PORT`.
        #[arg(long, env = "WAYMARK_CONTROLLER", default_value = DEFAULT_ENDPOINT)]
        controller: Endpoint,
        /// The folder of the agents' certificate, for https://: DIR/agent of the controller's --tls-dir.
        #[arg(long, value_name = "DIR", env = "WAYMARK_TLS")]
        tls: Option<PathBuf>,
        /// Dial http://HOST:PORT without encryption.
        #[arg(long)]
        insecure: bool,
        /// Serve metrics for Prometheus here, under /metrics and without encryption: `127.0.0.1:9464`.
        #[arg(long, value_name = "ADDRESS")]
        metrics: Option<SocketAddr>,
        /// A file that is there while a controller has this agent.
        #[arg(long)]
        ready_file: Option<PathBuf>,
        /// Addresses beyond the cluster's that packets may be sent to.
        #[arg(long, value_name = "CIDR", value_parser = network)]
        allow: Vec<IpNet>,
    },
    /// Print the node's facts as JSON.
    Facts {
        #[command(flatten)]
        node: NodeArguments,
    },
    /// Say what this machine lacks, and what to do about it.
    Doctor {
        /// The cluster, to try its namespaces too.
        #[arg(long, requires = "node")]
        inventory: Option<PathBuf>,
        /// The node of the inventory that this is.
        #[arg(long, requires = "inventory")]
        node: Option<NodeName>,
        #[command(flatten)]
        output: Output,
    },
    /// Say where packets can be seen on this machine, and by what.
    Hooks {
        #[command(flatten)]
        output: Output,
    },
}

#[derive(clap::Args)]
struct Output {
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(clap::Args)]
struct NodeArguments {
    /// The cluster: an inventory file.
    #[arg(long)]
    inventory: PathBuf,
    /// The node of the inventory that this is.
    #[arg(long)]
    node: NodeName,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// A prefix, or a single address.
fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is neither an address nor a prefix"))
}

fn main() -> ExitCode {
    let arguments: Arguments = match command_line::parse("waymark-agent") {
        Ok(arguments) => arguments,
        Err(code) => return code.into(),
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    let outcome = match arguments.command {
        Command::Run {
            inventory,
            node,
            pod_netns,
            controller,
            tls,
            insecure,
            metrics,
            ready_file,
            allow,
        } => {
            let limits = Limits { allow, ..Limits::default() };
            let agent = || make_agent(inventory.as_deref(), node, pod_netns, limits);
            let plaintext = if insecure { Plaintext::Accepted } else { Plaintext::Refused };
            Dial::new(controller, tls.map(Credentials::Folder), plaintext)
                .map_err(|error| error.to_string())
                .and_then(|dial| run(agent, &dial, metrics, ready_file.as_deref()))
        }
        Command::Facts { node } => print_facts(&node),
        Command::Doctor { inventory, node, output } => {
            examine(inventory.as_deref(), node.as_ref(), output.output)
        }
        Command::Hooks { output } => print_hooks(output.output),
    };
    outcome.unwrap_or_else(|message| {
        eprintln!("waymark-agent: error: {message}");
        ExitCode::from(FAILED)
    })
}

fn read_inventory(path: &Path) -> Result<Inventory, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Inventory::from_json(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// Makes the agent; needs a runtime around it.
fn make_agent(
    inventory: Option<&Path>,
    node: NodeName,
    pod_netns: Vec<PathBuf>,
    limits: Limits,
) -> Result<Agent, String> {
    let agent = match inventory.map(read_inventory).transpose()? {
        Some(inventory) => Agent::with_limits(&inventory, node, limits),
        None => Agent::unassigned(node, Pods::within(pod_netns), limits),
    };
    agent.map_err(|error| format!("{error}. `waymark-agent doctor` tells what this machine lacks"))
}

fn run(
    agent: impl FnOnce() -> Result<Agent, String>,
    dial: &Dial,
    metrics: Option<SocketAddr>,
    ready_file: Option<&Path>,
) -> Result<ExitCode, String> {
    let controller = dial.endpoint();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let outcome = runtime.block_on(async {
        let agent = agent()?;
        if let Some(address) = metrics {
            let served = agent.metrics().serve(address, agent.node()).await;
            println!("metrics at http://{}/metrics", served.map_err(|error| error.to_string())?);
        }
        let stop = |kind| signal(kind).map_err(|error| format!("cannot handle signals: {error}"));
        let (mut terminated, mut interrupted) =
            (stop(SignalKind::terminate())?, stop(SignalKind::interrupt())?);
        let attached = || {
            println!("attached to {controller}");
            if let Some(path) = ready_file
                && let Err(error) = std::fs::write(path, controller.to_string())
            {
                tracing::error!(path = %path.display(), %error, "cannot write the ready file");
            }
        };
        let lost = || {
            if let Some(path) = ready_file
                && let Err(error) = std::fs::remove_file(path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::error!(path = %path.display(), %error, "cannot remove the ready file");
            }
        };
        // One that was killed left its own.
        lost();
        tokio::select! {
            never = link::run(&agent, dial, attached, lost) => match never {},
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        agent.stop_injecting();
        agent.stop_probing().await;
        agent.disarm_all().await.map_err(|error| error.to_string())?;
        Ok(ExitCode::SUCCESS)
    });
    // Whatever still blocks a worker ends with the process.
    runtime.shutdown_background();
    outcome
}

fn print_facts(node: &NodeArguments) -> Result<ExitCode, String> {
    let inventory = read_inventory(&node.inventory)?;
    let facts = facts::collect(&inventory, &node.node).map_err(|error| error.to_string())?;
    let json = serde_json::to_string_pretty(&facts).map_err(|error| error.to_string())?;
    println!("{json}");
    Ok(ExitCode::SUCCESS)
}

fn print_hooks(output: Format) -> Result<ExitCode, String> {
    let reports = tracer::foresee()
        .map_err(|error| format!("{error}. `waymark-agent doctor` tells what this machine lacks"))?;
    match output {
        Format::Text => {
            for report in reports {
                let (sign, by) = match report.observability {
                    Observability::Observed { provider } => ('✓', provider),
                    Observability::NotObservable { why } => ('!', why.to_string()),
                };
                println!("{sign} {:22} {by}", report.hook);
            }
        }
        Format::Json => {
            println!("{}", serde_json::to_string_pretty(&reports).map_err(|error| error.to_string())?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn examine(inventory: Option<&Path>, node: Option<&NodeName>, output: Format) -> Result<ExitCode, String> {
    let inventory = inventory.map(read_inventory).transpose()?;
    let findings = doctor::examine(inventory.as_ref().zip(node));
    match output {
        Format::Text => print!("{}", doctor::render(&findings)),
        Format::Json => {
            println!("{}", serde_json::to_string_pretty(&findings).map_err(|error| error.to_string())?);
        }
    }
    Ok(if doctor::usable(&findings) { ExitCode::SUCCESS } else { ExitCode::from(UNFIT) })
}
