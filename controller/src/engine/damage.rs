//! Packets that came damaged, and were dropped by a rule for it. Connection tracking takes a packet whose checksum or
//! header is wrong for invalid, and the rules of kube-proxy, among others, drop what is invalid. The rule is not to be
//! blamed: whoever damaged the packet is.

use waymark_proto::{Cause, Direction, FaultPoint, Flow, text};

use crate::advice::{advice, look_at_rule};

/// Tells a packet that came damaged, or an answer that belongs to no connection, from one that a rule does not want.
///
/// What a check sends is the first packet of its flow: a SYN, an echo request, a datagram. Such a packet is new to
/// connection tracking, and invalid for no other reason. An answer may be invalid because its question was not seen,
/// or because somebody rewrote it, which is known if it was seen.
pub(super) fn recognize(point: &mut FaultPoint, flow: Option<&Flow>, rewritten: Option<FaultPoint>) {
    let text = point.rule.as_ref().and_then(|rule| rule.text.as_deref());
    if !text.is_some_and(is_of_invalid) || point.cause != Cause::FilterDrop {
        return;
    }
    match (point.direction, rewritten) {
        (Direction::Forward, _) => {
            point.cause = Cause::Malformed;
            point.evidence.push(text!(evidence::CameDamaged));
        }
        (Direction::Return, Some(culprit)) => {
            let mut evidence = std::mem::take(&mut point.evidence);
            evidence.push(text!(evidence::InvalidSinceRewritten { node: &point.node, hook: point.hook }));
            *point = FaultPoint { evidence, ..culprit };
        }
        (Direction::Return, None) => {
            if let (Some(rule), Some(flow)) = (&point.rule, flow) {
                let look = look_at_rule(rule, &point.netns);
                point.advice =
                    text!(advice::InvalidAnswer { node: &point.node, flow: flow.reversed(), look });
            }
            return;
        }
    }
    if let Some(flow) = flow {
        point.advice = advice(point, flow);
    }
}

/// Whether a rule matches packets that connection tracking takes for invalid, in the words of iptables or nftables.
fn is_of_invalid(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_listed = |list: &str| list.split(',').any(|state| state.eq_ignore_ascii_case("invalid"));
    words.windows(3).any(|words| match words {
        ["!", ..] => false,
        [_, "--ctstate" | "--state", states] | ["ct", "state", states] => is_listed(states),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use waymark_proto::RuleRef;

    use super::*;
    use crate::fixture::{fault, tcp};

    fn dropped_by(text: &str, direction: Direction) -> FaultPoint {
        let rule = RuleRef {
            family: "ip".to_owned(),
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
            handle: Some(4),
            position: None,
            text: Some(text.to_owned()),
        };
        FaultPoint { direction, rule: Some(rule), ..fault() }
    }

    fn cause(text: &str, direction: Direction) -> Cause {
        let mut point = dropped_by(text, direction);
        recognize(&mut point, None, None);
        assert_eq!(point.evidence.is_empty(), point.cause == Cause::FilterDrop);
        point.cause
    }

    #[test]
    fn a_first_packet_that_is_invalid_came_damaged() {
        for text in [
            "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
            "-A FORWARD -m state --state UNTRACKED,INVALID -j DROP",
            "ct state invalid counter drop",
            "ct state invalid,untracked drop",
        ] {
            assert_eq!(cause(text, Direction::Forward), Cause::Malformed, "{text}");
            assert_eq!(cause(text, Direction::Return), Cause::FilterDrop, "{text}");
        }
    }

    #[test]
    fn an_answer_is_invalid_for_what_was_done_to_it() {
        let rule = "ct state invalid drop";
        let culprit = FaultPoint { node: "node1".into(), cause: Cause::AnswerMismatch, ..fault() };
        let mut point = dropped_by(rule, Direction::Return);
        recognize(&mut point, Some(&tcp()), Some(culprit.clone()));
        assert_eq!((&point.node, point.cause), (&culprit.node, Cause::AnswerMismatch));
        assert_eq!(point.evidence.len(), 1);

        let mut point = dropped_by(rule, Direction::Return);
        recognize(&mut point, Some(&tcp()), None);
        assert_eq!(point.cause, Cause::FilterDrop);
        assert!(
            point.advice.contains("connection tracking") && !point.advice.contains("remove"),
            "{}",
            point.advice
        );
    }

    #[test]
    fn other_rules_drop_what_they_do_not_want() {
        for text in [
            "-A FORWARD -d 10.244.2.10/32 -j DROP",
            "-A FORWARD -m conntrack ! --ctstate INVALID -j DROP",
            "-A FORWARD -m conntrack --ctstate NEW -j DROP",
            "ct state != invalid drop",
            "ct state new comment \"not invalid\" drop",
        ] {
            assert_eq!(cause(text, Direction::Forward), Cause::FilterDrop, "{text}");
        }
    }
}
