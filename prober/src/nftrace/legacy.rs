//! Reports of legacy tables, put where they belong among the events of nftables.
//!
//! Both are read from sockets of their own, and neither says when it happened. But the kernel sends both while the
//! packet is on its way: whatever a legacy table reported before a packet left its hook is there when the event of its
//! leaving has been read. So the events of nftables are read first, then these reports, and of a packet that has left a
//! hook all of that hook are there. Of one that has not, they are told as far as they are known; if more come, they are
//! told too.
//!
//! A report names a rule that matched, not what the rule did. If another table, or the end of the hook, saw the packet
//! afterwards, the rule that it matched last let it pass. If nothing did, that rule may have ended it: which of the two
//! its text knows, and so whoever has the text.

use std::collections::{HashMap, VecDeque};

use waymark_proto::{Event, Hook, MATCHED, Marker, Match, RuleRef};

use super::identify::OuterKey;
use crate::xtrace::XtEvent;

/// A packet in a hook.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Passing {
    pub(super) hook: Hook,
    pub(super) who: Who,
}

/// What tells packets apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// Marked, and which way it goes.
    Marked(Marker, Match),
    /// Within another.
    Inside(OuterKey),
}

/// The tables that a packet went through in a hook, each with the last rule that it matched there.
#[derive(Debug, Default)]
struct Tables {
    last: Vec<RuleRef>,
    /// Position of the last rule that it matched in a built-in chain. The policy is counted as the rule behind the last;
    /// but a rule that lets everything return is reported as a policy, too, and the real one comes behind it.
    reached: u32,
}

impl Tables {
    /// Whether a report is of a later passage through the same hook: it is of an earlier table, or further up in the
    /// built-in chain.
    fn are_over(&self, report: &XtEvent) -> bool {
        let Some(last) = self.last.last() else { return false };
        let (before, now) = (rank(&last.table, report.hook), rank(&report.table, report.hook));
        now < before || (now == before && is_builtin(report) && report.position <= self.reached)
    }

    /// Adds a report: instead of the last one of its table, unless every rule is wanted. Says whether it needs a place of
    /// its own.
    fn add(&mut self, report: &XtEvent, every_rule: bool) -> bool {
        let same = self.last.last().is_some_and(|last| last.table == report.table);
        if !same {
            self.reached = 0;
        }
        let replaces = same && !every_rule;
        if replaces {
            self.last.pop();
        }
        if is_builtin(report) {
            self.reached = report.position;
        }
        self.last.push(RuleRef {
            family: if report.ipv6 { "ip6" } else { "ip" }.to_owned(),
            table: report.table.clone(),
            chain: report.chain.clone(),
            handle: None,
            position: Some(report.position),
            text: None,
        });
        !replaces
    }
}

/// Whether a rule is one of the chain that the hook calls.
fn is_builtin(report: &XtEvent) -> bool {
    let name = match report.hook {
        Hook::NetfilterPrerouting => "PREROUTING",
        Hook::NetfilterInput => "INPUT",
        Hook::NetfilterForward => "FORWARD",
        Hook::NetfilterOutput => "OUTPUT",
        _ => "POSTROUTING",
    };
    report.chain == name
}

/// The place of a table among those of its hook (`NF_IP_PRI_*`).
fn rank(table: &str, hook: Hook) -> usize {
    let nat_is_last = matches!(hook, Hook::NetfilterInput | Hook::NetfilterPostrouting);
    match table {
        "raw" => 0,
        "mangle" => 1,
        "nat" if nat_is_last => 5,
        "nat" => 2,
        "filter" => 3,
        _ => 4,
    }
}

/// Reports that have not been told. `K` is what is known of a packet.
#[derive(Debug)]
pub(super) struct Reports<K> {
    waiting: HashMap<Passing, VecDeque<Tables>>,
    /// How many rules wait, all together.
    count: usize,
    /// Packets that are in their hook, in the order in which they came. What is known of each is kept here, since another
    /// packet may have its id by now.
    open: HashMap<Passing, (u64, K)>,
    turn: u64,
}

impl<K> Default for Reports<K> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), count: 0, open: HashMap::new(), turn: 0 }
    }
}

impl<K: Clone> Reports<K> {
    /// Adds a report. Gives up all that there is for want of room, and says how many, if there are more than `room`.
    pub(super) fn add(&mut self, passing: Passing, report: &XtEvent, every_rule: bool, room: usize) -> usize {
        let mut lost = 0;
        if self.count >= room {
            self.waiting.clear();
            lost = std::mem::take(&mut self.count);
        }
        let passages = self.waiting.entry(passing).or_default();
        if passages.back().is_none_or(|tables| tables.are_over(report)) {
            passages.push_back(Tables::default());
        }
        if let Some(tables) = passages.back_mut() {
            self.count += usize::from(tables.add(report, every_rule));
        }
        lost
    }

    /// A packet came into a hook.
    pub(super) fn entered(&mut self, passing: Passing, known: K, room: usize) {
        if self.open.len() >= room {
            self.open.clear();
        }
        self.turn += 1;
        self.open.insert(passing, (self.turn, known));
    }

    /// A packet came through all legacy tables of a hook: what is to be told of them.
    pub(super) fn left(&mut self, passing: &Passing) -> Vec<Event> {
        self.open.remove(passing);
        let Some(passages) = self.waiting.get_mut(passing) else { return Vec::new() };
        let tables = passages.pop_front().unwrap_or_default();
        if passages.is_empty() {
            self.waiting.remove(passing);
        }
        self.count = self.count.saturating_sub(tables.last.len());
        tables.last.into_iter().map(|rule| verdict(rule, "accept")).collect()
    }

    /// What is to be told of packets that are still in a hook, or have died there.
    pub(super) fn take_open(&mut self) -> Vec<(K, Vec<Event>)> {
        let Self { waiting, count, open, .. } = self;
        let mut told = Vec::new();
        waiting.retain(|passing, passages| {
            // Who has not come in yet was seen too early: the event of its coming is still to be read.
            let Some(known) = open.get(passing) else { return true };
            let mut rules: Vec<RuleRef> = passages.drain(..).flat_map(|tables| tables.last).collect();
            *count = count.saturating_sub(rules.len());
            let last = rules.pop();
            let before = rules.into_iter().map(|rule| verdict(rule, "accept"));
            told.push((known.clone(), before.chain(last.map(|rule| verdict(rule, MATCHED))).collect()));
            false
        });
        told.sort_by_key(|((turn, _), _)| *turn);
        told.into_iter().map(|((_, known), verdicts)| (known, verdicts)).collect()
    }
}

fn verdict(rule: RuleRef, verdict: &str) -> Event {
    Event::Verdict { rule, verdict: verdict.to_owned() }
}

/// What a report quotes of a packet, IP header and transport header, as a trace of nftables quotes it.
pub(super) fn headers(packet: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = match packet.first()? >> 4 {
        4 => usize::from(packet[0] & 0xf) * 4,
        _ => 40,
    };
    packet.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use waymark_proto::{CheckId, Seq};

    use super::*;
    use crate::xtrace::XtKind;

    const ROOM: usize = 100;

    fn passing(hook: Hook) -> Passing {
        let marker = Marker { check: CheckId::new(7).unwrap(), seq: Seq(0) };
        Passing { hook, who: Who::Marked(marker, Match::Tag) }
    }

    /// `filter:FORWARD:rule:3`
    fn report(hook: Hook, words: &str) -> XtEvent {
        let words: Vec<&str> = words.split(':').collect();
        XtEvent {
            ipv6: false,
            hook,
            table: words[0].into(),
            chain: words[1].into(),
            kind: match words[2] {
                "rule" => XtKind::Rule,
                "return" => XtKind::Return,
                _ => XtKind::Policy,
            },
            position: words[3].parse().unwrap(),
            packet: Vec::new(),
            iif: None,
            oif: None,
            mark: 0,
        }
    }

    fn reports(hook: Hook, all: &[&str]) -> Reports<u32> {
        let mut reports = Reports::default();
        for words in all {
            assert_eq!(reports.add(passing(hook), &report(hook, words), false, ROOM), 0);
        }
        reports
    }

    fn words(events: Vec<Event>) -> Vec<String> {
        let word = |event| match event {
            Event::Verdict { rule, verdict } => format!("{rule} {verdict}"),
            other => panic!("{other:?}"),
        };
        events.into_iter().map(word).collect()
    }

    #[test]
    fn of_each_table_the_last_rule_is_told() {
        let hook = Hook::NetfilterForward;
        let all = [
            "mangle:FORWARD:policy:1",
            "filter:FORWARD:rule:1",
            "filter:A:rule:2",
            "filter:A:return:3",
            "filter:FORWARD:rule:4",
        ];
        let mut passed = reports(hook, &all);
        let expected = ["ip mangle FORWARD rule 1 accept", "ip filter FORWARD rule 4 accept"];
        assert_eq!(words(passed.left(&passing(hook))), expected);
        assert_eq!(passed.left(&passing(hook)), []);
        assert_eq!(passed.count, 0, "no place stays taken");
    }

    #[test]
    fn who_did_not_leave_may_have_been_ended_by_the_last() {
        let hook = Hook::NetfilterForward;
        let mut open = reports(hook, &["mangle:FORWARD:policy:1", "filter:FORWARD:rule:1"]);
        assert_eq!(open.take_open(), [], "nobody has seen it come in");
        open.entered(passing(hook), 5, ROOM);
        let told = open.take_open();
        let [(5, events)] = told.as_slice() else { panic!("{told:?}") };
        let expected = ["ip mangle FORWARD rule 1 accept", "ip filter FORWARD rule 1 matched"];
        assert_eq!(words(events.clone()), expected);
        assert_eq!(open.take_open(), []);
    }

    #[test]
    fn passages_through_the_same_hook_are_told_apart() {
        let hook = Hook::NetfilterPrerouting;
        let all = [
            "raw:PREROUTING:rule:2",
            "nat:PREROUTING:policy:3",
            "raw:PREROUTING:rule:2",
            "raw:PREROUTING:policy:4",
        ];
        let mut both = reports(hook, &all);
        assert_eq!(words(both.left(&passing(hook))).len(), 2);
        assert_eq!(words(both.left(&passing(hook))), ["ip raw PREROUTING rule 4 accept"]);
        // The same rule again.
        let mut again = reports(hook, &["raw:PREROUTING:rule:2"; 2]);
        assert_eq!(words(again.left(&passing(hook))).len(), 1);
        assert_eq!(words(again.left(&passing(hook))).len(), 1);
    }

    #[test]
    fn a_rule_that_lets_all_return_is_no_end_of_its_chain() {
        let hook = Hook::NetfilterOutput;
        // `-A OUTPUT -j RETURN` is reported as a policy, and the real one behind it.
        let words_of = ["raw:OUTPUT:policy:1", "raw:OUTPUT:policy:3", "mangle:OUTPUT:rule:1"];
        let mut one = reports(hook, &words_of);
        let told = ["ip raw OUTPUT rule 3 accept", "ip mangle OUTPUT rule 1 accept"];
        assert_eq!(words(one.left(&passing(hook))), told);
        assert_eq!(words(one.left(&passing(hook))), [""; 0]);
        let mut every = Reports::<u32>::default();
        for words in words_of {
            every.add(passing(hook), &report(hook, words), true, ROOM);
        }
        let told = [&["ip raw OUTPUT rule 1 accept"], told.as_slice()].concat();
        assert_eq!(words(every.left(&passing(hook))), told);
    }

    #[test]
    fn too_many_are_counted_as_lost() {
        let hook = Hook::NetfilterInput;
        let mut reports = reports(hook, &["filter:INPUT:rule:1", "filter:INPUT:rule:2"]);
        assert_eq!(reports.add(passing(hook), &report(hook, "nat:INPUT:policy:1"), false, 1), 1);
        assert_eq!(words(reports.left(&passing(hook))), ["ip nat INPUT rule 1 accept"]);
    }
}
