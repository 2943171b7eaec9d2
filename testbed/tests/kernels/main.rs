//! Waymark on kernels of Debian's releases, each booted in QEMU with this machine's root.
//!
//! * `cache`: what `testbed/kernels/fetch.sh` fetched
//! * `initramfs`, with `init.sh`: what a guest boots from
//! * `guest`, with `guest.sh`: a machine that runs commands
//! * `programs`: what is run in it
//! * `matrix`: what every kernel is asked
//! * `table`: the providers of each hook, as a README has them
//! * `pair`: a cluster of two kernels
//!
//! The oldest and the newest kernel are asked with every change, for what is between them differs from one of them in
//! little; `make test-kernels` asks all. Who serves which hook all are asked always.

mod cache;
mod guest;
mod initramfs;
mod matrix;
mod pair;
mod programs;
mod table;

use std::time::Duration;

use cache::Kernel;
use matrix::{Extent, asked};
use pair::Pair;
use serde_json::Value;

/// 5.10.
#[test]
fn the_oldest_kernel() {
    asked("bullseye", Extent::Brief);
}

/// Whatever is newest.
#[test]
fn the_newest_kernel() {
    asked("sid", Extent::Brief);
}

/// 5.10, all of it.
#[test]
#[ignore = "`make test-kernels` runs it"]
fn bullseye() {
    asked("bullseye", Extent::Full);
}

/// 6.1.
#[test]
#[ignore = "`make test-kernels` runs it"]
fn bookworm() {
    asked("bookworm", Extent::Full);
}

/// 6.12.
#[test]
#[ignore = "`make test-kernels` runs it"]
fn trixie() {
    asked("trixie", Extent::Full);
}

/// Whatever is newest, all of it.
#[test]
#[ignore = "`make test-kernels` runs it"]
fn sid() {
    asked("sid", Extent::Full);
}

#[test]
fn every_kernel_serves_the_hooks_that_the_readme_says() {
    for release in ["bullseye", "bookworm", "trixie", "sid"] {
        matrix::told(release);
    }
}

/// The steps of a way that somebody saw, as `node2 driver-rx eth0`, in order.
fn seen(way: &Value) -> Vec<String> {
    let steps = way["steps"].as_array().expect("a way has steps").iter();
    let seen = steps.filter(|step| step["agreement"] == "seen").map(|step| &step["observed"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    seen.map(|step| format!("{} {} {}", text(&step["node"]), text(&step["hook"]), text(&step["device"])))
        .collect()
}

#[test]
fn two_kernels_are_one_cluster() {
    let (Some(first), Some(second)) = (Kernel::find("bookworm"), Kernel::find("trixie")) else { return };
    let mut pair = Pair::up([&first, &second]);

    // `virtio_net` copies small packets, and leaves larger ones in pages.
    for size in [60, 1400] {
        let (status, result) = pair.check(&format!("--wide --size {size}"));
        assert_eq!((status, &result["verdict"]), (0, &Value::from("Reachable")), "{result:#}");
        assert_eq!((&result["sent"], &result["replied"]), (&5.into(), &5.into()), "{result:#}");
        // Both kernels saw the same packets, outside of the tunnel and inside.
        for (way, steps) in [
            (
                "forward",
                [
                    "node1 driver-tx flannel.1",
                    "node1 driver-tx eth0",
                    "node2 driver-rx eth0",
                    "node2 driver-rx flannel.1",
                ],
            ),
            (
                "return",
                [
                    "node2 driver-tx flannel.1",
                    "node2 driver-tx eth0",
                    "node1 driver-rx eth0",
                    "node1 driver-rx flannel.1",
                ],
            ),
        ] {
            let seen = seen(&result[way]);
            let mut rest = seen.iter();
            let missing = steps.iter().find(|step| !rest.any(|seen| seen == *step));
            assert_eq!(
                missing, None,
                "{size} {way}: not in this order in {seen:#?}, {}",
                result["notObservable"]
            );
        }
    }

    for line in [
        "nft add table ip wall",
        "nft add chain ip wall stop '{ type filter hook forward priority 0; }'",
        "nft add rule ip wall stop ip daddr 10.244.2.10 drop",
    ] {
        pair.nodes[1].succeed(line, Duration::from_secs(60));
    }
    pair.finds("netfilter-forward", Some("wall"));
    for line in [
        "nft delete table ip wall",
        "nft add table netdev gate",
        "nft add chain netdev gate stop '{ type filter hook ingress device \"flannel.1\" priority 0; }'",
        "nft add rule netdev gate stop ip daddr 10.244.2.10 drop",
    ] {
        pair.nodes[1].succeed(line, Duration::from_secs(60));
    }
    pair.finds("driver-rx", None);
}
