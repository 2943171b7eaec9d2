//! What every kernel is asked: whether it takes the programs, the tracer's own tests, and a few faults of the
//! catalogue in a testbed.

use std::time::Duration;

use serde_json::Value;
use waymark_proto::HookReport;

use crate::cache::Kernel;
use crate::guest::Guest;
use crate::{programs, table};

/// Longer than any test takes in a guest.
const LIMIT: Duration = Duration::from_secs(1800);

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// What takes some two minutes.
    Brief,
    /// The tests of facts too, and all faults that are tried with every change.
    Full,
}

/// The tests that are passed, with the extent from which on.
const TESTS: [(Extent, &str); 12] = [
    (Extent::Brief, "prober/trace"),
    (Extent::Brief, "prober/oracle"),
    (Extent::Brief, "prober/links"),
    (Extent::Brief, "prober/metadata"),
    (Extent::Brief, "prober/live"),
    (Extent::Brief, "prober/killed"),
    (Extent::Full, "prober/deep"),
    (Extent::Full, "prober/fragments"),
    (Extent::Full, "prober/beside"),
    (Extent::Full, "prober/doctor"),
    (Extent::Full, "prober/legacy"),
    (Extent::Full, "prober/facts"),
];

/// What of a test is enough for a brief look, by what the names contain; of others all.
const BRIEF: [(&str, &str); 4] = [
    ("prober/trace", "every_hook"),
    ("prober/trace", "a_rule_that_drops"),
    ("prober/trace", "are_all_served"),
    ("prober/live", "every_packet_is_seen"),
];

/// Faults that lie in different places: a rule, the tunnel, the underlay, a device.
const FAULTS: [&str; 4] = ["nft-forward-drop", "wrong-vni", "underlay-drop", "xdp-generic-drop"];

/// What a node does has modules loaded that have functions of interest: VXLAN, conntrack, bridges.
const MODULES: [&str; 3] = [
    "ip link add wm0 type vxlan id 1 dstport 4789 && ip link del wm0",
    "ip link add wm0 type bridge && ip link del wm0",
    "nft 'add table inet t; add chain inet t c; add rule inet t c ct state new; delete table inet t'",
];

/// Asks the kernel of a release, if it is to be had.
pub fn asked(release: &'static str, extent: Extent) {
    let Some(kernel) = Kernel::find(release) else { return };
    let mut guest = Guest::boot(&kernel);
    takes_the_programs(&mut guest);
    for (_, name) in TESTS.into_iter().filter(|(from, _)| *from <= extent) {
        passes(&mut guest, name, extent);
    }
    localizes(&mut guest, extent);
}

/// Where packets can be seen on the kernel of a release, by what a README has of it.
pub fn told(release: &'static str) {
    let Some(kernel) = Kernel::find(release) else { return };
    let mut guest = Guest::boot(&kernel);
    for command in MODULES {
        guest.succeed(command, LIMIT);
    }
    let reports = guest.succeed(&format!("{} hooks -o json", programs::path("waymark-agent")), LIMIT);
    let reports: Vec<HookReport> = serde_json::from_str(&reports).expect("the agent says it in JSON");
    table::agrees(&kernel.version, &reports);
}

/// `waymark-agent doctor` lacks nothing.
fn takes_the_programs(guest: &mut Guest) {
    let report = guest.succeed(&format!("{} doctor", programs::path("waymark-agent")), LIMIT);
    println!("{report}");
    assert!(report.contains("the kernel accepts all of its programs"), "{report}");
    let lacks: Vec<_> = report.lines().filter(|line| !line.starts_with(['✓', ' '])).collect();
    assert_eq!(lacks, Vec::<&str>::new());
}

/// A test of the workspace passes.
fn passes(guest: &mut Guest, name: &str, extent: Extent) {
    // One at a time: a guest is slow, and what they wait for has limits.
    let mut command = format!("{} --test-threads=1 --include-ignored", programs::test(name));
    let enough = BRIEF.iter().filter(|(test, _)| extent == Extent::Brief && *test == name);
    command.extend(enough.map(|(_, part)| format!(" {part}")));
    let ran = guest.run(&command, LIMIT);
    println!("{name} on {}, {:.0?}:\n{}", guest.kernel.version, ran.took, ran.text);
    assert_eq!(ran.status, 0, "{name} on {}", guest.kernel.version);
}

/// Faults of the catalogue are named, and nothing is accused in healthy flows.
///
/// `accuracy` itself asks for more: that nothing else is told. But a guest is so slow that packets are late, and then
/// that is told, too.
fn localizes(guest: &mut Guest, extent: Extent) {
    let which = match extent {
        Extent::Brief => FAULTS.map(|fault| format!(" --fault {fault}")).concat(),
        Extent::Full => " --subset".to_owned(),
    };
    let command = format!(
        "{} accuracy --name guest --dataplane bridge-vxlan --healthy 4{which} --output json 2>/run/accuracy.log",
        programs::path("waymark-testbed")
    );
    let ran = guest.run(&command, LIMIT);
    let report: Value = serde_json::from_str(&ran.text).unwrap_or_else(|error| {
        let log = guest.run("cat /run/accuracy.log", LIMIT).text;
        panic!("no report on {}: {error}: {}\n{log}", guest.kernel.version, ran.text)
    });
    let of =
        |what: &str| report["dataplanes"][0][what].as_array().expect("a report has faults and flows").clone();
    let (faults, healthy) = (of("faults"), of("healthy"));
    println!(
        "accuracy on {}, {:.0?}: {} faults, {} flows",
        guest.kernel.version,
        ran.took,
        faults.len(),
        healthy.len()
    );
    assert!(faults.len() >= FAULTS.len() && healthy.len() == 4, "{report:#}");
    let wrong: Vec<_> = faults.iter().filter(|fault| !is_named(fault)).collect();
    assert!(wrong.is_empty(), "not named on {}: {wrong:#?}", guest.kernel.version);
    let accused: Vec<_> = healthy.iter().map(|flow| &flow["got"]).filter(|got| accuses(got)).collect();
    assert!(accused.is_empty(), "accused on {}: {accused:#?}", guest.kernel.version);
}

/// Whether place, cause, direction and object of a fault were named, whatever else was.
fn is_named(fault: &Value) -> bool {
    let (got, cause) = (&fault["got"], &fault["expected"]["cause"]);
    let anomalies = got["anomalies"].as_array().into_iter().flatten();
    let mut causes = anomalies.chain([&got["point"]]).map(|named| &named["cause"]);
    let right = |what: &str| fault[what] == true;
    right("rightHook")
        && right("rightDirection")
        && fault["rightObject"] != false
        && causes.any(|named| named == cause)
}

/// Whether an answer says that something is broken, or is none.
fn accuses(got: &Value) -> bool {
    !got["point"].is_null() || got["verdict"].is_null() || got["verdict"] == "Unreachable"
}

#[test]
fn delays_beside_a_fault_are_no_mistake() {
    let fault = |point: &str, anomaly: &str| {
        serde_json::json!({
            "expected": {"cause": "filter-drop"}, "rightHook": true, "rightDirection": true,
            "got": {"verdict": "Unreachable", "point": {"cause": point}, "anomalies": [{"cause": anomaly}]},
        })
    };
    assert!(is_named(&fault("filter-drop", "delay")));
    assert!(!is_named(&fault("silent-loss", "delay")));
    assert!(accuses(&fault("filter-drop", "delay")["got"]) && accuses(&serde_json::json!({"error": "none"})));
    assert!(!accuses(&serde_json::json!({"verdict": "Inconsistent", "anomalies": [{"cause": "delay"}]})));
}
