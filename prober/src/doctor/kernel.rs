//! What the running kernel must have, judged from the files that tell it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};

use caps::{CapSet, Capability};
use waymark_tracer_ebpf::PROGRAMS;

use super::{Finding, State};
pub(super) use crate::facts::kernel_version as version;

/// `tp_btf` came with 5.5, and the partial structs of the tracer were tried from 5.10 on.
pub(super) fn kernel(release: &str, version: Option<(u32, u32)>) -> Finding {
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
pub(super) fn tracepoints(btf: io::Result<Vec<u8>>) -> Finding {
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

pub(super) fn ring_buffer(version: Option<(u32, u32)>) -> Finding {
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

/// Makes the table with which rules are traced, in a namespace of its own.
pub(super) fn rule_traces(tried: io::Result<()>) -> Finding {
    let what = "rule traces";
    match tried {
        Ok(()) => Finding::ok(what, "the kernel takes the table that has them told"),
        Err(error) => Finding::bad(
            what,
            State::Warn,
            format!("the kernel does not take the table that has them told: {error}"),
            "netfilter hooks are not observable: give the agent CAP_NET_ADMIN and CAP_SYS_ADMIN, and the kernel nf_tables",
        ),
    }
}

/// Ring buffer and maps together stay well below this many bytes.
const ENOUGH_MEMORY: u64 = 64 << 20;

/// Since 5.11 BPF memory is charged to the cgroup, and the limit no longer matters.
pub(super) fn memlock(version: Option<(u32, u32)>, limits: io::Result<String>) -> Finding {
    let what = "locked memory";
    if version.is_some_and(|version| version >= (5, 11)) {
        return Finding::ok(what, "BPF maps are not limited by it since kernel 5.11");
    }
    let limits = limits.unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = line.and_then(|line| line.split_whitespace().next()).unwrap_or("unknown");
    let raises = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).unwrap_or(false);
    if soft == "unlimited" || raises || soft.parse::<u64>().is_ok_and(|bytes| bytes >= ENOUGH_MEMORY) {
        return Finding::ok(what, format!("limit {soft}"));
    }
    let detail = format!("limit {soft} bytes, which bounds BPF maps before kernel 5.11");
    Finding::bad(what, State::Warn, detail, "`ulimit -l unlimited`, or grant CAP_SYS_RESOURCE")
}

/// The first bytes of a file that is too long to be read whole.
pub(super) fn start_of(path: &str) -> io::Result<String> {
    let mut start = String::new();
    File::open(path)?.take(4096).read_to_string(&mut start)?;
    Ok(start)
}

pub(super) fn kallsyms(start: io::Result<String>) -> Finding {
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

/// Network cards leave larger packets in pages, whose memory is found by two variables of the kernel.
pub(super) fn pages(readable: bool) -> Finding {
    let what = "packets in pages";
    if readable {
        return Finding::ok(what, "larger packets that network cards leave in pages can be read");
    }
    let detail = "/proc/kallsyms does not tell vmemmap_base and page_offset_base: larger packets are not seen where a \
                  network card receives them, and results say so";
    Finding::bad(
        what,
        State::Warn,
        detail,
        "use a kernel with CONFIG_KALLSYMS_ALL, on x86; distributions' kernels have it",
    )
}

/// Lockdown "confidentiality" keeps BPF from reading kernel memory (`LOCKDOWN_BPF_READ_KERNEL`);
/// "integrity" leaves the tracepoints of the floor tier alone.
pub(super) fn lockdown(modes: io::Result<String>) -> Finding {
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
        assert_eq!(rule_traces(Ok(())).state, State::Ok);
        assert_eq!(rule_traces(Err(io::Error::other("no"))).state, State::Warn);
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
