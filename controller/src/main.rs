//! `waymark-controller`: takes agents and clients in.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use waymark_controller::{Api, FileSource, Hub, Listener, Patience, Source, write_ready_file};
use waymark_proto::{DEFAULT_ENDPOINT, Endpoint, KEEP_ALIVE};

/// Exit code for wrong usage, as sysexits.h has it.
const USAGE: u8 = 64;
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
    /// The cluster: an inventory file, read anew for each check.
    #[arg(long)]
    inventory: PathBuf,
    /// Where to listen: `unix:/PATH`, `http://HOST:PORT` or `HOST:PORT`.
    #[arg(long, env = "WAYMARK_CONTROLLER", default_value = DEFAULT_ENDPOINT)]
    listen: Endpoint,
    /// A file to write the address to once it is listened on.
    #[arg(long)]
    ready_file: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; they go to standard output.
            let code = if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
            drop(error.print());
            return code;
        }
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    let Command::Run(run) = arguments.command;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(serve(run)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref()),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("waymark-controller: error: {error}");
    ExitCode::from(FAILED)
}

async fn serve(run: Run) -> Result<(), Box<dyn std::error::Error>> {
    let source = FileSource::new(run.inventory);
    // A mistake in the inventory is better told now than at the first check.
    source.inventory().await?;
    let mut stop = Stop::new()?;
    let hub = Hub::new(Patience::default());
    let api = Api::new(hub.clone(), Arc::new(source));
    let listener = Listener::bind(&run.listen).await?;
    let endpoint = listener.endpoint()?;
    println!("listening on {endpoint}");
    if let Some(path) = &run.ready_file {
        write_ready_file(path, &endpoint)?;
    }
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = {
        let hub = hub.clone();
        async move {
            stop.asked().await;
            tracing::info!("stopping");
            hub.close();
            drop(stopping);
        }
    };
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(hub.service())
        .add_service(api.service());
    let serving = async {
        match listener {
            Listener::Unix(listener, file) => {
                let outcome =
                    router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown).await;
                drop(file);
                outcome
            }
            Listener::Tcp(listener) => {
                router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown).await
            }
        }
    };
    let patience = async {
        // Both outcomes mean that stopping began.
        drop(stopped.await);
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        outcome = serving => outcome?,
        () = patience => tracing::warn!("clients were still waiting; agents' leases end their checks"),
    }
    if let Some(path) = &run.ready_file {
        std::fs::remove_file(path)?;
    }
    Ok(())
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
