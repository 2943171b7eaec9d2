//! What a watch is asked to do, with its limits.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use waymark_proto::{Protocol, short};

/// Time between two probes of a target unless asked otherwise.
pub const DEFAULT_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time between two probes of a target.
pub const MIN_PROBE_INTERVAL: Duration = Duration::from_millis(10);
/// Longest time between two probes of a target.
pub const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(3600);
/// How long to wait for an answer unless asked otherwise.
pub const DEFAULT_PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Shortest wait for an answer.
pub const MIN_PROBE_TIMEOUT: Duration = Duration::from_millis(1);
/// Longest wait for an answer.
pub const MAX_PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Most watches of a controller.
pub const MAX_WATCHES: usize = 1000;
/// Most characters of a watch's name, which is a label of metrics: that of a DNS label (RFC 1123).
const MAX_NAME: usize = 63;
/// Most ends that one side may name.
const MAX_ENDS: usize = 1000;

/// A watch as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WatchSpec {
    /// Name, one of a kind.
    pub name: String,
    /// Who sends: `pod/NAMESPACE/NAME`, `node/NAME`, `nodes` for every node.
    pub from: Vec<String>,
    /// Who receives: the same, and `svc/NAMESPACE/NAME:PORT` or `IP[:PORT]`.
    pub to: Vec<String>,
    /// Protocol. If absent: TCP to a port, ICMP to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Microseconds between two probes of a target.
    pub interval_us: u64,
    /// Microseconds after which a probe without answer is lost.
    pub timeout_us: u64,
    /// Whether to use IPv6.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipv6: bool,
}

/// What is wrong with a watch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// A name that cannot be one.
    #[error("{:?} cannot be the name of a watch: use 1 to {MAX_NAME} of a-z, 0-9 and -, beginning and ending with a letter or digit", short(.0))]
    Name(String),
    /// A second watch of a name.
    #[error("there is a watch {0:?} already; stop it first with `waymark watch stop {0}`")]
    Twice(String),
    /// A name that no watch has.
    #[error("there is no watch {:?}{}", short(name), there_are(known))]
    Unknown {
        /// The name.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// A time out of its range.
    #[error("the {what} must be {} to {}, not {value:?}", humane(range.0), humane(range.1))]
    Range {
        /// Which.
        what: &'static str,
        /// What it may be.
        range: (Duration, Duration),
        /// What it is.
        value: Duration,
    },
    /// An end that nothing can be sent from or to.
    #[error("{0}")]
    End(String),
    /// Too much.
    #[error("{what} would be {count}, more than the limit of {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// The state file.
    #[error("the watch cannot be kept: {0}")]
    Store(String),
}

fn there_are(known: &[String]) -> String {
    match known {
        [] => "; there are none".to_owned(),
        names => format!("; there are {}", names.join(", ")),
    }
}

fn humane(duration: Duration) -> String {
    format!("{duration:?}")
}

impl WatchSpec {
    /// Time between two probes.
    pub fn interval(&self) -> Duration {
        Duration::from_micros(self.interval_us)
    }

    /// How long a probe may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_micros(self.timeout_us)
    }

    /// Checks what can be checked without a cluster.
    pub fn check(&self) -> Result<(), WatchError> {
        let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let name = &self.name;
        let fits = (1..=MAX_NAME).contains(&name.len())
            && name.chars().all(|c| letter(c) || c == '-')
            && name.starts_with(letter)
            && name.ends_with(letter);
        if !fits {
            return Err(WatchError::Name(name.clone()));
        }
        let within = |what, value, range: (Duration, Duration)| {
            if (range.0..=range.1).contains(&value) {
                Ok(())
            } else {
                Err(WatchError::Range { what, range, value })
            }
        };
        within("interval", self.interval(), (MIN_PROBE_INTERVAL, MAX_PROBE_INTERVAL))?;
        within("timeout", self.timeout(), (MIN_PROBE_TIMEOUT, MAX_PROBE_TIMEOUT))?;
        for (what, ends) in [("sources", &self.from), ("destinations", &self.to)] {
            if ends.is_empty() {
                return Err(WatchError::End(format!("a watch needs {what}")));
            }
            if ends.len() > MAX_ENDS {
                return Err(WatchError::TooMany { what, count: ends.len(), limit: MAX_ENDS });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) fn spec(name: &str, from: &[&str], to: &[&str]) -> WatchSpec {
    let owned = |ends: &[&str]| ends.iter().map(|&end| end.to_owned()).collect();
    WatchSpec {
        name: name.to_owned(),
        from: owned(from),
        to: owned(to),
        protocol: None,
        interval_us: 1_000_000,
        timeout_us: 1_000_000,
        ipv6: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named() {
        let good = spec("mesh-1", &["nodes"], &["nodes"]);
        assert_eq!(good.check(), Ok(()));
        for name in ["", "-a", "a-", "A", "ä", "a b", &"a".repeat(64)] {
            let named = WatchSpec { name: name.to_owned(), ..good.clone() };
            assert!(matches!(named.check(), Err(WatchError::Name(_))), "{name}");
        }
        let says = |spec: WatchSpec| spec.check().unwrap_err().to_string();
        assert_eq!(
            says(WatchSpec { interval_us: 9_999, ..good.clone() }),
            "the interval must be 10ms to 3600s, not 9.999ms"
        );
        assert!(says(WatchSpec { timeout_us: 0, ..good.clone() }).contains("timeout"));
        assert!(says(WatchSpec { to: Vec::new(), ..good }).contains("destinations"));
    }
}
