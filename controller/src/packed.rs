//! Documents as files: compressed by gzip if their name ends in `.gz`, plain JSON otherwise.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// What compressed files begin with, whatever their names (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Why a document cannot be read.
#[derive(Debug)]
pub(crate) enum PackedError {
    /// The file.
    Io(io::Error),
    /// Compressed, but damaged.
    Compression(io::Error),
    /// It is, or would become, longer than it may be.
    TooLarge,
}

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

/// Reads a document of so many bytes at most. However large its file is or would become, no more is read.
pub(crate) fn load(path: &Path, most: usize) -> Result<Vec<u8>, PackedError> {
    let bytes = up_to(most, File::open(path).map_err(PackedError::Io)?, PackedError::Io)?;
    if bytes.starts_with(&GZIP) {
        return up_to(most, MultiGzDecoder::new(&*bytes), PackedError::Compression);
    }
    Ok(bytes)
}

fn up_to(
    most: usize,
    from: impl Read,
    failed: impl FnOnce(io::Error) -> PackedError,
) -> Result<Vec<u8>, PackedError> {
    let mut bytes = Vec::new();
    from.take(most as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most { Err(PackedError::TooLarge) } else { Ok(bytes) }
}
