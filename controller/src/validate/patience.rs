//! Patience with an API server that is away while something applied has to be taken back: giving up leaves a
//! harmful change in place.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::world::ClusterError;

/// How long a server may be away. One that restarts is ready again after 10 to 50 s: kubelet waits 10 s before it
/// starts a container anew, and the server then needs 6 s on an idle machine, and some 40 s on a busy one.
const AWAY: Duration = Duration::from_secs(60);
/// What one request has at least, however long the server has been away: as long as its admission webhooks have.
const LEAST: Duration = Duration::from_secs(10);
/// How long to wait before another try.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// Tells a user what is waited for.
pub(super) type Say<'a> = &'a (dyn Fn(String) + Send + Sync);

/// How long a server is still waited for: for all requests together, until it answers one.
pub(super) struct Patience<'a> {
    limit: Duration,
    /// Since when it has not answered.
    since: Option<Instant>,
    say: Say<'a>,
}

impl<'a> Patience<'a> {
    /// As long as a restart may take.
    pub(super) fn new(say: Say<'a>) -> Self {
        Self::within(AWAY, say)
    }

    /// As long as this.
    pub(super) fn within(limit: Duration, say: Say<'a>) -> Self {
        Self { limit, since: None, say }
    }

    fn left(&self) -> Duration {
        self.limit.saturating_sub(self.since.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Asks until there is an answer, be it a refusal, or the server has been away for too long. What was asked
    /// may have been done though no answer came.
    pub(super) async fn ask<T>(
        &mut self,
        doing: &str,
        request: impl AsyncFn() -> Result<T, ClusterError>,
    ) -> Result<T, ClusterError> {
        loop {
            let asked = Instant::now();
            let why = match timeout(self.left().max(LEAST), request()).await {
                Ok(Err(ClusterError::Unavailable(why))) => why,
                Ok(answer) => {
                    self.since = None;
                    return answer;
                }
                Err(_) => "the Kubernetes API server does not answer".to_owned(),
            };
            let since = *self.since.get_or_insert(asked);
            let left = self.left();
            if left.is_zero() {
                let seconds = since.elapsed().as_secs();
                return Err(ClusterError::Unavailable(format!("{why} (tried for {seconds} s)")));
            }
            (self.say)(format!("{doing}: {why}; trying for another {} s", left.as_secs()));
            sleep(PAUSE.min(left)).await;
        }
    }
}
