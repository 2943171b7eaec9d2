//! What a function's answer is called: numbers change with the kernel, the names in its sources rarely do.

use nix::errno::Errno;
use waymark_proto::Hook;
use waymark_tracer_ebpf::{Answer, Function, Record};

use super::reasons::DropReasons;

/// The verdicts of netfilter, from 0 on (`include/uapi/linux/netfilter.h`).
const VERDICTS: [&str; 5] = ["NF_DROP", "NF_ACCEPT", "NF_STOLEN", "NF_QUEUE", "NF_REPEAT"];
/// `enum xdp_action`, from 0 on.
const XDP: [&str; 5] = ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"];
/// `TC_ACT_*`, from -1 on (`include/uapi/linux/pkt_cls.h`).
const TC: [&str; 10] = [
    "TC_ACT_UNSPEC",
    "TC_ACT_OK",
    "TC_ACT_RECLASSIFY",
    "TC_ACT_SHOT",
    "TC_ACT_PIPE",
    "TC_ACT_STOLEN",
    "TC_ACT_QUEUED",
    "TC_ACT_REPEAT",
    "TC_ACT_REDIRECT",
    "TC_ACT_TRAP",
];
/// Families of netfilter (`NFPROTO_*`).
const IPV4: u32 = 2;
const NETDEV: u32 = 5;
const BRIDGE: u32 = 7;
const IPV6: u32 = 10;
/// `NF_INET_*`, from 0 on.
const INET_HOOKS: [Hook; 5] = [
    Hook::NetfilterPrerouting,
    Hook::NetfilterInput,
    Hook::NetfilterForward,
    Hook::NetfilterOutput,
    Hook::NetfilterPostrouting,
];

/// The name of a function's answer; `None` where it was only called.
///
/// That of a route is the function to which it leads, and its error if it has one: `ip_forward`, `ip_error ENETUNREACH`.
pub fn name(
    function: &Function,
    record: &Record,
    reasons: Option<&DropReasons>,
    symbol: impl Fn(u64) -> String,
) -> Option<String> {
    let code = record.code();
    let listed = |names: &[&str], index: i64| {
        let name = usize::try_from(index).ok().and_then(|index| names.get(index));
        name.map_or_else(|| code.to_string(), |name| (*name).to_owned())
    };
    Some(match function.answer {
        Answer::Call => return None,
        Answer::Error => error(code, reasons),
        Answer::Route if code != 0 => error(code, reasons),
        Answer::Route | Answer::RouteAlone => match (record.location(), record.reason().cast_signed()) {
            // Not given one, for it has one already.
            (0, _) => "0".to_owned(),
            (next, 0) => symbol(next),
            (next, number) => format!("{} {}", symbol(next), errno(number)),
        },
        Answer::Hook if code < 0 => VERDICTS[0].to_owned(),
        Answer::Hook if code == 1 => VERDICTS[1].to_owned(),
        Answer::Hook | Answer::Waits => code.to_string(),
        Answer::Verdict | Answer::Confirmation => listed(&VERDICTS, code.into()),
        Answer::Xdp => listed(&XDP, code.into()),
        Answer::Tc => listed(&TC, i64::from(code) + 1),
    })
}

/// The hook that a function tells about.
pub fn hook(function: &Function, record: &Record) -> Hook {
    let reason = record.reason();
    match function.answer {
        Answer::Hook | Answer::Verdict => match (reason >> 8, reason & 0xff) {
            (IPV4 | IPV6, hook) => INET_HOOKS.get(hook as usize).copied().unwrap_or(function.hook),
            (BRIDGE, _) => Hook::Bridge,
            (NETDEV, 0) => Hook::DriverRx,
            (NETDEV, _) => Hook::Qdisc,
            _ => function.hook,
        },
        Answer::Tc if reason == 1 => Hook::DriverRx,
        Answer::Call
        | Answer::Error
        | Answer::Route
        | Answer::RouteAlone
        | Answer::Confirmation
        | Answer::Xdp
        | Answer::Tc
        | Answer::Waits => function.hook,
    }
}

/// An answer of 0, an error, or a drop reason.
fn error(code: i32, reasons: Option<&DropReasons>) -> String {
    match reasons {
        _ if code == 0 => "0".to_owned(),
        Some(reasons) => reasons.name(code.unsigned_abs()).unwrap_or_default(),
        None => errno(code),
    }
}

/// The name of an error's number, of either sign.
pub fn errno(number: i32) -> String {
    match Errno::from_raw(number.saturating_abs()) {
        Errno::UnknownErrno => number.to_string(),
        known => format!("{known:?}"),
    }
}
