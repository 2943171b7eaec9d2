//! The packets of a check, read by a tool that is not ours.

mod common;

use std::path::Path;
use std::process::Command;

use common::{PROGRAM, Testbed, privileged, text};

/// Behind UDP's port: not the one that IANA gave VXLAN, so nobody knows what is inside unless told.
const FLANNEL: [&str; 2] = ["-d", "udp.port==8472,vxlan"];

fn has_tshark() -> bool {
    let there = Command::new("tshark").arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(there || std::env::var_os("CI").is_none(), "tshark is needed, and under CI nothing is skipped");
    if !there {
        eprintln!("SKIPPED: reading packets needs tshark");
    }
    there
}

/// Some fields of each packet that a filter shows.
fn read(file: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(file).args(FLANNEL).args(["-Y", filter, "-T", "fields"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let output = tshark.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
fn packets_are_written_for_other_tools() {
    if !privileged("capturing packets") || !has_tshark() {
        return;
    }
    let testbed = Testbed::named();
    testbed.succeed(&["up", "--dataplane", "bridge-vxlan"]);
    let folder = tempfile::tempdir().unwrap();
    let controller = format!("unix:{}", testbed.folder().join("controller.sock").display());
    let check = |destination: &str, file: &Path, code: i32| {
        let mut waymark = Command::new(Path::new(PROGRAM).with_file_name("waymark"));
        waymark.args([
            "check",
            "pod/shop/cart",
            destination,
            "--controller",
            &controller,
            "-c",
            "1",
            "--wide",
        ]);
        let asked = waymark.arg("--pcapng").arg(file).output().unwrap();
        assert_eq!(asked.status.code(), Some(code), "{}", text(&asked.stderr));
        text(&asked.stderr)
    };

    let healthy = folder.path().join("healthy.pcapng");
    check("pod/shop/pay-2:80", &healthy, 0);
    assert_eq!(read(&healthy, "_ws.malformed", &["frame.number"]), Vec::<Vec<String>>::new());
    let all = read(&healthy, "tcp", &["frame.interface_name", "frame.comment", "frame.time_relative"]);
    let begin = |line: &[String], name: &str| line[0].starts_with(name);
    assert!(
        begin(&all[0], "node1/") && all[0][0].ends_with("-shop-cart eth0 netfilter-output"),
        "{:?}",
        all[0]
    );
    assert_eq!(all[0][1], "packet 0: passes the hook");
    let answer =
        |line: &Vec<String>| line[1].starts_with("answer to packet 0: seen") && begin(line, "node3/");
    assert!(all.iter().any(answer), "{all:?}");
    let tracked = |line: &Vec<String>| line[0].ends_with("qdisc") && line[1].contains("; conntrack NEW tcp ");
    assert!(all.iter().any(tracked), "{all:?}");
    let forward = |hook: &str| {
        all.iter().position(|line| line[1].starts_with("packet") && line[0].ends_with(hook)).unwrap()
    };
    assert!(forward("cni0 driver-rx") < forward("cni0 netfilter-prerouting"), "{all:?}");
    assert!(forward("flannel.1 netfilter-postrouting") < forward("flannel.1 qdisc"), "{all:?}");
    let times: Vec<f64> = all.iter().map(|line| line[2].parse().unwrap()).collect();
    assert!(times.is_sorted() && times[0] == 0.0, "{times:?}");
    // The tunnel is there with what is inside it.
    let inside = read(&healthy, "vxlan.vni == 1 && tcp.dstport == 80", &["frame.interface_name"]);
    assert!(inside.iter().any(|line| line[0].ends_with("eth0 driver-tx") && line[0].starts_with("node1/")));
    assert!(inside.iter().any(|line| line[0].ends_with("eth0 driver-rx") && line[0].starts_with("node3/")));

    testbed.succeed(&["fault", "inject", "forward-drop"]);
    let dropped = folder.path().join("dropped.pcapng");
    check("pod/shop/pay-1:80", &dropped, 1);
    let ends = read(&dropped, "frame.comment contains \"dropped\"", &["frame.comment", "tcp.dstport"]);
    assert!(ends.iter().all(|line| line[0].starts_with("packet 0: dropped") && line[1] == "80"), "{ends:?}");
    assert!(!ends.is_empty());

    let told = check("pod/shop/pay-1:80", Path::new("/nonexistent/x.pcapng"), 73);
    assert!(told.contains("cannot write /nonexistent/x.pcapng: No such file"), "{told}");
}
