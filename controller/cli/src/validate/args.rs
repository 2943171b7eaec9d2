//! The command line of `waymark validate`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use waymark_controller::validate::Rollback;

use crate::args::{Line, Tongue};
use crate::cluster::Namespace;
use crate::values::{duration, number, path};

/// Most connections that one validation checks.
const MOST_CHECKS: u32 = 500;
/// Longest time that the dataplane may take.
const LONGEST_SETTLE: Duration = Duration::from_secs(600);

/// Try a change of NetworkPolicies and Services: what it means, whether it comes true, and back if it does not.
///
/// First the API server tries the change without carrying it out, and the reachability that the objects ask for
/// is compared before and after, over all pods. Then some connections are checked for real: of each group of
/// those that change, and some that should not. The change is applied on the server's side, and they are checked
/// again until all is as predicted or --settle is over.
///
/// The change fails, and is rolled back, if a connection that worked is lost and nobody accepted that (--expect,
/// --accept-lost); if one that should work now does not; if one that should not does; or if a check could not
/// tell. What was wrong before and stays wrong is told, and does not fail. --cautious does not even apply a
/// change that is predicted to cut a working connection without that being accepted. Ctrl-C and a controller
/// that goes away lead to the rollback, too.
///
/// The cluster is read and changed with the rights of the kubeconfig's user: get, list, patch, and for the
/// rollback update and delete.
///
/// Exit codes: 0 nothing changes in reachability, 1 something does and all is as predicted, 2 failed (rolled
/// back if it was applied), 3 failed and not all could be rolled back, 64 usage, 65 a file's content, 69 no
/// controller or API server, 77 not permitted, other codes from 66 up: other errors.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own on the command line")]
pub(crate) struct ValidateArguments {
    /// The change: a manifest, or - for standard input.
    #[arg(short, long, value_name = "FILE", value_parser = path, required_unless_present = "from")]
    pub(crate) filename: Vec<PathBuf>,
    /// Delete the objects instead of applying them.
    #[arg(short, long)]
    pub(crate) delete: bool,
    /// Say what the objects mean, and change nothing.
    #[arg(long = "static", visible_alias = "dry-run")]
    pub(crate) static_only: bool,
    /// Compare two folders of manifests, and of saved facts if there are any, instead: the one before,
    #[arg(long, value_name = "DIR", value_parser = path, requires = "to", conflicts_with_all = ["filename", "delete", "static_only"])]
    pub(crate) from: Option<PathBuf>,
    /// and the one after.
    #[arg(long, value_name = "DIR", value_parser = path, requires = "from")]
    pub(crate) to: Option<PathBuf>,
    /// What is expected: a list of {source: pod/NAMESPACE/NAME, destination: pod/NAMESPACE/NAME[:PORT] or svc/…, expect: Reachable or Unreachable}; names may end with *.
    #[arg(long, value_name = "FILE", value_parser = path)]
    pub(crate) expect: Option<PathBuf>,
    /// Accept the loss of every connection that no expectation speaks of.
    #[arg(long)]
    pub(crate) accept_lost: bool,
    /// Do not apply what is predicted to cut a working connection that nobody gave up.
    #[arg(long)]
    pub(crate) cautious: bool,
    /// Most connections to check for real.
    #[arg(long, value_name = "NUMBER", value_parser = number(1..=MOST_CHECKS), default_value_t = 24)]
    pub(crate) max_checks: u32,
    /// Check UDP ports, too: the applications behind them get the packets.
    #[arg(long)]
    pub(crate) udp: bool,
    /// How long the dataplane may take until all is as predicted.
    #[arg(long, value_name = "TIME", value_parser = duration(Duration::ZERO..=LONGEST_SETTLE), default_value = "30s")]
    pub(crate) settle: Duration,
    /// When to take the change back.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = When::OnFailure)]
    pub(crate) rollback: When,
    /// Apply as this field manager.
    #[arg(long, value_name = "NAME", default_value = "waymark-validate", value_parser = manager)]
    pub(crate) field_manager: String,
    /// Take fields over from their managers.
    #[arg(long)]
    pub(crate) force_conflicts: bool,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) tongue: Tongue,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    #[command(flatten)]
    pub(crate) line: Line,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
    Junit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// If it fails.
    OnFailure,
    /// In any case.
    Always,
}

impl From<When> for Rollback {
    fn from(when: When) -> Self {
        match when {
            When::OnFailure => Self::OnFailure,
            When::Always => Self::Always,
        }
    }
}

/// Longest name of a field manager that the API server takes.
const MAX_MANAGER: usize = 128;

fn manager(text: &str) -> Result<String, String> {
    match text.len() {
        1..=MAX_MANAGER => Ok(text.to_owned()),
        _ => Err(format!("must have 1 to {MAX_MANAGER} characters")),
    }
}
