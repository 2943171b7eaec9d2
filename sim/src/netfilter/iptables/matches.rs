//! Matches of iptables rules.

use std::net::IpAddr;

use ipnet::IpNet;
use waymark_proto::text;

use super::super::rule::{Bitwise, Direction, Expr, Field, Lookup, Op, Statement, Test};
use super::super::symbols;
use super::super::value::{Elements, Pattern, Value};
use super::options::Opt;

/// How likely a list of `-m recent` holds an address: nobody knows.
const LISTED: f64 = 0.5;

/// Compiles the options before the target. What it does not know becomes a test that cannot be decided.
pub(super) fn compile(options: &[Opt], ipv6: bool) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut module = "";
    for opt in options {
        if matches!(opt.name.as_str(), "-m" | "--match") {
            module = opt.arg();
            statements.extend(bare_module(module, options, ipv6));
            continue;
        }
        let unknown = || {
            let why = text!(model::NotModelled { what: opt.text() });
            vec![Statement::Test(Test::Unknown(why))]
        };
        statements.extend(one(opt, module, options, ipv6).unwrap_or_else(unknown));
    }
    statements
}

/// Modules that match by their mere name, or cannot be modelled at all.
fn bare_module(module: &str, options: &[Opt], ipv6: bool) -> Vec<Statement> {
    match module {
        "socket" | "cgroup" | "bpf" | "string" | "u32" | "time" | "quota" | "connlimit" | "connbytes"
        | "policy" | "realm" | "ipvs" | "osf" | "cpu" | "helper" | "mac" | "ecn" | "tcpmss" => {
            vec![Statement::Test(Test::Unknown(text!(model::NotModelled { what: format!("-m {module}") })))]
        }
        "rpfilter" => {
            let option = |name: &str| options.iter().any(|opt| opt.name == name);
            if option("--loose") || option("--accept-local") || option("--validmark") || ipv6 {
                return vec![Statement::Test(Test::Unknown(text!(model::MatchWithOptions {
                    module: "-m rpfilter"
                })))];
            }
            let valid = Pattern::Is(Value::Number(1));
            vec![Statement::Test(Test::field(Field::ReverseRoute, vec![valid], option("--invert")))]
        }
        _ => Vec::new(),
    }
}

fn one(opt: &Opt, module: &str, options: &[Opt], ipv6: bool) -> Option<Vec<Statement>> {
    let arg = opt.arg();
    let test = |field: Field, patterns: Vec<Pattern>| {
        Some(vec![Statement::Test(Test::field(field, patterns, opt.negated))])
    };
    let nothing = Some(Vec::new());
    match opt.name.as_str() {
        "-s" | "--source" => test(Field::Source(None), addresses(arg)?),
        "-d" | "--destination" => test(Field::Destination(None), addresses(arg)?),
        "--src-range" => test(Field::Source(None), vec![address_range(arg)?]),
        "--dst-range" => test(Field::Destination(None), vec![address_range(arg)?]),
        "-i" | "--in-interface" => test(Field::InName, vec![device(arg)]),
        "-o" | "--out-interface" => test(Field::OutName, vec![device(arg)]),
        "--physdev-in" => test(Field::PhysIn, vec![device(arg)]),
        "--physdev-out" => test(Field::PhysOut, vec![device(arg)]),
        "--physdev-is-in" => Some(vec![present(Field::PhysIn, opt.negated)]),
        "--physdev-is-out" => Some(vec![present(Field::PhysOut, opt.negated)]),
        "--physdev-is-bridged" => test(Field::PhysBridged, vec![Pattern::Is(Value::Number(1))]),
        "-p" | "--protocol" if arg == "all" => nothing,
        "-p" | "--protocol" | "--ctproto" => test(Field::L4Protocol, vec![is(symbols::protocol(arg)?)]),
        "--sport" | "--source-port" | "--sports" | "--source-ports" => {
            test(Field::SourcePort(None), ports(arg)?)
        }
        "--dport" | "--destination-port" | "--dports" | "--destination-ports" => {
            test(Field::DestinationPort(None), ports(arg)?)
        }
        "--icmp-type" | "--icmpv6-type" => icmp(arg, opt.negated, ipv6),
        "--syn" => Some(vec![tcp_flags(0b1_0111, 2, opt.negated)]),
        "--tcp-flags" => {
            let [mask, wanted] = opt.args.as_slice() else { return None };
            Some(vec![tcp_flags(
                bits_of(mask, symbols::tcp_flag)?,
                bits_of(wanted, symbols::tcp_flag)?,
                opt.negated,
            )])
        }
        "--ctstate" | "--state" => {
            let bits = bits_of(arg, symbols::conn_state)?;
            Some(vec![any_bit(Field::ConnStateAndNat, bits, opt.negated)])
        }
        "--ctstatus" => {
            let bit = |name: &str| symbols::conn_status(&name.replace('_', "-"));
            let bits = bits_of(arg, bit)?;
            Some(vec![any_bit(Field::ConnStatus, bits, opt.negated)])
        }
        "--ctdir" => test(Field::ConnDirection, vec![is(u64::from(arg.eq_ignore_ascii_case("reply")))]),
        "--ctorigsrc" | "--ctorigdst" | "--ctreplsrc" | "--ctrepldst" => test(
            Field::ConnAddress { reply: arg_reply(opt), destination: arg_destination(opt) },
            addresses(arg)?,
        ),
        "--ctorigsrcport" | "--ctorigdstport" | "--ctreplsrcport" | "--ctrepldstport" => {
            test(Field::ConnPort { reply: arg_reply(opt), destination: arg_destination(opt) }, ports(arg)?)
        }
        "--mark" => {
            marked(arg, if module == "connmark" { Field::ConnMark } else { Field::Mark }, opt.negated)
        }
        "--src-type" | "--dst-type" => {
            if options.iter().any(|opt| opt.name.starts_with("--limit-iface")) {
                return None;
            }
            let types = arg.split(',').map(symbols::address_type).collect::<Option<Vec<_>>>()?;
            let destination = opt.name == "--dst-type";
            if ipv6 {
                let negated = opt.negated;
                return Some(vec![Statement::Test(Test::AddressType6 { destination, types, negated })]);
            }
            test(Field::AddressType { destination }, types.into_iter().map(is).collect())
        }
        "--probability" => {
            let probability: f64 = arg.parse().ok().filter(|p| (0.0..=1.0).contains(p))?;
            let probability = if opt.negated { 1.0 - probability } else { probability };
            Some(vec![Statement::Test(Test::Random(probability))])
        }
        "--every" => {
            let every: u32 = arg.parse().ok().filter(|every| *every > 0)?;
            let share = 1.0 / f64::from(every);
            Some(vec![Statement::Test(Test::Random(if opt.negated { 1.0 - share } else { share }))])
        }
        // The list is the kernel's own: whom it holds the facts do not say. To be entered in it always works.
        "--rcheck" | "--update" | "--remove" if module == "recent" => {
            let counts = options.iter().any(|opt| opt.name == "--hitcount");
            (!counts).then(|| vec![Statement::Test(Test::Random(LISTED))])
        }
        "--set" if module == "recent" => Some(if opt.negated { vec![never()] } else { Vec::new() }),
        "--seconds" | "--reap" | "--rttl" | "--name" | "--mask" | "--rsource" | "--rdest" | "--hitcount"
            if module == "recent" =>
        {
            nothing
        }
        "--match-set" => ipset(opt, options),
        "--pkt-type" => test(Field::PacketType, vec![is(symbols::packet_type(arg)?)]),
        "-f" | "--fragment" if opt.negated => nothing,
        "-f" | "--fragment" => Some(vec![never()]),
        "--ttl-eq" | "--hl-eq" => test(Field::Ttl(ipv6), vec![is(symbols::number(arg)?)]),
        "--ttl-lt" | "--hl-lt" => {
            Some(vec![compare(Expr::Field(Field::Ttl(ipv6)), Op::Less, symbols::number(arg)?)])
        }
        "--ttl-gt" | "--hl-gt" => {
            Some(vec![compare(Expr::Field(Field::Ttl(ipv6)), Op::Greater, symbols::number(arg)?)])
        }
        "--length" => test(Field::Length, ports(arg)?),
        "--dscp" => test(Field::Dscp(None), vec![is(symbols::number(arg)?)]),
        "--tos" => {
            let (value, mask) = arg.split_once('/').unwrap_or((arg, "0xff"));
            let shifted = Expr::Binary(
                Bitwise::ShiftLeft,
                Box::new(Expr::Field(Field::Dscp(None))),
                Box::new(Expr::Const(Value::Number(2))),
            );
            let mask = Box::new(Expr::Const(Value::Number(symbols::number(mask)?)));
            let op = if opt.negated { Op::NotEqual } else { Op::Equal };
            Some(vec![compare(
                Expr::Binary(Bitwise::And, Box::new(shifted), mask),
                op,
                symbols::number(value)?,
            )])
        }
        // A single packet stays below any rate that lets something through.
        "--limit" | "--hashlimit" | "--hashlimit-upto" if !opt.negated => {
            Some(vec![Statement::Note(text!(model::WithinLimit { limit: opt.text() }))])
        }
        "--hashlimit-above" if !opt.negated => Some(vec![never()]),
        "--limit-burst" | "--comment" | "--invert" | "--nfacct-name" | "--mode" | "--packet"
        | "--limit-iface-in" | "--limit-iface-out" | "-c" | "--set-counters" => nothing,
        name if name.starts_with("--hashlimit-") => nothing,
        "-4" | "--ipv4" if !ipv6 => nothing,
        "-6" | "--ipv6" if ipv6 => nothing,
        // Modules of which every option is covered by one undecidable test.
        _ if !bare_module(module, &[], ipv6).is_empty() => nothing,
        _ => None,
    }
}

fn is(number: u64) -> Pattern {
    Pattern::Is(Value::Number(number))
}

fn never() -> Statement {
    Statement::Test(Test::field(Field::Family, Vec::new(), false))
}

fn arg_reply(opt: &Opt) -> bool {
    opt.name.contains("repl")
}

fn arg_destination(opt: &Opt) -> bool {
    opt.name.contains("dst")
}

/// `10.0.0.0/8`, `10.0.0.0/255.0.0.0`, a bare address; a comma separates alternatives.
fn addresses(text: &str) -> Option<Vec<Pattern>> {
    let one = |text: &str| {
        if let Ok(net) = text.parse::<IpNet>() {
            return Some(Pattern::net(net));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Some(Pattern::Is(Value::Ip(ip)));
        }
        let (address, mask) = text.split_once('/')?;
        let net = IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()?;
        Some(Pattern::net(net))
    };
    text.split(',').map(one).collect()
}

fn address_range(text: &str) -> Option<Pattern> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    Some(Pattern::Range(Value::Ip(low.parse().ok()?), Value::Ip(high.parse().ok()?)))
}

fn device(name: &str) -> Pattern {
    match name.strip_suffix('+') {
        Some("") => Pattern::Any,
        Some(start) => Pattern::StartsWith(start.to_owned()),
        None => Pattern::Is(Value::text(name)),
    }
}

fn present(field: Field, negated: bool) -> Statement {
    Statement::Test(Test::field(field, vec![Pattern::Is(Value::text(""))], !negated))
}

/// `80`, `1000:2000`, `:1023`, `1024:`; a comma separates alternatives.
fn ports(text: &str) -> Option<Vec<Pattern>> {
    let one = |text: &str| {
        let Some((low, high)) = text.split_once(':') else { return symbols::port(text).map(is) };
        let low = if low.is_empty() { 0 } else { symbols::port(low)? };
        let high = if high.is_empty() { 0xffff } else { symbols::port(high)? };
        Some(Pattern::Range(Value::Number(low), Value::Number(high)))
    };
    text.split(',').map(one).collect()
}

fn icmp(text: &str, negated: bool, ipv6: bool) -> Option<Vec<Statement>> {
    if text == "any" {
        return Some(Vec::new());
    }
    let (kind, code) = symbols::icmp_type(text, ipv6)?;
    let kind = Test::field(Field::IcmpType(ipv6), vec![is(kind)], negated);
    match code {
        None => Some(vec![Statement::Test(kind)]),
        // Not both type and code: that is no conjunction of two tests.
        Some(_) if negated => None,
        Some(code) => {
            let code = Test::field(Field::IcmpCode(ipv6), vec![is(code)], false);
            Some(vec![Statement::Test(kind), Statement::Test(code)])
        }
    }
}

fn bits_of(text: &str, bit: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    text.split(',').map(bit).try_fold(0, |bits, bit| Some(bits | bit?))
}

fn compare(left: Expr, op: Op, right: u64) -> Statement {
    let mut elements = Elements::new();
    elements.insert(vec![is(right)], ());
    Statement::Test(Test::Compare { left, op, right: Lookup::Inline(elements) })
}

fn and(field: Field, mask: u64) -> Expr {
    let mask = Box::new(Expr::Const(Value::Number(mask)));
    Expr::Binary(Bitwise::And, Box::new(Expr::Field(field)), mask)
}

fn tcp_flags(mask: u64, wanted: u64, negated: bool) -> Statement {
    compare(and(Field::TcpFlags, mask), if negated { Op::NotEqual } else { Op::Equal }, wanted)
}

fn any_bit(field: Field, bits: u64, negated: bool) -> Statement {
    if negated { compare(and(field, bits), Op::Equal, 0) } else { compare(Expr::Field(field), Op::Any, bits) }
}

fn marked(text: &str, field: Field, negated: bool) -> Option<Vec<Statement>> {
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    let op = if negated { Op::NotEqual } else { Op::Equal };
    Some(vec![compare(and(field, symbols::number(mask)?), op, symbols::number(value)?)])
}

fn ipset(opt: &Opt, options: &[Opt]) -> Option<Vec<Statement>> {
    let [name, directions] = opt.args.as_slice() else { return None };
    let modifiers = ["--return-nomatch", "--packets-", "--bytes-"];
    if options.iter().any(|opt| modifiers.iter().any(|modifier| opt.name.starts_with(modifier))) {
        return None;
    }
    let direction = |word: &str| match word {
        "src" => Some(Direction::Source),
        "dst" => Some(Direction::Destination),
        _ => None,
    };
    let fields = directions.split(',').map(direction).collect::<Option<Vec<_>>>()?;
    Some(vec![Statement::Test(Test::IpSet { name: name.clone(), fields, negated: opt.negated })])
}
