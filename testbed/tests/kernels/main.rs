//! Waymark on kernels of Debian's releases, each booted in QEMU with this machine's root.
mod cache;
mod guest;
mod initramfs;
mod pair;
mod programs;

use std::time::Duration;
use cache::Kernel;
use guest::Guest;
use pair::Pair;

fn try_it(release: &'static str) {
    let Some(kernel) = Kernel::find(release) else { return };
    let t = std::time::Instant::now();
    let mut guest = Guest::boot(&kernel);
    println!("booted {:?}", t.elapsed());
    let script = std::env::var("TRY").unwrap_or("uname -a; ip link add v0 type veth peer name v1; ip -br link; modprobe ip_vs; lsmod | head; df".into());
    let ran = guest.run(&script, Duration::from_secs(1500));
    println!("{release}: {} in {:?}\n{}", ran.status, ran.took, ran.text);
}
#[test] fn bullseye() { try_it("bullseye") }
#[test] fn bookworm() { try_it("bookworm") }
#[test] fn trixie() { try_it("trixie") }
#[test] fn sid() { try_it("sid") }

#[test]
fn two() {
    let (Some(one), Some(other)) = (Kernel::find("bookworm"), Kernel::find("trixie")) else { return };
    let t = std::time::Instant::now();
    let mut pair = Pair::up([&one, &other]);
    println!("up {:?}", t.elapsed());
    let (status, result) = pair.check("--wide");
    println!("{:?} {status} {}", t.elapsed(), serde_json::to_string_pretty(&result).unwrap());
    for line in ["nft add table ip t", "nft add chain ip t f '{ type filter hook forward priority 0; }'", "nft add rule ip t f ip daddr 10.244.2.10 drop"] {
        pair.nodes[1].succeed(line, Duration::from_secs(20));
    }
    let (status, result) = pair.check("");
    println!("{:?} {status} {}", t.elapsed(), serde_json::to_string_pretty(&result["fault"]).unwrap());
}
