//! What `nft monitor` prints.

use std::collections::BTreeMap;

use waymark_prober::nftrace::TABLE_PREFIX;
use waymark_proto::Hook;
use waymark_proto::marker::MAGIC;

use super::{Headers, Passage, Rule, Traced};
use crate::wire::Identity;

/// What a packet was last seen with, and the passage that it is on.
#[derive(Default)]
struct Known {
    headers: Option<Headers>,
    tag: Option<Identity>,
    passage: Option<usize>,
}

/// Reads what nft printed in a namespace.
pub fn parse(netns: &str, lines: &[String]) -> Traced {
    let mut traced = Traced::default();
    let mut packets: BTreeMap<&str, Known> = BTreeMap::new();
    for line in lines {
        if let Some(rest) = line.strip_prefix("trace id ") {
            let (id, rest) = rest.split_once(' ').expect("nft tells the packet's number and more");
            event(netns, packets.entry(id).or_default(), rest, &mut traced);
        } else if let Some((set, value)) = element(line) {
            match set {
                "sequences" => traced.isns.push(value as u32),
                "tags" => traced.checks.push(value as u32),
                _ => {}
            }
        }
    }
    traced
}

/// Set and value of an element that was added to one of Waymark's sets.
fn element(line: &str) -> Option<(&str, u64)> {
    let (before, rest) = line.split_once('{')?;
    let mut words = before.split_whitespace().rev();
    let (set, table) = (words.next()?, words.next()?);
    if !before.contains(" element ") || !table.starts_with(TABLE_PREFIX) {
        return None;
    }
    Some((set, number(rest.trim_end_matches('}').trim())?))
}

fn number(text: &str) -> Option<u64> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok())
}

/// `FAMILY TABLE CHAIN` and then `packet: …`, `rule … (verdict …)`, `unknown rule handle N (verdict …)`, `policy …` or
/// `verdict …`.
fn event(netns: &str, packet: &mut Known, line: &str, traced: &mut Traced) {
    let mut words = line.splitn(4, ' ');
    let mut word = || words.next().unwrap_or_default();
    let (family, table, chain, what) = (word(), word(), word(), word());
    if let Some(text) = what.strip_prefix("packet: ") {
        // Not every chain's family tells all of them.
        packet.headers = headers(text).or(packet.headers.take());
        packet.tag = tag(text).or(packet.tag);
        return;
    }
    let (handle, verdict) = if let Some(policy) = what.strip_prefix("policy ") {
        // The packet's mark may follow.
        (None, policy.split(' ').next().unwrap_or_default())
    } else {
        let Some((rule, verdict)) = what.rsplit_once("(verdict ") else { return };
        let handle =
            rule.trim_end().rsplit_once("handle ").and_then(|(_, handle)| handle.trim().parse().ok());
        (handle, verdict.trim_end().trim_end_matches(')'))
    };
    if table.starts_with(TABLE_PREFIX) {
        // In bridges it only sets the trace bit.
        if family == "bridge" {
            return;
        }
        bracket(netns, packet, [table, chain], verdict, traced);
        return;
    }
    let rule = Rule { family: family.into(), table: table.into(), chain: chain.into(), handle };
    let verdict = (rule, verdict.to_owned());
    match family {
        "bridge" | "netdev" if ends(&verdict.1) => traced.ends.push((netns.to_owned(), verdict)),
        "bridge" | "netdev" => {}
        _ if decides(&verdict.1) => {
            let Some(number) = packet.passage else { return };
            let passage = &traced.passages[number];
            if passage.left.is_some() {
                let entered = packet.headers.clone().unwrap_or_else(|| passage.entered.clone());
                let stray =
                    Passage { entered, left: None, stray: true, verdicts: Vec::new(), ..passage.clone() };
                packet.passage = Some(traced.passages.len());
                traced.passages.push(stray);
            }
            traced.passages[packet.passage.unwrap_or(number)].verdicts.push(verdict);
        }
        _ => {}
    }
}

/// A packet in the first or the last chain of a hook.
fn bracket(netns: &str, packet: &mut Known, [table, chain]: [&str; 2], verdict: &str, traced: &mut Traced) {
    let Some((hook, end)) = chain.rsplit_once('-') else { return };
    let hook = Hook::ALL.iter().find(|known| known.name() == format!("netfilter-{hook}"));
    let (Some(&hook), Some(headers), "accept") = (hook, &packet.headers, verdict) else { return };
    // Marked packets leave the first chain in one that it leads to.
    if matches!(end, "first" | "likely") {
        packet.passage = Some(traced.passages.len());
        traced.passages.push(Passage {
            netns: netns.to_owned(),
            table: table.to_owned(),
            hook,
            entered: headers.clone(),
            left: None,
            stray: false,
            tag: packet.tag,
            verdicts: Vec::new(),
        });
    } else if let Some(passage) = packet.passage {
        traced.passages[passage].left = Some(headers.clone());
    }
}

/// Whether a verdict is no mere step from rule to rule.
pub fn decides(verdict: &str) -> bool {
    !matches!(verdict.split(' ').next(), Some("continue" | "break" | "jump" | "goto" | "return"))
}

/// Whether a packet goes no further in the chain's hook.
pub fn ends(verdict: &str) -> bool {
    matches!(verdict, "drop" | "queue" | "stolen")
}

fn headers(text: &str) -> Option<Headers> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let value = |name: [&str; 2]| words.windows(3).find(|three| three[..2] == name).map(|three| three[2]);
    let address = |side| value(["ip", side]).or_else(|| value(["ip6", side]))?.parse().ok();
    let (src, dst) = (address("saddr")?, address("daddr")?);
    let port = |protocol, side| value([protocol, side]).and_then(|port| port.parse::<u16>().ok());
    let ports = |protocol| port(protocol, "sport").zip(port(protocol, "dport"));
    if ports("udp").is_some() && tag(text).is_none() {
        return Some(Headers::Tunnel((src, dst, port("ip", "id").unwrap_or_default())));
    }
    let (number, (source, destination)) = ports("tcp")
        .map(|ports| (6, ports))
        .or_else(|| ports("udp").map(|ports| (17, ports)))
        .or_else(|| echo(value).map(|id| (1, (id, id))))?;
    Some(Headers::Plain((src, dst, number, source, destination)))
}

/// Magic, check and number, the 96 bits behind a header of eight bytes.
fn tag(text: &str) -> Option<Identity> {
    let (_, bits) = text.split_once("@th,64,96 0x")?;
    let bits = u128::from_str_radix(bits.split_whitespace().next()?, 16).ok()?;
    (bits >> 64 == u128::from(MAGIC)).then_some(Identity::Tag((bits >> 32) as u32, bits as u32))
}

/// The identifier of an echo. Versions of nft differ in how they print that of IPv6.
fn echo<'a>(value: impl Fn([&'a str; 2]) -> Option<&'a str>) -> Option<u16> {
    let id = ["icmp", "icmpv6"].into_iter().find_map(|name| value([name, "id"])?.parse().ok());
    id.or_else(|| Some((value(["icmpv6", "parameter-problem"])?.parse::<u32>().ok()? >> 16) as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = "\
create table inet waymark_7_0 # handle 6
create element inet waymark_7_0 sequences { 2083422790 }
create element inet waymark_7_0 tags { 6287404742626387243 }
trace id aa inet waymark_7_0 forward-likely packet: iif \"flannel.1\" oif \"cni0\" ip saddr 10.244.1.10 ip daddr 10.244.2.10 ip ttl 62 ip id 0 ip protocol 6 ip length 1450 tcp sport 47163 tcp dport 80 tcp flags == 0x2 
trace id aa inet waymark_7_0 forward-likely unknown rule handle 34 (verdict accept)
trace id aa ip filter FORWARD rule ct state new  counter packets 0 bytes 0 jump KUBE-FORWARD # handle 8 (verdict jump KUBE-FORWARD)
trace id aa ip filter FORWARD rule ip daddr 10.244.2.10 counter packets 0 bytes 0 drop # handle 26 (verdict drop)
trace id bb inet waymark_7_0 input-first packet: iif \"eth0\" ip saddr 172.18.0.11 ip daddr 172.18.0.12 ip id 33228 udp sport 52444 udp dport 8472 udp length 1480
trace id bb inet waymark_7_0 input-first unknown rule handle 25 (verdict accept)
trace id bb ip filter INPUT policy accept 
trace id bb inet waymark_7_0 input-last packet: iif \"eth0\" ip saddr 172.18.0.11 ip daddr 172.18.0.12 ip id 33228 udp sport 52444 udp dport 8472 udp length 1480
trace id bb inet waymark_7_0 input-last policy accept meta mark 0x00004000 
trace id bb bridge filter FORWARD rule drop # handle 3 (verdict drop)";

    #[test]
    fn what_nft_prints_is_read() {
        let lines: Vec<String> = TOLD.lines().map(str::to_owned).collect();
        let traced = parse("n", &lines);
        assert_eq!((traced.isns, traced.checks), (vec![2_083_422_790], vec![0x235a_252b]));
        let rule = |chain: &str, handle| Rule {
            family: "ip".into(),
            table: "filter".into(),
            chain: chain.into(),
            handle,
        };
        let [forward, input] = &traced.passages[..] else { panic!("{:?}", traced.passages) };
        assert_eq!((forward.hook, &forward.left), (Hook::NetfilterForward, &None));
        assert_eq!(forward.verdicts, [(rule("FORWARD", Some(26)), "drop".to_owned())]);
        let flow = ([10, 244, 1, 10].into(), [10, 244, 2, 10].into(), 6, 47163, 80);
        assert_eq!(forward.entered, Headers::Plain(flow));
        let tunnel = Headers::Tunnel(([172, 18, 0, 11].into(), [172, 18, 0, 12].into(), 33228));
        assert_eq!((&input.entered, &input.left), (&tunnel, &Some(tunnel.clone())));
        assert_eq!(input.verdicts, [(rule("INPUT", None), "accept".to_owned())]);
        let bridged = Rule { family: "bridge".into(), ..rule("FORWARD", Some(3)) };
        assert_eq!(traced.ends, [("n".to_owned(), (bridged, "drop".to_owned()))]);
    }

    #[test]
    fn echoes_of_both_families_have_identifiers() {
        let four = "ip saddr 1.1.1.1 ip daddr 1.1.1.2 icmp type 8 icmp code 0 icmp id 55363 icmp sequence 0";
        let six =
            "ip6 saddr ::1 ip6 daddr ::2 icmpv6 type 128 icmpv6 code 0 icmpv6 parameter-problem 2284322816";
        let id = |text| match headers(text) {
            Some(Headers::Plain((.., id, _))) => id,
            other => panic!("{other:?}"),
        };
        assert_eq!([id(four), id(six)], [55363, 0x8828]);
    }
}
