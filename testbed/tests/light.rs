//! A check looks lightly first, at all hooks only where that shows something, and has rules traced only where they may
//! tell more.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use common::{PROGRAM, Testbed, privileged, text};
use waymark_prober::netns::Netns;
use waymark_testbed::AGENT_METRICS;

/// How many checks the agents of all nodes have armed, by the set of hooks: light, wide, all.
fn armed(testbed: &Testbed) -> [u64; 3] {
    let pages: Vec<String> = testbed.cluster().nodes.iter().map(|node| page(&node.netns)).collect();
    ["light", "wide", "all"].map(|hooks| {
        let name = format!("waymark_agent_armed_checks_total{{hooks=\"{hooks}\"}} ");
        let counts = pages.iter().flat_map(|page| page.lines()).filter_map(|line| line.strip_prefix(&name));
        counts.map(|count| count.parse::<u64>().unwrap()).sum()
    })
}

fn page(netns: &str) -> String {
    let ask = || {
        let mut stream = TcpStream::connect(AGENT_METRICS).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    };
    Netns::open(&netns.into()).unwrap().run(ask).unwrap()
}

#[test]
fn a_healthy_check_attaches_no_wide_set() {
    if !privileged("looking lightly") {
        return;
    }
    let testbed = Testbed::named();
    testbed.succeed(&["up", "--dataplane", "bridge-vxlan"]);
    let controller = format!("unix:{}", testbed.folder().join("controller.sock").display());
    let check = |to: &str, options: &[&str]| {
        let mut client = Command::new(Path::new(PROGRAM).with_file_name("waymark"));
        client.args(["check", "pod/shop/cart", to, "--controller", &controller]).args(options);
        let output = client.output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    assert_eq!(armed(&testbed), [0, 0, 0]);
    for to in ["pod/shop/pay-1:80", "svc/shop/pay:80"] {
        let (status, said) = check(to, &[]);
        assert_eq!(status, Some(0), "{said}");
    }
    let [light, wide, all] = armed(&testbed);
    assert!(light >= 4 && [wide, all] == [0, 0], "two checks over two nodes: {light}, {wide}, {all}");
    // Whoever wants it has it.
    let (status, said) = check("pod/shop/pay-1:80", &["--wide"]);
    assert_eq!(status, Some(0), "{said}");
    let [.., asked] = armed(&testbed);
    assert!(asked > 0);
    // A light look shows that netfilter drops. What ends elsewhere, as predicted, needs no rule.
    for (fault, more) in [("forward-drop", [true, false, true]), ("blackhole-route", [true, true, false])] {
        let before = armed(&testbed);
        testbed.succeed(&["fault", "inject", fault]);
        let (status, said) = check("pod/shop/pay-1:80", &[]);
        assert_eq!(status, Some(1), "{fault}: {said}");
        let after = armed(&testbed);
        assert_eq!([0, 1, 2].map(|set| after[set] > before[set]), more, "{fault}: {before:?}, {after:?}");
        testbed.succeed(&["fault", "clear", fault]);
    }
}
