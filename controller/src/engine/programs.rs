//! Which BPF program it was: the kernel says that one dropped a packet, or hooks that something changed it, and where; the
//! facts say which run there.

use waymark_proto::{
    Cause, DeviceProgram, FaultPoint, Hook, NodeName, Place, ProgramPoint, SpanEnd, Text, listed, text,
};

/// Names the programs that may have done it, given those of each place: as the object, if there is only one that can
/// have; else as evidence.
pub(super) fn name<'p>(point: &mut FaultPoint, programs: impl Fn(&Place) -> &'p [DeviceProgram]) {
    match point.cause {
        Cause::BpfDrop => {
            let named = there(&end_of(point), point.reason.as_deref(), &programs);
            match named.as_slice() {
                [] => {}
                [only] => point.object = point.object.take().or_else(|| Some(only.clone())),
                several => point.evidence.push(text!(evidence::OfPrograms { programs: listed(several) })),
            }
        }
        Cause::Rewritten | Cause::WrongReceiver | Cause::OtherHost | Cause::Unknown => {
            let mut ends = vec![end_of(point)];
            if let Some(span) = &point.span {
                ends.extend([span.last_seen.clone(), span.first_missing.clone()]);
            }
            let mut told: Vec<(NodeName, Text)> = Vec::new();
            for end in &ends {
                let mut named = there(end, None, &programs);
                named.retain(|program| !told.contains(&(end.node.clone(), program.clone())));
                if named.is_empty() {
                    continue;
                }
                if let ([only], Cause::Rewritten, None) = (named.as_slice(), point.cause, &point.object) {
                    point.object = Some(only.clone());
                } else {
                    let programs = listed(&named);
                    point.evidence.push(text!(evidence::ProgramsThere { node: &end.node, programs }));
                }
                told.extend(named.into_iter().map(|program| (end.node.clone(), program)));
            }
        }
        _ => {}
    }
}

fn end_of(point: &FaultPoint) -> SpanEnd {
    SpanEnd {
        node: point.node.clone(),
        netns: point.netns.clone(),
        hook: point.hook,
        device: point.device.clone(),
    }
}

/// The programs that a packet comes by at a hook of a device.
fn there<'p>(
    end: &SpanEnd,
    reason: Option<&str>,
    programs: impl Fn(&Place) -> &'p [DeviceProgram],
) -> Vec<Text> {
    let here = |program: &&DeviceProgram| {
        end.device.as_ref() == Some(&program.device) && runs_at(program.point, end.hook, reason)
    };
    programs(&end.place()).iter().filter(here).map(DeviceProgram::words).collect()
}

/// Whether a program that runs at `point` sees packets at a hook, with the kernel's reason for a drop if it gave one.
fn runs_at(point: ProgramPoint, hook: Hook, reason: Option<&str>) -> bool {
    let (at, why) = match point {
        ProgramPoint::XdpDriver | ProgramPoint::XdpGeneric | ProgramPoint::XdpHardware => {
            (Hook::DriverRx, "XDP")
        }
        ProgramPoint::TcIngress => (Hook::DriverRx, "TC_INGRESS"),
        ProgramPoint::TcEgress => (Hook::Qdisc, "TC_EGRESS"),
    };
    let another =
        ["XDP", "TC_INGRESS", "TC_EGRESS"].into_iter().any(|other| reason == Some(other) && other != why);
    // What comes to the driver came by the queue.
    let hook = if hook == Hook::DriverTx { Hook::Qdisc } else { hook };
    at == hook && !another
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::fault;

    fn drop_at(hook: Hook, reason: Option<&str>) -> FaultPoint {
        FaultPoint { hook, cause: Cause::BpfDrop, reason: reason.map(str::to_owned), ..fault() }
    }

    fn program(device: &str, point: ProgramPoint, id: u32, name: &str) -> DeviceProgram {
        DeviceProgram { device: device.to_owned(), point, id: Some(id), name: Some(name.to_owned()) }
    }

    fn named(mut fault: FaultPoint, programs: &[DeviceProgram]) -> (Option<Text>, Vec<Text>) {
        name(&mut fault, |_| programs);
        (fault.object, fault.evidence)
    }

    #[test]
    fn the_only_program_is_the_object() {
        let programs = [
            program("cni0", ProgramPoint::XdpGeneric, 1, "elsewhere"),
            program("eth0", ProgramPoint::XdpDriver, 7, "shield"),
            program("eth0", ProgramPoint::TcIngress, 8, "meter"),
            program("eth0", ProgramPoint::TcEgress, 9, "shape"),
        ];
        let object = |hook, reason| named(drop_at(hook, reason), &programs).0.unwrap();
        assert_eq!(object(Hook::DriverRx, Some("XDP")), "XDP program shield (id 7) of eth0");
        assert_eq!(object(Hook::DriverRx, Some("TC_INGRESS")), "tc ingress program meter (id 8) of eth0");
        assert_eq!(object(Hook::Qdisc, Some("TC_EGRESS")), "tc egress program shape (id 9) of eth0");
        let (object, evidence) = named(drop_at(Hook::DriverRx, None), &programs);
        assert_eq!(object, None);
        assert_eq!(
            evidence,
            [
                "one of these dropped it: XDP program shield (id 7) of eth0 and tc ingress program meter (id 8) of eth0"
            ]
        );
    }

    #[test]
    fn a_filter_without_a_name_is_one_too() {
        let point = ProgramPoint::TcIngress;
        let filter = DeviceProgram { device: "eth0".to_owned(), point, id: None, name: None };
        let fault = drop_at(Hook::DriverRx, Some("TC_INGRESS"));
        let (object, _) = named(fault.clone(), std::slice::from_ref(&filter));
        assert_eq!(object.as_deref(), Some("tc ingress program (classic BPF) of eth0"));
        let other = FaultPoint { cause: Cause::FilterDrop, ..fault };
        assert_eq!(named(other, &[filter]), (None, Vec::new()));
    }
}
