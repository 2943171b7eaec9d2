//! Rules in one form, whichever tool wrote them.
//!
//! A rule is a list of statements that run in order; a test that fails ends the rule. Both iptables
//! (matches, then a target) and nftables (any mixture) fit.

use waymark_proto::{RuleRef, Text};

use super::index::Index;
use super::raw::Base;
use super::value::{Elements, Pattern, Value};

/// Index of a chain within its ruleset.
pub(crate) type ChainId = usize;

/// A chain with its rules.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    /// `ip`, `ip6`, `inet`.
    pub(crate) family: String,
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) rules: Vec<Rule>,
    /// Of long chains, once they are complete.
    index: Option<Index>,
}

/// A rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// Handle and position, where known.
    pub(crate) handle: Option<u64>,
    pub(crate) position: Option<u32>,
    /// As its tool prints it.
    pub(crate) text: String,
    pub(crate) statements: Vec<Statement>,
}

impl Rule {
    /// Prepares a rule: one without effect is emptied, and tests that cannot be decided go behind those
    /// that can, so that a rule that certainly does not match is never in doubt.
    pub(crate) fn new(
        handle: Option<u64>,
        position: Option<u32>,
        text: String,
        statements: Vec<Statement>,
    ) -> Self {
        let mut statements = statements;
        if statements.iter().all(|s| matches!(s, Statement::Test(_) | Statement::Note(_))) {
            statements.clear();
        }
        let tests = statements.iter().take_while(|s| matches!(s, Statement::Test(_))).count();
        statements[..tests].sort_by_key(|statement| match statement {
            Statement::Test(condition) => condition.doubt(),
            _ => Doubt::None,
        });
        Self { handle, position, text, statements }
    }

    /// What it decides for packets that match it, if it does.
    pub(crate) fn decision(&self) -> Option<&'static str> {
        match self.statements.last()? {
            Statement::Verdict(verdict) => verdict.decision(),
            Statement::Nat(_) => Some("accept"),
            _ => None,
        }
    }
}

impl Chain {
    /// A chain without rules yet.
    pub(crate) fn new(family: &str, table: &str, name: &str) -> Self {
        let [family, table, name] = [family, table, name].map(str::to_owned);
        Self { family, table, name, rules: Vec::new(), index: None }
    }

    /// Prepares it to be asked, when it has all its rules.
    pub(crate) fn complete(&mut self) {
        self.index = Index::new(&self.rules);
    }

    /// The position of the first rule from one on that a packet may match, or the chain's end.
    pub(crate) fn next(&self, from: usize, read: impl Fn(&Field) -> Option<Value>) -> usize {
        match &self.index {
            Some(index) => index.next(from, read).unwrap_or(self.rules.len()),
            None => from,
        }
    }

    /// What names one of its rules.
    pub(crate) fn rule_ref(&self, rule: &Rule) -> RuleRef {
        RuleRef {
            family: self.family.clone(),
            table: self.table.clone(),
            chain: self.name.clone(),
            handle: rule.handle,
            position: rule.position,
            text: Some(rule.text.clone()),
        }
    }

    /// What names its policy.
    pub(crate) fn policy_ref(&self) -> RuleRef {
        RuleRef {
            family: self.family.clone(),
            table: self.table.clone(),
            chain: self.name.clone(),
            handle: None,
            position: None,
            text: None,
        }
    }
}

/// One thing that a rule does.
#[derive(Clone, Debug)]
pub(crate) enum Statement {
    Test(Test),
    SetMark(Expr),
    SetConnMark(Expr),
    /// With a family, a packet of the other has no such field.
    SetDscp(Option<bool>, Expr),
    SetTtl(Option<bool>, Expr),
    /// Adds so much to the TTL or hop limit, which stays within its byte.
    AddTtl(i16),
    /// Something that is left undone, and ends nothing, for a packet without a connection (`connmark_tg`).
    IfTracked(Box<Statement>),
    Verdict(Verdict),
    Vmap {
        key: Expr,
        map: Lookup<Verdict>,
    },
    Nat(Nat),
    Notrack,
    /// Has no effect on the packet, but is worth a remark.
    Note(Text),
    /// From here on nothing is known.
    Unknown(Text),
}

/// What ends a rule or leads to another chain.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Reject,
    Return,
    Continue,
    Jump(ChainId),
    Goto(ChainId),
    /// One that is not modelled, or a chain that is not there.
    Unknown(Text),
}

impl Verdict {
    /// What it decides, in the words of a trace, if it does.
    pub(crate) fn decision(&self) -> Option<&'static str> {
        match self {
            Self::Accept => Some("accept"),
            Self::Drop | Self::Reject => Some("drop"),
            Self::Return | Self::Continue | Self::Jump(_) | Self::Goto(_) | Self::Unknown(_) => None,
        }
    }
}

/// An address or port translation.
#[derive(Clone, Debug)]
pub(crate) struct Nat {
    pub(crate) kind: NatKind,
    /// The new address; for maps it may yield address and port.
    pub(crate) address: Option<Expr>,
    pub(crate) port: Option<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NatKind {
    Source,
    Destination,
    Masquerade,
    Redirect,
}

/// A condition.
#[derive(Clone, Debug)]
pub(crate) enum Test {
    /// Compares an expression with patterns.
    Compare { left: Expr, op: Op, right: Lookup<()> },
    /// True with a probability.
    Random(f64),
    /// Members of an ipset, by the fields that stand for its dimensions.
    IpSet { name: String, fields: Vec<Direction>, negated: bool },
    /// Whether an IPv6 address is of these types, as `addrtype` of ip6tables asks.
    AddressType6 { destination: bool, types: Vec<u64>, negated: bool },
    /// Cannot be decided; why.
    Unknown(Text),
}

/// Which side of the packet an ipset dimension looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Source,
    Destination,
}

impl Test {
    /// An equality with one of several patterns, or with none of them.
    pub(crate) fn field(field: Field, patterns: Vec<Pattern>, negated: bool) -> Self {
        let mut elements = Elements::new();
        for pattern in patterns {
            elements.insert(vec![pattern], ());
        }
        let op = if negated { Op::NotEqual } else { Op::Equal };
        Self::Compare { left: Expr::Field(field), op, right: Lookup::Inline(elements) }
    }

    fn doubt(&self) -> Doubt {
        match self {
            Self::Unknown(_) | Self::Compare { right: Lookup::Unknown(_), .. } => Doubt::Certain,
            Self::Compare { left, .. } => left.doubt(),
            Self::Random(_) | Self::IpSet { .. } | Self::AddressType6 { .. } => Doubt::None,
        }
    }
}

/// Whether a test cannot be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    None,
    /// It depends on the packet: the source port of some is not known.
    Possible,
    Certain,
}

/// Comparison operators. `Equal` and `NotEqual` ask for membership, `Any` for a common bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Any,
}

/// Where the elements of a set or map are.
#[derive(Clone, Debug)]
pub(crate) enum Lookup<D> {
    /// In the rule itself.
    Inline(Elements<D>),
    /// In a named set; its index and name.
    Named(usize, String),
    /// Not readable; why.
    Unknown(Text),
}

/// An expression; its value is a list, of more than one for concatenations.
#[derive(Clone, Debug)]
pub(crate) enum Expr {
    Const(Value),
    Field(Field),
    Binary(Bitwise, Box<Expr>, Box<Expr>),
    Concat(Vec<Expr>),
    /// An equally likely number from `offset` to `offset + modulus - 1`.
    Random {
        modulus: u64,
        offset: u64,
    },
    Map {
        key: Box<Expr>,
        map: Lookup<Vec<Value>>,
    },
    /// Not modelled; what.
    Unknown(String),
}

impl Expr {
    fn doubt(&self) -> Doubt {
        match self {
            Self::Unknown(_) | Self::Field(Field::Unknown(_)) => Doubt::Certain,
            Self::Field(Field::SourcePort(_) | Field::Length | Field::Raw { .. }) => Doubt::Possible,
            Self::Const(_) | Self::Random { .. } | Self::Field(_) => Doubt::None,
            Self::Binary(_, a, b) => a.doubt().max(b.doubt()),
            Self::Concat(parts) => parts.iter().map(Self::doubt).max().unwrap_or(Doubt::None),
            Self::Map { key, .. } => key.doubt(),
        }
    }
}

/// Bitwise operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bitwise {
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
}

/// What can be read of a packet at a hook.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Field {
    /// Addresses; with a family, a packet of the other has no such field.
    Source(Option<bool>),
    Destination(Option<bool>),
    /// `AF_*`-like: 2 for IPv4, 10 for IPv6.
    Family,
    /// Ethertype.
    EtherType,
    L4Protocol,
    /// `ip protocol` and `ip6 nexthdr`: the same of one family only.
    HeaderProtocol(bool),
    /// Ports; with a protocol number, a packet of another has no such field.
    SourcePort(Option<u8>),
    DestinationPort(Option<u8>),
    TcpFlags,
    /// ICMP type and code of the given family's ICMP (`true`: IPv6).
    IcmpType(bool),
    IcmpCode(bool),
    Ttl(bool),
    /// The code point; with a family, a packet of the other has no such field.
    Dscp(Option<bool>),
    /// IP length, the header included.
    Length,
    /// Bits of a header, counted from its start.
    Raw {
        base: Base,
        offset: u32,
        length: u32,
    },
    InName,
    OutName,
    /// Bridge ports.
    PhysIn,
    PhysOut,
    PhysBridged,
    Mark,
    ConnState,
    /// The state together with the pseudo states of `--ctstate SNAT,DNAT`.
    ConnStateAndNat,
    ConnMark,
    ConnStatus,
    ConnDirection,
    /// A field of the connection's tuple: original or reply direction, source or destination.
    ConnAddress {
        reply: bool,
        destination: bool,
    },
    ConnPort {
        reply: bool,
        destination: bool,
    },
    PacketType,
    /// Type of an address by the local table (`RTN_*`).
    AddressType {
        destination: bool,
    },
    /// Whether a route back to the source leaves by the input device (`fib saddr . iif oif`): 1 or 0.
    ReverseRoute,
    /// Not modelled; what.
    Unknown(String),
}
