//! A testbed with a real Kubernetes control plane. Needs root, and the programs of a control plane.
//!
//! * `services`: what kube-proxy writes carries real traffic, on every dataplane
//! * `workloads`: pods come and go as the API says
//! * `policies`: NetworkPolicies are enforced
//! * `lifecycle`: up and down, whatever happens between

#[path = "../common/mod.rs"]
mod common;
mod lifecycle;
mod policies;
mod services;
mod workloads;

use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use common::{Testbed, privileged, text};
use waymark_testbed::kubernetes::{Assets, Program};

/// Whether this test can run. Where it cannot, it says why, and under CI it fails.
pub(crate) fn able(test: &str) -> bool {
    if !privileged(test) {
        return false;
    }
    let wanted = [Program::Etcd, Program::ApiServer, Program::ControllerManager, Program::Proxy];
    match Assets::find(&wanted) {
        Ok(_) => true,
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("SKIPPED: {test}: {error}");
            false
        }
        Err(error) => panic!("{test}: {error}"),
    }
}

/// Control planes are large: of those that tests have for themselves there is one at a time. To be held longer
/// than the testbed.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
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
