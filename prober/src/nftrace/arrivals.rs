//! What is asked of netfilter where no rules are wanted: whether marked packets have come through the input hook.
//!
//! They are logged behind all else of that hook, to a socket. No packet is traced for it, see `table`.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::rules;
use super::table::{TraceTable, Traced};
use crate::nflog::{COPIED, Log, Logged};

/// Groups of `nfnetlink_log` that are tried: a group has one listener, and so this many agents may share a namespace.
const GROUPS: std::ops::Range<u16> = 0x574d..0x575d;
/// What their log says, and with which word it begins.
const PREFIX: &std::ffi::CStr = c"waymark";
const WORD: [u8; 4] = *b"waym";

/// The log of one namespace. Ends, with its table, when it is dropped.
pub(super) struct Arrivals {
    // In the order in which they end: nobody is to log to a group that another may have by then.
    table: TraceTable,
    log: Log,
}

impl Arrivals {
    /// Begins in the namespace of the calling thread. Nothing is logged before a check is armed.
    pub(super) fn start() -> io::Result<Self> {
        let mut tried = Err(io::ErrorKind::ResourceBusy.into());
        for group in GROUPS {
            tried = Log::listen(group, WORD).map(|log| (group, log));
            if tried.as_ref().err().is_none_or(|error| error.kind() != io::ErrorKind::ResourceBusy) {
                break;
            }
        }
        let (group, log) = tried?;
        let table = TraceTable::for_arrivals(rules::Log { group, prefix: PREFIX, copied: COPIED })?;
        Ok(Self { table, log })
    }

    /// Logs the markers of a check.
    pub(super) fn arm(&self, traced: &Traced) -> io::Result<()> {
        self.table.arm(traced)
    }

    /// No longer logs them.
    pub(super) fn disarm(&self, traced: &Traced) -> io::Result<()> {
        self.table.disarm(traced)
    }

    /// Takes all packets that are there now. Says how often some were lost.
    pub(super) fn drain(&self, take: &mut dyn FnMut(Logged)) -> u64 {
        self.log.drain(take)
    }
}

/// Readable when there are packets.
impl AsRawFd for Arrivals {
    fn as_raw_fd(&self) -> RawFd {
        self.log.as_raw_fd()
    }
}
