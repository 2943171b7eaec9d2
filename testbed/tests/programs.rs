//! Facts have the BPF programs that devices run, by every way to attach one.

mod common;

use common::{Testbed, privileged};
use waymark_prober::facts;
use waymark_proto::{DeviceProgram, NetnsName, ProgramPoint};

/// The programs of a namespace on a node.
fn programs(testbed: &Testbed, node: &str, netns: &str) -> Vec<DeviceProgram> {
    let facts = facts::collect(&testbed.cluster().inventory(), &node.into()).unwrap();
    let inside = facts.namespaces.into_iter().find(|facts| facts.netns() == NetnsName::from(netns)).unwrap();
    assert!(inside.missing.is_empty(), "{:?}", inside.missing);
    inside.programs
}

#[test]
fn foreign_programs_are_found_and_named() {
    use ProgramPoint::{TcEgress, TcIngress, XdpDriver, XdpGeneric};
    if !privileged("attaching programs") {
        return;
    }
    let testbed = Testbed::up(&["--dataplane", "bridge-hostgw"]);
    let cluster = testbed.cluster();
    for (name, point, program) in [
        ("xdp-drop", XdpDriver, Some("wm_xdp_drop")),
        ("xdp-generic-drop", XdpGeneric, Some("wm_xdp_drop")),
        ("xdp-pod-drop", XdpGeneric, Some("wm_xdp_drop")),
        ("tcx-ingress-drop", TcIngress, Some("wm_tcx_drop")),
        ("tcx-egress-drop", TcEgress, Some("wm_tcx_drop")),
        ("tc-ingress-drop", TcIngress, None),
        ("tc-egress-drop", TcEgress, None),
    ] {
        let fault = waymark_testbed::fault(name).unwrap();
        let expected = fault.expected(&cluster).unwrap();
        let before = programs(&testbed, &expected.node, &expected.netns);
        assert_eq!(before, [], "{name}");
        testbed.succeed(&["fault", "inject", name]);
        let found = programs(&testbed, &expected.node, &expected.netns);
        testbed.succeed(&["fault", "clear", name]);
        let [found] = found.as_slice() else { panic!("{name}: {found:?}") };
        assert_eq!((found.device.as_str(), found.point), ("eth0", point), "{name}");
        assert_eq!(found.name.as_deref(), program, "{name}");
        // Classic BPF has no number.
        assert_eq!(found.id.is_some(), program.is_some(), "{name}");
    }
}
