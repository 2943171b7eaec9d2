//! A node of network namespaces for one test, removed when dropped.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use waymark_prober::netns::Netns;
use waymark_proto::{Facts, Inventory, NetnsFacts, NetnsName, NodeName};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Whether the test can run. In CI it must.
pub(crate) fn privileged(test: &str) -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    assert!(root || std::env::var("CI").as_deref() != Ok("true"), "{test} needs root");
    if !root {
        eprintln!("{test}: skipped, needs root");
    }
    root
}

/// Runs a command, with text for its standard input; its standard output.
pub(crate) fn run(line: &[&str], input: &str) -> String {
    let mut child = Command::new(line[0])
        .args(&line[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{line:?}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line:?} with {input:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// A network namespace.
pub(crate) struct Ns {
    pub(crate) name: String,
}

impl Ns {
    pub(crate) fn new(role: &str) -> Self {
        let name = format!("wmf{}-{}-{role}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        run(&["ip", "netns", "add", &name], "");
        let ns = Self { name };
        // Without duplicate address detection, addresses and their routes are there at once.
        ns.set("ipv6/conf/default/accept_dad", "0");
        ns.ip("link set lo up");
        ns
    }

    /// Runs `ip` with lines of arguments.
    pub(crate) fn ip(&self, lines: &str) {
        run(&["ip", "-n", &self.name, "-batch", "-"], lines);
    }

    /// Runs a command inside.
    pub(crate) fn exec(&self, line: &[&str], input: &str) -> String {
        run(&[&["ip", "netns", "exec", &self.name], line].concat(), input)
    }

    /// Sets a sysctl below `/proc/sys/net`.
    pub(crate) fn set(&self, path: &str, value: &str) {
        let file = format!("/proc/sys/net/{path}");
        self.inside(|| std::fs::write(&file, value)).unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        Netns::open(&NetnsName::from(self.name.as_str())).unwrap().run(work).unwrap()
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// An inventory of one node `n` with pods `shop/p0`, `shop/p1`, ….
pub(crate) fn inventory(node: &Ns, pods: &[&str]) -> Inventory {
    let pods = pods.iter().enumerate().map(|(number, netns)| {
        serde_json::json!({
            "namespace": "shop", "name": format!("p{number}"), "node": "n", "netns": netns,
            "ip": format!("10.9.1.{number}"),
        })
    });
    let json = serde_json::json!({
        "nodes": [{"name": "n", "netns": node.name, "ip": "10.9.0.1"}],
        "pods": pods.collect::<Vec<_>>(),
    });
    Inventory::from_json(json.to_string().as_bytes()).unwrap()
}

/// Collects the facts of node `n`.
pub(crate) fn collect(node: &Ns, pods: &[&str]) -> Facts {
    waymark_prober::facts::collect(&inventory(node, pods), &NodeName::from("n")).unwrap()
}

/// The index of a device.
pub(crate) fn index(facts: &NetnsFacts, name: &str) -> u32 {
    facts.links.iter().find(|link| link.name == name).unwrap_or_else(|| panic!("no device {name}")).index
}
