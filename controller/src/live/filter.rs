//! Filters of pcap, compiled to what agents take.

use std::net::IpAddr;
use std::str::FromStr;

use pcap::{Capture, Linktype};
use waymark_proto::{FilterInstruction, short};

/// Packets begin with their IP header (`LINKTYPE_RAW`): what is around it differs from device to device. Its number differs
/// from system to system.
const RAW: &str = "RAW";

/// Longest filter, in bytes. Compiling takes longer than the text grows.
const MAX_TEXT: usize = 4096;

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Without one all traffic would be meant.
    #[error("a filter is needed, as tcpdump takes it: 'tcp port 80 and host 10.244.1.5'")]
    Empty,
    /// It is too long.
    #[error("a filter has at most {MAX_TEXT} bytes; this one has {0}")]
    Long(usize),
    /// It has a name that would have to be looked up, by the controller and for anybody.
    #[error(
        "{:?} of the filter is not taken here: filters are of packets from their IP header on, and names are not looked up, write addresses and numbers",
        short(word)
    )]
    Name {
        /// The word.
        word: String,
    },
    /// libpcap does not take it.
    #[error("{:?} is not a filter of pcap for packets that begin with their IP header: {why}", short(filter))]
    Refused {
        /// The text.
        filter: String,
        /// What libpcap says.
        why: String,
    },
}

/// Compiles a filter, as `tcpdump` takes it.
pub fn compile(filter: &str) -> Result<Vec<FilterInstruction>, FilterError> {
    if filter.trim().is_empty() {
        return Err(FilterError::Empty);
    }
    if filter.len() > MAX_TEXT {
        return Err(FilterError::Long(filter.len()));
    }
    let refused = |why: String| FilterError::Refused { filter: filter.to_owned(), why };
    // The library hands the text on as one of C, and panics if that has an end within.
    if filter.contains('\0') {
        return Err(refused("it has a zero byte".to_owned()));
    }
    if let Some(word) = words(filter).find(|word| !is_known(word)) {
        return Err(FilterError::Name { word: word.to_owned() });
    }
    let program = Linktype::from_name(RAW)
        .and_then(Capture::dead)
        .and_then(|capture| capture.compile(filter, true))
        .map_err(|error| match error {
            pcap::Error::PcapError(why) => refused(why),
            other => refused(other.to_string()),
        })?;
    // The library shows an instruction as text alone.
    let instructions = program.get_instructions().iter().map(|shown| parse(&shown.to_string()));
    instructions.collect::<Option<_>>().ok_or_else(|| refused("it is shown as no program".to_owned()))
}

/// What a filter says beside signs.
fn words(filter: &str) -> impl Iterator<Item = &str> {
    let is_sign = |c: char| c.is_whitespace() || "()[]<>=!&|+*/%^".contains(c);
    // A hyphen within a word is a part of it.
    filter.split(is_sign).map(|word| word.trim_matches('-')).filter(|word| !word.is_empty())
}

/// Words of pcap-filter(7) for packets that begin with their IP header, and names of what can be in such a packet.
const WORDS: &[&str] = &[
    "ah",
    "and",
    "broadcast",
    "dst",
    "esp",
    "greater",
    "host",
    "icmp",
    "icmp6",
    "icmp6code",
    "icmp6type",
    "icmpcode",
    "icmptype",
    "igmp",
    "igrp",
    "ip",
    "ip6",
    "len",
    "less",
    "mask",
    "multicast",
    "net",
    "not",
    "or",
    "pim",
    "port",
    "portrange",
    "proto",
    "protochain",
    "sctp",
    "src",
    "tcp",
    "tcpflags",
    "udp",
    "vrrp",
];

/// Whether a word is one of pcap's, a number, two of them (`50-100`, as in `ip[6:2]`), or an address. Fields have names with hyphens: `tcp-syn`.
fn is_known(word: &str) -> bool {
    let is_number = |text: &str| {
        let hexadecimal =
            text.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        hexadecimal || text.bytes().all(|b| b.is_ascii_digit())
    };
    // An address may be cut short: `net 10.1`.
    let is_address = word.parse::<IpAddr>().is_ok() || word.split('.').all(is_number);
    let is_field = ["tcp-", "icmp-", "icmp6-"].iter().any(|begin| word.starts_with(begin));
    is_address || word.split(['-', ':']).all(is_number) || is_field || WORDS.contains(&word)
}

fn parse(text: &str) -> Option<FilterInstruction> {
    fn next<'a, T: FromStr>(numbers: &mut impl Iterator<Item = &'a str>) -> Option<T> {
        numbers.next()?.parse().ok()
    }
    let mut numbers = text.split_whitespace();
    let (code, jt, jf) = (next(&mut numbers)?, next(&mut numbers)?, next(&mut numbers)?);
    Some(FilterInstruction { code, jt, jf, k: next(&mut numbers)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_compiled() {
        let all = FilterInstruction { code: 0x06, jt: 0, jf: 0, k: 65535 };
        assert!(compile("ip or ip6").unwrap().len() > 3);
        let port = compile("tcp port 80 and host 10.244.1.5").unwrap();
        assert_eq!(port.last().map(|last| last.code), Some(all.code), "{port:?}");
        assert!(port.iter().any(|instruction| instruction.k == 80));
    }

    #[test]
    fn what_is_no_filter_is_told_in_one_line() {
        for (filter, word) in [
            ("", "needed"),
            ("  ", "needed"),
            ("tcp prt 80", "\"prt\" of the filter is not taken"),
            ("tcp tcp 80", "syntax error"),
            ("port 99999", "99999"),
            ("host a.example", "names are not looked up"),
            ("host 1.example", "names are not looked up"),
            ("port http", "write addresses and numbers"),
            ("ether host 02:00:00:00:00:01", "is not taken here"),
            ("host \0", "zero byte"),
            ("vlan 5", "is not taken here"),
            (&"host 10.0.0.1 or ".repeat(1000), "at most"),
        ] {
            let error = compile(filter).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{filter:?}: {error}");
            assert!(error.len() < 400, "{error}");
        }
    }
}
