//! Waits for an API server: `/readyz` says `ok` once all its start-up hooks have run.

use std::path::Path;
use std::time::{Duration, Instant};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::error::{KubernetesError, Result};

/// How long a server may take. Six seconds on an idle machine; over a minute has been seen on one that
/// also builds, and several may start at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is asked.
const PERIOD: Duration = Duration::from_millis(50);

/// A client by a kubeconfig. Needs a tokio runtime.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client> {
    let failed = |source| KubernetesError::Kubeconfig { path: kubeconfig.to_owned(), source };
    let document = Kubeconfig::read_from(kubeconfig).map_err(|error| failed(error.into()))?;
    let config = Config::from_custom_kubeconfig(document, &KubeConfigOptions::default()).await;
    let config = config.map_err(|error| failed(error.into()))?;
    Client::try_from(config).map_err(|error| failed(error.into()))
}

/// Runs something that may take long, on a thread and a runtime of its own: the caller may be inside another.
/// Ends early with Ctrl-C.
pub(crate) fn patiently<T: Send>(what: &str, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let late = || KubernetesError::Late { what: what.to_owned(), seconds: PATIENCE.as_secs() };
    let limited = async {
        let interrupted = async {
            while crate::interrupt::check().is_ok() {
                tokio::time::sleep(PERIOD).await;
            }
        };
        tokio::select! {
            done = tokio::time::timeout(PATIENCE, work) => done.unwrap_or_else(|_| Err(late())),
            () = interrupted => Err(KubernetesError::Interrupted),
        }
    };
    std::thread::scope(|scope| {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(KubernetesError::file("start", "an asynchronous runtime"))?.block_on(limited)
        };
        scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Waits until the server of a kubeconfig is ready. `alive` fails when its process has ended.
pub(crate) fn wait(kubeconfig: &Path, log: &Path, alive: impl Fn() -> Result<()> + Send) -> Result<()> {
    // On a thread of its own: the caller may be inside another runtime.
    std::thread::scope(|scope| {
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(KubernetesError::file("start", "an asynchronous runtime"))?;
            runtime.block_on(ask(kubeconfig, log, alive))
        };
        scope.spawn(ask).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

async fn ask(kubeconfig: &Path, log: &Path, alive: impl Fn() -> Result<()>) -> Result<()> {
    let client = client(kubeconfig).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        crate::interrupt::check().map_err(|_| KubernetesError::Interrupted)?;
        let request = http::Request::get("/readyz").body(Vec::new()).expect("a path is a URL");
        let left = deadline.saturating_duration_since(Instant::now());
        let last = match tokio::time::timeout(left, client.request_text(request)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        alive()?;
        if deadline <= Instant::now() {
            let (seconds, log) = (PATIENCE.as_secs(), log.to_owned());
            return Err(KubernetesError::NotReady { server: "the API server".into(), seconds, last, log });
        }
        tokio::time::sleep(PERIOD).await;
    }
}
