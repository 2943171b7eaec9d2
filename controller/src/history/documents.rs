//! What clients print about results of the past.

use std::fmt;

use serde::{Deserialize, Serialize};
use waymark_proto::{CheckId, CheckResult, FaultPoint, Protocol, Text, Verdict, text};

/// Results of the past: what `waymark show -o json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultList {
    /// [`waymark_proto::API_VERSION`].
    pub api_version: String,
    /// `ResultList`.
    pub kind: String,
    /// The results, the last first.
    pub results: Vec<ResultSummary>,
}

/// The outline of a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultSummary {
    /// The check.
    pub check: CheckId,
    /// When it ended, in nanoseconds since the Unix epoch.
    pub at_unix_ns: u64,
    /// Who asked.
    pub asker: Asker,
    /// The source as it was asked for.
    pub source: String,
    /// The destination as it was asked for.
    pub destination: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The answer.
    pub verdict: Verdict,
    /// Where and why it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault_point: Option<FaultPoint>,
}

/// A result of the past.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptResult {
    /// When the check ended, in nanoseconds since the Unix epoch.
    pub at_unix_ns: u64,
    /// Who asked.
    pub asker: Asker,
    /// The result.
    pub result: CheckResult,
}

/// Who asked for a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Asker {
    /// A client.
    Client,
    /// A Check of the Kubernetes API.
    Check {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// An outage of a watch.
    Outage {
        /// Its number.
        number: u64,
        /// The watch.
        watch: String,
    },
}

impl Asker {
    /// The name in text.
    pub fn words(&self) -> Text {
        match self {
            Self::Client => text!(history::Client),
            Self::Check { namespace, name } => text!(history::Check { namespace, name }),
            Self::Outage { number, watch } => text!(history::Outage { number: *number, watch }),
        }
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.words())
    }
}
