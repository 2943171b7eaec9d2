//! The few addresses, prefixes, ports and devices of which everything is made: so few that rules and packets meet.

use proptest::prelude::*;
use proptest::sample::select;

/// An address as network, subnet and host: `10.NETWORK.SUBNET.HOST`, or `fd00:NETWORK:SUBNET::HOST`.
pub(in super::super) type Spot = (u8, u8, u8);

/// Those of the sender.
pub(in super::super) const SENDER: [Spot; 4] = [(1, 0, 2), (1, 0, 3), (8, 0, 5), (8, 1, 5)];
/// Those of the node.
pub(in super::super) const NODE: [Spot; 4] = [(1, 0, 1), (2, 0, 1), (3, 0, 1), (7, 0, 1)];
/// Those of the two receivers; both have network 9, whole.
const RECEIVERS: [Spot; 6] = [(2, 0, 2), (2, 0, 3), (3, 0, 2), (9, 0, 7), (9, 1, 7), (9, 1, 200)];
/// Nobody's.
const NOBODY: Spot = (6, 0, 1);

/// Ports on which somebody listens, and some on which nobody does.
pub(in super::super) const SERVED: [u16; 2] = [80, 8080];
const PORTS: [u16; 5] = [80, 8080, 443, 53, 22];

/// The node's devices.
const DEVICES: [&str; 4] = ["pa", "pb", "pc", "lo"];

/// An address as text.
pub(in super::super) fn address((network, subnet, host): Spot, ipv6: bool) -> String {
    if ipv6 {
        format!("fd00:{network:x}:{subnet:x}::{host:x}")
    } else {
        format!("10.{network}.{subnet}.{host}")
    }
}

/// The prefix of an address: of its network, its subnet, half of it, or itself.
fn prefix(spot: Spot, breadth: u8, ipv6: bool) -> String {
    let (network, subnet, host) = spot;
    match (breadth, ipv6) {
        (0, false) => format!("10.{network}.0.0/16"),
        (0, true) => format!("fd00:{network:x}::/32"),
        (1, false) => format!("10.{network}.{subnet}.0/24"),
        (1, true) => format!("fd00:{network:x}:{subnet:x}::/48"),
        (2, false) => format!("10.{network}.{subnet}.{}/25", host & 128),
        (2, true) => format!("fd00:{network:x}:{subnet:x}::{:x}/121", host & 128),
        (_, false) => format!("{}/32", address(spot, false)),
        (_, true) => format!("{}/128", address(spot, true)),
    }
}

fn spots() -> impl Strategy<Value = Spot> + Clone {
    let all: Vec<Spot> = [SENDER.as_slice(), &NODE, &RECEIVERS, &[NOBODY]].concat();
    select(all)
}

/// Any of the addresses.
pub(super) fn host(ipv6: bool) -> impl Strategy<Value = String> + Clone {
    spots().prop_map(move |spot| address(spot, ipv6))
}

/// One where somebody might be.
pub(super) fn target(ipv6: bool) -> impl Strategy<Value = String> + Clone {
    let all: Vec<Spot> = [&RECEIVERS[..], &NODE[..2]].concat();
    select(all).prop_map(move |spot| address(spot, ipv6))
}

/// Any prefix around one of the addresses.
pub(super) fn net(ipv6: bool) -> impl Strategy<Value = String> + Clone {
    (spots(), 0..4u8).prop_map(move |(spot, breadth)| prefix(spot, breadth, ipv6))
}

/// A port.
pub(super) fn port() -> impl Strategy<Value = u16> + Clone {
    select(&PORTS[..])
}

/// A device of the node.
pub(super) fn device() -> impl Strategy<Value = &'static str> + Clone {
    select(&DEVICES[..])
}

/// A mark, of few bits.
pub(super) fn mark() -> impl Strategy<Value = u32> + Clone {
    0..4u32
}

/// One of several words.
pub(super) fn word(words: &'static [&'static str]) -> impl Strategy<Value = String> + Clone {
    select(words).prop_map(str::to_owned)
}

/// Where packets go to.
pub(super) fn destination() -> impl Strategy<Value = Spot> + Clone {
    spots()
}
