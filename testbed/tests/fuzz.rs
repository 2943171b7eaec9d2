//! The predictor held to the kernel: random configurations, and what the kernel did with cases that were wrong once.

use std::path::Path;

use waymark_testbed::{FuzzOptions, check_fixture, fuzz};

/// Packets that are compared with every change; `make fuzz-kernel` plays as many as one likes.
const CASES: u64 = 10_000;

#[test]
fn kernel_and_prediction_agree() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "the kernel is asked in namespaces, which needs root");
        eprintln!("skipped: the kernel is asked in namespaces, which needs root");
        return;
    }
    let options = FuzzOptions { seed: 1, cases: CASES, packets: 100, failures: 3, fixtures: None };
    let report = fuzz(&options, |_| {}).expect("cases can be played");
    println!("{report}");
    assert!(report.failures.is_empty(), "{report}");
    assert!(report.packets >= CASES);
    let in_part: u64 = report.unknown.values().sum();
    assert!(in_part * 20 < report.packets, "of too many the prediction does not know the end: {report}");
}

#[test]
fn what_the_kernel_did_is_what_is_predicted() {
    let folder = Path::new("tests/fuzzed");
    let files = std::fs::read_dir(folder).expect("the fixtures are there");
    let mut checked = 0;
    for file in files {
        let file = file.expect("the folder can be read").path();
        if let Err(error) = check_fixture(&file) {
            panic!("{error}");
        }
        checked += 1;
    }
    assert!(checked > 0, "there are no fixtures in {}", folder.display());
}
