//! `waymark-controller`: takes agents and clients in.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use time::OffsetDateTime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use waymark_controller::history::{FILE as HISTORY_FILE, History};
use waymark_controller::kubernetes::{
    Access, Checks, ChecksOptions, Connection, KubernetesSource, SecretStore, Tenancy,
};
use waymark_controller::tls::{FolderStore, Keeper, Names, Store};
use waymark_controller::watching::Watches;
use waymark_controller::{
    Api, Figures, FileSource, Health, Hub, Listener, Notices, Patience, Security, Source, serve,
    write_ready_file,
};
use waymark_proto::{DEFAULT_ENDPOINT, Endpoint, command_line};

/// A sighting is made of small strings that one thread makes and another drops: glibc's `malloc` took a fifth of the
/// time of two hundred checks at once.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for anything that failed.
const FAILED: u8 = 70;
/// How long checks under way have to end when the controller stops.
const GRACE: Duration = Duration::from_secs(5);

/// The controller of Waymark: agents and clients dial in.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Listen for agents and clients.
    Run(Run),
}

#[derive(clap::Args)]
struct Run {
    #[command(flatten)]
    cluster: Cluster,
    /// Where to listen: `unix:/PATH`, `https://HOST:PORT`, `HOST:PORT` for the same, or `http://HOST:PORT`.
    #[arg(long, env = "WAYMARK_CONTROLLER", default_value = DEFAULT_ENDPOINT)]
    listen: Endpoint,
    #[command(flatten)]
    protection: Protection,
    /// Checks of this Kubernetes namespace may send from every pod and node, those of others from pods of
    /// their own only; may be repeated.
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "inventory")]
    cluster_checks_in: Vec<String>,
    /// A folder in which watches are kept, so that they go on when the controller is started again, and results.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The file (`SQLite`) in which results are kept; default: history.sqlite in the folder of --state, without that
    /// memory.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// A file to write the address to once it is listened on.
    #[arg(long)]
    ready_file: Option<PathBuf>,
    /// Answer HTTP here: /livez, /readyz once agents and clients can dial in, and /metrics for Prometheus.
    #[arg(long, value_name = "ADDRESS:PORT")]
    health: Option<SocketAddr>,
}

/// Who may dial in over TCP.
#[derive(clap::Args)]
struct Protection {
    /// The folder of the CA and the certificates, made if absent: DIR/agent is for agents, DIR/client for clients.
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// The Kubernetes namespace of the Secrets with the CA and the certificates, made if absent: `waymark-ca`,
    /// `waymark-agent-tls`, `waymark-client-tls`.
    #[arg(long, value_name = "NAMESPACE", conflicts_with_all = ["tls_dir", "inventory"])]
    tls_secrets: Option<String>,
    /// A further host name or address that agents and clients dial; may be repeated. NAME.NAMESPACE.svc
    /// stands for all names of that Service.
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
    /// Listen at http://HOST:PORT without encryption: whoever can reach the port may inject packets everywhere.
    #[arg(long)]
    insecure: bool,
}

/// Where the cluster is known from.
#[derive(clap::Args)]
struct Cluster {
    /// The cluster: an inventory file, read anew for each check.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["kubernetes", "kubeconfig", "context"])]
    inventory: Option<PathBuf>,
    /// The cluster: Kubernetes, by $KUBECONFIG, ~/.kube/config, or the service account of this pod.
    #[arg(long, conflicts_with = "inventory")]
    kubernetes: bool,
    /// The cluster: Kubernetes, by this kubeconfig.
    #[arg(long, value_name = "FILE", conflicts_with = "inventory")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; default: its current one.
    #[arg(long, conflicts_with = "inventory")]
    context: Option<String>,
}

impl Cluster {
    /// The way to the API server, if the cluster is known from there.
    async fn connect(&self) -> Result<Option<Connection>, Box<dyn std::error::Error>> {
        if self.inventory.is_some() {
            return Ok(None);
        }
        let access = Access { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() };
        Ok(Some(access.connect().await?))
    }

    /// The source; a mistake in it is better told now than at the first check.
    async fn source(
        self,
        connection: Option<&Connection>,
    ) -> Result<Arc<dyn Source>, Box<dyn std::error::Error>> {
        if let Some(connection) = connection {
            tracing::info!(server = connection.address, "reading the cluster");
            return Ok(Arc::new(KubernetesSource::start(connection.clone()).await?));
        }
        let source =
            FileSource::new(self.inventory.ok_or("name the cluster with --inventory or --kubernetes")?);
        source.inventory().await?;
        Ok(Arc::new(source))
    }
}

fn main() -> ExitCode {
    let arguments: Arguments = match command_line::parse("waymark-controller") {
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
    let Command::Run(run) = arguments.command;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(run_until_stopped(run)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref()),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("waymark-controller: error: {error}");
    ExitCode::from(FAILED)
}

async fn run_until_stopped(run: Run) -> Result<(), Box<dyn std::error::Error>> {
    let mut stop = Stop::new()?;
    let health = match run.health {
        Some(address) => Some(Health::listen(address).await?),
        None => None,
    };
    let connection = run.cluster.connect().await?;
    let source = tokio::select! {
        source = run.cluster.source(connection.as_ref()) => source?,
        () = stop.asked() => return Ok(()),
    };
    let hub = Hub::with_source(Patience::default(), Arc::clone(&source));
    let (watches, incoming) = Watches::new(hub.clone(), Arc::clone(&source), run.state.as_deref())?;
    let notices = Notices::default();
    let kept = run.history.or_else(|| run.state.as_deref().map(|folder| folder.join(HISTORY_FILE)));
    let history = History::open(kept.as_deref(), &notices)?;
    watches.keep_results_in(history.clone());
    let api = Api::new(hub.clone(), Arc::clone(&source), watches.clone())
        .with_notices(notices.clone())
        .with_history(history.clone());
    let security = run.protection.security(&run.listen, connection.clone()).await?;
    let listener = Listener::bind(&run.listen).await?;
    let endpoint = listener.endpoint()?;
    println!("listening on {endpoint}");
    if let Some(path) = &run.ready_file {
        write_ready_file(path, &endpoint)?;
    }
    if let Some(health) = &health {
        health.ready(Figures::new(hub.clone(), watches.clone()));
    }
    let checks = connection.map(|connection| {
        let tenancy = Tenancy::cluster_wide(run.cluster_checks_in);
        let options = ChecksOptions { tenancy, history: Some(history.clone()), ..ChecksOptions::default() };
        Checks::start(&connection, Arc::new(hub.clone()), source, options, &notices)
    });
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = {
        let hub = hub.clone();
        async move {
            stop.asked().await;
            tracing::info!("stopping");
            drop(stopping);
            // Before the agents are let go: tracers are disarmed by them.
            if let Some(checks) = checks {
                checks.stop().await;
            }
            hub.close();
        }
    };
    let patience = async {
        // Both outcomes mean that stopping began.
        drop(stopped.await);
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        outcome = serve(listener, security, &hub, &api, shutdown) => outcome?,
        () = watches.run(incoming) => {}
        () = patience => tracing::warn!("clients were still waiting; agents' leases end their checks"),
    }
    history.settle().await;
    if let Some(path) = &run.ready_file {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

impl Protection {
    /// Makes the certificates if they are needed.
    async fn security(
        &self,
        listen: &Endpoint,
        connection: Option<Connection>,
    ) -> Result<Security, Box<dyn std::error::Error>> {
        let store: Option<Box<dyn Store>> = match (&self.tls_dir, &self.tls_secrets, connection) {
            (Some(folder), _, _) => Some(Box::new(FolderStore::new(folder))),
            (None, Some(namespace), Some(connection)) => {
                Some(Box::new(SecretStore::new(connection, namespace)))
            }
            (None, _, _) => None,
        };
        let store = match (listen, store) {
            (Endpoint::Tls { .. }, Some(store)) => store,
            (Endpoint::Tls { .. }, None) => {
                let message = format!(
                    "{listen} needs certificates: say where to keep them, with --tls-dir DIR, or with --tls-secrets NAMESPACE on Kubernetes"
                );
                return Err(message.into());
            }
            (Endpoint::Unix(_) | Endpoint::Tcp { .. }, Some(_)) => {
                let message =
                    format!("certificates are of no use for {listen}: TLS is spoken at https://HOST:PORT");
                return Err(message.into());
            }
            (Endpoint::Tcp { .. }, None) if !self.insecure => {
                let message = format!(
                    "{listen} is not encrypted: listen at https://HOST:PORT, or say --insecure if that is meant"
                );
                return Err(message.into());
            }
            (Endpoint::Unix(_) | Endpoint::Tcp { .. }, None) => return Ok(Security::Open),
        };
        let keeper =
            Keeper::start(store, Names::new(listen, &self.tls_san), OffsetDateTime::now_utc()).await?;
        Ok(Security::Certificates(Box::new(keeper)))
    }
}

/// The signals that end the controller.
struct Stop {
    terminated: Signal,
    interrupted: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminated: signal(SignalKind::terminate())?,
            interrupted: signal(SignalKind::interrupt())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminated.recv() => {}
            _ = self.interrupted.recv() => {}
        }
    }
}
