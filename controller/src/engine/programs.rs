//! Which BPF program dropped a packet: the kernel says that one did, and where; the facts say which run there.

use waymark_proto::{Cause, DeviceProgram, FaultPoint, Hook, ProgramPoint, Text, listed, text};

/// Names the programs that may have dropped the packet: as the object, if there is one only.
pub(super) fn name(point: &mut FaultPoint, programs: &[DeviceProgram]) {
    if point.cause != Cause::BpfDrop {
        return;
    }
    let here = |program: &&DeviceProgram| {
        point.device.as_ref() == Some(&program.device)
            && runs_at(program.point, point.hook, point.reason.as_deref())
    };
    let named: Vec<Text> = programs.iter().filter(here).map(DeviceProgram::words).collect();
    match named.as_slice() {
        [] => {}
        [only] => point.object = point.object.take().or_else(|| Some(only.clone())),
        several => point.evidence.push(text!(evidence::OfPrograms { programs: listed(several) })),
    }
}

/// Whether a program that runs at `point` drops packets at a hook, and with the kernel's reason if it gave one.
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
        name(&mut fault, programs);
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
