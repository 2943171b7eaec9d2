//! Checks that are kept in files, and answered again from them.

use std::path::Path;

use waymark_controller::{Recording, RecordingError, save};
use waymark_proto::CheckResult;

use crate::failure::{Exit, Failure};

/// What became of the recording of a check.
pub(crate) enum Recorded {
    /// The document.
    Json(Vec<u8>),
    /// Why there is none.
    Failed(String),
    /// Nobody made one.
    Nothing,
}

impl From<Result<Vec<u8>, RecordingError>> for Recorded {
    fn from(outcome: Result<Vec<u8>, RecordingError>) -> Self {
        outcome.map_or_else(|error| Self::Failed(error.to_string()), Self::Json)
    }
}

impl Recorded {
    /// What a controller sent.
    pub(crate) fn received(json: Option<Vec<u8>>, failure: Option<String>) -> Self {
        json.map(Self::Json).or(failure.map(Self::Failed)).unwrap_or(Self::Nothing)
    }

    /// The document, or why there is none.
    fn json(&self) -> Result<&[u8], String> {
        match self {
            Self::Json(json) => Ok(json),
            Self::Failed(why) => Err(why.clone()),
            Self::Nothing => Err("the controller made no recording (is it of another version?)".to_owned()),
        }
    }
}

/// Writes a recording to a file.
pub(crate) fn keep(path: &Path, recorded: &Recorded) -> Result<(), Failure> {
    let written = recorded.json().and_then(|json| save(path, json).map_err(|error| error.to_string()));
    written.map_err(|why| cannot_write(path, &why))
}

/// Writes the packets of a check to a file.
pub(crate) fn keep_packets(path: &Path, recorded: &Recorded) -> Result<(), Failure> {
    let read = |json| Recording::from_json(json).map_err(|error| error.to_string());
    let recording = recorded.json().and_then(read).map_err(|why| cannot_write(path, &why))?;
    export(path, &recording)
}

/// Writes the packets of a recording to a file, if there are any.
pub(crate) fn export(path: &Path, recording: &Recording) -> Result<(), Failure> {
    let mut packets = Vec::new();
    let encoded = recording.write_pcapng(&mut packets).map_err(|error| error.to_string());
    let written = encoded.and_then(|()| std::fs::write(path, packets).map_err(|error| error.to_string()));
    written.map_err(|why| cannot_write(path, &why))
}

fn cannot_write(path: &Path, why: &str) -> Failure {
    Failure::new(Exit::CannotCreate, format!("cannot write {}: {why}", path.display()))
}

/// Reads a recording.
pub(crate) fn open(path: &Path) -> Result<Recording, Failure> {
    Recording::read(path).map_err(|error| match error {
        RecordingError::Io(error) => {
            Failure::new(Exit::NoInput, format!("cannot read {}: {error}", path.display()))
        }
        error => Failure::new(Exit::Data, format!("{}: {error}", path.display())),
    })
}

/// The result of a recorded check.
pub(crate) fn replay(path: &Path, recording: &Recording) -> Result<CheckResult, Failure> {
    waymark_controller::replay(recording)
        .map_err(|error| Failure::new(Exit::Data, format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_that_is_not_there_is_an_error_that_says_why() {
        let path = Path::new("/nonexistent/x.json");
        for (recorded, words) in [
            (Recorded::from(Err(RecordingError::TooLarge)), "the recording is larger than 60 MiB"),
            (Recorded::received(None, Some("it is too large".into())), "it is too large"),
            (Recorded::received(None, None), "made no recording"),
            (Recorded::received(Some(vec![]), None), "No such file"),
        ] {
            let failure = keep(path, &recorded).unwrap_err();
            assert_eq!(failure.exit, Exit::CannotCreate);
            assert!(failure.message.starts_with("cannot write /nonexistent/x.json: "), "{}", failure.message);
            assert!(failure.message.contains(words), "{}", failure.message);
        }
    }
}
