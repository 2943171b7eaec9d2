//! Errors as clients get them: a code, and one sentence.

use tonic::Status as Refusal;

use crate::agents::AgentError;
use crate::engine::CheckError;
use crate::gather::GatherError;
use crate::history::HistoryError;
use crate::live::TraceError;
use crate::request::RequestError;
use crate::resolve::ResolveError;
use crate::source::SourceError;
use crate::watching::WatchError;

/// Longest message of a refusal, in characters. It travels in a header, of which 16 kB are taken, and
/// each character may take a dozen bytes there.
const MAX_WORDS: usize = 1000;

/// The words of a refusal, cut where they would not fit into a header.
pub(super) fn words(message: &impl ToString) -> String {
    let mut message = message.to_string();
    if let Some((end, _)) = message.char_indices().nth(MAX_WORDS) {
        message.truncate(end);
        message.push('…');
    }
    message
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        Self::invalid_argument(words(&error))
    }
}

impl From<ResolveError> for Refusal {
    fn from(error: ResolveError) -> Self {
        Self::invalid_argument(words(&error))
    }
}

impl From<WatchError> for Refusal {
    fn from(error: WatchError) -> Self {
        let message = words(&error);
        match error {
            WatchError::Twice(_) => Self::already_exists(message),
            WatchError::Unknown { .. } => Self::not_found(message),
            WatchError::Store(_) => Self::internal(message),
            WatchError::Name(_)
            | WatchError::Range { .. }
            | WatchError::End(_)
            | WatchError::TooMany { .. } => Self::invalid_argument(message),
        }
    }
}

impl From<HistoryError> for Refusal {
    fn from(error: HistoryError) -> Self {
        let message = words(&error);
        match error {
            HistoryError::Unknown(_) => Self::not_found(message),
            HistoryError::NotAnId(_) | HistoryError::Ambiguous { .. } => Self::invalid_argument(message),
            HistoryError::Closed => Self::unavailable(message),
            HistoryError::NotUnderstood(_) => Self::failed_precondition(message),
            HistoryError::Open { .. }
            | HistoryError::Folder { .. }
            | HistoryError::Later { .. }
            | HistoryError::Thread(_)
            | HistoryError::Read(_) => Self::internal(message),
        }
    }
}

impl From<SourceError> for Refusal {
    fn from(error: SourceError) -> Self {
        Self::failed_precondition(words(&error))
    }
}

impl From<AgentError> for Refusal {
    fn from(error: AgentError) -> Self {
        let message = words(&error);
        match error {
            AgentError::NoAgent { .. } | AgentError::Refused { .. } | AgentError::Gone { .. } => {
                Self::unavailable(message)
            }
            AgentError::Timeout { .. } => Self::deadline_exceeded(message),
            AgentError::Failed { .. } => Self::failed_precondition(message),
        }
    }
}

impl From<GatherError> for Refusal {
    fn from(error: GatherError) -> Self {
        let message = words(&error);
        match error {
            GatherError::Resolve(_) => Self::invalid_argument(message),
            GatherError::Source(_) => Self::unavailable(message),
            GatherError::Facts { .. } => Self::failed_precondition(message),
        }
    }
}

impl From<TraceError> for Refusal {
    fn from(error: TraceError) -> Self {
        let message = words(&error);
        match error {
            TraceError::Question(_) => Self::invalid_argument(message),
            TraceError::Arm(_) => Self::unavailable(message),
            TraceError::Random(_) => Self::internal(message),
        }
    }
}

impl From<CheckError> for Refusal {
    fn from(error: CheckError) -> Self {
        let message = words(&error);
        match error {
            CheckError::Resolve(_) | CheckError::UdpNotAsked(_) => Self::invalid_argument(message),
            CheckError::Gather(error) => error.into(),
            CheckError::Inject(
                AgentError::NoAgent { .. } | AgentError::Refused { .. } | AgentError::Gone { .. },
            )
            | CheckError::Arm(_) => Self::unavailable(message),
            CheckError::Inject(AgentError::Timeout { .. }) => Self::deadline_exceeded(message),
            CheckError::Inject(AgentError::Failed { .. }) => Self::failed_precondition(message),
            CheckError::Cancelled => Self::cancelled(message),
            CheckError::Random(_) => Self::internal(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use waymark_proto::NodeName;

    use super::*;

    #[test]
    fn refusals_fit_into_a_header() {
        let node = NodeName::from("n1");
        let error = AgentError::Failed { node, operation: "arm", message: "\u{10348}".repeat(100_000) };
        let refusal = Refusal::from(error);
        assert_eq!(refusal.message().chars().count(), MAX_WORDS + 1);
        assert!(refusal.message().len() * 3 < 16_000, "percent-encoded");
    }
}
