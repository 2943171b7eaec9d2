//! What a tracer can see, hook by hook: the provider, or why there is none.

use waymark_proto::{Hook, HookReport, NetnsName, Observability, Text, text};
use waymark_tracer_ebpf::{HookSet, PROGRAMS, Program};

use super::floor::Floor;

/// What the tracepoints of a set serve.
pub fn of_floor(floor: &Floor, set: HookSet) -> Vec<HookReport> {
    let (served, refused) = floor.served();
    let of_set =
        |hook: Option<Hook>| PROGRAMS.iter().any(|program| program.hook == hook && program.set <= set);
    let find = |wanted: &dyn Fn(&Program) -> bool| {
        served.iter().filter(|program| program.set <= set).find(|program| wanted(program))
    };
    let observed = |provider: String| Observability::Observed { provider };
    let blind = |why: Text| Observability::NotObservable { why };
    let passing = [Hook::DriverRx, Hook::Qdisc, Hook::DriverTx].map(|hook| {
        let provider = find(&|program| program.hook == Some(hook));
        let state = provider.map_or_else(
            || blind(if of_set(Some(hook)) { why_refused(&refused) } else { text!(note::NotAsked) }),
            |program| observed(format!("tp_btf/{}", program.tracepoint)),
        );
        report(hook, state)
    });
    let drops = find(&|program| program.tracepoint == "kfree_skb").is_some();
    let ending = [Hook::Socket, Hook::Ip].map(|hook| {
        // What is used up is not recorded for light looks.
        let provider = match set {
            HookSet::Light => "tp_btf/kfree_skb",
            HookSet::Wide => "tp_btf/kfree_skb, tp_btf/consume_skb",
        };
        let provider = provider.to_owned();
        report(hook, if drops { observed(provider) } else { blind(why_refused(&refused)) })
    });
    let between = [Hook::Route, Hook::Neighbour, Hook::Bridge, Hook::Tunnel].map(|hook| {
        let why = text!(note::DropsOnly);
        report(hook, blind(if drops { why } else { why_refused(&refused) }))
    });
    // Of namespaces in which they are watched nevertheless there are reports of their own.
    let filters = Hook::ALL.iter().filter(|hook| set == HookSet::Light && hook.is_netfilter());
    let filters = filters.map(|&hook| report(hook, blind(text!(note::NotAsked))));
    passing.into_iter().chain(ending).chain(between).chain(filters).collect()
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
            Ok(provider) if set == HookSet::Wide || hook == Hook::NetfilterInput => {
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
