//! Packets that came to somebody else, or answers that came from there.

use super::*;

#[test]
fn copies_of_a_flooded_frame_do_not_distract() {
    let dying = ending(there(), "t-node2", Hook::Bridge, "cni0", Cause::BridgePort);
    let other = |hook, device: &str| Step {
        hook,
        device: Some(device.to_owned()),
        cause: None,
        action: Action::Forwarded,
        ..dying.last().unwrap().clone()
    };
    let mut seen = dying.clone();
    seen.pop();
    seen.extend([other(Hook::Qdisc, "vethother"), other(Hook::DriverTx, "vethother")]);
    let elsewhere = Step { place: Place::new("node2", "t-other"), ..other(Hook::DriverRx, "eth0") };
    seen.push(elsewhere.clone());
    for prediction in [dying, there()] {
        let story = Story::predicting(prediction).seen(&seen, false);
        let found = story.dropped(&elsewhere, false, "OTHERHOST", "ip_rcv_core+0x1").told();
        assert_eq!(fault(&found), "t-node2 bridge cni0 bridge-port", "{found:#?}");
    }
}

/// A redirection, for one: what refuses the packet is off the path, and no bridge made a copy.
#[test]
fn a_packet_that_is_led_away_is_no_copy() {
    let whole = steps(&there_by_tunnel(), tcp());
    let received = |step: &Step| step.hook == Hook::DriverRx && step.device.as_deref() == Some("flannel.1");
    let until = whole.iter().position(received).expect("its reception") + 1;
    let away = steps(
        "node2 t-node2 qdisc vethstock forwarded
         node2 t-node2 driver-tx vethstock forwarded
         node2 t-stock driver-rx eth0 forwarded",
        tcp(),
    );
    let seen: Vec<Step> = whole[..until].iter().chain(&away).cloned().collect();
    let last = seen.last().unwrap().clone();
    for reason in ["OTHERHOST", "IP_INADDRERRORS"] {
        let story = Story::predicting(whole.clone()).seen(&seen, false);
        let found = story.dropped(&last, false, reason, "ip_rcv_core+0x1").told();
        assert_eq!(fault(&found), "t-node2 driver-rx flannel.1 wrong-receiver", "{found:#?}");
        let point = found.fault_point.expect("a fault");
        let device =
            text!(object::WentToDevice { device: "vethstock", place: &Place::new("node2", "t-node2") });
        assert_eq!(point.object, Some(device));
        assert!(!point.evidence.contains(&text!(evidence::NoDropReported)), "{:?}", point.evidence);
    }
}

#[test]
fn a_responder_that_is_told_to_be_silent() {
    let deaf = ending(there(), "t-pay", Hook::Socket, "-", Cause::EchoIgnored);
    let found = Story::predicting(deaf.clone()).seen(&there(), false).told();
    assert_eq!(fault(&found), "t-pay socket - echo-ignored");
    assert_eq!((found.verdict, found.model_errors.len()), (Verdict::Unreachable, 0));
    let found = Story::predicting(deaf).seen(&there(), false).seen(&back(), true).told();
    assert_eq!((found.verdict, found.model_errors.len()), (Verdict::Reachable, 1));
}

#[test]
fn somebody_elses_reception_is_no_reception() {
    let astray = Story { receivers: vec![Place::new("node1", "t-front")], ..Story::healthy() };
    let found = astray.seen(&there(), false).seen(&back(), true).told();
    assert_eq!((found.verdict, found.delivered), (Verdict::Unreachable, 0));
    let point = found.fault_point.expect("a fault");
    assert_eq!((point.hook, point.cause), (Hook::Route, Cause::WrongReceiver));
    assert!(
        point.evidence.iter().any(|line| line.contains("meant for node1/t-front")),
        "{:?}",
        point.evidence
    );
}

/// Whatever the stranger does with it: who sent it there is to blame.
#[test]
fn a_stranger_that_drops_is_not_to_blame() {
    let at = |steps: &mut Vec<Step>, hook: Hook, netns: &str, object: Text| {
        let mut last = steps.iter_mut().rev();
        let step = last.find(|s| s.hook == hook && s.place.netns.as_str() == netns).expect("such a step");
        step.object = Some(object);
    };
    let stranger = |netns: &str| {
        let node = if netns == "t-front" { "node1" } else { "node2" };
        let text = format!(
            "{node} {netns} driver-rx eth0 forwarded
             {node} {netns} netfilter-prerouting eth0 forwarded
             {node} {netns} route eth0 forwarded"
        );
        ending(steps(&text, tcp()), netns, Hook::Route, "eth0", Cause::ForwardingDisabled)
    };
    let told = |dying: Vec<Step>| {
        let last = dying.last().unwrap().clone();
        let story = Story::predicting(dying.clone()).seen(&dying, false);
        story.dropped(&last, false, "IP_INADDRERRORS", "ip_error+0x1").told()
    };

    // The next hop is a sibling.
    let mut dying: Vec<Step> = there().into_iter().take_while(|s| s.hook != Hook::Bridge).collect();
    at(&mut dying, Hook::Route, "t-cart", Text::verbatim("default via 10.1.1.3 dev eth0"));
    at(&mut dying, Hook::Neighbour, "t-cart", Text::verbatim("10.1.1.3 dev eth0 lladdr 02:00:00:00:00:03"));
    dying.extend(steps("node1 t-node1 bridge cni0 forwarded", tcp()));
    dying.extend(stranger("t-front"));
    let found = told(dying);
    assert_eq!(fault(&found), "t-cart route eth0 wrong-route", "{found:#?}");
    let point = found.fault_point.expect("a fault");
    assert_eq!(point.object.as_deref(), Some("default via 10.1.1.3 dev eth0"));

    // The frame goes to the stranger's port: its address is there twice, or is not that of the receiver at all.
    let mac = "02:00:00:00:00:09";
    let hosts = [Place::new("node2", "t-pay"), Place::new("node2", "t-stock")];
    let twice = text!(object::ToOneOfSeveral { port: "vethstock", mac, hosts: hosts.as_slice() });
    for (object, expected) in [
        (twice.clone(), "t-node2 bridge cni0 wrong-receiver"),
        (text!(object::ToPort { port: "vethstock" }), "t-node2 neighbour cni0 wrong-neighbour"),
    ] {
        let mut dying: Vec<Step> =
            there().into_iter().take_while(|s| s.device.as_deref() != Some("vethpay")).collect();
        at(&mut dying, Hook::Neighbour, "t-node2", Text::verbatim(format!("10.1.2.2 dev cni0 lladdr {mac}")));
        at(&mut dying, Hook::Bridge, "t-node2", object.clone());
        dying.extend(stranger("t-stock"));
        let found = told(dying);
        assert_eq!(fault(&found), expected, "{found:#?}");
        let point = found.fault_point.expect("a fault");
        assert!(point.advice.contains("t-node2") && !point.advice.contains("ip_forward"), "{}", point.advice);
        assert_eq!(point.object == Some(twice.clone()), object == twice);
    }
}

/// A synproxy, for one: the answer comes from a hook on the way, and the receiver never sees a packet.
#[test]
fn who_answers_in_the_receivers_stead_is_no_receiver() {
    let cut = ending(there(), "t-node2", Hook::NetfilterForward, "eth0", Cause::FilterDrop);
    let proxy = "
        node2 t-node2 netfilter-output - forwarded
        node2 t-node2 netfilter-postrouting eth0 forwarded
        node2 t-node2 qdisc eth0 forwarded
        node2 t-node2 driver-tx eth0 forwarded";
    let on_node1 = back().into_iter().skip_while(|step| step.place.node.as_str() == "node2");
    let answer: Vec<Step> = steps(proxy, tcp().reversed()).into_iter().chain(on_node1).collect();
    let receivers = || vec![Place::new("node2", "t-pay")];
    let found =
        Story { receivers: receivers(), ..Story::healthy() }.seen(&cut, false).seen(&answer, true).told();
    assert_eq!((found.verdict, found.delivered), (Verdict::Unreachable, 0), "{found:#?}");
    assert_eq!(fault(&found), "t-node2 netfilter-forward eth0 wrong-receiver");
    let seen_in_pay = |row: &&waymark_proto::ComparedStep| {
        row.observed.as_ref().is_some_and(|step| step.place.netns.as_str() == "t-pay")
    };
    assert_eq!(found.forward.steps.iter().find(seen_in_pay), None);

    // Nobody saw who, but the receiver was watched.
    let cut = ending(there(), "t-node1", Hook::Wire, "eth0", Cause::SilentLoss);
    let answer: Vec<Step> =
        back().into_iter().skip_while(|step| step.place.node.as_str() == "node2").collect();
    let beyond = Story { receivers: receivers(), ..Story::healthy() };
    let found = beyond.seen(&cut, false).seen(&answer, true).told();
    assert_eq!(fault(&found), "t-node1 wire eth0 wrong-receiver", "{found:#?}");
}

#[test]
fn an_answer_that_was_rewritten_before_it_died() {
    let given = Flow { src: "10.1.2.77".parse().unwrap(), ..tcp().reversed() };
    let by = |hook| {
        let changed = crate::fixture::changed(back(), "t-node2", hook, "eth0", given);
        ending(changed, "t-node1", Hook::NetfilterForward, "eth0", Cause::FilterDrop)
    };
    let told = |dying: &[Step]| {
        let story = Story::healthy().seen(&there(), false).seen(dying, true);
        story.dropped(dying.last().unwrap(), true, "NETFILTER_DROP", "nf_hook_slow+0x1").told()
    };
    let found = told(&by(Hook::NetfilterPostrouting));
    assert_eq!(fault(&found), "t-node1 netfilter-forward eth0 filter-drop", "the rule is read elsewhere");
    let culprit = found.rewritten.expect("it was seen to be rewritten");
    assert_eq!((culprit.netns.as_str(), culprit.hook), ("t-node2", Hook::NetfilterPostrouting));
    assert_eq!((culprit.cause, culprit.direction), (Cause::AnswerMismatch, Direction::Return));
    let culprit = told(&by(Hook::Qdisc)).rewritten.expect("it was seen to be changed");
    assert_eq!((culprit.hook, culprit.cause), (Hook::Qdisc, Cause::Rewritten));

    let untouched = ending(back(), "t-node1", Hook::NetfilterForward, "eth0", Cause::FilterDrop);
    assert_eq!(told(&untouched).rewritten, None);
}

#[test]
fn what_left_a_hook_was_not_dropped_in_it() {
    let until =
        there().iter().position(|step| step.place.netns.as_str() == "t-node1" && step.hook == Hook::Qdisc);
    let there = there();
    let story = Story { branches: Vec::new(), ..Story::healthy() };
    let found = story.seen(&there[..until.expect("its queue")], false).told();
    let span = found.fault_point.expect("a fault").span.expect("a span");
    assert_eq!(span.last_seen.hook, Hook::NetfilterPostrouting);
    assert_eq!(span.first_missing.hook, Hook::Qdisc);
}

#[test]
fn an_answer_from_elsewhere_is_no_answer() {
    let mut elsewhere = back();
    for step in &mut elsewhere {
        step.flow.as_mut().expect("steps of tests have flows").src_port = 81;
    }
    let found = Story::healthy().seen(&there(), false).seen(&elsewhere, true).told();
    assert_eq!(found.verdict, Verdict::Unreachable);
    let point = found.fault_point.expect("a fault");
    assert_eq!((point.cause, point.direction), (Cause::AnswerMismatch, Direction::Return));
}

#[test]
fn a_neighbour_that_was_learnt_from_a_stranger_is_to_blame_for_what_never_came() {
    let misled = waymark_proto::text!(object::MisledNeighbour {
        entry: "neighbour 172.18.0.2 dev eth0 lladdr 02:00:00:00:00:03 REACHABLE",
        of: Some("eth0"),
        stranger: Some("node3/t-node3"),
        twice: true,
        ip: "172.18.0.2",
        device: "eth0",
        place: "node2/t-node2",
        mac: "02:00:00:00:00:02",
    });
    let mut dying = ending(there(), "t-node2", Hook::NetfilterPrerouting, "eth0", Cause::OtherHost);
    let entry = |step: &&mut Step| step.hook == Hook::Neighbour && step.place.netns.as_str() == "t-node1";
    dying.iter_mut().find(entry).unwrap().object = Some(misled);
    let seen = ending(there(), "t-node1", Hook::Wire, "eth0", Cause::SilentLoss);
    let found = Story::predicting(dying).seen(&seen[..seen.len() - 1], false).told();
    assert_eq!(fault(&found), "t-node1 neighbour eth0 wrong-neighbour", "{found:#?}");
    let point = found.fault_point.unwrap();
    assert!(point.object.unwrap().contains("eth0 of node3/t-node3"));
    assert!(point.advice.contains("another host"), "{}", point.advice);
}
