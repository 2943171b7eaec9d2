//! The trace of `iptables-legacy`: which rules of `x_tables` a marked packet matched.
//!
//! Nobody's table is touched. The bit that `-j TRACE` sets is `skb->nf_trace`, the same that `meta nftrace set 1` of
//! Waymark's own table sets, and `ipt_do_table` reports every rule that a packet with this bit matches to the logger
//! of the namespace, whoever set it. So only someone has to listen: `nfnetlink_log` has to be the logger, and its
//! group 0 is where such reports go.
//!
//! * `logger`: makes `nfnetlink_log` the logger, and gives the namespace its own one back
//! * `event`: reports, parsed
//!
//! Why not rules of one's own (`-j TRACE`), nor counters? A legacy table is replaced as a whole, so a rule of ours would
//! be lost with the next `iptables-restore` of kube-proxy, or worse, our replacement would undo theirs; and it would
//! outlive a killed agent. Counters count bystanders, too: they tell that some packet matched, not which.
//!
//! What it costs others: while a check is armed, other users' traces and the kernel's log of invalid connections
//! (`nf_conntrack_log_invalid`), which both go to the logger of the namespace, go unheard. Rules with `-j LOG` and
//! `-j NFLOG` choose their logger themselves. A group has one listener, so where `ulogd` listens to group 0 it keeps it.

mod event;
mod logger;

use std::io;

use crate::facts::legacy_tables;
use crate::nflog::Log;
pub use event::XtEvent;
#[cfg(test)]
pub use event::XtKind;
use logger::Logger;

/// Where reports go that no rule sends anywhere (`default_loginfo` of `nfnetlink_log`).
const GROUP: u16 = 0;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const FAMILIES: [u8; 2] = [2, 10];

/// The reports of one namespace. Nobody is told any more, and its own logger is back, when this is dropped.
pub struct XtTrace {
    reports: Log,
    /// In the order in which they are given back.
    _loggers: Vec<Logger>,
}

impl XtTrace {
    /// Listens in the namespace of the calling thread, if it has legacy tables.
    pub fn start() -> io::Result<Option<Self>> {
        let has_tables = |family: &u8| legacy_tables(*family == FAMILIES[1]);
        let mut families = Vec::new();
        for family in FAMILIES {
            if has_tables(&family)? {
                families.push(family);
            }
        }
        if families.is_empty() {
            return Ok(None);
        }
        let reports = Log::listen(GROUP, *event::PREFIX.as_bytes().first_chunk().expect("it is longer"))?;
        let loggers = families.into_iter().map(Logger::take).collect::<Result<_, _>>()?;
        Ok(Some(Self { reports, _loggers: loggers }))
    }

    /// Takes all reports that are there now. Says how often some were lost.
    pub fn drain(&self, take: &mut dyn FnMut(XtEvent)) -> u64 {
        self.reports.drain(&mut |logged| {
            if let Some(event) = XtEvent::new(logged) {
                take(event);
            }
        })
    }
}
