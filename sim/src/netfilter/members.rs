//! What sets say of a packet, for the rule that decided on it: the element that it is, or that there is none.
//!
//! A rule with a set says little by itself: `-m set --match-set deny src -j DROP` drops whom? And where a chain ends with
//! a rule that drops the rest, the reason is a rule before it, whose set lacks the packet. So both are told: what the
//! sets of the deciding rule have, and of the rules that lead to its chain, and the sets by which alone the rules before
//! it did not match.

use waymark_proto::{Flow, RuleRef};

use super::ipset::{Dimension, IpSet};
use super::read::{self, Context, Reading};
use super::rule::{Chain, ChainId, Expr, Field, Lookup, Op, Rule, Statement, Test, Verdict};
use super::ruleset::Ruleset;
use super::value::{Elements, Value};
use crate::packet::Packet;

/// Remarks at most: a chain may ask hundreds of sets.
const MOST: usize = 4;

/// How many chains are gone back from the one that decides.
const DEPTH: usize = 4;

/// What a set says of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Name of the set.
    pub set: String,
    /// What of the packet is looked for there: `10.0.0.5`, or `10.0.0.5,tcp:80`.
    pub packet: String,
    /// The element that this falls into; `None` if there is none.
    pub element: Option<String>,
    /// The rule that asks, if it is not the one that decided: it would have matched otherwise.
    pub rule: Option<RuleRef>,
}

/// What the sets say that rules of a chain ask, up to the rule that decided, or up to the chain's policy, and those that
/// lead to the chain.
pub(crate) fn asked(at: Context<'_>, flow: &Flow, decided: &RuleRef) -> Vec<Membership> {
    let ruleset = &at.namespace.ruleset;
    let Some((id, index)) = ruleset.locate(decided) else { return Vec::new() };
    let chain = &ruleset.chains[id];
    let packet = Packet::new(*flow, false);
    let asking = Asking { reading: Reading { at, packet: &packet, random: None }, ruleset };
    let own = chain.rules.get(index).into_iter().flat_map(|rule| asking.answers(rule));
    let before = chain.rules[..index].iter().filter_map(|rule| asking.lacks(chain, rule));
    own.chain(asking.ways_to(id)).chain(before).take(MOST).collect()
}

struct Asking<'a> {
    reading: Reading<'a>,
    ruleset: &'a Ruleset,
}

impl Asking<'_> {
    /// What the sets of a rule say.
    fn answers(&self, rule: &Rule) -> Vec<Membership> {
        let of_statement = |statement: &Statement| match statement {
            Statement::Test(test) => self.answer(test),
            Statement::Vmap { key, map: Lookup::Named(index, name) } => {
                self.element(key, self.ruleset.vmaps.get(*index)?, name)
            }
            _ => None,
        };
        rule.statements.iter().filter_map(of_statement).collect()
    }

    /// What the sets have by which the packet was led to a chain, and to the chain from which that was.
    fn ways_to(&self, mut id: ChainId) -> Vec<Membership> {
        let mut told = Vec::new();
        for _ in 0..DEPTH {
            let leading = self.ruleset.chains.iter().enumerate().find_map(|(from, chain)| {
                chain.rules.iter().find(|rule| self.leads(rule, id)).map(|rule| (from, rule))
            });
            let Some((from, rule)) = leading else { break };
            told.extend(self.answers(rule));
            id = from;
        }
        told
    }

    /// Whether a rule leads the packet to a chain. What is not known of the packet is no obstacle.
    fn leads(&self, rule: &Rule, id: ChainId) -> bool {
        let to_chain =
            |verdict: &Verdict| matches!(verdict, Verdict::Jump(to) | Verdict::Goto(to) if *to == id);
        for statement in &rule.statements {
            match statement {
                Statement::Test(test) => {
                    let known = self.answer(test).is_some()
                        || matches!(test, Test::Compare { left, .. } if self.is_plain(left));
                    if known && self.reading.test(test) == Ok(false) {
                        return false;
                    }
                }
                Statement::Verdict(verdict) => return to_chain(verdict),
                Statement::Vmap { key, map } => {
                    let key = self.reading.expr(key).ok().filter(|_| self.is_plain(key));
                    let map = read::lookup(map, &self.ruleset.vmaps).ok();
                    return key.zip(map).and_then(|(key, map)| map.get(&key)).is_some_and(to_chain);
                }
                _ => {}
            }
        }
        false
    }

    /// What the set of a test says, if it asks one.
    fn answer(&self, test: &Test) -> Option<Membership> {
        match test {
            Test::IpSet { name, fields, .. } => {
                let set = self.ruleset.ipsets.get(name)?;
                let of_set = |name: &String| {
                    let set = self.ruleset.ipsets.get(name)?;
                    let key = self.reading.ipset_key(set, fields).ok()??;
                    self.is_known(set).then(|| of_ipset(name, set, &key))
                };
                // Of a list the set that has it; if none has, the list hasn't.
                let mut members = set.lists.iter().filter_map(of_set);
                members.find(|member| member.element.is_some()).or_else(|| of_set(name))
            }
            Test::Compare { left, op: Op::Equal | Op::NotEqual, right: Lookup::Named(index, name) } => {
                self.element(left, self.ruleset.sets.get(*index)?, name)
            }
            _ => None,
        }
    }

    /// Whether the devices are known that a set asks for.
    fn is_known(&self, set: &IpSet) -> bool {
        let at = &self.reading.at;
        !set.dimensions.contains(&Dimension::Interface) || (at.input.is_some() && at.output.is_some())
    }

    fn element<D>(&self, key: &Expr, elements: &Elements<D>, name: &str) -> Option<Membership> {
        if !self.is_plain(key) {
            return None;
        }
        let values = self.reading.expr(key).ok()?;
        let words = |words: Vec<String>| in_words(key, &words).join(" . ");
        Some(Membership {
            set: name.to_owned(),
            packet: words(values.iter().map(Value::to_string).collect()),
            element: elements.element(&values).map(words),
            rule: None,
        })
    }

    /// The set by which alone a rule does not match, if there is one.
    fn lacks(&self, chain: &Chain, rule: &Rule) -> Option<Membership> {
        let tests = rule.statements.iter().map_while(|statement| match statement {
            Statement::Test(test) => Some(test),
            _ => None,
        });
        let mut lacking = None;
        for test in tests {
            match self.answer(test) {
                Some(membership) if self.reading.test(test) == Ok(false) => {
                    let lost = lacking.replace(membership);
                    if lost.is_some() {
                        return None;
                    }
                }
                Some(_) => {}
                None if self.holds(test) => {}
                None => return None,
            }
        }
        // One that must not be in the set, and is, says as little as any rule that does not match.
        let lacking: Membership = lacking?;
        lacking.element.is_none().then(|| Membership { rule: Some(chain.rule_ref(rule)), ..lacking })
    }

    /// Whether a test certainly holds, whatever is known of the packet's connection and marks.
    fn holds(&self, test: &Test) -> bool {
        match test {
            Test::Compare { left, .. } => self.is_plain(left) && self.reading.test(test) == Ok(true),
            _ => false,
        }
    }

    /// Whether all is known of an expression: it is read from the packet's own headers.
    fn is_plain(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Const(_) => true,
            Expr::Field(field) => match field {
                Field::Source(_)
                | Field::Destination(_)
                | Field::Family
                | Field::EtherType
                | Field::L4Protocol
                | Field::HeaderProtocol(_)
                | Field::SourcePort(_)
                | Field::DestinationPort(_) => true,
                Field::InName => self.reading.at.input.is_some(),
                Field::OutName => self.reading.at.output.is_some(),
                _ => false,
            },
            Expr::Binary(_, left, right) => self.is_plain(left) && self.is_plain(right),
            Expr::Concat(parts) => parts.iter().all(|part| self.is_plain(part)),
            Expr::Random { .. } | Expr::Map { .. } | Expr::Unknown(_) => false,
        }
    }
}

/// The operands of a key in words: protocols by their names.
fn in_words(key: &Expr, operands: &[String]) -> Vec<String> {
    let single = std::slice::from_ref(key);
    let parts = match key {
        Expr::Concat(parts) => parts.as_slice(),
        _ => single,
    };
    let is_protocol =
        |part: Option<&Expr>| matches!(part, Some(Expr::Field(Field::L4Protocol | Field::HeaderProtocol(_))));
    let word = |(index, operand): (usize, &String)| {
        if is_protocol(parts.get(index)) { protocol(operand) } else { operand.clone() }
    };
    operands.iter().enumerate().map(word).collect()
}

fn of_ipset(name: &str, set: &IpSet, key: &[Value]) -> Membership {
    let words = |operands: Vec<String>| {
        let mut operands = operands.into_iter();
        let mut word = |dimension: &Dimension| match dimension {
            Dimension::Port => {
                let protocol = protocol(&operands.next().unwrap_or_default());
                format!("{protocol}:{}", operands.next().unwrap_or_default())
            }
            _ => operands.next().unwrap_or_default(),
        };
        set.dimensions.iter().map(&mut word).collect::<Vec<_>>().join(",")
    };
    // An exception is no member.
    let is_member = read::find(&set.elements, key).ok().flatten().copied().unwrap_or(false);
    Membership {
        set: name.to_owned(),
        packet: words(key.iter().map(Value::to_string).collect()),
        element: set.elements.element(key).filter(|_| is_member).map(words),
        rule: None,
    }
}

fn protocol(number: &str) -> String {
    match number {
        "1" => "icmp",
        "6" => "tcp",
        "17" => "udp",
        "58" => "icmpv6",
        "132" => "sctp",
        other => other,
    }
    .to_owned()
}
