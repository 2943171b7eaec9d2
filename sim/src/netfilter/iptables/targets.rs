//! Targets of iptables rules.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use waymark_proto::text;

use super::super::rule::{Bitwise, ChainId, Expr, Field, Nat, NatKind, Statement, Verdict};
use super::super::symbols;
use super::super::value::Value;
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
        "DNAT" => nat(NatKind::Destination, argument(arguments, "--to-destination")),
        "SNAT" => nat(NatKind::Source, argument(arguments, "--to-source")),
        "MASQUERADE" => nat(NatKind::Masquerade, None),
        "REDIRECT" => redirect(argument(arguments, "--to-ports")),
        "NOTRACK" => vec![Statement::Notrack],
        "CT" => ct(arguments),
        // These leave the packet's way as it is.
        "LOG" | "NFLOG" | "ULOG" | "TRACE" | "AUDIT" | "TCPMSS" | "CHECKSUM" | "CLASSIFY" | "TOS"
        | "DSCP" | "SET" | "TEE" | "SECMARK" | "CONNSECMARK" | "IDLETIMER" | "RATEEST" | "TCPOPTSTRIP"
        | "LED" | "HMARK" | "" => Vec::new(),
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

/// `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]:PORT` or `:PORT`; ranges are not modelled.
fn nat(kind: NatKind, to: Option<&str>) -> Vec<Statement> {
    let Some(to) = to else {
        return if kind == NatKind::Masquerade {
            vec![Statement::Nat(Nat { kind, address: None, port: None })]
        } else {
            vec![Statement::Unknown(text!(model::TranslationWithoutAddress))]
        };
    };
    let address = |ip: IpAddr| Some(Expr::Const(Value::Ip(ip)));
    let port = |port: u16| Some(Expr::Const(Value::Number(port.into())));
    let parsed = if let Ok(ip) = to.trim_matches(['[', ']']).parse::<IpAddr>() {
        Some((address(ip), None))
    } else if let Ok(socket) = to.parse::<SocketAddr>() {
        Some((address(socket.ip()), port(socket.port())))
    } else {
        to.strip_prefix(':').and_then(|text| text.parse().ok()).map(|number| (None, port(number)))
    };
    match parsed {
        Some((address, port)) => vec![Statement::Nat(Nat { kind, address, port })],
        None => vec![Statement::Unknown(text!(model::TranslationTo { to }))],
    }
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
