//! What the facts know of rules that a trace names by their position: those of iptables-legacy. And whom a rule belongs
//! to.
//!
//! The trace of iptables-legacy says that a packet matched a rule, not what the rule does; and it counts the policy of a chain as the rule
//! behind the last. Both is seen from the rules.

use std::borrow::Cow;

use waymark_proto::{Event, FaultPoint, Inventory, MATCHED, Sighting, text};
use waymark_sim::Cluster;

use crate::owners::{self, Owner};

/// Adds to a fault whom its rule belongs to.
pub(super) fn own(point: &mut FaultPoint, inventory: &Inventory) {
    let owner = point.rule.as_ref().and_then(|rule| owners::of_rule(rule, &point.place(), inventory));
    let Some((Owner { program, object, is_left }, rule)) = owner.zip(point.rule.as_ref()) else { return };
    point.evidence.push(if is_left {
        text!(evidence::ChainOfAdministrator { chain: &rule.chain, program })
    } else {
        text!(evidence::RuleOwner { program, object })
    });
}

/// The sightings, with such rules named in full and their verdicts told.
pub(super) fn told<'a>(sightings: &'a [Sighting], cluster: &Cluster) -> Cow<'a, [Sighting]> {
    let mut told = Cow::Borrowed(sightings);
    for (index, sighting) in sightings.iter().enumerate() {
        let Event::Verdict { rule, verdict } = &sighting.event else { continue };
        if rule.handle.is_some() || rule.position.is_none() {
            continue;
        }
        let Some((rule, decision)) = cluster.decision(&sighting.place, rule) else { continue };
        let verdict = match decision {
            Some(decision) if verdict == MATCHED => decision.to_owned(),
            _ => verdict.clone(),
        };
        told.to_mut()[index].event = Event::Verdict { rule, verdict };
    }
    told
}

#[cfg(test)]
mod tests {
    use waymark_proto::{
        Action, FACTS_API_VERSION, Facts, Hook, IptablesBackend, IptablesDump, NetfilterFacts, NetnsFacts,
        RuleRef, Step,
    };

    use super::*;
    use crate::fixture;

    const RULES: &str = "*filter\n:FORWARD DROP [0:0]\n:DENY - [0:0]\n-A FORWARD -s 10.0.0.0/8 -j DENY\n\
        -A FORWARD -p icmp -j ACCEPT\n-A DENY -p tcp -m comment --comment why -j REJECT\nCOMMIT\n";

    /// What is told of a rule with this verdict.
    fn of(chain: &str, position: u32, verdict: &str) -> (RuleRef, String) {
        let inventory = fixture::inventory();
        let node = &inventory.nodes[0];
        let iptables =
            vec![IptablesDump { ipv6: false, backend: IptablesBackend::Legacy, text: RULES.into() }];
        let netns = NetnsFacts {
            name: node.netns.to_string(),
            netfilter: NetfilterFacts { iptables, ..NetfilterFacts::default() },
            ..NetnsFacts::default()
        };
        let mut cluster = Cluster::new(&inventory);
        let facts = Facts {
            api_version: FACTS_API_VERSION.into(),
            node: node.name.clone(),
            kernel: String::new(),
            namespaces: vec![netns],
        };
        cluster.add(facts).unwrap();
        let rule = RuleRef {
            family: "ip".into(),
            table: "filter".into(),
            chain: chain.into(),
            handle: None,
            position: Some(position),
            text: None,
        };
        let mut step = Step::new(node.place(), Hook::Ip, Action::Dropped);
        step.flow = Some(fixture::tcp());
        let sighting = Sighting {
            hook: Hook::NetfilterForward,
            event: Event::Verdict { rule, verdict: verdict.into() },
            ..fixture::drop_at(&step, 0, false, "", "")
        };
        match told(&[sighting], &cluster)[0].event.clone() {
            Event::Verdict { rule, verdict } => (rule, verdict),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_text_of_a_rule_tells_its_verdict() {
        let (rule, verdict) = of("DENY", 1, MATCHED);
        assert_eq!((verdict.as_str(), rule.position), ("drop", Some(1)));
        assert!(rule.text.unwrap().ends_with("-j REJECT"));
        assert_eq!(of("FORWARD", 2, MATCHED).1, "accept");
        assert_eq!(of("FORWARD", 1, MATCHED).1, MATCHED, "it leads to another chain");
    }

    #[test]
    fn behind_the_last_rule_is_the_policy() {
        let (rule, verdict) = of("FORWARD", 3, MATCHED);
        assert_eq!((verdict.as_str(), rule.position, rule.text), ("drop", None, None));
    }

    #[test]
    fn what_was_seen_outweighs_what_is_written() {
        assert_eq!(of("DENY", 1, "accept").1, "accept");
        let (unknown, verdict) = of("GONE", 1, MATCHED);
        assert_eq!((unknown.position, verdict.as_str()), (Some(1), MATCHED));
    }
}
