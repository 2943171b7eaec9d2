//! Sets of ipset, of most kinds.

use proptest::collection::vec;
use proptest::prelude::*;

use super::pool::{host, net, port, word};

/// The sets that rules may name; all of them are there, as `ipset restore` reads them.
pub(super) fn sets() -> impl Strategy<Value = Vec<String>> {
    let ports = added("ports", port().prop_map(|port| port.to_string()));
    (of_family(false), of_family(true), ports).prop_map(|(four, six, ports)| {
        [four, six, vec!["create ports bitmap:port range 0-10000".to_owned()], ports].concat()
    })
}

/// Lines that add some elements to a set.
fn added(
    set: impl Into<String>,
    element: impl Strategy<Value = String>,
) -> impl Strategy<Value = Vec<String>> {
    let set = set.into();
    vec(element, 0..5).prop_map(move |elements| {
        elements.iter().map(|element| format!("add {set} {element} -exist")).collect()
    })
}

/// Sets whose names end with the family's digit: nets, hosts, hosts with ports, nets with ports, hosts with ports and
/// hosts, a list.
fn of_family(ipv6: bool) -> impl Strategy<Value = Vec<String>> {
    let (digit, family) = if ipv6 { (6, "inet6") } else { (4, "inet") };
    let named = |letter: char| format!("{letter}{digit}");
    let kinds = [
        ('n', "hash:net"),
        ('h', "hash:ip"),
        ('p', "hash:ip,port"),
        ('q', "hash:net,port"),
        ('t', "hash:ip,port,ip"),
    ];
    let mut create: Vec<String> = kinds
        .iter()
        .map(|(letter, kind)| format!("create {} {kind} family {family}", named(*letter)))
        .collect();
    create.push(format!("create l{digit} list:set"));
    create.extend(['h', 'n'].map(|member| format!("add l{digit} {}", named(member))));
    let except = || word(&["", "", " nomatch"]);
    let service =
        || (word(&["tcp", "udp"]), port()).prop_map(|(protocol, port)| format!("{protocol}:{port}"));
    let elements = (
        added(named('n'), (net(ipv6), except()).prop_map(|(net, except)| format!("{net}{except}"))),
        added(named('h'), host(ipv6)),
        added(named('p'), (host(ipv6), service()).prop_map(|(host, service)| format!("{host},{service}"))),
        added(
            named('q'),
            (net(ipv6), service(), except())
                .prop_map(|(net, service, except)| format!("{net},{service}{except}")),
        ),
        added(
            named('t'),
            (host(ipv6), service(), host(ipv6))
                .prop_map(|(one, service, two)| format!("{one},{service},{two}")),
        ),
    );
    elements.prop_map(move |(nets, hosts, pairs, with_ports, triples)| {
        [create.clone(), nets, hosts, pairs, with_ports, triples].concat()
    })
}
