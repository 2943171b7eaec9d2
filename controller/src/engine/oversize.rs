//! Packets that are too large.
//!
//! * For one end of a cable: the kernel drops them where it drops what is for a device that is down, in
//!   `is_skb_forwardable`, and gives no reason: the MTUs tell which it was.
//! * For a device to which routing leads: which one is it, and how wide.
//! * For what lies between two nodes, where nobody says so: path MTU discovery learns nothing of it.

use waymark_proto::{Arg, Cause, Factor, FactorKind, FaultPoint, Flow, Hook, LossReport, Place, Text, text};

use super::round::all_steps;
use crate::advice::advice;
use crate::gather::Picture;

/// Functions of the kernel that ask `is_skb_forwardable`.
const ASKERS: [&str; 4] = ["__dev_forward_skb", "____dev_forward_skb", "veth_xmit", "br_dev_queue_push_xmit"];

/// Says what sizes and MTUs tell of a fault, at which packets of this flow died. `largest` is the largest packet that was
/// sent, in bytes.
pub(super) fn explain(
    point: &mut FaultPoint,
    flow: Option<&Flow>,
    loss: Option<&LossReport>,
    largest: u32,
    picture: &Picture,
) {
    let Picture { cluster, prediction, .. } = picture;
    let place = point.place();
    let narrow = point.device.as_deref().and_then(|device| cluster.narrow_end(&place, device));
    recognize(point, flow, narrow, largest);
    let routed = all_steps(&prediction.branches)
        .filter(|step| step.hook == Hook::Route && step.place == place)
        .filter_map(|step| step.device.clone())
        .filter_map(|device| Some((device.clone(), cluster.mtu(&place, &device)?)));
    name_device(point, routed, largest);
    large_alone(point, loss);
}

/// Tells a packet that is larger than an MTU from one for a device that is down, or a port that does not forward.
///
/// `narrow` is the narrower end of the device's cable, if it has one; `largest` is the largest packet that was sent, in
/// bytes.
fn recognize(
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

/// Names the device that is too narrow for the largest packet. `devices` are those to which routing leads at the place of
/// the fault, with their MTUs in bytes.
fn name_device(point: &mut FaultPoint, devices: impl Iterator<Item = (String, u32)>, largest: u32) {
    if point.cause != Cause::MtuExceeded || point.hook != Hook::Ip || point.object.is_some() {
        return;
    }
    let mut narrow = devices.filter(|(_, mtu)| *mtu < largest);
    point.object = narrow.next().map(|(device, mtu)| text!(object::NarrowDevice { device, mtu, largest }));
}

/// Tells what lies between two nodes and loses large packets alone from what loses any.
fn large_alone(point: &mut FaultPoint, loss: Option<&LossReport>) {
    let between =
        point.span.as_ref().filter(|_| point.hook == Hook::Wire && point.cause == Cause::SilentLoss);
    let factor = loss.and_then(|loss| loss.factor.as_ref()).filter(|factor| factor.kind == FactorKind::Size);
    let (Some(span), Some(factor)) = (between, factor) else { return };
    let Some((dies, passes)) = sizes(factor) else { return };
    let (from, to) = (&span.last_seen.node, &span.first_missing.node);
    point.advice = text!(advice::LargeAloneLost { from, to, dies, passes, device: point.device.as_deref() });
    point.evidence.push(text!(evidence::LargeAloneLost { dies, passes }));
}

/// The smallest size that is lost and the largest that is not, if all are lost that are large and no others.
fn sizes(factor: &Factor) -> Option<(u32, u32)> {
    let bytes = |texts: &[Text]| -> Option<Vec<u32>> {
        texts
            .iter()
            .map(|text| match text.arg("size")? {
                Arg::Number(size) => u32::try_from(*size).ok(),
                _ => None,
            })
            .collect()
    };
    let dies = bytes(&factor.values)?.into_iter().min()?;
    let passes = bytes(&factor.others)?.into_iter().max()?;
    (factor.without.lost == 0 && factor.with.lost == factor.with.of && passes < dies)
        .then_some((dies, passes))
}

#[cfg(test)]
mod tests {
    use waymark_proto::Share;

    use super::*;
    use crate::fixture::{fault, tcp, wire};

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
            assert!(point.advice.contains("path MTU discovery learns nothing"), "{}", point.advice);
            assert_eq!(found(cause, function, None).cause, cause);
            assert_eq!(found(cause, function, Some(1500)).cause, cause);
            assert_eq!(found(cause, "dev_queue_xmit", Some(1200)).cause, cause);
        }
    }

    #[test]
    fn the_narrow_device_is_named() {
        let too_large = FaultPoint { cause: Cause::MtuExceeded, hook: Hook::Ip, ..fault() };
        let named = |point: &FaultPoint| {
            let mut point = point.clone();
            let devices = [("cni0".to_owned(), 9000), ("eth0".to_owned(), 1400)];
            name_device(&mut point, devices.into_iter(), 1500);
            point.object.map(|object| object.to_string())
        };
        let said = named(&too_large).expect("eth0 is narrow");
        assert_eq!(said, "the MTU of eth0 is 1400; the largest packet has 1500 bytes");
        assert_eq!(named(&FaultPoint { cause: Cause::FilterDrop, ..too_large }), None);
    }

    #[test]
    fn what_loses_large_packets_alone_is_told_from_what_loses_any() {
        let said = |values: [u32; 2], lost: u32| {
            let bytes = |size: u32| vec![text!(factor::Bytes { size })];
            let factor = Factor {
                kind: FactorKind::Size,
                values: bytes(values[0]),
                others: bytes(values[1]),
                with: Share::new(32, 32),
                without: Share::new(lost, 32),
                chance: 0.001,
            };
            let loss = LossReport { share: Share::new(32, 64), factor: Some(factor), wanted: None };
            let mut point = wire();
            large_alone(&mut point, Some(&loss));
            (point.evidence.len() == 1).then(|| point.advice.to_string())
        };
        let advice = said([1450, 44], 0).expect("large ones die");
        assert!(
            advice.contains("44 bytes") && advice.contains("1450 bytes") && advice.contains("MTU"),
            "{advice}"
        );
        assert_eq!(said([44, 1450], 0), None, "small ones die");
        assert_eq!(said([1450, 44], 3), None, "some of the small ones do too");
        let mut point = wire();
        large_alone(&mut point, None);
        assert!(point.evidence.is_empty());
    }
}
