//! What a tracer can see, hook by hook: the provider, or why there is none.

use std::collections::BTreeSet;

use waymark_proto::{Hook, HookReport, HookSet, NetnsName, Observability, Text, text};
use waymark_tracer_ebpf::{PROGRAMS, Program};

use super::WatchedFunction;
use super::floor::Floor;

/// What the tracepoints of a set serve, and these functions.
pub fn of_floor(floor: &Floor, functions: Vec<WatchedFunction>, set: HookSet) -> Vec<HookReport> {
    let (served, refused) = floor.served();
    let find = |wanted: &dyn Fn(&Program) -> bool| {
        served.iter().filter(|program| program.set <= set).find(|program| wanted(program))
    };
    let observed = |provider: String| Observability::Observed { provider };
    let blind = |why: Text| Observability::NotObservable { why };
    let told = |hook: Hook| {
        let of_hook = move |program: &&&Program| program.hook == Some(hook) && program.set <= set;
        served.iter().filter(of_hook).map(|program| format!("tp_btf/{}", program.tracepoint))
    };
    let drops = find(&|program| program.tracepoint == "kfree_skb").is_some();
    let functions = Functions((set >= HookSet::Wide).then_some(functions));
    let passing = [Hook::DriverRx, Hook::Qdisc, Hook::DriverTx].map(|hook| {
        // The first of them is where every packet comes by.
        let first = PROGRAMS.iter().find(|program| program.hook == Some(hook) && program.set <= set);
        let state = match first.map(|first| find(&|program| program.tracepoint == first.tracepoint)) {
            Some(Some(_)) => {
                let all = told(hook).chain(functions.served(hook).map(str::to_owned));
                observed(all.collect::<Vec<_>>().join(", "))
            }
            Some(None) => blind(why_refused(&refused)),
            None => blind(text!(note::NotAsked)),
        };
        report(hook, state)
    });
    let ending = [Hook::Socket, Hook::Ip].map(|hook| {
        // What is used up is not recorded for light looks.
        let provider = match set {
            HookSet::Light => "tp_btf/kfree_skb",
            HookSet::Wide | HookSet::All => "tp_btf/kfree_skb, tp_btf/consume_skb",
        };
        let more = told(hook).chain(functions.served(hook).map(str::to_owned));
        let provider = more.fold(provider.to_owned(), |all, one| format!("{all}, {one}"));
        report(hook, if drops { observed(provider) } else { blind(why_refused(&refused)) })
    });
    let between = [Hook::Route, Hook::Neighbour, Hook::Bridge, Hook::Tunnel].map(|hook| {
        let served: Vec<_> = told(hook).chain(functions.served(hook).map(str::to_owned)).collect();
        let state = match (served.is_empty(), drops) {
            (false, _) => observed(served.join(", ")),
            (true, true) => blind(functions.why_not(hook)),
            (true, false) => blind(why_refused(&refused)),
        };
        report(hook, state)
    });
    // Of namespaces in which they are watched nevertheless there are reports of their own.
    let filters = Hook::ALL.iter().filter(|hook| set < HookSet::All && hook.is_netfilter());
    let filters = filters.map(|&hook| report(hook, blind(text!(note::NotAsked))));
    passing.into_iter().chain(ending).chain(between).chain(filters).collect()
}

/// The functions that tell about hooks, if the set has them.
struct Functions(Option<Vec<WatchedFunction>>);

impl Functions {
    fn of_hook(&self, hook: Hook) -> impl Iterator<Item = &WatchedFunction> {
        self.0.iter().flatten().filter(move |function| function.hook == hook)
    }

    /// Who watches those of a hook.
    fn served(&self, hook: Hook) -> impl Iterator<Item = &str> {
        self.of_hook(hook).filter_map(|function| function.provider.as_deref().ok())
    }

    /// Why nobody does, each reason once.
    fn why_not(&self, hook: Hook) -> Text {
        let reasons: BTreeSet<&str> = self
            .of_hook(hook)
            .filter_map(|function| function.provider.as_ref().err().map(String::as_str))
            .collect();
        if reasons.is_empty() {
            return text!(note::DropsOnly);
        }
        let why = reasons.into_iter().collect::<Vec<_>>().join("; ");
        text!(note::DropsOnlyBecause { why })
    }
}

/// What the trace of netfilter serves in namespaces whose rules are wanted.
pub fn of_rules(traced: Result<String, String>) -> Vec<HookReport> {
    let anywhere = NetnsName::from("anywhere");
    let reports = of_netfilter(&anywhere, traced, HookSet::All);
    reports.map(|report| HookReport { netns: None, ..report }).collect()
}

/// What the trace of a namespace's netfilter serves, and who it is.
pub fn of_netfilter(
    netns: &NetnsName,
    traced: Result<String, String>,
    set: HookSet,
) -> impl Iterator<Item = HookReport> {
    let netns = netns.clone();
    Hook::ALL.iter().filter(|hook| hook.is_netfilter()).map(move |&hook| {
        let observability = match &traced {
            Ok(provider) if set == HookSet::All || hook == Hook::NetfilterInput => {
                Observability::Observed { provider: provider.clone() }
            }
            Ok(_) => Observability::NotObservable { why: text!(note::NotAsked) },
            Err(why) => Observability::NotObservable { why: Text::verbatim(why.clone()) },
        };
        HookReport { hook, netns: Some(netns.clone()), observability }
    })
}

fn report(hook: Hook, observability: Observability) -> HookReport {
    HookReport { hook, netns: None, observability }
}

fn why_refused(refused: &[(&'static str, &str)]) -> Text {
    let each = refused.iter().map(|(name, why)| format!("tp_btf/{name}: {why}"));
    Text::verbatim(each.collect::<Vec<_>>().join("; "))
}
