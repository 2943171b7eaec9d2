use waymark_proto::{Cause, Event, Hook, Text, text};

use super::*;
use crate::fixture::{BACK, THERE, drop_at, ending, inventory, sightings, steps, tcp, there_by_tunnel};

/// The hooks that show themselves when a packet passes.
fn visible(step: &Step) -> bool {
    use waymark_proto::Hook;
    matches!(step.hook, Hook::DriverRx | Hook::DriverTx | Hook::Qdisc | Hook::Socket)
        || (step.hook.is_netfilter() && step.outer.is_none())
}

fn brief(steps: &[Step]) -> Vec<String> {
    let one = |step: &Step| {
        format!("{}{}", crate::diagnose::tests::place_of(step), if step.outer.is_some() { " *" } else { "" })
    };
    steps.iter().filter(|step| visible(step)).map(one).collect()
}

pub(super) fn read(sightings: &[Sighting]) -> Observed {
    read_through(sightings, |lens| lens)
}

fn read_where_filters_are_watched<const N: usize>(
    sightings: &[Sighting],
    filters_watched: [Place; N],
) -> Observed {
    read_through(sightings, |lens| Lens { filters_watched: BTreeSet::from(filters_watched), ..lens })
}

fn read_through(sightings: &[Sighting], change: impl FnOnce(Lens<'_>) -> Lens<'_>) -> Observed {
    let inventory = inventory();
    let source = Place::new("node1", "t-cart");
    let lens = Lens {
        inventory: &inventory,
        source: &source,
        flow: tcp(),
        source_ports: BTreeMap::from([(Seq(0), 61000)]),
        receivers: BTreeSet::from([(tcp().dst, 80)]),
        filters_watched: BTreeSet::new(),
        watched: ["node1".into(), "node2".into()].into(),
        received_once: false,
        nodes: vec!["node1".into(), "node2".into()],
    };
    observe(sightings, &change(lens)).remove(&Seq(0)).unwrap_or_default()
}

/// Of a light look the stack's record of each reception is the only one.
#[test]
fn two_records_of_a_light_look_are_two_copies() {
    let mut seen = sightings(&steps(THERE, tcp()), 0, false);
    seen.retain(|sighting| sighting.event != Event::Arrived);
    let received = |s: &&Sighting| s.hook == Hook::DriverRx && s.place.netns.as_str() == "t-node2";
    let again: Vec<Sighting> = seen.iter().filter(received).cloned().collect();
    seen.extend(again);
    let copies = |received_once: bool| {
        let observed = read_through(&seen, |lens| Lens { received_once, ..lens });
        observed.forward.passages.iter().map(|passage| passage.copies).max()
    };
    assert_eq!((copies(true), copies(false)), (Some(2), Some(1)), "recordings of the past may have both");
}

#[test]
fn a_round_trip_comes_out_in_the_order_of_the_datapath() {
    let (there, back) = (steps(THERE, tcp()), steps(BACK, tcp().reversed()));
    let mut seen = sightings(&there, 0, false);
    seen.extend(sightings(&back, 0, true));
    seen.push(drop_at(back.last().unwrap(), 0, true, "NO_SOCKET", "tcp_v4_rcv+0x1"));
    seen.reverse();
    // Traces of one namespace keep their order; all else is joined anew.
    seen.sort_by_key(|sighting| sighting.at_ns);
    let observed = read(&seen);
    assert_eq!(brief(&observed.forward.steps), brief(&there));
    assert_eq!(brief(&observed.back.steps), brief(&back));
    assert!(observed.forward.delivered() && observed.back.delivered(), "the lone SYN's answer is an arrival");
    assert!(observed.back.arrived_ns.is_some());
}

/// A connection that has these ends already acknowledges what it waits for.
#[test]
fn what_acknowledges_another_packet_is_no_answer() {
    let mut seen = sightings(&steps(THERE, tcp()), 0, false);
    let mut challenge = sightings(&steps(BACK, tcp().reversed()), 0, true);
    for headers in challenge.iter_mut().filter_map(|sighting| sighting.headers.as_mut()) {
        headers.tcp_flags = 0x10;
    }
    seen.extend(challenge);
    let observed = read(&seen);
    assert!(observed.forward.delivered());
    assert_eq!(observed.back.steps, []);
}

#[test]
fn encapsulated_steps_stand_between_those_of_the_inner_packet() {
    let there = steps(&there_by_tunnel(), tcp());
    let observed = read(&sightings(&there, 0, false));
    assert_eq!(brief(&observed.forward.steps), brief(&there));
}

#[test]
fn an_entered_hook_with_a_drop_behind_it_is_one_step() {
    let dying = ending(steps(THERE, tcp()), "t-node2", Hook::NetfilterForward, "eth0", Cause::FilterDrop);
    let mut seen = sightings(&dying, 0, false);
    seen.push(drop_at(dying.last().unwrap(), 0, false, "NETFILTER_DROP", "nf_hook_slow+0xb5"));
    let observed = read(&seen);
    let death = observed.forward.death().expect("it died");
    assert_eq!(death.hook, Hook::NetfilterForward);
    assert_eq!(death.reason.as_deref(), Some("NETFILTER_DROP"));
    assert_eq!(brief(&observed.forward.steps), brief(&dying));
}

#[test]
fn a_drop_that_no_watched_ip_hook_shows_was_outside_of_them() {
    let there = steps(THERE, tcp());
    let reception = there.iter().position(|step| step.place.node.as_str() == "node2").unwrap();
    let (until, at) = (&there[..=reception], &there[reception]);
    let mut seen = sightings(until, 0, false);
    seen.push(drop_at(at, 0, false, "NETFILTER_DROP", "nft_do_chain+0x3e8"));

    let watched = read_where_filters_are_watched(&seen, [at.place.clone()]);
    let death = watched.forward.death().expect("it died");
    assert_eq!((death.hook, death.device.as_deref()), (Hook::DriverRx, Some("eth0")));
    assert_eq!(death.cause, Some(Cause::FilterDrop));

    let unwatched = read(&seen);
    let death = unwatched.forward.death().expect("it died");
    assert_eq!(death.hook, Hook::NetfilterForward);
    assert_eq!(death.note, Some(text!(seen::GuessedHook)));
}

#[test]
fn a_dropped_copy_does_not_end_the_walk() {
    let there = steps(THERE, tcp());
    let mut seen = sightings(&there, 0, false);
    let elsewhere = Step { place: Place::new("node2", "t-other"), ..there[29].clone() };
    seen.push(drop_at(&elsewhere, 0, false, "OTHERHOST", "ip_rcv_core+0x1"));
    let observed = read(&seen);
    assert!(observed.forward.delivered());
}

#[test]
fn a_reset_of_the_receiver_is_a_rejection() {
    let there = steps(THERE, tcp());
    let mut seen = sightings(&there, 0, false);
    let mut resets = sightings(&steps(BACK, tcp().reversed()), 0, true);
    for reset in &mut resets {
        reset.headers.as_mut().unwrap().tcp_flags = 0x14;
    }
    seen.extend(resets);
    let observed = read(&seen);
    assert_eq!(observed.forward.death().and_then(|step| step.cause), Some(Cause::NoListener));
    assert!(observed.back.steps.is_empty(), "a reset is no answer");
}

#[test]
fn a_translation_shows_by_the_next_hook() {
    let service = Flow { dst: "10.96.0.10".parse().unwrap(), ..tcp() };
    let mut there = steps(THERE, tcp());
    for step in &mut there[..11] {
        step.flow = Some(service);
    }
    let observed = read(&sightings(&there, 0, false));
    let translated: Vec<&Step> =
        observed.forward.steps.iter().filter(|step| step.action == Action::Translated).collect();
    assert_eq!(translated.len(), 1);
    assert_eq!(translated[0].hook, Hook::NetfilterPrerouting);
    assert_eq!(translated[0].flow, Some(tcp()));
}

#[test]
fn headers_that_say_nothing_follow_their_buffer() {
    let back = steps(BACK, tcp().reversed());
    let mut seen = sightings(&back, 0, true);
    for sighting in seen.iter_mut().filter(|sighting| sighting.place.netns.as_str() == "t-cart") {
        if sighting.event != Event::Passed {
            sighting.headers = None;
        }
    }
    let observed = read(&seen);
    assert!(observed.back.delivered());
    assert_eq!(observed.forward.steps.len(), 1, "the delivery, known by the answer");
}

#[test]
fn udp_answers_are_told_by_ports() {
    let udp = |flow: Flow| Flow { protocol: waymark_proto::Protocol::Udp, ..flow };
    let mut seen = sightings(&steps(THERE, udp(tcp())), 0, false);
    seen.extend(sightings(&steps(BACK, udp(tcp().reversed())), 0, true));
    let observed = read(&seen);
    assert!(observed.forward.delivered());
    assert!(observed.back.delivered());
}

#[test]
fn the_second_prerouting_of_a_bridged_packet_is_no_step() {
    let there = steps(THERE, tcp());
    let mut seen = sightings(&there, 0, false);
    let first = seen.iter().find(|sighting| sighting.hook == Hook::NetfilterPrerouting).unwrap();
    let again = Sighting { at_ns: first.at_ns + 2, event: Event::Entered, ..first.clone() };
    seen.push(again);
    let mut expected = brief(&there);
    let received = expected.iter().position(|step| step == "node1/t-node1 driver-rx cni0").unwrap();
    expected.swap(received, received + 1);
    assert_eq!(brief(&read(&seen).forward.steps), expected, "it belongs to the frame at its port");
}

#[test]
fn a_buffer_that_holds_another_packet_now_is_not_followed() {
    let there = steps(THERE, tcp());
    let mut seen = sightings(&there, 0, false);
    let stranger = Sighting {
        place: Place::new("node1", "t-node1"),
        at_ns: 99_000_000,
        hook: Hook::DriverRx,
        device: Some("eth0".into()),
        headers: None,
        event: Event::Seen,
        identity: 0,
        buffer: 1,
        ..seen[0].clone()
    };
    seen.push(stranger);
    assert_eq!(brief(&read(&seen).forward.steps), brief(&there));
}

/// It answers after all that its transmission set off.
#[test]
fn a_driver_that_does_not_take_a_packet_says_so() {
    let mut seen = sightings(&steps(THERE, tcp()), 0, false);
    let sent = seen.iter().find(|sighting| sighting.hook == Hook::DriverTx).unwrap();
    seen.push(Sighting { at_ns: sent.at_ns + 1500, event: Event::Transmitted { code: 16 }, ..sent.clone() });
    let observed = read(&seen);
    let told: Vec<(Hook, &Text)> =
        observed.forward.steps.iter().filter_map(|step| Some((step.hook, step.note.as_ref()?))).collect();
    let [(Hook::DriverTx, note)] = told.as_slice() else { panic!("{told:?}") };
    assert!(note.contains("16"), "{note}");
}

#[test]
fn hooks_of_a_bridged_frame_stand_between_its_ports() {
    let local = "
        node1 t-cart qdisc eth0 forwarded
        node1 t-cart driver-tx eth0 forwarded
        node1 t-node1 driver-rx vethcart forwarded
        node1 t-node1 netfilter-prerouting cni0 forwarded
        node1 t-node1 bridge cni0 forwarded
        node1 t-node1 netfilter-postrouting cni0 forwarded
        node1 t-node1 qdisc vethfront forwarded
        node1 t-node1 driver-tx vethfront forwarded
        node1 t-front driver-rx eth0 forwarded
        node1 t-front netfilter-prerouting eth0 forwarded
        node1 t-front netfilter-input eth0 forwarded
        node1 t-front socket - delivered";
    let there = steps(local, tcp());
    assert_eq!(brief(&read(&sightings(&there, 0, false)).forward.steps), brief(&there));
}

/// NAT at local input is the last that happens to a packet: only the chain behind it sees the result.
#[test]
fn a_translation_at_the_end_of_the_walk_is_seen() {
    let mut back = sightings(&steps(BACK, tcp().reversed()), 0, true);
    let translated = Flow { src_port: 8080, ..tcp().reversed() };
    let input = back.iter_mut().rfind(|sighting| sighting.hook == Hook::NetfilterInput).expect("input");
    let mut left = Sighting { event: Event::Left, ..input.clone() };
    input.event = Event::Entered;
    left.headers.as_mut().expect("with headers").flow = translated;
    back.push(left);
    let observed = read(&back);
    let input = observed.back.steps.iter().rfind(|step| step.hook == Hook::NetfilterInput).expect("input");
    assert_eq!((input.action, input.flow), (Action::Translated, Some(translated)));
    assert_eq!(observed.back.steps.last().and_then(|step| step.flow), Some(translated));
}
