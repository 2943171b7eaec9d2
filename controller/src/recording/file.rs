//! Recordings as files: compressed by gzip if their name ends in `.gz`, plain JSON otherwise.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::{MAX_RECORDING, Recording, RecordingError};

/// What compressed files begin with, whatever their names (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Writes a document to a file.
///
/// # Errors
/// The file's.
pub fn save(path: &Path, json: &[u8]) -> io::Result<()> {
    if path.extension().is_none_or(|extension| extension != "gz") {
        return std::fs::write(path, json);
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(json)?;
    std::fs::write(path, packed.finish()?)
}

impl Recording {
    /// Reads a file. However large it is or would become, no more is read than a recording may have.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the file.
    pub fn read(path: &Path) -> Result<Self, RecordingError> {
        let bytes = up_to_limit(File::open(path)?, RecordingError::Io)?;
        if bytes.starts_with(&GZIP) {
            let unpacked = up_to_limit(MultiGzDecoder::new(&*bytes), RecordingError::Compression)?;
            return Self::from_json(&unpacked);
        }
        Self::from_json(&bytes)
    }
}

/// All bytes, unless they are more than a recording may have.
fn up_to_limit(
    from: impl Read,
    failed: impl FnOnce(io::Error) -> RecordingError,
) -> Result<Vec<u8>, RecordingError> {
    let mut bytes = Vec::new();
    from.take(MAX_RECORDING as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_RECORDING { Err(RecordingError::TooLarge) } else { Ok(bytes) }
}
