//! Errors, each one sentence and an exit code (`sysexits.h`).

use std::process::ExitCode;

use tonic::{Code, Status};
use waymark_controller::live::TraceError;
use waymark_controller::{AgentError, CheckError, GatherError, RequestError, ResolveError};

/// Exit codes of errors. 0, 1 and 2 are answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// `EX_USAGE`: the command line, or names in it.
    Usage = 64,
    /// `EX_DATAERR`: the content of a file.
    Data = 65,
    /// `EX_NOINPUT`: a file that cannot be read.
    NoInput = 66,
    /// `EX_UNAVAILABLE`: no controller, no agent.
    Unavailable = 69,
    /// `EX_SOFTWARE`: anything else.
    Software = 70,
    /// `EX_CANTCREAT`: a file that cannot be written.
    CannotCreate = 73,
    /// `EX_NOPERM`: not permitted.
    NoPermission = 77,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        Status::from(error).into()
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let exit = match status.code() {
            Code::InvalidArgument | Code::NotFound => Exit::Usage,
            Code::Unavailable | Code::DeadlineExceeded => Exit::Unavailable,
            Code::PermissionDenied | Code::Unauthenticated => Exit::NoPermission,
            Code::FailedPrecondition => Exit::Data,
            _ => Exit::Software,
        };
        let message = match status.message() {
            "" => format!("the controller answered {}", status.code()),
            message => message.to_owned(),
        };
        Self::new(exit, message)
    }
}

impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        Status::from(error).into()
    }
}

impl From<GatherError> for Failure {
    fn from(error: GatherError) -> Self {
        Status::from(error).into()
    }
}

impl From<TraceError> for Failure {
    fn from(error: TraceError) -> Self {
        Status::from(error).into()
    }
}

impl From<CheckError> for Failure {
    fn from(error: CheckError) -> Self {
        Status::from(error).into()
    }
}
