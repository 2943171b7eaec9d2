//! Packets that something leads off their way.

use super::*;

/// The packets are seen up to here, then on these steps, at the last of which the kernel says that they are for another.
fn led_off(netns: &str, hook: Hook, device: &str, off: &str) -> Diagnosis {
    let until = ending(there(), netns, hook, device, Cause::Unknown);
    let mut seen = until[..until.len() - 1].to_vec();
    let passed = Step { action: Action::Forwarded, cause: None, ..until.last().unwrap().clone() };
    seen.push(passed);
    seen.extend(steps(off, tcp()));
    let last = seen.last().unwrap().clone();
    Story::healthy().seen(&seen, false).dropped(&last, false, "OTHERHOST", "ip_rcv_core+0x1").told()
}

fn object(found: &Diagnosis) -> String {
    found
        .fault_point
        .as_ref()
        .and_then(|point| point.object.as_ref())
        .map(ToString::to_string)
        .unwrap_or_default()
}

#[test]
fn what_is_sent_back_where_it_came_from_was_so_at_the_door() {
    let found = led_off("t-node1", Hook::DriverRx, "vethcart", "node1 t-cart driver-rx eth0 forwarded");
    assert_eq!(fault(&found), "t-node1 driver-rx vethcart wrong-receiver", "{found:#?}");
    assert_eq!(object(&found), "it went on to eth0 in node1/t-cart");
}

#[test]
fn what_is_redirected_was_so_behind_the_queue_that_missed_it() {
    let to_lo = "
        node1 t-node1 qdisc lo forwarded
        node1 t-node1 driver-tx lo forwarded
        node1 t-node1 driver-rx lo forwarded";
    let found = led_off("t-node1", Hook::NetfilterPostrouting, "eth0", to_lo);
    assert_eq!(fault(&found), "t-node1 qdisc eth0 wrong-receiver", "{found:#?}");
    assert_eq!(object(&found), "it went on to lo in node1/t-node1");
    let found = led_off("t-node2", Hook::DriverRx, "eth0", to_lo);
    assert_eq!(fault(&found), "t-node2 driver-rx eth0 wrong-receiver");
}

#[test]
fn a_frame_that_its_bridge_does_not_take_carried_another_address() {
    let flooded = "
        node1 t-node1 qdisc vethfront forwarded
        node1 t-node1 driver-tx vethfront forwarded
        node1 t-front driver-rx eth0 forwarded
        node1 t-node1 qdisc vethcart forwarded
        node1 t-node1 driver-tx vethcart forwarded
        node1 t-cart driver-rx eth0 forwarded";
    let found = led_off("t-node1", Hook::DriverRx, "vethcart", flooded);
    assert_eq!(fault(&found), "t-node1 bridge cni0 other-host", "{found:#?}");
    assert!(object(&found).contains("several ports"), "{}", object(&found));
    let span = found.fault_point.unwrap().span.unwrap();
    assert_eq!(span.last_seen.device.as_deref(), Some("vethcart"), "what changed it may sit there");
}
