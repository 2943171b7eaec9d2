//! A testbed with a real Kubernetes control plane. Needs root, and the programs of a control plane.
//!
//! * `services`: what kube-proxy writes carries real traffic, on every dataplane
//! * `validate`: changes that stay, and changes that are taken back
//! * `workloads`: pods come and go as the API says
//! * `policies`: NetworkPolicies are enforced
//! * `checks`: what is checked, with the controller and its agents
//! * `resources`: Checks as objects of the API, and kubectl's plugin
//! * `culprits`: what is broken names its Kubernetes object
//! * `lifecycle`: up and down, whatever happens between

mod checks;
#[path = "../common/mod.rs"]
mod common;
mod culprits;
#[path = "../common/lacking.rs"]
mod lacking;
mod lifecycle;
mod policies;
mod resources;
mod services;
mod validate;
mod workloads;

use std::ops::Deref;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use common::{Testbed, privileged, text};
use lacking::or_left_out;
use waymark_testbed::kubernetes::{Assets, Program};

/// How long anything may take to become so. Machines under load need some seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// Whether this test can run. Where it cannot, it says why, and under CI it fails.
pub(crate) fn able(test: &str) -> bool {
    if !privileged(test) {
        return false;
    }
    let wanted = [Program::Etcd, Program::ApiServer, Program::ControllerManager, Program::Proxy];
    or_left_out(test, Assets::find(&wanted)).is_some()
}

/// Control planes are large: of those that tests have for themselves there is one at a time. To be held longer
/// than the testbed.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A shared testbed, for as long as it is this test's turn.
pub(crate) struct Watched {
    // The first, so it is dropped first.
    cluster: Arc<Kubernetes>,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Watched {
    type Target = Kubernetes;

    fn deref(&self) -> &Kubernetes {
        &self.cluster
    }
}

/// A testbed with a control plane, and kubectl for it.
pub(crate) struct Kubernetes {
    pub(crate) testbed: Testbed,
}

impl Kubernetes {
    /// One without agents.
    pub(crate) fn up(args: &[&str]) -> Self {
        let mut all = vec!["--kubernetes"];
        all.extend(args);
        Self { testbed: Testbed::up(&all) }
    }

    /// One without agents that tests share who leave it as it was: each in Kubernetes namespaces of its own, or
    /// with objects that it removes. It is taken down by the last who has it.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Kubernetes>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Self::up(&["--dataplane", "bridge-hostgw"]));
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    /// The same with controller and agents, for one test at a time: rules that change while a check looks at them
    /// are neither those that it read nor those that its packets met.
    pub(crate) fn watched() -> Watched {
        static WATCHED: Mutex<Weak<Kubernetes>> = Mutex::new(Weak::new());
        static TURN: Mutex<()> = Mutex::new(());
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = watched.upgrade().unwrap_or_else(|| {
            let testbed = Testbed::named();
            testbed.succeed(&["up", "--kubernetes", "--dataplane", "bridge-hostgw"]);
            let cluster = Arc::new(Self { testbed });
            *watched = Arc::downgrade(&cluster);
            cluster
        });
        drop(watched);
        // Who waits has it already, so that it stays up for them.
        Watched { cluster, _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Makes or changes an object.
    #[track_caller]
    pub(crate) fn apply(&self, object: &serde_json::Value) {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        serde_json::to_writer(&mut file, object).expect("strings are always JSON");
        self.kubectl(&["apply", "-f", &file.path().display().to_string()]);
    }

    /// Waits until something is so.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let limit = Instant::now() + LIMIT;
        while !is_so() {
            assert!(Instant::now() < limit, "{}: {what}: not within {LIMIT:?}", self.testbed.name);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs kubectl, which must succeed, and gives back what it printed.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(self.testbed.instance().dir().kubernetes().kubeconfig());
        let output =
            kubectl.args(args).output().expect("kubectl is installed: apt-get install kubernetes-client");
        assert!(output.status.success(), "kubectl {args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The network namespace of a pod.
    #[track_caller]
    pub(crate) fn netns(&self, pod: &str) -> String {
        let records = self.testbed.instance().records();
        records.into_iter().find(|record| record.full_name() == pod).expect(pod).netns
    }
}
