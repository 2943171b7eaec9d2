//! The functions of the deep tier: what they decide, and by which answer.
//!
//! A row is served by fentry and fexit where the kernel's BTF has the function, else by kprobe and kretprobe, else by nobody.
//! It tells what the floor's tracepoints do not: that a decision was made, and which. A function that may free the packet is
//! looked at when it begins, and its answer is added when it has returned.

use waymark_proto::Hook;

use crate::record::Point;

/// What the answer of a function means, and so how its number is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: that it was called is what there is to tell.
    Call,
    /// 0, or the negated number of an error. Newer kernels give a drop reason instead, negated or not, and say so in the
    /// type of [`Function::speaks_like`].
    Error,
    /// The same; and of a packet that was given a route, [`Record::reason`](crate::Record::reason) is the route's error, and
    /// [`Record::location`](crate::Record::location) the function that takes the packet next.
    Route,
    /// The same without an answer of its own.
    RouteAlone,
    /// 1 if the packet goes on, 0 if a hook has taken it, else the negated number of an error. The record's reason has the
    /// hook of netfilter and, from the ninth bit on, the family.
    Hook,
    /// A verdict of netfilter (`NF_ACCEPT`, …), with the same reason.
    Verdict,
    /// A verdict of netfilter.
    Confirmation,
    /// `XDP_PASS` and others.
    Xdp,
    /// `TC_ACT_OK` and others. The record's reason is 1 if the packet comes in, 0 if it goes out.
    Tc,
    /// 1 if the packet waits for its next hop's address, or was dropped because there is none; 0 if it may go on.
    Waits,
}

/// A function of the kernel: the row that it has in the registry.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// What its programs in the object are called: `fentry_NAME`, `fexit_NAME`, `kprobe_NAME`, `kretprobe_NAME`.
    pub name: &'static str,
    /// The kernel's function, by the names that it has in one version or another, the first that is there.
    pub symbols: &'static [&'static str],
    /// The number of its records.
    pub point: Point,
    /// The hook that it tells about, where its answer does not say which.
    pub hook: Hook,
    /// How its answer is read.
    pub answer: Answer,
}

impl Function {
    /// Whether there are programs for its end.
    pub fn answers(&self) -> bool {
        self.answer != Answer::Call
    }

    /// The function whose type says whether this one answers by a drop reason: `fib_validate_source` got another meaning
    /// with its caller (6.14), and kept its type.
    pub fn speaks_like(&self) -> &'static [&'static str] {
        match self.point {
            Point::FibValidateSource => &["ip_route_input_noref"],
            _ => self.symbols,
        }
    }

    /// The row of a record's point; `None` for those of the floor.
    pub fn of_point(point: Point) -> Option<&'static Self> {
        FUNCTIONS.iter().find(|function| function.point == point)
    }
}

const fn row(
    name: &'static str,
    symbols: &'static [&'static str],
    point: Point,
    hook: Hook,
    answer: Answer,
) -> Function {
    Function { name, symbols, point, hook, answer }
}

/// A row whose function has one name in all versions.
macro_rules! row {
    ($name:literal, $point:ident, $hook:ident, $answer:ident) => {
        row($name, &[$name], Point::$point, Hook::$hook, Answer::$answer)
    };
}

/// The functions of the deep tier.
///
/// Those of a module (bridge, conntrack, VXLAN, on most distributions) are out of reach of fentry, whose loader knows the
/// types of the kernel itself alone, and there while the module is.
pub const FUNCTIONS: &[Function] = &[
    row!("fib_validate_source", FibValidateSource, Route, Error),
    row!("ip_route_input_noref", IpRouteInput, Route, Route),
    row!("ip6_route_input", Ip6RouteInput, Route, RouteAlone),
    row!("nf_hook_slow", NfHookSlow, Ip, Hook),
    row!("nf_conntrack_in", NfConntrackIn, Ip, Verdict),
    row!("__nf_conntrack_confirm", NfConntrackConfirm, NetfilterPostrouting, Confirmation),
    row(
        "netif_receive_generic_xdp",
        &["bpf_prog_run_generic_xdp", "netif_receive_generic_xdp"],
        Point::XdpGeneric,
        Hook::DriverRx,
        Answer::Xdp,
    ),
    row!("tcf_classify", TcfClassify, Qdisc, Tc),
    row!("tcf_classify_ingress", TcfClassifyIngress, DriverRx, Tc),
    row!("br_handle_frame_finish", BrHandleFrameFinish, Bridge, Call),
    row!("br_flood", BrFlood, Bridge, Call),
    row!("ip_finish_output2", IpFinishOutput2, Neighbour, Call),
    row!("ip6_finish_output2", Ip6FinishOutput2, Neighbour, Call),
    row!("__neigh_event_send", NeighEventSend, Neighbour, Waits),
    row!("ip_protocol_deliver_rcu", IpProtocolDeliver, Socket, Call),
    row!("ip6_protocol_deliver_rcu", Ip6ProtocolDeliver, Socket, Call),
    row!("sk_filter_trim_cap", SkFilter, Socket, Error),
    row!("vxlan_rcv", VxlanRcv, Tunnel, Call),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_programs_in_the_header() {
        let header = include_str!("../bpf/deep.h");
        for function in FUNCTIONS {
            let row = header.lines().find(|line| line.contains(&format!("({},", function.name)));
            let row = row.unwrap_or_else(|| panic!("{} is in no macro of deep.h", function.name));
            let (kind, _) = row.split_once('(').unwrap();
            let expected = match function.answer {
                Answer::Call => "CALLED",
                Answer::Route | Answer::RouteAlone => "ROUTES",
                Answer::Hook | Answer::Verdict => "FILTERS",
                Answer::Tc if function.point == Point::TcfClassify => "BOTH_WAYS",
                _ => "ANSWERS",
            };
            assert_eq!(kind, expected, "{}", function.name);
        }
    }

    #[test]
    fn points_belong_to_one_function_each() {
        for function in FUNCTIONS {
            assert!(function.point as u32 >= crate::record::FIRST_DEEP, "{}", function.name);
            let rows = FUNCTIONS.iter().filter(|other| other.point == function.point);
            assert_eq!(rows.count(), 1, "{}", function.name);
        }
        assert!(Function::of_point(Point::KfreeSkb).is_none());
    }
}
