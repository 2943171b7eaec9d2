//! Ctrl-C and SIGTERM: commands that change something stop at the next step and clean up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{Error, Result};

struct Signals {
    came: Arc<AtomicBool>,
    /// Becomes readable with the first signal, and stays so.
    pipe: UnixStream,
}

static SIGNALS: OnceLock<Signals> = OnceLock::new();

/// From now on SIGINT and SIGTERM do not end this process, but make [`check`] fail. The commands that it
/// runs get the terminal's SIGINT themselves.
pub fn catch() -> io::Result<()> {
    let came = Arc::new(AtomicBool::new(false));
    let (pipe, writer) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&came))?;
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    // A second call finds the signals caught already.
    let _ = SIGNALS.set(Signals { came, pipe });
    Ok(())
}

/// Fails once a signal came.
pub(crate) fn check() -> Result<()> {
    match SIGNALS.get() {
        Some(signals) if signals.came.load(Ordering::Relaxed) => Err(Error::Interrupted),
        _ => Ok(()),
    }
}

/// For `map_err`: commands that are run get a terminal's SIGINT too, and end with an error of theirs; what
/// happened is that a signal came.
pub(crate) fn rather(error: Error) -> Error {
    check().err().unwrap_or(error)
}

/// A descriptor that becomes readable when a signal came; `None` if signals are not caught.
pub(crate) fn descriptor() -> Option<BorrowedFd<'static>> {
    SIGNALS.get().map(|signals| signals.pipe.as_fd())
}
