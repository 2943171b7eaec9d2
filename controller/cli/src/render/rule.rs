//! A netfilter rule in words: `rule 14 of chain WM-FW drops tcp dport 80 from 10.1.0.0/16`.
//!
//! Only a rule of which every word is understood is told in words. To leave out what is not would make it wider than
//! it is; any other rule is quoted.

use waymark_proto::{RuleRef, Text, text};

/// Most characters of a rule that are quoted.
const MOST: usize = 160;

/// Which rule does what to which packets.
pub(super) fn sentence(rule: &RuleRef) -> Text {
    let name = name(rule);
    if rule.handle.is_none() && rule.position.is_none() {
        return text!(rule::PolicyDrops { rule: name });
    }
    let Some(text) = &rule.text else { return text!(rule::DoesIt { rule: name, text: None::<String> }) };
    let words = shlex::split(text).unwrap_or_default();
    let matches = if text.starts_with('-') { of_iptables(&words) } else { of_nft(&words) };
    match matches {
        Some(Matches { verdict: Some(verdict), packets, comment }) => {
            let comment = comment.map(|comment| format!("{comment:?}"));
            match verdict {
                Verdict::Drops => text!(rule::Drops { rule: name, packets, comment }),
                Verdict::Rejects => text!(rule::Rejects { rule: name, packets, comment }),
            }
        }
        _ => text!(rule::DoesIt { rule: name, text: cut(text) }),
    }
}

/// `rule 14 of chain WM-FW`; with its table, unless that is the one of filters.
fn name(rule: &RuleRef) -> Text {
    let RuleRef { family, table, chain, .. } = rule;
    let table = match (family.as_str(), table.as_str()) {
        ("ip" | "ip6", "filter") => None,
        (family, table) => Some(format!("{family} {table}")),
    };
    // `iptables --line-numbers` counts rules, `nft -a` tells their handles.
    let counted = rule.text.as_deref().is_some_and(|text| text.starts_with('-'));
    match (rule.position, rule.handle) {
        (Some(position), handle) if counted || handle.is_none() => {
            text!(rule::ByPosition { position, chain, table })
        }
        (_, Some(handle)) => text!(rule::ByHandle { handle, chain, table }),
        (_, None) => text!(rule::Policy { chain, table }),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What rules do that end a packet's way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Drops,
    Rejects,
}

/// What a rule does, and to which packets: to all if nothing is said.
#[derive(Debug, Default, PartialEq)]
struct Matches {
    verdict: Option<Verdict>,
    packets: Vec<Text>,
    comment: Option<String>,
}

/// What is gathered of a rule, word by word.
#[derive(Default)]
struct Gathered {
    protocol: Option<String>,
    ports: Vec<Text>,
    rest: Vec<Text>,
    verdict: Option<Verdict>,
    comment: Option<String>,
}

impl Gathered {
    fn add(&mut self, negated: bool, what: Match, value: &str) {
        self.rest.push(what.words(negated, whole(value)));
    }

    fn port(&mut self, what: &str, value: &str) {
        self.ports.push(Text::verbatim(format!("{what} {value}")));
    }

    fn done(self) -> Matches {
        let protocol = self.protocol.map(Text::verbatim);
        let packets = protocol.into_iter().chain(self.ports).chain(self.rest).collect();
        Matches { verdict: self.verdict, packets, comment: self.comment }
    }
}

/// What a rule may ask of a packet, or of its opposite.
#[derive(Clone, Copy)]
enum Match {
    From,
    To,
    InBy,
    OutBy,
    InState,
    Marked,
    FromSet,
    ToSet,
}

impl Match {
    fn words(self, negated: bool, value: &str) -> Text {
        match self {
            Self::From => text!(rule::From { negated, value }),
            Self::To => text!(rule::To { negated, value }),
            Self::InBy => text!(rule::InBy { negated, value }),
            Self::OutBy => text!(rule::OutBy { negated, value }),
            Self::InState => text!(rule::InState { negated, value }),
            Self::Marked => text!(rule::Marked { negated, value }),
            Self::FromSet => text!(rule::FromSet { negated, value }),
            Self::ToSet => text!(rule::ToSet { negated, value }),
        }
    }
}

/// An address that is a whole one, without its length.
fn whole(address: &str) -> &str {
    address.strip_suffix("/32").or_else(|| address.strip_suffix("/128")).unwrap_or(address)
}

fn of_iptables(words: &[String]) -> Option<Matches> {
    let mut found = Gathered::default();
    let mut rest = words.iter().map(String::as_str);
    let mut not = false;
    while let Some(option) = rest.next() {
        if option == "!" {
            not = true;
            continue;
        }
        let value = rest.next()?;
        match option {
            "-A" | "-m" | "--reject-with" if !not => {}
            "-s" => found.add(not, Match::From, value),
            "-d" => found.add(not, Match::To, value),
            "-i" => found.add(not, Match::InBy, value),
            "-o" => found.add(not, Match::OutBy, value),
            "-p" if !not => found.protocol = Some(value.to_owned()),
            "--dport" | "--dports" if !not => found.port("dport", value),
            "--sport" | "--sports" if !not => found.port("sport", value),
            "--ctstate" | "--state" => found.add(not, Match::InState, value),
            "--mark" => found.add(not, Match::Marked, value),
            "--icmp-type" | "--icmpv6-type" if !not => found.ports.push(text!(rule::Type { value })),
            "--match-set" => {
                let what = match rest.next()? {
                    "src" => Match::FromSet,
                    "dst" => Match::ToSet,
                    _ => return None,
                };
                found.add(not, what, value);
            }
            // `-m statistic`; every n-th packet has other options.
            "--mode" if !not && value == "random" => {}
            "--probability" if !not => {
                let percent = format!("{:.0}", value.parse::<f64>().ok()? * 100.0);
                found.rest.push(text!(rule::AtRandom { percent }));
            }
            "--comment" => found.comment = Some(value.to_owned()),
            "-j" => match value {
                "DROP" => found.verdict = Some(Verdict::Drops),
                "REJECT" => found.verdict = Some(Verdict::Rejects),
                _ => return None,
            },
            _ => return None,
        }
        not = false;
    }
    Some(found.done())
}

fn of_nft(words: &[String]) -> Option<Matches> {
    let mut found = Gathered::default();
    let mut rest = words.iter().map(String::as_str).peekable();
    while let Some(word) = rest.next() {
        match word {
            "counter" => {
                // `packets 3 bytes 180`
                while rest.next_if(|next| matches!(*next, "packets" | "bytes")).is_some() {
                    rest.next()?;
                }
            }
            "drop" => found.verdict = Some(Verdict::Drops),
            "reject" => {
                found.verdict = Some(Verdict::Rejects);
                // With what, does not matter here.
                if rest.next_if_eq(&"with").is_some() {
                    while rest.next_if(|next| *next != "comment").is_some() {}
                }
            }
            "comment" => found.comment = Some(rest.next()?.to_owned()),
            _ => {
                let key = match word {
                    "iifname" | "iif" | "oifname" | "oif" => word.to_owned(),
                    _ => format!("{word} {}", rest.next()?),
                };
                let not = rest.next_if_eq(&"!=").is_some();
                let value = value(&mut rest)?;
                match key.as_str() {
                    "ip saddr" | "ip6 saddr" => found.add(not, Match::From, &value),
                    "ip daddr" | "ip6 daddr" => found.add(not, Match::To, &value),
                    "iifname" | "iif" => found.add(not, Match::InBy, &value),
                    "oifname" | "oif" => found.add(not, Match::OutBy, &value),
                    "ct state" => found.add(not, Match::InState, &value),
                    "meta mark" => found.add(not, Match::Marked, &value),
                    "meta l4proto" | "ip protocol" | "ip6 nexthdr" if !not => found.protocol = Some(value),
                    "tcp dport" | "udp dport" | "tcp sport" | "udp sport" if !not => {
                        let (protocol, port) = key.split_once(' ')?;
                        found.protocol = Some(protocol.to_owned());
                        found.port(port, &value);
                    }
                    _ => return None,
                }
            }
        }
    }
    Some(found.done())
}

/// A value of a match: a word, or a set of them.
fn value<'a>(rest: &mut impl Iterator<Item = &'a str>) -> Option<String> {
    let first = rest.next()?;
    if first != "{" {
        return first
            .starts_with(|c: char| c.is_alphanumeric() || matches!(c, '@' | ':'))
            .then(|| first.to_owned());
    }
    let mut members: Vec<&str> = Vec::new();
    loop {
        match rest.next()? {
            "}" => return Some(members.join(" ")),
            member => members.push(member),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> RuleRef {
        RuleRef {
            family: "ip".into(),
            table: "filter".into(),
            chain: "WM-FW".into(),
            handle: Some(26),
            position: Some(14),
            text: Some(text.into()),
        }
    }

    /// How the tool that prints such a text counts its rule.
    fn named(text: &str) -> &str {
        if text.starts_with('-') {
            "rule 14 of chain WM-FW"
        } else {
            "the rule with handle 26 of chain WM-FW"
        }
    }

    #[test]
    fn rules_are_told_in_words_where_all_of_them_are_understood() {
        for (text, words) in [
            (
                "-A WM-FW -s 10.1.0.0/16 -p tcp -m tcp --dport 80 -j DROP",
                "drops tcp dport 80 from 10.1.0.0/16",
            ),
            ("-A WM-FW -d 10.244.2.10/32 -j DROP", "drops to 10.244.2.10"),
            (
                "-A WM-FW ! -i eth0 -m conntrack --ctstate INVALID -j DROP",
                "drops not in by eth0 in state INVALID",
            ),
            ("-A WM-FW -j REJECT --reject-with icmp-port-unreachable", "rejects everything"),
            (
                "-A WM-FW -d 10.96.0.10/32 -p tcp -m comment --comment \"shop/pay has no endpoints\" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable",
                "rejects tcp dport 80 to 10.96.0.10 (\"shop/pay has no endpoints\")",
            ),
            ("-A WM-FW -p udp -m multiport --dports 53,5353 -j DROP", "drops udp dport 53,5353"),
            (
                "-A WM-FW -p tcp -m tcp --dport 80 -m statistic --mode random --probability 0.39999999991 -j DROP",
                "drops tcp dport 80 at random, 40 % of them",
            ),
            ("-A WM-FW -m set --match-set deny src -j DROP", "drops from set deny"),
            (
                "ip saddr 10.1.0.0/16 tcp dport 80 counter packets 3 bytes 180 drop",
                "drops tcp dport 80 from 10.1.0.0/16",
            ),
            ("ip daddr { 10.0.0.1, 10.0.0.2 } drop", "drops to 10.0.0.1, 10.0.0.2"),
            (
                "iifname != eth0 ct state invalid drop comment \"no state\"",
                "drops not in by eth0 in state invalid (\"no state\")",
            ),
            ("meta l4proto icmp reject with icmp type port-unreachable", "rejects icmp"),
            ("counter drop", "drops everything"),
        ] {
            assert_eq!(sentence(&rule(text)), *format!("{} {words}", named(text)), "{text}");
        }
    }

    #[test]
    fn other_rules_are_quoted() {
        for text in [
            "-A WM-FW -m limit --limit 5/min -j DROP",
            "-A WM-FW -p tcp -m tcp --tcp-flags SYN,ACK SYN -j DROP",
            "-A WM-FW ! -p tcp -j DROP",
            "-A WM-FW -m statistic --mode nth --every 2 --packet 0 -j DROP",
            "-A WM-FW -s 10.0.0.0/8 -j KUBE-DROP",
            "-A WM-FW -m comment --comment \"open",
            "-A WM-FW -s",
            "tcp dport > 1024 drop",
            "limit rate over 5/second drop",
            "ip saddr",
            "numgen random mod 2 vmap { 0 : drop }",
            "ip saddr 10.0.0.1 accept",
        ] {
            assert_eq!(sentence(&rule(text)), *format!("{} does it: {text}", named(text)));
        }
        let long = format!("xt match {}", "a".repeat(999));
        assert!(sentence(&rule(&long)).chars().count() < MOST + 50);
    }

    #[test]
    fn a_rule_is_named_as_its_tool_counts() {
        let policy = RuleRef { handle: None, position: None, text: None, ..rule("") };
        assert_eq!(sentence(&policy), "the policy of chain WM-FW drops what no rule of it accepts");
        let of_nft = RuleRef { family: "inet".into(), table: "fw".into(), position: None, ..rule("drop") };
        assert_eq!(
            sentence(&of_nft),
            "the rule with handle 26 of chain WM-FW in table inet fw drops everything"
        );
        assert_eq!(
            sentence(&RuleRef { text: None, ..of_nft }),
            "the rule with handle 26 of chain WM-FW in table inet fw does it"
        );
    }
}
