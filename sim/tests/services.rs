//! Services of kube-proxy in both of its rule shapes, and rules of other tools.

mod support;

use support::{Dataplane, Lab, render, steps, tcp, udp};
use waymark_proto::{Action, Branch, Cause, Disposition, Hook, IptablesBackend, PathSet};

const IPTABLES: &str = include_str!("fixtures/kube-proxy-iptables.txt");
const NFT: &str = include_str!("fixtures/kube-proxy-nft.json");

/// Pods with the backends' addresses: 10.244.1.10 and 10.244.2.10 are the first pods of the lab.
fn labs(dataplane: Dataplane) -> [(&'static str, Lab); 2] {
    ["iptables", "nft"].map(|mode| {
        let mut lab = Lab::new(dataplane);
        for node in ["node1", "node2"] {
            if mode == "nft" { lab.nft(node, NFT) } else { lab.iptables(node, IPTABLES) }
        }
        (mode, lab)
    })
}

fn to(paths: &PathSet, backend: &str) -> Branch {
    let with = |branch: &&Branch| branch.choices.iter().any(|choice| choice.taken.contains(backend));
    paths
        .branches
        .iter()
        .find(with)
        .unwrap_or_else(|| panic!("no branch to {backend}\n{}", render(paths)))
        .clone()
}

#[test]
fn a_service_is_two_branches_with_answers_translated_back() {
    for dataplane in support::DATAPLANES {
        for (mode, lab) in labs(dataplane) {
            let flow = tcp("10.244.1.11", "10.96.0.10", 80);
            let paths = lab.predict("pod1-2", &flow);
            let text = render(&paths);
            assert_eq!(paths.branches.len(), 2, "{mode} {dataplane:?}\n{text}");
            for backend in ["10.244.1.10:80", "10.244.2.10:80"] {
                let branch = to(&paths, backend);
                assert_eq!(support::choices(&branch), [format!("backend {backend} (prob 0.50)")]);
                assert!((branch.probability - 0.5).abs() < 1e-9);
                assert_eq!(branch.path.disposition(), Disposition::Delivered, "{mode} {dataplane:?}\n{text}");
                let dnat = branch.path.steps().iter().find(|step| step.action == Action::Translated).unwrap();
                assert_eq!(dnat.hook, Hook::NetfilterPrerouting);
                assert!(dnat.rule.as_ref().unwrap().text.as_ref().unwrap().to_lowercase().contains("dnat"));
                assert_eq!(branch.answer.len(), 1);
                let answer = branch.answer[0].path.last();
                assert_eq!(
                    branch.answer[0].path.disposition(),
                    Disposition::Delivered,
                    "{mode} {dataplane:?}\n{text}"
                );
                assert_eq!(answer.flow, Some(flow.reversed()), "as if the Service itself had answered");
            }
        }
    }
}

#[test]
fn a_local_backend_stays_in_the_bridge() {
    let [(_, lab), _] = labs(Dataplane::HostGw);
    let branch = to(&lab.predict("pod1-2", &tcp("10.244.1.11", "10.96.0.10", 80)), "10.244.1.10");
    let in_node: Vec<String> = steps(&branch).into_iter().filter(|step| step.starts_with("node1")).collect();
    let wanted = [
        "node1 driver-rx veth1-2",
        "node1 netfilter-prerouting cni0 translated",
        "node1 bridge cni0",
        "node1 netfilter-forward cni0",
        "node1 netfilter-postrouting cni0",
        "node1 qdisc veth1-1",
        "node1 driver-tx veth1-1",
    ];
    assert_eq!(in_node, wanted);
}

#[test]
fn a_backend_that_calls_itself_is_masqueraded() {
    for (mode, lab) in labs(Dataplane::HostGw) {
        let paths = lab.predict("pod1-1", &tcp("10.244.1.10", "10.96.0.10", 80));
        let branch = to(&paths, "10.244.1.10:80");
        assert_eq!(branch.path.disposition(), Disposition::Delivered, "{mode}\n{}", render(&paths));
        let arrived = branch.path.last().flow.unwrap();
        assert_eq!(arrived.src.to_string(), "10.244.1.1", "{mode}\n{}", render(&paths));
        assert_eq!(branch.answer[0].path.disposition(), Disposition::Delivered, "{mode}\n{}", render(&paths));
    }
}

#[test]
fn a_node_reaches_a_service_masqueraded() {
    for (mode, lab) in labs(Dataplane::Vxlan) {
        let paths = lab.predict("node1", &tcp("192.168.77.1", "10.96.0.10", 80));
        let branch = to(&paths, "10.244.2.10:80");
        assert_eq!(branch.path.disposition(), Disposition::Delivered, "{mode}\n{}", render(&paths));
        assert_eq!(branch.path.last().flow.unwrap().src.to_string(), "10.244.1.0", "flannel.1's address");
        let routes = branch.path.steps().iter().filter(|step| step.hook == Hook::Route).take(2);
        let devices: Vec<_> = routes.map(|step| step.device.clone().unwrap()).collect();
        assert_eq!(devices, ["eth0", "flannel.1"], "routed again after the translation");
        assert_eq!(branch.answer[0].path.disposition(), Disposition::Delivered, "{mode}\n{}", render(&paths));
    }
}

#[test]
fn a_service_without_endpoints_is_rejected() {
    for (mode, lab) in labs(Dataplane::Routed) {
        let branch = lab.one("pod1-1", &tcp("10.244.1.10", "10.96.0.11", 80));
        let last = branch.path.last();
        assert_eq!(last.cause, Some(Cause::ServiceWithoutEndpoints), "{mode}");
        assert_eq!((last.hook, last.action), (Hook::NetfilterForward, Action::Rejected));
        assert!(last.rule.is_some());
        let other = lab.one("pod1-1", &tcp("10.244.1.10", "10.96.0.10", 81));
        if mode == "nft" {
            assert_eq!(other.path.last().cause, Some(Cause::FilterReject), "a port that the Service lacks");
        }
    }
}

#[test]
fn a_service_without_local_endpoints_is_dropped() {
    let iptables = IPTABLES.replace(
        "has no endpoints\" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable",
        "has no local endpoints\" -m tcp --dport 80 -j DROP",
    );
    let nft = NFT.replacen(r#"{"goto":{"target":"reject-chain"}}"#, r#"{"drop":null}"#, 1);
    for mode in ["iptables", "nft"] {
        let mut lab = Lab::new(Dataplane::Routed);
        if mode == "nft" {
            lab.nft("node1", &nft);
        } else {
            lab.iptables("node1", &iptables);
        }
        let branch = lab.one("pod1-1", &tcp("10.244.1.10", "10.96.0.11", 80));
        let last = branch.path.last();
        assert_eq!(last.cause, Some(Cause::ServiceWithoutLocalEndpoints), "{mode}");
        assert_eq!((last.hook, last.action), (Hook::NetfilterForward, Action::Dropped));
        assert!(last.rule.is_some());
    }
}

#[test]
fn handles_of_iptables_nft_come_by_position() {
    let mut lab = Lab::new(Dataplane::Routed);
    lab.iptables(
        "node1",
        "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p udp -j ACCEPT\n-A FORWARD -j DROP\nCOMMIT\n",
    );
    let netfilter = &mut lab.netns("node1").netfilter;
    netfilter.iptables[0].backend = IptablesBackend::Nft;
    // The table stands in both dumps and must not run twice, nor may its xt expressions be guessed at.
    let json = r#"{"nftables":[{"table":{"family":"ip","name":"filter"}},
        {"chain":{"family":"ip","table":"filter","name":"FORWARD","type":"filter","hook":"forward","prio":0,"policy":"accept"}},
        {"rule":{"family":"ip","table":"filter","chain":"FORWARD","handle":7,"expr":[{"xt":{"type":"match","name":"udp"}},{"accept":null}]}},
        {"rule":{"family":"ip","table":"filter","chain":"FORWARD","handle":9,"expr":[{"drop":null}]}}]}"#;
    lab.nft("node1", json);
    let rule = lab.one("pod1-1", &tcp("10.244.1.10", "10.244.2.10", 80)).path.last().rule.clone().unwrap();
    assert_eq!(
        (rule.handle, rule.position, rule.text.as_deref()),
        (Some(9), Some(2), Some("-A FORWARD -j DROP"))
    );
    let udp = lab.one("pod1-1", &udp("10.244.1.10", "10.244.2.10", 53));
    assert_eq!(udp.path.disposition(), Disposition::Delivered);
}

/// Loads iptables rules into `filter FORWARD` of node1 and gives the cause and note of pod1-1's walk.
fn forward(rules: &[&str], ipset: Option<&str>) -> Result<(), String> {
    let mut lab = Lab::new(Dataplane::Routed);
    let lines = rules.iter().map(|rule| format!("-A FORWARD {rule}\n")).collect::<Vec<_>>().concat();
    lab.iptables("node1", &format!("*filter\n:FORWARD ACCEPT [0:0]\n:X - [0:0]\n{lines}COMMIT\n"));
    lab.netns("node1").netfilter.ipset = ipset.map(str::to_owned);
    let branch = lab.one("pod1-1", &tcp("10.244.1.10", "10.244.2.10", 80));
    let last = branch.path.last();
    match (last.cause, &last.note) {
        (None, None) => Ok(()),
        (Some(cause), _) => Err(cause.to_string()),
        (None, Some(note)) => Err(note.to_string()),
    }
}

#[test]
fn iptables_matches() {
    let dropped = Err("filter-drop".to_owned());
    for rule in [
        "-s 10.244.1.0/24 -j DROP",
        "! -s 10.244.3.0/24 -j DROP",
        "-i veth+ -o eth0 -j DROP",
        "-p tcp -m tcp --dport 79:81 -j DROP",
        "-p tcp -m multiport --dports 1,80,90:99 -j DROP",
        "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",
        "-p tcp -m conntrack --ctstate NEW,RELATED -j DROP",
        "-m conntrack ! --ctstate ESTABLISHED -j DROP",
        "-m mark --mark 0x0/0xff -j DROP",
        "-m addrtype ! --dst-type LOCAL -j DROP",
        "-m iprange --dst-range 10.244.2.1-10.244.2.20 -j DROP",
        "-m set --match-set nets src -j DROP",
        "-m set --match-set pairs dst,dst -j DROP",
        "-m comment --comment \"a -j ACCEPT b\" -j DROP",
        "-m limit --limit 5/sec -j DROP",
        "-m owner --uid-owner 0 -s 1.1.1.1/32 -j ACCEPT\n-A FORWARD -j DROP",
        "-m string --string x --algo bm -j LOG\n-A FORWARD -j DROP",
    ] {
        let sets = "create nets hash:net family inet\nadd nets 10.244.0.0/16\ncreate pairs hash:ip,port family inet\nadd pairs 10.244.2.10,tcp:80\n";
        assert_eq!(forward(&[rule], Some(sets)), dropped, "{rule}");
    }
    for rule in [
        "-p udp -j DROP",
        "-i eth0 -j DROP",
        "-p tcp -m tcp ! --dport 80 -j DROP",
        "-p tcp -m tcp ! --syn -j DROP",
        "-p icmp -m icmp --icmp-type 8 -j DROP",
        "-m conntrack --ctstate INVALID -j DROP",
        "-m conntrack --ctstate DNAT -j DROP",
        "-m mark --mark 0x1 -j DROP",
        "-m addrtype --dst-type LOCAL -j DROP",
        "-m set --match-set nets dst -j DROP",
        "-m set ! --match-set nets src -j DROP",
        "-j X\n-A X -j RETURN\n-A FORWARD -j ACCEPT\n-A FORWARD -j DROP",
        "-j MARK --set-xmark 0x10/0x10\n-A FORWARD -m mark ! --mark 0x10/0x10 -j DROP",
        "-g X\n-A X -j LOG\n-A FORWARD -j DROP",
    ] {
        let sets =
            "create nets hash:net family inet\nadd nets 10.244.0.0/16\nadd nets 10.244.2.0/24 nomatch\n";
        assert_eq!(forward(&[rule], Some(sets)), Ok(()), "{rule}");
    }
    for (rule, note) in [
        ("-m owner --uid-owner 0 -j DROP", "--uid-owner 0 is not modelled"),
        ("-m string --string x --algo bm -j DROP", "-m string is not modelled"),
        ("-j NFQUEUE --queue-num 1", "target NFQUEUE is not modelled"),
        ("-m set --match-set gone src -j DROP", "ipset gone is not in the facts"),
        ("-m whatever --new-thing 5 -j DROP", "--new-thing 5 is not modelled"),
    ] {
        let told = forward(&[rule], None).unwrap_err();
        assert!(told.contains(note) && told.contains(rule), "{told}: the rule is quoted");
    }
}

#[test]
fn statistic_makes_branches() {
    let mut lab = Lab::new(Dataplane::Routed);
    let rule = "-A FORWARD -m statistic --mode random --probability 0.25000000000 -j DROP";
    lab.iptables("node1", &format!("*filter\n:FORWARD ACCEPT [0:0]\n{rule}\nCOMMIT\n"));
    let paths = lab.predict("pod1-1", &tcp("10.244.1.10", "10.244.2.10", 80));
    let fates: Vec<_> = paths.branches.iter().map(|b| (b.path.disposition(), b.probability)).collect();
    assert_eq!(fates, [(Disposition::Delivered, 0.75), (Disposition::Dropped, 0.25)]);
    assert_eq!(support::choices(&paths.branches[1]), ["filter FORWARD rule 1 matches (prob 0.25)"]);
}

/// As kube-proxy keeps a client at the endpoint that it had: whom the kernel's list holds nobody knows.
#[test]
fn a_list_of_recent_senders_makes_branches() {
    let mut lab = Lab::new(Dataplane::Routed);
    lab.iptables(
        "node1",
        "*filter\n:FORWARD ACCEPT [0:0]\n:SEEN - [0:0]\n\
         -A FORWARD -m recent --rcheck --seconds 10800 --reap --name SEP --mask 255.255.255.255 --rsource -j SEEN\n\
         -A SEEN -m recent --set --name SEP --mask 255.255.255.255 --rsource -j DROP\nCOMMIT\n",
    );
    let paths = lab.predict("pod1-1", &tcp("10.244.1.10", "10.244.2.10", 80));
    let fates: Vec<_> = paths.branches.iter().map(|b| (b.path.disposition(), b.probability)).collect();
    assert_eq!(fates, [(Disposition::Delivered, 0.5), (Disposition::Dropped, 0.5)]);
}

#[test]
fn notrack_makes_answers_invalid() {
    let mut lab = Lab::new(Dataplane::Routed);
    lab.iptables(
        "node1",
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -s 10.244.1.10/32 -j CT --notrack\nCOMMIT\n\
         *filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n",
    );
    let branch = lab.one("pod1-1", &tcp("10.244.1.10", "10.244.2.10", 80));
    assert_eq!(branch.path.disposition(), Disposition::Delivered);
    assert_eq!(branch.answer[0].path.last().cause, Some(Cause::FilterDrop));
}

/// One nft rule in a forward chain of node1, as a verdict on pod1-1's walk.
fn nft_forward(expr: &str) -> Result<(), String> {
    let mut lab = Lab::new(Dataplane::Routed);
    let json = format!(
        r#"{{"nftables":[{{"table":{{"family":"inet","name":"t"}}}},
        {{"set":{{"family":"inet","table":"t","name":"nets","type":"ipv4_addr","elem":[{{"prefix":{{"addr":"10.244.0.0","len":16}}}}]}}}},
        {{"map":{{"family":"inet","table":"t","name":"vm","type":["ipv4_addr","inet_service"],"map":"verdict","elem":[[{{"concat":["10.244.2.10",80]}},{{"drop":null}}]]}}}},
        {{"chain":{{"family":"inet","table":"t","name":"c","handle":1,"type":"filter","hook":"forward","prio":0,"policy":"accept"}}}},
        {{"rule":{{"family":"inet","table":"t","chain":"c","handle":5,"expr":{expr}}}}}]}}"#
    );
    lab.nft("node1", &json);
    let branch = lab.one("pod1-1", &tcp("10.244.1.10", "10.244.2.10", 80));
    let last = branch.path.last();
    match (last.cause, &last.note) {
        (None, None) => Ok(()),
        (Some(cause), _) => Err(cause.to_string()),
        (None, Some(note)) => Err(note.to_string()),
    }
}

#[test]
fn nft_expressions() {
    let m = |op: &str, left: &str, right: &str| {
        format!(r#"[{{"match":{{"op":"{op}","left":{left},"right":{right}}}}},{{"drop":null}}]"#)
    };
    let saddr = r#"{"payload":{"protocol":"ip","field":"saddr"}}"#;
    let dport = r#"{"payload":{"protocol":"tcp","field":"dport"}}"#;
    let concat = format!(r#"{{"concat":[{saddr},{dport}]}}"#);
    let hits = [
        m("==", saddr, r#""@nets""#),
        m("!=", saddr, r#"{"prefix":{"addr":"10.9.0.0","len":16}}"#),
        m("==", dport, r#"{"set":[22,{"range":[79,81]}]}"#),
        m("<", dport, "81"),
        m("==", &concat, r#"{"set":[{"concat":["10.244.1.10",80]}]}"#),
        m("in", r#"{"ct":{"key":"state"}}"#, r#"["new","related"]"#),
        m("==", r#"{"meta":{"key":"iifname"}}"#, r#""veth*""#),
        m("==", r#"{"meta":{"key":"nfproto"}}"#, r#""ipv4""#),
        m("==", r#"{"&":[{"payload":{"protocol":"tcp","field":"flags"}},["syn","ack"]]}"#, r#""syn""#),
        m("==", r#"{"fib":{"result":"type","flags":["daddr"]}}"#, r#""unicast""#),
        m("==", r#"{"fib":{"result":"oif","flags":["saddr","iif"]}}"#, "true"),
        m("==", r#"{"ct":{"key":"direction"}}"#, r#""original""#),
        m("==", r#"{"ct":{"key":"ip daddr","dir":"original"}}"#, r#""10.244.2.10""#),
        format!(r#"[{{"vmap":{{"key":{{"concat":[{{"payload":{{"protocol":"ip","field":"daddr"}}}},{dport}]}},"data":"@vm"}}}}]"#),
        r#"[{"mangle":{"key":{"meta":{"key":"mark"}},"value":{"|":[{"meta":{"key":"mark"}},16]}}},{"match":{"op":"==","left":{"&":[{"meta":{"key":"mark"}},16]},"right":16}},{"drop":null}]"#.into(),
    ];
    for expr in hits {
        assert_eq!(nft_forward(&expr), Err("filter-drop".into()), "{expr}");
    }
    let misses = [
        m("==", r#"{"payload":{"protocol":"ip6","field":"saddr"}}"#, r#""::1""#),
        m("!=", r#"{"payload":{"protocol":"udp","field":"dport"}}"#, "53"),
        m("in", r#"{"ct":{"key":"state"}}"#, r#"["established","related"]"#),
        m("in", r#"{"ct":{"key":"status"}}"#, r#""dnat""#),
        m("==", r#"{"payload":{"protocol":"icmp","field":"type"}}"#, r#""echo-request""#),
        r#"[{"limit":{"rate":10,"per":"second","inv":true}},{"drop":null}]"#.into(),
        r#"[{"match":{"op":"==","left":{"meta":{"key":"skuid"}},"right":0}},{"counter":{"packets":0,"bytes":0}}]"#.into(),
    ];
    for expr in misses {
        assert_eq!(nft_forward(&expr), Ok(()), "{expr}");
    }
    for expr in [
        m("==", r#"{"meta":{"key":"skuid"}}"#, "0"),
        r#"[{"queue":{"num":1}}]"#.into(),
        r#"[{"jump":{"target":"gone"}}]"#.into(),
        r#"[{"synproxy":null}]"#.into(),
    ] {
        let told = nft_forward(&expr).unwrap_err();
        assert!(told.contains("inet t c handle 5"), "{told}");
    }
}

#[test]
fn a_dump_of_many_expressions_is_read() {
    let mut lab = Lab::new(Dataplane::Routed);
    lab.nft("node1", include_str!("fixtures/misc-nft.json"));
    // The map and the redirection before it miss; then all TCP goes to 10.0.0.1:80, by the default route.
    let branch = lab.one("pod1-1", &tcp("10.244.1.10", "10.244.2.10", 443));
    let dnat = branch.path.steps().iter().find(|step| step.action == Action::Translated).unwrap();
    let rule = dnat.rule.clone().unwrap();
    let text = "meta l4proto tcp dnat ip to 10.0.0.1:80";
    assert_eq!((rule.chain.as_str(), rule.handle, rule.text.as_deref()), ("pr", Some(45), Some(text)));
    assert_eq!(dnat.flow.unwrap().dst.to_string(), "10.0.0.1");
    assert_eq!(branch.path.disposition(), Disposition::ExitsCluster);
    // UDP gets there by a map of numgen's outcomes; in forward, which two rules further on drops.
    let paths = lab.predict("pod1-1", &udp("10.244.1.10", "10.244.2.10", 443));
    let choices: Vec<_> = paths.branches.iter().flat_map(support::choices).collect();
    for backend in ["10.0.0.1", "10.0.0.2"] {
        let wanted = format!("backend {backend}:443 (prob 0.50)");
        assert!(choices.contains(&wanted), "{choices:?}\n{}", render(&paths));
    }
}
