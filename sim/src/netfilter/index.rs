//! Which rules of a chain a packet may match.
//!
//! Rulesets grow by adding rules that ask for one address, port or device each: kube-proxy's `KUBE-SERVICES` has one for
//! every port of every Service, Calico's dispatch chains one for every pod. The kernel asks them one after the other. Here
//! rules that demand one of a few values of a field are found by the value that the packet has, and only those that demand
//! nothing of the kind are always asked. The order of rules stays.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use super::rule::{Expr, Field, Lookup, Op, Rule, Statement, Test};
use super::value::{Pattern, Value};

/// Chains of fewer rules are as fast without.
const WORTH_IT: usize = 8;
/// Rules that take more values than this are asked always.
const MOST_VALUES: usize = 64;

/// The rules of a chain by what they demand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    fields: Vec<ByValue>,
    /// Positions of rules that are always asked, ascending.
    rest: Vec<usize>,
}

/// Rules that demand values of one field.
#[derive(Clone, Debug)]
struct ByValue {
    field: Field,
    /// Lengths of the prefixes that addresses are demanded by, by family; others are demanded whole.
    lengths: BTreeSet<(bool, u8)>,
    /// Positions, ascending.
    rules: FxHashMap<Demand, Vec<usize>>,
}

/// What a rule demands of a field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Demand {
    Is(Value),
    Within(IpNet),
}

impl Index {
    /// Arranges the rules of a chain; `None` if it is too short to be worth it.
    pub(crate) fn new(rules: &[Rule]) -> Option<Self> {
        if rules.len() < WORTH_IT {
            return None;
        }
        let all: Vec<Vec<(Field, Vec<Demand>)>> = rules.iter().map(demands).collect();
        // A rule is found by what the fewest others demand as well.
        let mut common: FxHashMap<(&Field, &Demand), usize> = FxHashMap::default();
        for (field, demands) in all.iter().flatten() {
            for demand in demands {
                *common.entry((field, demand)).or_default() += 1;
            }
        }
        let rarest = |choices: &[(Field, Vec<Demand>)]| {
            let found_with = |(field, demands): &(Field, Vec<Demand>)| {
                demands.iter().map(|demand| common[&(field, demand)]).sum::<usize>()
            };
            let best = (0..choices.len()).min_by_key(|&index| found_with(&choices[index]));
            best.filter(|&index| found_with(&choices[index]) < rules.len())
        };
        let chosen: Vec<Option<usize>> = all.iter().map(|choices| rarest(choices)).collect();
        let mut index = Self::default();
        for (position, (mut choices, chosen)) in all.into_iter().zip(chosen).enumerate() {
            match chosen.map(|chosen| choices.swap_remove(chosen)) {
                Some((field, demands)) => index.add(position, field, demands),
                None => index.rest.push(position),
            }
        }
        (!index.fields.is_empty()).then_some(index)
    }

    fn add(&mut self, position: usize, field: Field, demands: Vec<Demand>) {
        let at = self.fields.iter().position(|by| by.field == field).unwrap_or_else(|| {
            self.fields.push(ByValue { field, lengths: BTreeSet::new(), rules: FxHashMap::default() });
            self.fields.len() - 1
        });
        let by = &mut self.fields[at];
        for demand in demands {
            if let Demand::Within(net) = &demand {
                by.lengths.insert((net.addr().is_ipv6(), net.prefix_len()));
            }
            by.rules.entry(demand).or_default().push(position);
        }
    }

    /// The first rule from a position on that a packet may match. `read` reads its fields: `None` is one that it lacks.
    pub(crate) fn next(&self, from: usize, read: impl Fn(&Field) -> Option<Value>) -> Option<usize> {
        let always = first(&self.rest, from);
        let demanding = self.fields.iter().filter_map(|by| by.next(from, read(&by.field)?));
        demanding.chain(always).min()
    }
}

impl ByValue {
    fn next(&self, from: usize, value: Value) -> Option<usize> {
        let find = |demand: Demand| first(self.rules.get(&demand)?, from);
        let Value::Ip(ip) = value else { return find(Demand::Is(value)) };
        let nets = self.lengths.iter().filter(|(ipv6, _)| *ipv6 == ip.is_ipv6());
        nets.filter_map(|&(_, length)| find(Demand::Within(prefix(ip, length)?))).min()
    }
}

/// The first position from one on.
fn first(positions: &[usize], from: usize) -> Option<usize> {
    positions.get(positions.partition_point(|&position| position < from)).copied()
}

fn prefix(ip: IpAddr, length: u8) -> Option<IpNet> {
    Some(IpNet::new(ip, length).ok()?.trunc())
}

/// What a rule demands of fields before it does anything.
fn demands(rule: &Rule) -> Vec<(Field, Vec<Demand>)> {
    let tests = rule.statements.iter().map_while(|statement| match statement {
        Statement::Test(test) => Some(test),
        _ => None,
    });
    tests.filter_map(demand).collect()
}

fn demand(test: &Test) -> Option<(Field, Vec<Demand>)> {
    let Test::Compare { left: Expr::Field(field), op: Op::Equal, right: Lookup::Inline(elements) } = test
    else {
        return None;
    };
    // What does not change while a packet is in the chains of a hook, and is always known where it is there.
    let lasts = matches!(
        field,
        Field::Source(_)
            | Field::Destination(_)
            | Field::DestinationPort(_)
            | Field::L4Protocol
            | Field::InName
            | Field::OutName
    );
    if !lasts || elements.unread().is_some() {
        return None;
    }
    let mut demands = Vec::new();
    for key in elements.keys() {
        let [pattern] = key.as_slice() else { return None };
        demands.push(match pattern {
            Pattern::Is(Value::Ip(ip)) => Demand::Within(IpNet::from(*ip)),
            Pattern::Is(value) => Demand::Is(value.clone()),
            range => Demand::Within(range.as_net()?),
        });
        if demands.len() > MOST_VALUES {
            return None;
        }
    }
    Some((field.clone(), demands))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::super::rule::Verdict;
    use super::*;

    fn rule(tests: Vec<Test>) -> Rule {
        let tests = tests.into_iter().map(Statement::Test);
        Rule::new(None, None, String::new(), tests.chain([Statement::Verdict(Verdict::Accept)]).collect())
    }

    fn to(net: &str) -> Test {
        Test::field(Field::Destination(None), vec![Pattern::net(net.parse().unwrap())], false)
    }

    fn port(port: u64) -> Test {
        Test::field(Field::DestinationPort(None), vec![Pattern::Is(Value::Number(port))], false)
    }

    /// Positions of the rules that are asked for a packet to this address and port.
    fn asked(index: &Index, dst: &str, dst_port: u64) -> Vec<usize> {
        let read = |field: &Field| match field {
            Field::Destination(_) => Some(Value::Ip(dst.parse().unwrap())),
            Field::DestinationPort(_) => Some(Value::Number(dst_port)),
            _ => None,
        };
        let mut all = Vec::new();
        let mut from = 0;
        while let Some(position) = index.next(from, read) {
            all.push(position);
            from = position + 1;
        }
        all
    }

    #[test]
    fn rules_are_asked_in_their_order_if_the_packet_may_match() {
        let mut rules: Vec<Rule> =
            (0..10).map(|last| rule(vec![to(&format!("10.0.0.{last}/32")), port(80)])).collect();
        rules.insert(3, rule(vec![]));
        rules.insert(5, rule(vec![to("10.0.0.0/30")]));
        rules.push(rule(vec![port(443)]));
        let index = Index::new(&rules).unwrap();
        assert_eq!(asked(&index, "10.0.0.2", 80), [2, 3, 5]);
        assert_eq!(asked(&index, "10.0.0.7", 443), [3, 9, 12]);
        assert_eq!(asked(&index, "192.0.2.1", 80), [3]);
        assert_eq!(asked(&index, "fd00::1", 80), [3]);
    }

    /// A packet, as far as rules here ask.
    #[derive(Clone, Copy, Debug)]
    struct Asked {
        src: u8,
        dst: u8,
        port: u64,
    }

    impl Asked {
        fn read(self, field: &Field) -> Option<Value> {
            let ip = |last: u8| Value::Ip(Ipv4Addr::new(10, 0, 0, last).into());
            match field {
                Field::Source(_) => Some(ip(self.src)),
                Field::Destination(_) => Some(ip(self.dst)),
                Field::DestinationPort(_) => Some(Value::Number(self.port)),
                _ => None,
            }
        }

        /// Whether a rule matches, by asking each of its tests.
        fn meets(self, rule: &Rule) -> bool {
            rule.statements.iter().all(|statement| match statement {
                Statement::Test(Test::Compare {
                    left: Expr::Field(field),
                    op,
                    right: Lookup::Inline(elements),
                }) => {
                    let found = self.read(field).is_some_and(|value| elements.get(&[value]).is_some());
                    found == (*op == Op::Equal)
                }
                _ => true,
            })
        }
    }

    fn any_test() -> impl Strategy<Value = Test> {
        let net = (0..16_u8, prop_oneof![Just(32_u8), Just(30), Just(28), Just(0)]);
        let nets = prop::collection::vec(net, 1..3);
        let of_address = (any::<bool>(), nets, any::<bool>()).prop_map(|(source, nets, negated)| {
            let net = |(last, length)| {
                Pattern::net(IpNet::new(Ipv4Addr::new(10, 0, 0, last).into(), length).unwrap())
            };
            let field = if source { Field::Source(None) } else { Field::Destination(None) };
            Test::field(field, nets.into_iter().map(net).collect(), negated)
        });
        let of_port = (0..4_u64, 0..3_u64, any::<bool>()).prop_map(|(first, more, negated)| {
            let pattern = match more {
                0 => Pattern::Is(Value::Number(first)),
                more => Pattern::Range(Value::Number(first), Value::Number(first + more)),
            };
            Test::field(Field::DestinationPort(None), vec![pattern], negated)
        });
        prop_oneof![of_address, of_port]
    }

    proptest! {
        #[test]
        fn no_rule_that_matches_is_passed_over(
            rules in prop::collection::vec(prop::collection::vec(any_test(), 0..4), WORTH_IT..30),
            (src, dst, port) in (0..16_u8, 0..16_u8, 0..6_u64),
        ) {
            let rules: Vec<Rule> = rules.into_iter().map(rule).collect();
            let packet = Asked { src, dst, port };
            let matching: Vec<usize> = (0..rules.len()).filter(|&at| packet.meets(&rules[at])).collect();
            if let Some(index) = Index::new(&rules) {
                let mut from = 0;
                let mut asked = Vec::new();
                while let Some(position) = index.next(from, |field| packet.read(field)) {
                    prop_assert!(position >= from, "the order of rules stays");
                    asked.push(position);
                    from = position + 1;
                }
                asked.retain(|&at| packet.meets(&rules[at]));
                prop_assert_eq!(asked, matching);
            }
        }
    }

    #[test]
    fn what_all_demand_is_no_help() {
        let rules: Vec<Rule> = (0..10).map(|_| rule(vec![port(80)])).collect();
        assert!(Index::new(&rules).is_none());
    }

    #[test]
    fn what_is_refused_or_a_range_is_asked_always() {
        let not = Test::field(Field::DestinationPort(None), vec![Pattern::Is(Value::Number(80))], true);
        let number = |port| Value::Number(port);
        let range =
            Test::field(Field::DestinationPort(None), vec![Pattern::Range(number(1), number(9))], false);
        let mut rules: Vec<Rule> = (0..10).map(|port_| rule(vec![port(port_)])).collect();
        rules.push(rule(vec![not]));
        rules.push(rule(vec![range]));
        let index = Index::new(&rules).unwrap();
        assert_eq!(asked(&index, "10.0.0.2", 4), [4, 10, 11]);
    }
}
