//! Steps in words, and which of them tell the same.

use std::fmt::Write as _;

use waymark_proto::{Action, Cause, Flow, Hook, Step};

use super::world::part;

/// Whether a step is one that the kernel shows, and not the end.
pub(super) fn is_seen(step: &Step) -> bool {
    let shown = matches!(
        step.hook,
        Hook::NetfilterPrerouting
            | Hook::NetfilterInput
            | Hook::NetfilterForward
            | Hook::NetfilterOutput
            | Hook::NetfilterPostrouting
            | Hook::Qdisc
            | Hook::DriverTx
            | Hook::DriverRx
    );
    shown && step.action.continues()
}

/// Whether two steps are at the same hook, with the same headers as far as both tell.
pub(super) fn is_same(a: &Step, b: &Step) -> bool {
    let devices = a.device.is_none() || b.device.is_none() || a.device == b.device;
    let flows = |a: Option<Flow>, b: Option<Flow>| a.is_none() || b.is_none() || a == b;
    a.place == b.place && a.hook == b.hook && devices && flows(a.flow, b.flow)
}

/// Whether a walk ends as was predicted: at the same place, the same way, for the same cause.
pub(super) fn ends_alike(predicted: &Step, seen: &Step) -> bool {
    // An echo request that nobody answers is used up like one that is.
    let delivered = |step: &Step| step.action == Action::Delivered || step.cause == Some(Cause::EchoIgnored);
    // IPv6 has a request dropped whose answer it cannot send.
    let unanswered = predicted.action == Action::Delivered && by(seen, "icmpv6_rcv+");
    predicted.place == seen.place
        && (unanswered
            || (delivered(predicted) == delivered(seen)
                && (delivered(predicted)
                    || (predicted.hook == seen.hook && predicted.cause == seen.cause)
                    || is_one_reason(predicted, seen))))
}

fn by(step: &Step, function: &str) -> bool {
    step.function.as_deref().is_some_and(|name| name.starts_with(function))
}

/// Whether the kernel does not tell the predicted cause from the one that was seen.
fn is_one_reason(predicted: &Step, seen: &Step) -> bool {
    let (Some(expected), Some(found)) = (predicted.cause, seen.cause) else { return false };
    let of_routes = matches!(
        expected,
        Cause::NoRoute | Cause::ProhibitRoute | Cause::UnreachableRoute | Cause::BlackholeRoute
    );
    // No reason is given where a route refuses.
    let refused = ["ip_error+", "ip6_pkt_", "dst_discard"].iter().any(|function| by(seen, function));
    predicted.hook == seen.hook
        && match found {
            Cause::KernelDrop => refused && (of_routes || expected == Cause::ForwardingDisabled),
            // IPv6 has one reason for all that routes refuse.
            Cause::NoRoute => of_routes || expected == Cause::ForwardingDisabled,
            // A refusal is a drop behind which an error is sent. And what has no other route is dropped by the hook that
            // changed it.
            Cause::FilterDrop => {
                expected == Cause::FilterReject || (of_routes && predicted.hook == Hook::NetfilterOutput)
            }
            _ => false,
        }
}

/// Whether what the sending system call answered is what was predicted for the packet's end.
pub(super) fn is_refused(predicted: &Step, error: &str) -> bool {
    let cause = predicted.cause;
    match error.split(':').next().unwrap_or_default() {
        "ENETUNREACH" => matches!(cause, Some(Cause::NoRoute | Cause::UnreachableRoute)),
        "EHOSTUNREACH" => cause == Some(Cause::UnreachableRoute),
        "EACCES" => cause == Some(Cause::ProhibitRoute),
        "EINVAL" => cause == Some(Cause::BlackholeRoute),
        "EPERM" => matches!(predicted.hook, Hook::NetfilterOutput | Hook::NetfilterPostrouting),
        _ => false,
    }
}

/// A step in a line.
pub(super) fn words(step: &Step) -> String {
    let device = step.device.as_deref().unwrap_or("-");
    let mut words = format!("{} {} {device} {}", part(&step.place), step.hook, step.action);
    // A string takes all that is written.
    if let Some(flow) = step.flow {
        let _ = write!(words, " {flow}");
    }
    if let Some(cause) = step.cause {
        let _ = write!(words, " {cause}");
    }
    if let Some(rule) = &step.rule {
        let _ = write!(words, " by {rule}");
    }
    if let Some(object) = &step.object {
        let _ = write!(words, " ({object})");
    }
    if let Some(reason) = &step.reason {
        let _ = write!(words, " [{reason} {}]", step.function.as_deref().unwrap_or_default());
    }
    words
}
