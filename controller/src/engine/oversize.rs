//! Packets that are too large for one end of a cable. The kernel drops them where it drops what is for a device that is
//! down, in `is_skb_forwardable`, and gives no reason: the MTUs tell which it was.

use waymark_proto::{Cause, FaultPoint, Flow, Place, text};

use crate::advice::advice;

/// Functions of the kernel that ask `is_skb_forwardable`.
const ASKERS: [&str; 4] = ["__dev_forward_skb", "____dev_forward_skb", "veth_xmit", "br_dev_queue_push_xmit"];

/// Tells a packet that is larger than an MTU from one for a device that is down, or a port that does not forward.
///
/// `narrow` is the narrower end of the device's cable, if it has one; `largest` is the largest packet that was sent, in
/// bytes.
pub(super) fn recognize(
    point: &mut FaultPoint,
    flow: Option<&Flow>,
    narrow: Option<(Place, String, u32)>,
    largest: u32,
) {
    let asked = |function: &str| ASKERS.iter().any(|asker| function.starts_with(asker));
    if !matches!(point.cause, Cause::DeviceDown | Cause::BridgePort)
        || !point.function.as_deref().is_some_and(asked)
    {
        return;
    }
    let Some((place, device, mtu)) = narrow.filter(|(.., mtu)| *mtu < largest) else { return };
    point.cause = Cause::MtuExceeded;
    point.object = Some(text!(object::NarrowEnd { device, place: place.to_string(), mtu, largest }));
    if let Some(flow) = flow {
        point.advice = advice(point, flow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{fault, tcp};

    fn found(cause: Cause, function: &str, mtu: Option<u32>) -> FaultPoint {
        let mut point = FaultPoint { cause, function: Some(function.to_owned()), ..fault() };
        let narrow = mtu.map(|mtu| (Place::new("node2", "t-pay"), "eth0".to_owned(), mtu));
        recognize(&mut point, Some(&tcp()), narrow, 1500);
        point
    }

    #[test]
    fn what_is_too_large_is_told_from_what_is_down() {
        for (cause, function) in
            [(Cause::DeviceDown, "__dev_forward_skb+0x1c"), (Cause::BridgePort, "br_dev_queue_push_xmit+0x8")]
        {
            let point = found(cause, function, Some(1200));
            assert_eq!(point.cause, Cause::MtuExceeded);
            assert!(point.object.expect("it is named").contains("eth0"));
            assert!(point.advice.contains("MTU"), "{}", point.advice);
            assert_eq!(found(cause, function, None).cause, cause);
            assert_eq!(found(cause, function, Some(1500)).cause, cause);
            assert_eq!(found(cause, "dev_queue_xmit", Some(1200)).cause, cause);
        }
    }
}
