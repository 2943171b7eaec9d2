//! Waymark on kernels of Debian's releases, each booted in QEMU with this machine's root.
mod cache;
mod guest;
mod initramfs;

use std::time::Duration;
use cache::Kernel;
use guest::Guest;

fn try_it(release: &'static str) {
    let Some(kernel) = Kernel::find(release) else { return };
    let t = std::time::Instant::now();
    let mut guest = Guest::boot(&kernel, None);
    println!("booted {:?}", t.elapsed());
    let script = std::env::var("TRY").unwrap_or("uname -a; ip link add v0 type veth peer name v1; ip -br link; modprobe ip_vs; lsmod | head; df".into());
    let ran = guest.run(&script, Duration::from_secs(1500));
    println!("{release}: {} in {:?}\n{}", ran.status, ran.took, ran.text);
}
#[test] fn bullseye() { try_it("bullseye") }
#[test] fn bookworm() { try_it("bookworm") }
#[test] fn trixie() { try_it("trixie") }
#[test] fn sid() { try_it("sid") }
