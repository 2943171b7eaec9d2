//! Packets that this host sends.

use smallvec::smallvec;
use waymark_proto::{Action, Hook};

use crate::walk::{Stage, Walk, Walks};

/// A raw socket sends the packet (`raw_sendmsg`).
pub(super) fn inject(mut walk: Walk) -> Walks {
    walk.step(Hook::Inject, None, Action::Injected, |_| {});
    smallvec![walk.to(Stage::RouteOutput { again: false, oif: None })]
}
