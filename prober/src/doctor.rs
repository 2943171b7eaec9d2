//! Preflight: what an agent needs of its machine, before it is needed.
//!
//! Every finding names one thing, says whether it is there, and how to get it if not. Nothing is changed
//! and no packet is sent. It works without root, and says what it could not try then.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::{self, Read};

use caps::{CapSet, Capability};
use serde::Serialize;
use waymark_proto::{Inventory, NodeName};
use waymark_tracer_ebpf::PROGRAMS;

use crate::facts::{command, kernel_release, nfnetlink};
use crate::netns::Netns;

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
    let version = version(&release);
    let mut findings: Vec<Finding> = NEEDS.iter().map(capability).collect();
    findings.push(kernel(&release, version));
    findings.push(tracepoints(fs::read("/sys/kernel/btf/vmlinux")));
    findings.push(ring_buffer(version));
    findings.push(memlock(version, fs::read_to_string("/proc/self/limits")));
    findings.push(kallsyms(start_of("/proc/kallsyms")));
    findings.push(lockdown(fs::read_to_string("/sys/kernel/security/lockdown")));
    findings.push(nf_tables());
    findings.extend(TOOLS.iter().map(|tool| tool.examine()));
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

/// Major and minor of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `tp_btf` came with 5.5, and the partial structs of the tracer were tried from 5.10 on.
fn kernel(release: &str, version: Option<(u32, u32)>) -> Finding {
    match version {
        Some(version) if version >= (5, 10) => Finding::ok("kernel", release),
        Some(_) => Finding::bad(
            "kernel",
            State::Missing,
            format!("{release} is older than 5.10"),
            "run a kernel of 5.10 or newer",
        ),
        None => Finding::bad(
            "kernel",
            State::Warn,
            format!("cannot tell the version of {release:?}"),
            "5.10 or newer is needed",
        ),
    }
}

/// Tracepoints that programs can be attached to have a `btf_trace_NAME` type in the kernel's BTF.
fn tracepoints(btf: io::Result<Vec<u8>>) -> Finding {
    let what = "kernel BTF";
    let remedy = "run a kernel built with CONFIG_DEBUG_INFO_BTF=y and CONFIG_TRACEPOINTS=y";
    let btf = match btf {
        Ok(btf) => btf,
        Err(error) => {
            return Finding::bad(what, State::Missing, format!("/sys/kernel/btf/vmlinux: {error}"), remedy);
        }
    };
    let Some(strings) = btf_strings(&btf) else {
        return Finding::bad(what, State::Missing, "/sys/kernel/btf/vmlinux is not BTF", remedy);
    };
    let known: BTreeSet<&[u8]> =
        strings.split(|&byte| byte == 0).filter_map(|name| name.strip_prefix(b"btf_trace_")).collect();
    let absent: Vec<&str> = PROGRAMS
        .iter()
        .map(|program| program.tracepoint)
        .filter(|name| !known.contains(name.as_bytes()))
        .collect();
    let present = PROGRAMS.len() - absent.len();
    let detail = format!("{present} of the {} tracepoints in use are there", PROGRAMS.len());
    match (present, absent.is_empty()) {
        (_, true) => Finding::ok(what, detail),
        (0, _) => Finding::bad(what, State::Missing, detail, remedy),
        _ => Finding::bad(
            what,
            State::Warn,
            format!("{detail}; not {}", absent.join(", ")),
            "hooks that only these serve are reported as not observable",
        ),
    }
}

/// The string section, by `struct btf_header`.
fn btf_strings(btf: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_ne_bytes(btf.get(at..at + 4)?.try_into().ok()?) as usize);
    let magic = u16::from_ne_bytes(btf.get(..2)?.try_into().ok()?);
    let start = word(4)?.checked_add(word(16)?)?;
    (magic == 0xeb9f).then(|| btf.get(start..start.checked_add(word(20)?)?)).flatten()
}

fn ring_buffer(version: Option<(u32, u32)>) -> Finding {
    match version {
        Some(version) if version < (5, 8) => Finding::bad(
            "BPF ring buffer",
            State::Missing,
            "came with kernel 5.8",
            "run a kernel of 5.10 or newer",
        ),
        Some(_) => Finding::ok("BPF ring buffer", "there since kernel 5.8"),
        None => {
            Finding::bad("BPF ring buffer", State::Warn, "cannot be told", "kernel 5.8 or newer is needed")
        }
    }
}

/// Since 5.11 BPF memory is charged to the cgroup, and the limit no longer matters.
fn memlock(version: Option<(u32, u32)>, limits: io::Result<String>) -> Finding {
    let what = "locked memory";
    if version.is_some_and(|version| version >= (5, 11)) {
        return Finding::ok(what, "BPF maps are not limited by it since kernel 5.11");
    }
    let limits = limits.unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = line.and_then(|line| line.split_whitespace().next()).unwrap_or("unknown");
    // Ring buffer and maps together stay well below this.
    const ENOUGH: u64 = 64 << 20;
    let raises = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).unwrap_or(false);
    if soft == "unlimited" || raises || soft.parse::<u64>().is_ok_and(|bytes| bytes >= ENOUGH) {
        return Finding::ok(what, format!("limit {soft}"));
    }
    let detail = format!("limit {soft} bytes, which bounds BPF maps before kernel 5.11");
    Finding::bad(what, State::Warn, detail, "`ulimit -l unlimited`, or grant CAP_SYS_RESOURCE")
}

/// The first bytes of a file that is too long to be read whole.
fn start_of(path: &str) -> io::Result<String> {
    let mut start = String::new();
    File::open(path)?.take(4096).read_to_string(&mut start)?;
    Ok(start)
}

fn kallsyms(start: io::Result<String>) -> Finding {
    let what = "kernel symbols";
    let remedy = "as root: sysctl kernel.kptr_restrict=1 (or 0)";
    match start {
        Ok(text) => {
            let addresses = text.lines().filter_map(|line| line.split_whitespace().next());
            if addresses.into_iter().any(|address| address.bytes().any(|digit| digit != b'0')) {
                Finding::ok(what, "/proc/kallsyms shows addresses")
            } else {
                let detail = "/proc/kallsyms hides addresses: drops are reported without their function";
                Finding::bad(what, State::Warn, detail, remedy)
            }
        }
        Err(error) => Finding::bad(what, State::Warn, format!("/proc/kallsyms: {error}"), remedy),
    }
}

/// Lockdown "confidentiality" keeps BPF from reading kernel memory (`LOCKDOWN_BPF_READ_KERNEL`);
/// "integrity" leaves the tracepoints of the floor tier alone.
fn lockdown(modes: io::Result<String>) -> Finding {
    let what = "kernel lockdown";
    let Ok(modes) = modes else {
        let detail = "cannot be told: /sys/kernel/security/lockdown is not there";
        let remedy = "if tracing fails, mount securityfs on /sys/kernel/security and look again";
        return Finding::bad(what, State::Warn, detail, remedy);
    };
    let mode =
        modes.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("unknown", |(mode, _)| mode);
    match mode {
        "none" | "integrity" => Finding::ok(what, mode),
        "confidentiality" => Finding::bad(
            what,
            State::Missing,
            "confidentiality: BPF may not read kernel memory",
            "boot with lockdown=integrity or without lockdown",
        ),
        other => Finding::bad(what, State::Warn, other, "the modes none and integrity are known to work"),
    }
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
    let Some(node) = inventory.node(name) else {
        let known: Vec<&str> = inventory.nodes.iter().map(|node| node.name.as_str()).collect();
        let detail = format!("not in the inventory, which has {}", known.join(", "));
        return vec![Finding::bad(&what, State::Missing, detail, "name one of these nodes")];
    };
    let mut findings = Vec::new();
    let pods =
        inventory.pods_on(name).map(|pod| (format!("pod {}", pod.full_name()), State::Warn, &pod.netns));
    let mut open = 0;
    for (what, state, netns) in std::iter::once((what.clone(), State::Missing, &node.netns)).chain(pods) {
        match Netns::open(netns) {
            Ok(_) => open += 1,
            Err(error) => {
                let remedy = "start it, or bring the inventory up to date";
                findings.push(Finding::bad(&what, state, error.to_string(), remedy));
            }
        }
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
    fn versions_are_read_from_releases() {
        assert_eq!(version("6.1.0-18-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("5.10.0"), Some((5, 10)));
        assert_eq!(version("6.18+"), Some((6, 18)));
        assert_eq!(version("custom"), None);
        assert_eq!(kernel("5.4.0", Some((5, 4))).state, State::Missing);
        assert_eq!(kernel("?", None).state, State::Warn);
        assert_eq!(ring_buffer(Some((5, 7))).state, State::Missing);
    }

    #[test]
    fn tracepoints_are_found_in_the_strings_of_btf() {
        let btf = |names: &[&str]| {
            let strings = format!("\0int\0{}\0", names.join("\0"));
            let mut btf = Vec::from(0xeb9f_u16.to_ne_bytes());
            btf.extend([1, 0]);
            for word in [24, 0, 4, 4, strings.len() as u32] {
                btf.extend(word.to_ne_bytes());
            }
            btf.extend(*b"type");
            btf.extend(strings.as_bytes());
            btf
        };
        let all: Vec<String> =
            PROGRAMS.iter().map(|program| format!("btf_trace_{}", program.tracepoint)).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(tracepoints(Ok(btf(&all))).state, State::Ok);
        let one_less = tracepoints(Ok(btf(&all[1..])));
        assert_eq!(one_less.state, State::Warn);
        assert!(one_less.detail.ends_with(&format!("not {}", PROGRAMS[0].tracepoint)), "{one_less:?}");
        assert_eq!(tracepoints(Ok(btf(&["btf_trace_other"]))).state, State::Missing);
        assert_eq!(tracepoints(Ok(btf(&all)[..30].to_vec())).state, State::Missing);
        assert_eq!(tracepoints(Ok(Vec::new())).state, State::Missing);
        assert_eq!(tracepoints(Err(io::ErrorKind::NotFound.into())).state, State::Missing);
    }

    #[test]
    fn modes_limits_and_symbols_are_judged() {
        let lockdown = |text: &str| lockdown(Ok(text.to_owned())).state;
        assert_eq!(lockdown("none [integrity] confidentiality\n"), State::Ok);
        assert_eq!(lockdown("none integrity [confidentiality]\n"), State::Missing);
        assert_eq!(lockdown("garbage"), State::Warn);
        assert_eq!(memlock(Some((6, 1)), Ok(String::new())).state, State::Ok);
        let limits = "Max locked memory         unlimited            unlimited            bytes\n";
        assert_eq!(memlock(Some((5, 10)), Ok(limits.to_owned())).state, State::Ok);
        let symbols = |text: &str| kallsyms(Ok(text.to_owned())).state;
        assert_eq!(symbols("ffffffff81000000 T _stext\n"), State::Ok);
        assert_eq!(symbols("0000000000000000 T _stext\n"), State::Warn);
    }
}
