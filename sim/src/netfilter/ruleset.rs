//! The compiled netfilter configuration of one namespace: what runs at each hook, in order.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use waymark_proto::{Hook, IptablesBackend, MissingFact, NetfilterFacts, RuleRef, Text, text};

use super::classes::Asked;
use super::ipset::{self, IpSet};
use super::rule::{Chain, ChainId, Rule, Verdict};
use super::value::{Elements, Value};
use super::{iptables, nft};

/// `NF_IP_PRI_CONNTRACK`.
const PRIORITY_CONNTRACK: i32 = -200;
/// `NF_IP_PRI_NAT_DST`: where all NAT chains of prerouting and output run, whatever priority they name;
/// theirs orders them among themselves (`nf_nat_register_fn`).
const PRIORITY_NAT_DST: i32 = -100;
/// `NF_IP_PRI_NAT_SRC`, likewise for input and postrouting.
const PRIORITY_NAT_SRC: i32 = 100;

/// Kinds of base chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainKind {
    Filter,
    Nat,
    /// Like `Filter`, but a changed mark or address makes the output hook route again.
    Route,
}

/// A chain that is attached to a hook.
#[derive(Clone, Debug)]
pub(crate) struct BaseChain {
    pub(crate) chain: ChainId,
    pub(crate) hook: Hook,
    pub(crate) kind: ChainKind,
    pub(crate) priority: i32,
    pub(crate) policy: Verdict,
    /// Families: IPv4, IPv6.
    pub(crate) families: [bool; 2],
    /// Whether it is one of `x_tables`.
    pub(crate) legacy: bool,
    /// How many chains were registered before it, where that is known.
    pub(crate) rank: usize,
}

impl BaseChain {
    /// What orders the chains of a hook. Of equals the one registered last comes first
    /// (`nf_hook_entries_grow`); when `x_tables` registered its own is not known, so they keep a place.
    fn place(&self) -> (i32, bool, Reverse<usize>) {
        (self.priority, !self.legacy, Reverse(if self.legacy { 0 } else { self.rank }))
    }
}

/// One thing that happens at a hook.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// The packet's connection is looked up or made.
    Conntrack,
    /// A filter chain runs.
    Chain(BaseChain),
    /// Address translation: of a known connection, or by these chains for a new one.
    Nat(Vec<BaseChain>),
}

/// The netfilter configuration of one namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ruleset {
    pub(crate) chains: Vec<Chain>,
    bases: Vec<BaseChain>,
    phases: BTreeMap<(Hook, bool), Vec<Phase>>,
    pub(crate) sets: Vec<Elements<()>>,
    pub(crate) maps: Vec<Elements<Vec<Value>>>,
    pub(crate) vmaps: Vec<Elements<Verdict>>,
    pub(crate) ipsets: FxHashMap<String, IpSet>,
    /// Whether connections are tracked, by family: only as long as some rule needs them (`nf_ct_netns_get`).
    pub(crate) tracks: [bool; 2],
    /// Chains of hooks that are not run.
    pub(crate) foreign: Vec<nft::Foreign>,
    /// What filter chains ask of packets, of those that have classes.
    asked: BTreeMap<ChainId, Asked>,
    /// Why nothing can be said about netfilter here.
    pub(crate) missing: Option<Text>,
}

impl Ruleset {
    /// Compiles a namespace's netfilter facts. What cannot be read becomes rules of unknown effect.
    pub(crate) fn compile(facts: &NetfilterFacts, missing: &[MissingFact]) -> Self {
        let unread = missing
            .iter()
            .find(|fact| {
                fact.what == "namespace"
                    || (fact.what.starts_with("netfilter") && !fact.what.ends_with("ipset"))
            })
            .map(|fact| text!(model::Unread { what: &fact.what, why: &fact.why }));
        let mut ruleset = Self {
            ipsets: facts.ipset.as_deref().map(ipset::parse).unwrap_or_default(),
            missing: unread,
            ..Self::default()
        };
        let objects = facts.nft.as_ref().map(nft::objects).unwrap_or_default();
        let mut taken = Vec::new();
        // Rules of x_tables have no handles, even where nftables has a chain of the same name.
        let backends =
            [(IptablesBackend::Legacy, BTreeMap::default()), (IptablesBackend::Nft, nft::handles(&objects))];
        for (backend, handles) in backends {
            for dump in facts.iptables.iter().filter(|dump| dump.backend == backend) {
                let first = ruleset.bases.len();
                let tables = iptables::compile(dump, &handles, &mut ruleset);
                for base in &mut ruleset.bases[first..] {
                    base.legacy = backend == IptablesBackend::Legacy;
                }
                if backend == IptablesBackend::Nft {
                    let family = if dump.ipv6 { "ip6" } else { "ip" };
                    taken.extend(tables.into_iter().map(|table| (family.to_owned(), table)));
                }
            }
        }
        nft::compile(&objects, &taken, &mut ruleset);
        ruleset.rank(&nft::chain_order(&objects));
        ruleset.order();
        ruleset.chains.iter_mut().for_each(Chain::complete);
        let filters = ruleset.bases.iter().filter(|base| base.kind == ChainKind::Filter);
        let asked = filters.filter_map(|base| Some((base.chain, Asked::of(&ruleset, base.chain)?)));
        ruleset.asked = asked.collect();
        ruleset
    }

    /// What a base chain asks of packets; `None` if it has no classes of them.
    pub(crate) fn asked(&self, base: ChainId) -> Option<&Asked> {
        self.asked.get(&base)
    }

    /// All that is known of a rule that is named by its handle or position.
    pub(crate) fn find(&self, rule: &RuleRef) -> Option<RuleRef> {
        let (chain, index) = self.locate(rule)?;
        let chain = &self.chains[chain];
        chain.rules.get(index).map(|known| chain.rule_ref(known))
    }

    /// The chain of a rule and its index there; of a policy, the index behind the last rule.
    pub(crate) fn locate(&self, rule: &RuleRef) -> Option<(ChainId, usize)> {
        let same = |(_, chain): &(ChainId, &Chain)| {
            (&chain.family, &chain.table, &chain.name) == (&rule.family, &rule.table, &rule.chain)
        };
        let named = |known: &Rule| match (rule.handle, rule.position) {
            (None, position) => known.position == position,
            (handle, _) => known.handle == handle,
        };
        let mut chains = self.chains.iter().enumerate().filter(same);
        if (rule.handle, rule.position) == (None, None) {
            return chains.next().map(|(id, chain)| (id, chain.rules.len()));
        }
        chains.find_map(|(id, chain)| chain.rules.iter().position(named).map(|index| (id, index)))
    }

    /// The rule of `x_tables` that a trace names by its position, or the policy that comes behind the last one, and what
    /// it does with packets that match it: `accept` or `drop`, or `None` where another rule decides, or somebody else.
    pub(crate) fn by_position(&self, rule: &RuleRef) -> Option<(RuleRef, Option<&'static str>)> {
        let same = |chain: &Chain| {
            (&chain.family, &chain.table, &chain.name) == (&rule.family, &rule.table, &rule.chain)
        };
        // Those of nftables have handles.
        let legacy = |chain: &Chain| chain.rules.iter().all(|rule| rule.handle.is_none());
        let id = self.chains.iter().position(|chain| same(chain) && legacy(chain))?;
        let (chain, index) = (&self.chains[id], usize::try_from(rule.position?.checked_sub(1)?).ok()?);
        match chain.rules.get(index) {
            Some(rule) => Some((chain.rule_ref(rule), rule.decision())),
            None if index == chain.rules.len() => {
                let base = self.bases.iter().find(|base| base.chain == id && base.legacy)?;
                Some((chain.policy_ref(), base.policy.decision()))
            }
            None => None,
        }
    }

    /// A remark on the chains at hooks of bridges that are not run.
    pub(crate) fn remark_on_bridge(&self, hooks: &[&str]) -> Option<Text> {
        joined(self.foreign.iter().filter_map(|chain| chain.at_bridge(hooks)))
    }

    /// A remark on the chains at a device's `ingress` or `egress` that are not run.
    pub(crate) fn remark_on_device(&self, hook: &str, device: &str) -> Option<Text> {
        joined(self.foreign.iter().filter_map(|chain| chain.at_device(hook, device)))
    }

    pub(crate) fn add_chain(&mut self, chain: Chain) -> ChainId {
        self.chains.push(chain);
        self.chains.len() - 1
    }

    pub(crate) fn add_base(&mut self, base: BaseChain) {
        self.bases.push(base);
    }

    /// What happens at a hook for a family, in order.
    pub(crate) fn phases(&self, hook: Hook, ipv6: bool) -> &[Phase] {
        self.phases.get(&(hook, ipv6)).map_or(&[], Vec::as_slice)
    }

    /// Ranks base chains by their order in nft's dump, which is that of their registration.
    fn rank(&mut self, order: &BTreeMap<(&str, &str, &str), usize>) {
        for (position, base) in self.bases.iter_mut().enumerate() {
            let chain = &self.chains[base.chain];
            let name = (chain.family.as_str(), chain.table.as_str(), chain.name.as_str());
            base.rank = order.get(&name).copied().unwrap_or(position);
        }
    }

    fn order(&mut self) {
        let hooks = [
            (Hook::NetfilterPrerouting, Some(PRIORITY_CONNTRACK), Some(PRIORITY_NAT_DST)),
            (Hook::NetfilterInput, None, Some(PRIORITY_NAT_SRC)),
            (Hook::NetfilterForward, None, None),
            (Hook::NetfilterOutput, Some(PRIORITY_CONNTRACK), Some(PRIORITY_NAT_DST)),
            (Hook::NetfilterPostrouting, None, Some(PRIORITY_NAT_SRC)),
        ];
        for (hook, conntrack, nat) in hooks {
            for ipv6 in [false, true] {
                let here = |base: &&BaseChain| base.hook == hook && base.families[usize::from(ipv6)];
                let (mut nats, mut filters): (Vec<_>, Vec<_>) =
                    self.bases.iter().filter(here).cloned().partition(|base| base.kind == ChainKind::Nat);
                nats.sort_by_key(BaseChain::place);
                filters.sort_by_key(BaseChain::place);
                let mut phases: Vec<(i32, Phase)> = Vec::new();
                let tracked = conntrack.filter(|_| self.tracks[usize::from(ipv6)]);
                phases.extend(tracked.map(|priority| (priority, Phase::Conntrack)));
                // One chain of the family has the translator look into packets at all four hooks (`nf_nat_register_fn`).
                let translates = self
                    .bases
                    .iter()
                    .any(|base| base.kind == ChainKind::Nat && base.families[usize::from(ipv6)]);
                phases.extend(nat.filter(|_| translates).map(|priority| (priority, Phase::Nat(nats))));
                phases.extend(filters.into_iter().map(|base| (base.priority, Phase::Chain(base))));
                phases.sort_by_key(|(priority, _)| *priority);
                self.phases.insert((hook, ipv6), phases.into_iter().map(|(_, phase)| phase).collect());
            }
        }
    }
}

/// Several remarks as one.
pub(super) fn joined(remarks: impl IntoIterator<Item = Text>) -> Option<Text> {
    let mut remarks: Vec<Text> = remarks.into_iter().collect();
    if remarks.len() > 1 { Some(text!(list::Clauses { items: remarks })) } else { remarks.pop() }
}
