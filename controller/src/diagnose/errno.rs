//! What the error of a sending system call says about the sender's own stack.

use waymark_proto::{Cause, Hook};

/// Hook and cause of an error text that begins with the error's name (`EPERM: Operation not permitted`).
pub(super) fn meaning(error: &str) -> (Hook, Cause) {
    match error.split([':', ' ']).next().unwrap_or_default() {
        // A verdict of drop in the sender's OUTPUT or POSTROUTING.
        "EPERM" => (Hook::NetfilterOutput, Cause::FilterDrop),
        "ENETUNREACH" => (Hook::Route, Cause::NoRoute),
        "EHOSTUNREACH" => (Hook::Route, Cause::UnreachableRoute),
        "EACCES" => (Hook::Route, Cause::ProhibitRoute),
        "EINVAL" => (Hook::Route, Cause::BlackholeRoute),
        "ENETDOWN" => (Hook::Qdisc, Cause::DeviceDown),
        "ENOBUFS" => (Hook::Qdisc, Cause::QueueDrop),
        "EMSGSIZE" => (Hook::Ip, Cause::MtuExceeded),
        _ => (Hook::Inject, Cause::SendFailed),
    }
}
