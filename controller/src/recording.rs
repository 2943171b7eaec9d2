//! Recordings: all that the result of a check rests on, as one document.
//!
//! A recorded check is answered again by [`replay`](crate::replay) without root, agents or a network, and its
//! result is the same to the byte. So a case from a cluster far away can be looked into anywhere, and an answer
//! stays what it was while the code changes.
//!
//! It tells names, addresses, rulesets and policies of the nodes on the path: whoever gives it away gives those.
//!
//! * `pcapng`: their packets for other tools
//! * `clocks`: the nodes' clocks as one

mod clocks;
mod pcapng;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use waymark_proto::{CheckId, Facts, Inventory, Text, short};

use crate::engine::Trials;
use crate::hub::MAX_MESSAGE;
use crate::packed::{self, PackedError};
use crate::request::Request;
use crate::resolve::Ends;
pub use pcapng::PcapngError;

/// Version of the document's format.
pub const RECORDING_API_VERSION: &str = "waymark.io/recording/v1alpha1";

/// Largest recording, in bytes of JSON: what fits into one message together with the result.
pub const MAX_RECORDING: usize = MAX_MESSAGE - (4 << 20);

/// All that the result of one check rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recording {
    /// [`RECORDING_API_VERSION`].
    pub(crate) api_version: String,
    /// Version of the program that made it, for people.
    pub(crate) version: String,
    /// The cluster.
    pub(crate) inventory: Inventory,
    /// Why it may have been out of date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) doubt: Option<Text>,
    /// The check.
    pub(crate) check: Examination,
    /// The second opinions that were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) opinions: Vec<Examination>,
    /// Routers that answered packets whose TTL ended with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) routers: Vec<IpAddr>,
    /// What the other nodes saw when some packets were sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) witnessed: Option<Trials>,
}

/// Packets between two ends, with what was known before them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Examination {
    /// Its number.
    pub(crate) id: CheckId,
    /// The question.
    pub(crate) request: Request,
    /// Its ends, with the source port that was proposed.
    pub(crate) ends: Ends,
    /// What the agents told of their nodes, as far as the prediction used it.
    pub(crate) facts: Vec<Facts>,
    /// Remarks from before the first packet: facts that were missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<Text>,
    /// What was sent and seen in the light rounds.
    #[serde(default, alias = "glance", skip_serializing_if = "Trials::is_empty")]
    pub(crate) light: Trials,
    /// What was in those with the wide set of hooks.
    #[serde(default, skip_serializing_if = "Trials::is_empty")]
    pub(crate) wide: Trials,
    /// What was in those with all hooks.
    #[serde(default, alias = "trials", skip_serializing_if = "Trials::is_empty")]
    pub(crate) all: Trials,
}

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Larger than anybody reads.
    #[error("the recording is larger than {} MiB; fewer packets make a smaller one", MAX_RECORDING >> 20)]
    TooLarge,
    /// Compressed, but damaged.
    #[error("not a complete recording: it cannot be decompressed: {0}")]
    Compression(io::Error),
    /// Not readable as JSON of this shape.
    #[error("not a complete recording: {0}")]
    Syntax(String),
    /// Of another version.
    #[error("a document of version {:?}; this program replays {RECORDING_API_VERSION:?}", short(.0))]
    Version(String),
}

/// What every version of the document says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: String,
}

impl From<PackedError> for RecordingError {
    fn from(error: PackedError) -> Self {
        match error {
            PackedError::Io(error) => Self::Io(error),
            PackedError::Compression(error) => Self::Compression(error),
            PackedError::TooLarge => Self::TooLarge,
        }
    }
}

impl Recording {
    /// Reads a file. However large it is or would become, no more is read than a recording may have.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the file.
    pub fn read(path: &Path) -> Result<Self, RecordingError> {
        Self::from_json(&packed::load(path, MAX_RECORDING)?)
    }

    /// The recording of a check whose inventory may have been out of date.
    #[must_use]
    pub fn doubted(self, doubt: Option<Text>) -> Self {
        Self { doubt, ..self }
    }

    /// The document.
    ///
    /// # Errors
    /// [`RecordingError::TooLarge`].
    pub fn to_json(&self) -> Result<Vec<u8>, RecordingError> {
        self.json_of(MAX_RECORDING)
    }

    fn json_of(&self, most: usize) -> Result<Vec<u8>, RecordingError> {
        let mut page = Page { bytes: Vec::new(), most };
        // Documents are plain data with text keys, so only the end of the page can be in the way.
        serde_json::to_writer(&mut page, self).map_err(|_| RecordingError::TooLarge)?;
        Ok(page.bytes)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the bytes.
    pub fn from_json(bytes: &[u8]) -> Result<Self, RecordingError> {
        if bytes.len() > MAX_RECORDING {
            return Err(RecordingError::TooLarge);
        }
        // Another version has other fields: which one it is must be said before any of them is refused.
        let head: Head = serde_json::from_slice(bytes).map_err(|error| syntax(&error))?;
        if head.api_version != RECORDING_API_VERSION {
            return Err(RecordingError::Version(head.api_version));
        }
        serde_json::from_slice(bytes).map_err(|error| syntax(&error))
    }
}

/// What is wrong and where, in one short line whatever the document repeats.
fn syntax(error: &serde_json::Error) -> RecordingError {
    let words = error.to_string().replace(char::is_control, " ");
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = words.strip_suffix(&place).unwrap_or(&words);
    RecordingError::Syntax(format!("{}{place}", short(what)))
}

/// Bytes up to a limit.
struct Page {
    bytes: Vec<u8>,
    most: usize,
}

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.most - self.bytes.len() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
