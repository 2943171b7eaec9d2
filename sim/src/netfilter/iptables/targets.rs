//! Targets of iptables rules.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use waymark_proto::text;

use super::super::rule::{Bitwise, ChainId, Expr, Field, Lookup, Nat, NatKind, Statement, Verdict};
use super::super::symbols;
use super::super::value::{Elements, Pattern, Value};
use super::options::Opt;

/// Compiles `-j TARGET` with its arguments.
pub(super) fn compile(jump: &Opt, arguments: &[Opt], chains: &BTreeMap<String, ChainId>) -> Vec<Statement> {
    let name = jump.arg();
    if let Some(&chain) = chains.get(name) {
        let goes = matches!(jump.name.as_str(), "-g" | "--goto");
        return vec![Statement::Verdict(if goes { Verdict::Goto(chain) } else { Verdict::Jump(chain) })];
    }
    let verdict = |verdict| vec![Statement::Verdict(verdict)];
    match name {
        "ACCEPT" => verdict(Verdict::Accept),
        "DROP" => verdict(Verdict::Drop),
        "REJECT" => verdict(Verdict::Reject),
        "RETURN" => verdict(Verdict::Return),
        "MARK" => marks(arguments, &Field::Mark, Statement::SetMark),
        "CONNMARK" => {
            let statements = conn_marks(arguments).into_iter();
            statements.map(|statement| Statement::IfTracked(Box::new(statement))).collect()
        }
        "DSCP" => code_point(arguments),
        "TOS" => type_of_service(arguments),
        "TTL" | "HL" => time_to_live(arguments),
        "DNAT" => nat(NatKind::Destination, argument(arguments, "--to-destination")),
        "SNAT" => nat(NatKind::Source, argument(arguments, "--to-source")),
        "MASQUERADE" => nat(NatKind::Masquerade, None),
        "REDIRECT" => redirect(argument(arguments, "--to-ports")),
        "NOTRACK" => vec![Statement::Notrack],
        "CT" => ct(arguments),
        // These leave the packet's way as it is.
        "LOG" | "NFLOG" | "ULOG" | "TRACE" | "AUDIT" | "TCPMSS" | "CHECKSUM" | "CLASSIFY" | "SET" | "TEE"
        | "SECMARK" | "CONNSECMARK" | "IDLETIMER" | "RATEEST" | "TCPOPTSTRIP" | "LED" | "HMARK" | "" => {
            Vec::new()
        }
        other => vec![Statement::Unknown(text!(model::Target { target: other }))],
    }
}

fn argument<'a>(arguments: &'a [Opt], name: &str) -> Option<&'a str> {
    arguments.iter().find(|opt| opt.name == name).map(Opt::arg)
}

fn unknown(opt: &Opt) -> Vec<Statement> {
    vec![Statement::Unknown(text!(model::NotModelled { what: opt.text() }))]
}

fn number(value: u64) -> Expr {
    Expr::Const(Value::Number(value))
}

fn binary(op: Bitwise, left: Expr, right: Expr) -> Expr {
    Expr::Binary(op, Box::new(left), Box::new(right))
}

/// `(field & !clear) ^ flip`, which is what all forms of MARK come down to.
fn rewrite(field: &Field, clear: u64, flip: u64) -> Expr {
    let kept = binary(Bitwise::And, Expr::Field(field.clone()), number(!clear & 0xffff_ffff));
    binary(Bitwise::Xor, kept, number(flip))
}

fn value_mask(text: &str) -> Option<(u64, u64)> {
    match text.split_once('/') {
        Some((value, mask)) => Some((symbols::number(value)?, symbols::number(mask)?)),
        None => Some((symbols::number(text)?, 0xffff_ffff)),
    }
}

fn marks(arguments: &[Opt], field: &Field, set: fn(Expr) -> Statement) -> Vec<Statement> {
    let mut statements = Vec::new();
    for opt in arguments {
        let Some((value, mask)) = value_mask(opt.arg()) else { return unknown(opt) };
        // xt_mark: mark = (mark & ~mask) ^ value; `--set-mark` clears the value's own bits too.
        statements.push(set(match opt.name.as_str() {
            "--set-xmark" => rewrite(field, mask, value),
            "--set-mark" => rewrite(field, mask | value, value),
            "--and-mark" => rewrite(field, !value & 0xffff_ffff, 0),
            "--or-mark" => rewrite(field, value, value),
            "--xor-mark" => rewrite(field, 0, value),
            _ => return unknown(opt),
        }));
    }
    statements
}

fn code_point(arguments: &[Opt]) -> Vec<Statement> {
    let one = |opt: &Opt| {
        let value = symbols::number(opt.arg()).filter(|_| opt.name == "--set-dscp");
        value.map_or_else(|| unknown(opt), |value| vec![Statement::SetDscp(None, number(value))])
    };
    arguments.iter().flat_map(one).collect()
}

/// `tos = (tos & ~mask) ^ value` (`tos_tg`), of whose lower two bits, which are those of congestion, no hook asks.
fn type_of_service(arguments: &[Opt]) -> Vec<Statement> {
    let one = |opt: &Opt| match value_mask(opt.arg()).filter(|_| opt.name == "--set-tos") {
        Some((value, mask)) => {
            let value = rewrite(&Field::Dscp(None), (mask & 0xff) >> 2, (value & 0xff) >> 2);
            vec![Statement::SetDscp(None, value)]
        }
        None => unknown(opt),
    };
    arguments.iter().flat_map(one).collect()
}

fn time_to_live(arguments: &[Opt]) -> Vec<Statement> {
    let one = |opt: &Opt| {
        let amount = opt.arg().parse::<u8>().ok();
        let (Some(amount), Some((_, verb))) = (amount, opt.name.rsplit_once('-')) else {
            return unknown(opt);
        };
        vec![match verb {
            "set" => Statement::SetTtl(None, number(amount.into())),
            "inc" => Statement::AddTtl(amount.into()),
            "dec" => Statement::AddTtl(-i16::from(amount)),
            _ => return unknown(opt),
        }]
    };
    arguments.iter().flat_map(one).collect()
}

fn conn_marks(arguments: &[Opt]) -> Vec<Statement> {
    let mask = |name: &str| match argument(arguments, name) {
        Some(text) => symbols::number(text),
        None => Some(0xffff_ffff),
    };
    let verb = arguments.iter().find(|opt| matches!(opt.name.as_str(), "--save-mark" | "--restore-mark"));
    let Some(verb) = verb else { return marks(arguments, &Field::ConnMark, Statement::SetConnMark) };
    let both = argument(arguments, "--mask").map(symbols::number);
    let (Some(nfmask), Some(ctmask)) =
        (both.unwrap_or_else(|| mask("--nfmask")), both.unwrap_or_else(|| mask("--ctmask")))
    else {
        return unknown(verb);
    };
    // xt_connmark: save: ctmark = (ctmark & ~ctmask) ^ (mark & nfmask); restore is its mirror.
    let copy = |from: Field, from_mask: u64, to: Field, to_mask: u64| {
        let taken = binary(Bitwise::And, Expr::Field(from), number(from_mask));
        binary(Bitwise::Xor, rewrite(&to, to_mask, 0), taken)
    };
    if verb.name == "--save-mark" {
        vec![Statement::SetConnMark(copy(Field::Mark, nfmask, Field::ConnMark, ctmask))]
    } else {
        vec![Statement::SetMark(copy(Field::ConnMark, ctmask, Field::Mark, nfmask))]
    }
}

/// `ADDRESS`, `ADDRESS-ADDRESS`, either with `:PORT`, `[ADDRESS]:PORT` or `:PORT`. Ranges of ports are not modelled.
fn nat(kind: NatKind, to: Option<&str>) -> Vec<Statement> {
    let Some(to) = to else {
        return if kind == NatKind::Masquerade {
            vec![Statement::Nat(Nat { kind, address: None, port: None })]
        } else {
            vec![Statement::Unknown(text!(model::TranslationWithoutAddress))]
        };
    };
    match target(to) {
        Some((address, port)) => vec![Statement::Nat(Nat { kind, address, port })],
        None => vec![Statement::Unknown(text!(model::TranslationTo { to }))],
    }
}

/// The address and port of a translation's target.
fn target(to: &str) -> Option<(Option<Expr>, Option<Expr>)> {
    let number = |port: &str| Some(number(port.parse::<u16>().ok()?.into()));
    if let Some(port) = to.strip_prefix(':') {
        return Some((None, Some(number(port)?)));
    }
    let (addresses, port) =
        if let Some((address, rest)) = to.strip_prefix('[').and_then(|to| to.split_once(']')) {
            (address, rest.strip_prefix(':'))
        } else if to.parse::<IpAddr>().is_ok() || to.matches(':').count() > 1 {
            (to, None)
        } else {
            to.split_once(':').map_or((to, None), |(address, port)| (address, Some(port)))
        };
    let port = match port {
        Some(port) => Some(number(port)?),
        None => None,
    };
    let (low, high) = addresses.split_once('-').unwrap_or((addresses, addresses));
    Some((Some(one_of(low.parse().ok()?, high.parse().ok()?)?), port))
}

/// One of a range's addresses: a hash of the connection's ends tells which, with a seed that nobody knows
/// (`find_best_ips_proto`).
fn one_of(low: IpAddr, high: IpAddr) -> Option<Expr> {
    const MOST: u64 = 256;
    if low == high {
        return Some(Expr::Const(Value::Ip(low)));
    }
    let (first, last) = match (low, high) {
        (IpAddr::V4(low), IpAddr::V4(high)) => (u128::from(u32::from(low)), u128::from(u32::from(high))),
        (IpAddr::V6(low), IpAddr::V6(high)) => (low.into(), high.into()),
        _ => return None,
    };
    let modulus =
        u64::try_from(last.checked_sub(first)?).ok()?.checked_add(1).filter(|count| *count <= MOST)?;
    let mut addresses = Elements::new();
    for number in 0..modulus {
        let bits = first + u128::from(number);
        let address = match low {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(bits).ok()?)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(bits)),
        };
        addresses.insert(vec![Pattern::Is(Value::Number(number))], vec![Value::Ip(address)]);
    }
    let key = Box::new(Expr::Random { modulus, offset: 0 });
    Some(Expr::Map { key, map: Lookup::Inline(addresses) })
}

fn redirect(to: Option<&str>) -> Vec<Statement> {
    let port = match to.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) => Some(Expr::Const(Value::Number(port.into()))),
        Some(Err(_)) => {
            return vec![Statement::Unknown(text!(model::RedirectionTo { to: to.unwrap_or_default() }))];
        }
    };
    vec![Statement::Nat(Nat { kind: NatKind::Redirect, address: None, port })]
}

fn ct(arguments: &[Opt]) -> Vec<Statement> {
    if arguments.iter().any(|opt| opt.name == "--notrack") {
        return vec![Statement::Notrack];
    }
    match arguments.iter().find(|opt| opt.name.starts_with("--zone")) {
        Some(zone) => unknown(zone),
        None => Vec::new(),
    }
}
