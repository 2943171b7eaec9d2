//! Classes of packets that a chain cannot tell apart.
//!
//! Of addresses a chain asks in which prefixes and sets they are, and of all else for few values. So most packets are to it
//! as one that it was asked about before: two of the same devices, protocol, port, mark and state of connection, whose
//! addresses are in the same of all prefixes and sets that its rules name, whatever the addresses themselves. Where many
//! predictions are made of one cluster, a chain is run once for each class, and what it did is done again to the others.
//!
//! Chains that ask for something else (address bits, chance, other translations) have no classes, and are run each time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::IpAddr;

use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};
use waymark_proto::Protocol;

use super::address;
use super::hook::At;
use super::ipset::Dimension;
use super::read::{self, Context};
use super::rule::{ChainId, Expr, Field, Lookup, Statement, Test, Verdict};
use super::ruleset::{BaseChain, Ruleset};
use super::run::{self, End, Run};
use super::value::Value;
use crate::conntrack::Tracking;
use crate::packet::Packet;

/// What a base chain and those that it calls ask of packets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Tests that ask for an address: chain, rule and statement.
    tests: Vec<(ChainId, usize, usize)>,
    /// Sets of ipset of which they ask whether they have an address.
    sets: BTreeSet<String>,
    /// What else.
    others: BTreeSet<Other>,
}

/// What is asked by some chains only, and would make classes smaller for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Other {
    AddressType,
    SourcePort,
    DestinationPort,
    Ttl,
    Dscp,
    Length,
}

impl Asked {
    /// What a chain asks; `None` if it has no classes.
    pub(crate) fn of(ruleset: &Ruleset, base: ChainId) -> Option<Self> {
        let mut asked = Self::default();
        let mut seen = BTreeSet::from([base]);
        let mut open = vec![base];
        while let Some(id) = open.pop() {
            for (at, rule) in ruleset.chains.get(id)?.rules.iter().enumerate() {
                for (position, statement) in rule.statements.iter().enumerate() {
                    let called = asked.statement(ruleset, statement, (id, at, position))?;
                    open.extend(called.into_iter().filter(|&called| seen.insert(called)));
                }
            }
        }
        Some(asked)
    }

    /// Notes what a statement asks; gives the chains that it may call.
    fn statement(
        &mut self,
        ruleset: &Ruleset,
        statement: &Statement,
        at: (ChainId, usize, usize),
    ) -> Option<Vec<ChainId>> {
        let mut called = Vec::new();
        match statement {
            Statement::Test(test) => self.test(ruleset, test, at)?,
            Statement::SetMark(expr) | Statement::SetConnMark(expr) => self.number(expr)?,
            Statement::IfTracked(inner) => return self.statement(ruleset, inner, at),
            Statement::Verdict(verdict) => called.extend(leads(verdict)?),
            Statement::Vmap { key: Expr::Field(field), map } => {
                self.field(field)?;
                let map = read::lookup(map, &ruleset.vmaps).ok()?;
                for verdict in map.data() {
                    called.extend(leads(verdict)?);
                }
            }
            Statement::Note(_) => {}
            Statement::Vmap { .. }
            | Statement::SetDscp(..)
            | Statement::SetTtl(..)
            | Statement::AddTtl(_)
            | Statement::Nat(_)
            | Statement::Notrack
            | Statement::Unknown(_) => return None,
        }
        Some(called)
    }

    fn test(&mut self, ruleset: &Ruleset, test: &Test, at: (ChainId, usize, usize)) -> Option<()> {
        match test {
            Test::Random(_)
            | Test::AddressType6 { .. }
            | Test::Unknown(_)
            | Test::Compare { right: Lookup::Unknown(_), .. } => None,
            Test::Compare { left: Expr::Field(Field::Source(_) | Field::Destination(_)), .. } => {
                self.tests.push(at);
                Some(())
            }
            Test::Compare { left, .. } => self.number(left),
            Test::IpSet { name, .. } => {
                let set = ruleset.ipsets.get(name)?;
                if set.dimensions != [Dimension::Address] {
                    return None;
                }
                self.sets.insert(name.clone());
                Some(())
            }
        }
    }

    fn number(&mut self, expr: &Expr) -> Option<()> {
        match expr {
            Expr::Const(_) => Some(()),
            Expr::Field(field) => self.field(field),
            Expr::Binary(_, left, right) => {
                self.number(left)?;
                self.number(right)
            }
            Expr::Concat(_) | Expr::Random { .. } | Expr::Map { .. } | Expr::Unknown(_) => None,
        }
    }

    fn field(&mut self, field: &Field) -> Option<()> {
        let other = match field {
            // Of these all that the key has is enough.
            Field::Family
            | Field::EtherType
            | Field::L4Protocol
            | Field::HeaderProtocol(_)
            | Field::TcpFlags
            | Field::IcmpType(_)
            | Field::IcmpCode(_)
            | Field::InName
            | Field::OutName
            | Field::PhysIn
            | Field::PhysOut
            | Field::PhysBridged
            | Field::Mark
            | Field::ConnState
            | Field::ConnStateAndNat
            | Field::ConnMark
            | Field::ConnStatus
            | Field::ConnDirection
            | Field::PacketType => return Some(()),
            Field::SourcePort(_) => Other::SourcePort,
            Field::DestinationPort(_) => Other::DestinationPort,
            Field::Ttl(_) => Other::Ttl,
            Field::Dscp(_) => Other::Dscp,
            Field::Length => Other::Length,
            Field::AddressType { .. } => Other::AddressType,
            Field::Source(_)
            | Field::Destination(_)
            | Field::Raw { .. }
            | Field::ConnAddress { .. }
            | Field::ConnPort { .. }
            | Field::ReverseRoute
            | Field::Unknown(_) => return None,
        };
        self.others.insert(other);
        Some(())
    }

    fn asks(&self, other: Other) -> bool {
        self.others.contains(&other)
    }

    /// In what of all that is asked an address is.
    fn memberships(&self, at: Context<'_>, ip: IpAddr) -> Vec<u8> {
        let ruleset = &at.namespace.ruleset;
        let key = [Value::Ip(ip)];
        let of_test = |&(chain, rule, statement): &(ChainId, usize, usize)| {
            let Statement::Test(Test::Compare { right, .. }) =
                &ruleset.chains[chain].rules[rule].statements[statement]
            else {
                return 0;
            };
            let elements = read::lookup(right, &ruleset.sets).ok();
            u8::from(elements.is_some_and(|elements| elements.get(&key).is_some()))
        };
        let of_set = |name: &String| {
            let member = ruleset.ipsets.get(name).and_then(|set| set.elements.get(&key));
            member.map_or(0, |included| 1 + u8::from(*included))
        };
        let kind = match ip {
            IpAddr::V4(ip) if self.asks(Other::AddressType) => {
                address::of_ipv4(at.namespace, ip).unwrap_or(u64::MAX) as u8
            }
            _ => 0,
        };
        let memberships = self.tests.iter().map(of_test).chain(self.sets.iter().map(of_set));
        memberships.chain([kind]).collect()
    }
}

/// The chain that a verdict leads to, if it leads to one; `None` if it is not known what it does.
fn leads(verdict: &Verdict) -> Option<SmallVec<[ChainId; 1]>> {
    match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(smallvec![*chain]),
        Verdict::Unknown(_) => None,
        Verdict::Accept | Verdict::Drop | Verdict::Reject | Verdict::Return | Verdict::Continue => {
            Some(SmallVec::new())
        }
    }
}

/// What chains of a cluster's namespaces did to the packets that they were asked about.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    chains: RefCell<FxHashMap<(usize, ChainId), OfChain>>,
    /// Whether anybody looked at a connection's first source port.
    source_port: Cell<bool>,
}

/// What one chain did.
#[derive(Debug, Default)]
struct OfChain {
    /// The class of an address, and those that there are.
    addresses: FxHashMap<IpAddr, u32>,
    classes: FxHashMap<Vec<u8>, u32>,
    deeds: FxHashMap<Class, Option<Deed>>,
}

/// All that a chain may ask of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Class {
    src: u32,
    dst: u32,
    ipv6: bool,
    protocol: Protocol,
    answer: bool,
    ports: [Option<u16>; 2],
    ttl: Option<u8>,
    dscp: Option<u8>,
    len: Option<u16>,
    mark: u32,
    tracking: State,
    devices: [Option<u32>; 4],
}

/// What rules may ask of a packet's connection, but for its tuples.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    None,
    Untracked,
    Invalid,
    Tracked {
        reply: bool,
        confirmed: bool,
        answered: bool,
        translated: [bool; 2],
        settled: [bool; 2],
        mark: u32,
    },
}

impl State {
    fn of(tracking: &Tracking) -> Self {
        match tracking {
            Tracking::None => Self::None,
            Tracking::Untracked => Self::Untracked,
            Tracking::Invalid => Self::Invalid,
            Tracking::Tracked { connection, reply, confirmed } => Self::Tracked {
                reply: *reply,
                confirmed: *confirmed,
                answered: connection.answered,
                translated: [connection.source_nat, connection.destination_nat],
                settled: connection.settled,
                mark: connection.mark,
            },
        }
    }
}

/// What a chain did to a packet: how it ended, and the marks that it left.
#[derive(Clone, Debug)]
struct Deed {
    end: End,
    mark: u32,
    connection_mark: Option<u32>,
}

impl Deed {
    /// What was done to a packet, if that is all.
    fn of(before: &Packet, run: &Run, end: &End) -> Option<Self> {
        let deed =
            Self { end: end.clone(), mark: run.packet.mark, connection_mark: mark_of(&run.packet.tracking) };
        let mut again = before.clone();
        deed.mark(&mut again);
        (again == run.packet && run.is_plain()).then_some(deed)
    }

    fn mark(&self, packet: &mut Packet) {
        packet.mark = self.mark;
        if let (Tracking::Tracked { connection, .. }, Some(mark)) =
            (&mut packet.tracking, self.connection_mark)
        {
            connection.mark = mark;
        }
    }
}

fn mark_of(tracking: &Tracking) -> Option<u32> {
    match tracking {
        Tracking::Tracked { connection, .. } => Some(connection.mark),
        _ => None,
    }
}

impl Memory {
    /// Forgets whether a source port was looked at.
    pub(crate) fn begin(&self) {
        self.source_port.set(false);
    }

    /// Whether a source port was looked at since.
    pub(crate) fn saw_source_port(&self) -> bool {
        self.source_port.get()
    }

    /// Notes that a source port is looked at.
    pub(crate) fn see_source_port(&self) {
        self.source_port.set(true);
    }

    /// Runs a base chain of a namespace, which is known by its number, unless it is known what it does to this class.
    pub(crate) fn run(
        &self,
        number: usize,
        context: Context<'_>,
        at: At,
        base: &BaseChain,
        mut run: Box<Run>,
    ) -> SmallVec<[(Box<Run>, End); 1]> {
        let Some(asked) = context.namespace.ruleset.asked(base.chain) else {
            return run::chain(context, base, run);
        };
        if asked.asks(Other::AddressType) && run.packet.flow.is_ipv6() {
            return run::chain(context, base, run);
        }
        // The first source port of a connection is the destination port of its answers.
        if asked.asks(if run.packet.answer { Other::DestinationPort } else { Other::SourcePort }) {
            self.see_source_port();
        }
        let mut chains = self.chains.borrow_mut();
        let known = chains.entry((number, base.chain)).or_default();
        let class = known.class(asked, context, at, &run.packet);
        match known.deeds.get(&class) {
            Some(Some(deed)) => {
                deed.mark(&mut run.packet);
                smallvec![(run, deed.end.clone())]
            }
            Some(None) => run::chain(context, base, run),
            None => {
                let before = run.packet.clone();
                let ended = run::chain(context, base, run);
                let deed = match ended.as_slice() {
                    [(run, end)] => Deed::of(&before, run, end),
                    _ => None,
                };
                known.deeds.insert(class, deed);
                ended
            }
        }
    }
}

impl OfChain {
    fn class(&mut self, asked: &Asked, context: Context<'_>, at: At, packet: &Packet) -> Class {
        let flow = packet.flow;
        Class {
            src: self.address(asked, context, flow.src),
            dst: self.address(asked, context, flow.dst),
            ipv6: flow.is_ipv6(),
            protocol: flow.protocol,
            answer: packet.answer,
            ports: [
                asked.asks(Other::SourcePort).then_some(flow.src_port),
                asked.asks(Other::DestinationPort).then_some(flow.dst_port),
            ],
            ttl: asked.asks(Other::Ttl).then_some(packet.ttl),
            dscp: asked.asks(Other::Dscp).then_some(packet.dscp),
            len: packet.len.filter(|_| asked.asks(Other::Length)),
            mark: packet.mark,
            tracking: State::of(&packet.tracking),
            devices: [at.input, at.output, at.port_in, at.port_out],
        }
    }

    fn address(&mut self, asked: &Asked, context: Context<'_>, ip: IpAddr) -> u32 {
        if let Some(&class) = self.addresses.get(&ip) {
            return class;
        }
        let memberships = asked.memberships(context, ip);
        let next = self.classes.len() as u32;
        let class = *self.classes.entry(memberships).or_insert(next);
        self.addresses.insert(ip, class);
        class
    }
}
