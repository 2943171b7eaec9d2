//! What the answers of kernel functions mean that are the end of a packet.

use waymark_proto::{Cause, Hook};

use super::Meaning;

/// Functions that give a packet a route: a second word of their answer is the error of a route that leads nowhere.
const ROUTERS: [&str; 2] = ["ip_route_input_noref", "ip6_route_input"];

/// The hook and cause of an end that a function decided on at a hook; `None` if its answer lets the packet go on, or does not
/// say what becomes of it.
pub fn answered(hook: Hook, function: &str, answer: &str) -> Option<Meaning> {
    let at = |hook, cause| Some(Meaning::At(hook, cause));
    match (function, answer) {
        (_, "0") => None,
        ("nf_hook_slow", "NF_DROP") => at(hook, super::table::NETFILTER_CAUSE),
        // Another connection has these addresses and ports already.
        ("__nf_conntrack_confirm", "NF_DROP") => at(hook, Cause::NoFreePort),
        ("bpf_prog_run_generic_xdp" | "netif_receive_generic_xdp", "XDP_DROP" | "XDP_ABORTED")
        | ("tcf_classify" | "tcf_classify_ingress", "TC_ACT_SHOT") => at(hook, Cause::BpfDrop),
        ("sk_filter_trim_cap", _) => at(hook, Cause::SocketFilter),
        ("fib_validate_source", error) => source(error),
        (router, answer) if ROUTERS.contains(&router) => match answer.split_once(' ') {
            Some((_, error)) => at(Hook::Route, route(error)?),
            None => source(answer),
        },
        _ => None,
    }
}

/// An error of source validation: of old kernels its number, of newer ones a drop reason.
fn source(answer: &str) -> Option<Meaning> {
    match answer {
        "EXDEV" => Some(Meaning::At(Hook::Route, Cause::SourceValidation)),
        "EINVAL" => Some(Meaning::At(Hook::Route, Cause::MartianAddress)),
        reason => super::meaning(Some(reason), ""),
    }
}

/// The error of a route, by the type that has it (`fib_props`), or by there being none.
fn route(error: &str) -> Option<Cause> {
    match error {
        "ENETUNREACH" => Some(Cause::NoRoute),
        "EHOSTUNREACH" => Some(Cause::UnreachableRoute),
        "EACCES" => Some(Cause::ProhibitRoute),
        "EINVAL" => Some(Cause::BlackholeRoute),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_end_a_packet_have_a_cause() {
        let says = |function, answer| answered(Hook::NetfilterForward, function, answer);
        let at = |hook, cause| Some(Meaning::At(hook, cause));
        for (function, answer, meaning) in [
            ("fib_validate_source", "0", None),
            ("fib_validate_source", "EXDEV", at(Hook::Route, Cause::SourceValidation)),
            ("fib_validate_source", "IP_RPFILTER", at(Hook::Route, Cause::SourceValidation)),
            ("fib_validate_source", "EINVAL", at(Hook::Route, Cause::MartianAddress)),
            ("ip_route_input_noref", "ip_forward", None),
            ("ip_route_input_noref", "ip_error ENETUNREACH", at(Hook::Route, Cause::NoRoute)),
            ("ip_route_input_noref", "EXDEV", at(Hook::Route, Cause::SourceValidation)),
            ("ip6_route_input", "ip6_pkt_prohibit EACCES", at(Hook::Route, Cause::ProhibitRoute)),
            ("nf_hook_slow", "NF_ACCEPT", None),
            ("nf_hook_slow", "NF_DROP", at(Hook::NetfilterForward, Cause::FilterDrop)),
            ("tcf_classify", "TC_ACT_OK", None),
            ("ip_finish_output2", "1", None),
        ] {
            assert_eq!(says(function, answer), meaning, "{function} {answer}");
        }
    }
}
