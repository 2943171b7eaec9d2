//! Packets that this host sends.

use waymark_proto::{Action, Hook};

use crate::walk::{Stage, Walk};

/// A raw socket sends the packet (`raw_sendmsg`).
pub(super) fn inject(mut walk: Walk) -> Vec<Walk> {
    walk.step(Hook::Inject, None, Action::Injected, |_| {});
    vec![walk.to(Stage::RouteOutput { again: false, oif: None })]
}
