//! Netfilter, as its own tools print it.
//!
//! Starting a process costs more than all other facts of a namespace together, so netlink is asked first
//! what there is, and only the tools that have something to tell are started; those run side by side.
//! `iptables-legacy-save` is also kept from namespaces without legacy tables because asking it may create
//! them: `/proc/net/ip_tables_names` tells which exist.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use waymark_proto::{IptablesBackend, IptablesDump, NetfilterFacts};

use super::Missing;
use super::command::{self, CommandError, Running};
use super::nfnetlink::{self, NftTable};
use crate::nftrace::TABLE_PREFIX;

/// The tables of iptables, which iptables-nft keeps under the same names.
const IPTABLES_TABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const FAMILIES: [(u8, bool); 2] = [(2, false), (10, true)];

/// The tools of this machine. Found once, for all namespaces.
pub(super) struct Tools {
    nft: Option<PathBuf>,
    ipset: Option<PathBuf>,
    /// Whether `iptables` without suffix is the legacy one; `None` if it is not there.
    plain_is_legacy: Option<bool>,
}

impl Tools {
    /// Looks for the tools.
    pub(super) fn find() -> Self {
        let suffixed = ["iptables-legacy-save", "iptables-nft-save"].map(command::find);
        let plain_is_legacy = if suffixed.iter().all(Option::is_some) { None } else { plain_is_legacy() };
        Self { nft: command::find("nft"), ipset: command::find("ipset"), plain_is_legacy }
    }

    /// The dumping tool of a back end and family, and its name if it is not there.
    fn save(&self, backend: IptablesBackend, ipv6: bool) -> Result<PathBuf, String> {
        let family = if ipv6 { "ip6tables" } else { "iptables" };
        let (suffix, legacy) = match backend {
            IptablesBackend::Legacy => ("legacy", true),
            IptablesBackend::Nft => ("nft", false),
        };
        let suffixed = format!("{family}-{suffix}-save");
        let plain =
            || (self.plain_is_legacy == Some(legacy)).then(|| command::find(&format!("{family}-save")));
        command::find(&suffixed).or_else(|| plain().flatten()).ok_or(suffixed)
    }
}

/// `iptables -V` ends with `(legacy)` or `(nf_tables)`; before 1.8 there was only legacy.
fn plain_is_legacy() -> Option<bool> {
    let version = command::start(&command::find("iptables")?, &["-V"]).and_then(Running::output).ok()?;
    Some(!version.contains("nf_tables"))
}

/// A tool that was started, with what its output is.
struct Dumping {
    ipv6: bool,
    backend: IptablesBackend,
    running: Running,
}

/// The tools at work for one namespace.
pub(super) struct Started {
    nft: Option<Running>,
    iptables: Vec<Dumping>,
    ipset: Option<Running>,
}

/// Starts the tools that have something to tell about the thread's namespace.
pub(super) fn start(tools: &Tools, missing: &mut Missing) -> Started {
    let tables = match nfnetlink::nft_tables() {
        Ok(tables) => tables,
        // A kernel without nf_tables has no rules there.
        Err(error) if error.is_unsupported() => Vec::new(),
        Err(error) => {
            missing.note("netfilter.nft", error.to_string());
            Vec::new()
        }
    };
    Started {
        nft: start_nft(tools, &tables, missing),
        iptables: start_iptables(tools, &tables, missing),
        ipset: start_ipset(tools, missing),
    }
}

impl Started {
    /// Waits for the tools and keeps what they print.
    pub(super) fn finish(self, missing: &mut Missing) -> NetfilterFacts {
        let ipset = self.ipset.and_then(|running| missing.or_note("netfilter.ipset", running.output()));
        NetfilterFacts {
            nft: self.nft.and_then(|running| finish_nft(running, missing)),
            iptables: self.iptables.into_iter().filter_map(|dump| finish_iptables(dump, missing)).collect(),
            ipset: ipset.filter(|text| !text.trim().is_empty()),
        }
    }
}

fn start_nft(tools: &Tools, tables: &[NftTable], missing: &mut Missing) -> Option<Running> {
    let foreign = tables.iter().filter(|table| !table.name.starts_with(TABLE_PREFIX)).count();
    if foreign == 0 {
        return None;
    }
    let Some(nft) = &tools.nft else {
        missing.note("netfilter.nft", format!("there are {foreign} tables, and nft is not installed"));
        return None;
    };
    missing.or_note("netfilter.nft", command::start(nft, &["-j", "list", "ruleset"]))
}

fn finish_nft(running: Running, missing: &mut Missing) -> Option<Value> {
    let text = missing.or_note("netfilter.nft", running.output())?;
    match serde_json::from_str(&text) {
        Ok(ruleset) => Some(without_own_tables(ruleset)),
        Err(error) => {
            missing.note("netfilter.nft", format!("the output of nft is not JSON: {error}"));
            None
        }
    }
}

/// Leaves Waymark's own tables out, and what is in them.
fn without_own_tables(mut ruleset: Value) -> Value {
    let is_own = |entry: &Value| {
        let (kind, body) = entry.as_object()?.iter().next()?;
        let table = body.get(if kind == "table" { "name" } else { "table" })?;
        Some(table.as_str()?.starts_with(TABLE_PREFIX))
    };
    if let Some(entries) = ruleset.get_mut("nftables").and_then(Value::as_array_mut) {
        entries.retain(|entry| is_own(entry) != Some(true));
    }
    ruleset
}

fn start_iptables(tools: &Tools, tables: &[NftTable], missing: &mut Missing) -> Vec<Dumping> {
    let mut dumping = Vec::new();
    for backend in [IptablesBackend::Legacy, IptablesBackend::Nft] {
        for (family, ipv6) in FAMILIES {
            let present = match backend {
                IptablesBackend::Legacy => {
                    missing.or_note("netfilter.iptables", legacy_tables(ipv6)).unwrap_or_default()
                }
                IptablesBackend::Nft => tables
                    .iter()
                    .any(|table| table.family == family && IPTABLES_TABLES.contains(&table.name.as_str())),
            };
            if !present {
                continue;
            }
            let started = match tools.save(backend, ipv6) {
                Ok(tool) => command::start(&tool, &[]).map_err(|error: CommandError| error.to_string()),
                Err(tool) => Err(format!("there are tables, and {tool} is not installed")),
            };
            if let Some(running) = missing.or_note("netfilter.iptables", started) {
                dumping.push(Dumping { ipv6, backend, running });
            }
        }
    }
    dumping
}

fn finish_iptables(dumping: Dumping, missing: &mut Missing) -> Option<IptablesDump> {
    let Dumping { ipv6, backend, running } = dumping;
    let output = missing.or_note("netfilter.iptables", running.output())?;
    // Comments tell when it was generated, which would make equal facts differ.
    let lines = output.lines().filter(|line| !line.starts_with('#'));
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    // Native tables under iptables' names are none to iptables-nft-save; `nft` tells about them.
    text.lines().any(|line| line.starts_with('*')).then_some(IptablesDump { ipv6, backend, text })
}

/// Whether the thread's namespace has tables of `x_tables`. Asking makes none.
///
/// `/proc/net` follows the process; the thread's own view is needed. The file is not there while
/// `x_tables` is not loaded.
pub(crate) fn legacy_tables(ipv6: bool) -> io::Result<bool> {
    let file = if ipv6 { "ip6_tables_names" } else { "ip_tables_names" };
    let path = Path::new("/proc/thread-self/net").join(file);
    match fs::read_to_string(&path) {
        Ok(names) => Ok(!names.trim().is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))),
    }
}

fn start_ipset(tools: &Tools, missing: &mut Missing) -> Option<Running> {
    // Asking a kernel that has not loaded it would load it.
    if !Path::new("/sys/module/ip_set").exists() {
        return None;
    }
    match nfnetlink::has_ipsets() {
        Ok(true) => {}
        Ok(false) => return None,
        Err(error) if error.is_unsupported() => return None,
        Err(error) => {
            missing.note("netfilter.ipset", error.to_string());
            return None;
        }
    }
    let Some(ipset) = &tools.ipset else {
        missing.note("netfilter.ipset", "there are sets, and ipset is not installed".to_owned());
        return None;
    };
    missing.or_note("netfilter.ipset", command::start(ipset, &["save"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_tables_are_left_out_with_what_is_in_them() {
        let ruleset = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1"}},
            {"table": {"family": "inet", "name": "waymark_trace", "handle": 1}},
            {"chain": {"family": "inet", "table": "waymark_trace", "name": "first"}},
            {"rule": {"family": "inet", "table": "waymark_trace", "chain": "first", "expr": []}},
            {"set": {"family": "inet", "table": "waymark_trace", "name": "markers"}},
            {"table": {"family": "ip", "name": "filter", "handle": 2}},
            {"rule": {"family": "ip", "table": "filter", "chain": "waymark_like", "expr": []}},
        ]});
        let left = without_own_tables(ruleset);
        let kinds: Vec<&str> = left["nftables"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|entry| entry.as_object().unwrap().keys().map(String::as_str))
            .collect();
        assert_eq!(kinds, ["metainfo", "table", "rule"]);
    }
}
