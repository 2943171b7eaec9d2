//! Runs the client as a user would, and compares what it says with what it should.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use waymark_proto::{CheckResult, Verdict};

use super::super::ready::{client, patiently};
use super::super::{Files, KubernetesError};
use crate::instance::Instance;
use crate::plan::Cluster;
use crate::tell::say;
use crate::{Error, Result, interrupt};

/// How long the cluster may take until a change shows in what Waymark says of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often Waymark is asked meanwhile.
const PERIOD: Duration = Duration::from_millis(200);

/// A testbed that is up, and the way to ask about it.
pub(super) struct Story<'a> {
    pub(super) instance: &'a Instance,
    pub(super) cluster: Cluster,
    pub(super) files: Files,
}

impl<'a> Story<'a> {
    pub(super) fn of(instance: &'a Instance) -> Result<Self> {
        let cluster = instance.state()?.cluster(instance.name());
        Ok(Self { instance, cluster, files: instance.dir().kubernetes() })
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(self.instance.programs().client()?);
        command
            .args(words)
            .env("WAYMARK_CONTROLLER", self.instance.dir().controller())
            .env("KUBECONFIG", self.files.kubeconfig())
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs the client in front of the reader, and expects an exit code of it.
    pub(super) fn show(&self, words: &[&str], expected: i32) -> Result<()> {
        interrupt::check()?;
        let line = format!("waymark {}", words.join(" "));
        say(format_args!("$ {line}"));
        let status =
            self.command(words)?.status().map_err(|error| no_result(&line, &error.to_string(), ""))?;
        interrupt::check()?;
        match status.code() {
            Some(code) if code == expected => Ok(()),
            Some(code) => {
                Err(Error::Demo(format!("`{line}` ended with {code} where {expected} was expected")))
            }
            None => Err(no_result(&line, &status.to_string(), "see above")),
        }
    }

    /// Runs the client behind the scenes, for its document.
    pub(super) fn ask<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
        interrupt::check()?;
        let line = format!("waymark {}", words.join(" "));
        let mut command = self.command(words)?;
        let output = command
            .args(["-o", "json"])
            .output()
            .map_err(|error| no_result(&line, &error.to_string(), ""))?;
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout)
            .map_err(|_| no_result(&line, &output.status.to_string(), said.trim()))
    }

    /// Waits until a check says what it should: the cluster's own programs need their time. Then shows it.
    pub(super) fn check(
        &self,
        destination: &str,
        expected: Verdict,
        right: impl Fn(&CheckResult) -> bool,
    ) -> Result<CheckResult> {
        let words = ["check", "pod/shop/cart", destination];
        let result: CheckResult = Self::until(&format!("`waymark {}` says it", words.join(" ")), || {
            let result: CheckResult = self.ask(&words)?;
            Ok((result.verdict == expected && right(&result)).then_some(result))
        })?;
        let words = [&words[..], &["--explain"]].concat();
        self.show(&words, i32::from(expected != Verdict::Reachable))?;
        Ok(result)
    }

    /// Waits until something is there.
    pub(super) fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            interrupt::check()?;
            if let Some(found) = look()? {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                return Err(Error::Demo(format!("waited {} s until {what}", PATIENCE.as_secs())));
            }
            std::thread::sleep(PERIOD);
        }
    }

    /// Does something with the API server.
    pub(super) fn api<T: Send, F>(&self, what: &str, work: impl FnOnce(kube::Client) -> F + Send) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, kube::Error>> + Send,
    {
        let kubeconfig = self.files.kubeconfig();
        let done = patiently(what, async {
            let failed =
                |source: kube::Error| KubernetesError::Api { what: what.to_owned(), source: source.into() };
            work(client(&kubeconfig).await?).await.map_err(failed)
        });
        Ok(done?)
    }
}

/// The object to mend that a result names, as text.
pub(super) fn culprit(result: &CheckResult) -> Option<String> {
    Some(result.fault_point.as_ref()?.culprit.as_ref()?.to_string())
}

fn no_result(command: &str, status: &str, output: &str) -> Error {
    Error::NoResult { command: command.into(), status: status.into(), output: output.into() }
}
