use waymark_proto::{Agreement, Cause, Confidence, Detour, NodeName, Text};

use super::*;
use crate::fixture::{
    BACK, THERE, drop_at, ending, inventory_with_strangers, path, reports, sight, sightings, steps, tcp,
    there_by_tunnel,
};
use crate::observe::{Lens, observe};

/// `node/netns hook device`
pub(crate) fn place_of(step: &Step) -> String {
    step.at().to_string()
}

/// All packets arrive, and all answers.
pub(crate) fn healthy() -> Diagnosis {
    Story::healthy().seen(&there(), false).seen(&back(), true).told()
}

/// A case in the making: what is predicted, and what is seen of each of three packets.
struct Story {
    branches: Vec<Branch>,
    detour: Option<Detour>,
    sightings: Vec<waymark_proto::Sighting>,
    errors: Option<&'static str>,
    sight: Sight,
    one_way: bool,
    receivers: Vec<Place>,
    losses: Losses,
    flow: Flow,
    /// Namespaces whose rule trace is whole.
    traced: Vec<Place>,
    /// What the packets are sent with, and the ways of those whose ways are others.
    dscps: [u8; PACKETS as usize],
    by_dscp: BTreeMap<u8, PathSet>,
    /// The packets before, of which less was watched.
    before: Option<Box<Story>>,
}

const PACKETS: u32 = 3;

fn branch(there: Vec<Step>, back: Vec<Step>) -> Branch {
    let of = |steps, answer| Branch { probability: 1.0, choices: Vec::new(), path: path(steps), answer };
    let answer = if back.is_empty() { Vec::new() } else { vec![of(back, Vec::new())] };
    of(there, answer)
}

fn there() -> Vec<Step> {
    steps(THERE, tcp())
}

fn back() -> Vec<Step> {
    steps(BACK, tcp().reversed())
}

impl Story {
    fn healthy() -> Self {
        Self {
            branches: vec![branch(there(), back())],
            detour: None,
            sightings: Vec::new(),
            errors: None,
            sight: sight(),
            one_way: false,
            receivers: Vec::new(),
            losses: Losses::default(),
            flow: tcp(),
            traced: Vec::new(),
            dscps: [0; PACKETS as usize],
            by_dscp: BTreeMap::new(),
            before: None,
        }
    }

    fn predicting(there: Vec<Step>) -> Self {
        Self { branches: vec![branch(there, Vec::new())], ..Self::healthy() }
    }

    /// All packets are seen on these steps.
    fn seen(mut self, steps: &[Step], back: bool) -> Self {
        for seq in 0..PACKETS {
            self.sightings.extend(sightings(steps, seq, back));
        }
        self
    }

    /// And then dropped.
    fn dropped(mut self, step: &Step, back: bool, reason: &str, function: &str) -> Self {
        for seq in 0..PACKETS {
            self.sightings.push(drop_at(step, seq, back, reason, function));
        }
        self
    }

    /// What was sent before, of which less was watched: `first` tells what was seen of it, and of what.
    fn after(self, first: Self) -> Self {
        Self { before: Some(Box::new(first)), ..self }
    }

    fn sent(&self) -> Vec<Sent> {
        let sent = |seq| Sent {
            seq: Seq(seq),
            source_port: tcp().src_port,
            sent_ns: 9_000_000,
            error: self.errors.map(str::to_owned),
            size: 44,
            dscp: self.dscps[seq as usize],
        };
        (0..PACKETS).map(sent).collect()
    }

    fn observed(&self, inventory: &Inventory, source: &Place, sent: &[Sent]) -> BTreeMap<Seq, Observed> {
        let nodes = || ["node1", "node2"].map(NodeName::from).into_iter();
        let lens = Lens {
            inventory,
            source,
            flow: self.flow,
            source_ports: sent.iter().map(|sent| (sent.seq, sent.source_port)).collect(),
            receivers: [(self.flow.dst, self.flow.dst_port)].into(),
            filters_watched: self.traced.iter().cloned().collect(),
            watched: nodes().filter(|node| self.sight.watches(node)).collect(),
            received_once: false,
            nodes: nodes().collect(),
        };
        observe(&self.sightings, &lens)
    }

    fn told(self) -> Diagnosis {
        let inventory = inventory_with_strangers();
        let source = Place::new("node1", "t-cart");
        let stories: Vec<&Self> =
            std::iter::successors(Some(&self), |story| story.before.as_deref()).collect();
        let seen: Vec<_> = stories
            .into_iter()
            .rev()
            .map(|story| (story, story.sent(), story.observed(&inventory, &source, &story.sent())))
            .collect();
        let mut before: Vec<_> = seen
            .iter()
            .map(|(Self { sight, losses, .. }, sent, observed)| Look {
                sent,
                observed,
                sight,
                losses: *losses,
            })
            .collect();
        let look = before.pop().expect("its own");
        diagnose(&Case {
            inventory: &inventory,
            cluster: &waymark_sim::Cluster::new(&inventory),
            source: &source,
            flow: self.flow,
            receivers: &self.receivers,
            one_way: self.one_way,
            prediction: &PathSet {
                branches: self.branches.clone(),
                detour: self.detour.clone(),
                by_dscp: self.by_dscp.clone(),
                ..PathSet::default()
            },
            look,
            before,
        })
    }
}

/// `netns hook device cause` of a fault.
fn fault(found: &Diagnosis) -> String {
    let Some(point) = &found.fault_point else { return format!("no fault, {}", found.verdict) };
    format!("{} {} {} {}", point.netns, point.hook, point.device.as_deref().unwrap_or("-"), point.cause)
}

#[test]
fn a_healthy_flow_is_reachable() {
    let found = Story::healthy().seen(&there(), false).seen(&back(), true).told();
    assert_eq!(found.verdict, Verdict::Reachable, "{found:#?}");
    assert_eq!((found.delivered, found.replied, found.fault_point), (3, Some(3), None));
    assert!(found.model_errors.is_empty() && found.notes.is_empty());
    assert!(found.rtt_ns.is_some());
    let rows = found.forward.steps.iter().chain(&found.return_.as_ref().unwrap().steps);
    for row in rows {
        assert!(matches!(row.agreement, Agreement::Seen | Agreement::NotObservable), "{row:?}");
    }
}

/// The prober's packets arrive by a route that an application's do not take.
#[test]
fn what_the_prober_cannot_show_is_not_called_reachable() {
    let arriving = |story: Story| {
        let (application, prober) =
            (Text::verbatim("rule 100: prohibit"), Text::verbatim("default table main"));
        let detour = Some(Detour { application, prober });
        Story { detour, ..story }.seen(&there(), false).seen(&back(), true).told()
    };
    let refused = ending(there(), "t-cart", Hook::Route, "eth0", Cause::ProhibitRoute);
    let found = arriving(Story::predicting(refused));
    assert_eq!(found.verdict, Verdict::Unreachable);
    assert_eq!(fault(&found), "t-cart route eth0 prohibit-route");
    let point = found.fault_point.unwrap();
    assert_eq!((point.confidence, point.direction), (Confidence::Medium, Direction::Forward));
    assert!(point.evidence.iter().any(|words| words.contains("rule 100: prohibit")), "{point:#?}");
    assert!(found.model_errors.is_empty() && found.rtt_ns.is_none());

    // So it is with an answer that has no way.
    let dying = ending(back(), "t-pay", Hook::Route, "eth0", Cause::BlackholeRoute);
    let found = arriving(Story { branches: vec![branch(there(), dying)], ..Story::healthy() });
    assert_eq!(found.verdict, Verdict::Unreachable);
    assert_eq!(found.fault_point.unwrap().direction, Direction::Return);

    // Where the prediction has an application's arrive by their own way, nobody saw them do so.
    let found = arriving(Story::healthy());
    assert_eq!((found.verdict, found.delivered, found.fault_point), (Verdict::Undetermined, 0, None));
    assert!(found.notes.iter().any(|note| note.contains("rule 100: prohibit")), "{:?}", found.notes);
}

/// Each row: where and why, and what the kernel says there; the prediction agrees.
#[test]
fn predicted_drops_that_the_kernel_reports() {
    use Hook as H;
    let rows: &[(&str, H, &str, Cause, &str, &str)] = &[
        ("t-cart", H::NetfilterOutput, "eth0", Cause::FilterDrop, "NETFILTER_DROP", "nf_hook_slow+0x1"),
        ("t-node1", H::NetfilterForward, "cni0", Cause::FilterDrop, "NETFILTER_DROP", "nf_hook_slow+0x1"),
        ("t-node1", H::NetfilterForward, "cni0", Cause::FilterReject, "NETFILTER_DROP", "nf_hook_slow+0x1"),
        (
            "t-node1",
            H::NetfilterPrerouting,
            "cni0",
            Cause::ServiceWithoutEndpoints,
            "NETFILTER_DROP",
            "nf_hook_slow+0x1",
        ),
        ("t-pay", H::NetfilterInput, "eth0", Cause::FilterDrop, "NETFILTER_DROP", "nf_hook_slow+0x1"),
        ("t-node1", H::Route, "eth0", Cause::NoRoute, "IP_INNOROUTES", "ip_error+0x1"),
        ("t-node1", H::Route, "eth0", Cause::BlackholeRoute, "NOT_SPECIFIED", "ip_error+0x1"),
        ("t-node1", H::Route, "eth0", Cause::UnreachableRoute, "NOT_SPECIFIED", "ip_error+0x1"),
        ("t-node1", H::Route, "eth0", Cause::ProhibitRoute, "NOT_SPECIFIED", "ip_error+0x1"),
        ("t-node1", H::Route, "eth0", Cause::ForwardingDisabled, "IP_INADDRERRORS", "ip_error+0x1"),
        ("t-node2", H::Route, "cni0", Cause::SourceValidation, "IP_RPFILTER", "ip_rcv_finish_core+0x1"),
        ("t-node2", H::Neighbour, "cni0", Cause::NeighbourUnresolved, "NEIGH_FAILED", "neigh_invalidate+0x1"),
        ("t-node2", H::Qdisc, "vethpay", Cause::DeviceDown, "NOT_SPECIFIED", "__dev_queue_xmit+0x1"),
        ("t-node2", H::Qdisc, "vethpay", Cause::NoCarrier, "QDISC_DROP", "__dev_queue_xmit+0x1"),
        ("t-node1", H::Bridge, "cni0", Cause::BridgePort, "NOT_SPECIFIED", "br_handle_frame_finish+0x1"),
        ("t-pay", H::Socket, "-", Cause::NoListener, "NO_SOCKET", "tcp_v4_rcv+0x1"),
    ];
    for &(netns, hook, device, cause, reason, function) in rows {
        let dying = ending(there(), netns, hook, device, cause);
        let last = dying.last().unwrap().clone();
        let found = Story::predicting(dying.clone())
            .seen(&dying, false)
            .dropped(&last, false, reason, function)
            .told();
        assert_eq!(fault(&found), format!("{netns} {hook} {device} {cause}"), "{found:#?}");
        let point = found.fault_point.unwrap();
        assert_eq!(point.confidence, Confidence::High);
        assert_eq!(point.reason.as_deref(), Some(reason));
        assert_eq!(found.verdict, Verdict::Unreachable);
        assert!(!point.advice.is_empty());
    }
}

/// The same without a drop report: they are found by the last hook that saw the packets.
#[test]
fn predicted_drops_in_silence() {
    for (netns, hook, device, cause) in [
        ("t-node1", Hook::Route, "eth0", Cause::NoRoute),
        ("t-node1", Hook::Neighbour, "eth0", Cause::NeighbourUnresolved),
        ("t-node1", Hook::Bridge, "cni0", Cause::BridgePort),
        ("t-node2", Hook::Qdisc, "vethpay", Cause::NoCarrier),
        ("t-node2", Hook::NetfilterForward, "eth0", Cause::FilterDrop),
    ] {
        let dying = ending(there(), netns, hook, device, cause);
        let found = Story::predicting(dying.clone()).seen(&dying, false).told();
        assert_eq!(fault(&found), format!("{netns} {hook} {device} {cause}"), "{found:#?}");
        assert_eq!(found.fault_point.unwrap().confidence, Confidence::High);
    }
}

#[test]
fn tunnels() {
    let whole = steps(&there_by_tunnel(), tcp());
    for (netns, device, cause, reason, function) in [
        ("t-node1", "flannel.1", Cause::TunnelNoRemote, "NO_TX_TARGET", "vxlan_xmit+0x1"),
        ("t-node2", "flannel.1", Cause::TunnelUnknownVni, "VXLAN_VNI_NOT_FOUND", "vxlan_rcv+0x1"),
    ] {
        let dying = ending(whole.clone(), netns, Hook::Tunnel, device, cause);
        let last = dying.last().unwrap().clone();
        let reported =
            Story::predicting(dying.clone()).seen(&dying, false).dropped(&last, false, reason, function);
        assert_eq!(fault(&reported.told()), format!("{netns} tunnel {device} {cause}"));
        let unexpected =
            Story::predicting(whole.clone()).seen(&dying, false).dropped(&last, false, reason, function);
        assert_eq!(fault(&unexpected.told()), format!("{netns} tunnel {device} {cause}"));
    }
    let found = Story::predicting(whole.clone()).seen(&whole, false).seen(&back(), true).told();
    assert_eq!(found.verdict, Verdict::Reachable, "{found:#?}");
}

#[test]
fn an_underlay_that_swallows_packets() {
    let cut = ending(there(), "t-node1", Hook::Wire, "eth0", Cause::SilentLoss);
    let found = Story::healthy().seen(&cut, false).told();
    assert_eq!(fault(&found), "t-node1 wire eth0 silent-loss");
    let span = found.fault_point.unwrap().span.unwrap();
    assert_eq!((span.last_seen.hook, span.last_seen.node.as_str()), (Hook::DriverTx, "node1"));
    assert_eq!((span.first_missing.hook, span.first_missing.node.as_str()), (Hook::DriverRx, "node2"));
    let missing = found.forward.steps.iter().find(|row| row.agreement == Agreement::Missing).unwrap();
    assert_eq!(missing.predicted.as_ref().unwrap().place.node.as_str(), "node2");
}

#[test]
fn a_drop_that_nobody_predicted() {
    let dying = ending(there(), "t-node2", Hook::NetfilterForward, "eth0", Cause::FilterDrop);
    let last = dying.last().unwrap().clone();
    let found = Story::healthy()
        .seen(&dying, false)
        .dropped(&last, false, "NETFILTER_DROP", "nf_hook_slow+0x1")
        .told();
    assert_eq!(fault(&found), "t-node2 netfilter-forward eth0 filter-drop");
    let dying = ending(there(), "t-node2", Hook::Neighbour, "cni0", Cause::NeighbourUnresolved);
    let found = Story::healthy().seen(&dying, false).told();
    assert_eq!(fault(&found), "t-node2 neighbour cni0 neighbour-unresolved", "held back in silence");
    assert_eq!(found.fault_point.unwrap().confidence, Confidence::Medium);
}

#[test]
fn a_wrong_neighbour_is_at_the_sender_whoever_drops_the_frame() {
    let dying = ending(there(), "t-node1", Hook::Neighbour, "eth0", Cause::WrongNeighbour);
    let until = ending(there(), "t-node2", Hook::NetfilterPrerouting, "eth0", Cause::OtherHost);
    let seen = &until[..until.len() - 1];
    let last = seen.last().unwrap().clone();
    let found = Story::predicting(dying)
        .seen(seen, false)
        .dropped(&last, false, "OTHERHOST", "ip_rcv_core+0x1")
        .told();
    assert_eq!(fault(&found), "t-node1 neighbour eth0 wrong-neighbour");
}

#[test]
fn a_route_out_of_the_cluster_is_wrong_for_an_address_in_it() {
    let mut out = ending(there(), "t-node1", Hook::Wire, "eth0", Cause::SilentLoss);
    out.pop();
    let path = Path::new(Disposition::ExitsCluster, out.clone()).unwrap();
    let story = Story {
        branches: vec![Branch {
            probability: 1.0,
            choices: Vec::new(),
            path: path.clone(),
            answer: Vec::new(),
        }],
        ..Story::healthy()
    };
    let found = story.seen(&out, false).told();
    assert_eq!(fault(&found), "t-node1 route eth0 wrong-route");
    assert_eq!(found.verdict, Verdict::Unreachable);
}

#[test]
fn an_address_outside_the_cluster_is_judged_by_its_answers() {
    let outside = Flow { dst: "192.0.2.1".parse().unwrap(), ..tcp() };
    let mut out = ending(steps(THERE, outside), "t-node1", Hook::Wire, "eth0", Cause::SilentLoss);
    out.pop();
    let story = || Story {
        branches: vec![Branch {
            probability: 1.0,
            choices: Vec::new(),
            path: Path::new(Disposition::ExitsCluster, out.clone()).unwrap(),
            answer: Vec::new(),
        }],
        flow: outside,
        ..Story::healthy()
    };
    let silent = story().seen(&out, false).told();
    assert_eq!(fault(&silent), "t-node1 wire eth0 silent-loss");
    assert_eq!(silent.fault_point.unwrap().confidence, Confidence::Low);
    let one_way = Story { one_way: true, ..story() }.seen(&out, false).told();
    assert_eq!(one_way.verdict, Verdict::Undetermined);
    let answer: Vec<Step> = steps(BACK, outside.reversed()).split_off(17);
    let answered = story().seen(&out, false).seen(&answer, true).told();
    assert_eq!(answered.verdict, Verdict::Reachable, "{answered:#?}");
}

#[test]
fn answers_die_on_the_way_back() {
    let story = || Story::healthy().seen(&there(), false);
    let cut = ending(back(), "t-node2", Hook::Wire, "eth0", Cause::SilentLoss);
    let found = story().seen(&cut, true).told();
    assert_eq!(fault(&found), "t-node2 wire eth0 silent-loss");
    assert_eq!(found.fault_point.as_ref().unwrap().direction, Direction::Return);
    assert_eq!((found.verdict, found.delivered, found.replied), (Verdict::Unreachable, 3, Some(0)));

    let dying = ending(back(), "t-cart", Hook::NetfilterInput, "eth0", Cause::FilterDrop);
    let last = dying.last().unwrap().clone();
    let found = story().seen(&dying, true).dropped(&last, true, "NETFILTER_DROP", "nf_hook_slow+0x1").told();
    assert_eq!(fault(&found), "t-cart netfilter-input eth0 filter-drop");

    let no_route = ending(back(), "t-pay", Hook::Route, "eth0", Cause::NoRoute);
    let story = Story { branches: vec![branch(there(), no_route)], ..Story::healthy() };
    let found = story.seen(&there(), false).told();
    assert_eq!(fault(&found), "t-pay route eth0 no-route");
    assert_eq!(found.fault_point.unwrap().direction, Direction::Return);
}

#[test]
fn a_syn_that_is_taken_without_an_answer() {
    let found = Story::healthy().seen(&there(), false).told();
    assert_eq!(fault(&found), "t-pay socket - socket-queue-full");
    assert_eq!(found.fault_point.unwrap().confidence, Confidence::Medium);
    let one_way = Story { one_way: true, ..Story::healthy() }.seen(&there(), false).told();
    assert_eq!((one_way.verdict, one_way.replied), (Verdict::Reachable, None));

    // A queue is to blame only if the receiver could have answered.
    let mut step = back()[0].clone();
    (step.action, step.note) = (Action::Unknown, Some(Text::verbatim("rule 100: uidrange")));
    let unknown = Branch {
        probability: 1.0,
        choices: Vec::new(),
        path: Path::new(Disposition::InsufficientInfo, vec![step]).unwrap(),
        answer: Vec::new(),
    };
    let with_answers = |answer| {
        let mut story = Story::healthy();
        story.branches[0].answer = answer;
        let point = story.seen(&there(), false).told().fault_point.unwrap();
        assert_eq!((point.cause, point.confidence), (Cause::Unknown, Confidence::Low));
        point
    };
    with_answers(Vec::new());
    let point = with_answers(vec![unknown]);
    assert!(point.evidence.iter().any(|words| words.contains("rule 100: uidrange")), "{point:#?}");
}

#[test]
fn what_routing_discards_is_a_blackhole_only_where_one_is() {
    let at = ending(there(), "t-cart", Hook::Route, "eth0", Cause::BlackholeRoute);
    let seen = |story: Story| {
        let before = &at[..at.len() - 1];
        story
            .seen(before, false)
            .dropped(at.last().unwrap(), false, "NOT_SPECIFIED", "dst_discard_out+0x1")
            .told()
    };
    let point = seen(Story::predicting(at.clone())).fault_point.unwrap();
    assert_eq!((point.cause, point.confidence), (Cause::BlackholeRoute, Confidence::High));
    // The route is one that leads on.
    let point = seen(Story::healthy()).fault_point.unwrap();
    assert_eq!((point.hook, point.cause), (Hook::Route, Cause::KernelDrop));
    assert_eq!(point.confidence, Confidence::Medium);
    assert!(
        point.advice.contains("ip xfrm policy") && point.advice.contains("route get"),
        "{}",
        point.advice
    );
}

#[test]
fn what_ipsec_refuses_in_front_of_a_socket_is_not_left_unanswered() {
    let here = there().last().unwrap().clone();
    let story = Story::healthy().seen(&there(), false);
    let point = story.dropped(&here, false, "XFRM_POLICY", "tcp_v4_rcv+0x1").told().fault_point.unwrap();
    assert_eq!((point.hook, point.cause), (Hook::Socket, Cause::KernelDrop));
    assert_eq!(point.confidence, Confidence::High);
    assert!(point.advice.contains("ip xfrm policy"), "{}", point.advice);
}

#[test]
fn sends_that_fail() {
    for (error, expected) in [
        ("EPERM: Operation not permitted", "t-cart netfilter-output - filter-drop"),
        ("ENETUNREACH: Network is unreachable", "t-cart route - no-route"),
        ("EHOSTUNREACH: No route to host", "t-cart route - unreachable-route"),
        ("EACCES: Permission denied", "t-cart route - prohibit-route"),
        ("EINVAL: Invalid argument", "t-cart route - blackhole-route"),
        ("EMSGSIZE: Message too long", "t-cart ip - mtu-exceeded"),
        ("E2BIG: ?", "t-cart inject - send-failed"),
    ] {
        let found = Story { errors: Some(error), ..Story::healthy() }.told();
        assert_eq!(fault(&found), expected);
        assert_eq!(found.fault_point.unwrap().confidence, Confidence::Medium);
    }
    let dying = ending(there(), "t-cart", Hook::Route, "eth0", Cause::BlackholeRoute);
    let found = Story { errors: Some("EINVAL: Invalid argument"), ..Story::predicting(dying) }.told();
    assert_eq!(fault(&found), "t-cart route eth0 blackhole-route");
    assert_eq!(found.fault_point.unwrap().confidence, Confidence::High);
}

mod anomalies;
mod called;
mod choices;
mod diverted;
mod early;
mod elsewhere;
mod looks;
mod nobody;
mod partial;
mod rewritten;
mod unseen;
