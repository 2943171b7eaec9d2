//! Checks by a controller.

use async_trait::async_trait;
use waymark_controller::validate::{Observation, Pair, Probe, ProbeError, Seen, question};
use waymark_proto::rpc::check_event;
use waymark_proto::{CheckResult, text};

use crate::dial::Controller;

/// Packets of a check: enough to tell a lost one from a broken path.
const COUNT: u32 = 3;
/// How long to wait for the fate of the last one, in milliseconds. A round-trip within a cluster takes a
/// hundredth of that; a denied connection takes all of it.
const TIMEOUT_MS: u32 = 1000;

/// A controller that makes checks.
pub(super) struct GrpcProbe {
    controller: Controller,
}

impl GrpcProbe {
    pub(super) fn new(controller: Controller) -> Self {
        Self { controller }
    }

    fn failure(&self, status: tonic::Status, begun: bool) -> ProbeError {
        let away = Controller::is_broken(&status);
        let message = self.controller.failure(status, begun).message;
        if away { ProbeError::Away(message) } else { ProbeError::Impossible(message) }
    }
}

#[async_trait]
impl Probe for GrpcProbe {
    async fn check(&self, pair: &Pair) -> Result<Observation, ProbeError> {
        let Some(mut request) = question(pair) else {
            return Err(ProbeError::Impossible("SCTP cannot be sent".to_owned()));
        };
        (request.count, request.timeout_ms) = (COUNT, TIMEOUT_MS);
        let events = self.controller.client().check(request).await;
        let mut events = events.map_err(|status| self.failure(status, false))?.into_inner();
        let mut begun = false;
        while let Some(event) = events.message().await.map_err(|status| self.failure(status, begun))? {
            begun = true;
            if let Some(check_event::Body::ResultJson(json)) = event.body {
                let result: CheckResult = serde_json::from_slice(&json).map_err(|error| {
                    ProbeError::Away(format!(
                        "the controller's answer was not understood (is it of another version?): {error}"
                    ))
                })?;
                return Ok(observation(result));
            }
        }
        Err(ProbeError::Impossible("the controller ended the check without a result".to_owned()))
    }
}

fn observation(result: CheckResult) -> Observation {
    let seen = Seen::from(result.verdict);
    let note = (seen == Seen::Unseen)
        .then(|| result.notes.first().cloned().unwrap_or_else(|| text!(note::SightInsufficient)));
    Observation { seen, fault: result.fault_point.map(Box::new), note }
}
