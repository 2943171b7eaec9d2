//! Counters of devices and queueing disciplines.

use std::collections::BTreeMap;
use std::process::Command;

use serde::Deserialize;
use waymark_prober::netns::Netns;
use waymark_proto::NetnsName;

/// A device of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    pub name: String,
    /// Whether packets meet a program of generic XDP there, behind the tracepoint and before taps.
    pub generic_xdp: bool,
}

/// A counter that only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// Packets that its queueing discipline dropped.
    Qdisc,
    /// Packets that filters of tc dropped; only where it has a discipline for those, which programs of tcx do not need.
    Filter,
    /// Packets that it received and nobody took.
    RxDropped,
    /// Packets that it received and that were damaged.
    RxErrors,
    /// Packets that it did not send.
    TxDropped,
    /// Packets that it could not send.
    TxErrors,
    /// Packets that it could not send for want of a carrier, or of a way for a tunnel.
    TxCarrierErrors,
}

/// What a counter counts: namespace, device, which.
pub type Place = (String, String, Counter);
/// Counters by what they count.
pub type Counts = BTreeMap<Place, u64>;

#[derive(Deserialize)]
struct IpLink {
    ifindex: u32,
    ifname: String,
    #[serde(default)]
    xdp: Option<Xdp>,
    stats64: Stats,
}

#[derive(Deserialize)]
struct Xdp {
    mode: u8,
}

#[derive(Deserialize)]
struct Stats {
    rx: BTreeMap<String, u64>,
    tx: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Qdisc {
    kind: String,
    dev: String,
    #[serde(default)]
    drops: u64,
}

/// `XDP_ATTACHED_SKB`
const GENERIC: u8 = 2;

/// The devices of a namespace with their counters.
pub fn read(netns: &str) -> (Vec<Link>, Counts) {
    let ip: Vec<IpLink> = serde_json::from_str(&run(netns, &["ip", "-j", "-s", "link"])).unwrap();
    let tc: Vec<Qdisc> = serde_json::from_str(&run(netns, &["tc", "-j", "-s", "qdisc"])).unwrap();
    let mut counts = Counts::new();
    let mut links = Vec::new();
    for IpLink { ifindex, ifname, xdp, stats64: Stats { rx, tx } } in ip {
        for (counter, side, name) in [
            (Counter::RxDropped, &rx, "dropped"),
            (Counter::RxErrors, &rx, "errors"),
            (Counter::TxDropped, &tx, "dropped"),
            (Counter::TxErrors, &tx, "errors"),
            (Counter::TxCarrierErrors, &tx, "carrier_errors"),
        ] {
            let count = side.get(name).copied().unwrap_or_default();
            counts.insert((netns.to_owned(), ifname.clone(), counter), count);
        }
        let generic_xdp = xdp.is_some_and(|xdp| xdp.mode == GENERIC);
        links.push(Link { ifindex, name: ifname, generic_xdp });
    }
    for Qdisc { kind, dev, drops } in tc {
        let is_for_filters = matches!(kind.as_str(), "clsact" | "ingress");
        let counter = if is_for_filters { Counter::Filter } else { Counter::Qdisc };
        *counts.entry((netns.to_owned(), dev, counter)).or_default() += drops;
    }
    (links, counts)
}

/// By how much each counter has risen.
pub fn risen(before: &Counts, after: &Counts) -> Counts {
    let since = |place| before.get(place).copied().unwrap_or_default();
    after.iter().map(|(place, count)| (place.clone(), count.saturating_sub(since(place)))).collect()
}

fn run(netns: &str, command: &[&str]) -> String {
    let inside = Netns::open(&NetnsName::from(netns)).unwrap();
    let output = inside.run(|| Command::new(command[0]).args(&command[1..]).output()).unwrap().unwrap();
    assert!(output.status.success(), "{command:?} in {netns}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
