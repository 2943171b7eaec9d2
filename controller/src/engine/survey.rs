//! How many packets, of which kinds: the rounds of a check. Pure.
//!
//! The first round is small, and light: receptions, drops and ends alone are watched, which tells whether packets come through and
//! costs others on the nodes the least. While that is so and nothing else is strange, so are the rounds after it. Once
//! something is wrong, the rest of what was asked for is sent while more is watched, or the same again: all hooks where it
//! is netfilter that decides, and else those beside it; if these do not tell enough, then all.
//!
//! Only where some of the packets are lost and others are not, or where all are or none is but chance may have done it,
//! there are more: packets that differ in size, code point and source port, every combination of them as often as any
//! other, until it is known what the loss goes with, or that it goes with nothing, or until no more may be sent. Each round
//! doubles what was sent, so that a clear case is cheap and a rare loss is still found.

use std::time::Duration;

use waymark_proto::{AnomalyKind, Confidence, FaultPoint, Hook, HookSet, LossReport, Text, Verdict, texts};

use crate::diagnose::{Diagnosis, ENOUGH_LOSSES, may_come_of_change};
use crate::reasons::{self, Meaning};
use crate::request::{MAX_ROUND, Request};

/// Packets of the first round, at most: what is broken shows with them, and the others can be watched closely.
const FIRST: u32 = 16;
/// How long a closer look waits at most for packets of which none came through while all the patience that was asked for
/// was had.
const SECOND_TIMEOUT: Duration = Duration::from_millis(500);
/// Source ports of a round that looks for what loss goes with: enough that one dead member of eight is among those
/// that they are hashed to (1 − (7/8)^16 is 88 %; the second round has others), each used several times.
const FLOWS: u32 = 16;
/// A code point beside the default: expedited forwarding (RFC 3246), which networks treat differently if any.
const EXPEDITED: u8 = 46;
/// Packets after which a loss that goes with nothing is called that, if it was seen often enough.
const ENOUGH_PACKETS: u32 = 192;
/// Time between the packets of further rounds.
const BRISK: Duration = Duration::from_millis(2);
/// How long further rounds wait for packets that may be lost: this many of the longest round trips seen.
const ROUND_TRIPS: u32 = 20;
/// But at least so long.
const LEAST_TIMEOUT: Duration = Duration::from_millis(200);

/// The packets of one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Salvo {
    pub(crate) count: u32,
    /// IP lengths, taken in turn; 0 for the smallest.
    pub(crate) sizes: Vec<u16>,
    pub(crate) dscps: Vec<u8>,
    /// Source ports, taken in turn; 0 for one each.
    pub(crate) flows: u32,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    /// What is watched.
    pub(crate) hooks: HookSet,
}

/// The first round. `full` is the largest packet that leaves the source, where that is known.
pub(crate) fn first(request: &Request, full: Option<u16>) -> Salvo {
    if request.wide {
        return as_asked(request, full, request.count, HookSet::All);
    }
    as_asked(request, full, request.count.min(FIRST), HookSet::Light)
}

/// What was watched in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) hooks: HookSet,
    /// Whether packets lost TTL where nobody was to route: they took a way that a light look does not see.
    pub(crate) detour: bool,
}

/// The next round after `sent` packets; `None` if all is known that can be.
pub(crate) fn next(
    request: &Request,
    full: Option<u16>,
    sent: u32,
    last: Watched,
    diagnosis: &Diagnosis,
) -> Option<Salvo> {
    let left = request.count.saturating_sub(sent);
    if last.hooks == HookSet::Light && !last.detour && is_clear(diagnosis) {
        return (left > 0).then(|| as_asked(request, full, left, HookSet::Light));
    }
    let hooks = hooks(last.hooks, diagnosis);
    // Whatever is wrong, it was not watched like that yet.
    let closer = hooks > last.hooks;
    let again = if closer { request.count.min(FIRST) } else { 0 };
    let dead = closer && (diagnosis.verdict == Verdict::Unreachable || diagnosis.delivered == 0);
    let timeout = if dead { request.timeout.min(SECOND_TIMEOUT) } else { request.timeout };
    let like_asked = |count| Salvo { timeout, ..as_asked(request, full, count, hooks) };
    if left > 0 {
        return Some(like_asked(left.max(again)));
    }
    let further = further(request, full, sent, diagnosis, hooks);
    further.or_else(|| (again > 0).then(|| like_asked(again)))
}

/// What to watch where something is wrong that was seen while `last` was watched.
fn hooks(last: HookSet, diagnosis: &Diagnosis) -> HookSet {
    let all = match last {
        HookSet::Light => diagnosis.fault_point.as_ref().is_some_and(is_netfilters),
        HookSet::Wide => rules_may_tell(diagnosis),
        HookSet::All => true,
    };
    if all { HookSet::All } else { HookSet::Wide }
}

/// Whether it is netfilter that drops, wherever its chain is.
fn is_netfilters(point: &FaultPoint) -> bool {
    let function = point.function.as_deref().unwrap_or_default();
    point.hook.is_netfilter()
        || reasons::meaning(point.reason.as_deref(), function) == Some(Meaning::Netfilter)
}

/// Whether rules may tell more of what all other hooks have shown.
fn rules_may_tell(diagnosis: &Diagnosis) -> bool {
    let led_away = || diagnosis.anomalies.iter().any(|anomaly| anomaly.kind == AnomalyKind::OtherWay);
    let untold = match &diagnosis.fault_point {
        Some(point) => !is_told(point),
        None => diagnosis.verdict != Verdict::Reachable,
    };
    untold || diagnosis.rewritten.is_some() || !diagnosis.model_errors.is_empty() || led_away()
}

/// Whether what became of packets is known, and is as predicted, or nothing that a rule can do.
fn is_told(point: &FaultPoint) -> bool {
    let as_predicted = || point.ground.as_ref().is_some_and(Text::is::<texts::ground::ReportedAsPredicted>);
    // Who has no way because its headers were changed may have a rule to blame.
    let beyond_rules = || {
        matches!(point.hook, Hook::Qdisc | Hook::DriverTx | Hook::DriverRx | Hook::Neighbour | Hook::Tunnel)
            && !may_come_of_change(point.cause)
    };
    let certain = point.confidence == Confidence::High && (as_predicted() || beyond_rules());
    !is_netfilters(point) && (certain || left_its_node(point))
}

/// Whether a packet was seen to leave one node and did not come to another.
fn left_its_node(point: &FaultPoint) -> bool {
    let ends = point.span.as_ref().map(|span| [&span.last_seen, &span.first_missing]);
    point.hook == Hook::Wire
        && point.confidence >= Confidence::Medium
        && ends.is_some_and(|[from, to]| {
            from.node != to.node && (from.hook, to.hook) == (Hook::DriverTx, Hook::DriverRx)
        })
}

/// Packets of all kinds, if they would tell more.
fn further(
    request: &Request,
    full: Option<u16>,
    sent: u32,
    diagnosis: &Diagnosis,
    hooks: HookSet,
) -> Option<Salvo> {
    let sizes = sizes(request, full);
    let room = request.max_packets.saturating_sub(sent);
    let dscps = dscps(request);
    // Every combination equally often, or a factor that is none looks like one.
    let block = sizes.len() as u32 * dscps.len() as u32 * FLOWS;
    let count = sent.clamp(block, MAX_ROUND).min(room) / block * block;
    if count == 0 || !is_open(diagnosis, sent) {
        return None;
    }
    let slowest = diagnosis.rtt_ns.map_or(Duration::ZERO, |[.., most]| Duration::from_nanos(most));
    let timeout = (slowest * ROUND_TRIPS).max(LEAST_TIMEOUT).min(request.timeout);
    let interval = request.interval.min(BRISK);
    Some(Salvo { count, sizes, dscps, flows: FLOWS, interval, timeout, hooks })
}

/// The code points of a check's packets in further rounds; the first round has the first of them, or those asked for.
pub(crate) fn dscps(request: &Request) -> Vec<u8> {
    let mut dscps = request.dscps.clone();
    if dscps == [0] {
        dscps.push(EXPEDITED);
    }
    dscps
}

/// Packets as they were asked for, as many of them as one round has.
fn as_asked(request: &Request, full: Option<u16>, count: u32, hooks: HookSet) -> Salvo {
    let Request { interval, timeout, .. } = *request;
    let (sizes, dscps) = (sizes(request, full), request.dscps.clone());
    Salvo { count: count.min(MAX_ROUND), sizes, dscps, flows: 0, interval, timeout, hooks }
}

/// Whether packets come through, as they should, and nothing else is strange about them.
fn is_clear(diagnosis: &Diagnosis) -> bool {
    diagnosis.verdict == Verdict::Reachable
        && diagnosis.fault_point.is_none()
        && !diagnosis.doubtful
        && diagnosis.anomalies.is_empty()
        && diagnosis.model_errors.is_empty()
}

/// The lengths of a check's packets.
fn sizes(request: &Request, full: Option<u16>) -> Vec<u16> {
    if !request.sizes.is_empty() {
        return request.sizes.clone();
    }
    std::iter::once(0).chain(full).collect()
}

/// Whether more packets would tell more.
fn is_open(diagnosis: &Diagnosis, sent: u32) -> bool {
    match diagnosis.verdict {
        Verdict::Inconsistent => {}
        Verdict::Unreachable | Verdict::Reachable => return diagnosis.doubtful && sent < ENOUGH_PACKETS,
        Verdict::Undetermined => return false,
    }
    match &diagnosis.loss {
        None | Some(LossReport { factor: Some(_), .. }) => false,
        Some(LossReport { share, .. }) => share.lost < ENOUGH_LOSSES || sent < ENOUGH_PACKETS,
    }
}

#[cfg(test)]
mod tests {
    use waymark_proto::{Cause, Factor, FactorKind, Share, text};

    use super::*;

    const CLOSELY: Watched = Watched { hooks: HookSet::All, detour: false };
    const WIDELY: Watched = Watched { hooks: HookSet::Wide, detour: false };
    const LIGHTLY: Watched = Watched { hooks: HookSet::Light, detour: false };
    use crate::diagnose::tests::healthy;
    use crate::fixture::{fault, wire};

    fn request() -> Request {
        Request::new("pod/shop/cart".parse().unwrap(), "pod/shop/pay:80".parse().unwrap())
    }

    fn lossy(lost: u32, of: u32) -> Diagnosis {
        let report = LossReport { share: Share::new(lost, of), factor: None, wanted: None };
        Diagnosis { verdict: Verdict::Inconsistent, loss: Some(report), ..healthy() }
    }

    #[test]
    fn the_first_round_is_what_was_asked_for() {
        let salvo = first(&request(), Some(1500));
        assert_eq!((salvo.count, salvo.flows), (request().count, 0));
        assert_eq!((salvo.sizes, salvo.dscps), (vec![0, 1500], vec![0]));
        let fixed = Request { sizes: vec![100], ..request() };
        assert_eq!(first(&fixed, Some(1500)).sizes, [100]);
    }

    #[test]
    fn what_is_clear_takes_one_round() {
        assert_eq!(next(&request(), None, 5, CLOSELY, &healthy()), None);
        let dead = Diagnosis { verdict: Verdict::Unreachable, ..lossy(5, 5) };
        assert_eq!(next(&request(), None, 5, CLOSELY, &dead), None);
    }

    #[test]
    fn five_that_chance_may_have_killed_prove_nothing() {
        let doubtful = Diagnosis { verdict: Verdict::Unreachable, doubtful: true, ..lossy(5, 5) };
        assert_eq!(next(&request(), None, 5, CLOSELY, &doubtful).map(|salvo| salvo.count), Some(32));
        assert_eq!(next(&request(), None, ENOUGH_PACKETS, CLOSELY, &doubtful), None);
    }

    #[test]
    fn five_that_were_lucky_prove_nothing() {
        let lucky = Diagnosis { doubtful: true, ..healthy() };
        assert_eq!(next(&request(), None, 5, CLOSELY, &lucky).map(|salvo| salvo.count), Some(32));
        assert_eq!(next(&request(), None, ENOUGH_PACKETS, CLOSELY, &lucky), None);
    }

    #[test]
    fn rounds_double_until_the_factor_is_known_or_the_room_is_used_up() {
        let request = Request { max_packets: 400, ..request() };
        let (mut sent, mut counts) = (5, Vec::new());
        while let Some(salvo) = next(&request, Some(1500), sent, CLOSELY, &lossy(1, sent)) {
            assert_eq!(salvo.count % 64, 0, "every combination equally often");
            counts.push(salvo.count);
            sent += salvo.count;
        }
        assert_eq!(counts, [64, 64, 128, 128]);
        assert!(sent <= 400);
        let mut known = lossy(32, 64);
        known.loss.as_mut().unwrap().factor = Some(Factor {
            kind: FactorKind::Size,
            values: Vec::new(),
            others: Vec::new(),
            with: Share::new(32, 32),
            without: Share::new(0, 32),
            chance: 0.001,
        });
        assert_eq!(next(&request, None, 69, CLOSELY, &known), None);
    }

    #[test]
    fn a_loss_that_goes_with_nothing_ends_the_rounds_once_it_is_frequent() {
        assert_eq!(next(&request(), None, 256, CLOSELY, &lossy(ENOUGH_LOSSES, 256)), None);
        assert!(
            next(&request(), None, 64, CLOSELY, &lossy(ENOUGH_LOSSES, 64)).is_some(),
            "a factor may hide yet"
        );
    }

    #[test]
    fn a_large_count_goes_out_in_rounds_that_agents_take() {
        let request = Request { count: 2500, max_packets: 2500, wide: true, ..request() };
        assert_eq!(first(&request, None).count, MAX_ROUND);
        let counts = [MAX_ROUND, 2 * MAX_ROUND];
        let counts = counts.map(|sent| next(&request, None, sent, CLOSELY, &healthy()).unwrap().count);
        assert_eq!(counts, [MAX_ROUND, 500]);
        assert_eq!(next(&request, None, 2500, CLOSELY, &healthy()), None);
    }

    #[test]
    fn what_comes_through_is_watched_lightly_to_the_end() {
        let request = Request { count: 400, ..request() };
        let start = first(&request, None);
        assert_eq!((start.count, start.hooks), (FIRST, HookSet::Light));
        let rest = next(&request, None, FIRST, LIGHTLY, &healthy()).unwrap();
        assert_eq!((rest.count, rest.hooks, rest.timeout), (384, HookSet::Light, request.timeout));
        assert_eq!(next(&request, None, 400, LIGHTLY, &healthy()), None);
        assert_eq!(first(&Request { wide: true, ..request }, None).hooks, HookSet::All);
    }

    #[test]
    fn what_is_wrong_is_watched_closely() {
        let dead = Diagnosis { verdict: Verdict::Unreachable, ..healthy() };
        let again = next(&request(), None, 5, LIGHTLY, &dead).unwrap();
        assert_eq!((again.count, again.hooks, again.timeout), (5, HookSet::Wide, SECOND_TIMEOUT));
        let rest = next(&Request { count: 400, ..request() }, None, FIRST, LIGHTLY, &dead).unwrap();
        assert_eq!((rest.count, rest.hooks), (384, HookSet::Wide));
        let few = next(&Request { count: 20, ..request() }, None, FIRST, LIGHTLY, &dead).unwrap();
        assert_eq!((few.count, few.hooks), (FIRST, HookSet::Wide), "as many as were seen to die");
        let kinds = next(&request(), None, 5, LIGHTLY, &lossy(1, 5)).unwrap();
        assert_eq!((kinds.count, kinds.flows, kinds.hooks), (32, FLOWS, HookSet::Wide));
        let no_room = Request { max_packets: 0, ..request() };
        assert_eq!(next(&no_room, None, 5, LIGHTLY, &lossy(1, 5)).unwrap().count, 5);
        let detour = next(&request(), None, 5, Watched { detour: true, ..LIGHTLY }, &healthy()).unwrap();
        assert_eq!((detour.count, detour.hooks), (5, HookSet::Wide), "something routes that was not to");
        let wrong_model = Diagnosis { model_errors: vec![Text::verbatim("")], ..healthy() };
        let again = next(&request(), None, 5, LIGHTLY, &wrong_model).unwrap();
        assert_eq!((again.hooks, again.timeout), (HookSet::Wide, request().timeout), "answers may be slow");
    }

    #[test]
    fn rules_are_traced_where_they_decide_or_may_tell_more() {
        let died = |point: FaultPoint| Diagnosis {
            verdict: Verdict::Unreachable,
            fault_point: Some(point),
            ..healthy()
        };
        let next = |last, diagnosis| next(&request(), None, 5, last, &diagnosis).map(|salvo| salvo.hooks);
        let filter = FaultPoint { hook: Hook::NetfilterForward, ..fault() };
        assert_eq!(next(LIGHTLY, died(filter.clone())), Some(HookSet::All), "there is no doubt whose it is");
        let egress = FaultPoint { hook: Hook::Qdisc, reason: Some("NETFILTER_DROP".to_owned()), ..fault() };
        assert_eq!(next(LIGHTLY, died(egress)), Some(HookSet::All));
        let route = FaultPoint { hook: Hook::Route, confidence: Confidence::High, ..fault() };
        assert_eq!(next(LIGHTLY, died(route.clone())), Some(HookSet::Wide));
        assert_eq!(next(WIDELY, died(route.clone())), Some(HookSet::All), "a rule may have set a mark");
        let predicted = FaultPoint { ground: Some(text!(ground::ReportedAsPredicted)), ..route };
        assert_eq!(next(WIDELY, died(predicted.clone())), None);
        let device = FaultPoint {
            hook: Hook::Qdisc,
            confidence: Confidence::High,
            cause: Cause::QueueDrop,
            reason: Some("QDISC_DROP".to_owned()),
            ..fault()
        };
        assert_eq!(next(WIDELY, died(device.clone())), None);
        let vague = FaultPoint { confidence: Confidence::Medium, ..device.clone() };
        assert_eq!(next(WIDELY, died(vague)), Some(HookSet::All));
        let led = FaultPoint { cause: Cause::NeighbourUnresolved, hook: Hook::Neighbour, ..device };
        assert_eq!(next(WIDELY, died(led)), Some(HookSet::All), "a rule may have changed where it goes");
        assert_eq!(next(WIDELY, died(wire())), None);
        let out = FaultPoint { confidence: Confidence::Low, ..wire() };
        assert_eq!(next(WIDELY, died(out)), Some(HookSet::All));
        let changed = Diagnosis { rewritten: Some(wire()), ..died(wire()) };
        assert_eq!(next(WIDELY, changed), Some(HookSet::All));
        assert_eq!(next(WIDELY, healthy()), None);
        let unknown = Diagnosis { verdict: Verdict::Undetermined, delivered: 0, ..healthy() };
        let salvo = super::next(&request(), None, 5, WIDELY, &unknown).unwrap();
        assert_eq!((salvo.hooks, salvo.timeout), (HookSet::All, SECOND_TIMEOUT), "none came through");
        let wrong_model = Diagnosis { model_errors: vec![Text::verbatim("")], ..died(predicted) };
        assert_eq!(next(WIDELY, wrong_model.clone()), Some(HookSet::All));
        assert_eq!(next(CLOSELY, wrong_model), None, "there is no more to see");
    }
}
