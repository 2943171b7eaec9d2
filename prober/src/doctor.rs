//! Preflight: what an agent needs of its machine, before it is needed.
//!
//! Every finding names one thing, says whether it is there, and how to get it if not. Nothing is changed
//! and no packet is sent. It works without root, and says what it could not try then.

mod kernel;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use caps::{CapSet, Capability};
use serde::Serialize;
use waymark_proto::{Hook, Inventory, NodeName};

use crate::facts::{command, kernel_release, nfnetlink};
use crate::nftrace::try_table;
use crate::pods::{Opened, Pods, Searched};
use crate::tracer::{FloorError, Tried, WatchedFunction, reads_pages, try_load};

/// How one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It is there.
    Ok,
    /// It is not, or cannot be told; the agent works, and sees or explains less.
    Warn,
    /// It is not, and the agent cannot work without.
    Missing,
}

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The thing.
    pub what: String,
    /// How it stands.
    pub state: State,
    /// What was seen.
    pub detail: String,
    /// What to do about it; absent if nothing needs to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(what: &str, detail: impl Into<String>) -> Self {
        Self { what: what.to_owned(), state: State::Ok, detail: detail.into(), remedy: None }
    }

    fn bad(what: &str, state: State, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.to_owned(), state, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

/// Whether an agent can work with these findings.
pub fn usable(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.state != State::Missing)
}

/// The findings for people: a line each, and the remedy below what needs one.
pub fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { what, state, detail, remedy } in findings {
        let sign = match state {
            State::Ok => '✓',
            State::Warn => '!',
            State::Missing => '✗',
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{sign} {what:width$}  {detail}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "  {:width$}  → {remedy}", "");
        }
    }
    text
}

/// Examines this machine, and the namespaces of a node if one is given.
pub fn examine(node: Option<(&Inventory, &NodeName)>) -> Vec<Finding> {
    let release = kernel_release();
    let version = kernel::version(&release);
    let mut findings: Vec<Finding> = NEEDS.iter().map(capability).collect();
    findings.push(kernel::kernel(&release, version));
    findings.push(kernel::tracepoints(fs::read("/sys/kernel/btf/vmlinux")));
    findings.push(kernel::ring_buffer(version));
    findings.push(kernel::rule_traces(try_table()));
    findings.push(kernel::memlock(version, fs::read_to_string("/proc/self/limits")));
    findings.push(kernel::kallsyms(kernel::start_of("/proc/kallsyms")));
    findings.push(kernel::pages(reads_pages()));
    findings.push(kernel::lockdown(fs::read_to_string("/sys/kernel/security/lockdown")));
    let tried = try_load();
    findings.push(tracer(&tried));
    findings.extend(tried.iter().map(|tried| functions(&tried.functions)));
    findings.push(nf_tables());
    findings.push(pods(&Pods::default().survey(), sees_the_nodes_processes()));
    findings.extend(TOOLS.iter().map(Tool::examine));
    if let Some((inventory, name)) = node {
        findings.extend(namespaces(inventory, name));
    }
    findings
}

/// What a capability is needed for.
struct Need {
    capability: Capability,
    /// A wider one that serves as well.
    or: Option<Capability>,
    state: State,
    why: &'static str,
}

const NEEDS: [Need; 6] = [
    Need {
        capability: Capability::CAP_SYS_ADMIN,
        or: None,
        state: State::Missing,
        why: "to enter the namespaces of pods",
    },
    Need {
        capability: Capability::CAP_BPF,
        or: Some(Capability::CAP_SYS_ADMIN),
        state: State::Missing,
        why: "to load the tracer",
    },
    Need {
        capability: Capability::CAP_PERFMON,
        or: Some(Capability::CAP_SYS_ADMIN),
        state: State::Missing,
        why: "to attach the tracer to tracepoints",
    },
    Need {
        capability: Capability::CAP_NET_ADMIN,
        or: None,
        state: State::Missing,
        why: "to trace rules and to read netfilter",
    },
    Need {
        capability: Capability::CAP_NET_RAW,
        or: None,
        state: State::Missing,
        why: "to send marked packets",
    },
    Need {
        capability: Capability::CAP_SYS_PTRACE,
        or: None,
        state: State::Warn,
        why: "to open namespaces by /proc/PID/ns/net",
    },
];

fn capability(need: &Need) -> Finding {
    let what = need.capability.to_string();
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability);
    match (has(need.capability), need.or.map(has)) {
        (Ok(true), _) => Finding::ok(&what, need.why),
        (_, Some(Ok(true))) => {
            let instead = need.or.map_or(String::new(), |or| or.to_string());
            Finding::ok(&what, format!("{}; {instead} serves instead", need.why))
        }
        (Ok(false), _) => Finding::bad(
            &what,
            need.state,
            format!("not in effect; needed {}", need.why),
            format!(
                "run as root (sudo), or add {} to securityContext.capabilities.add of the container",
                what.trim_start_matches("CAP_")
            ),
        ),
        (Err(error), _) => Finding::bad(
            &what,
            State::Warn,
            format!("cannot be told ({error}); needed {}", need.why),
            "mount /proc",
        ),
    }
}

/// Whether the kernel takes the programs: what all the other findings about BPF come to.
fn tracer(tried: &Result<Tried, FloorError>) -> Finding {
    let what = "tracer";
    let remedy = "see the findings above; a container also needs a seccomp profile that allows bpf(2)";
    match tried {
        Ok(Tried { refused, .. }) if refused.is_empty() => {
            Finding::ok(what, "the kernel accepts all of its programs")
        }
        Ok(Tried { refused, .. }) => {
            Finding::bad(what, State::Warn, format!("not observable: {}", refused.join("; ")), remedy)
        }
        Err(error) => Finding::bad(what, State::Missing, error.to_string(), remedy),
    }
}

/// Who watches the kernel's functions, hook by hook, or why nobody does: results are less detailed then, and no less right.
fn functions(functions: &[WatchedFunction]) -> Finding {
    let what = "kernel functions";
    let mut served: BTreeMap<Hook, Vec<&str>> = BTreeMap::new();
    let mut refused: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for WatchedFunction { function, hook, provider } in functions {
        match provider {
            Ok(provider) => served.entry(*hook).or_default().push(provider),
            Err(why) => refused.entry(why).or_default().push(function),
        }
    }
    let told = |(name, all): (String, Vec<&str>)| format!("{name}: {}", all.join(", "));
    let refused = refused.into_iter().map(|(why, all)| (format!("not ({why})"), all)).map(told);
    let refused = refused.collect::<Vec<_>>().join("; ");
    if served.is_empty() {
        let remedy = "nothing, if what tracepoints tell is enough; else run a kernel with CONFIG_KPROBE_EVENTS and without lockdown";
        return Finding::bad(what, State::Warn, refused, remedy);
    }
    let mut detail =
        served.into_iter().map(|(hook, all)| (hook.to_string(), all)).map(told).collect::<Vec<_>>();
    detail.extend(Some(refused).filter(|refused| !refused.is_empty()));
    Finding::ok(what, detail.join("; "))
}

fn nf_tables() -> Finding {
    let what = "nf_tables";
    match nfnetlink::nft_tables() {
        Ok(tables) => Finding::ok(what, format!("{} tables in this namespace", tables.len())),
        Err(error) if error.is_denied() => {
            Finding::bad(what, State::Warn, "cannot be tried without CAP_NET_ADMIN", "run as root (sudo)")
        }
        Err(error) => Finding::bad(
            what,
            State::Warn,
            format!("{error}: netfilter hooks are not observable"),
            "load the module nf_tables, or run a kernel with CONFIG_NF_TABLES",
        ),
    }
}

/// Whether the namespaces of pods can be found where nobody says by which path they can be opened.
fn pods(searched: &Searched, sees_processes: bool) -> Finding {
    let what = "pods";
    let detail = format!("network namespaces beside the own: {searched}");
    if searched.refused.is_some() || searched.hidden > 0 {
        let remedy =
            "run as root (sudo), or add SYS_ADMIN and SYS_PTRACE to securityContext.capabilities.add";
        return Finding::bad(what, State::Warn, detail, remedy);
    }
    if sees_processes {
        return Finding::ok(what, detail);
    }
    let detail =
        format!("{detail}; the node's processes are not visible, so pods without a file there are not found");
    let remedy = "if the container runtime keeps no files of namespaces, set agent.findByProcess: true in the chart's values, or hostPID: true in the pod template of the agent";
    Finding::bad(what, State::Warn, detail, remedy)
}

/// Process 2 is the kernel's thread of threads, in the first PID namespace only (`rest_init`).
fn sees_the_nodes_processes() -> bool {
    fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim_end() == "kthreadd")
}

/// A program that facts are read with.
struct Tool {
    /// Any of these does.
    names: &'static [&'static str],
    package: &'static str,
    why: &'static str,
}

const TOOLS: [Tool; 4] = [
    Tool { names: &["nft"], package: "nftables", why: "to read nftables rules" },
    Tool {
        names: &["iptables-save", "iptables-nft-save", "iptables-legacy-save"],
        package: "iptables",
        why: "to read iptables rules",
    },
    Tool { names: &["ipset"], package: "ipset", why: "to read IP sets, where there are any" },
    Tool { names: &["ip"], package: "iproute2", why: "for the testbed; the agent does without" },
];

impl Tool {
    fn examine(&self) -> Finding {
        let what = self.names[0];
        match self.names.iter().find_map(|name| command::find(name)) {
            Some(path) => Finding::ok(what, path.display().to_string()),
            None => Finding::bad(
                what,
                State::Warn,
                format!("not installed; needed {}", self.why),
                format!("apt-get install {}", self.package),
            ),
        }
    }
}

/// The agent works without a pod that is gone, but not without its own node.
fn namespaces(inventory: &Inventory, name: &NodeName) -> Vec<Finding> {
    let what = format!("node {name}");
    let Some(scope) = inventory.scope(name) else {
        let known: Vec<&str> = inventory.nodes.iter().map(|node| node.name.as_str()).collect();
        let detail = format!("not in the inventory, which has {}", known.join(", "));
        return vec![Finding::bad(&what, State::Missing, detail, "name one of these nodes")];
    };
    let mut findings = Vec::new();
    let mut open = 0;
    for Opened { pod, netns, .. } in Pods::default().open_all(&scope) {
        let Err(error) = netns else {
            open += 1;
            continue;
        };
        let (what, state) = match pod {
            Some(pod) => (format!("pod {pod}"), State::Warn),
            None => (what.clone(), State::Missing),
        };
        let remedy = "start it, or bring the inventory up to date";
        findings.push(Finding::bad(&what, state, error.to_string(), remedy));
    }
    if open > 0 {
        findings.insert(0, Finding::ok(&what, format!("{open} of its network namespaces can be opened")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_told_by_hook_or_by_reason() {
        let row = |function, hook, provider: Result<&str, &str>| WatchedFunction {
            function,
            hook,
            provider: provider.map(str::to_owned).map_err(str::to_owned),
        };
        let rows = [
            row("f", Hook::Route, Ok("fexit/f")),
            row("g", Hook::Route, Ok("kretprobe/g")),
            row("h", Hook::Bridge, Err("refused")),
        ];
        let some = functions(&rows);
        assert_eq!(some.state, State::Ok);
        assert_eq!(some.detail, "route: fexit/f, kretprobe/g; not (refused): h");
        let none = functions(&rows[2..]);
        assert_eq!((none.state, none.detail.as_str()), (State::Warn, "not (refused): h"));
    }

    #[test]
    fn pods_are_found_by_files_or_by_processes() {
        let searched = Searched { entered: 3, places: vec!["/run/netns".into()], ..Searched::default() };
        let good = pods(&searched, true);
        assert_eq!(good.state, State::Ok);
        assert!(good.detail.ends_with("3 were looked into, found by /run/netns"), "{good:?}");
        let blind = pods(&searched, false);
        assert_eq!(blind.state, State::Warn);
        assert!(blind.remedy.unwrap().contains("hostPID"));
        let hidden = pods(&Searched { hidden: 9, ..searched }, true);
        assert!(hidden.detail.contains("9 processes") && hidden.remedy.unwrap().contains("SYS_PTRACE"));
    }
}
